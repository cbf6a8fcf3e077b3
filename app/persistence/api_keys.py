"""API keys at rest: made once, shown once, stored as a digest."""

import ipaddress
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final
from uuid import UUID, uuid4

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.core.api_key import SECRET_BYTES, generate, hash_key
from app.core.networks import networks_of
from app.core.principal import SCOPES_OF, AccessScope, Role, roles_named, scopes_named, scopes_of, subject_patterns
from app.errors import FirewallError, Kind
from app.persistence.engine import Observer, Transactions
from app.persistence.tables import api_keys

NAME_CHARACTERS_MAX: Final = 200
# Of patterns of subjects, and of networks; each costs a comparison per request.
PATTERNS_MAX: Final = 64
# A key counts as another administrator's only if it is good for at least this long.
ADMIN_REMAINS: Final = timedelta(days=1)
# The last use is written at most this often for a key, by all replicas together.
USE_RESOLUTION: Final = timedelta(minutes=1)
# Whatever was changed in the table past this code is noticed within these seconds.
REREAD_SECONDS: Final = 60.0

_LOAD: Final = "load_keys"
_OTHER: Final = "other"
# Those who change keys go one after another, so that two revocations cannot take the last two administrators.
_ADVISORY_LOCK: Final = 0x6D66775F6B657973

