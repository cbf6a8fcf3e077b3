"""The ledger's writer on a real PostgreSQL: durable, gapless, in groups, and with an answer for every failure."""

import asyncio
import contextlib
import time
from uuid import uuid4

import pytest

from app.errors import FirewallError, Kind
from app.ledger.append import LedgerWriter
from app.persistence.breaker import BreakerState, CircuitBreaker
from tests.integration.ledger.conftest import PATIENT, deadline


class Observed:
    def __init__(self):
        self.errors = []
        self.times = []

    def error(self, kind):
        self.errors.append(kind)

    def timed(self, operation, seconds):
        self.times.append((operation, seconds))


@contextlib.asynccontextmanager
async def writing(dsn, **options):
    # Retries without a pause: what is tested is what happens, not when.
    made = LedgerWriter(dsn, **{"backoff": (0.0, 0.01), "deadline": PATIENT, "connect_timeout": PATIENT, **options})
    await made.start()
    try:
        yield made
    finally:
        await made.stop(drain_timeout=0.05)


async def until(condition):
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)


async def in_the_end(writer, make):
    """The index of an entry: where a statement has little time a machine under load may need several."""
    async with asyncio.timeout(60):
        while True:
            with contextlib.suppress(FirewallError):
                return await writer.append(make())


async def refused(awaitable):
    with pytest.raises(FirewallError) as caught:
        await awaitable
    return caught.value


async def test_indexes_count_from_zero_and_what_is_read_is_what_was_appended(database_dsn, reader, entry):
    entries = [entry() for _ in range(3)]
    async with writing(database_dsn) as writer:
        assert [await writer.append(one) for one in entries] == [0, 1, 2]
        assert writer.connected
        assert writer.waiting == 0
    for idx, one in enumerate(entries):
        found = await reader.get(idx)
        assert (found.id, found.kind, found.receipt, found.salt, found.record) == (
            one.id,
            one.kind,
            one.receipt,
            one.salt,
            one.record,
        )
        assert "sha256:" + found.leaf_hash.hex() == one.receipt_hash
    assert (await reader.verify_gapless()).whole


async def test_many_callers_share_commits_in_order(database_dsn, reader, entry):
    observed = Observed()
    entries = [entry() for _ in range(300)]
    async with writing(database_dsn, observer=observed, batch_max=64) as writer:
        await writer.append(entry())
        indexes = await asyncio.gather(*(writer.append(one) for one in entries))
    assert indexes == list(range(1, 301))
    assert len(observed.times) <= 1 + 300
    assert {operation for operation, _ in observed.times} == {"append"}
    # 300 entries at 64 a batch: five flushes, and one more where the first left before the others had joined.
    assert 1 + 5 <= len(observed.times) <= 1 + 6
    assert (await reader.verify_gapless()).whole


async def test_a_batch_is_bounded_in_bytes(database_dsn, entry):
    observed = Observed()
    async with writing(database_dsn, observer=observed, batch_bytes_max=50_000) as writer:
        await asyncio.gather(*(writer.append(entry(size=20_000)) for _ in range(10)))
    assert len(observed.times) >= 5


async def test_the_commit_is_durable_whatever_the_role_says(database_dsn, database, entry, witness):
    name = await database.fetchval("SELECT current_database()")
    await database.execute(f"ALTER DATABASE {name} SET synchronous_commit = off")
    await database.execute(f"ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'")
    await database.execute(witness)
    async with writing(database_dsn) as writer:
        await writer.append(entry())
    assert await database.fetch("SELECT * FROM witnessed") == [("on", "read committed")]


async def test_what_is_stronger_than_durable_stays_as_it_is(database_dsn, database, entry, witness):
    name = await database.fetchval("SELECT current_database()")
    await database.execute(f"ALTER DATABASE {name} SET synchronous_commit = remote_apply")
    await database.execute(witness)
    async with writing(database_dsn) as writer:
        await writer.append(entry())
    assert await database.fetchval("SELECT durable FROM witnessed") == "remote_apply"


async def test_an_answer_that_was_lost_is_found_again(wire, reader, entry, fault):
    async with writing(wire.dsn) as writer:
        assert await writer.append(entry()) == 0
        wire.fault = fault.LOSE_THE_ANSWER
        one = entry()
        assert await writer.append(one) == 1
        assert wire.struck.is_set()
        assert wire.connections == 2
        assert await writer.append(entry()) == 2
    assert (await reader.get(1)).id == one.id
    assert (await reader.verify_gapless()).size == 3


