"""Steps 6 to 8: ask the policies that can match, and combine what they say. Total: any input gives a verdict.

The rule of combination, in full:

1. A policy speaks only if its `match` fits and all its `matchConditions` are true. One that is false silences it, even
   when another fails; if none is false and one fails, that failure speaks as a deny (`rule_error`).
2. Every rule of a speaking policy is evaluated. True: it asks for its effect. False: it is silent. Failed: it asks for
   deny, whatever its own effect (`rule_error`).
3. deny > hold > allow; if nothing speaks, the default is deny.
4. A policy in shadow is evaluated and its reasons are recorded, but 3 does not see it, nor its failures.

Of the reasons of a deny or a hold each says which clause decided (`app/core/cel/clauses.py`).
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any, NamedTuple

from app.core.cel import CLAUSE_STEPS_MAX, Bindings, EvaluationError, Program, bind, deciding_clause, one_line
from app.core.index import MESSAGE_MAX_CHARS, Approval, CompiledPolicySet, Policy
from app.core.types import Clause, Effect, Mode, NormalisedMutation, Outcome, Reason, Verdict

# Who speaks where no policy does; no policy can have this name.
FIREWALL = "mutation-firewall"
DEFAULT_DENY = "default-deny"
MORE_REASONS = "more-reasons"
INTERNAL_ERROR = "internal-error"
RULE_ERROR = "rule_error: "

# Beyond this nobody reads on, and a large policy set in shadow must not blow up the record.
REASONS_MAX = 16
SHADOW_REASONS_MAX = 16

_STRENGTH = (Effect.DENY, Effect.HOLD, Effect.ALLOW)


class _Spoken(NamedTuple):
    """One rule, or one condition, that had something to say.

    `asked` is the expression that made it speak and `path` where that stands; a rule without one always speaks.
    `failure` is the text it failed with.
    """

    reason: Reason
    asked: Program | None
    path: str
    failure: str | None = None
    approval: Approval | None = None

    @property
    def failed(self) -> bool:
        """Whether it speaks because it has no value."""
        return self.failure is not None


def decide(policy_set: CompiledPolicySet, normalised: NormalisedMutation, now: datetime) -> Verdict:
    """Judge one mutation under one policy set at one instant.

    `now` is aware and in UTC. Never raises: what goes wrong in here is a deny that says so, and tells no more, for an
    unknown failure may quote anything.
    """
    try:
        bindings = bind(normalised.inputs, now=now)
        spoken = [word for policy in policy_set.select(normalised.inputs) for word in _ask(policy, bindings)]
        return _combine(spoken, bindings)
    except Exception as error:  # noqa: BLE001 - total: doubt denies
        message = f"{RULE_ERROR}the policies could not be evaluated (`{type(error).__name__}`)"
        return Verdict(Effect.DENY, (Reason(FIREWALL, INTERNAL_ERROR, Effect.DENY, message),))


def _ask(policy: Policy, bindings: Bindings) -> Iterable[_Spoken]:
    """Step 7 for one policy."""
    failures: list[_Spoken] = []
    for position, condition in enumerate(policy.conditions):
        holds = _evaluate(condition.program, bindings)
        if holds is False:
            return []
        if holds is not True:
            path = f"matchConditions[{position}].expression"
            failures.append(_failure(policy, condition.name, holds, condition.program, path))
    if failures:
        return failures
    spoken: list[_Spoken] = []
    for position, (rule, reason) in enumerate(zip(policy.rules, policy.reasons, strict=True)):
        holds = True if rule.when is None else _evaluate(rule.when, bindings)
        if holds is True:
            said = reason if rule.message_expression is None else _explained(reason, rule.message_expression, bindings)
            path = f"rules[{position}]" if rule.when is None else "when"
            spoken.append(_Spoken(said, rule.when, path, approval=rule.approval))
        elif holds is not False:
            spoken.append(_failure(policy, rule.name, holds, rule.when, "when"))
    return spoken


def _evaluate(program: Program, bindings: Bindings) -> bool | str:
    """Give the truth, or the text of the failure. INVARIANT: nothing but `True` itself counts as true."""
    try:
        value = program.evaluate(bindings)
    except EvaluationError as error:
        return str(error)
    except Exception as error:  # noqa: BLE001 - one broken rule must not silence the others
        return f"`{type(error).__name__}`"
    return value if isinstance(value, bool) else "gave no bool"


def _failure(policy: Policy, name: str, text: str, asked: Program | None, path: str) -> _Spoken:
    message = one_line(f"{RULE_ERROR}{text}", MESSAGE_MAX_CHARS)
    return _Spoken(Reason(policy.name, name, Effect.DENY, message, policy.mode), asked, path, failure=text)


def _explained(reason: Reason, expression: Program, bindings: Bindings) -> Reason:
    """Give the reason with the message that the rule's expression makes, if it makes one. Never changes the effect."""
    try:
        text = one_line(str(expression.evaluate(bindings)), MESSAGE_MAX_CHARS)
    except Exception:  # noqa: BLE001 - the effect stands without its explanation
        return reason
    return Reason(reason.policy, reason.rule, reason.effect, text, reason.mode) if text else reason


