"""Hearing what PostgreSQL notifies (LISTEN), for who polls as well and would like to know sooner."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

import asyncpg

from app.background import chance
from app.persistence.engine import DATABASE_ERRORS

# Seconds. A listening connection hears nothing for days: a firewall in between may have forgotten it.
KEEP_ALIVE_SECONDS: Final = 60.0
# Seconds until a broken listening connection is opened again: no tight loop with a server that closes at once.
RECONNECT_SECONDS: Final = 0.2

_log: Final = logging.getLogger("mfw.persistence")


# Opens a connection of its own; None where there is none to be had (a pooler in transaction mode).
Opens = Callable[[], Awaitable["asyncpg.Connection[Any]"]] | None


async def listen(
    connect: Opens,
    *,
    channel: str,
    wake: asyncio.Event,
    retry_seconds: float,
    jitter: Callable[[], float] = chance,
) -> None:
    """Set `wake` at each notification, until cancelled; without a connection, try again after `retry_seconds`.

    Ends at once where there is nothing to `connect` to: who polls goes on polling.
    """
    if connect is None:
        return
    while True:
        heard = False
        try:
            connection = await connect()
            try:
                lost = asyncio.Event()
                connection.add_termination_listener(lambda _, lost=lost: lost.set())
                await connection.add_listener(channel, lambda *_: wake.set())
                heard = True
                # Whatever was said while nobody listened.
                wake.set()
                await _until_lost(connection, lost)
            finally:
                connection.terminate()
        except DATABASE_ERRORS as error:
            _log.debug("not listening", extra={"fields": {"channel": channel, "error": type(error).__name__}})
        # A connection that worked and broke is opened again soon; one that does not open waits as long as a poll.
        await asyncio.sleep((RECONNECT_SECONDS if heard else retry_seconds) * (0.5 + 0.5 * jitter()))


async def _until_lost(connection: "asyncpg.Connection[Any]", lost: asyncio.Event) -> None:
    while not lost.is_set():
        try:
            async with asyncio.timeout(KEEP_ALIVE_SECONDS):
                await lost.wait()
        except TimeoutError:
            await connection.execute("SELECT 1")
