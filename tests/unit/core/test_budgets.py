"""Budgets in the core: whose they are, when they speak, and that a budget which nobody counted denies."""

import datetime as dt
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.budgets import NOT_COUNTED, Assumed, Count, from_record, to_record
from app.core.cel import ResultType, compile_expression
from app.core.decide import DEFAULT_DENY, FIREWALL, decide
from app.core.index import MESSAGE_MAX_CHARS, Approval, Budget, CompiledPolicySet, Condition, Per, Policy, Rule
from app.core.types import Effect, Mode, NormalisedMutation
from app.errors import FirewallError, Kind

NOW = dt.datetime(2026, 3, 14, tzinfo=dt.UTC)
APPROVAL = Approval({"anyOf": [{"group": "sre", "count": 1}]}, "168h", 604_800, "1h", 3_600)


def mutation(**changes: Any) -> NormalisedMutation:
    inputs = {
        "subject": {"type": "agent", "id": "s", "properties": {}},
        "action": {"name": "update", "properties": {}},
        "resource": {"type": "t", "id": "i", "properties": {"namespace": "blue"}},
        "context": {},
        "change": {},
    }
    return NormalisedMutation({**inputs, **changes}, digest="sha256:0")


def bool_program(text):
    return compile_expression(text, result=ResultType.BOOL)


def text_program(text):
    return compile_expression(text, result=ResultType.TEXT)


def budget(name="b", **more: Any):
    if more.get("effect") is Effect.HOLD:
        more.setdefault("approval", APPROVAL)
    return Budget(**{"name": name, "per": Per.SUBJECT, "limit": 2, "window": "1h", "window_seconds": 3600, **more})


ALLOW = Rule("yes", Effect.ALLOW)


def policy(*budgets, name="p", rules=(ALLOW,), **more):
    return Policy(name, tuple(rules), budgets=budgets, **more)


def judge(*policies, counters=NOT_COUNTED, of=None):
    return decide(CompiledPolicySet(policies, digest="d"), of or mutation(), NOW, counters)


def use(*policies, of=None):
    (found,) = judge(*policies, of=of).uncounted
    return found


@pytest.mark.parametrize(("used", "effect"), [(0, Effect.ALLOW), (1, Effect.ALLOW), (2, Effect.DENY), (9, Effect.DENY)])
def test_the_limit_is_how_many_may_be_allowed(used, effect):
    verdict = judge(policy(budget()), counters={("p", "b"): Count(used)})
    assert verdict.effect is effect
    assert verdict.uncounted == ()
    assert [(one.policy, one.budget, one.used, one.has_room) for one in verdict.budgets] == [("p", "b", used, used < 2)]


def test_a_budget_that_nobody_counted_denies_and_says_what_to_count():
    verdict = judge(policy(budget()))
    assert verdict.effect is Effect.DENY
    assert verdict.reasons[0].message == "rule_error: how much of this budget is used is not known"
    assert verdict.reasons[0].clause.path == "budgets[0]"
    assert [(one.policy, one.budget, one.has_room) for one in verdict.uncounted] == [("p", "b", False)]
    # Another budget's count says nothing of this one.
    assert judge(policy(budget()), counters={("p", "c"): Count(0)}).effect is Effect.DENY


def test_a_rehearsal_counts_from_zero():
    assert judge(policy(budget()), counters=Assumed()).effect is Effect.ALLOW
    assert judge(policy(budget()), counters=Assumed({("p", "b"): Count(2)})).effect is Effect.DENY


def test_what_an_exhausted_budget_says():
    verdict = judge(policy(budget(message="ask a person")), counters={("p", "b"): Count(2)})
    assert [(r.policy, r.rule, r.effect, r.message) for r in verdict.reasons] == [
        ("p", "b", Effect.DENY, "ask a person (2 of 2 used in 1h)")
    ]
    verdict = judge(policy(budget(distinct=text_program("'x'"))), counters={("p", "b"): Count(2)})
    assert verdict.reasons[0].message == "the budget is used up (2 of 2 different values in 1h)"


def test_the_numbers_are_never_cut_off():
    verdict = judge(policy(budget(message="m" * MESSAGE_MAX_CHARS)), counters={("p", "b"): Count(2)})
    assert verdict.reasons[0].message.endswith("… (2 of 2 used in 1h)")
    assert len(verdict.reasons[0].message) == MESSAGE_MAX_CHARS


