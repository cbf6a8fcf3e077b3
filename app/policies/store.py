"""Policy sets at rest: each under the digest of its documents, and the activations that put them into force.

Nothing here is ever changed or removed. The last activation names the set in force; going back to an earlier set is one
more activation.
"""

from collections.abc import Awaitable, Callable, Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Any, Final
from uuid import UUID

import orjson
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.core.dsse import Envelope, Signature
from app.core.types import Json
from app.errors import FirewallError, Kind
from app.persistence.engine import Observer, Transactions
from app.persistence.tables import policy_set_activations, policy_set_signatures, policy_sets
from app.policies.signatures import PAYLOAD_TYPE

# Replicas listen here; the payload is the activation's sequence, and means no more than "look now".
CHANNEL: Final = "mfw_policy_sets"
TEXT_CHARACTERS_MAX: Final = 1000
# Of one set. A signer has one, unless other tools signed other statements; rows beyond this were made up by somebody.
SIGNATURES_MAX: Final = 1000

_OPERATION: Final = "policy_sets"


@dataclass(frozen=True, slots=True)
class StoredSet:
    """A set as it is listed. `number` is the order in which sets came; `policies` and `rules` are counts."""

    digest: str
    number: int
    policies: int
    rules: int
    note: str | None
    created_by: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Activation:
    """One act of putting a set into force. `previous` is the set before it, None for the first one ever."""

    sequence: int
    digest: str
    previous: str | None
    reason: str
    activated_by: str
    activated_at: datetime
    ledger_id: UUID
    ledger_index: int


@dataclass(frozen=True, slots=True)
class StoredSignature:
    """A signature as it was stored: an envelope with one signature in it, which proves nothing until it is verified."""

    envelope: Envelope
    added_by: str
    added_at: datetime

    @property
    def keyid(self) -> str:
        """The key that is said to have made it."""
        return self.envelope.signatures[0].keyid


@dataclass(frozen=True, slots=True)
class Latest:
    """The last activation; `age` is in seconds by the database's clock, so that replicas agree on it."""

    sequence: int
    digest: str
    activated_at: datetime
    age: float


def documents_of(content: bytes, *, digest: str) -> list[Json]:
    """The documents of a set, if these bytes are what the digest is of. Raises FirewallError (INVALID_POLICY)."""
    if "sha256:" + sha256(content).hexdigest() != digest:
        raise FirewallError(
            Kind.INVALID_POLICY,
            f"what is stored as policy set `{digest}` has another digest",
            fix="restore the table `policy_sets` from its backup",
        )
    documents: list[Json] = orjson.loads(content)
    return documents


