"""Work beside the requests: how it waits for its next turn, and how it is ended."""

import asyncio
import contextlib
import random
from collections.abc import Callable
from typing import Any, Final

# Gives numbers from 0 to 1. Of its own: tests that need the same chance twice seed the common one.
chance: Final[Callable[[], float]] = random.Random().random  # noqa: S311 - to spread replicas, no secret


def spread(seconds: float, jitter: Callable[[], float] = chance) -> float:
    """Up to a fifth less, so that not all replicas do something at the same moment."""
    return seconds * (0.8 + 0.2 * jitter())


async def woken(wake: asyncio.Event, *, within: float) -> None:
    """Wait until somebody wakes us, or for so many seconds; whoever did is forgotten."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within):
            await wake.wait()
    wake.clear()


async def ended(task: asyncio.Task[Any] | None) -> None:
    """Cancel a task, if there is one, and wait until it is over. Raises what it had failed with."""
    if task is not None:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
