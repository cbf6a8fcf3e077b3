"""Whether an export is a log that nobody touched: by its files, a public key, and checkpoints that somebody kept.

    (1) checkpoint   signed by a named key, of the named log; cosigned by the witnesses that are named
    (2) entries      each in its place; receipt canonical; columns, id, record and salt fit it (app/ledger/inspect.py)
    (3) tree         the entries give the signed root; if they do not, tiles say which of them is not what was signed,
                     and the root says which of the two to believe (app/ledger/blocks.py)
    (4) bundles      have the receipts of the entries
    (5) beside       policy sets are what their digests say; what a file lists is what the entries say
    (6) history      every checkpoint that was kept is one of this very log: not truncated, not forked, not made anew

One pass over the entries, with memory for a block of 256 and what is found.

Does not check: decisions; that is `replay`. Nor that a log which was made anew is not the first of its kind: nobody can
tell without a checkpoint, or a witness, from before.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

from app.core.merkle import leaf_hash
from app.core.notes import Checkpoint, Note, VerifierKey, parse_note, verify_note
from app.core.tiles import TILE_WIDTH, BundleId, decode_bundle
from app.errors import FirewallError, Kind
from app.ledger.blocks import Blocks, Fetch, first_difference
from app.ledger.exported import CHECKPOINT, Chunk, Export, policy_set_path
from app.ledger.files import digest_file, read_file
from app.ledger.findings import Code, Findings
from app.ledger.inspect import Inspector
from app.ledger.records import read_records
from app.ledger.rows import LedgerRow
from app.ledger.unique import Ids

_NOTE_BYTES_MAX: Final = 512 * 1024


@dataclass(frozen=True, slots=True)
class Trust:
    """What is believed beforehand: the log's keys, its witnesses, and its origin where that is no key's name.

    Without keys nothing is believed, and an export is only compared with itself.
    """

    keys: tuple[VerifierKey, ...] = ()
    witnesses: tuple[VerifierKey, ...] = ()
    origin: str | None = None

    @property
    def origins(self) -> frozenset[str]:
        """The origins of which a checkpoint may be."""
        return frozenset(key.name for key in self.keys) if self.origin is None else frozenset({self.origin})


@dataclass(frozen=True, slots=True)
class Saved:
    """A checkpoint from before, under the name of its file; `fetch` reads the tiles of the export that it came with."""

    name: str
    checkpoint: Checkpoint
    fetch: Fetch | None = None


@dataclass(frozen=True, slots=True)
class Verified:
    """What came of it. `root` is the one that was signed, or that of the manifest where no key was named; without
    `records` there were receipts alone.
    """

    size: int
    root: bytes
    origin: str | None
    signers: tuple[str, ...]
    witnesses: tuple[str, ...]
    saved: int
    records: bool
    findings: Findings

    @property
    def untouched(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings.faults


def read_saved(path: Path, *, trust: Trust) -> Saved:
    """A checkpoint to compare with: a signed note, or the directory of an earlier export.

    Raises FirewallError: NOT_FOUND, MALFORMED; INVALID_SIGNATURE where neither the log nor a witness signed it.
    """
    fetch: Fetch | None = None
    if path.is_dir():
        earlier = Export.open(path)
        fetch = earlier.tile
        content = earlier.note()
        if content is None and not trust.keys:
            manifest = earlier.manifest
            return Saved(str(path), Checkpoint(manifest.origin or "", manifest.size, manifest.root), fetch)
    else:
        content = read_file(path, max_bytes=_NOTE_BYTES_MAX)
    if content is None:
        raise FirewallError(Kind.NOT_FOUND, f"there is no checkpoint in `{path}`", fix="name a file, or an export")
    checkpoint, _ = _opened(content, keys=(*trust.keys, *trust.witnesses), unsigned=not trust.keys)
    return Saved(str(path), checkpoint, fetch)


def verify(
    export: Export,
    *,
    trust: Trust,
    saved: Iterable[Saved] = (),
    advanced: Callable[[int], object] = lambda _: None,
) -> Verified:
    """Verify an export. Raises FirewallError for what cannot be read at all; everything else is a finding."""
    manifest = export.manifest
    findings = Findings()
    signed, signers, witnesses = _signed(export, trust, findings)  # (1)
    size, root = (manifest.size, manifest.root) if signed is None else (signed.size, signed.root)
    kept = [*saved, *_own(export, trust, findings)]
    with Ids(size) as ids:
        inspector = Inspector(findings, ids, size=size, records=manifest.records)
        blocks = Blocks(export.tile, size=size, kept=[one.checkpoint.size for one in kept])
        bundles = _Bundles(export, findings, size=size)
        for row in _Entries(export, findings, size=size, advanced=advanced).rows():  # (2)
            inspector.take(row)
            blocks.add(row.idx, leaf_hash(row.receipt))
            bundles.add(row)
        bundles.finish()  # (4)
        blocks.finish()
        if not blocks.judge(root, findings):  # (3)
            findings.add(
                Code.ROOT_MISMATCH,
                "neither the entries nor the tiles give the root: all of the log is another one, or much of it",
                expected=root.hex(),
                found="nobody knows" if blocks.root is None else blocks.root.hex(),
            )
        _beside(export, inspector, findings)  # (5)
    _history(kept, export=export, signed=(size, root), roots=blocks.roots, findings=findings)  # (6)
    _only_first(findings)
    return Verified(
        size=size,
        root=root,
        origin=manifest.origin if signed is None else signed.origin,
        signers=signers,
        witnesses=witnesses,
        saved=len(kept),
        records=manifest.records,
        findings=findings,
    )


# (1)


def _signed(
    export: Export, trust: Trust, findings: Findings
) -> tuple[Checkpoint | None, tuple[str, ...], tuple[str, ...]]:
    """The checkpoint, if it is to be believed, and who signed and cosigned it."""
    content = export.note()
    if content is None:
        if trust.keys:
            findings.add(Code.CHECKPOINT_MISSING, "nothing in this export is signed")
        return None, (), ()
    try:
        checkpoint, signers = _opened(content, keys=trust.keys, unsigned=not trust.keys)
    except FirewallError as error:
        findings.add(Code.CHECKPOINT_INVALID, error.detail)
        return None, (), ()
    if trust.keys and checkpoint.origin not in trust.origins:
        findings.add(
            Code.CHECKPOINT_OTHER_LOG,
            "the checkpoint is of another log",
            expected=" or ".join(sorted(trust.origins)),
            found=checkpoint.origin,
        )
    cosigned: list[str] = []
    for witness in trust.witnesses:
        try:
            verify_note(parse_note(content), keys=[witness])
        except FirewallError as error:
            findings.add(Code.WITNESS_MISSING, f"`{witness.name}` did not cosign: {error.detail}")
        else:
            cosigned.append(witness.name)
    # An export that was interrupted at its very end has the one before there.
    copy = export.note(CHECKPOINT)
    if copy is not None and copy not in {content, *map(export.note, export.manifest.checkpoints)}:
        findings.add(Code.FILE_ALTERED, f"`{CHECKPOINT}` is none of the export's own")
    if checkpoint.size != export.manifest.size:
        findings.add(
            Code.LIST_ALTERED,
            "the manifest is of another size than the checkpoint",
            expected=str(checkpoint.size),
            found=str(export.manifest.size),
        )
    return checkpoint, signers, tuple(cosigned)


def _opened(content: bytes, *, keys: Collection[VerifierKey], unsigned: bool) -> tuple[Checkpoint, tuple[str, ...]]:
    """A checkpoint and who of the keys signed it. Raises FirewallError (MALFORMED, INVALID_SIGNATURE)."""
    note: Note = parse_note(content)
    signers = () if unsigned else tuple(key.name for key in verify_note(note, keys=keys))
    return Checkpoint.parse(note.text), signers


# (2)


class _Entries:
    """The rows of all files, in their order; what is missing, doubled or beyond the end is said."""

    def __init__(self, export: Export, findings: Findings, *, size: int, advanced: Callable[[int], object]) -> None:
        self._export = export
        self._findings = findings
        self._size = size
        self._advanced = advanced
        self._expected = 0

    def rows(self) -> Iterator[LedgerRow]:
        """Each row whose index is higher than that of the one before."""
        for chunk in self._export.manifest.chunks:
            yield from self._chunk(chunk)
        self._missing(self._size)

    def _chunk(self, chunk: Chunk) -> Iterator[LedgerRow]:
        heard = sha256()
        seen = 0
        strayed = False
        try:
            for row in read_records(self._export.directory / chunk.path, heard=heard.update):
                seen += 1
                if seen % TILE_WIDTH == 0:
                    self._advanced(TILE_WIDTH)
                if not self._takes(row.idx):
                    continue
                if not strayed and not chunk.start <= row.idx < chunk.end:
                    # Who reads a range of entries opens the files that are named for it.
                    strayed = True
                    self._findings.add(
                        Code.FILE_ALTERED, f"`{chunk.path}` has an entry that its name does not say", index=row.idx
                    )
                yield row
        except FirewallError as error:
            missing = digest_file(self._export.directory / chunk.path) is None
            self._findings.add(Code.FILE_MISSING if missing else Code.FILE_ALTERED, f"`{chunk.path}`: {error.detail}")
            return
        if heard.hexdigest() != self._export.manifest.files[chunk.path].sha256:
            self._findings.add(Code.FILE_ALTERED, f"`{chunk.path}` has another digest than the manifest says")

    def _takes(self, idx: int) -> bool:
        if idx >= self._size:
            self._findings.add(
                Code.ENTRY_INSERTED, f"the log has {self._size} entries, and this one is beyond its end", index=idx
            )
            return False
        if idx < self._expected:
            self._findings.add(Code.ENTRY_INSERTED, "there is a second entry at this index", index=idx)
            return False
        self._missing(idx)
        self._expected = idx + 1
        return True

    def _missing(self, end: int) -> None:
        """Say which entries are missing: the first of them, and how many."""
        count = end - self._expected
        if count > 0:
            what = "the entry is missing" if count == 1 else f"{count} entries are missing, from here on"
            self._findings.add(Code.ENTRY_MISSING, what, index=self._expected)
            self._expected = end


# (4)


class _Bundles:
    """Bundles against the receipts that pass by."""

    def __init__(self, export: Export, findings: Findings, *, size: int) -> None:
        self._export = export
        self._findings = findings
        self._size = size
        self._index = 0
        self._receipts: dict[int, bytes] = {}

    def add(self, row: LedgerRow) -> None:
        """Take the next receipt."""
        while row.idx // TILE_WIDTH > self._index:
            self._close()
        self._receipts[row.idx % TILE_WIDTH] = row.receipt

    def finish(self) -> None:
        """Close what is left."""
        while self._index * TILE_WIDTH < self._size:
            self._close()

    def _close(self) -> None:
        bundle = BundleId(self._index, min(self._size - self._index * TILE_WIDTH, TILE_WIDTH))
        content = self._export.bundle(bundle)
        if content is None:
            # Where an entry is missing nobody can have its bundle, and that is said already.
            if len(self._receipts) == bundle.width:
                self._findings.add(Code.BUNDLE_MISSING, f"`{bundle.path}` is missing")
        else:
            self._compare(bundle, content)
        self._receipts = {}
        self._index += 1

    def _compare(self, bundle: BundleId, content: bytes) -> None:
        try:
            receipts = decode_bundle(content, width=bundle.width)
        except FirewallError as error:
            self._findings.add(Code.BUNDLE_ALTERED, f"`{bundle.path}`: {error.detail}")
            return
        for at, receipt in enumerate(receipts):
            if self._receipts.get(at, receipt) != receipt:
                self._findings.add(
                    Code.BUNDLE_ALTERED, f"`{bundle.path}` has another receipt than the entry", index=bundle.start + at
                )
                return


# (5)


def _beside(export: Export, inspector: Inspector, findings: Findings) -> None:
    manifest = export.manifest
    for path, listed in manifest.files.items():
        if path.startswith("records/"):
            continue
        found = digest_file(export.directory / path)
        if found is None:
            findings.add(Code.FILE_MISSING, f"`{path}` is missing")
        elif found != listed:
            findings.add(Code.FILE_ALTERED, f"`{path}` has another digest than the manifest says")
    for digest in manifest.policy_sets:
        content = export.documents(digest)
        if content is not None and (found_digest := "sha256:" + sha256(content).hexdigest()) != digest:
            findings.add(
                Code.POLICY_SET_ALTERED,
                f"`{policy_set_path(digest)}` is another set",
                index=inspector.policy_sets.get(digest),
                expected=digest,
                found=found_digest,
            )
    for digest, idx in inspector.policy_sets.items():
        if digest not in manifest.policy_sets:
            code = Code.POLICY_SET_MISSING if digest in inspector.activated else Code.POLICY_SET_UNSTORED
            findings.add(code, f"the export has no policy set `{digest}`", index=idx)
    try:
        activations, absent = export.listed_activations(), export.listed_absent()
    except FirewallError as error:
        findings.add(Code.LIST_ALTERED, error.detail)
    else:
        inspector.finish(activations=activations, absent=absent)


# (6)


def _own(export: Export, trust: Trust, findings: Findings) -> Iterator[Saved]:
    """The checkpoints that earlier exports into the same directory saw."""
    for path in export.manifest.checkpoints:
        content = export.note(path)
        if content is None or content == export.note():
            continue
        try:
            checkpoint, _ = _opened(content, keys=(*trust.keys, *trust.witnesses), unsigned=not trust.keys)
        except FirewallError as error:
            findings.add(Code.CHECKPOINT_INVALID, f"`{path}`: {error.detail}")
        else:
            yield Saved(path, checkpoint)


def _history(
    kept: Sequence[Saved],
    *,
    export: Export,
    signed: tuple[int, bytes],
    roots: Callable[[int], Collection[bytes]],
    findings: Findings,
) -> None:
    """Compare with every checkpoint that was kept, and say where the two logs part as exactly as they tell."""
    size = signed[0]
    fits = {0}
    for one in sorted(kept, key=lambda one: one.checkpoint.size):
        there = one.checkpoint
        told = {"expected": there.root.hex(), "found": "nothing"}
        if there.size > size:
            findings.add(
                Code.LOG_TRUNCATED,
                f"`{one.name}` is of {there.size} entries, and the log has {size} now",
                index=size,
                **told,
            )
            continue
        if (there.size, there.root) == signed or there.root in roots(there.size):
            fits.add(there.size)
            continue
        found = sorted(root.hex() for root in roots(there.size))
        told["found"] = " or ".join(found) or "nothing"
        parts = None if one.fetch is None else first_difference(export.tile, one.fetch, size=there.size)
        last = max(fits)
        if parts == 0 or (parts is None and last == 0):
            where = "from its first entry on" if parts == 0 else "and no checkpoint that was kept is of this log"
            findings.add(
                Code.LOG_REGENERATED,
                f"the log of {there.size} entries that `{one.name}` is of was another one, {where}",
                index=0,
                **told,
            )
        else:
            first = last if parts is None else parts
            where = f"somewhere from entry {first} on" if parts is None else f"from entry {first} on"
            findings.add(
                Code.LOG_FORKED,
                f"the log of {there.size} entries that `{one.name}` is of went on otherwise {where}",
                index=first,
                **told,
            )


def _only_first(findings: Findings) -> None:
    """Leave out what follows from something else that was found at the same entry, or before it."""
    altered = {one.index for code in (Code.ENTRY_ALTERED, Code.ENTRY_REORDERED) for one in findings.kept.get(code, ())}
    for code in (Code.RECEIPT_INVALID, Code.COLUMN_ALTERED, Code.RECORD_ALTERED, Code.SALT_ALTERED):
        findings.leave_out(code, altered)
