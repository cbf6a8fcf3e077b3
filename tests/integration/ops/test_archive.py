"""Months go into files and come back; killed anywhere, nothing is lost and the next run goes on."""

import signal
import stat
import subprocess
import sys
from datetime import UTC, datetime

import asyncpg
import pytest
import zstandard

from app.core.months import Month
from app.errors import FirewallError, Kind
from app.ledger.records import read_records
from app.ops import archive as module
from app.ops.archive import Step, archive, unarchive
from app.ops.integrity import Wanted, run
from app.persistence.partitions import create
from tests.integration.ops.archiver import KEEPER

NOW = Month.of(datetime.now(UTC))
OLD, OLDER = NOW.after(-2), NOW.after(-3)


@pytest.fixture
async def old(mixed_dsn, hands):
    """A connection to a database where 0 to 99 are three months old, 100 to 199 two, and everything is indexed."""
    for month, first, last in ((OLDER, 0, 99), (OLD, 100, 199)):
        for table in ("ledger_records", "ledger_search"):
            await create(hands.connection, table, f"{table}_{month.suffix}")
            await hands.connection.execute(
                f"ALTER TABLE {table} ATTACH PARTITION {table}_{month.suffix}"
                f" FOR VALUES FROM ('{month.starts}') TO ('{month.ends}')"
            )
        moved = f"recorded_at = '{month.starts}'::timestamptz + idx * interval '1 second'"
        await hands.tamper(
            *(
                f"UPDATE {table} SET {moved} WHERE idx BETWEEN {first} AND {last}"
                for table in ("ledger_entries", "ledger_records", "ledger_search")
            )
        )
    assert await clean(mixed_dsn) == {}
    return hands


async def clean(dsn):
    report = await run(dsn, Wanted(pace=1.0, record=False))
    return {one.check.value: one.count for one in report.findings}


async def state(connection):
    """Every entry with its record."""
    return await connection.fetch(
        "SELECT e.*, r.salt, r.record FROM ledger_entries AS e LEFT JOIN ledger_records AS r USING (idx, recorded_at)"
        " WHERE idx < 310 ORDER BY idx"
    )


async def refused(awaitable):
    with pytest.raises(FirewallError) as caught:
        await awaitable
    return caught.value


async def go(dsn, directory, *, before=NOW, **more):
    return await archive(dsn, directory, before=before, keeper=KEEPER, **more)


async def test_months_go_into_files_and_come_back(mixed_dsn, old, tmp_path):
    connection = old.connection
    before = await state(connection)
    searched = await connection.fetchval("SELECT count(*) FROM ledger_search")
    done = await go(mixed_dsn, tmp_path, drop=True)
    # Of the older month one record was erased before.
    assert [(str(one.month), one.records, one.dropped) for one in done] == [
        (str(OLDER), 99, True),
        (str(OLD), 100, True),
    ]
    assert await connection.fetchval("SELECT count(*) FROM ledger_records WHERE idx < 200") == 0
    assert await connection.fetchval("SELECT count(*) FROM ledger_search") == searched - 199
    assert await connection.fetchval("SELECT to_regclass($1)", done[0].partition) is None
    assert await clean(mixed_dsn) == {}
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == [one.file for one in done]
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    assert [row.idx for row in read_records(files[1])] == list(range(100, 200))
    assert await go(mixed_dsn, tmp_path, drop=True) == ()

    for month, count in ((OLD, 100), (OLDER, 99)):
        assert (await unarchive(mixed_dsn, tmp_path, month=month)).records == count
        assert await clean(mixed_dsn) == {}
    assert await state(connection) == before
    assert await connection.fetchval("SELECT count(*) FROM ledger_search WHERE idx < 200") == 199
    with pytest.raises(asyncpg.RestrictViolationError):
        await connection.execute("DELETE FROM ledger_records WHERE idx = 150")
    with pytest.raises(asyncpg.RestrictViolationError):
        await connection.execute(f"TRUNCATE {done[0].partition}")
    assert "are there" in (await refused(unarchive(mixed_dsn, tmp_path, month=OLD))).detail


