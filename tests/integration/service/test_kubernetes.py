"""The admission webhook on the running service, with the ledger beside each answer."""

import copy
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.surfaces.admission.models import EXAMPLE
from tests.corpus.cases import load
from tests.corpus.reviews import environment_of, review_for
from tests.integration.service.conftest import scraped
from tests.ports import free_port

ROOT = Path(__file__).resolve().parents[3]
VALIDATE = "/kubernetes/v1/validate"
POLICY = """\
apiVersion: mutationfirewall.io/v1
kind: MutationPolicy
metadata: {name: replicas}
spec:
  match: {resources: [{type: apps/Deployment}]}
  variables: [{name: growth, expression: "change.after.spec.replicas - change.before.spec.replicas"}]
  rules:
    - {name: small, effect: allow, when: "variables.growth <= 2"}
    - {name: large, effect: hold, when: "variables.growth > 2", message: far, approval: {anyOf: [{group: sre, count: 2}]}}
    - {name: to-zero, effect: deny, when: "change.after.spec.replicas == 0", message: never to zero}
  budgets: [{name: few, limit: 1, window: 1h, per: subject, effect: deny, when: "resource.id == 'shop/rare'", message: once}]
---
apiVersion: mutationfirewall.io/v1
kind: MutationPolicy
metadata: {name: shells}
spec:
  match: {actions: [exec], resources: [{type: core/Pod}]}
  rules: [{name: ask, effect: hold, when: "true", message: a shell, approval: {anyOf: [{group: sre}]}}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: named}
spec:
  matchConstraints:
    resourceRules: [{apiGroups: [apps], apiVersions: [v1], operations: [UPDATE], resources: ["deployments", "deployments/scale"]}]
  validations: [{expression: "request.name != 'unloved' && !request.userInfo.username.contains('rogue')"}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: named}
spec: {policyName: named, validationActions: [Warn]}
"""


def asking(replicas=5, **members: Any) -> dict[str, Any]:
    tree = copy.deepcopy(EXAMPLE)
    tree["request"].update(members)
    if isinstance(tree["request"].get("object"), dict) and "spec" in tree["request"]["object"]:
        tree["request"]["object"]["spec"]["replicas"] = replicas
    for member in ("object", "oldObject"):
        if "name" in members and tree["request"].get(member):
            tree["request"][member]["metadata"]["name"] = members["name"]
    return tree


@pytest.fixture(scope="module")
def firewall(tmp_path_factory, shared_database_dsn):
    from tests.integration.service.conftest import running

    folder = tmp_path_factory.mktemp("kubernetes")
    (folder / "p.yaml").write_text(POLICY)
    with running(
        shared_database_dsn, MFW_POLICIES__DIRECTORY=str(folder), MFW_KUBERNETES__AGENTS="namespace=agents"
    ) as started:
        yield started


def post(firewall, tree: Any, query="timeout=30s", **options: Any) -> httpx.Response:
    with firewall.client(**options) as client:
        answer: httpx.Response = client.post(f"{VALIDATE}?{query}", json=tree)
    return answer


def answered(firewall, tree: Any, **options: Any) -> dict[str, Any]:
    answer = post(firewall, tree, **options)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert (found["apiVersion"], found["kind"]) == (tree["apiVersion"], "AdmissionReview")
    assert found["response"]["uid"] == tree["request"]["uid"]
    response: dict[str, Any] = found["response"]
    return response


EXEC = {
    "operation": "CONNECT",
    "kind": {"group": "", "version": "v1", "kind": "PodExecOptions"},
    "resource": {"group": "", "version": "v1", "resource": "pods"},
    "subResource": "exec",
    "name": "web",
    "oldObject": None,
    "object": {"apiVersion": "v1", "kind": "PodExecOptions", "command": ["sh"], "stdin": True},
}


