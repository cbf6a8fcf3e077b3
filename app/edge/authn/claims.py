"""What the claims of a verified token say: roles, and whom the caller may speak for."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from app.core.cel import EvaluationError, ExpressionError, Program, ResultType, bind, compile_expression
from app.core.glob import Glob, compile_glob
from app.core.principal import Role
from app.core.types import JsonObject
from app.errors import FirewallError, Kind

_ROLES: Final[Mapping[str, Role]] = {role.value: role for role in Role}
# A condition about a caller and a subject has nothing to do with the time; one that reads `now` is refused.
_NO_INSTANT: Final = datetime(2000, 1, 1, tzinfo=UTC)


class RoleRule(NamedTuple):
    """Who has this value in that claim has the role."""

    claim: str
    value: Glob
    role: Role


def role_rule(text: str) -> RoleRule:
    """Read `ROLE=CLAIM=GLOB`. Raises ValueError that says what is wrong."""
    role, first, rest = text.partition("=")
    claim, second, value = rest.partition("=")
    if not claim or not first or not second:
        raise ValueError("is not `ROLE=CLAIM=GLOB`, such as `admin=groups=platform-admins`")
    if role not in _ROLES:
        raise ValueError(f"`{role[:40]}` is no role; there are {', '.join(_ROLES)}")
    return RoleRule(claim, compile_glob(value), _ROLES[role])


def values_of(claims: JsonObject, claim: str) -> list[Any] | None:
    """The values of a claim, as a list: a text is split at its blanks, as `scope` is written (RFC 8693 section 4.2).

    A name with dots is a claim of that name (`https://issuer.example/roles`), else members of a claim that is an object
    (`realm_access.roles`). None for what is neither text nor list; empty for what is not there.
    """
    found: Any = claims
    for name in (claim,) if claim in claims else claim.split("."):
        if not isinstance(found, dict) or name not in found:
            return []
        found = found[name]
    if isinstance(found, str):
        return found.split()
    return found if isinstance(found, list) else None


def mapped_roles(claims: JsonObject, rules: Iterable[RoleRule]) -> frozenset[Role]:
    """The roles that the rules give."""
    return frozenset(
        rule.role
        for rule in rules
        for value in values_of(claims, rule.claim) or ()
        if isinstance(value, str) and rule.value.matches(value)
    )


class SubjectCondition:
    """A CEL condition over what a credential says (`context.claims`) and the `subject` of a mutation."""

    def __init__(
        self,
        text: str,
        *,
        setting: str = "MFW_AUTH__JWT__SUBJECT_CONDITION",
        example: str = "subject.id == context.claims.sub",
    ) -> None:
        """`setting` is where the text stands. Raises FirewallError(INVALID_SETTINGS) with the place and the fix."""
        try:
            self._program: Program = compile_expression(text, result=ResultType.BOOL)
        except ExpressionError as error:
            raise FirewallError(
                Kind.INVALID_SETTINGS,
                f"the subject condition cannot be compiled: {error}",
                fix=f"write for example `{example}` into {setting}",
            ) from None

    def of(self, claims: JsonObject) -> "ClaimedSubjects":
        """The subjects that the owner of these claims may speak for."""
        return ClaimedSubjects(self._program, claims)


class ClaimedSubjects(NamedTuple):
    """The subjects for which a condition holds; an error is a no."""

    program: Program
    claims: JsonObject

    def permits(self, subject: JsonObject) -> bool:
        """Tell whether a mutation may have this subject."""
        inputs = {"subject": subject, "context": {"claims": self.claims}, "action": {}, "resource": {}, "change": {}}
        try:
            return self.program.evaluate(bind(inputs, now=_NO_INSTANT)) is True
        except EvaluationError:
            return False
