"""Documents that somebody means ill with, made of good ones, and a second reader that agrees with nobody about them.

`hostile` changes the tree of a good document where it has something to say, and then perhaps its bytes. `reading` is
the reference: the standard library's reader, told of all that RFC 8259 leaves open. It shares no line with
`core/strict_json.py`.
"""

import copy
import json
import math
from typing import Any

from hypothesis import strategies as st

# Values as they stand in the text: what JSON does not have, what readers disagree about, what people cannot see.
VALUES = (
    *("NaN", "-Infinity", "1e400", "-0", "-0.0", "1e-400", "01", "+1", "0x10", "1.", ".5", "1_000", "--1"),
    *("9223372036854775807", "9223372036854775808", "-9223372036854775809", "1" * 400, "1.0", "1E2", "0.1e1"),
    *('"\\ud800"', '"\\udc00\\ud800"', '"\\ud83d\\ude00"', '"\\u0000"', '"a\\u0000b"', '"\\u001b[31m"', '"\\u202egnp"'),
    *('"\\r\\nX-Evil: 1"', '"\\u2028"', '"\\u200b"', '"\u202e"', '"\ufeff"', '"\u0430dmin"', '"\\x41"', '"\t"', '"\'"'),
    *('""', '" "', '"' + "a" * 5000 + '"', '"../../etc/passwd"', '"${jndi:x}"', '"<script>"', '"%00"', '"\U0010ffff"'),
    *(
        "[]",
        "{}",
        "null",
        "true",
        "false",
        "True",
        "None",
        "undefined",
        "'a'",
        "1 2",
        "[1,]",
        '{"a":1,}',
        "/**/1",
        "[,]",
    ),
    *('{"a":1,"a":2}', '{"a":1,"\\u0061":2}', '{"":{}}', '{"__proto__":{"a":1}}', '{"\\ud800":1}', '{"a\\u0000":1}'),
    *('[{"a":[1,{"b":null}]}]', "[" * 63 + "]" * 63, "[" * 70 + "]" * 70, '{"a":' * 70 + "1" + "}" * 70, "[" * 5000),
)
_KEYS = ("\u202e", "\u200b", "\n", " ", "\u0000", "\ud800", "x", "A", "\u0430")
_BYTES = (
    b"\xef\xbb\xbf",
    b"\xff",
    b"\x00",
    b"\xc0\x80",
    b"\xed\xa0\x80",
    b"{}",
    b",",
    b"]",
    b"}",
    b'"',
    b"\\",
    b"\n",
    b"NaN",
)


class Raw(str):
    """A text that stands in the document as it is."""

    __slots__ = ()


class Members(list[tuple[str, Any]]):
    """An object whose members may have one name twice; a name may be `Raw`."""


def written(node: Any, *, ascii_only: bool) -> str:
    """Write a tree of the above."""
    if isinstance(node, Raw):
        return node
    if isinstance(node, dict):
        node = Members(node.items())
    if isinstance(node, Members):
        parts = (
            f"{key if isinstance(key, Raw) else json.dumps(key, ensure_ascii=ascii_only)}:"
            f"{written(value, ascii_only=ascii_only)}"
            for key, value in node
        )
        return "{" + ",".join(parts) + "}"
    if isinstance(node, list):
        return "[" + ",".join(written(one, ascii_only=ascii_only) for one in node) + "]"
    return json.dumps(node, ensure_ascii=ascii_only)


def _places(node: Any, parent: Any = None, key: Any = None) -> list[tuple[Any, Any]]:
    """Every place of a tree but the root: what holds it, and where."""
    found = [] if parent is None else [(parent, key)]
    if isinstance(node, Members):
        for at, (_, value) in enumerate(node):
            found += _places(value, node, at)
    elif isinstance(node, list):
        for at, value in enumerate(node):
            found += _places(value, node, at)
    return found


def _opened(node: Any) -> Any:
    if isinstance(node, dict):
        return Members((key, _opened(value)) for key, value in node.items())
    return [_opened(one) for one in node] if isinstance(node, list) else node


