"""The lexis of CEL, as far as strings, comments and names must be told apart."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.cel.tokens import TokenKind, position, tokens


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.b", ["a", ".", "b"]),
        ("'a' \"b\"", ["'a'", '"b"']),
        (r"'a\'b' c", [r"'a\'b'", "c"]),
        (r"r'a\' c", [r"r'a\'", "c"]),
        (r"bR'\' Rb'\' B'x' c", [r"bR'\'", r"Rb'\'", "B'x'", "c"]),
        ("'''a'b\n''' c", ["'''a'b\n'''", "c"]),
        ('"""a"\\"""" c', ['"""a"\\""""', "c"]),
        ("r'''\\''' c", ["r'''\\'''", "c"]),
        ("'' c", ["''", "c"]),
        ("a // 'b\nc", ["a", "c"]),
        ("'// a' b", ["'// a'", "b"]),
        ("1.5e3u .5 0xFFu 7", ["1.5e3u", ".5", "0xFFu", "7"]),
        ("a[1].b", ["a", "[", "1", "]", ".", "b"]),
        ("a.`b c`", ["a", ".", "`b c`"]),
        ("rabbit'x'", ["rabbit", "'x'"]),
        ("'open", ["'", "open"]),
    ],
)
def test_tokens(text, expected):
    assert [token.text for token in tokens(text)] == expected
    assert all(text[token.start : token.end] == token.text for token in tokens(text))


def test_a_prefix_belongs_to_its_string():
    assert [t.kind for t in tokens("rb'variables.x'")] == [TokenKind.STRING]


@given(st.text(alphabet="ab'\"\\\n/r.` (1", max_size=60))
def test_every_character_is_in_one_token_or_blank(text):
    end = 0
    for token in tokens(text):
        between = text[end : token.start]
        assert not between.strip() or "//" in between
        end = token.end


def test_position():
    assert [position("a\nbc\n", offset) for offset in range(6)] == [(1, 1), (1, 2), (2, 1), (2, 2), (2, 3), (3, 1)]
