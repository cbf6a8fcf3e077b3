"""Several writers on one ledger: no gap, no entry twice, everybody gets on, and nothing is said before the disk has it."""

import asyncio
import contextlib
import math
from collections import Counter

import asyncpg
import pytest

from app.errors import FirewallError, Kind
from app.ledger import append
from app.ledger.append import AWAIT_WRITERS, LedgerWriter
from app.persistence.engine import create_engine
from tests.integration.ledger.conftest import PATIENT, deadline


@contextlib.asynccontextmanager
async def writing(dsn, *, number=1, **options):
    writers = [
        LedgerWriter(dsn, **{"backoff": (0.0, 0.01), "deadline": PATIENT, "connect_timeout": PATIENT, **options})
        for _ in range(number)
    ]
    for writer in writers:
        await writer.start()
        assert await writer.wait_connected(within=60)
    try:
        yield writers
    finally:
        await asyncio.gather(*(writer.stop(drain_timeout=0.05) for writer in writers))


def crowd(writer):
    """As after a wait for the head."""
    writer._crowded_until = math.inf


@pytest.mark.parametrize("number", [2, 5, 20])
async def test_writers_share_one_index(database_dsn, database, reader, entry, number):
    """`number` writers with 4 callers each, until all have had `least` answers: nobody starves."""
    least = 30
    answered: Counter[int] = Counter()
    told = []

    async def caller(which, writer):
        while min(answered[each] for each in range(number)) < least:
            one = entry()
            told.append((await writer.append(one), one.id))
            answered[which] += 1

    async with writing(database_dsn, number=number) as writers:
        async with asyncio.timeout(240):
            await asyncio.gather(*(caller(which, writer) for which, writer in enumerate(writers) for _ in range(4)))
    rows = await database.fetch("SELECT idx, id FROM ledger_entries")
    assert {(row["idx"], row["id"]) for row in rows} == set(told)
    assert len(told) == len(rows)
    assert (await reader.verify_gapless()).size == len(told)


async def test_who_waited_for_the_head_gives_it_away_sooner(database_dsn, database, entry, witness, monkeypatch):
    monkeypatch.setattr(append, "CROWDED_SECONDS", 3600.0)
    await database.execute(witness)
    async with writing(database_dsn, number=2) as (writer, other):
        for _ in range(3):
            await writer.append(entry())
        assert writer._crowded_until == -math.inf
        async with database.transaction():
            await database.execute("SELECT 1 FROM ledger_head FOR UPDATE")
            waiting = asyncio.create_task(writer.append(entry()))
            async with asyncio.timeout(60):
                while not await database.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
                    await asyncio.sleep(0.002)
        await waiting
        # It waited, but nobody wrote: no sign of others.
        assert writer._crowded_until == -math.inf
        async with database.transaction():
            await database.execute("SELECT 1 FROM ledger_head FOR UPDATE")
            first = asyncio.create_task(other.append(entry()))
            async with asyncio.timeout(60):
                while not await database.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
                    await asyncio.sleep(0.002)
            second = asyncio.create_task(writer.append(entry()))
            async with asyncio.timeout(60):
                while await database.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted") < 2:
                    await asyncio.sleep(0.002)
            await asyncio.sleep(2 * append.HEAD_WAIT)
        assert [await first, await second] == [4, 5]
        assert writer._crowded_until > 0
        assert await writer.append(entry()) == 6
    durable = await database.fetch("SELECT durable FROM witnessed")
    assert [row["durable"] for row in durable] == ["on"] * 6 + ["off"]


async def test_nothing_is_said_before_the_disk_has_it(database_dsn, entry):
    async with writing(database_dsn) as (writer,):
        crowd(writer)
        await writer.append(entry())
        harden, may_go = writer._harden, asyncio.Event()

        async def later(*values):
            await may_go.wait()
            return await harden(*values)

        writer._harden = later
        waiting = asyncio.create_task(writer.append(entry()))
        done, _ = await asyncio.wait([waiting], timeout=0.1)
        assert not done
        may_go.set()
        assert await waiting == 1


@pytest.mark.parametrize(("durable", "expected"), [("off", "on"), ("on", "on"), ("remote_apply", "remote_apply")])
async def test_waiting_for_the_disk_is_as_durable_as_the_role_wants_or_more(
    database_dsn, database, entry, durable, expected
):
    name = await database.fetchval("SELECT current_database()")
    await database.execute(f"ALTER DATABASE {name} SET synchronous_commit = {durable}")
    async with writing(database_dsn) as (writer,):
        one = entry()
        index = await writer.append(one)
        async with writer._connection.transaction():
            assert await writer._harden(index, one.id) is not None
            assert await writer._connection.fetchval("SHOW synchronous_commit") == expected
            # It has a number, so that the end of it is written, and waited for.
            assert await writer._connection.fetchval("SELECT pg_current_xact_id_if_assigned()")
        async with writer._connection.transaction():
            assert await writer._connection.fetchrow(AWAIT_WRITERS) is not None
            assert await writer._connection.fetchval("SHOW synchronous_commit") == expected
            assert await writer._connection.fetchval("SELECT pg_current_xact_id_if_assigned()")