class PolicySetStore:
    """The tables of policy sets. Every method raises FirewallError (UNAVAILABLE, TIMEOUT) when the database fails."""

    def __init__(self, engine: AsyncEngine, *, observer: Observer | None = None) -> None:
        self._transaction = Transactions(engine, operation=_OPERATION, observer=observer)

    async def put(
        self, digest: str, *, documents: bytes, policies: int, rules: int, created_by: str, note: str | None = None
    ) -> tuple[StoredSet, bool]:
        """Store a set that was checked, and tell whether it is new; one that is there already stays as it is.

        Raises FirewallError (MALFORMED) for a note that is longer than 1000 characters. Does not check: the documents.
        """
        check_text(note, "note")
        statement = (
            insert(policy_sets)
            .values(
                digest=digest,
                documents=documents,
                policies=policies,
                rules=rules,
                note=note or None,
                created_by=created_by,
            )
            .on_conflict_do_nothing(index_elements=["digest"])
            .returning(policy_sets)
        )
        async with self._transaction() as connection:
            row = (await connection.execute(statement)).one_or_none()
            if row is not None:
                return _stored(row), True
            return _stored((await connection.execute(_LISTED.where(policy_sets.c.digest == digest))).one()), False

    async def get(self, digest: str) -> tuple[StoredSet, list[Json]]:
        """A set with its documents. Raises FirewallError (NOT_FOUND; INVALID_POLICY where the bytes were damaged)."""
        async with self._transaction() as connection:
            statement = sa.select(policy_sets).where(policy_sets.c.digest == digest)
            row = (await connection.execute(statement)).one_or_none()
        if row is None:
            raise _unknown(digest)
        return _stored(row), documents_of(row.documents, digest=digest)

    async def require(self, digest: str) -> None:
        """Raises FirewallError (NOT_FOUND) for a set that is not stored."""
        async with self._transaction() as connection:
            await _require(connection, digest)

    async def sign(self, digest: str, envelopes: Iterable[Envelope], *, added_by: str) -> int:
        """Store envelopes of one signature each, and tell how many are new.

        Raises FirewallError (NOT_FOUND). Does not check: the signatures, which whoever calls has verified.
        """
        rows = [
            {
                "digest": digest,
                "keyid": one.signatures[0].keyid,
                "signature": one.signatures[0].signature,
                "payload": one.payload,
                "added_by": added_by,
            }
            for one in envelopes
        ]
        async with self._transaction() as connection:
            await _require(connection, digest)
            if not rows:
                return 0
            statement = insert(policy_set_signatures).values(rows).on_conflict_do_nothing()
            return len((await connection.execute(statement.returning(policy_set_signatures.c.keyid))).all())

    async def signatures(self, digest: str, *, keyids: Collection[str]) -> tuple[StoredSignature, ...]:
        """What is stored as signatures of a set by these keys, the earliest first; nothing of it is verified."""
        if not keyids:
            return ()
        columns = policy_set_signatures.c
        statement = (
            sa.select(policy_set_signatures)
            .where(columns.digest == digest, columns.keyid.in_(keyids))
            .order_by(columns.added_at, columns.keyid, columns.signature)
            .limit(SIGNATURES_MAX)
        )
        async with self._transaction() as connection:
            return tuple(_signature(row) for row in await connection.execute(statement))

    async def list(self, *, limit: int, before: int | None = None) -> tuple[StoredSet, ...]:
        """Up to `limit` sets, the latest first; `before` is the number to go on from."""
        statement = _LISTED.order_by(policy_sets.c.number.desc()).limit(limit)
        if before is not None:
            statement = statement.where(policy_sets.c.number < before)
        async with self._transaction() as connection:
            return tuple(_stored(row) for row in await connection.execute(statement))

    async def latest(self) -> Latest | None:
        """The last activation, None before the first."""
        activations = policy_set_activations.c
        age = sa.func.extract("epoch", sa.func.clock_timestamp() - activations.activated_at)
        statement = (
            sa.select(activations.sequence, activations.digest, activations.activated_at, age.label("age"))
            .order_by(activations.sequence.desc())
            .limit(1)
        )
        async with self._transaction() as connection:
            row = (await connection.execute(statement)).one_or_none()
        if row is None:
            return None
        return Latest(row.sequence, row.digest, row.activated_at, max(0.0, float(row.age)))

    async def history(self, *, limit: int, before: int | None = None) -> tuple[Activation, ...]:
        """Up to `limit` activations, the latest first; `before` is the sequence to go on from."""
        statement = sa.select(policy_set_activations).order_by(policy_set_activations.c.sequence.desc()).limit(limit)
        if before is not None:
            statement = statement.where(policy_set_activations.c.sequence < before)
        async with self._transaction() as connection:
            return tuple(_activation(row) for row in await connection.execute(statement))

    async def was_active(self, digest: str) -> bool:
        """Whether a set was ever in force."""
        statement = sa.select(sa.exists().where(policy_set_activations.c.digest == digest))
        async with self._transaction() as connection:
            return bool(await connection.scalar(statement))

    async def activate(
        self,
        digest: str,
        *,
        previous: str | None,
        reason: str,
        activated_by: str,
        activated_at: datetime,
        ledger_id: UUID,
        append: Callable[[AsyncConnection], Awaitable[int]],
    ) -> Activation:
        """Put a set into force, if `previous` is (still) the one before it, and tell all replicas.

        `append` writes the ledger's entry in the same transaction and gives its index: either both are there or
        neither. It must take the lock on the ledger's head first; that lock makes activations one after another.
        Raises FirewallError: CONFLICT when another set came into force meanwhile, MALFORMED for a bad reason.
        """
        check_text(reason, "reason", required=True)
        async with self._transaction() as connection:
            index = await append(connection)
            last = (
                await connection.execute(
                    sa.select(policy_set_activations.c.sequence, policy_set_activations.c.digest)
                    .order_by(policy_set_activations.c.sequence.desc())
                    .limit(1)
                )
            ).one_or_none()
            if (None if last is None else last.digest) != previous:
                raise FirewallError(
                    Kind.CONFLICT,
                    "another policy set came into force meanwhile",
                    fix="look at `GET /v1/policy-sets/active`, and ask again if you still want to",
                )
            made = Activation(
                sequence=1 if last is None else last.sequence + 1,
                digest=digest,
                previous=previous,
                reason=reason,
                activated_by=activated_by,
                activated_at=activated_at,
                ledger_id=ledger_id,
                ledger_index=index,
            )
            await connection.execute(
                sa.insert(policy_set_activations).values(
                    sequence=made.sequence,
                    digest=digest,
                    previous=previous,
                    reason=reason,
                    activated_by=activated_by,
                    activated_at=activated_at,
                    ledger_id=ledger_id,
                    ledger_index=index,
                )
            )
            # Sent by the server when, and only when, the transaction commits.
            await connection.execute(sa.select(sa.func.pg_notify(CHANNEL, str(made.sequence))))
        return made