Append = Callable[[AsyncConnection], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class StoredApiKey:
    """A key as the database has it: enough to recognise it, not to make it. `hash` is the SHA-256 of the whole key."""

    id: UUID
    name: str
    principal_id: str
    roles: frozenset[Role]
    hash: bytes
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    scopes: frozenset[AccessScope] = frozenset()
    # None of them is any of them.
    subjects: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    last_used_at: datetime | None = None
    replaces: UUID | None = None

    @property
    def permits(self) -> frozenset[AccessScope]:
        """What may be done with it: what its roles and its scopes permit."""
        return scopes_of(self.roles, self.scopes)

    @property
    def is_admin(self) -> bool:
        """Whether it can make every kind of key, and so get back everything that was lost."""
        return self.permits >= SCOPES_OF[Role.ADMIN] and not self.subjects

    def is_active(self, now: datetime) -> bool:
        """Whether it is neither revoked nor expired."""
        return self.revoked_at is None and (self.expires_at is None or self.expires_at > now)


@dataclass(frozen=True, slots=True)
class NewApiKey:
    """A key at the only moment when its text is known."""

    key: str
    stored: StoredApiKey

    def __repr__(self) -> str:
        # The text must not reach a log by way of a traceback.
        return f"NewApiKey(id={self.stored.id}, name={self.stored.name!r})"


class Installed(StrEnum):
    """What became of a key that was brought along."""

    MADE = "made"
    PRESENT = "present"  # it is there already, and works
    ENDED = "ended"  # it was there, and was revoked or expired: it does not come back
    NOT_NEEDED = "not_needed"  # there is an administrator's key


class ApiKeyStore:
    """The table of API keys. Every method raises FirewallError (UNAVAILABLE, TIMEOUT) when the database fails.

    Where a method takes `append`, that writes the ledger's entry in the same transaction: either both are there or
    neither.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        *,
        observer: Observer | None = None,
        entropy: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._transaction = Transactions(engine, operation=_OTHER, observer=observer)
        self._entropy = entropy

    async def create(
        self,
        name: str,
        *,
        principal_id: str,
        roles: Collection[Role] = (),
        scopes: Collection[AccessScope] = (),
        subjects: Collection[str] = (),
        networks: Collection[str] = (),
        expires_at: datetime | None = None,
        id: UUID | None = None,  # noqa: A002 - the column's name
        append: Append | None = None,
    ) -> NewApiKey:
        """Make a key and give its text, which nobody can ask for again. `expires_at` is aware; None is never.

        Raises FirewallError (MALFORMED) for what `check_rights` refuses.
        """
        check_rights(
            name,
            principal_id=principal_id,
            roles=roles,
            scopes=scopes,
            subjects=subjects,
            networks=networks,
            expires_at=expires_at,
        )
        key = generate(self._entropy(SECRET_BYTES))
        async with self._changing() as connection:
            stored = await _insert(
                connection,
                id=id or uuid4(),
                name=name,
                principal_id=principal_id,
                roles=sorted(roles),
                scopes=sorted(scopes),
                subjects=list(subjects),
                networks=[str(ipaddress.ip_network(text)) for text in networks],
                hash=hash_key(key),
                expires_at=expires_at,
            )
            if append is not None:
                await append(connection)
        return NewApiKey(key=key, stored=stored)

    async def rotate(
        self,
        old_id: UUID,
        *,
        ends_at: datetime,
        expires_at: datetime | None,
        id: UUID,  # noqa: A002 - the column's name
        append: Append,
    ) -> tuple[NewApiKey, StoredApiKey]:
        """Make a key with the same rights and give the old one an end: the new key, and the old one as it is now.

        The old key ends at `ends_at` or when it would have ended, whatever is earlier. Raises FirewallError:
        NOT_FOUND, CONFLICT for a key that does not work any more or was rotated already.
        """
        key = generate(self._entropy(SECRET_BYTES))
        async with self._changing() as connection:
            old, now = await _locked(connection, old_id)
            if not old.is_active(now):
                raise FirewallError(
                    Kind.CONFLICT,
                    f"api key `{old_id}` is {'expired' if old.revoked_at is None else 'revoked'} and cannot be rotated",
                    fix="make a new one",
                )
            successor = await connection.scalar(
                sa.select(api_keys.c.id).where(api_keys.c.replaces == old_id, api_keys.c.revoked_at.is_(None)).limit(1)
            )
            if successor is not None:
                # Two at once, not three.
                raise FirewallError(
                    Kind.CONFLICT,
                    f"api key `{old_id}` was rotated already",
                    fix=f"rotate `{successor}`, which replaced it, or revoke that one first",
                )
            made = await _insert(
                connection,
                id=id,
                name=old.name,
                principal_id=old.principal_id,
                roles=sorted(old.roles),
                scopes=sorted(old.scopes),
                subjects=list(old.subjects),
                networks=list(old.networks),
                hash=hash_key(key),
                expires_at=expires_at,
                replaces=old_id,
            )
            end = ends_at if old.expires_at is None else min(ends_at, old.expires_at)
            ended = await _update(connection, old_id, expires_at=end)
            await append(connection)
        return NewApiKey(key=key, stored=made), ended

    async def install(
        self,
        key: str,
        *,
        name: str,
        id: UUID,  # noqa: A002 - the column's name
        append: Append,
    ) -> Installed:
        """Store a key that somebody brought along as an administrator's, unless there is one that works."""
        async with self._changing() as connection:
            for found, now in await _all(connection):
                if found.hash == hash_key(key):
                    return Installed.PRESENT if found.is_active(now) else Installed.ENDED
                if found.is_admin and found.is_active(now):
                    return Installed.NOT_NEEDED
            await _insert(connection, id=id, name=name, principal_id=name, roles=[Role.ADMIN.value], hash=hash_key(key))
            await append(connection)
        return Installed.MADE

    async def list_active(self) -> tuple[StoredApiKey, ...]:
        """Every key that is neither revoked nor expired by the database's clock, oldest first."""
        async with self._transaction(_LOAD) as connection:
            return await _active(connection)

    async def list_active_unless(self, known: object) -> tuple[object, tuple[StoredApiKey, ...] | None]:
        """A mark of the table as it is, and the active keys; None for them where the mark is the one that is known.

        Does not see what was written into a row past this code.
        """
        statement = sa.select(
            sa.func.count(), sa.func.count(api_keys.c.revoked_at), sa.func.max(api_keys.c.created_at)
        ).select_from(api_keys)
        async with self._transaction(_LOAD) as connection:
            mark = tuple((await connection.execute(statement)).one())
            # The mark came first: what changes in between is seen the next time as well.
            return mark, None if mark == known else await _active(connection)

    async def list_all(self) -> tuple[StoredApiKey, ...]:
        """Every key there ever was, oldest first."""
        async with self._transaction() as connection:
            return tuple(key for key, _ in await _all(connection))

    async def page(
        self, *, limit: int, after: UUID | None = None, everything: bool = False
    ) -> tuple[StoredApiKey, ...]:
        """Up to `limit` active keys, or of all there ever were; oldest first. `after` is the key to go on from."""
        place = sa.tuple_(api_keys.c.created_at, api_keys.c.id)
        statement = sa.select(api_keys).order_by(api_keys.c.created_at, api_keys.c.id).limit(limit)
        if not everything:
            statement = statement.where(_IS_ACTIVE)
        if after is not None:
            before = sa.select(api_keys.c.created_at, api_keys.c.id).where(api_keys.c.id == after)
            statement = statement.where(place > before.scalar_subquery())
        async with self._transaction() as connection:
            return tuple(_stored(row) for row in await connection.execute(statement))

    async def get(self, id: UUID) -> StoredApiKey:  # noqa: A002 - the column's name
        """One key, whatever became of it. Raises FirewallError (NOT_FOUND)."""
        async with self._transaction() as connection:
            row = (await connection.execute(sa.select(api_keys).where(api_keys.c.id == id))).one_or_none()
        if row is None:
            raise _unknown(id)
        return _stored(row)

    async def revoke(
        self,
        id: UUID,  # noqa: A002 - the column's name
        *,
        keep_an_admin: bool = False,
        append: Append | None = None,
    ) -> StoredApiKey:
        """Make a key worthless from now on; once more changes nothing and is not recorded again.

        Raises FirewallError: NOT_FOUND, with `keep_an_admin` CONFLICT for the last key of an administrator.
        """
        async with self._changing() as connection:
            found, now = await _locked(connection, id)
            if found.revoked_at is not None:
                return found
            if keep_an_admin and found.is_admin and found.is_active(now):
                others = [key for key, _ in await _all(connection) if key.id != id and key.is_admin]
                if not any(key.is_active(now + ADMIN_REMAINS) for key in others):
                    raise FirewallError(
                        Kind.CONFLICT,
                        "no other administrator's key is good for another day",
                        fix="make one first, or say `force`: without one, keys are made with `mfw keys create` alone",
                    )
            revoked = await _update(connection, id, revoked_at=sa.func.now())
            if append is not None:
                await append(connection)
        return revoked

    async def touch(self, used: Mapping[UUID, datetime]) -> None:
        """Write when keys were last used, in one statement; what another replica wrote within the minute stays."""
        sent = sa.select(
            sa.func.unnest(sa.cast(list(used), ARRAY(sa.Uuid()))).label("id"),
            sa.func.unnest(sa.cast(list(used.values()), ARRAY(sa.DateTime(timezone=True)))).label("used_at"),
        ).subquery()
        statement = (
            sa.update(api_keys)
            .values(last_used_at=sent.c.used_at)
            .where(api_keys.c.id == sent.c.id)
            .where(api_keys.c.last_used_at.is_(None) | (api_keys.c.last_used_at <= sent.c.used_at - USE_RESOLUTION))
        )
        async with self._transaction() as connection:
            await connection.execute(statement)

    @asynccontextmanager
    async def _changing(self) -> AsyncIterator[AsyncConnection]:
        async with self._transaction() as connection:
            await connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_ADVISORY_LOCK)))
            yield connection


