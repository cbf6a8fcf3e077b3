"""Exceptions: what they lift and what nobody lifts, compared with a naive reference; doubt denies."""

import datetime as dt
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.budgets import Count
from app.core.cel import Program, ResultType, compile_expression
from app.core.decide import (
    DEFAULT_DENY,
    FIREWALL,
    LIFTED_REASONS_MAX,
    MORE_REASONS,
    decide,
)
from app.core.glob import compile_glob
from app.core.index import (
    Approval,
    Budget,
    CompiledPolicySet,
    Condition,
    Duty,
    EntityPattern,
    Match,
    Per,
    Policy,
    PolicyException,
    Rule,
)
from app.core.types import Effect, Mode, NormalisedMutation
from app.core.validity import ALWAYS, Validity

NOW = dt.datetime(2026, 3, 14, tzinfo=dt.UTC)
INPUTS = {
    "subject": {"type": "agent", "id": "s", "properties": {}},
    "action": {"name": "update", "properties": {}},
    "resource": {"type": "t", "id": "i", "properties": {}},
    "context": {},
    "change": {"paths": [], "added": [], "removed": [], "files": [], "statements": []},
}
MUTATION = NormalisedMutation(inputs=INPUTS, digest="sha256:0")
APPROVAL = Approval({"anyOf": [{"group": "sre", "count": 1}]}, "168h", 604_800, "1h", 3_600)
TEXTS = {"true": "true", "false": "false", "error": "1 / 0 == 1"}
PROGRAMS = {outcome: compile_expression(text, result=ResultType.BOOL) for outcome, text in TEXTS.items()}
ELSEWHERE = Match(resources=(EntityPattern(type=compile_glob("u")),))


def rule(name, effect, when="true", **more):
    return Rule(
        name, effect, PROGRAMS[when], f"{name} speaks", approval=APPROVAL if effect is Effect.HOLD else None, **more
    )


ALLOWING = Policy("allowing", (rule("yes", Effect.ALLOW),))


def excepting(*names, name="e", match=None, conditions=(), validity=ALWAYS, rules=None):
    return PolicyException(
        name,
        "owner",
        "reason",
        validity,
        {one: None if rules is None else frozenset(rules) for one in names},
        match or Match(),
        tuple(Condition(f"c{i}", PROGRAMS[outcome]) for i, outcome in enumerate(conditions)),
    )


def judge(*policies, exceptions=()):
    return decide(CompiledPolicySet(policies, digest="d", exceptions=exceptions), MUTATION, NOW)


def said(verdict):
    return [(reason.policy, reason.rule, reason.effect, reason.exception) for reason in verdict.reasons]


@pytest.mark.parametrize("effect", [Effect.DENY, Effect.HOLD])
@pytest.mark.parametrize("when", ["true", "error"])
def test_what_denies_or_holds_is_lifted_and_recorded(effect, when):
    verdict = judge(Policy("p", (rule("r", effect, when),)), ALLOWING, exceptions=[excepting("p")])
    assert (verdict.effect, verdict.approval) == (Effect.ALLOW, None)
    asked = Effect.DENY if when == "error" else effect
    assert said(verdict) == [("allowing", "yes", Effect.ALLOW, None), ("p", "r", asked, "e")]


@pytest.mark.parametrize(
    "exception",
    [
        excepting("q"),
        excepting("p", match=ELSEWHERE),
        excepting("p", match=Match(exclude=(Match(actions=(compile_glob("update"),)),))),
        excepting("p", conditions=["true", "false"]),
        excepting("p", conditions=["error"]),
        excepting("p", conditions=["true", "error"]),
        excepting("p", validity=Validity(end=NOW)),
        excepting("p", validity=Validity(start=NOW + dt.timedelta(seconds=1))),
        excepting("p", rules=["another"]),
    ],
)
def test_what_does_not_fit_lifts_nothing(exception):
    verdict = judge(Policy("p", (rule("r", Effect.DENY),)), ALLOWING, exceptions=[exception])
    assert said(verdict) == [("p", "r", Effect.DENY, None)]


