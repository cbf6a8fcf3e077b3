"""The decision core is total, and combines as the rule says: compared with a naive reference implementation."""

import datetime as dt
from dataclasses import dataclass
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.budgets import Count
from app.core.cel import NOTHING_LIFTED, EvaluationError, ResultType, compile_expression
from app.core.cel.engine import CompiledProgram
from app.core.decide import (
    DEFAULT_DENY,
    FIREWALL,
    INTERNAL_ERROR,
    MORE_REASONS,
    OBLIGATIONS_MAX,
    REASONS_MAX,
    SHADOW_REASONS_MAX,
    SWITCH_DENY_ALL,
    SWITCH_DENY_SUBJECT,
    SWITCH_SHADOW,
    TOO_MANY_OBLIGATIONS,
    decide,
)
from app.core.freeze import window
from app.core.index import (
    MESSAGE_MAX_CHARS,
    Approval,
    Budget,
    CompiledPolicySet,
    Condition,
    Duty,
    Per,
    Policy,
    Rule,
)
from app.core.switches import Switch, SwitchKind
from app.core.types import Clause, Effect, Mode, NormalisedMutation, Obligation, Outcome
from app.core.validity import Validity

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
OUTCOMES = ("true", "false", "error")
TEXTS = {"true": "true", "false": "false", "error": "1 / 0 == 1"}


def program(outcome):
    return compile_expression(TEXTS.get(outcome, outcome), result=ResultType.BOOL)


PROGRAMS = {outcome: program(outcome) for outcome in OUTCOMES}


def rule(name="r", effect=Effect.ALLOW, when="true", **more):
    more.setdefault("message", f"{name} speaks")
    if effect is Effect.HOLD:
        more.setdefault("approval", APPROVAL)
    return Rule(name=name, effect=effect, when=PROGRAMS.get(when) or program(when), **more)


def judge(*policies, mutation=MUTATION):
    return decide(CompiledPolicySet(policies, digest="d"), mutation, NOW)


def said(verdict):
    return [(r.policy, r.rule, r.effect, r.mode) for r in verdict.reasons]


def test_nothing_speaks():
    verdict = judge(Policy("p", (rule(when="false"),)))
    assert verdict.effect is Effect.DENY
    assert said(verdict) == [(FIREWALL, DEFAULT_DENY, Effect.DENY, Mode.ENFORCE)]
    assert verdict.reasons[0].message == "no policy allows this update of t `i`"
    assert verdict.approval is None


def test_a_rule_without_when_always_speaks():
    assert judge(Policy("p", (Rule("r", Effect.ALLOW),))).effect is Effect.ALLOW


@pytest.mark.parametrize(
    ("effect", "message"),
    [
        (Effect.ALLOW, "allowed by this rule"),
        (Effect.HOLD, "held for approval by this rule"),
        (Effect.DENY, "denied by this rule"),
    ],
)
def test_a_rule_without_a_message_has_one_of_ours(effect, message):
    assert judge(Policy("p", (rule(effect=effect, message=None),))).reasons[0].message == message


def test_reasons_are_those_of_the_winning_effect_in_order():
    verdict = judge(
        Policy("b", (rule("d2", Effect.DENY), rule("a", Effect.ALLOW), rule("d1", Effect.DENY))),
        Policy("a", (rule("z", Effect.DENY), rule("broken", Effect.ALLOW, "error"), rule("h", Effect.HOLD))),
    )
    assert said(verdict) == [
        ("a", "z", Effect.DENY, Mode.ENFORCE),
        ("b", "d1", Effect.DENY, Mode.ENFORCE),
        ("b", "d2", Effect.DENY, Mode.ENFORCE),
        ("a", "broken", Effect.DENY, Mode.ENFORCE),
    ]
    assert verdict.approval is None


