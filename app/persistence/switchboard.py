"""The kill switches in force, in memory: heard of by LISTEN, asked for every second in any case.

INVARIANT: what is known stays in force while nothing can be read; what was never read is not taken for "none".
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, Final

from app.background import chance, spread, woken
from app.core.switches import Switch, SwitchKind, concerning
from app.errors import FirewallError, Kind
from app.persistence.listening import Opens, listen
from app.persistence.switches import CHANNEL, StoredSwitch

# Seconds. A switch acts on all replicas within two, with or without notifications.
POLL_SECONDS: Final = 1.0
# Seconds without an answer after which a switch may have been thrown, or ended, that is not known here.
STALE_SECONDS: Final = 10.0

_log: Final = logging.getLogger("mfw.switches")


class Switchboard:
    """Follows the switches that `load` gives. `connect` opens a connection of its own for LISTEN, None for none.

    Belongs to the event loop that `start` ran in. Times are in seconds.
    """

    def __init__(
        self,
        load: Callable[[], Awaitable[tuple[StoredSwitch, ...]]],
        *,
        connect: Opens,
        poll_seconds: float = POLL_SECONDS,
        monotonic: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        jitter: Callable[[], float] = chance,
    ) -> None:
        self._load = load
        self._connect = connect
        self._poll_seconds = poll_seconds
        self._monotonic = monotonic
        self._now = now
        self._jitter = jitter
        self._stored: tuple[StoredSwitch, ...] | None = None
        self._switches: tuple[Switch, ...] = ()
        self._read_at = float("-inf")
        self._failing = False
        self._wake = asyncio.Event()
        self._looking = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def known(self) -> bool:
        """Whether the switches were ever read."""
        return self._stored is not None

    @property
    def age(self) -> float:
        """How old is what is known; infinite before the first look that came to something."""
        return self._monotonic() - self._read_at

    @property
    def stale(self) -> bool:
        """Whether a switch may have been thrown or ended that is not known here."""
        return self.age > STALE_SECONDS

    def concerning(self, subject_id: str, now: datetime) -> tuple[Switch, ...]:
        """Give the switches that a decision about a subject has to know. Raises FirewallError (UNAVAILABLE)."""
        if self._switches:
            return concerning(self._switches, subject_id, now)
        if self._stored is None:
            raise FirewallError(
                Kind.UNAVAILABLE, "the kill switches are not known yet", retry_after=max(1.0, self._poll_seconds)
            )
        return ()

    def in_force(self) -> tuple[StoredSwitch, ...]:
        """Give those that hold now, the earliest first; none while they are not known."""
        now = self._now()
        return tuple(one for one in self._stored or () if one.switch.holds(now))

    def count(self, kind: SwitchKind) -> int:
        """How many of a kind hold now."""
        return sum(one.switch.kind is kind for one in self.in_force())

    async def start(self) -> None:
        """Look for the first time, then keep following."""
        await self.refresh()
        listening = listen(
            self._connect, channel=CHANNEL, wake=self._wake, retry_seconds=self._poll_seconds, jitter=self._jitter
        )
        self._tasks = [asyncio.create_task(work, name="switchboard") for work in (self._follow(), listening)]

    async def stop(self) -> None:
        """End following; what is known stays."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def refresh(self) -> None:
        """Look now; never raises: what is known stays."""
        async with self._looking:
            # The age counts from the question: what was thrown in between is not in the answer.
            asked = self._monotonic()
            try:
                found = await self._load()
            except Exception as error:  # noqa: BLE001 - INVARIANT: following outlives whatever happens to one look
                if not self._failing:
                    _log.warning("kill switches not read", extra={"fields": {"error": type(error).__name__}})
                self._failing = True
                return
            self._failing = False
            self._take(found)
            self._read_at = asked

    def _take(self, found: tuple[StoredSwitch, ...]) -> None:
        known = {one.switch.id for one in self._stored or ()}
        present = {one.switch.id for one in found}
        for one in found:
            if one.switch.id not in known:
                _log.warning("kill switch in force", extra={"fields": _fields(one)})
        for one in self._stored or ():
            if one.switch.id not in present:
                _log.warning("kill switch over", extra={"fields": _fields(one)})
        self._stored = found
        self._switches = tuple(one.switch for one in found)

    async def _follow(self) -> None:
        while True:
            await woken(self._wake, within=spread(self._poll_seconds, self._jitter))
            await self.refresh()


def _fields(one: StoredSwitch) -> dict[str, Any]:
    switch = one.switch
    return {
        "switch": switch.id,
        "kind": switch.kind.value,
        "target": switch.target,
        "until": None if switch.until is None else switch.until.isoformat(),
        "thrown_by": one.thrown_by,
        "reason": one.reason,
    }
