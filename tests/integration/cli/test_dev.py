"""`mfw dev` as a newcomer meets it: it starts with nothing, its curl line works, and Ctrl-C leaves nothing behind."""

import json
import re
import signal
import socket
import stat
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]

MUTATION = json.dumps(
    {
        "subject": {"type": "agent", "id": "a"},
        "action": {"name": "update"},
        "resource": {"type": "box", "id": "b"},
        "change": {"after": {"size": 1}},
    }
)


def servers_of(state: Path) -> list[int]:
    """The PostgreSQL processes that work on this state directory."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if any(word == str(state / "postgres" / "data").encode() for word in words):
            found.append(int(process.name))
    return found


def test_from_nothing_to_a_decision_and_back_to_nothing(commands, state):
    with commands.development(state) as service:
        shown = service.process.output
        assert "mfw_" not in shown
        (line,) = re.findall(r"curl -sS .*", shown)
        answer = subprocess.run(["bash", "-c", line], capture_output=True, text=True, cwd=ROOT, check=True, timeout=60)
        decided = json.loads(answer.stdout)
        assert decided["decision"] == "allow"
        # After the API key and, unless it comes a moment later, the key of the ledger.
        assert decided["ledger_index"] in {1, 2}
        assert stat.S_IMODE((state / "ledger.key").stat().st_mode) == 0o600
        assert (state / "ledger.key").read_text().startswith("PRIVATE+KEY+")
        public = (state / "ledger.key.pub").read_text()
        assert str(state / "ledger.key.pub") in shown
        with urllib.request.urlopen(service.metrics_url) as metrics:
            assert metrics.status == 200
        assert stat.S_IMODE((state / "api-key").stat().st_mode) == 0o600
        assert stat.S_IMODE((state / "database-url").stat().st_mode) == 0o600
        key = (state / "api-key").read_text()
        assert len(servers_of(state)) >= 1
        assert service.process.stop(signal.SIGINT) == 0
        assert service.process.output.rstrip().endswith("stopped")
        assert "Traceback" not in service.process.output
    assert servers_of(state) == []
    assert not (state / "database-url").exists()
    # The second start: the same key, the same ledger, whichever of the two wrote down the key of the ledger.
    with commands.development(state) as service:
        assert (state / "api-key").read_text() == key
        assert (state / "ledger.key.pub").read_text() == public
        again = commands.run("decide", "-f", "-", "--json", stdin=MUTATION, **service.settings)
        assert json.loads(again.stdout)["ledger_index"] in {2, 3}
        assert service.process.stop(signal.SIGTERM) == 0


def test_it_comes_back_after_kill_9(commands, state):
    with commands.development(state) as service:
        first = commands.run("decide", "-f", "-", "--json", stdin=MUTATION, **service.settings)
        # The key of the ledger has its entry before it, after it, or of the next start where this one did not come to it.
        assert (before := json.loads(first.stdout)["ledger_index"]) in {1, 2}
        service.process.popen.kill()
        service.process.popen.wait()
    with commands.development(state) as service:
        second = commands.run("decide", "-f", "-", "--json", stdin=MUTATION, **service.settings)
        assert before < json.loads(second.stdout)["ledger_index"] <= 3
        assert service.process.stop(signal.SIGINT) == 0


def test_a_revoked_key_is_replaced_on_the_next_start(commands, state):
    with commands.development(state) as service:
        (stored,) = json.loads(commands.run("keys", "list", "--json", **service.settings).stdout)
        assert commands.run("keys", "revoke", stored["id"], **service.settings).returncode == 0
        old = (state / "api-key").read_text()
        assert service.process.stop(signal.SIGINT) == 0
    with commands.development(state) as service:
        assert (state / "api-key").read_text() != old
        assert commands.run("decide", "-f", "-", stdin=MUTATION, **service.settings).returncode in {0, 10, 11}
        assert service.process.stop(signal.SIGINT) == 0


@pytest.mark.parametrize("option", ["--port", "--metrics-port"])
def test_a_busy_port_is_said_before_anything_is_started(commands, state, option):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        busy = taken.getsockname()[1]
        ports = {"--port": commands.free_port(), "--metrics-port": commands.free_port()} | {option: busy}
        line = [word for pair in ports.items() for word in pair]
        result = commands.run("dev", "--state-dir", state, *line)
        assert result.returncode == 1
        assert f"port {busy} on 127.0.0.1 is in use" in result.stderr
        assert option in result.stderr
        assert not state.exists()


def test_a_second_one_on_the_same_state_says_who_has_it(commands, service):
    result = commands.run(
        "dev", "--state-dir", service.state, "--port", commands.free_port(), "--metrics-port", commands.free_port()
    )
    assert result.returncode == 69
    assert f"already started by process {service.process.popen.pid}" in result.stderr


def test_policies_that_are_wrong_stop_it(commands, state, tmp_path):
    (tmp_path / "bad.yaml").write_text("kind: MutationPolicy\n")
    result = commands.run(
        "dev",
        "--state-dir",
        state,
        "--policies",
        tmp_path,
        "--port",
        commands.free_port(),
        "--metrics-port",
        commands.free_port(),
    )
    assert result.returncode == 65
    assert "bad.yaml" in result.stderr
    assert "Traceback" not in result.stderr
    assert servers_of(state) == []


def test_ctrl_c_while_it_starts(commands, state):
    with commands.running("dev", "--state-dir", state, "--port", 0, "--metrics-port", 0, settings={}) as process:
        # The first thing that a start leaves behind is the directory of the database.
        while not (state / "postgres").exists():
            assert process.popen.poll() is None
            time.sleep(0.001)
        assert process.stop(signal.SIGINT) == 0
        assert servers_of(state) == []
