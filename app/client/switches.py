"""Kill switches: what is asked, and what comes back."""

from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, urlencode

from app.client.answers import Members
from app.client.operations import Call, Operation, Repeat, read_json, written

SWITCHES: Final = "/v1/switches"


@dataclass(frozen=True, slots=True)
class Switch:
    """A kill switch; `until` is None for one that holds until it is ended, the last four where nobody ended it.

    `kind` is `deny-all`, `deny-subject`, `shadow` or `stop-approvals`, or one that a later release has.
    """

    id: str
    kind: str
    target: str | None
    in_force: bool
    until: str | None
    reason: str
    thrown_by: str
    thrown_at: str
    ledger_index: int
    ended_at: str | None
    ended_by: str | None
    end_reason: str | None
    end_ledger_index: int | None


def throw(kind: str, *, target: str | None, reason: str, lasting: str | None) -> Operation[Switch]:
    """Put a switch into force."""
    sent = {"kind": kind, "target": target, "reason": reason, "for": lasting}
    body = written({member: value for member, value in sent.items() if value is not None})
    return Operation(Call("POST", SWITCHES, body, repeat=Repeat.NEVER), read_json(_switch))


def some(*, limit: int, everything: bool) -> Operation[tuple[Switch, ...]]:
    """Those that are on; with `everything` all that ever were."""
    query = {"limit": limit, **({"all": "true"} if everything else {})}
    return Operation(
        Call("GET", f"{SWITCHES}?{urlencode(query)}"), read_json(lambda value: Members(value).items("items", _switch))
    )


def end(switch_id: str, *, reason: str) -> Operation[Switch]:
    """End a switch; one that is over is a conflict."""
    path = f"{SWITCHES}/{quote(switch_id, safe='')}?{urlencode({'reason': reason})}"
    return Operation(Call("DELETE", path, repeat=Repeat.NEVER), read_json(_switch))


def _switch(value: Any) -> Switch:
    members = Members(value)
    return Switch(
        id=members.text("id"),
        kind=members.text("kind"),
        target=members.text_or_none("target"),
        in_force=members.flag("in_force"),
        until=members.text_or_none("until"),
        reason=members.text("reason"),
        thrown_by=members.text("thrown_by"),
        thrown_at=members.text("thrown_at"),
        ledger_index=members.number("ledger_index"),
        ended_at=members.text_or_none("ended_at"),
        ended_by=members.text_or_none("ended_by"),
        end_reason=members.text_or_none("end_reason"),
        end_ledger_index=members.number_or_none("end_ledger_index"),
    )
