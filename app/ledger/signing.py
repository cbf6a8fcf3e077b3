"""Who signs checkpoints, and how a key says in the log that it begins to."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Final, Protocol
from uuid import UUID

from app.core.notes import NoteSignature, SignerKey, VerifierKey
from app.core.principal import AuthMethod, Principal, PrincipalKind
from app.ledger.receipt import SALT_BYTES, EntryKind, SealedEntry, seal

# In the receipt of an entry of the kind `key`; the other acts of that kind are about API keys.
ACT: Final = "introduce-ledger-key"
# Nobody asked for it: the service itself begins with another key because its settings say so.
PRINCIPAL: Final = Principal("ledger-signer", PrincipalKind.SERVICE, frozenset(), AuthMethod.NONE)

_ID_PREFIX: Final = b"mutationfirewall.io/ledger-key/v1\x00"
_VERSION: Final = 8
_VERSION_MASK: Final = ~((0xF << 76) | (0b11 << 62))


class Signer(Protocol):
    """Signs for the log: a key in memory, or a service that has one."""

    @property
    def key(self) -> VerifierKey:
        """The public half; its name is the origin of the log."""

    async def sign(self, text: str) -> NoteSignature:
        """Sign the text of a checkpoint. May raise anything: then nothing is published."""


@dataclass(frozen=True, slots=True)
class KeySigner:
    """A signer with its key in memory."""

    secret: SignerKey

    @property
    def key(self) -> VerifierKey:
        """The public half."""
        return self.secret.verifier

    async def sign(self, text: str) -> NoteSignature:
        """Sign the text of a checkpoint."""
        return self.secret.sign(text)


def introduction_id(name: str, key_id: int) -> UUID:
    """The id of the entry that introduces a key: it follows from the key (RFC 9562 section 5.8), so there is only one.

    From what a signature line says, so that of any key in a checkpoint can be asked when it began.
    """
    digest = sha256(_ID_PREFIX + f"{name}+{key_id:08x}".encode()).digest()
    number = int.from_bytes(digest[:16], "big") & _VERSION_MASK
    return UUID(int=number | (_VERSION << 76) | (0b10 << 62))


def introduction(
    key: VerifierKey, *, replaces: Iterable[str], now: datetime, entropy: Callable[[int], bytes], engine: str
) -> SealedEntry:
    """The entry that a key begins with, in the log before its first signature.

    `replaces` names the keys before it: as verifier keys where they are known, else as `name+id`.
    """
    members = {"act": ACT, "ledger_key": key.text}
    before = ",".join(replaces)
    if before:
        members["replaces"] = before
    return seal(
        EntryKind.KEY,
        id=introduction_id(key.name, key.key_id),
        at=now,
        principal=PRINCIPAL,
        members=members,
        record={"engine": engine, "reason": "set as the signing key of the ledger", **members},
        salt=entropy(SALT_BYTES),
    )
