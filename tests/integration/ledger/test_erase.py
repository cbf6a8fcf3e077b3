"""A record goes with the entry that says so, or not at all."""

import asyncio
import os
from datetime import UTC, datetime
from uuid import uuid4

import asyncpg
import pytest

from app.core.principal import AuthMethod, Principal, PrincipalKind, Role
from app.errors import FirewallError, Kind
from app.ledger.append import LedgerWriter
from app.ledger.erase import RecordEraser
from app.ledger.read import LedgerReader, RecordState
from app.ledger.receipt import EntryKind, parse, seal
from app.ledger.search import DecisionIndex, Indexer, Wanted
from tests.integration.ledger.conftest import PATIENT

ADMIN = Principal("admin", PrincipalKind.USER, frozenset({Role.ADMIN}), AuthMethod.API_KEY)
NOW = datetime(2026, 3, 1, tzinfo=UTC)
SUBJECT = Wanted(subject=("agent", "coder-7"))


def sealed(idx):
    said = {"act": "erase-record", "erased_index": str(idx)}
    return seal(EntryKind.ERASURE, id=uuid4(), at=NOW, principal=ADMIN, members=said, record={}, salt=os.urandom(32))


@pytest.fixture
async def entries(database_dsn, entry):
    made = [entry() for _ in range(3)]
    writer = LedgerWriter(database_dsn, deadline=PATIENT)
    await writer.start()
    for one in made:
        await writer.append(one)
    await writer.stop()
    return made


def erase(engine, one, *, seal=sealed, reason="asked for"):
    return RecordEraser(engine).erase(one.id, reason=reason, by="admin", at=NOW, seal=seal)


async def indexed(engine):
    indexer = Indexer(engine)
    while await indexer.step():
        pass


async def test_the_record_goes_and_the_entry_stays(engine, entries):
    await indexed(engine)
    reader = LedgerReader(engine)
    done = await erase(engine, entries[1])
    assert (done.idx, done.before) == (1, False)
    found = await reader.get(1)
    assert (found.state, found.salt, found.record, found.receipt) == (
        RecordState.ERASED,
        None,
        None,
        entries[1].receipt,
    )
    assert found.erasure == done.erasure
    assert (done.erasure.by, done.erasure.reason, done.erasure.at, done.erasure.ledger_index) == (
        "admin",
        "asked for",
        NOW,
        3,
    )
    said = await reader.get(3)
    assert (said.kind, said.id, said.state) == (EntryKind.ERASURE, done.erasure.ledger_id, RecordState.KEPT)
    assert parse(said.receipt)["erased_index"] == "1"
    page = await DecisionIndex(engine).page(SUBJECT, limit=10)
    assert [one.idx for one in page.items] == [2, 0]
    assert (await reader.verify_gapless()).whole


async def test_what_is_erased_before_it_is_indexed_never_comes_into_the_index(engine, entries):
    await erase(engine, entries[0])
    await indexed(engine)
    page = await DecisionIndex(engine).page(SUBJECT, limit=10)
    assert [one.idx for one in page.items] == [2, 1]


async def test_it_waits_for_the_slice_that_is_being_indexed(engine, entries, database_dsn):
    connection = await asyncpg.connect(database_dsn)
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute("SELECT FROM ledger_search_progress FOR UPDATE")
    waiting = asyncio.create_task(erase(engine, entries[0]))
    async with asyncio.timeout(60):
        while not await connection.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
            await asyncio.sleep(0.01)
    assert (await LedgerReader(engine).get(0)).state is RecordState.KEPT
    await transaction.commit()
    await connection.close()
    assert (await waiting).idx == 0


class ReasonError(Exception):
    pass


async def test_a_failure_before_the_entry_leaves_everything(engine, entries):
    def broken(_idx):
        raise ReasonError

    with pytest.raises(ReasonError):
        await erase(engine, entries[0], seal=broken)
    assert (await LedgerReader(engine).get(0)).state is RecordState.KEPT
    assert await LedgerReader(engine).size() == 3


