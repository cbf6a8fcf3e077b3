"""What every policy and every rule says about one mutation: `app.core.decide` without the combination.

For tests of policies, coverage, explanations and measurements. The decision itself always comes from the core.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple, assert_never

from app.core.admission.facts import Facts
from app.core.admission.policy import AdmissionPolicy, Parameter, Validation
from app.core.cel import (
    Bindings,
    CompiledProgram,
    EvaluationError,
    Program,
    RequestBindings,
    Source,
    Trace,
    bind,
    bind_params,
    facts_in,
    source_of,
    traced,
    variables_of,
)
from app.core.index import CompiledPolicySet, Condition, Match, Policy, PolicyException, Rule
from app.core.types import JsonObject, Outcome
from app.core.validity import Phase, Validity
from app.policies.admission import PolicyDocument


@dataclass(frozen=True, slots=True)
class Said:
    """One expression asked; `error` is the text of its failure. There is no trace where there is no expression."""

    outcome: Outcome
    error: str | None = None
    trace: Trace | None = None


@dataclass(frozen=True, slots=True)
class PolicyTrace:
    """One policy asked.

    `unmatched` names the members of `match` that do not fit (`actions`, `resources`, `subjects`, and `exclude` where it
    takes the mutation out); only where it is empty were the conditions asked, and only where those are all true the
    rules. `asked` has every expression that was evaluated, variables among them, by its path in `spec`.
    """

    policy: Policy
    unmatched: tuple[str, ...]
    conditions: tuple[tuple[Condition, Said], ...] = ()
    rules: tuple[tuple[Rule, Said], ...] = ()
    asked: Mapping[str, Trace] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ExceptionTrace:
    """One exception asked; it lifts what it names where `unmatched` is empty and every condition is true."""

    exception: PolicyException
    unmatched: tuple[str, ...]
    conditions: tuple[tuple[Condition, Said], ...] = ()

    @property
    def fits(self) -> bool:
        """Whether it lifts anything."""
        return not self.unmatched and all(said.outcome is Outcome.TRUE for _, said in self.conditions)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One evaluation of an admission policy, with the parameter of that name, and what its expressions said.

    `asked` as in `PolicyTrace`.
    """

    parameter: Parameter | None
    conditions: tuple[tuple[Condition, Said], ...]
    validations: tuple[tuple[Validation, Said], ...]
    asked: Mapping[str, Trace] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AdmissionTrace:
    """One admission policy asked; `fits` as `AdmissionMatch.fits` has it, and no evaluation unless it is True."""

    policy: AdmissionPolicy
    fits: bool | None
    evaluations: tuple[Evaluation, ...] = ()


def trace_admission(policy_set: CompiledPolicySet, bindings: RequestBindings) -> tuple[AdmissionTrace, ...]:
    """Ask every admission policy of a set, by name, the ones that do not match among them."""
    facts = facts_in(bindings)
    return tuple(
        _trace_admission(policy, facts, bindings)
        for policy in policy_set.policies
        if isinstance(policy, AdmissionPolicy)
    )


def _trace_admission(policy: AdmissionPolicy, facts: Facts | None, bindings: RequestBindings) -> AdmissionTrace:
    fits = False if facts is None else policy.match.fits(facts)
    if facts is None or not fits:
        return AdmissionTrace(policy, fits)
    found: tuple[Parameter | None, ...] = (None,)
    if policy.parameters is not None:
        try:
            found = policy.parameters.find(facts.namespace)
        except ValueError:
            found = ()
    return AdmissionTrace(policy, fits, tuple(_evaluation(policy, one, bindings) for one in found))


