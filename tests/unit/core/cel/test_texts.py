"""Functions of texts, one by one: what they take, where they end, and that they are paid for."""

import itertools

import pytest

from app.core.cel import texts
from app.core.cel.values import BudgetError, CelError

LONG = "ab" * 50_000
# `true` is no number here, though it is one to Python.
OTHERS: tuple[object, ...] = (None, True, 1.5, b"a", {})
# Arguments of each that is paid for, all of the right kind; and what it gives.
PAID = {
    texts.contains: (("abc", "bc"), True),
    texts.starts_with: (("abc", "ab"), True),
    texts.ends_with: (("abc", "bc"), True),
    texts.index_of: (("abcab", "ab"), 0),
    texts.index_of_from: (("abcab", "ab", 1), 3),
    texts.last_index_of: (("abcab", "ab"), 3),
    texts.last_index_of_until: (("abcab", "ab", 2), 0),
    texts.substring: (("abc", 1), "bc"),
    texts.substring_until: (("abc", 1, 2), "b"),
    texts.split: (("a,b,c", ","), ["a", "b", "c"]),
    texts.split_into: (("a,b,c", ",", 2), ["a", "b,c"]),
    texts.join_with: ((["a", "b"], ","), "a,b"),
    texts.replace: (("abcab", "ab", "x"), "xcx"),
    texts.replace_first: (("abcab", "ab", "x", 1), "xcab"),
    texts.trim: (("\u2003a\u001f ",), "a\u001f"),
    texts.lower_ascii: (("AbÄ",), "abÄ"),
    texts.upper_ascii: (("aBä",), "ABä"),
    texts.quote: (('a"\n',), '"a\\"\\n"'),
}
# The same, of something long.
COSTLY = {
    texts.contains: (LONG, "c"),
    texts.starts_with: (LONG, LONG),
    texts.ends_with: (LONG, LONG),
    texts.index_of: (LONG, "c"),
    texts.index_of_from: (LONG, "c", 1),
    texts.last_index_of: (LONG, "c"),
    texts.last_index_of_until: (LONG, "c", 1),
    texts.substring: (LONG, 1),
    texts.substring_until: (LONG, 1, 99_999),
    texts.split: (LONG, "b"),
    texts.split_into: (LONG, "b", -1),
    texts.join_with: ([LONG], ","),
    texts.replace: ("abcab", "b", LONG),
    texts.replace_first: ("abcab", "b", LONG, 1),
    texts.trim: (LONG,),
    texts.lower_ascii: (LONG,),
    texts.upper_ascii: (LONG,),
    texts.quote: (LONG,),
}


def named(function):
    return function.__name__


@pytest.mark.parametrize("function", PAID, ids=named)
def test_what_it_gives(function):
    arguments, expected = PAID[function]
    assert function(*arguments, [1000]) == expected


@pytest.mark.parametrize("function", PAID, ids=named)
def test_an_argument_of_another_kind_is_no_overload(function):
    arguments, _ = PAID[function]
    for position, wrong in itertools.product(range(len(arguments)), OTHERS):
        given = (*arguments[:position], wrong, *arguments[position + 1 :])
        with pytest.raises(CelError, match="no matching overload"):
            function(*given, [1000])


@pytest.mark.parametrize("function", COSTLY, ids=named)
def test_it_is_paid_for(function):
    function(*COSTLY[function], [1_000_000])
    with pytest.raises(BudgetError):
        function(*COSTLY[function], [100])


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (texts.index_of_from, ("abc", "c", 4)),
        (texts.index_of_from, ("abc", "c", -1)),
        (texts.last_index_of_until, ("abc", "c", 4)),
        (texts.substring, ("abc", 4)),
        (texts.substring, ("abc", -1)),
        (texts.substring_until, ("abc", 2, 1)),
        (texts.substring_until, ("abc", 0, 4)),
    ],
)
def test_a_place_outside_is_an_error(function, arguments):
    with pytest.raises(CelError, match="index out of range"):
        function(*arguments, [1000])


def test_a_character_and_the_place_behind_the_last():
    assert [texts.char_at("aß", at) for at in (0, 1, 2)] == ["a", "ß", ""]
    for at in (-1, 3):
        with pytest.raises(CelError, match=f"index out of range: {at}"):
            texts.char_at("aß", at)
    for wrong in ((1, 1), ("a", True), ("a", "0")):
        with pytest.raises(CelError, match="no matching overload for `charAt`"):
            texts.char_at(*wrong)


@pytest.mark.parametrize(
    ("limit", "parts"), [(-1, ["a", "b", "c"]), (0, []), (1, ["abc"]), (2, ["a", "bc"]), (9, ["a", "b", "c"])]
)
def test_a_text_in_its_characters(limit, parts):
    assert texts.split_into("abc", "", limit, [1000]) == parts
    assert texts.split("abc", "", [1000]) == ["a", "b", "c"]
    assert texts.split("", "", [1000]) == [""]


def test_only_texts_are_joined():
    assert texts.join(["a", "b"], [1000]) == "ab"
    with pytest.raises(CelError, match="no matching overload for `join`"):
        texts.join("ab", [1000])
    with pytest.raises(CelError, match="no matching overload for `join`"):
        texts.join_with(["a", 1], ",", [1000])
    assert texts.concat(("a", "b"), [1000]) == "ab"
    with pytest.raises(CelError, match="no matching overload for `_\\+_`"):
        texts.concat(("a", 1), [1000])
    with pytest.raises(BudgetError):
        texts.concat((LONG, LONG), [100])


def test_what_has_a_size():
    assert [texts.size(value) for value in ("ä", "ä".encode(), [1], {"a": 1})] == [1, 2, 1, 1]
    for wrong in (1, True, None, 1.5):
        with pytest.raises(CelError, match="no matching overload for `size`"):
            texts.size(wrong)
