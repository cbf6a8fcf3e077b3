"""JSON Schemas (draft 2020-12) of the documents, for editors; written from the shapes that the loader reads by."""

from app.core.types import JsonObject
from app.policies.kinds import KINDS
from app.policies.shape import Shape

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_BASE = "https://mutationfirewall.io/schemas/"


def file_name(kind: str) -> str:
    """Name the file of a kind's schema: `MutationPolicy` is in `mutation-policy.json`."""
    return "".join(f"-{c.lower()}" if c.isupper() else c for c in kind).lstrip("-") + ".json"


def schema(kind: str) -> JsonObject:
    """Give the schema of one kind of document.

    Raises:
        KeyError: there is no such kind; `KINDS` has all.
    """
    root, *parts = KINDS[kind]
    return {
        "$schema": _DIALECT,
        "$id": _BASE + file_name(kind),
        "title": kind,
        **_object(root),
        "$defs": {part.name: _object(part) for part in parts},
    }


def _object(shape: Shape) -> JsonObject:
    return {
        **shape.more,
        "type": shape.more.get("type", "object"),
        "properties": dict(shape.members),
        **({"required": list(shape.required)} if shape.required else {}),
        "additionalProperties": False,
    }
