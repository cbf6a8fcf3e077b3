"""Step 4, what every surface has in common: a subject, an action, a resource, as AuthZEN and DESIGN.md shape them."""

from typing import Final, NoReturn

from app.core.members import refuse_unknown
from app.core.types import Json, JsonObject
from app.errors import FirewallError, Kind

# Long enough for a Terraform address, a file path or a SPIFFE id; an id is compared, indexed and shown, so it is no
# place for a document.
MAX_ID_CHARS: Final = 512

ABSENT: Final = object()

_ENTITY_MEMBERS: Final = ("type", "id", "properties")
_ACTION_MEMBERS: Final = ("name", "properties")

# The same as sets: one comparison tells that all is well, and only a fault is looked for member by member.
_ENTITY: Final = frozenset(_ENTITY_MEMBERS)
_ACTION: Final = frozenset(_ACTION_MEMBERS)

MISSING: Final = {
    "subject": 'say who asks: `"subject": {"type": "agent", "id": "..."}`',
    "action": 'say what is done: `"action": {"name": "update"}`',
    "resource": 'say to what: `"resource": {"type": "...", "id": "..."}`',
}


def entity(value: Json, name: str, *, lenient: bool = False) -> JsonObject:
    """A subject or a resource, with `properties` always there; `lenient` passes over members that nobody knows.

    Raises FirewallError(MALFORMED) with the pointer of the member at fault.
    """
    if not isinstance(value, dict):
        refuse(f"`{name}` is not an object", f"/{name}", fix=MISSING[name])
    if not lenient and not value.keys() <= _ENTITY:
        refuse_unknown(value, known=_ENTITY_MEMBERS, pointer=f"/{name}")
    return {
        "type": text(value, "type", MAX_ID_CHARS, parent=name),
        "id": text(value, "id", MAX_ID_CHARS, parent=name),
        "properties": _properties(value, name),
    }


def action(value: Json, *, lenient: bool = False) -> JsonObject:
    """What is done, with `properties` always there; raises and passes over as `entity`."""
    if not isinstance(value, dict):
        refuse("`action` is not an object", "/action", fix=MISSING["action"])
    if not lenient and not value.keys() <= _ACTION:
        refuse_unknown(value, known=_ACTION_MEMBERS, pointer="/action")
    return {
        "name": text(value, "name", MAX_ID_CHARS, parent="action"),
        "properties": _properties(value, "action"),
    }


def text(holder: JsonObject, name: str, limit: int, *, parent: str | None = None) -> str:
    """A string of 1 to `limit` characters. Raises FirewallError(MALFORMED)."""
    value = holder.get(name, ABSENT)
    if isinstance(value, str) and 0 < len(value) <= limit:
        return value
    where = f"/{name}" if parent is None else f"/{parent}/{name}"
    shown = name if parent is None else f"{parent}.{name}"
    if value is ABSENT:
        fault = "is missing"
    elif not isinstance(value, str):
        fault = "is not a string"
    else:
        fault = f"is longer than {limit} characters" if value else "is empty"
    raise FirewallError(
        Kind.MALFORMED, f"member `{shown}` {fault}", pointer=where, fix=f"send a string of 1 to {limit} characters"
    )


def refuse(detail: str, pointer: str, *, fix: str) -> NoReturn:
    """Raise FirewallError(MALFORMED)."""
    raise FirewallError(Kind.MALFORMED, detail, pointer=pointer, fix=fix)


def _properties(value: JsonObject, name: str) -> JsonObject:
    properties = value.get("properties", ABSENT)
    if properties is ABSENT:
        return {}
    if not isinstance(properties, dict):
        refuse(f"`{name}.properties` is not an object", f"/{name}/properties", fix="send an object, or leave it out")
    return properties
