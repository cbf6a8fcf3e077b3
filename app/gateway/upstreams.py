"""Upstreams: the servers behind the gateway, and one connection to one of them."""

import itertools
import logging
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, Final, Protocol

import anyio
import httpx2
from anyio.abc import TaskGroup, TaskStatus
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client
from mcp.shared.dispatcher import CallOptions, DispatchContext, ProgressFnT
from mcp.shared.exceptions import MCPError
from mcp.shared.inbound import (
    MCP_METHOD_HEADER,
    MCP_NAME_HEADER,
    MCP_PROTOCOL_VERSION_HEADER,
    NAME_BEARING_METHODS,
    encode_header_value,
    mcp_param_headers,
    x_mcp_header_map,
)
from mcp.shared.jsonrpc_dispatcher import JSONRPCDispatcher
from mcp.shared.subscriptions import SUBSCRIPTION_ID_META_KEY
from mcp.shared.transport_context import TransportContext
from mcp_types import (
    CLIENT_CAPABILITIES_META_KEY,
    CLIENT_INFO_META_KEY,
    CONNECTION_CLOSED,
    LOG_LEVEL_META_KEY,
    PROTOCOL_VERSION_META_KEY,
    UNSUPPORTED_PROTOCOL_VERSION,
)
from mcp_types.version import (
    HANDSHAKE_PROTOCOL_VERSIONS,
    LATEST_HANDSHAKE_VERSION,
    LATEST_MODERN_VERSION,
    MODERN_PROTOCOL_VERSIONS,
)

CONNECT_SECONDS: Final = 30.0
# A tool's result may be a picture; the SDK's own bound is for one event of 1 MiB.
EVENT_BYTES_MAX: Final = 64 * 1_048_576
# How the SDKs say, with status 404, that a server started again and knows nothing of before.
_FORGOTTEN: Final = frozenset({"Session terminated", "Session not found"})
# What a modern request says of its sender. A server of the handshake era does not know it.
ENVELOPE: Final = (
    PROTOCOL_VERSION_META_KEY,
    CLIENT_INFO_META_KEY,
    CLIENT_CAPABILITIES_META_KEY,
    LOG_LEVEL_META_KEY,
)

_log: Final = logging.getLogger("mfw.gateway")
# No number that the dispatcher could come to by itself.
_listening: Final = itertools.count(1)
Hear = Callable[[str, Mapping[str, Any] | None], Awaitable[None]]


class AwayError(Exception):
    """An upstream that cannot be reached. Nothing was sent to it."""


@dataclass(frozen=True, slots=True)
class Upstream:
    """A server: an address, or a command. `token` is the gateway's own; that of a client never gets here."""

    name: str
    url: str | None = None
    command: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    token: str | None = field(default=None, repr=False)

    @asynccontextmanager
    async def opened(self, *, patience: float) -> AsyncIterator[tuple[Any, Any]]:
        """The streams of a new connection; a command runs as long as its connection is open. `patience` in seconds."""
        if self.url is None:
            parameters = StdioServerParameters(
                command=self.command[0], args=list(self.command[1:]), env=dict(self.environment)
            )
            async with stdio_client(parameters, errlog=sys.stderr) as streams:
                yield streams
            return
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else None
        waits = httpx2.Timeout(CONNECT_SECONDS, read=patience)
        async with (
            create_mcp_http_client(headers=headers, timeout=waits) as client,
            streamable_http_client(self.url, http_client=client, max_sse_event_size=EVENT_BYTES_MAX) as streams,
        ):
            yield streams


@dataclass(frozen=True, slots=True)
class Client:
    """What a client says of itself: passed on to upstreams, and believed nothing by it."""

    version: str
    info: Mapping[str, Any]
    capabilities: Mapping[str, Any]

    @property
    def is_modern(self) -> bool:
        """Whether it sends who it is with each request, and shakes no hands."""
        return self.version in MODERN_PROTOCOL_VERSIONS


def own_client() -> Client:
    """The gateway itself as a client: for upstreams that no client in particular is talking to."""
    info = {"name": "mutation-firewall", "version": version("mutation-firewall")}
    return Client(LATEST_MODERN_VERSION, info, {})


class Front(Protocol):
    """The side of the client, as an upstream may reach it."""

    async def asked(self, upstream: str, method: str, params: Mapping[str, Any] | None) -> dict[str, Any]:
        """Pass a request of an upstream on to the client."""
        ...

    async def told(self, upstream: str, method: str, params: Mapping[str, Any] | None) -> None:
        """Pass a notification of an upstream on to the client."""
        ...


