"""Ed25519 keys (RFC 8032) as they stand in PEM files, and what they are called."""

from hashlib import sha256
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from app.errors import FirewallError, Kind

SIGNATURE_BYTES: Final = 64

_MAKE: Final = "make a pair: `mfw policies keygen --out DIR`"


def public_key(pem: str) -> Ed25519PublicKey:
    """The public key in a PEM block. Raises FirewallError (MALFORMED) whose detail goes on from "the key"."""
    if "PRIVATE KEY" in pem:
        raise FirewallError(
            Kind.MALFORMED, "is a private key", fix="name the public half, and count the private one as leaked"
        )
    try:
        key = load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm):
        raise FirewallError(
            Kind.MALFORMED,
            "is no PEM public key",
            fix="it starts with `-----BEGIN PUBLIC KEY-----`; keep its line breaks",
        ) from None
    if not isinstance(key, Ed25519PublicKey):
        raise FirewallError(Kind.MALFORMED, "is not an Ed25519 key", fix=_MAKE)
    return key


def private_key(pem: bytes, *, passphrase: bytes | None = None) -> Ed25519PrivateKey:
    """The private key in a PEM block. Raises FirewallError (MALFORMED) whose detail goes on from "the key"."""
    try:
        key = load_pem_private_key(pem, password=passphrase)
    except TypeError:
        # What the library says of a passphrase that is missing, and of one too many.
        detail = "is encrypted, and no passphrase was given" if passphrase is None else "is not encrypted"
        fix = "set MFW_SIGNING_PASSPHRASE" if passphrase is None else "unset MFW_SIGNING_PASSPHRASE"
        raise FirewallError(Kind.MALFORMED, detail, fix=fix) from None
    except (ValueError, UnsupportedAlgorithm):
        detail = "is no PEM private key" if passphrase is None else "does not open with this passphrase"
        raise FirewallError(Kind.MALFORMED, detail, fix=_MAKE if passphrase is None else "check both") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise FirewallError(Kind.MALFORMED, "is not an Ed25519 key", fix=_MAKE)
    return key


def is_encrypted(pem: bytes) -> bool:
    """Whether a private key needs a passphrase."""
    try:
        load_pem_private_key(pem, password=None)
    except TypeError:
        return True
    except (ValueError, UnsupportedAlgorithm):
        return False
    return False


def key_id(key: Ed25519PublicKey) -> str:
    """What the key is called: SHA-256 of its DER SubjectPublicKeyInfo (RFC 8410), in hex.

    The same as `openssl pkey -pubin -in FILE -outform DER | sha256sum`.
    """
    return sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def is_signature_of(signature: bytes, message: bytes, *, key: Ed25519PublicKey) -> bool:
    """Whether the key made this signature of this message."""
    try:
        key.verify(signature, message)
    except InvalidSignature:
        return False
    return True
