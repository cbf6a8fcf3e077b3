"""Who signed a set: each part of an envelope matters, nothing that it says of itself does, and nobody counts twice."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from app.core import dsse, ed25519
from app.core.canonical import canonical
from app.core.dsse import Envelope, Signature, pae
from app.errors import FirewallError, Kind
from app.policies.signatures import (
    NOBODY,
    PAYLOAD_TYPE,
    PREDICATE_TYPE,
    RequiredSigners,
    Signer,
    claims,
    merged,
    sign,
    statement,
)

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "policy_set_signature.json").read_text("utf-8"))
DIGEST = "sha256:" + "a" * 64
OTHER = "sha256:" + "b" * 64
KEYS = {name: Ed25519PrivateKey.generate() for name in ("sre", "security", "stranger")}


def pem(name):
    return KEYS[name].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def signers(*names, required=None):
    return RequiredSigners.of({name: pem(name) for name in names}, required=required)


def names(signed):
    return [one.name for one in signed.signers], [one.name for one in signed.missing]


def signed_as(content, *, key="sre", kind=PAYLOAD_TYPE, hint=""):
    """An envelope with a good signature of whatever this is."""
    payload = content if isinstance(content, bytes) else canonical(content)
    return Envelope(kind, payload, (Signature(hint, KEYS[key].sign(pae(kind, payload))),))


SRE = sign(DIGEST, KEYS["sre"])
SECURITY = sign(DIGEST, KEYS["security"])


def test_the_vector():
    private = ed25519.private_key(VECTORS["private_key"].encode())
    assert statement(VECTORS["digest"]).decode() == VECTORS["statement"]
    assert dsse.tree_of(sign(VECTORS["digest"], private)) == VECTORS["envelope"]
    known = RequiredSigners.of({"rfc8032": VECTORS["public_key"]})
    signed = known.verify(VECTORS["digest"], [dsse.of_tree(VECTORS["envelope"])])
    assert signed.enough
    assert signed.signers[0].keyid == VECTORS["keyid"]


def test_all_are_required_unless_a_number_says_otherwise():
    known = signers("sre", "security")
    one = known.verify(DIGEST, [SRE])
    assert names(one) == (["sre"], ["security"])
    assert not one.enough
    assert f"1 of 2 required signatures; missing: `security` (key {known.signers[0].keyid[:12]})" in one.shortfall
    with pytest.raises(FirewallError) as caught:
        one.check()
    assert caught.value.kind is Kind.INVALID_SIGNATURE
    assert DIGEST in caught.value.detail
    both = known.verify(DIGEST, [SRE, SECURITY])
    assert both.enough
    both.check()
    assert both.envelopes == (SECURITY, SRE)


@pytest.mark.parametrize(("required", "enough"), [(0, True), (1, True), (2, False), (3, False)])
def test_a_threshold(required, enough):
    known = signers("sre", "security", "stranger", required=required)
    signed = known.verify(DIGEST, [SRE])
    assert signed.enough is enough
    assert names(signed) == (["sre"], ["security", "stranger"])
    if not enough:
        assert ("any of these may sign" in signed.shortfall) == (required < 3)


def test_nobody_is_named():
    assert NOBODY.verify(DIGEST, [SRE]).enough
    assert NOBODY.verify(DIGEST, [SRE]).signers == ()


def test_nobody_counts_twice():
    twice = replace(SRE, signatures=SRE.signatures * 2)
    unnamed = replace(SRE, signatures=(Signature("", SRE.signatures[0].signature),))
    signed = signers("sre", "security", required=2).verify(DIGEST, [SRE, twice, unnamed, SRE])
    assert names(signed) == (["sre"], ["security"])
    assert not signed.enough
    # Nor with another statement about the same set.
    more = {**json.loads(SRE.payload), "predicate": {"note": "again"}}
    assert not signers("sre", "security").verify(DIGEST, [SRE, signed_as(more)]).enough


def test_one_envelope_or_many():
    (together,) = merged([SRE, SECURITY, SRE])
    assert len(together.signatures) == 2
    assert signers("sre", "security").verify(DIGEST, [together]).enough
    assert merged([]) == ()
    assert len(merged([SRE, sign(OTHER, KEYS["sre"])])) == 2


def test_strangers_do_not_count():
    stranger = sign(DIGEST, KEYS["stranger"])
    assert names(signers("sre").verify(DIGEST, [stranger])) == ([], ["sre"])
    # Not under the name of another key either.
    claimed = replace(stranger, signatures=(Signature(SRE.signatures[0].keyid, stranger.signatures[0].signature),))
    assert not signers("sre").verify(DIGEST, [claimed]).signers
    # Beside a good signature they do no harm.
    mixed = replace(SRE, signatures=(*stranger.signatures, *claimed.signatures, *SRE.signatures))
    signed = signers("sre").verify(DIGEST, [stranger, mixed])
    assert names(signed) == (["sre"], [])
    assert signed.envelopes == (SRE,)


@pytest.mark.parametrize("hint", ["", "whatever another tool calls the key", "0" * 64])
def test_the_hint_is_only_a_hint(hint):
    hinted = replace(SRE, signatures=(Signature(hint, SRE.signatures[0].signature),))
    signed = signers("sre", "security", required=1).verify(DIGEST, [hinted])
    assert names(signed)[0] == ["sre"]
    # What is kept has the name of the key that verified it.
    assert signed.envelopes == (SRE,)


def test_the_hint_of_another_signer_does_not_count_for_either():
    swapped = replace(SRE, signatures=(Signature(SECURITY.signatures[0].keyid, SRE.signatures[0].signature),))
    assert not signers("sre", "security").verify(DIGEST, [swapped]).signers


@given(st.integers(0, len(SRE.payload) * 8 - 1))
def test_one_bit_of_the_payload(bit):
    damaged = bytearray(SRE.payload)
    damaged[bit // 8] ^= 1 << bit % 8
    assert not signers("sre").verify(DIGEST, [replace(SRE, payload=bytes(damaged))]).signers


@given(st.integers(0, 64 * 8 - 1))
def test_one_bit_of_the_signature(bit):
    damaged = bytearray(SRE.signatures[0].signature)
    damaged[bit // 8] ^= 1 << bit % 8
    changed = replace(SRE, signatures=(Signature(SRE.signatures[0].keyid, bytes(damaged)),))
    assert not signers("sre").verify(DIGEST, [changed]).signers


def test_another_type_is_another_message():
    assert not signers("sre").verify(DIGEST, [replace(SRE, payload_type="application/json")]).signers
    # Well signed, but not what we read.
    for kind in ("application/json", PAYLOAD_TYPE.upper(), PAYLOAD_TYPE + "; v=1"):
        assert not signers("sre").verify(DIGEST, [signed_as(SRE.payload, kind=kind)]).signers
        assert claims(signed_as(SRE.payload, kind=kind)) == frozenset()


def test_a_signature_is_of_one_set():
    assert not signers("sre").verify(OTHER, [SRE]).signers
    assert signers("sre").verify(OTHER, [SRE, sign(OTHER, KEYS["sre"])]).enough


GOOD = json.loads(SRE.payload)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        SRE.payload.replace(b'"predicate":{}', b'"predicate":{},"predicate":{}'),
        {**GOOD, "_type": "https://in-toto.io/Statement/v0.1"},
        {name: value for name, value in GOOD.items() if name != "_type"},
        {**GOOD, "predicateType": "https://slsa.dev/provenance/v1"},
        {**GOOD, "predicateType": PREDICATE_TYPE + "/"},
        {name: value for name, value in GOOD.items() if name != "predicateType"},
        {**GOOD, "subject": []},
        {**GOOD, "subject": GOOD["subject"][0]},
        {**GOOD, "subject": ["a" * 64]},
        {**GOOD, "subject": [{"name": "a" * 64}]},
        {**GOOD, "subject": [{"digest": "a" * 64}]},
        {**GOOD, "subject": [{"digest": {"sha256": ["a" * 64]}}]},
        {**GOOD, "subject": [{"digest": {"sha512": "a" * 64}}]},
        {**GOOD, "subject": [{"digest": {"sha256": "A" * 64}}]},
        {**GOOD, "subject": [{"digest": {"sha256": DIGEST}}]},
    ],
    ids=range(19),
)
def test_a_good_signature_of_something_else(content):
    assert not signers("sre").verify(DIGEST, [signed_as(content)]).signers


@pytest.mark.parametrize(
    "content",
    [
        {**GOOD, "more": 1, "predicate": {"signedAt": "2026-01-01"}},
        {name: value for name, value in GOOD.items() if name != "predicate"},
        {**GOOD, "subject": [{"digest": {"sha256": "b" * 64}}, {"digest": {"sha512": "c", "sha256": "a" * 64}}]},
        json.dumps(GOOD, indent=3).encode(),
    ],
    ids=range(4),
)
def test_what_other_tools_write(content):
    assert names(signers("sre").verify(DIGEST, [signed_as(content)])) == (["sre"], [])


def test_nothing_is_parsed_that_nobody_signed(monkeypatch):
    def never(_payload):
        raise AssertionError("parsed")

    monkeypatch.setattr("app.policies.signatures._digests", never)
    assert not signers("sre").verify(DIGEST, [sign(DIGEST, KEYS["stranger"])]).signers


def test_what_cannot_be_required():
    with pytest.raises(ValueError, match="more signatures"):
        signers("sre", required=2)
    with pytest.raises(ValueError, match="more signatures"):
        signers("sre", required=-1)
    with pytest.raises(ValueError, match="two names"):
        RequiredSigners.of({"sre": pem("sre"), "again": pem("sre")})
    with pytest.raises(FirewallError) as caught:
        RequiredSigners.of({"sre": "x"})
    assert caught.value.detail == "the key of signer `sre` is no PEM public key"


def test_a_signer_is_named_with_enough_of_the_key():
    (one,) = signers("sre").signers
    assert isinstance(one, Signer)
    assert str(one) == f"`sre` (key {one.keyid[:12]})"
