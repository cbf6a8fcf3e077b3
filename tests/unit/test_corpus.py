"""Every case of the corpus through the core, and every starter rule in the corpus."""

import pytest

from app.core.cel import EvaluationError, bind
from app.core.decide import decide
from app.core.index import Policy
from app.core.normalise import normalise
from app.core.types import Mode
from app.policies.load import load_directory
from tests.corpus.cases import STARTER, load

CASES = load()
POLICY_SET = load_directory(STARTER)


def test_names_are_unique():
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_case(case):
    verdict = decide(POLICY_SET, normalise(case.parsed()), case.now)
    reasons = [
        {"policy": r.policy, "rule": r.rule} | ({} if r.mode is Mode.ENFORCE else {"mode": r.mode})
        for r in verdict.reasons
    ]
    assert (verdict.effect, reasons) == (case.decision, case.reasons), verdict.reasons


@pytest.fixture(scope="module")
def outcomes():
    """What each rule said over the whole corpus: sets of `True`, `False` and `error`."""
    found: dict[tuple[str, str], set[bool | str]] = {
        (policy.name, rule.name): set() for policy, rule in POLICY_SET.rules
    }
    for case in CASES:
        inputs = normalise(case.parsed()).inputs
        bindings = bind(inputs, now=case.now)
        for policy in POLICY_SET.select(inputs):
            assert isinstance(policy, Policy)
            if not all(condition.program.evaluate(bindings) for condition in policy.conditions):
                continue
            for rule in policy.rules:
                try:
                    said: bool | str = rule.when is None or rule.when.evaluate(bindings) is True
                except EvaluationError:
                    said = "error"
                found[policy.name, rule.name].add(said)
    return found


@pytest.mark.parametrize(("policy", "rule"), POLICY_SET.rules, ids=lambda named: named.name)
def test_every_starter_rule_speaks_and_is_silent_somewhere(policy, rule, outcomes):
    always = rule.when is None or rule.when.text == "true"
    assert {True} if always else {True, False} <= outcomes[policy.name, rule.name]


@pytest.mark.parametrize(("policy", "rule"), POLICY_SET.rules, ids=lambda named: named.name)
def test_every_starter_message_is_made_without_an_error(policy, rule):
    if rule.message_expression is None:
        return
    spoken = 0
    for case in CASES:
        if {"policy": policy.name, "rule": rule.name} not in case.reasons:
            continue
        bindings = bind(normalise(case.parsed()).inputs, now=case.now)
        if rule.when is not None:
            try:
                rule.when.evaluate(bindings)
            except EvaluationError:
                continue
        assert rule.message_expression.evaluate(bindings)
        spoken += 1
    assert spoken
