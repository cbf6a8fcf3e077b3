"""The estimates of a whole set: every expression of every kind of policy is in them, each variable once."""

from app.policies.cost import estimated, variables_of
from app.policies.load import check_text

LOOP = "change.l.all(x, x > 1)"
SET = f"""
apiVersion: mutationfirewall.io/v1
kind: MutationPolicy
metadata: {{name: p}}
spec:
  matchConditions: [{{name: c, expression: "{LOOP}"}}]
  variables:
    - {{name: inner, expression: "{LOOP}"}}
    - {{name: outer, expression: "variables.inner && {LOOP}"}}
    - {{name: word, expression: "'a'"}}
  rules:
    - {{name: d, effect: deny, when: "variables.outer && now > timestamp(0)", messageExpression: "string({LOOP})"}}
    - name: a
      effect: allow
      obligations: [{{key: k, valueExpression: "{LOOP}"}}, {{key: fixed, value: 1}}]
  budgets:
    - {{name: b, key: "string({LOOP})", limit: 1, window: 1h, when: "{LOOP}", distinct: "string(variables.word)"}}
---
apiVersion: mutationfirewall.io/v1
kind: PolicyException
metadata: {{name: e}}
spec:
  owner: o
  reason: r
  validFrom: 2026-03-01T00:00:00Z
  validUntil: 2026-05-01T00:00:00Z
  policies: [{{name: p}}]
  match: {{actions: [a]}}
  matchConditions: [{{name: x, expression: "{LOOP}"}}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {{name: v}}
spec:
  matchConstraints: {{resourceRules: [{{apiGroups: ["*"], apiVersions: ["*"], operations: ["*"], resources: ["*"]}}]}}
  matchConditions: [{{name: m, expression: "object.l.all(x, x > 1)"}}]
  validations: [{{expression: "object.l.all(x, x > 1)", messageExpression: "string(object.l.all(x, x > 1))"}}]
  auditAnnotations: [{{key: n, valueExpression: "string(object.l.all(x, x > 1))"}}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {{name: w}}
spec: {{policyName: v, validationActions: [Deny]}}
"""


def policy_set():
    checked = check_text(SET, name="set.yaml")
    assert checked.policy_set is not None, checked.diagnostics
    return checked.policy_set


def test_every_expression_is_estimated():
    found = {(one.policy, one.name, one.part): one.estimate.usual for one in estimated(policy_set())}
    assert found.pop(("p", "d", "when")) <= 10
    assert found.pop(("p", "b", "budget distinct")) >= 0
    assert found.keys() == {
        ("p", "c", "condition"),
        ("p", "inner", "variable"),
        ("p", "outer", "variable"),
        ("p", "d", "message"),
        ("p", "a", "obligation k"),
        ("p", "b", "budget key"),
        ("p", "b", "budget when"),
        ("e", "x", "exception"),
        ("v/w", "m", "condition"),
        ("v/w", "validations[0]", "validation"),
        ("v/w", "validations[0]", "message"),
        ("v/w", "auditAnnotations[0]", "annotation"),
    }
    assert all(400 <= usual < 500 for usual in found.values())


def test_the_dearest_come_first():
    usual = [one.estimate.usual for one in estimated(policy_set())]
    assert usual == sorted(usual, reverse=True)


def test_variables_are_those_that_are_declared():
    policy = policy_set().policies[0]
    names = [variable.name for variable in variables_of([rule.when for rule in policy.rules if rule.when is not None])]
    assert names == ["outer", "inner"]
