"""A ledger with everything in it, decided by two replicas of the service as it is served."""

import contextlib
import json
import time
from collections.abc import Callable
from typing import Any

import httpx
from ruamel.yaml import YAML

from tests.corpus.cases import EXAMPLES, ROOT, STARTER, load
from tests.integration.service.budgeted import budget, policy
from tests.integration.service.conftest import Running, running

DATABASE = {"MFW_POLICIES__SOURCE": "database", "MFW_POLICIES__DIRECTORY": "", "MFW_POLICIES__POLL_SECONDS": "0.5"}
TYPED = {"Content-Type": "application/json"}
# The whole of time is a freeze, so that its end is in what is said.
FREEZE = {
    "apiVersion": "mutationfirewall.io/v1",
    "kind": "MutationPolicy",
    "metadata": {"name": "freeze"},
    "spec": {
        "match": {"actions": ["frozen"]},
        "rules": [{"name": "yes", "effect": "allow"}],
        "freezes": [
            {"name": "hour", "schedule": "* * * * *", "timeZone": "Europe/Berlin", "duration": "1h", "effect": "deny"}
        ],
    },
}
# A number with a fraction, `now`, an obligation and a text of its own making.
TALKATIVE = {
    "apiVersion": "mutationfirewall.io/v1",
    "kind": "MutationPolicy",
    "metadata": {"name": "talkative"},
    "spec": {
        "match": {"actions": ["talk"]},
        "rules": [
            {
                "name": "yes",
                "effect": "allow",
                "when": "change.after.ratio < 1.5 && (!has(change.after.limit) || change.after.limit == 9) && now > timestamp('2020-01-01T00:00:00Z')",
                "obligations": [{"key": "until", "valueExpression": "string(now)"}],
            },
            {
                "name": "ask",
                "effect": "hold",
                "when": "change.after.ratio >= 1.5",
                "messageExpression": "'asked at ' + string(now) + ' for ' + string(change.after.ratio)",
                "approval": {"anyOf": [{"group": "sre", "count": 2}]},
            },
        ],
    },
}
# One of what decides nothing, and one of what does.
MASK = {
    "apiVersion": "mutationfirewall.io/v1",
    "kind": "RecordMask",
    "metadata": {"name": "secrets"},
    "spec": {
        "match": {"actions": ["talk"]},
        "masks": [{"pointer": "/change/after/pin", "action": "hash"}, {"pointer": "/change/after/limit"}],
    },
}
ADMISSION: list[dict[str, Any]] = [
    {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": "replicas.example.com"},
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {
                "resourceRules": [
                    {"apiGroups": ["*"], "apiVersions": ["*"], "operations": ["*"], "resources": ["deployments"]}
                ]
            },
            "validations": [{"expression": "object.spec.replicas <= 40", "message": "too many"}],
            "auditAnnotations": [{"key": "replicas", "valueExpression": "string(object.spec.replicas)"}],
        },
    },
    {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": "replicas"},
        "spec": {"policyName": "replicas.example.com", "validationActions": ["Deny", "Audit"]},
    },
]


def documents() -> list[dict[str, Any]]:
    """The starter policies, and beside them a policy of each kind that has inputs of its own."""
    starter = [
        document
        for path in sorted(STARTER.glob("*.yaml"))
        for document in YAML(typ="safe", pure=True).load_all(path.read_text())
        if document is not None
    ]
    match = {"actions": ["metered"]}
    metered = [
        policy(
            budget(limit=5),
            budget("different", limit=3, distinct="resource.properties.namespace"),
            name="metered",
            match=match,
        ),
        policy(budget("shadow", limit=2), name="metered-shadow", mode="shadow", match=match),
    ]
    # Whoever activates has to be allowed to by the set in force.
    activate = policy(name="activate", match={"resources": [{"type": "policy-set"}]})
    others = [one for one in starter if one["metadata"]["name"] != "firewall-itself"]
    return [*others, *metered, FREEZE, TALKATIVE, MASK, *ADMISSION, activate]


