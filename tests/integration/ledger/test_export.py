"""From the database of a service into a directory, and from there to an answer, with nothing but the directory."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from app.core.notes import SignerKey
from app.ledger.export import export as export_ledger
from app.ledger.exported import Export
from app.ledger.slices import LedgerDatabase
from app.ledger.verify import Trust
from app.ledger.verify import verify as verify_export
from app.persistence.engine import parse_dsn
from tests.integration.conftest import _cloned
from tests.integration.service import mixed
from tests.integration.service.conftest import apart, running

KEY = SignerKey.of("log.example/test", Ed25519PrivateKey.generate())
SIGNED = {"MFW_LEDGER__ORIGIN": KEY.name, "MFW_LEDGER__SIGNING_KEY": KEY.text}


def mfw(*arguments: str | Path, status: int = 0, **environ: str) -> dict[str, Any]:
    """The command in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "app", "ledger", *map(str, arguments), "--json"],
        env={**os.environ, **environ},
        cwd=mixed.ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == status, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def export(dsn: str, directory: Path, *arguments: str) -> dict[str, Any]:
    return mfw("export", directory, *arguments, MFW_DATABASE__URL=dsn)


def verify(directory: Path, *arguments: str | Path, status: int = 0) -> dict[str, Any]:
    # A database that is named would be no help: there is none at this address.
    return mfw(
        "verify",
        directory,
        "--key",
        KEY.verifier.text,
        *arguments,
        status=status,
        MFW_DATABASE__URL="postgresql://no:1/x",
    )


def codes(found: dict[str, Any]) -> list[tuple[str, int | None]]:
    return [(one["code"], one["index"]) for one in found["findings"]]


async def _value(dsn: str, query: str) -> Any:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


def signed(dsn: str) -> bool:
    """Whether all that is in the ledger is under a checkpoint."""
    query = "SELECT (SELECT max(size) FROM ledger_checkpoints) = (SELECT next_index FROM ledger_head)"
    return bool(apart(_value(dsn, query)))


def settle(dsn: str) -> None:
    """Serve until all that is in the ledger is under a checkpoint."""
    with running(dsn, keys={"key": "", "operator_key": "", "admin_key": ""}, **SIGNED):
        mixed.wait_until(lambda: signed(dsn))


@pytest.fixture(scope="module")
def filled(shared_database_dsn: str) -> str:
    """A ledger with everything in it, all of it under a checkpoint."""
    mixed.fill(shared_database_dsn, times=1, **SIGNED)
    settle(shared_database_dsn)
    return shared_database_dsn


@pytest.fixture
def touched(filled: str, server_dsn: str) -> Iterator[str]:
    """A copy of it, to be changed."""
    yield from _cloned(server_dsn, str(parse_dsn(filled).database))


def tamper(dsn: str, *statements: str) -> None:
    """As a superuser, to whom no trigger applies."""

    async def change() -> None:
        connection = await asyncpg.connect(dsn)
        try:
            async with connection.transaction():
                for table in ("ledger_entries", "ledger_records", "ledger_head", "policy_sets"):
                    await connection.execute(f"ALTER TABLE {table} DISABLE TRIGGER ALL")
                for statement in statements:
                    await connection.execute(statement)
        finally:
            await connection.close()

    apart(change())


def test_exported_verified_and_replayed_elsewhere(filled, tmp_path):
    made = export(filled, tmp_path / "export")
    size = apart(_value(filled, "SELECT next_index FROM ledger_head"))
    assert (made["size"], made["behind"], made["signed"]) == (size, 0, True)
    found = verify(tmp_path / "export")
    assert (found["ok"], found["findings"], found["size"]) == (True, [], size)
    assert found["signers"] == [KEY.name]
    again = mfw("replay", tmp_path / "export", PYTHONHASHSEED="99", TZ="America/St_Johns")
    assert again["ok"], again["differences"]
    assert (again["entries"], again["results"]["differs"]) == (size, 0)

    # Receipts alone: verified all the same, and nothing to be decided again.
    export(filled, tmp_path / "receipts", "--without-records")
    assert verify(tmp_path / "receipts")["findings"] == []
    assert "no records" in mfw("replay", tmp_path / "receipts", status=65)["error"]["detail"]


def test_a_later_export_and_an_erasure(touched, tmp_path):
    directory = tmp_path / "export"
    first = export(touched, directory)
    (tmp_path / "kept").write_bytes((directory / "checkpoint").read_bytes())
    identifier = apart(
        _value(touched, "SELECT id::text FROM ledger_entries WHERE kind = 'decision' ORDER BY idx LIMIT 1")
    )
    with (
        running(touched, keys=None, **SIGNED) as service,
        service.client() as client,
        service.client(key=service.admin_key) as admin,
    ):
        mixed.ask(client, mixed.bodies()[:7])
        answer = admin.post("/v1/ledger/erasures", json={"id": identifier, "reason": "asked for by law"})
        assert answer.status_code in {200, 201}, answer.text
        mixed.wait_until(lambda: signed(touched))
    second = export(touched, directory)
    assert second["since"] == first["size"]
    assert second["size"] >= first["size"] + 8
    found = verify(directory, "--since", tmp_path / "kept")
    # A service from a directory decides under a set that no ledger stores.
    assert {code for code, _ in codes(found)} <= {"policy-set-unstored"}, found
    assert mfw("replay", directory, "--policies", mixed.STARTER, status=1)["results"]["erased"] == 1


