"""Admission policies in the whole of the service: pushed, in force on two replicas, asked over HTTP, and recorded."""

import asyncio
import contextlib
import json
import time
from datetime import datetime
from typing import Any

import pytest

from app.core.canonical import canonical
from app.core.decide import decide
from app.core.normalise import normalise
from app.ledger.read import LedgerReader
from app.persistence.engine import create_engine
from app.policies.load import check_documents
from app.surfaces.native.wire import mutation_from_wire

DATABASE = {"MFW_POLICIES__SOURCE": "database", "MFW_POLICIES__DIRECTORY": ""}
POLICY = {
    "apiVersion": "admissionregistration.k8s.io/v1",
    "kind": "ValidatingAdmissionPolicy",
    "metadata": {"name": "replicas.example.com"},
    "spec": {
        "failurePolicy": "Fail",
        "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "matchConstraints": {
            "resourceRules": [
                {
                    "apiGroups": ["apps"],
                    "apiVersions": ["v1"],
                    "operations": ["CREATE", "UPDATE"],
                    "resources": ["deployments"],
                }
            ]
        },
        "matchConditions": [{"name": "not-the-platform", "expression": "!('platform' in request.userInfo.groups)"}],
        "variables": [{"name": "most", "expression": "int(params.data.most)"}],
        "validations": [
            {
                "expression": "object.spec.replicas <= variables.most",
                "messageExpression": "'at most ' + string(variables.most) + ' replicas'",
            },
            {"expression": "has(object.metadata.labels.team)", "message": "name a team"},
        ],
        "auditAnnotations": [{"key": "replicas", "valueExpression": "string(object.spec.replicas)"}],
    },
}
LIMIT: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "ConfigMap",
    "metadata": {"name": "limit", "namespace": "policies"},
    "data": {"most": "5"},
}
ALLOW = {
    "apiVersion": "mutationfirewall.io/v1",
    "kind": "MutationPolicy",
    "metadata": {"name": "deployments"},
    "spec": {
        "match": {"resources": [{"type": "apps/Deployment"}, {"type": "policy-set"}]},
        "rules": [{"name": "may-change", "effect": "allow"}],
    },
}
SHOP = {"matchLabels": {"stage": "production"}}


def binding(name: str, *actions: str, **more: Any) -> dict[str, Any]:
    """A binding of the policy to its limit."""
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": name},
        "spec": {
            "policyName": "replicas.example.com",
            "paramRef": {"name": "limit", "namespace": "policies", "parameterNotFoundAction": "Deny"},
            "validationActions": list(actions),
            **more,
        },
    }


def documents(*, most: int) -> list[dict[str, Any]]:
    """A set in which production is denied and everything is warned of."""
    return [
        ALLOW,
        POLICY,
        {**LIMIT, "data": {"most": str(most)}},
        binding("production", "Deny", "Audit", matchResources={"namespaceSelector": SHOP}),
        binding("everywhere", "Warn"),
    ]


def asked(replicas: int, *, stage: str = "production", groups: list[str] | None = None) -> dict[str, Any]:
    """A request for a deployment with so many replicas, and the facts that an enforcement point sends."""
    return {
        "subject": {"type": "agent", "id": "scaler", "properties": {"groups": groups or []}},
        "action": {"name": "create"},
        "resource": {"type": "apps/Deployment", "id": "shop/web"},
        "change": {
            "after": {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "metadata": {"name": "web", "namespace": "shop", "labels": {"team": "shop"}},
                "spec": {"replicas": replicas},
            }
        },
        "context": {
            "kubernetes": {
                "namespaceObject": {
                    "apiVersion": "v1",
                    "kind": "Namespace",
                    "metadata": {"name": "shop", "labels": {"stage": stage}},
                }
            }
        },
    }


def put(client, sets):
    answer = client.post("/v1/policy-sets", json={"documents": sets})
    assert answer.status_code == 201, answer.text
    assert answer.json().get("diagnostics", []) == []
    return answer.json()["digest"]


def activate(client, digest):
    answer = client.post(f"/v1/policy-sets/{digest}/activate", json={"reason": "a test"})
    assert answer.status_code == 200, answer.text