def test_an_error_denies_and_says_where():
    verdict = judge(Policy("p", (rule("a"), rule("broken", Effect.ALLOW, "change.nothing == 1"))))
    assert verdict.effect is Effect.DENY
    (reason,) = verdict.reasons
    assert (reason.policy, reason.rule) == ("p", "broken")
    assert reason.clause == Clause("when", "change.nothing == 1", 1, 1, Outcome.ERROR, {"change.nothing": "absent"})
    assert reason.message == "rule_error: no such key: `nothing`"


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_a_shadow_never_changes_the_decision(outcome):
    shadow = Policy("s", (rule("r", Effect.DENY, outcome),), mode=Mode.SHADOW)
    verdict = judge(shadow, Policy("p", (rule(),)))
    assert verdict.effect is Effect.ALLOW
    assert said(verdict)[0] == ("p", "r", Effect.ALLOW, Mode.ENFORCE)
    assert said(verdict)[1:] == ([] if outcome == "false" else [("s", "r", Effect.DENY, Mode.SHADOW)])


def test_a_shadow_that_allows_does_not_lift_the_default():
    verdict = judge(Policy("s", (rule(),), mode=Mode.SHADOW))
    assert verdict.effect is Effect.DENY
    assert said(verdict)[1] == ("s", "r", Effect.ALLOW, Mode.SHADOW)


class TestMatchConditions:
    def judge(self, *outcomes, mode=Mode.ENFORCE):
        conditions = tuple(Condition(f"c{i}", PROGRAMS[outcome]) for i, outcome in enumerate(outcomes))
        return judge(Policy("p", (rule(),), conditions=conditions, mode=mode), Policy("q", (rule(),)))

    def test_all_true_lets_the_policy_speak(self):
        assert len(self.judge("true", "true").reasons) == 2

    @pytest.mark.parametrize("outcomes", [("false",), ("true", "false"), ("error", "false"), ("false", "error")])
    def test_one_false_silences_it_errors_or_not(self, outcomes):
        assert said(self.judge(*outcomes)) == [("q", "r", Effect.ALLOW, Mode.ENFORCE)]

    def test_an_error_without_a_false_denies(self):
        verdict = self.judge("true", "error", "error")
        assert said(verdict) == [("p", "c1", Effect.DENY, Mode.ENFORCE), ("p", "c2", Effect.DENY, Mode.ENFORCE)]
        assert [reason.clause.path for reason in verdict.reasons] == [
            "matchConditions[1].expression",
            "matchConditions[2].expression",
        ]
        assert verdict.reasons[0].message == "rule_error: divide by zero"

    def test_an_error_in_a_shadow_is_only_recorded(self):
        verdict = self.judge("error", mode=Mode.SHADOW)
        assert verdict.effect is Effect.ALLOW
        assert said(verdict)[1] == ("p", "c0", Effect.DENY, Mode.SHADOW)


class TestMessages:
    def message(self, expression=None, message=None):
        compiled = compile_expression(expression, result=ResultType.STRING) if expression else None
        return judge(Policy("p", (rule(message=message, message_expression=compiled),))).reasons[0].message

    def test_the_expression_comes_first(self):
        assert self.message("'update of ' + resource.id", "text") == "update of i"

    @pytest.mark.parametrize("expression", ["string(change.nothing)", "''", "'\\n \\t'"])
    def test_one_that_gives_nothing_falls_back(self, expression):
        assert self.message(expression, "text") == "text"
        assert self.message(expression) == "allowed by this rule"

    def test_it_is_one_bounded_line(self):
        assert self.message("'a\\nb\\u0000c\\u202ed'") == "a b c d"
        assert len(self.message("'" + "x" * 2_000 + "'")) == MESSAGE_MAX_CHARS


