"""The native surface as the API document shows it; requests are read by `wire.py`, never by these."""

from typing import Annotated, Any, Final, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue
from pydantic.json_schema import SkipJsonSchema

from app.core.batch import BatchMode
from app.core.manifest import ArtefactKind
from app.core.statements import MAX_TEXT, SqlDialect
from app.core.types import Effect, Mode, Outcome
from app.surfaces.native.wire import MAX_BATCH, MAX_RATIONALE_CHARS
from app.surfaces.openapi import Problem
from app.surfaces.parties import MAX_ID_CHARS


def _without_default(schema: dict[str, Any]) -> None:
    schema.pop("default", None)


Present = TypeVar("Present")
# May be left out, which is None to Python; but `null` is not what is sent then, and the document must not say so.
Left = Annotated[Present | SkipJsonSchema[None], Field(json_schema_extra=_without_default)]

Digest = Annotated[str, Field(pattern="^sha256:[0-9a-f]{64}$")]


class _Wire(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Subject(_Wire):
    """Who wants the change."""

    type: str = Field(min_length=1, max_length=MAX_ID_CHARS, examples=["agent"])
    id: str = Field(min_length=1, max_length=MAX_ID_CHARS, examples=["deploy-bot"])
    properties: dict[str, JsonValue] = Field(default_factory=dict, description="model, owner, on_behalf_of, session")


class Action(_Wire):
    """What is done."""

    name: str = Field(min_length=1, max_length=MAX_ID_CHARS, examples=["update"])
    properties: dict[str, JsonValue] = Field(default_factory=dict)


class Resource(_Wire):
    """To what."""

    type: str = Field(min_length=1, max_length=MAX_ID_CHARS, examples=["apps/Deployment"])
    id: str = Field(min_length=1, max_length=MAX_ID_CHARS, examples=["prod/checkout"])
    properties: dict[str, JsonValue] = Field(default_factory=dict)


class Statement(_Wire):
    """SQL."""

    dialect: SqlDialect
    text: str = Field(min_length=1, max_length=MAX_TEXT)


class Artifact(_Wire):
    """One file of a manifest."""

    name: str = Field(min_length=1)
    digest: Digest


class Evaluation(_Wire):
    """One metric before and after."""

    suite: str = Field(min_length=1)
    metric: str = Field(min_length=1)
    base: float
    target: float
    higher_is_better: bool = True
    safety: bool = Field(default=False, description="whether a regression is one of safety")


class Manifest(_Wire):
    """A model, prompt, tool, memory, policy or data set, by digest, with the evidence of its evaluation."""

    kind: ArtefactKind
    target_digest: Digest
    base_digest: Left[Digest] = None
    artifacts: list[Artifact] = Field(default_factory=list)
    evaluations: list[Evaluation] = Field(default_factory=list)


class Change(_Wire):
    """What would be different: at least one member; `before` alone for the action `delete` only."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"minProperties": 1})

    before: JsonValue = Field(default=None, description="null is nothing", json_schema_extra=_without_default)
    after: JsonValue = Field(default=None, description="null is nothing", json_schema_extra=_without_default)
    patch: list[dict[str, JsonValue]] = Field(default_factory=list, description="JSON Patch, RFC 6902")
    diff: Left[str] = Field(default=None, min_length=1, description="a unified diff")
    statement: Left[Statement] = None
    manifest: Left[Manifest] = None


class DecisionRequest(_Wire):
    """A mutation: who wants to change what, how."""

    subject: Subject
    action: Action
    resource: Resource
    change: Change
    context: dict[str, JsonValue] = Field(default_factory=dict)
    request_id: Left[str] = Field(default=None, min_length=1, max_length=MAX_ID_CHARS)
    rationale: Left[str] = Field(default=None, min_length=1, max_length=MAX_RATIONALE_CHARS)


class ClauseOut(_Wire):
    """The part of an expression that decided, and what it saw."""

    path: str = Field(description="where the expression stands: in its rule, as `when`, or in the `spec` of its policy")
    text: str = Field(description="the part, at most 200 characters; `always` for a rule without a condition")
    line: int = Field(ge=0, description="of the part in its expression, from 1")
    column: int = Field(ge=0)
    outcome: Outcome = Field(description="what the part said; `false` where the rule asks for its opposite")
    values: dict[str, JsonValue] = Field(description="what it read, by path; secrets masked, long values cut short")


class ReasonOut(_Wire):
    """One rule that spoke."""

    policy: str
    rule: str
    effect: Effect
    mode: Mode
    message: str
    binding: Left[str] = Field(default=None, description="of a ValidatingAdmissionPolicy")
    clause: Left[ClauseOut] = Field(default=None, description="in the reasons of a deny or a hold")
    exception: Left[str] = Field(default=None, description="the exception that lifted it: it did not count")


class BudgetOut(_Wire):
    """One budget that this mutation would use: at most `limit` uses, or different values, in the last `window`."""

    policy: str
    budget: str
    used: int = Field(ge=0, description="before this mutation")
    limit: int = Field(ge=1)
    window: str


class ObligationOut(_Wire):
    """What has to be done as well, because a rule that won says so."""

    policy: str
    rule: str
    key: str
    value: JsonValue


class DecisionOut(_Wire):
    """A decision that is in the ledger."""

    id: str = Field(description="UUIDv7", json_schema_extra={"format": "uuid"})
    decision: Effect
    reasons: list[ReasonOut] = Field(min_length=1, description="the deciding reason first")
    policy_set: Digest
    mutation_digest: Digest
    ledger_index: int = Field(ge=0)
    receipt_hash: Digest = Field(description="RFC 9162 leaf hash")
    decided_at: str = Field(json_schema_extra={"format": "date-time"})
    approval: Left[dict[str, JsonValue]] = Field(default=None, description="what lifts a hold")
    budgets: Left[list[BudgetOut]] = Field(default=None, description="budgets that had a say; left out without any")
    obligations: Left[list[ObligationOut]] = Field(
        default=None, min_length=1, description="whoever carries an allow out has to meet all of them, or leave it"
    )
    warnings: Left[list[str]] = Field(default=None, description="what admission policies warn of")
    annotations: Left[dict[str, str]] = Field(default=None, description="what admission policies note for the audit")
    request_id: Left[str] = None


class BatchRequest(_Wire):
    """Mutations that are asked about at once."""

    mutations: list[DecisionRequest] = Field(min_length=1, max_length=MAX_BATCH)
    mode: BatchMode = Field(
        default=BatchMode.EACH, description="`each` is answered for itself; `atomic` allows all of them or none"
    )


class BatchDecisionOut(DecisionOut):
    """What was decided about one mutation of the batch."""

    index: int = Field(ge=0, description="of the mutation in the batch")


class BatchProblemOut(Problem):
    """Why one mutation of the batch was not decided."""

    index: int = Field(ge=0, description="of the mutation in the batch")


class BatchSummary(_Wire):
    """How many mutations had which answer."""

    allow: int = Field(ge=0)
    deny: int = Field(ge=0)
    hold: int = Field(ge=0)
    refused: int = Field(ge=0, description="not decided: a problem says why")


class BatchOut(_Wire):
    """The answers in the order of the mutations."""

    results: list[BatchDecisionOut | BatchProblemOut] = Field(min_length=1)
    summary: BatchSummary


EXAMPLE_REQUEST: Final[dict[str, Any]] = {
    "subject": {"type": "agent", "id": "deploy-bot", "properties": {"owner": "team-checkout"}},
    "action": {"name": "update"},
    "resource": {"type": "apps/Deployment", "id": "prod/checkout", "properties": {"environment": "production"}},
    "change": {"before": {"spec": {"replicas": 3}}, "after": {"spec": {"replicas": 5}}},
    "rationale": "traffic is up by half",
}

EXAMPLE_DECISION: Final[dict[str, Any]] = {
    "id": "01980c3e-6f2a-7c11-9d0e-3a5b1c2d4e5f",
    "decision": "allow",
    "reasons": [
        {
            "policy": "prod-replicas",
            "rule": "small-growth",
            "effect": "allow",
            "mode": "enforce",
            "message": "adds 2 replicas in production",
        }
    ],
    "policy_set": "sha256:" + "1f" * 32,
    "mutation_digest": "sha256:" + "2e" * 32,
    "ledger_index": 41,
    "receipt_hash": "sha256:" + "3d" * 32,
    "decided_at": "2026-01-31T09:30:00.000000Z",
}
