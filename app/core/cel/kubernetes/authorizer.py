"""`authorizer`: what an expression asks, who answers, and the answers that were used.

The answers come from outside (Kubernetes' own authorizer, a table, the record of an earlier decision) through the
protocol `Authorizer`, which `RequestBindings` carries. Each question is asked once per request and kept with its
answer, so that what a decision was told can be recorded and asked again.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol

from app.core.cel.budget import Budget, spend
from app.core.cel.kubernetes.formats import dns1123_label, dns1123_subdomain
from app.core.cel.values import CelError, Opaque, no_overload

# In steps, as in Kubernetes: a check may be a request to a webhook. Two fit into an expression.
CHECK_STEPS = 350_000
_ERROR_MAX_CHARS = 200


@dataclass(frozen=True, slots=True)
class Attributes:
    """One question: may the requester, or a service account in its place, do this?

    A question about a path has `path` and `verb` only. Selectors are texts as the policy has them; one that does not
    parse does not count, which is for whoever answers to see.
    """

    verb: str = ""
    path: str = ""
    group: str = ""
    resource: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""
    field_selector: str = ""
    label_selector: str = ""
    # Namespace and name; None is the requester.
    service_account: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What was answered; with an `error`, nothing is allowed."""

    allowed: bool
    reason: str = ""
    error: str = ""


class Authorizer(Protocol):
    """Answers for one request, as far as it was made by someone."""

    def request_resource(self) -> Attributes:
        """Give what the request is about, without a verb: `authorizer.requestResource`."""
        ...

    def authorize(self, attributes: Attributes) -> Answer:
        """Answer one question."""
        ...


@dataclass(frozen=True, slots=True)
class RecordedAnswers:
    """An authorizer that knows what was answered before, and nothing else."""

    resource: Attributes
    answers: Mapping[Attributes, Answer]

    def request_resource(self) -> Attributes:
        """Give what the request was about."""
        return self.resource

    def authorize(self, attributes: Attributes) -> Answer:
        """Give the recorded answer; an error where there is none."""
        return self.answers.get(attributes) or Answer(allowed=False, error="no answer is recorded")


_Ask = Callable[[Attributes], Answer]


def asked_once(authorizer: Authorizer, answers: dict[Attributes, Answer]) -> _Ask:
    """Make what asks an authorizer and keeps the answers; it fails with an answer, never otherwise."""

    def ask(attributes: Attributes) -> Answer:
        known = answers.get(attributes)
        if known is None:
            try:
                known = authorizer.authorize(attributes)
            except Exception as error:  # noqa: BLE001 - whatever goes wrong outside is no permission
                known = Answer(allowed=False, error=f"the authorizer failed: {type(error).__name__}")
            if known.error:
                known = Answer(allowed=False, reason=known.reason, error=known.error[:_ERROR_MAX_CHARS])
            answers[attributes] = known
        return known

    return ask


@dataclass(frozen=True, slots=True)
class Subject(Opaque):
    """`authorizer`, and `authorizer.serviceAccount(...)`."""

    ask: _Ask = field(compare=False, repr=False)
    service_account: tuple[str, str] | None = None
    type_name: ClassVar[str] = "kubernetes.authorization.Authorizer"


@dataclass(frozen=True, slots=True)
class PathCheck(Opaque):
    """`authorizer.path(...)`."""

    ask: _Ask = field(compare=False, repr=False)
    attributes: Attributes
    type_name: ClassVar[str] = "kubernetes.authorization.PathCheck"


@dataclass(frozen=True, slots=True)
class GroupCheck(Opaque):
    """`authorizer.group(...)`."""

    ask: _Ask = field(compare=False, repr=False)
    attributes: Attributes
    type_name: ClassVar[str] = "kubernetes.authorization.GroupCheck"


@dataclass(frozen=True, slots=True)
class ResourceCheck(Opaque):
    """`authorizer.group(...).resource(...)`, and `authorizer.requestResource`."""

    ask: _Ask = field(compare=False, repr=False)
    attributes: Attributes
    type_name: ClassVar[str] = "kubernetes.authorization.ResourceCheck"


@dataclass(frozen=True, slots=True)
class Decision(Opaque):
    """What `check` gives."""

    answer: Answer
    type_name: ClassVar[str] = "kubernetes.authorization.Decision"


# --- functions ------------------------------------------------------------------------------------------------------


def path(subject: Any, value: Any) -> PathCheck:
    """`authorizer.path(path)`."""
    if type(subject) is not Subject or type(value) is not str:
        raise no_overload("path", subject, value)
    if not value.strip():
        raise CelError("the path must not be empty")
    return PathCheck(subject.ask, Attributes(path=value, service_account=subject.service_account))


def group(subject: Any, value: Any) -> GroupCheck:
    """`authorizer.group(group)`."""
    if type(subject) is not Subject or type(value) is not str:
        raise no_overload("group", subject, value)
    return GroupCheck(subject.ask, Attributes(group=value, service_account=subject.service_account))


def service_account(subject: Any, namespace_: Any, name_: Any) -> Subject:
    """`authorizer.serviceAccount(namespace, name)`."""
    if type(subject) is not Subject or type(namespace_) is not str or type(name_) is not str:
        raise no_overload("serviceAccount", subject, namespace_, name_)
    if dns1123_subdomain(name_):
        raise CelError("the name of the service account is not valid")
    if dns1123_label(namespace_):
        raise CelError("the namespace of the service account is not valid")
    return Subject(subject.ask, (namespace_, name_))


def resource(check_: Any, value: Any) -> ResourceCheck:
    """`authorizer.group(group).resource(resource)`."""
    if type(check_) is not GroupCheck or type(value) is not str:
        raise no_overload("resource", check_, value)
    if not value.strip():
        raise CelError("the resource must not be empty")
    return ResourceCheck(check_.ask, replace(check_.attributes, resource=value))


def _with(function: str, narrowed: Callable[[Attributes, str], Attributes]) -> Callable[[Any, Any], ResourceCheck]:
    def changed(check_: Any, value: Any) -> ResourceCheck:
        if type(check_) is not ResourceCheck or type(value) is not str:
            raise no_overload(function, check_, value)
        return ResourceCheck(check_.ask, narrowed(check_.attributes, value))

    return changed


subresource = _with("subresource", lambda asked, value: replace(asked, subresource=value))
namespace = _with("namespace", lambda asked, value: replace(asked, namespace=value))
name = _with("name", lambda asked, value: replace(asked, name=value))
field_selector = _with("fieldSelector", lambda asked, value: replace(asked, field_selector=value))
label_selector = _with("labelSelector", lambda asked, value: replace(asked, label_selector=value))


def check(check_: Any, verb: Any, budget: Budget) -> Decision:
    """`check(verb)`, of a path or a resource."""
    if (type(check_) is not PathCheck and type(check_) is not ResourceCheck) or type(verb) is not str:
        raise no_overload("check", check_, verb)
    spend(budget, CHECK_STEPS)
    return Decision(check_.ask(replace(check_.attributes, verb=verb)))


def allowed(decision: Any) -> bool:
    """`decision.allowed()`."""
    return _answer("allowed", decision).allowed


def reason(decision: Any) -> str:
    """`decision.reason()`."""
    return _answer("reason", decision).reason


def errored(decision: Any) -> bool:
    """`decision.errored()`."""
    return bool(_answer("errored", decision).error)


def error(decision: Any) -> str:
    """`decision.error()`: empty if there is none."""
    return _answer("error", decision).error


def _answer(function: str, decision: Any) -> Answer:
    if type(decision) is Decision:
        return decision.answer
    raise no_overload(function, decision)
