"""A session's links: opened once, opened again, and not waited for twice."""

import time
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from app.gateway import sessions
from app.gateway.sessions import Session
from app.gateway.upstreams import AwayError, Client, Upstream

CLIENT = Client("2025-06-18", {"name": "c"}, {})


@asynccontextmanager
async def session(*names: str, clock=time.monotonic):
    async with anyio.create_task_group() as tasks:
        yield Session([Upstream(name) for name in names], CLIENT, tasks=tasks, timeout=1, standing=None, clock=clock)
        tasks.cancel_scope.cancel()


class FakeLink:
    """A connection that opens, or does not, as the class is told."""

    made: list["FakeLink"]
    fails = False

    def __init__(self, upstream: Upstream, *_: Any, **__: Any) -> None:
        self.upstream = upstream
        self.is_open = False
        self.can_listen = False
        self.pages: list[dict[str, Any]] = []
        type(self).made.append(self)

    async def open(self, _: Any) -> None:
        if self.fails:
            raise AwayError("away")
        self.is_open = True

    def close(self) -> None:
        self.is_open = False

    async def request(self, _: str, params: Any) -> dict[str, Any]:
        return self.pages[int((params or {}).get("cursor", 0))]


@pytest.fixture(autouse=True)
def links(monkeypatch):
    made = type("Link", (FakeLink,), {"made": []})
    monkeypatch.setattr(sessions, "Link", made)
    return made


async def test_a_link_is_kept_until_it_breaks(links):
    async with session("a") as one:
        first = await one.link("a")
        assert await one.link("a") is first
        first.close()
        assert await one.link("a") is not first
        await one.close()
        assert not links.made[-1].is_open
        with pytest.raises(AwayError, match="has ended"):
            await one.link("a")


async def test_of_several_those_that_are_there(links):
    async with session("a", "b") as both:
        await both.link("b")
        links.fails = True
        assert [link.upstream.name for link in await both.links()] == ["b"]


async def test_who_hangs_is_not_waited_for_again(links):
    links.fails = True
    # It hangs for 11 seconds, is not asked two seconds later, and refuses at once after that.
    now = iter([100.0, 100.0, 111.0, 111.0, 113.0, 130.0, 130.0, 130.0])
    async with session("a", clock=lambda: next(now)) as one:
        for expected in ("away", "a moment ago", "away"):
            with pytest.raises(AwayError, match=expected):
                await one.link("a")
    assert len(links.made) == 2


async def test_a_list_without_end_ends(links, monkeypatch):
    monkeypatch.setattr(sessions, "PAGES_MAX", 3)
    async with session("a") as one:
        link: Any = await one.link("a")
        link.pages = [{"tools": [{"name": f"t{page}"}], "nextCursor": str((page + 1) % 10)} for page in range(10)]
        assert sorted(await one.catalogue(link)) == ["t0", "t1", "t2"]
        link.pages = [{"tools": None, "nextCursor": 3}]
        assert sorted(await one.catalogue(link)) == ["t0", "t1", "t2"]
        assert await one.catalogue(link, again=True) == {}


async def test_a_list_that_changed_while_it_was_read_is_read_again():
    async with session("a") as one:
        link: Any = await one.link("a")
        link.pages = [{"tools": [{"name": "old"}]}]

        async def request(_: str, __: Any) -> dict[str, Any]:
            await one.told("a", "notifications/tools/list_changed", None)
            return {"tools": [{"name": "old", "inputSchema": {"type": "object"}}]}

        calm, link.request = link.request, request
        assert list(await one.catalogue(link)) == ["old"]
        assert one.tool_schema("a", "old") is None
        link.request = calm
        link.pages = [{"tools": [{"name": "new", "inputSchema": {"type": "object"}}]}]
        assert list(await one.catalogue(link)) == ["new"]
        assert one.tool_schema("a", "new") == {"type": "object"}


async def test_what_shares_a_link_cannot_be_asked():
    from mcp.shared.exceptions import MCPError

    async with session("a") as one:
        for method in ("sampling/createMessage", "tools/call"):
            with pytest.raises(MCPError):
                await one.asked("a", method, None)
