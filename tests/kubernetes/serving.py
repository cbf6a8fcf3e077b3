"""The firewall in front of a real API server: `mfw serve` with TLS, known to it by the key that it sends."""

import contextlib
import json
import threading
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from app.core.principal import Role
from app.persistence.api_keys import ApiKeyStore
from app.persistence.engine import create_engine
from tests.integration.cli.conftest import Process, running
from tests.integration.cli.test_serve import production
from tests.integration.service.conftest import apart
from tests.kubernetes.cluster import Cluster
from tests.ports import free_port

NAMESPACE: Final = "mutation-firewall"
# Who is judged at all: everybody in namespaces with this label.
WATCHED: Final = "watched"


def policy(kind: str, effect: str) -> dict[str, Any]:
    """Every change of a kind."""
    return {
        "apiVersion": "mutationfirewall.io/v1",
        "kind": "MutationPolicy",
        "metadata": {"name": f"{effect}-{kind.lower()}"},
        "spec": {
            "match": {"resources": [{"type": f"core/{kind}"}]},
            "rules": [{"name": "all", "effect": effect, "message": f"{effect} by the test"}],
        },
    }


@dataclass(frozen=True, slots=True)
class Firewall:
    """One that answers; its certificate is in `directory`, as a kubelet would have mounted it."""

    process: Process
    port: int
    metrics_port: int
    directory: Path

    @property
    def url(self) -> str:
        """Where an API server sends reviews."""
        return f"https://127.0.0.1:{self.port}/kubernetes/v1/validate"

    def metric(self, series: str) -> float | None:
        """The value of a series as a scrape has it, labels included in its name."""
        scraped = httpx.get(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=60).text
        found = [line.split()[-1] for line in scraped.splitlines() if line.startswith(f"{series} ")]
        return float(found[0]) if found else None


@contextlib.contextmanager
def serving(cluster: Cluster, dsn: str, directory: Path, **settings: str) -> Iterator[Firewall]:
    """Serve with tls.crt and tls.key of `directory`; a ConfigMap is allowed, a Secret is denied."""
    policies = directory / "policies"
    policies.mkdir(exist_ok=True)
    for document in (policy("ConfigMap", "allow"), policy("Secret", "deny")):
        (policies / f"{document['metadata']['name']}.yaml").write_text(json.dumps(document))

    async def know() -> None:
        engine = create_engine(dsn)
        try:
            keys = ApiKeyStore(engine, entropy=lambda _: cluster.webhook_secret)
            await keys.create("kube-apiserver", principal_id="kube-apiserver", roles=(Role.AGENT,))
        finally:
            await engine.dispose()

    apart(know())
    port, metrics_port = free_port(), free_port()
    environ = production(dsn, free_port(), metrics_port) | {
        "MFW_POLICIES__DIRECTORY": str(policies),
        "MFW_TLS__CERTIFICATE_FILE": str(directory / "tls.crt"),
        "MFW_TLS__KEY_FILE": str(directory / "tls.key"),
        "MFW_TLS__PORT": str(port),
        "MFW_TLS__POLL_SECONDS": "0.1",
        "MFW_LIMITS__BURST": "100000",
        **settings,
    }
    with running("serve", settings=environ) as process:
        process.read_until("Application startup complete")
        yield Firewall(process, port, metrics_port, directory)


def webhook(name: str, url: str, *, bundle: str | None = None, resources: tuple[str, ...] = ("configmaps",)) -> Any:
    """A configuration that has the API server ask about namespaces with the label `watched`."""
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": name},
        "webhooks": [
            {
                "name": "changes.mutationfirewall.io",
                "clientConfig": {"url": url} | ({"caBundle": bundle} if bundle else {}),
                "rules": [
                    {"apiGroups": [""], "apiVersions": ["v1"], "resources": list(resources), "operations": ["*"]}
                ],
                "namespaceSelector": {"matchLabels": {WATCHED: name}},
                "admissionReviewVersions": ["v1"],
                "sideEffects": "NoneOnDryRun",
                "failurePolicy": "Fail",
                "timeoutSeconds": 30,
            }
        ],
    }


@contextlib.contextmanager
def mounted(cluster: Cluster, secret: str, directory: Path, *, every: float = 0.3) -> Iterator[None]:
    """What a kubelet does: bring the Secret to the files, some time later."""
    stopping = threading.Event()

    def bring() -> None:
        while not stopping.is_set():
            answer = cluster.api("GET", f"/api/v1/namespaces/{NAMESPACE}/secrets/{secret}")
            if answer.status == 200:
                for name in ("tls.crt", "tls.key"):
                    fresh = directory / f"{name}.new"
                    fresh.write_bytes(b64decode(answer.body["data"][name]))
                    fresh.replace(directory / name)
            stopping.wait(every)

    thread = threading.Thread(target=bring, name="kubelet")
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()
