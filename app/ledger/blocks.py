"""Entries against the tiles that were published, in blocks of 256, and which of the two the signed root follows from.

A block is a suspect where its entries and its tile are not the same. Then there are three trees to choose from: that of
the entries, that of the tiles, and one that takes in each block what the tile above says. Whichever gives the signed
root says what every block has to be.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from app.core.merkle import Frontier, root_of
from app.core.tiles import HASH_BYTES, TILE_WIDTH, TileId, hashes_at
from app.ledger.findings import Code, Findings

# Blocks with something wrong in them that are kept, to be looked at once the root is known.
SUSPECTS_MAX: Final = 32

Fetch = Callable[[TileId], bytes | None]


@dataclass(frozen=True, slots=True)
class Block:
    """One block: the hashes of its entries by their index, those that are there, and its tile, None without one."""

    index: int
    width: int
    entries: Mapping[int, bytes]
    tile: tuple[bytes, ...] | None

    @property
    def start(self) -> int:
        """The index of its first entry."""
        return self.index * TILE_WIDTH

    @property
    def whole(self) -> tuple[bytes, ...] | None:
        """The hashes of its entries, None where one is missing."""
        found = [self.entries.get(self.start + at) for at in range(self.width)]
        return None if None in found else tuple(one for one in found if one is not None)


class Leaves:
    """The hashes of one block; the root of a full one is computed once, whoever asks."""

    def __init__(self, hashes: tuple[bytes, ...]) -> None:
        self.hashes = hashes

    @cached_property
    def root(self) -> bytes:
        """The root over them."""
        return root_of(self.hashes)

    @property
    def full(self) -> bool:
        """Whether the block is one that a tile above has a hash of."""
        return len(self.hashes) == TILE_WIDTH


class Tree:
    """A tree that grows by blocks, all of which are full but the last; `roots` has those at the wanted sizes."""

    def __init__(self, sizes: Collection[int]) -> None:
        self._sizes = sizes
        self._blocks = Frontier()
        self._edge = Frontier()
        self._known = True
        self.roots: dict[int, bytes] = {}

    def add(self, leaves: Leaves | None) -> None:
        """Take the next block; None where nobody knows it, and then nobody knows the tree."""
        if leaves is None:
            self._known = False
        if leaves is None or not self._known:
            return
        start = self._blocks.size * TILE_WIDTH
        for size in self._sizes:
            if start <= size < start + len(leaves.hashes):
                self.roots[size] = self._root_with(leaves.hashes[: size - start])
        if leaves.full:
            self._blocks.append(leaves.root)
        else:
            self._edge.extend(leaves.hashes)

    def finish(self) -> None:
        """Look at the size of all that there is."""
        if self._known:
            self.roots[self._blocks.size * TILE_WIDTH + self._edge.size] = self._root_with()

    @property
    def root(self) -> bytes | None:
        """The root, None where nobody knows it."""
        return self._root_with() if self._known else None

    def _root_with(self, hashes: Iterable[bytes] = ()) -> bytes:
        """The root if these leaves came next."""
        edge = Frontier(self._edge.size, self._edge.nodes)
        edge.extend(hashes)
        return Frontier(self._blocks.size * TILE_WIDTH + edge.size, (*self._blocks.nodes, *edge.nodes)).root


class Levels:
    """The tiles above level 0 that blocks give, each compared with its file as soon as it is full."""

    def __init__(self, fetch: Fetch, *, size: int) -> None:
        self._fetch = fetch
        self._size = size
        self._levels: list[list[bytes]] = []
        self._indexes: list[int] = []
        self.wrong: list[tuple[TileId, bool]] = []
        self.count = 0

    def add(self, node: bytes, level: int = 1) -> None:
        """Take the root of the next full tile below."""
        while len(self._levels) < level:
            self._levels.append([])
            self._indexes.append(0)
        hashes = self._levels[level - 1]
        hashes.append(node)
        if len(hashes) == TILE_WIDTH:
            self._compare(level)
            above = root_of(hashes)
            hashes.clear()
            self._indexes[level - 1] += 1
            self.add(above, level + 1)

    def finish(self) -> None:
        """Compare what is left: the partial tiles."""
        for level, hashes in enumerate(self._levels, start=1):
            if hashes:
                self._compare(level)

    def _compare(self, level: int) -> None:
        hashes = self._levels[level - 1]
        tile = TileId(level, self._indexes[level - 1], len(hashes))
        content = self._fetch(tile)
        if content != b"".join(hashes):
            self.count += 1
            if len(self.wrong) < SUSPECTS_MAX:
                self.wrong.append((tile, content is None))


class Blocks:
    """Takes entries in their order, and says in the end which are not those that were signed.

    `kept` are the sizes of which somebody kept a checkpoint.
    """

    def __init__(self, fetch: Fetch, *, size: int, kept: Iterable[int]) -> None:
        self._fetch = fetch
        self._size = size
        self._index = 0
        self._entries: dict[int, bytes] = {}
        sizes = sorted(set(kept))
        self._by_entries, self._by_tiles = Tree(sizes), Tree(sizes)
        # With the partial block, which has no tile above it, by its tile and by its entries.
        self._by_parents = (Tree(sizes), Tree(sizes))
        self._parent: tuple[int, bytes | None] = (-1, None)
        self._levels = Levels(fetch, size=size)
        self._suspects: list[Block] = []
        # The block after a suspect, in which what was moved may stand.
        self._after: dict[int, Block] = {}
        self._believed: Tree | None = None

    def add(self, idx: int, leaf: bytes) -> None:
        """Take the hash of an entry. Indexes rise."""
        while idx // TILE_WIDTH > self._index:
            self._close()
        self._entries[idx] = leaf

    def finish(self) -> None:
        """Close what is left."""
        while self._index * TILE_WIDTH < self._size:
            self._close()
        self._levels.finish()
        for tree in self._trees:
            tree.finish()

    @property
    def _trees(self) -> tuple[Tree, ...]:
        return (self._by_entries, self._by_tiles, *self._by_parents)

    @property
    def root(self) -> bytes | None:
        """The root that the entries give, None where one is missing."""
        return self._by_entries.root

    def roots(self, size: int) -> frozenset[bytes]:
        """The root of the first `size` entries: the one that was signed, or all that it may be where nobody knows."""
        trees = self._trees if self._believed is None else (self._believed,)
        return frozenset(tree.roots[size] for tree in trees if size in tree.roots)

    def _close(self) -> None:
        index = self._index
        width = min(self._size - index * TILE_WIDTH, TILE_WIDTH)
        block = Block(index, width, self._entries, self._tile(TileId(0, index, width)))
        if self._suspects and self._suspects[-1].index == index - 1:
            self._after[index - 1] = block
        whole = block.whole
        entries = None if whole is None else Leaves(whole)
        if whole is not None and whole == block.tile:
            for tree in self._trees:
                tree.add(entries)
            chosen = entries
        else:
            if len(self._suspects) < SUSPECTS_MAX:
                self._suspects.append(block)
            tile = None if block.tile is None else Leaves(block.tile)
            chosen = tile if self._is_of_parent(index, tile) else entries or tile
            edge = chosen if width == TILE_WIDTH else entries
            for tree, leaves in zip(self._trees, (entries, tile, chosen, edge), strict=True):
                tree.add(leaves)
        if chosen is not None and chosen.full:
            self._levels.add(chosen.root)
        self._entries = {}
        self._index += 1

    def _tile(self, tile: TileId) -> tuple[bytes, ...] | None:
        content = self._fetch(tile)
        if content is None or len(content) != tile.width * HASH_BYTES:
            return None
        return tuple(content[at : at + HASH_BYTES] for at in range(0, len(content), HASH_BYTES))

    def _is_of_parent(self, index: int, leaves: Leaves | None) -> bool:
        """Whether the tile above has the root of these hashes in their place; a partial block has none above it."""
        if leaves is None:
            return False
        if not leaves.full:
            return True
        above, at = divmod(index, TILE_WIDTH)
        if self._parent[0] != above:
            width = min(hashes_at(1, size=self._size) - above * TILE_WIDTH, TILE_WIDTH)
            self._parent = (above, self._fetch(TileId(1, above, width)))
        content = self._parent[1]
        return content is not None and content[at * HASH_BYTES : (at + 1) * HASH_BYTES] == leaves.root

    def judge(self, signed: bytes, findings: Findings) -> bool:
        """Say what is not what was signed; false where nobody can say what that was."""
        self._believed = next((tree for tree in self._trees if tree.root == signed), None)
        if self._believed is None:
            return False
        moved = False
        for block in self._suspects:
            if not self._believes_tile(block, self._believed):
                _tile_at_fault(block, findings)
            elif self._entries_at_fault(block, findings):
                # Everything behind it is somewhere else, and no finding of its own.
                moved = True
                break
        if not moved:
            for tile, missing in self._levels.wrong:
                code = Code.TILE_MISSING if missing else Code.TILE_ALTERED
                findings.add(code, f"`{tile.path}` is not that of the tree")
        return True

    def _believes_tile(self, block: Block, believed: Tree) -> bool:
        """Whether the tree that was signed takes this block from its tile."""
        by_tile_edge, by_entries_edge = self._by_parents
        if believed in {by_tile_edge, by_entries_edge}:
            if block.width < TILE_WIDTH:
                return believed is by_tile_edge
            return block.tile is not None and self._is_of_parent(block.index, Leaves(block.tile))
        return believed is self._by_tiles

    def _entries_at_fault(self, block: Block, findings: Findings) -> bool:
        """Name what is wrong with the entries of a block; true where all that follow it moved."""
        if block.tile is None:
            return False
        after = self._after.get(block.index)
        expected = dict(enumerate(block.tile, start=block.start))
        found = dict(block.entries)
        if after is not None:
            expected |= dict(enumerate(after.tile or (), start=after.start))
            found |= after.entries
        places = {leaf: idx for idx, leaf in expected.items()}
        for idx in range(block.start, block.start + block.width):
            leaf = found.get(idx)
            if leaf == expected[idx]:
                continue
            told = {"index": idx, "expected": expected[idx].hex(), "found": "nothing" if leaf is None else leaf.hex()}
            if leaf is None:
                # Said already, by the numbers alone.
                continue
            following = found.get(idx + 1)
            if leaf == expected.get(idx + 1) and following == expected.get(idx + 2):
                _add(findings, Code.ENTRY_MISSING, "the entry is missing, and those behind it moved up", told)
                return True
            if following == expected[idx] and leaf not in places:
                _add(findings, Code.ENTRY_INSERTED, "an entry was put in here, and those behind it moved on", told)
                return True
            if leaf in places:
                what = f"entry {places[leaf]} stands here"
                _add(findings, Code.ENTRY_REORDERED, what, told)
            else:
                _add(findings, Code.ENTRY_ALTERED, "the receipt is not the one that was signed", told)
        return False


def _add(findings: Findings, code: Code, detail: str, told: Mapping[str, object]) -> None:
    findings.add(code, detail, index=int(str(told["index"])), expected=str(told["expected"]), found=str(told["found"]))


def _tile_at_fault(block: Block, findings: Findings) -> None:
    path = TileId(0, block.index, block.width).path
    if block.tile is None:
        findings.add(Code.TILE_MISSING, f"`{path}` is missing, or cut short")
        return
    at = next((at for at, leaf in enumerate(block.tile) if leaf != block.entries.get(block.start + at)), 0)
    findings.add(Code.TILE_ALTERED, f"`{path}` is not that of the entries, from entry {block.start + at} on")


def first_difference(one: Fetch, other: Fetch, *, size: int) -> int | None:
    """The first entry in which the tiles of two logs differ; None where a tile is missing, or nothing differs."""
    for index in range(-(-size // TILE_WIDTH)):
        ours, theirs = _widest(one, index, size), _widest(other, index, size)
        if ours is None or theirs is None:
            return None
        for at in range(0, min(len(ours), len(theirs)), HASH_BYTES):
            if ours[at : at + HASH_BYTES] != theirs[at : at + HASH_BYTES]:
                return index * TILE_WIDTH + at // HASH_BYTES
    return None


def _widest(fetch: Fetch, index: int, size: int) -> bytes | None:
    """A tile as it lies there: it may be wider than this size has it."""
    wanted = min(size - index * TILE_WIDTH, TILE_WIDTH)
    return next((found for width in _widths(wanted) if (found := fetch(TileId(0, index, width))) is not None), None)


def _widths(wanted: int) -> Iterator[int]:
    yield TILE_WIDTH
    yield from range(wanted, TILE_WIDTH)
