"""Requests that are answered once: the answer is stored by the transaction that records the decision.

INVARIANT: an answer is kept exactly if its decisions are in the ledger, and between `claimed` and the end of the
transaction nobody else answers under the same key. Only answers of 200 are kept; a refusal decided nothing.

An answer says what records must not: what masks hide, and what is erased later. So it is kept under a key that follows
from the idempotency key and the request, neither of which is stored: who repeats the request can read it, and nobody
who has the table, or a backup of it.
"""

import os
from datetime import timedelta
from hashlib import sha256
from typing import Final, NamedTuple

import asyncpg
import sqlalchemy as sa
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy.ext.asyncio import AsyncConnection

from app.core.canonical import canonical
from app.core.principal import Principal
from app.errors import FirewallError, Kind
from app.persistence.engine import causes

# For how long a key gets its answer again.
KEPT_FOR: Final = timedelta(hours=24)
# How long one waits for another request with the same key, which takes as long as one commit.
WAIT_SECONDS: Final = 2.0
# Rows past their time, taken away by each that is added.
SWEEP_ROWS: Final = 100

# Each digest names what it is of (compare app/ledger/receipt.py).
KEY_PREFIX: Final = b"mutationfirewall.io/idempotency-key/v1\x00"
BODY_PREFIX: Final = b"mutationfirewall.io/idempotency-body/v1\x00"
SECRET_PREFIX: Final = b"mutationfirewall.io/idempotency-secret/v1\x00"
# As AES-GCM wants it (NIST SP 800-38D section 8.2). Drawn anew for each: a key's answer may be another one tomorrow.
_NONCE_BYTES: Final = 12

_RETRY_AFTER: Final = 1.0

# Locks of two integers never meet those of one, which are the budgets'. Columns are worked out from left to right.
_LOCK: Final = sa.text("""
    SELECT current_setting('lock_timeout') AS before, set_config('lock_timeout', :wait, true),
           pg_advisory_xact_lock(:high, :low)
""")
# A statement of its own: what was stored while the first one waited must be seen.
_FIND: Final = sa.text("""
    SELECT kept.fingerprint, kept.answer
    FROM (SELECT set_config('lock_timeout', :before, true)) AS restored
    LEFT JOIN idempotency_keys AS kept ON kept.id = :id AND kept.expires_at > clock_timestamp()
""")
_STORE: Final = sa.text("""
    WITH swept AS (
        DELETE FROM idempotency_keys WHERE ctid = ANY (ARRAY(
            SELECT ctid FROM idempotency_keys WHERE expires_at < clock_timestamp() AND id <> :id
            LIMIT :rows FOR UPDATE SKIP LOCKED
        ))
    )
    INSERT INTO idempotency_keys (id, fingerprint, answer, expires_at)
    VALUES (:id, :fingerprint, :answer, clock_timestamp() + :kept_for)
    ON CONFLICT (id) DO UPDATE
    SET fingerprint = excluded.fingerprint, answer = excluded.answer, expires_at = excluded.expires_at
""").bindparams(sa.bindparam("kept_for", type_=sa.Interval))


class Claim(NamedTuple):
    """Who sent which key, and with what: SHA-256 of 32 bytes each, so that neither is kept. `secret` is not stored."""

    id: bytes
    fingerprint: bytes
    secret: bytes


def claim(principal: Principal, key: str, *, route: str, body: bytes) -> Claim:
    """Make the claim of a request. A key belongs to its principal, whatever route it is sent to."""
    # As JSON, never joined: what is A's key must never be B's.
    identity = canonical([principal.method.value, principal.id, key])
    # With the key in it: the digest of a body alone would tell who tries what a mask has hidden of it.
    sent = identity + b"\x00" + canonical(route) + b"\x00" + body
    return Claim(
        id=sha256(KEY_PREFIX + identity).digest(),
        fingerprint=sha256(BODY_PREFIX + sent).digest(),
        secret=sha256(SECRET_PREFIX + sent).digest(),
    )


async def claimed(connection: AsyncConnection, asked: Claim) -> bytes | None:
    """Wait for whoever answers under this key, and give the answer that is kept; None where there is none yet.

    Before anything else in the transaction. Raises FirewallError (CONFLICT) where the key was sent with something else,
    or where another request with it takes too long, and what the database raises.
    """
    parts = (asked.id[:4], asked.id[4:8])
    high, low = (int.from_bytes(part, "big", signed=True) for part in parts)
    try:
        locked = await connection.execute(_LOCK, {"wait": f"{WAIT_SECONDS * 1000:.0f}", "high": high, "low": low})
    except sa.exc.DBAPIError as error:
        if any(isinstance(cause, asyncpg.LockNotAvailableError) for cause in causes(error)):
            raise FirewallError(
                Kind.CONFLICT,
                "another request with this idempotency key is being answered",
                retry_after=_RETRY_AFTER,
                fix="send it again: you will get the same answer",
            ) from None
        raise
    row = (await connection.execute(_FIND, {"id": asked.id, "before": locked.one().before})).one()
    if row.fingerprint is None:
        return None
    if row.fingerprint != asked.fingerprint:
        raise FirewallError(
            Kind.CONFLICT,
            "this idempotency key was sent with another request before",
            fix="send a new key with each new request",
        )
    nonce, kept = row.answer[:_NONCE_BYTES], row.answer[_NONCE_BYTES:]
    try:
        return AESGCM(asked.secret).decrypt(nonce, kept, asked.id)
    except (InvalidTag, ValueError) as error:
        raise FirewallError(
            Kind.CONFLICT,
            "the answer that is kept under this idempotency key is not the one that was given",
            fix="look for the decision in the ledger; send a new key to ask again",
        ) from error


async def store(connection: AsyncConnection, asked: Claim, answer: bytes) -> None:
    """Keep the answer, and take away some whose time is over. Raises what the database raises.

    Does not check: that `claimed` found nothing.
    """
    nonce = os.urandom(_NONCE_BYTES)
    await connection.execute(
        _STORE,
        {
            "id": asked.id,
            "fingerprint": asked.fingerprint,
            "answer": nonce + AESGCM(asked.secret).encrypt(nonce, answer, asked.id),
            "kept_for": KEPT_FOR,
            "rows": SWEEP_ROWS,
        },
    )
