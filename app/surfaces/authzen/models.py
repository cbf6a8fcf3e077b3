"""The AuthZEN surface as the API document shows it; requests are read by `wire.py`, never by these."""

from collections.abc import Mapping
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from app.service.search import Wanted
from app.surfaces.authzen.wire import MAX_EVALUATIONS, PAGE_DEFAULT, PAGE_MAX, Semantic
from app.surfaces.parties import MAX_ID_CHARS

_Text = Annotated[str, Field(min_length=1, max_length=MAX_ID_CHARS)]
_Object = dict[str, JsonValue]


class _Wire(BaseModel):
    # Section 5: members that nobody knows are passed over.
    model_config = ConfigDict(extra="allow")


class Entity(_Wire):
    """A subject or a resource."""

    type: _Text
    id: _Text
    properties: _Object = Field(default_factory=dict)


class Action(_Wire):
    """What is done."""

    name: _Text
    properties: _Object = Field(default_factory=dict)


class EvaluationIn(_Wire):
    """Section 6.1. `context.change` says what would be different, with the members that `/v1/decisions` has;
    `context.fulfils` lists the keys of the obligations that the enforcement point meets.
    """

    subject: Entity
    action: Action
    resource: Entity
    context: _Object = Field(default_factory=dict)


class Options(_Wire):
    """Section 7.1.2."""

    evaluations_semantic: Semantic = Semantic.EXECUTE_ALL


class EvaluationsIn(_Wire):
    """Section 7.1; without `evaluations` it is a single one."""

    evaluations: list[_Object] = Field(default_factory=list, max_length=MAX_EVALUATIONS)
    options: Options = Field(default_factory=Options)
    context: _Object = Field(default_factory=dict)


class EvaluationOut(BaseModel):
    """Section 5.5."""

    decision: bool = Field(description="true for an allow of which `context.fulfils` names all obligations")
    context: _Object = Field(
        default_factory=dict,
        description="`effect`, `reasons`, `evaluation_id` and the other members of a decision; `access_request` for a "
        "hold; `unmet` for an allow under obligations that nobody meets; `error` for what could not be decided",
    )


class EvaluationsOut(BaseModel):
    """Section 7.2."""

    evaluations: list[EvaluationOut]


class Page(_Wire):
    """Section 8.2.1."""

    token: str = Field(default="", description="`next_token` of the page before")
    limit: int = Field(default=PAGE_DEFAULT, ge=0, description=f"{PAGE_MAX} at most are given")


class SearchIn(_Wire):
    """Sections 8.4 to 8.6: all but what is looked for, of which the type is enough."""

    subject: _Object
    resource: _Object
    context: _Object = Field(default_factory=dict)
    page: Page = Field(default_factory=Page)


class PageOut(BaseModel):
    """Section 8.2.2."""

    next_token: str = Field(description="empty on the last page")
    count: int = Field(ge=0)


class FoundOut(BaseModel):
    """Section 8.3."""

    page: PageOut
    results: list[dict[str, str]]


class MetadataOut(BaseModel):
    """Section 9.1."""

    policy_decision_point: str
    access_evaluation_endpoint: str
    access_evaluations_endpoint: str
    search_subject_endpoint: str
    search_resource_endpoint: str
    search_action_endpoint: str
    signed_metadata: str | None = Field(
        default=None, description="all of the others and `iss` as a JWT (EdDSA); absent without a signing key"
    )


EXAMPLE_EVALUATION: Final[dict[str, Any]] = {
    "subject": {"type": "agent", "id": "deploy-bot"},
    "action": {"name": "update"},
    "resource": {"type": "apps/Deployment", "id": "prod/checkout"},
    "context": {"change": {"before": {"spec": {"replicas": 3}}, "after": {"spec": {"replicas": 5}}}},
}
EXAMPLE_EVALUATIONS: Final[dict[str, Any]] = {
    **EXAMPLE_EVALUATION,
    "evaluations": [{"resource": {"type": "apps/Deployment", "id": "prod/cart"}}, {}],
    "options": {"evaluations_semantic": "execute_all"},
}
EXAMPLES: Final[Mapping[Wanted, dict[str, Any]]] = {
    Wanted.SUBJECT: {**EXAMPLE_EVALUATION, "subject": {"type": "agent"}},
    Wanted.RESOURCE: {**EXAMPLE_EVALUATION, "resource": {"type": "apps/Deployment"}},
    Wanted.ACTION: {name: value for name, value in EXAMPLE_EVALUATION.items() if name != "action"},
}