async def test_a_question_that_was_lost_is_asked_again(wire, reader, entry, fault):
    async with writing(wire.dsn) as writer:
        await writer.append(entry())
        wire.fault = fault.LOSE_THE_QUESTION
        entries = [entry() for _ in range(20)]
        indexes = await asyncio.gather(*(writer.append(one) for one in entries))
        assert wire.struck.is_set()
    assert sorted(indexes) == list(range(1, 21))
    for idx, one in zip(indexes, entries, strict=True):
        assert (await reader.get(idx)).id == one.id
    assert (await reader.verify_gapless()).whole


async def test_when_nothing_moves_the_deadline_answers_and_it_recovers(wire, reader, entry, fault):
    observed = Observed()
    async with writing(wire.dsn, observer=observed) as writer:
        await writer.append(entry())
        wire.fault = fault.HANG
        with deadline(writer, 1.0):
            error = await refused(writer.append(entry()))
            assert error.kind is Kind.TIMEOUT
            assert error.retry_after
            waiting = asyncio.create_task(writer.append(entry()))
            assert (await refused(waiting)).kind is Kind.TIMEOUT
        wire.mended.set()
        await until(lambda: writer.waiting == 0)
        await writer.append(entry())
    report = await reader.verify_gapless()
    assert report.whole
    # The one that hung may have been written when the wire was mended; nobody was told that it was.
    assert report.size in {2, 3}


async def test_a_hanging_connection_is_given_up(wire, entry, fault, monkeypatch):
    monkeypatch.setattr("app.persistence.engine.CLIENT_GRACE", 0.0)

    async with writing(wire.dsn, deadline=1.0) as writer:
        await in_the_end(writer, entry)
        before = wire.connections
        wire.fault = fault.HANG
        await refused(writer.append(entry()))
        # Never mended: the writer leaves this connection and opens another.
        await until(lambda: wire.connections > before)
        await until(lambda: writer.connected)
        await in_the_end(writer, entry)


async def test_callers_wait_for_a_database_that_is_away_for_a_moment(wire, entry):
    await wire.cut()
    async with writing(
        wire.dsn, backoff=(0.0, 0.05), breaker=CircuitBreaker(clock=time.monotonic, failures_to_open=10_000)
    ) as writer:
        waiting = [asyncio.create_task(writer.append(entry())) for _ in range(10)]
        await until(lambda: writer._failures >= 2)
        assert not writer.connected
        await wire.open()
        assert sorted(await asyncio.gather(*waiting)) == list(range(10))


async def test_a_database_that_stays_away_opens_the_breaker_and_one_caller_closes_it(wire, entry):
    now = [0.0]
    observed = Observed()
    breaker = CircuitBreaker(clock=lambda: now[0], recovery=5.0)
    await wire.cut()
    async with writing(
        wire.dsn, deadline=1.0, breaker=breaker, observer=observed, backoff=(0.0, 0.0, 0.0, 0.0, 600.0)
    ) as writer:
        await until(lambda: writer.breaker is BreakerState.OPEN)
        error = await refused(writer.append(entry()))
        assert error.kind is Kind.UNAVAILABLE
        assert error.retry_after == pytest.approx(5.0)
        assert writer.waiting == 0
        assert "breaker_open" in observed.errors
        assert observed.errors.count("connection") == 5
        now[0] += 5.0
        # Half open: this one is let in and is the reason for one more try, long before the writer's own pause is over.
        assert (await refused(writer.append(entry()))).kind is Kind.UNAVAILABLE
        await until(lambda: writer.breaker is BreakerState.OPEN)
        await wire.open()
        with deadline(writer, PATIENT):
            async with asyncio.timeout(60):
                while writer.breaker is not BreakerState.CLOSED:
                    now[0] += 5.0
                    with contextlib.suppress(FirewallError):
                        await writer.append(entry())
            assert await writer.append(entry()) >= 1


async def test_who_waits_for_an_absent_database_is_told_so(wire, entry):
    await wire.cut()
    breaker = CircuitBreaker(clock=time.monotonic, failures_to_open=10_000)
    async with writing(wire.dsn, deadline=0.1, breaker=breaker) as writer:
        error = await refused(writer.append(entry()))
        assert error.kind is Kind.UNAVAILABLE
        assert error.retry_after


async def test_a_full_line_is_refused_at_once(wire, entry, fault):
    async with writing(wire.dsn, queue_max=3) as writer:
        await writer.append(entry())
        wire.fault = fault.HANG
        hanging = asyncio.create_task(writer.append(entry()))
        await wire.struck.wait()
        waiting = [asyncio.create_task(writer.append(entry())) for _ in range(3)]
        await asyncio.sleep(0)
        error = await refused(writer.append(entry()))
        assert error.kind is Kind.OVERLOADED
        assert error.retry_after
        wire.mended.set()
        assert list(await asyncio.gather(hanging, *waiting)) == [1, 2, 3, 4]