def bodies() -> list[dict[str, Any]]:
    """Every case of the corpus and every example, and some of our own."""
    found = [case.mutation for case in load()]
    found += [json.loads(path.read_text()) for path in sorted(EXAMPLES.glob("*.json"))]
    found += [
        _own("talk", {"ratio": ratio, "big": 2**63 - 1}, rationale="because ✓") for ratio in (0.5, 1.0, 1.5, 1e300)
    ]
    found += [_own("talk", {"ratio": 0.5, "pin": "4711"}), _own("talk", {"ratio": 0.5, "limit": 9})]
    found += [_own("frozen", {"a": None})]
    found += [_own("metered", {"n": n}, namespace=f"ns-{n % 5}") for n in range(9)]
    return found


def _own(action: str, after: dict[str, Any], *, namespace: str = "blue", **more: Any) -> dict[str, Any]:
    return {
        "subject": {"type": "agent", "id": "coder-7"},
        "action": {"name": action},
        "resource": {"type": "shop/Item", "id": "shop", "properties": {"namespace": namespace}},
        "change": {"after": after},
        **more,
    }


def push(client: httpx.Client, *wanted: dict[str, Any]) -> str:
    """Store a set."""
    answer = client.post("/v1/policy-sets", json={"documents": list(wanted)})
    assert answer.status_code in {200, 201}, answer.text
    return str(answer.json()["digest"])


def activate(client: httpx.Client, digest: str) -> int:
    """Put it into force, and give the index of its entry."""
    answer = client.post(f"/v1/policy-sets/{digest}/activate", json={"reason": "a test"})
    assert answer.status_code == 200, answer.text
    return int(answer.json()["ledger_index"])


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait, for ten seconds at most."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def ask(client: httpx.Client, wanted: list[dict[str, Any]], *, mode: str = "each") -> list[dict[str, Any]]:
    """Ask about many at once."""
    answer = client.post("/v1/decisions:batch", json={"mutations": wanted, "mode": mode})
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["results"]
    return found


def fill(dsn: str, *, times: int = 1, **overrides: str) -> None:
    """Decide everything, in every way there is, under two sets, by two replicas, with switches thrown and ended."""
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(running(dsn, keys=None, **{**DATABASE, **overrides}))
        keys = {"key": first.key, "operator_key": first.operator_key, "admin_key": first.admin_key}
        second = stack.enter_context(running(dsn, keys=keys, **{**DATABASE, **overrides}))
        admin = stack.enter_context(first.client(key=first.admin_key))
        one, other = (stack.enter_context(replica.client()) for replica in (first, second))
        wanted = documents()
        sets = [push(admin, *wanted), push(admin, *(one for one in wanted if one["metadata"]["name"] != "talkative"))]
        activate(admin, sets[0])
        _until_in_force(second, sets[0])
        everything = bodies()
        for number in range(times):
            ask(one, everything)
            # In the middle, and the other replica is not waited for.
            activate(admin, sets[(number + 1) % 2])
            ask(other, everything)
            ask(other, everything[:3], mode="atomic")
            ask(one, [everything[-1]] * 4, mode="atomic")
            activate(admin, sets[number % 2])
            activate(admin, sets[(number + 1) % 2])
        one.post("/v1/decisions", json=everything[0], headers={"Idempotency-Key": "again"})
        one.post("/v1/decisions", json=everything[0], headers={"Idempotency-Key": "again"})
        thrown = [
            _throw(admin, kind="shadow", target="k8s-deployment", **{"for": "1h"}),
            _throw(admin, kind="deny-subject", target="coder-7"),
        ]
        ask(one, everything)
        for identifier in thrown:
            assert admin.delete(f"/v1/switches/{identifier}", params={"reason": "over"}).status_code == 200
        for body in everything[-12:]:
            assert one.post("/v1/decisions", json=body).status_code == 200


def _until_in_force(service: Running, digest: str) -> None:
    with service.client(key=service.admin_key) as client:
        wait_until(lambda: digest in client.get("/health/detailed").text)


def _throw(client: httpx.Client, **wanted: Any) -> str:
    answer = client.post("/v1/switches", json={"reason": "a test", **wanted})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


__all__ = ["ROOT", "STARTER", "activate", "ask", "bodies", "documents", "fill", "push"]
