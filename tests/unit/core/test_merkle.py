"""The Merkle tree: the vectors of other implementations, and a naive reading of the RFC that must always agree."""

import json
from functools import cache
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.core import merkle
from app.core.merkle import EMPTY_ROOT, Frontier, grow, leaf_hash, node_hash
from app.core.tiles import TileId, partial_tiles, tiles_of
from app.errors import FirewallError, Kind

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "merkle.json").read_text("utf-8"))
REFERENCE = VECTORS["reference"]
DECIMAL = VECTORS["decimal"]
SIZES = st.integers(0, 700)


# The RFC's recursive definitions, word for word.
def mth(leaves):
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = 1 << ((len(leaves) - 1).bit_length() - 1)
    return sha256(b"\x01" + mth(leaves[:k]) + mth(leaves[k:])).digest()


def path(m, leaves):
    if len(leaves) == 1:
        return []
    k = 1 << ((len(leaves) - 1).bit_length() - 1)
    return [*path(m, leaves[:k]), mth(leaves[k:])] if m < k else [*path(m - k, leaves[k:]), mth(leaves[:k])]


def subproof(m, leaves, *, b):
    if m == len(leaves):
        return [] if b else [mth(leaves)]
    k = 1 << ((len(leaves) - 1).bit_length() - 1)
    if m <= k:
        return [*subproof(m, leaves[:k], b=b), mth(leaves[k:])]
    return [*subproof(m - k, leaves[k:], b=False), mth(leaves[:k])]


@cache
def decimal(size):
    return tuple(leaf_hash(str(number).encode()) for number in range(size))


@cache
def tiles(size):
    """All tiles of the tree of decimal leaves, made level by level without the code under test."""
    found = {}
    level = list(decimal(size))
    number = 0
    while level:
        for index, at in enumerate(range(0, len(level), 256)):
            inside = level[at : at + 256]
            found[TileId(number, index, len(inside))] = b"".join(inside)
        level = [mth(level[at : at + 256]) for at in range(0, len(level) - 255, 256)]
        number += 1
    return found


def reader(size):
    """Gives what is asked for and nothing else, and counts."""
    asked = []

    def read(wanted):
        asked.append(set(wanted))
        return {tile: tiles(size)[tile] for tile in wanted}

    return read, asked


def holding(tiles):
    return lambda wanted: {tile: tiles[tile] for tile in wanted}


def unhex(hashes):
    return [bytes.fromhex(one) for one in hashes]


def reference_leaves(size):
    return [leaf_hash(bytes.fromhex(leaf)) for leaf in REFERENCE["leaves"][:size]]


def reference_tiles(size):
    return {TileId(0, 0, size): b"".join(reference_leaves(size))}


def test_the_roots_of_the_reference():
    frontier = Frontier()
    assert bytes.fromhex(REFERENCE["roots"][0]) == EMPTY_ROOT == frontier.root == merkle.root(0, lambda _: {})
    for size, root in enumerate(unhex(REFERENCE["roots"][1:]), start=1):
        frontier.append(reference_leaves(8)[size - 1])
        assert merkle.root_of(reference_leaves(size)) == root
        assert merkle.root(size, holding(reference_tiles(size))) == root
        assert (frontier.size, frontier.root) == (size, root)


def test_the_inclusion_proofs_of_the_reference():
    for case in REFERENCE["inclusion"]:
        index, size, proof = case["index"], case["size"], unhex(case["proof"])
        assert merkle.inclusion_proof(index, size, holding(reference_tiles(size))) == proof
        root = bytes.fromhex(REFERENCE["roots"][size])
        merkle.verify_inclusion(index, size, reference_leaves(8)[index], proof, root)


def test_the_consistency_proofs_of_the_reference():
    for case in REFERENCE["consistency"]:
        old, new, proof = case["old"], case["new"], unhex(case["proof"])
        assert merkle.consistency_proof(old, new, holding(reference_tiles(new))) == proof
        roots = unhex(REFERENCE["roots"])
        merkle.verify_consistency(old, roots[old], new, roots[new], proof)


@pytest.mark.parametrize(("size", "root"), [(int(size), root) for size, root in DECIMAL["roots"].items()])
def test_the_roots_of_large_trees(size, root):
    read, asked = reader(size)
    assert merkle.root(size, read).hex() == root
    assert asked == ([merkle.tiles_for_root(size)] if size else [])
    assert merkle.root_of(decimal(size)).hex() == root
    frontier = Frontier()
    frontier.extend(decimal(size))
    assert frontier.root.hex() == root
    assert Frontier.at(size, read).nodes == frontier.nodes


@pytest.mark.parametrize("case", DECIMAL["inclusion"], ids=lambda case: f"{case['index']} of {case['size']}")
def test_the_inclusion_proofs_of_large_trees(case):
    index, size, proof = case["index"], case["size"], unhex(case["proof"])
    read, asked = reader(size)
    assert merkle.inclusion_proof(index, size, read) == proof
    assert asked == ([merkle.tiles_for_inclusion(index, size)] if proof else [])
    merkle.verify_inclusion(index, size, decimal(size)[index], proof, merkle.root_of(decimal(size)))