async def test_a_full_line_in_bytes_is_refused_too(wire, entry, fault):
    async with writing(wire.dsn, queue_bytes_max=10_000) as writer:
        await writer.append(entry())
        wire.fault = fault.HANG
        hanging = asyncio.create_task(writer.append(entry()))
        await wire.struck.wait()
        waiting = asyncio.create_task(writer.append(entry(size=10_000)))
        await asyncio.sleep(0)
        assert (await refused(writer.append(entry()))).kind is Kind.OVERLOADED
        wire.mended.set()
        assert list(await asyncio.gather(hanging, waiting)) == [1, 2]


async def test_a_caller_that_leaves_the_line_writes_nothing(wire, reader, entry, fault):
    async with writing(wire.dsn) as writer:
        await writer.append(entry())
        wire.fault = fault.HANG
        hanging = asyncio.create_task(writer.append(entry()))
        await wire.struck.wait()
        left = asyncio.create_task(writer.append(entry()))
        stayed = asyncio.create_task(writer.append(entry()))
        await asyncio.sleep(0)
        left.cancel()
        with pytest.raises(asyncio.CancelledError):
            await left
        assert writer.waiting == 2
        wire.mended.set()
        assert list(await asyncio.gather(hanging, stayed)) == [1, 2]
    assert (await reader.verify_gapless()).size == 3


async def test_a_caller_that_leaves_in_flight_is_neither_lost_nor_leaked(wire, reader, entry, fault):
    async with writing(wire.dsn) as writer:
        await writer.append(entry())
        wire.fault = fault.HANG
        left, stayed = (asyncio.create_task(writer.append(entry())) for _ in range(2))
        await wire.struck.wait()
        left.cancel()
        with pytest.raises(asyncio.CancelledError):
            await left
        wire.mended.set()
        await stayed
        await until(lambda: writer.waiting == 0)
        await writer.append(entry())
    report = await reader.verify_gapless()
    assert report.whole
    assert report.size == 4


@pytest.mark.parametrize("loss", ["LOSE_THE_ANSWER", "LOSE_THE_QUESTION"])
async def test_who_left_before_the_connection_broke_is_not_written_again(wire, reader, entry, fault, loss):
    async with writing(wire.dsn) as writer:
        await writer.append(entry())
        wire.fault = fault[loss]
        left = asyncio.create_task(writer.append(entry()))
        await asyncio.sleep(0)
        left.cancel()
        with pytest.raises(asyncio.CancelledError):
            await left
        last = await writer.append(entry())
    report = await reader.verify_gapless()
    assert report.whole
    assert report.size == last + 1


async def test_the_same_entry_twice_has_one_index(database_dsn, reader, entry):
    one = entry()
    async with writing(database_dsn) as writer:
        first = await writer.append(one)
        assert await writer.append(one) == first
        assert await asyncio.gather(*(writer.append(one) for _ in range(5))) == [first] * 5
        assert await writer.append(entry()) == 1
    assert (await reader.verify_gapless()).whole


async def test_another_entry_with_a_known_id_is_a_conflict_and_its_neighbours_are_written(database_dsn, reader, entry):
    id_ = uuid4()
    async with writing(database_dsn) as writer:
        await writer.append(entry(entry_id=id_))
        tasks = [
            asyncio.create_task(writer.append(one)) for one in (entry(), entry(), entry(entry_id=id_), entry(), entry())
        ]
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(outcomes[2], FirewallError)
    assert outcomes[2].kind is Kind.CONFLICT
    assert set(outcomes[:2] + outcomes[3:]) == {1, 2, 3, 4}
    assert (await reader.verify_gapless()).whole


@pytest.mark.parametrize(
    "wrong", [{"receipt": b"x" * 5000}, {"salt": b"short"}, {"record": "no bytes"}, {"kind": "gossip"}]
)
async def test_what_the_database_refuses_fails_alone(database_dsn, reader, entry, wrong):
    bad = entry()._replace(**wrong)
    async with writing(database_dsn) as writer:
        tasks = [asyncio.create_task(writer.append(one)) for one in (entry(), bad, entry())]
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(outcomes[1], FirewallError)
        assert outcomes[1].kind is Kind.UNAVAILABLE
        assert {outcomes[0], outcomes[2]} == {0, 1}
        assert writer.connected
    assert (await reader.verify_gapless()).whole


