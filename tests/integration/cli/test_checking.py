"""`mfw check ...` against the real service: the pages' own lines, the ledger, and whoever does not answer."""

import json
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from model_signing import hashing, signing

ROOT = Path(__file__).resolve().parents[3]
PLANS = ROOT / "tests" / "vectors" / "plans"
SUBJECT = ("--subject", "agent:infra-agent")


@pytest.fixture
def lines_of(tmp_path, commands, service):
    """Run the first lines of a page in a shell that stops at the first failure; `programs` are put before all others."""
    programs = tmp_path / "programs"
    programs.mkdir()

    def put(name: str, script: str) -> None:
        (programs / name).write_text(f"#!/bin/bash\n{script}\n")
        (programs / name).chmod(stat.S_IRWXU)

    put("mfw", f'PYTHONPATH={ROOT} exec {sys.executable} -m app "$@"')

    def run(page: str, *, directory: Path, **scripts: str) -> "subprocess.CompletedProcess[str]":
        for name, script in scripts.items():
            put(name, script)
        text = (ROOT / "docs" / "integrations" / page).read_text()
        block = re.findall(r"```console\n(.*?)```", text, re.DOTALL)[0]
        lines = [line.removeprefix("$ ") for line in block.splitlines()]
        assert len(lines) == 5
        return subprocess.run(
            ["bash", "-ec", "\n".join(lines)],
            env={**service.settings, "PATH": f"{programs}:/usr/bin:/bin"},
            cwd=directory,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def terraform(plan: str) -> str:
    """A program that shows a plan which the real one made (tests/vectors/plans has how); applying leaves a mark."""
    return f'case "$1" in show) cat {PLANS / plan}.json;; apply) touch applied;; plan) touch plan;; esac'


def test_the_lines_for_terraform(lines_of, tmp_path):
    result = lines_of("terraform.md", directory=tmp_path, terraform=terraform("change"))
    assert result.returncode == 11, result.stdout + result.stderr
    assert "terraform-change/destroys: delete of shop-production/terraform_data.dropped" in result.stdout
    assert not (tmp_path / "applied").exists()


def test_every_change_is_in_the_ledger_together(commands, service):
    result = commands.run("check", "terraform", PLANS / "change.json", *SUBJECT, "--format", "json", **service.settings)
    assert result.returncode == 11, result.stderr
    report = json.loads(result.stdout)
    indexes = [one["ledger_index"] for one in report["results"]]
    assert indexes == list(range(indexes[0], indexes[0] + 19))
    shown = commands.run("decisions", "show", report["results"][1]["id"], "--json", **service.settings)
    assert shown.returncode == 0, shown.stderr
    assert "terraform_data.credentials" in shown.stdout
    assert "not-a-secret" not in shown.stdout


def test_nobody_at_the_address(commands):
    result = commands.run(
        "check", "terraform", PLANS / "change.json", *SUBJECT, "--format", "json", "--url", "http://127.0.0.1:1"
    )
    assert result.returncode == 69
    assert "error" in json.loads(result.stdout)


def test_a_key_that_is_none(commands, service):
    result = commands.run("check", "terraform", PLANS / "change.json", *SUBJECT, "--api-key", "no", **service.settings)
    assert result.returncode == 77
    assert result.stdout == ""


def test_the_lines_for_git(lines_of, tmp_path):
    checkout = tmp_path / "checkout"
    subprocess.run(
        [
            "bash",
            "-ec",
            f"""git init -q -b main {tmp_path}/origin && cd {tmp_path}/origin
            git config user.name a && git config user.email a@example.com
            echo a > README.md && git add -A && git commit -q -m a
            git clone -q . {checkout} && cd {checkout}
            git config user.name a && git config user.email a@example.com
            git checkout -q -b docs && echo b > README.md && git commit -q -a -m b""",
        ],
        check=True,
    )
    result = lines_of("git.md", directory=checkout)
    assert result.returncode == 0, result.stdout + result.stderr
    assert (checkout / "comment.md").read_text().startswith("### Mutation Firewall: allow")
    subprocess.run(
        [
            "bash",
            "-ec",
            "mkdir tests && echo a > tests/test_a.py && git add -A && git commit -q -m t && git push -q . HEAD:other",
        ],
        cwd=checkout,
        check=True,
    )
    assert lines_of("git.md", directory=checkout).returncode == 1
    assert "**hold**" in (checkout / "comment.md").read_text()


def test_the_lines_for_models(lines_of, tmp_path):
    for version in ("current", "candidate"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "model.safetensors").write_text(version)
    text = (ROOT / "docs" / "integrations" / "models.md").read_text()
    (tmp_path / "results.json").write_text(re.findall(r"```json\n(.*?)```", text, re.DOTALL)[0])
    key = ec.generate_private_key(ec.SECP256R1())
    encoding, public = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    (tmp_path / "release.pub").write_bytes(key.public_key().public_bytes(encoding, public))
    private = (encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (tmp_path / "release.key").write_bytes(key.private_bytes(*private))
    (
        signing.Config()
        .use_elliptic_key_signer(private_key=tmp_path / "release.key")
        # As the command of the format does it: the signature leaves itself out.
        .set_hashing_config(hashing.Config().set_ignored_paths(paths=[tmp_path / "candidate" / "model.sig"]))
        .sign(tmp_path / "candidate", tmp_path / "candidate" / "model.sig")
    )
    result = lines_of("models.md", directory=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "ALLOW" in result.stdout
    assert (tmp_path / "current" / "model.safetensors").read_text() == "candidate"
    (tmp_path / "current").rename(tmp_path / "candidate")
    (tmp_path / "candidate" / "model.safetensors").write_text("poisoned")
    (tmp_path / "current").mkdir()
    (tmp_path / "current" / "model.safetensors").write_text("current")
    result = lines_of("models.md", directory=tmp_path)
    assert result.returncode == 10
    assert "the signature does not hold" in result.stdout
    assert (tmp_path / "candidate").exists()


def test_more_than_a_batch_holds(commands, service, tmp_path):
    tree = json.loads((PLANS / "first.json").read_text())
    one = tree["resource_changes"][-1]
    tree["resource_changes"] = [{**one, "address": f"{one['address']}{number}"} for number in range(1_100)]
    # As many values as a service reads in one go, in fewer changes than a batch may have.
    for each in tree["resource_changes"][:600]:
        each["change"] = {**each["change"], "after": {"input": list(range(1_000))}, "after_unknown": {}}
    (tmp_path / "plan.json").write_text(json.dumps(tree))
    result = commands.run(
        "check", "terraform", tmp_path / "plan.json", *SUBJECT, "--format", "json", **service.settings
    )
    assert result.returncode == 11, result.stderr
    report = json.loads(result.stdout)
    assert len({one["ledger_index"] for one in report["results"]}) == len(report["results"]) >= 1_100
