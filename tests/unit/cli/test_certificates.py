"""`mfw kubernetes certificates` at the terminal."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from typer.testing import CliRunner

from app.cli import app
from app.cluster.certificates import Act, Done, Outcome
from app.errors import FirewallError, Kind


def certificates(*arguments):
    return CliRunner().invoke(app, ["kubernetes", "certificates", *arguments])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--service", "firewall"], "is no Service"),
        (["--server", "https://a"], "needs an address, a token and an authority"),
        (["--days", "0.01"], "shorter than the time to settle"),
    ],
)
def test_what_cannot_be_meant(arguments, words):
    result = certificates(*arguments)
    assert result.exit_code == 2
    assert words in result.stderr


def test_outside_of_a_pod_somebody_has_to_say_where(monkeypatch):
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    result = certificates()
    assert result.exit_code == 78
    assert "this is no pod" in result.stderr


def test_what_was_done_is_said(monkeypatch):
    calls = []

    class Keeper:
        def __init__(self, _api, **given):
            calls.append(given)

        async def keep(self):
            when = datetime(2027, 2, 20, tzinfo=UTC)
            return Outcome((Done(Act.MADE, "n/s"),), ("mutation-firewall",), when, when - timedelta(days=30))

    monkeypatch.setattr("app.cli.certificates.CertificateKeeper", Keeper)
    given = [
        "--server",
        "https://a",
        "--token-file",
        "t",
        "--server-ca-file",
        "c",
        "--service",
        "n/s",
        "--name",
        "x",
    ]
    result = certificates(*given)
    assert result.exit_code == 0
    assert result.stdout == (
        "made the first certificate: n/s\nvalid until 2027-02-20T00:00:00Z, next look due 2027-01-21T00:00:00Z\n"
    )
    assert "there is no webhook configuration `mutation-firewall`" in result.stderr
    assert calls[0]["secret"] == "s-tls"
    assert calls[0]["terms"].names == ("s.n.svc", "s.n.svc.cluster.local", "s.n", "s", "x")
    as_json = json.loads(certificates(*given, "--dry-run", "--json").stdout)
    assert (as_json["done"], as_json["dry_run"]) == ([{"act": "made", "what": "n/s"}], True)
    certificates(*given, "--no-webhook")
    certificates(*given, "--webhook", "b", "--webhook", "c")
    assert [list(call["configurations"]) for call in calls] == [["mutation-firewall"]] * 2 + [[], ["b", "c"]]
    both = certificates(*given, "--no-webhook", "--webhook", "b")
    assert (both.exit_code, len(calls)) == (2, 4)
    assert "leave one of the two options out" in both.stderr


def test_a_watch_goes_on_while_the_api_server_is_away(monkeypatch):
    looks = []

    class Keeper:
        def __init__(self, _api, **_given):
            pass

        async def keep(self):
            looks.append(1)
            if len(looks) == 1:
                raise FirewallError(Kind.UNAVAILABLE, "away")
            if len(looks) == 3:
                raise FirewallError(Kind.FORBIDDEN, "not any more")
            now = datetime.now(UTC)
            return Outcome((), (), now + timedelta(days=1), now)

    monkeypatch.setattr("app.cli.certificates.CertificateKeeper", Keeper)
    given = ["--server", "https://a", "--token-file", "t", "--server-ca-file", "c"]
    result = certificates(*given, "--watch", "--every-seconds", "0.1")
    assert (result.exit_code, len(looks)) == (77, 3)
    assert "away" in result.stderr
