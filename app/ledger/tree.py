"""The tree of the ledger at rest: its tiles, read and written for many at once, its size, and what was signed of it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import asyncpg
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from app.core.merkle import Growth, Reader
from app.core.tiles import TileId
from app.errors import FirewallError, Kind
from app.persistence.engine import Observer, Transactions
from app.persistence.tables import ledger_checkpoints, ledger_tree

_READ: Final = """
SELECT tiles.level, tiles.idx, tiles.hashes FROM ledger_tiles AS tiles
JOIN unnest($1::smallint[], $2::bigint[]) AS wanted (level, idx) USING (level, idx)
"""
# A trigger refuses to change what a tile has; it lets a tile become wider.
_WRITE: Final = """
INSERT INTO ledger_tiles (level, idx, hashes) SELECT * FROM unnest($1::smallint[], $2::bigint[], $3::bytea[])
ON CONFLICT (level, idx) DO UPDATE SET hashes = EXCLUDED.hashes
"""
_GROW: Final = "UPDATE ledger_tree SET size = $1, root = $2"

_OPERATION: Final = "tree"

# Where a tile is, however wide it is by now.
Place = tuple[int, int]


@dataclass(frozen=True, slots=True)
class TreeHead:
    """How many entries are in the tree, and its root."""

    size: int
    root: bytes


@dataclass(frozen=True, slots=True)
class StoredCheckpoint:
    """A checkpoint as it was signed; `note` are the bytes of the signed note, `cosignatures` lines to put after it."""

    size: int
    root: bytes
    origin: str
    signed_at: datetime
    note: bytes
    cosignatures: bytes = b""

    @property
    def served(self) -> bytes:
        """The note with the cosignatures that there are."""
        return self.note + self.cosignatures


class TileStore:
    """Reads the tree through an engine. Every method raises FirewallError (UNAVAILABLE, TIMEOUT).

    Does not check: that tiles, tree and checkpoints agree.
    """

    def __init__(self, engine: AsyncEngine, *, observer: Observer | None = None) -> None:
        self._transaction = Transactions(engine, operation=_OPERATION, observer=observer)

    async def read(self, tiles: Collection[TileId]) -> dict[TileId, bytes]:
        """The tiles that are there, in one query. One may be wider than asked for: it has grown since."""
        if not tiles:
            return {}
        async with self._transaction() as connection:
            rows = (await connection.exec_driver_sql(_READ, _places(tiles))).all()
        return _named(tiles, {(row.level, row.idx): bytes(row.hashes) for row in rows})

    async def head(self) -> TreeHead:
        """How far the tree goes: perhaps beyond the newest checkpoint, and never beyond the entries."""
        async with self._transaction() as connection:
            row = (await connection.execute(sa.select(ledger_tree.c.size, ledger_tree.c.root))).first()
        if row is None:
            raise FirewallError(Kind.UNAVAILABLE, "the ledger has no tree", fix="restore the database from its backup")
        return TreeHead(row.size, bytes(row.root))

    async def newest(self) -> StoredCheckpoint | None:
        """The newest checkpoint, None before the first."""
        statement = sa.select(ledger_checkpoints).order_by(ledger_checkpoints.c.size.desc()).limit(1)
        async with self._transaction() as connection:
            row = (await connection.execute(statement)).first()
        if row is None:
            return None
        return StoredCheckpoint(
            size=row.size,
            root=bytes(row.root),
            origin=row.origin,
            signed_at=row.signed_at,
            note=bytes(row.note),
            cosignatures=bytes(row.cosignatures),
        )


async def read_places(connection: "asyncpg.Connection[Any]", tiles: Collection[TileId]) -> dict[Place, bytes]:
    """The tiles that are there, by level and index. Raises what asyncpg raises."""
    rows = await connection.fetch(_READ, *_places(tiles)) if tiles else []
    return {(row["level"], row["idx"]): row["hashes"] for row in rows}


async def write_growth(connection: "asyncpg.Connection[Any]", grown: Growth) -> None:
    """Write the tiles that are new or wider, and the tree's new size and root.

    The caller holds the row of `ledger_tree`. Raises what asyncpg raises, RestrictViolationError where something would
    change that was there.
    """
    levels, indexes = _places(grown.tiles)
    await connection.execute(_WRITE, levels, indexes, list(grown.tiles.values()))
    await connection.execute(_GROW, grown.size, grown.root)


def reader_of(places: Mapping[Place, bytes]) -> Reader:
    """A reader for the pure functions of core/merkle.py that has these tiles."""
    return lambda wanted: _named(wanted, places)


def _places(tiles: Collection[TileId]) -> tuple[list[int], list[int]]:
    return [tile.level for tile in tiles], [tile.index for tile in tiles]


def _named(tiles: Collection[TileId], places: Mapping[Place, bytes]) -> dict[TileId, bytes]:
    return {tile: places[tile.level, tile.index] for tile in tiles if (tile.level, tile.index) in places}


def widest(growths: Sequence[Growth]) -> Growth:
    """Several steps of growth as one: of each tile what it is in the end."""
    tiles = {(tile.level, tile.index): (tile, hashes) for grown in growths for tile, hashes in grown.tiles.items()}
    return Growth(growths[-1].size, growths[-1].root, dict(tiles.values()))