def _combine(spoken: list[_Spoken], bindings: Bindings) -> Verdict:
    """Step 8. Reasons: those of the winning effect, real ones before failures, by policy and rule; then the shadows."""
    if len(spoken) > 1:
        spoken.sort(key=lambda word: (word.failed, word.reason.policy, word.reason.rule))
    enforced = [word for word in spoken if word.reason.mode is Mode.ENFORCE]
    shadows: list[Reason] = []
    if len(enforced) != len(spoken):
        shadows = _bounded([w.reason for w in spoken if w.reason.mode is not Mode.ENFORCE], SHADOW_REASONS_MAX)
    for effect in _STRENGTH:
        winning = [word for word in enforced if word.reason.effect is effect]
        if winning:
            reasons = _bounded(_with_clauses(winning, effect, bindings), REASONS_MAX)
            approval = _together(word.approval for word in winning) if effect is Effect.HOLD else None
            return Verdict(effect, (*reasons, *shadows), approval)
    inputs = bindings.inputs
    what = f"{inputs['action']['name']} of {inputs['resource']['type']} `{inputs['resource']['id']}`"
    message = one_line(f"no policy allows this {what}", MESSAGE_MAX_CHARS)
    return Verdict(Effect.DENY, (Reason(FIREWALL, DEFAULT_DENY, Effect.DENY, message), *shadows))


def _with_clauses(words: list[_Spoken], effect: Effect, bindings: Bindings) -> list[Reason]:
    """Say in each reason which clause decided; an allow is not asked why, and pays nothing for it."""
    reasons = [word.reason for word in words]
    if effect is not Effect.ALLOW:
        budget = [CLAUSE_STEPS_MAX]
        for position, word in enumerate(words[:REASONS_MAX]):
            reasons[position] = replace(word.reason, clause=_clause(word, bindings, budget))
    return reasons


def _clause(word: _Spoken, bindings: Bindings, budget: list[int]) -> Clause:
    if word.asked is None:
        return Clause(word.path, "always", 0, 0, Outcome.TRUE, {})
    return deciding_clause(word.asked, bindings, path=word.path, failure=word.failure, budget=budget)


def _bounded(reasons: list[Reason], limit: int) -> list[Reason]:
    if len(reasons) <= limit:
        return reasons
    kept, rest = reasons[: limit - 1], reasons[limit - 1 :]
    message = f"{len(rest)} more rules spoke; the record has the mutation and the policy set to ask them again"
    return [*kept, Reason(FIREWALL, MORE_REASONS, rest[0].effect, message, rest[0].mode)]


def _together(approvals: Iterable[Approval | None]) -> Mapping[str, Any]:
    """Require what every hold rule requires: all trees, the shorter of each clock."""
    required = [approval for approval in approvals if approval is not None]
    trees: list[Mapping[str, Any]] = []
    for approval in required:
        if approval.tree not in trees:
            trees.append(approval.tree)
    expires = min(required, key=lambda approval: approval.expires_after_seconds)
    execute = min(required, key=lambda approval: approval.execute_within_seconds)
    return {
        **(trees[0] if len(trees) == 1 else {"allOf": trees}),
        "expiresAfter": expires.expires_after,
        "executeWithin": execute.execute_within,
    }
