"""The wall on a real API server, with the firewall absent: it takes what is rendered, and denies what the policies deny."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from app.core.admission.callers import agent_rule, environment_rule
from app.policies.backstop import LABEL, Backstop, render
from app.policies.load import check_directory, check_files
from tests.corpus.cases import ROOT, STARTER
from tests.kubernetes.cluster import Cluster

AGENTS = "wall-agents"
NAMESPACE = "wall-shop"
# The API server follows its own objects by watching them.
SEEN_SECONDS = 60
KINDS = "validatingadmissionpolicies,validatingadmissionpolicybindings"
BACKSTOP = Backstop(
    "wall",
    agents=[agent_rule(f"namespace={AGENTS}")],
    environments=[environment_rule("*-dev=dev"), environment_rule("*=production")],
    cluster="eu",
)
DEPLOYMENTS = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
DRY_RUN = "?dryRun=All"
PATCH = "application/merge-patch+json"


def pod(image: str = "registry.example.com/checkout:1.2") -> dict[str, Any]:
    return {"containers": [{"name": "c", "image": image}]}


def deployment(image: str = "registry.example.com/checkout:1.2") -> dict[str, Any]:
    labels = {"app": "checkout"}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "checkout"},
        "spec": {
            "replicas": 3,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod(image)},
        },
    }


def rendered(checked: Any, backstop: Backstop) -> dict[str, Any]:
    items = [json.loads(json.dumps(one)) for one in render(checked, backstop).documents]
    return {"apiVersion": "v1", "kind": "List", "items": items}


@dataclass
class Wall:
    """A cluster with the wall, and somebody who is an agent."""

    cluster: Cluster
    token: str


@pytest.fixture(scope="module")
def wall(cluster: Cluster) -> Iterator[Wall]:
    token = cluster.service_account(AGENTS, "fixer")
    for namespace in (NAMESPACE, "kube-wall"):
        cluster.namespace(namespace)
        made = cluster.api(
            "POST",
            f"/api/v1/namespaces/{namespace}/pods",
            {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "one"}, "spec": pod()},
        )
        assert made.status == 201, made
    assert cluster.api("POST", DEPLOYMENTS, deployment()).status == 201
    # RBAC is not what is tried here.
    cluster.apply(
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": "wall-agents"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
            "subjects": [{"kind": "ServiceAccount", "name": "fixer", "namespace": AGENTS}],
        }
    )
    done = cluster.kubectl(
        "apply", "--server-side", "--validate=strict", "-f", "-", stdin=rendered(check_directory(STARTER), BACKSTOP)
    )
    assert done.returncode == 0, done.stderr
    found = Wall(cluster, token)
    try:
        waiting = [
            patched(0),
            scaled_to_zero(),
            (*created("evil.example.com/checkout:1"), "untrusted-registry"),
            (*created("registry.example.com/checkout:latest"), "floating-tag"),
            bound(),
            ended(),
            entered(),
            hooked(),
        ]
        deadline = time.monotonic() + SEEN_SECONDS
        while waiting and time.monotonic() < deadline:
            waiting = [one for one in waiting if one[-1] not in said(found, *one[:-1])]
            time.sleep(0.1)
        assert not waiting
        yield found
    finally:
        cluster.kubectl("delete", KINDS, "-l", f"{LABEL}=true")


def said(wall: Wall, method: str, path: str, body: Any = None) -> str:
    """What the API server tells the agent where it refuses, else nothing."""
    kind = PATCH if method == "PATCH" else "application/json"
    answer = wall.cluster.api(method, path, body, token=wall.token, content_type=kind)
    if answer.status < 400 or not isinstance(answer.body, dict):
        return ""
    return str(answer.body["message"])


def patched(replicas: int) -> tuple[Any, ...]:
    return "PATCH", f"{DEPLOYMENTS}/checkout{DRY_RUN}", {"spec": {"replicas": replicas}}, "to-zero"


def scaled_to_zero() -> tuple[Any, ...]:
    return "PATCH", f"{DEPLOYMENTS}/checkout/scale{DRY_RUN}", {"spec": {"replicas": 0}}, "to-zero"


def created(image: str) -> tuple[Any, ...]:
    return "POST", DEPLOYMENTS + DRY_RUN, {**deployment(image), "metadata": {"name": "another"}}


def bound() -> tuple[Any, ...]:
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "wall-more"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [],
    }
    path = f"/apis/rbac.authorization.k8s.io/v1/clusterrolebindings{DRY_RUN}"
    return "POST", path, binding, "cluster-admin"


def ended() -> tuple[Any, ...]:
    return "DELETE", f"/api/v1/namespaces/{NAMESPACE}{DRY_RUN}", None, "state-in-production"


def entered() -> tuple[Any, ...]:
    return "POST", "/api/v1/namespaces/kube-wall/pods/one/exec?command=ls", None, "system-namespace"


def hooked() -> tuple[Any, ...]:
    configuration = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": "mutation-firewall"},
    }
    path = f"/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations{DRY_RUN}"
    return "POST", path, configuration, "not-by-agents"


@pytest.mark.parametrize(
    ("policy", "rule", "asked"),
    [
        ("k8s-deployment", "to-zero", patched(0)[:-1]),
        # An API server leaves a zero out of a Scale.
        ("k8s-deployment", "to-zero", scaled_to_zero()[:-1]),
        ("k8s-pod-safety", "floating-tag", created("registry.example.com/checkout:latest")),
        ("k8s-pod-safety", "untrusted-registry", created("evil.example.com/checkout:1")),
        ("k8s-access", "cluster-admin", bound()[:-1]),
        ("k8s-deletion", "state-in-production", ended()[:-1]),
        ("k8s-connection", "system-namespace", entered()[:-1]),
        (
            "firewall-itself",
            "not-by-agents",
            hooked()[:-1],
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_an_agent_is_denied(wall: Wall, policy: str, rule: str, asked: tuple[Any, ...]) -> None:
    assert f"denied by policy `{policy}`, rule `{rule}`: " in said(wall, *asked)


@pytest.mark.parametrize(
    "asked",
    [
        created("registry.example.com/checkout:1.3"),
        patched(4)[:-1],
        ("PATCH", f"{DEPLOYMENTS}/checkout/scale{DRY_RUN}", {"spec": {"replicas": 4}}),
        ("DELETE", f"{PODS}/one{DRY_RUN}"),
        ("DELETE", f"{PODS}{DRY_RUN}"),
        (
            "POST",
            f"{PODS}/one/eviction{DRY_RUN}",
            {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "one"}},
        ),
        (
            "POST",
            f"/api/v1/namespaces/{NAMESPACE}/configmaps{DRY_RUN}",
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "a-"}, "data": {"a": "b"}},
        ),
    ],
    ids=str,
)
def test_what_no_rule_denies(wall: Wall, asked: tuple[Any, ...]) -> None:
    assert said(wall, *asked) == ""


def test_people_are_not_asked_about(wall: Wall) -> None:
    path = f"{DEPLOYMENTS}/checkout{DRY_RUN}"
    assert wall.cluster.api("PATCH", path, {"spec": {"replicas": 0}}, content_type=PATCH).status == 200


@pytest.mark.parametrize("agents", ["namespace=a?b*", "user=system:*", "group=ai-*", "extra=example.com/a'b=x*"])
def test_an_api_server_takes_every_form(cluster: Cluster, agents: str) -> None:
    """Its own checker compiles every expression: what it does not know is refused with the object."""
    backstop = Backstop(
        "forms",
        agents=[agent_rule(agents)],
        environments=[environment_rule("a?c=x"), environment_rule("*-dev=dev"), environment_rule("*=production")],
        cluster="it's",
        holds=True,
    )
    for checked in (check_files([ROOT / "tests" / "corpus" / "backstop.yaml"]), check_directory(STARTER)):
        done = cluster.kubectl(
            "create", "--dry-run=server", "--validate=strict", "-f", "-", stdin=rendered(checked, backstop)
        )
        assert done.returncode == 0, done.stderr
