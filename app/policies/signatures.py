"""Who signed a policy set, and whether that is enough.

    (1) envelopes   DSSE, from the database, a file beside the policies, or the last good copy
    (2) signatures  each by the bytes that were signed, with the keys of the settings and no others
    (3) statement   in-toto: of this very set, for this very purpose
    (4) count       each signer once, whatever they signed and however often; enough of them, or not

INVARIANT: nothing is parsed that no known key signed, and nothing that an envelope says of itself counts.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from app.core import ed25519, strict_json
from app.core.canonical import canonical
from app.core.dsse import Envelope, Signature, pae
from app.core.types import JsonObject
from app.errors import FirewallError, Kind

# What in-toto's envelope layer prescribes, so that other tools can read and make these.
PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
# INVARIANT: a key may sign other statements as well (provenance, releases); only this type says "fit to be in force".
PREDICATE_TYPE: Final = "https://mutationfirewall.io/policy-set/v1"
# Beside the policies, in a checkout or a ConfigMap; no policy file, for it is not YAML.
FILE_NAME: Final = "policy-set.dsse.json"

_DIGEST_PREFIX: Final = "sha256:"


@dataclass(frozen=True, slots=True)
class Signer:
    """Somebody who may sign, under the name that the settings give them."""

    name: str
    keyid: str
    key: Ed25519PublicKey

    def __str__(self) -> str:
        """As messages name a signer: enough of the key to find it."""
        return f"`{self.name}` (key {self.keyid[:12]})"


@dataclass(frozen=True, slots=True)
class Signed:
    """What was found for one set. `envelopes` are the good signatures, one each; `missing` are the signers without."""

    digest: str
    required: int
    signers: tuple[Signer, ...]
    missing: tuple[Signer, ...]
    envelopes: tuple[Envelope, ...]

    @property
    def enough(self) -> bool:
        """Whether the set may come into force, as far as signatures are concerned."""
        return len(self.signers) >= self.required

    @property
    def shortfall(self) -> str:
        """What is missing, in words."""
        missing = ", ".join(map(str, self.missing))
        if self.required == len(self.signers) + len(self.missing):
            return f"{len(self.signers)} of {self.required} required signatures; missing: {missing}"
        return f"{len(self.signers)} of {self.required} required signatures; any of these may sign: {missing}"

    @property
    def fix(self) -> str:
        """What to type next."""
        return "`mfw policies sign DIR --key FILE`, then `mfw policies push DIR` sends the signature"

    def check(self) -> None:
        """Raises FirewallError (INVALID_SIGNATURE) where it is not enough."""
        if not self.enough:
            raise FirewallError(
                Kind.INVALID_SIGNATURE, f"policy set `{self.digest}` has {self.shortfall}", fix=self.fix
            )


@dataclass(frozen=True, slots=True)
class RequiredSigners:
    """The signers of the settings, and how many of them must have signed a set before it comes into force here.

    Without signers nothing is asked for; with `required` 0 signatures are verified and shown, and none is needed.
    """

    signers: tuple[Signer, ...] = ()
    required: int = 0

    def __post_init__(self) -> None:
        # The settings say this in words; whoever comes another way must not get a count that nobody can reach, or one
        # that a person with two names fills alone.
        if not 0 <= self.required <= len(self.signers):
            raise ValueError("more signatures are required than there are signers")
        if len({one.keyid for one in self.signers}) != len(self.signers):
            raise ValueError("one key has two names")

    @classmethod
    def of(cls, keys: Mapping[str, str], *, required: int | None = None) -> "RequiredSigners":
        """Signers by name, each with a PEM public key; all are required unless a number says otherwise.

        Raises FirewallError (MALFORMED) for a key that is none.
        """
        found = tuple(signer(name, pem) for name, pem in sorted(keys.items()))
        return cls(found, len(found) if required is None else required)

    def verify(self, digest: str, envelopes: Iterable[Envelope]) -> Signed:
        """Steps (2) to (4). Never raises: what is wrong with a signature makes it none."""
        found: dict[str, Envelope] = {}
        for envelope in envelopes:
            for one, signature in self._good(envelope, digest):
                found.setdefault(
                    one.keyid,
                    Envelope(envelope.payload_type, envelope.payload, (Signature(one.keyid, signature.signature),)),
                )
        return Signed(
            digest,
            self.required,
            signers=tuple(one for one in self.signers if one.keyid in found),
            missing=tuple(one for one in self.signers if one.keyid not in found),
            envelopes=tuple(found[one.keyid] for one in self.signers if one.keyid in found),
        )

    def _good(self, envelope: Envelope, digest: str) -> Iterator[tuple[Signer, Signature]]:
        """The signatures of known signers in an envelope, if it is of this set."""
        message = envelope.signed
        good = [
            (one, signature)
            for signature in envelope.signatures
            for one in self._hinted(signature.keyid)
            if ed25519.is_signature_of(signature.signature, message, key=one.key)
        ]
        if good and envelope.payload_type == PAYLOAD_TYPE and digest in _digests(envelope.payload):
            yield from good

    def _hinted(self, keyid: str) -> tuple[Signer, ...]:
        """Whose key to try. A hint of ours names one; other tools name keys in other ways, or not at all."""
        named = tuple(one for one in self.signers if one.keyid == keyid)
        return named or self.signers


# Where nobody is named.
NOBODY: Final = RequiredSigners()


def signer(name: str, pem: str) -> Signer:
    """A signer with a PEM public key. Raises FirewallError (MALFORMED)."""
    try:
        key = ed25519.public_key(pem)
    except FirewallError as error:
        raise FirewallError(error.kind, f"the key of signer `{name}` {error.detail}", fix=error.fix) from None
    return Signer(name, ed25519.key_id(key), key)


def sign(digest: str, key: Ed25519PrivateKey) -> Envelope:
    """An envelope that says that the set of this digest is fit to be in force. Signing twice gives the same bytes."""
    payload = statement(digest)
    signature = key.sign(pae(PAYLOAD_TYPE, payload))
    return Envelope(PAYLOAD_TYPE, payload, (Signature(ed25519.key_id(key.public_key()), signature),))


def statement(digest: str) -> bytes:
    """What is signed: in-toto's Statement v1 about the set, as canonical JSON.

    INVARIANT: it depends on the digest alone, so that the signatures of several people are of the same bytes and fit
    into one envelope.
    """
    content: JsonObject = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": "policy-set", "digest": {"sha256": digest.removeprefix(_DIGEST_PREFIX)}}],
        "predicateType": PREDICATE_TYPE,
        "predicate": {},
    }
    return canonical(content)


def merged(envelopes: Iterable[Envelope]) -> tuple[Envelope, ...]:
    """The same signatures in as few envelopes as can be: those of the same bytes stand together, each once."""
    found: dict[tuple[str, bytes], dict[Signature, None]] = {}
    for envelope in envelopes:
        found.setdefault((envelope.payload_type, envelope.payload), {}).update(dict.fromkeys(envelope.signatures))
    return tuple(Envelope(*of, tuple(signatures)) for of, signatures in found.items())


def claims(envelope: Envelope) -> frozenset[str]:
    """The digests of the sets that an envelope is about, by its own word: to say what a file is, never to trust it."""
    return _digests(envelope.payload) if envelope.payload_type == PAYLOAD_TYPE else frozenset()


def _digests(payload: bytes) -> frozenset[str]:
    """The digests of a statement of ours; none where it is none. Members that are not known are ignored (in-toto)."""
    try:
        tree = strict_json.parse(payload).tree
    except FirewallError:
        return frozenset()
    if (
        not isinstance(tree, dict)
        or tree.get("_type") != STATEMENT_TYPE
        or tree.get("predicateType") != PREDICATE_TYPE
        or not isinstance(tree.get("subject"), list)
    ):
        return frozenset()
    listed = (one.get("digest") for one in tree["subject"] if isinstance(one, dict))
    digests = (one.get("sha256") for one in listed if isinstance(one, dict))
    return frozenset(_DIGEST_PREFIX + one for one in digests if isinstance(one, str))
