"""The deadline of a whole request, at the price of an entry in a dictionary."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

_T = TypeVar("_T")


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