async def test_without_dropping_the_table_stays_beside(mixed_dsn, old, tmp_path):
    before = await state(old.connection)
    (older,) = await go(mixed_dsn, tmp_path, before=OLD)
    assert not older.dropped
    assert await old.connection.fetchval(f"SELECT count(*) FROM {older.partition}") == 99
    assert await old.connection.fetchval("SELECT count(*) FROM ledger_records WHERE idx < 100") == 0
    assert await clean(mixed_dsn) == {}
    # Once more, and there is nothing to do: no second entry in the ledger.
    size = await old.connection.fetchval("SELECT next_index FROM ledger_head")
    await go(mixed_dsn, tmp_path, before=OLD)
    assert await old.connection.fetchval("SELECT next_index FROM ledger_head") == size
    assert (await unarchive(mixed_dsn, tmp_path, month=OLDER)).records == 99
    assert await state(old.connection) == before
    # What was detached before is dropped later.
    await go(mixed_dsn, tmp_path, before=OLD)
    (dropped,) = await go(mixed_dsn, tmp_path, before=OLD, drop=True)
    assert dropped.dropped
    assert await clean(mixed_dsn) == {}


@pytest.mark.parametrize("step", list(Step))
async def test_killed_after_each_step_nothing_is_lost(mixed_dsn, old, tmp_path, step):
    before = await state(old.connection)
    killed = subprocess.run(
        [sys.executable, "-m", "tests.integration.ops.archiver", mixed_dsn, str(tmp_path), str(OLD), step], check=False
    )
    assert killed.returncode == -signal.SIGKILL
    kept = await old.connection.fetchval("SELECT to_regclass($1) IS NOT NULL", f"ledger_records_{OLDER.suffix}")
    assert kept is (step is not Step.DROPPED)
    assert await clean(mixed_dsn) == {}
    done = await go(mixed_dsn, tmp_path, before=OLD, drop=True)
    assert [one.dropped for one in done] == ([] if step is Step.DROPPED else [True])
    assert await clean(mixed_dsn) == {}
    # One entry for one archive, however often it was tried.
    assert await old.connection.fetchval("SELECT count(*) FROM ledger_archives") == 1
    assert len(list(tmp_path.iterdir())) == 1
    await unarchive(mixed_dsn, tmp_path, month=OLDER)
    assert await state(old.connection) == before


async def test_what_is_not_whole_is_not_archived(mixed_dsn, old, tmp_path):
    await old.tamper("UPDATE ledger_records SET record = record || ' ' WHERE idx = 5")
    error = await refused(go(mixed_dsn, tmp_path, before=OLD, drop=True))
    assert (error.kind, "record 5" in error.detail) == (Kind.CONFLICT, True)
    assert await old.connection.fetchval("SELECT count(*) FROM ledger_records WHERE idx < 100") == 99
    assert await old.connection.fetchval("SELECT count(*) FROM ledger_archives") == 0


async def test_records_of_no_entry_are_not_archived(mixed_dsn, old, tmp_path):
    await old.tamper("DELETE FROM ledger_entries WHERE idx = 5")
    assert "have no entry" in (await refused(go(mixed_dsn, tmp_path, before=OLD))).detail


async def test_a_file_that_was_altered_drops_nothing(mixed_dsn, old, tmp_path):
    (done,) = await go(mixed_dsn, tmp_path, before=OLD)
    file = tmp_path / str(done.file)
    content = file.read_bytes()
    file.write_bytes(zstandard.compress(b""))
    error = await refused(go(mixed_dsn, tmp_path, before=OLD, drop=True))
    assert (error.kind, "nothing is lost" in str(error.fix)) == (Kind.CONFLICT, True)
    assert await old.connection.fetchval(f"SELECT count(*) FROM {done.partition}") == 99
    assert (await refused(unarchive(mixed_dsn, tmp_path, month=OLDER))).kind is Kind.CONFLICT
    file.unlink()
    assert (await refused(unarchive(mixed_dsn, tmp_path, month=OLDER))).kind is Kind.NOT_FOUND
    file.write_bytes(content)
    await old.tamper(f"UPDATE {done.partition} SET record = '' WHERE idx = 5")
    assert "differ" in (await refused(go(mixed_dsn, tmp_path, before=OLD, drop=True))).detail
    assert "differ" in (await refused(unarchive(mixed_dsn, tmp_path, month=OLDER))).detail


async def test_a_file_of_another_ledger_is_not_loaded(mixed_dsn, old, tmp_path):
    await go(mixed_dsn, tmp_path, before=OLD, drop=True)
    await old.tamper(
        "UPDATE ledger_entries SET receipt = (SELECT receipt FROM ledger_entries WHERE idx = 6) WHERE idx = 5"
    )
    assert "not the one that the ledger has" in (await refused(unarchive(mixed_dsn, tmp_path, month=OLDER))).detail
    assert await old.connection.fetchval("SELECT to_regclass($1)", f"ledger_records_{OLDER.suffix}") is None


