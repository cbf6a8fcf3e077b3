"""Partitions are made ahead, and what fell into the default one comes into its month."""

import asyncio
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from app.core.months import Month
from app.errors import FirewallError, Kind
from app.persistence import partitions
from app.persistence.partitions import attached, make_ahead

INSERT = "INSERT INTO ledger_records (idx, recorded_at, salt, record) VALUES ($1, $2, sha256(''), $3)"
TABLE = "ledger_records"
NOW = Month.of(datetime.now(UTC))
WANTED = [NOW.after(count) for count in range(4)]


async def months(database):
    return sorted(one.month for one in await attached(database, TABLE) if one.month is not None)


async def drop(database, *gone):
    for month in gone:
        await database.execute(f"DROP TABLE {partitions.partition_name(TABLE, month)}")


async def content(database):
    return await database.fetch("SELECT * FROM ledger_records ORDER BY idx")


async def strayed(database):
    return await database.fetchval("SELECT count(*) FROM ledger_records_rest")


async def protected(database):
    """Whether every partition has both triggers, for whoever asks."""
    rows = await database.fetch(
        "SELECT relname, array_agg(tgname::text ORDER BY tgname) AS names, bool_and(tgenabled = 'A') AS always,"
        " reloptions IS NOT NULL AS tuned"
        " FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid JOIN pg_trigger ON tgrelid = pg_class.oid"
        " WHERE inhparent = 'ledger_records'::regclass GROUP BY relname, reloptions"
    )
    return {(tuple(row["names"]), row["always"], row["tuned"]) for row in rows} == {
        (("append_only", "never_emptied"), True, True)
    }


async def test_a_fresh_database_has_them(database_dsn, database):
    assert await months(database) == WANTED
    assert await protected(database)
    assert (await make_ahead(database_dsn)).partitions == ()


async def test_those_that_are_missing_are_made(database_dsn, database):
    await drop(database, *WANTED[1:])
    await database.execute(INSERT, 0, NOW.starts, b"now")
    made = await make_ahead(database_dsn, ahead=2)
    assert made == partitions.Made((f"{TABLE}_{WANTED[1].suffix}", f"{TABLE}_{WANTED[2].suffix}"), 0)
    assert await months(database) == WANTED[:3]
    assert await protected(database)
    # The last moment of a month and the first of the next are in their partitions.
    await database.execute(INSERT, 1, NOW.ends - timedelta(microseconds=1), b"last")
    await database.execute(INSERT, 2, NOW.ends, b"first")
    assert await strayed(database) == 0


async def test_many_at_the_same_time(database_dsn, database):
    await drop(database, *WANTED)
    made = await asyncio.gather(*(make_ahead(database_dsn) for _ in range(3)))
    assert sorted(name for one in made for name in one.partitions) == [
        partitions.partition_name(TABLE, month) for month in WANTED
    ]


@pytest.mark.parametrize("quiet", [True, False])
async def test_rows_of_this_month_strayed(database_dsn, database, monkeypatch, quiet):
    # Shortly before the month ends rows are copied, since those of the next one must find a place.
    monkeypatch.setattr(partitions, "_QUIET", timedelta() if quiet else timedelta(days=40))
    await drop(database, *WANTED)
    for index in range(5):
        await database.execute(INSERT, index, NOW.starts + timedelta(minutes=index), b"x" * index)
    before = await content(database)
    made = await make_ahead(database_dsn)
    assert made.moved == 5
    assert len(made.partitions) == 4
    assert await content(database) == before
    assert (await months(database), await strayed(database)) == (WANTED, 0)
    assert await protected(database)
    constraints = await database.fetch("SELECT conname FROM pg_constraint WHERE conname LIKE '%bounds%'")
    assert constraints == []
    with pytest.raises(asyncpg.RestrictViolationError):
        await database.execute("DELETE FROM ledger_records")
    with pytest.raises(asyncpg.RestrictViolationError):
        await database.execute(f"TRUNCATE {partitions.partition_name(TABLE, NOW)}")
    assert (await make_ahead(database_dsn)) == partitions.Made((), 0)


async def test_rows_of_several_months_strayed(database_dsn, database):
    await drop(database, WANTED[0])
    for index, month in enumerate((NOW.after(-3), NOW.after(-1), NOW, NOW)):
        await database.execute(INSERT, index, month.starts, b"x")
    before = await content(database)
    made = await make_ahead(database_dsn)
    assert made.moved == 4
    assert await content(database) == before
    assert await months(database) == [NOW.after(-3), NOW.after(-1), *WANTED]
    assert await strayed(database) == 0
    assert await protected(database)


async def test_an_interrupted_run_is_taken_up(database_dsn, database):
    await drop(database, *WANTED)
    await database.execute(INSERT, 0, NOW.starts, b"x")
    await database.execute(
        "ALTER TABLE ledger_records_rest ADD CONSTRAINT ledger_records_rest_bounds CHECK (recorded_at < '2000-01-01') NOT VALID"
    )
    assert (await make_ahead(database_dsn)).moved == 1


async def test_a_lock_that_is_not_to_be_had_is_told(database_dsn, database):
    await drop(database, WANTED[3])
    async with database.transaction():
        await database.execute("LOCK TABLE ledger_records IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(FirewallError) as caught:
            await make_ahead(database_dsn, lock_timeout=0.05)
    assert caught.value.kind is Kind.TIMEOUT
    assert "mfw ledger partitions" in str(caught.value.fix)
    assert len((await make_ahead(database_dsn)).partitions) == 1


async def test_a_refused_move_leaves_the_default_partition_as_it_was(database_dsn, database, monkeypatch):
    await drop(database, *WANTED)
    await database.execute(INSERT, 0, NOW.starts, b"x")

    async def fail(*_):
        raise OSError("gone")

    monkeypatch.setattr(partitions, "_make_rest", fail)
    with pytest.raises(FirewallError):
        await make_ahead(database_dsn)
    # Rows of any month find their place as before.
    await database.execute(INSERT, 1, NOW.after(9).starts, b"y")
    assert await strayed(database) == 2


async def test_a_table_that_the_archive_detached_is_not_attached_again(database_dsn, database):
    name = partitions.partition_name(TABLE, NOW)
    await database.execute(f"ALTER TABLE {TABLE} DETACH PARTITION {name}")
    assert (await make_ahead(database_dsn)).partitions == ()
    assert await months(database) == WANTED[1:]


async def test_a_database_that_is_away_is_told():
    with pytest.raises(FirewallError) as caught:
        await make_ahead("postgresql://u@/d?host=/nowhere")
    assert caught.value.kind is Kind.UNAVAILABLE


async def test_every_partition_is_vacuumed_as_one_that_only_grows(database_dsn, database):
    await database.execute("ALTER TABLE ledger_search_rest RESET (autovacuum_freeze_min_age)")
    await make_ahead(database_dsn)
    rows = await database.fetch(
        "SELECT relname, reloptions FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid"
        " WHERE inhparent IN ('ledger_records'::regclass, 'ledger_search'::regclass)"
    )
    assert len(rows) == 10
    assert all("autovacuum_vacuum_insert_threshold=100000" in row["reloptions"] for row in rows)
    entries = await database.fetchval("SELECT reloptions FROM pg_class WHERE relname = 'ledger_entries'")
    assert sorted(entries) == sorted(partitions.INSERT_ONLY.replace(" = ", "=").split(", "))
