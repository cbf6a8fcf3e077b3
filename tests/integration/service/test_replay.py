"""Replay: what two replicas decided comes out again, elsewhere, byte for byte; and what was touched is found."""

import json
import os
import subprocess
import sys
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from app.cli.auditing.replaying import Shard, Work, to_json
from app.cli.auditing.replaying import replay as run
from app.cli.auditing.sources import Place
from app.errors import FirewallError
from app.persistence.engine import parse_dsn
from tests.integration.conftest import _cloned
from tests.integration.service import mixed
from tests.integration.service.conftest import apart, running


def replay(dsn: str, *arguments: str, status: int = 0, **environ: str) -> dict[str, Any]:
    """Another process, with another hash seed and time zone."""
    done = subprocess.run(
        [sys.executable, "-m", "app", "ledger", "replay", "--json", *arguments],
        env={**os.environ, "MFW_DATABASE__URL": dsn, "PYTHONHASHSEED": "7", "TZ": "Asia/Kolkata", **environ},
        cwd=mixed.ROOT,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == status, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def filled(shared_database_dsn):
    """A database whose ledger has everything in it."""
    mixed.fill(shared_database_dsn, times=2)
    return shared_database_dsn


@pytest.fixture
def touched(filled, server_dsn):
    """A copy of it, to be changed."""
    yield from _cloned(server_dsn, str(parse_dsn(filled).database))


def test_everything_comes_out_again(filled, tmp_path):
    report = tmp_path / "report.json"
    found = replay(filled, "--workers", "2", "--report", str(report))
    assert json.loads(report.read_text()) == found
    assert found["ok"], found["differences"]
    assert found["workers"] == 2
    results = found["results"]
    assert results["agrees"] > 1000
    # Activations and switches.
    assert results["checked"] == 5 + 2 + 4
    # What a mask took out and no rule read does no harm; where a rule reads it nobody can tell.
    assert results["masked"] > 0
    told = results["agrees"] + results["checked"] + results["masked"]
    assert sum(results.values()) == told == found["entries"] == found["to"]
    assert found["flips"] == []


def here(dsn: str, **options: Any) -> dict[str, Any]:
    """In this process: starting one takes seconds."""
    work = Work(Place(dsn=dsn), options.pop("policies", ()), timedelta(minutes=1))
    return to_json(run(work, **{"start": 0, "end": None, "shard": Shard(), "workers": 1, **options}))


def test_shards_share_the_work(filled):
    parts = [here(filled, start=100, end=1100, shard=Shard(number, 2)) for number in (0, 1)]
    assert [one["entries"] for one in parts] == [412 + 76, 512]
    assert all(one["ok"] for one in parts)


def test_more_than_there_is(filled):
    with pytest.raises(FirewallError, match="there is nothing from"):
        here(filled, end=100_000_000)


def tamper(dsn: str, *statements: str) -> None:
    """As a superuser who turns every guard off."""

    async def change() -> None:
        connection = await asyncpg.connect(dsn)
        try:
            async with connection.transaction():
                for table in ("ledger_entries", "ledger_records", "policy_set_activations"):
                    await connection.execute(f"ALTER TABLE {table} DISABLE TRIGGER ALL")
                for statement in statements:
                    await connection.execute(statement)
        finally:
            await connection.close()

    apart(change())


def test_what_was_touched_is_found(touched):
    def last(condition: str) -> int:
        return apart(_value(touched, f"SELECT max(idx) FROM ledger_entries WHERE {condition}"))

    allowed = last("kind = 'decision' AND position('\"decision\":\"allow\"'::bytea IN receipt) > 0")
    activation = last("kind = 'activation'")
    tamper(
        touched,
        f"UPDATE ledger_records SET record = overlay(record PLACING 'x'::bytea FROM 20) WHERE idx = {allowed}",
        "UPDATE ledger_entries SET receipt = overlay(receipt PLACING '9'::bytea FROM 10) WHERE idx = 7",
        "DELETE FROM ledger_records WHERE idx = 8",
        "DELETE FROM ledger_entries WHERE idx = 9",
        "UPDATE ledger_entries SET kind = 'vote' WHERE idx = 10",
        f"DELETE FROM policy_set_activations WHERE ledger_index = {activation}",
    )
    found = replay(touched, "--workers", "2", status=1)
    faults = {one["index"]: one["fault"] for one in found["differences"]}
    assert {index: faults[index] for index in (7, 8, 9, 10, activation, allowed)} == {
        7: "seal",
        8: "record-missing",
        9: "missing",
        10: "receipt",
        activation: "activation",
        allowed: "record",
    }
    # The deciding policy set is that of an activation which is not listed any more: said as well.
    assert set(found["faults"]) <= {
        "seal",
        "record-missing",
        "missing",
        "receipt",
        "activation",
        "record",
        "not-in-force",
    }


async def _value(dsn: str, query: str) -> int:
    connection = await asyncpg.connect(dsn)
    try:
        return int(await connection.fetchval(query))
    finally:
        await connection.close()


def test_policies_of_a_directory(database_dsn):
    with running(database_dsn) as service, service.client() as client:
        mixed.ask(client, mixed.bodies()[:5])
    lacking = here(database_dsn)
    assert lacking["faults"] == {"policy-set": 5}
    assert "--policies" in lacking["differences"][0]["detail"]
    assert here(database_dsn, policies=(mixed.STARTER,))["results"]["agrees"] == 5


def test_a_ledger_of_nothing(database_dsn):
    assert here(database_dsn)["entries"] == 0
