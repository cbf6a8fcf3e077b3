"""Answers to gateways as the API document shows them."""

from pydantic import BaseModel, Field, JsonValue


class GatewayReason(BaseModel):
    """A rule that spoke."""

    policy: str
    rule: str
    effect: str
    message: str


class Refused(BaseModel):
    """Why a gateway does not let a request through (RFC 9457): a deny, a hold, or that nothing was decided."""

    type: str = Field(json_schema_extra={"format": "uri"}, description="ends with `denied`, `held`, or a kind of error")
    title: str
    status: int
    detail: str
    request_id: str = ""
    pointer: str = ""
    fix: str = ""
    retry_after: int = Field(default=1, ge=1)
    decision: str = Field(default="", description="`deny` or `hold`; left out where nothing was decided")
    decision_id: str = ""
    ledger_index: int = 0
    reasons: list[GatewayReason] = Field(default_factory=list)
    approval: dict[str, JsonValue] = Field(default_factory=dict, description="who has to agree, for a hold")
