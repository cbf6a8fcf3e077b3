"""Keys in PEM files: the right kind and the right half, with the name that OpenSSL would give."""

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from app.core import ed25519
from app.errors import FirewallError, Kind

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "policy_set_signature.json").read_text("utf-8"))


def private_pem(key, passphrase=None):
    encryption = NoEncryption() if passphrase is None else BestAvailableEncryption(passphrase)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


def public_pem(key):
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def refused(work):
    with pytest.raises(FirewallError) as caught:
        work()
    assert caught.value.kind is Kind.MALFORMED
    return caught.value


def test_the_vector():
    private = ed25519.private_key(VECTORS["private_key"].encode())
    public = ed25519.public_key(VECTORS["public_key"])
    assert private.public_key() == public
    assert ed25519.key_id(public) == VECTORS["keyid"]


@pytest.mark.parametrize("other", [ec.generate_private_key(ec.SECP256R1()), ed448.Ed448PrivateKey.generate()])
def test_other_kinds_of_keys_are_refused(other):
    assert refused(lambda: ed25519.public_key(public_pem(other))).detail == "is not an Ed25519 key"
    assert refused(lambda: ed25519.private_key(private_pem(other))).detail == "is not an Ed25519 key"


@pytest.mark.parametrize("text", ["", "key", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"])
def test_what_is_no_key(text):
    assert refused(lambda: ed25519.public_key(text)).detail == "is no PEM public key"
    assert refused(lambda: ed25519.private_key(text.encode())).detail == "is no PEM private key"
    assert not ed25519.is_encrypted(text.encode())


def test_a_private_key_where_a_public_one_belongs():
    error = refused(lambda: ed25519.public_key(VECTORS["private_key"]))
    assert error.detail == "is a private key"
    assert "leaked" in str(error.fix)
    assert VECTORS["private_key"].splitlines()[1] not in str(error)


def test_passphrases():
    key = Ed25519PrivateKey.generate()
    secret = private_pem(key, b"open sesame")
    assert ed25519.is_encrypted(secret)
    assert not ed25519.is_encrypted(private_pem(key))
    assert ed25519.private_key(secret, passphrase=b"open sesame").public_key() == key.public_key()
    assert "no passphrase" in refused(lambda: ed25519.private_key(secret)).detail
    assert "does not open" in refused(lambda: ed25519.private_key(secret, passphrase=b"sesame")).detail
    assert "not encrypted" in refused(lambda: ed25519.private_key(private_pem(key), passphrase=b"x")).detail


def test_what_a_signature_is_of():
    key = Ed25519PrivateKey.generate()
    signature = key.sign(b"this")
    assert ed25519.is_signature_of(signature, b"this", key=key.public_key())
    assert not ed25519.is_signature_of(signature, b"that", key=key.public_key())
    for damaged in (b"", signature[:-1], signature + b"\0", bytes(64)):
        assert not ed25519.is_signature_of(damaged, b"this", key=key.public_key())
    assert len(signature) == ed25519.SIGNATURE_BYTES
