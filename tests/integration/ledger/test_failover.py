"""The connection dies before, during and after the commit, and another server may stand where the first one was."""

import asyncio
import contextlib
import random
import time

import asyncpg
import pytest

from app.errors import FirewallError, Kind
from app.ledger.append import LedgerWriter
from app.ledger.read import LedgerReader
from app.migrations import schema
from app.persistence.breaker import CircuitBreaker
from app.persistence.embedded import EmbeddedPostgres
from app.persistence.engine import create_engine, parse_dsn
from bench.network import BreakingNetwork
from tests.integration.ledger.conftest import PATIENT, deadline


@contextlib.asynccontextmanager
async def writing(dsn, *, number=1, **options):
    made = {"backoff": (0.0, 0.01), "deadline": PATIENT, **options}
    writers = [
        LedgerWriter(dsn, breaker=CircuitBreaker(clock=time.monotonic, failures_to_open=10_000), **made)
        for _ in range(number)
    ]
    for writer in writers:
        await writer.start()
    try:
        yield writers
    finally:
        await asyncio.gather(*(writer.stop(drain_timeout=0.05) for writer in writers))


async def until(condition):
    async with asyncio.timeout(60):
        while not await condition():
            await asyncio.sleep(0.005)


async def entries(dsn):
    connection = await asyncpg.connect(dsn)
    rows = await connection.fetch("SELECT idx, id FROM ledger_entries ORDER BY idx")
    await connection.close()
    return [(row["idx"], row["id"]) for row in rows]


async def whole(dsn):
    engine = create_engine(dsn)
    report = await LedgerReader(engine).verify_gapless()
    await engine.dispose()
    return report.whole


async def test_a_connection_that_breaks_at_any_byte_costs_nothing_that_was_said(database_dsn, entry):
    """Both writers lose their connections wherever chance has it, also in the middle of a message."""
    network = BreakingNetwork(database_dsn, lives=lambda: random.randint(1, 60_000))
    through = await network.start()
    told = []

    async def caller(writer):
        while network.broken < 150:
            one = entry()
            told.append((await writer.append(one), one.id))

    try:
        async with writing(through, number=2) as writers:
            for writer in writers:
                assert await writer.wait_connected(within=60)
            network.breaking = True
            async with asyncio.timeout(240):
                await asyncio.gather(*(caller(writer) for writer in writers for _ in range(8)))
            network.breaking = False
    finally:
        await network.stop()
    # Everybody waited to the end, so nothing is there that nobody was told of.
    assert sorted(told) == await entries(database_dsn)
    assert len(told) > 150
    assert await whole(database_dsn)


# Holds a commit up at its very end for as long as somebody holds the lock.
HOLD = """
CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared(7);
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER hold AFTER INSERT ON ledger_entries DEFERRABLE INITIALLY DEFERRED
FOR EACH ROW EXECUTE FUNCTION hold();
"""


async def test_a_backend_that_is_terminated_during_the_commit(database_dsn, database, entry):
    await database.execute(HOLD)
    async with writing(database_dsn) as (writer,):
        assert await writer.append(entry()) == 0
        await database.execute("SELECT pg_advisory_lock(7)")
        one = entry()
        waiting = asyncio.create_task(writer.append(one))
        held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        await until(lambda: database.fetchval(held))
        await database.execute("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE NOT granted AND objid = 7")
        await database.execute("SELECT pg_advisory_unlock(7)")
        assert await waiting == 1
        assert await writer.append(entry()) == 2
    assert (await entries(database_dsn))[1] == (1, one.id)
    assert await whole(database_dsn)


