"""Functions of lists: the extensions "lists" and "sets"."""

from collections.abc import Callable
from typing import Any

from app.core.cel.budget import Budget, spend, spend_characters
from app.core.cel.operators import contained
from app.core.cel.values import NONE, CelError, Duration, Optional, Timestamp, UInt, no_overload, type_name

_SORTABLE = frozenset({bool, int, UInt, float, str, bytes, Timestamp, Duration})
_HASHABLE = frozenset({str, bytes})
_NUMBERS = frozenset({int, UInt, float})
_EXACT = 1 << 53


def slice_(values: Any, start: Any, end: Any, budget: Budget) -> list[Any]:
    """`list.slice(start, end)`."""
    if type(values) is not list or type(start) is not int or type(end) is not int:
        raise no_overload("slice", values, start, end)
    if not 0 <= start <= end <= len(values):
        raise CelError(f"cannot slice from {start} to {end} in a list of {len(values)}")
    spend_characters(budget, end - start)
    return list(values[start:end])


def flatten(values: Any, *rest: Any) -> list[Any]:
    """`list.flatten([depth])`: one level of lists in it, or as many as said."""
    *depths, budget = rest
    depth = depths[0] if depths else 1
    if type(values) is not list or type(depth) is not int:
        raise no_overload("flatten", values, *depths)
    if depth < 0:
        raise CelError("flatten: the depth is not negative")
    found: list[Any] = values
    while depth > 0 and any(type(value) is list for value in found):
        flat: list[Any] = []
        for value in found:
            flat.extend(value if type(value) is list else (value,))
        spend(budget, len(flat) + len(found))
        found, depth = flat, depth - 1
    spend(budget, len(found))
    return found


def reverse(value: Any, budget: Budget) -> Any:
    """`list.reverse()` and `text.reverse()`."""
    if type(value) is list or type(value) is str:
        spend_characters(budget, len(value))
        return value[::-1]
    raise no_overload("reverse", value)


def range_(count: Any, budget: Budget) -> list[int]:
    """`lists.range(count)`."""
    if type(count) is not int:
        raise no_overload("lists.range", count)
    if count < 0:
        raise CelError("lists.range: the count is not negative")
    spend(budget, count)
    return list(range(count))


def first(values: Any) -> Optional:
    """`list.first()`."""
    if type(values) is list:
        return Optional(values[0]) if values else NONE
    raise no_overload("first", values)


def last(values: Any) -> Optional:
    """`list.last()`."""
    if type(values) is list:
        return Optional(values[-1]) if values else NONE
    raise no_overload("last", values)


def distinct(values: Any, budget: Budget) -> list[Any]:
    """`list.distinct()`: the first of those that are equal."""
    if type(values) is not list:
        raise no_overload("distinct", values)
    found: list[Any] = []
    others: list[Any] = []
    seen: set[Any] = set()
    spend(budget, len(values))
    for value in values:
        kind = type(value)
        if kind in _HASHABLE:
            spend_characters(budget, len(value))
        # Numbers below this compare exactly, and hash as they compare. NaN is not below; true and false are no numbers.
        if kind in _HASHABLE or (kind in _NUMBERS and abs(value) < _EXACT):
            if value not in seen:
                seen.add(value)
                found.append(value)
        elif not contained(value, others, budget):
            others.append(value)
            found.append(value)
    return found


def sort(values: Any, budget: Budget) -> list[Any]:
    """`list.sort()`: of elements of one kind that has an order."""
    return sort_by_keys(values, values, budget)


def sort_by_keys(values: Any, keys: Any, budget: Budget) -> list[Any]:
    """Sort by keys of one kind, what `list.sortBy(x, key)` expands to; equal keys keep their order."""
    if type(values) is not list or type(keys) is not list:
        raise no_overload("sort", values)
    if keys and type(keys[0]) not in _SORTABLE:
        raise CelError(f"sort: `{type_name(keys[0])}` has no order")
    if any(type(key) is not type(keys[0]) for key in keys):
        raise CelError("sort: the elements are not of one type")
    rounds = len(values).bit_length()
    spend(budget, len(values) * rounds)
    if keys and type(keys[0]) in _HASHABLE:
        spend_characters(budget, sum(map(len, keys)) * rounds)
    key_of: Callable[[int], Any] = keys.__getitem__
    if keys and type(keys[0]) in _TIMES:
        key_of = [key.nanoseconds for key in keys].__getitem__
    return [values[position] for position in sorted(range(len(values)), key=key_of)]


_TIMES = frozenset({Timestamp, Duration})


def _all_in(part: list[Any], whole: list[Any], budget: Budget) -> bool:
    return all(contained(value, whole, budget) for value in part)


def sets_contains(whole: Any, part: Any, budget: Budget) -> bool:
    """`sets.contains(whole, part)`."""
    _lists("sets.contains", whole, part)
    return _all_in(part, whole, budget)


def sets_equivalent(a: Any, b: Any, budget: Budget) -> bool:
    """`sets.equivalent(a, b)`."""
    _lists("sets.equivalent", a, b)
    return _all_in(a, b, budget) and _all_in(b, a, budget)


def sets_intersects(a: Any, b: Any, budget: Budget) -> bool:
    """`sets.intersects(a, b)`."""
    _lists("sets.intersects", a, b)
    return any(contained(value, b, budget) for value in a)


def _lists(name: str, a: Any, b: Any) -> None:
    if type(a) is not list or type(b) is not list:
        raise no_overload(name, a, b)
