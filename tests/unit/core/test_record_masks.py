"""What masks take out of a mutation, and that nothing of it is left anywhere."""

from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.cel import ResultType, bind, compile_expression
from app.core.glob import compile_glob
from app.core.index import Condition, EntityPattern, Match
from app.core.normalise import normalise
from app.core.pointer import split, step
from app.core.record_masks import (
    PARTS,
    PLACES_MAX,
    Hidden,
    Hiding,
    MaskAction,
    RecordMask,
    commitment,
    commitments,
    mask,
    may_be_hidden,
    salt_of,
)
from app.core.types import Mutation

NOW = datetime(2026, 11, 1, tzinfo=UTC)
KEY = b"k" * 32
ID = "01990000-0000-7000-8000-000000000000"


def mutation(after=None, *, context=None, rationale=None, change=None):
    return Mutation(
        {"type": "agent", "id": "a@example.com", "properties": {"owner": "o@example.com"}},
        {"name": "update", "properties": {}},
        {"type": "v1/Secret", "id": "s", "properties": {}},
        {"before": {}, "after": after if after is not None else {"password": "hunter2"}} if change is None else change,
        context or {},
        None,
        rationale,
    )


def erase(text):
    return Hiding(MaskAction.ERASE, tuple(split(text)))


def keep(text):
    return Hiding(MaskAction.HASH, tuple(split(text)))


def computed(text, action=MaskAction.ERASE):
    return Hiding(action, pointers=compile_expression(text, result=ResultType.JSON))


def hide(one, *hidings, match=None, conditions=()):
    masks = [RecordMask("m", hidings, match or Match(), conditions)]
    return apply(one, masks)


def apply(one, masks):
    return mask(masks, one, bind(normalise(one).inputs, now=NOW), commitments(KEY, ID))


def pointers(masked):
    return [one.pointer for one in masked.hidden]


def when(text):
    return Condition("when", compile_expression(text, result=ResultType.BOOL))


def test_a_value_is_taken_out_and_nothing_else_changes():
    one = mutation({"password": "hunter2", "user": "bob"})
    before = orjson.dumps(tuple(one))
    masked = hide(one, erase("/change/after/password"))
    assert masked.hidden == (Hidden("/change/after/password", "m", None),)
    assert masked.mutation == one._replace(change={"before": {}, "after": {"password": "***", "user": "bob"}})
    assert orjson.dumps(tuple(one)) == before


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("/change/after/list/*/token", ["/change/after/list/0/token", "/change/after/list/1/token"]),
        (
            "/change/**/token",
            ["/change/after/deep/er/token", "/change/after/list/0/token", "/change/after/list/1/token"],
        ),
        ("/**/owner", ["/subject/properties/owner"]),
        ("/change/after/list/1", ["/change/after/list/1"]),
        ("/change/after/a~1b", ["/change/after/a~1b"]),
        ("/rationale", ["/rationale"]),
        ("/subject/id", ["/subject/id"]),
        ("/change/after", ["/change/after"]),
        ("/change/*", ["/change/after", "/change/before"]),
        ("/change/**", ["/change/after", "/change/before"]),
    ],
)
def test_where_patterns_lead(pattern, found):
    after = {"list": [{"token": 1}, {"token": "x"}], "deep": {"er": {"token": "y"}}, "a/b": 1}
    assert pointers(hide(mutation(after, rationale="because"), erase(pattern))) == found


@pytest.mark.parametrize(
    "pattern",
    ["/change/after/nothing", "/change/after/list/7", "/change/after/list/-", "/change/after/null", "/context/*"],
)
def test_what_is_not_there_needs_no_hiding(pattern):
    assert hide(mutation({"list": [1], "null": None}), erase(pattern)) is None


def test_pointers_may_be_computed():
    one = mutation({"api_key": "abc", "password": "def", "name": "n"})
    found = hide(one, computed("change.paths.filter(p, p.matches('key|password')).map(p, '/change/after' + p)"))
    assert pointers(found) == ["/change/after/api_key", "/change/after/password"]
    one = mutation(change={"before": {"password": "old"}, "after": {"password": "new"}})
    expression = "change.paths.map(p, ['/change/after' + p, '/change/before' + p]).flatten()"
    assert pointers(hide(one, computed(expression))) == ["/change/after/password", "/change/before/password"]


@pytest.mark.parametrize(
    "expression",
    [
        "context.missing.member",  # fails
        "'/change/after/password'",  # not a list
        "[1]",  # not of texts
        "['change']",  # no pointer
        "['/change']",  # a place that cannot be hidden
        "['']",
        "['/rationale/x']",
    ],
)
def test_doubt_hides_everything_that_may_hold_data(expression):
    one = mutation(context={"session": "s"}, rationale="because")
    masked = hide(one, keep("/change/after/password"), computed(expression))
    assert pointers(masked) == ["/change/after", "/change/before", "/context/session", "/rationale"]
    assert all(one.commitment is None for one in masked.hidden)
    assert masked.mutation.rationale == "***"


def test_a_computed_place_that_is_not_there_needs_no_hiding():
    one = mutation({"a": None})
    assert hide(one, computed("['/change/after/nothing/at/all', '/change/after/a', '/rationale']")) is None


def test_too_many_places_hide_everything():
    masked = hide(mutation({str(n): n for n in range(PLACES_MAX + 1)}), erase("/change/after/*"))
    assert pointers(masked) == ["/change/after", "/change/before"]
    assert len(hide(mutation({str(n): n for n in range(PLACES_MAX)}), erase("/change/after/*")).hidden) == PLACES_MAX


