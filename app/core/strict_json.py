"""Step 1: bytes become a JSON document, or are refused with the member that is at fault.

JSON parsers disagree where RFC 8259 leaves room (duplicate keys, huge numbers, lone surrogates, NUL), and where two
readers disagree an attacker can show one change and make another. So a document here has exactly one reading.

The good path is all C. It must never let anything illegal through; it may doubt a legal document. Whatever it
doubts goes to `_explain`, which decides alone, precisely and without regard for speed (still linear).
"""

import json
import math
import re
from itertools import accumulate
from typing import Any, NamedTuple, NoReturn

import msgspec
import orjson

from app.core import pointer
from app.errors import FirewallError, Kind

# Deeper than any object of Kubernetes or Terraform; far from the recursion limit of every parser behind us.
MAX_DEPTH = 64

# What a document may hold of objects, arrays, texts, numbers: each costs a quarter of a microsecond to read, four to be
# told what is wrong with it, and meanwhile nothing else runs. A Kubernetes object has some hundred.
MAX_VALUES = 100_000

INT64_MIN = -(2**63)
INT64_MAX = 2**63 - 1

_decode = msgspec.json.Decoder().decode
_dumps = orjson.dumps

# INT64_MAX has 19 digits: a document without a run of 19 digits holds no integer beyond it.
_DIGIT_CLASS = bytes.maketrans(b"123456789", b"000000000")
_LONG_RUN = b"0" * len(str(INT64_MAX))

# orjson's, of one level.
_INDENT = b"  "
_STEPS = bytes.maketrans(b"{[}]", b"\x01\x01\xff\xff")
_NOT_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")

_BOM = b"\xef\xbb\xbf"
# Possessive, and a string without an end runs to the end of the text: linear on any input.
_TOKEN = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[\[\]{},:]', re.DOTALL)
_BEYOND_INT64 = 2**64  # stands for every integer whose digits alone say that it cannot fit


class Document(NamedTuple):
    """A JSON document that has exactly one reading: see `app.core.types.Json` for what holds in `tree`."""

    tree: Any


class _Repeated(dict[str, Any]):
    """An object that had a key twice, on its way to the walk that knows where it stands."""

    __slots__ = ("key",)

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        seen: set[str] = set()
        self.key = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]  # set.add is always None


def parse(body: bytes, *, max_depth: int = MAX_DEPTH, max_values: int | None = MAX_VALUES) -> Document:
    """Read a JSON document (RFC 8259, UTF-8) in the one way everybody must read it.

    `max_depth` counts nested objects and arrays; a scalar has depth 0. `max_values` is None where whoever wrote the
    document is trusted with the time that it takes. Integers come back as `int` and are exact within
    int64; numbers with a fraction or an exponent come back as `float`. `-0` is the integer 0, `-0.0` the float -0.0
    (both are written `0` in canonical form); a number too small for a double becomes 0.0, as IEEE 754 rounds it.

    Raises: FirewallError(MALFORMED) for an empty body, a byte order mark, invalid UTF-8, a syntax error, nesting
    beyond `max_depth`, a key that stands twice in one object (however it is escaped), NUL or a lone surrogate in a
    string, an integer outside int64, NaN, Infinity, a number beyond the range of a double; FirewallError(TOO_LARGE) for
    more than `max_values`. Never anything else.
    Does not check: the size of the body (`edge/body.py` does) and what the document says.
    """
    # A value takes two bytes at least, a digit and a comma.
    if max_values is not None and len(body) > 2 * max_values and _values(body, max_values) > max_values:
        raise FirewallError(
            Kind.TOO_LARGE,
            f"the document has more than {max_values} values",
            pointer="",
            fix="send digests of large values",
        )
    # Two of the escapes are left to `_explain`: NUL, and the one spelling of a quote that has no quote in it.
    if b"\\" in body and (b"\\u0000" in body or b"\\u0022" in body):
        return _explain(body, max_depth=max_depth, deep=True)
    try:
        tree = _decode(body)
        again = _dumps(tree, option=orjson.OPT_INDENT_2)
    except (msgspec.MsgspecError, orjson.JSONEncodeError, UnicodeDecodeError, RecursionError):
        return _explain(body, max_depth=max_depth, deep=True)
    # In the second text every line is indented by its depth, and a line break is never part of a string.
    if b"\n" + _INDENT * max_depth in again:
        return _explain(body, max_depth=max_depth, deep=True)
    # INVARIANT: equal counts mean that no key stood twice. Both texts are valid JSON and write a quote as `\"`, so each
    # count is twice the number of strings, names of members and values, and the quotes in them. Of two members of one
    # name the decoder keeps the last; each member that it drops takes at least its own name out of the second text, and
    # nothing ever enters that text. So the second count is smaller if anything was dropped, and equal if nothing was.
    if body.count(b'"') != again.count(b'"'):
        return _explain(body, max_depth=max_depth)
    if _LONG_RUN in body.translate(_DIGIT_CLASS) and _fault(tree) is not None:
        return _explain(body, max_depth=max_depth)
    return Document(tree)


