"""The index leaves out policies that cannot match, and never one that does."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.glob import compile_glob
from app.core.index import CompiledPolicySet, EntityPattern, LabelPattern, Match, Policy, PropertyPattern, Rule
from app.core.types import Effect

ALLOW = Rule(name="r", effect=Effect.ALLOW)


def inputs(*, type_="t", action="update", subject="agent", properties=None, id_="i"):
    return {
        "subject": {"type": subject, "id": "s", "properties": {}},
        "action": {"name": action, "properties": {}},
        "resource": {"type": type_, "id": id_, "properties": properties or {}},
        "context": {},
        "change": {},
    }


def pattern(type_=None, id_=None, **properties):
    return EntityPattern(
        type=compile_glob(type_) if type_ else None,
        id=compile_glob(id_) if id_ else None,
        properties=tuple(
            PropertyPattern(name, glob=compile_glob(value))
            if isinstance(value, str)
            else PropertyPattern(name, value=value)
            for name, value in properties.items()
        ),
    )


def policy(name, *, subjects=(), actions=(), resources=()):
    match = Match(subjects=tuple(subjects), actions=tuple(map(compile_glob, actions)), resources=tuple(resources))
    return Policy(name=name, rules=(ALLOW,), match=match)


def labelled(**labels):
    return EntityPattern(labels=tuple(LabelPattern(key, compile_glob(text)) for key, text in labels.items()))


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({"tier": "gold"}, True),
        ({"tier": "golden", "x": "y"}, True),
        ({"tier": "silver"}, False),
        ({"x": "gold"}, False),
        ({"tier": 1}, False),
        ({"tier": ["gold"]}, False),
        ({}, False),
        ([{"tier": "gold"}], False),
        ("tier", False),
        (None, False),
    ],
)
def test_labels_are_texts_below_properties(labels, expected):
    one = policy("p", resources=[labelled(tier="gold*")])
    assert selected([one], properties={"labels": labels}) == (["p"] if expected else [])
    assert selected([one], properties={}) == []


@pytest.mark.parametrize(
    ("mutation", "expected"),
    [
        ({}, True),
        ({"action": "delete"}, True),
        ({"action": "delete", "subject": "user"}, False),
        ({"subject": "user"}, True),
        ({"properties": {"labels": {"tier": "gold"}}}, False),
        ({"properties": {"labels": {"tier": 1}}}, True),
    ],
)
def test_what_fits_an_exclusion_is_left_out(mutation, expected):
    exclude = (
        Match(subjects=(pattern("user"),), actions=(compile_glob("delete"),)),
        Match(resources=(labelled(tier="gold"),)),
    )
    one = Policy("p", (ALLOW,), match=Match(resources=(pattern("t"),), exclude=exclude))
    assert selected([one], **mutation) == (["p"] if expected else [])


def selected(policies, **mutation):
    return [p.name for p in CompiledPolicySet(policies, digest="d").select(inputs(**mutation))]


def test_an_empty_set_is_refused():
    with pytest.raises(ValueError, match="without policies"):
        CompiledPolicySet([], digest="d")


def test_names_are_unique():
    with pytest.raises(ValueError, match="same name"):
        CompiledPolicySet([policy("a"), policy("a")], digest="d")


def test_policies_come_in_the_order_of_names():
    assert selected([policy("b"), policy("a", resources=[pattern("t")]), policy("c", actions=["*"])]) == ["a", "b", "c"]
    assert [(p.name, r.name) for p, r in CompiledPolicySet([policy("b"), policy("a")], digest="d").rules] == [
        ("a", "r"),
        ("b", "r"),
    ]


@pytest.mark.parametrize(
    ("one", "mutation", "expected"),
    [
        (policy("p"), {}, True),
        (policy("p", resources=[pattern("t")]), {}, True),
        (policy("p", resources=[pattern("t")]), {"type_": "u"}, False),
        (policy("p", resources=[pattern("u"), pattern("t")]), {}, True),
        (policy("p", resources=[pattern("u"), pattern("v*")]), {}, False),
        (policy("p", resources=[pattern(id_="i*")]), {}, True),
        (policy("p", resources=[pattern("t", "j")]), {}, False),
        (policy("p", actions=["update", "patch"]), {}, True),
        (policy("p", actions=["delete"]), {}, False),
        (policy("p", actions=["del*"]), {"action": "deletecollection"}, True),
        (policy("p", actions=["up*"], resources=[pattern("t")]), {"action": "x"}, False),
        (policy("p", subjects=[pattern("agent")]), {}, True),
        (policy("p", subjects=[pattern("user"), pattern("service")]), {}, False),
        (policy("p", resources=[pattern(env="prod*")]), {"properties": {"env": "production"}}, True),
        (policy("p", resources=[pattern(env="prod*")]), {"properties": {"env": 1}}, False),
        (policy("p", resources=[pattern(env="prod*")]), {}, False),
        (policy("p", resources=[pattern(n=1)]), {"properties": {"n": 1}}, True),
        (policy("p", resources=[pattern(n=1)]), {"properties": {"n": True}}, False),
        (policy("p", resources=[pattern(n=True)]), {"properties": {"n": 1}}, False),
        (policy("p", resources=[pattern(n=1)]), {"properties": {"n": 1.0}}, True),
        (policy("p", resources=[pattern(n=1)]), {"properties": {"n": "1"}}, False),
    ],
)
def test_select(one, mutation, expected):
    assert selected([one], **mutation) == (["p"] if expected else [])


NAMES = ["a", "ab", "b"]
GLOBS = ["a", "ab", "b", "a*", "?", "*"]
ENTRIES = st.builds(pattern, st.sampled_from([None, *GLOBS]), st.sampled_from([None, *GLOBS]))
POLICIES = st.lists(
    st.builds(
        lambda subjects, actions, resources: {"subjects": subjects, "actions": actions, "resources": resources},
        st.lists(ENTRIES, max_size=2),
        st.lists(st.sampled_from(GLOBS), max_size=2),
        st.lists(ENTRIES, max_size=2),
    ),
    min_size=1,
    max_size=6,
)


@given(POLICIES, *[st.sampled_from([*NAMES, "unknown"])] * 3)
def test_the_index_changes_nothing_but_the_cost(specs, type_, action, subject):
    policies = [policy(f"p{i}", **spec) for i, spec in enumerate(specs)]
    mutation = inputs(type_=type_, action=action, subject=subject, id_="a")
    expected = [p.name for p in policies if p.match.matches(mutation)]
    assert [p.name for p in CompiledPolicySet(policies, digest="d").select(mutation)] == expected


def test_what_cannot_match_is_not_even_asked():
    many = [policy(f"p{i:04}", resources=[pattern(f"type-{i}")], actions=["update"]) for i in range(1_000)]
    policy_set = CompiledPolicySet([*many, policy("z", actions=["delete"])], digest="d")
    bucket = policy_set._by_type["type-7"]
    assert [p.name for p in bucket.by_action["update"]] == ["p0007"]
    assert [p.name for p in bucket.by_action["delete"]] == ["z"]
    assert bucket.other == ()