class TestApproval:
    def held(self, *approvals):
        rules = tuple(rule(f"r{i}", Effect.HOLD, approval=approval) for i, approval in enumerate(approvals))
        return judge(Policy("p", rules)).approval

    def test_one(self):
        assert self.held(APPROVAL) == {
            "anyOf": [{"group": "sre", "count": 1}],
            "expiresAfter": "168h",
            "executeWithin": "1h",
        }

    def test_the_same_twice_is_required_once(self):
        assert self.held(APPROVAL, APPROVAL) == self.held(APPROVAL)

    def test_several_are_all_required_within_the_shorter_clocks(self):
        other = Approval({"allOf": [{"group": "security", "count": 2}]}, "24h", 86_400, "120m", 7_200)
        assert self.held(APPROVAL, other) == {
            "allOf": [{"anyOf": [{"group": "sre", "count": 1}]}, {"allOf": [{"group": "security", "count": 2}]}],
            "expiresAfter": "24h",
            "executeWithin": "1h",
        }

    def test_a_shadow_hold_requires_nothing(self):
        shadow = Policy("s", (rule("r", Effect.HOLD),), mode=Mode.SHADOW)
        assert judge(shadow, Policy("p", (rule(),))).approval is None

    def test_a_hold_that_nothing_could_lift_is_a_deny(self):
        verdict = judge(Policy("p", (Rule("r", Effect.HOLD),)))
        assert (verdict.effect, verdict.reasons[0].rule) == (Effect.DENY, INTERNAL_ERROR)


class TestObligations:
    def duty(self, key="k", value=None, text=None):
        expression = compile_expression(text, result=ResultType.JSON) if text else None
        return Duty(key, value, expression)

    def verdict(self, effect, *duties, mode=Mode.ENFORCE):
        return judge(Policy("p", (rule(effect=effect, duties=duties),), mode=mode), Policy("q", (rule(),)))

    def test_those_of_the_rules_that_won_in_order(self):
        verdict = judge(
            Policy("b", (rule("z", duties=(self.duty(value=1),)), rule("no", when="false", duties=(self.duty(),)))),
            Policy("a", (rule("y", duties=(self.duty("two", text="resource.id"), self.duty("one", value=True))),)),
            Policy("c", (rule("s", duties=(self.duty(),)),), mode=Mode.SHADOW),
        )
        assert verdict.obligations == (
            Obligation("a", "y", "two", "i"),
            Obligation("a", "y", "one", True),
            Obligation("b", "z", "k", 1),
        )

    def test_a_weaker_rule_obliges_nobody(self):
        weak = Policy("a", (rule("weak", duties=(self.duty(),)),))
        strong = Policy("b", (rule("strong", Effect.HOLD, duties=(self.duty(value="x"),)),))
        assert judge(weak, strong).obligations == (Obligation("b", "strong", "k", "x"),)
        assert judge(Policy("a", (rule(when="false", duties=(self.duty(),)),))).obligations == ()

    @pytest.mark.parametrize("effect", [Effect.ALLOW, Effect.HOLD])
    @pytest.mark.parametrize("text", ["resource.nothing", "dyn(b'x')", "'x'.replace('x', resource.nothing)"])
    def test_one_without_a_value_denies(self, effect, text):
        verdict = self.verdict(effect, self.duty(value=1), self.duty("broken", text=text))
        assert (verdict.effect, verdict.obligations, verdict.approval) == (Effect.DENY, (), None)
        (reason,) = verdict.reasons
        assert (reason.rule, reason.clause.path) == ("r", "obligations[1].valueExpression")
        assert reason.message.startswith("rule_error: the obligation `broken` has no value: ")

    def test_a_deny_speaks_without_it(self):
        verdict = self.verdict(Effect.DENY, self.duty("broken", text="resource.nothing"), self.duty(value=1))
        assert (verdict.effect, verdict.obligations) == (Effect.DENY, (Obligation("p", "r", "k", 1),))
        assert verdict.reasons[0].message == "r speaks"

    def test_a_shadow_shows_the_failure_and_obliges_nobody(self):
        verdict = self.verdict(Effect.ALLOW, self.duty("broken", text="resource.nothing"), mode=Mode.SHADOW)
        assert (verdict.effect, verdict.obligations) == (Effect.ALLOW, ())
        assert said(verdict)[1] == ("p", "r", Effect.DENY, Mode.SHADOW)

    def test_an_engine_with_a_defect_denies_and_tells_nothing(self):
        verdict = self.verdict(Effect.ALLOW, Duty("k", expression=Misbehaves("", ValueError("secret"))))
        assert verdict.reasons[0].message == "rule_error: the obligation `k` has no value: `ValueError`"

    def test_too_many_deny(self):
        many = tuple(self.duty(f"k{i}") for i in range(16))
        policies = [Policy(f"p{i}", (rule(duties=many),)) for i in range(4)]
        assert len(judge(*policies).obligations) == OBLIGATIONS_MAX
        verdict = judge(*policies, Policy("z", (rule(duties=(self.duty(),)),)))
        assert said(verdict) == [(FIREWALL, TOO_MANY_OBLIGATIONS, Effect.DENY, Mode.ENFORCE)]
        assert verdict.obligations == ()
        denies = [Policy(f"p{i}", (rule(effect=Effect.DENY, duties=many),)) for i in range(5)]
        assert len(judge(*denies).obligations) == OBLIGATIONS_MAX


