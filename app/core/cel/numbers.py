"""Functions of numbers: the extension "math"."""

import math
from collections.abc import Callable
from typing import Any

from app.core.cel.budget import Budget, spend
from app.core.cel.operators import greater, less
from app.core.cel.values import INT_MIN, UINT_MAX, CelError, UInt, no_overload

_NUMBERS = frozenset({int, UInt, float})
_BITS = 64


def _extreme(name: str, better: Callable[[Any, Any, Budget], bool]) -> Callable[..., Any]:
    def pick(*given: Any) -> Any:
        *arguments, budget = given
        values = arguments[0] if len(arguments) == 1 and type(arguments[0]) is list else arguments
        if any(type(value) not in _NUMBERS for value in values):
            raise no_overload(name, *arguments)
        if not values:
            raise CelError(f"`{name}` of nothing")
        spend(budget, len(values))
        best = values[0]
        for value in values:
            if better(value, best, budget):
                best = value
        return best

    return pick


greatest = _extreme("math.greatest", greater)
least = _extreme("math.least", less)


def _of_double(name: str, apply: Callable[[float], Any]) -> Callable[[Any], Any]:
    def function(value: Any) -> Any:
        if type(value) is float:
            return apply(value)
        raise no_overload(name, value)

    return function


def _whole(apply: Callable[[float], int]) -> Callable[[float], float]:
    """Round; what is infinite, no number, or zero stays, the sign of zero with it."""

    def rounded(value: float) -> float:
        return math.copysign(float(apply(value)), value) if math.isfinite(value) else value

    return rounded


ceil = _of_double("math.ceil", _whole(math.ceil))
floor = _of_double("math.floor", _whole(math.floor))
trunc = _of_double("math.trunc", _whole(math.trunc))
# Halves go away from zero. `floor(x + 0.5)` would round 0.49999999999999994 up.
round_ = _of_double(
    "math.round", _whole(lambda x: math.trunc(x) + (abs(x - math.trunc(x)) >= 0.5) * (1 if x > 0 else -1))
)
is_nan = _of_double("math.isNaN", math.isnan)
is_inf = _of_double("math.isInf", math.isinf)
is_finite = _of_double("math.isFinite", math.isfinite)


def absolute(value: Any) -> Any:
    """`math.abs(value)`."""
    if type(value) not in _NUMBERS:
        raise no_overload("math.abs", value)
    if type(value) is int and value == INT_MIN:
        raise CelError("integer overflow")
    return value if type(value) is UInt else abs(value)


def sign(value: Any) -> Any:
    """`math.sign(value)`: -1, 0 or 1 of the kind of the value."""
    kind = type(value)
    if kind not in _NUMBERS:
        raise no_overload("math.sign", value)
    if kind is float:
        return value if math.isnan(value) else float((value > 0) - (value < 0))
    return kind((value > 0) - (value < 0))


def square_root(value: Any) -> float:
    """`math.sqrt(value)`."""
    if type(value) not in _NUMBERS:
        raise no_overload("math.sqrt", value)
    number = float(value)
    return math.nan if number < 0 else math.sqrt(number)


def _bits(name: str, apply: Callable[[int, int], int]) -> Callable[[Any, Any], Any]:
    def function(a: Any, b: Any) -> Any:
        kind = type(a)
        if kind is type(b) and (kind is int or kind is UInt):
            return kind(apply(int(a), int(b)))
        raise no_overload(name, a, b)

    return function


bit_and = _bits("math.bitAnd", lambda a, b: a & b)
bit_or = _bits("math.bitOr", lambda a, b: a | b)
bit_xor = _bits("math.bitXor", lambda a, b: a ^ b)


def bit_not(value: Any) -> Any:
    """`math.bitNot(value)`."""
    if type(value) is int:
        return ~value
    if type(value) is UInt:
        return UInt(UINT_MAX - int(value))
    raise no_overload("math.bitNot", value)


def shift_left(value: Any, by: Any) -> Any:
    """`math.bitShiftLeft(value, by)`: what leaves the 64 bits is lost."""
    return _shifted("math.bitShiftLeft", value, by, lambda bits, count: bits << count)


def shift_right(value: Any, by: Any) -> Any:
    """`math.bitShiftRight(value, by)`: zeros come in, also for a negative number."""
    return _shifted("math.bitShiftRight", value, by, lambda bits, count: bits >> count)


def _shifted(name: str, value: Any, by: Any, shift: Callable[[int, int], int]) -> Any:
    kind = type(value)
    if type(by) is not int or (kind is not int and kind is not UInt):
        raise no_overload(name, value, by)
    if by < 0:
        raise CelError(f"`{name}` by a negative number: {by}")
    bits = 0 if by >= _BITS else shift(int(value) & UINT_MAX, by) & UINT_MAX
    if kind is UInt:
        return UInt(bits)
    return bits - (1 << _BITS) if bits >> (_BITS - 1) else bits
