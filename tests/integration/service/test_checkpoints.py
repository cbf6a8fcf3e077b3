"""A service with a key signs its ledger, serves the checkpoint, and says how it does."""

import json
import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from app.core.merkle import leaf_hash, root_of
from app.core.notes import Checkpoint, Note, SignerKey, open_checkpoint
from tests.integration.service.conftest import health, running

ROOT = Path(__file__).resolve().parents[3]
ALLOWED = json.loads((ROOT / "examples" / "allow-k8s-deployment-scaled.json").read_bytes())
ORIGIN = "firewall.example.com/ledger"


@pytest.fixture(scope="module")
def key() -> SignerKey:
    return SignerKey.of(ORIGIN, Ed25519PrivateKey.generate())


@pytest.mark.parametrize("pooled", [False, True])
def test_decisions_are_under_a_checkpoint_soon(request, database_dsn, key, tmp_path, pooled):
    through = {}
    if pooled:
        pgbouncer = request.getfixturevalue("pgbouncer")
        through = {"MFW_DATABASE__URL": pgbouncer.dsn(database_dsn), "MFW_DATABASE__POOLER": "transaction"}
    signing = {
        "MFW_LEDGER__ORIGIN": ORIGIN,
        "MFW_LEDGER__SIGNING_KEY": key.text,
        "MFW_LEDGER__CHECKPOINT_SECONDS": "0.1",
        "MFW_LEDGER__GUARD_FILE": str(tmp_path / "guard"),
        **through,
    }
    with running(database_dsn, **signing) as service, running(database_dsn, **signing) as other:
        with service.client() as client, other.client() as second:
            indexes = [one.post("/v1/decisions", json=ALLOWED).json()["ledger_index"] for one in (client, second) * 3]
        deadline = time.monotonic() + 60
        with other.client(key=service.operator_key) as reader:
            checkpoint = None
            while checkpoint is None or checkpoint.size <= max(indexes):
                time.sleep(0.02)
                answer = reader.get("/ledger/checkpoint")
                assert time.monotonic() < deadline, answer.text
                # There is none at first.
                if answer.status_code == 200:
                    checkpoint = open_checkpoint(answer.content, keys=[key.verifier]).checkpoint
            told = health(reader, "checkpoints", until="entries signed")
        entries = service.entries()
    assert (tmp_path / "guard").exists()
    assert told["status"] == "healthy"
    leaves = [leaf_hash(receipt) for _, _, receipt in entries[: checkpoint.size]]
    assert (checkpoint.origin, checkpoint.root) == (ORIGIN, root_of(leaves))
    assert sum(b'"act":"introduce-ledger-key"' in receipt for _, _, receipt in entries) == 1


def test_a_service_whose_ledger_lost_entries_is_not_ready(database_dsn, key, tmp_path):
    signing = {
        "MFW_LEDGER__ORIGIN": ORIGIN,
        "MFW_LEDGER__SIGNING_KEY": key.text,
        "MFW_LEDGER__GUARD_FILE": str(tmp_path / "guard"),
    }

    text = Checkpoint(ORIGIN, 1000, bytes(32)).text
    (tmp_path / "guard").write_bytes(Note(text, (key.sign(text),)).serialise())
    with running(database_dsn, **signing) as service, service.client(key=service.operator_key) as reader:
        deadline = time.monotonic() + 60
        while (ready := reader.get("/health/ready").json()).get("reasons") != ["checkpoints is unhealthy"]:
            assert time.monotonic() < deadline, ready
            time.sleep(0.05)
        detail = health(reader, "checkpoints", until="1000 were signed, as the guard file says")["detail"]
        assert "docs/ledger.md" in detail


def test_without_a_key_health_says_so(database_dsn):
    with running(database_dsn) as service, service.client(key=service.operator_key) as reader:
        component = reader.get("/health/detailed").json()["components"]["checkpoints"]
        assert component["status"] == "healthy"
        assert component["detail"].startswith("no signing key")
        assert reader.get("/ledger/checkpoint").status_code == 404
