"""A ledger of any size, its tree and a signed checkpoint, written straight into the database."""

from datetime import UTC, datetime
from functools import cache
from uuid import UUID

import asyncpg
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from app.core import merkle
from app.core.notes import Checkpoint, Note, SignerKey

ORIGIN = "firewall.example.com/ledger"
LOG = SignerKey.of(ORIGIN, Ed25519PrivateKey.from_private_bytes(bytes(range(32))))


@cache
def receipt(index: int) -> bytes:
    return b'{"entry":%d}' % index


async def publish(dsn: str, size: int) -> Checkpoint:
    """Append until there are `size` entries, integrate all of them, and sign."""
    connection = await asyncpg.connect(dsn)
    try:
        async with connection.transaction():
            before = await connection.fetchval("SELECT size FROM ledger_tree")
            now = datetime.now(UTC)
            await connection.copy_records_to_table(
                "ledger_entries",
                records=[(index, UUID(int=index), "decision", now, receipt(index)) for index in range(before, size)],
                columns=["idx", "id", "kind", "recorded_at", "receipt"],
            )
            kept = {
                (row["level"], row["idx"]): row["hashes"]
                for row in await connection.fetch("SELECT * FROM ledger_tiles WHERE octet_length(hashes) < 8192")
            }
            grown = merkle.grow(
                before,
                [merkle.leaf_hash(receipt(index)) for index in range(before, size)],
                lambda wanted: {tile: kept[tile.level, tile.index] for tile in wanted},
            )
            await connection.executemany(
                "INSERT INTO ledger_tiles VALUES ($1, $2, $3)"
                " ON CONFLICT (level, idx) DO UPDATE SET hashes = excluded.hashes",
                [(tile.level, tile.index, hashes) for tile, hashes in grown.tiles.items()],
            )
            if size > before:
                await connection.execute("UPDATE ledger_head SET next_index = $1", size)
                await connection.execute("UPDATE ledger_tree SET size = $1, root = $2", size, grown.root)
            checkpoint = Checkpoint(ORIGIN, size, grown.root)
            note = Note(checkpoint.text, (LOG.sign(checkpoint.text),)).serialise()
            if size:
                await connection.execute(
                    "INSERT INTO ledger_checkpoints (size, root, origin, signed_at, note) VALUES ($1, $2, $3, $4, $5)",
                    size, grown.root, ORIGIN, now, note,
                )  # fmt: skip
            return checkpoint
    finally:
        await connection.close()
