"""How long a call may take, and when it is sent again: bounded in number and in time, with jitter.

Sent again is what was surely not done (no connection, 429, 503 that says when to come back), and what may have been
done but is done once however often it is sent (`Repeat.ANY`: after 504 or a broken connection). A try has all the time
that is left, so one that is not answered is the last.
"""

import random
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Final

from app.client.operations import Call, Repeat
from app.client.problems import ProblemError, ProblemKind, problem_of

# The first pause where the service does not say how long; each further one is at most twice as long.
FIRST_PAUSE_SECONDS: Final = 0.1
LONGEST_PAUSE_SECONDS: Final = 5.0
# Who was told the same time comes back within this much of it more, so that not all come at once.
SPREAD: Final = 0.25

_NOT_DONE: Final = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE})
# Done, maybe: with a key, 409 says that the same request is being answered just now.
_MAYBE_DONE: Final = frozenset({HTTPStatus.GATEWAY_TIMEOUT, HTTPStatus.CONFLICT})


class Patience:
    """One call's tries. Ask `left` before each, tell what came of it, and wait for as long as it says."""

    def __init__(
        self,
        call: Call,
        *,
        timeout: float,
        retries: int,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random,  # noqa: RUF100, S311 - pauses, not secrets
    ) -> None:
        """`timeout` is for all tries and pauses together, in seconds; `draw` gives numbers from 0 to 1."""
        self._call = call
        self._timeout = timeout
        self._retries = retries
        self._clock = clock
        self._draw = draw
        self._ends = clock() + timeout
        self._tries = 0

    @property
    def left(self) -> float:
        """Seconds that the next try may take. Raises ProblemError(NO_ANSWER) when there are none."""
        left = self._ends - self._clock()
        if left <= 0:
            raise self.no_answer()
        return left

    def no_answer(self) -> ProblemError:
        """The problem of a call whose time is over."""
        return ProblemError(
            ProblemKind.NO_ANSWER, f"no answer within {self._timeout:g} seconds", fix="look at its /health/ready"
        )

    def failed(self, problem: ProblemError, *, sent: bool) -> float:
        """Seconds to wait before the next try after a connection that failed; raises the problem if it was the last.

        `sent`: whether a byte of the request may have arrived.
        """
        if sent and self._call.repeat is Repeat.NEVER:
            raise problem
        return self._pause(problem)

    def answered(self, status: int, body: bytes, *, retry_after: float | None, reason: str = "") -> float | None:
        """None for an answer; else seconds to wait before the next try, or the problem is raised."""
        if status in self._call.answered:
            return None
        problem = problem_of(status, body, retry_after=retry_after, reason=reason)
        again = status in _NOT_DONE or (status in _MAYBE_DONE and self._call.repeat is Repeat.ANY)
        # A service that does not say when to come back does not expect to be asked again.
        if not again or problem.retry_after is None:
            raise problem
        return self._pause(problem)

    def _pause(self, problem: ProblemError) -> float:
        self._tries += 1
        if self._tries > self._retries:
            raise problem
        if problem.retry_after is None:
            longest = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0 ** (self._tries - 1))
            pause = longest * self._draw()
        else:
            # Never earlier than told.
            pause = problem.retry_after * (1 + SPREAD * self._draw())
        if self._clock() + pause >= self._ends:
            # Whoever waits for a decision is better told now.
            raise problem
        return pause


def seconds(text: str | None) -> float | None:
    """`Retry-After` in seconds; a date, which the service never sends, counts as not there."""
    return float(text) if text is not None and text.isascii() and text.isdigit() else None