async def test_a_statement_that_waits_too_long_is_a_timeout(database_dsn, database, reader, entry):
    async with writing(database_dsn, statement_timeout=1.0) as writer:
        before = await in_the_end(writer, entry)
        async with database.transaction():
            await database.execute("SELECT 1 FROM ledger_head FOR UPDATE")
            error = await refused(writer.append(entry()))
        assert error.kind is Kind.TIMEOUT
        assert error.retry_after
        assert await in_the_end(writer, entry) > before
    assert (await reader.verify_gapless()).whole


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("53100", Kind.UNAVAILABLE),
        ("40001", None),
        ("40P01", None),
        ("57P01", None),
        ("25006", None),
        ("XX000", Kind.UNAVAILABLE),
    ],
)
async def test_each_class_of_server_error_has_its_way(database_dsn, database, reader, entry, code, told):
    # A sequence is not rolled back, so the trigger strikes once.
    await database.execute("CREATE SEQUENCE strikes")
    await database.execute(f"""
        CREATE FUNCTION strike() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF nextval('strikes') = 1 THEN RAISE EXCEPTION 'struck' USING ERRCODE = '{code}'; END IF;
            RETURN NULL;
        END $$""")
    await database.execute(
        "CREATE TRIGGER strike BEFORE INSERT ON ledger_entries FOR EACH STATEMENT EXECUTE FUNCTION strike()"
    )
    async with writing(database_dsn) as writer:
        if told is None:
            assert await writer.append(entry()) == 0
        else:
            error = await refused(writer.append(entry()))
            assert error.kind is told
            assert "struck" not in str(error)
        assert await writer.append(entry()) == (1 if told is None else 0)
    assert (await reader.verify_gapless()).whole


async def test_terminated_backends_lose_nothing(database_dsn, database, reader, entry):
    stop = asyncio.Event()
    acknowledged = []

    async def caller(writer):
        while not stop.is_set():
            one = entry()
            acknowledged.append((await writer.append(one), one.id))

    breaker = CircuitBreaker(clock=time.monotonic, failures_to_open=10_000)
    async with writing(database_dsn, breaker=breaker) as writer:
        callers = [asyncio.create_task(caller(writer)) for _ in range(16)]
        for round_ in range(1, 11):
            await until(lambda least=round_ * 40: len(acknowledged) >= least)
            await database.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        stop.set()
        await asyncio.gather(*callers)
    report = await reader.verify_gapless()
    assert report.whole
    assert report.size == len(acknowledged) == len(set(acknowledged))
    rows = await database.fetch("SELECT idx, id FROM ledger_entries")
    assert {(row["idx"], row["id"]) for row in rows} == set(acknowledged)


async def test_it_connects_again_although_nobody_asks(wire, entry):
    async with writing(wire.dsn) as writer:
        await until(lambda: writer.connected)
        await wire.cut()
        await until(lambda: not writer.connected)
        await wire.open()
        await until(lambda: writer.connected)
        assert wire.connections == 2
        assert writer.breaker is BreakerState.CLOSED
        assert await writer.append(entry()) == 0


async def test_a_database_without_schema_is_unavailable_until_it_has_one(empty_database_dsn, entry):
    from app.migrations import schema

    breaker = CircuitBreaker(clock=time.monotonic, failures_to_open=10_000)
    async with writing(empty_database_dsn, breaker=breaker) as writer:
        with deadline(writer, 1.0):
            assert (await refused(writer.append(entry()))).kind is Kind.UNAVAILABLE
        await schema.apply(empty_database_dsn)
        await until(lambda: writer.connected)
        assert await writer.append(entry()) == 0


async def test_a_writer_that_has_nothing_to_write_stops_no_migration(database_dsn, database, entry):
    held = (
        "SELECT count(*) FROM pg_locks JOIN pg_class ON relation = pg_class.oid"
        " WHERE relname LIKE 'ledger%' AND pid <> pg_backend_pid()"
    )
    async with writing(database_dsn) as writer:
        assert await writer.wait_connected(within=60)
        assert await database.fetchval(held) == 0
        await writer.append(entry())
        assert await database.fetchval(held) == 0


async def test_a_replica_is_not_written_to(database_dsn, database, entry):
    name = await database.fetchval("SELECT current_database()")
    await database.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    async with writing(database_dsn, deadline=0.2) as writer:
        assert (await refused(writer.append(entry()))).kind is Kind.UNAVAILABLE
        assert not writer.connected


async def test_a_ledger_without_head_is_told(database_dsn, database, entry):
    await database.execute("ALTER TABLE ledger_head DISABLE TRIGGER ALL")
    await database.execute("DELETE FROM ledger_head")
    async with writing(database_dsn) as writer:
        error = await refused(writer.append(entry()))
    assert error.kind is Kind.UNAVAILABLE
    assert "head" in error.detail


