"""What a witness is asked and how it judges (C2SP tlog-witness): it cosigns only what continues all that it saw.

(1) parse the submission            else MALFORMED
(2) know the log by its origin      else UNKNOWN_LOG
(3) verify the log's signature      else UNSIGNED
(4) old size within the new one     else MALFORMED
(5) old size is what was cosigned   else OTHER_SIZE
(6) at the same size, one root      else FORKED
(7) consistent                      else INCONSISTENT
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from app.core import merkle
from app.core.notes import (
    NOTE_BYTES_MAX,
    Algorithm,
    Checkpoint,
    Note,
    VerifierKey,
    read_decimal,
    read_hashes,
    split_head,
    verify_note,
    write_hashes,
)
from app.errors import FirewallError, Kind

ADD_CHECKPOINT: Final = "/add-checkpoint"
# What a 409 has: the size that the witness cosigned last, in decimal, and a newline.
SIZE_MEDIA_TYPE: Final = "text/x.tlog.size"
# A note, the old size, and 63 hashes of 45 characters each.
SUBMISSION_BYTES_MAX: Final = NOTE_BYTES_MAX + 4096


@dataclass(frozen=True, slots=True)
class WitnessAddress:
    """A witness that cosigns for us: its key, and the prefix of its URLs without a slash at the end."""

    key: VerifierKey
    url: str

    @classmethod
    def parse(cls, text: str) -> "WitnessAddress":
        """A witness from `VKEY URL`. Raises FirewallError (MALFORMED)."""
        written, _, url = text.strip().partition(" ")
        key = VerifierKey.parse(written)
        if key.algorithm is not Algorithm.COSIGNATURE:
            raise FirewallError(
                Kind.MALFORMED,
                f"`{key.name}` is a log's key, not a witness'",
                fix="name the key that cosigns (type 0x04)",
            )
        url = url.strip()
        host = url.removeprefix("https://").removeprefix("http://")
        if host == url or not host.strip("/") or not url.isprintable() or " " in url or "#" in url or "?" in url:
            raise FirewallError(
                Kind.MALFORMED,
                f"`{url[:80]}` is no address of the witness `{key.name}`",
                fix="write `VKEY https://...`",
            )
        return cls(key, url.rstrip("/"))


class Outcome(StrEnum):
    """What a witness says to a submission."""

    COSIGNED = "cosigned"
    MALFORMED = "malformed"
    UNKNOWN_LOG = "unknown-log"
    UNSIGNED = "unsigned"
    OTHER_SIZE = "other-size"
    FORKED = "forked"
    INCONSISTENT = "inconsistent"


@dataclass(frozen=True, slots=True)
class Submission:
    """A checkpoint, and the proof that the tree of the `old` size is its beginning."""

    old: int
    proof: tuple[bytes, ...]
    checkpoint: Note

    def serialise(self) -> bytes:
        """The submission as it is sent."""
        return f"old {self.old}\n{write_hashes(self.proof)}\n".encode() + self.checkpoint.serialise()

    @property
    def claim(self) -> Checkpoint:
        """What the checkpoint says. Raises FirewallError (MALFORMED)."""
        return Checkpoint.parse(self.checkpoint.text)

    @classmethod
    def parse(cls, content: bytes) -> "Submission":
        """A submission from its bytes. Raises FirewallError (MALFORMED). Does not check: signature or proof."""
        (first, *hashes), note = split_head(content)
        if not first.startswith("old "):
            raise FirewallError(Kind.MALFORMED, "a submission without its `old` size")
        return cls(read_decimal(first.removeprefix("old "), what="the old size"), read_hashes(hashes), note)


@dataclass(frozen=True, slots=True)
class Judgement:
    """The outcome, why, and the checkpoint as far as it could be read; only what was COSIGNED may be signed."""

    outcome: Outcome
    detail: str
    checkpoint: Checkpoint | None = None


def judge(submission: Submission, *, logs: Mapping[str, Sequence[VerifierKey]], latest: Checkpoint | None) -> Judgement:
    """Steps 2 to 7 for a submission that was read; `latest` is what was cosigned last for its origin.

    Never raises: doubt is a refusal. Does not check: that `latest` is still the latest; hold a lock until it is kept.
    """
    try:
        checkpoint = submission.claim
    except FirewallError as error:
        return Judgement(Outcome.MALFORMED, error.detail)
    keys = logs.get(checkpoint.origin)
    if keys is None:
        return Judgement(Outcome.UNKNOWN_LOG, "this witness does not know the log", checkpoint)
    try:
        verify_note(submission.checkpoint, keys=keys)
    except FirewallError as error:
        return Judgement(Outcome.UNSIGNED, error.detail, checkpoint)
    old, size = submission.old, checkpoint.size
    if old > size:
        return Judgement(Outcome.MALFORMED, f"the old size {old} is larger than the new one, {size}", checkpoint)
    seen, root = (0, merkle.EMPTY_ROOT) if latest is None else (latest.size, latest.root)
    if old != seen:
        return Judgement(Outcome.OTHER_SIZE, f"the old size is {old}, and {seen} was cosigned last", checkpoint)
    if size == seen and checkpoint.root != root:
        return Judgement(Outcome.FORKED, f"two roots of {size} entries are signed by the log", checkpoint)
    try:
        merkle.verify_consistency(seen, root, size, checkpoint.root, submission.proof)
    except FirewallError as error:
        return Judgement(Outcome.INCONSISTENT, error.detail, checkpoint)
    return Judgement(Outcome.COSIGNED, "", checkpoint)
