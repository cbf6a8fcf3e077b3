"""Published ValidatingAdmissionPolicies on a real API server: it says what the firewall says, of every case.

The cases are data of others and no part of the project: where their folder is not, these tests are skipped.
"""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from ruamel.yaml import YAML

from app.core.admission.resources import resource_of
from tests.kubernetes.agreeing import ASKED, GROUP, NATIVE, both_judging, verdict_of
from tests.kubernetes.cluster import Cluster

SUITE = Path(__file__).parents[3] / "shared" / "suites" / "vap"
# The API server looks for new kinds of parameters twice a minute. So long may one case take, whatever those before took.
SEEN_SECONDS: Final = 120
PARAMETERS: Final = "controlconfigurations.kubescape.io"
# Those of no namespace cannot be told apart here; leases are never asked about.
NOT_HERE: Final = ("ClusterRole", "ClusterRoleBinding", "Lease")

# Not skipped one by one, which CI forbids.
if not SUITE.is_dir():
    pytest.skip(f"the suite `{SUITE}` is not here", allow_module_level=True)

CASES: Final = [json.loads(line) for line in (SUITE / "cases.jsonl").read_text().splitlines()]


def definition() -> dict[str, Any]:
    """Of the kind that the parameters have: any members, in no namespace."""
    group, kind = "kubescape.io", "ControlConfiguration"
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": PARAMETERS},
        "spec": {
            "group": group,
            "scope": "Cluster",
            "names": {"plural": PARAMETERS.partition(".")[0], "kind": kind},
            "versions": [{"name": "v1", "served": True, "storage": True, "schema": schema}],
        },
    }


def documents() -> list[dict[str, Any]]:
    """Every policy, and a binding for each of its parameters that is about the cases with these alone."""
    policies = {
        document["metadata"]["name"]: document
        for file in sorted((SUITE / "policies").glob("*.yaml"))
        for document in YAML(typ="safe", pure=True).load_all(file.read_text())
    }
    by_file = {
        file.stem: YAML(typ="safe", pure=True).load(file.read_text()) for file in (SUITE / "policies").glob("*.yaml")
    }
    found = list(policies.values())
    bound: dict[tuple[str, str], list[str]] = {}
    for number, case in enumerate(CASES):
        policy = (policies.get(case["policy"]) or by_file[case["policy"]])["metadata"]["name"]
        case["name of policy"] = policy
        bound.setdefault((policy, json.dumps(case["params"], sort_keys=True)), []).append(f"case-{number}")
    for number, ((policy, text), names) in enumerate(bound.items()):
        rule = {
            "apiGroups": ["*"],
            "apiVersions": ["*"],
            "operations": ["*"],
            "resources": ["*/*"],
            "resourceNames": names,
        }
        spec = {"policyName": policy, "validationActions": ["Deny"], "matchResources": {"resourceRules": [rule]}}
        if "paramKind" in policies[policy]["spec"]:
            parameter = json.loads(text)
            parameter["metadata"]["name"] = f"parameters-{number}"
            spec["paramRef"] = {"name": f"parameters-{number}", "parameterNotFoundAction": "Deny"}
            found.append(parameter)
        kind = "ValidatingAdmissionPolicyBinding"
        found.append({"apiVersion": GROUP, "kind": kind, "metadata": {"name": f"binding-{number}"}, "spec": spec})
    return found


@pytest.fixture(scope="module")
def both(
    cluster: Cluster, agent: str, shared_database_dsn: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The token of who makes the objects, once both judge."""
    for namespace in (NATIVE, ASKED):
        cluster.namespace(namespace)
    cluster.apply(definition())
    established = cluster.kubectl("wait", "--for=condition=established", f"crd/{PARAMETERS}", "--timeout=60s")
    assert established.returncode == 0, established.stderr
    with both_judging(cluster, shared_database_dsn, tmp_path_factory.mktemp("published"), documents()):
        yield agent


def test_both_say_the_same_and_what_is_expected(cluster: Cluster, both: str) -> None:
    """One test for all: what an API server is asked for by hundreds costs milliseconds each."""
    deadline = time.monotonic() + SEEN_SECONDS
    wrong: list[tuple[Any, ...]] = []
    for number, case in enumerate(CASES):
        if case["object"]["kind"] in NOT_HERE:
            continue
        while True:
            native, asked = (said(cluster, both, number, case, namespace) for namespace in (NATIVE, ASKED))
            # What is about the namespace `default` is of another one here.
            expected = native["allowed"] if "namespace" in case["name"] else case["expected"] == "pass"
            right = native == asked and native["allowed"] is expected
            if right or time.monotonic() > deadline:
                break
            # Until the kind of its parameters is seen, a policy fails, on both sides alike.
            time.sleep(0.5)
        if right:
            deadline = time.monotonic() + SEEN_SECONDS
        else:
            wrong.append((number, case["name"], case["expected"], native, asked))
    assert wrong == []


def said(cluster: Cluster, token: str, number: int, case: dict[str, Any], namespace: str) -> dict[str, Any]:
    thing = case["object"]
    named = {**thing, "metadata": {**thing["metadata"], "name": f"case-{number}", "namespace": namespace}}
    prefix = "/api/v1" if thing["apiVersion"] == "v1" else f"/apis/{thing['apiVersion']}"
    path = f"{prefix}/namespaces/{namespace}/{resource_of(thing['kind'])}?dryRun=All"
    answer = cluster.api("POST", path, named, token=token)
    return verdict_of(answer, case["name of policy"])
