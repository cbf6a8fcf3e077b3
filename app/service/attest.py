"""Attests a decision: an in-toto statement about it in a DSSE envelope, signed by the key of the ledger.

For tools that gate what they do on attestations. It says no more than the ledger: the proof in it, where the entry is
under a checkpoint already, can be verified by itself.
"""

from base64 import b64encode
from typing import Any, Final, Protocol
from uuid import UUID

import orjson

from app.core.canonical import canonical
from app.core.dsse import Envelope, Signature, pae
from app.core.notes import NoteSignature, VerifierKey
from app.core.principal import Principal
from app.core.types import JsonObject
from app.errors import FirewallError, Kind
from app.ledger.prove import InclusionProof, Prover
from app.ledger.receipt import timestamp
from app.service.read import ReadDecision, ReadService

PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
# docs/ledger.md, Attestations, describes the predicate.
PREDICATE_TYPE: Final = "https://mutationfirewall.io/decision/v1"

_SHA256: Final = "sha256:"


class SignsText(Protocol):
    """Signs for the log: a key in memory, or a service that has one."""

    @property
    def key(self) -> VerifierKey:
        """The public half; its name is the origin of the log."""

    async def sign(self, text: str) -> NoteSignature:
        """Sign a text."""


class AttestService:
    """Attests decisions with a signer; without one it says what to set."""

    def __init__(self, reading: ReadService, *, prover: Prover, signer: SignsText | None) -> None:
        self._reading = reading
        self._prover = prover
        self._signer = signer

    async def attest(self, id: UUID, *, principal: Principal) -> Envelope:  # noqa: A002 - the column's name
        """The envelope. Raises FirewallError as reading the decision does, and UNAVAILABLE without a key."""
        read = await self._reading.decision(id, principal=principal)
        if self._signer is None:
            raise FirewallError(
                Kind.INVALID_SETTINGS,
                "the ledger has no signing key, so nothing can be attested",
                fix="set MFW_LEDGER__ORIGIN and MFW_LEDGER__SIGNING_KEY; `mfw ledger keygen` makes a key",
            )
        key = self._signer.key
        payload = canonical(statement(read, origin=key.name, proof=await self._proof(read.entry.idx)))
        # INVARIANT: no signature here is one of a checkpoint. The text of a note ends with a newline; canonical JSON
        # never does.
        signed = await self._signer.sign(pae(PAYLOAD_TYPE, payload).decode())
        return Envelope(PAYLOAD_TYPE, payload, (Signature(f"{key.name}+{key.key_id:08x}", signed.signature),))

    async def _proof(self, idx: int) -> InclusionProof | None:
        """The proof where there is one already: an attestation is not kept waiting for a checkpoint."""
        try:
            return await self._prover.inclusion(idx)
        except FirewallError as error:
            if error.kind is Kind.CONFLICT:  # not under a checkpoint yet
                return None
            raise


def statement(read: ReadDecision, *, origin: str, proof: InclusionProof | None) -> JsonObject:
    """The statement: what was decided about which mutation, and where it is recorded."""
    entry, record = read.entry, read.record
    receipt: JsonObject = orjson.loads(entry.receipt)
    ledger: JsonObject = {
        "origin": origin,
        "index": entry.idx,
        "leafHash": _base64(entry.leaf_hash),
        "recordedAt": timestamp(entry.recorded_at),
    }
    if proof is not None and proof.checkpoint is not None:
        ledger["checkpoint"] = proof.checkpoint.decode()
        ledger["inclusionProof"] = [_base64(one) for one in proof.hashes]
    return {
        "_type": STATEMENT_TYPE,
        "subject": _subjects(receipt, record),
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "id": str(entry.id),
            "decision": receipt["decision"],
            "mode": receipt["mode"],
            "policy": receipt["policy"],
            "rule": receipt["rule"],
            **({} if record is None else {"reasons": record["reasons"]}),
            "policySet": {"digest": {"sha256": receipt["policy_set"].removeprefix(_SHA256)}},
            "decidedAt": receipt["at"],
            "receipt": receipt,
            "ledger": ledger,
        },
    }


def _subjects(receipt: JsonObject, record: dict[str, Any] | None) -> list[JsonObject]:
    """The mutation, under the name of what it changes; and the artefact, where one is brought in by its digest."""
    of_type, of_id = (_text(record, "input", "resource", part) for part in ("type", "id"))
    name = "mutation" if of_type is None or of_id is None else f"{of_type}:{of_id}"
    subjects = [_descriptor(name, receipt["mutation"])]
    kind, target = (_text(record, "input", "change", "manifest", part) for part in ("kind", "target_digest"))
    if kind is not None and target is not None and target.startswith(_SHA256):
        subjects.append(_descriptor(kind, target))
    return subjects


def _text(value: Any, *members: str) -> str | None:
    """A text deep in a record; None where it is not there, or masked into something else."""
    for name in members:
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, str) else None


def _descriptor(name: str, digest: str) -> JsonObject:
    return {"name": name, "digest": {"sha256": digest.removeprefix(_SHA256)}}


def _base64(content: bytes) -> str:
    return b64encode(content).decode()
