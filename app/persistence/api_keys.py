"""API keys at rest: made once, shown once, stored as a digest.

A key is `mfw_`, 43 characters of base 62 that carry 32 random bytes, and 6 that are a CRC-32 of what stands before
them: a scanner that finds one in a leak knows without asking us that it is one. All 53 characters survive a double
click.
"""

import binascii
import secrets
import time
from collections.abc import Callable, Collection
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Final
from uuid import UUID, uuid4

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.core.principal import Role, roles_named
from app.errors import FirewallError, Kind
from app.persistence.engine import Observer, Unobserved, transaction
from app.persistence.tables import api_keys

PREFIX: Final = "mfw_"
SECRET_BYTES: Final = 32
# 62^43 > 2^256 and 62^6 > 2^32.
SECRET_CHARACTERS: Final = 43
CHECKSUM_CHARACTERS: Final = 6
KEY_CHARACTERS: Final = len(PREFIX) + SECRET_CHARACTERS + CHECKSUM_CHARACTERS
NAME_CHARACTERS_MAX: Final = 200

_ALPHABET: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_LOAD = "load_keys"
_OTHER = "other"


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


@dataclass(frozen=True, slots=True)
class NewApiKey:
    """A key at the only moment when its text is known."""

    key: str
    stored: StoredApiKey

    def __repr__(self) -> str:
        # The text must not reach a log by way of a traceback.
        return f"NewApiKey(id={self.stored.id}, name={self.stored.name!r})"


def generate(secret: bytes) -> str:
    """The text of the key that carries `secret`, 32 random bytes."""
    body = PREFIX + _base62(int.from_bytes(secret, "big"), SECRET_CHARACTERS)
    return body + _base62(binascii.crc32(body.encode("ascii")), CHECKSUM_CHARACTERS)


def is_well_formed(key: str) -> bool:
    """Whether the text has a key's form and its checksum fits. Does not check: that there is such a key."""
    if len(key) != KEY_CHARACTERS or not key.startswith(PREFIX) or not key.isascii():
        return False
    body, checksum = key[:-CHECKSUM_CHARACTERS], key[-CHECKSUM_CHARACTERS:]
    return body[len(PREFIX) :].isalnum() and checksum == _base62(
        binascii.crc32(body.encode("ascii")), CHECKSUM_CHARACTERS
    )


def hash_key(key: str) -> bytes:
    """What is stored of a key: its SHA-256, 32 bytes. 256 random bits need no slow hash."""
    return sha256(key.encode("utf-8", "surrogatepass")).digest()


class ApiKeyStore:
    """The table of API keys. Every method raises FirewallError (UNAVAILABLE, TIMEOUT) when the database fails."""

    def __init__(
        self,
        engine: AsyncEngine,
        *,
        observer: Observer | None = None,
        clock: Callable[[], float] = time.perf_counter,
        entropy: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._engine = engine
        self._observer = observer or Unobserved()
        self._clock = clock
        self._entropy = entropy

    async def create(
        self, name: str, *, principal_id: str, roles: Collection[Role], expires_at: datetime | None = None
    ) -> NewApiKey:
        """Make a key and give its text, which nobody can ask for again. `expires_at` is aware; None is never.

        Raises FirewallError (MALFORMED) for a name or a principal that is empty or longer than 200 characters, for no
        roles, and for an expiry without a time zone.
        """
        for what, text in (("name", name), ("principal_id", principal_id)):
            if not 1 <= len(text) <= NAME_CHARACTERS_MAX or "\0" in text:
                raise FirewallError(
                    Kind.MALFORMED, f"`{what}` has 1 to {NAME_CHARACTERS_MAX} characters", pointer=f"/{what}"
                )
        if not roles:
            raise FirewallError(Kind.MALFORMED, "a key without roles may do nothing", pointer="/roles", fix="name one")
        if expires_at is not None and expires_at.tzinfo is None:
            raise FirewallError(
                Kind.MALFORMED, "`expires_at` has no time zone", pointer="/expires_at", fix="append `Z` for UTC"
            )
        key = generate(self._entropy(SECRET_BYTES))
        statement = (
            sa.insert(api_keys)
            .values(
                id=uuid4(),
                name=name,
                principal_id=principal_id,
                roles=sorted(roles),
                hash=hash_key(key),
                expires_at=expires_at,
            )
            .returning(api_keys)
        )
        async with self._transaction(_OTHER) as connection:
            row = (await connection.execute(statement)).one()
        return NewApiKey(key=key, stored=_stored(row))

    async def list_active(self) -> tuple[StoredApiKey, ...]:
        """Every key that is neither revoked nor expired by the database's clock, oldest first."""
        statement = (
            sa.select(api_keys)
            .where(api_keys.c.revoked_at.is_(None))
            .where(api_keys.c.expires_at.is_(None) | (api_keys.c.expires_at > sa.func.now()))
            .order_by(api_keys.c.created_at, api_keys.c.id)
        )
        async with self._transaction(_LOAD) as connection:
            return tuple(_stored(row) for row in await connection.execute(statement))

    async def list_all(self) -> tuple[StoredApiKey, ...]:
        """Every key there ever was, oldest first."""
        statement = sa.select(api_keys).order_by(api_keys.c.created_at, api_keys.c.id)
        async with self._transaction(_OTHER) as connection:
            return tuple(_stored(row) for row in await connection.execute(statement))

    async def revoke(self, id: UUID) -> StoredApiKey:  # noqa: A002 - the column's name
        """Make a key worthless from now on; once more is harmless. Raises FirewallError (NOT_FOUND)."""
        statement = (
            sa.update(api_keys)
            .where(api_keys.c.id == id)
            .values(revoked_at=sa.func.coalesce(api_keys.c.revoked_at, sa.func.now()))
            .returning(api_keys)
        )
        async with self._transaction(_OTHER) as connection:
            row = (await connection.execute(statement)).one_or_none()
        if row is None:
            raise FirewallError(Kind.NOT_FOUND, f"there is no api key `{id}`")
        return _stored(row)

    def _transaction(self, operation: str) -> AbstractAsyncContextManager[AsyncConnection]:
        return transaction(self._engine, operation=operation, observer=self._observer, clock=self._clock)


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
    )


def _base62(number: int, characters: int) -> str:
    digits = []
    for _ in range(characters):
        number, digit = divmod(number, len(_ALPHABET))
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))