def ask(client, body):
    answer = client.post("/v1/decisions", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def wait_until(condition, *, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def record(dsn, index):
    """The record of one entry of the ledger, and the instant of its receipt."""

    async def read():
        engine = create_engine(dsn)
        try:
            return await LedgerReader(engine).get(index)
        finally:
            await engine.dispose()

    entry = asyncio.run(read())
    assert entry.record is not None
    return json.loads(entry.record), json.loads(entry.receipt)


@pytest.fixture
def two(serve, database_dsn):
    """Two replicas on one database; the second one's next poll is a minute away."""
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(serve(database_dsn, **DATABASE))
        client = stack.enter_context(first.client(key=first.admin_key))
        activate(client, put(client, documents(most=5)))
        second = stack.enter_context(serve(database_dsn, **DATABASE, MFW_POLICIES__POLL_SECONDS="60"))
        yield client, stack.enter_context(first.client()), stack.enter_context(second.client())


def test_a_set_of_admission_policies_from_push_to_record(two, database_dsn):
    client, asking, _ = two
    allowed = ask(asking, asked(5))
    assert allowed["decision"] == "allow"
    assert [reason["policy"] for reason in allowed["reasons"]] == ["deployments"]
    assert "warnings" not in allowed
    assert allowed["annotations"] == {"replicas.example.com/replicas": "5"}

    denied = ask(asking, asked(6))
    assert denied["decision"] == "deny"
    (reason,) = denied["reasons"]
    assert (reason["policy"], reason["binding"], reason["rule"]) == (
        "replicas.example.com",
        "production",
        "validations[0]",
    )
    assert reason["message"] == "at most 5 replicas"
    assert reason["clause"]["text"] == "object.spec.replicas <= variables.most"
    assert reason["clause"]["values"] == {"object.spec.replicas": 6, "variables.most": 5}
    (warning,) = denied["warnings"]
    assert warning.endswith("with binding 'everywhere': at most 5 replicas")
    (failure,) = json.loads(denied["annotations"]["validation.policy.admission.k8s.io/validation_failure"])
    assert failure["binding"] == "production"

    staging = ask(asking, asked(6, stage="staging"))
    assert (staging["decision"], len(staging["warnings"])) == ("allow", 1)
    assert ask(asking, asked(60, groups=["platform"]))["decision"] == "allow"

    # What was answered is in the ledger, and follows again from the record and the set.
    written, receipt = record(database_dsn, denied["ledger_index"])
    assert written["warnings"] == denied["warnings"]
    assert written["annotations"] == denied["annotations"]
    assert written["reasons"][0]["binding"] == "production"
    assert receipt["policy_set"] == client.get("/v1/policy-sets/active").json()["digest"]
    checked = check_documents(client.get("/v1/policy-sets/active").json()["documents"])
    assert checked.policy_set is not None
    assert checked.policy_set.digest == receipt["policy_set"]
    again = decide(
        checked.policy_set,
        normalise(mutation_from_wire(written["input"])),
        datetime.fromisoformat(written["now"]),
    )
    assert again.effect == receipt["decision"]
    assert list(again.warnings) == written["warnings"]
    assert canonical(dict(again.annotations)) == canonical(written["annotations"])


def test_a_second_replica_follows_what_a_parameter_says(two):
    client, asking, second = two
    first_set = client.get("/v1/policy-sets/active").json()["digest"]
    assert [ask(one, asked(6))["decision"] for one in (asking, second)] == ["deny", "deny"]
    # Nothing but the parameter is another one.
    wider = put(client, documents(most=8))
    activate(client, wider)
    wait_until(lambda: ask(second, asked(6))["policy_set"] == wider)
    assert ask(second, asked(6))["decision"] == "allow"
    assert ask(second, asked(9))["reasons"][0]["message"] == "at most 8 replicas"
    activate(client, first_set)
    wait_until(lambda: ask(second, asked(6))["policy_set"] == first_set)
    assert ask(second, asked(6))["decision"] == "deny"


def test_what_is_wrong_with_admission_policies_is_said_at_once(two):
    client, _, _ = two
    broken = json.loads(json.dumps(documents(most=5)))
    broken[1]["spec"]["validations"][0]["expression"] = "objekt.spec.replicas < 3"
    broken[3]["spec"]["policyName"] = "replica.example.com"
    broken[4]["spec"]["validationActions"] = ["Deny", "Warn"]
    answer = client.post("/v1/policy-sets", json={"documents": broken})
    assert answer.status_code == 400
    found = {(one["file"], one["path"]): one for one in answer.json()["errors"]}
    assert found["documents[1]", "spec.validations[0].expression"]["fix"] == "did you mean `object`?"
    assert ("documents[4]", "spec.validationActions") in found