def _evaluation(policy: AdmissionPolicy, parameter: Parameter | None, bindings: RequestBindings) -> Evaluation:
    # Values of its own, as for a MutationPolicy.
    fresh = bind(bindings.inputs, now=bindings.now, authorizer=bindings.authorizer)
    asked = _Asked(bind_params(fresh, parameter.value if parameter is not None else None))
    declared = variables_among(admission_expressions(policy))
    conditions = tuple(
        (condition, asked.ask(condition.program, f"matchConditions[{position}].expression"))
        for position, condition in enumerate(policy.conditions)
    )
    if any(said.outcome is not Outcome.TRUE for _, said in conditions):
        return Evaluation(parameter, conditions, (), asked.finished(declared))
    validations: list[tuple[Validation, Said]] = []
    for one in policy.validations:
        said = asked.ask(one.program, f"{one.name}.expression")
        if said.outcome is Outcome.FALSE and one.message_expression is not None:
            asked.ask(one.message_expression, f"{one.name}.messageExpression")
        validations.append((one, said))
    for annotation in policy.annotations:
        asked.ask(annotation.program, f"{annotation.name}.valueExpression")
    return Evaluation(parameter, conditions, tuple(validations), asked.finished(declared))


def trace_exceptions(policy_set: CompiledPolicySet, bindings: Bindings) -> tuple[ExceptionTrace, ...]:
    """Ask every exception of a set, by name."""
    return tuple(_trace_exception(exception, bindings) for exception in policy_set.exceptions)


def _trace_exception(exception: PolicyException, bindings: Bindings) -> ExceptionTrace:
    unmatched = _unmatched(exception.match, bindings.inputs) + _outside(exception.validity, bindings.now)
    if unmatched:
        return ExceptionTrace(exception, unmatched)
    conditions = tuple((condition, ask(condition.program, bindings)) for condition in exception.conditions)
    return ExceptionTrace(exception, (), conditions)


def trace(policy_set: CompiledPolicySet, bindings: Bindings) -> tuple[PolicyTrace, ...]:
    """Ask every MutationPolicy of a set, by name, the ones that do not match among them."""
    return tuple(_trace(policy, bindings) for policy in policy_set.policies if isinstance(policy, Policy))


def expressions(policy: Policy) -> Iterator[tuple[str, Program]]:
    """Give every expression of a policy but its variables, by its path in `spec`."""
    for position, condition in enumerate(policy.conditions):
        yield f"matchConditions[{position}].expression", condition.program
    for rule, path in rules(policy):
        if rule.when is not None:
            yield f"{path}.when", rule.when
        yield from _said_by(rule, path)
    for position, budget in enumerate(policy.budgets):
        for name, program in (("when", budget.when), ("key", budget.key), ("distinct", budget.distinct)):
            if program is not None:
                yield f"budgets[{position}].{name}", program


def admission_expressions(policy: AdmissionPolicy | PolicyDocument) -> Iterator[tuple[str, Program]]:
    """Give every expression of an admission policy but its variables, by its path in `spec`."""
    for position, condition in enumerate(policy.conditions):
        yield f"matchConditions[{position}].expression", condition.program
    for validation in policy.validations:
        yield f"{validation.name}.expression", validation.program
        if validation.message_expression is not None:
            yield f"{validation.name}.messageExpression", validation.message_expression
    for annotation in policy.annotations:
        yield f"{annotation.name}.valueExpression", annotation.program


def rules(policy: Policy) -> Iterator[tuple[Rule, str]]:
    """Give rules and freezes with their paths in `spec`."""
    numbers = {"rules": 0, "freezes": 0}
    for rule in policy.rules:
        name = "rules" if rule.window is None else "freezes"
        yield rule, f"{name}[{numbers[name]}]"
        numbers[name] += 1


class Declared(NamedTuple):
    """One variable of a policy."""

    name: str
    source: Source


def variables(policy: Policy) -> dict[str, Declared]:
    """Give the variables of a policy that something reads, by their path in `spec`; constants are left out."""
    return variables_among(expressions(policy))


def variables_among(programs: Iterable[tuple[str, Program]]) -> dict[str, Declared]:
    """Give the variables that something among these expressions of one policy reads, as `variables` does."""
    found: dict[str, Declared] = {}
    for _, program in programs:
        if isinstance(program, CompiledProgram):
            for name, scoped in variables_of(program.source).items():
                source = source_of(scoped)
                if source is not None:
                    found[f"variables[{program.source.variables.index(name)}].expression"] = Declared(name, source)
    return dict(sorted(found.items(), key=lambda item: (len(item[0]), item[0])))