def test_only_the_rules_that_are_named():
    policy = Policy("p", (rule("a", Effect.DENY), rule("b", Effect.DENY), rule("c", Effect.HOLD)))
    verdict = judge(policy, ALLOWING, exceptions=[excepting("p", rules=["a", "c"])])
    assert said(verdict) == [
        ("p", "b", Effect.DENY, None),
        ("p", "a", Effect.DENY, "e"),
        ("p", "c", Effect.HOLD, "e"),
    ]


def test_the_default_is_nobodys_to_lift():
    verdict = judge(Policy("p", (rule("r", Effect.DENY),)), exceptions=[excepting("p")])
    assert said(verdict) == [(FIREWALL, DEFAULT_DENY, Effect.DENY, None), ("p", "r", Effect.DENY, "e")]


def test_a_rule_that_allows_is_not_touched_nor_is_its_failure():
    oblige = (Duty("k", expression=compile_expression("resource.nothing", result=ResultType.JSON)),)
    for failing in (rule("r", Effect.ALLOW, "error"), rule("r", Effect.ALLOW, duties=oblige)):
        verdict = judge(
            Policy("p", (failing,)), ALLOWING, exceptions=[excepting("p"), excepting("p", name="f", rules=["r"])]
        )
        assert said(verdict) == [("p", "r", Effect.DENY, None)]
    allowed = judge(Policy("p", (rule("r", Effect.ALLOW),)), exceptions=[excepting("p")])
    assert said(allowed) == [("p", "r", Effect.ALLOW, None)]


def test_a_condition_that_fails_is_lifted_with_its_whole_policy_only():
    failing = Policy("p", (rule("r", Effect.DENY),), conditions=(Condition("c", PROGRAMS["error"]),))
    assert judge(failing, ALLOWING, exceptions=[excepting("p")]).effect is Effect.ALLOW
    assert judge(failing, ALLOWING, exceptions=[excepting("p", rules=["r"])]).effect is Effect.DENY


def test_a_budget_is_lifted_and_still_counted():
    budget = Budget("b", Per.SUBJECT, 2, "1h", 3600, effect=Effect.HOLD, approval=APPROVAL)
    policies = [Policy("p", (), budgets=(budget,)), ALLOWING]
    for exceptions, effect in (([], Effect.HOLD), ([excepting("p", rules=["b"])], Effect.ALLOW)):
        policy_set = CompiledPolicySet(policies, digest="d", exceptions=exceptions)
        verdict = decide(policy_set, MUTATION, NOW, {("p", "b"): Count(2, seen=False)})
        assert verdict.effect is effect
        assert [(use.budget, use.used) for use in verdict.budgets] == [("b", 2)]
        # What nobody counted has to be counted, lifted or not: an allow uses it.
        assert [use.budget for use in decide(policy_set, MUTATION, NOW).uncounted] == ["b"]


def test_the_first_that_fits_is_named():
    exceptions = [excepting("p", name="c"), excepting("p", name="b"), excepting("p", name="a", conditions=["false"])]
    verdict = judge(Policy("p", (rule("r", Effect.DENY),)), ALLOWING, exceptions=exceptions)
    assert verdict.reasons[1].exception == "b"


def test_a_shadow_shows_that_it_would_be_lifted():
    shadow = Policy("p", (rule("r", Effect.DENY),), mode=Mode.SHADOW)
    verdict = judge(shadow, Policy("q", (rule("r", Effect.DENY),)), ALLOWING, exceptions=[excepting("p", "q")])
    assert [(reason.policy, reason.mode, reason.exception) for reason in verdict.reasons] == [
        ("allowing", Mode.ENFORCE, None),
        ("q", Mode.ENFORCE, "e"),
        ("p", Mode.SHADOW, "e"),
    ]


def test_what_is_lifted_has_a_limit_that_says_so():
    many = Policy("p", tuple(rule(f"r{i:02}", Effect.DENY) for i in range(LIFTED_REASONS_MAX + 2)))
    verdict = judge(many, ALLOWING, exceptions=[excepting("p")])
    assert verdict.effect is Effect.ALLOW
    assert len(verdict.reasons) == 1 + LIFTED_REASONS_MAX
    assert said(verdict)[-1] == (FIREWALL, MORE_REASONS, Effect.DENY, "e")


