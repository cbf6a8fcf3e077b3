"""The operators of CEL over Python values: equality, order, arithmetic, fields, indexes, membership, optionals.

CEL's language definition, sections "Values", "Operators" and "Standard Definitions". Three rules differ from Python's:
true is not 1; numbers of different kinds compare by value, an integer being turned into a double for a double; an
integer that leaves its 64 bits is an error. Every function takes any values and raises nothing but `CelError`.
"""

import math
import operator
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

from app.core.cel.budget import CHARACTERS_PER_STEP, Budget, spend, spend_characters, too_expensive
from app.core.cel.values import (
    INT_MAX,
    INT_MIN,
    NONE,
    UINT_MAX,
    CelError,
    Duration,
    MixedMap,
    Optional,
    Timestamp,
    UInt,
    no_overload,
    type_name,
)

_NUMBERS = frozenset({int, UInt, float})
_MAPS = frozenset({dict, MixedMap})
# Kinds whose values Python compares with one another as CEL does, in a time that does not depend on the values.
_PLAIN = frozenset({bool, int, UInt, float})
# What `path` can be told to give where there is nothing; never a value of an expression.
MISSING = object()
_QUOTED_MAX_CHARS = 120
# In steps: comparing two elements whatever they are.
_COMPARISON = 2
# A double tells integers below this from one another.
_EXACT = 1 << 53
_OVERFLOW = "integer overflow"


# --- equality and order ---------------------------------------------------------------------------------------------


def equal(a: Any, b: Any, budget: Budget) -> bool:
    """`a == b`, of any two values: those of kinds that cannot be compared differ."""
    kind = type(a)
    if kind is type(b):
        if kind is str or kind is bytes:
            budget[0] -= len(a) // CHARACTERS_PER_STEP
            if budget[0] < 0:
                raise too_expensive()
            return bool(a == b)
        if kind is list:
            return _equal_lists(a, b, budget)
        if kind is Optional:
            return bool(a.present == b.present) and equal(a.value, b.value, budget)
        if kind not in _MAPS:
            return bool(a == b)
    elif kind in _NUMBERS and type(b) in _NUMBERS:
        return bool(_comparable(a, b) == _comparable(b, a))
    if kind in _MAPS and type(b) in _MAPS:
        return _equal_maps(a, b, budget)
    return False


def _equal_lists(a: list[Any], b: list[Any], budget: Budget) -> bool:
    if len(a) != len(b):
        return False
    spend(budget, len(a) * _COMPARISON)
    for x, y in zip(a, b, strict=True):
        if type(x) is type(y) and type(x) in _PLAIN:
            if x != y:
                return False
        elif not equal(x, y, budget):
            return False
    return True


def _equal_maps(a: Any, b: Any, budget: Budget) -> bool:
    if len(a) != len(b):
        return False
    spend(budget, len(a) * _COMPARISON)
    for key, value in a.items():
        _pay_for_key(key, budget)
        other = b.get(key, MISSING)
        if other is MISSING or not equal(value, other, budget):
            return False
    return True


def _pay_for_key(key: Any, budget: Budget) -> None:
    """Pay for comparing a key with one that is equal."""
    if type(key) is str:
        spend_characters(budget, len(key))


def not_equal(a: Any, b: Any, budget: Budget) -> bool:
    """`a != b`."""
    return not equal(a, b, budget)


def _comparable(number: Any, other: Any) -> Any:
    """Turn an integer that is compared with a double into one: every engine loses precision beyond 2^53 here."""
    return float(number) if type(other) is float else number


def _ordered(name: str, compare: Callable[[Any, Any], bool]) -> Callable[[Any, Any, Budget], bool]:
    def order(a: Any, b: Any, budget: Budget) -> bool:
        kind = type(a)
        if kind is type(b):
            if kind in _PLAIN:
                return compare(a, b)
            if kind is str or kind is bytes:
                spend_characters(budget, min(len(a), len(b)))
                return compare(a, b)
            if kind is Timestamp or kind is Duration:
                return compare(a.nanoseconds, b.nanoseconds)
        elif kind in _NUMBERS and type(b) in _NUMBERS:
            return compare(_comparable(a, b), _comparable(b, a))
        raise no_overload(name, a, b)

    return order


