"""The Merkle tree of RFC 9162 section 2.1, which is that of RFC 6962: roots, proofs, and what verifies them.

Proofs are made from tiles. Which tiles a proof needs follows from the numbers alone, so a reader is asked once, for
all of them; where reading is asynchronous, ask `tiles_for_...` first, fetch them, and hand over a reader that has them:
`inclusion_proof(index, size, lambda _: tiles)`.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from app.core.tiles import (
    HASH_BYTES,
    SIZE_MAX,
    TILE_HEIGHT,
    TILE_WIDTH,
    TileId,
    hashes_at,
    partial_tiles,
    split_hashes,
)
from app.errors import FirewallError, Kind

# Gives the hashes of tiles, 32 bytes each; a tile may come wider than asked for, as it may have grown since.
Reader = Callable[[Collection[TileId]], Mapping[TileId, bytes]]

# RFC 9162 section 2.1.1: a leaf is hashed with 0x00 before it, an inner node with 0x01, so that neither passes for the
# other.
LEAF_PREFIX: Final = b"\x00"
NODE_PREFIX: Final = b"\x01"
EMPTY_ROOT: Final = sha256().digest()
# As many as a tree of SIZE_MAX leaves can need; a longer proof is refused before any hashing.
PROOF_HASHES_MAX: Final = 63

# From the first leaf to the one after the last.
_Range = tuple[int, int]


def leaf_hash(leaf: bytes) -> bytes:
    """The hash of a leaf, 32 bytes."""
    return sha256(LEAF_PREFIX + leaf).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of an inner node, 32 bytes."""
    return sha256(NODE_PREFIX + left + right).digest()


def root_of(hashes: Sequence[bytes]) -> bytes:
    """The root of the tree over these leaf hashes (or over the hashes of equally large complete subtrees)."""
    level = list(hashes)
    while len(level) > 1:
        # What has no partner moves up as it is: the largest power of two below the size stays on the left.
        paired = [node_hash(left, right) for left, right in zip(level[::2], level[1::2], strict=False)]
        if len(level) % 2:
            paired.append(level[-1])
        level = paired
    return level[0] if level else EMPTY_ROOT


class Frontier:
    """A tree that only grows: the hashes of its complete subtrees, so that the root costs log2(size) at each size."""

    __slots__ = ("_nodes", "_size")

    def __init__(self, size: int = 0, nodes: Iterable[bytes] = ()) -> None:
        """Start empty, or with the complete subtrees of a tree of `size` leaves, the largest first."""
        self._nodes = list(nodes)
        self._size = size
        if len(self._nodes) != size.bit_count():
            raise ValueError("a tree has one complete subtree for each bit of its size")

    @classmethod
    def at(cls, size: int, read: Reader) -> "Frontier":
        """The frontier of a tree whose tiles are there. Raises FirewallError (MALFORMED) as `root` does."""
        return cls(size, _Nodes([(0, size)], size=size, read=read).of((0, size)))

    @property
    def size(self) -> int:
        """How many leaves there are."""
        return self._size

    @property
    def nodes(self) -> tuple[bytes, ...]:
        """The complete subtrees, the largest first: with the size all that is needed to go on later."""
        return tuple(self._nodes)

    @property
    def root(self) -> bytes:
        """The root at this size."""
        return _folded(self._nodes) if self._nodes else EMPTY_ROOT

    def append(self, leaf: bytes) -> None:
        """Take the hash of the next leaf."""
        node = leaf
        size = self._size
        while size & 1:
            node = node_hash(self._nodes.pop(), node)
            size >>= 1
        self._nodes.append(node)
        self._size += 1

    def extend(self, leaves: Iterable[bytes]) -> None:
        """Take the hashes of the next leaves."""
        for leaf in leaves:
            self.append(leaf)


@dataclass(frozen=True, slots=True)
class Growth:
    """What a tree becomes with further leaves: `tiles` are all that are new, or wider than they were."""

    size: int
    root: bytes
    tiles: Mapping[TileId, bytes]


def grow(size: int, leaves: Sequence[bytes], read: Reader) -> Growth:
    """Add leaf hashes to a tree of `size` leaves. Raises FirewallError (MALFORMED) for tiles that are not there.

    Reads `tiles_for_root(size)` and no more. Does not check: that those give the root that was there before.
    """
    _refuse_beyond(size + len(leaves))
    edge = {tile.level: tile for tile in partial_tiles(size)}
    found = _fetch(edge.values(), read)
    tiles: dict[TileId, bytes] = {}
    level = 0
    added = list(leaves)
    while added:
        before = edge.get(level)
        first = hashes_at(level, size=size) // TILE_WIDTH
        hashes = [*(found[before] if before is not None else ()), *added]
        added = []
        for index, at in enumerate(range(0, len(hashes), TILE_WIDTH), start=first):
            inside = hashes[at : at + TILE_WIDTH]
            tiles[TileId(level, index, len(inside))] = b"".join(inside)
            if len(inside) == TILE_WIDTH:
                added.append(root_of(inside))
        level += 1
    grown = size + len(leaves)
    # Above the levels that changed, the edge is what it was.
    edges = {tile: b"".join(hashes) for tile, hashes in found.items()} | tiles
    return Growth(grown, root(grown, lambda _: edges), tiles)


