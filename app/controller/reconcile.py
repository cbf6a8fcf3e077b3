"""One look: the objects to a set, the set into force where it is not, and to each object what became of it.

The set in force judges the next one, as it judges every other mutation. What it denied or held is not asked again at
once: each question is an entry of the ledger.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final, Protocol

from app.client import Activation, ActiveSet, PolicySet, ProblemError, ProblemKind
from app.controller.build import Built, Fault, build
from app.controller.objects import Item
from app.controller.status import Force, State, Trouble, ready_of, state_of, statuses
from app.core.types import JsonObject
from app.errors import FirewallError
from app.policies.custom_resources import GROUP
from app.policies.shape import KIND

MERGE_PATCH: Final = "application/merge-patch+json"
EVENTS: Final = "events.k8s.io/v1"
CONTROLLER: Final = f"{GROUP}/controller"
# Of objects that are in no namespace.
EVENTS_NAMESPACE: Final = "default"
NOTE_MAX_CHARS: Final = 1000
# How long a set that was denied or held is not asked about again.
REFUSED_SECONDS: Final = 300.0
# The answer of a service, not of what lies in between or of an outage.
_FINAL: Final = frozenset(
    {
        ProblemKind.FORBIDDEN,
        ProblemKind.CONFLICT,
        ProblemKind.INVALID_POLICY,
        ProblemKind.UNAUTHENTICATED,
        ProblemKind.TOO_LARGE,
        ProblemKind.NOT_A_FIREWALL,
        ProblemKind.INVALID_REQUEST,
    }
)

_log: Final = logging.getLogger("mfw.controller")


class Writes(Protocol):
    """An API server that is written to."""

    async def call(
        self, method: str, path: str, body: "JsonObject | None" = None, *, content_type: str = "application/json"
    ) -> JsonObject:
        """Send one request. Raises FirewallError."""


class Service(Protocol):
    """The firewall. Every method raises ProblemError."""

    async def active_policy_set(self) -> ActiveSet:
        """The set in force."""

    async def publish(self, documents: Sequence[Mapping[str, Any]], *, note: str = "") -> PolicySet:
        """Store a set."""

    async def activate(self, digest: str, *, reason: str) -> Activation:
        """Put a stored set into force."""


class Result(StrEnum):
    """What a look led to, in one word."""

    IN_FORCE = "in_force"
    SET_REFUSED = "set_refused"  # an object, or a document beside the objects, has errors
    DENIED = "denied"
    HELD = "held"
    REFUSED = "refused"
    UNAVAILABLE = "unavailable"
    UNWRITTEN = "unwritten"  # the API server did not take every status
    ERROR = "error"  # nobody foresaw it


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a look led to; `again` where the next one should not wait for a change.

    `whole` is true where the service said what is in force and every status is written, whatever they say. `objects`
    counts them by kind and state.
    """

    digest: str | None
    in_force: str | None
    trouble: Trouble | None
    again: bool
    whole: bool
    written: bool = True
    objects: Mapping[tuple[str, State], int] = field(default_factory=dict)

    @property
    def result(self) -> Result:
        """In one word; what the service said comes before what could not be written."""
        if self.trouble is not None:
            return _RESULTS[self.trouble.reason]
        if not self.written:
            return Result.UNWRITTEN
        return Result.SET_REFUSED if self.digest is None else Result.IN_FORCE


_RESULTS: Final = {
    "ActivationDenied": Result.DENIED,
    "ActivationHeld": Result.HELD,
    "ActivationRefused": Result.REFUSED,
    "ServiceUnavailable": Result.UNAVAILABLE,
}