def _without_strings(body: bytes) -> bytes:
    """The body without its strings, given that it is JSON."""
    # A backslash in JSON is only ever part of an escape. Without the pairs `\\` and `\"`, taken from the left as a
    # parser takes them, every quote that is left starts or ends a string.
    quotes = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    return b"".join(quotes.split(b'"')[::2])


def _values(body: bytes, enough: int) -> int:
    """How many values stand in a document, or a number that is larger and not above `enough`.

    Each follows a comma or opens what it stands in, but for the first. Of a text that is no JSON it says nothing.
    """
    counted = body.count(b",") + body.count(b"[") + body.count(b"{")
    if counted <= enough:
        return counted
    plain = _without_strings(body)
    return plain.count(b",") + plain.count(b"[") + plain.count(b"{")


def _deepest(body: bytes) -> int:
    """How deep objects and arrays nest, given that the body is JSON; of any other text the number says nothing."""
    steps = _without_strings(body).translate(_STEPS, _NOT_BRACKETS)
    return max(accumulate(memoryview(steps).cast("b")), default=0)


def _explain(body: bytes, *, max_depth: int, deep: bool = False) -> Document:
    """Decide what the good path doubted: the document after all, or the precise reason why not.

    `deep` says that it may nest too deep. Without it a text that is JSON nests at most `max_depth` deep.
    """
    if not body.strip(b" \t\r\n"):
        raise FirewallError(Kind.MALFORMED, "the body is empty", pointer="", fix="send a json document")
    if body.startswith(_BOM):
        raise FirewallError(
            Kind.MALFORMED,
            "the body starts with a byte order mark",
            pointer="",
            fix="send utf-8 without it (RFC 8259 section 8.1)",
        )
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FirewallError(
            Kind.MALFORMED, f"the body is not utf-8 at byte {error.start}", pointer="", fix="send json as utf-8"
        ) from None
    if deep and _deepest(body) > max_depth:
        _check_depth(text, max_depth=max_depth)
    try:
        tree = _reference.decode(text)
    except json.JSONDecodeError as error:
        _refuse_syntax(error)
    except RecursionError:
        # The text is no JSON, and was too deep before the parser could say where.
        raise _too_deep(max_depth, offset=0, path=[]) from None
    if (fault := _fault(tree)) is not None:
        where, detail, fix = fault
        raise FirewallError(Kind.MALFORMED, detail, pointer=where, fix=fix)
    return Document(tree)


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object of its members, marked when a name stands twice (names compare after their escapes are read)."""
    members = dict(pairs)
    return members if len(members) == len(pairs) else _Repeated(pairs)


def _integer(digits: str) -> int:
    """Read an integer; one of more digits than int64 has is not worth computing (and beyond 4300 Python refuses)."""
    return int(digits) if len(digits) <= len(str(INT64_MIN)) else _BEYOND_INT64


# The standard library's scanner is strict about everything but NaN, Infinity and lone surrogates, which `_fault` finds.
_reference = json.JSONDecoder(object_pairs_hook=_pairs, parse_int=_integer, strict=True)


def _refuse_syntax(error: json.JSONDecodeError) -> NoReturn:
    what = error.msg[:1].lower() + error.msg[1:].removesuffix(" at")
    raise FirewallError(
        Kind.MALFORMED,
        f"the body is not json: {what} at line {error.lineno}, column {error.colno}, offset {error.pos}",
        pointer="",
        fix="send one json document (RFC 8259)",
    )


def _too_deep(max_depth: int, *, offset: int, path: list[str | int]) -> FirewallError:
    return FirewallError(
        Kind.MALFORMED,
        f"more than {max_depth} objects and arrays are nested at offset {offset}",
        pointer=pointer.build(path),
        fix="flatten the document",
    )


def _check_depth(text: str, *, max_depth: int) -> None:
    """Refuse nesting beyond `max_depth`, before any parser that recurses sees the text.

    Works on any text: up to its first syntax error the tokens are those of JSON, and no parser goes beyond that.
    """
    path: list[str | int] = []
    key: str | None = None
    for token in _TOKEN.finditer(text):
        match text[token.start()]:
            case '"':
                key = token.group()
            case ":" if path and isinstance(path[-1], str):
                path[-1] = _unquote(key)
            case "," if path and isinstance(path[-1], int):
                path[-1] += 1
            case "{" | "[" as bracket:
                if len(path) == max_depth:
                    raise _too_deep(max_depth, offset=token.start(), path=path)
                path.append("" if bracket == "{" else 0)
            case "}" | "]" if path:
                path.pop()
            case _:
                pass


def _unquote(literal: str | None) -> str:
    """Read a string literal for use in a pointer; one that is no JSON stays as it is."""
    try:
        return str(json.loads(literal or '""'))
    except json.JSONDecodeError:
        return literal or ""


def _fault(tree: Any) -> tuple[str, str, str] | None:
    """Find the first value that no document may hold: its pointer, what is wrong, what to do. None if there is none."""
    stack: list[tuple[Any, tuple[Any, ...] | None]] = [(tree, None)]
    while stack:
        node, path = stack.pop()
        found: tuple[str, str] | None = None
        if isinstance(node, str):
            found = _string_fault(node)
        elif isinstance(node, float):
            if not math.isfinite(node):
                found = ("not a number that a double can hold", "send a finite number below 1.8e308, or a string")
        elif isinstance(node, int):
            if not INT64_MIN <= node <= INT64_MAX:
                found = ("an integer outside int64", "send it as a string")
        elif isinstance(node, dict):
            if isinstance(node, _Repeated):
                found = (f"the key `{_shown(node.key)}` stands twice in one object", "send each key once")
            else:
                for key in node:
                    if (bad := _string_fault(key)) is not None:
                        found = (bad[0].replace("a string", "a key"), bad[1])
                stack.extend((value, (path, key)) for key, value in node.items())
        elif isinstance(node, list):
            stack.extend((value, (path, position)) for position, value in enumerate(node))
        if found is not None:
            tokens: list[str | int] = []
            while path is not None:
                path, token = path
                tokens.append(token)
            return (pointer.build(tokens[::-1]), *found)
    return None


def _string_fault(text: str) -> tuple[str, str] | None:
    """Say what no string may hold. A pair of surrogate escapes has become one character before this is asked."""
    if "\0" in text:
        return ("NUL in a string", "remove `\\u0000`: databases and C libraries end a string there")
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            return ("a lone surrogate in a string", "send `\\ud800` to `\\udfff` only in pairs (RFC 8259 section 8.2)")
    return None


def _shown(key: str) -> str:
    """The key as an error text may repeat it: short, and encodable."""
    return key[:80].encode("utf-8", "replace").decode("utf-8").replace("\0", "?")
