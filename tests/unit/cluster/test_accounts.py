"""Labels of service accounts: known while they are confirmed, in doubt after that."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from app.cluster.accounts import PAGE, ServiceAccounts
from app.core.types import JsonObject
from app.errors import FirewallError, Kind


def account(name: str, version: int, **labels: str) -> JsonObject:
    return {"metadata": {"namespace": "a", "name": name, "resourceVersion": str(version), "labels": labels}}


def event(kind: str, item: JsonObject) -> JsonObject:
    return {"type": kind, "object": item}


class Server:
    """Lists, then watches, as the test has written them; then it waits for ever."""

    def __init__(self, lists: list[Any], watches: list[Any]) -> None:
        self.lists, self.watches = lists, watches
        self.asked: list[dict[str, str]] = []
        self.done = asyncio.Event()
        self.closed = False

    async def call(self, _method: str, _path: str, *, query: Any = None) -> JsonObject:
        self.asked.append(query)
        found: JsonObject = self._next(self.lists) if self.lists else await self._wait()
        return found

    @contextlib.asynccontextmanager
    async def follow(self, _path: str, *, query: Any) -> AsyncIterator[AsyncIterator[JsonObject]]:
        self.asked.append(query)
        events = self._next(self.watches) if self.watches else await self._wait()

        async def each() -> AsyncIterator[JsonObject]:
            for one in events:
                if isinstance(one, Exception):
                    raise one
                yield one

        yield each()

    def _next(self, answers: list[Any]) -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def _wait(self) -> Any:
        self.done.set()
        await asyncio.Event().wait()

    async def close(self) -> None:
        self.closed = True


def listed(*items: JsonObject, version: int = 1, more: str = "") -> JsonObject:
    return {"metadata": {"resourceVersion": str(version), "continue": more}, "items": list(items)}


class Following:
    def __init__(self, lists: list[Any], watches: list[Any]) -> None:
        self.now = 100.0
        self.server = Server(lists, watches)
        self.accounts = ServiceAccounts(
            self.server, keys={"agent"}, max_age_seconds=60, clock=lambda: self.now, backoff=(0.001,)
        )

    async def until_told(self) -> ServiceAccounts:
        await self.accounts.start()
        async with asyncio.timeout(60):
            await self.server.done.wait()
        await self.accounts.stop()
        assert self.server.closed
        return self.accounts


async def test_what_is_listed_and_what_changes() -> None:
    following = Following(
        [listed(account("bot", 1, agent="yes", other="x"), more="next"), listed(account("plain", 2), version=3)],
        [
            [
                event("ADDED", account("new", 4, agent="no")),
                event("MODIFIED", account("plain", 5, agent="late")),
                event("DELETED", account("bot", 6)),
                event("BOOKMARK", {"metadata": {"resourceVersion": "9"}}),
            ],
            [],
        ],
    )
    accounts = await following.until_told()
    assert accounts.labels_of("a", "bot") is None
    assert accounts.labels_of("a", "new") == {"agent": "no"}
    assert accounts.labels_of("a", "plain") == {"agent": "late"}
    # Labels that nobody asks for are not kept.
    assert accounts.report() == (True, "2 service accounts, confirmed 0 s ago")
    first, second, *watched = following.server.asked
    assert (first, second) == ({"limit": str(PAGE)}, {"limit": str(PAGE), "continue": "next"})
    assert [query["resourceVersion"] for query in watched] == ["3", "9", "9"]
    # Known until it could be wrong.
    following.now += 60
    assert accounts.labels_of("a", "new") is not None
    following.now += 1
    assert accounts.labels_of("a", "new") is None
    assert accounts.report()[0] is False


AWAY = FirewallError(Kind.UNAVAILABLE, "away")
GONE = event("ERROR", {"code": 410})


@pytest.mark.parametrize(
    "trouble",
    [
        lambda: ([AWAY], []),
        lambda: ([RuntimeError("out of order")], []),
        lambda: ([listed()], [AWAY]),
        lambda: ([listed()], [[AWAY]]),
        lambda: ([listed()], [[GONE]]),
        lambda: ([listed()], [[event("ERROR", {"code": 500})]]),
        lambda: ([listed()], [[{}]]),
        lambda: ([listed(), listed()], [[GONE], [GONE]]),
    ],
)
async def test_after_any_trouble_they_are_listed_again(trouble: Callable[[], tuple[list[Any], list[Any]]]) -> None:
    lists, watches = trouble()
    following = Following([*lists, listed(account("bot", 7, agent="yes"), version=7)], watches)
    accounts = await following.until_told()
    assert accounts.labels_of("a", "bot") == {"agent": "yes"}
    assert accounts.report()[0]


async def test_a_start_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.cluster.accounts.START_SECONDS", 0.01)
    following = Following([], [])
    accounts = await following.until_told()
    assert accounts.age == float("inf")
    assert accounts.labels_of("a", "bot") is None
    assert accounts.report() == (False, "every service account counts as an agent: they were not read yet")
    await Following([], []).accounts.stop()
