"""From one type to another: `int uint double string bytes bool type`, and base64."""

import base64
import binascii
import math
import re
from typing import Any

from app.core.cel.budget import Budget, spend_characters
from app.core.cel.instants import duration_text, timestamp_text
from app.core.cel.values import (
    INT_MAX,
    INT_MIN,
    TYPES,
    UINT_MAX,
    CelError,
    Duration,
    Opaque,
    Timestamp,
    TypeValue,
    UInt,
    no_overload,
    type_name,
)

_WHOLE = re.compile(r"[+-]?[0-9]{1,40}", re.ASCII)
_UNSIGNED = re.compile(r"\+?[0-9]{1,40}", re.ASCII)
_DOUBLE = re.compile(
    r"[+-]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|inf(?:inity)?|nan)", re.ASCII | re.IGNORECASE
)
_SPACE = " \t\n\v\f\r"
_DOUBLE_MAX_CHARS = 400
_TRUE = frozenset({"true", "True", "TRUE", "t", "1"})
_FALSE = frozenset({"false", "False", "FALSE", "f", "0"})
_SPACES = re.compile(r"[ \t\n\v\f\r]+")


def to_int(value: Any) -> int:
    """`int(value)`: a double is cut towards zero, a timestamp gives its seconds since 1970."""
    kind = type(value)
    if kind is int:
        return int(value)
    if kind is UInt:
        if value <= INT_MAX:
            return int(value)
        raise CelError("uint out of the range of int")
    if kind is float:
        # Both limits are powers of two, -2^63 and 2^63, and exact as doubles; neither is let through.
        if INT_MIN < value < INT_MAX:
            return int(value)
        raise CelError("double out of the range of int")
    if kind is str:
        text = value.strip(_SPACE)
        if _WHOLE.fullmatch(text) and INT_MIN <= int(text) <= INT_MAX:
            return int(text)
        raise CelError("cannot convert string to int")
    if kind is Timestamp:
        return int(value.nanoseconds // 1_000_000_000)
    raise no_overload("int", value)


def to_uint(value: Any) -> UInt:
    """`uint(value)`."""
    kind = type(value)
    if kind is UInt:
        return UInt(value)
    if kind is int:
        if value >= 0:
            return UInt(value)
        raise CelError("int out of the range of uint")
    if kind is float:
        if 0 <= value < UINT_MAX:
            return UInt(math.trunc(value))
        raise CelError("double out of the range of uint")
    if kind is str:
        text = value.strip(_SPACE)
        if _UNSIGNED.fullmatch(text) and int(text) <= UINT_MAX:
            return UInt(text)
        raise CelError("cannot convert string to uint")
    raise no_overload("uint", value)


def to_double(value: Any) -> float:
    """`double(value)`."""
    kind = type(value)
    if kind is float or kind is int or kind is UInt:
        return float(value)
    if kind is str:
        text = value.strip(_SPACE)
        if len(text) <= _DOUBLE_MAX_CHARS and _DOUBLE.fullmatch(text):
            return float(text)
        raise CelError("cannot convert string to double")
    raise no_overload("double", value)


def to_bool(value: Any) -> bool:
    """`bool(value)`."""
    if type(value) is bool:
        return value
    if type(value) is str:
        if value in _TRUE:
            return True
        if value in _FALSE:
            return False
        raise CelError("cannot convert string to bool")
    raise no_overload("bool", value)


def to_bytes(value: Any, budget: Budget) -> bytes:
    """`bytes(value)`: a text in UTF-8."""
    if type(value) is str:
        spend_characters(budget, len(value))
        return value.encode()
    if type(value) is bytes:
        return value
    raise no_overload("bytes", value)


def to_string(value: Any, budget: Budget) -> str:
    """`string(value)`."""
    kind = type(value)
    if kind is str:
        return str(value)
    if kind is int or kind is UInt:
        return str(int(value))
    if kind is bool:
        return "true" if value else "false"
    if kind is float:
        return double_text(value)
    if kind is bytes:
        spend_characters(budget, len(value))
        try:
            return str(value, "utf-8")
        except UnicodeDecodeError:
            raise CelError("the bytes are not UTF-8") from None
    if kind is Timestamp:
        return timestamp_text(value)
    if kind is Duration:
        return duration_text(value)
    if isinstance(value, Opaque) and (text := value.text()) is not None:
        return text
    raise no_overload("string", value)


def double_text(value: float) -> str:
    """Write a double with as few digits as tell it from all others: `1`, `0.5`, `1e+06`."""
    if not math.isfinite(value):
        return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    if value == 0:
        return "-0" if math.copysign(1.0, value) < 0 else "0"
    # `repr` gives those digits, in another form.
    digits_text = repr(abs(value))
    base, _, power = digits_text.partition("e")
    whole, _, fraction = base.partition(".")
    fraction = "" if fraction == "0" else fraction
    digits = (whole + fraction).lstrip("0")
    exponent = (int(power) if power else 0) + len(whole) - 1
    if whole == "0":
        exponent = (int(power) if power else 0) - (len(fraction) - len(fraction.lstrip("0"))) - 1
    digits = digits.rstrip("0") or "0"
    sign = "-" if value < 0 else ""
    if exponent < -4 or exponent >= 6:
        tail = f".{digits[1:]}" if len(digits) > 1 else ""
        return f"{sign}{digits[0]}{tail}e{exponent:+03}"
    if exponent < 0:
        return f"{sign}0.{'0' * (-exponent - 1)}{digits}"
    padded = digits.ljust(exponent + 1, "0")
    tail = f".{padded[exponent + 1 :]}" if len(padded) > exponent + 1 else ""
    return f"{sign}{padded[: exponent + 1]}{tail}"


def type_of(value: Any) -> TypeValue:
    """`type(value)`."""
    name = type_name(value)
    return TYPES.get(name) or TypeValue(name)


def base64_encode(value: Any, budget: Budget) -> str:
    """`base64.encode(bytes)`."""
    if type(value) is not bytes:
        raise no_overload("base64.encode", value)
    spend_characters(budget, len(value))
    return base64.b64encode(value).decode("ascii")


def base64_decode(value: Any, budget: Budget) -> bytes:
    """`base64.decode(text)`: white space does not count, and all of the padding may be missing."""
    if type(value) is not str:
        raise no_overload("base64.decode", value)
    spend_characters(budget, len(value))
    text = _SPACES.sub("", value)
    try:
        return base64.b64decode(text if "=" in text else text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise CelError("invalid base64") from None
