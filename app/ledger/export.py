"""A ledger into a directory that can be verified without us (app/ledger/exported.py has the layout).

    (1) begin      the newest checkpoint says how far; what is there already has to be the beginning of it
    (2) entries    chunk by chunk: bundles of receipts, then the file of records, which says that the chunk is done
    (3) tiles      as the database has them, not computed: what they would have to be is found out by `verify`
    (4) the rest   policy sets, activations, erasures, checkpoints
    (5) manifest   last; from here on the export is that of the new size, and what it replaced is taken away

Every file is whole or not there, so the same command goes on where it was interrupted, and a later one takes only what
is new. INVARIANT: until (5) the directory is the export that it was, but for records that were erased meanwhile.
"""

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Protocol

import orjson

from app.core.merkle import EMPTY_ROOT, root, tiles_for_root
from app.core.notes import Checkpoint, parse_note
from app.core.tiles import (
    TILE_WIDTH,
    BundleId,
    TileId,
    encode_bundle,
    partial_tiles,
    tile_at,
    tiles_of,
)
from app.errors import FirewallError, Kind
from app.ledger.exported import (
    ABSENT,
    ACTIVATIONS,
    BEGUN,
    CHECKPOINT,
    CHECKPOINTS,
    CHUNK,
    LISTS,
    MANIFEST,
    RECORDS,
    Chunk,
    Export,
    Manifest,
    chunks_of,
    list_path,
    policy_set_path,
    read_manifest,
)
from app.ledger.files import FileDigest, digest_file, make_directory, new_file, read_file, write_file
from app.ledger.records import RecordsWriter
from app.ledger.rows import Absent, LedgerRow, LedgerSource, Published

# Tiles that are asked for at a time: two megabytes.
_TILES: Final = 256
# A list of erasures.
BEGUN_BYTES_MAX: Final = 1024 * 1024 * 1024


