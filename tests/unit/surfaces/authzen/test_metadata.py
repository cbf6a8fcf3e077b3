"""Signed metadata: a JWT that any library verifies, of a key that has a name."""

import base64

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from app.surfaces.authzen.metadata import key_id, metadata_of
from tests.corpus.hostile import reading

# RFC 8037, appendix A.
SECRET = base64.urlsafe_b64decode("nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=")
KEY = Ed25519PrivateKey.from_private_bytes(SECRET)
BASE = "https://pdp.example.com"


def decoded(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def test_without_a_key_there_is_none():
    found = metadata_of(BASE, None)
    assert "signed_metadata" not in found
    assert found["access_evaluation_endpoint"] == f"{BASE}/access/v1/evaluation"


def test_what_is_signed_is_what_is_said_and_who_says_it():
    found = metadata_of(BASE, KEY)
    header, claims, signature = found.pop("signed_metadata").split(".")
    assert reading(decoded(header)) == {"alg": "EdDSA", "kid": key_id(KEY), "typ": "JWT"}
    assert reading(decoded(claims)) == {"iss": BASE, **found}
    KEY.public_key().verify(decoded(signature), f"{header}.{claims}".encode())
    with pytest.raises(InvalidSignature):
        KEY.public_key().verify(decoded(signature), f"{header}.{claims}x".encode())
    assert found == metadata_of(BASE, None)


def test_the_name_of_the_key_is_the_thumbprint_of_rfc_8037():
    assert key_id(KEY) == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"