class TestValidity:
    @pytest.mark.parametrize(
        ("start", "end", "speaks"),
        [
            (None, None, True),
            (NOW, None, True),
            (NOW + dt.timedelta(microseconds=1), None, False),
            (None, NOW, False),
            (None, NOW + dt.timedelta(microseconds=1), True),
        ],
    )
    def test_outside_of_it_a_policy_is_silent(self, start, end, speaks):
        timed = Policy("p", (rule(effect=Effect.DENY),), validity=Validity(start, end))
        assert judge(timed, Policy("q", (rule(),))).effect is (Effect.DENY if speaks else Effect.ALLOW)

    def test_an_expired_policy_does_not_fail_either(self):
        broken = Policy("p", (rule(),), conditions=(Condition("c", PROGRAMS["error"]),), validity=Validity(end=NOW))
        assert judge(broken, Policy("q", (rule(),))).effect is Effect.ALLOW


class TestFreezes:
    def judge(self, now, *, effect=Effect.DENY, when=None, message="no changes on a weekend", conditions=()):
        weekend = window("0 18 * * 5", time_zone="Europe/Berlin", duration=dt.timedelta(hours=62))
        freeze = Rule(
            "weekend",
            effect,
            PROGRAMS.get(when),
            message,
            approval=APPROVAL if effect is Effect.HOLD else None,
            window=weekend,
        )
        policy = Policy("p", (rule(), freeze), conditions=conditions)
        return decide(CompiledPolicySet([policy], digest="d"), MUTATION, dt.datetime.fromisoformat(now))

    def test_outside_of_its_windows_it_is_silent(self):
        assert self.judge("2026-03-13T16:59:59+00:00", when="error").effect is Effect.ALLOW
        assert self.judge("2026-03-16T07:00:00+00:00").effect is Effect.ALLOW

    def test_inside_it_speaks_and_tells_the_end(self):
        verdict = self.judge("2026-03-14T00:00:00+00:00")
        assert said(verdict) == [("p", "weekend", Effect.DENY, Mode.ENFORCE)]
        assert verdict.reasons[0].message == "no changes on a weekend; the window ends at 2026-03-16T07:00:00Z"
        held = self.judge("2026-03-14T00:00:00+00:00", effect=Effect.HOLD, message=None)
        assert (held.effect, held.approval is not None) == (Effect.HOLD, True)
        assert held.reasons[0].message == "changes are frozen; the window ends at 2026-03-16T07:00:00Z"
        long = self.judge("2026-03-14T00:00:00+00:00", message="x" * 512).reasons[0].message
        assert (len(long), long[-39:]) == (MESSAGE_MAX_CHARS, "; the window ends at 2026-03-16T07:00:00Z"[-39:])

    def test_it_has_a_condition_of_its_own(self):
        assert self.judge("2026-03-14T00:00:00+00:00", when="false").effect is Effect.ALLOW
        failed = self.judge("2026-03-14T00:00:00+00:00", when="error")
        assert failed.reasons[0].message == "rule_error: divide by zero"

    def test_it_speaks_only_if_its_policy_does(self):
        silenced = self.judge("2026-03-14T00:00:00+00:00", conditions=(Condition("c", PROGRAMS["false"]),))
        assert silenced.reasons[0].rule == DEFAULT_DENY


