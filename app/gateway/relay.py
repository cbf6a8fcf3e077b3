"""The gateway itself: what a client sends goes to the upstreams as it came, and a tool call only on an allow.

It stands in front of the SDK's handlers, where messages are still JSON: what neither end's models know survives.
"""

import json
import logging
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any, Final, cast

import anyio
from anyio.abc import TaskGroup
from mcp.server.connection import Connection, allowed_log_levels
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.lowlevel.server import Server
from mcp.shared.exceptions import MCPError
from mcp_types import (
    CONNECTION_CLOSED,
    INTERNAL_ERROR,
    INVALID_PARAMS,
    METHOD_NOT_FOUND,
    REQUEST_TIMEOUT,
    methods,
)
from mcp_types.version import LATEST_HANDSHAKE_VERSION, MODERN_PROTOCOL_VERSIONS

from app.gateway.definitions import Definition, Definitions
from app.gateway.judge import Judge
from app.gateway.names import Exposed
from app.gateway.sessions import Channel, Session
from app.gateway.upstreams import ENVELOPE, AwayError, Client, Link, Upstream, own_client
from app.gateway.verdicts import Verdict, refusal, shown

# INVARIANT: a method that is not here reaches no upstream. A later version of the protocol may well have another one
# that calls tools.
_LISTS: Final = {
    "resources/list": "resources",
    "resources/templates/list": "resourceTemplates",
    "prompts/list": "prompts",
}
_SUBSCRIBING: Final = frozenset({"resources/subscribe", "resources/unsubscribe"})
_BY_URI: Final = frozenset({"resources/read", *_SUBSCRIBING})
_OFFERED: Final = ("tools", "resources", "prompts", "completions", "logging")
_PASSED_NOTIFICATIONS: Final = frozenset({"notifications/roots/list_changed"})
# What of `_meta` is the protocol's own and no part of what a tool is asked to do.
_PROTOCOLS_OWN: Final = frozenset({"progressToken", "traceparent", "tracestate", "baggage", *ENVELOPE})
_KEY: Final = "mutation-firewall"

_log: Final = logging.getLogger("mfw.gateway")
Context = ServerRequestContext[Any, Any]


