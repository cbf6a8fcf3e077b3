"""A ledger that is nowhere, with its tree and its checkpoints, to be exported; and ways of tampering with it."""

import asyncio
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from app.core.canonical import canonical
from app.core.merkle import EMPTY_ROOT, grow
from app.core.notes import Algorithm, Checkpoint, Note, SignerKey
from app.core.principal import AuthMethod, Principal, PrincipalKind
from app.core.tiles import HASH_BYTES, TileId
from app.core.uuid7 import uuid7
from app.ledger.export import Exported, export
from app.ledger.exported import MANIFEST, Export, Manifest
from app.ledger.files import digest_file
from app.ledger.receipt import EntryKind, leaf_hash, seal
from app.ledger.records import records_file
from app.ledger.rows import Absent, Activated, LedgerRow, Published

NOW = datetime(2026, 1, 2, tzinfo=UTC)
WHO = Principal("ops", PrincipalKind.USER, frozenset(), AuthMethod.JWT)
KEY = SignerKey.of("log.example/one", Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
WITNESS = SignerKey.of(
    "witness.example", Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33))), algorithm=Algorithm.COSIGNATURE
)
SET = canonical([{"kind": "MutationPolicy"}])
SET_DIGEST = "sha256:" + sha256(SET).hexdigest()


def write_records(path: Path, rows: Iterable[LedgerRow]) -> None:
    """A file of an export with these rows, whatever they are."""
    with records_file(path) as out:
        for one in rows:
            out.add(one)


def row(idx: int, *, generation: int = 0, kind: EntryKind = EntryKind.SNAPSHOT, **members: str) -> LedgerRow:
    """One entry; another generation is another history."""
    at = NOW + timedelta(seconds=idx)
    sealed = seal(
        kind,
        id=uuid7(at, entropy=sha256(f"{generation} {idx}".encode()).digest()[:10]),
        at=at,
        principal=WHO,
        members=members,
        record={"number": idx, "text": "ü"},
        salt=sha256(f"salt {generation} {idx}".encode()).digest(),
    )
    return LedgerRow(idx, sealed.id, sealed.kind.value, at, sealed.receipt, sealed.salt, sealed.record)


class Made:
    """A ledger as a database would have it. `rows` may be changed after `integrate`, as somebody might in a database."""

    piece = 512

    def __init__(self, size: int = 0, *, key: SignerKey | None = KEY) -> None:
        self.key = key
        self.rows_: list[LedgerRow] = []
        self.size_ = 0
        self.root = EMPTY_ROOT
        self.tiles_: dict[tuple[int, int], bytes] = {}
        self.notes: list[tuple[int, bytes]] = []
        self.sets: dict[str, bytes] = {SET_DIGEST: SET}
        self.activated: list[Activated] = []
        self.erased: dict[int, int] = {}
        self.archived: list[tuple[int, int]] = []
        self.cosigned = False
        # Called with the index of each row that is read.
        self.reading: Any = lambda _idx: None
        self.more(size)

    def more(self, count: int, *, generation: int = 0) -> None:
        """Append entries, the first one an activation, and sign the tree of them."""
        for idx in range(len(self.rows_), len(self.rows_) + count):
            if idx == 0:
                self.put(row(0, kind=EntryKind.ACTIVATION, generation=generation, policy_set=SET_DIGEST))
                self.activated.append(Activated(0, SET_DIGEST, NOW))
            else:
                self.put(row(idx, generation=generation))
        self.integrate()

    def put(self, one: LedgerRow) -> None:
        """Append an entry."""
        self.rows_.append(one)

    def erase(self, idx: int) -> None:
        """Erase a record, with the entry that says so."""
        by = len(self.rows_)
        self.put(row(by, kind=EntryKind.ERASURE, erased_index=str(idx), erased_id=str(self.rows_[idx].id)))
        self.rows_[idx] = self.rows_[idx]._replace(salt=None, record=None)
        self.erased[idx] = by

    def integrate(self) -> None:
        """Take what is new into the tree, and sign it."""
        leaves = [leaf_hash(one.receipt) for one in self.rows_[self.size_ :]]
        grown = grow(self.size_, leaves, lambda wanted: {tile: self._tile(tile) or b"" for tile in wanted})
        for tile, content in grown.tiles.items():
            self.tiles_[tile.level, tile.index] = content
        if leaves:
            self.size_, self.root = grown.size, grown.root
            if self.key is not None:
                self.notes.append((self.size_, self.sign(self.key)))

    def sign(self, key: SignerKey, *, origin: str | None = None) -> bytes:
        """A checkpoint of the tree."""
        text = Checkpoint(origin or key.name, self.size_, self.root).text
        signatures = [key.sign(text), *([WITNESS.sign(text, at=1_700_000_000)] if self.cosigned else [])]
        return Note(text, tuple(signatures)).serialise()

    def _tile(self, tile: TileId) -> bytes | None:
        content = self.tiles_.get((tile.level, tile.index))
        return None if content is None else content[: tile.width * HASH_BYTES]

    # What an export asks for.

    async def size(self) -> int:
        return len(self.rows_)

    async def rows(self, start: int, end: int) -> AsyncIterator[LedgerRow]:
        for one in self.rows_:
            if start <= one.idx < end:
                self.reading(one.idx)
                yield one

    async def activations(self) -> tuple[Activated, ...]:
        return tuple(self.activated)

    async def absent(self) -> Absent:
        return Absent(dict(self.erased), tuple(self.archived))

    async def policy_set(self, digest: str) -> bytes | None:
        return self.sets.get(digest)

    async def policy_sets(self) -> Collection[str]:
        return list(self.sets)

    async def published(self) -> Published:
        return Published(self.size_, self.root, self.notes[-1][1] if self.notes else None)

    async def checkpoints(self) -> Sequence[tuple[int, bytes]]:
        return self.notes

    async def tiles(self, wanted: Sequence[TileId]) -> dict[TileId, bytes]:
        found = {tile: self._tile(tile) for tile in wanted}
        return {tile: content for tile, content in found.items() if content is not None}

    async def close(self) -> None:
        """Nothing is open."""

    def export(self, directory: Path, *, records: bool = True) -> Exported:
        """Export it."""
        return asyncio.run(export(self, directory, now=NOW, engine="test", records=records))


def alter(one: LedgerRow, **members: Any) -> LedgerRow:
    """The entry with another receipt, canonical as ever."""
    return one._replace(receipt=canonical(orjson.loads(one.receipt) | members))


def relist(directory: Path) -> None:
    """Make the manifest fit whatever the files are now, as whoever tampers with them would."""
    manifest = Export.open(directory).manifest
    files = {path: digest_file(directory / path) for path in manifest.files}
    made = Manifest(
        size=manifest.size,
        root=manifest.root,
        records=manifest.records,
        exported_at=manifest.exported_at,
        engine=manifest.engine,
        origin=manifest.origin,
        files={path: found for path, found in files.items() if found is not None},
    )
    (directory / MANIFEST).write_bytes(made.encode())


def ids(rows: Sequence[LedgerRow]) -> list[UUID]:
    """Their ids."""
    return [one.id for one in rows]
