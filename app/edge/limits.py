"""Step 3: how often a caller may ask. A token bucket per key, exact, bounded, a microsecond each."""

import time
from collections.abc import Callable, Hashable
from typing import Final, NamedTuple

from app.errors import FirewallError, Kind

_NS: Final = 1_000_000_000

# The limit of the failure mode matrix, section 6.
DEFAULT_PER_MINUTE: Final = 250

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
        "_overflow_key",
        "_policy",
        "_previous",
        "_swap_at_ns",
    )

    def __init__(
        self,
        *,
        per_minute: int = DEFAULT_PER_MINUTE,
        burst: int | None = None,
        max_buckets: int = MAX_BUCKETS,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        burst = per_minute if burst is None else burst
        if per_minute < 1 or burst < 1 or max_buckets < 1:
            raise FirewallError(Kind.INVALID_SETTINGS, "a rate limit, its burst and its buckets are at least 1")
        self._interval_ns = 60 * _NS // per_minute
        self._burst_ns = self._interval_ns * burst
        self._max_buckets = max_buckets
        self._clock_ns = clock_ns
        self._current: dict[Hashable, int] = {}
        self._previous: dict[Hashable, int] = {}
        self._swap_at_ns = clock_ns() + self._burst_ns
        self._policy = b'"default";q=%d;w=%d' % (burst, -(-self._burst_ns // _NS))

    def __len__(self) -> int:
        """How many buckets are remembered."""
        return len(self._current) + len(self._previous)

    @property
    def policy_header(self) -> tuple[bytes, bytes]:
        """The field that says the limit itself, for answers given before a caller is known."""
        return (b"ratelimit-policy", self._policy)

    def take(self, key: Hashable) -> Allowance:
        """Take one token from the bucket of `key`; a refusal takes nothing."""
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
        full_at = (max(now, full_at)) + self._interval_ns
        missing = full_at - now
        if missing > self._burst_ns:
            current[key] = full_at - self._interval_ns
            return Allowance(
                allowed=False,
                remaining=0,
                full_after_ns=missing - self._interval_ns,
                retry_after_ns=missing - self._burst_ns,
                policy=self._policy,
            )
        current[key] = full_at
        return Allowance(True, (self._burst_ns - missing) // self._interval_ns, missing, 0, self._policy)

    def exhausted(self, key: Hashable) -> Allowance | None:
        """The refusal that `take` would give now, or None; takes nothing."""
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

    def _swap(self, now: int) -> None:
        # INVARIANT: everything in `_previous` was last touched before the last swap, which is at least `_burst_ns` ago,
        # and no bucket needs longer than that to fill.
        self._previous = self._current
        self._current = {}
        self._swap_at_ns = now + self._burst_ns