@pytest.mark.parametrize("case", DECIMAL["consistency"], ids=lambda case: f"{case['old']} to {case['new']}")
def test_the_consistency_proofs_of_large_trees(case):
    old, new, proof = case["old"], case["new"], unhex(case["proof"])
    read, asked = reader(new)
    assert merkle.consistency_proof(old, new, read) == proof
    assert asked == [merkle.tiles_for_consistency(old, new)]
    merkle.verify_consistency(old, merkle.root_of(decimal(old)), new, merkle.root_of(decimal(new)), proof)


@given(SIZES.filter(bool).flatmap(lambda size: st.tuples(st.integers(0, size - 1), st.just(size))))
def test_inclusion_is_what_the_rfc_says(case):
    index, size = case
    leaves = decimal(size)
    proof = merkle.inclusion_proof(index, size, reader(size)[0])
    assert proof == path(index, leaves)
    assert merkle.implied_root(index, size, leaves[index], proof) == mth(leaves) == merkle.root_of(leaves)


@given(st.tuples(SIZES, SIZES).map(sorted))
def test_consistency_is_what_the_rfc_says(case):
    old, new = case
    proof = merkle.consistency_proof(old, new, reader(new)[0])
    assert proof == (subproof(old, decimal(new), b=True) if old else [])
    merkle.verify_consistency(old, mth(decimal(old)), new, mth(decimal(new)), proof)


@given(st.integers(1, 300), st.data())
def test_another_inclusion_proof_never_holds(size, data):
    index = data.draw(st.integers(0, size - 1))
    leaves = decimal(size)
    proof, root = path(index, leaves), mth(leaves)
    other = bytes(32)
    wrong = [
        (index, size, other, proof, root),
        (index, size, leaves[index], proof, other),
        (index, size, leaves[index], [*proof, other], root),
    ]
    if proof:
        at = data.draw(st.integers(0, len(proof) - 1))
        wrong += [
            (index, size, leaves[index], [*proof[:at], other, *proof[at + 1 :]], root),
            (index, size, leaves[index], proof[:-1], root),
            (index, size, leaves[index], proof[1:], root),
            ((index + 1) % size, size, leaves[index], proof, root),
        ]
    for case in wrong:
        with pytest.raises(FirewallError) as caught:
            merkle.verify_inclusion(*case)
        assert caught.value.kind is Kind.MALFORMED


@given(st.tuples(st.integers(1, 300), st.integers(1, 300)).map(sorted), st.data())
def test_another_consistency_proof_never_holds(case, data):
    old, new = case
    proof = subproof(old, decimal(new), b=True)
    before, after, other = mth(decimal(old)), mth(decimal(new)), bytes(32)
    wrong = [
        (old, other, new, after, proof),
        (old, before, new, other, proof),
        (old, before, new, after, [*proof, other]),
    ]
    if proof:
        at = data.draw(st.integers(0, len(proof) - 1))
        wrong += [
            (old, before, new, after, [*proof[:at], other, *proof[at + 1 :]]),
            (old, before, new, after, proof[:-1]),
            (old, before, new, after, proof[1:]),
            (old, after, new, before, proof),
        ]
    for one in wrong:
        with pytest.raises(FirewallError) as caught:
            merkle.verify_consistency(*one)
        assert caught.value.kind is Kind.MALFORMED


def test_an_altered_leaf_leads_to_no_root_that_was_signed():
    leaves = list(decimal(300))
    root = mth(leaves)
    leaves[7] = leaf_hash(b"another")
    with pytest.raises(FirewallError, match="does not lead to the root"):
        merkle.verify_inclusion(9, 300, leaves[9], path(9, leaves), root)
    with pytest.raises(FirewallError, match="does not lead from the root of 200"):
        merkle.verify_consistency(200, mth(decimal(200)), 300, mth(leaves), subproof(200, leaves, b=True))


def test_two_roots_of_one_size():
    with pytest.raises(FirewallError, match="forked"):
        merkle.verify_consistency(3, mth(decimal(3)), 3, bytes(32), [])


def test_the_empty_tree_has_one_root():
    merkle.verify_consistency(0, EMPTY_ROOT, 0, EMPTY_ROOT, [])
    merkle.verify_consistency(0, EMPTY_ROOT, 5, bytes(32), [])
    for case in (
        (0, bytes(32), 5, bytes(32), []),
        (0, EMPTY_ROOT, 0, bytes(32), []),
        (0, EMPTY_ROOT, 1, bytes(32), [b""]),
    ):
        with pytest.raises(FirewallError):
            merkle.verify_consistency(*case)


