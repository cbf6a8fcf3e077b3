"""Nobody changes what the ledger holds: not the owner, not a superuser, not by any statement."""

import asyncpg
import pytest

from app.ledger.append import LedgerWriter
from tests.integration.ledger.conftest import PATIENT

ENTRIES_MERGE = """
MERGE INTO ledger_entries USING (SELECT 0::bigint AS idx) AS given ON ledger_entries.idx = given.idx
WHEN MATCHED THEN UPDATE SET kind = 'vote'
"""
ENTRIES_UPSERT = """
INSERT INTO ledger_entries (idx, id, kind, receipt) VALUES (0, gen_random_uuid(), 'vote', '{}')
ON CONFLICT (idx) DO UPDATE SET kind = 'vote'
"""

REFUSED = [
    "UPDATE ledger_entries SET kind = 'vote'",
    "UPDATE ledger_entries SET kind = kind WHERE idx = 12345",
    "DELETE FROM ledger_entries",
    "TRUNCATE ledger_entries",
    "TRUNCATE ledger_entries, ledger_records, ledger_head CASCADE",
    ENTRIES_MERGE,
    ENTRIES_UPSERT,
    "UPDATE ledger_records SET record = ''",
    "DELETE FROM ledger_records",
    "TRUNCATE ledger_records",
    "TRUNCATE ledger_records_rest",
    # Where what is appended lies.
    "UPDATE {this_month} SET record = ''",
    "DELETE FROM {this_month}",
    "TRUNCATE {this_month}",
    "UPDATE ledger_head SET next_index = 0",
    "UPDATE ledger_head SET next_index = next_index",
    "DELETE FROM ledger_head",
    "TRUNCATE ledger_head",
    "INSERT INTO ledger_head (singleton, next_index) VALUES (true, 0)",
]

TABLES = ("ledger_head", "ledger_entries", "ledger_records")


@pytest.fixture
async def database(database_dsn, entry):
    writer = LedgerWriter(database_dsn, deadline=PATIENT)
    await writer.start()
    await writer.append(entry())
    await writer.stop()
    connection = await asyncpg.connect(database_dsn)
    yield connection
    await connection.close()


async def state(database):
    return [await database.fetch(f"SELECT * FROM {table} ORDER BY 1") for table in TABLES]


@pytest.mark.parametrize("role", ["superuser", "replica", "owner"])
@pytest.mark.parametrize("statement", REFUSED)
async def test_it_is_refused(database, statement, role):
    before = await state(database)
    this_month = await database.fetchval("SELECT tableoid::regclass::text FROM ledger_records")
    transaction = database.transaction()
    await transaction.start()
    if role == "replica":
        # How a superuser turns ordinary triggers off.
        await database.execute("SET LOCAL session_replication_role = replica")
    elif role == "owner":
        await database.execute("CREATE ROLE plain_owner")
        for table in (*TABLES, this_month, "ledger_records_rest", "ledger_erasures"):
            await database.execute(f"ALTER TABLE {table} OWNER TO plain_owner")
        await database.execute("SET LOCAL ROLE plain_owner")
    with pytest.raises(asyncpg.RestrictViolationError, match="append-only"):
        await database.execute(statement.replace("{this_month}", this_month))
    await transaction.rollback()
    assert await state(database) == before


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO ledger_entries (idx, id, kind, receipt) VALUES (0, gen_random_uuid(), 'vote', '{}')",
        "INSERT INTO ledger_entries (idx, id, kind, receipt) SELECT 1, id, 'vote', '{}' FROM ledger_entries",
        "INSERT INTO ledger_entries (idx, id, kind, receipt) VALUES (-1, gen_random_uuid(), 'vote', '{}')",
        "INSERT INTO ledger_entries (idx, id, kind, receipt) VALUES (1, gen_random_uuid(), 'gossip', '{}')",
        "INSERT INTO ledger_entries (idx, id, kind, receipt) VALUES (1, gen_random_uuid(), 'vote', '')",
        "INSERT INTO ledger_entries (idx, id, kind, receipt) VALUES (1, gen_random_uuid(), 'vote', repeat('x', 4097)::bytea)",
        "INSERT INTO ledger_records (idx, salt, record) VALUES (1, 'short', '{}')",
    ],
)
async def test_what_is_no_entry_is_refused(database, statement):
    with pytest.raises(asyncpg.IntegrityConstraintViolationError):
        await database.execute(statement)
