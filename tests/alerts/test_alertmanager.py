"""The escalation matrix, asked of Alertmanager itself."""

import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.alerts.rules import ALERTS, FOLDER, read, run
from tests.ports import free_port

CONFIG = FOLDER / "alertmanager.yaml"


def test_alertmanager_reads_it() -> None:
    run("amtool", "check-config", str(CONFIG))


@pytest.mark.parametrize(
    ("severity", "told"),
    [
        ("critical", "on-call,lead,director"),
        ("high", "on-call,lead"),
        ("medium", "on-call-low-urgency"),
        ("low", "team"),
        ("unheard-of", "team"),
    ],
)
def test_who_is_told(severity: str, told: str) -> None:
    asked = run("amtool", "config", "routes", "test", "--config.file", str(CONFIG), f"severity={severity}")
    assert asked.strip() == told


def test_the_next_is_told_when_it_should_have_been_answered() -> None:
    waits = {
        (route["matchers"][0], route["receiver"]): route.get("group_wait", "30s")
        for route in read(CONFIG)["route"]["routes"]
    }
    assert waits['severity="critical"', "lead"] == "5m"
    assert waits['severity="high"', "lead"] == "15m"


@pytest.fixture(scope="module")
def alertmanager(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    program = shutil.which("prometheus-alertmanager") or shutil.which("alertmanager")
    if program is None:
        pytest.skip("no Alertmanager: apt-get install prometheus-alertmanager")
    folder: Path = tmp_path_factory.mktemp("alertmanager")
    address = f"127.0.0.1:{free_port()}"
    # Nobody is told anything in a test: the receivers are there by name alone.
    config = folder / "alertmanager.yaml"
    text = CONFIG.read_text()
    config.write_text(text[: text.index("receivers:")] + _receivers(text))
    process = subprocess.Popen(
        [
            program,
            f"--config.file={config}",
            f"--storage.path={folder}",
            f"--web.listen-address={address}",
            "--cluster.listen-address=",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and process.poll() is None:
            try:
                if httpx.get(f"http://{address}/-/ready", timeout=60).status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.05)
        yield f"http://{address}"
    finally:
        process.terminate()
        process.wait(60)


def listed(alertmanager: str, which: str) -> list[dict[str, Any]]:
    """The alerts that a matcher is about."""
    found: list[dict[str, Any]] = httpx.get(
        f"{alertmanager}/api/v2/alerts", params={"filter": which}, timeout=60
    ).json()
    return found


def is_inhibited(alert: dict[str, Any]) -> bool:
    return bool(alert["status"]["inhibitedBy"])


def _receivers(text: str) -> str:
    names = [line.split()[2] for line in text[text.index("receivers:") :].splitlines() if "- name:" in line]
    return "receivers:\n" + "".join(f"  - name: {name}\n" for name in names)


@pytest.mark.parametrize(
    ("firing", "silenced"),
    [
        (["DatabaseConnectionDown", "NoReplicaReady", "LedgerAppendFailing", "KillSwitchOn"], {"NoReplicaReady", "LedgerAppendFailing"}),
        (["MigrationFailed", "MigrationMismatch", "DataIntegrityIssue"], {"MigrationMismatch"}),
        (["PodOOMKilled", "HighMemoryUsage"], {"HighMemoryUsage"}),
        (["NoReplicaReady", "ControllerSyncFailing", "PoliciesNotInForce"], {"ControllerSyncFailing", "PoliciesNotInForce"}),
        (["ControllerNotLeading", "PoliciesNotInForce", "PolicySetRefused"], {"PoliciesNotInForce"}),
        (["LedgerAppendFailing", "CheckpointRefused"], set()),
        # One installation of several: the neighbour's NoReplicaReady is told.
        (["MutationFirewallAbsent", "NoReplicaReady"], {"NoReplicaReady"}),
    ],
)  # fmt: skip
def test_what_follows_from_another_alert_is_not_told_twice(
    alertmanager: str, firing: list[str], silenced: set[str], request: pytest.FixtureRequest
) -> None:
    namespace = f"n{abs(hash(request.node.name))}"
    labels = [next(a["labels"] for a in ALERTS if a["alert"] == name) | {"alertname": name} for name in firing]
    alerts = [{"labels": {**one, "namespace": namespace}} for one in labels]
    # Neighbours are not concerned.
    alerts.append({"labels": {**labels[-1], "namespace": f"{namespace}-other"}})
    assert httpx.post(f"{alertmanager}/api/v2/alerts", json=alerts, timeout=60).status_code == 200
    expected = {(name, namespace): name in silenced for name in firing} | {(firing[-1], f"{namespace}-other"): False}
    found: dict[tuple[str, str], bool] = {}
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and found != expected:
        time.sleep(0.05)
        told = listed(alertmanager, f'namespace=~"{namespace}.*"')
        found = {(one["labels"]["alertname"], one["labels"]["namespace"]): is_inhibited(one) for one in told}
    assert found == expected


def test_where_none_is_seen_at_all_what_follows_is_not_told_wherever_it_is(alertmanager: str) -> None:
    """`absent()` knows no namespace."""
    absent = {"alertname": "MutationFirewallAbsent", "severity": "critical", "only": "here"}
    follows = {"alertname": "NoReplicaReady", "severity": "critical", "only": "here", "namespace": "anywhere"}
    try:
        both = [{"labels": absent}, {"labels": follows}]
        assert httpx.post(f"{alertmanager}/api/v2/alerts", json=both, timeout=60).is_success
        deadline = time.monotonic() + 60
        inhibited: list[bool] = []
        while time.monotonic() < deadline and inhibited != [True]:
            inhibited = [is_inhibited(one) for one in listed(alertmanager, 'namespace="anywhere"')]
            time.sleep(0.05)
        assert inhibited == [True]
    finally:
        # It concerns every namespace, those of other tests as well.
        over = {"labels": absent, "endsAt": "2020-01-01T00:00:01Z", "startsAt": "2020-01-01T00:00:00Z"}
        httpx.post(f"{alertmanager}/api/v2/alerts", json=[over], timeout=60)


def test_inhibitions_name_alerts_that_there_are() -> None:
    known = {alert["alert"] for alert in ALERTS}
    for rule in read(CONFIG)["inhibit_rules"]:
        for matcher in (*rule["source_matchers"], *rule["target_matchers"]):
            label, values = re.fullmatch(r'(\w+)=~?"([^"]*)"', matcher).groups()  # type: ignore[union-attr]
            if label == "alertname":
                for pattern in values.split("|"):
                    assert any(re.fullmatch(pattern, name) for name in known), pattern
