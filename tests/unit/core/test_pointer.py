import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core import pointer


@given(st.lists(st.text(max_size=5), max_size=5))
def test_tokens_survive(tokens):
    text = "".join("/" + pointer.escape(token) for token in tokens)
    assert pointer.split(text) == tokens


@pytest.mark.parametrize("text", ["a", "a/b", "/~", "/~2", "/a~", "/~0~"])
def test_text_that_is_no_pointer(text):
    with pytest.raises(pointer.PointerError):
        pointer.split(text)


def test_the_examples_of_rfc_6901_section_5():
    document = {
        "foo": ["bar", "baz"],
        "": 0,
        "a/b": 1,
        "c%d": 2,
        "e^f": 3,
        "g|h": 4,
        "i\\j": 5,
        'k"l': 6,
        " ": 7,
        "m~n": 8,
    }
    expected = {
        "/foo": ["bar", "baz"], "/foo/0": "bar", "/": 0, "/a~1b": 1, "/c%d": 2, "/e^f": 3, "/g|h": 4, "/i\\j": 5, '/k"l': 6,
        "/ ": 7, "/m~0n": 8,
    }  # fmt: skip
    for text, value in expected.items():
        node = document
        for token in pointer.split(text):
            node = pointer.step(node, token)
        assert node == value


@pytest.mark.parametrize("token", ["", "-", "01", "+1", "1 ", "١", "a", "3", "30", "9" * 5000])
def test_text_that_is_no_index_of_three(token):
    with pytest.raises(pointer.PointerError):
        pointer.index(token, length=3)


def test_an_index_within():
    assert [pointer.index(token, length=11) for token in ("0", "9", "10")] == [0, 9, 10]


@pytest.mark.parametrize(("node", "token"), [({}, "a"), ([], "0"), ("text", "0"), (None, "a")])
def test_a_step_into_nothing(node, token):
    with pytest.raises(pointer.PointerError):
        pointer.step(node, token)


def test_a_pointer_to_show_is_short_and_encodable():
    assert pointer.build(["a/b", 3, "c"]) == "/a~1b/3/c"
    assert pointer.build(["a", "\ud800", "b"]) == "/a"
    assert pointer.build(["a", "b\0", "c"]) == "/a"
    assert pointer.build(["a", "b" * 2000, "c"]) == "/a"