def test_a_budget_can_hold():
    verdict = judge(policy(budget(effect=Effect.HOLD)), counters={("p", "b"): Count(2)})
    assert verdict.effect is Effect.HOLD
    assert verdict.approval is not None
    assert verdict.approval["anyOf"] == [{"group": "sre", "count": 1}]


def test_a_budget_allows_nothing():
    verdict = judge(policy(budget(), rules=()), counters={("p", "b"): Count(0)})
    assert [(r.policy, r.rule) for r in verdict.reasons] == [(FIREWALL, DEFAULT_DENY)]


def test_seen_values_have_room():
    distinct = policy(budget(distinct=text_program("resource.properties.namespace")))
    assert judge(distinct, counters={("p", "b"): Count(2, seen=True)}).effect is Effect.ALLOW
    assert judge(distinct, counters={("p", "b"): Count(2)}).effect is Effect.DENY
    # Where uses are counted there is nothing to have been seen.
    assert judge(policy(budget()), counters={("p", "b"): Count(2, seen=True)}).effect is Effect.DENY


@pytest.mark.parametrize(
    ("more", "clause", "words"),
    [
        ({"when": bool_program("subject.nobody == 1")}, "budgets[0].when", "no such key: `nobody`"),
        ({"per": Per.KEY, "key": text_program("subject.nobody")}, "budgets[0]", "no such key: `nobody`"),
        ({"per": Per.KEY, "key": text_program("subject")}, "budgets[0]", "gave `map`, not `string`"),
        ({"distinct": text_program("resource.properties.zone")}, "budgets[0]", "no such key: `zone`"),
    ],
)
def test_an_expression_that_fails_denies(more, clause, words):
    verdict = judge(policy(budget(**more)), counters=Assumed())
    assert verdict.effect is Effect.DENY
    assert (verdict.reasons[0].rule, verdict.reasons[0].clause.path) == ("b", clause)
    assert verdict.reasons[0].message == f"rule_error: {words}"
    assert verdict.budgets == ()


class Broken:
    """A program with a defect."""

    text = "broken"

    def __init__(self, answer):
        self.answer = answer

    def evaluate(self, _bindings):
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.mark.parametrize(("answer", "words"), [(RuntimeError("secret"), "`RuntimeError`"), (True, "gave no string")])
def test_a_defect_denies_and_tells_no_more(answer, words):
    verdict = judge(policy(budget(per=Per.KEY, key=Broken(answer))), counters=Assumed())
    assert (verdict.effect, verdict.reasons[0].message) == (Effect.DENY, f"rule_error: {words}")


@pytest.mark.parametrize("conditions", ["false", "true"])
def test_a_policy_that_is_silent_uses_nothing(conditions):
    silent = policy(budget(), conditions=(Condition("c", bool_program(conditions)),))
    verdict = judge(silent, policy(name="q"))
    assert (len(verdict.uncounted) == 1) is (conditions == "true")


def test_a_budget_whose_when_is_false_is_not_concerned():
    verdict = judge(policy(budget(when=bool_program("action.name == 'delete'"))))
    assert (verdict.effect, verdict.budgets) == (Effect.ALLOW, ())


def test_where_a_policy_denies_nothing_need_be_counted():
    deny = policy(name="q", rules=(Rule("no", Effect.DENY, message="never"),))
    verdict = judge(policy(budget()), deny)
    assert [(r.policy, r.rule) for r in verdict.reasons] == [("q", "no")]
    assert verdict.budgets == ()
    # Counted ones still have their say, also beside one that is not.
    verdict = judge(policy(budget(), budget("c")), deny, counters={("p", "b"): Count(2)})
    assert [(r.policy, r.rule) for r in verdict.reasons] == [("p", "b"), ("q", "no")]
    assert [(one.budget, one.used) for one in verdict.budgets] == [("b", 2)]


@pytest.mark.parametrize("other", [None, Effect.HOLD])
def test_where_nothing_else_denies_it_must_be_counted(other):
    rules = () if other is None else (Rule("h", other, approval=APPROVAL),)
    verdict = judge(policy(budget(effect=Effect.HOLD), rules=rules))
    assert verdict.effect is Effect.DENY
    assert len(verdict.uncounted) == 1


