"""From a value of CEL to JSON, for what leaves the firewall as a value and not as an effect."""

import math
from typing import Any

from app.core.canonical import canonical
from app.core.cel.instants import duration_text, timestamp_text
from app.core.cel.values import INT_MAX, CelError, Duration, Timestamp, UInt, type_name
from app.core.types import Json

# An enforcement point reads a limit, a list of fields, a ticket; whoever needs the document has it.
JSON_MAX_BYTES = 4096
_DEPTH_MAX = 32


def to_json(value: Any) -> Json:
    """Copy a value as JSON; a timestamp becomes its text in RFC 3339, a duration its text in seconds.

    Raises:
        CelError: JSON has no such value, or its canonical form has more than `JSON_MAX_BYTES`.
    """
    found = _copy(value, [JSON_MAX_BYTES], 0)
    if len(canonical(found)) > JSON_MAX_BYTES:
        raise _too_long()
    return found


def _copy(value: Any, left: list[int], depth: int) -> Json:
    # A lower bound of the length, so that a document of a megabyte is not copied first and refused then.
    left[0] -= 1
    if left[0] < 0:
        raise _too_long()
    if depth > _DEPTH_MAX:
        raise CelError(f"the value is nested more than {_DEPTH_MAX} deep")
    kind = type(value)
    if value is None or kind is bool or kind is int:
        found: Json = value
    elif kind is UInt:
        if value > INT_MAX:
            raise CelError("uint out of the range of int")
        found = int(value)
    elif kind is float:
        if not math.isfinite(value):
            raise CelError("a number that is not finite is no JSON value")
        found = value
    elif kind is str:
        found = _text(value, left)
    elif kind is Timestamp:
        found = timestamp_text(value)
    elif kind is Duration:
        found = duration_text(value)
    elif kind is list:
        found = [_copy(item, left, depth + 1) for item in value]
    elif kind is dict:
        found = {_text(name, left): _copy(item, left, depth + 1) for name, item in value.items()}
    else:
        raise CelError(f"`{type_name(value)}` is no JSON value")
    return found


def _text(value: str, left: list[int]) -> str:
    left[0] -= len(value)
    if left[0] < 0:
        raise _too_long()
    if "\0" in value:
        raise CelError("a text with NUL is no JSON value")
    return value


def _too_long() -> CelError:
    return CelError(f"the value has more than {JSON_MAX_BYTES} bytes as JSON")
