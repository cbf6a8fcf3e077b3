"""The values of one request as programs read them: the inputs as they are, and variables computed when first read."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, NamedTuple

from app.core.cel.budget import POLICY_STEPS_MAX, STEPS_MAX, Budget, charge, too_expensive
from app.core.cel.estimate import UNKNOWN, Estimate
from app.core.cel.failures import FAIL, said
from app.core.cel.instants import timestamp_of
from app.core.cel.kubernetes.authorizer import Answer, Attributes, Authorizer, ResourceCheck, Subject, asked_once
from app.core.cel.values import BudgetError, CelError
from app.core.types import JsonObject


@dataclass(frozen=True, slots=True, eq=False)
class Variable:
    """One lazily evaluated value; equal only to itself. `source` is that of a variable of a policy.

    `local` ones depend on `params` and are not shared. `reads` are the variables that it may evaluate in turn.
    """

    name: str
    run: Callable[..., Any] = field(repr=False)
    source: Any = field(default=None, repr=False)
    local: bool = False
    estimate: Estimate = field(default=UNKNOWN, repr=False)
    reads: "tuple[Variable, ...]" = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class RequestBindings:
    """The values of one request. `inputs` must not change while they are used, and belongs to one thread at a time.

    `answers` has what the authorizer was asked and answered so far. With a `parent`, these are the values of one
    evaluation of the request: what does not depend on it is computed, and kept, in the parent.
    `allowance` is what the policy that is asked has left to spend; None where it cannot spend too much.
    """

    inputs: JsonObject
    now: datetime
    values: dict[Variable, Any] = field(default_factory=dict)
    failures: dict[Variable, tuple[type[CelError | BudgetError], str]] = field(default_factory=dict)
    authorizer: Authorizer | None = None
    answers: dict[Attributes, Answer] = field(default_factory=dict)
    parent: "RequestBindings | None" = None
    allowance: Budget | None = None


def bind(inputs: JsonObject, *, now: datetime, authorizer: Authorizer | None = None) -> RequestBindings:
    """Make the values of one request readable for programs.

    `inputs` has exactly the keys of `INPUT_NAMES`, each with a JSON object; it must not change while it is used.
    `authorizer` answers for programs that were compiled with it.
    """
    return RequestBindings(inputs, now, authorizer=authorizer)


def metered(bindings: RequestBindings) -> RequestBindings:
    """Give the bindings under which one policy pays for all of its expressions, and for the variables it reads.

    It evaluates its variables for itself: what it has left must not depend on who read them before.
    """
    return replace(bindings, values={}, failures={}, allowance=[POLICY_STEPS_MAX])


def load(bindings: RequestBindings, variable: Variable) -> Any:
    """Evaluate a variable, once for all programs of the request; a failure is kept as well.

    Raises:
        CelError: it has no value.
        BudgetError: it costs too much.
    """
    if bindings.parent is not None and not variable.local:
        known = bindings.parent.values
        try:
            value = known[variable] if variable in known else load(bindings.parent, variable)
        except (*FAIL, BudgetError):
            bindings.failures[variable] = bindings.parent.failures[variable]
            raise
        bindings.values[variable] = value
        return value
    failure = bindings.failures.get(variable)
    if failure is not None:
        kind, text = failure
        raise kind(text)
    budget = [STEPS_MAX]
    try:
        try:
            value = variable.run(bindings, bindings.inputs, bindings.values, budget)
        finally:
            if bindings.allowance is not None:
                charge(bindings.allowance, budget)
    except FAIL as error:
        bindings.failures[variable] = (CelError, said(error))
        raise
    except BudgetError as error:
        bindings.failures[variable] = (BudgetError, str(error))
        raise
    bindings.values[variable] = value
    return value


class Part(NamedTuple):
    """What a shared part gave in this request: its value, or the kind and the text of its failure, and its cost."""

    value: Any
    failure: tuple[type[CelError | BudgetError], str] | None
    cost: int


def take(bindings: RequestBindings, shared: Variable, budget: Budget) -> Any:
    """Give the value of a part that several expressions have, and pay for it as if it were evaluated here.

    Raises:
        CelError: it has no value.
        BudgetError: it costs too much, by itself or for what is left.
    """
    part: Part | None = bindings.values.get(shared)
    if part is None:
        part = bindings.values[shared] = _part(bindings, shared)
    budget[0] -= part.cost
    if budget[0] < 0:
        raise too_expensive()
    if part.failure is not None:
        kind, text = part.failure
        raise kind(text)
    return part.value


def _part(bindings: RequestBindings, shared: Variable) -> Part:
    budget, value = [STEPS_MAX], None
    failure: tuple[type[CelError | BudgetError], str] | None = None
    try:
        value = shared.run(bindings, bindings.inputs, bindings.values, budget)
    except FAIL as error:
        failure = (CelError, said(error))
    except BudgetError as error:
        failure = (BudgetError, str(error))
    return Part(value, failure, STEPS_MAX - budget[0])


def _now(bindings: RequestBindings, *_: Any) -> Any:
    return timestamp_of(bindings.now)


NOW = Variable("now", _now, estimate=Estimate(0, 0, 0))


def _authorizer(bindings: RequestBindings, *_: Any) -> Any:
    return Subject(asked_once(_provider(bindings), bindings.answers))


def _request_resource(bindings: RequestBindings, *_: Any) -> Any:
    provider = _provider(bindings)
    return ResourceCheck(asked_once(provider, bindings.answers), provider.request_resource())


def _provider(bindings: RequestBindings) -> Authorizer:
    if bindings.authorizer is None:
        raise CelError("no authorizer answers for this request")
    return bindings.authorizer


AUTHORIZER = Variable("authorizer", _authorizer)
REQUEST_RESOURCE = Variable("authorizer.requestResource", _request_resource)
