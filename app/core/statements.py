"""SQL statements: what each does, to which tables, and whether a condition limits it."""

from typing import Any

from app.core import members
from app.core.types import JsonObject

_POINTER = "/change/statement"


def parse(statement: Any) -> list[JsonObject]:
    """Read `{dialect, text}`; every statement is `unknown` until the parser is here, which policies treat as destructive.

    Raises: FirewallError(MALFORMED).
    """
    if not isinstance(statement, dict):
        raise members.refuse_type(statement, expected="an object with `dialect` and `text`", pointer=_POINTER)
    members.refuse_unknown(statement, known=("dialect", "text"), pointer=_POINTER)
    members.text(statement, "dialect", pointer=_POINTER)
    text = members.text(statement, "text", pointer=_POINTER)
    return [{"kind": "unknown", "tables": [], "has_where": False, "text": text}]
