"""Functions of texts: those of the language definition and of the extension "strings". Positions are code points."""

from typing import Any

from app.core.cel.budget import Budget, spend_characters
from app.core.cel.values import CelError, MixedMap, no_overload

_LOWER = str.maketrans({chr(code): chr(code + 32) for code in range(ord("A"), ord("Z") + 1)})
_UPPER = str.maketrans({chr(code): chr(code - 32) for code in range(ord("a"), ord("z") + 1)})
# The property White_Space of Unicode; Python's own `strip` also takes U+001C to U+001F.
_SPACE = (
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)
_ESCAPES = str.maketrans(
    {"\a": r"\a", "\b": r"\b", "\f": r"\f", "\n": r"\n", "\r": r"\r", "\t": r"\t", "\v": r"\v", "\\": r"\\", '"': r"\""}
)
_SIZED = frozenset({str, bytes, list, dict, MixedMap})


def size(value: Any) -> int:
    """`size(value)`: code points, bytes, elements or entries."""
    if type(value) in _SIZED:
        return len(value)
    raise no_overload("size", value)


def contains(text: Any, part: Any, budget: Budget) -> bool:
    """`text.contains(part)`."""
    if type(text) is str and type(part) is str:
        spend_characters(budget, len(text))
        return part in text
    raise no_overload("contains", text, part)


def starts_with(text: Any, part: Any) -> bool:
    """`text.startsWith(part)`."""
    if type(text) is str and type(part) is str:
        return text.startswith(part)
    raise no_overload("startsWith", text, part)


def ends_with(text: Any, part: Any) -> bool:
    """`text.endsWith(part)`."""
    if type(text) is str and type(part) is str:
        return text.endswith(part)
    raise no_overload("endsWith", text, part)


def char_at(text: Any, position: Any) -> str:
    """`text.charAt(position)`: empty right behind the end."""
    if type(text) is not str or type(position) is not int:
        raise no_overload("charAt", text, position)
    if 0 <= position <= len(text):
        return text[position : position + 1]
    raise CelError(f"index out of range: {position}")


def index_of(text: Any, part: Any, *rest: Any) -> int:
    """`text.indexOf(part[, from])`."""
    *offset, budget = rest
    _texts("indexOf", text, part, *offset)
    spend_characters(budget, len(text))
    return int(text.find(part, _offset(offset[0], text) if offset else 0))


def last_index_of(text: Any, part: Any, *rest: Any) -> int:
    """`text.lastIndexOf(part[, last])`: the last place that is not behind `last`."""
    *offset, budget = rest
    _texts("lastIndexOf", text, part, *offset)
    spend_characters(budget, len(text))
    last = _offset(offset[0], text) if offset else len(text)
    return int(text.rfind(part, 0, last + len(part)))


def _texts(name: str, text: Any, part: Any, *numbers: Any) -> None:
    if type(text) is not str or type(part) is not str or any(type(number) is not int for number in numbers):
        raise no_overload(name, text, part, *numbers)


def _offset(offset: int, text: str) -> int:
    if 0 <= offset <= len(text):
        return offset
    raise CelError(f"index out of range: {offset}")


def substring(text: Any, start: Any, end: Any = None) -> str:
    """`text.substring(start[, end])`."""
    if type(text) is not str or type(start) is not int or (end is not None and type(end) is not int):
        raise no_overload("substring", text, start, *(() if end is None else (end,)))
    stop = len(text) if end is None else end
    if 0 <= start <= stop <= len(text):
        return text[start:stop]
    raise CelError(f"index out of range: from {start} to {stop} in a text of {len(text)}")


def split(text: Any, separator: Any, *rest: Any) -> list[str]:
    """`text.split(separator[, limit])`: at most `limit` parts, the last with all that is left."""
    *limits, budget = rest
    _texts("split", text, separator, *limits)
    spend_characters(budget, len(text))
    limit = limits[0] if limits else -1
    if limit == 0:
        return []
    if not separator:
        if limit < 0 or len(text) <= limit:
            return list(text) or [""]
        return [*text[: limit - 1], text[limit - 1 :]]
    return list(text.split(separator, limit - 1 if limit > 0 else -1))


def join(values: Any, *rest: Any) -> str:
    """`list.join([separator])`."""
    *separators, budget = rest
    separator = separators[0] if separators else ""
    if type(values) is not list or type(separator) is not str or any(type(value) is not str for value in values):
        raise no_overload("join", values, *separators)
    spend_characters(budget, sum(map(len, values)) + len(separator) * len(values))
    return str(separator.join(values))


def replace(text: Any, part: Any, by: Any, *rest: Any) -> str:
    """`text.replace(part, by[, count])`."""
    *counts, budget = rest
    count = counts[0] if counts else -1
    if type(text) is not str or type(part) is not str or type(by) is not str or type(count) is not int:
        raise no_overload("replace", text, part, by, *counts)
    spend_characters(budget, len(text))
    found = text.count(part)
    spend_characters(budget, (found if count < 0 else min(found, count)) * len(by))
    return text.replace(part, by, max(count, -1))


def trim(text: Any) -> str:
    """`text.trim()`: without white space as Unicode defines it."""
    if type(text) is str:
        return text.strip(_SPACE)
    raise no_overload("trim", text)


def lower_ascii(text: Any, budget: Budget) -> str:
    """`text.lowerAscii()`."""
    if type(text) is str:
        spend_characters(budget, len(text))
        return text.lower() if text.isascii() else text.translate(_LOWER)
    raise no_overload("lowerAscii", text)


def upper_ascii(text: Any, budget: Budget) -> str:
    """`text.upperAscii()`."""
    if type(text) is str:
        spend_characters(budget, len(text))
        return text.upper() if text.isascii() else text.translate(_UPPER)
    raise no_overload("upperAscii", text)


def quote(text: Any, budget: Budget) -> str:
    """`strings.quote(text)`: in double quotes, with what CEL has escapes for escaped."""
    if type(text) is str:
        spend_characters(budget, len(text))
        return f'"{text.translate(_ESCAPES)}"'
    raise no_overload("strings.quote", text)
