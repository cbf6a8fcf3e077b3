"""When it looks: as the leader, at all objects, and not for every change one by one."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import Any

from app.controller.follow import Follower
from app.controller.lease import Lease
from app.controller.objects import Item
from app.controller.reconcile import Outcome, Reconciler
from app.controller.running import Controller, Pace
from app.errors import FirewallError, Kind
from tests.unit.controller.test_building import policy

PACE = Pace(settle_seconds=0.02, settle_max_seconds=0.2, resync_seconds=60, renew_seconds=0.01, backoff=(0.01,))


class Leading(Lease):
    """A lease that is held as the test says."""

    def __init__(self) -> None:
        self.leads, self.released, self.fails = True, False, False

    @property
    def held(self) -> bool:
        return self.leads

    async def renew(self) -> bool:
        if self.fails:
            raise FirewallError(Kind.UNAVAILABLE, "away")
        return self.leads

    async def release(self) -> None:
        self.released = True
        raise FirewallError(Kind.UNAVAILABLE, "away")


class Looking(Reconciler):
    """Counts looks; the first `again` of them want another one soon."""

    def __init__(self, again: int = 0) -> None:
        self.looks: list[list[str]] = []
        self.again = again

    async def look(self, items: Sequence[Item]) -> Outcome:
        self.looks.append([item.name for item in items])
        return Outcome(None, None, None, len(self.looks) <= self.again)


class Standing(Follower):
    """Knows what the test says."""

    def __init__(self, *items: Item, known: bool = True) -> None:
        self.held, self.known = items, known

    @property
    def items(self) -> tuple[Item, ...]:
        return self.held

    async def run(self) -> None:
        await asyncio.Event().wait()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)


async def a_while() -> None:
    """Time for what must not happen."""
    await asyncio.sleep(0.1)


@contextlib.asynccontextmanager
async def running(
    lease: Leading, looking: Looking, *followers: Follower, pace: Pace = PACE, **more: Any
) -> AsyncIterator[Controller]:
    controller = Controller(lease, looking, pace=pace, **more)
    task = asyncio.create_task(controller.run(followers))
    try:
        yield controller
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    assert lease.released


async def test_the_leader_looks_at_all_and_once_for_many_changes() -> None:
    lease, looking = Leading(), Looking()
    told: list[Outcome] = []
    followers = (Standing(policy("one")), Standing(policy("two")))
    # So long that even a busy machine makes all the changes meanwhile.
    pace = replace(PACE, settle_seconds=0.5, settle_max_seconds=60)
    async with running(lease, looking, *followers, pace=pace, told=told.append) as controller:
        await until(lambda: looking.looks == [["one", "two"]])
        for _ in range(5):
            controller.changed()
            await asyncio.sleep(0.005)
        await until(lambda: len(told) == 2)
        await a_while()
        assert len(looking.looks) == len(told) == 2


async def test_changes_that_never_end_do_not_keep_it_from_looking() -> None:
    lease, looking = Leading(), Looking()
    async with running(lease, looking, Standing(policy("one"))) as controller:

        def changes_and_looks() -> bool:
            controller.changed()
            return len(looking.looks) > 1

        await until(changes_and_looks)


async def test_who_does_not_lead_looks_at_nothing_until_it_does() -> None:
    lease, looking = Leading(), Looking()
    lease.leads = False
    async with running(lease, looking, Standing(policy("one"))) as controller:
        controller.changed()
        await a_while()
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
        await a_while()
        assert looking.looks == []
        unread.known = True
        controller.changed()
        await until(lambda: looking.looks == [["one"]])


async def test_what_was_not_done_is_tried_again() -> None:
    looking = Looking(again=2)
    async with running(Leading(), looking, Standing(policy("one"))):
        await until(lambda: len(looking.looks) == 3)
        await a_while()
        assert len(looking.looks) == 3
