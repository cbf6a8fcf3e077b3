"""Who asks: the authenticated caller, as every layer above the core sees it."""

from dataclasses import dataclass, field
from enum import StrEnum

import orjson

from app.errors import FirewallError, Kind


class Role(StrEnum):
    """What a principal may do. No role contains another: an administrator who shall also vote needs both."""

    REQUESTER = "requester"  # may ask for decisions
    APPROVER = "approver"  # may vote on held mutations
    OPERATOR = "operator"  # may read health in detail and throw kill switches
    AUDITOR = "auditor"  # may read the ledger
    ADMIN = "admin"  # may manage keys and policies


class PrincipalKind(StrEnum):
    """What stands behind a principal, in the words of a mutation's subject types."""

    AGENT = "agent"
    SERVICE = "service"
    USER = "user"


class AuthMethod(StrEnum):
    """How a principal proved who it is."""

    API_KEY = "api_key"
    JWT = "jwt"
    NONE = "none"  # nothing was proved: development without authentication


@dataclass(frozen=True, slots=True)
class Principal:
    """An authenticated caller; `id` is unique within `method`, so keep both wherever principals are told apart.

    `identity` is both as a JSON array, `description` everything as a JSON object with sorted keys: written once with
    the principal and not for each of its requests.
    """

    id: str
    kind: PrincipalKind
    roles: frozenset[Role]
    method: AuthMethod
    identity: bytes = field(init=False, repr=False, compare=False)
    description: bytes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        described = {"id": self.id, "kind": self.kind, "method": self.method, "roles": sorted(self.roles)}
        object.__setattr__(self, "identity", orjson.dumps((self.method, self.id)))
        object.__setattr__(self, "description", orjson.dumps(described))


def require(principal: Principal, role: Role, *alternatives: Role) -> None:
    """Let a principal pass that has the role, or one of the alternatives.

    Raises FirewallError(FORBIDDEN) that names what is missing.
    """
    held = principal.roles
    if role in held:
        return
    for other in alternatives:
        if other in held:
            return
    needed = " or ".join(f"`{needed}`" for needed in (role, *alternatives))
    raise FirewallError(
        Kind.FORBIDDEN,
        f"role {needed} is needed",
        fix="use a credential that carries the role, or ask an administrator to grant it",
    )
