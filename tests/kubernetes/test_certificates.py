"""`mfw kubernetes certificates` on a real API server: a webhook whose certificate changes while it is asked."""

import json
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.integration.cli.conftest import mfw, running
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.serving import NAMESPACE, WATCHED, mounted, serving, webhook

HOOK = "mfw-certificates"
SECRET = "firewall-tls"
RBAC = "rbac.authorization.k8s.io"


def rights(name: str, namespace: str | None, *rules: dict[str, Any]) -> list[dict[str, Any]]:
    """A role, and that the service account `keeper` has it."""
    kind = "ClusterRole" if namespace is None else "Role"
    metadata = {"name": name} | ({"namespace": namespace} if namespace else {})
    return [
        {"apiVersion": f"{RBAC}/v1", "kind": kind, "metadata": metadata, "rules": list(rules)},
        {
            "apiVersion": f"{RBAC}/v1",
            "kind": f"{kind}Binding",
            "metadata": metadata,
            "roleRef": {"apiGroup": RBAC, "kind": kind, "name": name},
            "subjects": [{"kind": "ServiceAccount", "namespace": NAMESPACE, "name": "keeper"}],
        },
    ]


@pytest.fixture
def access(cluster: Cluster, tmp_path: Path) -> list[str]:
    """How the command reaches the API server, with no more rights than the page says."""
    token = tmp_path / "token"
    token.write_text(cluster.service_account(NAMESPACE, "keeper"))
    secrets = {"apiGroups": [""], "resources": ["secrets"]}
    cluster.apply(
        *rights(
            "certificates",
            NAMESPACE,
            secrets | {"verbs": ["get", "update"], "resourceNames": [SECRET]},
            secrets | {"verbs": ["create"]},
        ),
        *rights(
            "certificates",
            None,
            {
                "apiGroups": ["admissionregistration.k8s.io"],
                "resources": ["validatingwebhookconfigurations"],
                "resourceNames": [HOOK],
                "verbs": ["get", "patch"],
            },
        ),
    )
    return [
        *("--server", cluster.url, "--token-file", str(token), "--server-ca-file", str(cluster.ca_file)),
        *("--service", f"{NAMESPACE}/firewall", "--webhook", HOOK, "--name", "127.0.0.1"),
    ]


def test_not_one_review_fails_while_authority_and_certificate_change(
    cluster: Cluster, access: list[str], database_dsn: str, tmp_path: Path
) -> None:
    dry = mfw("kubernetes", "certificates", *access, "--dry-run")
    assert (dry.returncode, dry.stdout.splitlines()[0]) == (
        0,
        f"would have made the first certificate: {NAMESPACE}/{SECRET}",
    )
    assert cluster.api("GET", f"/api/v1/namespaces/{NAMESPACE}/secrets/{SECRET}").status == 404
    # 34 seconds to live: renewed 11 seconds before its end.
    short = [*access, "--days", "0.0004", "--settle-seconds", "1", "--overlap-seconds", "4"]
    first = mfw("kubernetes", "certificates", *short, "--json")
    assert first.returncode == 0, first.stderr
    said = json.loads(first.stdout)
    assert ([one["act"] for one in said["done"]], said["missing"]) == (["made"], [HOOK])
    watched = cluster.namespace("certificates", **{WATCHED: HOOK})
    made: list[str] = []
    failed: list[Any] = []
    stopping = threading.Event()

    def change() -> None:
        while not stopping.is_set():
            document = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "a-"}}
            answer = cluster.api("POST", f"/api/v1/namespaces/{watched}/configmaps", document)
            (made if answer.status == 201 else failed).append(answer.body)
            time.sleep(0.02)

    with mounted(cluster, SECRET, tmp_path):
        while not (tmp_path / "tls.key").exists():
            time.sleep(0.05)
        with serving(cluster, database_dsn, tmp_path) as served:
            cluster.apply(webhook(HOOK, served.url))
            # Two of them at once, as a Deployment has them while it is rolled out.
            watch = ["kubernetes", "certificates", *short, "--watch", "--every-seconds", "0.5"]
            with running(*watch, settings={}) as one, running(*watch, settings={}) as other:
                one.read_until("valid until")
                other.read_until("valid until")
                before = served.metric("mfw_tls_certificate_expiry_timestamp_seconds")
                assert before is not None
                thread = threading.Thread(target=change)
                thread.start()
                try:
                    seen, deadline = {before}, time.monotonic() + 90
                    while len(seen) < 3 and time.monotonic() < deadline:
                        found = served.metric("mfw_tls_certificate_expiry_timestamp_seconds")
                        assert found is not None
                        seen.add(found)
                        time.sleep(0.1)
                    # And until the former authority is gone.
                    time.sleep(5)
                finally:
                    stopping.set()
                    thread.join()
                assert not failed
                assert len(seen) >= 3
                assert len(made) > 100
                assert [process.stop(signal.SIGTERM) for process in (one, other)] == [0, 0]
                told = one.output + other.output
                for words in ("next certificate and its authority", "took the next certificate", "former authority"):
                    assert words in told
                assert "error" not in told
            assert served.process.stop(signal.SIGTERM) == 0
    kept = cluster.api("GET", f"/api/v1/namespaces/{NAMESPACE}/secrets/{SECRET}").body
    assert kept["type"] == "kubernetes.io/tls"
    again = mfw("kubernetes", "certificates", *short)
    assert again.returncode == 0, again.stderr
    cluster.api("DELETE", f"/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/{HOOK}")


def test_what_it_may_not_do_is_said(cluster: Cluster, access: list[str]) -> None:
    refused = mfw("kubernetes", "certificates", *access, "--secret", "another")
    assert refused.returncode == 77
    assert "is forbidden" in refused.stderr
    assert "RBAC" in refused.stderr
