"""One client's side of the gateway: its links to the upstreams, what they offer, and the way back to it."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, Protocol

import anyio
from anyio.abc import TaskGroup
from mcp.server.context import ServerRequestContext
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler
from mcp.shared.exceptions import MCPError
from mcp.shared.subscriptions import event_from_wire
from mcp_types import INTERNAL_ERROR, INVALID_REQUEST, METHOD_NOT_FOUND, SubscriptionsListenRequestParams

from app.gateway.definitions import Definition, sorted_out
from app.gateway.upstreams import AwayError, Client, Link, Upstream

# A paginator that never ends must not hang a client.
PAGES_MAX: Final = 200
LISTENING_MAX: Final = 1_024
# An upstream that lets us wait this long is not waited for again for as long: everybody's list of tools would wait too.
HANGING_SECONDS: Final = 10.0
# What an upstream may ask of a client.
ASKED: Final = frozenset({"sampling/createMessage", "elicitation/create", "roots/list"})
# What it may tell it, beside progress, which follows its request.
TOLD: Final = frozenset(
    {
        "notifications/message",
        "notifications/tools/list_changed",
        "notifications/prompts/list_changed",
        "notifications/resources/list_changed",
        "notifications/resources/updated",
        "notifications/elicitation/complete",
    }
)
_CHANGED: Final = "notifications/tools/list_changed"

_log: Final = logging.getLogger("mfw.gateway")


class Channel(Protocol):
    """A way to a client: a request's own, or the connection's."""

    async def send_raw_request(self, method: str, params: Mapping[str, Any] | None) -> dict[str, Any]:
        """Ask the client."""
        ...

    async def notify(self, method: str, params: Mapping[str, Any] | None) -> None:
        """Tell the client."""
        ...


class Session:
    """What one client has of the upstreams. Clients of the era without sessions share one, which has no way back."""

    def __init__(
        self,
        upstreams: Sequence[Upstream],
        client: Client,
        *,
        tasks: TaskGroup,
        timeout: float,
        standing: Channel | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`standing` is the channel of the connection itself, None where there is no such thing."""
        self.client = client
        self._upstreams = {one.name: one for one in upstreams}
        self._tasks = tasks
        self._timeout = timeout
        self._standing = standing
        self._links: dict[str, Link] = {}
        self._catalogues: dict[str, dict[str, Definition]] = {}
        self._hangs = {one.name: 0.0 for one in upstreams}
        # How often each list was said to have changed.
        self._listings = {one.name: 0 for one in upstreams}
        self._locks = {one.name: anyio.Lock() for one in upstreams}
        self._in_flight: dict[str, list[Channel]] = {one.name: [] for one in upstreams}
        self._buses: set[InMemorySubscriptionBus] = set()
        self._clock = clock
        self._closed = False

    @property
    def names(self) -> tuple[str, ...]:
        """The upstreams, in the order in which they were given."""
        return tuple(self._upstreams)

    async def link(self, name: str) -> Link:
        """An open connection to an upstream: the one that is there, or another. Raises AwayError."""
        async with self._locks[name]:
            found = self._links.get(name)
            if found is not None and found.is_open:
                return found
            if self._closed:
                raise AwayError("the session has ended")
            if self._clock() < self._hangs[name]:
                raise AwayError("it did not answer a moment ago")
            self._catalogues.pop(name, None)
            made = Link(self._upstreams[name], self.client, self, timeout=self._timeout)
            begun = self._clock()
            try:
                await made.open(self._tasks)
            except AwayError:
                if self._clock() - begun > HANGING_SECONDS:
                    self._hangs[name] = self._clock() + HANGING_SECONDS
                raise
            self._links[name] = made
            if self._standing is None and made.can_listen:
                self._tasks.start_soon(self._watch, made)
            return made

    async def _watch(self, link: Link) -> None:
        """Hear of other tools even while no client listens: what was listed once is not believed for ever."""

        async def hear(method: str, params: Mapping[str, Any] | None) -> None:
            await self.told(link.upstream.name, method, params)

        try:
            await link.listen({"toolsListChanged": True}, hear)
        except (AwayError, MCPError) as error:
            _log.info("upstream `%s` does not tell of changes: %s", link.upstream.name, error)

    async def links(self) -> list[Link]:
        """The connections to all upstreams that are there; those that are away are left out."""
        found: dict[str, Link] = {}

        async def one(name: str) -> None:
            try:
                found[name] = await self.link(name)
            except AwayError as error:
                _log.warning("upstream `%s` is away: %s", name, error)

        async with anyio.create_task_group() as tasks:
            for name in self._upstreams:
                tasks.start_soon(one, name)
        return [found[name] for name in self._upstreams if name in found]

    async def catalogue(self, link: Link, *, again: bool = False) -> dict[str, Definition]:
        """The tools of an upstream that can be told apart; `again` lists them anew. Raises as `Link.request`."""
        name = link.upstream.name
        if not again and name in self._catalogues:
            return self._catalogues[name]
        known = self._listings[name]
        listed: list[Any] = []
        cursor: str | None = None
        for _ in range(PAGES_MAX):
            page = await link.request("tools/list", {"cursor": cursor} if cursor else None)
            tools = page.get("tools")
            listed += tools if isinstance(tools, list) else []
            following = page.get("nextCursor")
            if not isinstance(following, str) or not following or following == cursor:
                break
            cursor = following
        kept, doubted = sorted_out(name, listed)
        for tool, doubt in doubted:
            shown = tool[:80].encode("unicode_escape").decode()
            _log.warning("the tool `%s` of upstream `%s` is left out: %s", shown, name, doubt.value)
        # Not one that changed while it was read.
        if self._listings[name] == known:
            self._catalogues[name] = kept
        return kept

    def tool_schema(self, upstream: str, name: str) -> Mapping[str, Any] | None:
        """The schema of a tool's arguments, as far as it was listed."""
        found = self._catalogues.get(upstream, {}).get(name)
        schema = None if found is None else found.listed.get("inputSchema")
        return schema if isinstance(schema, dict) else None

    @contextmanager
    def answering(self, upstream: str, channel: Channel) -> Iterator[None]:
        """While a request is with an upstream, what that asks and tells goes the way of the request."""
        waiting = self._in_flight[upstream]
        waiting.append(channel)
        try:
            yield
        finally:
            waiting.remove(channel)

    async def asked(self, upstream: str, method: str, params: Mapping[str, Any] | None) -> dict[str, Any]:
        """Pass a request of an upstream on to the client. Raises MCPError."""
        if method not in ASKED:
            raise MCPError(code=METHOD_NOT_FOUND, message="Method not found", data=method)
        if self._standing is None:
            raise MCPError(code=INVALID_REQUEST, message="this client cannot be asked")
        waiting = self._in_flight[upstream]
        return await (waiting[-1] if waiting else self._standing).send_raw_request(method, params)

    async def told(self, upstream: str, method: str, params: Mapping[str, Any] | None) -> None:
        """Pass a notification of an upstream on to the client."""
        if method == _CHANGED:
            self._catalogues.pop(upstream, None)
            self._listings[upstream] += 1
        if method not in TOLD:
            return
        if (event := event_from_wire(method, params)) is not None:
            for bus in tuple(self._buses):
                await bus.publish(event)
        waiting = self._in_flight[upstream]
        if method == "notifications/message" and waiting and (self._standing is not None or len(waiting) == 1):
            # Of several clients that share a link, it cannot be known whose request this belongs to.
            await waiting[-1].notify(method, params)
        elif self._standing is not None:
            await self._standing.notify(method, params)

    async def listen(self, ctx: ServerRequestContext[Any, Any], params: Mapping[str, Any]) -> dict[str, Any]:
        """Serve a client's stream of changes: from each upstream what was asked for. Raises MCPError."""
        if len(self._buses) >= LISTENING_MAX:
            raise MCPError(code=INTERNAL_ERROR, message="too many clients listen")
        bus = InMemorySubscriptionBus()

        async def hear(method: str, told: Mapping[str, Any] | None) -> None:
            if (event := event_from_wire(method, told)) is not None:
                await bus.publish(event)

        async def follow(link: Link) -> None:
            try:
                await link.listen(params["notifications"], hear)
            except (AwayError, MCPError) as error:
                _log.info("upstream `%s` does not tell of changes: %s", link.upstream.name, error)

        self._buses.add(bus)
        try:
            async with anyio.create_task_group() as tasks:
                for link in await self.links():
                    if link.can_listen:
                        tasks.start_soon(follow, link)
                wanted = SubscriptionsListenRequestParams.model_validate(params, by_name=False)
                result = await ListenHandler(bus)(ctx, wanted)
                tasks.cancel_scope.cancel()
        finally:
            self._buses.discard(bus)
        return result.model_dump(by_alias=True, mode="json", exclude_none=True)

    async def close(self) -> None:
        """Let all connections end."""
        self._closed = True
        for link in self._links.values():
            link.close()
