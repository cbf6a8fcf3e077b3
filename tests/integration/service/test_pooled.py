"""The service behind PgBouncer in transaction mode: it decides, and hears of what changed by asking."""

import json
import time
from pathlib import Path

import pytest

from app.errors import FirewallError, Kind
from app.settings import Settings
from tests.integration.service.conftest import running

ROOT = Path(__file__).resolve().parents[3]
ALLOWED = json.loads((ROOT / "examples" / "allow-k8s-deployment-scaled.json").read_bytes())


def test_it_decides_and_hears_of_switches_and_keys(pgbouncer, database_dsn):
    through = {"MFW_DATABASE__URL": pgbouncer.dsn(database_dsn), "MFW_DATABASE__POOLER": "transaction"}
    with running(database_dsn, **through) as service, running(database_dsn, **through) as replica:
        with service.client() as client, replica.client() as other:
            first = client.post("/v1/decisions", json=ALLOWED).json()
            assert (first["decision"], first["ledger_index"]) == ("allow", 0)
            batch = other.post("/v1/decisions:batch", json={"mutations": [ALLOWED] * 20})
            assert [one["ledger_index"] for one in batch.json()["results"]] == list(range(1, 21))
            keyed = [
                client.post("/v1/decisions", json=ALLOWED, headers={"Idempotency-Key": '"once"'}) for _ in range(2)
            ]
            assert keyed[0].content == keyed[1].content
            assert keyed[1].headers["Idempotency-Replayed"] == "true"
        with service.client(key=service.admin_key) as admin:
            deadline = time.monotonic() + 60
            while (told := admin.get("/health/detailed").json())["status"] != "healthy":
                assert time.monotonic() < deadline, told
                time.sleep(0.05)
            thrown = admin.post("/v1/switches", json={"kind": "deny-all", "reason": "a test", "for": "10m"})
            assert thrown.status_code == 201, thrown.text
        deadline = time.monotonic() + 60
        with replica.client() as other:
            while other.post("/v1/decisions", json=ALLOWED).json()["decision"] != "deny":
                assert time.monotonic() < deadline
                time.sleep(0.05)
        entries = service.entries()
    assert [index for index, _, _ in entries] == list(range(len(entries)))


def test_a_command_that_needs_a_session_says_so_unless_it_is_given_one():
    environ = {"MFW_DATABASE__URL": "postgresql://u@/d?host=/pooler", "MFW_DATABASE__POOLER": "transaction"}
    pooled = Settings.load(environ, rules_for={"database"}).database
    assert pooled.session_url is None
    with pytest.raises(FirewallError) as caught:
        pooled.command_url()
    assert caught.value.kind is Kind.INVALID_SETTINGS
    assert "MFW_DATABASE__DIRECT_URL" in str(caught.value.fix)
    given = environ | {"MFW_DATABASE__DIRECT_URL": "postgresql://u@/d?host=/direct"}
    database = Settings.load(given, rules_for={"database"}).database
    assert database.command_url() == database.session_url == "postgresql://u@/d?host=/direct"
    plain = Settings.load({"MFW_DATABASE__URL": "postgresql://u@/d?host=/x"}, rules_for={"database"}).database
    assert plain.command_url() == plain.session_url == "postgresql://u@/d?host=/x"
    assert not plain.pooled
