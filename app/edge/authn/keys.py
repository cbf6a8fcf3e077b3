"""The keys that tokens are verified with, each bound to one algorithm of its own type."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from jose import jwk
from jose.backends.base import Key

from app.edge.authn.rejected import RejectedError
from app.errors import FirewallError, Kind

_PEM_HEAD: Final = "-----BEGIN PUBLIC KEY-----"
_CURVES: Final = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521"}
_HASHES: Final[Mapping[str, hashes.HashAlgorithm]] = {
    "PS256": hashes.SHA256(),
    "PS384": hashes.SHA384(),
    "PS512": hashes.SHA512(),
}
# Which python-jose does not know; `cryptography` verifies them (RFC 7518 section 3.5).
PSS_ALGORITHMS: Final = frozenset(_HASHES)
RSA_ALGORITHMS: Final = frozenset({"RS256", "RS384", "RS512"}) | PSS_ALGORITHMS
EC_ALGORITHMS: Final = frozenset(_CURVES)
HMAC_ALGORITHMS: Final = frozenset({"HS256", "HS384", "HS512"})
ALGORITHMS: Final = RSA_ALGORITHMS | EC_ALGORITHMS | HMAC_ALGORITHMS

# RFC 7518 section 3.3: a key of 2048 bits or larger MUST be used. What a JWKS offers is not checked by any setting.
RSA_BITS_MIN: Final = 2048


class UnknownKeyError(RejectedError):
    """No key of ours is for this token; one that the issuer made since may be."""

    def __init__(self, kid: str | None) -> None:
        super().__init__("no key for this algorithm and key id")
        self.kid = kid


class VerificationKey(NamedTuple):
    """One key for one algorithm. An empty `kid` fits every token; `until` is in seconds since 1970.

    `material` is the public key as text, where two keys of one id have to be told apart.
    """

    kid: str
    algorithm: str
    key: Any
    until: float = math.inf
    material: str = ""


class TokenKeys(Protocol):
    """Where keys come from."""

    @property
    def algorithms(self) -> Collection[str]:
        """The algorithms that are pinned."""

    @property
    def epoch(self) -> int:
        """Another number whenever a key is no longer there: what was verified before has to be verified anew."""

    def find(self, kid: str | None, algorithm: str, *, now: float) -> Sequence[VerificationKey]:
        """The keys that a token with this header may be signed with."""

    async def look_again(self, kid: str | None) -> bool:
        """Ask the source for newer keys, if it has not been asked just now; tells whether any came.

        Raises FirewallError(UNAVAILABLE) when no keys are there at all.
        """


class KeySet:
    """Keys by id and algorithm, immutable."""

    __slots__ = ("_by_algorithm", "algorithms", "identities")

    def __init__(self, keys: Iterable[VerificationKey], *, algorithms: Collection[str]) -> None:
        self.algorithms = frozenset(algorithms)
        self._by_algorithm: dict[str, list[VerificationKey]] = {}
        for key in keys:
            self._by_algorithm.setdefault(key.algorithm, []).append(key)
        self.identities = frozenset(
            (key.kid, key.algorithm, key.material) for found in self._by_algorithm.values() for key in found
        )

    def find(self, kid: str | None, algorithm: str, *, now: float) -> tuple[VerificationKey, ...]:
        """A key that names itself as the token does, else those without a name; a token without a name tries all."""
        known = [key for key in self._by_algorithm.get(algorithm, ()) if now < key.until]
        if kid is None:
            return tuple(known)
        return tuple(key for key in known if key.kid == kid) or tuple(key for key in known if not key.kid)


class StaticKeys:
    """Keys that the settings name."""

    def __init__(
        self,
        *,
        algorithms: Collection[str],
        public_keys: Mapping[str, str] | None = None,
        secrets: Iterable[tuple[str, str, float]] = (),
    ) -> None:
        """`public_keys` maps a key id to a PEM public key; `secrets` are ids, secrets, and until when each is good.

        Raises FirewallError(INVALID_SETTINGS) unless every algorithm has a key and every key an algorithm.
        """
        if unknown := set(algorithms) - ALGORITHMS:
            raise _setting(f"algorithm `{min(unknown)}` is not known")
        keys: list[VerificationKey] = []
        for algorithm in sorted(HMAC_ALGORITHMS.intersection(algorithms)):
            keys += [
                VerificationKey(kid, algorithm, _hmac_key(secret, algorithm), until) for kid, secret, until in secrets
            ]
        for kid, pem in (public_keys or {}).items():
            fitting = [VerificationKey(kid, a, key) for a in algorithms if (key := _public_key(pem, a)) is not None]
            if not fitting:
                raise _setting(f"key `{kid}` is no PEM public key for {', '.join(sorted(algorithms))}")
            keys += fitting
        if unused := set(algorithms) - {key.algorithm for key in keys}:
            raise _setting(f"no key is for `{min(unused)}`")
        if not keys:
            raise _setting("no algorithm is named")
        self._keys = KeySet(keys, algorithms=algorithms)

    @property
    def algorithms(self) -> Collection[str]:
        """The algorithms that are pinned."""
        return self._keys.algorithms

    @property
    def epoch(self) -> int:
        """These keys never change; one that ends says so itself."""
        return 0

    def find(self, kid: str | None, algorithm: str, *, now: float) -> Sequence[VerificationKey]:
        """The keys that a token with this header may be signed with."""
        return self._keys.find(kid, algorithm, now=now)

    async def look_again(self, kid: str | None) -> bool:  # noqa: ARG002 - the interface
        """There is nowhere to look."""
        return False


def keys_of_jwk(described: Mapping[str, Any], algorithms: Collection[str]) -> list[VerificationKey]:
    """The keys that one member of a JWKS (RFC 7517) gives for the pinned algorithms; none for what is not for us.

    Symmetric keys are never taken from a JWKS: who can read it could sign. Does not check: `x5c`.
    """
    kid, use, operations = described.get("kid", ""), described.get("use", "sig"), described.get("key_ops", ["verify"])
    if not isinstance(kid, str) or use != "sig" or not isinstance(operations, list) or "verify" not in operations:
        return []
    family = {"RSA": RSA_ALGORITHMS, "EC": EC_ALGORITHMS}.get(str(described.get("kty")), frozenset())
    own = described.get("alg")
    found: list[VerificationKey] = []
    for algorithm in sorted(family.intersection(algorithms)):
        text = _pem_of(described, algorithm) if own in {None, algorithm} else ""
        if (key := _public_key(text, algorithm)) is not None and _bits(text) >= RSA_BITS_MIN:
            found.append(VerificationKey(kid, algorithm, key, material=text))
    return found


def verify_pss(key: VerificationKey, signed: bytes, signature: bytes) -> bool:
    """RSASSA-PSS (RFC 7518 section 3.5): MGF1 with the same hash, and a salt as long as the hash."""
    hashed = _HASHES[key.algorithm]
    public: RSAPublicKey = key.key
    try:
        public.verify(signature, signed, padding.PSS(padding.MGF1(hashed), hashed.digest_size), hashed)
    except InvalidSignature:
        return False
    return True


def _hmac_key(secret: str, algorithm: str) -> Key:
    if not secret:
        raise _setting(f"`{algorithm}` needs a secret")
    try:
        return jwk.construct(secret, algorithm)
    except Exception:  # noqa: BLE001 - among others, what looks like a public key is refused here
        raise _setting(f"the secret cannot serve as a key for `{algorithm}`") from None


def _public_key(pem: str, algorithm: str) -> Any:
    """The key for an algorithm, None if it is of another type; python-jose itself loads any key for any algorithm."""
    if algorithm in HMAC_ALGORITHMS or not pem.lstrip().startswith(_PEM_HEAD):
        return None
    try:
        if algorithm in PSS_ALGORITHMS:
            loaded = load_pem_public_key(pem.strip().encode())
            return loaded if isinstance(loaded, RSAPublicKey) else None
        key = jwk.construct(pem.strip(), algorithm)
        described: Mapping[str, Any] = key.to_dict()
    except Exception:  # noqa: BLE001 - an RSA key asked for its curve is an AttributeError, an exotic curve a KeyError
        return None
    return key if described.get("crv") == _CURVES.get(algorithm) else None


def _pem_of(described: Mapping[str, Any], algorithm: str) -> str:
    """A key of a key set as PEM, empty if it is none."""
    try:
        # For python-jose a PS key is the same as an RS key: modulus and exponent.
        pem: bytes = jwk.construct(dict(described), algorithm.replace("PS", "RS")).to_pem()
    except Exception:  # noqa: BLE001 - it raises what its parts raise
        return ""
    return pem.decode()


def _bits(pem: str) -> int:
    """The size of an RSA key; a curve that we know is large enough."""
    loaded = load_pem_public_key(pem.strip().encode())
    return loaded.key_size if isinstance(loaded, RSAPublicKey) else RSA_BITS_MIN


def _setting(detail: str) -> FirewallError:
    return FirewallError(
        Kind.INVALID_SETTINGS, f"tokens cannot be checked: {detail}", fix="see the MFW_AUTH__JWT__ settings"
    )
