"""The canary on a real API server: whether the webhook is called is known, whoever took it away."""

import secrets
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from app.core.admission.canary import NAME, flown
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.firewall import STARTER, serving
from tests.ports import free_port

WATCHED = "canaries"


def wait(until: Callable[[], bool], *, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_webhook_that_is_not_called_is_known(cluster: Cluster, database_dsn: str, tmp_path: Path) -> None:
    cluster.namespace(WATCHED)
    token = tmp_path / "token"
    token.write_text(cluster.service_account("mutation-firewall", "canary"))
    # All that it needs: to make a ConfigMap, which is never made.
    rule = {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["create"]}
    port = free_port()

    def metric(series: str) -> float:
        scraped = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=60).text
        found = [line.split()[-1] for line in scraped.splitlines() if line.startswith(f"{series} ")]
        assert len(found) < 2, series
        # Those of a health that nobody has looked at yet are not there.
        return float(found[0]) if found else -1.0

    def counted(result: str) -> float:
        return metric(f'mfw_canary_results_total{{result="{result}"}}')

    def component(status: str) -> float:
        return metric(f'mfw_component_status{{component="canary",status="{status}"}}')

    with serving(
        cluster,
        database_dsn,
        STARTER,
        MFW_METRICS__ENABLED="true",
        MFW_METRICS__PORT=str(port),
        MFW_KUBERNETES__CANARY__KEY=secrets.token_hex(32),
        MFW_KUBERNETES__CANARY__NAMESPACE=WATCHED,
        MFW_KUBERNETES__CANARY__EVERY_SECONDS="0.2",
        MFW_KUBERNETES__ACCESS__URL=cluster.url,
        MFW_KUBERNETES__ACCESS__TOKEN_FILE=str(token),
        MFW_KUBERNETES__ACCESS__CA_FILE=str(cluster.ca_file),
    ) as firewall:
        begun = time.time()
        # RBAC says no, which nobody takes for the firewall.
        wait(lambda: counted("unproven") > 0)
        assert metric("mfw_canary_last_success_timestamp_seconds") == 0
        cluster.grant("canary", "mutation-firewall/canary", rule)
        # Nobody is asked yet.
        wait(lambda: counted("allowed") > 0)
        with firewall.in_front(firewall.webhook(STARTER, more=["--canary"])):
            wait(lambda: counted("denied") > 1)
            assert metric("mfw_canary_last_success_timestamp_seconds") > begun
            wait(lambda: component("healthy") == 1)
            # In earnest, and as the administrator: denied as well.
            made = cluster.api("POST", f"/api/v1/namespaces/{WATCHED}/configmaps", flown(WATCHED, "ab" * 16))
            assert made.status == 403
            assert f"`{NAME}` is always denied, proof " in made.body["message"]
            # What is no agent's and no canary stays unasked.
            other = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "other"}}
            assert cluster.api("POST", f"/api/v1/namespaces/{WATCHED}/configmaps", other).status == 201
            allowed = counted("allowed")
        # Somebody took the configuration away.
        wait(lambda: counted("allowed") > allowed)
        wait(lambda: component("degraded") == 1)
        assert not firewall.decided()
    assert cluster.api("GET", f"/api/v1/namespaces/{WATCHED}/configmaps/{NAME}").status == 404


@pytest.fixture(autouse=True)
def _cleared(cluster: Cluster) -> None:
    """The namespace is this test's own."""
    cluster.api("DELETE", f"/api/v1/namespaces/{WATCHED}/configmaps/other")