@pytest.mark.parametrize(
    ("tree", "effect", "words"),
    [
        (asking(), "allow", ""),
        (asking(9), "hold", "needs the approval of 2 of group `sre`"),
        (asking(0), "deny", "never to zero"),
        (asking(kind={"group": "autoscaling", "version": "v1", "kind": "Scale"}, subResource="scale"), "allow", ""),
        (EXEC, "hold", "rule `ask`"),
        (asking(operation="DELETE", object=None), "deny", "rule `"),
    ],
)
def test_each_answer_is_in_the_ledger(firewall, tree, effect, words):
    if tree is EXEC:
        tree = asking()
        tree["request"] |= EXEC
    if tree["request"].get("subResource") == "scale":
        for member in ("object", "oldObject"):
            tree["request"][member] |= {"apiVersion": "autoscaling/v1", "kind": "Scale"}
    response = answered(firewall, tree)
    noted = response["auditAnnotations"]
    assert (response["allowed"], noted["decision"]) == (effect == "allow", effect)
    index, identifier, receipt = firewall.entries()[int(noted["ledger-index"])]
    assert (str(index), str(identifier)) == (noted["ledger-index"], noted["decision-id"])
    assert json.loads(receipt)["decision"] == effect
    if effect != "allow":
        message = response["status"]["message"]
        assert response["status"]["code"] == 403
        assert words in message
        assert noted["decision-id"] in message


def test_admission_policies_read_the_request_and_warn(firewall):
    response = answered(firewall, asking(name="unloved"))
    assert response["allowed"] is True
    assert "request.name" in response["warnings"][0]
    assert "validation.policy.admission.k8s.io.validation_failure" not in response["auditAnnotations"]


def test_a_dry_run_leaves_no_trace(firewall):
    before = len(firewall.entries())
    told = answered(firewall, asking(dryRun=True))
    assert told["allowed"] is True
    assert told["auditAnnotations"]["dry-run"] == "true"
    assert answered(firewall, asking(0, dryRun=True))["allowed"] is False
    assert answered(firewall, asking(9, dryRun=True))["allowed"] is False
    # No budget is counted, so none is known to have room, and none is taken either.
    assert answered(firewall, asking(name="rare", dryRun=True))["allowed"] is False
    assert len(firewall.entries()) == before
    assert [answered(firewall, asking(name="rare"))["allowed"] for _ in range(2)] == [True, False]
    assert len(firewall.entries()) == before + 2


