"""`mfw serve`: gunicorn in production settings, which starts only where everything is right."""

import json
import signal
import threading
import time
import urllib.request
from pathlib import Path
from urllib.error import URLError

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from app.core.notes import SignerKey
from app.migrations import apply
from tests.integration.service.conftest import UNHURRIED

ROOT = Path(__file__).resolve().parents[3]
MUTATION = json.dumps(
    {
        "subject": {"type": "agent", "id": "a"},
        "action": {"name": "update"},
        "resource": {"type": "box", "id": "b"},
        "change": {"after": {"size": 1}},
    }
)


def production(dsn: str, port: int, metrics_port: int) -> dict[str, str]:
    return {
        "MFW_ENVIRONMENT": "production",
        "MFW_DATABASE__URL": dsn,
        "MFW_POLICIES__DIRECTORY": str(ROOT / "policies" / "starter"),
        "MFW_HTTP__PORT": str(port),
        "MFW_METRICS__PORT": str(metrics_port),
        "MFW_ERROR_TRACKING": "logs",
        "MFW_LEDGER__ORIGIN": "firewall.example.com/ledger",
        "MFW_LEDGER__SIGNING_KEY": SignerKey.of("firewall.example.com/ledger", Ed25519PrivateKey.generate()).text,
        "MFW_HTTP__DRAIN_SECONDS": "0",
        **UNHURRIED,
    }


def test_it_serves_and_ends_on_sigterm(commands, database_dsn):
    settings = production(database_dsn, commands.free_port(), commands.free_port())
    key = commands.run("keys", "create", "ci", MFW_DATABASE__URL=database_dsn).stdout.strip()
    with commands.running("serve", settings=settings) as process:
        process.read_until("Application startup complete")
        url = f"http://127.0.0.1:{settings['MFW_HTTP__PORT']}"
        asked = commands.run("decide", "-f", "-", "--json", stdin=MUTATION, MFW_URL=url, MFW_API_KEY=key)
        assert asked.returncode == 10, asked.stderr
        # Entry 0 is the API key, 1 or 2 that of the ledger, which comes while the service starts.
        assert json.loads(asked.stdout)["ledger_index"] in {1, 2}
        assert "server" not in commands.ready(url).headers
        with urllib.request.urlopen(f"http://127.0.0.1:{settings['MFW_METRICS__PORT']}/metrics") as metrics:
            assert metrics.status == 200
        # No proxy is trusted unless it is named: nobody chooses the address that limits count by.
        forged = urllib.request.Request(f"{url}/health/live", headers={"X-Forwarded-For": "203.0.113.9"})
        with urllib.request.urlopen(forged) as live:
            assert live.status == 200
        assert process.stop(signal.SIGTERM) == 0
        # gunicorn's own lines and the service's: one JSON object each.
        told = [json.loads(line)["event"] for line in process.output.splitlines()]
        assert told[0].startswith("advice: MFW_LEDGER__GUARD_FILE")
        assert key not in process.output
        assert "203.0.113.9" not in process.output
        with pytest.raises(URLError):
            urllib.request.urlopen(f"{url}/health/live")


def test_the_schema_is_looked_at_first(commands, empty_database_dsn):
    result = commands.run("serve", **production(empty_database_dsn, commands.free_port(), commands.free_port()))
    assert result.returncode == 76
    assert "python -m app.migrations.apply" in result.stderr


def test_migrations_that_are_under_way_are_waited_for(commands, empty_database_dsn):
    settings = production(empty_database_dsn, commands.free_port(), commands.free_port())
    with commands.running("serve", settings=settings | {"MFW_DATABASE__WAIT_SECONDS": "3600"}) as process:
        process.read_until("waiting: the database has no schema yet")
        assert apply.main(["--database-url", empty_database_dsn]) == 0
        process.read_until("Application startup complete")
        assert process.stop(signal.SIGTERM) == 0
        told = [json.loads(line) for line in process.output.splitlines()]
        # One line for each revision that it saw on the way, however many those were.
        waited = [line for line in told if line["event"].startswith("waiting: ")]
        assert waited[0]["event"] == "waiting: the database has no schema yet"
        assert {(line["level"], line["logger"]) for line in waited} == {("warning", "mfw.database")}
        assert len({line["event"] for line in waited}) == len(waited)