@pytest.mark.parametrize(
    "call",
    [
        lambda: merkle.tiles_for_inclusion(0, 0),
        lambda: merkle.tiles_for_inclusion(5, 5),
        lambda: merkle.tiles_for_inclusion(-1, 5),
        lambda: merkle.tiles_for_inclusion(0, 2**63),
        lambda: merkle.tiles_for_consistency(6, 5),
        lambda: merkle.tiles_for_consistency(-1, 5),
        lambda: merkle.tiles_for_consistency(0, 2**63),
        lambda: merkle.root(-1, holding({})),
        lambda: merkle.verify_inclusion(5, 5, bytes(32), [], bytes(32)),
        lambda: merkle.verify_inclusion(0, 1, bytes(31), [], bytes(31)),
        lambda: merkle.verify_inclusion(0, 2, bytes(32), [b""], bytes(32)),
        lambda: merkle.verify_inclusion(1, 2, bytes(32), [bytes(33)], bytes(32)),
        lambda: merkle.verify_consistency(1, bytes(31), 2, bytes(32), [bytes(32)]),
        lambda: merkle.verify_consistency(6, bytes(32), 5, bytes(32), []),
        lambda: grow(2**63 - 1, [bytes(32)], lambda wanted: dict.fromkeys(wanted, bytes(8192))),
    ],
)
def test_what_no_tree_has(call):
    with pytest.raises(FirewallError) as caught:
        call()
    assert caught.value.kind is Kind.MALFORMED


def test_the_largest_tree():
    size = 2**63 - 1
    assert {tile.level for tile in merkle.tiles_for_root(size)} == set(range(8))
    longest = 0
    for index in (0, 2**62, size - 1):
        tiles_ = merkle.tiles_for_inclusion(index, size)
        proof = merkle.inclusion_proof(index, size, lambda wanted: {one: bytes(one.width * 32) for one in wanted})
        assert len(tiles_) <= 16
        longest = max(longest, len(proof))
        merkle.implied_root(index, size, bytes(32), proof)
    assert longest == merkle.PROOF_HASHES_MAX


@settings(max_examples=40)
@given(st.lists(st.integers(0, 600), min_size=1, max_size=6))
def test_a_tree_that_grows_in_steps(steps):
    kept: dict[TileId, bytes] = {}
    size = 0
    for step in steps:
        more = decimal(3600)[size : size + step]
        grown = grow(size, more, holding(kept))
        assert set(grown.tiles) == set(tiles_of(size + step, since=size))
        kept.update(grown.tiles)
        size += step
        assert grown.size == size
        assert grown.root == merkle.root_of(decimal(3600)[:size])
    assert {tile: kept[tile] for tile in tiles_of(size)} == tiles(size)


def test_a_tree_that_grows_over_a_whole_level():
    kept = tiles(65_535)
    grown = grow(65_535, decimal(65_537)[65_535:], holding(kept))
    assert grown.root.hex() == DECIMAL["roots"]["65537"]
    assert set(grown.tiles) == {
        TileId(0, 255),
        TileId(0, 256, 1),
        TileId(1, 0),
        TileId(2, 0, 1),
    }
    assert grown.tiles == {tile: tiles(65_537)[tile] for tile in grown.tiles}


def test_nothing_added():
    grown = grow(257, [], reader(257)[0])
    assert (grown.size, grown.root, grown.tiles) == (257, mth(decimal(257)), {})


def test_a_frontier_goes_on_where_it_stopped():
    whole, first = Frontier(), Frontier()
    whole.extend(decimal(300))
    first.extend(decimal(123))
    rest = Frontier(first.size, first.nodes)
    rest.extend(decimal(300)[123:])
    assert (rest.size, rest.root) == (whole.size, whole.root)
    with pytest.raises(ValueError, match="one complete subtree for each bit"):
        Frontier(3, [bytes(32)])


def test_a_wider_tile_serves_as_well():
    wide = {
        tile: tiles(300)[TileId(0, 1, 44)] if tile.index else tiles(300)[TileId(0, 0)]
        for tile in tiles_of(260)
        if not tile.level
    }
    wide[TileId(1, 0, 1)] = tiles(300)[TileId(1, 0, 1)]
    assert merkle.inclusion_proof(258, 260, lambda _: wide) == path(258, decimal(260))


def test_tiles_that_are_missing_or_cut():
    with pytest.raises(FirewallError, match=r"`tile/0/001.p/4` is missing") as caught:
        merkle.root(260, lambda _: {TileId(1, 0, 1): bytes(32)})
    assert caught.value.kind is Kind.MALFORMED
    with pytest.raises(FirewallError, match=r"`tile/0/000.p/2` is a tile of 63 bytes, where 2 hashes"):
        merkle.root(2, lambda wanted: dict.fromkeys(wanted, bytes(63)))


def test_a_leaf_never_passes_for_a_node():
    left, right = leaf_hash(b"a"), leaf_hash(b"b")
    assert leaf_hash(left + right) != node_hash(left, right)
    assert list(partial_tiles(0)) == []