def tiles_for_root(size: int) -> set[TileId]:
    """The tiles that the root of a tree of `size` leaves follows from: the partial ones."""
    return set(partial_tiles(size))


def tiles_for_inclusion(index: int, size: int) -> set[TileId]:
    """The tiles that `inclusion_proof` reads. Raises FirewallError (MALFORMED) where there is no such leaf."""
    return _tiles(_inclusion(index, size), size=size)


def tiles_for_consistency(old: int, new: int) -> set[TileId]:
    """The tiles that `consistency_proof` reads. Raises FirewallError (MALFORMED) where `old` is larger than `new`."""
    return _tiles(_consistency(old, new), size=new)


def root(size: int, read: Reader) -> bytes:
    """The root of a tree of `size` leaves. Raises FirewallError (MALFORMED) for tiles that are not there."""
    _refuse_beyond(size)
    if not size:
        return EMPTY_ROOT
    whole = (0, size)
    return _folded(_Nodes([whole], size=size, read=read).of(whole))


def inclusion_proof(index: int, size: int, read: Reader) -> list[bytes]:
    """The proof that a leaf is in a tree (RFC 9162 section 2.1.3.1), from its sibling up.

    Raises FirewallError (MALFORMED) where there is no such leaf, and for tiles that are not there.
    """
    return _proof(_inclusion(index, size), size=size, read=read)


def consistency_proof(old: int, new: int, read: Reader) -> list[bytes]:
    """The proof that a tree of `old` leaves is the beginning of one of `new` (RFC 9162 section 2.1.4.1).

    Empty where `old` is zero, as tlog-witness has it, or equals `new`. Raises FirewallError (MALFORMED) where `old` is
    larger, and for tiles that are not there.
    """
    return _proof(_consistency(old, new), size=new, read=read)


def implied_root(index: int, size: int, leaf: bytes, proof: Sequence[bytes]) -> bytes:
    """The root that a tree of `size` leaves has if the proof of this leaf hash holds (RFC 9162 section 2.1.3.2).

    Raises FirewallError (MALFORMED) for an index beyond the size, and for a proof of another length than it must have.
    """
    needed = len(_inclusion(index, size))
    if len(proof) != needed:
        raise _does_not_hold(f"the proof of leaf {index} in a tree of {size} has {len(proof)} hashes, not {needed}")
    node = _hash(leaf)
    position, last = index, size - 1
    for sibling in proof:
        if position & 1 or position == last:
            node = node_hash(_hash(sibling), node)
            while not position & 1 and position:
                position >>= 1
                last >>= 1
        else:
            node = node_hash(node, _hash(sibling))
        position >>= 1
        last >>= 1
    return node


def verify_inclusion(index: int, size: int, leaf: bytes, proof: Sequence[bytes], root: bytes) -> None:
    """Verify that the leaf with this hash is at `index` in the tree of `size` leaves with this root.

    Raises FirewallError (MALFORMED) where it does not hold. Does not check: who says that this is the root.
    """
    if implied_root(index, size, leaf, proof) != root:
        raise _does_not_hold(f"the proof of leaf {index} does not lead to the root of the tree of {size}")


def verify_consistency(old: int, old_root: bytes, new: int, new_root: bytes, proof: Sequence[bytes]) -> None:
    """Verify that the tree of `old` leaves is the beginning of that of `new` (RFC 9162 section 2.1.4.2).

    Raises FirewallError (MALFORMED) where it does not hold. Does not check: who says that these are the roots.
    """
    needed = len(_consistency(old, new))
    if len(proof) != needed:
        raise _does_not_hold(f"the proof from {old} to {new} leaves has {len(proof)} hashes, not {needed}")
    if not old:
        # Every tree begins with the empty one, which has one root; with nothing to begin with, so has the other.
        if old_root != EMPTY_ROOT or (not new and new_root != EMPTY_ROOT):
            raise _does_not_hold("the empty tree has another root")
        return
    if old == new:
        if old_root != new_root:
            raise _does_not_hold(f"there are two roots of {old} leaves: one of them is of a forked log")
        return
    # A complete tree is a subtree of the larger one, and its root the first hash, which the proof leaves out.
    path = [_hash(one) for one in ((old_root, *proof) if not old & (old - 1) else proof)]
    position, last = old - 1, new - 1
    while position & 1:
        position >>= 1
        last >>= 1
    before = after = path[0]
    for sibling in path[1:]:
        if position & 1 or position == last:
            before = node_hash(sibling, before)
            after = node_hash(sibling, after)
            while not position & 1 and position:
                position >>= 1
                last >>= 1
        else:
            after = node_hash(after, sibling)
        position >>= 1
        last >>= 1
    if before != old_root or after != new_root:
        raise _does_not_hold(f"the proof does not lead from the root of {old} leaves to that of {new}")


