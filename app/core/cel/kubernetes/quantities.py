"""Amounts of resources, `1500m` or `1Gi`: exact decimal numbers, held as Kubernetes holds them.

Kubernetes has two forms of the same number: an int64 with a decimal exponent where eighteen digits are enough, else a
decimal of any length. Conversions see the form (`1Pi` is "no integer" there), so it is kept; comparisons do not.
"""

import math
import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, ClassVar

from app.core.cel.budget import Budget, spend, spend_characters
from app.core.cel.values import INT_MAX, INT_MIN, CelError, Opaque, no_overload

_FORM = re.compile(r"([+-]?)([0-9]*+)(?:\.([0-9]*+))?([eEinumkKMGTP]*+[-+]?[0-9]*+)", re.ASCII)
_EXPONENT = re.compile(r"[eE]([+-]?[0-9]{1,19})", re.ASCII)
_DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}
_NANO = -9
# Digits with which Kubernetes tries the small form.
_SMALL_DIGITS = 18
_EXPONENT_MAX = (1 << 31) - 1
# Kubernetes has no such limits, and no protection: `1e999999999` plus one takes all of its memory. Nothing that anyone
# orders comes near.
_CHARS_MAX = 1_000
_DIGITS_MAX = 2_000
_SHOWN_MAX_BITS = 128
_SHOWN_MAX_EXPONENT = 30
# In steps: one operation, whatever the amounts are.
_OPERATION = 5


@dataclass(frozen=True, slots=True, eq=False)
class Quantity(Opaque):
    """`digits * 10 ** exponent`; `small` says that Kubernetes would hold it as an int64 with an exponent."""

    digits: int
    exponent: int
    small: bool
    type_name: ClassVar[str] = "kubernetes.Quantity"

    def __eq__(self, other: object) -> bool:
        """Compare by value, whatever the form."""
        return isinstance(other, Quantity) and compare(self, other) == 0

    __hash__ = None  # type: ignore[assignment]  # equal amounts have many forms

    def shown(self) -> str:
        """Write the number without a suffix, unless it is out of all proportion."""
        if self.digits.bit_length() > _SHOWN_MAX_BITS or abs(self.exponent) > _SHOWN_MAX_EXPONENT:
            return f"<{self.type_name}>"
        digits = tuple(map(int, str(abs(self.digits))))
        written = format(Decimal((int(self.digits < 0), digits, self.exponent)), "f")
        return written.rstrip("0").removesuffix(".") if "." in written else written


def parse(text: str) -> Quantity:
    """Read an amount.

    Raises:
        CelError: it is none.
    """
    if len(text) > _CHARS_MAX:
        raise CelError(f"a quantity has at most {_CHARS_MAX} characters")
    match = _FORM.fullmatch(text)
    if not text or match is None:
        raise CelError("a quantity is written as `1.5`, `500m`, `1Gi` or `1e3`")
    sign, whole, fraction, suffix = match.group(1), match.group(2), match.group(3) or "", match.group(4)
    binary = _BINARY.get(suffix)
    exponent = _exponent(suffix) if binary is None else 0
    number = (whole.lstrip("0") or "0") + fraction
    if binary is None:
        small = len(number) <= _SMALL_DIGITS and exponent - len(fraction) >= _NANO
    else:
        small = not fraction and len(number) + binary * 3 // 10 <= 14
    digits = int(number) << (binary or 0)
    exponent -= len(fraction)
    if small:
        return Quantity(-digits if sign == "-" else digits, exponent, True)
    if not whole and not fraction:
        raise CelError("a quantity has digits")
    return _large(digits, exponent, negative=sign == "-", capped=binary is not None)


def _exponent(suffix: str) -> int:
    exponent = _DECIMAL.get(suffix)
    if exponent is None:
        match = _EXPONENT.fullmatch(suffix)
        if match is None:
            raise CelError(f"`{suffix}` is no suffix of a quantity")
        exponent = int(match.group(1))
        if abs(exponent) > _EXPONENT_MAX:
            raise CelError("the exponent of a quantity has 32 bits")
    return exponent


def _large(digits: int, exponent: int, *, negative: bool, capped: bool) -> Quantity:
    """Make a decimal: what is finer than a nano is rounded up, away from zero; binary amounts end at 2^63 - 1."""
    if digits and exponent < _NANO:
        shift = _NANO - exponent
        if shift > _CHARS_MAX:
            digits = 1
        else:
            digits, rest = divmod(digits, 10**shift)
            digits += rest > 0
        exponent = _NANO
    elif digits:
        if exponent > _DIGITS_MAX:
            raise _out_of_range()
        digits, exponent = digits * 10 ** (exponent - _NANO), _NANO
    else:
        exponent = 0
    if capped and digits > INT_MAX * 10 ** -min(exponent, 0):
        digits, exponent = INT_MAX, 0
    return Quantity(-digits if negative else digits, exponent, False)


def _out_of_range() -> CelError:
    return CelError(f"a quantity of more than {_DIGITS_MAX} digits")


