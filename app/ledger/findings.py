"""What a verification can find: a closed set, each with what to do."""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

# Findings of each kind that are listed; the counts are complete.
SHOWN_MAX: Final = 20


class Code(StrEnum):
    """One way in which an export is not an untouched log."""

    CHECKPOINT_MISSING = "checkpoint-missing"
    CHECKPOINT_INVALID = "checkpoint-invalid"
    CHECKPOINT_OTHER_LOG = "checkpoint-other-log"
    WITNESS_MISSING = "witness-missing"
    LOG_TRUNCATED = "log-truncated"
    LOG_FORKED = "log-forked"
    LOG_REGENERATED = "log-regenerated"
    ROOT_MISMATCH = "root-mismatch"
    ENTRY_ALTERED = "entry-altered"
    ENTRY_MISSING = "entry-missing"
    ENTRY_INSERTED = "entry-inserted"
    ENTRY_REORDERED = "entry-reordered"
    RECEIPT_INVALID = "receipt-invalid"
    COLUMN_ALTERED = "column-altered"
    ID_REPEATED = "id-repeated"
    RECORD_ALTERED = "record-altered"
    SALT_ALTERED = "salt-altered"
    RECORD_MISSING = "record-missing"
    TILE_ALTERED = "tile-altered"
    TILE_MISSING = "tile-missing"
    BUNDLE_ALTERED = "bundle-altered"
    BUNDLE_MISSING = "bundle-missing"
    POLICY_SET_ALTERED = "policy-set-altered"
    POLICY_SET_MISSING = "policy-set-missing"
    POLICY_SET_UNSTORED = "policy-set-unstored"
    ERASURE_PENDING = "erasure-pending"
    LIST_ALTERED = "list-altered"
    FILE_ALTERED = "file-altered"
    FILE_MISSING = "file-missing"


_AGAIN: Final = "export again; if it stays so, it is the database that is not what it was"
_TAMPERED: Final = "treat the database as tampered with: keep it as it is, and compare with a backup or an older export"
_REWRITTEN: Final = "whoever holds the signing key has signed two histories: keep both as evidence, and revoke the key"

# What to do, for each.
FIXES: Final[dict[Code, str]] = {
    Code.CHECKPOINT_MISSING: "configure a signing key, and export again once a checkpoint was signed",
    Code.CHECKPOINT_INVALID: "get the public key from where it was published, not from this export",
    Code.CHECKPOINT_OTHER_LOG: "name the log's own key, or its origin with --origin",
    Code.WITNESS_MISSING: "ask the witness what it saw; an export a minute later may have its cosignature",
    Code.LOG_TRUNCATED: _REWRITTEN,
    Code.LOG_FORKED: _REWRITTEN,
    Code.LOG_REGENERATED: _REWRITTEN,
    Code.ROOT_MISMATCH: _TAMPERED,
    Code.ENTRY_ALTERED: _TAMPERED,
    Code.ENTRY_MISSING: _TAMPERED,
    Code.ENTRY_INSERTED: _TAMPERED,
    Code.ENTRY_REORDERED: _TAMPERED,
    Code.RECEIPT_INVALID: "a release that knows this form may read it; none of ours writes it",
    Code.COLUMN_ALTERED: _TAMPERED,
    Code.ID_REPEATED: _TAMPERED,
    Code.RECORD_ALTERED: _TAMPERED,
    Code.SALT_ALTERED: _TAMPERED,
    Code.RECORD_MISSING: "look for it in a backup: nothing in the log says that it was erased or archived",
    Code.TILE_ALTERED: _AGAIN,
    Code.TILE_MISSING: _AGAIN,
    Code.BUNDLE_ALTERED: _AGAIN,
    Code.BUNDLE_MISSING: _AGAIN,
    Code.POLICY_SET_ALTERED: "restore the table `policy_sets` from a backup",
    Code.POLICY_SET_MISSING: "restore the table `policy_sets` from a backup",
    Code.POLICY_SET_UNSTORED: "to replay, name the directory that it came from with --policies",
    Code.ERASURE_PENDING: "export again: the entry of the erasure was not under the checkpoint yet",
    Code.LIST_ALTERED: _AGAIN,
    Code.FILE_ALTERED: "fetch the export again from where it was made",
    Code.FILE_MISSING: "fetch the export again from where it was made",
}
# No fault of the log: a set that came from a directory of files.
NOTES: Final = frozenset({Code.POLICY_SET_UNSTORED})


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it must be. `index` is the entry, None where it is about something else."""

    code: Code
    detail: str
    index: int | None = None
    expected: str = ""
    found: str = ""

    @property
    def fix(self) -> str:
        """What to do."""
        return FIXES[self.code]


@dataclass(slots=True)
class Findings:
    """What was found so far: every count, and the first of each kind."""

    counts: Counter[Code] = field(default_factory=Counter)
    kept: dict[Code, list[Finding]] = field(default_factory=dict)

    def add(self, code: Code, detail: str, *, index: int | None = None, expected: str = "", found: str = "") -> None:
        """Note one thing."""
        self.counts[code] += 1
        kept = self.kept.setdefault(code, [])
        if len(kept) < SHOWN_MAX:
            kept.append(Finding(code, detail, index, expected, found))

    def leave_out(self, code: Code, indexes: Collection[int | None]) -> None:
        """Forget those of a kind at some entries: they follow from something else that is said of these."""
        kept = self.kept.get(code, [])
        rest = [one for one in kept if one.index not in indexes]
        self.counts[code] -= len(kept) - len(rest)
        self.kept[code] = rest
        self.counts += Counter()  # those of which none is left

    @property
    def listed(self) -> tuple[Finding, ...]:
        """Those that are listed: what is about the whole log, then by entry, then the rest."""
        found = [one for kept in self.kept.values() for one in kept]
        return tuple(sorted(found, key=_order))

    @property
    def faults(self) -> int:
        """How many findings say that something is wrong."""
        return sum(count for code, count in self.counts.items() if code not in NOTES)


_CODES: Final = tuple(Code)
_WHOLE: Final = _CODES.index(Code.ENTRY_ALTERED)


def _order(one: Finding) -> tuple[int, int, int]:
    place = _CODES.index(one.code)
    if one.index is not None:
        return (1, one.index, place)
    return (0 if place < _WHOLE else 2, 0, place)