def test_who_waits_can_be_stopped(commands, empty_database_dsn):
    settings = production(empty_database_dsn, commands.free_port(), commands.free_port())
    with commands.running("serve", settings=settings | {"MFW_DATABASE__WAIT_SECONDS": "3600"}) as process:
        process.read_until("waiting: the database has no schema yet")
        assert process.stop(signal.SIGTERM) == 128 + signal.SIGTERM
        assert "Traceback" not in process.output


def test_no_database_there(commands):
    dsn = f"postgresql://u:rT7pw2Kx9QzLm4VbN8sY@127.0.0.1:{commands.free_port()}/x"
    result = commands.run("serve", **production(dsn, commands.free_port(), commands.free_port()))
    assert result.returncode == 69
    assert "Traceback" not in result.stderr


def test_policies_that_are_wrong_end_it(commands, database_dsn, tmp_path):
    settings = production(database_dsn, commands.free_port(), commands.free_port())
    result = commands.run("serve", **settings | {"MFW_POLICIES__DIRECTORY": str(tmp_path)})
    assert result.returncode == 65
    assert "an empty set is refused" in result.stderr


def test_sigterm_loses_no_request_and_ends_long_polls(commands, database_dsn):
    """Readiness goes first, the door stays open for the draining, and what was let in is answered."""
    drain = 15.0  # all that happens meanwhile takes half a second, where nobody else keeps the machine busy
    settings = production(database_dsn, commands.free_port(), commands.free_port())
    settings |= {"MFW_HTTP__DRAIN_SECONDS": str(drain), "MFW_LIMITS__BURST": "100000"}
    key = commands.run(
        "keys", "create", "ci", "--role", "agent", "--role", "viewer", MFW_DATABASE__URL=database_dsn
    ).stdout.strip()
    typed = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    with commands.running("serve", settings=settings) as process:
        process.read_until("Application startup complete")
        url = f"http://127.0.0.1:{settings['MFW_HTTP__PORT']}"
        stopping = threading.Event()
        statuses: list[int] = []
        lost: list[Exception] = []
        poll: dict[str, float] = {}

        def ask() -> None:
            with httpx.Client(base_url=url, headers=typed, timeout=60) as client:
                while not stopping.is_set():
                    try:
                        statuses.append(client.post("/v1/decisions", content=MUTATION).status_code)
                    except httpx.HTTPError as error:
                        lost.append(error)

        def wait() -> None:
            with httpx.Client(base_url=url, headers=typed, timeout=60) as client:
                known = client.get("/v1/policy-sets/active").headers["etag"]
                poll["begun"] = time.monotonic()
                answer = client.get("/v1/policy-sets/active", params={"wait": 30}, headers={"If-None-Match": known})
                poll["status"], poll["ended"] = answer.status_code, time.monotonic()

        callers = [threading.Thread(target=ask) for _ in range(3)] + [threading.Thread(target=wait)]
        for caller in callers:
            caller.start()
        while "begun" not in poll or len(statuses) < 20:
            time.sleep(0.01)
        told = time.monotonic()
        process.popen.send_signal(signal.SIGTERM)
        with httpx.Client(base_url=url, timeout=60) as client:
            while (ready := client.get("/health/ready")).json()["reasons"][:1] != ["shutting down"]:
                assert time.monotonic() < told + drain
            assert ready.status_code == 503
            assert ready.headers["connection"] == "close"
        before = len(statuses)
        while len(statuses) < before + 10:
            assert time.monotonic() < told + drain, "it accepts while it drains"
            time.sleep(0.01)
        stopping.set()
        for caller in callers:
            caller.join(60)
        assert (poll["status"], lost) == (304, [])
        assert poll["ended"] < told + drain
        assert set(statuses) == {200}
        process.popen.wait(60)
        assert process.popen.returncode == 0
        assert time.monotonic() > told + drain