def compare(a: Quantity, b: Quantity) -> int:
    """Give -1, 0 or 1 as `a` is less than, equal to or greater than `b`."""
    if a.exponent == b.exponent or not a.digits or not b.digits or (a.digits < 0) != (b.digits < 0):
        return (a.digits > b.digits) - (a.digits < b.digits)
    farther = 1 if a.digits > 0 else -1
    # The exponents can be far apart, so lengths are looked at before anything is written out.
    a_least, a_most = _lengths(a)
    b_least, b_most = _lengths(b)
    if a_least > b_most:
        return farther
    if a_most < b_least:
        return -farther
    lowest = min(a.exponent, b.exponent)
    x: int = a.digits * 10 ** (a.exponent - lowest)
    y: int = b.digits * 10 ** (b.exponent - lowest)
    return (x > y) - (x < y)


def _lengths(value: Quantity) -> tuple[int, int]:
    """Give bounds for the number of digits before the point."""
    bits = value.digits.bit_length()
    return (bits - 1) * 30_102 // 100_000 + value.exponent, bits * 30_103 // 100_000 + 1 + value.exponent


def plus(a: Quantity, b: Quantity) -> Quantity:
    """Add.

    Raises:
        CelError: the sum has too many digits.
    """
    if a.small and b.small:
        if b.digits == 0:
            return a
        if a.digits == 0:
            return b
    lowest = min(a.exponent, b.exponent)
    if max(a.exponent, b.exponent) - lowest > _DIGITS_MAX:
        raise _out_of_range()
    x, y = a.digits * 10 ** (a.exponent - lowest), b.digits * 10 ** (b.exponent - lowest)
    small = a.small and b.small and all(INT_MIN <= value <= INT_MAX for value in (x, y, x + y))
    return Quantity(x + y, lowest, small)


def _negated(value: Quantity) -> Quantity:
    return Quantity(-value.digits, value.exponent, value.small and value.digits != INT_MIN)


def _whole(value: Quantity) -> int | None:
    """Give the int64 that Kubernetes sees in an amount; it does not look for one in `1000m` nor in a decimal."""
    if not value.small or value.exponent < 0 or (value.exponent > _SMALL_DIGITS and value.digits):
        return None
    number: int = value.digits * 10**value.exponent if value.digits else 0
    return number if INT_MIN <= number <= INT_MAX else None


# --- functions ------------------------------------------------------------------------------------------------------


def quantity(text: Any, budget: Budget) -> Quantity:
    """`quantity(text)`."""
    if type(text) is not str:
        raise no_overload("quantity", text)
    spend(budget, _OPERATION)
    spend_characters(budget, min(len(text), _CHARS_MAX) * _OPERATION)
    return parse(text)


def is_quantity(text: Any, budget: Budget) -> bool:
    """`isQuantity(text)`."""
    if type(text) is not str:
        raise no_overload("isQuantity", text)
    try:
        quantity(text, budget)
    except CelError:
        return False
    return True


def sign(value: Any) -> int:
    """`quantity.sign()`: -1, 0 or 1."""
    amount = _amount("sign", value)
    return (amount.digits > 0) - (amount.digits < 0)


def is_integer(value: Any) -> bool:
    """`quantity.isInteger()`: whether `asInteger` gives an int."""
    return _whole(_amount("isInteger", value)) is not None


def as_integer(value: Any) -> int:
    """`quantity.asInteger()`."""
    number = _whole(_amount("asInteger", value))
    if number is None:
        raise CelError("cannot convert the quantity to an integer")
    return number


def as_approximate_float(value: Any) -> float:
    """`quantity.asApproximateFloat()`: infinite where a double ends."""
    amount = _amount("asApproximateFloat", value)
    try:
        base = float(amount.digits)
    except OverflowError:
        base = math.inf if amount.digits > 0 else -math.inf
    return base if amount.exponent == 0 else base * _power_of_ten(amount.exponent)


def _power_of_ten(exponent: int) -> float:
    """Give a power of ten as Go's `math.Pow10`, which multiplies two others."""
    if exponent > 308:
        return math.inf
    if exponent < -323:
        return 0.0
    high, low = divmod(abs(exponent), 32)
    if exponent >= 0:
        return float(f"1e{high * 32}") * float(f"1e{low}")
    return float(f"1e-{high * 32}") / float(f"1e{low}")


def add(value: Any, other: Any, budget: Budget) -> Quantity:
    """`quantity.add(other)`: of a quantity or an int."""
    spend(budget, _OPERATION)
    return plus(_amount("add", value), _operand("add", value, other))


def sub(value: Any, other: Any, budget: Budget) -> Quantity:
    """`quantity.sub(other)`: of a quantity or an int."""
    spend(budget, _OPERATION)
    return plus(_amount("sub", value), _negated(_operand("sub", value, other)))


def _amount(name: str, value: Any) -> Quantity:
    if type(value) is Quantity:
        return value
    raise no_overload(name, value)


def _operand(name: str, value: Any, other: Any) -> Quantity:
    if type(other) is Quantity:
        return other
    if type(other) is int:
        return Quantity(other, 0, True)
    raise no_overload(name, value, other)
