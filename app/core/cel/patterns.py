"""Regular expressions in linear time: RE2, whose syntax is that of CEL.

This module alone knows which library does the matching. Texts are matched as UTF-8, for that is what the library wants
and no position of a match is ever shown.
"""

from functools import lru_cache
from typing import Any

import re2  # type: ignore[import-untyped]  # the library has no stubs

from app.core.cel.budget import CHARACTERS_PER_STEP, Budget, spend, spend_characters, too_expensive
from app.core.cel.values import NONE, CelError, Optional, no_overload

# Patterns that stand in an expression are compiled once, when it is loaded; these are those that come out of data.
_CACHED = 256
# RE2 compiles `x{1000}{1000}` to a program as large as this allows, else refuses it.
_MEMORY_MAX = 1 << 20
_UNANCHORED = re2._re2.RE2.Anchor.UNANCHORED  # noqa: SLF001 - the library's own `search` costs twice as much
_NO_SPAN = (-1, -1)
# Matching is some ten times as much work per character as copying.
_WEIGHT = 4
# In steps: compiling a pattern that comes out of data, and one match whose position is asked for.
_COMPILATION = 2_000
_MATCH = 20


class Pattern:
    """A compiled pattern."""

    __slots__ = ("_captures", "_match", "_options", "groups", "text")

    def __init__(self, text: str) -> None:
        """Compile.

        Raises:
            CelError: RE2 does not know the syntax, or the pattern is too large.
        """
        self.text = text
        self._captures: Any = None
        self._match = _compiled(text, captures=False)._regexp.Match  # noqa: SLF001 - see `_UNANCHORED`
        self.groups = -1

    def found_in(self, text: Any, budget: Budget) -> bool:
        """Tell whether the pattern matches anywhere: `text.matches(pattern)`."""
        if type(text) is not str:
            raise no_overload("matches", text, "")
        data = text.encode()
        size = len(data)
        budget[0] -= size * _WEIGHT // CHARACTERS_PER_STEP
        if budget[0] < 0:
            raise too_expensive()
        spans: list[tuple[int, int]] = self._match(_UNANCHORED, data, 0, size)
        return spans[0] != _NO_SPAN

    def spans(self, data: bytes, start: int) -> list[tuple[int, int]]:
        """Give the spans of the first match from `start` on, of the whole and of each group; empty without a match."""
        if self._captures is None:
            self._captures = _compiled(self.text, captures=True)._regexp  # noqa: SLF001 - see `_UNANCHORED`
            self.groups = self._captures.NumberOfCapturingGroups()
        spans: list[tuple[int, int]] = self._captures.Match(_UNANCHORED, data, start, len(data))
        return [] if spans[0] == _NO_SPAN else spans


def _compiled(text: str, *, captures: bool) -> Any:
    options = re2.Options()
    options.log_errors = False
    options.max_mem = _MEMORY_MAX
    options.never_capture = not captures
    try:
        return re2.compile(text.encode(), options)
    except re2.error as error:
        reason = error.args[0].decode(errors="replace") if error.args and isinstance(error.args[0], bytes) else error
        raise CelError(f"invalid regular expression: {reason}") from None


@lru_cache(maxsize=_CACHED)
def pattern(text: str) -> Pattern:
    """Give the compiled pattern of a text.

    Raises:
        CelError: it is not a pattern.
    """
    return Pattern(text)


def _pattern(value: Any, budget: Budget) -> Pattern:
    if type(value) is Pattern:
        return value
    # Paid for whether or not it is in the cache: what an evaluation costs must not depend on others.
    spend(budget, _COMPILATION + len(value))
    return pattern(value)


def matches(text: Any, wanted: Any, budget: Budget) -> bool:
    """`text.matches(pattern)`: anywhere in the text."""
    if type(wanted) is str:
        return _pattern(wanted, budget).found_in(text, budget)
    raise no_overload("matches", text, wanted)


_WANTED = frozenset({str, Pattern})


def extract(text: Any, wanted: Any, budget: Budget) -> Optional:
    """`regex.extract(text, pattern)`: the first match, or what its only group has."""
    found = _extracted(text, wanted, budget, "regex.extract", limit=1)
    return Optional(found[0]) if found else NONE


def extract_all(text: Any, wanted: Any, budget: Budget) -> list[str]:
    """`regex.extractAll(text, pattern)`."""
    return [item for item in _extracted(text, wanted, budget, "regex.extractAll", limit=None) if item]