async def test_a_statement_that_nobody_waits_for_does_not_stay_in_the_server(database_dsn, database, entry):
    """Whatever the time for a statement is: after twice the deadline everybody has been told that it took too long."""
    under_way = (
        "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND ltrim(query, E'\\n') LIKE 'WITH head%'"
    )
    async with writing(database_dsn, deadline=1.0, statement_timeout=3600) as writer:
        with deadline(writer, PATIENT):
            await in_the_end(writer, entry)
        async with database.transaction():
            await database.execute("SELECT 1 FROM ledger_head FOR UPDATE")
            assert (await refused(writer.append(entry()))).kind is Kind.TIMEOUT
            async with asyncio.timeout(60):
                while await database.fetchval(under_way):
                    await database.execute("SELECT pg_stat_clear_snapshot()")
                    await asyncio.sleep(0.05)


async def test_stopping_writes_what_waits_and_refuses_what_comes(database_dsn, reader, entry):
    writer = LedgerWriter(database_dsn, deadline=PATIENT)
    assert (await refused(writer.append(entry()))).kind is Kind.UNAVAILABLE
    await writer.stop()  # never started: harmless
    await writer.start()
    await writer.start()  # twice: harmless
    tasks = [asyncio.create_task(writer.append(entry())) for _ in range(50)]
    await asyncio.sleep(0)
    stopping = asyncio.create_task(writer.stop(drain_timeout=PATIENT))
    await asyncio.sleep(0)
    assert (await refused(writer.append(entry()))).kind is Kind.UNAVAILABLE
    await stopping
    assert sorted(await asyncio.gather(*tasks)) == list(range(50))
    assert not writer.connected
    # And again from the beginning.
    await writer.start()
    assert await writer.append(entry()) == 50
    await writer.stop()
    assert (await reader.verify_gapless()).whole


async def test_stopping_does_not_wait_for_ever(wire, entry, fault):
    async with writing(wire.dsn) as writer:
        await writer.append(entry())
        wire.fault = fault.HANG
        tasks = [asyncio.create_task(writer.append(entry())) for _ in range(3)]
        await wire.struck.wait()
        tasks.append(asyncio.create_task(writer.append(entry())))
        await asyncio.sleep(0)
        await writer.stop(drain_timeout=0.01)
        for task in tasks:
            assert (await refused(task)).kind is Kind.UNAVAILABLE
        assert writer.waiting == 0


async def test_some_that_are_appended_together_leave_together(wire, reader, entry, fault):
    async with writing(wire.dsn, batch_max=2) as writer:
        await writer.append(entry())
        wire.fault = fault.HANG
        hanging = asyncio.create_task(writer.append(entry()))
        await wire.struck.wait()
        five = [entry() for _ in range(5)]
        together = asyncio.create_task(writer.append_all(five))
        await asyncio.sleep(0)
        assert writer.waiting == 6
        together.cancel()
        with pytest.raises(asyncio.CancelledError):
            await together
        assert writer.waiting == 1
        wire.mended.set()
        assert await hanging == 1
        assert await writer.append(entry()) == 2
    assert (await reader.verify_gapless()).size == 3


async def test_some_that_are_appended_together_find_a_full_line_together(wire, entry, fault):
    """Whoever is let in gets in whole: the line is longer by one such group at most."""
    async with writing(wire.dsn, queue_max=3) as writer:
        await writer.append(entry())
        wire.fault = fault.HANG
        hanging = asyncio.create_task(writer.append(entry()))
        await wire.struck.wait()
        five = [entry() for _ in range(5)]
        let_in = asyncio.create_task(writer.append_all(five))
        await asyncio.sleep(0)
        error = await refused(writer.append_all([entry(), entry()]))
        assert error.kind is Kind.OVERLOADED
        assert writer.waiting == 6
        wire.mended.set()
        assert await hanging == 1
        assert await let_in == [2, 3, 4, 5, 6]


async def test_batches_grow_while_one_is_under_way(wire, entry, fault):
    observed = Observed()
    async with writing(wire.dsn, observer=observed) as writer:
        await writer.append(entry())
        wire.fault = fault.HANG
        hanging = asyncio.create_task(writer.append(entry()))
        await wire.struck.wait()
        waiting = [asyncio.create_task(writer.append(entry())) for _ in range(200)]
        await asyncio.sleep(0)
        wire.mended.set()
        assert list(await asyncio.gather(hanging, *waiting)) == list(range(1, 202))
    # One alone, the one that hung, and all the others.
    assert len(observed.times) == 3
