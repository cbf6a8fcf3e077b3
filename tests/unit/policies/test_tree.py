"""Strict YAML: what a reviewer reads is what is loaded, and every refusal has its place."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.policies.tree import DEPTH_MAX, TreeError, documents


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("# nothing", []),
        ("---\n---\n", []),
        ("null", []),
        ("a: 1\n---\nb: [x, 'y', \"z\"]\n---\n", [{"a": 1}, {"b": ["x", "y", "z"]}]),
        ("a: 1\n...\nb: 2", [{"a": 1}, {"b": 2}]),
        ("a: yes\nb: on\nc: no\r\nd: off", [{"a": "yes", "b": "on", "c": "no", "d": "off"}]),
        ("a: true\nb: FALSE\nc: null\nd: ~\ne:", [{"a": True, "b": False, "c": None, "d": None, "e": None}]),
        ("a: 0\nb: -12\nc: 1.5\nd: 1e3\ne: '1'", [{"a": 0, "b": -12, "c": 1.5, "d": 1000.0, "e": "1"}]),
        ("a: 2024-01-01\nb: 12:30:45\nc: 1h30m", [{"a": "2024-01-01", "b": "12:30:45", "c": "1h30m"}]),
        ("a: |\n  x\n  y\nb: >-\n  x\n  y", [{"a": "x\ny\n", "b": "x y"}]),
        ("\ufeffa: é", [{"a": "é"}]),
        ("a: 9223372036854775807\nb: -9223372036854775808", [{"a": 2**63 - 1, "b": -(2**63)}]),
        ("[]", [[]]),
        ("a: 'true'", [{"a": "true"}]),
    ],
)
def test_values(text, expected):
    assert [root.plain() for root in documents(text)] == expected


@pytest.mark.parametrize(
    ("text", "line", "column", "message", "fix"),
    [
        ("a: 1\nb: 2\na: 3", 3, 1, "the key `a` is there twice, first in line 1", "keep one"),
        ("a: {b: 1, b: 2}", 1, 11, "the key `b` is there twice", "keep one"),
        ("a: &x 1", 1, 4, "an anchor is not allowed", "write the value"),
        ("a: &x {b: 1}", 1, 4, "an anchor is not allowed", "write the value"),
        ("a: *x", 1, 4, "an alias is not allowed", "write the value"),
        ("<<: {a: 1}", 1, 1, "a merge key is not allowed", "write the members"),
        ("a: !!str 1", 1, 4, "the tag `tag:yaml.org,2002:str` is not allowed", "quote"),
        ("a: !!python/object:os.system x", 1, 4, "the tag", "remove it"),
        ("%YAML 1.1\n---\na: yes", 1, 1, "directive", "remove it"),
        ("a:\n\t- b", 2, 1, "cannot start any token", "indent with spaces"),
        ("a: b: c", 1, 5, "mapping values are not allowed", "quote the value if it contains `: `"),
        ("a: 'x", 1, 6, "unexpected end of stream", "quote the value"),
        ("a: @x", 1, 4, "cannot start any token", "quote the value"),
        ("a: [1, 2", 1, 9, "expected `,` or `]`", None),
        ("- a\nb: c", 2, 1, "expected <block end>", None),
        ("1: x", 1, 1, "a key must be text", "quote it"),
        ("true: x", 1, 1, "a key must be text", "quote it"),
        ("? [a]\n: b", 1, 3, "a key must be text", "quote it"),
        ("a: 0777", 1, 4, "read differently", "quote it"),
        ("a: 0x1F", 1, 4, "read differently", "quote it"),
        ("a: 0o17", 1, 4, "read differently", "quote it"),
        ("a: 1_000", 1, 4, "read differently", "quote it"),
        ("a: +1", 1, 4, "read differently", "quote it"),
        ("a: .5", 1, 4, "read differently", "quote it"),
        ("a: 5.", 1, 4, "read differently", "quote it"),
        ("a: .NaN", 1, 4, "read differently", "quote it"),
        ("a: -.inf", 1, 4, "read differently", "quote it"),
        ("a: 1e400", 1, 4, "too large", "quote it"),
        ("a: 9223372036854775808", 1, 4, "64 bits", "quote it"),
        ("a: " + "9" * 5_000, 1, 4, "64 bits", "quote it"),
        ('a: "x\\0y"', 1, 4, "U+0000", "remove it"),
        ('a: "\\ud800"', 1, 4, "U+D800", "remove it"),
        ("a: b\nc: \x07", 2, 4, "special characters are not allowed", "remove the character"),
        ("a: " + "[" * 100, 1, 4 + DEPTH_MAX, "nested more than", "no policy needs that"),
        ("{a: " * 20_000, 1, 98, "nested more than", "no policy needs that"),
        ("a: `x`", 1, 4, "cannot start any token", "quote the value"),
    ],
)
def test_what_is_refused(text, line, column, message, fix):
    with pytest.raises(TreeError) as caught:
        documents(text)
    error = caught.value
    assert message in error.message
    assert (error.line, error.column) == (line, column)
    assert error.fix == fix if fix is None else fix in (error.fix or "")


def test_nodes_know_their_places():
    root: Any = documents("a: 1\nb:\n  - x\n  - {c: y}\n")[0]
    assert (root.keys["b"].line, root.keys["b"].column) == (2, 1)
    items = root.items["b"].items
    assert [(item.line, item.column) for item in items] == [(3, 5), (4, 5)]
    assert (items[1].items["c"].line, items[1].items["c"].column) == (4, 9)


@given(st.text(alphabet="ab:-[]{}&*!|>'\"%@`#,? \n\t01.\\\x00é", max_size=40))
def test_any_text_gives_documents_or_a_place(text):
    try:
        place = [(root.line, root.column) for root in documents(text)]
    except TreeError as error:
        place = [(error.line, error.column)]
    assert all(line >= 1 and column >= 1 for line, column in place)
