"""Each check finds what was broken, and nothing else; a database with some of everything in it is clean."""

import asyncio
import re
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from ruamel.yaml import YAML

from app.core.integrity import IntegrityCheck, Severity
from app.core.months import Month
from app.core.notes import SignerKey
from app.errors import FirewallError, Kind
from app.ops import integrity, structure
from app.ops.entries import SLICE
from app.ops.integrity import Wanted, run
from app.persistence import operation_runs
from app.persistence.engine import create_engine, parse_dsn
from app.persistence.operation_runs import Operation, OperationRuns, Outcome

NOW = Month.of(datetime.now(UTC))
THIS_MONTH = f"ledger_records_{NOW.suffix}"
FAST = Wanted(pace=1.0, record=False)


async def found(dsn, wanted=FAST):
    return {one.check: one.count for one in (await run(dsn, wanted)).findings}


async def test_some_of_everything_is_clean(mixed_dsn):
    steps = []
    report = await run(mixed_dsn, FAST, progress=lambda done, total: steps.append((done, total)))
    assert report.findings == ()
    assert report.clean
    assert report.entries == report.looked_at == 310
    assert steps == [(310, 310)]


async def test_an_empty_database_is_clean(database_dsn):
    report = await run(database_dsn, Wanted(pace=1.0))
    assert (report.findings, report.entries) == ((), 0)


BROKEN = YAML(typ="safe", pure=True).load((Path(__file__).parent / "broken.yaml").read_text())
NAMES = {"this_month": THIS_MONTH, **{f"month_{count}": NOW.after(count).suffix for count in range(4)}}


@pytest.mark.parametrize("case", BROKEN, ids=lambda case: case["name"])
async def test_what_is_broken_is_found(mixed_dsn, hands, case):
    statements = [re.sub(r"\{(\w+)\}", lambda name: NAMES.get(name[1], name[0]), one) for one in case["do"]]
    await hands.tamper(*statements)
    report = await run(mixed_dsn, FAST)
    assert {one.check.value: one.count for one in report.findings} == case["finds"], report.findings
    assert all(one.examples and one.fix for one in report.findings)


async def test_the_guards_are_all_known(mixed_dsn, hands):
    rows = await hands.connection.fetch(structure._TRIGGERS)
    assert {
        (row["on_table"], row["name"]) for row in rows if "_2" not in row["on_table"] and "_rest" not in row["on_table"]
    } == structure.TRIGGERS
    assert {row["function"]: row["body"] for row in rows} == structure.FUNCTIONS


async def test_rows_in_the_default_partition_and_their_repair(mixed_dsn, hands):
    # Nobody made a partition for this month.
    await hands.tamper(
        f"CREATE TABLE kept AS SELECT * FROM {THIS_MONTH}",
        f"DROP TABLE {THIS_MONTH}",
        "INSERT INTO ledger_records SELECT * FROM kept",
        "DROP TABLE kept",
    )
    assert await found(mixed_dsn) == {IntegrityCheck.PARTITIONS: 2}
    report = await run(mixed_dsn, Wanted(pace=1.0, record=False, repair=True))
    (finding,) = report.findings
    assert finding.repaired == "made 1 partitions, moved 309 rows"
    assert await found(mixed_dsn) == {}


async def test_what_can_be_repaired_is(mixed_dsn, hands):
    await hands.tamper(
        "ALTER TABLE ledger_entries DISABLE TRIGGER append_only",
        "ALTER TABLE ledger_head ENABLE TRIGGER grows",
        "UPDATE idempotency_keys SET expires_at = now() - interval '2 days'",
        "INSERT INTO idempotency_keys SELECT sha256(n::text::bytea), sha256(''), '', now() - interval '2 days'"
        " FROM generate_series(1, 2500) AS n",
        "UPDATE ledger_records SET record = '' WHERE idx = 5",
    )
    assert await found(mixed_dsn) == {
        IntegrityCheck.TRIGGERS: 2,
        IntegrityCheck.EXPIRED: 2501,
        IntegrityCheck.RECORDS: 1,
    }
    # Looking changed nothing.
    report = await run(mixed_dsn, Wanted(pace=1.0, repair=True))
    assert [(one.check, one.repaired) for one in report.findings] == [
        (IntegrityCheck.RECORDS, None),
        (IntegrityCheck.TRIGGERS, "enabled 2 triggers"),
        (IntegrityCheck.EXPIRED, "swept 2501 rows"),
    ]
    assert report.findings[0].severity is Severity.CRITICAL
    # The log is never repaired.
    assert await found(mixed_dsn) == {IntegrityCheck.RECORDS: 1}


