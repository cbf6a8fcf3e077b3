"""The index leaves out policies that cannot match, and never one that does."""

import datetime as dt
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.cel import ResultType, bind, compile_expression
from app.core.glob import compile_glob
from app.core.index import (
    CompiledPolicySet,
    Condition,
    EntityPattern,
    LabelPattern,
    Match,
    Policy,
    PropertyPattern,
    Rule,
)
from app.core.types import Effect

ALLOW = Rule(name="r", effect=Effect.ALLOW)
NOW = dt.datetime(2026, 3, 14, tzinfo=dt.UTC)


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


def test_a_pattern_is_tested_though_a_condition_has_settled_its_path():
    env = compile_expression("resource.properties.env in ['a', 'ab']", result=ResultType.BOOL)
    policies = [
        replace(policy(f"p{i}", resources=[pattern(env=text)]), conditions=(Condition("c", env),))
        for i, text in enumerate(["a?", "a*", "b*"])
    ]
    assert CompiledPolicySet(policies, digest="d").select(inputs(properties={"env": "a"})) == (policies[1],)


class Counted(Match):
    """A match that counts how often it is asked."""

    __slots__ = ()
    asked = 0

    def matches(self, inputs):
        Counted.asked += 1
        return super().matches(inputs)


def test_what_cannot_match_is_not_even_asked():
    def counted(name, **match):
        found = policy(name, **match).match
        return replace(policy(name), match=Counted(actions=found.actions, resources=found.resources))

    many = [counted(f"p{i:04}", resources=[pattern(f"type-{i}", id_="?*")], actions=["update"]) for i in range(1_000)]
    policy_set = CompiledPolicySet([*many, counted("z", actions=["delete"])], digest="d")
    for action, expected in (("update", ["p0007"]), ("delete", ["z"]), ("create", [])):
        Counted.asked = 0
        assert [p.name for p in policy_set.select(inputs(type_="type-7", action=action))] == expected
        assert Counted.asked <= 1


def needs(*conditions, rules=("true",), **match):
    def compiled(text):
        return text and compile_expression(text, result=ResultType.BOOL)

    found = Policy(
        name="p",
        rules=tuple(Rule(f"r{i}", Effect.ALLOW, compiled(text)) for i, text in enumerate(rules)),
        match=policy("p", **match).match,
        conditions=tuple(Condition(f"c{i}", compiled(text)) for i, text in enumerate(conditions)),
    ).needs()
    return {".".join(path): (set(need.constants or ()), need.missing) for path, need in found.items()}


@pytest.mark.parametrize(
    ("match", "expected"),
    [
        ({}, {}),
        ({"actions": ["a", "b"]}, {"action.name": ({"a", "b"}, False)}),
        ({"actions": ["a", "b*"]}, {}),
        ({"resources": [pattern("t"), pattern("u", "i")]}, {"resource.type": ({"t", "u"}, False)}),
        ({"resources": [pattern("t"), pattern(id_="i")]}, {}),
        (
            {"subjects": [pattern("t", n=1, b=True, s="x", g="*")]},
            {
                "subject.type": ({"t"}, False),
                "subject.properties.n": ({1}, True),
                "subject.properties.b": ({("bool", True)}, True),
                "subject.properties.s": ({"x"}, True),
            },
        ),
    ],
)
def test_what_a_match_needs(match, expected):
    assert needs(**match) == expected


KIND = "change.after.kind == 'Pod'"


def test_what_conditions_need_and_what_rules_need():
    kind = {"change.after.kind": ({"Pod"}, False)}
    assert needs(KIND, "change.after.x > 1") == kind
    assert needs(KIND, "change.after.kind in ['Pod', 'Job']", "change.after.kind == 'Job'") == {
        "change.after.kind": (set(), False)
    }
    assert needs(rules=(KIND, f"{KIND} && change.after.x == 1")) == kind
    assert needs(rules=(KIND, "change.after.kind == 'Job'")) == {"change.after.kind": ({"Pod", "Job"}, False)}
    # A rule that can speak without it, whatever the others say.
    assert needs(rules=(KIND, None)) == {}
    assert needs(rules=(KIND, "change.after.x == 1")) == {}
    # A condition that fails speaks for the policy, so its rules leave nothing out; one that cannot fail does not.
    assert needs("change.after.x > 1", rules=(KIND,)) == {}
    assert needs("resource.type != 'a' && has(change.after)", rules=(KIND,)) == kind


def test_a_condition_may_leave_nothing_to_spend_for_those_behind_it():
    long = "size(lists.range(context.n)) > 0"
    many = tuple(f"{long} && {i} > 0" for i in range(20))
    kind = {"change.after.kind": ({"Pod"}, False)}
    assert needs(KIND, long, rules=many) == kind
    assert needs(long, KIND, rules=many) == {}
    assert needs(long, KIND) == kind


@pytest.mark.parametrize("value", [1, 1.0, True, False, "1", None, [1], {"a": 1}, 1.5])
@pytest.mark.parametrize("constant", ["1", "1.0", "1u", "true", "'1'", "1.5"])
def test_the_index_compares_as_cel_does(constant, value):
    equal = compile_expression(f"context.x == {constant}", result=ResultType.BOOL)
    one = Policy("p", (Rule("r", Effect.ALLOW, equal),))
    others = [
        Policy(f"q{i}", (Rule("r", Effect.ALLOW, compile_expression(f"context.x == 'q{i}'", result=ResultType.BOOL)),))
        for i in range(3)
    ]
    mutation = {**inputs(), "context": {"x": value}}
    chosen = CompiledPolicySet([one, *others], digest="d").select(mutation)
    assert [p.name for p in chosen] == (["p"] if equal.evaluate(bind(mutation, now=NOW)) else [])


def test_needs_of_many_kinds_do_not_multiply():
    names = [f"x{i}" for i in range(6)]
    many = [
        policy(f"p{i}", resources=[pattern(f"t{i % 3}", **{name: f"v{(i + j) % 4}" for j, name in enumerate(names)})])
        for i in range(60)
    ]
    wide = [policy(f"w{i}", actions=[f"a{j}" for j in range(i, i + 100)]) for i in range(5)]
    policy_set = CompiledPolicySet([*many, *wide], digest="d")
    mutation = inputs(type_="t1", properties={name: f"v{(1 + j) % 4}" for j, name in enumerate(names)}, action="a3")
    expected = sorted(p.name for p in [*many, *wide] if p.match.matches(mutation))
    assert [p.name for p in policy_set.select(mutation)] == expected
    assert _size(policy_set._candidates._root) <= 64 * len(policy_set.policies) * 2


def _size(node):
    return len(node.always) + sum(
        _size(below) for branch in node.branches for below in (*branch.by_key.values(), branch.missing, branch.nowhere)
    )


def test_what_is_remembered_of_names_is_bounded(monkeypatch):
    monkeypatch.setattr("app.core.candidates._REMEMBERED_MAX", 50)
    policies = [policy("a", resources=[pattern("t*")]), policy("b", resources=[pattern("*t", "i")])]
    policy_set = CompiledPolicySet(policies, digest="d")
    for name in [*(f"t{i}" for i in range(40)), "t" * 1_000, "t", "xt"] * 2:
        mutation = inputs(type_=name)
        assert policy_set.select(mutation) == tuple(p for p in policies if p.match.matches(mutation))
        assert len(policy_set._candidates._remembered) <= 6
