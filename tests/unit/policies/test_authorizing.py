"""Policies that ask an authorizer: refused where none answers, and tested with the answers that a case states."""

import json
from datetime import UTC, datetime

import pytest

from app.core.cel import AUTHORIZED, Answer, Attributes
from app.core.decide import decide
from app.core.normalise import normalise
from app.core.types import Effect
from app.policies.diagnostics import PolicyErrors
from app.policies.load import check_directory, check_documents, check_files, check_text
from app.policies.suite import read_suites
from app.policies.testing import run
from app.surfaces.native.wire import mutation_from_wire

NOW = datetime(2026, 3, 13, 12, tzinfo=UTC)
POLICIES = """\
apiVersion: mutationfirewall.io/v1
kind: MutationPolicy
metadata: {name: allow}
spec: {rules: [{name: all, effect: allow}]}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: guarded.example.com}
spec:
  matchConstraints: {resourceRules: [{apiGroups: [""], apiVersions: [v1], operations: ["*"], resources: [secrets]}]}
  variables:
  - {name: may, expression: "authorizer.requestResource.check('guard')"}
  matchConditions:
  - {name: no-break-glass, expression: "!authorizer.path('/break-glass').check('use').allowed()"}
  validations:
  - {expression: variables.may.allowed(), messageExpression: "'guarded: ' + variables.may.reason()"}
  - expression: >-
      authorizer.serviceAccount('ops', 'keeper').group('example.com').resource('vaults').subresource('keys')
      .namespace('a').name('b').fieldSelector('x=1').labelSelector('y=2').check('read').allowed()
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: guarded}
spec: {policyName: guarded.example.com, validationActions: [Deny]}
"""
BODY = {
    "subject": {"type": "user", "id": "u"},
    "action": {"name": "create"},
    "resource": {"type": "core/Secret", "id": "x"},
    "change": {"after": {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "x", "namespace": "shop"}}},
}
GUARD = {"verb": "guard", "resource": "secrets", "namespace": "shop", "name": "x", "allowed": True}
KEEPER = {
    "verb": "read",
    "group": "example.com",
    "resource": "vaults",
    "subresource": "keys",
    "namespace": "a",
    "name": "b",
    "fieldSelector": "x=1",
    "labelSelector": "y=2",
    "serviceAccount": "ops/keeper",
    "allowed": True,
}
GLASS = {"verb": "use", "path": "/break-glass", "allowed": True}


def tried(directory, *cases):
    (directory / "policies").mkdir()
    (directory / "policies" / "p.yaml").write_text(POLICIES)
    suite = {
        "apiVersion": "mutationfirewall.io/v1",
        "kind": "PolicyTest",
        "metadata": {"name": "t"},
        "spec": {
            "policies": "policies",
            "cases": [
                {
                    "name": f"{number}",
                    "mutation": BODY,
                    **({"authorizer": answers} if answers else {}),
                    "expect": expect,
                }
                for number, (answers, expect) in enumerate(cases)
            ],
        },
    }
    (directory / "t.yaml").write_text(json.dumps(suite))
    return run(read_suites([directory / "t.yaml"], parse=mutation_from_wire))


def test_a_case_states_what_is_answered(tmp_path):
    reasons = [
        {"policy": "guarded.example.com", "rule": f"validations[{number}]", "binding": "guarded"} for number in (0, 1)
    ]
    denied = {**GUARD, "allowed": False, "reason": "not you"}
    found = tried(
        tmp_path,
        ([GUARD, KEEPER], {"decision": "allow"}),
        ([GUARD], {"decision": "deny", "reasons": reasons[1:]}),
        ([KEEPER, denied], {"decision": "deny", "reasons": reasons[:1], "message": "guarded: not you"}),
        # Nothing but these questions: another verb, namespace or account is another one.
        (
            [{**GUARD, "verb": "get"}, {**KEEPER, "serviceAccount": "ops/other"}],
            {"decision": "deny", "reasons": reasons},
        ),
        ([GLASS], {"decision": "allow"}),
        # What states nothing is answered no.
        (None, {"decision": "deny", "reasons": reasons}),
    )
    assert [result.failures for result in found.results] == [()] * 6
    (coverage,) = found.coverage
    assert (coverage.percent, coverage.clause_percent) == (100.0, 100.0)
    assert {rule.rule: rule.missing for rule in coverage.rules} == {
        "all": "",
        "validations[0]": "",
        "validations[1]": "",
    }


def test_without_a_statement_the_policies_are_refused(tmp_path):
    with pytest.raises(PolicyErrors, match="nothing answers its checks"):
        tried(tmp_path, (None, {"decision": "deny"}))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"allowed": True}, "`verb` is missing"),
        ({"verb": "get"}, "`allowed` is missing"),
        ({**GUARD, "allowed": "yes"}, "must be true or false"),
        ({**GUARD, "serviceAccount": "ops"}, "`ops` is no service account; write `NAMESPACE/NAME`"),
        ({**GUARD, "verbs": "x"}, "did you mean `verb`?"),
    ],
)
def test_what_is_wrong_with_a_statement(tmp_path, answer, message):
    with pytest.raises(PolicyErrors) as caught:
        tried(tmp_path, ([answer], {"decision": "deny"}))
    assert message in str(caught.value)


def test_two_answers_to_one_question_are_refused(tmp_path):
    with pytest.raises(PolicyErrors, match="answered twice"):
        tried(tmp_path, ([GUARD, {**GUARD, "allowed": False}], {"decision": "deny"}))


class Asked:
    """Says yes to everything, and keeps what it was asked."""

    def __init__(self):
        self.questions = []

    def request_resource(self):
        return Attributes(resource="secrets")

    def authorize(self, attributes):
        self.questions.append(attributes)
        return Answer(allowed=attributes.path == "")


def test_whoever_decides_may_bring_an_authorizer(tmp_path):
    (tmp_path / "p.yaml").write_text(POLICIES)
    documents = [one.root.plain() for one in check_text(POLICIES, name="p.yaml", also=AUTHORIZED).documents]
    for checked in (
        check_text(POLICIES, name="p.yaml", also=AUTHORIZED),
        check_directory(tmp_path, also=AUTHORIZED),
        check_files([tmp_path / "p.yaml"], also=AUTHORIZED),
        check_documents(documents, also=AUTHORIZED),
    ):
        assert checked.policy_set is not None, checked.diagnostics
        authorizer = Asked()
        mutation = normalise(mutation_from_wire(BODY))
        assert decide(checked.policy_set, mutation, NOW, authorizer=authorizer).effect is Effect.ALLOW
        # Each question once, and in the order of the expressions.
        assert [one.verb for one in authorizer.questions] == ["use", "guard", "read"]
        # Without one, what asks it has no value.
        verdict = decide(checked.policy_set, mutation, NOW)
        assert verdict.effect is Effect.DENY
        assert "no authorizer answers for this request" in verdict.reasons[0].message
    for checked in (check_text(POLICIES, name="p.yaml"), check_directory(tmp_path), check_documents(documents)):
        assert checked.policy_set is None
