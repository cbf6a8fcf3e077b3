"""What the pages and the helps say to type, typed into a shell beside a running service."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.cli.conftest import environment

ROOT = Path(__file__).resolve().parents[3]
SWITCHES = (ROOT / "docs" / "switches.md").read_text()
IDENTITY = (ROOT / "docs" / "identity.md").read_text()
ID = r"[0-9a-f]{8}-[0-9a-f-]{27}"
MUTATION = json.dumps(
    {
        "subject": {"type": "agent", "id": "deploy-bot"},
        "action": {"name": "update"},
        "resource": {"type": "box", "id": "b"},
        "change": {"after": {"size": 1}},
    }
)


@pytest.fixture
def shell(service):
    """`bash`, with the `mfw` of this environment and what a person beside `mfw dev` has in theirs."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    settings = environment(**service.settings, PATH=path, COLUMNS="400")

    def run(line: str, *, stdin: str = "", code: int = 0) -> str:
        done = subprocess.run(
            ["bash", "-c", line],
            input=stdin,
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=settings,
            timeout=60,
            check=False,
        )
        assert done.returncode == code, (line, done.stdout, done.stderr)
        return done.stdout + done.stderr

    return run


def typed(block: str) -> list[str]:
    return re.findall(r"^(?:\$ )?(mfw .*)$", block, re.MULTILINE)


def test_kill_switches(shell):
    throw, listing, off = typed(re.search(r"```console\n(.*?)```", SWITCHES, re.DOTALL)[1])  # type: ignore[index]  # a page of ours
    said = shell(throw)
    assert re.search(
        r"^deny-subject deploy-bot is on until \S+Z; every replica has it within 2 seconds$", said, re.MULTILINE
    )
    shown = shell(listing)
    (identifier,) = re.findall(ID, shown)
    assert "deploy-bot" in shown
    assert "incident 4711" in " ".join(shown.split())
    denied = json.loads(shell("mfw decide -f - --json", stdin=MUTATION, code=10))
    assert denied["reasons"][0]["rule"] == "switch-deny-subject"
    assert json.loads(shell(f"{listing} --json"))["items"][0]["ledger_index"] >= 0
    # As the first command said it, but for the reason; then as the page does, which is over by now.
    said_to_type = re.search(r"to end it: (mfw switch off \S+ --reason )", said)
    assert said_to_type is not None
    assert identifier in said_to_type[1]
    assert "is off" in shell(f"{said_to_type[1]} 'a test'")
    again = re.sub(r"019a6c0e-\.\.\.", identifier, off)
    assert "over" in shell(again, code=1)
    assert "no kill switch is on" in shell(listing)
    assert identifier in shell(f"{listing} --all")


def test_every_example_of_the_switches(shell):
    """Their helps; `shadow` names a policy that this service does not have, and a right that its key does not have."""
    examples = {}
    for name in ("deny-all", "deny-subject", "stop-approvals", "shadow", "list", "off"):
        found = re.search(r"Example: `(mfw [^`]*)`", " ".join(shell(f"mfw switch {name} --help").split()))
        assert found is not None, name
        examples[name] = found[1]
    try:
        for name in ("deny-all", "deny-subject", "stop-approvals"):
            assert f"{name}" in shell(examples[name])
        assert "switch-deny-all" in shell("mfw decide -f - --json", stdin=MUTATION, code=10)
        assert "policy:activate" in shell(examples["shadow"], code=77)
        assert len(set(re.findall(ID, shell("mfw switch list")))) == 3
    finally:
        for identifier in set(re.findall(ID, shell("mfw switch list"))):
            assert "is off" in shell(examples["off"].replace("019a...", identifier))
    assert "no kill switch is on" in shell("mfw switch list")
    assert "deny-all" in shell(examples["list"])


def test_a_service_that_is_not_there_or_refuses(shell):
    assert "mfw dev" in shell("MFW_URL=http://127.0.0.1:9 mfw switch list", code=69)
    assert "401" in shell("MFW_API_KEY=mfw_nobody mfw switch list", code=77)


def test_keys(shell):
    block = re.search(r"^```\n(mfw keys create.*?)```", IDENTITY, re.DOTALL | re.MULTILINE)
    assert block is not None
    create, listing, rotate, revoke = typed(block[1])
    # The key alone is on standard output.
    key = shell(f"{create} 2>/dev/null").strip()
    assert re.fullmatch(r"mfw_[0-9A-Za-z]{49}", key)
    found = [one for one in json.loads(shell(f"{listing} --json")) if one["name"] == "deploy bots"]
    assert (found[0]["subjects"], found[0]["networks"]) == (["agent:deploy-*"], ["10.20.0.0/16"])
    # Not from this address: it is no key here.
    assert "401" in shell(f"MFW_API_KEY={key} mfw decide -f -", stdin=MUTATION, code=77)
    successor = shell(f"{rotate.replace('ID', found[0]['id'])} 2>/dev/null").strip()
    assert re.fullmatch(r"mfw_[0-9A-Za-z]{49}", successor)
    assert "revoked" in shell(revoke.replace("ID", found[0]["id"]))
    assert found[0]["id"] not in [one["id"] for one in json.loads(shell(f"{listing} --json"))]
    for one in json.loads(shell(f"{listing} --json")):
        if one["name"] == "deploy bots":
            shell(f"mfw keys revoke {one['id']} --reason 'a test'")
