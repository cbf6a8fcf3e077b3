"""RFC 8785 (JSON Canonicalization Scheme): one text for one value, so that a digest names a value."""

import math
from hashlib import sha256
from json.encoder import encode_basestring
from typing import Any

import msgspec
import orjson

from app.core.strict_json import INT64_MAX, INT64_MIN
from app.core.types import Json
from app.errors import FirewallError, Kind

_pack = msgspec.msgpack.Encoder().encode
_dumps = orjson.dumps
_SORTED = (
    orjson.OPT_SORT_KEYS
    | orjson.OPT_PASSTHROUGH_DATACLASS
    | orjson.OPT_PASSTHROUGH_DATETIME
    | orjson.OPT_PASSTHROUGH_SUBCLASS
)

# MessagePack tags: float64, and integers from 2^32 (among them those that int64 does not hold).
_PACKED_FLOAT = b"\xcb"
_PACKED_UINT64 = b"\xcf"
# First bytes of UTF-8 for code points from U+10000: only with those does UTF-16 order differ from code point order.
_SUPPLEMENTARY = (b"\xf0", b"\xf1", b"\xf2", b"\xf3", b"\xf4")


def canonical(value: Json) -> bytes:
    """Write a JSON value in the canonical form of RFC 8785.

    Numbers, beyond the RFC: every number that equals an int64 is written as that integer, exactly. RFC 8785 section
    3.2.2.3 reads all numbers as IEEE 754 doubles and would write 9007199254740993 and 9007199254740992 alike, but two
    different mutations must never share a digest. Up to 2^53 the two rules agree, and from 2^63 on the RFC's holds.
    `1` and `1.0` are one value and share one text, as do `0` and `-0.0`; no other two values do.

    Raises: FirewallError(MALFORMED) for NaN, Infinity, integers outside int64, lone surrogates and types beyond JSON.
    Does not check: duplicate keys (a dict has none), NUL, depth: `strict_json.parse` did.
    """
    return plain(value) or _exact(value)


def plain(value: Json) -> bytes | None:
    """Write the canonical form of a value without floats, which says everything about it; None for other values.

    May give None for any value; then `canonical` knows.
    """
    # The fast path leaves the writing to orjson where its rules are those of the RFC: no floats, no integer outside
    # int64, and keys that sort alike as UTF-8 and as UTF-16. A tag may be there by chance, in a text or a number.
    try:
        packed = _pack(value)
        if (_PACKED_FLOAT not in packed and _PACKED_UINT64 not in packed) or _is_plain(value):
            text = _dumps(value, option=_SORTED)
            if text.isascii() or not any(lead in text for lead in _SUPPLEMENTARY):
                return text
    except (TypeError, ValueError, OverflowError, RecursionError):
        pass  # the exact path says what is wrong
    return None


def digest(value: Json) -> str:
    """Name a JSON value by the SHA-256 of its canonical form: "sha256:" and 64 hex digits.

    Raises: as `canonical`.
    """
    return digest_of(canonical(value))


def digest_of(text: bytes) -> str:
    """Name a JSON value whose canonical form is `text`."""
    return "sha256:" + sha256(text).hexdigest()


def number(value: float) -> str:
    """Write a double as ECMAScript does (Number::toString, RFC 8785 section 3.2.2.3), but integers of int64 exactly.

    Raises: FirewallError(MALFORMED) for NaN and Infinity.
    """
    if not math.isfinite(value):
        raise FirewallError(Kind.MALFORMED, "not a finite number", fix="json has no NaN and no Infinity")
    if value.is_integer() and INT64_MIN <= value < -float(INT64_MIN):
        return str(int(value))
    # repr() gives the shortest digits that read back as this double, the closest of those: what ECMAScript asks for.
    text = repr(value)
    if "e" not in text:
        return text  # a fraction between 1e-4 and 2^53: written alike
    mantissa, _, exponent = repr(abs(value)).partition("e")
    whole, _, fraction = mantissa.partition(".")
    digits = (whole + fraction).lstrip("0")
    # The value is 0.DIGITS times ten to the power of `point`.
    point = len(whole) + int(exponent or 0) - (len(whole + fraction) - len(digits))
    digits = digits.rstrip("0")
    count = len(digits)
    if count <= point <= 21:
        text = digits + "0" * (point - count)
    elif 0 < point <= 21:
        text = f"{digits[:point]}.{digits[point:]}"
    elif -6 < point <= 0:
        text = f"0.{'0' * -point}{digits}"
    else:
        text = f"{digits[0]}{'.' if count > 1 else ''}{digits[1:]}e{point - 1:+d}"
    return "-" + text if value < 0 else text


def _is_plain(value: Any) -> bool:
    """Whether there is no float and no integer outside int64 anywhere."""
    stack: list[Any] = [[value]]
    while stack:
        node = stack.pop()
        for child in node.values() if isinstance(node, dict) else node:
            if isinstance(child, dict | list | tuple):
                stack.append(child)
            elif isinstance(child, float) or (isinstance(child, int) and not INT64_MIN <= child <= INT64_MAX):
                return False
    return True


class _Text(str):
    """A piece of output that waits on the stack, as opposed to a string value."""

    __slots__ = ()


def _exact(value: Any) -> bytes:
    """Write any JSON value by the letter of the RFC, without recursion."""
    out: list[str] = []
    stack: list[Any] = [value]
    while stack:
        node = stack.pop()
        if isinstance(node, _Text):
            out.append(node)
        elif isinstance(node, str):
            out.append(encode_basestring(node))
        elif node is None:
            out.append("null")
        elif isinstance(node, bool):
            out.append("true" if node else "false")
        elif isinstance(node, int):
            if not INT64_MIN <= node <= INT64_MAX:
                raise FirewallError(Kind.MALFORMED, "an integer outside int64", fix="send it as a string")
            out.append(int.__repr__(node))
        elif isinstance(node, float):
            out.append(number(node))
        elif isinstance(node, list | tuple):
            out.append("[")
            stack.append(_Text("]"))
            for position in range(len(node) - 1, -1, -1):
                stack.append(node[position])
                if position:
                    stack.append(_Text(","))
        elif isinstance(node, dict):
            out.append("{")
            stack.append(_Text("}"))
            keys = sorted(node, key=_utf16, reverse=True)
            for position, key in enumerate(keys, start=1):
                stack.append(node[key])
                stack.append(_Text(f"{',' if position < len(keys) else ''}{encode_basestring(key)}:"))
        else:
            raise FirewallError(Kind.MALFORMED, f"`{type(node).__name__}` is not a json type")
    try:
        return "".join(out).encode("utf-8")
    except UnicodeEncodeError:
        raise FirewallError(Kind.MALFORMED, "a lone surrogate in a string") from None


def _utf16(key: Any) -> bytes:
    """The key as RFC 8785 section 3.2.3 sorts it: big-endian code units compare as bytes."""
    if not isinstance(key, str):
        raise FirewallError(Kind.MALFORMED, f"a key of type `{type(key).__name__}` is not json")
    return key.encode("utf-16-be", "surrogatepass")
