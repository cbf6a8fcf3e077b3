"""How a part of an expression fails, and what is said of it.

Generated code reads `value['field']` of whatever is there, and lets Python raise. What CEL can absorb is therefore
`CelError` and what a subscript raises; `said` finds out which field it was, but only when someone wants to know.
"""

import ast
from functools import lru_cache
from types import CodeType
from typing import NoReturn

from app.core.cel.values import CelError

# What `&&`, `||`, `all` and `exists` absorb. Everything else, `BudgetError` too, goes through.
FAIL = (CelError, KeyError, TypeError)
# The name of generated code in tracebacks, and of its own text among its globals.
GENERATED = "<cel>"
SOURCE = "source"
_QUOTED_MAX_CHARS = 120
_UNKNOWN = "no matching overload"


def said(error: BaseException) -> str:
    """Give the text of one of `FAIL`; it is never empty."""
    if isinstance(error, CelError):
        return str(error) or _UNKNOWN
    if isinstance(error, KeyError):
        return f"no such key: `{str(error.args[0])[:_QUOTED_MAX_CHARS]}`"
    at = error.__traceback__
    while at is not None and at.tb_next is not None:
        at = at.tb_next
    if at is None or at.tb_frame.f_code.co_filename != GENERATED:
        return _UNKNOWN
    field = _field(at.tb_frame.f_code, at.tb_lasti, str(at.tb_frame.f_globals.get(SOURCE, "")))
    return f"no field `{field[:_QUOTED_MAX_CHARS]}` in a value that is no map" if field else _UNKNOWN


@lru_cache(maxsize=256)
def _field(code: CodeType, instruction: int, source: str) -> str:
    """Read in the source which field the instruction at fault selects; empty if Python does not know the place."""
    first, last, start, end = list(code.co_positions())[instruction // 2]
    if first is None or first != last or start is None or end is None:
        return ""
    # Columns are counted in bytes of UTF-8.
    part = source.splitlines()[first - 1].encode()[start:end].decode()
    try:
        node = ast.parse(part, mode="eval").body
    except SyntaxError:
        return ""
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
        return str(node.slice.value)
    return ""


def fail(text: str) -> NoReturn:
    """Raise what was put aside as text: an exception that is kept in a variable keeps its frame alive, and itself.

    Raises:
        CelError: always.
    """
    raise CelError(text)