@pytest.mark.parametrize("before", [True, False])
async def test_a_connection_that_breaks_while_it_waits_for_the_disk(database_dsn, reader, entry, before):
    async with writing(database_dsn) as (writer,):
        crowd(writer)
        assert await writer.append(entry()) == 0
        harden = writer._harden

        async def broken(*values):
            if not before:
                await harden(*values)
            raise ConnectionResetError

        writer._harden = broken
        one = entry()
        assert await writer.append(one) == 1
        assert await writer.append(entry()) == 2
    assert (await reader.get(1)).id == one.id
    assert (await reader.verify_gapless()).size == 3


async def test_another_server_that_does_not_have_it_is_no_witness(database_dsn, database, reader, entry):
    """Behind a pooler: what was written is gone with the server that was behind it, and the one that is there now says so."""
    async with writing(database_dsn) as (writer,):
        crowd(writer)
        assert await writer.append(entry()) == 0
        harden = writer._harden

        async def promoted(*values):
            # Another server, which has everything but the last batch.
            await database.execute("ALTER TABLE ledger_entries DISABLE TRIGGER ALL")
            await database.execute("ALTER TABLE ledger_records DISABLE TRIGGER ALL")
            await database.execute("ALTER TABLE ledger_head DISABLE TRIGGER ALL")
            await database.execute("DELETE FROM ledger_entries WHERE idx = 1")
            await database.execute("DELETE FROM ledger_records WHERE idx = 1")
            await database.execute("UPDATE ledger_head SET next_index = 1")
            return await harden(*values)

        writer._harden = promoted
        one = entry()
        assert await writer.append(one) == 1
        assert await writer.append(entry()) == 2
    assert (await reader.get(1)).id == one.id
    assert (await reader.verify_gapless()).size == 3


async def test_who_may_not_wait_that_way_does_it_the_other_way(database_dsn, database, reader, entry):
    async with writing(database_dsn) as (writer,):
        crowd(writer)

        async def forbidden(*_values):
            raise asyncpg.InsufficientPrivilegeError

        writer._harden = forbidden
        assert [await writer.append(entry()) for _ in range(3)] == [0, 1, 2]
        assert not writer._may_harden
        assert writer._connection is not None
    assert (await reader.verify_gapless()).size == 3


async def test_a_role_without_rights_may_wait_that_way(database_dsn, database, entry):
    role = f"appender_{await database.fetchval('SELECT current_database()')}"
    await database.execute(f"CREATE ROLE {role}")
    try:
        await database.execute(f"GRANT SELECT, UPDATE ON ledger_head TO {role}")
        await database.execute(f"GRANT SELECT, INSERT ON ledger_entries, ledger_records TO {role}")
        async with writing(database_dsn) as (writer,):
            crowd(writer)
            await writer._connection.execute(f"SET ROLE {role}")
            assert [await writer.append(entry()) for _ in range(3)] == [0, 1, 2]
            assert writer._may_harden
    finally:
        await database.execute(f"DROP OWNED BY {role}")
        await database.execute(f"DROP ROLE {role}")


async def test_without_a_head_nothing_is_settled(database_dsn, database, entry):
    async with writing(database_dsn) as (writer,):
        await writer.append(entry())
        insert = writer._insert

        async def broken(*values):
            await insert(*values)
            await database.execute("ALTER TABLE ledger_head DISABLE TRIGGER ALL")
            await database.execute("DELETE FROM ledger_head")
            raise ConnectionResetError

        writer._insert = broken
        with pytest.raises(FirewallError) as caught:
            await writer.append(entry())
    assert caught.value.kind is Kind.UNAVAILABLE
    assert "head" in caught.value.detail


async def test_nobody_asks_before_there_is_a_connection():
    writer = LedgerWriter("postgresql://nowhere")
    with pytest.raises(asyncpg.InterfaceError):
        await writer._insert()


async def test_who_is_lost_in_the_middle_gives_the_head_back(database_dsn, database, entry):
    """A server that hears nothing more of a client would keep its locks; ours it ends."""
    async with writing(database_dsn, deadline=5.0) as (writer,):
        connection = writer._connection
        async with connection.transaction():
            await connection.fetchrow(AWAIT_WRITERS)
            assert await connection.fetchval("SHOW idle_in_transaction_session_timeout") == "5s"
        if await database.fetchval("SELECT current_setting('server_version_num')::int >= 170000"):
            # Twice the deadline, and what the head is kept for.
            assert await connection.fetchval("SHOW transaction_timeout") == "15s"
        with deadline(writer, PATIENT):
            assert await writer.append(entry()) == 0


async def test_a_head_that_a_lost_client_holds_is_free_again(database_dsn, entry):
    lost = create_engine(database_dsn, stall_timeout=1.0)
    async with writing(database_dsn) as (writer,):
        gone = await lost.connect()
        await gone.exec_driver_sql("SELECT 1 FROM ledger_head FOR UPDATE")
        # And not a word more.
        assert await writer.append(entry()) == 0
        await gone.invalidate()
        await gone.close()
    await lost.dispose()
