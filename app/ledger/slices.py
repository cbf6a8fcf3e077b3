"""Reads a whole ledger from the database, in slices: short read-only transactions, constant memory, no table twice."""

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, Self

import asyncpg

from app.core.tiles import HASH_BYTES, TileId
from app.errors import FirewallError, Kind
from app.ledger.rows import Absent, Activated, LedgerRow, Published
from app.persistence.engine import DATABASE_ERRORS, STATEMENT_TIMEOUT, connect, explained

# Entries in one transaction: short enough to keep no vacuum waiting, long enough that its round trips cost nothing.
SLICE: Final = 4096
# What one process replays at a time: a fraction of a second, so that all of them end at about the same time.
PIECE: Final = 512
# Rows that are on their way at a time: a record may have a megabyte.
_PREFETCH: Final = 64

_SETTINGS: Final = {
    "default_transaction_read_only": "on",
    "default_transaction_isolation": "repeatable read",
}
_BOUNDS: Final = "SELECT min(recorded_at), max(recorded_at) FROM ledger_entries WHERE idx >= $1 AND idx < $2"
_ENTRIES: Final = """
    SELECT idx, id, kind, recorded_at, receipt FROM ledger_entries WHERE idx >= $1 AND idx < $2 ORDER BY idx
"""
# By time as well, so that only the partitions that can have them are looked into.
_RECORDS: Final = """
    SELECT idx, recorded_at, salt, record FROM ledger_records
    WHERE idx >= $1 AND idx < $2 AND recorded_at >= $3 AND recorded_at <= $4 ORDER BY idx
"""
_ACTIVATIONS: Final = """
    SELECT ledger_index, digest, activated_at FROM policy_set_activations ORDER BY ledger_index, sequence
"""
_ARCHIVES: Final = "SELECT first_index, last_index FROM ledger_archives ORDER BY first_index"
_CHECKPOINT: Final = "SELECT size, root, note || cosignatures FROM ledger_checkpoints ORDER BY size DESC LIMIT 1"
_CHECKPOINTS: Final = "SELECT size, note || cosignatures FROM ledger_checkpoints ORDER BY size"
_TREE: Final = "SELECT size, root FROM ledger_tree"
_TILES: Final = """
    SELECT tiles.level, tiles.idx, tiles.hashes FROM ledger_tiles AS tiles
    JOIN unnest($1::smallint[], $2::bigint[]) AS wanted (level, idx) USING (level, idx)
"""
_POLICY_SET: Final = "SELECT documents FROM policy_sets WHERE digest = $1"
_POLICY_SETS: Final = "SELECT digest FROM policy_sets ORDER BY number"


class LedgerDatabase:
    """A connection that reads and cannot write. Every method raises FirewallError (UNAVAILABLE, TIMEOUT)."""

    piece = PIECE

    def __init__(self, connection: "asyncpg.Connection[Any]") -> None:
        self._connection = connection

    @classmethod
    async def open(cls, dsn: str, *, statement_timeout: float = STATEMENT_TIMEOUT) -> Self:
        """Connect. Does not check: the revision of the schema."""
        try:
            return cls(await connect(dsn, statement_timeout=statement_timeout, settings=_SETTINGS))
        except DATABASE_ERRORS as error:
            raise explained(error) from error

    async def close(self) -> None:
        """Close the connection; a server that does not answer any more is not waited for."""
        try:
            await self._connection.close(timeout=2)
        except DATABASE_ERRORS:
            self._connection.terminate()

    async def size(self) -> int:
        """How many entries there are, as the head says."""
        async with self._reading():
            found: int | None = await self._connection.fetchval("SELECT next_index FROM ledger_head")
        if found is None:
            raise FirewallError(Kind.UNAVAILABLE, "the ledger has no head", fix="restore the database from its backup")
        return found

    async def rows(self, start: int, end: int) -> AsyncIterator[LedgerRow]:
        """The entries from `start` up to before `end`, by index; what is missing is left out."""
        for first in range(start, end, SLICE):
            async for row in self._slice(first, min(first + SLICE, end)):
                yield row

    async def _slice(self, start: int, end: int) -> AsyncIterator[LedgerRow]:
        async with self._reading():
            first, last = await self._connection.fetchrow(_BOUNDS, start, end) or (None, None)
            if first is None:
                return
            records = self._connection.cursor(_RECORDS, start, end, first, last, prefetch=_PREFETCH).__aiter__()
            record = await anext(records, None)
            async for entry in self._connection.cursor(_ENTRIES, start, end, prefetch=_PREFETCH):
                while record is not None and record["idx"] < entry["idx"]:
                    record = await anext(records, None)
                salt = kept = None
                while record is not None and record["idx"] == entry["idx"]:
                    if record["recorded_at"] == entry["recorded_at"]:
                        salt, kept = record["salt"], record["record"]
                    record = await anext(records, None)
                idx, identifier, kind, recorded_at, receipt = entry.values()
                yield LedgerRow(idx, identifier, kind, recorded_at, receipt, salt, kept)

    async def activations(self) -> tuple[Activated, ...]:
        """Every activation, by its index in the ledger."""
        async with self._reading():
            return tuple(Activated(*row.values()) for row in await self._connection.fetch(_ACTIVATIONS))

    async def absent(self) -> Absent:
        """Which records were erased, and which lie in archives."""
        async with self._reading():
            erased = await self._connection.fetch("SELECT idx, ledger_index FROM ledger_erasures")
            archived = await self._connection.fetch(_ARCHIVES)
        return Absent(
            {row["idx"]: row["ledger_index"] for row in erased},
            tuple((row["first_index"], row["last_index"] + 1) for row in archived),
        )

    async def policy_set(self, digest: str) -> bytes | None:
        """The documents of a set; None where it is not there."""
        async with self._reading():
            found: bytes | None = await self._connection.fetchval(_POLICY_SET, digest)
        return found

    async def policy_sets(self) -> Collection[str]:
        """The digests of all sets, the oldest first."""
        async with self._reading():
            return [row["digest"] for row in await self._connection.fetch(_POLICY_SETS)]

    async def published(self) -> Published:
        """The newest checkpoint; without any, how far the tree goes."""
        async with self._reading():
            signed = await self._connection.fetchrow(_CHECKPOINT)
            if signed is not None:
                size, root, note = signed.values()
                return Published(size, root, note)
            tree = await self._connection.fetchrow(_TREE)
        if tree is None:
            raise FirewallError(Kind.UNAVAILABLE, "the ledger has no tree", fix="restore the database from its backup")
        return Published(tree["size"], tree["root"], None)

    async def checkpoints(self) -> Sequence[tuple[int, bytes]]:
        """Every checkpoint that is kept, the oldest first."""
        async with self._reading():
            return [(size, note) for size, note in await self._connection.fetch(_CHECKPOINTS)]

    async def tiles(self, wanted: Sequence[TileId]) -> dict[TileId, bytes]:
        """Those of some tiles that are there, cut to the width that is asked for."""
        async with self._reading():
            rows = await self._connection.fetch(
                _TILES, [tile.level for tile in wanted], [tile.index for tile in wanted]
            )
        found = {(level, index): hashes for level, index, hashes in rows}
        return {
            tile: found[tile.level, tile.index][: tile.width * HASH_BYTES]
            for tile in wanted
            if (tile.level, tile.index) in found
        }

    @asynccontextmanager
    async def _reading(self) -> AsyncIterator[None]:
        try:
            async with self._connection.transaction(isolation="repeatable_read", readonly=True):
                yield
        except DATABASE_ERRORS as error:
            raise explained(error) from error