async def test_the_index_for_searches_is_made_again(mixed_dsn, hands):
    everything = "SELECT * FROM ledger_search ORDER BY idx"
    before = await hands.connection.fetch(everything)
    await hands.tamper(
        "DELETE FROM ledger_search WHERE idx = 5",
        "UPDATE ledger_search SET decision = 'deny' WHERE idx = 6",
        "UPDATE ledger_search SET idx = 7 WHERE idx = 8",
    )
    (finding,) = (await run(mixed_dsn, Wanted(pace=1.0, record=False, repair=True))).findings
    assert (finding.count, finding.repaired) == (4, "indexed 4 entries again")
    assert await found(mixed_dsn) == {}
    assert await hands.connection.fetch(everything) == before


async def test_a_month_that_is_archived_is_not_missed(mixed_dsn, hands):
    await hands.tamper(f"ALTER TABLE ledger_records DETACH PARTITION {THIS_MONTH}")
    assert await found(mixed_dsn) == {
        IntegrityCheck.PARTITIONS: 2,
        IntegrityCheck.RECORDS: 309,
        IntegrityCheck.SEARCH: 299,
    }
    await hands.tamper(
        f"INSERT INTO ledger_archives SELECT 5, gen_random_uuid(), '{THIS_MONTH}', '{NOW.starts}', '{NOW.ends}',"
        " 0, 4, 5, 'f', 1, sha256(''), 'me', now()"
    )
    # What is left is that the ledger says nothing of it, and that this month has no partition.
    assert await found(mixed_dsn) == {IntegrityCheck.PARTITIONS: 1, IntegrityCheck.ARCHIVES: 1}


async def test_another_schema_is_all_that_is_said(mixed_dsn, hands):
    await hands.connection.execute("UPDATE alembic_version SET version_num = '9999'")
    assert await found(mixed_dsn) == {IntegrityCheck.SCHEMA: 1}


def test_a_sample_is_drawn_again_from_its_seed():
    slices = integrity._slices(1000 * SLICE + 1, sample=10, seed=7)
    assert 60 < len(slices) < 140
    assert slices[0] == 0
    # The newest entries always, and what was drawn does not change when some are added.
    assert slices[-1] == 1000 * SLICE
    assert integrity._slices(2000 * SLICE, sample=10, seed=7)[: len(slices) - 1] == slices[:-1]
    assert integrity._slices(1000 * SLICE, sample=10, seed=8) != slices[:-1]
    assert len(integrity._slices(1000 * SLICE, sample=100, seed=8)) == 1000
    assert integrity._slices(2 * SLICE, sample=1, seed=8) == [0, SLICE]
    assert integrity._slices(0, sample=1, seed=8) == []


async def test_a_sample_misses_no_key_for_an_entry_that_was_not_drawn(mixed_dsn, monkeypatch):
    monkeypatch.setattr(integrity, "_slices", lambda *_, **__: [0])
    report = await run(mixed_dsn, Wanted(sample=20, pace=1.0, record=False))
    assert report.clean
    assert report.seed is not None


class StopHereError(Exception):
    pass


async def test_an_interrupted_run_is_resumed(mixed_dsn, hands, monkeypatch):
    monkeypatch.setattr(integrity, "SLICE", 256)
    monkeypatch.setattr(integrity, "_SAVED_EVERY", 0.0)
    await hands.tamper("UPDATE ledger_records SET record = '' WHERE idx IN (5, 309)", "DELETE FROM idempotency_keys")
    seen = []

    def interrupt(done, total):
        seen.append((done, total))
        if len(seen) == 2:
            raise StopHereError

    with pytest.raises(StopHereError):
        await run(mixed_dsn, Wanted(pace=1.0), progress=interrupt)
    engine = create_engine(mixed_dsn)
    try:
        interrupted = await OperationRuns(engine).unfinished(Operation.INTEGRITY)
        assert interrupted is not None
        assert (interrupted.position, interrupted.issues["records"]) == (256, 1)
        report = await run(mixed_dsn, Wanted(pace=1.0, resume=True), progress=interrupt)
        assert report.resumed_at == 256
        assert [(one.check, one.count, len(one.examples)) for one in report.findings] == [
            (IntegrityCheck.RECORDS, 2, 2)
        ]
        assert report.looked_at == 310
        assert await OperationRuns(engine).unfinished(Operation.INTEGRITY) is None
        latest = await OperationRuns(engine).latest()
        assert (latest.issues["records"], latest.issues["gaps"], latest.backup_at) == (2, 0, None)
        assert latest.integrity_at is not None
        # With nothing to resume it begins anew.
        assert (await run(mixed_dsn, Wanted(pace=1.0, resume=True))).resumed_at is None
    finally:
        await engine.dispose()


