"""Takes a record away for good, as the law may ask; the entry, its receipt and its place in the tree stay.

One transaction appends the entry that says so, writes down why, and deletes the record and what the index had of it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.errors import FirewallError, Kind
from app.ledger.read import Erasure, archived_at
from app.ledger.receipt import EntryKind, SealedEntry
from app.ledger.within import append_within
from app.persistence.engine import Observer, Transactions
from app.persistence.tables import (
    ledger_entries,
    ledger_erasures,
    ledger_records,
    ledger_search,
    ledger_search_progress,
)

# What people who are not the firewall's own administrators are spoken of in. The other kinds are the acts that those
# answer for, and activations, which a replay needs.
ERASABLE: Final = frozenset({EntryKind.DECISION, EntryKind.REQUEST, EntryKind.VOTE, EntryKind.PERMIT})

_OPERATION: Final = "erase"

# The first lock, and the one that makes erasures and the filling of the index come one after another.
_TURN: Final = sa.select(ledger_search_progress.c.next_index).with_for_update()


@dataclass(frozen=True, slots=True)
class Erased:
    """Which entry has no record any more, and that; `before` tells that it had none already."""

    idx: int
    id: UUID
    erasure: Erasure
    before: bool


# Given the index of the entry whose record goes, the entry that says so.
Seal = Callable[[int], SealedEntry]


class RecordEraser:
    """Erases records through an engine. Raises FirewallError (UNAVAILABLE, TIMEOUT) when the database fails."""

    def __init__(self, engine: AsyncEngine, *, observer: Observer | None = None) -> None:
        self._transaction = Transactions(engine, operation=_OPERATION, observer=observer)

    async def erase(self, id: UUID, *, reason: str, by: str, at: datetime, seal: Seal) -> Erased:  # noqa: A002 - its name
        """Erase the record of the entry with an id; where that was done before, say so and change nothing.

        Raises FirewallError: NOT_FOUND, CONFLICT for a kind that is not erased, and for a record that is not in the
        database.
        """
        async with self._transaction() as connection:
            await connection.execute(_TURN)
            entry = (await connection.execute(sa.select(ledger_entries).where(ledger_entries.c.id == id))).one_or_none()
            if entry is None:
                raise FirewallError(Kind.NOT_FOUND, f"the ledger has no entry `{id}`")
            if entry.kind not in ERASABLE:
                raise FirewallError(
                    Kind.CONFLICT,
                    f"the record of an entry of the kind `{entry.kind}` is not erased",
                    fix=f"records of these kinds are: {', '.join(f'`{kind}`' for kind in sorted(ERASABLE))}",
                )
            done = (
                await connection.execute(sa.select(ledger_erasures).where(ledger_erasures.c.idx == entry.idx))
            ).one_or_none()
            if done is not None:
                was = Erasure(done.erased_at, done.erased_by, done.reason, done.ledger_id, done.ledger_index)
                return Erased(entry.idx, entry.id, was, before=True)
            await self._check_kept(connection, entry.idx, entry.recorded_at)
            # From here on nobody else appends: nothing but what needs it comes after.
            sealed = seal(entry.idx)
            index = await append_within(connection, [sealed])
            await connection.execute(
                sa.insert(ledger_erasures).values(
                    idx=entry.idx,
                    reason=reason,
                    erased_by=by,
                    erased_at=at,
                    ledger_id=sealed.id,
                    ledger_index=index,
                )
            )
            for table in (ledger_records, ledger_search):
                await connection.execute(
                    sa.delete(table).where(table.c.idx == entry.idx, table.c.recorded_at == entry.recorded_at)
                )
        return Erased(entry.idx, entry.id, Erasure(at, by, reason, sealed.id, index), before=False)

    async def _check_kept(self, connection: AsyncConnection, idx: int, recorded_at: datetime) -> None:
        found = await connection.execute(
            sa.select(ledger_records.c.idx).where(
                ledger_records.c.idx == idx, ledger_records.c.recorded_at == recorded_at
            )
        )
        if found.one_or_none() is not None:
            return
        if (await connection.execute(sa.select(archived_at(recorded_at)))).scalar_one():
            month = recorded_at.astimezone(UTC).strftime("%Y-%m")
            raise FirewallError(
                Kind.CONFLICT,
                f"the record of entry `{idx}` is in the archive of `{month}`, and not in this database",
                fix=f"`mfw ledger unarchive {month} --from DIR`, erase it then, and archive the month again",
            )
        raise FirewallError(
            Kind.CONFLICT,
            f"the record of entry `{idx}` is missing, and nothing says why",
            fix="run `mfw integrity check`, and restore what it names",
        )
