"""What can be told of each entry by itself, and of all of them without their tree."""

from collections.abc import Collection, Iterable
from hashlib import sha256
from typing import Any, Final, NamedTuple

import orjson

from app.core.types import JsonObject
from app.errors import FirewallError
from app.ledger.findings import Code, Findings
from app.ledger.receipt import PRINCIPAL_PREFIX, SALT_BYTES, EntryKind, parse, record_digest
from app.ledger.rows import Absent, Activated, LedgerRow
from app.ledger.unique import Ids

_ACTIVATING: Final = frozenset({EntryKind.ACTIVATION.value, EntryKind.BREAK_GLASS.value})
_SET: Final = "policy_set"
# What an entry about records that are gone says of them.
_ERASED: Final = "erased_index"
_ARCHIVED: Final = ("first_index", "last_index")


class Gap(NamedTuple):
    """Entries without a record, from the first up to before the last."""

    start: int
    end: int


class Inspector:
    """Takes entries in their order. `records` is false where the export has none."""

    def __init__(self, findings: Findings, ids: Ids, *, size: int, records: bool) -> None:
        self._size = size
        self._findings = findings
        self._ids = ids
        self._records = records
        self._gaps: list[Gap] = []
        self._erased: set[int] = set()
        self._archived: list[Gap] = []
        self._activated: list[tuple[int, str]] = []
        self.policy_sets: dict[str, int] = {}

    def take(self, row: LedgerRow) -> None:
        """Look at one more."""
        self._ids.add(row.id, row.idx)
        if row.record is None or row.salt is None:
            if self._gaps and self._gaps[-1].end == row.idx:
                self._gaps[-1] = Gap(self._gaps[-1].start, row.idx + 1)
            else:
                self._gaps.append(Gap(row.idx, row.idx + 1))
        try:
            receipt = parse(row.receipt)
        except FirewallError as error:
            self._findings.add(Code.RECEIPT_INVALID, error.detail, index=row.idx)
            return
        for name, column in (("id", str(row.id)), ("kind", row.kind)):
            if receipt[name] != column:
                self._findings.add(
                    Code.COLUMN_ALTERED,
                    f"the column `{name}` is not what the receipt says",
                    index=row.idx,
                    expected=str(receipt[name]),
                    found=column,
                )
        if row.record is not None and row.salt is not None:
            self._record(row, receipt, row.salt, row.record)
        self._follow(row.idx, receipt)

    def _record(self, row: LedgerRow, receipt: JsonObject, salt: bytes, record: bytes) -> None:
        found = record_digest(salt, record) if len(salt) == SALT_BYTES else "no digest"
        if found == receipt["record"]:
            return
        # With the right salt the record's principal has the digest that the receipt has of it.
        by_salt = _principal(salt, record) not in {None, receipt["principal"]}
        what = "the salt" if by_salt else "the record"
        self._findings.add(
            Code.SALT_ALTERED if by_salt else Code.RECORD_ALTERED,
            f"{what} is not the one that the receipt was written for",
            index=row.idx,
            expected=str(receipt["record"]),
            found=found,
        )

    def _follow(self, idx: int, receipt: JsonObject) -> None:
        digest = receipt.get(_SET)
        if isinstance(digest, str):
            self.policy_sets.setdefault(digest, idx)
            if receipt["kind"] in _ACTIVATING:
                self._activated.append((idx, digest))
        if receipt["kind"] == EntryKind.ERASURE and (erased := _index(receipt.get(_ERASED))) is not None:
            self._erased.add(erased)
        elif receipt["kind"] == EntryKind.ARCHIVE:
            first, last = (_index(receipt.get(name)) for name in _ARCHIVED)
            if first is not None and last is not None:
                self._archived.append(Gap(first, last + 1))

    @property
    def activated(self) -> frozenset[str]:
        """The sets that some entry put into force."""
        return frozenset(digest for _, digest in self._activated)

    def finish(self, *, activations: Iterable[Activated], absent: Absent) -> None:
        """Compare what entries say with one another and with the lists beside them."""
        for first, again in self._ids.repeated():
            self._findings.add(Code.ID_REPEATED, f"entry {first} has the same id", index=again)
        pending = {idx for idx, by in absent.erased.items() if by >= self._size}
        if self._records:
            self._missing(pending)
        listed = [(one.index, one.digest) for one in activations]
        if listed != self._activated:
            index, expected, found = _first_difference(self._activated, listed)
            self._findings.add(
                Code.LIST_ALTERED,
                "the list of activations is not that of the entries",
                index=index,
                expected=expected,
                found=found,
            )
        if made_up := sorted(absent.erased.keys() - self._erased - pending):
            self._findings.add(
                Code.LIST_ALTERED, "no entry says that this record was erased, and a list does", index=made_up[0]
            )

    def _missing(self, pending: Collection[int]) -> None:
        """Records that are gone without an entry that says why."""
        for gap in self._gaps:
            left = [gap]
            for archived in self._archived:
                left = [part for one in left for part in _without(one, archived)]
            for part in left:
                gone = [idx for idx in range(part.start, part.end) if idx not in self._erased]
                for idx in gone:
                    if idx in pending:
                        what = "the record was erased, says a list; the entry that says so is behind the checkpoint"
                        self._findings.add(Code.ERASURE_PENDING, what, index=idx)
                    else:
                        what = "the record is gone, and no entry says that it was erased"
                        self._findings.add(Code.RECORD_MISSING, what, index=idx)


def _principal(salt: bytes, record: bytes) -> str | None:
    """The digest that a receipt has of a record's principal, None where there is none to be read."""
    try:
        principal = orjson.loads(record)["principal"]
        identity = orjson.dumps((principal["method"], principal["id"]))
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None
    return "sha256:" + sha256(PRINCIPAL_PREFIX + salt + identity).hexdigest()


def _index(value: Any) -> int | None:
    """An index as receipts have it: a decimal, in text."""
    text = str(value)
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None


def _without(one: Gap, other: Gap) -> list[Gap]:
    """What of one range is not in another."""
    parts = (Gap(one.start, min(one.end, other.start)), Gap(max(one.start, other.end), one.end))
    return [part for part in parts if part.start < part.end]


def _first_difference(said: list[tuple[int, str]], listed: list[tuple[int, str]]) -> tuple[int, str, str]:
    for entry, line in zip(said, listed, strict=False):
        if entry != line:
            return min(entry[0], line[0]), f"{entry[1]} at {entry[0]}", f"{line[1]} at {line[0]}"
    rest = said[len(listed) :] or listed[len(said) :]
    more = f"{rest[0][1]} at {rest[0][0]}"
    return rest[0][0], more if len(said) > len(listed) else "nothing", more if len(listed) > len(said) else "nothing"
