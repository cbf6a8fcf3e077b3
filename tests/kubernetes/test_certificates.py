"""`mfw kubernetes certificates` on a real API server: a webhook whose certificate changes while it is asked."""

import json
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.integration.cli.conftest import mfw, running
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.serving import NAMESPACE, WATCHED, mounted, serving, webhook

HOOK = "mfw-certificates"
SECRET = "firewall-tls"
RBAC = "rbac.authorization.k8s.io"
EXPIRY = "mfw_tls_certificate_expiry_timestamp_seconds"


def until(condition: Callable[[], object]) -> None:
    """Wait for what must come."""
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


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
    # So long that a busy API server has heard of an authority before its certificate is served, and a busy service has
    # taken the certificate before the former authority is gone.
    paced = [*access, "--settle-seconds", "4", "--overlap-seconds", "8"]
    first = mfw("kubernetes", "certificates", *paced, "--json")
    assert first.returncode == 0, first.stderr
    said = json.loads(first.stdout)
    assert ([one["act"] for one in said["done"]], said["missing"]) == (["made"], [HOOK])
    watched = cluster.namespace("certificates", **{WATCHED: HOOK})
    made: list[str] = []
    failed: list[Any] = []
    stopping = threading.Event()

    def change() -> None:
        document = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "a-"}}
        answer = cluster.api("POST", f"/api/v1/namespaces/{watched}/configmaps", document)
        (made if answer.status == 201 else failed).append(answer.body)

    def keep_changing() -> None:
        while not stopping.is_set():
            change()
            time.sleep(0.02)

    with mounted(cluster, SECRET, tmp_path):
        while not (tmp_path / "tls.key").exists():
            time.sleep(0.05)
        with serving(cluster, database_dsn, tmp_path) as served:
            cluster.apply(webhook(HOOK, served.url))
            bundled = mfw("kubernetes", "certificates", *paced)
            assert bundled.returncode == 0, bundled.stderr

            def reviewed() -> bool:
                change()
                return bool(served.metric('mfw_decisions_total{effect="allow"}'))

            until(reviewed)  # until then the API server may not have heard of the webhook, or not of its authority
            failed.clear()
            thread = threading.Thread(target=keep_changing)
            thread.start()
            try:
                # Another name, and then the first alone again: each is a reason for another certificate.
                for names in (["--name", "firewall.example.com"], []):
                    before, count = served.metric(EXPIRY), len(made)
                    # Two of them at once, as a Deployment has them while it is rolled out.
                    watch = ["kubernetes", "certificates", *paced, *names, "--watch", "--every-seconds", "0.5"]
                    with running(*watch, settings={}) as one, running(*watch, settings={}) as other:
                        until(lambda: "former authority" in one.heard() + other.heard())
                        assert [process.stop(signal.SIGTERM) for process in (one, other)] == [0, 0]
                        told = one.output + other.output
                        for words in ("next certificate and its authority", "took the next certificate"):
                            assert words in told
                        assert "error" not in told
                    until(lambda: served.metric(EXPIRY) != before)  # noqa: B023 - called here
                    until(lambda: len(made) > count)  # noqa: B023 - called here
            finally:
                stopping.set()
                thread.join()
            assert not failed
            assert served.process.stop(signal.SIGTERM) == 0
    kept = cluster.api("GET", f"/api/v1/namespaces/{NAMESPACE}/secrets/{SECRET}").body
    assert kept["type"] == "kubernetes.io/tls"
    again = mfw("kubernetes", "certificates", *paced)
    assert again.returncode == 0, again.stderr
    cluster.api("DELETE", f"/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/{HOOK}")


def test_what_it_may_not_do_is_said(cluster: Cluster, access: list[str]) -> None:
    refused = mfw("kubernetes", "certificates", *access, "--secret", "another")
    assert refused.returncode == 77
    assert "is forbidden" in refused.stderr
    assert "RBAC" in refused.stderr
