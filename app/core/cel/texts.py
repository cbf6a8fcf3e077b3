"""Functions of texts: those of the language definition and of the extension "strings". Positions are code points."""

from typing import Any

from app.core.cel.budget import CHARACTERS_PER_STEP, Budget, spend, spend_characters, too_expensive
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
        budget[0] -= len(text) // CHARACTERS_PER_STEP
        if budget[0] < 0:
            raise too_expensive()
        return part in text
    raise no_overload("contains", text, part)


def starts_with(text: Any, part: Any, budget: Budget) -> bool:
    """`text.startsWith(part)`."""
    if type(text) is str and type(part) is str:
        budget[0] -= len(part) // CHARACTERS_PER_STEP
        if budget[0] < 0:
            raise too_expensive()
        return text.startswith(part)
    raise no_overload("startsWith", text, part)


def ends_with(text: Any, part: Any, budget: Budget) -> bool:
    """`text.endsWith(part)`."""
    if type(text) is str and type(part) is str:
        budget[0] -= len(part) // CHARACTERS_PER_STEP
        if budget[0] < 0:
            raise too_expensive()
        return text.endswith(part)
    raise no_overload("endsWith", text, part)


def char_at(text: Any, position: Any) -> str:
    """`text.charAt(position)`: empty right behind the end."""
    if type(text) is not str or type(position) is not int:
        raise no_overload("charAt", text, position)
    if 0 <= position <= len(text):
        return text[position : position + 1]
    raise CelError(f"index out of range: {position}")


def index_of(text: Any, part: Any, budget: Budget) -> int:
    """`text.indexOf(part)`: -1 if it is not there."""
    if type(text) is not str or type(part) is not str:
        raise no_overload("indexOf", text, part)
    spend_characters(budget, len(text))
    return text.find(part)


def index_of_from(text: Any, part: Any, start: Any, budget: Budget) -> int:
    """`text.indexOf(part, start)`."""
    if type(text) is not str or type(part) is not str or type(start) is not int:
        raise no_overload("indexOf", text, part, start)
    spend_characters(budget, len(text))
    return text.find(part, _offset(start, text))


def last_index_of(text: Any, part: Any, budget: Budget) -> int:
    """`text.lastIndexOf(part)`: -1 if it is not there."""
    if type(text) is not str or type(part) is not str:
        raise no_overload("lastIndexOf", text, part)
    # Python looks for the first occurrence in linear time, but not for the last.
    spend_characters(budget, len(text) * (1 + len(part) // 100))
    return text.rfind(part)


def last_index_of_until(text: Any, part: Any, last: Any, budget: Budget) -> int:
    """`text.lastIndexOf(part, last)`: the last place that is not behind `last`."""
    if type(text) is not str or type(part) is not str or type(last) is not int:
        raise no_overload("lastIndexOf", text, part, last)
    spend_characters(budget, len(text) * (1 + len(part) // 100))
    return text.rfind(part, 0, _offset(last, text) + len(part))


def _offset(offset: int, text: str) -> int:
    if 0 <= offset <= len(text):
        return offset
    raise CelError(f"index out of range: {offset}")


def substring(text: Any, start: Any, budget: Budget) -> str:
    """`text.substring(start)`."""
    if type(text) is not str or type(start) is not int:
        raise no_overload("substring", text, start)
    return _between(text, start, len(text), budget)


def substring_until(text: Any, start: Any, end: Any, budget: Budget) -> str:
    """`text.substring(start, end)`."""
    if type(text) is not str or type(start) is not int or type(end) is not int:
        raise no_overload("substring", text, start, end)
    return _between(text, start, end, budget)


def _between(text: str, start: int, end: int, budget: Budget) -> str:
    if 0 <= start <= end <= len(text):
        spend_characters(budget, end - start)
        return text[start:end]
    raise CelError(f"index out of range: from {start} to {end} in a text of {len(text)}")


def split(text: Any, separator: Any, budget: Budget) -> list[str]:
    """`text.split(separator)`."""
    if type(text) is not str or type(separator) is not str:
        raise no_overload("split", text, separator)
    if not separator:
        return _parts(text, separator, -1, budget)
    found = text.split(separator)
    budget[0] -= len(text) // CHARACTERS_PER_STEP + len(found)
    if budget[0] < 0:
        raise too_expensive()
    return found


def split_into(text: Any, separator: Any, limit: Any, budget: Budget) -> list[str]:
    """`text.split(separator, limit)`: at most `limit` parts, the last with all that is left."""
    if type(text) is not str or type(separator) is not str or type(limit) is not int:
        raise no_overload("split", text, separator, limit)
    return _parts(text, separator, limit, budget)


def _parts(text: str, separator: str, limit: int, budget: Budget) -> list[str]:
    spend_characters(budget, len(text))
    if limit == 0:
        return []
    if not separator:
        spend(budget, len(text) if limit < 0 else min(limit, len(text)))
        if limit < 0 or len(text) <= limit:
            return list(text) or [""]
        return [*text[: limit - 1], text[limit - 1 :]]
    found = text.split(separator, limit - 1 if limit > 0 else -1)
    spend(budget, len(found))
    return found


def join(values: Any, budget: Budget) -> str:
    """`list.join()`."""
    if type(values) is not list:
        raise no_overload("join", values)
    return join_with(values, "", budget)


def join_with(values: Any, separator: Any, budget: Budget) -> str:
    """`list.join(separator)`."""
    if type(values) is not list or type(separator) is not str:
        raise no_overload("join", values, separator)
    size = len(separator) * len(values)
    for value in values:
        if type(value) is not str:
            raise no_overload("join", values, separator)
        size += len(value)
    spend_characters(budget, size)
    return separator.join(values)


def concat(parts: tuple[Any, ...], budget: Budget) -> str:
    """`a + b + c`, where `a` is a text: so must the others be."""
    size = 0
    for part in parts:
        if type(part) is not str:
            raise no_overload("_+_", "", part)
        size += len(part)
    budget[0] -= size // CHARACTERS_PER_STEP
    if budget[0] < 0:
        raise too_expensive()
    return "".join(parts)


def replace(text: Any, part: Any, by: Any, budget: Budget) -> str:
    """`text.replace(part, by)`."""
    if type(text) is not str or type(part) is not str or type(by) is not str:
        raise no_overload("replace", text, part, by)
    return _replaced(text, part, by, -1, budget)


def replace_first(text: Any, part: Any, by: Any, count: Any, budget: Budget) -> str:
    """`text.replace(part, by, count)`: the first `count` of them, all if it is negative."""
    if type(text) is not str or type(part) is not str or type(by) is not str or type(count) is not int:
        raise no_overload("replace", text, part, by, count)
    return _replaced(text, part, by, max(count, -1), budget)


def _replaced(text: str, part: str, by: str, count: int, budget: Budget) -> str:
    spend_characters(budget, len(text))
    found = text.count(part)
    spend_characters(budget, (found if count < 0 else min(found, count)) * len(by))
    return text.replace(part, by, count)


def trim(text: Any, budget: Budget) -> str:
    """`text.trim()`: without white space as Unicode defines it."""
    if type(text) is str:
        spend_characters(budget, len(text))
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
