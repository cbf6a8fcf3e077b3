"""Reading what was decided: who may see which decision, and how much of it.

`read` sees every decision. `decide` alone sees those that its principal asked for itself, of subjects that it may speak
for, so that an agent can look up what it was told and learns of no other. The salt, with which a record is verified
against its receipt, and entries of other kinds need `ledger:read`: whoever keeps a salt can try values against the
digests in the receipt after the record was erased.
"""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

import orjson

from app.core.principal import AccessScope, Principal, require
from app.errors import FirewallError, Kind
from app.ledger.read import LedgerEntry, LedgerReader
from app.ledger.receipt import EntryKind
from app.ledger.search import DecisionIndex, FoundDecision, Wanted


@dataclass(frozen=True, slots=True)
class ReadDecision:
    """A decision as its reader may see it. `record` is its record's JSON, None where that is not there any more."""

    entry: LedgerEntry
    record: dict[str, Any] | None
    with_salt: bool


@dataclass(frozen=True, slots=True)
class Listing:
    """Decisions from the newest down, `indexed` entries of the ledger searched.

    `next` begins the page after, None where there is none.
    """

    items: tuple[FoundDecision, ...]
    next: str | None
    indexed: int


class ReadService:
    """Reads decisions and entries for a principal. Every method raises FirewallError as the stores do."""

    def __init__(self, reader: LedgerReader, *, index: DecisionIndex) -> None:
        self._reader = reader
        self._index = index

    async def decision(self, id: UUID, *, principal: Principal) -> ReadDecision:  # noqa: A002 - the column's name
        """One decision.

        Raises FirewallError: FORBIDDEN without a scope, NOT_FOUND also for what is not the caller's to see.
        """
        if AccessScope.DECIDE not in principal.scopes:
            require(principal, AccessScope.READ)
        missing = FirewallError(
            Kind.NOT_FOUND, f"there is no decision `{id}`", fix="who may `read` finds them with `GET /v1/decisions`"
        )
        try:
            entry = await self._reader.get_by_id(id)
        except FirewallError as error:
            raise missing if error.kind is Kind.NOT_FOUND else error from None
        record: dict[str, Any] | None = None if entry.record is None else orjson.loads(entry.record)
        if entry.kind is not EntryKind.DECISION:
            raise missing
        if AccessScope.READ not in principal.scopes and not _is_own(record, principal):
            raise missing
        return ReadDecision(entry, record, with_salt=AccessScope.LEDGER_READ in principal.scopes)

    async def entry(self, idx: int, *, principal: Principal) -> LedgerEntry:
        """One entry of whatever kind. Raises FirewallError: FORBIDDEN without the scope `ledger:read`, NOT_FOUND."""
        require(principal, AccessScope.LEDGER_READ)
        return await self._reader.get(idx)

    async def search(self, wanted: Wanted, *, limit: int, cursor: str | None, principal: Principal) -> Listing:
        """A page of decisions that fit.

        Raises FirewallError: FORBIDDEN without the scope `read`, MALFORMED for a cursor of another search.
        """
        require(principal, AccessScope.READ)
        before = None if cursor is None else wanted.read_cursor(cursor)
        page = await self._index.page(wanted, limit=limit, before=before)
        return Listing(page.items, next=wanted.cursor(page.items[-1].idx) if page.more else None, indexed=page.indexed)


def _is_own(record: dict[str, Any] | None, principal: Principal) -> bool:
    """Whether this principal asked, for a subject that it may speak for. Of a record that is gone nobody can tell."""
    if record is None:
        return False
    who: Any = record.get("principal")
    asked = {"id": principal.id, "kind": principal.kind.value, "method": principal.method.value}
    if not isinstance(who, dict) or {name: who.get(name) for name in asked} != asked:
        return False
    if principal.binding is None:
        return True
    sent: Any = record.get("input")
    subject = sent.get("subject") if isinstance(sent, dict) else None
    # A masked one may have another shape.
    if not isinstance(subject, dict) or not all(isinstance(subject.get(name), str) for name in ("type", "id")):
        return False
    return principal.binding.permits({"properties": {}, **subject})
