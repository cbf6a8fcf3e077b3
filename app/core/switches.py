"""Kill switches: what people turn off by hand, as an input of every decision while it holds. Pure.

Which switches are in force is an input like the mutation itself: it stands in the record, so that a decision can be
made again. A switch holds until its end by the clock of the decision, whoever still passes it in.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final, NamedTuple

from app.core.types import JsonObject
from app.errors import FirewallError, Kind


class SwitchKind(StrEnum):
    """What a switch does; the database holds the same set."""

    DENY_ALL = "deny-all"  # no mutation is allowed, whatever the policies say
    DENY_SUBJECT = "deny-subject"  # none that this subject asks for
    SHADOW = "shadow"  # this policy is recorded and decides nothing: a weakening
    STOP_APPROVALS = "stop-approvals"  # no approval is taken or spent: what is held stays held


# The kinds that are about one thing, which their target names.
TARGETED: Final = frozenset({SwitchKind.DENY_SUBJECT, SwitchKind.SHADOW})


class Switch(NamedTuple):
    """A switch that was thrown.

    `target` is the id of a subject, of whatever type, or the name of a policy; None for the kinds that are about
    everything. `until` is aware and in UTC, None for a switch that holds until somebody ends it.
    """

    id: str
    kind: SwitchKind
    target: str | None = None
    until: datetime | None = None

    def holds(self, now: datetime) -> bool:
        """Whether it is in force at this moment."""
        return self.until is None or now < self.until

    @property
    def ends(self) -> str:
        """When it ends, in words."""
        return "until it is ended" if self.until is None else f"until {_written(self.until)}"


def concerning(switches: Iterable[Switch], subject_id: str, now: datetime) -> tuple[Switch, ...]:
    """Pick those that a decision about this subject has to know: with these alone it comes out the same."""
    return tuple(
        [
            one
            for one in switches
            if one.holds(now) and (one.kind is not SwitchKind.DENY_SUBJECT or one.target == subject_id)
        ]
    )


def denying(switches: Sequence[Switch], subject_id: object, now: datetime) -> Switch | None:
    """Find the switch that denies whatever this subject asks for, the most general one first."""
    for kind in (SwitchKind.DENY_ALL, SwitchKind.DENY_SUBJECT):
        for one in switches:
            if one.kind is kind and one.holds(now) and (kind is SwitchKind.DENY_ALL or one.target == subject_id):
                return one
    return None


def shadowed(switches: Sequence[Switch], now: datetime) -> Mapping[str, Switch]:
    """Find the policies that decide nothing for now, each with a switch that says so."""
    return {
        one.target: one
        for one in switches
        if one.kind is SwitchKind.SHADOW and one.target is not None and one.holds(now)
    }


def approvals_stopped(switches: Sequence[Switch], now: datetime) -> Switch | None:
    """Find the switch that keeps approvals from being taken or spent."""
    return next((one for one in switches if one.kind is SwitchKind.STOP_APPROVALS and one.holds(now)), None)


def to_record(switches: Iterable[Switch]) -> list[JsonObject]:
    """Write the switches that a decision was made under, for its record."""
    return [
        {
            "id": one.id,
            "kind": one.kind.value,
            **({} if one.target is None else {"target": one.target}),
            **({} if one.until is None else {"until": _written(one.until)}),
        }
        for one in switches
    ]


def from_record(record: JsonObject) -> tuple[Switch, ...]:
    """Read the switches that a recorded decision was made under, so that it can be made again.

    Raises:
        FirewallError: MALFORMED, where `switches` is not what `to_record` writes.
    """
    try:
        return tuple(
            Switch(
                id=str(one["id"]),
                kind=SwitchKind(one["kind"]),
                target=None if one.get("target") is None else str(one["target"]),
                until=None if one.get("until") is None else _moment(one["until"]),
            )
            for one in record.get("switches", ())
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise FirewallError(Kind.MALFORMED, "the record's switches cannot be read", pointer="/switches") from error


def _written(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError
    return moment