class Relay:
    """Middleware of an MCP server that answers everything from its upstreams."""

    def __init__(
        self, upstreams: Sequence[Upstream], *, judge: Judge, definitions: Definitions, timeout: float
    ) -> None:
        """`timeout` is how long an upstream may take for an answer, in seconds."""
        self._upstreams = tuple(upstreams)
        self._exposed = Exposed(one.name for one in upstreams)
        self._judge = judge
        self._definitions = definitions
        self._timeout = timeout
        self._tasks: TaskGroup | None = None
        self._shared: Session | None = None

    def server(self) -> Server[Any]:
        """The server to be served to clients."""
        made: Server[Any] = Server(
            "mutation-firewall",
            version=version("mutation-firewall"),
            lifespan=self._lifespan,
            get_tool_input_schema=self._schema,
        )
        # Before everything of the SDK's, which would check what passes here against the models of one version.
        made.middleware.append(self)
        return made

    @asynccontextmanager
    async def _lifespan(self, _: Server[Any]) -> AsyncIterator[dict[str, Any]]:
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            try:
                yield {}
            finally:
                tasks.cancel_scope.cancel()

    async def __call__(self, ctx: Context, call_next: CallNext) -> HandlerResult:
        """Answer a message of a client, or pass it on."""
        if ctx.request_id is None:
            return await self._notified(ctx, call_next)
        if ctx.method in {"initialize", "server/discover"}:
            return await self._greeted(ctx, call_next)
        if ctx.method == "ping" or not _connection(ctx).initialize_accepted:
            return await call_next(ctx)
        try:
            methods.validate_client_request(ctx.method, ctx.protocol_version, ctx.params)
        except KeyError:
            raise MCPError(code=METHOD_NOT_FOUND, message="Method not found", data=ctx.method) from None
        session = self._session(ctx)
        params = ctx.params or {}
        match ctx.method:
            case "tools/call":
                return _in_era(ctx, await self._called(ctx, session, params))
            case "tools/list":
                return _in_era(ctx, await self._tools(session))
            case method if method in _LISTS:
                return _in_era(ctx, await self._listed(ctx, session, params))
            case "prompts/get":
                return _in_era(ctx, await self._by_name(ctx, session, params))
            case "completion/complete":
                return _in_era(ctx, await self._completed(ctx, session, params))
            case method if method in _BY_URI:
                return _in_era(ctx, await self._by_uri(ctx, session, params))
            case "subscriptions/listen":
                return _in_era(ctx, await session.listen(ctx, params))
            case "logging/setLevel":
                for link in await session.links():
                    if "logging" in link.capabilities:
                        await link.request(ctx.method, params)
                return {}
            case _:
                raise MCPError(code=METHOD_NOT_FOUND, message="Method not found", data=ctx.method)

    async def _notified(self, ctx: Context, call_next: CallNext) -> HandlerResult:
        result = await call_next(ctx)
        session = _connection(ctx).state.get(_KEY)
        if ctx.method in _PASSED_NOTIFICATIONS and isinstance(session, Session):
            for link in await session.links():
                await link.notify(ctx.method, ctx.params)
        return result

    async def _greeted(self, ctx: Context, call_next: CallNext) -> HandlerResult:
        """Answer the first message: what the upstreams offer, told as what the gateway offers."""
        connection = _connection(ctx)
        # Refuses what is no such request, and settles the version.
        greeting = await call_next(ctx)
        assert isinstance(greeting, dict)  # noqa: S101 - the SDK's own handler wrote it
        if ctx.method == "initialize":
            if _KEY in connection.state:
                raise MCPError(code=INVALID_PARAMS, message="this session is initialized already")
            client = _shaking(ctx.params or {}, str(greeting.get("protocolVersion", LATEST_HANDSHAKE_VERSION)))
            session = self._new_session(client, standing=cast("Channel", connection.outbound))
            connection.state[_KEY] = session
            connection.exit_stack.push_async_callback(session.close)
        else:
            session = self._session(ctx)
        links = await session.links()
        if not links:
            raise MCPError(code=INTERNAL_ERROR, message="no upstream of this gateway can be reached")
        instructions = "\n\n".join(link.instructions for link in links if link.instructions)
        return {
            **greeting,
            "capabilities": _merged(link.capabilities for link in links),
            **({"instructions": instructions} if instructions else {}),
        }

    def _session(self, ctx: Context) -> Session:
        if ctx.protocol_version not in MODERN_PROTOCOL_VERSIONS:
            found = _connection(ctx).state.get(_KEY)
            if not isinstance(found, Session):
                # A server without sessions: the SDK is not run that way.
                raise MCPError(code=INVALID_PARAMS, message="there is no session: initialize first")
            return found
        if self._shared is None:
            self._shared = self._new_session(own_client(), standing=None)
        return self._shared

    def _new_session(self, client: Client, *, standing: Channel | None) -> Session:
        if self._tasks is None:
            raise RuntimeError("the gateway is not running")
        return Session(self._upstreams, client, tasks=self._tasks, timeout=self._timeout, standing=standing)

    def _schema(self, name: str) -> Mapping[str, Any] | None:
        """The schema of a tool for the SDK's check of `Mcp-Param-*` headers, as far as it is known."""
        found = self._exposed.inward(name)
        return None if found is None or self._shared is None else self._shared.tool_schema(*found)

    async def _tools(self, session: Session) -> dict[str, Any]:
        """All tools on one page: those of whose definition there is a doubt are left out."""
        told: list[dict[str, Any]] = []
        for link in await session.links():
            if "tools" not in link.capabilities:
                continue
            try:
                tools = await session.catalogue(link, again=True)
            except (AwayError, MCPError) as error:
                if len(session.names) == 1:
                    raise _as_error(link.upstream.name, error) from None
                _log.warning("upstream `%s` does not list its tools: %s", link.upstream.name, error)
                continue
            for definition in tools.values():
                if (doubt := await self._definitions.doubt(definition)) is not None:
                    _log.warning(
                        "the tool `%s` of upstream `%s` is left out: %s",
                        definition.name,
                        definition.upstream,
                        doubt.text.splitlines()[0],
                    )
                    continue
                told.append({**definition.listed, "name": self._exposed.outward(link.upstream.name, definition.name)})
        return {"tools": told}

    async def _called(self, ctx: Context, session: Session, params: Mapping[str, Any]) -> dict[str, Any]:
        """Ask, and call on an allow. Whatever else happens on the way here is the result of a tool that failed."""
        exposed = params["name"]
        unknown = refusal(
            "unknown-tool", f"there is no tool `{shown(exposed, 200)}`", fix="list the tools and use one of them"
        )
        if (found := self._exposed.inward(exposed)) is None:
            return unknown.result()
        upstream, name = found
        try:
            link = await session.link(upstream)
            tools = await session.catalogue(link)
            definition = tools.get(name) or (await session.catalogue(link, again=True)).get(name)
        except (AwayError, MCPError) as error:
            return _away(upstream, error).result()
        if definition is None:
            return unknown.result()
        if (doubt := await self._definitions.doubt(definition)) is not None:
            return doubt.result()
        if "task" in params:
            tasks = refusal("tasks", "this gateway starts no tasks", fix="call the tool without `task`")
            return tasks.result(structured=not definition.promises_output)
        arguments = params.get("arguments")
        try:
            # INVARIANT: these bytes are judged, and what is passed on is read from them.
            snapshot = _written({} if arguments is None else arguments)
            beside = _beside(params)
        except (ValueError, RecursionError):
            return refusal(
                "malformed", "the arguments cannot be written as JSON", fix="send JSON values only, without NaN"
            ).result(structured=not definition.promises_output)
        client = ctx.session.client_params
        verdict = await self._judge.about_call(
            definition,
            snapshot,
            beside=beside,
            client={} if client is None else {"name": client.client_info.name, "version": client.client_info.version},
        )
        if not verdict.allowed:
            return verdict.result(structured=not definition.promises_output)
        judged = {**params, "name": name}
        if arguments is not None:
            judged["arguments"] = json.loads(snapshot)
        return await self._forwarded(ctx, session, link, definition, judged)

    async def _forwarded(
        self, ctx: Context, session: Session, link: Link, definition: Definition, params: Mapping[str, Any]
    ) -> dict[str, Any]:
        try:
            return await self._passed(ctx, session, link, params, definition=definition)
        except AwayError as error:
            return _away(definition.upstream, error).result(structured=not definition.promises_output)
        except MCPError as error:
            if error.error.code not in {CONNECTION_CLOSED, REQUEST_TIMEOUT}:
                raise
            return refusal(
                "upstream-lost",
                f"the upstream `{definition.upstream}` was lost during the call ({error.error.message.lower()})",
                fix="whether the call was carried out is not known: look before calling it again",
            ).result(structured=not definition.promises_output)

    async def _passed(
        self,
        ctx: Context,
        session: Session,
        link: Link,
        params: Mapping[str, Any],
        *,
        definition: Definition | None = None,
    ) -> dict[str, Any]:
        """Send a client's request to an upstream, with the ways back: progress, questions, cancellation."""
        channel = _Muted(_channel(ctx), allowed_log_levels(ctx.protocol_version, ctx.meta))
        schema = None if definition is None else definition.listed.get("inputSchema")
        wants = "progressToken" in (params.get("_meta") or {})
        with session.answering(link.upstream.name, channel):
            try:
                return await link.request(
                    ctx.method, params, schema=schema, on_progress=ctx.session.report_progress if wants else None
                )
            except AwayError as error:
                if definition is not None:
                    raise
                raise _as_error(link.upstream.name, error) from None

    async def _listed(self, ctx: Context, session: Session, params: Mapping[str, Any]) -> dict[str, Any]:
        """A page of one upstream; behind its last page come those of the next. A cursor is `NUMBER:THEIRS`."""
        number, _, theirs = (params.get("cursor") or "0:").partition(":")
        if not (number.isascii() and number.isdigit() and int(number) < len(session.names)):
            raise MCPError(code=INVALID_PARAMS, message="the cursor is none of this gateway's")
        position = int(number)
        names = session.names
        page: dict[str, Any] = {_LISTS[ctx.method]: []}
        try:
            link = await session.link(names[position])
        except AwayError as error:
            _log.warning("upstream `%s` is away: %s", names[position], error)
        else:
            if ("prompts" if ctx.method == "prompts/list" else "resources") in link.capabilities:
                asked = {key: value for key, value in params.items() if key != "cursor"}
                page = await self._passed(ctx, session, link, {**asked, **({"cursor": theirs} if theirs else {})})
        if ctx.method == "prompts/list":
            page = {**page, "prompts": [self._outward(names[position], one) for one in page.get("prompts") or ()]}
        following = page.pop("nextCursor", None)
        if following:
            page["nextCursor"] = f"{position}:{following}"
        elif position + 1 < len(names):
            page["nextCursor"] = f"{position + 1}:"
        return page

    def _outward(self, upstream: str, item: Any) -> Any:
        named = isinstance(item, dict) and isinstance(item.get("name"), str)
        return {**item, "name": self._exposed.outward(upstream, item["name"])} if named else item

    async def _by_name(self, ctx: Context, session: Session, params: Mapping[str, Any]) -> dict[str, Any]:
        if (found := self._exposed.inward(params["name"])) is None:
            raise MCPError(code=INVALID_PARAMS, message=f"there is no prompt `{shown(params['name'], 200)}`")
        return await self._passed(ctx, session, await _there(session, found[0]), {**params, "name": found[1]})

    async def _completed(self, ctx: Context, session: Session, params: Mapping[str, Any]) -> dict[str, Any]:
        reference = params["ref"]
        if isinstance(name := reference.get("name"), str):
            if (found := self._exposed.inward(name)) is None:
                raise MCPError(code=INVALID_PARAMS, message=f"there is no prompt `{shown(name, 200)}`")
            link = await _there(session, found[0])
            return await self._passed(ctx, session, link, {**params, "ref": {**reference, "name": found[1]}})
        return await self._by_uri(ctx, session, params, uri=reference.get("uri"))

    async def _by_uri(
        self, ctx: Context, session: Session, params: Mapping[str, Any], *, uri: Any = None
    ) -> dict[str, Any]:
        """A resource has no name that says whose it is: of several upstreams the first that knows it answers."""
        links = [link for link in await session.links() if "resources" in link.capabilities or uri is not None]
        failure = MCPError(code=INVALID_PARAMS, message="no upstream has this resource")
        for link in links:
            try:
                return await self._passed(ctx, session, link, params)
            except MCPError as error:
                failure = error
        raise failure


