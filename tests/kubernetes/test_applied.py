"""Everything that is shipped for a cluster, as a real API server takes it: strictly, and under Pod Security `restricted`."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.helm.chart import EXAMPLES, NAMESPACE, ROOT, example
from tests.kubernetes.cluster import Cluster, Result
from tests.kubernetes.story import everything, until

OVERLAYS: Final = tuple(sorted(path.parent for path in (ROOT / "k8s" / "overlays").glob("*/kustomization.yaml")))
RESTRICTED: Final = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
STRICTLY: Final = ("apply", "--server-side", "--validate=strict")
# Kinds of operators that a cluster may have.
OTHERS: Final = {
    "monitoring.coreos.com": (
        ("servicemonitors", "ServiceMonitor"),
        ("podmonitors", "PodMonitor"),
        ("prometheusrules", "PrometheusRule"),
    ),
    "cert-manager.io": (("certificates", "Certificate"),),
}


def definitions() -> Iterator[dict[str, Any]]:
    """Of these kinds, with any members: their own are not for this server to know."""
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    for group, kinds in OTHERS.items():
        for plural, kind in kinds:
            yield {
                "apiVersion": "apiextensions.k8s.io/v1",
                "kind": "CustomResourceDefinition",
                "metadata": {"name": f"{plural}.{group}"},
                "spec": {
                    "group": group,
                    "scope": "Namespaced",
                    "names": {"plural": plural, "singular": kind.lower(), "kind": kind},
                    "versions": [{"name": "v1", "served": True, "storage": True, "schema": schema}],
                },
            }


@pytest.fixture(scope="module")
def restricted(controllers: Cluster) -> Iterator[Cluster]:
    """The namespace of the chart, which takes nothing but restricted pods, and the kinds of others."""
    controllers.kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found")
    until(lambda: controllers.api("GET", f"/api/v1/namespaces/{NAMESPACE}").status == 404)
    controllers.namespace(NAMESPACE, **RESTRICTED)
    made = list(definitions())
    controllers.apply(*made)
    names = [f"crd/{one['metadata']['name']}" for one in made]
    waited = controllers.kubectl("wait", *names, "--for=condition=Established", "--timeout=60s")
    assert waited.returncode == 0, waited.stderr
    yield controllers
    controllers.kubectl("delete", *names)
    controllers.kubectl("delete", "namespace", NAMESPACE)


def taken(done: Result) -> list[str]:
    """What was applied; nothing was refused, and nobody was warned."""
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_each_example_of_the_chart_is_taken(restricted: Cluster, file: Path) -> None:
    objects = list(example(file))
    # In a dry run none of them is there for the next: neither a namespace for what lies in it, nor an account for its pod.
    own = {one["metadata"]["name"] for one in objects if one["kind"] == "Namespace"}
    for name in own:
        restricted.namespace(name, **RESTRICTED)
    listed = {"apiVersion": "v1", "kind": "List", "items": objects}
    for account in {one["spec"]["serviceAccountName"] for one in objects if one["kind"] == "Pod"}:
        restricted.service_account(NAMESPACE, account)
    told = taken(restricted.kubectl(*STRICTLY, "--dry-run=server", "-f", "-", stdin=listed))
    assert len(told) == len(objects)
    for name in own:
        restricted.api("DELETE", f"/api/v1/namespaces/{name}")
    until(lambda: all(restricted.api("GET", f"/api/v1/namespaces/{name}").status == 404 for name in own))


def test_what_is_wrong_is_refused_here(restricted: Cluster) -> None:
    """Else the tests around it would say nothing."""
    (deployment,) = [one for one in example(EXAMPLES[0]) if one["kind"] == "Deployment"]
    typo = json.loads(json.dumps(deployment))
    typo["spec"]["progressDeadlineSecond"] = 1
    done = restricted.kubectl(*STRICTLY, "--dry-run=server", "-f", "-", stdin=typo)
    assert "progressDeadlineSecond" in done.stderr
    assert done.returncode != 0
    loose = json.loads(json.dumps(deployment))
    loose["spec"]["template"]["spec"]["hostNetwork"] = True
    done = restricted.kubectl(*STRICTLY, "--dry-run=server", "-f", "-", stdin=loose)
    assert "would violate PodSecurity" in done.stderr


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.name)
def test_each_overlay_is_taken_and_taken_again(restricted: Cluster, overlay: Path) -> None:
    before = everything(restricted)
    try:
        first = taken(restricted.kubectl(*STRICTLY, "-k", str(overlay)))
        versions = _versions(restricted, overlay)
        # The same once more changes nothing, as whoever runs it from a repository does every few minutes.
        assert taken(restricted.kubectl(*STRICTLY, "-k", str(overlay))) == first
        assert _versions(restricted, overlay) == versions
    finally:
        # Whatever came of it: its webhook, of which there is no service, would refuse what other tests do.
        gone = restricted.kubectl("delete", "-k", str(overlay), "--ignore-not-found")
    assert gone.returncode == 0, gone.stderr
    restricted.namespace(NAMESPACE, **RESTRICTED)
    until(lambda: not everything(restricted) - before)


def _versions(cluster: Cluster, overlay: Path) -> dict[str, Any]:
    """Generations of what was applied: what only notes who changed it is no change.

    Of what an autoscaler scales, which it does when it has the time, all but how many there are.
    """
    listed = cluster.kubectl("get", "-k", str(overlay), "-o", "json")
    assert listed.returncode == 0, listed.stderr
    items = {f"{one['kind']}/{one['metadata']['name']}": one for one in listed.json["items"]}
    targets = [one["spec"]["scaleTargetRef"] for one in items.values() if one["kind"] == "HorizontalPodAutoscaler"]
    scaled = {f"{target['kind']}/{target['name']}" for target in targets}
    return {
        name: {**one["spec"], "replicas": None} if name in scaled else one["metadata"].get("generation")
        for name, one in items.items()
    }
