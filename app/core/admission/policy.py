"""A ValidatingAdmissionPolicy under one of its bindings, compiled. It only ever denies, warns or annotates."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from app.core.admission.matching import AdmissionMatch
from app.core.admission.selectors import Selector
from app.core.cel import Program, can_exceed
from app.core.index import Condition
from app.core.types import JsonObject, Mode


class FailurePolicy(StrEnum):
    """What becomes of a failure: it denies, or it is recorded and nothing else."""

    FAIL = "Fail"
    IGNORE = "Ignore"


class Action(StrEnum):
    """What a binding does about a validation that is false."""

    DENY = "Deny"
    WARN = "Warn"
    AUDIT = "Audit"


class NotFound(StrEnum):
    """What a binding does where there is no parameter object."""

    ALLOW = "Allow"
    DENY = "Deny"


@dataclass(frozen=True, slots=True)
class Validation:
    """One of `validations`; `name` is its place, which reasons name."""

    name: str
    program: Program
    message: str | None = None
    message_expression: Program | None = None


@dataclass(frozen=True, slots=True)
class AuditAnnotation:
    """One of `auditAnnotations`; its program gives a text, or null for none."""

    name: str
    key: str
    program: Program


@dataclass(frozen=True, slots=True)
class Parameter:
    """One object that a policy can be given; `namespace` is empty for one that lives in none."""

    namespace: str
    name: str
    labels: Mapping[str, str]
    value: JsonObject


@dataclass(frozen=True, slots=True)
class ParameterReference:
    """`paramRef` and the objects of its kind: by `name` or by `selector`, in `namespace` or in that of the request.

    `in_namespaces` says of the kind that its objects live in namespaces.
    """

    objects: tuple[Parameter, ...]
    in_namespaces: bool
    not_found: NotFound
    name: str | None = None
    selector: Selector = field(default_factory=Selector)
    namespace: str = ""

    @property
    def most(self) -> int:
        """How many objects one request can find, and more."""
        return 1 if self.name is not None else max(1, len(self.objects))

    def find(self, namespace: str) -> tuple[Parameter, ...]:
        """Give the objects for a request in a namespace, by their names.

        Raises:
            ValueError: the objects live in namespaces, and neither the binding nor the request names one.
        """
        wanted = self.namespace or namespace
        if self.in_namespaces and not wanted:
            raise ValueError("its parameters live in namespaces, and the request is for what lives in none")
        return tuple(
            one
            for one in self.objects
            if one.namespace == (wanted if self.in_namespaces else "")
            and (self.name == one.name if self.name is not None else self.selector.matches(one.labels))
        )


@dataclass(frozen=True, slots=True)
class AdmissionPolicy:
    """One policy under one binding; `name` is `POLICY/BINDING`, unique in the set for neither may have a slash.

    `metered`: its expressions and their variables, for all parameters together, can cost more than a policy may.
    """

    policy: str
    binding: str
    match: AdmissionMatch
    validations: tuple[Validation, ...]
    actions: tuple[Action, ...] = (Action.DENY,)
    failure_policy: FailurePolicy = FailurePolicy.FAIL
    conditions: tuple[Condition, ...] = ()
    annotations: tuple[AuditAnnotation, ...] = ()
    parameters: ParameterReference | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    metered: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        most = self.parameters.most if self.parameters is not None else 1
        object.__setattr__(self, "metered", can_exceed(self.programs(), times=most))

    def programs(self) -> Iterator[Program]:
        """Give every expression that asking the policy can evaluate."""
        yield from (condition.program for condition in self.conditions)
        for validation in self.validations:
            yield validation.program
            if validation.message_expression is not None:
                yield validation.message_expression
        yield from (annotation.program for annotation in self.annotations)

    @property
    def name(self) -> str:
        """The key of the set."""
        return f"{self.policy}/{self.binding}"

    @property
    def mode(self) -> Mode:
        """Whether what it says can deny."""
        return Mode.ENFORCE if Action.DENY in self.actions else Mode.SHADOW