class TestBounds:
    def test_reasons_have_a_limit_that_says_so(self):
        many = Policy("p", tuple(rule(f"r{i:02}", Effect.DENY) for i in range(REASONS_MAX + 5)))
        verdict = judge(many)
        assert len(verdict.reasons) == REASONS_MAX
        assert said(verdict)[-1] == (FIREWALL, MORE_REASONS, Effect.DENY, Mode.ENFORCE)
        assert verdict.reasons[-1].message.startswith("6 more rules spoke")

    def test_shadows_have_their_own(self):
        many = tuple(rule(f"r{i:02}", Effect.DENY) for i in range(SHADOW_REASONS_MAX + 1))
        verdict = judge(Policy("s", many, mode=Mode.SHADOW), Policy("p", (rule(),)))
        assert len(verdict.reasons) == 1 + SHADOW_REASONS_MAX
        assert said(verdict)[-1] == (FIREWALL, MORE_REASONS, Effect.DENY, Mode.SHADOW)

    def test_the_default_message_is_bounded(self):
        long = {**INPUTS, "resource": {"type": "t", "id": "i" * 5_000, "properties": {}}}
        verdict = judge(Policy("p", (rule(when="false"),)), mutation=NormalisedMutation(long, "sha256:0"))
        assert len(verdict.reasons[0].message) == MESSAGE_MAX_CHARS


@dataclass(frozen=True)
class Misbehaves:
    """A program of an engine with a defect."""

    text: str
    answer: object
    lifted = NOTHING_LIFTED

    def evaluate(self, bindings):
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer

    def trace(self, bindings, *, budget=None):
        raise self.answer if isinstance(self.answer, BaseException) else ValueError


@pytest.mark.parametrize(
    "answer", [None, 1, "true", ValueError("secret"), RecursionError(), EvaluationError("x"), MemoryError()]
)
def test_nothing_but_true_is_true(answer):
    verdict = judge(Policy("p", (Rule("r", Effect.ALLOW, when=Misbehaves("", answer)),)))
    assert verdict.effect is Effect.DENY
    assert verdict.reasons[0].rule == "r"
    assert verdict.reasons[0].message.startswith("rule_error: ")
    assert "secret" not in verdict.reasons[0].message
    assert verdict.reasons[0].clause == Clause("when", "", 1, 1, Outcome.ERROR, {})


def test_a_broken_message_does_not_change_the_effect():
    broken = Rule("r", Effect.ALLOW, message_expression=Misbehaves("", ValueError()), message="text")
    assert judge(Policy("p", (broken,))).reasons[0].message == "text"


@pytest.mark.parametrize("inputs", [{}, None, {"resource": {}}, {**INPUTS, "resource": {"type": [], "id": 1}}])
def test_inputs_of_the_wrong_shape_deny(inputs):
    verdict = judge(Policy("p", (rule(when="resource.id == 'i'"),)), mutation=NormalisedMutation(inputs, "sha256:0"))
    assert verdict.effect is Effect.DENY


def test_a_broken_policy_set_denies():
    verdict = decide(cast("CompiledPolicySet", None), MUTATION, NOW)
    assert (verdict.effect, verdict.reasons[0].policy, verdict.reasons[0].rule) == (
        Effect.DENY,
        FIREWALL,
        INTERNAL_ERROR,
    )
    assert verdict.reasons[0].message == "rule_error: the policies could not be evaluated (`AttributeError`)"


