"""Integrity of what was published: the upper levels of the tree, its root, and every checkpoint that was signed."""

from collections.abc import Collection, Mapping
from typing import Any, Final

import asyncpg

from app.core.integrity import IntegrityCheck
from app.core.merkle import root, root_of, tiles_for_root
from app.core.notes import Checkpoint, parse_note
from app.core.tiles import HASH_BYTES, TILE_WIDTH, TileId, hashes_at
from app.errors import FirewallError
from app.ops.findings import Findings

# Checkpoints looked at with one question for tiles.
_BATCH: Final = 256
# As many levels as a bigint's worth of entries can have.
_LEVELS: Final = 8

_UPPER: Final = "SELECT level, idx, hashes FROM ledger_tiles WHERE level > 0 ORDER BY level, idx"
_SURPLUS: Final = "SELECT count(*) FROM ledger_tiles WHERE level = 0 AND idx >= $1"
_LAST: Final = "SELECT octet_length(hashes) FROM ledger_tiles WHERE level = 0 AND idx = $1"
_READ: Final = """
SELECT level, idx, hashes FROM ledger_tiles
JOIN unnest($1::smallint[], $2::bigint[]) AS wanted (level, idx) USING (level, idx)
"""
_CHECKPOINTS: Final = """
SELECT size, root, origin, note FROM ledger_checkpoints WHERE size > $1 ORDER BY size LIMIT $2
"""


async def check_published(connection: "asyncpg.Connection[Any]", findings: Findings) -> None:
    """Look at the tree above its leaves, and at every checkpoint.

    Within one read-only transaction of one snapshot. Raises what asyncpg raises. Does not check: signatures, for which
    the key is not here, and leaves (`entries.py`).
    """
    head = await connection.fetchval("SELECT next_index FROM ledger_head") or 0
    tree = await connection.fetchrow("SELECT size, root FROM ledger_tree")
    if tree is None:
        findings.add(IntegrityCheck.TREE, "the ledger has no tree")
        return
    size: int = tree["size"]
    if size > head:
        findings.add(IntegrityCheck.TREE, f"the tree has {size} leaves, and the ledger {head} entries")
    await _check_levels(connection, size, findings)
    implied = await _root_at(connection, size)
    if implied != tree["root"]:
        findings.add(IntegrityCheck.TREE, f"the root of {size} leaves is not the one that its tiles have")
    await _check_checkpoints(connection, size, findings)


async def _check_levels(connection: "asyncpg.Connection[Any]", size: int, findings: Findings) -> None:
    """Each tile is as wide as it must be, and each hash above level 1 is the root of the tile below."""
    upper: dict[tuple[int, int], bytes] = {}
    async for row in connection.cursor(_UPPER):
        upper[row["level"], row["idx"]] = row["hashes"]
    expected: set[tuple[int, int]] = set()
    for level in range(1, _LEVELS):
        count = hashes_at(level, size=size)
        for index in range(-(-count // TILE_WIDTH)):
            expected.add((level, index))
            width = min(TILE_WIDTH, count - index * TILE_WIDTH)
            hashes = upper.get((level, index), b"")
            if len(hashes) != width * HASH_BYTES:
                findings.add(
                    IntegrityCheck.TREE, f"tile {level}/{index} has {len(hashes) // HASH_BYTES} hashes, not {width}"
                )
            elif level > 1:
                for place in range(width):
                    below = upper.get((level - 1, index * TILE_WIDTH + place), b"")
                    if hashes[place * HASH_BYTES : (place + 1) * HASH_BYTES] != root_of(_split(below)):
                        findings.add(
                            IntegrityCheck.TREE,
                            f"tile {level}/{index} does not have the root of {level - 1}/{index * TILE_WIDTH + place}",
                        )
    for level, index in sorted(upper.keys() - expected):
        findings.add(IntegrityCheck.TREE, f"tile {level}/{index} lies beyond the tree")
    tiles = -(-size // TILE_WIDTH)
    if surplus := await connection.fetchval(_SURPLUS, tiles):
        findings.add(IntegrityCheck.TREE, f"{surplus} tiles of level 0 lie beyond the tree", count=surplus)
    if size:
        last = size - (tiles - 1) * TILE_WIDTH
        width = (await connection.fetchval(_LAST, tiles - 1) or 0) // HASH_BYTES
        if width != last:
            findings.add(IntegrityCheck.TREE, f"tile 0/{tiles - 1} has {width} hashes, not {last}")


async def _check_checkpoints(connection: "asyncpg.Connection[Any]", size: int, findings: Findings) -> None:
    after = 0
    while rows := await connection.fetch(_CHECKPOINTS, after, _BATCH):
        after = rows[-1]["size"]
        places = await _tiles(
            connection, {tile for row in rows if row["size"] <= size for tile in tiles_for_root(row["size"])}
        )
        for row in rows:
            if row["size"] > size:
                findings.add(
                    IntegrityCheck.CHECKPOINTS,
                    f"a checkpoint of {row['size']} entries was signed, and the tree has {size}: the log was truncated",
                )
                continue
            if _implied(row["size"], places) != row["root"]:
                findings.add(IntegrityCheck.CHECKPOINTS, f"the checkpoint of {row['size']} entries is of another tree")
            try:
                said = Checkpoint.parse(parse_note(row["note"]).text)
            except FirewallError as error:
                findings.add(IntegrityCheck.CHECKPOINTS, f"the checkpoint of {row['size']} entries: {error.detail}")
                continue
            if (said.origin, said.size, said.root) != (row["origin"], row["size"], row["root"]):
                findings.add(
                    IntegrityCheck.CHECKPOINTS, f"the note of the checkpoint of {row['size']} entries says otherwise"
                )


async def _root_at(connection: "asyncpg.Connection[Any]", size: int) -> bytes | None:
    """The root that the tiles have; None where they are not there."""
    return _implied(size, await _tiles(connection, tiles_for_root(size)))


def _implied(size: int, places: Mapping[tuple[int, int], bytes]) -> bytes | None:
    def read(wanted: Collection[TileId]) -> dict[TileId, bytes]:
        return {tile: places[tile.level, tile.index] for tile in wanted if (tile.level, tile.index) in places}

    try:
        return root(size, read)
    except FirewallError:
        return None


async def _tiles(connection: "asyncpg.Connection[Any]", tiles: Collection[TileId]) -> dict[tuple[int, int], bytes]:
    rows = await connection.fetch(_READ, [tile.level for tile in tiles], [tile.index for tile in tiles])
    return {(row["level"], row["idx"]): row["hashes"] for row in rows}


def _split(hashes: bytes) -> list[bytes]:
    return [hashes[at : at + HASH_BYTES] for at in range(0, len(hashes), HASH_BYTES)]
