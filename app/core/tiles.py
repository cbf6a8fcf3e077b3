"""How a Merkle tree is cut into files (C2SP tlog-tiles): tiles of hashes and bundles of entries, their names and bytes.

A tile of level L has 256 hashes, each of 256**L leaves; on the right edge of a tree a tile has fewer and is called
partial. A bundle has the entries whose hashes a tile of level 0 has.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from app.errors import FirewallError, Kind

TILE_WIDTH: Final = 256
# A tile spans so many levels of the tree: 2**8 leaves.
TILE_HEIGHT: Final = 8
HASH_BYTES: Final = 32
# The format has 16 bits for the length of an entry.
ENTRY_BYTES_MAX: Final = 0xFFFF
# An index is a signed 64-bit integer in the database, and this is how many entries can have one.
SIZE_MAX: Final = 2**63 - 1
# The levels that a path may name; a tree of SIZE_MAX entries has the first eight of them.
LEVEL_MAX: Final = 63

# Longer than any path that names something: an index of 2**55 has six groups of digits.
_PATH_CHARS_MAX: Final = 48
_PATH: Final = re.compile(r"tile/(entries|0|[1-9][0-9]?)/((?:x[0-9]{3}/)*[0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?", re.ASCII)


@dataclass(frozen=True, slots=True, order=True)
class TileId:
    """One tile: `width` hashes from the left, 256 for a full one."""

    level: int
    index: int
    width: int = TILE_WIDTH

    @property
    def path(self) -> str:
        """Its name below the prefix of the log, such as `tile/0/x001/x234/067.p/8`."""
        return f"tile/{self.level}/{_written(self.index, self.width)}"


@dataclass(frozen=True, slots=True, order=True)
class BundleId:
    """One bundle: the first `width` entries of those that the tile of level 0 with the same index covers."""

    index: int
    width: int = TILE_WIDTH

    @property
    def path(self) -> str:
        """Its name below the prefix of the log, such as `tile/entries/x001/x234/067.p/8`."""
        return f"tile/entries/{_written(self.index, self.width)}"

    @property
    def start(self) -> int:
        """The index of its first entry."""
        return self.index * TILE_WIDTH

    @property
    def end(self) -> int:
        """The index after its last entry."""
        return self.start + self.width


def parse_path(path: str) -> TileId | BundleId:
    """What a path such as `tile/0/x001/x234/067.p/8` names. Raises FirewallError (MALFORMED).

    Does not check: that any tree is large enough to have it.
    """
    found = None if len(path) > _PATH_CHARS_MAX else _PATH.fullmatch(path)
    if found is not None:
        level, digits, partial = found.groups()
        index = int(digits.replace("x", "").replace("/", ""))
        width = TILE_WIDTH if partial is None else int(partial)
        parsed = BundleId(index, width) if level == "entries" else TileId(int(level), index, width)
        is_level = level == "entries" or int(level) <= LEVEL_MAX
        # One tile has one name: leading groups of zeros and `.p/256` are other names, for which caches would pay.
        if parsed.path == path and is_level and width <= TILE_WIDTH and index <= SIZE_MAX // TILE_WIDTH:
            return parsed
    raise FirewallError(
        Kind.MALFORMED,
        f"`{path[:_PATH_CHARS_MAX]}` names no tile",
        fix="write it as tlog-tiles says, such as `tile/0/x001/x234/067` or `tile/entries/000.p/12`",
    )


def hashes_at(level: int, *, size: int) -> int:
    """How many hashes a level has in a tree of `size` leaves: one for each complete subtree of 256**level leaves."""
    return size >> (TILE_HEIGHT * level)


def tile_at(level: int, index: int, *, size: int) -> TileId | None:
    """The tile as a tree of `size` leaves has it, full or partial; None where it has none."""
    width = min(hashes_at(level, size=size) - index * TILE_WIDTH, TILE_WIDTH)
    return TileId(level, index, width) if width > 0 else None


def partial_tiles(size: int) -> Iterator[TileId]:
    """The partial tiles on the right edge of a tree of `size` leaves, from level 0 up: its root follows from them."""
    level = 0
    while count := hashes_at(level, size=size):
        if count % TILE_WIDTH:
            yield TileId(level, count // TILE_WIDTH, count % TILE_WIDTH)
        level += 1


def tiles_of(size: int, *, since: int = 0) -> Iterator[TileId]:
    """Every tile of a tree of `size` leaves that one of `since` leaves does not have, or has narrower."""
    level = 0
    while count := hashes_at(level, size=size):
        first = hashes_at(level, size=since) // TILE_WIDTH
        for index in range(first, -(-count // TILE_WIDTH)):
            tile = TileId(level, index, min(count - index * TILE_WIDTH, TILE_WIDTH))
            if tile != tile_at(level, index, size=since):
                yield tile
        level += 1


def bundles_of(size: int, *, since: int = 0) -> Iterator[BundleId]:
    """Every bundle of a tree of `size` leaves that one of `since` leaves does not have, or has with fewer entries."""
    if size > since:
        for index in range(since // TILE_WIDTH, -(-size // TILE_WIDTH)):
            yield BundleId(index, min(size - index * TILE_WIDTH, TILE_WIDTH))


def encode_bundle(entries: Sequence[bytes]) -> bytes:
    """A bundle: each entry with its length before it, 16 bits, the most significant byte first.

    Raises FirewallError (TOO_LARGE) for an entry that the format has no length for.
    """
    if not 0 < len(entries) <= TILE_WIDTH:
        raise ValueError("a bundle has 1 to 256 entries")
    parts: list[bytes] = []
    for entry in entries:
        if len(entry) > ENTRY_BYTES_MAX:
            raise FirewallError(
                Kind.TOO_LARGE, f"an entry of {len(entry)} bytes, and a bundle takes {ENTRY_BYTES_MAX} at most"
            )
        parts.append(len(entry).to_bytes(2, "big"))
        parts.append(entry)
    return b"".join(parts)


def decode_bundle(content: bytes, *, width: int) -> list[bytes]:
    """The entries of a bundle that has exactly `width`. Raises FirewallError (MALFORMED)."""
    entries: list[bytes] = []
    at = 0
    while at < len(content):
        if len(entries) == width:
            raise _malformed(f"a bundle goes on after its {width} entries")
        start = at + 2
        end = start + int.from_bytes(content[at:start], "big")
        if start > len(content) or end > len(content):
            raise _malformed(f"a bundle ends inside its entry {len(entries)}")
        entries.append(content[start:end])
        at = end
    if len(entries) != width:
        raise _malformed(f"a bundle of {len(entries)} entries, where {width} are expected")
    return entries


def split_hashes(tile: bytes, *, width: int) -> list[bytes]:
    """The first `width` hashes of a tile, which may be wider by now. Raises FirewallError (MALFORMED)."""
    if len(tile) % HASH_BYTES or not width * HASH_BYTES <= len(tile) <= TILE_WIDTH * HASH_BYTES:
        raise _malformed(f"a tile of {len(tile)} bytes, where {width} hashes of {HASH_BYTES} are expected")
    return [tile[at : at + HASH_BYTES] for at in range(0, width * HASH_BYTES, HASH_BYTES)]


def _written(index: int, width: int) -> str:
    """An index in groups of three digits, all but the last with an `x` before it, and the width where it is partial."""
    text = f"{index % 1000:03}"
    while index := index // 1000:
        text = f"x{index % 1000:03}/{text}"
    return text if width == TILE_WIDTH else f"{text}.p/{width}"


def _malformed(detail: str) -> FirewallError:
    return FirewallError(Kind.MALFORMED, detail, fix="fetch it again; if it stays so, the log serves what it must not")
