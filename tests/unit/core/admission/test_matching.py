"""Rules and selectors: the corpus `matching.yaml`, for policies and for bindings."""

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from app.core.admission.facts import facts_of
from app.core.admission.matching import AdmissionMatch, MatchResources
from app.policies.load import check_documents

MATCHES = YAML(typ="safe", pure=True).load((Path(__file__).parent / "matching.yaml").read_text())
REQUESTS = [
    pytest.param(one, request, wanted, id=f"{one['about']}: {request}")
    for one in MATCHES
    for request, wanted in one["requests"].items()
]
WANTED = {"matches": True, "does not": False, "unknown": None}
EVERYTHING = {"rules": ["* * * */*"]}


def rule(short):
    operations, groups, versions, resources, *scope = short.split()
    return {
        "operations": operations.split(","),
        "apiGroups": ["" if group == "core" else group for group in groups.split(",")],
        "apiVersions": versions.split(","),
        "resources": resources.split(","),
        **({"scope": scope[0]} if scope else {}),
    }


def match_of(constraints, resources=None):
    def spelled(short):
        return {
            **{k: v for k, v in short.items() if k != "rules"},
            "resourceRules": [rule(one) for one in short["rules"]],
        }

    def full(short):
        return spelled(short) if "rules" in short else short

    head = {"apiVersion": "admissionregistration.k8s.io/v1", "metadata": {"name": "x"}}
    checked = check_documents(
        [
            {
                **head,
                "kind": "ValidatingAdmissionPolicy",
                "spec": {"matchConstraints": full(constraints), "validations": [{"expression": "true"}]},
            },
            {
                **head,
                "kind": "ValidatingAdmissionPolicyBinding",
                "spec": {
                    "policyName": "x",
                    "validationActions": ["Deny"],
                    **({"matchResources": full(resources)} if resources is not None else {}),
                },
            },
        ]
    )
    assert checked.policy_set is not None, [str(one) for one in checked.diagnostics]
    (policy,) = checked.policy_set.policies
    return policy.match


def inputs_of(request, labels=None, object_labels=None):
    operation, resource, name = request.split()
    group, version, plural, *part = resource.split("/")
    group = "" if group == "core" else group
    namespace, _, own = name.rpartition("/")
    shown = {"metadata": {"name": own, **({"labels": object_labels} if object_labels else {})}}
    return {
        "action": {"name": operation.lower()},
        "subject": {"id": "someone", "properties": {}},
        "resource": {"type": "x/X", "id": "x"},
        "change": {"before": shown} if operation == "DELETE" else {"after": shown},
        "context": {
            "kubernetes": {
                "request": {
                    "operation": operation,
                    "kind": {"group": group, "version": version, "kind": "Any"},
                    "resource": {"group": group, "version": version, "resource": plural},
                    **({"subResource": part[0]} if part else {}),
                    "name": own,
                    **({"namespace": namespace} if namespace else {}),
                },
                **({"namespaceObject": {"metadata": {"labels": labels}}} if labels else {}),
            }
        },
    }


@pytest.mark.parametrize(("one", "request_", "wanted"), REQUESTS)
def test_a_policy(one, request_, wanted):
    inputs = inputs_of(request_, one.get("labels"), one.get("objectLabels"))
    match = match_of(one["match"])
    assert match.fits(facts_of(inputs)) is WANTED[wanted]
    assert match.matches(inputs) is (WANTED[wanted] is not False)


@pytest.mark.parametrize(("one", "request_", "wanted"), REQUESTS)
def test_a_binding_restricts_in_the_same_way(one, request_, wanted):
    facts = facts_of(inputs_of(request_, one.get("labels"), one.get("objectLabels")))
    assert match_of(EVERYTHING, one["match"]).fits(facts) is WANTED[wanted]


def test_a_binding_without_rules_restricts_nothing():
    facts = facts_of(inputs_of("CREATE core/v1/pods shop/web"))
    assert facts is not None
    assert AdmissionMatch(match_of(EVERYTHING).constraints, MatchResources()).fits(facts) is True


def test_what_does_not_match_for_one_of_them_is_not_in_doubt_for_the_other():
    unknown = {"rules": ["* * * *"], "namespaceSelector": {"matchExpressions": [{"key": "a", "operator": "Exists"}]}}
    facts = facts_of(inputs_of("CREATE core/v1/pods shop/web"))
    assert facts is not None
    assert match_of(unknown, {"rules": ["* apps v1 *"]}).fits(facts) is False
    assert match_of({"rules": ["* apps v1 *"]}, unknown).fits(facts) is False
    assert match_of(unknown, unknown).fits(facts) is None


@pytest.mark.parametrize(
    ("rules", "resources"),
    [
        (["* apps v1 deployments/scale,pods"], {"deployments", "pods"}),
        (["* apps v1 deployments", "* core v1 pods"], {"deployments", "pods"}),
        (["* apps v1 deployments", "* core v1 */scale"], None),
        (["* * * *"], None),
    ],
)
def test_the_index_knows_the_resources(rules, resources):
    found = match_of({"rules": rules}).resources()
    assert found == (None if resources is None else frozenset(resources))
