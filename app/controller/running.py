"""The controller while it runs: it follows, waits until it leads, and looks when there is news."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from app.controller.follow import BACKOFF, Follower
from app.controller.lease import RENEW_SECONDS, Lease
from app.controller.objects import Item
from app.controller.reconcile import Outcome, Reconciler
from app.errors import FirewallError

# Whoever applies ten files means one set: a look waits until nothing came for this long ...
SETTLE_SECONDS: Final = 1.0
# ... but not for ever.
SETTLE_MAX_SECONDS: Final = 10.0
# How often what is in force is compared with the objects though nothing was said.
RESYNC_SECONDS: Final = 60.0

_log: Final = logging.getLogger("mfw.controller")


@dataclass(frozen=True, slots=True)
class Pace:
    """How long to wait for what."""

    settle_seconds: float = SETTLE_SECONDS
    settle_max_seconds: float = SETTLE_MAX_SECONDS
    resync_seconds: float = RESYNC_SECONDS
    renew_seconds: float = RENEW_SECONDS
    backoff: tuple[float, ...] = BACKOFF


class Controller:
    """Followers, a lease, a reconciler.

    `told` is called after every look, with None where nobody foresaw its end; `stood_by` where it does not lead.
    """

    def __init__(
        self,
        lease: Lease,
        reconciler: Reconciler,
        *,
        pace: Pace,
        told: Callable[[Outcome | None], None] = lambda _: None,
        stood_by: Callable[[], None] = lambda: None,
    ) -> None:
        self._lease = lease
        self._reconciler = reconciler
        self._pace = pace
        self._told = told
        self._stood_by = stood_by
        self._news = asyncio.Event()
        self._changes = 0
        self._followers: Sequence[Follower] = ()

    @property
    def leads(self) -> bool:
        """Whether it is this one that looks."""
        return self._lease.held

    @property
    def ready(self) -> bool:
        """Whether it could lead: it has read every list whole. One that waits for its turn is ready as well."""
        return bool(self._followers) and all(follower.known for follower in self._followers)

    @property
    def waiting(self) -> int:
        """How many changes no look has seen yet; none for one that does not lead."""
        return self._changes if self.leads else 0

    def changed(self) -> None:
        """Have it look soon."""
        self._changes += 1
        self._news.set()

    async def run(self, followers: Sequence[Follower]) -> None:
        """Run until it is cancelled; the lease is then given up."""
        self._followers = followers
        try:
            async with asyncio.TaskGroup() as tasks:
                for follower in followers:
                    tasks.create_task(follower.run())
                tasks.create_task(self._lead())
                tasks.create_task(self._look())
        finally:
            with contextlib.suppress(FirewallError):
                await self._lease.release()

    async def _lead(self) -> None:
        led = False
        while True:
            try:
                held = await self._lease.renew()
            except FirewallError as error:
                held = self._lease.held
                _log.warning("lease not renewed", extra={"fields": {"error": error.detail}})
            if held is not led:
                _log.info("leading" if held else "waiting", extra={"fields": {}})
                led = held
                self._news.set()
            await asyncio.sleep(self._pace.renew_seconds)

    async def _look(self) -> None:
        failures = 0
        pause = self._pace.resync_seconds
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._news.wait()
            await self._settled()
            pause = self._pace.resync_seconds
            # INVARIANT: a look sees all objects or does not take place: a part of them would be another policy set.
            if not self.leads:
                # Whoever leads later looks at everything.
                self._changes = 0
                self._stood_by()
                continue
            if not self.ready:
                continue
            seen = self._changes
            outcome = await self._looked()
            self._changes -= seen
            self._told(outcome)
            again = outcome is None or outcome.again
            failures = failures + 1 if again else 0
            if again:
                pause = self._pace.backoff[min(failures, len(self._pace.backoff)) - 1]

    async def _looked(self) -> Outcome | None:
        try:
            return await self._reconciler.look(self._items())
        except Exception:  # noqa: BLE001 - INVARIANT: no object, and no answer, ends the controller
            _log.exception("objects not looked at")
            return None

    def _items(self) -> list[Item]:
        return [item for follower in self._followers for item in follower.items]

    async def _settled(self) -> None:
        """Wait until there was no news for a while."""
        loop = asyncio.get_running_loop()
        ends = loop.time() + self._pace.settle_max_seconds
        while self._news.is_set() and loop.time() < ends:
            self._news.clear()
            await asyncio.sleep(self._pace.settle_seconds)
        self._news.clear()