def check_text(text: str | None, member: str, *, required: bool = False) -> None:
    """Refuse a note or a reason that is too long, or missing where it is `required`.

    Raises FirewallError (MALFORMED).
    """
    if required and not (text or "").strip():
        raise FirewallError(Kind.MALFORMED, f"`{member}` is empty", pointer=f"/{member}", fix="say why, for the ledger")
    if text is not None and (len(text) > TEXT_CHARACTERS_MAX or "\0" in text):
        raise FirewallError(
            Kind.MALFORMED,
            f"`{member}` is longer than {TEXT_CHARACTERS_MAX} characters or has a NUL in it",
            pointer=f"/{member}",
        )


_LISTED: Final = sa.select(*(column for column in policy_sets.c if column.name != "documents"))


async def _require(connection: AsyncConnection, digest: str) -> None:
    if not await connection.scalar(sa.select(sa.exists().where(policy_sets.c.digest == digest))):
        raise _unknown(digest)


def _unknown(digest: str) -> FirewallError:
    return FirewallError(
        Kind.NOT_FOUND, f"there is no policy set `{digest}`", fix="push it first: `mfw policies push DIR`"
    )


def _stored(row: "sa.Row[Any]") -> StoredSet:
    return StoredSet(
        digest=row.digest,
        number=row.number,
        policies=row.policies,
        rules=row.rules,
        note=row.note,
        created_by=row.created_by,
        created_at=row.created_at,
    )


def _signature(row: "sa.Row[Any]") -> StoredSignature:
    envelope = Envelope(PAYLOAD_TYPE, row.payload, (Signature(row.keyid, row.signature),))
    return StoredSignature(envelope, row.added_by, row.added_at)


def _activation(row: "sa.Row[Any]") -> Activation:
    return Activation(
        sequence=row.sequence,
        digest=row.digest,
        previous=row.previous,
        reason=row.reason,
        activated_by=row.activated_by,
        activated_at=row.activated_at,
        ledger_id=row.ledger_id,
        ledger_index=row.ledger_index,
    )
