"""Step 3: how often a caller may ask. A token bucket per key, exact, bounded, a microsecond each."""

import time
from collections.abc import Callable, Hashable, Mapping
from typing import Final, NamedTuple, Protocol

from app.core.principal import Principal, Role
from app.core.quota import DEFAULT_LIMIT, Limit, RouteClass
from app.errors import FirewallError, Kind

_NS: Final = 1_000_000_000

# A hundred thousand active callers in one process are more than it could answer; each costs about 200 bytes.
MAX_BUCKETS: Final = 100_000

_OVERFLOW: Final = object()


class Allowance(NamedTuple):
    """What a bucket said: whether the request may pass, and what is left after it."""

    allowed: bool
    remaining: int  # whole requests that could follow at once
    full_after_ns: int  # until the bucket is full again
    retry_after_ns: int  # until one request may pass; 0 if it just did
    policy: bytes  # the `RateLimit-Policy` field of the limit that was applied

    def headers(self) -> list[tuple[bytes, bytes]]:
        """The fields of draft-ietf-httpapi-ratelimit-headers-10: the policy, what remains, when it is whole again."""
        return [
            (b"ratelimit-policy", self.policy),
            (b"ratelimit", b'"default";r=%d;t=%d' % (self.remaining, -(-self.full_after_ns // _NS))),
        ]

    def check(self) -> None:
        """Raise FirewallError(RATE_LIMITED) with the seconds to wait unless the request may pass."""
        if not self.allowed:
            raise FirewallError(
                Kind.RATE_LIMITED,
                "too many requests",
                retry_after=self.retry_after_ns / _NS,
                fix="wait as long as `Retry-After` says, then slow down",
            )


class Buckets(Protocol):
    """Token buckets for any number of keys, of this process alone or shared with others."""

    @property
    def limit(self) -> Limit:
        """What every bucket holds."""

    def take_now(self, key: bytes, cost: int = 1) -> Allowance | None:
        """Take tokens if it can be said at once whether they are there, else None; a refusal takes nothing."""

    async def take(self, key: bytes, cost: int = 1) -> Allowance:
        """Take tokens; may wait for others."""


class RateLimits:
    """The limits of every caller: by the class of the route, and by role where a role has limits of its own.

    A caller with several such roles has the most generous of their limits. `make` gives the buckets of one class and
    one limit.
    """

    def __init__(
        self,
        limits: Mapping[RouteClass, Limit],
        *,
        roles: Mapping[tuple[RouteClass, Role], Limit] | None = None,
        make: Callable[[RouteClass, Limit], Buckets],
    ) -> None:
        self._limits = limits
        self._roles = roles or {}
        self._make = make
        self._made: dict[tuple[RouteClass, Limit], Buckets] = {}
        # By the roles of a caller, of which there are few combinations.
        self._known: dict[tuple[RouteClass, frozenset[Role]], Buckets] = {}

    def take_now(self, principal: Principal, route: RouteClass, cost: int = 1) -> Allowance | None:
        """Take tokens from the caller's bucket if that can be said at once, else None."""
        return self._of(principal, route).take_now(principal.identity, cost)

    async def take(self, principal: Principal, route: RouteClass, cost: int = 1) -> Allowance:
        """Take tokens from the caller's bucket."""
        buckets = self._of(principal, route)
        return buckets.take_now(principal.identity, cost) or await buckets.take(principal.identity, cost)

    def limit_of(self, principal: Principal, route: RouteClass) -> Limit:
        """Give the limit that a caller has."""
        return self._of(principal, route).limit

    def policy_header(self, route: RouteClass) -> tuple[bytes, bytes]:
        """The field that says the limit of a class, for answers given before a caller is known."""
        return (b"ratelimit-policy", self._limits[route].policy)

    def _of(self, principal: Principal, route: RouteClass) -> Buckets:
        known = self._known.get((route, principal.roles))
        if known is None:
            own = [self._roles[route, role] for role in principal.roles if (route, role) in self._roles]
            limit = max(own, key=lambda one: (one.per_minute, one.burst), default=self._limits[route])
            known = self._made.get((route, limit))
            if known is None:
                known = self._made[route, limit] = self._make(route, limit)
            self._known[route, principal.roles] = known
        return known


class TokenBuckets:
    """Token buckets for any number of keys: `per_minute` requests in the long run, `burst` at once.

    Each bucket is one integer, the time at which it will be full again (the "theoretical arrival time" of the generic
    cell rate algorithm, ITU-T I.371): integers of nanoseconds, so nothing drifts.

    Memory: whatever was not touched for as long as an empty bucket needs to fill is full, and a full bucket need not be
    remembered. So there are two generations, swapped at that interval; the elder one is dropped whole. Nobody can push
    out a bucket in use. When `max_buckets` are in use, further keys share one bucket.

    Does not share anything between processes. Not for use from several threads.
    """

    __slots__ = (
        "_burst_ns",
        "_clock_ns",
        "_current",
        "_interval_ns",
        "_max_buckets",
        "_policy",
        "_previous",
        "_swap_at_ns",
        "limit",
    )

    def __init__(
        self,
        limit: Limit = DEFAULT_LIMIT,
        *,
        replicas: int = 1,
        max_buckets: int = MAX_BUCKETS,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """With `replicas`, these are one share of the limit; one token is the least that a share can hold."""
        if limit.per_minute < 1 or limit.burst < 1 or max_buckets < 1:
            raise FirewallError(Kind.INVALID_SETTINGS, "a rate limit, its burst and its buckets are at least 1")
        self.limit = limit
        self._interval_ns = limit.interval_ns * replicas
        self._burst_ns = self._interval_ns * max(1, limit.burst // replicas)
        self._max_buckets = max_buckets
        self._clock_ns = clock_ns
        self._current: dict[Hashable, int] = {}
        self._previous: dict[Hashable, int] = {}
        self._swap_at_ns = clock_ns() + self._burst_ns
        self._policy = limit.policy

    def __len__(self) -> int:
        """How many buckets are remembered."""
        return len(self._current) + len(self._previous)

    async def take(self, key: Hashable, cost: int = 1) -> Allowance:
        """Take tokens, as `take_now` does; there is nobody to wait for."""
        return self.take_now(key, cost)

    def take_now(self, key: Hashable, cost: int = 1) -> Allowance:
        """Take tokens from the bucket of `key`; a refusal takes nothing."""
        now = self._clock_ns()
        if now >= self._swap_at_ns:
            self._swap(now)
        current = self._current
        full_at = current.get(key)
        if full_at is None:
            full_at = self._previous.pop(key, None)
            if full_at is None:
                if len(current) + len(self._previous) >= self._max_buckets:
                    key = _OVERFLOW
                full_at = current.get(key, now)
        taken = self._interval_ns * cost
        full_at = (max(now, full_at)) + taken
        missing = full_at - now
        if missing > self._burst_ns:
            current[key] = full_at - taken
            return Allowance(
                allowed=False,
                remaining=max(0, self._burst_ns - missing + taken) // self._interval_ns,
                full_after_ns=missing - taken,
                retry_after_ns=missing - self._burst_ns,
                policy=self._policy,
            )
        current[key] = full_at
        return Allowance(True, (self._burst_ns - missing) // self._interval_ns, missing, 0, self._policy)

    def exhausted(self, key: Hashable) -> Allowance | None:
        """The refusal that taking one token would get now, or None; takes nothing."""
        full_at = self._current.get(key) or self._previous.get(key)
        if full_at is None:
            full_at = self._current.get(_OVERFLOW, 0) if len(self) >= self._max_buckets else 0
        missing = full_at + self._interval_ns - self._clock_ns()
        if missing <= self._burst_ns:
            return None
        return Allowance(
            allowed=False,
            remaining=0,
            full_after_ns=missing - self._interval_ns,
            retry_after_ns=missing - self._burst_ns,
            policy=self._policy,
        )

    def missing_ns(self, key: Hashable) -> int | None:
        """The time until a bucket is full, None for one that is not remembered."""
        full_at = self._current.get(key) or self._previous.get(key)
        return None if full_at is None else max(0, full_at - self._clock_ns())

    def seed(self, key: Hashable, missing_ns: int) -> None:
        """Begin a bucket that is not remembered with what is known of it from elsewhere."""
        if self.missing_ns(key) is None and len(self) < self._max_buckets:
            self._current[key] = self._clock_ns() + min(missing_ns, self._burst_ns)

    def forget(self, key: Hashable) -> None:
        """Take a bucket for full: somebody else counts from now on."""
        self._current.pop(key, None)
        self._previous.pop(key, None)

    def _swap(self, now: int) -> None:
        # INVARIANT: everything in `_previous` was last touched before the last swap, which is at least `_burst_ns` ago,
        # and no bucket needs longer than that to fill.
        self._previous = self._current
        self._current = {}
        self._swap_at_ns = now + self._burst_ns
