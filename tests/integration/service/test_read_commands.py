"""`mfw decisions` and `mfw ledger proof|erase` against a service that signs its checkpoints."""

import json
import time
from datetime import datetime

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner

from app.cli import app, recorded
from app.cli.client import Service
from app.cli.exits import ExitCode
from app.cli.output import Refused
from app.core.notes import LogProof, SignerKey

ORIGIN = "log.example.com/ledger"
KEY = SignerKey.of(ORIGIN, Ed25519PrivateKey.from_private_bytes(bytes(32)))
OTHER = SignerKey.of(ORIGIN, Ed25519PrivateKey.from_private_bytes(bytes([1]) * 32))
GOOD = {
    "subject": {"type": "agent", "id": "deploy-bot"},
    "action": {"name": "update"},
    "resource": {"type": "apps/Deployment", "id": "prod/checkout"},
    "change": {"before": {"spec": {"replicas": 3}}, "after": {"spec": {"replicas": 4}}},
    "rationale": "a \x1b[31mred\x1b[0m one",
}


@pytest.fixture(scope="module")
def service(shared_database_dsn):
    from tests.integration.service.conftest import running

    with running(shared_database_dsn, MFW_LEDGER__ORIGIN=ORIGIN, MFW_LEDGER__SIGNING_KEY=KEY.text) as started:
        yield started


@pytest.fixture
def made(service):
    with service.client() as client:
        return client.post("/v1/decisions", json=GOOD).json()


@pytest.fixture
def mfw(service):
    def run(*arguments, key=None):
        environ = {"MFW_URL": service.url, "MFW_API_KEY": key or service.admin_key, "COLUMNS": "200"}
        return CliRunner().invoke(app, list(map(str, arguments)), env=environ)

    return run


@pytest.fixture
def proved(mfw, made):
    """The arguments that prove an entry which is under a checkpoint by now."""
    deadline = time.monotonic() + 60
    while (outcome := mfw("ledger", "proof", made["ledger_index"])).exit_code == ExitCode.TRY_AGAIN:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert outcome.exit_code == 0, outcome.output
    return ("ledger", "proof", made["ledger_index"])


def test_a_decision_is_shown(mfw, made):
    shown = mfw("decisions", "show", made["id"])
    assert shown.exit_code == 0, shown.output
    for text in (
        made["id"],
        "agent:deploy-bot",
        "apps/Deployment:prod/checkout",
        made["reasons"][0]["message"],
        "kept",
    ):
        assert text in shown.stdout
    assert "\x1b" not in shown.stdout
    read = json.loads(mfw("decisions", "show", made["id"], "--json").stdout)
    assert read["receipt_hash"] == made["receipt_hash"]


def test_what_is_not_there_is_told(mfw):
    shown = mfw("decisions", "show", "5f0c6b0e-8d1f-4c59-9f8a-1c2d3e4f5a6b")
    assert shown.exit_code == ExitCode.FAILED
    assert "there is no decision" in shown.stderr


def test_decisions_are_listed(mfw, made):
    deadline = time.monotonic() + 60
    arguments = ("decisions", "list", "--subject", "agent:deploy-bot", "--since", "1h", "--json")
    while made["id"] not in (found := mfw(*arguments).stdout):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert json.loads(found)["items"][0]["id"] == made["id"]
    listed = mfw("decisions", "list", "--decision", made["decision"], "--until", "2200-01-01T00:00:00Z")
    assert made["id"] in listed.stdout
    none = mfw("decisions", "list", "--action", "nothing")
    assert (none.exit_code, none.stdout) == (0, "no decision fits\n")


def test_more_than_a_page_is_fetched(mfw, made, monkeypatch):
    monkeypatch.setattr(recorded, "PAGE", 1)
    with_another = json.loads(mfw("decisions", "list", "--json", "--limit", "1").stdout)
    assert len(with_another["items"]) == 1
    everything = json.loads(mfw("decisions", "list", "--json").stdout)
    assert len({one["id"] for one in everything["items"]}) == len(everything["items"]) >= 1
    if len(everything["items"]) > 1:
        assert "there are more" in mfw("decisions", "list", "--limit", "1").stderr