@pytest.mark.parametrize("table", ["ledger_entries", "ledger_erasures", "ledger_records", "ledger_search"])
async def test_a_failure_at_any_step_leaves_everything(engine, entries, database_dsn, table):
    await indexed(engine)
    connection = await asyncpg.connect(database_dsn)
    await connection.execute(
        "CREATE FUNCTION fails() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no'; END $$"
    )
    await connection.execute(
        f"CREATE TRIGGER fails BEFORE INSERT OR DELETE ON {table} FOR EACH ROW EXECUTE FUNCTION fails()"
    )
    with pytest.raises(FirewallError) as caught:
        await erase(engine, entries[0])
    assert caught.value.kind is Kind.UNAVAILABLE
    reader = LedgerReader(engine)
    assert (await reader.get(0)).state is RecordState.KEPT
    assert await reader.size() == 3
    assert (await reader.verify_gapless()).whole
    assert len((await DecisionIndex(engine).page(SUBJECT, limit=10)).items) == 3
    await connection.execute(f"DROP TRIGGER fails ON {table}")
    await connection.close()
    assert not (await erase(engine, entries[0])).before


async def test_a_caller_that_leaves_leaves_nothing_half_done(engine, entries, database_dsn):
    connection = await asyncpg.connect(database_dsn)
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute("SELECT FROM ledger_head FOR UPDATE")
    leaving = asyncio.create_task(erase(engine, entries[0]))
    async with asyncio.timeout(60):
        while not await connection.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
            await asyncio.sleep(0.01)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    await transaction.rollback()
    await connection.close()
    assert (await LedgerReader(engine).get(0)).state is RecordState.KEPT
    assert (await erase(engine, entries[0])).erasure.ledger_index == 3


async def test_who_comes_second_is_told_of_the_first(engine, entries):
    done = await asyncio.gather(*(erase(engine, entries[2], reason=f"number {number}") for number in range(4)))
    assert sorted(one.before for one in done) == [False, True, True, True]
    assert len({one.erasure for one in done}) == 1
    assert await LedgerReader(engine).size() == 4


async def test_what_is_not_there_is_told(engine, entries, entry):
    with pytest.raises(FirewallError) as caught:
        await erase(engine, entry())
    assert caught.value.kind is Kind.NOT_FOUND


async def test_the_entry_of_an_erasure_is_not_erased(engine, entries):
    done = await erase(engine, entries[0])
    with pytest.raises(FirewallError) as caught:
        await RecordEraser(engine).erase(done.erasure.ledger_id, reason="r", by="admin", at=NOW, seal=sealed)
    assert caught.value.kind is Kind.CONFLICT


async def test_what_is_not_in_the_database_is_not_erased(engine, entries, database_dsn):
    connection = await asyncpg.connect(database_dsn)
    await connection.execute("ALTER TABLE ledger_records DISABLE TRIGGER USER")
    await connection.execute("DELETE FROM ledger_records WHERE idx = 1")
    reader = LedgerReader(engine)
    assert (await reader.get(1)).state is RecordState.MISSING
    with pytest.raises(FirewallError, match="is missing") as caught:
        await erase(engine, entries[1])
    assert caught.value.kind is Kind.CONFLICT
    await connection.execute(
        "INSERT INTO ledger_archives SELECT 9, gen_random_uuid(), 'p', recorded_at, recorded_at + interval '1 day',"
        " 1, 1, 1, 'f', 1, sha256(''), 'me', now() FROM ledger_entries WHERE idx = 1"
    )
    await connection.close()
    assert (await reader.get(1)).state is RecordState.ARCHIVED
    with pytest.raises(FirewallError, match="in the archive of") as caught:
        await erase(engine, entries[1])
    assert caught.value.kind is Kind.CONFLICT
    assert await reader.size() == 3
