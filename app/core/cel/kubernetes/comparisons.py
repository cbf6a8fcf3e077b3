"""The comparisons that quantities and versions share by name."""

from typing import Any

from app.core.cel.budget import Budget, spend
from app.core.cel.kubernetes import quantities, versions
from app.core.cel.kubernetes.quantities import Quantity
from app.core.cel.kubernetes.versions import Version
from app.core.cel.values import no_overload

_COMPARISON = 5


def _compared(name: str, a: Any, b: Any, budget: Budget) -> int:
    spend(budget, _COMPARISON)
    if type(a) is Quantity and type(b) is Quantity:
        return quantities.compare(a, b)
    if type(a) is Version and type(b) is Version:
        return versions.compare(a, b)
    raise no_overload(name, a, b)


def compare_to(a: Any, b: Any, budget: Budget) -> int:
    """`a.compareTo(b)`: -1, 0 or 1."""
    return _compared("compareTo", a, b, budget)


def is_less_than(a: Any, b: Any, budget: Budget) -> bool:
    """`a.isLessThan(b)`."""
    return _compared("isLessThan", a, b, budget) < 0


def is_greater_than(a: Any, b: Any, budget: Budget) -> bool:
    """`a.isGreaterThan(b)`."""
    return _compared("isGreaterThan", a, b, budget) > 0
