"""Who asks: the authenticated caller, as every layer above the core sees it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

import orjson

from app.core.glob import Glob, compile_glob
from app.core.types import JsonObject
from app.errors import FirewallError, Kind


class AccessScope(StrEnum):
    """One thing that a principal may do. Every route needs one of these; who has none may do nothing."""

    DECIDE = "decide"  # ask for decisions
    READ = "read"  # read policy sets and decisions
    APPROVE = "approve"  # vote on held mutations
    POLICY_WRITE = "policy:write"  # publish policy sets
    POLICY_ACTIVATE = "policy:activate"  # bring one into force
    LEDGER_READ = "ledger:read"  # read the ledger and its proofs
    LEDGER_ERASE = "ledger:erase"  # erase the records that the law says must go
    KEYS_ADMIN = "keys:admin"  # make and revoke API keys
    OPS = "ops"  # read health in detail and throw kill switches


class Role(StrEnum):
    """Scopes under one name. An administrator who shall also vote, or ask, needs that role as well."""

    VIEWER = "viewer"
    AGENT = "agent"
    APPROVER = "approver"
    AUTHOR = "author"
    OPERATOR = "operator"
    ADMIN = "admin"


SCOPES_OF: Mapping[Role, frozenset[AccessScope]] = {
    Role.VIEWER: frozenset({AccessScope.READ, AccessScope.LEDGER_READ}),
    # Not `read`: who knows the policies can look for a way past them.
    Role.AGENT: frozenset({AccessScope.DECIDE}),
    Role.APPROVER: frozenset({AccessScope.APPROVE, AccessScope.READ}),
    Role.AUTHOR: frozenset({AccessScope.POLICY_WRITE, AccessScope.READ}),
    Role.OPERATOR: frozenset({AccessScope.OPS, AccessScope.READ, AccessScope.LEDGER_READ}),
    Role.ADMIN: frozenset(AccessScope) - {AccessScope.DECIDE, AccessScope.APPROVE},
}


# The names of two roles before they were grouped by scopes; keys and identity providers may still have them.
_FORMER_NAMES: Mapping[str, Role] = {"requester": Role.AGENT, "auditor": Role.VIEWER}
_ROLES: Mapping[str, Role] = {**{role.value: role for role in Role}, **_FORMER_NAMES}


def roles_named(names: Iterable[object]) -> frozenset[Role]:
    """The roles among names; an identity provider, or a later release, has names that mean nothing here."""
    return frozenset(_ROLES[name] for name in names if isinstance(name, str) and name in _ROLES)


_SCOPES: Mapping[str, AccessScope] = {scope.value: scope for scope in AccessScope}


def scopes_named(names: Iterable[object]) -> frozenset[AccessScope]:
    """The scopes among names; those of a later release mean nothing here."""
    return frozenset(_SCOPES[name] for name in names if isinstance(name, str) and name in _SCOPES)


def scopes_of(roles: Iterable[Role], scopes: Iterable[AccessScope] = ()) -> frozenset[AccessScope]:
    """Everything that roles, and scopes beside them, permit."""
    return frozenset(scopes).union(*(SCOPES_OF[role] for role in roles))


class PrincipalKind(StrEnum):
    """What stands behind a principal, in the words of a mutation's subject types."""

    AGENT = "agent"
    SERVICE = "service"
    USER = "user"


class AuthMethod(StrEnum):
    """How a principal proved who it is."""

    API_KEY = "api_key"
    JWT = "jwt"
    MTLS = "mtls"  # a client certificate that a proxy in front of us verified
    SIGNATURE = "signature"  # a shared secret signed the body, as webhooks do
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

    `scopes` are those of its roles and those that it was given by themselves.

    `identity` is both as a JSON array, `description` what it was given as a JSON object with sorted keys: written once
    with the principal and not for each of its requests.
    """

    id: str
    kind: PrincipalKind
    roles: frozenset[Role]
    method: AuthMethod
    scopes: frozenset[AccessScope] = frozenset()
    # None: may speak for every subject, as a gateway in front of many agents does.
    binding: Binding | None = field(default=None, repr=False, compare=False)
    # The id of the API key that was presented, "" for every other credential.
    credential: str = field(default="", repr=False, compare=False)
    identity: bytes = field(init=False, repr=False, compare=False)
    description: bytes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        described = {"id": self.id, "kind": self.kind, "method": self.method, "roles": sorted(self.roles)}
        if self.scopes:
            described["scopes"] = sorted(self.scopes)
        object.__setattr__(self, "scopes", scopes_of(self.roles, self.scopes))
        object.__setattr__(self, "identity", orjson.dumps((self.method, self.id)))
        object.__setattr__(self, "description", orjson.dumps(described))


def require(principal: Principal, scope: AccessScope) -> None:
    """Let a principal pass that has the scope.

    Raises FirewallError(FORBIDDEN) that names what is missing and which roles have it.
    """
    if scope in principal.scopes:
        return
    roles = " or ".join(f"`{role}`" for role, scopes in SCOPES_OF.items() if scope in scopes)
    raise FirewallError(
        Kind.FORBIDDEN,
        f"scope `{scope}` is needed",
        fix=f"use a credential with the role {roles}, or ask an administrator to grant it",
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