TAMPERED: dict[str, tuple[list[str], list[tuple[str, int | None]]]] = {
    "an altered receipt": (
        ["UPDATE ledger_entries SET receipt = overlay(receipt PLACING '9'::bytea FROM 10) WHERE idx = 100"],
        [("entry-altered", 100)],
    ),
    "an altered record": (
        ["UPDATE ledger_records SET record = overlay(record PLACING 'x'::bytea FROM 9) WHERE idx = 101"],
        [("record-altered", 101)],
    ),
    "another salt": (
        ["UPDATE ledger_records SET salt = sha256(salt) WHERE idx = 102"],
        [("salt-altered", 102)],
    ),
    "a record that is gone": (["DELETE FROM ledger_records WHERE idx = 103"], [("record-missing", 103)]),
    "a missing entry": (["DELETE FROM ledger_entries WHERE idx = 104"], [("entry-missing", 104)]),
    "an inserted entry": (
        [
            "ALTER TABLE ledger_entries DROP CONSTRAINT ledger_entries_pkey",
            "UPDATE ledger_entries SET idx = idx + 1 WHERE idx >= 105",
            "UPDATE ledger_records SET idx = idx + 100000 WHERE idx >= 105",
            "UPDATE ledger_records SET idx = idx - 99999 WHERE idx >= 100000",
            (
                "INSERT INTO ledger_entries (idx, id, kind, recorded_at, receipt) SELECT 105, gen_random_uuid(), kind,"
                " recorded_at, overlay(receipt PLACING '9'::bytea FROM 10) FROM ledger_entries WHERE idx = 50"
            ),
            "UPDATE ledger_head SET next_index = next_index + 1",
        ],
        [("entry-inserted", 105)],
    ),
    "two in the other's place": (
        [
            (
                "UPDATE ledger_entries AS one SET receipt = other.receipt FROM ledger_entries AS other"
                " WHERE (one.idx, other.idx) IN ((106, 110), (110, 106))"
            )
        ],
        [("entry-reordered", 106), ("entry-reordered", 110)],
    ),
    "an altered kind": (
        ["UPDATE ledger_entries SET kind = 'vote' WHERE idx = 107"],
        [("column-altered", 107)],
    ),
    "an altered tile": (
        [
            "ALTER TABLE ledger_tiles DISABLE TRIGGER ALL",
            "UPDATE ledger_tiles SET hashes = set_byte(hashes, 40, 255 - get_byte(hashes, 40)) WHERE level = 0 AND idx = 0",
        ],
        [("tile-altered", None)],
    ),
    "an altered policy set": (
        [
            "ALTER TABLE policy_sets DROP CONSTRAINT policy_sets_digest_check",
            "UPDATE policy_sets SET documents = documents || ' '::bytea WHERE number = 1",
        ],
        [("policy-set-altered", 1)],
    ),
    "a truncated table": (
        ["DELETE FROM ledger_entries WHERE idx >= 300", "UPDATE ledger_head SET next_index = 300"],
        [("entry-missing", 300)],
    ),
}


async def _export(dsn: str, directory: Path) -> None:
    source = await LedgerDatabase.open(dsn)
    try:
        await export_ledger(source, directory, now=datetime.now(UTC), engine="test")
    finally:
        await source.close()


def test_each_kind_of_tampering_in_the_database_is_named(filled, server_dsn, tmp_path):
    for number, (name, (statements, expected)) in enumerate(TAMPERED.items()):
        for dsn in _cloned(server_dsn, str(parse_dsn(filled).database)):
            tamper(dsn, *statements)
            directory = tmp_path / str(number)
            apart(_export(dsn, directory))
            result = verify_export(Export.open(directory), trust=Trust(keys=(KEY.verifier,)))
            assert not result.untouched
            found = [(one.code.value, one.index) for one in result.findings.listed]
            assert [one for one in found if one[0] != "list-altered"][: len(expected)] == expected, (name, found)


def test_what_is_no_key(tmp_path):
    usage = mfw("verify", tmp_path, status=2)
    assert "--unsafe-no-key" in usage["error"]["detail"]
    assert "is no key, and no file" in mfw("verify", tmp_path, "--key", "x", status=65)["error"]["detail"]
    (tmp_path / "keys").write_text(f"\n{KEY.verifier.text}\n")
    assert "no whole export" in mfw("verify", tmp_path, "--key", tmp_path / "keys", status=1)["error"]["detail"]


def test_tables_for_people(filled, tmp_path):
    export(filled, tmp_path / "export")
    (tmp_path / "export" / "tile" / "0" / "000").write_bytes(b"")
    done = subprocess.run(
        [sys.executable, "-m", "app", "ledger", "verify", str(tmp_path / "export"), "--key", KEY.verifier.text,
         "--report", str(tmp_path / "report.json")],
        cwd=mixed.ROOT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "tile-missing" in done.stdout
    assert "not untouched" in done.stdout
    assert json.loads((tmp_path / "report.json").read_text())["counts"] == {"tile-missing": 1}
