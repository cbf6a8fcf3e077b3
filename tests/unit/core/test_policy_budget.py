"""One policy pays for all of its expressions and variables together; only those that could pay too much are metered."""

import datetime as dt

import pytest

from app.core.cel import POLICY_STEPS_MAX, STEPS_MAX, EvaluationError, ResultType, bind, compile_expression, metered
from app.core.decide import decide
from app.core.index import Approval, CompiledPolicySet, Condition, Duty, Policy, Rule
from app.core.types import Effect, Mode, NormalisedMutation

NOW = dt.datetime(2026, 3, 14, tzinfo=dt.UTC)
# Some 880,000 steps: eleven times that is within what a policy may cost, twelve times is not.
CHANGE = {"outer": [1] * 88, "inner": [1] * 2_000, "paths": []}
COSTLY = "change.outer.all(x, change.inner.all(y, x == y))"
INPUTS = {
    "subject": {"type": "agent", "id": "s", "properties": {}},
    "action": {"name": "update", "properties": {}},
    "resource": {"type": "t", "id": "i", "properties": {}},
    "context": {},
    "change": CHANGE,
}
MUTATION = NormalisedMutation(inputs=INPUTS, digest="sha256:0")
TOO_MUCH = f"rule_error: the policy takes more than {POLICY_STEPS_MAX} steps in all"
APPROVAL = Approval({"anyOf": [{"group": "sre", "count": 1}]}, "168h", 604_800, "1h", 3_600)


def program(text, **variables):
    return compile_expression(text, result=ResultType.BOOL, variables=variables)


def rules(count, text=COSTLY, **variables):
    # The rules differ, and none shares its text with another.
    return tuple(
        Rule(f"r{number:02}", Effect.ALLOW, program(f"{text} && {number} == {number}", **variables))
        for number in range(count)
    )


def judge(*policies):
    return decide(CompiledPolicySet(policies, digest="d"), MUTATION, NOW)


def spent(text):
    budget = [STEPS_MAX]
    bindings = bind(INPUTS, now=NOW)
    program(text).run(bindings, INPUTS, bindings.values, budget)
    return STEPS_MAX - budget[0]


def test_the_figures_of_this_test():
    assert 850_000 < spent(COSTLY) < STEPS_MAX
    assert 12 * spent(COSTLY) > POLICY_STEPS_MAX > 11 * spent(COSTLY)
    assert POLICY_STEPS_MAX == 10 * STEPS_MAX


def test_ten_expressions_cannot_exceed_it():
    assert not Policy("p", rules(10)).metered
    assert Policy("p", rules(11)).metered
    # Nor can a hundred that look at members.
    assert not Policy("p", rules(100, "change.a.b == 1")).metered


def test_conditions_messages_obligations_and_variables_count():
    costly = program(COSTLY)
    text = compile_expression(f"{COSTLY} ? 'a' : 'b'", result=ResultType.STRING)
    assert not Policy("p", rules(9), conditions=(Condition("c", costly),)).metered
    assert Policy("p", rules(10), conditions=(Condition("c", costly),)).metered
    speaking = Rule("m", Effect.DENY, costly, message_expression=text)
    assert not Policy("p", (*rules(8), speaking)).metered
    assert Policy("p", (*rules(9), speaking)).metered
    value = compile_expression(f"{COSTLY} ? 1 : 2", result=ResultType.JSON)
    assert Policy("p", (*rules(9), Rule("o", Effect.ALLOW, costly, duties=(Duty("k", expression=value),)))).metered
    # A variable is counted once, however many read it, and so is what it reads.
    assert not Policy("p", rules(100, "variables.a", a=COSTLY)).metered
    variables = {"v0": COSTLY, **{f"v{n}": f"variables.v{n - 1} && {COSTLY}" for n in range(1, 11)}}
    assert Policy("p", (Rule("r", Effect.ALLOW, program("variables.v10", **variables)),)).metered


def test_exceeding_it_is_a_deny():
    assert judge(Policy("p", rules(11))).effect is Effect.ALLOW
    verdict = judge(Policy("p", rules(14)))
    assert verdict.effect is Effect.DENY
    assert [(reason.rule, reason.message) for reason in verdict.reasons] == [
        ("r11", TOO_MUCH),
        ("r12", TOO_MUCH),
        ("r13", TOO_MUCH),
    ]


def test_each_policy_has_its_own():
    assert judge(*(Policy(f"p{number}", rules(11)) for number in range(3))).effect is Effect.ALLOW
    verdict = judge(Policy("p", rules(12)), Policy("q", rules(2)))
    assert [(reason.policy, reason.rule) for reason in verdict.reasons] == [("p", "r11")]


def test_a_policy_in_shadow_costs_only_itself():
    verdict = judge(Policy("p", rules(12), mode=Mode.SHADOW), Policy("q", rules(2)))
    assert verdict.effect is Effect.ALLOW


@pytest.mark.parametrize("count", [1, 2])
def test_variables_are_paid_for_once_by_each_policy_that_reads_them(count):
    variables = {f"v{number:02}": f"{COSTLY} && {number} == {number}" for number in range(12)}
    read = " && ".join(f"variables.{name}" for name in variables)
    reader = Rule("r", Effect.ALLOW, program(read, **variables))
    again = Rule("s", Effect.ALLOW, program(f"{read} || false", **variables))
    fewer = " && ".join(f"variables.{name}" for name in list(variables)[:11])
    # What one policy has read is not free for the next one: what each costs does not depend on the other.
    enough = [
        Policy(f"p{number}", tuple(Rule(f"r{n}", Effect.ALLOW, program(f"{fewer} && {n} == {n}", **variables)) for n in range(3)))
        for number in range(count)
    ]  # fmt: skip
    assert all(policy.metered for policy in enough)
    assert judge(*enough).effect is Effect.ALLOW
    verdict = judge(*enough, Policy("z", (reader, again)))
    assert [(reason.rule, reason.message) for reason in verdict.reasons] == [("r", TOO_MUCH), ("s", TOO_MUCH)]


def test_a_failure_costs_what_it_cost():
    failing = f"{COSTLY} && change.nothing == 1"
    bindings = metered(bind(INPUTS, now=NOW))
    for _ in range(11):
        with pytest.raises(EvaluationError, match="no such key"):
            program(failing).evaluate(bindings)
    for _ in range(2):
        with pytest.raises(EvaluationError, match="the policy takes more than"):
            program(failing).evaluate(bindings)


def test_a_failing_variable_costs_what_it_cost():
    variables = {f"v{number}": f"{COSTLY} && change.nothing == {number}" for number in range(12)}
    bindings = metered(bind(INPUTS, now=NOW))
    for number in range(11):
        assert program(f"variables.v{number} || true", **variables).evaluate(bindings) is True
    with pytest.raises(EvaluationError, match="the policy takes more than"):
        program("variables.v11 || true", **variables).evaluate(bindings)