@pytest.mark.parametrize(
    ("match", "conditions", "hides"),
    [
        (Match(), (), True),
        (Match(resources=(EntityPattern(type=compile_glob("v1/Secret")),)), (), True),
        (Match(resources=(EntityPattern(type=compile_glob("v1/ConfigMap")),)), (), False),
        (Match(), (when("resource.id == 's'"),), True),
        (Match(), (when("resource.id == 't'"),), False),
        (Match(), (when("context.missing == 1"),), True),
        (Match(), (when("context.missing == 1"), when("resource.id == 't'")), False),
    ],
)
def test_only_what_it_concerns_and_a_failure_hides(match, conditions, hides):
    found = hide(mutation(), erase("/change/after/password"), match=match, conditions=conditions)
    assert (found is not None) is hides


def test_the_outermost_place_is_hidden_once_and_erased_if_anything_in_it_is():
    one = mutation({"a": {"b": 1, "c": 2}})
    masked = hide(one, keep("/change/after/a"), keep("/change/after/a/b"))
    assert [(h.pointer, h.commitment is None) for h in masked.hidden] == [("/change/after/a", False)]
    masked = hide(one, keep("/change/after/a"), erase("/change/after/a/b"))
    assert [(h.pointer, h.commitment is None) for h in masked.hidden] == [("/change/after/a", True)]


@pytest.mark.parametrize("order", [1, -1])
def test_of_two_masks_on_one_place_the_one_that_erases_wins(order):
    masks = [RecordMask("keeps", (keep("/change/after/password"),)), RecordMask("erases", (erase("/**/password"),))]
    (hidden,) = apply(mutation(), masks[::order]).hidden
    assert (hidden.commitment, hidden.mask) == (None, "erases")


def test_within_one_mask_erasing_wins_as_well():
    for hidings in (
        (keep("/change/after/password"), erase("/**/password")),
        (erase("/change/after/password"), keep("/**/password")),
    ):
        assert hide(mutation(), *hidings).hidden[0].commitment is None


def test_a_commitment_can_be_checked_with_its_salt_alone():
    (hidden,) = hide(mutation(), keep("/change/after/password")).hidden
    salt = salt_of(KEY, ID, "/change/after/password")
    assert hidden.commitment == commitment(salt, "hunter2")
    assert hidden.commitment != commitment(salt, "hunter3")
    others = {salt_of(KEY, ID, "/change/after/passwor"), salt_of(KEY, "x", "/change/after/password"), salt}
    others.add(salt_of(b"other", ID, "/change/after/password"))
    assert len(others) == 4
    assert commitment(salt, 1) != commitment(salt, 1.0)


@pytest.mark.parametrize(
    ("tokens", "may"),
    [((), False), (("change",), False), (("change", "x"), True), (("rationale",), True), (("request_id",), False)],
)
def test_what_may_be_hidden(tokens, may):
    assert may_be_hidden(tokens) is may


@pytest.mark.parametrize(
    ("hidden", "said", "left"),
    [
        ("hunter2", "the password hunter2 is weak", "the password *** is weak"),
        ("hunter2", "hunter2hunter2", "******"),
        (3, "adds 3 replicas, not 33", "adds *** replicas, not 33"),
        (3, 3, "***"),
        (1.5, [1.5, 15], ["***", 15]),
        (123456.0, "the pin 123456 and 123456.0", "the pin *** and ***"),
        (1_000_000, ["1e+06", 1_000_000.0, 1_000_001], ["***", "***", 1_000_001]),
        (-4567.0, -4567, "***"),
        ("ab", "abc ab", "abc ***"),
        ("one\ntwo\x00three", "has one two three", "has *** *** ***"),
        ("secret value", "it is secret val…", "it is ***…"),
        ("secret value", "it is sec…", "it is sec…"),
        ("x", {"x": ["x", True, None]}, {"x": ["***", True, None]}),
        (True, "true", "true"),
        ("  ", "  ", "  "),
        ({"a": ["b1", {"c": "d2d2"}]}, "b1 and d2d2", "*** and ***"),
        ("a" * 20_000, "anything", "***"),
        ("a" * 20_000, {"n": [1, True, None]}, {"n": ["***", True, None]}),
        ("longer text", "text of longer text", "text of ***"),
    ],
)
def test_messages_do_not_repeat_what_is_hidden(hidden, said, left):
    assert hide(mutation({"v": hidden}), erase("/change/after/v")).said(said) == left


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(alphabet="abc~/*1", max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(alphabet="ab*~/0", max_size=3), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(
    st.dictionaries(st.text(alphabet="ab*~/0", max_size=3), json_values, max_size=4),
    st.sampled_from(["/**/a", "/change/*/*", "/change/after/**"]),
)
def test_every_place_that_is_listed_is_masked_and_no_other(after, pattern):
    one = mutation(after)
    masked = hide(one, keep(pattern))
    before: Any = {part: getattr(one, part) for part in PARTS}
    if masked is None:
        return
    now: Any = {part: getattr(masked.mutation, part) for part in PARTS}
    for hidden in masked.hidden:
        tokens = split(hidden.pointer)
        was, holder = before, now
        for token in tokens[:-1]:
            was, holder = step(was, token), step(holder, token)
        value = step(was, tokens[-1])
        assert step(holder, tokens[-1]) == "***"
        assert hidden.commitment == commitment(salt_of(KEY, ID, hidden.pointer), value)
        # Put back, all is as it was: nothing else was changed.
        holder[int(tokens[-1]) if isinstance(holder, list) else tokens[-1]] = value
    assert now == before
