"""The labels of every service account of a cluster, kept in memory: a review cannot wait for another request.

A list, then a watch of what changed since. Watches are short and read with a limit, so that a connection that is dead
without a word is noticed. What has not been confirmed for too long is not known any more.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, Protocol

from app.background import ended, spread
from app.core.types import JsonObject
from app.errors import FirewallError, Kind

PATH: Final = "/api/v1/serviceaccounts"
PAGE: Final = 500
# Seconds after which the API server ends a watch, and a new one confirms what is known.
WATCH_SECONDS: Final = 5
# Seconds between tries: 1, 2, 4, ... 30 (reference/firewall-failure-mode-matrix.md).
BACKOFF: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
# What a start waits for at the most; after that service accounts are unknown until they are read.
START_SECONDS: Final = 5.0

_log: Final = logging.getLogger("mfw.accounts")


class Follows(Protocol):
    """An API server."""

    async def call(self, method: str, path: str, *, query: Mapping[str, str] | None = None) -> JsonObject:
        """Send one request. Raises FirewallError."""

    def follow(self, path: str, *, query: Mapping[str, str]) -> AbstractAsyncContextManager[AsyncIterator[JsonObject]]:
        """Follow changes. Raises FirewallError."""

    async def close(self) -> None:
        """Close the connections."""


class ServiceAccounts:
    """Follows them; `keys` are the labels that somebody asks for, and no other is kept."""

    def __init__(
        self,
        api: Follows,
        *,
        keys: Collection[str],
        max_age_seconds: float,
        clock: Callable[[], float] = time.monotonic,
        backoff: tuple[float, ...] = BACKOFF,
    ) -> None:
        self._api = api
        self._keys = frozenset(keys)
        self._max_age_seconds = max_age_seconds
        self._clock = clock
        self._backoff = backoff
        self._labels: dict[tuple[str, str], Mapping[str, str]] = {}
        self._confirmed: float | None = None
        self._read = asyncio.Event()
        self._fault: str | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def age(self) -> float:
        """Seconds since what is known was confirmed; infinite if it never was."""
        return float("inf") if self._confirmed is None else self._clock() - self._confirmed

    def labels_of(self, namespace: str, name: str) -> Mapping[str, str] | None:
        """Give the labels of an account, as far as they were asked for; None where doubt is due."""
        return self._labels.get((namespace, name)) if self.age <= self._max_age_seconds else None

    async def start(self) -> None:
        """Begin to follow; returns when they were read, or soon all the same."""
        self._task = asyncio.create_task(self._follow(), name="service accounts")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(START_SECONDS):
                await self._read.wait()

    async def stop(self) -> None:
        """End following."""
        task, self._task = self._task, None
        await ended(task)
        await self._api.close()

    def report(self) -> tuple[bool, str]:
        """Tell whether they are known, and since when."""
        if self.age <= self._max_age_seconds:
            return True, f"{len(self._labels)} service accounts, confirmed {self.age:.0f} s ago"
        return False, f"every service account counts as an agent: {self._fault or 'they were not read yet'}"

    async def _follow(self) -> None:
        failures = 0
        while True:
            again = False
            try:
                version = await self._list()
                failures = 0
                while True:
                    version = await self._watch(version)
            except FirewallError as error:
                self._fault = error.detail
                # Events that are too old to be told: they are listed again at once.
                again = error.kind is Kind.CONFLICT and failures == 0
            except Exception:  # noqa: BLE001 - INVARIANT: following outlives whatever happens to one look
                self._fault = "an error that nobody foresaw"
                _log.exception("service accounts not followed")
            if not again:
                _log.warning("service accounts not followed", extra={"fields": {"error": self._fault}})
                pause = self._backoff[min(failures, len(self._backoff) - 1)]
                await asyncio.sleep(spread(pause))
            failures += 1

    async def _list(self) -> str:
        """Read all of them; gives the version from which on to watch."""
        found: dict[tuple[str, str], Mapping[str, str]] = {}
        query = {"limit": str(PAGE)}
        while True:
            page = await self._api.call("GET", PATH, query=query)
            for item in page.get("items") or []:
                found[_name(item)] = self._asked(item)
            token = page["metadata"].get("continue")
            if not token:
                break
            query = {"limit": str(PAGE), "continue": token}
        self._labels = found
        self._confirm()
        return str(page["metadata"]["resourceVersion"])

    async def _watch(self, version: str) -> str:
        """Take changes in until the API server ends the watch; gives the version that was reached."""
        query = {"resourceVersion": version, "timeoutSeconds": str(WATCH_SECONDS)}
        async with self._api.follow(PATH, query=query) as events:
            async for event in events:
                kind, item = event.get("type"), event.get("object") or {}
                if kind == "ERROR":
                    code = item.get("code")
                    raise FirewallError(
                        Kind.CONFLICT if code == 410 else Kind.UNAVAILABLE, f"the watch ended with status {code}"
                    )
                if kind == "DELETED":
                    self._labels.pop(_name(item), None)
                elif kind in {"ADDED", "MODIFIED"}:
                    self._labels[_name(item)] = self._asked(item)
                elif kind != "BOOKMARK":
                    # Half a line, where the connection broke.
                    raise FirewallError(Kind.UNAVAILABLE, "the watch ended in the middle of an event")
                version = str(item["metadata"]["resourceVersion"])
                self._confirm()
        # It was told everything until now, and there was nothing else.
        self._confirm()
        return version

    def _confirm(self) -> None:
        self._confirmed, self._fault = self._clock(), None
        self._read.set()

    def _asked(self, item: JsonObject) -> Mapping[str, str]:
        labels = item["metadata"].get("labels") or {}
        return {key: text for key, text in labels.items() if key in self._keys}


def _name(item: Any) -> tuple[str, str]:
    metadata = item["metadata"]
    return metadata["namespace"], metadata["name"]
