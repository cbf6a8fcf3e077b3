"""The webhook receiver as the API document shows it; deliveries are read by `wire.py`, never by these."""

from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field


class DeliveryIn(BaseModel):
    """A delivery as GitHub's documentation of webhook events describes it; far more than this is in it."""

    model_config = ConfigDict(extra="allow")

    action: str | None = None
    installation: dict[str, Any] | None = None
    repository: dict[str, Any] | None = None
    sender: dict[str, Any] | None = None


class RecordedDecision(BaseModel):
    """The decision, which is in the ledger."""

    id: str = Field(json_schema_extra={"format": "uuid"})
    decision: Literal["allow", "deny", "hold"]
    ledger_index: int = Field(ge=0)
    mutation_digest: str
    policy_set: str
    decided_at: str = Field(json_schema_extra={"format": "date-time"})


class Annotation(BaseModel):
    """A mark on a file."""

    path: str
    start_line: int
    end_line: int
    annotation_level: Literal["warning", "failure"]
    title: str
    message: str


class Report(BaseModel):
    """What GitHub was told."""

    conclusion: Literal["success", "failure", "action_required"] = Field(description="of the check run")
    state: Literal["approved", "rejected"] | None = Field(description="of the deployment; null while it waits")
    status: Literal["success", "failure", "pending", "error"] = Field(description="of the commit, without an App")
    external_id: str
    title: str
    summary: str
    comment: str
    annotations: list[Annotation]


class DeliveryOut(BaseModel):
    """What became of a delivery; GitHub keeps it beside the delivery."""

    delivery: str
    event: str
    outcome: Literal["decided", "nothing to decide"]
    decision: RecordedDecision = Field(default=None, description="where something was decided")  # type: ignore[assignment]  # absent, never null
    report: Report = Field(default=None, description="where something was decided")  # type: ignore[assignment]  # absent, never null


def _header(name: str, description: str, example: str) -> dict[str, Any]:
    return {
        "name": name,
        "in": "header",
        "required": True,
        "description": description,
        "schema": {"type": "string"},
        "example": example,
    }


PARAMETERS: Final = [
    _header("X-GitHub-Event", "what happened", "pull_request"),
    _header("X-GitHub-Delivery", "the same for what is delivered again", "72d3162e-cc78-11e3-81ab-4c9367dc0958"),
]

EXAMPLE: Final[dict[str, Any]] = {
    "action": "opened",
    "number": 2,
    "pull_request": {
        "number": 2,
        "title": "Say where the configuration lies",
        "user": {"login": "octo-agent[bot]", "type": "Bot"},
        "head": {
            "ref": "docs",
            "sha": "ec26c3e57ca3a959ca5aad62de7213c562f8c821",
            "repo": {"full_name": "octo-org/octo-repo"},
        },
        "base": {
            "ref": "main",
            "sha": "f95f852bd8fca8fcc58a9a2d6c842781e32a215e",
            "repo": {"full_name": "octo-org/octo-repo"},
        },
        "draft": False,
        "additions": 1,
        "deletions": 1,
        "changed_files": 1,
        "updated_at": "2026-11-22T10:00:00Z",
    },
    "repository": {"full_name": "octo-org/octo-repo"},
    "sender": {"login": "octo-agent[bot]", "type": "Bot"},
    "installation": {"id": 5},
}
