"""What is read back from the ledger, and that a gap in it is noticed."""

from uuid import uuid4

import asyncpg
import pytest

from app.errors import FirewallError, Kind
from app.ledger.append import LedgerWriter
from app.ledger.read import LedgerReader
from app.ledger.receipt import parse
from app.persistence.engine import create_engine
from tests.integration.ledger.conftest import PATIENT


@pytest.fixture
async def entries(database_dsn, entry):
    made = [entry() for _ in range(5)]
    writer = LedgerWriter(database_dsn, deadline=PATIENT)
    await writer.start()
    for one in made:
        await writer.append(one)
    await writer.stop()
    return made


@pytest.fixture
async def meddler(database_dsn):
    """Somebody with every right over the database, who takes the triggers away first."""
    connection = await asyncpg.connect(database_dsn)
    for table in ("ledger_head", "ledger_entries", "ledger_records"):
        await connection.execute(f"ALTER TABLE {table} DISABLE TRIGGER ALL")
    yield connection
    await connection.close()


async def test_an_empty_ledger_is_whole(reader):
    assert await reader.size() == 0
    report = await reader.verify_gapless()
    assert report.whole
    assert (report.size, report.entries, report.highest, report.gaps) == (0, 0, None, ())


async def test_by_index_and_by_id(reader, entries):
    assert await reader.size() == 5
    found = await reader.get(3)
    assert found == await reader.get_by_id(entries[3].id)
    assert parse(found.receipt)["record"] == found.record_digest
    assert found.recorded_at.tzinfo is not None


@pytest.mark.parametrize("idx", [-1, 5, 2**63 - 1, 2**63, -(2**70)])
async def test_no_such_index(reader, entries, idx):
    with pytest.raises(FirewallError) as caught:
        await reader.get(idx)
    assert caught.value.kind is Kind.NOT_FOUND


async def test_no_such_id(reader, entries):
    with pytest.raises(FirewallError) as caught:
        await reader.get_by_id(uuid4())
    assert caught.value.kind is Kind.NOT_FOUND


@pytest.mark.parametrize(
    ("deed", "gaps"),
    [
        ("DELETE FROM ledger_entries WHERE idx = 2", (2,)),
        ("DELETE FROM ledger_entries WHERE idx IN (0, 2, 3)", (0, 2)),
        ("DELETE FROM ledger_entries WHERE idx = 4", ()),
        ("UPDATE ledger_entries SET idx = 9 WHERE idx = 4", (4,)),
        ("UPDATE ledger_head SET next_index = 6", ()),
        ("UPDATE ledger_head SET next_index = 4", ()),
        ("DELETE FROM ledger_head", ()),
    ],
)
async def test_a_gap_is_noticed(reader, entries, meddler, deed, gaps):
    await meddler.execute(deed)
    report = await reader.verify_gapless()
    assert not report.whole
    assert report.gaps == gaps


async def test_an_erased_record_leaves_the_entry(reader, entries, meddler):
    await meddler.execute("DELETE FROM ledger_records WHERE idx = 2")
    found = await reader.get(2)
    assert (found.salt, found.record, found.record_digest) == (None, None, None)
    assert found.receipt == entries[2].receipt
    report = await reader.verify_gapless()
    assert report.whole
    assert report.records == 4


async def test_a_ledger_without_head_is_told(reader, meddler):
    await meddler.execute("DELETE FROM ledger_head")
    with pytest.raises(FirewallError) as caught:
        await reader.size()
    assert caught.value.kind is Kind.UNAVAILABLE


async def test_a_database_that_is_away_is_told():
    engine = create_engine("postgresql://nobody@/none?host=/nowhere")
    with pytest.raises(FirewallError) as caught:
        await LedgerReader(engine).size()
    assert caught.value.kind is Kind.UNAVAILABLE
    assert caught.value.retry_after
    await engine.dispose()
