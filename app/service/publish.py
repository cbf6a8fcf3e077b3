"""Storing a policy set: checked whole, under its digest; it decides nothing until it is activated."""

import asyncio
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Final

from app.core.principal import Principal
from app.errors import FirewallError, Kind
from app.policies.diagnostics import Diagnostic, PolicyErrors, Severity
from app.policies.load import Checked
from app.policies.signatures import NOBODY, RequiredSigners, Signed
from app.policies.store import PolicySetStore, StoredSet, check_text
from app.service.sign import signatures_of

# An answer names this many findings at most; nobody reads more before the next try.
ERRORS_MAX: Final = 1_000
# The code of the one finding that is not about what stands in the documents.
UNSIGNED: Final = "unsigned"


@dataclass(frozen=True, slots=True)
class Published:
    """A set that is stored. `created` is false for one that was there already; `diagnostics` are warnings."""

    stored: StoredSet
    created: bool
    diagnostics: tuple[Diagnostic, ...]
    signed: Signed


class PublishService:
    """Stores policy sets."""

    def __init__(self, store: PolicySetStore, *, signers: RequiredSigners = NOBODY) -> None:
        self._store = store
        self._signers = signers
        # Compiling holds the interpreter for much of its time: one at a time, or decisions would wait for all of them.
        self._compiling = asyncio.Lock()

    async def publish(self, check: Callable[[], Checked], *, principal: Principal, note: str | None) -> Published:
        """Check documents, in a thread, and store them.

        Raises FirewallError: MALFORMED, with every finding as `errors`, for a set that is refused; as the store does.
        """
        check_text(note, "note")
        async with self._compiling:
            checked = await asyncio.to_thread(check)
        policy_set = checked.policy_set
        if policy_set is None:
            raise refused(checked.diagnostics)
        stored, created = await self._store.put(
            policy_set.digest,
            documents=checked.content,
            policies=len(policy_set.policies),
            rules=policy_set.says,
            created_by=principal.id,
            note=note,
        )
        signed = await signatures_of(stored.digest, store=self._store, signers=self._signers)
        return Published(stored, created, (*checked.diagnostics, *_unsigned(signed)), signed)


def _unsigned(signed: Signed) -> tuple[Diagnostic, ...]:
    """The warning that a set cannot be activated yet."""
    if signed.enough:
        return ()
    message = f"it has {signed.shortfall}: it is stored, and cannot be activated yet"
    return (Diagnostic("", 0, 0, "", message, signed.fix, Severity.WARNING, UNSIGNED),)


def refused(diagnostics: tuple[Diagnostic, ...]) -> FirewallError:
    """The error for a set that somebody sent, with all that is wrong with it."""
    whole = PolicyErrors(diagnostics)
    return FirewallError(
        Kind.MALFORMED,
        whole.detail,
        fix="`errors` has all of them; `mfw policies check DIR` shows them with their places",
        extra={"errors": [asdict(one) for one in whole.diagnostics[:ERRORS_MAX]]},
    )
