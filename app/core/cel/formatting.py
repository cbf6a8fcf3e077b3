"""`text.format(list)` of the extension "strings": `%s %d %f %e %x %X %o %b %%`, with a precision such as `%.2f`."""

import math
import re
from decimal import Decimal
from typing import Any

from app.core.cel.budget import Budget, spend_characters
from app.core.cel.conversions import to_string
from app.core.cel.values import CelError, Duration, MixedMap, Timestamp, TypeValue, UInt, no_overload, type_name

_CLAUSE = re.compile(r"%(?:%|(?:\.([0-9]{1,9}))?([sdfexXob]))")
_PRECISION_MAX = 1_000
_PRECISION = 6
_WHOLE = frozenset({int, UInt})
_NUMBERS = frozenset({int, UInt, float})
_NAMED_DOUBLES = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def format_(template: Any, arguments: Any, budget: Budget) -> str:
    """`template.format(arguments)`."""
    if type(template) is not str or type(arguments) is not list:
        raise no_overload("format", template, arguments)
    spend_characters(budget, len(template))
    parts: list[str] = []
    at = used = 0
    while (start := template.find("%", at)) >= 0:
        clause = _CLAUSE.match(template, start)
        if clause is None:
            raise CelError(f"format: `{template[start : start + 8]}` is not a clause")
        parts.append(template[at:start])
        at = clause.end()
        if clause.group(2) is None:
            parts.append("%")
            continue
        if used == len(arguments):
            raise CelError(f"format: no argument for clause {used + 1}")
        precision = _PRECISION if clause.group(1) is None else int(clause.group(1))
        if precision > _PRECISION_MAX:
            raise CelError(f"format: a precision of more than {_PRECISION_MAX}")
        parts.append(_clause(clause.group(2), precision, arguments[used], budget))
        spend_characters(budget, len(parts[-1]))
        used += 1
    return "".join((*parts, template[at:]))


def _clause(letter: str, precision: int, value: Any, budget: Budget) -> str:
    match letter:
        case "s":
            return _text(value, budget)
        case "d":
            return _decimal(value, precision)
        case "f" | "e":
            return _double(value, f".{precision}{letter}")
        case "x" | "X":
            return _hexadecimal(value, letter)
        case "o" if type(value) in _WHOLE:
            return f"{value:o}"
        case "b" if type(value) in _WHOLE or type(value) is bool:
            return f"{int(value):b}"
        case _:
            raise _refused(letter, value)


def _refused(letter: str, value: Any) -> CelError:
    return CelError(f"format: `%{letter}` of `{type_name(value)}`")


def _decimal(value: Any, precision: int) -> str:
    if type(value) in _WHOLE:
        return str(int(value))
    if type(value) is float:
        return _double(value, f".{precision}f")
    raise _refused("d", value)


def _double(value: Any, how: str) -> str:
    number = _NAMED_DOUBLES.get(value) if type(value) is str else float(value) if type(value) in _NUMBERS else None
    if number is None:
        raise _refused(how[-1], value)
    return _unnumbered(number) or format(number, how)


def _unnumbered(value: float) -> str:
    if math.isfinite(value):
        return ""
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _hexadecimal(value: Any, letter: str) -> str:
    if type(value) in _WHOLE:
        return format(int(value), letter)
    if isinstance(value, str | bytes):
        digits = (value.encode() if isinstance(value, str) else value).hex()
        return digits.upper() if letter == "X" else digits
    raise _refused(letter, value)


def _text(value: Any, budget: Budget) -> str:
    """Write any value, lists and maps with what is in them; the keys of a map are sorted by their text."""
    kind = type(value)
    if kind is list:
        spend_characters(budget, len(value) * 20)
        return f"[{', '.join(_text(element, budget) for element in value)}]"
    if kind is dict or kind is MixedMap:
        spend_characters(budget, len(value) * 20)
        entries = sorted((_text(key, budget), _text(inner, budget)) for key, inner in value.items())
        return "{" + ", ".join(f"{key}: {inner}" for key, inner in entries) + "}"
    if kind is float:
        return _unnumbered(value) or _plain(value)
    if kind is Timestamp:
        return _without_zeros(to_string(value, budget)[:-1]) + "Z"
    if value is None:
        return "null"
    if kind is TypeValue:
        return str(value.name)
    if kind is str:
        spend_characters(budget, len(value))
    elif kind is Duration or kind in _WHOLE or kind is bool or kind is bytes:
        return to_string(value, budget)
    else:
        raise _refused("s", value)
    return str(value)


def _plain(value: float) -> str:
    """Write a double with as few digits as tell it from all others, and without an exponent."""
    return _without_zeros(format(Decimal(repr(value)), "f"))


def _without_zeros(digits: str) -> str:
    return digits.rstrip("0").removesuffix(".") if "." in digits else digits
