"""What an agent and what everybody else may do while the firewall cannot answer: a real API server's view."""

import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

from tests.integration.service.conftest import apart
from tests.kubernetes.cluster import Authority, Cluster
from tests.kubernetes.firewall import STARTER, Firewall, serving
from tests.kubernetes.shop import made, scaled
from tests.ports import free_port


@pytest.fixture
def deployment(cluster: Cluster, agent: str) -> str:
    """Three replicas in production."""
    cluster.apply(made("deployment", "troubled", "shop"))
    return "troubled"


@pytest.fixture
def silent() -> Iterator[int]:
    """A port where connections are taken and nothing is said."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


def test_while_it_is_away_agents_wait_and_all_others_go_on(cluster: Cluster, agent: str, deployment: str) -> None:
    away = Firewall(cluster, f"https://127.0.0.1:{free_port()}", admin_key="")
    cluster.namespace("loose-while-away", **{"mutationfirewall.io/exempt": "yes"})
    with away.in_front(away.webhook(STARTER)):
        refused = cluster.kubectl("scale", f"deployment/{deployment}", "--replicas=4", "-n", "shop", as_token=agent)
        assert refused.returncode == 1
        assert 'failed calling webhook "changes.mutationfirewall.io"' in refused.stderr
        assert "connection refused" in refused.stderr
        # It goes on where nobody is asked.
        for namespace in ("kube-system", "loose-while-away"):
            done = cluster.kubectl("create", "configmap", "meanwhile", "-n", namespace, as_token=agent)
            assert done.returncode == 0, done.stderr
        done = cluster.kubectl("scale", f"deployment/{deployment}", "--replicas=4", "-n", "shop")
        assert done.returncode == 0, done.stderr
        # And nobody gets out by a label meanwhile.
        done = cluster.kubectl("label", "namespace", "shop", "mutationfirewall.io/exempt=yes", as_token=agent)
        assert 'failed calling webhook "exemptions.mutationfirewall.io"' in done.stderr


def test_who_takes_too_long_has_denied(cluster: Cluster, agent: str, deployment: str, silent: int) -> None:
    slow = Firewall(cluster, f"https://127.0.0.1:{silent}", admin_key="")
    with slow.in_front(slow.webhook(STARTER, more=["--timeout-seconds", "1"])):
        told = scaled(cluster, agent, deployment, 4)
        assert (told.status, told.body["reason"]) == (500, "InternalError")
        assert "failed calling webhook" in told.body["message"]


def test_a_server_that_nobody_vouches_for_has_denied(
    cluster: Cluster, database_dsn: str, agent: str, deployment: str, tmp_path: Path
) -> None:
    other = tmp_path / "other.crt"
    other.write_bytes(Authority("others").pem)
    with serving(cluster, database_dsn, STARTER) as firewall:
        configuration = firewall.webhook(STARTER, more=["--ca-file", str(other)])
        with firewall.in_front(configuration):
            told = scaled(cluster, agent, deployment, 4)
            assert (told.status, told.body["reason"]) == (500, "InternalError")
            assert "certificate" in told.body["message"]
        assert firewall.decided() == []


def test_reviews_of_a_former_version_are_refused(
    cluster: Cluster, database_dsn: str, agent: str, deployment: str
) -> None:
    with serving(cluster, database_dsn, STARTER) as firewall:
        former = firewall.webhook(STARTER).replace("  - v1\n  sideEffects", "  - v1beta1\n  sideEffects")
        assert former.count("v1beta1") == 2
        with firewall.in_front(former):
            told = scaled(cluster, agent, deployment, 4)
            assert told.body["code"] == 400
            assert "set `admissionReviewVersions: [v1]` in the webhook configuration" in told.body["message"]
        assert firewall.decided() == []


def test_an_api_server_that_is_not_known_is_refused(
    cluster: Cluster, database_dsn: str, agent: str, deployment: str
) -> None:
    with (
        serving(cluster, database_dsn, STARTER, MFW_KUBERNETES__API_SERVERS="another-*") as firewall,
        firewall.in_front(firewall.webhook(STARTER)),
    ):
        told = scaled(cluster, agent, deployment, 4)
        assert told.body["code"] == 403
        assert "`kube-apiserver` is not known as an API server" in told.body["message"]
        assert firewall.decided() == []


def test_without_a_ledger_nothing_is_allowed(
    cluster: Cluster, server_dsn: str, database_dsn: str, agent: str, deployment: str
) -> None:
    """A refusal that clients of Kubernetes take for what it is, and try again."""

    async def forbid() -> None:
        connection = await asyncpg.connect(server_dsn)
        name = urlsplit(database_dsn).path[1:]
        await connection.execute(f'ALTER DATABASE "{name}" WITH ALLOW_CONNECTIONS false')
        await connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
        await connection.close()

    with (
        serving(cluster, database_dsn, STARTER, MFW_LEDGER__DEADLINE_SECONDS="5") as firewall,
        firewall.in_front(firewall.webhook(STARTER)),
    ):
        apart(forbid())
        told = scaled(cluster, agent, deployment, 4)
        assert (told.status, told.body["reason"]) in {(503, "ServiceUnavailable"), (504, "Timeout")}
        assert "nothing was decided" in told.body["message"]
        assert int(told.headers["retry-after"]) >= 1
        assert (
            cluster.kubectl("get", f"deployment/{deployment}", "-n", "shop", "-o", "jsonpath={.spec.replicas}").stdout
            == "3"
        )
