"""Breaking the glass: a stored set comes into force without being judged, by whoever holds the database itself.

The way out for a set that denies every activation. It leaves an entry of the kind `break-glass` in the ledger, which
says who, when and why, as nothing in the ledger can be left out.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Final

from app.core.principal import AuthMethod, Principal, PrincipalKind
from app.core.uuid7 import uuid7
from app.errors import FirewallError, Kind
from app.ledger.receipt import SALT_BYTES, EntryKind, seal
from app.ledger.within import appending
from app.policies.load import check_documents
from app.policies.signatures import NOBODY, RequiredSigners
from app.policies.store import Activation, PolicySetStore
from app.service.decide import UUID_ENTROPY_BYTES
from app.service.sign import signatures_of, signers_of

# What the ledger says of how they proved who they are: they did not, but they could write to the database.
METHOD: Final = AuthMethod.NONE


async def force(
    digest: str,
    *,
    store: PolicySetStore,
    operator: str,
    reason: str,
    clock: Callable[[], datetime],
    entropy: Callable[[int], bytes],
    engine: str,
    signers: RequiredSigners = NOBODY,
    unsafe_unsigned: bool = False,
) -> Activation:
    """Put a stored set into force. `operator` names who does it, as far as the machine knows.

    With `unsafe_unsigned` it is activated without the signatures that `signers` require, and the record says so.
    INVARIANT: that binds no replica. Each one counts signatures for itself by its own settings, or else whoever holds
    the database could do without them.

    Raises FirewallError: INVALID_SIGNATURE without the signatures that are required, NOT_FOUND for a set that is not
    stored, CONFLICT for one that has errors under this release or when another set comes into force meanwhile,
    MALFORMED for a bad reason, UNAVAILABLE and TIMEOUT for the database.
    """
    _, documents = await store.get(digest)
    if check_documents(documents).policy_set is None:
        raise FirewallError(
            Kind.CONFLICT, f"policy set `{digest}` has errors under this release", fix="choose another one"
        )
    signed = await signatures_of(digest, store=store, signers=signers)
    if not signed.enough and not unsafe_unsigned:
        raise FirewallError(
            Kind.INVALID_SIGNATURE,
            f"policy set `{digest}` has {signed.shortfall}, and replicas that require them would not follow",
            fix=f"{signed.fix}; or add --unsafe-unsigned, and start the replicas with other settings",
        )
    unsigned = {} if signed.enough else {"unsigned": True, "missing_signers": [one.keyid for one in signed.missing]}
    latest = await store.latest()
    now = clock()
    members = {"policy_set": digest} | ({} if latest is None else {"previous": latest.digest})
    entry = seal(
        EntryKind.BREAK_GLASS,
        id=uuid7(now, entropy=entropy(UUID_ENTROPY_BYTES)),
        at=now,
        principal=Principal(operator, PrincipalKind.USER, frozenset(), METHOD),
        members=members,
        record={
            "engine": engine,
            "reason": reason,
            "act": "activate-policy-set",
            **signers_of(signed),
            **unsigned,
            **members,
        },
        salt=entropy(SALT_BYTES),
    )
    return await store.activate(
        digest,
        previous=None if latest is None else latest.digest,
        reason=reason,
        activated_by=operator,
        activated_at=now,
        ledger_id=entry.id,
        append=appending(entry),
    )
