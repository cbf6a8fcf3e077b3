"""What failed attempts cost those who make them: answers that come later and later, then none.

Counted by address and by the beginning of the key that was presented, so that many addresses trying the rest of one
half-known key are one attacker. Only attempts that fail come here: a credential that is known is found before anybody
looks at a bucket, whatever its neighbours do.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

from app.core.quota import Limit
from app.edge.limits import Allowance, TokenBuckets
from app.errors import FirewallError, Kind

# `mfw_` and 8 of 43 characters: two random keys begin alike once in 2^47.
PREFIX_BYTES: Final = 12

# A person mistypes, a rollout brings an old key: so many failures are answered at once.
FREE_FAILURES: Final = 3
# The next one waits a tenth of a second, each further one twice as long, none longer than this.
DELAY_FIRST_SECONDS: Final = 0.1
DELAY_MAX_SECONDS: Final = 2.0
# Who waits costs a connection and perhaps a body of a megabyte. Whoever comes on top of these is refused at once.
DELAYED_MAX: Final = 16


class FailedAttempts:
    """The failures of every address and of every beginning of a key, and who waits for an answer now.

    Bounds work and noise; that keys cannot be guessed rests on their random bits. Each replica counts for itself.
    """

    def __init__(
        self,
        limit: Limit,
        *,
        clock_ns: Callable[[], int] = time.monotonic_ns,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._addresses = TokenBuckets(limit, clock_ns=clock_ns)
        self._prefixes = TokenBuckets(limit, clock_ns=clock_ns)
        self._burst = limit.burst
        self._sleep = sleep
        self._delayed = 0

    def refusal(self, address: str, prefix: bytes) -> Allowance | None:
        """The refusal of who failed too often, before any work is done; None for who may try. b"" is no prefix."""
        refused = self._addresses.exhausted(address)
        if refused is None and prefix:
            refused = self._prefixes.exhausted(prefix)
        return refused

    def has_room(self, mark: bytes) -> bool:
        """Whether what is counted under a mark of its own, as keys under their beginning, has not failed too often."""
        return self._prefixes.exhausted(mark) is None

    async def count(self, address: str, prefix: bytes) -> None:
        """Count one failure, and wait as long as its answer is to come late.

        Raises FirewallError(RATE_LIMITED) when too many wait already.
        """
        left = self._addresses.take_now(address).remaining
        if prefix:
            left = min(left, self._prefixes.take_now(prefix).remaining)
        seconds = delay_after(self._burst - left)
        if not seconds:
            return
        if self._delayed >= DELAYED_MAX:
            raise FirewallError(
                Kind.RATE_LIMITED,
                "too many failed attempts",
                retry_after=DELAY_MAX_SECONDS,
                fix="wait as long as `Retry-After` says, and use another credential",
            )
        self._delayed += 1
        try:
            await self._sleep(seconds)
        finally:
            self._delayed -= 1


def delay_after(failures: int) -> float:
    """How many seconds the answer to one more failure takes after this many, itself among them."""
    late = failures - FREE_FAILURES
    # 2**5 tenths are over the maximum already: no large powers.
    return 0.0 if late <= 0 else min(DELAY_FIRST_SECONDS * 2 ** min(late - 1, 5), DELAY_MAX_SECONDS)