def test_who_is_watched_does_not_rehearse(firewall):
    bound = {"roles": ["agent"], "subjects": ["agent:system:serviceaccount:agents:fixer"], "principal_id": "fixer"}
    with firewall.client(key=firewall.admin_key) as client:
        key = client.post("/v1/keys", json={"name": "t", "reason": "a test", **bound}).json()["key"]
    before = len(firewall.entries())
    told = answered(firewall, asking(dryRun=True), key=key)
    assert (told["allowed"], told["status"]["code"]) == (False, 403)
    assert len(firewall.entries()) == before
    assert answered(firewall, asking(), key=key)["allowed"] is True
    other = answered(firewall, asking(userInfo={"username": "jane"}), key=key)
    assert (other["allowed"], other["status"]["code"]) == (False, 403)


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b"{", 400, None),
        (b"", 400, None),
        (b"[]", 400, None),
        (json.dumps({**EXAMPLE, "request": {**EXAMPLE["request"], "uid": ""}}).encode(), 400, None),
        (json.dumps({**EXAMPLE, "apiVersion": "admission.k8s.io/v1beta1"}).encode(), 200, 400),
        (json.dumps(asking(operation="PATCH")).encode(), 200, 400),
        (json.dumps(asking(object={"a": "\0"})).encode(), 200, 400),
        (json.dumps(asking()).replace('"operation"', '"operation": "CREATE", "operation"').encode(), 200, 400),
        (json.dumps(asking(object={"a": [0] * 250_000})).encode(), 200, 413),
        (b" " * 5_000_000, 413, None),
    ],
    # The name of a test is in the environment of what it starts, which has a limit.
    ids=lambda value: str(value)[:40],
)
def test_what_is_no_review_is_refused_and_leaves_nothing(firewall, content, status, code):
    before = len(firewall.entries())
    with firewall.client() as client:
        answer = client.post(VALIDATE, content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == status
    if code is not None:
        response = answer.json()["response"]
        assert (response["uid"], response["allowed"]) == (EXAMPLE["request"]["uid"], False)
        assert response["status"]["code"] == code
    if b"v1beta1" in content:
        assert answer.json()["apiVersion"] == "admission.k8s.io/v1beta1"
        assert "admissionReviewVersions" in answer.json()["response"]["status"]["message"]
    assert len(firewall.entries()) == before


def test_three_mebibytes_are_read(firewall):
    # etcd takes objects of 1.5 MiB.
    large = {**asking()["request"]["object"], "data": {"x": "y" * 1_500_000}}
    before = {**large, "spec": {"replicas": 3}}
    response = answered(firewall, asking(object=large, oldObject=before))
    assert response["allowed"] is True


def test_who_may_ask(firewall):
    assert post(firewall, asking(), key="").status_code == 401
    # Who is known is told in the words of a review.
    told = answered(firewall, asking(), key=firewall.operator_key)
    assert (told["allowed"], told["status"]["code"]) == (False, 403)
    assert post(firewall, {}, key=firewall.operator_key).status_code == 403


def test_limits_and_api_servers(serve, database_dsn, tmp_path):
    (tmp_path / "p.yaml").write_text(POLICY)
    port = free_port()
    settings = {
        "MFW_METRICS__ENABLED": "true",
        "MFW_METRICS__PORT": str(port),
        "MFW_POLICIES__DIRECTORY": str(tmp_path),
        "MFW_LIMITS__BURST": "2",
        "MFW_LIMITS__PER_MINUTE": "1",
        "MFW_KUBERNETES__API_SERVERS": "test",
    }
    with serve(database_dsn, **settings) as service:
        assert [answered(service, asking())["allowed"] for _ in range(2)] == [True, True]
        limited = answered(service, asking())
        assert (limited["allowed"], limited["status"]["code"]) == (False, 429)
        assert limited["status"]["details"]["retryAfterSeconds"] >= 1
        # Alerts see what the review says, not the 200 around it.
        scraped(port, 'mfw_requests_total{code="429",method="POST",route="/kubernetes/v1/validate"} 1.0')
    with serve(database_dsn, **{**settings, "MFW_KUBERNETES__API_SERVERS": "kube-*"}) as service:
        told = answered(service, asking())
        assert (told["allowed"], told["status"]["code"]) == (False, 403)
        assert "API_SERVERS" in told["status"]["message"]


def test_the_corpus_is_answered_as_on_the_native_route(serve, database_dsn):
    """Every case that an API server could ask about, and the entries beside the answers."""
    settings = {
        "MFW_KUBERNETES__AGENTS": "user=ops-copilot",
        "MFW_KUBERNETES__ENVIRONMENTS": "*-staging=staging,shop-pr-*=staging,*=production",
    }
    compared = 0
    with serve(database_dsn, **settings) as service:
        with service.client() as client:
            for case in load():
                tree = review_for(case, uid=case.name)
                if tree is None:
                    continue
                staging = re.search(r"-staging$|^shop-pr-", tree["request"]["namespace"])
                if environment_of(case) != ("staging" if staging else "production"):
                    continue
                native = client.post("/v1/decisions", json=case.mutation).json()
                response = client.post(VALIDATE, json=tree).json()["response"]
                noted = response["auditAnnotations"]
                assert noted["decision"] == native["decision"] == case.decision, case.name
                assert response["allowed"] is (case.decision == "allow")
                assert noted["reason"] == "{policy}/{rule}".format(**native["reasons"][0]), case.name
                if not response["allowed"]:
                    assert "`{policy}`, rule `{rule}`".format(**native["reasons"][0]) in response["status"]["message"]
                assert response["uid"] == case.name
                compared += 1
        entries = {str(identifier): json.loads(receipt) for _, identifier, receipt in service.entries()}
    assert compared > 40
    assert len(entries) == 2 * compared


def test_the_five_lines_of_the_page_work(service):
    page = (ROOT / "docs" / "integrations" / "kubernetes.md").read_text()
    (command,) = re.findall(r"```console\n\$ (curl .*?)```", page, re.DOTALL)
    result = subprocess.run(
        ["bash", "-c", command],
        env={"MFW_URL": service.url, "MFW_API_KEY": service.key, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        check=True,
    )
    response = json.loads(result.stdout)["response"]
    assert response["allowed"] is False, result.stdout
    assert "k8s-deployment" in response["status"]["message"]