class TestClauses:
    def test_every_deny_and_hold_says_which_clause_decided(self):
        for effect in (Effect.DENY, Effect.HOLD):
            (reason,) = judge(Policy("p", (rule(effect=effect, when="false || resource.id == 'i'"),))).reasons
            assert reason.clause == Clause("when", "resource.id == 'i'", 1, 10, Outcome.TRUE, {"resource.id": "i"})

    def test_an_allow_and_a_shadow_are_not_asked(self, monkeypatch):
        monkeypatch.setattr(CompiledProgram, "trace", lambda *_, **__: pytest.fail("asked"))
        verdict = judge(Policy("p", (rule(),)), Policy("s", (rule(effect=Effect.DENY),), mode=Mode.SHADOW))
        assert [reason.clause for reason in verdict.reasons] == [None, None]

    def test_the_firewalls_own_word_has_none(self):
        assert judge(Policy("p", (rule(when="false"),))).reasons[0].clause is None
        many = Policy("p", tuple(rule(f"r{i:02}", Effect.DENY) for i in range(REASONS_MAX + 1)))
        clauses = [reason.clause for reason in judge(many).reasons]
        assert None not in clauses[:-1]
        assert clauses[-1] is None

    def test_a_rule_without_a_condition(self):
        verdict = judge(Policy("p", (rule(when="false"), Rule("r", Effect.DENY))))
        assert verdict.reasons[0].clause == Clause("rules[1]", "always", 0, 0, Outcome.TRUE, {})

    def test_a_trace_that_fails_does_not_change_the_effect(self, monkeypatch):
        monkeypatch.setattr(CompiledProgram, "trace", lambda *_, **__: 1 / 0)
        (reason,) = judge(Policy("p", (rule(effect=Effect.DENY, when="\n resource.id\n   == 'i'"),))).reasons
        assert reason.effect is Effect.DENY
        assert reason.clause == Clause("when", "resource.id == 'i'", 2, 2, Outcome.TRUE, {})

    def test_a_trace_that_costs_too_much_is_not_believed(self):
        inputs = {**INPUTS, "change": {"after": [1] * 1_000, "paths": []}}
        dear = "change.after.all(x, x == 1)"
        loops = " && ".join([dear] * 60)
        verdict = judge(Policy("p", (rule(effect=Effect.DENY, when=loops),)), mutation=NormalisedMutation(inputs, "d"))
        assert verdict.effect is Effect.DENY
        clause = verdict.reasons[0].clause
        assert (clause.text[:27], len(clause.text), clause.values) == (dear, 200, {})

    def test_the_same_question_has_the_same_clause(self):
        asked = Policy("p", (rule(effect=Effect.DENY, when="subject.type == 'agent' && change.paths == []"),))
        assert judge(asked).reasons == judge(asked).reasons


# The reference: the rule of combination written as naively as it can be.


def reference(policies):
    asked = set()
    for policy in policies:
        if policy["mode"] == "shadow":
            continue
        if "false" in policy["conditions"]:
            continue
        if "error" in policy["conditions"]:
            asked.add("deny")
            continue
        for effect, outcome in policy["rules"]:
            if outcome == "error":
                asked.add("deny")
            if outcome == "true":
                asked.add(effect)
    for effect in ("deny", "hold", "allow"):
        if effect in asked:
            return effect
    return "deny"


SPECS = st.lists(
    st.fixed_dictionaries(
        {
            "mode": st.sampled_from(["enforce", "enforce", "shadow"]),
            "conditions": st.lists(st.sampled_from(["true", "true", "false", "error"]), max_size=3),
            "rules": st.lists(
                st.tuples(
                    st.sampled_from(["allow", "deny", "hold"]), st.sampled_from(["true", "false", "false", "error"])
                ),
                min_size=1,
                max_size=4,
            ),
        }
    ),
    min_size=1,
    max_size=5,
)