class Link:
    """One connection to one upstream, for one client, in the era that both ends know."""

    def __init__(self, upstream: Upstream, client: Client, front: Front, *, timeout: float) -> None:
        """`timeout` is how long an answer is waited for, in seconds."""
        self.upstream = upstream
        self.version = ""
        self.capabilities: Mapping[str, Any] = {}
        self.instructions: str | None = None
        self._client = client
        self._front = front
        self._timeout = timeout
        self._dispatcher: JSONRPCDispatcher[TransportContext] | None = None
        self._ended = anyio.Event()
        self._settled = anyio.Event()
        self._failure: str | None = None
        self._heard: dict[str, Hear] = {}

    @property
    def is_open(self) -> bool:
        """Whether requests can be sent."""
        return self._dispatcher is not None and not self._ended.is_set()

    async def open(self, tasks: TaskGroup) -> None:
        """Connect and agree on a version; the connection lives in a task of `tasks`. Raises AwayError."""
        tasks.start_soon(self._live)
        with anyio.move_on_after(CONNECT_SECONDS):
            await self._settled.wait()
        if not self.is_open:
            self.close()
            raise AwayError(self._failure or "it did not answer in time")

    def close(self) -> None:
        """Let the connection end; a command is stopped with it."""
        self._ended.set()

    async def request(
        self,
        method: str,
        params: Mapping[str, Any] | None,
        *,
        schema: Mapping[str, Any] | None = None,
        on_progress: ProgressFnT | None = None,
        number: str | None = None,
    ) -> dict[str, Any]:
        """Send a request and give its result as it came. `schema` is that of a tool's arguments; one with a `number`
        is a stream, which takes as long as it takes.

        Raises: MCPError, as the upstream answered it or for a connection that broke; AwayError where the upstream did
        not take the request.
        """
        if self._dispatcher is None or self._ended.is_set():
            raise MCPError(code=CONNECTION_CLOSED, message="Connection closed")
        options: CallOptions = {"timeout": self._timeout} if number is None else {"request_id": number}
        if on_progress is not None:
            options["on_progress"] = on_progress
        stamped, options["headers"] = self._stamped(method, params, schema)
        try:
            return await self._dispatcher.send_raw_request(method, stamped, options)
        except MCPError as error:
            # The next request opens another.
            if error.error.code == CONNECTION_CLOSED:
                self.close()
            if error.error.message in _FORGOTTEN:
                self.close()
                raise AwayError("it has forgotten this session") from None
            raise

    async def listen(self, wanted: Mapping[str, Any], hear: Hear) -> None:
        """Have the changes that are `wanted` told to `hear`, until the upstream ends that. Raises as `request`."""
        number = f"mfw-listen-{next(_listening)}"
        self._heard[number] = hear
        try:
            await self.request("subscriptions/listen", {"notifications": dict(wanted)}, number=number)
        finally:
            del self._heard[number]

    @property
    def can_listen(self) -> bool:
        """Whether changes are told on streams that were asked for, and nowhere else."""
        return self.version in MODERN_PROTOCOL_VERSIONS

    async def notify(self, method: str, params: Mapping[str, Any] | None) -> None:
        """Send a notification; one that cannot be sent is lost, as notifications are."""
        if self._dispatcher is not None and not self._ended.is_set():
            stamped, headers = self._stamped(method, params, None)
            await self._dispatcher.notify(method, stamped or None, {"headers": headers})

    def _stamped(
        self, method: str, params: Mapping[str, Any] | None, schema: Mapping[str, Any] | None
    ) -> tuple[dict[str, Any], dict[str, str]]:
        """Params and headers as this link's version wants them."""
        sent = dict(params or {})
        meta = dict(sent.get("_meta") or {})
        # The dispatcher puts a token of its own where progress is asked for.
        meta.pop("progressToken", None)
        headers = {MCP_PROTOCOL_VERSION_HEADER: self.version}
        if self.version in MODERN_PROTOCOL_VERSIONS:
            meta.setdefault(CLIENT_INFO_META_KEY, dict(self._client.info))
            meta.setdefault(CLIENT_CAPABILITIES_META_KEY, {})
            meta[PROTOCOL_VERSION_META_KEY] = self.version
            headers[MCP_METHOD_HEADER] = method
            if (member := NAME_BEARING_METHODS.get(method)) is not None and isinstance(name := sent.get(member), str):
                headers[MCP_NAME_HEADER] = encode_header_value(name)
            if schema is not None:
                headers |= mcp_param_headers(x_mcp_header_map(schema), sent.get("arguments") or {})
        else:
            for member in ENVELOPE:
                meta.pop(member, None)
        if meta:
            sent["_meta"] = meta
        else:
            sent.pop("_meta", None)
        return sent, headers

    async def _live(self) -> None:
        try:
            async with (
                self.upstream.opened(patience=self._timeout) as (reading, writing),
                anyio.create_task_group() as tasks,
            ):
                dispatcher: JSONRPCDispatcher[TransportContext] = JSONRPCDispatcher(reading, writing)
                await tasks.start(self._pump, dispatcher)
                await self._agree(dispatcher)
                self._dispatcher = dispatcher
                self._settled.set()
                await self._ended.wait()
                tasks.cancel_scope.cancel()
        except Exception as error:  # noqa: BLE001 - a link that broke costs its own calls and nothing else
            self._failure = _words(error)
            _log.warning("the connection to an upstream broke", extra={"upstream": self.upstream.name})
            _log.info("upstream `%s`: %s", self.upstream.name, self._failure)
        finally:
            self._ended.set()
            self._settled.set()

    async def _pump(
        self,
        dispatcher: JSONRPCDispatcher[TransportContext],
        *,
        task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
    ) -> None:
        try:
            await dispatcher.run(self._on_request, self._on_notify, task_status=task_status)
        finally:
            self._ended.set()

    async def _on_request(
        self, _: DispatchContext[TransportContext], method: str, params: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        if method == "ping":
            return {}
        return await self._front.asked(self.upstream.name, method, params)

    async def _on_notify(
        self, _: DispatchContext[TransportContext], method: str, params: Mapping[str, Any] | None
    ) -> None:
        number = ((params or {}).get("_meta") or {}).get(SUBSCRIPTION_ID_META_KEY)
        hear = self._heard.get(number) if isinstance(number, str) else None
        if hear is None:
            await self._front.told(self.upstream.name, method, params)
        else:
            await hear(method, params)

    async def _agree(self, dispatcher: JSONRPCDispatcher[TransportContext]) -> None:
        """Settle the version: first in the era of the client, then in the other."""
        ways = [self._discover, self._shake_hands] if self._client.is_modern else [self._shake_hands, self._discover]
        try:
            await ways[0](dispatcher)
        except (MCPError, AwayError):
            if self._ended.is_set():
                raise
            try:
                await ways[1](dispatcher)
            except MCPError as error:
                # A command that was slow to start answered the first question after its time, and holds to that era.
                if error.error.code != UNSUPPORTED_PROTOCOL_VERSION or ways[1] != self._shake_hands:
                    raise
                await self._discover(dispatcher)

    async def _shake_hands(self, dispatcher: JSONRPCDispatcher[TransportContext]) -> None:
        # A client of the other era cannot be asked anything in the middle of a request.
        offered: dict[str, Any] = {
            "protocolVersion": LATEST_HANDSHAKE_VERSION,
            "capabilities": {},
            "clientInfo": dict(self._client.info),
        }
        if not self._client.is_modern:
            offered |= {"protocolVersion": self._client.version, "capabilities": dict(self._client.capabilities)}
        found = await dispatcher.send_raw_request(
            "initialize", offered, {"timeout": CONNECT_SECONDS, "cancel_on_abandon": False}
        )
        version = found.get("protocolVersion")
        if version not in HANDSHAKE_PROTOCOL_VERSIONS:
            raise AwayError("it speaks a version of the protocol that is not known here")
        self._take(version, found)
        await dispatcher.notify("notifications/initialized", None, {"headers": {MCP_PROTOCOL_VERSION_HEADER: version}})

    async def _discover(self, dispatcher: JSONRPCDispatcher[TransportContext]) -> None:
        version = LATEST_MODERN_VERSION
        meta = {
            PROTOCOL_VERSION_META_KEY: version,
            CLIENT_INFO_META_KEY: dict(self._client.info),
            CLIENT_CAPABILITIES_META_KEY: {},
        }
        headers = {MCP_PROTOCOL_VERSION_HEADER: version, MCP_METHOD_HEADER: "server/discover"}
        found = await dispatcher.send_raw_request(
            "server/discover",
            {"_meta": meta},
            {"timeout": CONNECT_SECONDS / 3, "cancel_on_abandon": False, "headers": headers},
        )
        if version not in (found.get("supportedVersions") or ()):
            raise AwayError("it speaks a version of the protocol that is not known here")
        self._take(version, found)

    def _take(self, version: str, found: Mapping[str, Any]) -> None:
        capabilities, instructions = found.get("capabilities"), found.get("instructions")
        self.version = version
        self.capabilities = capabilities if isinstance(capabilities, dict) else {}
        self.instructions = instructions if isinstance(instructions, str) else None


def _words(error: BaseException) -> str:
    """What broke a connection, in words; of several the first."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, MCPError):
        return error.error.message
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
