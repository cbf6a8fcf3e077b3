"""`python -m app.migrations.*` as a person types it."""

import subprocess
import sys
from pathlib import Path

import pytest

from app.migrations import apply, rollback, status

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture
def dsn(empty_database_dsn):
    return empty_database_dsn


def test_forward_back_and_what_is_said(dsn, capsys):
    url = ["--database-url", dsn]
    assert status.main(url) == 3
    assert "next: python -m app.migrations.apply" in capsys.readouterr().out
    assert apply.main([*url, "--to", "0001"]) == 3
    capsys.readouterr()
    assert apply.main(url) == 0
    assert "schema: 0012 (newest 0012)" in capsys.readouterr().out
    assert status.main(url) == 0
    assert "the service starts on this schema" in capsys.readouterr().out
    assert rollback.main(["0001", *url]) == 3
    assert "pending: 0002, 0003, 0004, 0005, 0006, 0007, 0008, 0009, 0010, 0011, 0012" in capsys.readouterr().out
    assert rollback.main(["base", *url]) == 1
    assert "the ledger is never dropped" in capsys.readouterr().err
    assert rollback.main(["nonsense", *url]) == 2
    assert "there is no revision `nonsense`" in capsys.readouterr().err


@pytest.mark.parametrize(("command", "code"), [("apply", 0), ("status", 3), ("rollback", 2)])
def test_as_modules_with_the_setting(dsn, command, code):
    result = subprocess.run(
        [sys.executable, "-m", f"app.migrations.{command}"],
        cwd=REPOSITORY,
        env={"MFW_DATABASE__URL": dsn, "MFW_ENVIRONMENT": "test", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
