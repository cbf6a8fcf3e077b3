"""When it looks: as the leader, at all objects, and not for every change one by one."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from app.controller.follow import Follower
from app.controller.lease import Lease
from app.controller.objects import Item
from app.controller.reconcile import Outcome, Reconciler
from app.controller.running import Controller, Pace
from app.errors import FirewallError, Kind
from tests.unit.controller.test_building import policy

PACE = Pace(settle_seconds=0.02, settle_max_seconds=0.2, resync_seconds=60, renew_seconds=0.01, backoff=(0.01,))


async def until(check: Callable[[], object]) -> None:
    """Wait until it is so."""
    async with asyncio.timeout(60):
        while not check():
            await asyncio.sleep(0.005)


class Leading(Lease):
    """A lease that is held as the test says."""

    def __init__(self) -> None:
        self.leads, self.released, self.fails, self.renewals = True, False, False, 0

    @property
    def held(self) -> bool:
        return self.leads

    async def renew(self) -> bool:
        self.renewals += 1
        if self.fails:
            raise FirewallError(Kind.UNAVAILABLE, "away")
        return self.leads

    async def release(self) -> None:
        self.released = True
        raise FirewallError(Kind.UNAVAILABLE, "away")


class Looking(Reconciler):
    """Counts looks; the first `again` of them want another one soon, the first `broken` of them fail."""

    def __init__(self, again: int = 0, broken: int = 0) -> None:
        self.looks: list[list[str]] = []
        self.again, self.broken = again, broken
        self.goes_on = asyncio.Event()
        self.goes_on.set()

    async def look(self, items: Sequence[Item]) -> Outcome:
        self.looks.append([item.name for item in items])
        await self.goes_on.wait()
        if len(self.looks) <= self.broken:
            raise KeyError("nobody foresaw this")
        return Outcome(None, None, None, len(self.looks) <= self.again, whole=True)


class Standing(Follower):
    """Knows what the test says."""

    def __init__(self, *items: Item, known: bool = True) -> None:
        self.held, self.known = items, known

    @property
    def items(self) -> tuple[Item, ...]:
        return self.held

    async def run(self) -> None:
        await asyncio.Event().wait()


@contextlib.asynccontextmanager
async def running(lease: Leading, looking: Looking, *followers: Follower, **more: Any) -> AsyncIterator[Controller]:
    controller = Controller(lease, looking, pace=PACE, **more)
    task = asyncio.create_task(controller.run(followers))
    try:
        await until(lambda: lease.renewals > 1)
        yield controller
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    assert lease.released


async def test_the_leader_looks_at_all_and_once_for_many_changes() -> None:
    lease, looking = Leading(), Looking()
    told: list[Outcome | None] = []
    followers = (Standing(policy("one")), Standing(policy("two")))
    async with running(lease, looking, *followers, told=told.append) as controller:
        await until(lambda: told)
        assert looking.looks == [["one", "two"]]
        # At once: nothing else runs between them.
        for _ in range(5):
            controller.changed()
        assert controller.waiting == 5
        await until(lambda: len(told) == 2)
        assert controller.waiting == 0
        assert len(looking.looks) == 2


async def test_changes_that_never_end_do_not_keep_it_from_looking() -> None:
    lease, looking = Leading(), Looking()
    async with running(lease, looking, Standing(policy("one"))) as controller:

        def goes_on() -> bool:
            controller.changed()
            return len(looking.looks) > 2

        await until(goes_on)


async def test_a_change_during_a_look_is_another_look() -> None:
    lease, looking = Leading(), Looking()
    looking.goes_on.clear()
    async with running(lease, looking, Standing(policy("one"))) as controller:
        await until(lambda: looking.looks)
        controller.changed()
        looking.goes_on.set()
        await until(lambda: len(looking.looks) == 2)
        await until(lambda: controller.waiting == 0)


async def test_who_does_not_lead_looks_at_nothing_until_it_does() -> None:
    lease, looking = Leading(), Looking()
    lease.leads = False
    async with running(lease, looking, Standing(policy("one"))) as controller:
        assert (controller.leads, controller.ready) == (False, True)
        controller.changed()
        await until(lambda: not controller._news.is_set())
        assert controller.waiting == 0
        assert looking.looks == []
        lease.leads = True
        await until(lambda: looking.looks == [["one"]])
        # The lease lasts while the API server is away.
        lease.fails = True
        controller.changed()
        await until(lambda: len(looking.looks) == 2)


async def test_a_part_of_the_objects_is_not_looked_at() -> None:
    looking, unread = Looking(), Standing(known=False)
    async with running(Leading(), looking, Standing(policy("one")), unread) as controller:
        await until(lambda: not controller._news.is_set())
        assert not controller.ready
        assert looking.looks == []
        unread.known = True
        controller.changed()
        await until(lambda: looking.looks == [["one"]])
        assert controller.ready


async def test_nothing_is_read_before_it_runs() -> None:
    assert not Controller(Leading(), Looking(), pace=PACE).ready


async def test_what_was_not_done_is_tried_again() -> None:
    looking = Looking(again=2)
    told: list[Outcome | None] = []
    async with running(Leading(), looking, Standing(policy("one")), told=told.append):
        await until(lambda: len(told) == 3)
    assert [one.again for one in told if one] == [True, True, False]


async def test_an_end_that_nobody_foresaw_is_tried_again() -> None:
    looking = Looking(broken=1)
    told: list[Outcome | None] = []
    async with running(Leading(), looking, Standing(policy("one")), told=told.append):
        await until(lambda: len(told) == 2)
    assert told[0] is None
    assert told[1] is not None


async def test_whoever_keeps_the_count_is_told_that_it_does_not_lead_any_more() -> None:
    lease, looking = Leading(), Looking()
    stood_by: list[None] = []
    async with running(lease, looking, Standing(policy("one")), stood_by=lambda: stood_by.append(None)):
        await until(lambda: looking.looks)
        assert not stood_by
        lease.leads = False
        await until(lambda: stood_by)
