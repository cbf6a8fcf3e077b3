"""Throwing and ending kill switches: an act of people that no policy judges, and that the ledger always has.

The entries are of the kind `break-glass`: they say who turned off what, why, and until when. A switch that ends by
itself needs no entry of its own, for the one that it began with says when.
"""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from difflib import get_close_matches
from typing import Final, NamedTuple
from uuid import UUID

from app.core.index import CompiledPolicySet
from app.core.principal import AccessScope, Principal, require
from app.core.switches import TARGETED, Switch, SwitchKind
from app.core.uuid7 import uuid7
from app.errors import FirewallError, Kind
from app.ledger.receipt import SALT_BYTES, EntryKind, SealedEntry, seal, timestamp
from app.ledger.within import appending
from app.persistence.switchboard import Switchboard
from app.persistence.switches import StoredSwitch, SwitchStore
from app.policies.store import check_text
from app.service.decide import UUID_ENTROPY_BYTES

# The longest word that names a subject, or a policy.
TARGET_CHARACTERS_MAX: Final = 1024
SECONDS_MIN: Final = 1
# A weakening that was forgotten is over the day after.
SHADOW_SECONDS_MAX: Final = 24 * 3600
# Whoever wants to deny for longer than this means for good: then it has no end, or it is a policy.
SECONDS_MAX: Final = 366 * 24 * 3600


class Wanted(NamedTuple):
    """A switch that somebody wants to throw; `seconds` is None for one that holds until it is ended."""

    kind: SwitchKind
    target: str | None
    reason: str
    seconds: int | None


class SwitchService:
    """Throws and ends switches. `policies`, `clock`, `entropy` and `engine` are as for decisions."""

    def __init__(
        self,
        store: SwitchStore,
        *,
        board: Switchboard,
        policies: Callable[[], CompiledPolicySet],
        clock: Callable[[], datetime],
        entropy: Callable[[int], bytes],
        engine: str,
    ) -> None:
        self._store = store
        self._board = board
        self._policies = policies
        self._clock = clock
        self._entropy = entropy
        self._engine = engine

    async def throw(self, wanted: Wanted, *, principal: Principal) -> StoredSwitch:
        """Put a switch into force for all replicas; this one has it before the answer.

        Raises FirewallError: FORBIDDEN without the scope `ops`, for a shadow also without `policy:activate`; MALFORMED;
        NOT_FOUND for a shadow of a policy that is not in force; CONFLICT where too many are in force.
        """
        require(principal, AccessScope.OPS)
        if wanted.kind is SwitchKind.SHADOW:
            # What it does could as well be done by activating another set.
            require(principal, AccessScope.POLICY_ACTIVATE)
        check_text(wanted.reason, "reason", required=True)
        _check_target(wanted)
        _check_seconds(wanted)
        if wanted.kind is SwitchKind.SHADOW:
            self._check_policy(wanted.target)
        now = self._clock()
        until = None if wanted.seconds is None else now + timedelta(seconds=wanted.seconds)
        identifier = uuid7(now, entropy=self._entropy(UUID_ENTROPY_BYTES))
        switch = Switch(str(identifier), wanted.kind, wanted.target, until)
        entry = self._sealed(
            identifier,
            switch,
            act="throw-switch",
            reason=wanted.reason,
            principal=principal,
            now=now,
            more={"until": None if until is None else timestamp(until)},
        )
        made = await self._store.throw(
            switch, reason=wanted.reason, thrown_by=principal.id, thrown_at=now, append=appending(entry)
        )
        await self._board.refresh()
        return made

    async def end(self, id: UUID, *, reason: str, principal: Principal) -> StoredSwitch:  # noqa: A002 - its name
        """End a switch for all replicas; this one has forgotten it before the answer.

        Raises FirewallError: FORBIDDEN without the scope `ops`, MALFORMED, NOT_FOUND, CONFLICT for one that is over.
        """
        require(principal, AccessScope.OPS)
        check_text(reason, "reason", required=True)
        held = await self._store.get(id)
        now = self._clock()
        identifier = uuid7(now, entropy=self._entropy(UUID_ENTROPY_BYTES))
        entry = self._sealed(
            identifier, held.switch, act="end-switch", reason=reason, principal=principal, now=now, more={}
        )
        made = await self._store.end(id, reason=reason, ended_by=principal.id, ended_at=now, append=appending(entry))
        await self._board.refresh()
        return made

    async def history(self, *, limit: int) -> tuple[StoredSwitch, ...]:
        """Up to `limit` switches, over or not, the latest first."""
        return await self._store.history(limit=limit)

    def _check_policy(self, name: str | None) -> None:
        """A misspelt name would be found out in the middle of an incident, by nothing happening."""
        names = {policy.name for policy in self._policies().policies}
        if name not in names:
            close = get_close_matches(name or "", names, n=1)
            raise FirewallError(
                Kind.NOT_FOUND,
                f"there is no policy `{(name or '')[:200]}` in the set in force",
                pointer="/target",
                fix=f"did you mean `{close[0]}`?" if close else "`GET /v1/policy-sets/active` has the policies",
            )

    def _sealed(
        self,
        identifier: UUID,
        switch: Switch,
        *,
        act: str,
        reason: str,
        principal: Principal,
        now: datetime,
        more: Mapping[str, str | None],
    ) -> SealedEntry:
        members = {"act": act, "switch": switch.id, "switch_kind": switch.kind.value}
        return seal(
            EntryKind.BREAK_GLASS,
            id=identifier,
            at=now,
            principal=principal,
            members=members,
            record={"engine": self._engine, "reason": reason, "target": switch.target, **more, **members},
            salt=self._entropy(SALT_BYTES),
        )


def _check_target(wanted: Wanted) -> None:
    target = wanted.target
    if wanted.kind in TARGETED:
        if not target or len(target) > TARGET_CHARACTERS_MAX or "\0" in target:
            what = "the name of a policy" if wanted.kind is SwitchKind.SHADOW else "the id of a subject"
            raise FirewallError(
                Kind.MALFORMED,
                f"a switch of the kind `{wanted.kind}` needs a `target` of 1 to {TARGET_CHARACTERS_MAX} characters",
                pointer="/target",
                fix=f"name {what}",
            )
    elif target is not None:
        raise FirewallError(
            Kind.MALFORMED, f"a switch of the kind `{wanted.kind}` has no target", pointer="/target", fix="leave it out"
        )


def _check_seconds(wanted: Wanted) -> None:
    seconds = wanted.seconds
    if wanted.kind is SwitchKind.SHADOW and (seconds is None or seconds > SHADOW_SECONDS_MAX):
        raise FirewallError(
            Kind.MALFORMED,
            f"a policy can be in shadow for {SHADOW_SECONDS_MAX // 3600} hours at most, and `for` says how long",
            pointer="/for",
            fix="write for example `1h`; to change a policy for good, activate another set",
        )
    if seconds is not None and not SECONDS_MIN <= seconds <= SECONDS_MAX:
        raise FirewallError(
            Kind.MALFORMED, "`for` is not between a second and a year", pointer="/for", fix="write for example `1h`"
        )
