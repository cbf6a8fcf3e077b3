"""The surface of kill switches as the API document shows it."""

from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field

from app.core.switches import SwitchKind
from app.policies.store import TEXT_CHARACTERS_MAX
from app.service.switch import TARGET_CHARACTERS_MAX

LIMIT_MAX: Final = 500
LIMIT_DEFAULT: Final = 100

Moment = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
Identifier = Annotated[str, Field(json_schema_extra={"format": "uuid"})]


class _Wire(BaseModel):
    model_config = ConfigDict(extra="forbid")


class SwitchIn(_Wire):
    """A switch to throw."""

    kind: SwitchKind
    target: str = Field(
        default="",
        max_length=TARGET_CHARACTERS_MAX,
        description="for `deny-subject` the id of the subject, of whatever type; for `shadow` the name of the policy",
    )
    reason: str = Field(min_length=1, max_length=TEXT_CHARACTERS_MAX, pattern=r"\S")
    for_: str = Field(
        default="",
        alias="for",
        pattern="^([0-9]{1,6}h)?([0-9]{1,6}m)?([0-9]{1,8}s)?$",
        description="until it ends by itself, such as `1h`; required for `shadow`, at most `24h`",
    )


class SwitchOut(_Wire):
    """A switch that was thrown."""

    id: Identifier = Field(description="also that of its entry in the ledger")
    kind: SwitchKind
    target: str = Field(default="", description="left out for the kinds without one")
    in_force: bool
    until: Moment = Field(default="", description="left out where it holds until it is ended")
    reason: str
    thrown_by: str
    thrown_at: Moment
    ledger_index: int = Field(ge=0)
    ended_at: Moment = Field(default="", description="this and the next ones only where somebody ended it")
    ended_by: str = ""
    end_reason: str = ""
    end_ledger_index: int = Field(default=0, ge=0)


class SwitchesOut(_Wire):
    """Switches, the latest first."""

    items: list[SwitchOut]


EXAMPLE_SWITCH: Final[dict[str, Any]] = {
    "kind": "deny-subject",
    "target": "deploy-bot",
    "reason": "deletes what it should not: incident 4711",
    "for": "1h",
}