def _value_at(holder: Any, at: int) -> Any:
    return holder[at][1] if isinstance(holder, Members) else holder[at]


def _put(holder: Any, at: int, value: Any) -> None:
    holder[at] = (holder[at][0], value) if isinstance(holder, Members) else value


def _spelt(name: str) -> Raw:
    """The same name, written with an escape."""
    return Raw('"' + (f"\\u{ord(name[0]):04x}{name[1:]}" if name else "") + '"')


@st.composite
def hostile(draw: Any, documents: list[Any]) -> bytes:
    """One document, changed at a few places."""
    root = [_opened(copy.deepcopy(draw(st.sampled_from(documents))))]
    for _ in range(draw(st.integers(0, 3))):
        places = _places(root)[1:] or [(root, 0)]
        holder, at = draw(st.sampled_from(places))
        value = _value_at(holder, at)
        match draw(
            st.sampled_from(("value", "value", "value", "drop", "twice", "spelt", "key", "wrap", "other", "many"))
        ):
            case "value":
                _put(holder, at, Raw(draw(st.sampled_from(VALUES))))
            case "drop" if holder is not root:
                del holder[at]
            case "twice" if isinstance(holder, Members):
                other = value if draw(st.booleans()) else Raw(draw(st.sampled_from(VALUES)))
                holder.insert(draw(st.integers(0, len(holder))), (holder[at][0], other))
            case "spelt" if isinstance(holder, Members) and not isinstance(holder[at][0], Raw):
                name = _spelt(holder[at][0])
                if draw(st.booleans()):
                    holder[at] = (name, value)
                else:
                    holder.append((name, Raw(draw(st.sampled_from(VALUES)))))
            case "key" if isinstance(holder, Members) and not isinstance(holder[at][0], Raw):
                name = holder[at][0] + draw(st.sampled_from(_KEYS))
                holder[at] = (name, value)
            case "wrap":
                depth = draw(st.sampled_from((1, 2, 60, 65, 100)))
                _put(holder, at, Raw("[" * depth + written(value, ascii_only=True) + "]" * depth))
            case "other":
                other_holder, other_at = draw(st.sampled_from(places))
                _put(holder, at, copy.deepcopy(_value_at(other_holder, other_at)))
            case "many" if isinstance(value, list) and not isinstance(value, Members):
                _put(holder, at, value * draw(st.sampled_from((2, 50, 1100))))
            case _:
                pass
    body: bytes = written(root[0], ascii_only=draw(st.booleans())).encode("utf-8", "surrogatepass")
    piece: bytes = draw(st.sampled_from(_BYTES))
    at = draw(st.integers(0, len(body)))
    match draw(st.sampled_from(("as it is",) * 6 + ("cut", "put", "head", "tail", "utf-16"))):
        case "cut":
            body = body[:at]
        case "put":
            body = body[:at] + piece + body[at:]
        case "head":
            body = piece + body
        case "tail":
            body += piece
        case "utf-16":
            body = body.decode("utf-8", "replace").encode("utf-16")
        case _:
            pass
    return body


def reading(body: bytes, *, max_depth: int = 64) -> Any:
    """The one reading of a document. Raises ValueError where there is none, or more than one."""

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a key stands twice")
        return found

    def constant(name: str) -> Any:
        raise ValueError(name)

    text = body.decode("utf-8", "strict")
    try:
        tree = json.loads(text, object_pairs_hook=members, parse_constant=constant)
    except RecursionError:
        raise ValueError("too deep") from None
    _one_reading(tree, max_depth)
    return tree


def _one_reading(node: Any, depth: int) -> None:
    if isinstance(node, str):
        node.encode("utf-8", "strict")
        if "\x00" in node:
            raise ValueError("NUL")
    elif isinstance(node, float) and not math.isfinite(node):
        raise ValueError("infinite")
    elif isinstance(node, int) and not -(2**63) <= node < 2**63:
        raise ValueError("outside int64")
    elif isinstance(node, dict | list):
        if not depth:
            raise ValueError("too deep")
        for one in (*node, *node.values()) if isinstance(node, dict) else node:
            _one_reading(one, depth - 1)
