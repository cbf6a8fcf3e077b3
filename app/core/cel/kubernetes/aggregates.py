"""Kubernetes' functions of lists: whether one is sorted, its sum, its extremes, where something is in it."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

from app.core.cel import texts
from app.core.cel.budget import Budget, spend
from app.core.cel.operators import add, equal, greater, less
from app.core.cel.values import CelError, Duration, Timestamp, UInt, no_overload, type_name

_SUMMABLE = frozenset({int, UInt, float, Duration})
_NUMBERS = frozenset({int, UInt, float})
_ORDERED = frozenset({bool, int, UInt, float, str, bytes, Timestamp, Duration})
_ELEMENT = 2


def _ordered(name: str, values: Any, budget: Budget) -> list[Any]:
    """Give a list whose elements can be compared with one another; Kubernetes passes over those that cannot."""
    if type(values) is not list:
        raise no_overload(name, values)
    spend(budget, len(values) * _ELEMENT)
    for value in values:
        if type(value) not in _ORDERED:
            raise CelError(f"`{name}`: `{type_name(value)}` has no order")
        if value != value:  # noqa: PLR0124 - NaN is the one number that is not itself
            raise CelError(f"`{name}`: NaN has no order")
    return values


def is_sorted(values: Any, budget: Budget) -> bool:
    """`list.isSorted()`: none is greater than the next."""
    listed = _ordered("isSorted", values, budget)
    return not any(greater(a, b, budget) for a, b in pairwise(listed))


def _extreme(name: str, better: Callable[[Any, Any, Budget], bool]) -> Callable[[Any, Budget], Any]:
    def pick(values: Any, budget: Budget) -> Any:
        listed = _ordered(name, values, budget)
        if not listed:
            raise CelError(f"`{name}` of an empty list")
        best = listed[0]
        for value in listed[1:]:
            if better(value, best, budget):
                best = value
        return best

    return pick


min_ = _extreme("min", less)
max_ = _extreme("max", greater)


def sum_of(zero: Any) -> Callable[[Any, Budget], Any]:
    """Make `list.sum()` for lists whose elements are of the kind of `zero`: it is the sum of an empty one."""

    def total(values: Any, budget: Budget) -> Any:
        if type(values) is not list:
            raise no_overload("sum", values)
        spend(budget, len(values) * _ELEMENT)
        if not values:
            return zero
        found = values[0]
        if type(found) not in _SUMMABLE:
            raise CelError(f"`sum`: `{type_name(found)}` cannot be added up")
        for value in values[1:]:
            found = add(found, value, budget)
        return found

    return total


sum_ = sum_of(0)


def _position(values: list[Any], item: Any, budget: Budget, *, backwards: bool) -> int:
    spend(budget, len(values))
    places = range(len(values) - 1, -1, -1) if backwards else range(len(values))
    return next((place for place in places if equal(values[place], item, budget)), -1)


def index_of(value: Any, part: Any, budget: Budget) -> int:
    """`value.indexOf(part)`: of a list or of a text, -1 if it is not there."""
    if type(value) is list:
        return _position(value, part, budget, backwards=False)
    return texts.index_of(value, part, budget)


def last_index_of(value: Any, part: Any, budget: Budget) -> int:
    """`value.lastIndexOf(part)`: of a list or of a text, -1 if it is not there."""
    if type(value) is list:
        return _position(value, part, budget, backwards=True)
    return texts.last_index_of(value, part, budget)


def includes(value: Any, item: Any, budget: Budget) -> bool:
    """`value.includes(item)`: it is in the list, or is equal to what is no list."""
    if type(value) is list:
        return _position(value, item, budget, backwards=False) >= 0
    return equal(value, item, budget)
