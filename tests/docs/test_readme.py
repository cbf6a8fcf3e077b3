"""Every command of the README does what the README says."""

import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.integration.service.conftest import UNHURRIED
from tests.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
START_SECONDS = 120
STATE = "~/.local/state/mutation-firewall"
EXIT_CODES = {"allow": 0, "deny": 10, "hold": 11}


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def commands():
    """The lines after `$ `, with those that go on below."""
    text = "".join(blocks("console")).replace("\\\n", " ")
    return [line.removeprefix("$ ") for line in text.splitlines() if line.startswith("$ ")]


MAKE = [line for line in commands() if line.startswith("make ")]
ASKING = [line for line in commands() if not line.startswith("make ")]


def bare_environment():
    return {name: value for name, value in os.environ.items() if not name.startswith("MFW_")}


@pytest.fixture(scope="module")
def service():
    """What `make run` starts, on other ports and with a state directory of its own."""
    above = Path(tempfile.mkdtemp(prefix="mfw-readme-"))
    above.chmod(0o711)
    port = free_port()
    # The very command of the Makefile, so that the two cannot part.
    (recipe,) = re.findall(r"^run:.*\n\t@exec \$\(BIN\)/(.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert recipe == "mfw dev"
    process = subprocess.Popen(
        [sys.executable, "-m", "app", "dev", "--port", str(port), "--metrics-port", str(free_port())],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=ROOT,
        env=bare_environment() | UNHURRIED | {"MFW_STATE_DIR": str(above / "state")},
    )
    output = b""
    deadline = time.monotonic() + START_SECONDS
    try:
        assert process.stdout is not None
        while b"Ctrl-C stops everything" not in output:
            readable, _, _ = select.select([process.stdout], [], [], max(0, deadline - time.monotonic()))
            chunk = os.read(process.stdout.fileno(), 65536) if readable else b""
            assert chunk, output.decode()
            output += chunk
        yield port, above / "state"
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
        assert process.returncode == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
        shutil.rmtree(above, ignore_errors=True)


def run(line, service):
    port, state = service
    here = line.replace(":8080", f":{port}").replace(STATE, str(state))
    here = here.replace(".venv/bin/mfw", f"{sys.executable} -m app")
    environ = bare_environment() | {"MFW_STATE_DIR": str(state), "MFW_URL": f"http://127.0.0.1:{port}"}
    return subprocess.run(
        ["bash", "-c", here], capture_output=True, text=True, cwd=ROOT, env=environ, timeout=60, check=False
    )


@pytest.mark.parametrize("line", MAKE)
def test_the_two_commands_are_targets(line):
    target = line.split()[1]
    # Asked, not done: this test is part of one of them, and the other one runs until Ctrl-C.
    result = subprocess.run(["make", "-n", target], capture_output=True, text=True, cwd=ROOT, check=False)
    assert result.returncode == 0, result.stderr


def test_there_are_two():
    assert [line.split()[1] for line in MAKE] == ["run", "test"]


@pytest.mark.parametrize("line", ASKING)
def test_a_command(line, service):
    result = run(line, service)
    named = re.search(r"examples/(allow|deny|hold)-", line)
    if line.startswith("curl"):
        assert named is not None
        assert json.loads(result.stdout)["decision"] == named[1]
    else:
        assert result.returncode == (EXIT_CODES[named[1]] if named else 0), result.stderr
    assert "Traceback" not in result.stderr


def test_the_answer_is_the_answer(service):
    (curl,) = [line for line in ASKING if line.startswith("curl")]
    (shown,) = blocks("json")
    printed, real = json.loads(shown), json.loads(run(curl, service).stdout)
    assert list(printed) == list(real)
    assert printed["decision"] == real["decision"]
    assert printed["reasons"][0] == real["reasons"][0]


def test_the_policy_is_one(tmp_path):
    (policy,) = blocks("yaml")
    (tmp_path / "policy.yaml").write_text(policy)
    for example, code in (("deny-sql-delete-without-where", 10), ("allow-sql-update-by-id", 11)):
        result = subprocess.run(
            [
                sys.executable,
                "-m",
                "app",
                "decide",
                "--local",
                "--policies",
                str(tmp_path),
                "-f",
                f"examples/{example}.json",
            ],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=bare_environment(),
            check=False,
        )
        assert result.returncode == code, result.stdout + result.stderr


@pytest.mark.parametrize("target", re.findall(r"\]\(([^)h][^)]*)\)", README))
def test_a_link_leads_somewhere(target):
    assert (ROOT / target.partition("#")[0]).exists()


def test_the_index_has_every_page_and_no_other():
    index = (ROOT / "docs" / "README.md").read_text()
    docs = ROOT / "docs"
    pages = {str(path.relative_to(docs)) for part in ("*.md", "integrations/*.md") for path in docs.glob(part)}
    pages -= {"README.md"}
    linked = set(re.findall(r"\]\(([^)]+\.md)\)", index))
    assert {target for target in linked if not target.startswith("../")} == pages
    assert all((docs / target).exists() for target in linked)


def test_it_fits_on_a_screen_or_two():
    assert len(README.splitlines()) <= 90
