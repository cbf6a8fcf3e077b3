"""What of the ledger anyone may verify: the signed checkpoint, tiles of hashes, bundles of receipts."""

from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from app.core.tiles import HASH_BYTES, BundleId, TileId, encode_bundle
from app.errors import FirewallError, Kind
from app.persistence.engine import Observer, Transactions
from app.persistence.tables import ledger_checkpoints, ledger_entries, ledger_tiles

# What the table holds; a path may name more levels than any tree has.
_LEVEL_MAX: Final = 7


class PublishedLedger:
    """Reads what was published. Every method raises FirewallError (NOT_FOUND, UNAVAILABLE, TIMEOUT).

    Does not check: that tiles, bundles and checkpoint agree. Whoever fetches them does that, or fetches for nothing.
    """

    def __init__(self, engine: AsyncEngine, *, observer: Observer | None = None) -> None:
        self._transaction = Transactions(engine, operation="ledger_read", observer=observer)

    async def checkpoint(self) -> bytes:
        """The newest checkpoint: a signed note, with the cosignatures that came in so far."""
        newest = (
            sa.select(ledger_checkpoints.c.note, ledger_checkpoints.c.cosignatures)
            .order_by(ledger_checkpoints.c.size.desc())
            .limit(1)
        )
        for row in await self._rows(newest):
            return bytes(row.note + row.cosignatures)
        raise FirewallError(
            Kind.NOT_FOUND,
            "no checkpoint was signed yet",
            fix="ask again after the first entry; if it stays so, `/health/detailed` says why",
        )

    async def tile(self, tile: TileId) -> bytes:
        """The hashes of a tile: what a tree had of it when it was that wide, however wide it is now."""
        if tile.level <= _LEVEL_MAX:
            found = await self._rows(
                sa.select(sa.func.substring(ledger_tiles.c.hashes, 1, tile.width * HASH_BYTES).label("hashes")).where(
                    ledger_tiles.c.level == tile.level, ledger_tiles.c.idx == tile.index
                )
            )
            for row in found:
                if len(row.hashes) == tile.width * HASH_BYTES:
                    return bytes(row.hashes)
        raise _missing(tile.path)

    async def bundle(self, bundle: BundleId) -> bytes:
        """The receipts that a tile of level 0 is made of, in the form of tlog-tiles."""
        # Only what is in the tree: an entry in a bundle has its hash in a tile.
        integrated = (
            sa.select(ledger_tiles.c.idx)
            .where(
                ledger_tiles.c.level == 0,
                ledger_tiles.c.idx == bundle.index,
                sa.func.octet_length(ledger_tiles.c.hashes) >= bundle.width * HASH_BYTES,
            )
            .exists()
        )
        found = await self._rows(
            sa.select(ledger_entries.c.receipt)
            .where(ledger_entries.c.idx >= bundle.start, ledger_entries.c.idx < bundle.end, integrated)
            .order_by(ledger_entries.c.idx)
        )
        if len(found) != bundle.width:
            raise _missing(bundle.path)
        return encode_bundle([bytes(row.receipt) for row in found])

    async def _rows(self, statement: "sa.Select[Any]") -> "list[sa.Row[Any]]":
        async with self._transaction() as connection:
            return list(await connection.execute(statement))


def _missing(path: str) -> FirewallError:
    return FirewallError(
        Kind.NOT_FOUND, f"the ledger has no `{path}`", fix="ask for what a tree of the checkpoint's size has"
    )
