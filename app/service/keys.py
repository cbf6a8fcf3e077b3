"""API keys over their life: made, rotated, revoked; each act in one transaction with its entry in the ledger.

Nobody gives away what they do not have: a key may do no more than the credential that makes it, and only from where
that one may be used. The one exception is an administrator, who may also give `decide` and `approve`, which the role
itself leaves out so that its keys do not ask and vote. docs/adr/0024-api-keys.md has the reasons.

INVARIANT: neither a key nor its hash is in an entry.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

from app.core.networks import are_within, networks_of
from app.core.principal import SCOPES_OF, AccessScope, AuthMethod, Principal, PrincipalKind, Role, require, scopes_of
from app.core.uuid7 import uuid7
from app.errors import FirewallError, Kind
from app.ledger.receipt import SALT_BYTES, EntryKind, SealedEntry, seal, timestamp
from app.ledger.within import appending
from app.persistence.api_keys import ApiKeyStore, Installed, NewApiKey, StoredApiKey, check_rights
from app.policies.store import check_text
from app.service.decide import UUID_ENTROPY_BYTES

__all__ = ["Act", "Installed", "KeyService", "Rotated", "WantedKey"]

GRACE_DEFAULT: Final = timedelta(hours=24)
GRACE_MAX: Final = timedelta(days=30)
BOOTSTRAP_NAME: Final = "bootstrap"

# What an administrator gives without having it.
_GIVEN_BY_ADMINS: Final = frozenset({AccessScope.DECIDE, AccessScope.APPROVE})


class Act(StrEnum):
    """What was done to a key, as the ledger says it."""

    CREATE = "create"
    ROTATE = "rotate"
    REVOKE = "revoke"
    BOOTSTRAP = "bootstrap"


@dataclass(frozen=True, slots=True)
class WantedKey:
    """What somebody asks for. Without a principal it speaks for its own name."""

    name: str
    principal_id: str = ""
    roles: frozenset[Role] = frozenset()
    scopes: frozenset[AccessScope] = frozenset()
    subjects: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    lifetime: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Rotated:
    """A key and the one that it replaces, which works until its new end."""

    new: NewApiKey
    old: StoredApiKey


class KeyService:
    """Makes, rotates and revokes keys. `clock` gives aware moments in UTC; `engine` names the release.

    With `holds_database` nobody is judged: who calls could write into the table as well. `follow` is called after each
    act, so that this replica knows of it before it answers.
    """

    def __init__(
        self,
        store: ApiKeyStore,
        *,
        clock: Callable[[], datetime],
        entropy: Callable[[int], bytes],
        engine: str,
        holds_database: bool = False,
        follow: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._entropy = entropy
        self._engine = engine
        self._holds_database = holds_database
        self._follow = follow

    async def create(self, wanted: WantedKey, *, principal: Principal, reason: str) -> NewApiKey:
        """Make a key; its text is in the answer and nowhere else.

        Raises FirewallError: FORBIDDEN for rights that the caller may not give, MALFORMED for what makes no key and for
        a bad reason, as the store does.
        """
        check_text(reason, "reason", required=True)
        now = self._clock()
        rights: dict[str, Any] = {
            "principal_id": wanted.principal_id or wanted.name,
            "roles": wanted.roles,
            "scopes": wanted.scopes,
            "subjects": wanted.subjects,
            "networks": wanted.networks,
            "expires_at": None if wanted.lifetime is None else now + wanted.lifetime,
        }
        check_rights(wanted.name, **rights)
        await self._judge(principal, scopes_of(wanted.roles, wanted.scopes), wanted.networks)
        key_id = self._key_id()
        entry = self._entry(
            Act.CREATE,
            key_id,
            now=now,
            principal=principal,
            reason=reason,
            record={"key": _described({"name": wanted.name, **rights})},
        )
        made = await self._store.create(wanted.name, **rights, id=key_id, append=appending(entry))
        await self._followed()
        return made

    async def rotate(
        self, key_id: UUID, *, principal: Principal, reason: str, grace: timedelta = GRACE_DEFAULT
    ) -> Rotated:
        """Make a key with the rights of another, which ends after `grace`: meanwhile both work.

        A key that was made for some time gets a successor for as long a time. Raises FirewallError: FORBIDDEN for
        rights that the caller may not give, MALFORMED for a bad reason or grace, as the store does.
        """
        check_text(reason, "reason", required=True)
        if not timedelta() <= grace <= GRACE_MAX:
            raise FirewallError(
                Kind.MALFORMED, f"a grace period has 0 to {GRACE_MAX.days} days", pointer="/grace_hours"
            )
        # What a key may do never changes, so looking at it before the transaction is enough.
        old = await self._store.get(key_id)
        await self._judge(principal, old.permits, old.networks)
        now = self._clock()
        lifetime = None if old.expires_at is None else old.expires_at - old.created_at
        expires_at = None if lifetime is None else now + lifetime
        new_id = self._key_id()
        ends_at = now + grace if old.expires_at is None else min(now + grace, old.expires_at)
        entry = self._entry(
            Act.ROTATE,
            new_id,
            now=now,
            principal=principal,
            reason=reason,
            members={"replaces": str(key_id)},
            record={"key": {**_rights(old), "expires_at": _moment(expires_at)}, "old_ends_at": timestamp(ends_at)},
        )
        made, ended = await self._store.rotate(
            key_id, id=new_id, ends_at=ends_at, expires_at=expires_at, append=appending(entry)
        )
        await self._followed()
        return Rotated(made, ended)

    async def revoke(self, key_id: UUID, *, principal: Principal, reason: str, force: bool = False) -> StoredApiKey:
        """Make a key worthless at once; once more changes nothing.

        Everybody who administers keys may revoke each of them. Raises FirewallError: FORBIDDEN without the scope,
        CONFLICT for the last key of an administrator unless `force`, MALFORMED for a bad reason, as the store does.
        """
        check_text(reason, "reason", required=True)
        if not self._holds_database:
            require(principal, AccessScope.KEYS_ADMIN)
        found = await self._store.get(key_id)
        entry = self._entry(
            Act.REVOKE,
            key_id,
            now=self._clock(),
            principal=principal,
            reason=reason,
            record={"key": _rights(found), **({"force": True} if force else {})},
        )
        revoked = await self._store.revoke(key_id, keep_an_admin=not force, append=appending(entry))
        await self._followed()
        return revoked

    async def bootstrap(self, key: str) -> Installed:
        """Store a key that the settings bring along, if there is no key of an administrator that works.

        Raises FirewallError as the store does.
        """
        key_id = self._key_id()
        entry = self._entry(
            Act.BOOTSTRAP,
            key_id,
            now=self._clock(),
            principal=Principal(BOOTSTRAP_NAME, PrincipalKind.SERVICE, frozenset(), AuthMethod.NONE),
            reason="there was no key of an administrator",
            record={
                "key": _described({"name": BOOTSTRAP_NAME, "principal_id": BOOTSTRAP_NAME, "roles": [Role.ADMIN.value]})
            },
        )
        return await self._store.install(key, name=BOOTSTRAP_NAME, id=key_id, append=appending(entry))

    async def _judge(self, principal: Principal, given: frozenset[AccessScope], networks: tuple[str, ...]) -> None:
        """Whether a caller may give these rights away. Raises FirewallError (FORBIDDEN)."""
        if self._holds_database:
            return
        require(principal, AccessScope.KEYS_ADMIN)
        if principal.binding is not None:
            raise FirewallError(
                Kind.FORBIDDEN,
                "a credential that is bound to subjects makes no keys: they could speak for others",
                fix="use one that is not bound",
            )
        own = principal.scopes
        if own >= SCOPES_OF[Role.ADMIN]:
            own |= _GIVEN_BY_ADMINS
        if missing := sorted(given - own):
            raise FirewallError(
                Kind.FORBIDDEN,
                f"you may not give scope `{missing[0]}`, which your credential does not have",
                fix="leave out the roles and scopes that have it, or ask an administrator",
            )
        if not principal.credential:
            return
        bounds = networks_of((await self._store.get(UUID(principal.credential))).networks)
        if bounds and (not networks or not are_within(networks_of(networks), bounds)):
            raise FirewallError(
                Kind.FORBIDDEN,
                "your own key is good from some networks only, and the new one would be from others as well",
                pointer="/networks",
                fix=f"name networks within {', '.join(f'`{bound}`' for bound in bounds)}",
            )

    async def _followed(self) -> None:
        if self._follow is not None:
            await self._follow()

    def _key_id(self) -> UUID:
        return UUID(bytes=self._entropy(16), version=4)

    def _entry(
        self,
        act: Act,
        key_id: UUID,
        *,
        now: datetime,
        principal: Principal,
        reason: str,
        record: dict[str, Any],
        members: dict[str, str] | None = None,
    ) -> SealedEntry:
        said = {"act": act.value, "key_id": str(key_id), **(members or {})}
        return seal(
            EntryKind.KEY,
            id=uuid7(now, entropy=self._entropy(UUID_ENTROPY_BYTES)),
            at=now,
            principal=principal,
            members=said,
            record={
                "engine": self._engine,
                "reason": reason,
                **({"credential": principal.credential} if principal.credential else {}),
                **said,
                **record,
            },
            salt=self._entropy(SALT_BYTES),
        )


def _rights(key: StoredApiKey) -> dict[str, Any]:
    return _described(
        {
            "name": key.name,
            "principal_id": key.principal_id,
            "roles": key.roles,
            "scopes": key.scopes,
            "subjects": key.subjects,
            "networks": key.networks,
            "expires_at": key.expires_at,
        }
    )


def _described(rights: dict[str, Any]) -> dict[str, Any]:
    """Rights as a record has them: lists sorted, what is empty left out."""
    return {
        name: _moment(value)
        if isinstance(value, datetime)
        else value
        if isinstance(value, str)
        else sorted(map(str, value))
        for name, value in rights.items()
        if value
    }


def _moment(moment: datetime | None) -> str | None:
    return None if moment is None else timestamp(moment)
