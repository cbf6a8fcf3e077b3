"""What lies in the directory of an export, and how it is read: one layout, for who writes it and who verifies it.

- `manifest.json`: what there is: size, root, and the digest of every file but tiles and bundles
- `checkpoints/<SIZE>`: the newest signed note, with its cosignatures, and those that were seen before
- `checkpoint`: the newest once more, where readers of tlog-tiles look for it
- `tile/<L>/...`, `tile/entries/...`: hashes and receipts, as C2SP tlog-tiles names them; the root is their digest
- `records/<START>-<END>.ndjson.zst`: entries with their records (app/ledger/records.py)
- `policy-sets/<HEX>.json`: the very bytes that a set's digest is of
- `lists/activations-<SIZE>.json`: what the database says: which set was in force from where on
- `lists/absent-<SIZE>.json`: and which records are gone
"""

import re
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Self

import orjson

from app.core.tiles import HASH_BYTES, TILE_WIDTH, BundleId, TileId
from app.errors import FirewallError, Kind
from app.ledger.files import FileDigest, read_file
from app.ledger.records import SUFFIX, read_records
from app.ledger.rows import Absent, Activated, LedgerRow

FORMAT: Final = "mutationfirewall.io/ledger-export/v1"
MANIFEST: Final = "manifest.json"
CHECKPOINT: Final = "checkpoint"
CHECKPOINTS: Final = "checkpoints"
RECORDS: Final = "records"
POLICY_SETS: Final = "policy-sets"
LISTS: Final = "lists"
ACTIVATIONS: Final = "activations"
ABSENT: Final = "absent"
# There while somebody exports, or after they were interrupted.
BEGUN: Final = "begun.json"
# Entries in one file of records: some ten megabytes, and 256 bundles.
CHUNK: Final = 65_536

# A file of records for each chunk, a line for each: room for 2**40 entries. Lists of erasures are of the same order.
_MANIFEST_BYTES_MAX: Final = 4 * 1024 * 1024 * 1024
_NOTE_BYTES_MAX: Final = 512 * 1024
# app/policies/load.py takes 16 MiB of YAML; JSON is no longer.
_POLICY_SET_BYTES_MAX: Final = 64 * 1024 * 1024
# An entry in a bundle has its length in 16 bits.
_BUNDLE_BYTES_MAX: Final = TILE_WIDTH * (0xFFFF + 2)
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
_NAMED: Final = re.compile(r"records/([0-9]{12,19})-([0-9]{12,19})\.ndjson\.zst")
_PATH: Final = re.compile(r"[a-z0-9.-]+(?:/[a-z0-9.-]+)?")


@dataclass(frozen=True, slots=True, order=True)
class Chunk:
    """One file of records: the entries from `start` up to before `end`."""

    start: int
    end: int

    @property
    def path(self) -> str:
        """Its name in the directory."""
        return f"{RECORDS}/{self.start:012}-{self.end:012}{SUFFIX}"


def chunks_of(size: int, *, since: int = 0) -> Iterator[Chunk]:
    """The files of a ledger of `size` entries that one of `since` entries does not have."""
    for start in range(since - since % CHUNK, size, CHUNK):
        yield Chunk(start, min(start + CHUNK, size))


def list_path(name: str, size: int) -> str:
    """Where a list of an export of this size lies."""
    return f"{LISTS}/{name}-{size}.json"


def policy_set_path(digest: str) -> str:
    """Where a set lies. Raises ValueError for what is no digest."""
    if _DIGEST.fullmatch(digest) is None:
        raise ValueError(digest)
    return f"{POLICY_SETS}/{digest.removeprefix('sha256:')}.json"


