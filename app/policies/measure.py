"""What each rule costs: the time of its expression on given mutations, in microseconds."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from statistics import median
from time import perf_counter_ns

from app.core.admission.facts import MaybeObject
from app.core.budgets import Assumed
from app.core.cel import (
    Bindings,
    EvaluationError,
    Program,
    RequestBindings,
    ResultType,
    bind,
    bind_params,
    compile_expression,
)
from app.core.decide import decide
from app.core.index import CompiledPolicySet
from app.core.types import JsonObject, NormalisedMutation
from app.policies.trace import trace, trace_admission, trace_exceptions

# Enough for a stable median of something that takes microseconds.
ROUNDS = 200


@dataclass(frozen=True, slots=True)
class Cost:
    """The median time of one expression, run `times` times.

    `part` is `condition`, `exception` (the condition of one), `when`, `message` or `obligation KEY`; of an admission
    policy `condition`, `validation`, `message` or `annotation`.
    """

    policy: str
    name: str
    part: str
    microseconds: float
    times: int


@dataclass(frozen=True, slots=True)
class Costs:
    """All expressions that were asked, the dearest first, and the median time of a whole decision."""

    costs: tuple[Cost, ...]
    decision_microseconds: float


def measure(
    policy_set: CompiledPolicySet, mutations: Sequence[NormalisedMutation], *, now: datetime, rounds: int = ROUNDS
) -> Costs:
    """Time every expression that these mutations reach, each for itself.

    Each time is taken on values that nothing was read of yet, so that no expression profits from another one's
    variables; what the values cost to bind is not in it.
    """
    warm = compile_expression("has(change.paths)", result=ResultType.BOOL, variables={})
    taken: dict[tuple[str, str, str], list[float]] = {}
    whole: list[float] = []
    for mutation in mutations:
        whole += _decision_times(policy_set, mutation, now=now, rounds=rounds)
        for key, program in _reached(policy_set, mutation, now=now):
            fresh = partial(bind, mutation.inputs, now=now)
            taken.setdefault(key, []).extend(_times(program, warm, fresh, rounds=rounds))
        for key, program, params in _reached_by_admission(policy_set, mutation, now=now):
            fresh = partial(_with_params, mutation.inputs, params, now=now)
            taken.setdefault(key, []).extend(_times(program, warm, fresh, rounds=rounds))
    costs = [Cost(*key, median(times), len(times)) for key, times in taken.items()]
    costs.sort(key=lambda cost: (-cost.microseconds, cost.policy, cost.name))
    return Costs(tuple(costs), median(whole) if whole else 0.0)


def _reached(
    policy_set: CompiledPolicySet, mutation: NormalisedMutation, *, now: datetime
) -> Iterable[tuple[tuple[str, str, str], Program]]:
    for asked in trace_exceptions(policy_set, bind(mutation.inputs, now=now)):
        for condition, _ in asked.conditions:
            yield (asked.exception.name, condition.name, "exception"), condition.program
    for found in trace(policy_set, bind(mutation.inputs, now=now)):
        name = found.policy.name
        for condition, _ in found.conditions:
            yield (name, condition.name, "condition"), condition.program
        for rule, said in found.rules:
            if rule.when is not None:
                yield (name, rule.name, "when"), rule.when
            if rule.message_expression is not None and said.outcome == "true":
                yield (name, rule.name, "message"), rule.message_expression
            for duty in rule.duties:
                if duty.expression is not None and said.outcome == "true":
                    yield (name, rule.name, f"obligation {duty.key}"), duty.expression


def _reached_by_admission(
    policy_set: CompiledPolicySet, mutation: NormalisedMutation, *, now: datetime
) -> Iterable[tuple[tuple[str, str, str], Program, MaybeObject]]:
    """Give what is asked of admission policies, with the parameters it is asked with; of all bindings together."""
    for found in trace_admission(policy_set, bind(mutation.inputs, now=now)):
        name = found.policy.policy
        for one in found.evaluations:
            params = one.parameter.value if one.parameter is not None else None
            for condition, _ in one.conditions:
                yield (name, condition.name, "condition"), condition.program, params
            for validation, said in one.validations:
                yield (name, validation.name, "validation"), validation.program, params
                if validation.message_expression is not None and said.outcome == "false":
                    yield (name, validation.name, "message"), validation.message_expression, params
            if all(said.outcome == "true" for _, said in one.conditions):
                for annotation in found.policy.annotations:
                    yield (name, annotation.name, "annotation"), annotation.program, params


def _with_params(inputs: JsonObject, params: MaybeObject, *, now: datetime) -> RequestBindings:
    return bind_params(bind(inputs, now=now), params)


def _times(program: Program, warm: Program, fresh: Callable[[], RequestBindings], *, rounds: int) -> Iterable[float]:
    for _ in range(rounds):
        bindings = fresh()
        _evaluate(warm, bindings)
        start = perf_counter_ns()
        _evaluate(program, bindings)
        yield (perf_counter_ns() - start) / 1000


def _evaluate(program: Program, bindings: Bindings) -> None:
    with suppress(EvaluationError):
        program.evaluate(bindings)


def _decision_times(
    policy_set: CompiledPolicySet, mutation: NormalisedMutation, *, now: datetime, rounds: int
) -> Iterable[float]:
    unused = Assumed()
    for _ in range(rounds):
        start = perf_counter_ns()
        decide(policy_set, mutation, now, unused)
        yield (perf_counter_ns() - start) / 1000