less = _ordered("_<_", operator.lt)
less_equal = _ordered("_<=_", operator.le)
greater = _ordered("_>_", operator.gt)
greater_equal = _ordered("_>=_", operator.ge)


# --- arithmetic -----------------------------------------------------------------------------------------------------


def overflow() -> NoReturn:
    """Fail as an integer fails that leaves its 64 bits.

    Raises:
        CelError: always.
    """
    raise CelError(_OVERFLOW)


def _signed(value: int) -> int:
    if INT_MIN <= value <= INT_MAX:
        return value
    raise CelError(_OVERFLOW)


def _unsigned(value: int) -> UInt:
    if 0 <= value <= UINT_MAX:
        return UInt(value)
    raise CelError(_OVERFLOW)


def _duration(nanoseconds: int) -> Duration:
    if INT_MIN <= nanoseconds <= INT_MAX:
        return Duration(nanoseconds)
    raise CelError("duration out of range")


def _timestamp(nanoseconds: int) -> Timestamp:
    if TIMESTAMP_MIN <= nanoseconds <= TIMESTAMP_MAX:
        return Timestamp(nanoseconds)
    raise CelError("timestamp out of range")


# 0001-01-01T00:00:00Z to 9999-12-31T23:59:59.999999999Z
TIMESTAMP_MIN = -62_135_596_800 * 1_000_000_000
TIMESTAMP_MAX = 253_402_300_800 * 1_000_000_000 - 1


def add(a: Any, b: Any, budget: Budget) -> Any:
    """`a + b`: numbers of one kind, texts, bytes, lists, and spans of time."""
    kind = type(a)
    if kind is type(b):
        if kind is int:
            return _signed(a + b)
        if kind is str or kind is list or kind is bytes:
            spend_characters(budget, len(a) + len(b))
            return a + b
        if kind is float:
            return a + b
        if kind is UInt:
            return _unsigned(int(a) + int(b))
        if kind is Duration:
            return _duration(a.nanoseconds + b.nanoseconds)
    elif {kind, type(b)} == {Timestamp, Duration}:
        return _timestamp(a.nanoseconds + b.nanoseconds)
    raise no_overload("_+_", a, b)


def subtract(a: Any, b: Any) -> Any:
    """`a - b`."""
    kind = type(a)
    if kind is type(b):
        if kind is int:
            return _signed(a - b)
        if kind is float:
            return a - b
        if kind is UInt:
            return _unsigned(int(a) - int(b))
        if kind is Duration or kind is Timestamp:
            return _duration(a.nanoseconds - b.nanoseconds)
    elif kind is Timestamp and type(b) is Duration:
        return _timestamp(a.nanoseconds - b.nanoseconds)
    raise no_overload("_-_", a, b)


def multiply(a: Any, b: Any) -> Any:
    """`a * b`."""
    kind = type(a)
    if kind is type(b):
        if kind is int:
            return _signed(a * b)
        if kind is float:
            return a * b
        if kind is UInt:
            return _unsigned(int(a) * int(b))
    raise no_overload("_*_", a, b)


def divide(a: Any, b: Any) -> Any:
    """`a / b`: integers are cut towards zero, doubles follow IEEE 754."""
    kind = type(a)
    if kind is type(b):
        if kind is int or kind is UInt:
            if b == 0:
                raise CelError("divide by zero")
            quotient = abs(int(a)) // abs(int(b))
            return UInt(quotient) if kind is UInt else _signed(quotient if (a < 0) == (b < 0) else -quotient)
        if kind is float:
            if b != 0.0:
                return a / b
            if a == 0.0 or math.isnan(a):
                return math.nan
            return math.copysign(math.inf, a) * math.copysign(1.0, b)
    raise no_overload("_/_", a, b)


def remainder(a: Any, b: Any) -> Any:
    """`a % b`: the sign is that of `a`."""
    kind = type(a)
    if kind is type(b) and (kind is int or kind is UInt):
        if b == 0:
            raise CelError("modulus by zero")
        if kind is UInt:
            return UInt(int(a) % int(b))
        if a == INT_MIN and b == -1:
            raise CelError(_OVERFLOW)
        rest = abs(a) % abs(b)
        return -rest if a < 0 else rest
    raise no_overload("_%_", a, b)