def _said_by(rule: Rule, path: str) -> Iterator[tuple[str, Program]]:
    if rule.message_expression is not None:
        yield f"{path}.messageExpression", rule.message_expression
    for position, duty in enumerate(rule.duties):
        if duty.expression is not None:
            yield f"{path}.obligations[{position}].valueExpression", duty.expression


def _trace(policy: Policy, bindings: Bindings) -> PolicyTrace:
    unmatched = _unmatched(policy.match, bindings.inputs) + _outside(policy.validity, bindings.now)
    if unmatched:
        return PolicyTrace(policy, unmatched)
    # Values of its own: a variable that another policy declares too is evaluated here only if this one reads it.
    asked = _Asked(bind(bindings.inputs, now=bindings.now))
    conditions = tuple(
        (condition, asked.ask(condition.program, f"matchConditions[{position}].expression"))
        for position, condition in enumerate(policy.conditions)
    )
    if any(said.outcome is not Outcome.TRUE for _, said in conditions):
        return PolicyTrace(policy, (), conditions, (), asked.finished(variables(policy)))
    found: list[tuple[Rule, Said]] = []
    for rule, path in rules(policy):
        if rule.window is not None and rule.window.end(bindings.now) is None:
            found.append((rule, Said(Outcome.FALSE)))
            continue
        said = asked.ask(rule.when, f"{path}.when")
        if said.outcome is Outcome.TRUE:
            for place, program in _said_by(rule, path):
                asked.ask(program, place)
        found.append((rule, said))
    for position, budget in enumerate(policy.budgets):
        if asked.ask(budget.when, f"budgets[{position}].when").outcome is Outcome.TRUE:
            asked.ask(budget.key, f"budgets[{position}].key")
            asked.ask(budget.distinct, f"budgets[{position}].distinct")
    return PolicyTrace(policy, (), conditions, tuple(found), asked.finished(variables(policy)))


class _Asked:
    """The expressions of one policy that were asked, on values of their own."""

    def __init__(self, bindings: Bindings) -> None:
        self.bindings = bindings
        self.traces: dict[str, Trace] = {}

    def ask(self, program: Program | None, path: str) -> Said:
        """Evaluate, and note by path."""
        said = ask(program, self.bindings)
        if said.trace is not None:
            self.traces[path] = said.trace
        return said

    def finished(self, variables: Mapping[str, Declared]) -> Mapping[str, Trace]:
        """Give all traces, with those of these variables that were read on the way."""
        evaluated = {name for one in list(self.traces.values()) for name in one.variables_evaluated()}
        for path, declared in variables.items():
            if declared.source in evaluated:
                self.traces[path] = traced(declared.source, self.bindings)
        return self.traces


def ask(program: Program | None, bindings: Bindings) -> Said:
    """Evaluate a condition; None is always true, as for a rule without `when`."""
    if program is None:
        return Said(Outcome.TRUE)
    found = _traced(program, bindings)
    try:
        value = program.evaluate(bindings)
    except EvaluationError as error:
        return Said(Outcome.ERROR, str(error), found)
    return Said(Outcome.TRUE if value is True else Outcome.FALSE, None, found)


def _traced(program: Program, bindings: Bindings) -> Trace | None:
    try:
        return program.trace(bindings)
    except Exception:  # noqa: BLE001 - too deep for a function with notes: the value is known all the same
        return None


def _outside(validity: Validity, now: datetime) -> tuple[str, ...]:
    match validity.phase(now):
        case Phase.PENDING:
            return ("validFrom",)
        case Phase.EXPIRED:
            return ("validUntil",)
        case Phase.CURRENT:
            return ()
        case phase:
            assert_never(phase)


def _unmatched(match: Match, inputs: JsonObject) -> tuple[str, ...]:
    parts = {
        "actions": Match(actions=match.actions),
        "resources": Match(resources=match.resources),
        "subjects": Match(subjects=match.subjects),
        "exclude": Match(exclude=match.exclude),
    }
    return tuple(name for name, part in parts.items() if not part.matches(inputs))