@pytest.mark.parametrize("text", ["yesterday", "2026-01-01T00:00:00", "2026"])
def test_a_time_that_is_none_is_told(mfw, text):
    outcome = mfw("decisions", "list", "--since", text)
    assert outcome.exit_code == ExitCode.USAGE
    assert "is no time" in outcome.stderr


def test_a_duration_is_so_long_ago():
    ago = datetime.fromisoformat(recorded._moment("24h", "since"))
    assert 86_390 < (datetime.now(ago.tzinfo) - ago).total_seconds() < 86_500


def test_a_proof_is_verified_here(mfw, proved, tmp_path):
    said = mfw(*proved)
    assert "give --key" in said.stdout
    said = mfw(*proved, "--key", KEY.verifier.text)
    assert f"signed by {ORIGIN}" in said.stdout
    file, public = tmp_path / "entry.tlog-proof", tmp_path / "ledger.key.pub"
    public.write_text(KEY.verifier.text + "\n")
    told = json.loads(mfw(*proved, "--key", public, "--out", file, "--json").stdout)
    assert told["signed_by"] == ORIGIN
    assert LogProof.parse(file.read_bytes()).index == proved[2]
    wrong = mfw(*proved, "--key", OTHER.verifier.text)
    assert wrong.exit_code == ExitCode.BAD_DATA
    assert mfw(*proved, "--key", "nonsense").exit_code == ExitCode.BAD_DATA


def test_a_proof_without_a_checkpoint(mfw, proved, tmp_path, monkeypatch):
    told = json.loads(mfw(*proved, "--json").stdout)
    asked = Service.ask

    def without(self, path, body=None):
        answer = asked(self, path, body)
        answer.pop("checkpoint", None)
        return answer

    monkeypatch.setattr(Service, "ask", without)
    assert "give --key" not in mfw(*proved, "--size", told["size"]).stdout
    for more in (("--key", KEY.verifier.text), ("--out", tmp_path / "x")):
        assert mfw(*proved, *more).exit_code == ExitCode.FAILED


@pytest.mark.parametrize(
    "change",
    [
        {"root": "AAAA"},
        {"hashes": ["AAAA"] * 3},
        {"hashes": 7},
        {"size": "many"},
        {"bytes": {"receipt": "e30="}},
        {"checkpoint": f"{ORIGIN}\n1\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n\n\N{EM DASH} x AAAAAQIDBAU=\n"},
    ],
)
def test_what_does_not_hold_is_not_believed(mfw, proved, monkeypatch, change):
    asked = Service.ask
    monkeypatch.setattr(Service, "ask", lambda self, path, body=None: asked(self, path, body) | change)
    assert mfw(*proved).exit_code == ExitCode.BAD_DATA


def test_a_key_file_that_cannot_be_read(tmp_path, monkeypatch):
    file = tmp_path / "key"
    file.write_bytes(b"\xff")
    with pytest.raises(Refused) as caught:
        recorded._verifier(str(file))
    assert caught.value.code is ExitCode.NO_INPUT


def test_a_record_is_erased(service, mfw, made):
    asked = mfw("ledger", "erase", made["id"], "--reason", "request 4711")
    assert asked.exit_code == 1  # nobody said yes
    denied = mfw("ledger", "erase", made["id"], "--reason", "r", "--yes", key=service.operator_key)
    assert denied.exit_code == ExitCode.NOT_PERMITTED
    done = mfw("ledger", "erase", made["id"], "--reason", "request 4711", "--yes")
    assert done.exit_code == 0, done.output
    assert f"the record of entry {made['ledger_index']} was erased" in done.stdout
    again = json.loads(mfw("ledger", "erase", made["id"], "--reason", "other", "--json").stdout)
    assert again["erasure"]["reason"] == "request 4711"
    shown = mfw("decisions", "show", made["id"]).stdout
    assert "erased at" in shown
    assert "deploy-bot" not in shown


def test_erasing_leaves_the_proof(service, mfw, proved, made):
    assert mfw("ledger", "erase", made["id"], "--reason", "r", "--yes").exit_code == 0
    assert "signed by" in mfw(*proved, "--key", KEY.verifier.text).stdout


def test_an_address_where_nobody_is():
    outcome = CliRunner().invoke(app, ["decisions", "list", "--url", "http://127.0.0.1:9"])
    assert outcome.exit_code == ExitCode.UNREACHABLE
