"""What admission policies say: the corpus `semantics.yaml`, through the loader and the core."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from app.core.decide import decide
from app.core.normalise import normalise
from app.core.types import Effect, Mode, Mutation
from app.policies.load import check_documents

NOW = datetime(2026, 3, 13, 12, tzinfo=UTC)
GROUP = "admissionregistration.k8s.io/v1"
POLICY = "policy.example.com"
ALLOW = {
    "apiVersion": "mutationfirewall.io/v1",
    "kind": "MutationPolicy",
    "metadata": {"name": "allow"},
    "spec": {"match": {"resources": [{"type": "*"}]}, "rules": [{"name": "all", "effect": "allow"}]},
}
SCENARIOS = YAML(typ="safe", pure=True).load((Path(__file__).parent / "semantics.yaml").read_text())
REQUESTS = [
    pytest.param(scenario, number, id=f"{scenario['scenario']} {number}")
    for scenario in SCENARIOS
    for number in range(len(scenario["requests"]))
]


def compiled(scenario):
    bindings = scenario.get("bindings") or {
        "binding": {"validationActions": scenario.get("actions", ["Deny"]), **scenario.get("binding", {})}
    }
    documents = [
        ALLOW,
        *scenario.get("parameters", []),
        {
            "apiVersion": GROUP,
            "kind": "ValidatingAdmissionPolicy",
            "metadata": {"name": POLICY},
            "spec": scenario["policy"],
        },
        *(
            {
                "apiVersion": GROUP,
                "kind": "ValidatingAdmissionPolicyBinding",
                "metadata": {"name": name},
                "spec": {"policyName": POLICY, **spec},
            }
            for name, spec in bindings.items()
        ),
    ]
    checked = check_documents(documents)
    assert checked.policy_set is not None, [str(one) for one in checked.diagnostics]
    return checked.policy_set


def kubernetes(short):
    """Write an object out: `kind` is `[GROUP/]VERSION/KIND`, and some members of `metadata` stand beside it."""
    if short is None or "kind" not in short:
        return short
    api_version, _, kind = short["kind"].rpartition("/")
    metadata = {"name": short.get("name", "x"), **short.get("metadata", {})}
    metadata |= {name: short[name] for name in ("labels", "annotations") if name in short}
    rest = {name: value for name, value in short.items() if name not in {"kind", "name", "metadata", "labels"}}
    rest.pop("annotations", None)
    if (data := rest.get("data")) and "long" in data:
        data["long"] = ["x"] * data["long"]
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, **rest}


def asked(request, groups):
    change = {name: kubernetes(request[name]) for name in ("before", "after") if name in request}
    action = "delete" if "after" not in request else "update" if "before" in request else "create"
    facts = {}
    if "namespace" in request:
        facts["namespaceObject"] = request["namespace"]
    if "request" in request:
        facts["request"] = request["request"]
    return Mutation(
        {"type": "user", "id": "someone", "properties": {"groups": groups} if groups is not None else {}},
        {"name": action, "properties": {}},
        {"type": "some/Thing", "id": "x", "properties": {}},
        change,
        {"kubernetes": facts} if facts else {},
    )


@pytest.mark.parametrize(("scenario", "number"), REQUESTS)
def test_a_request(scenario, number):
    request = scenario["requests"][number]
    verdict = decide(compiled(scenario), normalise(asked(request, scenario.get("groups"))), NOW)
    own = [reason for reason in verdict.reasons if reason.policy == POLICY]
    assert len(own) + (verdict.effect is Effect.ALLOW) == len(verdict.reasons)
    for mode, name in ((Mode.ENFORCE, "deny"), (Mode.SHADOW, "shadow")):
        found = [f"{reason.rule}: {reason.message}" for reason in own if reason.mode is mode]
        wanted = request.get(name, [])
        assert len(found) == len(wanted), found
        for one, other in zip(found, wanted, strict=True):
            assert one == other or (other.endswith("rule_error: ") and one.startswith(other))
    assert verdict.effect is (Effect.DENY if request.get("deny") else Effect.ALLOW)
    assert list(verdict.warnings) == request.get("warn", [])
    assert dict(verdict.annotations) == request.get("annotations", {})
    assert {reason.binding for reason in own} <= set(scenario.get("bindings", ["binding"]))
