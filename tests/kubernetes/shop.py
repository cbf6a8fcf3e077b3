"""A cluster with something to change in it, and an agent whom RBAC refuses nothing."""

from typing import Any

from tests.kubernetes.cluster import Answer, Cluster

AGENT = "system:serviceaccount:agents:fixer"
NAMESPACES = ("shop", "shop-staging", "shop-collection")
CRONTABS = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "crontabs.example.com"},
    "spec": {
        "group": "example.com",
        "scope": "Namespaced",
        "names": {"plural": "crontabs", "singular": "crontab", "kind": "CronTab"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "subresources": {
                    "scale": {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"}
                },
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
            }
        ],
    },
}


def made(kind: str, name: str, namespace: str, image: str = "registry.example.com/app:1.0") -> dict[str, Any]:
    """An object that the cases are about."""
    metadata = {"name": name, "namespace": namespace, "labels": {"app": name}}
    containers = [{"name": "app", "image": image}]
    match kind:
        case "deployment":
            template = {"metadata": {"labels": {"app": name}}, "spec": {"containers": containers}}
            spec: dict[str, Any] = {"replicas": 3, "selector": {"matchLabels": {"app": name}}, "template": template}
            return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec}
        case "pod":
            # Bound to a node that there is not: it is accepted, and never runs.
            spec = {"nodeName": "nowhere", "containers": containers}
            return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
        case "unbound":
            return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": containers}}
        case "configmap":
            return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}
        case "claim":
            spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
            return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": spec}
        case "crontab":
            return {"apiVersion": "example.com/v1", "kind": "CronTab", "metadata": metadata, "spec": {"replicas": 1}}
    raise AssertionError(kind)


def agent_of(cluster: Cluster) -> str:
    """The token of the agent, after all of this was made."""
    for namespace in NAMESPACES:
        cluster.namespace(namespace)
    cluster.apply(CRONTABS)
    established = cluster.kubectl("wait", "--for=condition=established", "crd/crontabs.example.com", "--timeout=60s")
    assert established.returncode == 0, established.stderr
    token = cluster.service_account("agents", "fixer")
    everything = {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}
    cluster.grant("fixer", "agents/fixer", everything, {"nonResourceURLs": ["*"], "verbs": ["*"]})
    return token


def scaled(cluster: Cluster, token: str, name: str, replicas: int) -> Answer:
    """Scale a Deployment of the shop by one request, which no client repeats."""
    path = f"/apis/apps/v1/namespaces/shop/deployments/{name}/scale"
    merge = "application/merge-patch+json"
    return cluster.api("PATCH", path, {"spec": {"replicas": replicas}}, token=token, content_type=merge)