def negate(a: Any) -> Any:
    """`-a`."""
    kind = type(a)
    if kind is int:
        return _signed(-a)
    if kind is float:
        return -a
    raise no_overload("-_", a)


def invert(a: Any) -> bool:
    """`!a`."""
    if type(a) is bool:
        return not a
    raise no_overload("!_", a)


def truth(value: Any, function: str) -> bool:
    """Give a value that must be a bool for `function`."""
    if type(value) is bool:
        return value
    raise no_overload(function, value)


# --- fields, indexes, membership ------------------------------------------------------------------------------------


def no_such_key(key: object) -> CelError:
    """Make the error of a map that does not have a key."""
    return CelError(f"no such key: `{_quoted(key)}`")


def _quoted(key: object) -> str:
    match key:
        case bool():
            return "true" if key else "false"
        case str():
            return key[:_QUOTED_MAX_CHARS]
        case float():
            return repr(key)
        case _:
            return str(key)


def select(value: Any, field: str) -> Any:
    """`value.field`, of a map or of an optional one."""
    kind = type(value)
    if kind is dict:
        if field in value:
            return value[field]
        raise no_such_key(field)
    if kind is MixedMap:
        found = value.get(field, MISSING)
        if found is MISSING:
            raise no_such_key(field)
        return found
    if kind is Optional:
        return optional_select(value, field)
    raise CelError(f"no field `{_quoted(field)}` in a value that is no map")


def has(value: Any, field: str) -> bool:
    """`has(value.field)`."""
    kind = type(value)
    if kind is dict:
        return field in value
    if kind is MixedMap:
        return value.get(field, MISSING) is not MISSING
    if kind is Optional:
        return optional_select(value, field).present
    raise CelError(f"no field `{_quoted(field)}` in a value that is no map")


def optional_select(value: Any, field: str) -> Optional:
    """`value.?field`."""
    found = path(value, (field,), MISSING)
    return NONE if found is MISSING else Optional(found)


def path(value: Any, fields: tuple[str, ...], default: Any) -> Any:
    """`value.?a.?b.orValue(default)`: what is there at the end, else the default."""
    if type(value) is Optional:
        if not value.present:
            return default
        value = value.value
    for field in fields:
        kind = type(value)
        if kind is dict:
            if field not in value:
                return default
            value = value[field]
        elif kind is MixedMap:
            value = value.get(field, MISSING)
            if value is MISSING:
                return default
        else:
            raise no_overload("_?._", value, field)
    return value


def index(value: Any, key: Any, budget: Budget) -> Any:
    """`value[key]`."""
    kind = type(value)
    if kind is list:
        position = key if type(key) is int else _position(key)
        if 0 <= position < len(value):
            return value[position]
        raise CelError(f"index out of range: {position} in a list of {len(value)}")
    if kind is dict or kind is MixedMap:
        _pay_for_key(key, budget)
        found = _look_up(value, key)
        if found is MISSING:
            raise no_such_key(key)
        return found
    if kind is Optional:
        return optional_index(value, key, budget)
    raise no_overload("_[_]", value, key)


def optional_index(value: Any, key: Any, budget: Budget) -> Optional:
    """`value[?key]`."""
    if type(value) is Optional:
        if not value.present:
            return NONE
        value = value.value
    kind = type(value)
    if kind is list:
        position = key if type(key) is int else _position(key)
        return Optional(value[position]) if 0 <= position < len(value) else NONE
    if kind is dict or kind is MixedMap:
        _pay_for_key(key, budget)
        found = _look_up(value, key)
        return NONE if found is MISSING else Optional(found)
    raise no_overload("_[?_]", value, key)


def _position(key: Any) -> int:
    """Give the whole number that is meant by an index that is no int."""
    if type(key) is UInt:
        return int(key)
    if type(key) is float and key.is_integer():
        return int(key)
    raise no_overload("_[_]", [], key)


def _look_up(value: Any, key: Any) -> Any:
    kind = type(key)
    if kind is float:
        # INVARIANT: only a double that is a whole number can be a key, as the integer it is.
        if not key.is_integer():
            return MISSING
        key = int(key)
    elif kind not in _KEYS:
        raise no_overload("_[_]", value, key)
    return value.get(key, MISSING)


