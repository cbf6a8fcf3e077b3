"""Reads the ledger: one entry, its size, and whether its index is without a gap."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from app.errors import FirewallError, Kind
from app.ledger.receipt import EntryKind, leaf_hash, record_digest
from app.persistence.engine import DATABASE_ERRORS, translate
from app.persistence.tables import ledger_archives, ledger_entries, ledger_erasures, ledger_head, ledger_records

# A gap report is for a person; the count is complete, the list is not.
GAPS_SHOWN = 10


class RecordState(StrEnum):
    """What became of an entry's record. Its receipt stays whatever became of it."""

    KEPT = "kept"
    ERASED = "erased"  # by law; an entry of its own says so
    ARCHIVED = "archived"  # with all of its month: it is not in this database any more
    MISSING = "missing"  # nothing says where it went: the database is damaged


@dataclass(frozen=True, slots=True)
class Erasure:
    """That a record was erased: who did it, why, and the ledger's entry of it."""

    at: datetime
    by: str
    reason: str
    ledger_id: UUID
    ledger_index: int


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """One entry as it stands in the ledger; `salt` and `record` are None where the record was erased or archived."""

    idx: int
    id: UUID
    kind: EntryKind
    recorded_at: datetime
    receipt: bytes
    salt: bytes | None
    record: bytes | None
    erasure: Erasure | None = None
    archived: bool = False

    @property
    def state(self) -> RecordState:
        """What became of its record. Does not check: that its month's archive has it."""
        if self.record is not None:
            return RecordState.KEPT
        if self.erasure is not None:
            return RecordState.ERASED
        return RecordState.ARCHIVED if self.archived else RecordState.MISSING

    @property
    def leaf_hash(self) -> bytes:
        """Its leaf in the Merkle tree, 32 bytes."""
        return leaf_hash(self.receipt)

    @property
    def record_digest(self) -> str | None:
        """The digest of the record as it stands, to compare with the receipt's; None where it was erased."""
        return None if self.salt is None or self.record is None else record_digest(self.salt, self.record)


@dataclass(frozen=True, slots=True)
class GapReport:
    """What `verify_gapless` found: `size` is what the head says, `gaps` are the first missing indexes."""

    size: int
    entries: int
    records: int
    highest: int | None
    gaps: tuple[int, ...]

    @property
    def whole(self) -> bool:
        """Whether the entries are exactly 0 .. size-1. Records may be fewer: they can be erased."""
        return not self.gaps and self.entries == self.size and self.highest == (self.size - 1 if self.size else None)


class LedgerReader:
    """Reads through an engine. Every method raises FirewallError (UNAVAILABLE, TIMEOUT) when the database fails."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def get(self, idx: int) -> LedgerEntry:
        """The entry at an index. Raises FirewallError (NOT_FOUND)."""
        # Beyond bigint the driver would raise; no entry is there either.
        if 0 <= idx < 2**63:
            for entry in await self._entries(ledger_entries.c.idx == idx):
                return entry
        raise FirewallError(Kind.NOT_FOUND, f"the ledger has no entry `{idx}`")

    async def get_by_id(self, id: UUID) -> LedgerEntry:  # noqa: A002 - the column's name
        """The entry with an id. Raises FirewallError (NOT_FOUND)."""
        for entry in await self._entries(ledger_entries.c.id == id):
            return entry
        raise FirewallError(Kind.NOT_FOUND, f"the ledger has no entry `{id}`")

    async def size(self) -> int:
        """How many entries there are: the index that the next one gets."""
        found = await self._rows(sa.select(ledger_head.c.next_index))
        if not found:
            raise FirewallError(Kind.UNAVAILABLE, "the ledger has no head", fix="restore the database from its backup")
        return int(found[0].next_index)

    async def verify_gapless(self) -> GapReport:
        """Whether every index below the head has its entry and none is beyond. Reads the whole index of the table."""
        present = (
            sa.select(
                ledger_entries.c.idx,
                sa.func.lag(ledger_entries.c.idx, 1, -1).over(order_by=ledger_entries.c.idx).label("before"),
            )
        ).subquery()
        # One statement, hence one snapshot: writers may go on meanwhile.
        gaps = sa.select(present.c.before + 1).where(present.c.idx > present.c.before + 1)
        first = gaps.order_by(present.c.idx).limit(GAPS_SHOWN)
        rows = await self._rows(
            sa.select(
                sa.select(ledger_head.c.next_index).scalar_subquery().label("size"),
                sa.select(sa.func.count()).select_from(ledger_entries).scalar_subquery().label("entries"),
                sa.select(sa.func.count()).select_from(ledger_records).scalar_subquery().label("records"),
                sa.select(sa.func.max(ledger_entries.c.idx)).scalar_subquery().label("highest"),
                sa.func.array(first.scalar_subquery()).label("gaps"),
            )
        )
        found = rows[0]
        return GapReport(
            size=int(found.size or 0),
            entries=found.entries,
            records=found.records,
            highest=found.highest,
            gaps=tuple(found.gaps),
        )

    async def _entries(self, condition: "sa.ColumnElement[bool]") -> list[LedgerEntry]:
        # By both, so that one partition is looked into.
        joined = ledger_entries.outerjoin(
            ledger_records,
            sa.and_(
                ledger_records.c.idx == ledger_entries.c.idx,
                ledger_records.c.recorded_at == ledger_entries.c.recorded_at,
            ),
        ).outerjoin(ledger_erasures, ledger_erasures.c.idx == ledger_entries.c.idx)
        gone = ledger_erasures.c
        erased = (gone.erased_at, gone.erased_by, gone.reason, gone.ledger_id, gone.ledger_index)
        rows = await self._rows(
            sa.select(
                ledger_entries,
                ledger_records.c.salt,
                ledger_records.c.record,
                *erased,
                archived_at(ledger_entries.c.recorded_at).label("archived"),
            )
            .select_from(joined)
            .where(condition)
        )
        return [
            LedgerEntry(
                idx=row.idx,
                id=row.id,
                kind=EntryKind(row.kind),
                recorded_at=row.recorded_at,
                receipt=row.receipt,
                salt=row.salt,
                record=row.record,
                erasure=None
                if row.erased_at is None
                else Erasure(row.erased_at, row.erased_by, row.reason, row.ledger_id, row.ledger_index),
                archived=row.archived,
            )
            for row in rows
        ]

    async def _rows(self, statement: "sa.Select[Any]") -> "list[sa.Row[Any]]":
        try:
            async with self._engine.connect() as connection:
                return list(await connection.execute(statement))
        except DATABASE_ERRORS as error:
            raise translate(error) from error


def archived_at(recorded_at: "sa.ColumnElement[datetime] | datetime") -> "sa.ColumnElement[bool]":
    """Whether the month of a record was archived, as a condition."""
    return sa.exists().where(ledger_archives.c.starts_at <= recorded_at, ledger_archives.c.ends_at > recorded_at)
