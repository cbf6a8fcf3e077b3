"""What jobs found, kept at hand for the metrics: read once in a while, never by a scrape."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Final

from app.background import chance, ended, spread
from app.core.integrity import IntegrityCheck
from app.persistence.operation_runs import Latest

# Seconds. Jobs run daily; an alert may come a minute later.
POLL_SECONDS: Final = 60.0

_log: Final = logging.getLogger("mfw.upkeep")


class Upkeep:
    """Follows the runs of jobs. Belongs to the event loop that `start` ran in; `load` reads the latest runs."""

    def __init__(
        self,
        load: Callable[[], Awaitable[Latest]],
        *,
        poll_seconds: float = POLL_SECONDS,
        jitter: Callable[[], float] = chance,
    ) -> None:
        self._load = load
        self._poll_seconds = poll_seconds
        self._jitter = jitter
        self._latest: Latest | None = None
        self._failing = False
        self._task: asyncio.Task[None] | None = None

    def issues(self, check: IntegrityCheck) -> float:
        """How much a check found in the last integrity check that went through."""
        return float(self._latest.issues.get(check.value, 0)) if self._latest is not None else 0.0

    @property
    def integrity_at(self) -> float:
        """When that was, in seconds since 1970; 0 if never."""
        return _seconds(None if self._latest is None else self._latest.integrity_at)

    @property
    def backup_at(self) -> float:
        """When the last backup was complete, in seconds since 1970; 0 if never."""
        return _seconds(None if self._latest is None else self._latest.backup_at)

    async def start(self) -> None:
        """Begin to follow; returns at once."""
        self._task = asyncio.create_task(self._follow(), name="upkeep")

    async def stop(self) -> None:
        """End following; what is known stays."""
        task, self._task = self._task, None
        await ended(task)

    async def refresh(self) -> None:
        """Look now; never raises: what is known stays."""
        try:
            self._latest = await self._load()
            self._failing = False
        except Exception as error:  # noqa: BLE001 - INVARIANT: following outlives whatever happens to one look
            if not self._failing:
                _log.warning("runs of jobs not read", extra={"fields": {"error": type(error).__name__}})
            self._failing = True

    async def _follow(self) -> None:
        while True:
            await self.refresh()
            await asyncio.sleep(spread(self._poll_seconds, self._jitter))


def _seconds(moment: datetime | None) -> float:
    return 0.0 if moment is None else moment.timestamp()
