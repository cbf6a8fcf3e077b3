"""Signatures on stored policy sets: taken only when they hold, and counted for whoever relies on them."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from app.core.dsse import Envelope
from app.core.principal import Principal
from app.errors import FirewallError, Kind
from app.policies.signatures import RequiredSigners, Signed, Signer, claims
from app.policies.store import PolicySetStore, StoredSignature


@dataclass(frozen=True, slots=True)
class Collected:
    """What a set has by now. `created` is false where every signature was there already."""

    signed: Signed
    stored: tuple[StoredSignature, ...]
    created: bool


class SignService:
    """Stores signatures on policy sets."""

    def __init__(self, store: PolicySetStore, *, signers: RequiredSigners) -> None:
        self._store = store
        self._signers = signers

    async def add(self, digest: str, envelope: Envelope, *, principal: Principal) -> Collected:
        """Store the signatures in an envelope that are good ones of known signers, and tell what the set has by now.

        Raises FirewallError: INVALID_SIGNATURE where there is none among them, NOT_FOUND for a set that is not stored,
        UNAVAILABLE and TIMEOUT for the database.
        """
        signed = await asyncio.to_thread(self._signers.verify, digest, [envelope])
        if not signed.signers:
            raise _worthless(digest, envelope, self._signers)
        added = await self._store.sign(digest, signed.envelopes, added_by=principal.id)
        found = await self.of(digest)
        return Collected(found.signed, found.stored, created=added > 0)

    async def of(self, digest: str) -> Collected:
        """What a set has. A set that is not stored has nothing."""
        stored = await self._store.signatures(digest, keyids=[one.keyid for one in self._signers.signers])
        signed = await asyncio.to_thread(self._signers.verify, digest, [one.envelope for one in stored])
        good = {one.signatures[0] for one in signed.envelopes}
        kept = tuple(one for one in stored if one.envelope.signatures[0] in good)
        return Collected(signed, kept, created=False)


async def signatures_of(digest: str, *, store: PolicySetStore, signers: RequiredSigners) -> Signed:
    """Who signed a stored set, verified now. Raises FirewallError (UNAVAILABLE, TIMEOUT)."""
    return (await SignService(store, signers=signers).of(digest)).signed


def described(signed: Signed) -> dict[str, Any]:
    """What was found, as JSON."""
    return {
        "required": signed.required,
        "enough": signed.enough,
        "signed": [_named(one) for one in signed.signers],
        "missing": [_named(one) for one in signed.missing],
    }


def signers_of(signed: Signed) -> dict[str, Sequence[str]]:
    """What a record in the ledger says of signatures: the keys that were found, nothing where nobody signed."""
    return {"signers": [one.keyid for one in signed.signers]} if signed.signers else {}


def _named(signer: Signer) -> dict[str, str]:
    return {"name": signer.name, "keyid": signer.keyid}


def _worthless(digest: str, envelope: Envelope, signers: RequiredSigners) -> FirewallError:
    """Say why no signature counts, as far as it can be told."""
    about = claims(envelope)
    if not signers.signers:
        detail, fix = "this service knows nobody who may sign", "name them with MFW_POLICIES__SIGNERS"
    elif about and digest not in about:
        detail = f"the signatures are of `{min(about)}`, not of this set"
        fix = "sign the policies as they are now: `mfw policies sign DIR --key FILE`"
    elif not about:
        detail = "what was signed is no statement about a policy set"
        fix = "make the signature with `mfw policies sign`"
    else:
        detail = "no signature is a good one of a signer that this service knows"
        fix = f"it knows {', '.join(map(str, signers.signers))}; `mfw policies verify` checks without a service"
    return FirewallError(Kind.INVALID_SIGNATURE, detail, fix=fix)