def _extracted(text: Any, wanted: Any, budget: Budget, name: str, *, limit: int | None) -> list[str]:
    if type(text) is not str or type(wanted) not in _WANTED:
        raise no_overload(name, text, "" if type(wanted) is Pattern else wanted)
    compiled, data, start = _pattern(wanted, budget), text.encode(), 0
    found: list[str] = []
    spend_characters(budget, len(data) * _WEIGHT)
    while start <= len(data) and (limit is None or len(found) < limit):
        spans = compiled.spans(data, start)
        if compiled.groups > 1:
            raise CelError(f"regular expression has more than one capturing group: {compiled.text}")
        if not spans:
            break
        spend(budget, _MATCH)
        begin, end = spans[-1]
        found.append("" if begin < 0 else data[begin:end].decode())
        start = _after(data, spans[0])
    return found


def find(text: Any, wanted: Any, budget: Budget) -> str:
    """`text.find(pattern)` of Kubernetes: the first match, empty without one."""
    found = _found("find", text, wanted, 1, budget)
    return found[0] if found else ""


def find_all(text: Any, wanted: Any, *rest: Any) -> list[str]:
    """`text.findAll(pattern[, limit])` of Kubernetes: a negative limit is none."""
    *limits, budget = rest
    if any(type(limit) is not int for limit in limits):
        raise no_overload("findAll", text, "" if type(wanted) is Pattern else wanted, *limits)
    return _found("findAll", text, wanted, limits[0] if limits else -1, budget)


def _found(name: str, text: Any, wanted: Any, limit: int, budget: Budget) -> list[str]:
    """Give whole matches; an empty one right behind another does not count, as in Go."""
    if type(text) is not str or type(wanted) not in _WANTED:
        raise no_overload(name, text, "" if type(wanted) is Pattern else wanted)
    compiled, data, start, last = _pattern(wanted, budget), text.encode(), 0, -1
    found: list[str] = []
    spend_characters(budget, len(data) * _WEIGHT)
    while start <= len(data) and len(found) != limit:
        spans = compiled.spans(data, start)
        if not spans:
            break
        spend(budget, _MATCH)
        begin, end = spans[0]
        start = _after(data, spans[0])
        if not begin == end == last:
            found.append(data[begin:end].decode())
        last = end
    return found


def _after(data: bytes, span: tuple[int, int]) -> int:
    """Give where to go on after a match: behind it, and after an empty one behind the next character."""
    begin, end = span
    if end > begin:
        return end
    end += 1
    while end < len(data) and data[end] & 0xC0 == 0x80:
        end += 1
    return end


def replace_matches(text: Any, wanted: Any, replacement: Any, *rest: Any) -> str:
    r"""`regex.replace(text, pattern, replacement[, count])`; `\1` in the replacement is the first group."""
    *count_given, budget = rest
    count = count_given[0] if count_given else -1
    if type(text) is not str or type(wanted) not in _WANTED or type(replacement) is not str or type(count) is not int:
        raise no_overload("regex.replace", text, "" if type(wanted) is Pattern else wanted, replacement, *count_given)
    if count == 0:
        return text
    compiled, data, start, kept, done = _pattern(wanted, budget), text.encode(), 0, 0, 0
    parts: list[bytes] = []
    spend_characters(budget, len(data) * _WEIGHT)
    compiled.spans(b"", 0)
    template = _template(replacement, compiled.groups)
    while start <= len(data) and done != count:
        spans = compiled.spans(data, start)
        if not spans:
            break
        spend(budget, _MATCH)
        begin, end = spans[0]
        start = _after(data, spans[0])
        if begin == end == kept and done:
            continue  # an empty match right behind the last one does not count
        parts.append(data[kept:begin])
        for piece in template:
            part = piece if isinstance(piece, bytes) else data[slice(*spans[piece])] if spans[piece][0] >= 0 else b""
            spend_characters(budget, len(part))
            parts.append(part)
        kept, done = end, done + 1
    return b"".join((*parts, data[kept:])).decode()


def _template(replacement: str, groups: int) -> list[bytes | int]:
    """Split a replacement into texts and numbers of groups."""
    pieces: list[bytes | int] = []
    first, *rest = replacement.split("\\")
    pieces.append(first.encode())
    while rest:
        part = rest.pop(0)
        if part == "" and rest:
            pieces.append(("\\" + rest.pop(0)).encode())
        elif part[:1] in _DIGITS:
            if int(part[0]) > groups:
                raise CelError(f"invalid replacement string: it has \\{part[0]}, the pattern has {groups} groups")
            pieces += (int(part[0]), part[1:].encode())
        else:
            raise CelError("invalid replacement string: a backslash is followed by a digit or a backslash")
    return pieces


_DIGITS = frozenset("0123456789")