async def erase(old, idx):
    await old.tamper(
        f"INSERT INTO ledger_erasures SELECT {idx}, reason, erased_by, erased_at, ledger_id, ledger_index"
        " FROM ledger_erasures LIMIT 1",
        f"DELETE FROM ledger_records WHERE idx = {idx}",
        f"DELETE FROM ledger_search WHERE idx = {idx}",
    )


async def test_an_erasure_meanwhile_is_noticed(mixed_dsn, old, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        await go(mixed_dsn, tmp_path, before=OLD, did=_until(Step.RECORDED))
    await erase(old, 9)
    (done,) = await go(mixed_dsn, tmp_path, before=OLD, drop=True)
    assert done.records == 98
    assert 9 not in {row.idx for row in read_records(tmp_path / str(done.file))}
    # As late as can be: between the look at the partition and its detaching.
    (again,) = await go(mixed_dsn, tmp_path, before=OLD.after(1), did=lambda _: None)
    assert again.records == 100


@pytest.mark.parametrize("idx", [0, 9, 99])
async def test_an_erasure_before_the_lock_is_noticed(mixed_dsn, old, tmp_path, monkeypatch, idx):
    record = module._record

    async def slow(*arguments, **more):
        await record(*arguments, **more)
        await erase(old, idx)

    monkeypatch.setattr(module, "_record", slow)
    error = await refused(go(mixed_dsn, tmp_path, before=OLD, drop=True))
    assert "was erased while it was archived" in error.detail
    assert await old.connection.fetchval("SELECT count(*) FROM ledger_records WHERE idx < 100") == 98
    # Once more, without it.
    monkeypatch.setattr(module, "_record", record)
    (done,) = await go(mixed_dsn, tmp_path, before=OLD, drop=True)
    assert idx not in {row.idx for row in read_records(tmp_path / str(done.file))}


async def test_what_was_erased_since_stays_away(mixed_dsn, old, tmp_path):
    await go(mixed_dsn, tmp_path, before=OLD, drop=True)
    await old.tamper(
        "INSERT INTO ledger_erasures SELECT 9, reason, erased_by, erased_at, ledger_id, ledger_index FROM ledger_erasures"
    )
    assert (await unarchive(mixed_dsn, tmp_path, month=OLDER)).records == 98
    assert await clean(mixed_dsn) == {}


async def test_only_what_is_over_is_archived(mixed_dsn, tmp_path):
    assert (await refused(go(mixed_dsn, tmp_path, before=NOW.after(1)))).kind is Kind.MALFORMED
    assert await go(mixed_dsn, tmp_path) == ()
    assert (await refused(unarchive(mixed_dsn, tmp_path, month=OLD))).kind is Kind.NOT_FOUND


async def test_an_empty_month_is_left_alone(mixed_dsn, hands, tmp_path):
    await create(hands.connection, "ledger_records", f"ledger_records_{OLD.suffix}")
    await hands.connection.execute(
        f"ALTER TABLE ledger_records ATTACH PARTITION ledger_records_{OLD.suffix}"
        f" FOR VALUES FROM ('{OLD.starts}') TO ('{OLD.ends}')"
    )
    (done,) = await go(mixed_dsn, tmp_path, drop=True)
    assert (done.records, done.file, done.dropped) == (0, None, False)


async def test_who_holds_the_table_wins(mixed_dsn, old, tmp_path, monkeypatch):
    other = await asyncpg.connect(mixed_dsn)
    async with other.transaction():
        await other.execute("SELECT count(*) FROM ledger_records")
        with monkeypatch.context() as short:
            short.setattr(module, "LOCK_TIMEOUT", 0.05)
            error = await refused(go(mixed_dsn, tmp_path, before=OLD))
        assert error.kind is Kind.TIMEOUT
    (done,) = await go(mixed_dsn, tmp_path, before=OLD)
    monkeypatch.setattr(module, "LOCK_TIMEOUT", 0.05)
    async with other.transaction():
        await other.execute("SELECT count(*) FROM ledger_records")
        assert (await refused(unarchive(mixed_dsn, tmp_path, month=OLDER))).kind is Kind.TIMEOUT
    await other.close()
    assert done.records == 99


async def test_a_database_that_is_away_is_told(tmp_path):
    away = "postgresql://u@/d?host=/nowhere"
    assert (await refused(go(away, tmp_path))).kind is Kind.UNAVAILABLE
    assert (await refused(unarchive(away, tmp_path, month=OLD))).kind is Kind.UNAVAILABLE


def _until(last):
    def did(step):
        if step is last:
            raise KeyboardInterrupt

    return did
