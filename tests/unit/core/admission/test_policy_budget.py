"""An admission policy pays for all of its expressions together, with all of its parameters."""

import datetime as dt

import pytest

from app.core.admission.matching import AdmissionMatch, MatchResources
from app.core.admission.policy import (
    Action,
    AdmissionPolicy,
    FailurePolicy,
    NotFound,
    Parameter,
    ParameterReference,
    Validation,
)
from app.core.cel import POLICY_STEPS_MAX, ResultType, Scope, compile_expression
from app.core.decide import decide
from app.core.index import CompiledPolicySet
from app.core.types import Effect, Mode, NormalisedMutation

NOW = dt.datetime(2026, 3, 14, tzinfo=dt.UTC)
# Some 880,000 steps: eleven times that is within what a policy may cost, twelve times is not.
COSTLY = "object.outer.all(x, object.inner.all(y, x == y))"
INPUTS = {
    "subject": {"type": "agent", "id": "s", "properties": {}},
    "action": {"name": "create", "properties": {}},
    "resource": {"type": "core/Pod", "id": "i", "properties": {}},
    "context": {},
    "change": {
        "after": {"apiVersion": "v1", "kind": "Pod", "outer": [1] * 88, "inner": [1] * 2_000},
        "paths": [],
    },
}
TOO_MUCH = f"rule_error: the policy takes more than {POLICY_STEPS_MAX} steps in all"


def program(text, **variables):
    return compile_expression(text, result=ResultType.BOOL, variables=variables, scope=Scope.ADMISSION)


def policy(count, *, parameters=None, text=COSTLY, name="p", failure_policy=FailurePolicy.FAIL, **variables):
    reference = None
    if parameters is not None:
        objects = tuple(Parameter("", f"p{number:02}", {}, {"number": number}) for number in range(parameters))
        reference = ParameterReference(objects, in_namespaces=False, not_found=NotFound.DENY)
    validations = tuple(
        Validation(f"validations[{number:02}]", program(f"{text} && {number} == {number}", **variables))
        for number in range(count)
    )
    match = AdmissionMatch(MatchResources())
    return AdmissionPolicy(
        name, "b", match, validations, (Action.DENY,), failure_policy=failure_policy, parameters=reference
    )


def judge(*policies):
    return decide(CompiledPolicySet(policies, digest="d"), NormalisedMutation(inputs=INPUTS, digest="sha256:0"), NOW)


def said(verdict):
    return [(reason.policy, reason.rule, reason.message) for reason in verdict.reasons if reason.binding]


def test_only_what_could_exceed_it_is_metered():
    assert not policy(10).metered
    assert policy(11).metered
    assert not policy(1, parameters=10).metered
    assert policy(1, parameters=11).metered
    assert not policy(100, text="object.a.b == 1").metered


def test_expressions_share_it():
    assert said(judge(policy(11))) == []
    assert said(judge(policy(13))) == [
        ("p", "validations[11]", TOO_MUCH),
        ("p", "validations[12]", TOO_MUCH),
    ]


def test_parameters_share_it():
    # With nothing that depends on its parameters but the last comparison.
    assert said(judge(policy(1, parameters=11, text=f"{COSTLY} && params.number >= 0"))) == []
    verdict = judge(policy(1, parameters=12, text=f"{COSTLY} && params.number >= 0"))
    assert verdict.effect is Effect.DENY
    assert said(verdict) == [("p", "validations[00]", TOO_MUCH)]


def test_a_variable_of_the_request_is_paid_for_once():
    own = policy(20, parameters=20, text="variables.v", v=COSTLY)
    assert own.metered
    assert said(judge(own, policy(11, name="q"))) == []


def test_a_variable_that_reads_the_parameters_is_paid_for_each_time():
    assert said(judge(policy(1, parameters=11, text="variables.v", v=f"{COSTLY} && params.number >= 0"))) == []
    assert said(judge(policy(1, parameters=12, text="variables.v", v=f"{COSTLY} && params.number >= 0")))


@pytest.mark.parametrize("failure_policy", FailurePolicy)
def test_one_policy_leaves_the_others_theirs(failure_policy):
    verdict = judge(policy(12, failure_policy=failure_policy), policy(11, name="q"))
    assert said(verdict) == [("p", "validations[11]", TOO_MUCH)]
    assert verdict.reasons[-1].mode is (Mode.ENFORCE if failure_policy is FailurePolicy.FAIL else Mode.SHADOW)
