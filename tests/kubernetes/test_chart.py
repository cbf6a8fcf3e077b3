"""The chart on a real API server: installed under Pod Security `restricted`, changed, and taken away.

No node belongs to it, so what a Job's pods would do is done here in their name, and its status says that it is over.
"""

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.helm.chart import CHART, helm
from tests.integration.cli.conftest import mfw
from tests.kubernetes.cluster import Cluster

NAMESPACE: Final = "installed"
RELEASE: Final = "mutation-firewall"
OWN: Final = CHART / "ci" / "webhook-own-certificates-values.yaml"
RESTRICTED: Final = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
EVERY_KIND: Final = ",".join(
    [
        *(
            "deployments",
            "statefulsets",
            "services",
            "serviceaccounts",
            "configmaps",
            "secrets",
            "jobs",
            "cronjobs",
            "pods",
        ),
        *("horizontalpodautoscalers", "poddisruptionbudgets", "networkpolicies", "roles", "rolebindings"),
        *("persistentvolumeclaims", "clusterroles", "clusterrolebindings", "validatingwebhookconfigurations"),
    ]
)
HOOKS: Final = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"


def _helm(cluster: Cluster, *arguments: str) -> str:
    """Run helm as the administrator, in the namespace; it must not be refused."""
    done = helm(
        *arguments,
        "-n",
        NAMESPACE,
        env={"KUBECONFIG": str(cluster.admin_kubeconfig), "HOME": str(cluster.folder)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    # What Pod Security would have refused in a pod is told as a warning about what makes it.
    assert "PodSecurity" not in done.stderr, done.stderr
    return done.stdout


def _install(cluster: Cluster, *files: Path, **values: str) -> str:
    named = [argument for file in files for argument in ("-f", str(file))]
    named += [
        argument for name, value in values.items() for argument in ("--set", f"{name.replace('__', '.')}={value}")
    ]
    return _helm(cluster, "upgrade", "--install", RELEASE, str(CHART), *named)


def _there(cluster: Cluster) -> set[str]:
    """KIND/NAME of all that belongs to the release."""
    label = f"app.kubernetes.io/instance={RELEASE},app.kubernetes.io/managed-by=Helm"
    listed = cluster.kubectl("get", EVERY_KIND, "-n", NAMESPACE, "-l", label, "-o", "json")
    assert listed.returncode == 0, listed.stderr
    return {f"{item['kind']}/{item['metadata']['name']}" for item in listed.json["items"]}


@contextmanager
def _job_succeeds(cluster: Cluster, wanted: str, work: Callable[[], None]) -> Iterator[list[str]]:
    """Whoever waits for a Job of that name finds it complete, after what its pods would have done."""
    ended, seen = threading.Event(), list[str]()

    def watch() -> None:
        base = f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs"
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        done = [
            {"type": kind, "status": "True", "lastTransitionTime": now} for kind in ("SuccessCriteriaMet", "Complete")
        ]
        status = {
            "startTime": now,
            "completionTime": now,
            "succeeded": 1,
            "conditions": done,
            "uncountedTerminatedPods": {},
        }
        while not ended.wait(0.1):
            found = cluster.kubectl("get", "--raw", f"{base}/{wanted}")
            if found.returncode != 0 or wanted in seen:
                continue
            work()
            patched = cluster.kubectl(
                *("patch", "job", wanted, "-n", NAMESPACE, "--subresource=status", "--type=merge"),
                *("-p", json.dumps({"status": status})),
            )
            assert patched.returncode == 0, patched.stderr
            seen.append(wanted)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        ended.set()
        thread.join()


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    """A namespace that accepts nothing but restricted pods."""
    yield cluster.namespace(NAMESPACE, **RESTRICTED)
    helm("uninstall", RELEASE, "-n", NAMESPACE, "--no-hooks", env={"KUBECONFIG": str(cluster.admin_kubeconfig)})
    # Where a test failed it may still be there, and would refuse what other tests do.
    cluster.api("DELETE", f"{HOOKS}/{RELEASE}")


def _keeper(cluster: Cluster, tmp_path: Path) -> tuple[str, list[str]]:
    """The token of the account that makes certificates, and how its command reaches the API server."""
    token = cluster.service_account(NAMESPACE, f"{RELEASE}-certificates")
    file = tmp_path / "token"
    file.write_text(token)
    return token, ["--server", cluster.url, "--token-file", str(file), "--server-ca-file", str(cluster.ca_file)]


def test_it_is_installed_changed_and_taken_away(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    said = _install(cluster, OWN, backup__enabled="true")
    assert re.findall(r"WARNING: (\S+) is", said) == ["metrics.rules.enabled", "webhook.matchConditions"]
    first = _there(cluster)
    (migration,) = [name for name in first if "migrate" in name]
    assert first >= {f"Deployment/{RELEASE}", f"Secret/{RELEASE}-tls", f"ValidatingWebhookConfiguration/{RELEASE}"}

    # What the Job of the certificates does, with its own account and arguments.
    (job,) = [name.partition("/")[2] for name in first if name.startswith(f"Job/{RELEASE}-certificates")]
    made = cluster.kubectl("get", "job", job, "-n", namespace, "-o", "json").json
    (container,) = made["spec"]["template"]["spec"]["containers"]
    token, access = _keeper(cluster, tmp_path)
    done = mfw(*container["args"], *access)
    assert done.returncode == 0, done.stderr
    assert "made the first certificate" in done.stdout

    def secret() -> dict[str, str]:
        found: dict[str, str] = cluster.api("GET", f"/api/v1/namespaces/{namespace}/secrets/{RELEASE}-tls").body["data"]
        return found

    def bundles() -> set[str]:
        return {hook["clientConfig"]["caBundle"] for hook in cluster.api("GET", f"{HOOKS}/{RELEASE}").body["webhooks"]}

    kept, announced = secret(), bundles()
    assert {"tls.crt", "tls.key"} <= kept.keys()
    assert len(announced) == 1

    # It may do this, and nothing else.
    others = f"/api/v1/namespaces/{namespace}/secrets"
    forged = {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "kubernetes.io/service-account-token",
        "metadata": {"name": "forged", "annotations": {"kubernetes.io/service-account.name": RELEASE}},
    }
    assert cluster.api("POST", others, forged, token=token).status == 403
    assert cluster.api("GET", others, token=token).status == 403
    assert cluster.api("GET", f"{others}/mutation-firewall", token=token).status == 403
    assert cluster.api("DELETE", f"{others}/{RELEASE}-tls", token=token).status == 403
    assert cluster.api("GET", HOOKS, token=token).status == 403
    assert cluster.api("DELETE", f"{HOOKS}/{RELEASE}", token=token).status == 403
    assert cluster.api("GET", f"{HOOKS}/{RELEASE}", token=token).status == 200

    def migrated() -> str:
        name = migration.partition("/")[2]
        found = cluster.api("GET", f"/apis/batch/v1/namespaces/{namespace}/jobs/{name}").body
        return str(found["metadata"]["uid"])

    # Other values: the certificate and what was announced stay, and so does the migration; that of another image is
    # another Job.
    before = migrated()
    level = tmp_path / "level.yaml"
    level.write_text("settings: {MFW_LOGGING__LEVEL: debug}\n")
    _install(cluster, OWN, level, backup__enabled="true", webhook__timeoutSeconds="5")
    assert migrated() == before
    assert (secret(), bundles()) == (kept, announced)
    assert {hook["timeoutSeconds"] for hook in cluster.api("GET", f"{HOOKS}/{RELEASE}").body["webhooks"]} == {5}
    assert migration in _there(cluster)
    _install(cluster, OWN, backup__enabled="true", image__tag="0.1.1", networkPolicy__enabled="false")
    changed = _there(cluster)
    assert migration not in changed
    assert f"NetworkPolicy/{RELEASE}" not in changed

    # The webhook goes before the rest, by a Job that may do this alone.
    def clean_up() -> None:
        cleaner = cluster.service_account(namespace, f"{RELEASE}-cleanup")
        assert cluster.api("GET", HOOKS, token=cleaner).status == 403
        assert cluster.api("DELETE", f"{HOOKS}/other", token=cleaner).status == 403
        deadline = time.monotonic() + 60
        # The API server hears of new rights by watching them.
        while (gone := cluster.api("DELETE", f"{HOOKS}/{RELEASE}", token=cleaner)).status == 403:
            assert time.monotonic() < deadline, gone
            time.sleep(0.05)
        assert gone.status == 200, gone

    with _job_succeeds(cluster, f"{RELEASE}-cleanup", clean_up) as seen:
        _helm(cluster, "uninstall", RELEASE)
    assert seen == [f"{RELEASE}-cleanup"]
    assert _there(cluster) == {f"PersistentVolumeClaim/{RELEASE}-backups"}
    # Who protects claims that are in use is a controller, which does not run here.
    claim = f"/api/v1/namespaces/{namespace}/persistentvolumeclaims/{RELEASE}-backups"
    loose = {"metadata": {"finalizers": None}}
    assert cluster.api("PATCH", claim, loose, content_type="application/merge-patch+json").status == 200
    assert cluster.api("DELETE", claim).status == 200


def test_restricted_is_enforced_here(cluster: Cluster, namespace: str) -> None:
    """Else the other tests would say nothing about the pods of the chart."""
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "loose"},
        "spec": {"containers": [{"name": "a", "image": "a"}]},
    }
    assert cluster.api("POST", f"/api/v1/namespaces/{namespace}/pods", pod).status == 403
    listed = _there(cluster)
    assert listed == set()
