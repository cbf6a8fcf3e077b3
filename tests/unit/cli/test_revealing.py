"""`mfw ledger reveal`: the value that was hidden, and no other."""

import json

import pytest
from typer.testing import CliRunner

from app.cli import app
from app.cli.exits import ExitCode
from app.core.record_masks import commitment, salt_of

ID = "01990000-0000-7000-8000-000000000000"
KEY = "9f2c64b18e7a0d35c1f84b7e62a90d53"
PLACE = "/change/after/password"
SALT = salt_of(KEY.encode(), ID, PLACE)
COMMITMENT = commitment(SALT, "hunter2")
RECORD = {
    "id": ID,
    "masked": [
        {"pointer": PLACE, "mask": "m", "commitment": COMMITMENT},
        {"pointer": "/rationale", "mask": "m"},
    ],
}


@pytest.fixture
def reveal(tmp_path, monkeypatch):
    def run(*options, value='"hunter2"', place=PLACE, record=RECORD, key=KEY):
        monkeypatch.delenv("MFW_LEDGER__MASK_KEY", raising=False)
        # Only the key: what a service in production has to have, an auditor has not.
        monkeypatch.setenv("MFW_ENVIRONMENT", "production")
        if key is not None:
            monkeypatch.setenv("MFW_LEDGER__MASK_KEY", key)
        (tmp_path / "record.json").write_text(json.dumps(record) if not isinstance(record, str) else record)
        (tmp_path / "value.json").write_text(value)
        files = [str(tmp_path / "record.json"), place, "--value", str(tmp_path / "value.json")]
        return CliRunner().invoke(app, ["ledger", "reveal", *files, *options])

    return run


def test_the_key_finds_the_salt_and_the_salt_is_enough(reveal):
    shown = json.loads(reveal("--json").stdout)
    assert shown == {
        "id": ID,
        "pointer": PLACE,
        "value": "hunter2",
        "salt": SALT.hex(),
        "commitment": COMMITMENT,
    }
    told = reveal("--salt", SALT.hex(), key=None, record={"index": 7, "record": RECORD})
    assert told.exit_code == ExitCode.OK
    assert f"--salt {SALT.hex()}" in told.stdout


@pytest.mark.parametrize(
    ("options", "given", "code", "said"),
    [
        ((), {"value": '"hunter3"'}, ExitCode.FAILED, "not the value"),
        ((), {"key": "a" + KEY[1:]}, ExitCode.FAILED, "not the value"),
        ((), {"key": None}, ExitCode.BAD_SETTINGS, "no key to draw the salt with"),
        ((), {"key": "short"}, ExitCode.BAD_SETTINGS, "MFW_LEDGER__MASK_KEY"),
        ((), {"place": "/rationale"}, ExitCode.FAILED, "was erased"),
        ((), {"place": "/context/x"}, ExitCode.USAGE, "has hidden nothing"),
        ((), {"value": "hunter2"}, ExitCode.BAD_DATA, "value.json"),
        ((), {"record": "{}"}, ExitCode.BAD_DATA, "no record with something hidden"),
        ((), {"record": "[1]"}, ExitCode.BAD_DATA, "no record with something hidden"),
        (("--salt", "00"), {}, ExitCode.USAGE, "64 hexadecimal digits"),
        (("--salt", "x" * 64), {}, ExitCode.USAGE, "64 hexadecimal digits"),
        (("--salt", "0" * 64), {}, ExitCode.FAILED, "not the value"),
        (("--value", "/nowhere"), {}, ExitCode.NO_INPUT, "cannot be read"),
    ],
)
def test_what_is_refused(reveal, options, given, code, said):
    result = reveal(*options, **given)
    assert result.exit_code == code, result.output
    assert said in " ".join(result.output.split())
    assert "hunter" not in result.output


def test_more_than_a_record_can_be_is_not_read(reveal, monkeypatch):
    monkeypatch.setattr("app.cli.revealing._FILE_MAX_BYTES", 10)
    assert reveal().exit_code == ExitCode.BAD_DATA


def test_a_record_may_come_from_a_pipe(tmp_path):
    (tmp_path / "value.json").write_text('"hunter2"')
    arguments = ["ledger", "reveal", "-", PLACE, "--value", str(tmp_path / "value.json"), "--salt", SALT.hex()]
    assert CliRunner().invoke(app, arguments, input=json.dumps(RECORD)).exit_code == ExitCode.OK
