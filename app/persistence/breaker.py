"""A circuit breaker: after enough failures stop trying for a while, then let one try show whether it works again."""

from collections.abc import Callable
from enum import StrEnum

# reference/firewall-failure-mode-matrix.md, modes 1 and 14: opens after 5 failures.
FAILURES_TO_OPEN = 5
# Seconds until one try is let through again.
RECOVERY = 5.0


class BreakerState(StrEnum):
    """CLOSED: everything passes. OPEN: nothing does. HALF_OPEN: one try at a time."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


class CircuitBreaker:
    """Counts consecutive failures of one dependency. `clock` gives seconds that only go forward.

    Pure logic, for one thread. Who calls says how each try ended: `success` or `failure`.
    """

    __slots__ = ("_clock", "_failures", "_failures_to_open", "_opened_at", "_probing", "_recovery")

    def __init__(
        self, *, clock: Callable[[], float], failures_to_open: int = FAILURES_TO_OPEN, recovery: float = RECOVERY
    ) -> None:
        self._clock = clock
        self._failures_to_open = failures_to_open
        self._recovery = recovery
        self._failures = 0
        self._opened_at: float | None = None
        self._probing = False

    @property
    def state(self) -> BreakerState:
        """The state at this moment: OPEN becomes HALF_OPEN by the passing of time alone."""
        if self._opened_at is None:
            return BreakerState.CLOSED
        if self._clock() - self._opened_at < self._recovery:
            return BreakerState.OPEN
        return BreakerState.HALF_OPEN

    @property
    def retry_after(self) -> float:
        """Seconds until a try may be let through; 0 where one may now."""
        if self._opened_at is None:
            return 0.0
        return max(0.0, self._recovery - (self._clock() - self._opened_at))

    def allow(self) -> bool:
        """Whether a try may be made now. In HALF_OPEN only the first caller may, until it says how its try ended."""
        match self.state:
            case BreakerState.CLOSED:
                return True
            case BreakerState.OPEN:
                return False
            case BreakerState.HALF_OPEN:
                allowed = not self._probing
                self._probing = True
                return allowed

    def success(self) -> None:
        """The dependency answered: everything passes again."""
        self._failures = 0
        self._opened_at = None
        self._probing = False

    def failure(self) -> None:
        """The dependency did not answer; the threshold's failure opens, and so does each one after it."""
        self._failures += 1
        self._probing = False
        if self._failures >= self._failures_to_open:
            self._opened_at = self._clock()
