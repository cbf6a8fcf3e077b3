"""Behind a real PgBouncer in transaction mode, which gives every transaction another connection."""

import asyncio
import contextlib
import time

import asyncpg
import pytest
import sqlalchemy as sa

from app.errors import FirewallError, Kind
from app.ledger.append import LedgerWriter
from app.ledger.within import append_within
from app.persistence.breaker import CircuitBreaker
from app.persistence.engine import connect, create_engine
from tests.integration.ledger.conftest import PATIENT, deadline


@contextlib.asynccontextmanager
async def writing(dsn, **options):
    made = LedgerWriter(
        dsn, **{"backoff": (0.0, 0.01), "deadline": PATIENT, "connect_timeout": PATIENT, "pooled": True, **options}
    )
    await made.start()
    try:
        yield made
    finally:
        await made.stop(drain_timeout=0.05)


def never_opens():
    """A breaker for tests in which connections break as often as they can."""
    return CircuitBreaker(clock=time.monotonic, failures_to_open=10_000)


async def test_two_transactions_of_one_client_have_two_connections(pooled_dsn):
    """Else nothing below would prove anything."""
    clients = [await connect(pooled_dsn, pooled=True) for _ in range(3)]
    met: set[int] = set()
    async with asyncio.timeout(60):
        while len(met) < 2:
            # It opens another one where several ask at a time, and takes its time for that.
            await asyncio.gather(*(client.execute("SELECT pg_sleep(0.1)") for client in clients))
            met |= {await clients[0].fetchval("SELECT pg_backend_pid()") for _ in range(6)}
    for client in clients:
        await client.close()


async def test_writers_share_the_pool_and_the_index_has_no_gap(pooled_dsn, reader, entry):
    entries = [[entry() for _ in range(100)] for _ in range(4)]
    async with contextlib.AsyncExitStack() as stack:
        writers = [await stack.enter_async_context(writing(pooled_dsn, batch_max=8)) for _ in range(4)]
        told = await asyncio.gather(*(writer.append_all(some) for writer, some in zip(writers, entries, strict=True)))
    assert sorted(index for some in told for index in some) == list(range(400))
    assert (await reader.verify_gapless()).size == 400
    assert (await reader.get(told[3][7])).id == entries[3][7].id


@pytest.mark.parametrize("durable", ["off", "remote_apply"])
async def test_it_sees_to_durability_and_isolation_itself(pooled_dsn, database, entry, witness, durable):
    name = await database.fetchval("SELECT current_database()")
    await database.execute(f"ALTER DATABASE {name} SET synchronous_commit = {durable}")
    await database.execute(f"ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'")
    await database.execute(witness)
    async with writing(pooled_dsn) as writer:
        assert await asyncio.gather(*(writer.append(entry()) for _ in range(3))) == [0, 1, 2]
    rows = await database.fetch("SELECT DISTINCT durable, isolation FROM witnessed")
    assert rows == [("on" if durable == "off" else durable, "read committed")]


async def test_a_connection_that_dies_is_replaced_and_nothing_is_written_twice(pooled_dsn, database, reader, entry):
    acknowledged = []

    async def caller(writer):
        for _ in range(60):
            one = entry()
            acknowledged.append((await writer.append(one), one.id))

    async with writing(pooled_dsn, breaker=never_opens()) as writer:
        callers = [asyncio.create_task(caller(writer)) for _ in range(8)]
        while not all(one.done() for one in callers):
            # After some progress: a busy machine would never come to commit if it were cut off by the clock.
            known = len(acknowledged)
            async with asyncio.timeout(60):
                while len(acknowledged) < known + 32 and not all(one.done() for one in callers):
                    await asyncio.sleep(0.005)
            await database.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        await asyncio.gather(*callers)
    rows = await database.fetch("SELECT idx, id FROM ledger_entries")
    assert {(row["idx"], row["id"]) for row in rows} == set(acknowledged)
    assert len(acknowledged) == 480
    assert (await reader.verify_gapless()).whole


async def test_the_pooler_may_go_and_come_back(pgbouncer, pooled_dsn, reader, entry):
    async with writing(pooled_dsn, breaker=never_opens()) as writer:
        assert await writer.append(entry()) == 0
        pgbouncer.kill()
        waiting = [asyncio.create_task(writer.append(entry())) for _ in range(5)]
        await asyncio.sleep(0.01)
        pgbouncer.start()
        assert sorted(await asyncio.gather(*waiting)) == [1, 2, 3, 4, 5]
    assert (await reader.verify_gapless()).size == 6


async def test_a_replica_is_not_written_to(pooled_dsn, database, entry):
    name = await database.fetchval("SELECT current_database()")
    await database.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    async with writing(pooled_dsn, deadline=0.3) as writer:
        with pytest.raises(FirewallError) as caught:
            await writer.append(entry())
    assert caught.value.kind is Kind.UNAVAILABLE
    assert not await database.fetchval("SELECT count(*) FROM ledger_entries")


async def test_a_statement_that_takes_too_long_is_given_up_and_cancelled(pooled_dsn, database, entry, monkeypatch):
    monkeypatch.setattr("app.persistence.engine.CLIENT_GRACE", 0.0)
    under_way = (
        "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND ltrim(query, E'\\n') LIKE 'WITH head%'"
    )
    async with writing(pooled_dsn, deadline=1.0, statement_timeout=3600) as writer:
        with deadline(writer, PATIENT):
            await writer.append(entry())
        async with database.transaction():
            await database.execute("SELECT 1 FROM ledger_head FOR UPDATE")
            with pytest.raises(FirewallError) as caught:
                await writer.append(entry())
            assert caught.value.kind in {Kind.TIMEOUT, Kind.UNAVAILABLE}
            async with asyncio.timeout(60):
                while await database.fetchval(under_way):
                    await database.execute("SELECT pg_stat_clear_snapshot()")
                    await asyncio.sleep(0.05)


async def test_the_engine_works_and_its_timeouts_hold_in_each_transaction(pooled_dsn, reader, entry):
    engine = create_engine(pooled_dsn, pooled=True, statement_timeout=2.0, lock_timeout=1.0)
    try:
        for _ in range(3):
            async with engine.begin() as connection:
                for name, value in (("statement_timeout", "2s"), ("lock_timeout", "1s")):
                    assert (await connection.execute(sa.text(f"SHOW {name}"))).scalar() == value
                await append_within(connection, [entry(), entry()])
        assert (await reader.verify_gapless()).size == 6

        async def read():
            async with engine.connect() as connection:
                return (await connection.execute(sa.text("SELECT CAST(:a AS int)"), {"a": 7})).scalar()

        assert await asyncio.gather(*(read() for _ in range(20))) == [7] * 20
        with pytest.raises(sa.exc.DBAPIError, match="statement timeout"):
            async with engine.begin() as connection:
                await connection.execute(sa.text("SELECT pg_sleep(60)"))
    finally:
        await engine.dispose()
    # Nothing of it stays with a connection of the pool.
    await asyncio.gather(*(_unlimited(pooled_dsn) for _ in range(8)))


async def _unlimited(dsn):
    connection = await connect(dsn, pooled=True)
    assert await connection.fetchval("SHOW statement_timeout") == "0"
    await connection.close()


async def test_one_that_is_not_told_of_the_pooler_does_not_get_far(pooled_dsn):
    """PgBouncer refuses what a session would need; better at once than for some."""
    with pytest.raises(asyncpg.PostgresError, match="startup parameter"):
        await connect(pooled_dsn)
