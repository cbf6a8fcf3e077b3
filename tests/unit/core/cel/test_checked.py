"""The reader of checked expressions: what the engine writes comes out as a tree, what nobody writes is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.cel import ExpressionError, ResultType, engine, instrument
from app.core.cel.checked import (
    Call,
    Comprehension,
    Constant,
    Identifier,
    ListLiteral,
    MalformedTreeError,
    MapLiteral,
    MessageLiteral,
    Select,
    read_checked,
)
from app.core.cel.values import Duration, Timestamp, UInt


def serialised(text):
    return engine._ENVIRONMENT.compile(text).serialize()


def root(text):
    return read_checked(serialised(text)).root


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("null", None),
        ("true", True),
        ("-9223372036854775808", -(2**63)),
        ("18446744073709551615u", UInt(2**64 - 1)),
        ("1.5", 1.5),
        ("'é😀'", "é😀"),
        ("b'\\xff\\x00'", b"\xff\x00"),
        ("''", ""),
    ],
)
def test_constants(text, value):
    node = root(text)
    assert isinstance(node, Constant)
    assert node.value == value
    assert type(node.value) is type(value)


def test_nodes():
    assert isinstance(root("change"), Identifier)
    select = root("has(change.a)")
    assert isinstance(select, Select)
    assert (select.field, select.test_only) == ("a", True)
    call = root("change.a.startsWith('b')")
    assert isinstance(call, Call)
    assert (call.function, call.member, len(call.arguments)) == ("startsWith", True, 2)
    listed = root("[1, ?optional.of(2), ?optional.of(3)]")
    assert isinstance(listed, ListLiteral)
    assert listed.optional == {1, 2}
    mapped = root("{'a': 1, ?'b': optional.of(2)}")
    assert isinstance(mapped, MapLiteral)
    assert [entry.optional for entry in mapped.entries] == [False, True]
    assert isinstance(root("google.protobuf.Duration{seconds: 1}"), MessageLiteral)
    loop = root("change.all(k, v, true)")
    assert isinstance(loop, Comprehension)
    assert (loop.variable, loop.second_variable, loop.accumulator) == ("k", "v", "@result")
    dotted = root("google.protobuf.Timestamp == type(now)")
    assert isinstance(dotted, Call)
    assert isinstance(dotted.arguments[0], Identifier)
    assert dotted.arguments[0].name == "google.protobuf.Timestamp"


def test_positions_are_code_points():
    checked = read_checked(serialised("'é😀' == change.abc"))
    assert isinstance(checked.root, Call)
    assert checked.positions[checked.root.id] == 5


DATA = [
    serialised(text)
    for text in (
        "change.a == 1 && [1.5].exists(x, x > 1.0)",
        "{'a': b'x', 'b': 1u}.a == b'x'",
        "[?optional.of(1)] == []",
    )
]


@pytest.mark.parametrize("data", DATA)
def test_every_part_of_a_tree_is_refused_or_read(data):
    refused = 0
    for end in range(len(data)):
        try:
            read_checked(data[:end])
        except MalformedTreeError:
            refused += 1
    assert refused > len(data) // 2


@given(st.sampled_from(DATA), st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=8))
def test_no_other_error_whatever_is_in_it(data, changes):
    changed = bytearray(data)
    for place, byte in changes:
        changed[place % len(changed)] = byte
    try:
        read_checked(bytes(changed))
    except MalformedTreeError:
        return


@given(st.binary(max_size=60))
def test_no_other_error_for_any_bytes(data):
    try:
        read_checked(data)
    except MalformedTreeError:
        return


def field(number, data):
    assert number < 16
    size = bytearray()
    length = len(data)
    while True:
        size.append(length & 0x7F | (0x80 if length > 0x7F else 0))
        length >>= 7
        if not length:
            return bytes([number << 3 | 2]) + bytes(size) + data


def tree(node):
    return field(2, field(4, node))


@pytest.mark.parametrize(
    "node",
    [
        b"",  # nothing at all
        b"\x10\x01",  # only an id
        field(15, b""),  # a kind that does not exist
        field(3, b""),  # a constant of no kind
        field(3, field(15, b"")),  # a constant of an unknown kind
        field(3, b"\x2a\x01a"),  # a double of one byte
        b"\x18\x01",  # a constant that is a number
        b"\x1b",  # a group
        b"\x1a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",  # a length of more than 64 bits
        field(3, field(6, b"\xff")),  # no UTF-8
        field(5, b"\x08\x01"),  # an operand that is a number
        field(5, b"\x1a\x00"),  # `test_only` that is a text
    ],
)
def test_forms_that_do_not_exist(node):
    with pytest.raises(MalformedTreeError):
        read_checked(tree(node))


def test_depth_has_a_limit():
    node = field(3, field(6, b"x"))
    for _ in range(501):
        node = field(5, field(1, node) + field(2, b"a"))
    with pytest.raises(MalformedTreeError):
        read_checked(tree(node))


def test_forms_the_engine_does_not_write_but_could():
    # Seconds and nanoseconds as constants, and positions one by one.
    node = field(3, field(9, b"\x08\x02\x10\x03"))
    assert read_checked(tree(node)).root == Constant(0, Timestamp(2_000_000_003))
    node = field(3, field(8, b"\x08\x02"))
    assert read_checked(tree(node)).root == Constant(0, Duration(2_000_000_000))
    node = field(7, field(1, field(3, b"\x10\x01")) + b"\x10\x00")
    assert read_checked(tree(node)).root == ListLiteral(0, (Constant(0, True),), frozenset({0}))
    # A field of fixed width that is not known is passed over.
    assert read_checked(tree(field(3, b"\x10\x01" + b"\x3d1234"))).root == Constant(0, True)


def test_a_tree_that_cannot_be_read_refuses_the_policy(monkeypatch):
    def unreadable(_data):
        raise MalformedTreeError("the engine's checked expression cannot be read (`ValueError`)")

    monkeypatch.setattr(instrument, "read_checked", unreadable)
    with pytest.raises(ExpressionError, match="cannot be read"):
        engine.compile_expression("true", result=ResultType.BOOL)
