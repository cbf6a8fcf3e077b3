"""Three replicas and one Redis: a caller who asks all of them gets the limit once, whatever happens to Redis."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from app.core.quota import Limit, RouteClass
from app.edge import shared_limits
from app.edge.shared_limits import SharedBuckets, StoreLink
from app.errors import FirewallError, Kind
from app.persistence import shared_buckets
from app.persistence.shared_buckets import TIMEOUT_SECONDS, SharedBucketStore
from tests.integration.edge.conftest import RedisServer
from tests.ports import free_port

LIMIT = Limit(per_minute=600, burst=120)
# A bucket that nothing trickles into while a test goes on.
SLOW = Limit(per_minute=1, burst=120)
CALLER = b'["api_key","agent"]'
# Redis answers in time, however busy this machine is.
PATIENT = 60.0


@pytest.fixture(autouse=True)
def _it_is_reached_however_long_that_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_buckets, "CONNECT_TIMEOUT_SECONDS", PATIENT)


# Refusals by each replica, after which a bucket is surely empty and nobody holds any more of it.
ENOUGH = 100


class Replica:
    def __init__(self, store: SharedBucketStore, name: str, *, expected: int, limit: Limit) -> None:
        self.told: list[bool] = []
        self.refused = 0
        self.link = StoreLink(store, replica=name, expected=expected, changed=self.told.append)
        self.buckets = SharedBuckets(limit, route=RouteClass.DECIDE, link=self.link)


@asynccontextmanager
async def replicas(
    url: str, count: int = 3, *, expected: int = 3, limit: Limit = LIMIT, timeout: float = PATIENT
) -> AsyncIterator[list[Replica]]:
    async with AsyncExitStack() as opened:
        stores = [SharedBucketStore(url, timeout_seconds=timeout) for _ in range(count)]
        found = [Replica(store, f"r{number}", expected=expected, limit=limit) for number, store in enumerate(stores)]
        for replica in found:
            await replica.link.start()
            opened.push_async_callback(replica.link.stop)
        for replica in found:
            await replica.link.announce()  # everybody has heard of everybody
        yield found


async def hammer(found: list[Replica], meanwhile: Callable[[], Awaitable[None]] | None = None) -> int:
    """Ask every replica without a pause, and count what was allowed; until `meanwhile` is over, and each replica has
    refused often enough since.
    """
    over = asyncio.Event()
    allowed = 0

    async def ask(replica: Replica) -> None:
        nonlocal allowed
        while not over.is_set():
            allowance = await replica.buckets.take(CALLER)
            allowed += allowance.allowed
            replica.refused += not allowance.allowed
            await asyncio.sleep(0.002)

    async with asyncio.timeout(120), asyncio.TaskGroup() as asking:
        for replica in found * 4:
            asking.create_task(ask(replica))
        if meanwhile is not None:
            await meanwhile()
        before = {replica: replica.refused for replica in found}
        while any(replica.refused < before[replica] + ENOUGH for replica in found):
            await asyncio.sleep(0.01)
        over.set()
    return allowed


def most(seconds: float) -> float:
    """What a bucket of the limit gives in that time."""
    return LIMIT.burst + LIMIT.per_minute * seconds / 60


async def test_three_replicas_give_the_limit_once(redis_server: RedisServer) -> None:
    async with replicas(redis_server.url) as found:
        began = time.monotonic()
        allowed = await hammer(found)
        seconds = time.monotonic() - began
        assert LIMIT.burst <= allowed <= most(seconds) + 1
        assert all(replica.link.shared for replica in found)
        # Others are not concerned.
        assert (await found[0].buckets.take(b"somebody else")).allowed


async def test_who_is_refused_is_told_so_by_every_replica(redis_server: RedisServer) -> None:
    async with replicas(redis_server.url, limit=SLOW) as found:
        assert await hammer(found) == SLOW.burst
        for replica in found:
            refused = await replica.buckets.take(CALLER)
            with pytest.raises(FirewallError) as caught:
                refused.check()
            assert caught.value.kind is Kind.RATE_LIMITED


async def test_killing_redis_in_the_middle_gives_nobody_a_new_bucket(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_limits, "ANNOUNCE_SECONDS", 0.2)

    async with replicas(redis_server.url) as found:

        async def everybody_is_told(told: list[bool]) -> None:
            while any(replica.told != told for replica in found):
                await asyncio.sleep(0.01)

        async def refusals() -> None:
            before = [replica.refused for replica in found]
            while any(replica.refused < was + ENOUGH for replica, was in zip(found, before, strict=True)):
                await asyncio.sleep(0.01)

        async def accident() -> None:
            await refusals()
            redis_server.kill()
            await everybody_is_told([True, False])
            await refusals()
            await asyncio.to_thread(redis_server.start)
            await everybody_is_told([True, False, True])

        began = time.monotonic()
        allowed = await hammer(found, accident)
        seconds = time.monotonic() - began
        # Each replica begins its share with what it last knew, give or take the lot that others held just then.
        assert LIMIT.burst <= allowed <= most(seconds) + 3 * shared_limits.FIRST_LOT
        assert all(replica.told == [True, False, True] for replica in found)


async def test_a_redis_that_forgot_everything_learns_it_again(redis_server: RedisServer) -> None:
    async with replicas(redis_server.url) as found:
        began = time.monotonic()
        allowed = await hammer(found)
        redis_server.kill()
        redis_server.start()  # so quickly that nobody was told
        allowed += await hammer(found)
        assert allowed <= most(time.monotonic() - began) + 3 * 2 * shared_limits.FIRST_LOT


async def test_without_redis_each_replica_has_its_share() -> None:
    nowhere = f"redis://127.0.0.1:{free_port()}/0"
    async with replicas(nowhere, expected=4) as found:
        assert not any(replica.link.shared for replica in found)
        began = time.monotonic()
        allowed = await hammer(found)
        share = (most(time.monotonic() - began)) * 3 / 4
        assert LIMIT.burst * 3 / 4 <= allowed <= share + 3


async def test_a_redis_that_hangs_holds_nobody_up(redis_server: RedisServer) -> None:
    async with replicas(redis_server.url, 1, expected=1, timeout=TIMEOUT_SECONDS) as (replica,):
        redis_server.tell("CLIENT", "PAUSE", "600000", "ALL")
        # The lots that are there, then one wait after another until the breaker opens, then none. Ten minutes of Redis'
        # silence are longer than this may take.
        async with asyncio.timeout(60):
            answers = [await replica.buckets.take(b"caller %d" % number) for number in range(40)]
        assert all(answer.allowed for answer in answers)
        assert not replica.link.shared


async def test_what_a_replica_holds_goes_back(redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_limits, "LEASE_SECONDS", 0.2)
    async with replicas(redis_server.url, 1, limit=SLOW) as (replica,):
        first = await replica.buckets.take(CALLER)
        assert first.remaining == SLOW.burst - 1
        await asyncio.sleep(0.25)
        again = await replica.buckets.take(CALLER)
        # One token was spent before: nothing was lost with the lot that lay too long.
        assert again.remaining == SLOW.burst - 2


async def test_a_batch_takes_its_tokens_together(redis_server: RedisServer) -> None:
    async with replicas(redis_server.url, 2, limit=SLOW) as (one, two):
        assert (await one.buckets.take(CALLER, 100)).allowed
        refused = await two.buckets.take(CALLER, 100)
        assert (refused.allowed, refused.retry_after_ns > 5e9) == (False, True)
        assert (await two.buckets.take(CALLER, 5)).allowed


async def test_a_wrong_password_is_no_way_round_the_limit_and_not_in_the_error(redis_server: RedisServer) -> None:
    redis_server.tell("CONFIG", "SET", "requirepass", "another")
    store = SharedBucketStore(redis_server.url.replace("//", "//:s3cret-in-the-url@"))
    with pytest.raises(FirewallError) as caught:
        await store.announce("r")
    assert caught.value.kind is Kind.UNAVAILABLE
    assert "s3cret" not in str(caught.value)
    await store.close()
