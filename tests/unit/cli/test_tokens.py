"""`mfw tokens rotate`: followed step by step, no good token is ever refused."""

import json
import os
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from jose import jwt
from typer.testing import CliRunner

from app.bootstrap import _token_keys
from app.cli import app
from app.edge.authn import JwtVerifier
from app.edge.authn.rejected import RejectedError
from app.observability.metrics import Metrics
from app.settings import Settings, weakness

OLD = "q3ZBv8nTyX1kLw7RfD5sGh2JmC9pKe4A"
NAME = "MFW_AUTH__JWT__"
HMAC = {
    "MFW_ENVIRONMENT": "production",
    f"{NAME}ENABLED": "true",
    f"{NAME}ALGORITHMS": "HS256",
    f"{NAME}ISSUER": "https://idp.example.com",
    f"{NAME}AUDIENCE": "mfw",
    f"{NAME}SECRET": OLD,
    f"{NAME}SECRET_ID": "old",
}


@pytest.fixture
def run(monkeypatch):
    for name in [name for name in os.environ if name.startswith("MFW_")]:
        monkeypatch.delenv(name)

    def run(*arguments: str, environment: str = "production", **changes: str) -> Any:
        environ = {
            **HMAC,
            "MFW_ENVIRONMENT": environment,
            **{f"{NAME}{name}": value for name, value in changes.items()},
        }
        return CliRunner().invoke(app, ["tokens", "rotate", *arguments], env=environ)

    return run


def test_the_steps(run):
    before = datetime.now(UTC)
    result = run("--json", "--lifetime-minutes", "30", "--switch-hours", "2")
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    first, second, third = answer["steps"]
    assert weakness(answer["secret"]) is None
    assert len(answer["secret"]) == 64
    assert OLD not in result.output
    until = datetime.fromisoformat(first["set"][f"{NAME}PREVIOUS_SECRET_UNTIL"])
    assert timedelta(0) <= until - before - timedelta(hours=2, minutes=30, seconds=9) <= timedelta(minutes=1)
    assert first["set"][f"{NAME}PREVIOUS_SECRET_ID"] == "old"
    assert first["set"][f"{NAME}SECRET_ID"] in second["do"]
    assert sorted(third["unset"]) == [
        f"{NAME}PREVIOUS_SECRET",
        f"{NAME}PREVIOUS_SECRET_ID",
        f"{NAME}PREVIOUS_SECRET_UNTIL",
    ]


def test_who_follows_them_refuses_no_good_token(run):
    answer = json.loads(run("--json").stdout)
    wanted = answer["steps"][0]["set"]
    after = {
        **HMAC,
        **wanted,
        f"{NAME}SECRET": answer["secret"],
        f"{NAME}PREVIOUS_SECRET": OLD,
    }
    loaded = Settings.load(after, rules_for={"auth"}).auth.jwt
    keys = _token_keys(loaded, Metrics(version="0"))
    assert keys is not None
    verifier = JwtVerifier(keys, issuer="https://idp.example.com", audience="mfw")

    def accepted(secret: str, kid: str, at: datetime) -> bool:
        now = at.timestamp()
        claims = {"iss": "https://idp.example.com", "aud": "mfw", "sub": "a", "iat": now, "nbf": now, "exp": now + 60}
        token = jwt.encode(claims, secret, algorithm="HS256", headers={"kid": kid})
        try:
            verifier.verify(token.encode(), now=now)
        except RejectedError:
            return False
        return True

    now = datetime.now(UTC)
    until = datetime.fromisoformat(wanted[f"{NAME}PREVIOUS_SECRET_UNTIL"])
    assert accepted(OLD, "old", now)
    assert accepted(answer["secret"], wanted[f"{NAME}SECRET_ID"], now)
    assert accepted(OLD, "old", until - timedelta(seconds=1))
    assert not accepted(OLD, "old", until)
    assert accepted(answer["secret"], wanted[f"{NAME}SECRET_ID"], until)


def test_for_people_the_secret_alone_is_the_output(run):
    result = run(ALGORITHMS="HS512", SECRET=OLD + OLD[::-1], SECRET_ID="")
    assert result.exit_code == 0
    assert len(result.stdout.strip()) == 128
    for line in ("1. set these", "2. then, before", "3. after", "unset MFW_AUTH__JWT__PREVIOUS_SECRET", "leaked"):
        assert line in result.stderr
    assert "<empty, as now>" in result.stderr
    assert OLD not in result.output


@pytest.mark.parametrize(
    ("changes", "code", "says"),
    [
        ({"ENABLED": "false"}, 78, "tokens are off"),
        ({"ALGORITHMS": "RS256", "SECRET": ""}, 78, "public keys"),
        (
            {"PREVIOUS_SECRET": "x8CvB2nM5kL9pQ4rT7wY1zA6dF3gH0jS", "PREVIOUS_SECRET_UNTIL": "2999-01-01T00:00:00Z"},
            1,
            "until 2999-01-01T00:00:00Z",
        ),
        ({"SECRET": "short"}, 78, "is shorter than 32 bytes"),
    ],
)
def test_when_there_is_nothing_to_rotate(run, changes, code, says):
    result = run(**changes)
    assert result.exit_code == code
    assert says in result.output
    assert "1. set these" not in result.output


@pytest.mark.parametrize(("environment", "code"), [("production", 78), ("development", 1)])
def test_an_endless_rotation_is_to_be_ended_first(run, environment, code):
    """Production refuses the settings themselves; elsewhere the command does."""
    result = run(environment=environment, PREVIOUS_SECRET="x8CvB2nM5kL9pQ4rT7wY1zA6dF3gH0jS")
    assert result.exit_code == code
    assert code == 78 or "until somebody ends it" in result.output


def test_a_rotation_that_ended_is_no_obstacle(run):
    result = run(PREVIOUS_SECRET="x8CvB2nM5kL9pQ4rT7wY1zA6dF3gH0jS", PREVIOUS_SECRET_UNTIL="2026-01-01T00:00:00Z")
    assert result.exit_code == 0
