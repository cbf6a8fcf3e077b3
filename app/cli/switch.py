"""`mfw switch`: kill switches of a service, over HTTP."""

from uuid import UUID

from app.cli.client import Service
from app.cli.output import console, plain, table, write_json
from app.client import switches
from app.client.firewall import SWITCHES_PAGE
from app.client.switches import Switch
from app.core.switches import SwitchKind


def run_throw(
    kind: SwitchKind, target: str | None, *, reason: str, lasting: str | None, service: Service, as_json: bool
) -> None:
    """Put a switch into force. Raises `Refused`."""
    made, told = service.run(switches.throw(kind.value, target=target, reason=reason, lasting=lasting))
    if as_json:
        write_json(told)
        return
    console().print(plain(f"{_what(made)} is on {_until(made)}; every replica has it within 2 seconds"))
    console().print(plain(f"to end it: mfw switch off {made.id} --reason '...'"))


def run_list(*, everything: bool, service: Service, as_json: bool) -> None:
    """Show the switches that are on, or all that ever were. Raises `Refused`."""
    found, told = service.run(switches.some(limit=SWITCHES_PAGE, everything=everything))
    if as_json:
        write_json(told)
        return
    if not found:
        console().print("no kill switch was ever thrown" if everything else "no kill switch is on")
        return
    listing = table("id", "what", "state", "by", "reason")
    for one in found:
        listing.add_row(*(plain(cell) for cell in (one.id, _what(one), _state(one), one.thrown_by, one.reason)))
    console().print(listing)


def run_off(switch_id: UUID, *, reason: str, service: Service, as_json: bool) -> None:
    """End a switch. Raises `Refused`."""
    made, told = service.run(switches.end(str(switch_id), reason=reason))
    if as_json:
        write_json(told)
    else:
        console().print(plain(f"{_what(made)} is off; every replica has it within 2 seconds"))


def _what(one: Switch) -> str:
    return " ".join(filter(None, [one.kind, one.target]))


def _until(one: Switch) -> str:
    return f"until {one.until}" if one.until else "until it is ended"


def _state(one: Switch) -> str:
    if one.in_force:
        return f"on {_until(one)}"
    if one.ended_at:
        return f"ended {one.ended_at} by {one.ended_by or 'nobody known'}"
    return f"over since {one.until or 'a while ago'}"
