"""Erasing a record by law: an act of administrators that the ledger has, and that no policy judges."""

from collections.abc import Callable
from datetime import datetime
from typing import Final
from uuid import UUID

from app.core.principal import AccessScope, Principal, require
from app.core.uuid7 import uuid7
from app.ledger.erase import Erased, RecordEraser
from app.ledger.receipt import SALT_BYTES, EntryKind, SealedEntry, seal
from app.policies.store import check_text
from app.service.decide import UUID_ENTROPY_BYTES

__all__ = ["EraseService", "Erased"]

_ACT: Final = "erase-record"


class EraseService:
    """Erases records. `clock` gives aware moments in UTC; `engine` names the release."""

    def __init__(
        self,
        eraser: RecordEraser,
        *,
        clock: Callable[[], datetime],
        entropy: Callable[[int], bytes],
        engine: str,
    ) -> None:
        self._eraser = eraser
        self._clock = clock
        self._entropy = entropy
        self._engine = engine

    async def erase(self, id: UUID, *, reason: str, principal: Principal) -> Erased:  # noqa: A002 - the column's name
        """Erase the record of an entry; once more changes nothing, and gives what was recorded then.

        Raises FirewallError: FORBIDDEN without the scope `ledger:erase`, MALFORMED for a bad reason, NOT_FOUND,
        CONFLICT for a record that is not erased or not here.
        """
        require(principal, AccessScope.LEDGER_ERASE)
        check_text(reason, "reason", required=True)
        now = self._clock()

        def sealed(idx: int) -> SealedEntry:
            said = {"act": _ACT, "erased_id": str(id), "erased_index": str(idx)}
            return seal(
                EntryKind.ERASURE,
                id=uuid7(now, entropy=self._entropy(UUID_ENTROPY_BYTES)),
                at=now,
                principal=principal,
                members=said,
                record={
                    "engine": self._engine,
                    "reason": reason,
                    **({"credential": principal.credential} if principal.credential else {}),
                    **said,
                },
                salt=self._entropy(SALT_BYTES),
            )

        return await self._eraser.erase(id, reason=reason, by=principal.id, at=now, seal=sealed)