class Reconciler:
    """Looks, as often as it is told to. `service` opens a client, `also` gives documents that no object is."""

    def __init__(
        self,
        api: Writes,
        *,
        service: Callable[[], AbstractAsyncContextManager[Service]],
        identity: str,
        also: Callable[[], Sequence[JsonObject]] = tuple,
        refused_seconds: float = REFUSED_SECONDS,
        monotonic: Callable[[], float] = time.monotonic,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._api = api
        self._service = service
        self._identity = identity
        self._also = also
        self._refused_seconds = refused_seconds
        self._monotonic = monotonic
        self._clock = clock
        self._refused: tuple[str, str | None, Trouble, float] | None = None

    async def look(self, items: Sequence[Item]) -> Outcome:
        """Do it once, with all objects that count. Raises nothing that one object, or the service, is the cause of."""
        built = await asyncio.to_thread(self._build, items)
        force: Force | None = None
        trouble: Trouble | None = None
        again = False
        try:
            async with self._service() as service:
                force = await _in_force(service)
                if built.digest is not None and built.digest != force.digest:
                    trouble = self._remembered(built.digest, force.digest)
                    if trouble is None:
                        force = await self._bring(service, built, items)
        except ProblemError as error:
            trouble = _trouble(error, built.digest)
            again = error.kind not in _FINAL
            if "decision" in error.members and force is not None and built.digest is not None:
                self._refused = (built.digest, force.digest, trouble, self._monotonic())
        wanted = statuses(items, built, force, trouble, now=self._clock())
        written = await self._write(items, wanted)
        return Outcome(
            digest=built.digest,
            in_force=None if force is None else force.digest,
            trouble=trouble,
            again=again or not written,
            whole=force is not None and written,
            written=written,
            objects=Counter((item.resource.kind, state_of(wanted[item.uid])) for item in items),
        )

    def _build(self, items: Sequence[Item]) -> Built:
        try:
            also = self._also()
        except FirewallError as error:
            # INVARIANT: no set without them: they may be what keeps values out of the ledger.
            return Built((), None, others=(Fault(error.detail, fix=error.fix),))
        return build(items, also=also)

    def _remembered(self, digest: str, judge: str | None) -> Trouble | None:
        """What was said about this set by that one, as long as it need not be asked again."""
        if self._refused is None or self._refused[:2] != (digest, judge):
            return None
        _, _, trouble, since = self._refused
        return trouble if self._monotonic() - since < self._refused_seconds else None

    async def _bring(self, service: Service, built: Built, items: Sequence[Item]) -> Force:
        """Store the set and put it into force."""
        policies = sum(item.resource.kind == KIND for item in items)
        note = f"custom resources: {policies} policies, {len(items) - policies} exceptions"
        stored = await service.publish(built.documents, note=note)
        if stored.digest != built.digest:
            raise ProblemError(
                ProblemKind.CONFLICT,
                f"the service calls the set {stored.digest}, and this controller {built.digest}",
                fix="run the controller and the service from the same release",
            )
        made = await service.activate(stored.digest, reason=note)
        _log.info(
            "policy set in force", extra={"fields": {"digest": made.digest, "sequence": made.sequence, "note": note}}
        )
        return Force(stored.digest, _by_name(built.documents))

    async def _write(self, items: Sequence[Item], wanted: Mapping[str, JsonObject]) -> bool:
        """Write what is news; tells whether all of it is written."""
        whole = True
        for item in items:
            status = wanted[item.uid]
            if {**item.status} == {name: value for name, value in status.items() if value is not None}:
                continue
            try:
                # The uid: another object with the same name refuses it.
                await self._api.call(
                    "PATCH",
                    f"{item.path}/status",
                    {"metadata": {"uid": item.uid}, "status": status},
                    content_type=MERGE_PATCH,
                )
            except FirewallError as error:
                _log.warning("status not written", extra={"fields": {"object": item.shown, "error": error.detail}})
                whole = False
                continue
            if ready_of(item.status)[:2] != ready_of(status)[:2]:
                await self._tell(item, status)
        return whole

    async def _tell(self, item: Item, status: JsonObject) -> None:
        """An event, for `kubectl describe` and whoever follows events; it is lost where it cannot be written."""
        ready, reason, message = ready_of(status)
        namespace = item.namespace or EVENTS_NAMESPACE
        now = self._clock()
        event: JsonObject = {
            "apiVersion": EVENTS,
            "kind": "Event",
            "metadata": {"generateName": f"{item.name}-", "namespace": namespace},
            "eventTime": now.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "reportingController": CONTROLLER,
            "reportingInstance": self._identity,
            "action": "Reconcile",
            "reason": reason,
            "type": "Normal" if ready == "True" else "Warning",
            "note": message[:NOTE_MAX_CHARS],
            "regarding": {
                "apiVersion": item.document["apiVersion"],
                "kind": item.resource.kind,
                "name": item.name,
                "uid": item.uid,
                **({"namespace": item.namespace} if item.namespace else {}),
            },
        }
        try:
            await self._api.call("POST", f"/apis/{EVENTS}/namespaces/{namespace}/events", event)
        except FirewallError as error:
            _log.warning("event not written", extra={"fields": {"object": item.shown, "error": error.detail}})


async def _in_force(service: Service) -> Force:
    try:
        active = await service.active_policy_set()
    except ProblemError as error:
        if error.kind is ProblemKind.NOT_FOUND:
            return Force(None, {})
        raise
    return Force(active.digest, _by_name(active.documents))


def _by_name(documents: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], JsonObject]:
    return {(one["kind"], one["metadata"]["name"]): dict(one) for one in documents}


def _trouble(error: ProblemError, digest: str | None) -> Trouble:
    decided = error.members.get("decision")
    message = f"{error.detail}; {error.fix}" if error.fix else error.detail
    # Which set it is about: people vote on it by that name, and `mfw policies force` wants it. Nothing else says it.
    if decided == "deny":
        return Trouble("ActivationDenied", f"{digest} is stored: {message}")
    if decided == "hold":
        return Trouble("ActivationHeld", f"{digest} is stored: {message}")
    return Trouble("ActivationRefused" if error.kind in _FINAL else "ServiceUnavailable", message)
