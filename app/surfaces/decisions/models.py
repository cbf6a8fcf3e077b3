"""Recorded decisions and entries of the ledger as the API document shows them."""

from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue
from pydantic.json_schema import SkipJsonSchema

from app.core.types import Effect, Mode
from app.ledger.read import RecordState
from app.ledger.receipt import EntryKind
from app.ledger.search import LIMIT_MAX
from app.policies.store import TEXT_CHARACTERS_MAX

LIMIT_DEFAULT: Final = 50

__all__ = ["LIMIT_DEFAULT", "LIMIT_MAX"]


def _without_default(schema: dict[str, Any]) -> None:
    schema.pop("default", None)


Present = TypeVar("Present")
# Left out where there is none, never null.
Left = Annotated[Present | SkipJsonSchema[None], Field(json_schema_extra=_without_default)]

Moment = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
Id = Annotated[str, Field(json_schema_extra={"format": "uuid"})]
Digest = Annotated[str, Field(pattern="^sha256:[0-9a-f]{64}$")]
Base64 = Annotated[str, Field(json_schema_extra={"contentEncoding": "base64"})]
Index = Annotated[int, Field(ge=0)]


class _Wire(BaseModel):
    model_config = ConfigDict(extra="forbid")


class EntityOut(_Wire):
    """A subject or a resource."""

    type: str
    id: str


class FoundOut(_Wire):
    """A decision as a search lists it."""

    id: Id
    ledger_index: Index
    recorded_at: Moment
    subject: EntityOut
    action: str
    resource: EntityOut
    decision: Effect
    mode: Mode
    policy: str = Field(description="of the reason that decided")
    rule: str


class FoundPageOut(_Wire):
    """A page of a search, the newest first."""

    items: list[FoundOut]
    next: Left[str] = Field(default=None, description="`cursor` of the page after; left out where there is none")
    indexed: Index = Field(description="how many entries of the ledger were searched; a new one follows in a second")


class ErasureOut(_Wire):
    """That the record was erased."""

    at: Moment
    by: str
    reason: str
    ledger_id: Id = Field(description="the entry that says so")
    ledger_index: Index


class LinksOut(_Wire):
    """Where more of it is."""

    entry: str
    proof: str


class RecordedDecisionOut(_Wire):
    """A decision as it was recorded."""

    id: Id
    decision: Effect
    mode: Mode
    policy: str = Field(description="of the reason that decided")
    rule: str
    reasons: Left[list[dict[str, JsonValue]]] = Field(
        default=None, description="the deciding reason first; left out where there is no record any more"
    )
    policy_set: Digest
    mutation_digest: Digest
    ledger_index: Index
    receipt_hash: Digest = Field(description="RFC 9162 leaf hash")
    decided_at: Moment
    recorded_at: Moment
    receipt: dict[str, JsonValue] = Field(description="what the ledger keeps for ever")
    record_state: RecordState
    record: Left[dict[str, JsonValue]] = Field(default=None, description="left out where it is not there any more")
    salt: Left[Base64] = Field(default=None, description="of the record; for callers with `ledger:read`")
    erasure: Left[ErasureOut] = Field(default=None, description="left out where nothing was erased")
    links: LinksOut


class InclusionOut(_Wire):
    """That an entry is in the tree (RFC 9162 section 2.1.3)."""

    index: Index
    size: Annotated[int, Field(ge=1, description="of the tree")]
    leaf_hash: Base64
    root: Base64
    hashes: list[Base64] = Field(description="from the sibling of the leaf up")
    checkpoint: Left[str] = Field(
        default=None, description="the signed note of this size, with cosignatures; left out where none is kept"
    )


class ConsistencyOut(_Wire):
    """That a tree begins with a smaller one (RFC 9162 section 2.1.4)."""

    from_size: Index
    to_size: Index
    from_root: Base64
    to_root: Base64
    hashes: list[Base64]
    checkpoint: Left[str] = Field(
        default=None, description="the signed note of `to_size`, with cosignatures; left out where none is kept"
    )


class SignatureOut(_Wire):
    """One signature of an envelope."""

    keyid: str = Field(description="name and id of the ledger's key, as in its checkpoints")
    sig: Base64


class EnvelopeOut(_Wire):
    """A DSSE envelope with an in-toto statement; docs/ledger.md describes the predicate."""

    payload: Base64
    payloadType: Literal["application/vnd.in-toto+json"]  # noqa: N815 - the standard's name
    signatures: list[SignatureOut] = Field(min_length=1)


class BytesOut(_Wire):
    """The very bytes that the digests are of."""

    receipt: Base64
    record: Left[Base64] = Field(default=None, description="left out where it is not there any more")


class EntryOut(_Wire):
    """An entry of the ledger, with all that it is verified with."""

    index: Index
    id: Id
    kind: EntryKind
    recorded_at: Moment
    leaf_hash: Digest = Field(description="RFC 9162 section 2.1.1, of the receipt's bytes")
    receipt: dict[str, JsonValue]
    record_state: RecordState
    record: Left[dict[str, JsonValue]] = Field(default=None, description="left out where it is not there any more")
    salt: Left[Base64] = Field(default=None, description="left out with the record")
    erasure: Left[ErasureOut] = Field(default=None, description="left out where nothing was erased")
    bytes: BytesOut


class ErasureIn(_Wire):
    """A record to erase."""

    id: Id = Field(description="of the entry, which for a decision is that of the decision")
    reason: str = Field(min_length=1, max_length=TEXT_CHARACTERS_MAX, pattern=r"\S", description="for the ledger")


class ErasedOut(_Wire):
    """A record that is erased."""

    id: Id
    ledger_index: Index
    record_state: Literal[RecordState.ERASED]
    erasure: ErasureOut


EXAMPLE_ERASURE: Final[dict[str, Any]] = {
    "id": "01980c3e-6f2a-7c11-9d0e-3a5b1c2d4e5f",
    "reason": "request 4711 of a data subject, article 17",
}