def test_a_shadow_counts_and_decides_nothing():
    shadow = policy(budget(), rules=(), mode=Mode.SHADOW)
    real = policy(name="q")
    asked = judge(shadow, real)
    assert asked.effect is Effect.ALLOW
    assert len(asked.uncounted) == 1
    verdict = judge(shadow, real, counters={("p", "b"): Count(2)})
    assert verdict.effect is Effect.ALLOW
    assert [(r.policy, r.rule, r.effect, r.mode) for r in verdict.reasons] == [
        ("q", "yes", Effect.ALLOW, Mode.ENFORCE),
        ("p", "b", Effect.DENY, Mode.SHADOW),
    ]


def test_whose_budget_it_is():
    other_subject = mutation(subject={"type": "agent", "id": "z", "properties": {}})
    other_resource = mutation(resource={"type": "t", "id": "z", "properties": {"namespace": "red"}})
    by_subject, by_resource = policy(budget()), policy(budget(per=Per.RESOURCE))
    assert use(by_subject).key == use(by_subject, of=other_resource).key != use(by_subject, of=other_subject).key
    assert use(by_resource).key == use(by_resource, of=other_subject).key != use(by_resource, of=other_resource).key
    by_key = policy(budget(per=Per.KEY, key=text_program("resource.properties.namespace")))
    assert use(by_key).key == use(by_key, of=other_subject).key != use(by_key, of=other_resource).key


def test_keys_are_never_joined_text():
    def key_of(type_, id_, name="b"):
        return use(policy(budget(name)), of=mutation(subject={"type": type_, "id": id_, "properties": {}})).key

    found = {key_of("a", "b/c"), key_of("a/b", "c"), key_of("a", 'b","c'), key_of("a", "b/c", name="c")}
    found |= {use(policy(budget(), name="q"), of=mutation(subject={"type": "a", "id": "b/c", "properties": {}})).key}
    assert len(found) == 5
    assert {len(key) for key in found} == {32}


def test_a_key_does_not_hang_on_the_numbers():
    assert use(policy(budget())).key == use(policy(budget(limit=9, window="2h", window_seconds=7200))).key


def test_values_of_different_owners_cannot_be_compared():
    distinct = policy(budget(distinct=text_program("resource.properties.namespace")))
    one = use(distinct)
    other = use(distinct, of=mutation(subject={"type": "agent", "id": "z", "properties": {}}))
    red = use(distinct, of=mutation(resource={"type": "t", "id": "i", "properties": {"namespace": "red"}}))
    assert len({one.value, other.value, red.value}) == 3
    assert len({one.key, red.key}) == 1
    assert use(policy(budget())).value is None


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5), st.booleans()), min_size=1, max_size=4))
def test_what_is_recorded_decides_the_same_again(budgets):
    """Each budget: whether it counts values, how much is used, whether this value was seen."""
    names = [f"b{position}" for position in range(len(budgets))]
    asked = policy(
        *(budget(name, distinct=text_program("'v'") if distinct else None)
          for name, (distinct, _, _) in zip(names, budgets, strict=True))
    )  # fmt: skip
    counters = {("p", name): Count(used, seen) for name, (_, used, seen) in zip(names, budgets, strict=True)}
    verdict = judge(asked, counters=counters)
    assert judge(asked, counters=from_record({"budgets": to_record(verdict.budgets)})) == verdict
    roomy = all(used < 2 or (seen and distinct) for distinct, used, seen in budgets)
    assert verdict.effect is (Effect.ALLOW if roomy else Effect.DENY)


def test_what_a_record_says():
    counters = {("p", "b"): Count(2, seen=True), ("p", "c"): Count(1)}
    verdict = judge(policy(budget(distinct=text_program("'v'")), budget("c")), counters=counters)
    assert to_record(verdict.budgets) == [
        {"policy": "p", "budget": "b", "used": 2, "seen": True},
        {"policy": "p", "budget": "c", "used": 1},
    ]
    assert to_record(judge(policy(budget())).budgets) == []
    assert from_record({}) == {}


@pytest.mark.parametrize(
    "budgets", [1, [1], [{}], [{"policy": "p", "budget": "b"}],
                [{"policy": "p", "budget": "b", "used": "1"}], [{"policy": "p", "budget": "b", "used": True}],
                [{"policy": "p", "budget": "b", "used": -1}]],
)  # fmt: skip
def test_a_record_that_cannot_be_read_is_refused(budgets):
    with pytest.raises(FirewallError) as caught:
        from_record({"budgets": budgets})
    assert (caught.value.kind, caught.value.pointer) == (Kind.MALFORMED, "/budgets")