async def test_it_can_only_read(mixed_dsn, hands):
    await hands.connection.execute("CREATE ROLE auditor LOGIN PASSWORD 'secret'; GRANT pg_read_all_data TO auditor")
    try:
        dsn = parse_dsn(mixed_dsn).set(drivername="postgresql", username="auditor", password="secret")
        assert await found(dsn.render_as_string(hide_password=False)) == {}
    finally:
        await hands.connection.execute("DROP ROLE auditor")


async def test_writers_go_on_meanwhile(mixed_dsn, decide, monkeypatch):
    monkeypatch.setattr(integrity, "SLICE", 256)

    async def write():
        for number in range(20):
            await decide(mixed_dsn, number)

    report, _ = await asyncio.gather(run(mixed_dsn, FAST), write())
    assert report.clean


@pytest.mark.parametrize("wanted", [Wanted(sample=0), Wanted(sample=101), Wanted(pace=0), Wanted(pace=2)])
async def test_what_makes_no_sense_is_refused(wanted):
    with pytest.raises(FirewallError, match="percentage"):
        await run("postgresql://u@/d?host=/nowhere", wanted)


@pytest.mark.parametrize("wanted", [FAST, Wanted()])
async def test_a_database_that_is_away_is_told(wanted):
    with pytest.raises(FirewallError) as caught:
        await run("postgresql://u@/d?host=/nowhere", wanted)
    assert caught.value.kind is Kind.UNAVAILABLE


async def test_old_runs_are_forgotten(database_dsn, monkeypatch):
    monkeypatch.setattr(operation_runs, "KEPT", 3)
    engine = create_engine(database_dsn)
    try:
        runs = OperationRuns(engine)
        made = [await runs.begin(Operation.BACKUP, details={}) for _ in range(5)]
        await runs.finish(made[-1].id, Outcome.FAILED, details={})
        assert (await runs.latest()).backup_at is None
        again = await runs.begin(Operation.BACKUP, details={})
        await runs.finish(again.id, Outcome.OK, details={"name": "x"})
        assert (await runs.latest()).backup_at is not None
        async with engine.connect() as connection:
            assert len((await connection.exec_driver_sql("SELECT id FROM operation_runs")).all()) == 3
    finally:
        await engine.dispose()


class TestMain:
    def test_clean(self, mixed_dsn, capsys, monkeypatch):
        monkeypatch.setenv("MFW_DATABASE__URL", mixed_dsn)
        assert integrity.main(["--pace", "1", "--no-record"]) == 0
        assert "310 of 310 entries" in capsys.readouterr().out

    async def test_findings(self, mixed_dsn, hands, capsys, monkeypatch):
        monkeypatch.setenv("MFW_DATABASE__URL", mixed_dsn)
        await hands.tamper("UPDATE ledger_records SET record = '' WHERE idx = 5")
        assert await asyncio.to_thread(integrity.main, ["--pace", "1"]) == 1
        said = capsys.readouterr().out
        assert "critical: records: 1" in said
        assert "record 5 is not the one that its receipt names" in said
        assert "fix: " in said

    def test_what_is_wrong_has_exit_codes(self, capsys, monkeypatch):
        monkeypatch.delenv("MFW_DATABASE__URL", raising=False)
        assert integrity.main([]) == 2
        monkeypatch.setenv("MFW_DATABASE__URL", "postgresql://u@/d?host=/nowhere")
        assert integrity.main(["--sample", "0"]) == 2
        assert integrity.main([]) == 3
        assert "cannot be reached" in capsys.readouterr().err


async def test_what_the_service_itself_writes_is_clean(database_dsn, serve):
    key = SignerKey.of("firewall.test/ledger", Ed25519PrivateKey.generate())
    mutation = {
        "subject": {"type": "agent", "id": "a"},
        "action": {"name": "update"},
        "resource": {"type": "box", "id": "b"},
        "change": {"after": {"size": 1}},
    }
    settings = {"MFW_LEDGER__ORIGIN": key.name, "MFW_LEDGER__SIGNING_KEY": key.text}
    with (
        serve(database_dsn, **settings) as service,
        service.client() as agent,
        service.client(key=service.admin_key) as admin,
        service.client(key=service.operator_key) as client,
    ):
        for _ in range(3):
            answer = agent.post("/v1/decisions:batch", json={"mutations": [mutation] * 100})
            assert answer.status_code == 200, answer.text
        made = admin.post("/v1/keys", json={"name": "ci", "roles": ["agent"], "reason": "a test"})
        assert made.status_code == 201, made.text
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            size = len(service.entries())
            found = client.get("/ledger/checkpoint")
            if found.status_code == 200 and found.text.split("\n")[1] == str(size):
                break
            time.sleep(0.1)
    report = await run(database_dsn, FAST)
    assert report.entries >= 301
    # The keys of the test itself were put there past the service.
    assert [(one.check, one.count) for one in report.findings] == [(IntegrityCheck.KEYS, 3)]
