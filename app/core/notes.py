"""Signed notes (C2SP signed-note) and what a log says with them: checkpoints, cosignatures, proofs.

Nothing in a note is true before a signature of it was verified, and only keys that were named beforehand count.
"""

import base64
import binascii
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from hashlib import sha256
from typing import Final, assert_never

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from app.core.ed25519 import SIGNATURE_BYTES
from app.core.merkle import PROOF_HASHES_MAX
from app.core.tiles import HASH_BYTES, SIZE_MAX
from app.errors import FirewallError, Kind

# A verifier must accept sixteen signatures, and those of post-quantum schemes have up to five kilobytes.
NOTE_BYTES_MAX: Final = 262_144
SIGNATURES_MAX: Final = 64
# As tlog-cosignature limits a name and an origin.
NAME_CHARS_MAX: Final = 255
TIMESTAMP_MAX: Final = 2**63 - 1
PROOF_MEDIA_TYPE: Final = "text/plain; charset=utf-8"

_PROOF_HEADER: Final = "c2sp.org/tlog-proof@v1"
_DASH: Final = "\N{EM DASH} "
_KEY_BYTES: Final = 32
_KEY_ID_BYTES: Final = 4
_TIMESTAMP_BYTES: Final = 8
_PRIVATE: Final = "PRIVATE+KEY+"


class Algorithm(IntEnum):
    """How a signature is made: the byte that signed-note assigns to it."""

    ED25519 = 1
    COSIGNATURE = 4  # cosignature/v1: Ed25519 over a timestamp and the note


@dataclass(frozen=True, slots=True)
class NoteSignature:
    """One signature line. Name and id say which key to try; neither is proof of anything."""

    name: str
    key_id: int
    signature: bytes

    @property
    def line(self) -> str:
        """The line as it stands in a note, with its newline."""
        return f"{_DASH}{self.name} {_base64(self.key_id.to_bytes(_KEY_ID_BYTES, 'big') + self.signature)}\n"

    @property
    def timestamp(self) -> int:
        """When a cosignature was made, in seconds of POSIX. Raises FirewallError (MALFORMED) for another signature."""
        if len(self.signature) != _TIMESTAMP_BYTES + SIGNATURE_BYTES:
            raise _malformed("a signature that is no cosignature has no time")
        return int.from_bytes(self.signature[:_TIMESTAMP_BYTES], "big")


