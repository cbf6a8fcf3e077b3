"""Tiles and bundles: their names, which of them a tree has, and their bytes."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.tiles import (
    ENTRY_BYTES_MAX,
    BundleId,
    TileId,
    bundles_of,
    decode_bundle,
    encode_bundle,
    parse_path,
    partial_tiles,
    split_hashes,
    tile_at,
    tiles_of,
)
from app.errors import FirewallError, Kind

PATHS = json.loads((Path(__file__).parents[2] / "vectors" / "merkle.json").read_text("utf-8"))["paths"]


@pytest.mark.parametrize("case", PATHS, ids=[case["sumdb"] for case in PATHS])
def test_paths_are_those_of_another_implementation(case):
    # The module there writes the height of its tiles first, and `data` for what tlog-tiles calls `entries`.
    path = case["sumdb"].replace("tile/8/", "tile/").replace("/data/", "/entries/")
    level = case["level"]
    named = BundleId(case["index"], case["width"]) if level < 0 else TileId(level, case["index"], case["width"])
    assert named.path == path
    assert parse_path(path) == named


@given(st.integers(0, 63), st.integers(0, 2**55 - 1), st.integers(1, 256))
def test_a_path_is_read_as_it_is_written(level, index, width):
    for one in (TileId(level, index, width), BundleId(index, width)):
        assert parse_path(one.path) == one


@pytest.mark.parametrize(
    "path",
    [
        "",
        "tile/0",
        "tile/0/",
        "tile/0/0",
        "tile/0/00",
        "tile/0/0000",
        "tile/0/1000",
        "tile/00/000",
        "tile/01/000",
        "tile/64/000",
        "tile/100/000",
        "tile/-1/000",
        "tile/0/x000/067",
        "tile/0/x001",
        "tile/0/001/234",
        "tile/0/x001/x234",
        "tile/0/x01/234",
        "tile/0/000.p/0",
        "tile/0/000.p/01",
        "tile/0/000.p/256",
        "tile/0/000.p/300",
        "tile/0/000.p/999",
        "tile/0/000.p/1000",
        "tile/0/000.p/",
        "tile/0/000.p",
        "tile/0/000.p/8/",
        "tile/0/000/../001",
        "/tile/0/000",
        "tile/0/000\n",
        "tile/0/٠٠٠",
        "tile/data/000",
        "tile/entries/",
        "tile/entries/0",
        "tile/0/" + "x999/" * 6 + "999",
        "tile/0/" + "x001/" * 1000 + "001",
        "tile/0/x072/x057/x594/x037/x927/936",  # 2**56: no tree has it
    ],
)
def test_what_names_no_tile(path):
    with pytest.raises(FirewallError) as caught:
        parse_path(path)
    assert caught.value.kind is Kind.MALFORMED
    assert len(caught.value.detail) < 100


def test_the_tiles_of_the_example_in_the_specification():
    tiles = list(tiles_of(70_000))
    full = [tile for tile in tiles if tile.width == 256]
    assert [tile.level for tile in full] == [0] * 273 + [1]
    assert [tile for tile in tiles if tile.width < 256] == [TileId(0, 273, 112), TileId(1, 1, 17), TileId(2, 0, 1)]
    assert list(partial_tiles(70_000)) == [TileId(0, 273, 112), TileId(1, 1, 17), TileId(2, 0, 1)]
    assert list(tiles_of(256)) == [TileId(0, 0, 256), TileId(1, 0, 1)]


@pytest.mark.parametrize(
    ("size", "tiles", "bundles"),
    [
        (0, [], []),
        (1, [TileId(0, 0, 1)], [BundleId(0, 1)]),
        (255, [TileId(0, 0, 255)], [BundleId(0, 255)]),
        (256, [TileId(0, 0), TileId(1, 0, 1)], [BundleId(0)]),
        (257, [TileId(0, 0), TileId(0, 1, 1), TileId(1, 0, 1)], [BundleId(0), BundleId(1, 1)]),
    ],
)
def test_the_tiles_of_small_trees(size, tiles, bundles):
    assert list(tiles_of(size)) == tiles
    assert list(bundles_of(size)) == bundles
    assert all(one.end - one.start == one.width for one in bundles)


@given(st.integers(0, 140_000), st.integers(0, 140_000))
def test_what_a_larger_tree_has_more(one, other):
    since, size = sorted((one, other))
    before, after = set(tiles_of(since)), set(tiles_of(size))
    assert set(tiles_of(size, since=since)) == after - before
    assert set(bundles_of(size, since=since)) == set(bundles_of(size)) - set(bundles_of(since))
    assert {tile for tile in after if tile.width < 256} == set(partial_tiles(size))
    assert all(tile_at(tile.level, tile.index, size=size) == tile for tile in after)


def test_a_tree_has_no_other_tiles():
    assert tile_at(0, 1, size=256) is None
    assert tile_at(1, 0, size=255) is None
    assert tile_at(0, 2**54, size=256) is None
    assert tile_at(63, 0, size=2**63 - 1) is None


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=256))
def test_a_bundle_is_read_as_it_is_written(entries):
    content = encode_bundle(entries)
    assert decode_bundle(content, width=len(entries)) == entries
    for width in (len(entries) - 1, len(entries) + 1):
        with pytest.raises(FirewallError, match="bundle"):
            decode_bundle(content, width=width)
    for cut in (1, len(content) // 2, len(content) - 1):
        if 0 < cut < len(content):
            with pytest.raises(FirewallError, match="bundle"):
                decode_bundle(content[:cut], width=len(entries))


def test_the_bytes_of_a_bundle():
    assert encode_bundle([b"", b"ab"]) == b"\x00\x00\x00\x02ab"
    assert decode_bundle(b"", width=0) == []


def test_an_entry_has_sixteen_bits_for_its_length():
    longest = bytes(ENTRY_BYTES_MAX)
    assert decode_bundle(encode_bundle([longest]), width=1) == [longest]
    with pytest.raises(FirewallError) as caught:
        encode_bundle([longest + b"x"])
    assert caught.value.kind is Kind.TOO_LARGE


@pytest.mark.parametrize("count", [0, 257])
def test_a_bundle_has_one_to_256_entries(count):
    with pytest.raises(ValueError, match="256"):
        encode_bundle([b""] * count)


def test_hashes_of_a_tile_that_grew_meanwhile():
    tile = bytes(range(96))
    assert split_hashes(tile, width=2) == [tile[:32], tile[32:64]]
    for content, width in ((tile, 4), (tile[:-1], 2), (b"", 1), (bytes(257 * 32), 1)):
        with pytest.raises(FirewallError) as caught:
            split_hashes(content, width=width)
        assert caught.value.kind is Kind.MALFORMED
