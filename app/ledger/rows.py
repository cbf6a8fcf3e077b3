"""An entry with everything that is kept of it, as it is read for whoever goes through a whole ledger.

Nothing in a row is true because it stands here: the database, or a file, says so. `verify` and `replay` find out.
"""

from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple, Protocol
from uuid import UUID


class LedgerRow(NamedTuple):
    """One entry; `salt` and `record` are None where no record is there. `kind` is the word of the column."""

    idx: int
    id: UUID
    kind: str
    recorded_at: datetime
    receipt: bytes
    salt: bytes | None
    record: bytes | None


@dataclass(frozen=True, slots=True)
class Activated:
    """From the entry at `index` on the set with this digest was in force, says the table of activations."""

    index: int
    digest: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Absent:
    """Which records are gone rightly, says the database: single ones, each with the index of the entry that says so,
    and ranges from the first to after the last.
    """

    erased: Mapping[int, int] = field(default_factory=dict)
    archived: tuple[tuple[int, int], ...] = ()

    def is_archived(self, idx: int) -> bool:
        """Whether the record of an entry lies in an archive."""
        return any(start <= idx < end for start, end in self.archived)


@dataclass(frozen=True, slots=True)
class Published:
    """How far the tree of a ledger goes; `note` is the newest checkpoint, with its cosignatures, None without one."""

    size: int
    root: bytes
    note: bytes | None


class LedgerSource(Protocol):
    """A ledger to go through: a database, or an export. Every method raises FirewallError."""

    # Where pieces of work may begin, so that no file is read twice.
    piece: int

    async def size(self) -> int:
        """How many entries there are to read."""

    def rows(self, start: int, end: int) -> AsyncIterator[LedgerRow]:
        """The entries from an index up to before another, those that are there, by index."""

    async def activations(self) -> tuple[Activated, ...]:
        """Every activation, by index."""

    async def absent(self) -> Absent:
        """Which records are gone, and rightly so."""

    async def policy_set(self, digest: str) -> bytes | None:
        """The documents of a set; None where it is not there. Does not check: the digest."""

    async def policy_sets(self) -> Collection[str]:
        """The digests of the sets that are there."""

    async def close(self) -> None:
        """Let go of it."""