class _Muted:
    """A channel that passes on of an upstream's log what its client wants to hear."""

    def __init__(self, channel: Channel, levels: Collection[str]) -> None:
        self._channel = channel
        self._levels = levels

    async def send_raw_request(self, method: str, params: Mapping[str, Any] | None) -> dict[str, Any]:
        """Ask the client."""
        return await self._channel.send_raw_request(method, params)

    async def notify(self, method: str, params: Mapping[str, Any] | None) -> None:
        """Tell the client."""
        if method != "notifications/message" or (params or {}).get("level") in self._levels:
            await self._channel.notify(method, params)


def _connection(ctx: Context) -> Connection:
    # The SDK hands handlers a proxy; what a session needs beyond it (state, teardown, the raw channel) is behind it.
    return ctx.session._connection  # noqa: SLF001


def _channel(ctx: Context) -> Channel:
    # As above: the proxy's public methods would read what an upstream says into the models of one version.
    return cast("Channel", ctx.session._request_outbound)  # noqa: SLF001


def _shaking(params: Mapping[str, Any], agreed: str) -> Client:
    info, capabilities = params.get("clientInfo"), params.get("capabilities")
    return Client(
        agreed,
        info if isinstance(info, dict) else {},
        # Tasks would let a call go on, and its result be fetched, in ways that this release does not follow.
        {key: value for key, value in capabilities.items() if key != "tasks"} if isinstance(capabilities, dict) else {},
    )