@pytest.mark.parametrize("lost", [1, 3])
async def test_a_promoted_standby_without_the_last_commits(server_dsn, database_dsn, wire, fault, entry, lost):
    """What was under way is written again there, and the head goes on from its end; what it lost is lost."""
    name = parse_dsn(database_dsn).database
    everywhere = await asyncpg.connect(server_dsn)
    before = [entry() for _ in range(4)]
    try:
        async with writing(wire.dsn) as (writer,):
            for one in before[:2]:
                await writer.append(one)
            await wire.cut()
            await until(lambda: alone(everywhere, name))
            # The standby stands still here; the primary goes on.
            await everywhere.execute(f"CREATE DATABASE {name}_standby TEMPLATE {name}")
            await wire.open()
            for one in before[2 : 1 + lost]:
                await writer.append(one)
            wire.fault = fault.LOSE_THE_ANSWER
            doubtful = entry()
            # The answer is lost with the primary, which had committed it; then the standby takes its name.
            renamed = asyncio.create_task(fail_over(everywhere, wire, name))
            index = await writer.append(doubtful)
            await renamed
            assert index == 2
            assert await writer.append(entry()) == 3
        found = await entries(database_dsn)
        assert found[:3] == [(0, before[0].id), (1, before[1].id), (2, doubtful.id)]
        assert len(found) == 4
        assert await whole(database_dsn)
    finally:
        await everywhere.execute(f"DROP DATABASE IF EXISTS {name}_primary WITH (FORCE)")
        await everywhere.close()


async def alone(everywhere, name):
    return not await everywhere.fetchval("SELECT count(*) FROM pg_stat_activity WHERE datname = $1", name)


async def fail_over(everywhere, wire, name):
    await wire.struck.wait()
    await wire.cut()
    await everywhere.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1 AND pid <> pg_backend_pid()", name
    )
    await until(lambda: alone(everywhere, name))
    await everywhere.execute(f"ALTER DATABASE {name} RENAME TO {name}_primary")
    await everywhere.execute(f"ALTER DATABASE {name}_standby RENAME TO {name}")
    await wire.open()


async def test_a_server_that_turns_read_only_is_left_and_nothing_is_said(database_dsn, database, entry):
    """A primary that was demoted under our connection: its refusal is no answer."""
    async with writing(database_dsn) as (writer,):
        assert await writer.append(entry()) == 0
        await writer._connection.execute("SET default_transaction_read_only = on")
        # The next connection is one to a server that can be written to.
        assert await writer.append(entry()) == 1
        name = await database.fetchval("SELECT current_database()")
        await database.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        await writer._connection.execute("SET default_transaction_read_only = on")
        with deadline(writer, 2.0), pytest.raises(FirewallError) as caught:
            await writer.append(entry())
        assert caught.value.kind is Kind.UNAVAILABLE
    assert len(await entries(database_dsn)) == 2


async def test_a_commit_that_the_standby_does_not_have_is_not_confirmed(state_directory, entry):
    """PostgreSQL confirms, with a warning, a commit whose wait for the standby was cancelled. We do not."""
    with EmbeddedPostgres(state_directory) as server:
        await schema.apply(server.dsn)
        database = await asyncpg.connect(server.dsn)
        async with writing(server.dsn, deadline=90.0) as (writer,):
            assert await writer.append(entry()) == 0
            await database.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
            await database.execute("SELECT pg_reload_conf()")
            cancel = (
                "SELECT pg_cancel_backend(pid), pid FROM pg_stat_activity"
                " WHERE wait_event = 'SyncRep' AND backend_type = 'client backend' AND pid <> ALL($1::int[])"
            )
            before = 1
            waiting = asyncio.create_task(writer.append(entry()))
            cancelled: list[int] = []
            # First the writing, then the settling of it: both wait for the standby.
            for _ in range(2):
                async with asyncio.timeout(60):
                    while not (row := await database.fetchrow(cancel, cancelled)):
                        await asyncio.sleep(0.005)
                        # Commits wait from when the checkpointer has read the new settings, which it does in its own time.
                        if not cancelled and waiting.done():
                            before = await waiting + 1
                            waiting = asyncio.create_task(writer.append(entry()))
                cancelled.append(row["pid"])
                done, _ = await asyncio.wait([waiting], timeout=0.1)
                assert not done
            # `remote_write` and the like wait as well; the standby comes back, or is given up by who runs the database.
            await database.execute("ALTER SYSTEM RESET synchronous_standby_names")
            await database.execute("SELECT pg_reload_conf()")
            assert await waiting == before
            assert await writer.append(entry()) == before + 1
        await database.close()
