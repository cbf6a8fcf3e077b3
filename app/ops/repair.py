"""What an integrity check may put right: nothing in the log, only what can be made again or has had its time."""

from collections.abc import Collection
from typing import Any, Final

import asyncpg
import sqlalchemy as sa

from app.core.integrity import IntegrityCheck
from app.ledger.search import FILL
from app.ops.findings import Findings
from app.ops.structure import disabled_triggers
from app.persistence.engine import DATABASE_ERRORS, connect, create_engine, explained
from app.persistence.partitions import make_ahead
from app.persistence.tables import ledger_search, ledger_search_progress

# Rows in one statement: nobody waits for long, and an interruption loses little.
_SWEPT_AT_ONCE: Final = 1000
_SWEEP: Final = """
DELETE FROM {table} WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM {table} WHERE expires_at < clock_timestamp() LIMIT {rows} FOR UPDATE SKIP LOCKED
))
"""
_SWEPT: Final = ("idempotency_keys", "budget_uses")


async def repair(dsn: str, findings: Findings, *, search: Collection[int] = ()) -> None:
    """Put right what was found and can be; `search` are the indexes to be indexed again. Safe to repeat.

    Raises FirewallError (UNAVAILABLE, TIMEOUT), also where the role may not do it.
    """
    if findings.has(IntegrityCheck.PARTITIONS):
        made = await make_ahead(dsn)
        findings.repaired(IntegrityCheck.PARTITIONS, f"made {len(made.partitions)} partitions, moved {made.moved} rows")
    if search:
        findings.repaired(IntegrityCheck.SEARCH, f"indexed {await _index_again(dsn, search)} entries again")
    if not (findings.has(IntegrityCheck.EXPIRED) or findings.has(IntegrityCheck.TRIGGERS)):
        return
    try:
        connection = await connect(dsn, settings={"lock_timeout": "5s"}, writable=True)
        try:
            if findings.has(IntegrityCheck.EXPIRED):
                findings.repaired(IntegrityCheck.EXPIRED, f"swept {await _sweep(connection)} rows")
            if findings.has(IntegrityCheck.TRIGGERS):
                findings.repaired(IntegrityCheck.TRIGGERS, f"enabled {await _enable(connection)} triggers")
        finally:
            await connection.close()
    except DATABASE_ERRORS as error:
        raise explained(error) from error


async def _index_again(dsn: str, search: Collection[int]) -> int:
    engine = create_engine(dsn, pool_size=1)
    try:
        for idx in sorted(search):
            async with engine.begin() as connection:
                # Who indexes or erases holds this row (app/ledger/search.py).
                await connection.execute(sa.select(ledger_search_progress.c.next_index).with_for_update())
                await connection.execute(sa.delete(ledger_search).where(ledger_search.c.idx == idx))
                await connection.execute(FILL, {"start": idx, "end": idx + 1})
    except DATABASE_ERRORS as error:
        raise explained(error) from error
    finally:
        await engine.dispose()
    return len(search)


async def _sweep(connection: "asyncpg.Connection[Any]") -> int:
    swept = 0
    for table in _SWEPT:
        count = _SWEPT_AT_ONCE
        while count == _SWEPT_AT_ONCE:
            tag = await connection.execute(_SWEEP.format(table=table, rows=_SWEPT_AT_ONCE))
            count = int(tag.rpartition(" ")[2])
            swept += count
    return swept


async def _enable(connection: "asyncpg.Connection[Any]") -> int:
    """Enable triggers that are there; one that is missing is made by a migration, or comes with a backup."""
    disabled = await disabled_triggers(connection)
    for table, name in disabled:
        await connection.execute(f'ALTER TABLE {table} ENABLE ALWAYS TRIGGER "{name}"')
    return len(disabled)
