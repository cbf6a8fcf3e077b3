"""What the expressions of a policy set are estimated to cost, in the steps that an evaluation counts."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from app.core.admission.policy import AdmissionPolicy
from app.core.cel import USUAL, CompiledProgram, Estimate, Program, Variable, estimate_of
from app.core.index import AnyPolicy, CompiledPolicySet, Policy

# What `Estimate.usual` assumes, in words.
USUAL_SIZES = (
    f"lists of {USUAL.items} elements, in each of them lists of {USUAL.inner}, and texts of {USUAL.text} characters"
)


@dataclass(frozen=True, slots=True)
class StepCost:
    """The estimate of one expression; `name` is that of a variable, a condition, a rule or whatever has it.

    `part` is `variable`, `condition`, `exception` (the condition of one), `when`, `message`, `obligation KEY`,
    `budget MEMBER`, `validation` or `annotation`.
    """

    policy: str
    name: str
    part: str
    estimate: Estimate


def estimated(policy_set: CompiledPolicySet) -> tuple[StepCost, ...]:
    """Estimate every expression of a set, the dearest first; a variable is listed with each policy that reads it."""
    found: list[StepCost] = []
    for policy in policy_set.policies:
        parts = list(_parts(policy))
        found += [StepCost(policy.name, name, part, estimate_of(program)) for name, part, program in parts]
        for variable in variables_of(program for _, _, program in parts):
            found.append(StepCost(policy.name, variable.name, "variable", variable.estimate))
    for exception in policy_set.exceptions:
        for condition in exception.conditions:
            found.append(StepCost(exception.name, condition.name, "exception", estimate_of(condition.program)))
    return tuple(sorted(found, key=lambda one: (-one.estimate.usual, one.policy, one.name, one.part)))


def variables_of(programs: Iterable[Program]) -> tuple[Variable, ...]:
    """Give the declared variables that programs read, directly or through others, each once."""
    found: dict[Variable, None] = {}
    waiting = [variable for one in programs if isinstance(one, CompiledProgram) for variable in one.reads]
    while waiting:
        variable = waiting.pop(0)
        # What has no source stands for a part of the request; looking at it costs nothing.
        if variable not in found and variable.source is not None:
            found[variable] = None
            waiting += variable.reads
    return tuple(found)


def _parts(policy: AnyPolicy) -> Iterator[tuple[str, str, Program]]:
    match policy:
        case Policy():
            yield from _of_policy(policy)
        case AdmissionPolicy():
            for condition in policy.conditions:
                yield condition.name, "condition", condition.program
            for validation in policy.validations:
                yield validation.name, "validation", validation.program
                if validation.message_expression is not None:
                    yield validation.name, "message", validation.message_expression
            for annotation in policy.annotations:
                yield annotation.name, "annotation", annotation.program


def _of_policy(policy: Policy) -> Iterator[tuple[str, str, Program]]:
    for condition in policy.conditions:
        yield condition.name, "condition", condition.program
    for rule in policy.rules:
        if rule.when is not None:
            yield rule.name, "when", rule.when
        if rule.message_expression is not None:
            yield rule.name, "message", rule.message_expression
        for duty in rule.duties:
            if duty.expression is not None:
                yield rule.name, f"obligation {duty.key}", duty.expression
    for budget in policy.budgets:
        for member, program in (("when", budget.when), ("key", budget.key), ("distinct", budget.distinct)):
            if program is not None:
                yield budget.name, f"budget {member}", program
