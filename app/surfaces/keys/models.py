"""The surface of API keys as the API document shows it."""

from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field

from app.core.principal import AccessScope, Role
from app.persistence.api_keys import NAME_CHARACTERS_MAX, PATTERNS_MAX
from app.policies.store import TEXT_CHARACTERS_MAX

# Of a page; a key is listed in some 400 bytes.
LIMIT_MAX: Final = 200
LIMIT_DEFAULT: Final = 50
DAYS_MAX: Final = 3650
GRACE_HOURS_MAX: Final = 720
GRACE_HOURS_DEFAULT: Final = 24

Moment = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
Id = Annotated[str, Field(json_schema_extra={"format": "uuid"})]
Name = Annotated[str, Field(min_length=1, max_length=NAME_CHARACTERS_MAX)]
Reason = Annotated[
    str, Field(min_length=1, max_length=TEXT_CHARACTERS_MAX, pattern=r"\S", description="for the ledger")
]


class _Wire(BaseModel):
    model_config = ConfigDict(extra="forbid")


class KeyIn(_Wire):
    """A key to make. It needs a role or a scope."""

    name: Name
    principal_id: Name = Field(default="", description="who asks with it; the name if left out")
    roles: list[Role] = Field(default_factory=list)
    scopes: list[AccessScope] = Field(default_factory=list, description="beside those of the roles")
    subjects: list[str] = Field(
        default_factory=list,
        max_length=PATTERNS_MAX,
        description="whom it may speak for, as `TYPE:ID` with `*` and `?`; anybody if left out",
    )
    networks: list[str] = Field(
        default_factory=list, max_length=PATTERNS_MAX, description="where it may be used from; anywhere if left out"
    )
    expires_in_days: int = Field(default=1, ge=1, le=DAYS_MAX, description="no end if left out")
    reason: Reason


class RotateIn(_Wire):
    """Why, and for how long the old key still works."""

    reason: Reason
    grace_hours: int = Field(default=GRACE_HOURS_DEFAULT, ge=0, le=GRACE_HOURS_MAX)


class KeyOut(_Wire):
    """A key as it is known: not its text, not its hash."""

    id: Id
    name: str
    principal_id: str
    roles: list[Role]
    scopes: list[AccessScope] = Field(description="beside those of the roles")
    subjects: list[str]
    networks: list[str]
    created_at: Moment
    expires_at: Moment = Field(default="", description="left out where it has no end")
    revoked_at: Moment = Field(default="", description="left out where it is not revoked")
    last_used_at: Moment = Field(default="", description="to the minute; left out where it was never used")
    replaces: Id = Field(default="", description="the key that it was rotated from")


class NewKeyOut(KeyOut):
    """A key at the only moment when its text is known."""

    key: str = Field(description="the key itself, this once", pattern="^mfw_[0-9A-Za-z]{49}$")


class RotatedKeyOut(NewKeyOut):
    """The new key, and the old one with its end."""

    replaced: KeyOut


class KeysOut(_Wire):
    """A page of keys, oldest first."""

    items: list[KeyOut]
    next: Id = Field(default="", description="pass it as `after` for the next page; left out on the last one")


EXAMPLE_KEY: Final[dict[str, Any]] = {
    "name": "deploy bots of team checkout",
    "roles": ["agent"],
    "subjects": ["agent:checkout-*"],
    "networks": ["10.20.0.0/16"],
    "expires_in_days": 90,
    "reason": "ticket 4711",
}
EXAMPLE_ROTATION: Final[dict[str, Any]] = {"reason": "every quarter", "grace_hours": 48}
