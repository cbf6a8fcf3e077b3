"""Which patterns cover which, and which have nothing in common: never said in error."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.glob import compile_glob
from app.core.index import EntityPattern, LabelPattern, Match, PropertyPattern
from app.policies.covering import covers, disjoint, entity_covers, impossible, match_covers

TEXTS = ["a", "ab", "b", "a*", "*b", "?", "*", "a?"]
NAMES = ["a", "ab", "b", "c"]
GLOBS = st.sampled_from(TEXTS).map(compile_glob)
ENTITIES = st.builds(
    EntityPattern,
    type=st.none() | GLOBS,
    id=st.none() | GLOBS,
    properties=st.lists(
        st.builds(PropertyPattern, st.just("p"), GLOBS)
        | st.sampled_from([PropertyPattern("p", value=v) for v in (1, True, 1.0)]),
        max_size=1,
    ).map(tuple),
    labels=st.lists(st.builds(LabelPattern, st.just("l"), GLOBS), max_size=1).map(tuple),
)
LISTS = st.lists(ENTITIES, max_size=2).map(tuple)
MATCHES = st.builds(Match, LISTS, st.lists(GLOBS, max_size=2).map(tuple), LISTS)
ENTITY = st.fixed_dictionaries(
    {
        "type": st.sampled_from(NAMES),
        "id": st.sampled_from(NAMES),
        "properties": st.fixed_dictionaries(
            {},
            optional={
                "p": st.sampled_from(["a", "b", 1, True]),
                "labels": st.sampled_from([{"l": "a"}, {"l": "b"}, {}]),
            },
        ),
    }
)
INPUTS = st.fixed_dictionaries(
    {"subject": ENTITY, "resource": ENTITY, "action": st.fixed_dictionaries({"name": st.sampled_from(NAMES)})}
)


@given(MATCHES, MATCHES, st.lists(INPUTS, min_size=1, max_size=8))
def test_what_is_said_is_true(one, other, mutations):
    for inputs in mutations:
        if match_covers(one, other) and other.takes_in(inputs):
            assert one.takes_in(inputs)
        if disjoint(one, other):
            assert not (one.takes_in(inputs) and other.takes_in(inputs))


@given(MATCHES)
def test_everything_covers_itself_and_nothing_more_than_everything(match):
    assert match_covers(match, match)
    assert match_covers(Match(), match)
    assert not match_covers(Match(exclude=(Match(actions=(compile_glob("x"),)),)), match)


@given(ENTITIES, ENTITIES, ENTITY)
def test_entities(wide, narrow, entity):
    if entity_covers(wide, narrow) and narrow.matches(entity):
        assert wide.matches(entity)


@pytest.mark.parametrize(
    ("wide", "narrow", "expected"),
    [("*", "a*b", True), ("a*", "ab*", True), ("a*", "b", False), ("a?", "ab", True), ("a*b", "a*", False)],
)
def test_globs(wide, narrow, expected):
    assert covers(compile_glob(wide), compile_glob(narrow)) is expected


def test_labels_that_are_no_labels_fit_nothing():
    labels = (LabelPattern("l", compile_glob("*")),)
    one = EntityPattern(properties=(PropertyPattern("labels", compile_glob("*")),), labels=labels)
    assert impossible(one)
    assert not impossible(EntityPattern(labels=labels))
    for value in ({"l": "x"}, "x", {}):
        assert not one.matches({"type": "t", "id": "i", "properties": {"labels": value}})


def test_a_wide_list_of_actions_is_as_good_as_none():
    every = Match(actions=(compile_glob("*"),))
    assert match_covers(every, Match())
    assert not match_covers(Match(actions=(compile_glob("a"),)), Match())