@dataclass(frozen=True, slots=True)
class Note:
    """A text, which ends with a newline, and the signatures of it."""

    text: str
    signatures: tuple[NoteSignature, ...]

    def serialise(self) -> bytes:
        """The note as it is sent and stored."""
        return f"{self.text}\n{''.join(one.line for one in self.signatures)}".encode()

    def with_signatures(self, more: Iterable[NoteSignature]) -> "Note":
        """The note with further signatures; one by a key that has signed already is left out."""
        known = {(one.name, one.key_id) for one in self.signatures}
        return Note(self.text, (*self.signatures, *(one for one in more if (one.name, one.key_id) not in known)))


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A key that may have signed: its name, its public half, and for which kind of signature."""

    name: str
    algorithm: Algorithm
    public: Ed25519PublicKey

    @property
    def key_id(self) -> int:
        """What signature lines call it: with the name it says which key this is, and no more."""
        return _key_id(self.name, self.algorithm, self.public)

    @property
    def text(self) -> str:
        """The key as it is written in a setting: `name+id+base64`."""
        return f"{self.name}+{self.key_id:08x}+{_base64(bytes([self.algorithm]) + _raw(self.public))}"

    @classmethod
    def parse(cls, text: str) -> "VerifierKey":
        """A key from its text. Raises FirewallError (MALFORMED)."""
        if text.startswith(_PRIVATE):
            raise _malformed("a private key, where the public one is expected", fix="count the private one as leaked")
        name, digits, material = _split_key(text)
        key = cls(name, _algorithm(material), Ed25519PublicKey.from_public_bytes(material[1:]))
        if digits != f"{key.key_id:08x}":
            raise _malformed(f"the id of the key `{name}` is not that of what follows it", fix="copy the key again")
        return key

    def verify(self, text: str, one: NoteSignature) -> bool:
        """Whether this key made this signature of this text."""
        if (one.name, one.key_id) != (self.name, self.key_id):
            return False
        signature = one.signature
        match self.algorithm:
            case Algorithm.ED25519:
                message = text.encode()
            case Algorithm.COSIGNATURE:
                if len(signature) != _TIMESTAMP_BYTES + SIGNATURE_BYTES or one.timestamp > TIMESTAMP_MAX:
                    return False
                message = _cosigned(text, at=one.timestamp)
                signature = signature[_TIMESTAMP_BYTES:]
            case _:
                assert_never(self.algorithm)
        try:
            self.public.verify(signature, message)
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True, slots=True)
class SignerKey:
    """A private key with the name that it signs under. Its `repr` shows no secret."""

    name: str
    algorithm: Algorithm
    private: Ed25519PrivateKey

    @property
    def verifier(self) -> VerifierKey:
        """The public half."""
        return VerifierKey(self.name, self.algorithm, self.private.public_key())

    @property
    def text(self) -> str:
        """The key as it is written in a secret: `PRIVATE+KEY+name+id+base64`."""
        seed = bytes([self.algorithm]) + self.private.private_bytes_raw()
        return f"{_PRIVATE}{self.name}+{self.verifier.key_id:08x}+{_base64(seed)}"

    @classmethod
    def of(cls, name: str, private: Ed25519PrivateKey, *, algorithm: Algorithm = Algorithm.ED25519) -> "SignerKey":
        """A key under a name. Raises FirewallError (MALFORMED) for a name that no note can have."""
        return cls(_name(name), algorithm, private)

    @classmethod
    def parse(cls, text: str) -> "SignerKey":
        """A key from its text; nothing of it is repeated in the error. Raises FirewallError (MALFORMED)."""
        if not text.startswith(_PRIVATE):
            raise _malformed("no private key of a note: it starts with `PRIVATE+KEY+`")
        name, digits, material = _split_key(text.removeprefix(_PRIVATE))
        key = cls(name, _algorithm(material), Ed25519PrivateKey.from_private_bytes(material[1:]))
        if digits != f"{key.verifier.key_id:08x}":
            raise _malformed(f"the id of the key `{name}` is not that of what follows it", fix="copy the key again")
        return key

    def sign(self, text: str, *, at: int = 0) -> NoteSignature:
        """Sign a note's text; a cosignature says `at`, in seconds of POSIX, and a plain signature leaves it out."""
        match self.algorithm:
            case Algorithm.ED25519:
                signature = self.private.sign(text.encode())
            case Algorithm.COSIGNATURE:
                signature = at.to_bytes(_TIMESTAMP_BYTES, "big") + self.private.sign(_cosigned(text, at=at))
            case _:
                assert_never(self.algorithm)
        return NoteSignature(self.name, self.verifier.key_id, signature)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a log says of itself (C2SP tlog-checkpoint): which log, how many entries, and the root over them."""

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The text that is signed. Raises FirewallError (MALFORMED) for what no checkpoint can say."""
        lines = (self.origin, str(self.size), _base64(self.root), *self.extensions)
        text = "".join(f"{line}\n" for line in lines)
        if Checkpoint.parse(text) != self:
            raise _malformed("an origin or an extension with a newline in it")
        return text

    @classmethod
    def parse(cls, text: str) -> "Checkpoint":
        """A checkpoint from the text of a note. Raises FirewallError (MALFORMED). Does not check: any signature."""
        _refuse_controls(text)
        *lines, end = text.split("\n")
        if end or len(lines) < 3 or not all(lines):
            raise _malformed("a checkpoint has three lines that are not empty, or more, and ends with a newline")
        origin, size, root, *extensions = lines
        return cls(origin, read_decimal(size, what="the size of a checkpoint"), read_hash(root), tuple(extensions))


@dataclass(frozen=True, slots=True)
class SignedCheckpoint:
    """A checkpoint that at least one named key signed: `signers` are those whose signatures hold."""

    checkpoint: Checkpoint
    note: Note
    signers: tuple[VerifierKey, ...]


