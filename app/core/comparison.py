"""What differs between two JSON values, as JSON pointers."""

from typing import Any, NamedTuple

import orjson

from app.core.pointer import escape
from app.core.types import Json
from app.errors import FirewallError, Kind

# More changed members than a person can review, and a bound on what a hostile pair of 1 MiB can make us build.
MAX_POINTERS = 10_000
# Ten thousand pointers below one long key would repeat that key ten thousand times.
MAX_POINTER_TEXT = 4 * 1024 * 1024

_MISSING = object()
_dumps = orjson.dumps

# Where a value stands: its key or index, and the same for its parent. Text is made only for what is reported.
_Place = tuple[Any, Any]


class Difference(NamedTuple):
    """Sorted RFC 6901 pointers: `paths` has everything that changed, among it what was `added` and `removed`.

    A member that is new or gone as a whole is one pointer, its parts are not listed.
    """

    paths: list[str]
    added: list[str]
    removed: list[str]


def compare(before: Json, after: Json) -> Difference:
    """Tell what differs between two JSON values, in time linear in their size.

    Types matter (`1` and `true`, `null` and absent differ), but `1` and `1.0` are one number, as in canonical form.
    Arrays are compared index by index. A value that changes its type, or a scalar that changes, is one pointer; the
    pointer of the whole value is "".

    Raises: FirewallError(MALFORMED) for more than `MAX_POINTERS` differences, or more than `MAX_POINTER_TEXT`
    characters of them.
    """
    changed: list[_Place | None] = []
    added: list[_Place] = []
    removed: list[_Place] = []
    stack: list[tuple[Any, Any, _Place | None]] = []
    kind = before.__class__
    if kind is after.__class__ and (kind is dict or kind is list):
        stack.append((before, after, None))
    elif not _same_scalar(before, after):
        changed.append(None)
    while stack:
        old, new, place = stack.pop()
        if old.__class__ is dict:
            gone = 0
            for key, was in old.items():
                now = new.get(key, _MISSING)
                if was is now:
                    continue
                kind = was.__class__
                if kind is now.__class__:
                    # Most of a document is the same on both sides. Python compares fast but takes 1 for true: of
                    # objects and arrays equal texts confirm, and what they leave in doubt is walked.
                    if was != now:
                        if kind is dict or kind is list:
                            stack.append((was, now, (place, key)))
                        else:
                            changed.append((place, key))
                    elif (kind is dict or kind is list) and _dumps(was) != _dumps(now):
                        stack.append((was, now, (place, key)))
                elif now is _MISSING:
                    gone += 1
                    removed.append((place, key))
                elif not _same_number(was, now):
                    changed.append((place, key))
            if len(new) > len(old) - gone:
                added.extend((place, key) for key in new if key not in old)
        else:
            shared = min(len(old), len(new))
            for position, (was, now) in enumerate(zip(old, new, strict=False)):
                if was is now:
                    continue
                kind = was.__class__
                if kind is now.__class__:
                    if was != now:
                        if kind is dict or kind is list:
                            stack.append((was, now, (place, position)))
                        else:
                            changed.append((place, position))
                    elif (kind is dict or kind is list) and _dumps(was) != _dumps(now):
                        stack.append((was, now, (place, position)))
                elif not _same_number(was, now):
                    changed.append((place, position))
            removed.extend((place, position) for position in range(shared, len(old)))
            added.extend((place, position) for position in range(shared, len(new)))
        if len(changed) + len(added) + len(removed) > MAX_POINTERS:
            raise FirewallError(
                Kind.MALFORMED,
                f"more than {MAX_POINTERS} members differ between before and after",
                pointer="/change/after",
                fix="split the change",
            )
    budget = _Budget()
    paths = [budget.text(place) for place in changed]
    if not added and not removed:
        paths.sort()
        return Difference(paths, [], [])
    new_paths = sorted(map(budget.text, added))
    old_paths = sorted(map(budget.text, removed))
    return Difference(sorted([*paths, *new_paths, *old_paths]), new_paths, old_paths)


def equal(one: Json, other: Json) -> bool:
    """Tell whether two JSON values are the same, by the rules of `compare`; takes time linear in the smaller one."""
    stack: list[tuple[Any, Any]] = [(one, other)]
    while stack:
        left, right = stack.pop()
        kind = left.__class__
        if kind is not right.__class__:
            if not _same_number(left, right):
                return False
        elif kind is dict:
            if len(left) != len(right):
                return False
            for key, value in left.items():
                match = right.get(key, _MISSING)
                if match is _MISSING:
                    return False
                stack.append((value, match))
        elif kind is list:
            if len(left) != len(right):
                return False
            stack.extend(zip(left, right, strict=True))
        elif left != right:
            return False
    return True


def _same_scalar(one: Any, other: Any) -> bool:
    return bool(one == other) if one.__class__ is other.__class__ else _same_number(one, other)


def _same_number(one: Any, other: Any) -> bool:
    """Whether an int and a float are one number; a bool is no number, whatever Python says."""
    if one.__class__ is float:
        one, other = other, one
    return one.__class__ is int and other.__class__ is float and one == other


class _Budget:
    """Turns places into pointers while there is text left to spend."""

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = MAX_POINTER_TEXT

    def text(self, place: _Place | None) -> str:
        """Write the pointer of a place."""
        parts: list[str] = []
        while place is not None:
            place, token = place
            parts.append(escape(token) if token.__class__ is str else str(token))
            self.left -= len(parts[-1]) + 1
            if self.left < 0:
                raise FirewallError(
                    Kind.MALFORMED,
                    f"the pointers of what differs are longer than {MAX_POINTER_TEXT} characters together",
                    pointer="/change/after",
                    fix="split the change",
                )
        parts.append("")
        return "/".join(parts[::-1])
