"""The webhook asks about everything that policies speak of."""

import json
from datetime import UTC, datetime

import pytest

from app.core.admission.callers import ClusterView, agent_rule
from app.core.admission.canary import NAME
from app.core.decide import decide
from app.core.normalise import normalise
from app.core.types import Effect
from app.policies.load import check_text, load_directory
from app.policies.webhook import EXEMPT, Webhook, agent_expression, webhook_configuration
from app.surfaces.admission.models import EXAMPLE
from app.surfaces.admission.wire import review_of
from tests.corpus.cases import STARTER

POLICY = """\
apiVersion: mutationfirewall.io/v1
kind: MutationPolicy
metadata: {{name: p}}
spec:
  match: {match}
  rules: [{{name: r, effect: allow}}]
"""
ADMISSION = """\
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: v}
spec:
  matchConstraints:
    resourceRules: [{apiGroups: [apps], apiVersions: [v1], operations: [CREATE], resources: [deployments, deployments/scale]}]
  matchConditions: CONDITIONS
  validations: [{expression: "true"}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: v}
spec: {policyName: v, validationActions: [Deny]}
---
"""
EVERYTHING = '{resources: [{type: "*"}]}'
NOW = datetime(2026, 1, 31, tzinfo=UTC)
CLIENT = {"url": "https://firewall.example.com/kubernetes/v1/validate"}


def configured(text, **more):
    checked = check_text(text, name="p.yaml")
    assert checked.policy_set is not None, checked.diagnostics
    return webhook_configuration(checked.policy_set, Webhook("w", CLIENT, ["firewall"], **more))


def asked(text, **more):
    """Group, resource, operation."""
    rules = configured(text, **more)["webhooks"][0]["rules"]
    found = [
        (rule["apiGroups"][0], resource, operation)
        for rule in rules
        for resource in rule["resources"]
        for operation in rule["operations"]
    ]
    assert len(found) == len(set(found))
    return set(found)


def policy(match):
    return POLICY.format(match=match)


@pytest.mark.parametrize(
    ("match", "expected"),
    [
        (
            "{actions: [update], resources: [{type: apps/Deployment}]}",
            {("apps", "deployments", "UPDATE"), ("apps", "deployments/scale", "UPDATE")},
        ),
        (
            '{actions: ["delete*", eviction], resources: [{type: core/Pod}, {type: core/Service}]}',
            {("", "pods", "DELETE"), ("", "services", "DELETE"), ("", "pods/eviction", "CREATE")},
        ),
        (
            "{actions: [exec, proxy], resources: [{type: core/*}]}",
            {("", "*/exec", "CONNECT"), ("", "*/proxy", "CONNECT")},
        ),
        # A wider rule makes narrower ones needless, for the operations that it has.
        (
            "{actions: [create], resources: [{type: batch/*}, {type: batch/Job}]}",
            {("batch", "*", "CREATE")},
        ),
        (
            "{actions: [create], resources: [{type: example.com/CronTab}, {type: sql/Database}]}",
            {("example.com", name, "CREATE") for name in ("crontab", "crontabs", "crontabes")},
        ),
        ("{actions: [delete], resources: [{type: example.com/crontabs}]}", {("example.com", "crontabs", "DELETE")}),
        ('{actions: [delete], resources: [{type: "*.k8s.io/*"}, {type: apps/Deployment}]}', {("*", "*", "DELETE")}),
        ('{actions: [delete], resources: [{type: "*"}]}', {("*", "*", "DELETE")}),
        ("{actions: [delete]}", {("*", "*", "DELETE")}),
        ('{actions: [delete], resources: [{id: "a/*"}]}', {("*", "*", "DELETE")}),
    ],
)
def test_rules(match, expected):
    assert asked(policy(match)) == expected


def test_named_only():
    text = policy('{actions: [delete], resources: [{type: "*"}, {type: "rbac*/*"}, {type: core/Secret}]}')
    assert asked(text, named_only=True) == {
        ("rbac.authorization.k8s.io", "*", "DELETE"),
        ("", "secrets", "DELETE"),
    }
    with pytest.raises(ValueError, match="no policy"):
        configured(policy("{actions: [delete]}"), named_only=True)


@pytest.mark.parametrize("match", ["{resources: [{type: sql/Database}, {type: policy-set}]}", "{actions: [read]}"])
def test_what_is_no_business_of_a_cluster(match):
    with pytest.raises(ValueError, match="no policy"):
        configured(policy(match))


def test_admission_policies_say_it_themselves():
    text = ADMISSION.replace("CONDITIONS", "[]") + policy("{actions: [delete], resources: [{type: core/Pod}]}")
    assert asked(text) == {
        ("", "pods", "DELETE"),
        ("apps", "deployments", "CREATE"),
        ("apps", "deployments/scale", "CREATE"),
    }


