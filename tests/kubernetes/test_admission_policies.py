"""Kubernetes' own admission policies, judged by the API server and by the firewall: the same requests, the same words."""

import copy
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import pytest
from ruamel.yaml import YAML

from tests.kubernetes.agreeing import ASKED, GROUP, NATIVE, both_judging, verdict_of
from tests.kubernetes.cluster import Answer, Cluster
from tests.kubernetes.shop import made

SCENARIOS: list[dict[str, Any]] = YAML(typ="safe").load(Path(__file__).parent / "admission_policies.yaml")
REQUESTS = [
    pytest.param(scenario, number, id=f"{scenario['name']}-{number}")
    for scenario in SCENARIOS
    for number in range(len(scenario["requests"]))
]
# The API server follows policies and parameters by watching them.
SEEN_SECONDS: Final = 60
PATHS: Final = {
    "deployment": "/apis/apps/v1/namespaces/{}/deployments",
    "configmap": "/api/v1/namespaces/{}/configmaps",
    "pod": "/api/v1/namespaces/{}/pods",
}


def documents(scenario: dict[str, Any]) -> list[dict[str, Any]]:
    """The policy and its binding, which is about the object of the scenario alone."""
    name = scenario["name"]
    rule = {
        "apiGroups": ["*"],
        "apiVersions": ["*"],
        "operations": ["*"],
        "resources": ["*/*"],
        "resourceNames": [name],
    }
    spec = {
        "policyName": name,
        "validationActions": scenario.get("actions", ["Deny"]),
        "matchResources": {"resourceRules": [rule]},
        **scenario.get("binding", {}),
    }
    kind = "ValidatingAdmissionPolicy"
    return [
        {"apiVersion": GROUP, "kind": kind, "metadata": {"name": name}, "spec": scenario["policy"]},
        {"apiVersion": GROUP, "kind": f"{kind}Binding", "metadata": {"name": f"of-{name}"}, "spec": spec},
    ]


def laid_over(base: Any, over: Any) -> Any:
    """Merge objects; everything else is replaced."""
    if not isinstance(base, dict) or not isinstance(over, dict):
        return copy.deepcopy(over)
    return {**base, **{key: laid_over(base.get(key), value) for key, value in over.items()}}


class Both:
    """The API server by itself, and the API server that asks."""

    def __init__(self, cluster: Cluster, token: str) -> None:
        self._cluster, self._token = cluster, token

    def given(self, scenario: dict[str, Any]) -> None:
        """Make the object of a scenario in both namespaces, before there are policies."""
        for namespace in (NATIVE, ASKED):
            there = laid_over(made(scenario["kind"], scenario["name"], namespace), scenario.get("given", {}))
            answer = self._cluster.api("POST", PATHS[scenario["kind"]].format(namespace), there)
            assert answer.status in {201, 409}, answer

    def verdict(self, scenario: dict[str, Any], request: dict[str, Any], namespace: str) -> dict[str, Any]:
        """What became of a request there."""
        return verdict_of(self._asked(scenario, request, namespace), scenario["name"])

    def _asked(self, scenario: dict[str, Any], request: dict[str, Any], namespace: str) -> Answer:
        ((verb, over),) = request.items()
        kind, name = scenario["kind"], scenario["name"]
        path, dry = PATHS[kind].format(namespace), "?dryRun=All"
        there = laid_over(made(kind, name, namespace), scenario.get("given", {}))
        api, token = self._cluster.api, self._token
        match verb:
            case "create":
                # What is there already is in the way only after admission.
                return api("POST", f"{path}{dry}", laid_over(there, over), token=token)
            case "update":
                return api("PUT", f"{path}/{name}{dry}", laid_over(there, over), token=token)
            case "delete":
                return api("DELETE", f"{path}/{name}{dry}", token=token)
            case "scale":
                merge = "application/merge-patch+json"
                return api(
                    "PATCH", f"{path}/{name}/scale{dry}", {"spec": {"replicas": over}}, token=token, content_type=merge
                )
            case "exec":
                words = "&".join(f"command={quote(word)}" for word in over)
                return api("POST", f"{path}/{name}/exec?stdout=true&{words}", token=token)
        raise AssertionError(verb)


@pytest.fixture(scope="module")
def both(
    cluster: Cluster, agent: str, shared_database_dsn: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Both]:
    """The scenarios in both, with the webhook in front of one."""
    for namespace in (NATIVE, ASKED, "parameters"):
        cluster.namespace(namespace)
    found = Both(cluster, agent)
    for scenario in SCENARIOS:
        found.given(scenario)
    parameters = [one for scenario in SCENARIOS for one in scenario.get("parameters", [])]
    judging = [document for scenario in SCENARIOS for document in documents(scenario)]
    with both_judging(cluster, shared_database_dsn, tmp_path_factory.mktemp("agreed"), [*parameters, *judging]):
        yield found


@pytest.mark.parametrize(("scenario", "number"), REQUESTS)
def test_both_say_the_same(both: Both, scenario: dict[str, Any], number: int) -> None:
    request = scenario["requests"][number]
    deadline = time.monotonic() + SEEN_SECONDS
    while True:
        native, asked = (both.verdict(scenario, request, namespace) for namespace in (NATIVE, ASKED))
        if native == asked or time.monotonic() > deadline:
            break
        time.sleep(0.2)
    assert asked == native
