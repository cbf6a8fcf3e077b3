"""The commands of docs/policy-sets.md about signatures, in their order, against a service that requires them."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "policy-sets.md").read_text()
(SECTION,) = re.findall(r"^## Signatures\n(.*?)^## ", PAGE, re.MULTILINE | re.DOTALL)
BLOCKS = re.findall(r"^```console\n(.*?)^```$", SECTION, re.MULTILINE | re.DOTALL)


@pytest.fixture
def type_in(tmp_path):
    """Type a line in a directory of one's own, with the starter policies in it."""
    shutil.copytree(ROOT / "policies" / "starter", tmp_path / "policies")

    def run(line, **settings):
        kept = {name: value for name, value in os.environ.items() if not name.startswith("MFW_")}
        return subprocess.run(
            ["bash", "-c", line.replace("mfw ", f"{sys.executable} -m app ", 1)],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**kept, "PYTHONPATH": str(ROOT), **settings},
            timeout=60,
            check=False,
        )

    return run


def lines(block):
    return [line.removeprefix("$ ") for line in block.splitlines() if line.startswith("$ ")]


def test_the_page(type_in, commands, tmp_path):
    make, sign, roll_out = map(lines, BLOCKS)
    for line in make:
        made = type_in(line)
        assert made.returncode == 0, made.stderr
    with (
        commands.state_directory() as state,
        commands.development(
            state,
            MFW_POLICIES__SOURCE="database",
            MFW_POLICIES__SIGNERS=str(tmp_path / "keys"),
            MFW_POLICIES__SIGNATURES_REQUIRED="2",
        ) as service,
    ):
        key = commands.run("keys", "create", "admin", "--role", "admin", **service.settings).stdout.strip()

        def ask(line):
            # The service asks the database about unknown keys at most once a second.
            while True:
                result = type_in(line, MFW_URL=service.url, MFW_API_KEY=key)
                if result.returncode != 77 or "not authenticated" not in result.stderr + result.stdout:
                    return result

        # Before anybody signed.
        push, activate = roll_out
        unsigned = ask(push)
        assert unsigned.returncode == 0, unsigned.stderr
        assert "not signed by security, sre; 2 signatures are required" in unsigned.stdout
        assert "next: mfw policies sign policies --key FILE" in unsigned.stdout
        (digest,) = re.findall(r"^(sha256:[0-9a-f]{64})$", unsigned.stdout, re.MULTILINE)
        here = activate.replace("sha256:...", digest)
        refused = ask(here)
        assert refused.returncode == 77
        assert "0 of 2 required signatures" in refused.stderr
        error = json.loads(ask(f"{here} --json").stdout)["error"]
        assert [one["name"] for one in error["signatures"]["missing"]] == ["security", "sre"]
        # Nor past the set in force, unless it is said aloud.
        glass = {**service.settings, "MFW_POLICIES__SIGNERS": str(tmp_path / "keys")}
        forced = commands.run("policies", "force", digest, "-r", "x", **glass)
        assert forced.returncode == 65
        assert "--unsafe-unsigned" in forced.stderr

        for line in sign:
            made = type_in(line)
            assert made.returncode == 0, made.stderr
        signed = ask(push)
        assert signed.returncode == 0, signed.stderr
        assert "signed by security, sre" in signed.stdout
        assert f"next: mfw policies activate {digest}" in signed.stdout
        done = ask(here)
        assert done.returncode == 0, done.stderr

        # One file of signatures for another set, and one that nobody there knows.
        (tmp_path / "policies" / "more.yaml").write_text(MORE)
        stale = ask(push)
        assert stale.returncode == 65
        assert "sign them again" in stale.stderr
        assert type_in("mfw policies keygen --out other").returncode == 0
        assert type_in("mfw policies sign policies --key other/signer.key --out x.json").returncode == 0
        (tmp_path / "policies" / "policy-set.dsse.json").unlink()
        stranger = ask("mfw policies push policies --signature x.json")
        assert stranger.returncode == 65
        assert "of a signer that this service knows" in stranger.stderr
        assert type_in("mfw policies sign policies --key keys/sre.key").returncode == 0
        answer = json.loads(ask("mfw policies push policies --json").stdout)
        assert [one["name"] for one in answer["signatures"]["signed"]] == ["sre"]
        other = answer["digest"]
        forced = commands.run("policies", "force", other, "-r", "x", "--unsafe-unsigned", **glass)
        assert forced.returncode == 0, forced.stderr
        assert "do not follow" in forced.stderr


MORE = """\
apiVersion: mutationfirewall.io/v1
kind: MutationPolicy
metadata: {name: more}
spec:
  match: {resources: [{type: box}]}
  rules: [{name: all, effect: allow}]
"""