def test_who_exempts_a_namespace_is_asked_about():
    changes, guard = configured(policy(EVERYTHING))["webhooks"]
    selected = changes["namespaceSelector"]["matchExpressions"]
    assert {"key": EXEMPT, "operator": "DoesNotExist"} in selected
    assert selected[0]["values"] == ["firewall", "kube-node-lease", "kube-public", "kube-system"]
    assert "namespaceSelector" not in guard
    assert guard["rules"][0]["resources"] == ["namespaces"]
    for one in (changes, guard):
        assert (one["failurePolicy"], one["sideEffects"], one["timeoutSeconds"]) == ("Fail", "NoneOnDryRun", 3)
        assert one["admissionReviewVersions"] == ["v1"]
        # An API server takes names of three parts at least.
        assert one["name"].count(".") >= 2


def test_conditions_are_expressions_that_a_cluster_takes():
    agents = [agent_rule(text) for text in ("user=a.b*", "group=ai-?", "namespace=agents-*", "extra=a.b/c'd=x\\y*")]
    webhooks = configured(policy(EVERYTHING), agents=agents)["webhooks"]
    for one in webhooks:
        conditions = json.dumps(one["matchConditions"])
        checked = check_text(ADMISSION.replace("CONDITIONS", conditions) + policy(EVERYTHING), name="p.yaml")
        assert checked.policy_set is not None, checked.diagnostics
        assert [condition["name"] for condition in one["matchConditions"]][-1] == "agents"


@pytest.mark.parametrize(
    ("rule", "user"),
    [
        ("user=a.b*", {"username": "a.bc"}),
        ("user=a.b*", {"username": "axbc"}),
        ("group=ai-?", {"username": "u", "groups": ["x", "ai-1"]}),
        ("group=ai-?", {"username": "u", "groups": ["ai-12"]}),
        ("group=ai-?", {"username": "u"}),
        ("namespace=agents-*", {"username": "system:serviceaccount:agents-1:fixer"}),
        ("namespace=agents-*", {"username": "system:serviceaccount:other:agents-1"}),
        ("namespace=*", {"username": "jane"}),
        ("extra=k=v*", {"username": "u", "extra": {"k": ["v1"]}}),
        ("extra=k=v*", {"username": "u", "extra": {"l": ["v1"]}}),
        ("extra=k=v*", {"username": "u"}),
    ],
)
def test_a_condition_says_what_the_rule_says(rule, user):
    made = agent_rule(rule)
    expression = json.dumps(agent_expression(made))
    checked = check_text(
        policy(EVERYTHING).replace("effect: allow", f"effect: allow, when: {expression}"), name="p.yaml"
    )
    assert checked.policy_set is not None, checked.diagnostics
    tree = {**EXAMPLE, "request": {**EXAMPLE["request"], "userInfo": user}}
    mutation = review_of(json.dumps(tree).encode(), ClusterView()).mutation
    verdict = decide(checked.policy_set, normalise(mutation), NOW)
    assert (verdict.effect is Effect.ALLOW) is made.matches(user), verdict.reasons


def test_the_starter_policies():
    made = webhook_configuration(load_directory(STARTER), Webhook("w", CLIENT, []))
    # They are about everything, and deny what they do not know.
    assert made["webhooks"][0]["rules"][0]["resources"] == ["*"]


def test_the_canary_is_asked_about_and_nothing_beside_it():
    match = "{resources: [{type: apps/Deployment}]}"
    changes, guard = configured(policy(match), canary=True, agents=[agent_rule("namespace=agents")])["webhooks"]
    assert {"apiGroups": [""], "apiVersions": ["*"], "operations": ["CREATE"], "resources": ["configmaps"]} in changes[
        "rules"
    ]
    conditions = {one["name"]: one["expression"] for one in changes["matchConditions"]}
    assert set(conditions) == {"not-asked", "agents", "canary"}
    assert NAME in conditions["agents"]
    assert "^system:serviceaccount:agents" in conditions["agents"]
    assert NAME in conditions["canary"]
    assert NAME not in json.dumps(guard)
    # Where ConfigMaps are asked about anyway, there is nothing to keep away.
    for text in (EVERYTHING, "{resources: [{type: core/ConfigMap}]}"):
        changes = configured(policy(text), canary=True)["webhooks"][0]
        assert [one["name"] for one in changes["matchConditions"]] == ["not-asked"]
        assert changes["rules"] == configured(policy(text))["webhooks"][0]["rules"]


def test_labels_are_looked_at_by_the_firewall_not_by_the_webhook():
    agents = [agent_rule("label=example.com/agent=*"), agent_rule("user=bot")]
    changes = configured(policy(EVERYTHING), agents=agents)["webhooks"][0]
    expression = next(one["expression"] for one in changes["matchConditions"] if one["name"] == "agents")
    assert expression.startswith("request.userInfo.username.startsWith('system:serviceaccount:') || ")
