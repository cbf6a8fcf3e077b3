"""`mfw switch`: kill switches of a service, over HTTP."""

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlencode
from uuid import UUID

from app.cli.output import console, plain, table, write_json
from app.cli.policy_sets import Service
from app.core.switches import SwitchKind

PATH: Final = "/v1/switches"


def run_throw(
    kind: SwitchKind, target: str | None, *, reason: str, lasting: str | None, service: Service, as_json: bool
) -> None:
    """Put a switch into force. Raises `Refused`."""
    wanted = {
        "kind": kind.value,
        "reason": reason,
        **({} if target is None else {"target": target}),
        **({} if lasting is None else {"for": lasting}),
    }
    made = service.ask(PATH, wanted)
    if as_json:
        write_json(made)
        return
    console().print(plain(f"{_what(made)} is on {_until(made)}; every replica has it within 2 seconds"))
    console().print(plain(f"to end it: mfw switch off {made.get('id', '')} --reason '...'"))


def run_list(*, everything: bool, service: Service, as_json: bool) -> None:
    """Show the switches that are on, or all that ever were. Raises `Refused`."""
    answer = service.ask(f"{PATH}?{urlencode({'all': 'true'})}" if everything else PATH)
    if as_json:
        write_json(answer)
        return
    items = answer.get("items")
    found = [one for one in items if isinstance(one, dict)] if isinstance(items, list) else []
    if not found:
        console().print("no kill switch was ever thrown" if everything else "no kill switch is on")
        return
    listing = table("id", "what", "state", "by", "reason")
    for one in found:
        listing.add_row(*(plain(cell) for cell in (_text(one, "id"), _what(one), _state(one), *_who(one))))
    console().print(listing)


def run_off(switch_id: UUID, *, reason: str, service: Service, as_json: bool) -> None:
    """End a switch. Raises `Refused`."""
    made = service.ask(f"{PATH}/{switch_id}?{urlencode({'reason': reason})}", method="DELETE")
    if as_json:
        write_json(made)
    else:
        console().print(plain(f"{_what(made)} is off; every replica has it within 2 seconds"))


def _what(one: Mapping[str, Any]) -> str:
    return " ".join(filter(None, [_text(one, "kind"), _text(one, "target")]))


def _until(one: Mapping[str, Any]) -> str:
    return f"until {_text(one, 'until')}" if one.get("until") else "until it is ended"


def _state(one: Mapping[str, Any]) -> str:
    if one.get("in_force") is True:
        return f"on {_until(one)}"
    if one.get("ended_at"):
        return f"ended {_text(one, 'ended_at')} by {_text(one, 'ended_by')}"
    return f"over since {_text(one, 'until')}"


def _who(one: Mapping[str, Any]) -> tuple[str, str]:
    return _text(one, "thrown_by"), _text(one, "reason")


def _text(one: Mapping[str, Any], member: str) -> str:
    return str(one.get(member, ""))
