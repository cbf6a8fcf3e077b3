"""The strict parser against a naive one: the standard library with every rule checked by hand."""

import json
import math
from typing import Any

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from app.core import strict_json
from app.core.strict_json import MAX_DEPTH, parse
from app.errors import FirewallError, Kind

_TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)
_KEYS = st.one_of(st.sampled_from(["a", "b", 'q"', "\\", "\\u0061", "é", "\U0001f600"]), _TEXT)
_SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.integers(-5, 5),
    st.floats(allow_nan=False, allow_infinity=False),
    _KEYS,
)
_TREES = st.recursive(
    _SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(_KEYS, inner, max_size=4)),
    max_leaves=30,
)


class _IllegalError(Exception):
    pass


def _naive(body: bytes) -> Any:
    """What the document is, by rules written down once more and without any shortcut."""

    def pairs(members: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in members}) != len(members):
            raise _IllegalError
        return dict(members)

    def constant(_: str) -> None:
        raise _IllegalError

    def depth(node: Any) -> int:
        children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
        return max(map(depth, children), default=0) + isinstance(node, dict | list)

    def check(node: Any) -> None:
        if isinstance(node, str):
            if "\0" in node or any(0xD800 <= ord(character) < 0xE000 for character in node):
                raise _IllegalError
        elif isinstance(node, float):
            if not math.isfinite(node):
                raise _IllegalError
        elif isinstance(node, int):
            if not -(2**63) <= node < 2**63:
                raise _IllegalError
        elif isinstance(node, dict):
            for key, value in node.items():
                check(key)
                check(value)
        elif isinstance(node, list):
            for value in node:
                check(value)

    try:
        text = body.decode("utf-8")
        if text.startswith("\ufeff"):
            raise _IllegalError
        tree = json.loads(text, object_pairs_hook=pairs, parse_constant=constant)
    except (ValueError, RecursionError) as error:
        raise _IllegalError from error
    check(tree)
    if depth(tree) > MAX_DEPTH:
        raise _IllegalError
    return tree


def _same(one: Any, other: Any) -> bool:
    """Equal, with the types and the sign of zero."""
    return repr(one) == repr(other)


def _agree(body: bytes) -> None:
    try:
        expected = _naive(body)
    except _IllegalError:
        with pytest.raises(FirewallError) as caught:
            parse(body)
        error = caught.value
        assert error.kind is Kind.MALFORMED
        assert error.pointer is not None
        # Every refusal can be sent to the caller.
        orjson.dumps([error.detail, error.pointer, error.fix])
    else:
        assert _same(parse(body).tree, expected)


@given(_TREES, st.booleans(), st.sampled_from([None, 1]))
def test_every_legal_document_is_read_as_it_is(tree, ascii_only, indent):
    _agree(json.dumps(tree, ensure_ascii=ascii_only, indent=indent).encode())


def _spelled(draw: Any, key: str) -> str:
    """A key with some of its characters as \\u escapes."""
    if draw(st.booleans()):
        return json.dumps(key, ensure_ascii=False)
    units = key.encode("utf-16-be")
    return '"' + "".join(f"\\u{units[i]:02x}{units[i + 1]:02X}" for i in range(0, len(units), 2)) + '"'


@st.composite
def _documents_with_repeated_keys(draw: Any, depth: int = 3) -> str:
    if depth == 0 or draw(st.integers(0, 3)) == 0:
        return json.dumps(draw(_SCALARS), ensure_ascii=draw(st.booleans()))
    inner = _documents_with_repeated_keys(depth=depth - 1)
    if draw(st.booleans()):
        return "[" + ",".join(draw(st.lists(inner, max_size=3))) + "]"
    count = draw(st.integers(0, 3))
    return "{" + ",".join(f"{_spelled(draw, draw(_KEYS))}:{draw(inner)}" for _ in range(count)) + "}"


@given(_documents_with_repeated_keys())
@settings(max_examples=300)
@example('{"a":1,"\\u0061":2}')
@example('{"a":{"x":"\\"","x":"\\\\"}}')
@example('{"q\\"":1,"q\\u0022":1}')
def test_a_dropped_member_never_goes_unnoticed(text):
    _agree(text.encode())


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(body):
    _agree(body)


_FRAGMENTS = [
    "{", "}", "[", "]", ",", ":", '"', "\\", '"a"', '"\\u0061"', '"\\u0000"', '"\\ud800"', '"\\udc00\\ud800"', "\\", "1", "-0", "-", "01",
    "1.", "1e400", "1e-400", "9223372036854775807", "9223372036854775808", "-9223372036854775808", "-9223372036854775809",
    "18446744073709551616", "0" * 30, "1" * 5000, "NaN", "-Infinity", "true", "nul", " ", "\t", "\n", "\ufeff", "\x00", "\x1f", "\x7f", "é", "[" * 40,
    "]" * 40, '{"a":' * 40, "}" * 40,
]  # fmt: skip


@given(st.lists(st.sampled_from(_FRAGMENTS), max_size=12).map("".join))
@settings(max_examples=400)
def test_fragments_of_json_are_read_or_refused(text):
    _agree(text.encode())


@given(_TREES, st.integers(0, 200), st.binary(max_size=3))
def test_damaged_json_is_read_or_refused(tree, position, damage):
    body = json.dumps(tree).encode()
    position %= len(body) + 1
    _agree(body[:position] + damage + body[position + 1 :])


@given(
    st.recursive(
        st.just([]), lambda inner: st.one_of(st.lists(inner, max_size=2), st.fixed_dictionaries({"k": inner}))
    ),
    st.integers(0, 70),
)
def test_depth_is_exact(tree, wrapped):
    for _ in range(wrapped):
        tree = [tree]
    _agree(json.dumps(tree).encode())


