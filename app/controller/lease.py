"""One controller at a time: a Lease that the leader renews and that another takes when it was not renewed.

Clocks of machines are not compared: a candidate waits for as long as the lease lasts since it saw it change last. Two
leaders for a moment do no harm: both build the same set, and the service puts a set into force once.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final, Protocol

from app.core.types import JsonObject
from app.errors import FirewallError, Kind

API: Final = "coordination.k8s.io/v1"
DURATION_SECONDS: Final = 15
RENEW_SECONDS: Final = 4.0


class Leases(Protocol):
    """An API server with leases."""

    async def call(self, method: str, path: str, body: "JsonObject | None" = None) -> JsonObject:
        """Send one request. Raises FirewallError."""


class Lease:
    """A lease called `name` in a namespace; `identity` is this process."""

    def __init__(
        self,
        api: Leases,
        *,
        namespace: str,
        name: str,
        identity: str,
        duration_seconds: int = DURATION_SECONDS,
        monotonic: Callable[[], float] = time.monotonic,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._api = api
        self._path = f"/apis/{API}/namespaces/{namespace}/leases"
        self._name = name
        self._identity = identity
        self._duration = duration_seconds
        self._monotonic = monotonic
        self._clock = clock
        self._seen: tuple[str, float] = ("", 0.0)
        self._renewed: float | None = None

    @property
    def held(self) -> bool:
        """Whether this process leads: it renewed it, and not so long ago that another may have taken it."""
        return self._renewed is not None and self._monotonic() - self._renewed < self._duration

    async def renew(self) -> bool:
        """Take it or renew it, if it is free or this one's; tells `held`. Raises FirewallError, and is held on."""
        began = self._monotonic()
        try:
            found = await self._api.call("GET", f"{self._path}/{self._name}")
        except FirewallError as error:
            if error.kind is not Kind.NOT_FOUND:
                raise
            await self._write("POST", self._path, self._lease({}, {}), began)
            return self.held
        spec: Any = found.get("spec") or {}
        version = str(found["metadata"]["resourceVersion"])
        holder = spec.get("holderIdentity") or ""
        if holder != self._identity:
            self._renewed = None
            if version != self._seen[0]:
                self._seen = (version, began)
            lasts = spec.get("leaseDurationSeconds") or self._duration
            if holder and began - self._seen[1] < lasts:
                return False
        await self._write("PUT", f"{self._path}/{self._name}", self._lease(found["metadata"], spec), began)
        return self.held

    async def release(self) -> None:
        """Give it up, so that the next need not wait. Raises FirewallError."""
        if not self.held:
            return
        self._renewed = None
        found = await self._api.call("GET", f"{self._path}/{self._name}")
        spec: Any = found.get("spec") or {}
        if spec.get("holderIdentity") == self._identity:
            await self._api.call("PUT", f"{self._path}/{self._name}", {**found, "spec": {**spec, "holderIdentity": ""}})

    async def _write(self, method: str, path: str, lease: JsonObject, began: float) -> None:
        try:
            await self._api.call(method, path, lease)
        except FirewallError as error:
            if error.kind is not Kind.CONFLICT:
                raise
            # Another was quicker.
            self._renewed = None
        else:
            self._renewed = began

    def _lease(self, metadata: Any, spec: Any) -> JsonObject:
        now = self._clock().strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        mine = spec.get("holderIdentity") == self._identity
        return {
            "apiVersion": API,
            "kind": "Lease",
            "metadata": {**metadata, "name": self._name},
            "spec": {
                **spec,
                "holderIdentity": self._identity,
                "leaseDurationSeconds": self._duration,
                "renewTime": now,
                "acquireTime": spec.get("acquireTime", now) if mine else now,
                "leaseTransitions": spec.get("leaseTransitions", 0) + (not mine and bool(spec)),
            },
        }
