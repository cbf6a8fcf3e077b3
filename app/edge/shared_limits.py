"""Step 3 across replicas: tokens are leased from a shared store in small lots, and given out from memory.

A replica asks the store when its lot runs low, before it is empty, so hardly any request waits. What was leased and not
given out goes back with the next lease. While the store is away a replica gives out its share of each limit: beginning
with what it last knew of each bucket, and telling the store afterwards, so that neither going nor coming back fills
anybody's bucket.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from hashlib import sha256
from typing import Final, Protocol

from app.background import ended
from app.core.quota import Limit, RouteClass
from app.edge.limits import MAX_BUCKETS, Allowance, TokenBuckets
from app.errors import FirewallError
from app.persistence.breaker import BreakerState, CircuitBreaker
from app.persistence.shared_buckets import Lease

_NS: Final = 1_000_000_000
_US: Final = 1_000

# The first lot of a caller; one that is used up within a second is followed by one of twice the size.
FIRST_LOT: Final = 4
LARGEST_LOT: Final = 100
# No replica holds more than this part of a bucket: what it holds, the others cannot give out.
SMALLEST_PART: Final = 10
# A lot that lies longer goes back: its caller is elsewhere now.
LEASE_SECONDS: Final = 5
# How often a replica says that it is there, and looks whether the store is.
ANNOUNCE_SECONDS: Final = 2.0

_OVERFLOW: Final = b""

_log: Final = logging.getLogger("mfw.limits")


class LeaseStore(Protocol):
    """Where the buckets are. Raises FirewallError(UNAVAILABLE)."""

    async def lease(
        self, key: bytes, *, interval_us: int, burst: int, wanted: int, needed: int, back: int = 0, known_us: int = 0
    ) -> Lease:
        """Take up to `wanted` tokens, none if fewer than `needed` are there."""

    async def announce(self, replica: str) -> int:
        """Say that a replica is alive, and hear how many are."""

    async def close(self) -> None:
        """Let go of the store."""


class StoreLink:
    """One process's link to the store: whether it answers, and how many replicas share it.

    `expected` is how many replicas there may be at most, for a start without the store.
    """

    def __init__(
        self,
        store: LeaseStore,
        *,
        replica: str,
        expected: int,
        monotonic: Callable[[], float] = time.monotonic,
        changed: Callable[[bool], None] | None = None,
    ) -> None:
        """`changed` is told whether the limits are shared, now and whenever that changes."""
        self.store = store
        self.replicas = max(1, expected)
        self._replica = replica
        self._breaker = CircuitBreaker(clock=monotonic)
        self._changed = changed
        self._shared = False
        self._task: asyncio.Task[None] | None = None

    @property
    def shared(self) -> bool:
        """Whether the store is believed to answer."""
        return self._shared

    async def start(self) -> None:
        """Look whether the store answers, and keep looking; a store that is away is no error."""
        await self.announce()
        if not self._shared:
            self._opened()
        self._task = asyncio.get_running_loop().create_task(self._keep_announcing(), name="shared-limits")

    async def stop(self) -> None:
        """End the task and the connections."""
        task, self._task = self._task, None
        await ended(task)
        await self.store.close()

    async def announce(self) -> None:
        """Say that this replica is there; also the probe that closes the breaker again."""
        try:
            count = await self.store.announce(self._replica)
        except FirewallError:
            self.failed()
            return
        self.replicas = max(1, count)
        self._breaker.success()
        if not self._shared:
            self._shared = True
            _log.info("rate limits are shared", extra={"fields": {"replicas": count}})
            self._tell()

    def answered(self) -> None:
        """A lease worked."""
        self._breaker.success()

    def failed(self) -> None:
        """A call did not work."""
        self._breaker.failure()
        if self._shared and self._breaker.state is not BreakerState.CLOSED:
            self._opened()

    def _opened(self) -> None:
        self._shared = False
        _log.warning("rate limits are not shared", extra={"fields": {"share": f"1/{self.replicas}"}})
        self._tell()

    def _tell(self) -> None:
        if self._changed is not None:
            self._changed(self._shared)

    async def _keep_announcing(self) -> None:
        while True:
            await asyncio.sleep(ANNOUNCE_SECONDS)
            await self.announce()


class _Held:
    """What this replica holds of one bucket, and what it last knew of the whole."""

    __slots__ = ("asking", "full_at_ns", "lot", "refused_cost", "refused_until_ns", "taken_at_ns", "tokens")

    def __init__(self) -> None:
        self.tokens = 0
        self.lot = FIRST_LOT
        self.taken_at_ns = 0
        self.full_at_ns = 0
        self.refused_until_ns = 0
        self.refused_cost = 1
        self.asking: asyncio.Task[None] | None = None


class SharedBuckets:
    """The buckets of one class and limit, shared by all replicas. For one event loop.

    Does not check: that all replicas have the same limit for a class; a bucket is as large as who asks says.
    """

    def __init__(
        self,
        limit: Limit,
        *,
        route: RouteClass,
        link: StoreLink,
        max_buckets: int = MAX_BUCKETS,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.limit = limit
        self._route = route
        self._link = link
        self._max = max_buckets
        self._clock_ns = clock_ns
        self._interval_ns = limit.interval_ns
        self._burst_ns = limit.interval_ns * limit.burst
        self._policy = limit.policy
        # Two generations, as in `TokenBuckets`: what lies idle until its bucket is full need not be remembered.
        self._current: dict[bytes, _Held] = {}
        self._previous: dict[bytes, _Held] = {}
        self._swap_at_ns = clock_ns() + self._burst_ns
        self._alone: TokenBuckets | None = None
        self._alone_replicas = 0

    def take_now(self, key: bytes, cost: int = 1) -> Allowance | None:
        """Give out of what is held, refuse what the store refused just now, or None: the store has to be asked."""
        now = self._clock_ns()
        held = self._current.get(key) or self._remembered(key, now)
        if held is not None:
            if held.tokens >= cost and now - held.taken_at_ns < LEASE_SECONDS * _NS:
                held.tokens -= cost
                if held.tokens * 2 < held.lot and held.asking is None and self._link.shared:
                    self._ask(key, held, needed=1)
                return self._allowance(held, now)
            if now < held.refused_until_ns and cost >= held.refused_cost:
                return self._refusal(held, now, cost)
        return None if self._link.shared else self._share(key, held, cost)

    async def take(self, key: bytes, cost: int = 1) -> Allowance:
        """Take tokens, after asking the store if need be; without the store, of this replica's own share."""
        if len(self._current) + len(self._previous) >= self._max and self._remembered(key, self._clock_ns()) is None:
            # More callers than one process can serve: further ones share a bucket, as in `TokenBuckets`.
            key = _OVERFLOW
        while True:
            allowance = self.take_now(key, cost)
            if allowance is not None:
                return allowance
            held = self._current.setdefault(key, _Held())
            asking = held.asking or self._ask(key, held, needed=cost)
            # The answer is for all who wait for this bucket: who leaves must not take it away.
            await asyncio.shield(asking)
            if held.tokens < cost and self._clock_ns() >= held.refused_until_ns:
                # The store did not answer, though it is not given up yet.
                return self._share(key, held, cost)

    def _ask(self, key: bytes, held: _Held, *, needed: int) -> asyncio.Task[None]:
        held.asking = asyncio.get_running_loop().create_task(self._lease(key, held, needed))
        return held.asking

    async def _lease(self, key: bytes, held: _Held, needed: int) -> None:
        now = self._clock_ns()
        old = now - held.taken_at_ns >= LEASE_SECONDS * _NS
        back = held.tokens if old else 0
        held.tokens -= back
        largest = max(1, min(LARGEST_LOT, self.limit.burst // SMALLEST_PART))
        held.lot = FIRST_LOT if old else min(held.lot * 2, largest) if now - held.taken_at_ns < _NS else held.lot
        # A store that was started anew has forgotten everything, and learns it again from who asks. What other replicas
        # may have brought back meanwhile is left open.
        slack = (back + FIRST_LOT * self._link.replicas) * self._interval_ns
        alone = None if self._alone is None else self._alone.missing_ns(key)
        known = max(0, held.full_at_ns - slack - now, alone or 0)
        try:
            lease = await self._link.store.lease(
                b"%s:%s" % (self._route.encode(), sha256(key).hexdigest().encode()),
                interval_us=max(1, self._interval_ns // _US),
                burst=self.limit.burst,
                wanted=max(held.lot, needed),
                needed=needed,
                back=back,
                known_us=known // _US,
            )
        except FirewallError:
            held.tokens += back
            self._link.failed()
            return
        finally:
            held.asking = None
        self._link.answered()
        if self._alone is not None:
            self._alone.forget(key)
        now = self._clock_ns()
        held.full_at_ns = now + lease.full_after_us * _US
        if lease.granted:
            held.tokens += lease.granted
            held.taken_at_ns = now
            held.refused_until_ns = 0
        elif held.tokens < needed:
            held.refused_cost = needed
            held.refused_until_ns = max(now + 1, held.full_at_ns + needed * self._interval_ns - self._burst_ns)

    def _share(self, key: bytes, held: _Held | None, cost: int) -> Allowance:
        """Take of this replica's own share, which begins with what was last known of the bucket."""
        alone = self._alone
        if alone is None or self._alone_replicas != self._link.replicas:
            self._alone_replicas = self._link.replicas
            alone = self._alone = TokenBuckets(
                self.limit, replicas=self._alone_replicas, max_buckets=self._max, clock_ns=self._clock_ns
            )
        if held is not None:
            # The time until a bucket is full is the same for a share as for the whole.
            alone.seed(key, max(0, held.full_at_ns - self._clock_ns()))
        return alone.take_now(key, cost)

    def _allowance(self, held: _Held, now: int) -> Allowance:
        missing = max(0, held.full_at_ns - now)
        left = max(0, self._burst_ns - missing) // self._interval_ns
        return Allowance(True, held.tokens + left, missing, 0, self._policy)

    def _refusal(self, held: _Held, now: int, cost: int) -> Allowance:
        missing = max(0, held.full_at_ns - now)
        retry = max(1, missing + cost * self._interval_ns - self._burst_ns)
        left = max(0, self._burst_ns - missing) // self._interval_ns
        return Allowance(
            allowed=False, remaining=left, full_after_ns=missing, retry_after_ns=retry, policy=self._policy
        )

    def _remembered(self, key: bytes, now: int) -> _Held | None:
        """Find what was not touched since the last swap, or is there already."""
        if now >= self._swap_at_ns:
            self._previous, self._current = self._current, {}
            self._swap_at_ns = now + self._burst_ns
        held = self._previous.pop(key, None)
        if held is None:
            return self._current.get(key)
        self._current[key] = held
        return held
