"""`mfw ledger keygen`: a pair of files, and nothing of yours overwritten."""

import json
from pathlib import Path

from typer.testing import CliRunner

from app.cli import app
from app.cli.exits import ExitCode
from app.core.log_keys import log_key
from app.core.notes import VerifierKey

ORIGIN = "firewall.example.com/ledger"


def mfw(*arguments, code=ExitCode.OK):
    result = CliRunner().invoke(app, ["ledger", "keygen", *map(str, arguments)])
    assert result.exit_code == code, (result.output, result.exception)
    return result


def test_a_pair(tmp_path):
    file = tmp_path / "ledger.key"
    made = json.loads(mfw("--origin", ORIGIN, "--out", file, "--json").stdout)
    key = log_key(file.read_text(), origin=ORIGIN)
    public = Path(made["public_key"]).read_text().strip()
    assert made["vkey"] == public == key.verifier.text
    assert VerifierKey.parse(public) == key.verifier
    assert (made["origin"], made["private_key"]) == (ORIGIN, str(file))
    assert file.stat().st_mode & 0o777 == 0o600
    assert "PRIVATE" not in json.dumps(made)
    before = file.read_text()
    assert "never overwritten" in mfw("--origin", ORIGIN, "--out", file, code=ExitCode.NO_INPUT).output
    assert file.read_text() == before


def test_for_a_person(tmp_path):
    output = mfw("--origin", ORIGIN, "--out", tmp_path / "k").output
    assert log_key((tmp_path / "k").read_text(), origin=ORIGIN).verifier.text in output
    assert f"next: MFW_LEDGER__ORIGIN={ORIGIN} MFW_LEDGER__SIGNING_KEY_FILE={tmp_path / 'k'}" in output


def test_what_cannot_be(tmp_path):
    mfw("--origin", "a b", "--out", tmp_path / "k", code=ExitCode.USAGE)
    assert "cannot write" in mfw("--origin", "a", "--out", tmp_path / "no" / "k", code=ExitCode.NO_INPUT).output
