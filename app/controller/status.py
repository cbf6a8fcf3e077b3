"""What is written on each object: whether it was accepted, whether it is in force, and why not."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from app.controller.build import Built
from app.controller.objects import Item
from app.core.types import JsonObject
from app.policies.custom_resources import ERRORS_MAX, TEXT_MAX_CHARS

READY: Final = "Ready"
ACCEPTED: Final = "Accepted"
ACTIVE: Final = "Active"


class State(StrEnum):
    """What the conditions of one object say, in one word."""

    ACTIVE = "active"
    NOT_ACTIVE = "not_active"
    NOT_ACCEPTED = "not_accepted"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why the set that was built is not in force: a word for programs, and words for people."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Force:
    """The set in force, None for none; its documents by kind and name."""

    digest: str | None
    documents: Mapping[tuple[str, str], JsonObject]

    def of(self, item: Item) -> "JsonObject | None":
        """The document of this object's name."""
        return self.documents.get((item.resource.kind, item.name))


@dataclass(frozen=True, slots=True)
class _Condition:
    type: str
    status: str
    reason: str
    message: str


def statuses(
    items: Sequence[Item], built: Built, force: Force | None, trouble: Trouble | None, *, now: datetime
) -> dict[str, JsonObject]:
    """Give the status of each object by its uid. `force` is None where nobody could say what is in force."""
    why = built.why(items)
    return {item.uid: _status(item, built, force, trouble, why=why, now=now) for item in items}


def state_of(status: Mapping[str, Any]) -> State:
    """Give it in one word."""
    told = {one["type"]: one["status"] for one in status["conditions"]}
    if told[ACCEPTED] != "True":
        return State.NOT_ACCEPTED
    return {"True": State.ACTIVE, "False": State.NOT_ACTIVE}.get(told[ACTIVE], State.UNKNOWN)


def ready_of(status: Mapping[str, Any]) -> tuple[str, str, str]:
    """Give status, reason and message of the condition that sums the others up; empty where there is none."""
    for one in status.get("conditions") or []:
        if one.get("type") == READY:
            return one.get("status", ""), one.get("reason", ""), one.get("message", "")
    return "", "", ""


def _status(
    item: Item, built: Built, force: Force | None, trouble: Trouble | None, *, why: str, now: datetime
) -> JsonObject:
    faults = built.faults.get(item.uid, ())
    if faults:
        more = f", and {len(faults) - 1} more in `status.errors`" if len(faults) > 1 else ""
        accepted = _Condition(ACCEPTED, "False", "Invalid", f"{faults[0]}{more}")
    else:
        accepted = _Condition(ACCEPTED, "True", "Valid", "it can be part of a policy set")
    active = _active(item, built, force, trouble, why=why, accepted=not faults)
    summed = active if not faults else accepted
    both = active.status if not faults else "False"
    ready = _Condition(READY, both, summed.reason, summed.message)
    return {
        "observedGeneration": item.generation,
        # INVARIANT: null where there is none: what was written before must not stay.
        "digest": force.digest if force is not None and active.status == "True" else None,
        "errors": [
            {
                "message": _bounded(fault.message),
                **({"path": _bounded(fault.path)} if fault.path else {}),
                **({"line": fault.line, "column": fault.column} if fault.line else {}),
                **({"fix": _bounded(fault.fix)} if fault.fix else {}),
            }
            for fault in faults[:ERRORS_MAX]
        ]
        or None,
        "conditions": [_written(one, item, now) for one in (ready, accepted, active)],
    }


def _active(
    item: Item, built: Built, force: Force | None, trouble: Trouble | None, *, why: str, accepted: bool
) -> _Condition:
    if force is None:
        message = trouble.message if trouble is not None else "it is not known what is in force"
        return _Condition(ACTIVE, "Unknown", trouble.reason if trouble is not None else "Unknown", message)
    there = force.of(item)
    if built.digest is not None and force.digest == built.digest:
        return _Condition(ACTIVE, "True", "InForce", f"in force in {force.digest}")
    reason, text = (
        ("SetRefused", why) if why else ("NotActivated", "") if trouble is None else (trouble.reason, trouble.message)
    )
    if there == item.document:
        return _Condition(ACTIVE, "True", reason, f"in force; the set {force.digest} stays: {text}")
    stays = "nothing is in force" if force.digest is None else f"the set {force.digest} stays"
    earlier = ", with this object as it was" if there is not None else ""
    return _Condition(ACTIVE, "False", reason if accepted else "NotAccepted", f"{stays}{earlier}: {text}")


def _written(one: _Condition, item: Item, now: datetime) -> JsonObject:
    since = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    for before in item.status.get("conditions") or []:
        if before.get("type") == one.type and before.get("status") == one.status:
            since = before.get("lastTransitionTime") or since
    return {
        "type": one.type,
        "status": one.status,
        "observedGeneration": item.generation,
        "lastTransitionTime": since,
        "reason": one.reason,
        "message": _bounded(one.message),
    }


def _bounded(text: str) -> str:
    shown = "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)
    return shown if len(shown) <= TEXT_MAX_CHARS else f"{shown[: TEXT_MAX_CHARS - 1]}…"