_KEYS = frozenset({bool, int, UInt, str})


def contained(item: Any, collection: Any, budget: Budget) -> bool:
    """`item in collection`: an element of a list, or a key of a map."""
    kind = type(collection)
    if kind is list:
        if type(item) is str:
            # INVARIANT: Python and CEL agree on what is equal to a text, and to an integer that is neither 0 nor 1 (for
            # Python, these are also false and true) nor beyond the precision of a double.
            spend_characters(budget, len(collection) * (1 + len(item) // 100))
            return item in collection
        if type(item) is int and _EXACT > abs(item) > 1:
            spend_characters(budget, len(collection))
            return item in collection
        spend(budget, len(collection))
        return any(equal(item, element, budget) for element in collection)
    if (kind is dict or kind is MixedMap) and (type(item) in _KEYS or type(item) is float):
        _pay_for_key(item, budget)
        return _look_up(collection, item) is not MISSING
    raise no_overload("@in", item, collection)


def loop(value: Any, weight: int, budget: Budget) -> list[Any]:
    """Give what a macro with one variable goes over: the elements of a list, the keys of a map.

    `weight` is what one turn costs; all are paid for at the start.
    """
    kind = type(value)
    if kind is list:
        budget[0] -= len(value) * weight
        if budget[0] < 0:
            raise too_expensive()
        return value  # type: ignore[no-any-return]  # its exact type was just looked at
    if kind is dict or kind is MixedMap:
        found: list[Any] = list(value.keys())
        spend(budget, len(found) * weight)
        return found
    raise CelError(f"no matching overload: a loop goes over a list or a map, not over `{type_name(value)}`")


def loop_pairs(value: Any, weight: int, budget: Budget) -> list[tuple[Any, Any]]:
    """Give what a macro with two variables goes over: index and element of a list, key and value of a map."""
    kind = type(value)
    if kind is list:
        found = list(enumerate(value))
    elif kind is dict or kind is MixedMap:
        found = list(value.items())
    else:
        raise CelError(f"no matching overload: a loop goes over a list or a map, not over `{type_name(value)}`")
    spend(budget, len(found) * weight)
    return found


def make_map(entries: Iterable[tuple[Any, Any]]) -> dict[str, Any] | MixedMap:
    """Make a map; no key may come twice."""
    listed = list(entries)
    if all(type(key) is str for key, _ in listed):
        plain = dict(listed)
        if len(plain) == len(listed):
            return plain
        seen: set[str] = set()
        for key, _ in listed:
            if key in seen:
                _duplicate(key)
            seen.add(key)
    for key, _ in listed:
        if type(key) not in _KEYS:
            raise CelError("a key of a map must be a bool, an int, a uint or a string")
    mixed = MixedMap(listed)
    if len(mixed) != len(listed):
        raise CelError("duplicate key in a map")
    return mixed


def _duplicate(key: object) -> NoReturn:
    raise CelError(f"duplicate key in a map: `{_quoted(key)}`")


# --- optionals ------------------------------------------------------------------------------------------------------


def optional_value(value: Any) -> Any:
    """`optional.value()`."""
    if type(value) is not Optional:
        raise no_overload("value", value)
    if not value.present:
        raise CelError("optional.none() has no value")
    return value.value


def has_value(value: Any) -> bool:
    """`optional.hasValue()`."""
    if type(value) is not Optional:
        raise no_overload("hasValue", value)
    return bool(value.present)


def is_zero(value: Any) -> bool:
    """Tell whether a value is the zero of its kind."""
    kind = type(value)
    if kind is Duration:
        return bool(value.nanoseconds == 0)
    if kind is Timestamp:
        return bool(value.nanoseconds == 0)
    if kind is MixedMap:
        return len(value) == 0
    return value is None or (kind in _HAVE_ZERO and not value)


_HAVE_ZERO = frozenset({bool, int, UInt, float, str, bytes, list, dict})


def of_non_zero_value(value: Any) -> Optional:
    """`optional.ofNonZeroValue(value)`."""
    return NONE if is_zero(value) else Optional(value)