@pytest.mark.parametrize(
    ("body", "pointer", "detail"),
    [
        (b"", "", "the body is empty"),
        (b" \n", "", "the body is empty"),
        (b"\xef\xbb\xbf{}", "", "the body starts with a byte order mark"),
        (b'{"a":"\xff"}', "", "the body is not utf-8 at byte 6"),
        (b'{"a":\n "b" 1}', "", "the body is not json: expecting ',' delimiter at line 2, column 6, offset 11"),
        (b'{"a":[{"x":1,"x":2}]}', "/a/0", "the key `x` stands twice in one object"),
        (b'{"a":[{"x":1,"\\u0078":2}]}', "/a/0", "the key `x` stands twice in one object"),
        (b'{"\\ud800":1,"\\ud800":2}', "", "the key `?` stands twice in one object"),
        (b'{"a/b":["c","\\u0000"]}', "/a~1b/1", "NUL in a string"),
        (b'{"a":{"k\\u0000":1}}', "/a", "NUL in a key"),
        (b'{"a~":["\\ud800"]}', "/a~0/0", "a lone surrogate in a string"),
        (b'{"\\udfff":1}', "", "a lone surrogate in a key"),
        (b'{"\\ud800":{"a":NaN}}', "", "a lone surrogate in a key"),
        (b"[1,9223372036854775808]", "/1", "an integer outside int64"),
        (b"[18446744073709551616]", "/0", "an integer outside int64"),
        (b"[1e400]", "/0", "not a number that a double can hold"),
        (b"[NaN]", "/0", "not a number that a double can hold"),
        (b'{"a":[0,' + b"[" * 70, "/a/1" + "/0" * 62, "more than 64 objects and arrays are nested at offset 70"),
        (b'{"\x01":' * 65, '/"\x01"' * 64, "more than 64 objects and arrays are nested at offset 320"),
        (b'{"a":{"b":1,"c":' * 40, ("/a/c" * 32), "more than 64 objects and arrays are nested at offset 512"),
    ],
)
def test_a_refusal_says_where_and_what(body, pointer, detail):
    with pytest.raises(FirewallError) as caught:
        parse(body)
    assert (caught.value.pointer, caught.value.detail) == (pointer, detail)
    assert caught.value.fix


def test_a_pointer_too_long_to_show_ends_at_its_parent():
    with pytest.raises(FirewallError) as caught:
        parse(b'{"a":{"' + b"k" * 2000 + b'":"\\u0000"}}')
    assert caught.value.pointer == "/a"


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 1_000_000,
        b'{"a":' * 200_000,
        b'"' + b'\\"' * 500_000,
        b"[]" * 500_000,
        b"[" + b'"\\u0061",' * 100_000 + b"]",
        b"1" * 1_000_000,
        b'[{"a":1},' * 100_000,
    ],
    ids=["brackets", "objects", "open string", "pairs", "trailing comma", "digits", "unclosed"],
)
def test_a_mebibyte_of_malice_is_refused(body):
    with pytest.raises(FirewallError):
        parse(body)


def test_so_many_values_and_no_more():
    assert len(parse(b"[" + b"0," * 98 + b"0]", max_values=100).tree) == 99
    for body in (
        b"[" + b"0," * 100 + b"0]" + b" " * 100,
        b"[" + b"[]," * 99 + b"{}]",
        b"{" + b",".join(b'"%d":[]' % number for number in range(100)) + b"}",
    ):
        with pytest.raises(FirewallError) as caught:
            parse(body, max_values=100)
        assert caught.value.kind is Kind.TOO_LARGE
        assert caught.value.fix
        assert parse(body, max_values=None).tree
    # What stands in a text is no value.
    texts = ["a, b" * 100, '[{"' * 100, '\\",' * 100]
    assert parse(json.dumps(texts).encode(), max_values=10).tree == texts


@given(
    st.recursive(
        st.none() | st.integers(0, 9) | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_a_value_is_counted_once(tree):
    def values(node):
        inner = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
        return 1 + sum(values(one) for one in inner)

    body = json.dumps(tree).encode()
    counted = strict_json._values(body, 0)
    empty = body.count(b"[]") + body.count(b"{}")
    assert values(tree) - 1 <= counted <= values(tree) - 1 + empty


def test_depth_64_is_read_and_65_is_not():
    assert parse(b"[" * 64 + b"]" * 64).tree
    assert parse(b"[[[]]]", max_depth=3).tree == [[[]]]
    with pytest.raises(FirewallError):
        parse(b"[[[[]]]]", max_depth=3)
    with pytest.raises(FirewallError):
        parse(b"[" * 65 + b"]" * 65)
    assert parse(b"[" + b"[]," * 500 + b"{}]").tree[-1] == {}
    assert parse(
        rb'["\\\"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[", "\\"]'
    ).tree


def test_long_runs_of_digits_that_are_no_large_integers():
    digest = "1" * 64
    assert parse(f'{{"a":"{digest}","b":1.{digest},"c":9223372036854775807}}'.encode()).tree["a"] == digest


@given(_TREES)
def test_the_slow_path_reads_legal_documents_too(tree):
    assert _same(strict_json._explain(json.dumps(tree).encode(), max_depth=MAX_DEPTH, deep=True).tree, tree)


def test_a_text_too_deep_for_the_reference_parser_is_refused():
    with pytest.raises(FirewallError, match="nested"):
        strict_json._explain(b"[" * 100_000, max_depth=MAX_DEPTH)