@given(SPECS)
def test_it_combines_as_the_reference_does(specs):
    policies = [
        Policy(
            f"p{i}",
            tuple(rule(f"r{j}", Effect(effect), outcome) for j, (effect, outcome) in enumerate(spec["rules"])),
            mode=Mode(spec["mode"]),
            conditions=tuple(Condition(f"c{j}", PROGRAMS[outcome]) for j, outcome in enumerate(spec["conditions"])),
        )
        for i, spec in enumerate(specs)
    ]
    verdict = judge(*policies)
    assert verdict.effect == reference(specs)
    assert verdict.reasons[0].mode is Mode.ENFORCE
    enforced = [r for r in verdict.reasons if r.mode is Mode.ENFORCE]
    assert {r.effect for r in enforced} == {verdict.effect}
    assert (verdict.approval is not None) is (verdict.effect is Effect.HOLD)
    without_shadows = [p for p in policies if p.mode is Mode.ENFORCE]
    if without_shadows:
        assert list(judge(*without_shadows).reasons) == enforced


class TestSwitches:
    ALL = Switch("id-1", SwitchKind.DENY_ALL, until=NOW + dt.timedelta(hours=1))
    SUBJECT = Switch("id-2", SwitchKind.DENY_SUBJECT, "s")
    SHADOW = Switch("id-3", SwitchKind.SHADOW, "p", NOW + dt.timedelta(hours=1))

    def judge(self, *policies, switches, now=NOW, mutation=MUTATION):
        return decide(CompiledPolicySet(policies, digest="d"), mutation, now, switches=switches)

    def test_deny_all_denies_whatever_policies_allow(self):
        verdict = self.judge(Policy("p", (rule(),)), switches=[self.SUBJECT, self.ALL])
        assert said(verdict) == [(FIREWALL, SWITCH_DENY_ALL, Effect.DENY, Mode.ENFORCE)]
        assert verdict.reasons[0].message == (
            "every mutation is denied until 2026-03-14T01:00:00Z, by kill switch `id-1`"
        )

    def test_deny_subject_denies_that_one_only(self):
        verdict = self.judge(Policy("p", (rule(),)), switches=[self.SUBJECT])
        assert said(verdict) == [(FIREWALL, SWITCH_DENY_SUBJECT, Effect.DENY, Mode.ENFORCE)]
        assert verdict.reasons[0].message.endswith("until it is ended, by kill switch `id-2`")
        other = self.judge(Policy("p", (rule(),)), switches=[self.SUBJECT._replace(target="t")])
        assert other == judge(Policy("p", (rule(),)))

    def test_a_switch_that_is_over_does_nothing(self):
        verdict = self.judge(Policy("p", (rule(),)), switches=[self.ALL, self.SHADOW], now=NOW + dt.timedelta(hours=1))
        assert verdict.effect is Effect.ALLOW
        assert len(verdict.reasons) == 1

    def test_a_policy_in_shadow_decides_nothing_and_is_named(self):
        policies = (
            Policy("a", (rule("yes"),)),
            Policy("p", (rule("no", Effect.DENY), rule("wait", Effect.HOLD), rule("may"))),
        )
        assert judge(*policies).effect is Effect.DENY
        verdict = self.judge(*policies, switches=[self.SHADOW])
        assert verdict.effect is Effect.ALLOW
        assert said(verdict) == [
            ("a", "yes", Effect.ALLOW, Mode.ENFORCE),
            ("p", "may", Effect.ALLOW, Mode.SHADOW),
            ("p", "no", Effect.DENY, Mode.SHADOW),
            ("p", "wait", Effect.HOLD, Mode.SHADOW),
            (FIREWALL, SWITCH_SHADOW, Effect.DENY, Mode.SHADOW),
        ]
        assert verdict.reasons[-1].message == (
            "policy `p` is in shadow until 2026-03-14T01:00:00Z, by kill switch `id-3`"
        )

    def test_what_a_policy_in_shadow_allows_does_not_count_either(self):
        verdict = self.judge(Policy("p", (rule(),)), switches=[self.SHADOW])
        assert (verdict.effect, verdict.reasons[0].rule) == (Effect.DENY, DEFAULT_DENY)
        assert said(verdict)[-1] == (FIREWALL, SWITCH_SHADOW, Effect.ALLOW, Mode.SHADOW)

    def test_failures_in_shadow_do_not_count(self):
        policies = (Policy("a", (rule(),)), Policy("p", (rule(when="error"),)))
        assert judge(*policies).effect is Effect.DENY
        assert self.judge(*policies, switches=[self.SHADOW]).effect is Effect.ALLOW

    def test_a_policy_that_says_nothing_or_was_in_shadow_anyway_is_not_named(self):
        silent = Policy("p", (rule(when="false"),))
        assert self.judge(silent, switches=[self.SHADOW]) == judge(silent)
        shadow = Policy("p", (rule(),), mode=Mode.SHADOW)
        assert self.judge(shadow, switches=[self.SHADOW]) == judge(shadow)

    def test_a_budget_in_shadow_does_not_count(self):
        none = Budget("b", Per.SUBJECT, limit=1, window="1h", window_seconds=3600)
        policies = (Policy("a", (rule(),)), Policy("p", (), budgets=(none,)))
        assert judge(*policies).effect is Effect.DENY
        verdict = self.judge(*policies, switches=[self.SHADOW])
        assert [use.mode for use in verdict.budgets] == [Mode.SHADOW]
        used = decide(
            CompiledPolicySet(policies, digest="d"), MUTATION, NOW, {("p", "b"): Count(1)}, switches=[self.SHADOW]
        )
        assert used.effect is Effect.ALLOW

    def test_stopped_approvals_change_no_verdict(self):
        policy = Policy("p", (rule("wait", Effect.HOLD),))
        assert self.judge(policy, switches=[Switch("5", SwitchKind.STOP_APPROVALS)]) == judge(policy)

    @pytest.mark.parametrize("inputs", [{}, None, {"subject": []}])
    def test_a_mutation_of_the_wrong_shape_denies(self, inputs):
        verdict = self.judge(
            Policy("p", (rule(),)), switches=[self.SUBJECT], mutation=NormalisedMutation(inputs, "sha256:0")
        )
        assert verdict.effect is Effect.DENY