@dataclass(frozen=True, slots=True)
class Manifest:
    """What an export has. `origin` is None where no checkpoint was signed, `records` is false without records."""

    size: int
    root: bytes
    records: bool
    exported_at: str
    engine: str
    origin: str | None = None
    files: Mapping[str, FileDigest] = field(default_factory=dict)

    @property
    def chunks(self) -> tuple[Chunk, ...]:
        """The files of records that are listed, by the entries in them."""
        found = (_NAMED.fullmatch(path) for path in self.files)
        return tuple(sorted(Chunk(int(one[1]), int(one[2])) for one in found if one is not None))

    @property
    def policy_sets(self) -> tuple[str, ...]:
        """The digests of the sets that are listed."""
        prefix = f"{POLICY_SETS}/"
        return tuple(
            f"sha256:{path.removeprefix(prefix).removesuffix('.json')}"
            for path in sorted(self.files)
            if path.startswith(prefix)
        )

    @property
    def checkpoints(self) -> tuple[str, ...]:
        """The paths of all checkpoints, the newest among them."""
        return tuple(path for path in sorted(self.files) if path.startswith(f"{CHECKPOINTS}/"))

    def encode(self) -> bytes:
        """The manifest as its file."""
        return orjson.dumps(
            {
                "format": FORMAT,
                "size": self.size,
                "root": self.root.hex(),
                "origin": self.origin,
                "records": self.records,
                "exported_at": self.exported_at,
                "engine": self.engine,
                "files": {path: {"bytes": one.bytes, "sha256": one.sha256} for path, one in sorted(self.files.items())},
            },
            option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE,
        )

    @classmethod
    def decode(cls, content: bytes) -> Self:
        """A manifest of its file. Raises FirewallError (MALFORMED)."""
        try:
            members = orjson.loads(content)
            return cls(
                size=_size(members["size"], form=members["format"]),
                root=_root(members["root"]),
                records=members["records"] is True,
                exported_at=str(members["exported_at"]),
                engine=str(members["engine"]),
                origin=None if members["origin"] is None else str(members["origin"]),
                files={
                    _path(path): FileDigest(int(one["bytes"]), str(one["sha256"]))
                    for path, one in members["files"].items()
                },
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise FirewallError(
                Kind.MALFORMED,
                f"`{MANIFEST}` is not that of an export",
                fix="name a directory that `mfw ledger export` wrote",
            ) from error


def _size(size: object, *, form: object) -> int:
    if form != FORMAT or not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise ValueError(form)
    return size


def _root(text: str) -> bytes:
    root = bytes.fromhex(text)
    if len(root) != HASH_BYTES:
        raise ValueError(text)
    return root


def _path(path: str) -> str:
    """A path below the directory and nowhere else. Raises ValueError."""
    if _PATH.fullmatch(path) is None or ".." in path:
        raise ValueError(path)
    return path


def read_manifest(directory: Path) -> Manifest | None:
    """The manifest of a directory, None where there is none. Raises FirewallError: MALFORMED, UNAVAILABLE."""
    content = read_file(directory / MANIFEST, max_bytes=_MANIFEST_BYTES_MAX)
    return None if content is None else Manifest.decode(content)


class Export:
    """Reads an export; also as the ledger that replay goes through. Does not check: more than the manifest's form."""

    piece = CHUNK

    def __init__(self, directory: Path, manifest: Manifest) -> None:
        self.directory = directory
        self.manifest = manifest

    @classmethod
    def open(cls, directory: Path) -> Self:
        """The export in a directory. Raises FirewallError (NOT_FOUND, MALFORMED)."""
        manifest = read_manifest(directory)
        if manifest is None:
            raise FirewallError(
                Kind.NOT_FOUND,
                f"there is no whole export in `{directory}`",
                fix="name a directory that `mfw ledger export` wrote; give the same command again where it did not end",
            )
        return cls(directory, manifest)

    def note(self, path: str | None = None) -> bytes | None:
        """A signed note, the newest unless another is named; None where there is none."""
        return read_file(self.directory / (path or f"{CHECKPOINTS}/{self.manifest.size}"), max_bytes=_NOTE_BYTES_MAX)

    def tile(self, tile: TileId) -> bytes | None:
        """The hashes of a tile, None where it is not there."""
        return read_file(self.directory / tile.path, max_bytes=TILE_WIDTH * HASH_BYTES)

    def tiles(self, wanted: Collection[TileId]) -> dict[TileId, bytes]:
        """Those of some tiles that are there: a reader as `app/core/merkle.py` wants one."""
        found = {tile: self.tile(tile) for tile in wanted}
        return {tile: content for tile, content in found.items() if content is not None}

    def bundle(self, bundle: BundleId) -> bytes | None:
        """The receipts of a bundle, None where it is not there."""
        return read_file(self.directory / bundle.path, max_bytes=_BUNDLE_BYTES_MAX)

    def documents(self, digest: str) -> bytes | None:
        """The bytes of a set, None where it is not there."""
        try:
            path = policy_set_path(digest)
        except ValueError:
            return None
        return read_file(self.directory / path, max_bytes=_POLICY_SET_BYTES_MAX)

    # As a source of replay.

    async def size(self) -> int:
        """How many entries there are. Raises FirewallError (MALFORMED) for an export without records."""
        if not self.manifest.records:
            raise FirewallError(
                Kind.MALFORMED,
                "this export has no records, and nothing can be decided again without them",
                fix="export without --without-records",
            )
        return self.manifest.size

    async def rows(self, start: int, end: int) -> AsyncIterator[LedgerRow]:
        """The entries from `start` up to before `end`, those that are there."""
        for chunk in self.manifest.chunks:
            if chunk.start < end and start < chunk.end:
                for row in read_records(self.directory / chunk.path):
                    if start <= row.idx < end:
                        yield row

    async def activations(self) -> tuple[Activated, ...]:
        """Every activation, as the database had them."""
        return self.listed_activations()

    def listed_activations(self) -> tuple[Activated, ...]:
        """Every activation, as the database had them. Raises FirewallError (MALFORMED)."""
        try:
            return tuple(
                Activated(int(one["index"]), str(one["digest"]), datetime.fromisoformat(one["at"]))
                for one in self._json(ACTIVATIONS)
            )
        except (KeyError, TypeError, ValueError) as error:
            raise _damaged(ACTIVATIONS) from error

    async def absent(self) -> Absent:
        """Which records are gone, as the database had it."""
        return self.listed_absent()

    def listed_absent(self) -> Absent:
        """Which records are gone, as the database had it. Raises FirewallError (MALFORMED)."""
        found = self._json(ABSENT)
        try:
            return Absent(
                {int(idx): int(by) for idx, by in found["erased"]},
                tuple((int(start), int(end)) for start, end in found["archived"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise _damaged(ABSENT) from error

    async def policy_set(self, digest: str) -> bytes | None:
        """The documents of a set, None where it is not there."""
        return self.documents(digest)

    async def policy_sets(self) -> Collection[str]:
        """The digests of the sets that are there."""
        return self.manifest.policy_sets

    async def close(self) -> None:
        """Nothing is open."""

    def _json(self, name: str) -> Any:
        path = list_path(name, self.manifest.size)
        content = read_file(self.directory / path, max_bytes=_MANIFEST_BYTES_MAX)
        try:
            return orjson.loads(content or b"")
        except orjson.JSONDecodeError as error:
            raise _damaged(path) from error


def _damaged(name: str) -> FirewallError:
    return FirewallError(Kind.MALFORMED, f"`{name}` of the export is missing or damaged")