class _Nodes:
    """The complete subtrees of some ranges, from tiles that are read once."""

    __slots__ = ("_size", "_tiles")

    def __init__(self, ranges: Iterable[_Range], *, size: int, read: Reader) -> None:
        self._size = size
        self._tiles = _fetch(_tiles(ranges, size=size), read)

    def of(self, one: _Range) -> list[bytes]:
        """The complete subtrees that a range consists of, from the left."""
        return [self._node(height, index) for height, index in _complete(one)]

    def _node(self, height: int, index: int) -> bytes:
        tile, offset, count = _place(height, index, size=self._size)
        return root_of(self._tiles[tile][offset : offset + count])


def _proof(ranges: Sequence[_Range], *, size: int, read: Reader) -> list[bytes]:
    nodes = _Nodes(ranges, size=size, read=read)
    return [_folded(nodes.of(one)) for one in ranges]


def _inclusion(index: int, size: int) -> list[_Range]:
    """The ranges whose hashes prove a leaf: PATH of RFC 9162 section 2.1.3.1, without recursion."""
    _refuse_beyond(size)
    if not 0 <= index < size:
        raise FirewallError(Kind.MALFORMED, f"a tree of {size} leaves has no leaf {index}")
    start, end = 0, size
    path: list[_Range] = []
    while end - start > 1:
        middle = start + _left(end - start)
        if index < middle:
            path.append((middle, end))
            end = middle
        else:
            path.append((start, middle))
            start = middle
    return path[::-1]


def _consistency(old: int, new: int) -> list[_Range]:
    """The ranges whose hashes prove consistency: SUBPROOF of RFC 9162 section 2.1.4.1, without recursion."""
    _refuse_beyond(new)
    if not 0 <= old <= new:
        raise FirewallError(Kind.MALFORMED, f"a tree of {new} leaves cannot begin with one of {old}")
    if not old:
        return []
    start, end = 0, new
    path: list[_Range] = []
    while old != end:
        middle = start + _left(end - start)
        if old <= middle:
            path.append((middle, end))
            end = middle
        else:
            path.append((start, middle))
            start = middle
    if start:
        path.append((start, end))
    return path[::-1]


def _left(size: int) -> int:
    """How many leaves are left of the root: the largest power of two smaller than `size`."""
    return 1 << ((size - 1).bit_length() - 1)


def _complete(one: _Range) -> Iterator[tuple[int, int]]:
    """The complete subtrees of a range, from the left, as height and index within that height.

    INVARIANT: a range that a proof names starts at a multiple of a power of two that is not smaller than its length.
    """
    start, end = one
    while start < end:
        height = (end - start).bit_length() - 1
        yield height, start >> height
        start += 1 << height


def _place(height: int, index: int, *, size: int) -> tuple[TileId, int, int]:
    """Where a complete subtree stands: a tile, the first of its hashes, and how many."""
    level, above = divmod(height, TILE_HEIGHT)
    tile, offset = divmod(index << above, TILE_WIDTH)
    width = min(hashes_at(level, size=size) - tile * TILE_WIDTH, TILE_WIDTH)
    return TileId(level, tile, width), offset, 1 << above


def _tiles(ranges: Iterable[_Range], *, size: int) -> set[TileId]:
    return {_place(height, index, size=size)[0] for one in ranges for height, index in _complete(one)}


def _fetch(wanted: Collection[TileId], read: Reader) -> dict[TileId, list[bytes]]:
    """Tiles as lists of hashes. Raises FirewallError (MALFORMED)."""
    found = read(wanted) if wanted else {}
    tiles: dict[TileId, list[bytes]] = {}
    for tile in wanted:
        content = found.get(tile)
        if content is None:
            raise FirewallError(Kind.MALFORMED, f"`{tile.path}` is missing")
        try:
            tiles[tile] = split_hashes(content, width=tile.width)
        except FirewallError as error:
            raise FirewallError(error.kind, f"`{tile.path}` is {error.detail}", fix=error.fix) from None
    return tiles


def _folded(nodes: Sequence[bytes]) -> bytes:
    """The hash over complete subtrees, the largest first."""
    node = nodes[-1]
    for left in reversed(nodes[:-1]):
        node = node_hash(left, node)
    return node


def _hash(given: bytes) -> bytes:
    if len(given) != HASH_BYTES:
        raise _does_not_hold(f"a hash of {len(given)} bytes, where {HASH_BYTES} are expected")
    return given


def _refuse_beyond(size: int) -> None:
    if not 0 <= size <= SIZE_MAX:
        raise FirewallError(Kind.MALFORMED, f"no tree has {size} leaves")


def _does_not_hold(detail: str) -> FirewallError:
    return FirewallError(Kind.MALFORMED, detail)
