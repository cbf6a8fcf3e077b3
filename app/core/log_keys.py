"""The key that signs the checkpoints of a log, as a secret holds it: that of a signed note, or Ed25519 in PEM."""

from app.core import ed25519
from app.core.notes import NAME_CHARS_MAX, Algorithm, SignerKey
from app.errors import FirewallError, Kind

_MAKE = "make a pair: `mfw ledger keygen --origin ORIGIN --out FILE`"


def is_origin(text: str) -> bool:
    """Whether a log can be called so: what a line of a checkpoint and the name of a key can be (C2SP signed-note)."""
    return 0 < len(text) <= NAME_CHARS_MAX and text.isprintable() and not any(c.isspace() or c == "+" for c in text)


def log_key(text: str, *, origin: str) -> SignerKey:
    """The key in a secret; it signs under the log's origin.

    Raises FirewallError (MALFORMED) whose detail goes on from "the key", and repeats nothing of a secret.
    """
    if "-----BEGIN" in text:
        return SignerKey.of(origin, ed25519.private_key(text.encode()))
    try:
        key = SignerKey.parse(text.strip())
    except FirewallError as error:
        raise FirewallError(
            Kind.MALFORMED, "is neither the private key of a signed note nor a PEM private key", fix=error.fix or _MAKE
        ) from None
    if key.algorithm is not Algorithm.ED25519:
        raise FirewallError(Kind.MALFORMED, "is that of a witness, and a log does not cosign", fix=_MAKE)
    if key.name != origin:
        # tlog-checkpoint: verifiers look a key up by its name, and expect that to be the origin.
        raise FirewallError(
            Kind.MALFORMED,
            f"signs under the name `{key.name}`, and the origin is `{origin}`",
            fix="set MFW_LEDGER__ORIGIN to the name of the key, or make a pair for the origin",
        )
    return key