@dataclass(frozen=True, slots=True)
class LogProof:
    """A C2SP tlog-proof: that an entry is in the log, and a checkpoint that says so. `extra` is not authenticated."""

    index: int
    hashes: tuple[bytes, ...]
    checkpoint: Note
    extra: bytes | None = None

    def serialise(self) -> bytes:
        """The proof as a file `.tlog-proof` has it."""
        lines = [_PROOF_HEADER]
        if self.extra is not None:
            lines.append(f"extra {_base64(self.extra)}")
        lines.append(f"index {self.index}")
        lines.extend(map(_base64, self.hashes))
        return "".join(f"{line}\n" for line in (*lines, "")).encode() + self.checkpoint.serialise()

    @classmethod
    def parse(cls, content: bytes) -> "LogProof":
        """A proof from its file. Raises FirewallError (MALFORMED). Does not check: the proof, or any signature."""
        head, note = split_head(content)
        lines = iter(head)
        if next(lines, None) != _PROOF_HEADER:
            raise _malformed(f"a proof that does not start with `{_PROOF_HEADER}`")
        line = next(lines, "")
        extra = None
        if line.startswith("extra "):
            extra = read_base64(line.removeprefix("extra "))
            line = next(lines, "")
        if not line.startswith("index "):
            raise _malformed("a proof without its `index`")
        index = read_decimal(line.removeprefix("index "), what="the index of a proof")
        return cls(index, read_hashes(list(lines)), note, extra)


def parse_note(content: bytes) -> Note:
    """A note from its bytes. Raises FirewallError (MALFORMED). Does not check: any signature."""
    if len(content) > NOTE_BYTES_MAX:
        raise _malformed(f"a note has at most {NOTE_BYTES_MAX} bytes")
    whole = _decoded(content)
    _refuse_controls(whole)
    # The last empty line separates: the text may have empty lines of its own.
    text, separator, below = whole.rpartition("\n\n")
    if not separator or not below.endswith("\n"):
        raise _malformed("a note without signatures", fix="a blank line stands before them, a newline after each")
    lines = below.removesuffix("\n").split("\n")
    if len(lines) > SIGNATURES_MAX:
        raise _malformed(f"a note has at most {SIGNATURES_MAX} signatures")
    return Note(f"{text}\n", tuple(map(_signature, lines)))


def parse_signatures(content: bytes) -> tuple[NoteSignature, ...]:
    """Signature lines alone, as a witness answers with them. Raises FirewallError (MALFORMED)."""
    note = parse_note(b"\n\n" + content)
    if note.text != "\n":
        raise _malformed("signature lines with something else among them")
    return note.signatures


def verify_note(note: Note, *, keys: Iterable[VerifierKey]) -> tuple[VerifierKey, ...]:
    """The keys among `keys` that signed the note; other signatures are ignored, as signed-note says.

    Raises FirewallError (INVALID_SIGNATURE) where none did, and where a signature by one of them does not hold.
    """
    known = {(key.name, key.key_id): key for key in keys}
    found: dict[tuple[str, int], VerifierKey] = {}
    for one in note.signatures:
        key = known.get((one.name, one.key_id))
        if key is None:
            continue
        if not key.verify(note.text, one):
            raise FirewallError(Kind.INVALID_SIGNATURE, f"the signature by `{one.name}` does not hold")
        found[one.name, one.key_id] = key
    if not found:
        raise FirewallError(
            Kind.INVALID_SIGNATURE,
            "no known key signed the note",
            fix=f"name the key of {_listed(note)}, if you trust it",
        )
    return tuple(found.values())


def open_checkpoint(content: bytes, *, keys: Iterable[VerifierKey]) -> SignedCheckpoint:
    """A checkpoint that one of these keys signed.

    Raises FirewallError: MALFORMED, INVALID_SIGNATURE. Does not check: whose checkpoint it is; compare the origin.
    """
    note = parse_note(content)
    signers = verify_note(note, keys=keys)
    return SignedCheckpoint(Checkpoint.parse(note.text), note, signers)


def split_head(content: bytes) -> tuple[list[str], Note]:
    """The lines before the first empty line, and the note after it: the form of a proof and of a submission.

    Raises FirewallError (MALFORMED).
    """
    head, separator, rest = content.partition(b"\n\n")
    if not separator:
        raise _malformed("an empty line is missing, with a checkpoint after it")
    text = _decoded(head)
    _refuse_controls(text)
    return text.split("\n"), parse_note(rest)


def read_decimal(text: str, *, what: str) -> int:
    """A number without sign and leading zeros, within 63 bits. Raises FirewallError (MALFORMED)."""
    # The length first, so that a million digits never become a number.
    if not (text.isascii() and text.isdigit()) or len(text) > len(str(SIZE_MAX)) or str(int(text)) != text:
        raise _malformed(f"{what} is `{text[:40]}`, which is no decimal number as it must be written")
    if int(text) > SIZE_MAX:
        raise _malformed(f"{what} is {text}, and {SIZE_MAX} is the most")
    return int(text)


