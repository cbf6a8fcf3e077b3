"""The deadline of a whole request, at the price of an entry in a dictionary; and the one that its caller sets."""

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, Final, TypeVar

from app.errors import FirewallError, Kind

_T = TypeVar("_T")

# How long the caller waits, in milliseconds: a duration, since clocks differ (ADR 0033).
TIMEOUT_HEADER: Final = b"x-request-timeout-ms"
# The same as Envoy says it to what is behind it.
ENVOY_TIMEOUT_HEADER: Final = b"x-envoy-expected-rq-timeout-ms"
TIMEOUT_HEADERS: Final = frozenset({TIMEOUT_HEADER, ENVOY_TIMEOUT_HEADER})

# Some thirty years: more digits than that are no duration, and turning very many of them into a number takes time.
_MAX_DIGITS: Final = 12


def caller_seconds(sent: Iterable[tuple[bytes, bytes]]) -> float:
    """The least time that headers of `TIMEOUT_HEADERS` give, in seconds.

    Raises FirewallError(MALFORMED) for what is no whole number above 0, and for a header that is given twice.
    """
    least: dict[bytes, int] = {}
    for name, value in sent:
        milliseconds = int(value) if value.isdigit() and len(value) <= _MAX_DIGITS else 0
        if milliseconds == 0 or name in least:
            raise FirewallError(
                Kind.MALFORMED,
                f"`{_SHOWN[name]}` is not one whole number of milliseconds above 0",
                fix=f"send `{_SHOWN[name]}: 1000` for a second, or leave it out",
            )
        least[name] = milliseconds
    return min(least.values()) / 1000


_SHOWN: Final = {
    TIMEOUT_HEADER: "X-Request-Timeout-Ms",
    ENVOY_TIMEOUT_HEADER: "X-Envoy-Expected-Rq-Timeout-Ms",
}


def caller_gone() -> FirewallError:
    """Say that the time which the caller gave is over."""
    return FirewallError(
        Kind.TIMEOUT,
        "the request took longer than its caller waits",
        retry_after=1,
        fix="give it more time; what was recorded meanwhile was not given to anybody",
    )


def too_little(least: float) -> FirewallError:
    """Say that no answer can come in the time that the caller gives; `least` is in seconds."""
    return FirewallError(
        Kind.OVERLOADED,
        f"an answer takes {least * 1000:.1f} ms at least just now, and its caller waits for less",
        retry_after=1,
        fix="give it more time",
    )


class Deadline:
    """Ends requests that take longer than `seconds`, as `asyncio.timeout` would, which costs 6 us each time.

    What costs there is a timer for each request. Here all requests have the same patience, so the first that began is
    the first to be late, and one timer at a time is enough for all of them. For one event loop.
    """

    __slots__ = ("_alarm", "_late", "_running", "_seconds")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        # INVARIANT: in the order in which they began, which is the order of their ends, on the loop's clock.
        self._running: dict[asyncio.Task[Any], float] = {}
        self._late: set[asyncio.Task[Any]] = set()
        self._alarm: asyncio.TimerHandle | None = None

    async def limit(self, work: Coroutine[Any, Any, _T]) -> _T:
        """What `work` returns. Raises TimeoutError when it was cancelled because its time was over.

        Does not check: that a task is not inside already; each request has a task of its own.
        """
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine that runs in a loop runs in a task
        self._running[task] = ends = loop.time() + self._seconds
        if self._alarm is None:
            self._alarm = loop.call_at(ends, self._expire, loop)
        cancelled_before = task.cancelling()
        try:
            return await work
        except asyncio.CancelledError:
            # Who else cancelled the task meant more than this request: that goes on.
            if task in self._late and task.cancelling() - 1 <= cancelled_before:
                raise TimeoutError from None
            raise
        finally:
            del self._running[task]
            if task in self._late:
                self._late.remove(task)
                task.uncancel()

    def _expire(self, loop: asyncio.AbstractEventLoop) -> None:
        """Cancel those whose time is over, then set the alarm for the next one."""
        now = loop.time()
        self._alarm = None
        for task, ends in self._running.items():
            if task in self._late:
                continue
            if ends > now:
                self._alarm = loop.call_at(ends, self._expire, loop)
                return
            self._late.add(task)
            task.cancel()
