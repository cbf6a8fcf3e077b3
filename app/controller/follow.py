"""The objects of one list of the API server, kept in memory: a list, then a watch of what changed since.

Watches are short, so that a connection that is dead without a word is noticed.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, Protocol

from app.controller.objects import Item
from app.core.types import JsonObject
from app.errors import FirewallError, Kind
from app.policies.custom_resources import Resource

PAGE: Final = 500
# Seconds after which the API server ends a watch, and a new one confirms what is known. Reads wait ten seconds.
WATCH_SECONDS: Final = 8
# Seconds between tries: 1, 2, 4, ... 30 (reference/firewall-failure-mode-matrix.md).
BACKOFF: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)

_log: Final = logging.getLogger("mfw.controller")


class Reads(Protocol):
    """An API server that is read."""

    async def call(self, method: str, path: str, *, query: Mapping[str, str] | None = None) -> JsonObject:
        """Send one request. Raises FirewallError."""

    def follow(self, path: str, *, query: Mapping[str, str]) -> AbstractAsyncContextManager[AsyncIterator[JsonObject]]:
        """Follow changes. Raises FirewallError."""


class Follower:
    """Follows one kind, in one namespace or in none. `changed` is called when a document came, went or is another."""

    def __init__(
        self,
        api: Reads,
        resource: Resource,
        *,
        namespace: str = "",
        changed: Callable[[], None],
        backoff: tuple[float, ...] = BACKOFF,
    ) -> None:
        within = f"namespaces/{namespace}/" if namespace else ""
        self._path = resource.path.replace(resource.plural, f"{within}{resource.plural}")
        self._api = api
        self._resource = resource
        self._changed = changed
        self._backoff = backoff
        self._items: dict[str, Item] = {}
        # INVARIANT: false until a whole list was read, and again when it is in doubt whether what is known is all.
        self.known = False

    @property
    def items(self) -> tuple[Item, ...]:
        """What is there, by name."""
        return tuple(sorted(self._items.values(), key=lambda item: item.name))

    async def run(self) -> None:
        """Follow until it is cancelled."""
        failures = 0
        while True:
            again = False
            try:
                version = await self._list()
                failures = 0
                while True:
                    version = await self._watch(version)
            except FirewallError as error:
                # What is too old to be told is listed again, at once.
                again = error.kind is Kind.CONFLICT and failures == 0
                # Away for a moment, what is known is still the best there is; gone or forbidden, it is not known.
                if error.kind in {Kind.NOT_FOUND, Kind.FORBIDDEN, Kind.UNAUTHENTICATED}:
                    self.known = False
                if not again:
                    _log.warning("objects not followed", extra={"fields": {"path": self._path, "error": error.detail}})
            if not again:
                await asyncio.sleep(self._backoff[min(failures, len(self._backoff) - 1)])
            failures += 1

    async def _list(self) -> str:
        found: dict[str, Item] = {}
        query = {"limit": str(PAGE)}
        while True:
            page = await self._api.call("GET", self._path, query=query)
            for one in page.get("items") or []:
                item = Item(self._resource, one)
                found[item.uid] = item
            token = page["metadata"].get("continue")
            if not token:
                break
            query = {"limit": str(PAGE), "continue": token}
        before, self._items = self._items, found
        news = not self.known or _documents(before) != _documents(found)
        self.known = True
        if news:
            self._changed()
        return str(page["metadata"]["resourceVersion"])

    async def _watch(self, version: str) -> str:
        query = {"resourceVersion": version, "timeoutSeconds": str(WATCH_SECONDS)}
        async with self._api.follow(self._path, query=query) as events:
            async for event in events:
                version = self._take(event)
        return version

    def _take(self, event: JsonObject) -> str:
        kind: Any = event.get("type")
        body: Any = event.get("object") or {}
        if kind == "ERROR":
            code = body.get("code")
            raise FirewallError(
                Kind.CONFLICT if code == 410 else Kind.UNAVAILABLE, f"the watch ended with status {code}"
            )
        if kind in {"ADDED", "MODIFIED", "DELETED"}:
            item = Item(self._resource, body)
            before = self._items.pop(item.uid, None)
            if kind != "DELETED":
                self._items[item.uid] = item
            # A status that was written, by this controller among others, is no news.
            if kind == "DELETED" or before is None or before.document != item.document:
                self._changed()
        elif kind != "BOOKMARK":
            # Half a line, where the connection broke.
            raise FirewallError(Kind.UNAVAILABLE, "the watch ended in the middle of an event")
        return str(body["metadata"]["resourceVersion"])


def _documents(items: Mapping[str, Item]) -> dict[str, JsonObject]:
    return {uid: item.document for uid, item in items.items()}