def read_base64(text: str) -> bytes:
    """Bytes from padded base64, in the one way that they are written. Raises FirewallError (MALFORMED)."""
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        content = b""
    # Bits beyond the last byte would be a second way to write the same.
    if _base64(content) != text:
        raise _malformed(f"`{text[:80]}` is not base64")
    return content


def read_hash(text: str) -> bytes:
    """A hash in base64. Raises FirewallError (MALFORMED)."""
    content = read_base64(text)
    if len(content) != HASH_BYTES:
        raise _malformed(f"a hash of {len(content)} bytes, where {HASH_BYTES} are expected")
    return content


def read_hashes(lines: Sequence[str]) -> tuple[bytes, ...]:
    """The hashes of a proof, one a line. Raises FirewallError (MALFORMED)."""
    if len(lines) > PROOF_HASHES_MAX:
        raise _malformed(f"a proof has at most {PROOF_HASHES_MAX} hashes")
    return tuple(map(read_hash, lines))


def write_hashes(hashes: Iterable[bytes]) -> str:
    """The hashes of a proof, one a line, each with its newline."""
    return "".join(f"{_base64(one)}\n" for one in hashes)


def _signature(line: str) -> NoteSignature:
    name, _, encoded = line.removeprefix(_DASH).partition(" ")
    if not line.startswith(_DASH):
        raise _malformed("a line below the text is no signature", fix="a signature starts with an em dash and a space")
    content = read_base64(encoded)
    if len(content) <= _KEY_ID_BYTES:
        raise _malformed(f"the signature by `{name[:80]}` is empty")
    return NoteSignature(_name(name), int.from_bytes(content[:_KEY_ID_BYTES], "big"), content[_KEY_ID_BYTES:])


def _split_key(text: str) -> tuple[str, str, bytes]:
    """The three parts of a key's text. INVARIANT: no error repeats the last one, which may be secret."""
    parts = text.split("+", 2)
    try:
        name, digits, encoded = parts
        material = read_base64(encoded)
    except (ValueError, FirewallError):
        raise _malformed("no key of a note: that is `name+id+base64`, in one line") from None
    if len(material) != 1 + _KEY_BYTES:
        raise _malformed(f"the key `{name[:80]}` is not an Ed25519 key")
    return _name(name), digits, material


def _algorithm(material: bytes) -> Algorithm:
    try:
        return Algorithm(material[0])
    except ValueError:
        raise _malformed(
            f"a key for signatures of type {material[0]:#04x}, which are not known here",
            fix="known are 0x01 (Ed25519) and 0x04 (cosignature/v1)",
        ) from None


def _name(name: str) -> str:
    if not name or "+" in name or len(name) > NAME_CHARS_MAX or any(char.isspace() or char < " " for char in name):
        raise _malformed(
            f"`{name[:80]}` is no name of a key",
            fix="take a URL without its scheme, such as `firewall.example.com/ledger`: no spaces, no `+`",
        )
    return name


def _key_id(name: str, algorithm: Algorithm, public: Ed25519PublicKey) -> int:
    return int.from_bytes(sha256(name.encode() + b"\n" + bytes([algorithm]) + _raw(public)).digest()[:4], "big")


def _raw(public: Ed25519PublicKey) -> bytes:
    return public.public_bytes(Encoding.Raw, PublicFormat.Raw)


def _cosigned(text: str, *, at: int) -> bytes:
    """What a cosignature/v1 is of: two lines of its own before the note's text."""
    return f"cosignature/v1\ntime {at}\n{text}".encode()


def _decoded(content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise _malformed("text that is not UTF-8") from None


def _refuse_controls(text: str) -> None:
    if any(char < " " and char != "\n" for char in text):
        raise _malformed("a control character other than newline")


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _listed(note: Note) -> str:
    """Who signed, as far as the note says: a few of them."""
    return ", ".join(f"`{one.name[:80]}`" for one in note.signatures[:3])


def _malformed(detail: str, *, fix: str | None = None) -> FirewallError:
    return FirewallError(Kind.MALFORMED, detail, fix=fix)
