"""An attestation is verified by what others wrote of DSSE and in-toto, with the public key of the ledger alone."""

import asyncio
import base64
import json
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any
from unittest.mock import Mock
from uuid import UUID

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from app.core import dsse
from app.core.merkle import leaf_hash
from app.core.notes import SignerKey
from app.core.principal import AuthMethod, Principal, PrincipalKind, Role
from app.core.types import Effect, Mutation, Reason, Verdict
from app.errors import FirewallError, Kind
from app.ledger.prove import InclusionProof
from app.ledger.read import LedgerEntry
from app.ledger.receipt import EntryKind, PendingDecision, seal_decision
from app.service.attest import AttestService
from app.service.read import ReadService

KEY = SignerKey.of("firewall.example.com/ledger", Ed25519PrivateKey.from_private_bytes(bytes(32)))
VIEWER = Principal("v", PrincipalKind.USER, frozenset({Role.VIEWER}), AuthMethod.JWT)
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
MUTATION = "sha256:" + "1a" * 32
POLICY_SET = "sha256:" + "2b" * 32
MODEL = "sha256:" + "3c" * 32
CHECKPOINT = b"firewall.example.com/ledger\n8\nAAAA\n\nsignature\n"


def entry_of(change):
    mutation = Mutation(
        subject={"type": "agent", "id": "coder-7", "properties": {}},
        action={"name": "update", "properties": {}},
        resource={"type": "apps/Deployment", "id": "prod/shop", "properties": {}},
        change=change,
        context={},
    )
    verdict = Verdict(Effect.ALLOW, (Reason("prod-replicas", "small-growth", Effect.ALLOW, "adds \U0001f600 1"),))
    pending = PendingDecision(UUID(int=7), NOW, VIEWER, mutation, MUTATION, POLICY_SET, verdict, "engine")
    sealed = seal_decision(pending, salt=bytes(32))
    return LedgerEntry(5, sealed.id, EntryKind.DECISION, NOW, sealed.receipt, sealed.salt, sealed.record)


class Reader:
    def __init__(self, entry):
        self.entry = entry

    async def get_by_id(self, _id):
        return self.entry


class ProverOf:
    def __init__(self, answer):
        self.answer = answer

    async def inclusion(self, index):
        if isinstance(self.answer, FirewallError):
            raise self.answer
        return InclusionProof(index, 8, b"l" * 32, b"r" * 32, (b"h" * 32,), self.answer)


class Signs:
    key = KEY.verifier

    async def sign(self, text):
        return KEY.sign(text)


SIGNER = Signs()


def attested(entry, *, proof=CHECKPOINT, signer=SIGNER):
    reader: Any = Reader(entry)
    prover: Any = ProverOf(proof)
    service = AttestService(ReadService(reader, index=Mock()), prover=prover, signer=signer)
    envelope = asyncio.run(service.attest(entry.id, principal=VIEWER))
    return json.loads(json.dumps(dsse.tree_of(envelope)))


def verified(envelope, public=None):
    """The statement, by the protocol of DSSE as it is written down, with nothing of ours."""
    payload = base64.standard_b64decode(envelope["payload"])
    kind = envelope["payloadType"].encode()
    signed = b" ".join([b"DSSEv1", b"%d" % len(kind), kind, b"%d" % len(payload), payload])
    (one,) = envelope["signatures"]
    (public or KEY.private.public_key()).verify(base64.standard_b64decode(one["sig"]), signed)
    assert one["keyid"] == f"{KEY.name}+{KEY.verifier.key_id:08x}"
    return json.loads(payload)


def test_a_statement_of_a_decision():
    entry = entry_of({"after": 1})
    envelope = attested(entry)
    assert envelope["payloadType"] == "application/vnd.in-toto+json"
    statement = verified(envelope)
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == "https://mutationfirewall.io/decision/v1"
    assert statement["subject"] == [{"name": "apps/Deployment:prod/shop", "digest": {"sha256": "1a" * 32}}]
    predicate = statement["predicate"]
    assert (predicate["id"], predicate["decision"], predicate["policy"]) == (str(entry.id), "allow", "prod-replicas")
    assert [reason["message"] for reason in predicate["reasons"]] == ["adds \U0001f600 1"]
    assert predicate["policySet"] == {"digest": {"sha256": "2b" * 32}}
    assert predicate["receipt"] == json.loads(entry.receipt)
    assert predicate["ledger"] == {
        "origin": KEY.name,
        "index": 5,
        "leafHash": base64.b64encode(leaf_hash(entry.receipt)).decode(),
        "recordedAt": "2026-03-01T12:00:00.000000Z",
        "checkpoint": CHECKPOINT.decode(),
        "inclusionProof": [base64.b64encode(b"h" * 32).decode()],
    }


def test_another_key_and_another_payload_do_not_verify():
    envelope = attested(entry_of({"after": 1}))
    with pytest.raises(InvalidSignature):
        verified(envelope, Ed25519PrivateKey.from_private_bytes(sha256(b"other").digest()).public_key())
    changed = base64.standard_b64decode(envelope["payload"]).replace(b'"allow"', b'"deny"')
    with pytest.raises(InvalidSignature):
        verified(envelope | {"payload": base64.b64encode(changed).decode()})


def test_an_artefact_is_a_subject_too():
    statement = verified(attested(entry_of({"manifest": {"kind": "model", "target_digest": MODEL}})))
    assert statement["subject"][1] == {"name": "model", "digest": {"sha256": "3c" * 32}}


@pytest.mark.parametrize("change", [{"manifest": "masked"}, {"manifest": {"kind": "model", "target_digest": 7}}, {}])
def test_what_is_masked_is_no_subject(change):
    assert len(verified(attested(entry_of(change)))["subject"]) == 1


def test_of_an_erased_record_the_receipt_is_attested():
    entry = replace(entry_of({"after": 1}), record=None, salt=None)
    statement = verified(attested(entry))
    assert statement["subject"] == [{"name": "mutation", "digest": {"sha256": "1a" * 32}}]
    assert "reasons" not in statement["predicate"]
    assert statement["predicate"]["decision"] == "allow"


@pytest.mark.parametrize("proof", [FirewallError(Kind.CONFLICT, "not yet", retry_after=1.0), None])
def test_without_a_checkpoint_there_is_no_proof_in_it(proof):
    ledger = verified(attested(entry_of({"after": 1}), proof=proof))["predicate"]["ledger"]
    assert not {"checkpoint", "inclusionProof"} & ledger.keys()


def test_a_damaged_tree_is_not_attested():
    with pytest.raises(FirewallError, match="damaged"):
        attested(entry_of({"after": 1}), proof=FirewallError(Kind.UNAVAILABLE, "damaged"))


def test_without_a_key_it_says_what_to_set():
    with pytest.raises(FirewallError) as caught:
        attested(entry_of({"after": 1}), signer=None)
    assert caught.value.kind is Kind.INVALID_SETTINGS
    assert "MFW_LEDGER__SIGNING_KEY" in str(caught.value.fix)


def test_no_signature_here_is_one_of_a_checkpoint():
    payload = base64.standard_b64decode(attested(entry_of({"after": "x\n"}))["payload"])
    assert b"\n" not in payload