async def _there(session: Session, upstream: str) -> Link:
    try:
        return await session.link(upstream)
    except AwayError as error:
        raise _as_error(upstream, error) from None


def _as_error(upstream: str, error: AwayError | MCPError) -> MCPError:
    """What a client is told that asked for no tool."""
    if isinstance(error, MCPError):
        return error
    return MCPError(code=INTERNAL_ERROR, message=f"the upstream `{upstream}` is away: {error}")


def _away(upstream: str, error: Exception) -> Verdict:
    return refusal(
        "upstream-away",
        f"the upstream `{upstream}` cannot be reached ({error})",
        fix="nothing was called; try again later, or tell whoever runs it",
    )


def _beside(params: Mapping[str, Any]) -> dict[str, Any]:
    """What reaches a tool beside its arguments, and so is judged with them. Raises ValueError."""
    beside = {key: value for key, value in params.items() if key not in {"name", "arguments", "_meta"}}
    meta = {key: value for key, value in (params.get("_meta") or {}).items() if key not in _PROTOCOLS_OWN}
    if meta:
        beside["_meta"] = meta
    _written(beside)
    return beside


def _written(value: Any) -> bytes:
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()


def _merged(offered: Any) -> dict[str, Any]:
    """What several servers offer together: a flag that one has."""
    merged: dict[str, Any] = {}
    for capabilities in offered:
        for name in _OFFERED:
            if isinstance(found := capabilities.get(name), dict):
                flags = {key: True for key, value in found.items() if value is True}
                merged[name] = {**merged.get(name, {}), **flags}
    return merged


def _in_era(ctx: Context, result: dict[str, Any]) -> dict[str, Any]:
    """A result with what the client's version requires. What it does not know is left: clients pass over it."""
    if ctx.protocol_version not in MODERN_PROTOCOL_VERSIONS:
        return result
    filled = {"resultType": "complete", **result}
    return {"ttlMs": 0, "cacheScope": "private", **filled} if ctx.method in methods.CACHEABLE_METHODS else filled
