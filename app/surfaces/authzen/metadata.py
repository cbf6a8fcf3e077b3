"""Where everything is (AuthZEN 1.0, section 9), and the same as a JWT that says who says so."""

import base64
from hashlib import sha256
from typing import Final

import orjson
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from app.core.types import JsonObject
from app.service.search import Wanted

ACCESS: Final = "/access/v1/"
EVALUATION: Final = f"{ACCESS}evaluation"
EVALUATIONS: Final = f"{ACCESS}evaluations"
SEARCH: Final = f"{ACCESS}search"


def metadata_of(base: str, key: Ed25519PrivateKey | None) -> JsonObject:
    """Give the metadata of a service that is known under a URL; with a key, `signed_metadata` beside them."""
    members: JsonObject = {
        "policy_decision_point": base,
        "access_evaluation_endpoint": base + EVALUATION,
        "access_evaluations_endpoint": base + EVALUATIONS,
        **{f"search_{wanted}_endpoint": f"{base}{SEARCH}/{wanted}" for wanted in Wanted},
    }
    if key is None:
        return members
    # Section 9.1.1: `iss` says who attests, and what is signed is not said of itself. No time in it: it says where
    # things are, and is the same for all who ask.
    return {**members, "signed_metadata": _signed({"iss": base, **members}, key)}


def key_id(key: Ed25519PrivateKey) -> str:
    """Name a key by its JWK thumbprint (RFC 7638, RFC 8037 appendix A.3): a client compares it with the one it has."""
    public = _encoded(key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))
    return _encoded(sha256(f'{{"crv":"Ed25519","kty":"OKP","x":"{public}"}}'.encode()).digest())


def _signed(claims: JsonObject, key: Ed25519PrivateKey) -> str:
    """A JWS in its compact form (RFC 7515 section 7.1, RFC 8037 section 3.1)."""
    header = {"alg": "EdDSA", "kid": key_id(key), "typ": "JWT"}
    signed = f"{_encoded(orjson.dumps(header))}.{_encoded(orjson.dumps(claims))}"
    return f"{signed}.{_encoded(key.sign(signed.encode()))}"


def _encoded(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()