class TestAtOnce:
    """A policy whose rules are asked at once says what it says when it is asked one by one."""

    CONDITIONS = st.lists(st.sampled_from(OUTCOMES), max_size=3)
    WHENS = st.lists(st.sampled_from([None, *OUTCOMES]), min_size=1, max_size=4)

    @given(CONDITIONS, WHENS)
    def test_both_ways_agree(self, conditions, whens):
        rules = tuple(
            Rule(f"r{i}", Effect.ALLOW, when=PROGRAMS[when] if when else None) for i, when in enumerate(whens)
        )
        policy = Policy("p", rules, conditions=tuple(Condition(f"c{i}", PROGRAMS[c]) for i, c in enumerate(conditions)))
        assert policy.at_once is not None
        quick = judge(policy)
        object.__setattr__(policy, "at_once", None)
        assert judge(policy) == quick

    def test_what_is_no_truth_is_found_out(self):
        text = compile_expression("'true'", result=ResultType.STRING)
        for policy in (
            Policy("p", (Rule("r", Effect.ALLOW, when=text),)),
            Policy("p", (Rule("r", Effect.ALLOW),), conditions=(Condition("c", text),)),
        ):
            assert policy.at_once is not None
            assert judge(policy).reasons[0].message == "rule_error: gave no bool"

    def test_a_policy_with_more_than_rules_is_asked_one_by_one(self):
        budget = Budget("b", Per.SUBJECT, 2, "1h", 3_600)
        nightly = window("0 0 * * *", time_zone="UTC", duration=dt.timedelta(hours=1))
        assert Policy("p", (rule(),), budgets=(budget,)).at_once is None
        assert Policy("p", (rule(window=nightly),)).at_once is None
        assert Policy("p", (Rule("r", Effect.ALLOW, when=Misbehaves("", True)),)).at_once is None