def test_each_exception_is_asked_once():
    class Counting:
        asked = 0

        def evaluate(self, bindings):
            self.asked += 1
            return True

    counting = Counting()
    condition = Condition("c", cast("Program", counting))
    exception = PolicyException("e", "o", "r", ALWAYS, {"p": None}, conditions=(condition,))
    many = Policy("p", tuple(rule(f"r{i}", Effect.DENY) for i in range(5)))
    assert judge(many, ALLOWING, exceptions=[exception]).effect is Effect.ALLOW
    assert counting.asked == 1
    counting.asked = 0
    assert judge(ALLOWING, exceptions=[exception]).effect is Effect.ALLOW
    assert counting.asked == 0


@pytest.mark.parametrize("answer", [1, "true", None, ValueError("secret"), RecursionError()])
def test_nothing_but_true_lifts(answer):
    class Misbehaves:
        def evaluate(self, bindings):
            if isinstance(answer, BaseException):
                raise answer
            return answer

    exception = PolicyException(
        "e", "o", "r", ALWAYS, {"p": None}, conditions=(Condition("c", cast("Program", Misbehaves())),)
    )
    assert judge(Policy("p", (rule("r", Effect.DENY),)), ALLOWING, exceptions=[exception]).effect is Effect.DENY


def test_names_of_exceptions_are_unique():
    with pytest.raises(ValueError, match="two exceptions"):
        CompiledPolicySet([ALLOWING], digest="d", exceptions=[excepting("p"), excepting("q")])


OUTCOMES = st.sampled_from(["true", "false", "error"])
RULES = st.lists(st.tuples(st.sampled_from(list(Effect)), OUTCOMES), min_size=1, max_size=3)
POLICIES = st.lists(st.tuples(RULES, st.lists(OUTCOMES, max_size=1), st.booleans()), min_size=1, max_size=3)
EXCEPTIONS = st.lists(
    st.tuples(
        st.sets(st.sampled_from(["p0", "p1", "p2"]), min_size=1),
        st.none() | st.sets(st.sampled_from(["r0", "r1", "r2"]), min_size=1),
        st.lists(OUTCOMES, max_size=2),
        st.booleans(),
    ),
    max_size=3,
)


def reference(policies, exceptions):
    """The effect, as naively as it can be said."""

    def lifted(policy, name):
        return any(
            policy in names and (rules is None or name in rules) and all(c == "true" for c in conditions) and here
            for names, rules, conditions, here in exceptions
        )

    asked = set()
    for i, (rules, conditions, shadow) in enumerate(policies):
        policy = f"p{i}"
        if shadow or "false" in conditions:
            continue
        if "error" in conditions:
            asked |= {"deny"} if not lifted(policy, "c0") else set()
            continue
        for j, (effect, outcome) in enumerate(rules):
            if outcome == "false":
                continue
            word = "deny" if outcome == "error" else effect
            if effect is Effect.ALLOW or not lifted(policy, f"r{j}"):
                asked.add(word)
    return next((effect for effect in ("deny", "hold", "allow") if effect in asked), "deny")


@given(POLICIES, EXCEPTIONS)
def test_it_lifts_as_the_reference_does(policies, exceptions):
    compiled = [
        Policy(
            f"p{i}",
            tuple(rule(f"r{j}", effect, outcome) for j, (effect, outcome) in enumerate(rules)),
            mode=Mode.SHADOW if shadow else Mode.ENFORCE,
            conditions=tuple(Condition(f"c{j}", PROGRAMS[outcome]) for j, outcome in enumerate(conditions)),
        )
        for i, (rules, conditions, shadow) in enumerate(policies)
    ]
    excepted = [
        excepting(*names, name=f"e{i}", rules=rules, conditions=conditions, match=None if here else ELSEWHERE)
        for i, (names, rules, conditions, here) in enumerate(exceptions)
    ]
    verdict = judge(*compiled, exceptions=excepted)
    assert verdict.effect == reference(policies, exceptions)
    assert verdict.reasons[0].exception is None
    assert verdict.reasons[0].mode is Mode.ENFORCE
    assert all(reason.effect is not Effect.ALLOW for reason in verdict.reasons if reason.exception is not None)
