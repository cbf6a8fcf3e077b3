"""What every policy and every rule says about one mutation: `app.core.decide` without the combination.

For tests of policies, coverage, explanations and measurements. The decision itself always comes from the core.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import assert_never

from app.core.cel import Bindings, EvaluationError, Program
from app.core.index import CompiledPolicySet, Condition, Match, Policy, Rule
from app.core.types import JsonObject
from app.core.validity import Phase


class Outcome(StrEnum):
    """What an expression said."""

    TRUE = "true"
    FALSE = "false"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Said:
    """One expression asked; `error` is the text of its failure."""

    outcome: Outcome
    error: str | None = None


@dataclass(frozen=True, slots=True)
class PolicyTrace:
    """One policy asked.

    `unmatched` names the members of `match` that do not fit (`actions`, `resources`, `subjects`, and `exclude` where it
    takes the mutation out); only where it is empty were the conditions asked, and only where those are all true the
    rules.
    """

    policy: Policy
    unmatched: tuple[str, ...]
    conditions: tuple[tuple[Condition, Said], ...] = ()
    rules: tuple[tuple[Rule, Said], ...] = ()


def trace(policy_set: CompiledPolicySet, bindings: Bindings) -> tuple[PolicyTrace, ...]:
    """Ask every policy of a set, by name, the ones that do not match among them."""
    return tuple(_trace(policy, bindings) for policy in policy_set.policies)


def _trace(policy: Policy, bindings: Bindings) -> PolicyTrace:
    unmatched = _unmatched(policy.match, bindings.inputs) + _outside(policy, bindings.now)
    if unmatched:
        return PolicyTrace(policy, unmatched)
    conditions = tuple((condition, ask(condition.program, bindings)) for condition in policy.conditions)
    if any(said.outcome is not Outcome.TRUE for _, said in conditions):
        return PolicyTrace(policy, (), conditions)
    rules = tuple((rule, _ask(rule, bindings)) for rule in policy.rules)
    return PolicyTrace(policy, (), conditions, rules)


def _ask(rule: Rule, bindings: Bindings) -> Said:
    """Ask a rule, or a freeze, which is silent outside of its windows."""
    if rule.window is not None and rule.window.end(bindings.now) is None:
        return Said(Outcome.FALSE)
    return ask(rule.when, bindings)


def ask(program: Program | None, bindings: Bindings) -> Said:
    """Evaluate a condition; None is always true, as for a rule without `when`."""
    if program is None:
        return Said(Outcome.TRUE)
    try:
        value = program.evaluate(bindings)
    except EvaluationError as error:
        return Said(Outcome.ERROR, str(error))
    return Said(Outcome.TRUE if value is True else Outcome.FALSE)


def _outside(policy: Policy, now: datetime) -> tuple[str, ...]:
    match policy.validity.phase(now):
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