class ActiveKeys:
    """The active keys for whoever asks every second: read again where something changed, else the very same tuple."""

    def __init__(self, store: ApiKeyStore, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._monotonic = monotonic
        self._mark: object = None
        self._keys: tuple[StoredApiKey, ...] = ()
        self._read_at = float("-inf")

    async def __call__(self) -> tuple[StoredApiKey, ...]:
        """The keys that are not revoked; one that expires may stay among them for a while."""
        now = self._monotonic()
        fresh = now - self._read_at < REREAD_SECONDS
        mark, keys = await self._store.list_active_unless(self._mark if fresh else None)
        if keys is not None:
            self._mark, self._keys, self._read_at = mark, keys, now
        return self._keys


def check_rights(
    name: str,
    *,
    principal_id: str,
    roles: Collection[Role],
    scopes: Collection[AccessScope],
    subjects: Collection[str],
    networks: Collection[str],
    expires_at: datetime | None,
) -> None:
    """Refuse what makes no key: an empty or long name or principal, nothing that it may do, a pattern or a network that
    is none, an expiry without a time zone. Raises FirewallError (MALFORMED).
    """
    for what, text in (("name", name), ("principal_id", principal_id)):
        if not 1 <= len(text) <= NAME_CHARACTERS_MAX or "\0" in text:
            raise FirewallError(
                Kind.MALFORMED, f"`{what}` has 1 to {NAME_CHARACTERS_MAX} characters", pointer=f"/{what}"
            )
    if not roles and not scopes:
        raise FirewallError(
            Kind.MALFORMED, "a key without roles and scopes may do nothing", pointer="/roles", fix="name one"
        )
    _check_patterns("subjects", subjects, read=subject_patterns)
    _check_patterns("networks", networks, read=networks_of)
    if expires_at is not None and expires_at.tzinfo is None:
        raise FirewallError(
            Kind.MALFORMED, "`expires_at` has no time zone", pointer="/expires_at", fix="append `Z` for UTC"
        )


def _check_patterns(what: str, texts: Collection[str], *, read: Callable[[Iterable[str]], object]) -> None:
    if len(texts) > PATTERNS_MAX:
        raise FirewallError(Kind.MALFORMED, f"more than {PATTERNS_MAX} `{what}`", pointer=f"/{what}", fix="use fewer")
    if any("\0" in text for text in texts):
        raise FirewallError(Kind.MALFORMED, f"`{what}` has a NUL in it", pointer=f"/{what}")
    try:
        read(texts)
    except ValueError as error:
        raise FirewallError(Kind.MALFORMED, f"`{what}`: {error}", pointer=f"/{what}") from None


_IS_ACTIVE: Final = api_keys.c.revoked_at.is_(None) & (
    api_keys.c.expires_at.is_(None) | (api_keys.c.expires_at > sa.func.now())
)
_OLDEST_FIRST: Final = sa.select(api_keys, sa.func.clock_timestamp().label("asked_at")).order_by(
    api_keys.c.created_at, api_keys.c.id
)


async def _active(connection: AsyncConnection) -> tuple[StoredApiKey, ...]:
    return tuple(_stored(row) for row in await connection.execute(_OLDEST_FIRST.where(_IS_ACTIVE)))


async def _all(connection: AsyncConnection) -> list[tuple[StoredApiKey, datetime]]:
    """Every key, with the database's time."""
    return [(_stored(row), row.asked_at) for row in await connection.execute(_OLDEST_FIRST)]


async def _locked(connection: AsyncConnection, id: UUID) -> tuple[StoredApiKey, datetime]:  # noqa: A002
    row = (await connection.execute(_OLDEST_FIRST.where(api_keys.c.id == id).with_for_update())).one_or_none()
    if row is None:
        raise _unknown(id)
    return _stored(row), row.asked_at


async def _insert(connection: AsyncConnection, **values: object) -> StoredApiKey:
    return _stored((await connection.execute(sa.insert(api_keys).values(**values).returning(api_keys))).one())


async def _update(connection: AsyncConnection, id: UUID, **values: object) -> StoredApiKey:  # noqa: A002
    statement = sa.update(api_keys).where(api_keys.c.id == id).values(**values).returning(api_keys)
    return _stored((await connection.execute(statement)).one())


def _unknown(id: UUID) -> FirewallError:  # noqa: A002
    return FirewallError(Kind.NOT_FOUND, f"there is no api key `{id}`", fix="see `mfw keys list --all`")


def _stored(row: "sa.Row[tuple[object, ...]]") -> StoredApiKey:
    return StoredApiKey(
        id=row.id,
        name=row.name,
        principal_id=row.principal_id,
        roles=roles_named(row.roles),
        hash=row.hash,
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        scopes=scopes_named(row.scopes),
        subjects=tuple(row.subjects),
        networks=tuple(row.networks),
        last_used_at=row.last_used_at,
        replaces=row.replaces,
    )