class ExportableLedger(LedgerSource, Protocol):
    """A ledger with what was published of it. Every method raises FirewallError."""

    async def published(self) -> Published:
        """How far the tree goes, and the newest checkpoint of it."""

    async def checkpoints(self) -> Sequence[tuple[int, bytes]]:
        """Every checkpoint that is kept, with its size, as a signed note."""

    async def tiles(self, wanted: Sequence[TileId]) -> dict[TileId, bytes]:
        """Those of some tiles that are there, as wide as they are asked for or as they are."""


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export wrote: `since` is the size that was there before, `behind` what is not in the tree yet."""

    size: int
    since: int
    behind: int
    chunks: int
    signed: bool


async def export(
    source: ExportableLedger,
    directory: Path,
    *,
    now: datetime,
    engine: str,
    records: bool = True,
    started: Callable[[int], object] = lambda _: None,
    advanced: Callable[[int], object] = lambda _: None,
) -> Exported:
    """Export into a directory that is empty, or has an export of this ledger. `records` is as before for the latter.

    `started` is told how many entries are to be read, `advanced` of each few that were.
    Raises FirewallError: CONFLICT where the directory has another ledger, or somebody exports into it at this moment.
    """
    with _alone(directory):
        writer = _Writer(source, directory, records=records)
        return await writer.run(now=now, engine=engine, started=started, advanced=advanced)


class _Writer:
    def __init__(self, source: ExportableLedger, directory: Path, *, records: bool) -> None:
        self._source = source
        self._directory = directory
        self._records = records
        self._files: dict[str, FileDigest] = {}

    async def run(
        self, *, now: datetime, engine: str, started: Callable[[int], object], advanced: Callable[[int], object]
    ) -> Exported:
        # (1)
        published = await self._source.published()
        before = read_manifest(self._directory)
        since = 0
        if before is not None:
            await self._continue(before, published)
            since = before.size
        absent = await self._source.absent()
        known = self._begin(before, absent)
        # (2)
        chunks = self._todo(published.size, before=before, fresh=absent.erased.keys() - known)
        started(sum(chunk.end - chunk.start for chunk in chunks))
        count = len(chunks)
        while chunks:
            for chunk in chunks:
                await self._chunk(chunk, since=since, size=published.size, advanced=advanced)
            # What was erased meanwhile goes from here as well.
            earlier, absent = absent, await self._source.absent()
            fresh = {idx - idx % CHUNK for idx in absent.erased.keys() - earlier.erased.keys()}
            chunks = [chunk for chunk in chunks_of(published.size) if chunk.start in fresh]
        # (3)
        for batch in _batches(tiles_of(published.size, since=since)):
            for tile, content in (await self._source.tiles(batch)).items():
                write_file(self._directory / tile.path, content)
        # (4)
        await self._rest(published, before=before, absent=absent)
        # (5)
        head = await self._source.size()
        manifest = Manifest(
            size=published.size,
            root=published.root,
            records=self._records,
            exported_at=now.isoformat(),
            engine=engine,
            origin=None if published.note is None else Checkpoint.parse(parse_note(published.note).text).origin,
            files=self._files,
        )
        write_file(self._directory / MANIFEST, manifest.encode())
        if published.note is not None:
            write_file(self._directory / CHECKPOINT, published.note)
        if before is not None:
            self._sweep(before, manifest)
        self._sweep_records(manifest)
        (self._directory / BEGUN).unlink(missing_ok=True)
        return Exported(
            size=published.size,
            since=since,
            behind=max(0, head - published.size),
            chunks=count,
            signed=published.note is not None,
        )

    async def _continue(self, before: Manifest, published: Published) -> None:
        """Refuse a ledger that is not the continuation of what is here. Raises FirewallError (CONFLICT)."""
        if before.records != self._records:
            raise _other_records(self._directory, records=before.records)
        there: bytes | None = None
        if before.size <= published.size:
            wanted = tuple(tiles_for_root(before.size))
            tiles = await self._source.tiles(wanted)
            if tiles.keys() >= set(wanted):
                there = root(before.size, lambda _: tiles) if before.size else EMPTY_ROOT
        if there != before.root:
            raise FirewallError(
                Kind.CONFLICT,
                f"the ledger is not the continuation of what `{self._directory}` has: {before.size} entries with"
                " another root",
                fix=f"keep that directory; export into another one, and `mfw ledger verify OTHER --since "
                f"{self._directory}` says where they part",
            )

    def _begin(self, before: Manifest | None, absent: Absent) -> frozenset[int]:
        """Say that an export is under way, and give the erasures that what is here already took into account.

        Raises FirewallError (CONFLICT) where a run that was interrupted was to export something else.
        """
        content = read_file(self._directory / BEGUN, max_bytes=BEGUN_BYTES_MAX)
        begun: dict[str, Any] = {"records": self._records, "erased": sorted(absent.erased)}
        if content is not None:
            begun = orjson.loads(content)
        if begun["records"] != self._records:
            raise _other_records(self._directory, records=begun["records"])
        if content is None:
            write_file(self._directory / BEGUN, orjson.dumps(begun))
        if before is not None:
            return frozenset(Export(self._directory, before).listed_absent().erased)
        return frozenset(begun["erased"])

    def _todo(self, size: int, *, before: Manifest | None, fresh: Iterable[int]) -> list[Chunk]:
        """The chunks to write: those that are new, and those with a record that was erased meanwhile."""
        known = {} if before is None else before.files
        stale = {idx - idx % CHUNK for idx in fresh}
        todo: list[Chunk] = []
        for chunk in chunks_of(size):
            if chunk.start not in stale:
                # Known, or written by a run that did not come to its end.
                found = known.get(chunk.path) or digest_file(self._directory / chunk.path)
                if found is not None:
                    self._files[chunk.path] = found
                    continue
            todo.append(chunk)
        return todo

    async def _chunk(self, chunk: Chunk, *, since: int, size: int, advanced: Callable[[int], object]) -> None:
        bundles = _Bundles(self._directory, start=max(since - since % TILE_WIDTH, chunk.start), size=size)
        with new_file(self._directory / chunk.path) as out:
            writer = RecordsWriter(out)
            told = chunk.start
            async for row in self._source.rows(chunk.start, chunk.end):
                writer.add(row if self._records else row._replace(salt=None, record=None))
                bundles.add(row)
                if row.idx % TILE_WIDTH == TILE_WIDTH - 1:
                    advanced(row.idx + 1 - told)
                    told = row.idx + 1
            bundles.finish()
            writer.finish()
        advanced(chunk.end - told)
        self._files[chunk.path] = out.digest

    async def _rest(self, published: Published, *, before: Manifest | None, absent: Absent) -> None:
        for digest in await self._source.policy_sets():
            path = policy_set_path(digest)
            if before is not None and path in before.files:
                self._files[path] = before.files[path]
            elif (content := await self._source.policy_set(digest)) is not None:
                self._files[path] = write_file(self._directory / path, content)
        activations = [
            {"index": one.index, "digest": one.digest, "at": one.at.isoformat()}
            for one in await self._source.activations()
            if one.index < published.size
        ]
        self._put(list_path(ACTIVATIONS, published.size), orjson.dumps(activations, option=orjson.OPT_INDENT_2))
        gone = {"erased": sorted(absent.erased.items()), "archived": absent.archived}
        self._put(list_path(ABSENT, published.size), orjson.dumps(gone))
        if before is not None:
            self._files |= {path: before.files[path] for path in before.checkpoints}
        for size, note in await self._source.checkpoints():
            path = f"{CHECKPOINTS}/{size}"
            if size <= published.size and path not in self._files:
                self._put(path, note)
        if published.note is not None:
            self._put(f"{CHECKPOINTS}/{published.size}", published.note)

    def _put(self, path: str, content: bytes) -> None:
        self._files[path] = write_file(self._directory / path, content)

    def _sweep(self, before: Manifest, manifest: Manifest) -> None:
        """Take away what the new export replaced: files of records, and tiles and bundles that are wider now."""
        for path in before.files.keys() - manifest.files.keys():
            (self._directory / path).unlink(missing_ok=True)
        narrow: list[TileId | BundleId] = [
            tile for tile in partial_tiles(before.size) if tile_at(tile.level, tile.index, size=manifest.size) != tile
        ]
        if before.size % TILE_WIDTH and before.size != manifest.size:
            narrow.append(BundleId(before.size // TILE_WIDTH, before.size % TILE_WIDTH))
        for one in narrow:
            (self._directory / one.path).unlink(missing_ok=True)

    def _sweep_records(self, manifest: Manifest) -> None:
        """Take away files of records that runs left which were interrupted: an erasure reaches listed ones alone."""
        with contextlib.suppress(FileNotFoundError):
            for entry in os.scandir(self._directory / RECORDS):
                if f"{RECORDS}/{entry.name}" not in manifest.files:
                    Path(entry.path).unlink()


def _other_records(directory: Path, *, records: bool) -> FirewallError:
    return FirewallError(
        Kind.CONFLICT,
        f"`{directory}` has an export {'with' if records else 'without'} records",
        fix="export into another directory",
    )


class _Bundles:
    """Writes bundles of the receipts that pass by; one that lacks an entry is left out, and `verify` says so."""

    def __init__(self, directory: Path, *, start: int, size: int) -> None:
        self._directory = directory
        self._start = start
        self._size = size
        self._index = start // TILE_WIDTH
        self._entries: list[bytes] = []

    def add(self, row: LedgerRow) -> None:
        """Take the next receipt."""
        if row.idx < self._start:
            return
        if row.idx // TILE_WIDTH != self._index:
            self.finish()
            self._index = row.idx // TILE_WIDTH
        self._entries.append(row.receipt)

    def finish(self) -> None:
        """Write the bundle, if it is whole."""
        bundle = BundleId(self._index, min(self._size - self._index * TILE_WIDTH, TILE_WIDTH))
        if self._entries and len(self._entries) == bundle.width:
            write_file(self._directory / bundle.path, encode_bundle(self._entries))
        self._entries = []


def _batches(tiles: Iterable[TileId]) -> Iterator[list[TileId]]:
    batch: list[TileId] = []
    for tile in tiles:
        batch.append(tile)
        if len(batch) == _TILES:
            yield batch
            batch = []
    if batch:
        yield batch


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Hold the directory, made if it is missing, for the owner alone. Raises FirewallError (CONFLICT, UNAVAILABLE)."""
    try:
        make_directory(directory)
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise FirewallError(
            Kind.UNAVAILABLE, f"`{directory}` cannot be used: {reason}", fix="name another directory"
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise FirewallError(
            Kind.CONFLICT, f"somebody else exports into `{directory}`", fix="wait until that is done"
        ) from None
    try:
        if read_manifest(directory) is None and not _begun(directory):
            raise FirewallError(
                Kind.CONFLICT,
                f"`{directory}` has files that are of no export",
                fix="name an empty directory, or one with an export",
            )
        yield
    finally:
        os.close(descriptor)


def _begun(directory: Path) -> bool:
    """Whether there is nothing in a directory, or what an export that was interrupted left."""
    return {entry.name for entry in os.scandir(directory)} <= _OURS


_OURS: Final = frozenset({"records", "tile", "policy-sets", CHECKPOINTS, CHECKPOINT, LISTS, BEGUN})
