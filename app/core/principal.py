"""Who asks: the authenticated caller, as every layer above the core sees it."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

import orjson

from app.core.glob import Glob, compile_glob
from app.core.types import JsonObject
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


class Binding(Protocol):
    """Whom a principal may speak for. Never raises: doubt is no."""

    def permits(self, subject: JsonObject) -> bool:
        """Tell whether a mutation may have this subject (`{type, id, properties}`)."""


@dataclass(frozen=True, slots=True)
class SubjectPatterns:
    """The subjects whose type and id fit one of these pairs of globs."""

    patterns: tuple[tuple[Glob, Glob], ...]

    def permits(self, subject: JsonObject) -> bool:
        """Tell whether a mutation may have this subject."""
        return any(
            of_type.matches(subject["type"]) and of_id.matches(subject["id"]) for of_type, of_id in self.patterns
        )


def subject_patterns(texts: Iterable[str]) -> SubjectPatterns:
    """Read patterns written `TYPE:ID`, such as `agent:deploy-*`. Raises ValueError that says what is wrong."""
    patterns: list[tuple[Glob, Glob]] = []
    for text in texts:
        of_type, colon, of_id = text.partition(":")
        if not colon:
            raise ValueError(f"`{text[:80]}` is not `TYPE:ID`, such as `agent:deploy-*`")
        patterns.append((compile_glob(of_type), compile_glob(of_id)))
    return SubjectPatterns(tuple(patterns))


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
    # None: may speak for every subject, as a gateway in front of many agents does.
    binding: Binding | None = field(default=None, repr=False, compare=False)
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


def require_subject(principal: Principal, subject: JsonObject) -> None:
    """Let a principal speak for a subject that it is bound to, or for any if it is bound to none.

    Raises FirewallError(FORBIDDEN).
    """
    if principal.binding is not None and not principal.binding.permits(subject):
        raise FirewallError(
            Kind.FORBIDDEN,
            f"this credential may not speak for the {subject['type'][:80]} `{subject['id'][:200]}`",
            pointer="/subject",
            fix="ask as the subject that the credential is bound to, or use the credential of that subject",
        )
