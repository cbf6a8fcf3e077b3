"""The members of a JSON object that was sent: which are known, which are missing, of what type."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from app.core.pointer import MAX_REPORTED_LENGTH, escape
from app.errors import FirewallError, Kind

# The comparison behind "did you mean" is quadratic in the length of the key.
_LONGEST_GUESSED_KEY = 64


def refuse_unknown(sent: Mapping[str, Any], *, known: tuple[str, ...], pointer: str) -> None:
    """Refuse the first member that is not known, and say which one may have been meant.

    Raises: FirewallError(MALFORMED) with the pointer of the member.
    """
    for name in sent:
        if name not in known:
            close = get_close_matches(name, known, n=1) if len(name) <= _LONGEST_GUESSED_KEY else []
            where = f"{pointer}/{escape(name)}"
            raise FirewallError(
                Kind.MALFORMED,
                f"unknown member `{name[:80]}`",
                pointer=where if len(where) <= MAX_REPORTED_LENGTH else pointer,
                fix=f"did you mean `{close[0]}`?" if close else f"known members are {listed(known)}",
            )


def listed(names: Iterable[str]) -> str:
    """Write names for an error text."""
    return ", ".join(f"`{name}`" for name in names)


def type_name(value: Any) -> str:
    """Name the JSON type of a value as an error text says it."""
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case list():
            return "an array"
        case _:
            return "an object"


def refuse_type(value: Any, *, expected: str, pointer: str) -> FirewallError:
    """Build the refusal of a value of the wrong type; `expected` is such as "a string"."""
    return FirewallError(Kind.MALFORMED, f"{type_name(value)}, where {expected} is expected", pointer=pointer)


def text(sent: Mapping[str, Any], name: str, *, pointer: str) -> str:
    """Take a member that must be there and be a string that is not empty.

    Raises: FirewallError(MALFORMED) with the pointer of the member.
    """
    where = f"{pointer}/{name}"
    if name not in sent:
        raise FirewallError(Kind.MALFORMED, f"`{name}` is missing", pointer=where, fix=f"add `{name}`, a string")
    value = sent[name]
    if not isinstance(value, str):
        raise refuse_type(value, expected="a string", pointer=where)
    if not value:
        raise FirewallError(Kind.MALFORMED, f"`{name}` is empty", pointer=where)
    return value
