"""Sends the canary to the API server again and again, as a dry run, and says whether the firewall denied it.

Each replica does so for itself: one small request a minute needs no election, and each says what it saw.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from typing import Final, Protocol

from app.background import ended, spread
from app.cluster.api import Reply
from app.core.admission.canary import NONCE_BYTES, Canary, flown
from app.core.types import JsonObject
from app.errors import FirewallError
from app.observability.metrics import CanaryResult

# Looks that may fail before health says so: an API server that is rolled out is away for a moment.
_LATE: Final = 3

_log: Final = logging.getLogger("mfw.canary")


class Sends(Protocol):
    """An API server."""

    async def send(
        self, method: str, path: str, body: "JsonObject | None" = None, *, query: Mapping[str, str] | None = None
    ) -> Reply:
        """Send one request. Raises FirewallError where there is no answer."""

    async def close(self) -> None:
        """Close the connections."""


class CanaryFlight:
    """Follows what becomes of the canary. `counted` is told each result."""

    def __init__(
        self,
        api: Sends,
        canary: Canary,
        *,
        namespace: str,
        every_seconds: float,
        entropy: Callable[[int], bytes],
        counted: Callable[[CanaryResult], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`clock` gives seconds since 1970."""
        self._api = api
        self._canary = canary
        self._namespace = namespace
        self._every_seconds = every_seconds
        self._entropy = entropy
        self._counted = counted
        self._clock = clock
        self._started = clock()
        self._result: CanaryResult | None = None
        self._detail = "not sent yet"
        self._task: asyncio.Task[None] | None = None
        self.last_success = 0.0

    async def start(self) -> None:
        """Begin; returns at once."""
        self._task = asyncio.create_task(self._fly(), name="canary")

    async def stop(self) -> None:
        """End, and close the connections."""
        task, self._task = self._task, None
        await ended(task)
        await self._api.close()

    def report(self) -> tuple[bool, str]:
        """Tell whether the webhook is called, and what was seen last."""
        silent = self._clock() - max(self.last_success, self._started)
        # What was allowed, or denied by somebody else, is no matter of patience.
        doubtful = self._result in {CanaryResult.ALLOWED, CanaryResult.UNPROVEN}
        return not doubtful and silent <= _LATE * self._every_seconds, self._detail

    async def send(self) -> CanaryResult:
        """Send it once. Never raises."""
        nonce = self._entropy(NONCE_BYTES).hex()
        try:
            reply = await self._api.send(
                "POST",
                f"/api/v1/namespaces/{self._namespace}/configmaps",
                flown(self._namespace, nonce),
                query={"dryRun": "All"},
            )
        except FirewallError as error:
            result, detail = CanaryResult.ERROR, f"not sent: {error.detail}"
        else:
            result, detail = self._judged(reply, nonce)
        if result is not self._result and (result is not CanaryResult.DENIED or self._result is not None):
            level = logging.INFO if result is CanaryResult.DENIED else logging.ERROR
            _log.log(level, "canary", extra={"fields": {"result": result.value, "detail": detail}})
        self._result, self._detail = result, detail
        if result is CanaryResult.DENIED:
            self.last_success = self._clock()
        self._counted(result)
        return result

    def _judged(self, reply: Reply, nonce: str) -> tuple[CanaryResult, str]:
        if reply.status < 300:
            return CanaryResult.ALLOWED, (
                "the API server allowed what the firewall denies: it does not ask; look for the webhook's configuration"
            )
        if self._canary.proof(nonce) in reply.message:
            return CanaryResult.DENIED, f"denied by the firewall, as it must be, in namespace `{self._namespace}`"
        if reply.status in {401, 403}:
            return CanaryResult.UNPROVEN, f"denied by somebody else than the firewall: {reply.message}"
        return CanaryResult.ERROR, f"the API server could not ask: {reply.message}"

    async def _fly(self) -> None:
        while True:
            try:
                await self.send()
            except Exception:  # noqa: BLE001 - INVARIANT: it goes on whatever happens to one
                _log.exception("canary not sent")
            await asyncio.sleep(spread(self._every_seconds))
