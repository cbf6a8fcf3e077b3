"""Blocks and ids where there are more of them than other tests make: above 65,536 there is another level of tiles."""

from hashlib import sha256
from uuid import UUID

import pytest

from app.core.merkle import grow, root_of
from app.core.tiles import TileId
from app.ledger import unique
from app.ledger.blocks import SUSPECTS_MAX, Blocks, first_difference
from app.ledger.findings import Code, Findings
from app.ledger.unique import Ids

SIZE = 65_537 + 256
LEAVES = [sha256(str(idx).encode()).digest() for idx in range(SIZE)]
TILES = dict(grow(0, LEAVES, lambda _: {}).tiles)
ROOT = root_of(LEAVES)


def judged(tiles, *, leaves=LEAVES, size=SIZE, signed=ROOT, kept=()):
    findings = Findings()
    blocks = Blocks(tiles.get, size=size, kept=kept)
    for idx, leaf in enumerate(leaves):
        blocks.add(idx, leaf)
    blocks.finish()
    return blocks.judge(signed, findings), findings, blocks


def test_nothing_is_wrong():
    known, findings, blocks = judged(TILES, kept=[0, 1, 256, 300, 65_536, SIZE])
    assert known
    assert findings.listed == ()
    assert blocks.root == ROOT
    for size in (1, 256, 300, 65_536, SIZE):
        assert blocks.roots(size) == {root_of(LEAVES[:size])}
    assert blocks.roots(7) == frozenset()


@pytest.mark.parametrize("tile", [TileId(1, 0), TileId(1, 1, 1), TileId(2, 0, 1)])
def test_tiles_of_higher_levels(tile):
    altered = {**TILES, tile: bytes(len(TILES[tile]))}
    for tiles, code in ((altered, Code.TILE_ALTERED), ({**TILES, tile: None}, Code.TILE_MISSING)):
        known, findings, _ = judged(tiles)
        assert known
        assert [(one.code, tile.path in one.detail) for one in findings.listed] == [(code, True)]


def test_more_suspects_than_are_kept():
    known, findings, _ = judged({tile: content for tile, content in TILES.items() if tile.level})
    assert known
    assert findings.counts == {Code.TILE_MISSING: SUSPECTS_MAX}


def test_entries_and_the_tile_above_them_are_gone():
    """Nothing says what the block was."""
    tiles = {tile: content for tile, content in TILES.items() if tile not in {TileId(0, 3), TileId(1, 0)}}
    leaves = [*LEAVES[:800], bytes(32), *LEAVES[801:]]
    known, findings, blocks = judged(tiles, leaves=leaves)
    assert not known
    assert findings.listed == ()
    # Whatever a tree has is what may have been.
    assert blocks.roots(SIZE) == {root_of(leaves)}


def test_where_two_logs_part():
    other = dict(grow(0, [*LEAVES[:700], bytes(32), *LEAVES[701:1000]], lambda _: {}).tiles)
    assert first_difference(TILES.get, other.get, size=1000) == 700
    assert first_difference(TILES.get, TILES.get, size=SIZE) is None
    assert first_difference(TILES.get, lambda _: None, size=1000) is None


def test_ids_that_come_twice(monkeypatch):
    monkeypatch.setattr(unique, "_SMALL", 10)
    monkeypatch.setattr(unique, "_HELD_BYTES", 48)
    for expected in (5, 5000):
        with Ids(expected) as ids:
            for idx in range(5000):
                ids.add(UUID(int=idx // 2 if idx in {4001, 9} else idx + 10_000), idx)
            ids.add(UUID(int=4), 5000)
            ids.add(UUID(int=10_007), 5001)
            assert sorted(ids.repeated()) == [(7, 5001), (9, 5000)]
