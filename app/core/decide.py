"""Steps 6 to 8: ask the policies that can match, and combine what they say. Total: any input gives a verdict.

The rule of combination, in full:

1. A policy speaks only while it is valid, if its `match` fits and all its `matchConditions` are true. One that is false
   silences it, even when another fails; if none is false and one fails, that failure speaks as a deny (`rule_error`).
2. Every rule of a speaking policy is evaluated, and every freeze whose window is open. True: it asks for its effect.
   False: it is silent. Failed: it asks for deny, whatever its own effect (`rule_error`).
3. deny > hold > allow; if nothing speaks, the default is deny.
4. A policy in shadow is evaluated and its reasons are recorded, but 3 does not see it, nor its failures.
5. The obligations of all rules that won are in the verdict. A rule that allows or holds and whose obligation cannot be
   computed has failed (2); one that denies speaks without it.
6. A budget of a speaking policy that this mutation would use, and that has no room, asks for its effect like a rule.
   One that nobody counted asks for deny, unless a policy denies anyway: it could not change that, and is left out.
7. Each reason of a deny or a hold says which clause decided (`app/core/cel/clauses.py`).
8. What denies or holds, failures among it, does not count where an exception that fits names it; the failure of a rule
   that allows does, and the default is nobody's to lift.
9. A ValidatingAdmissionPolicy only denies: `app.core.admission.asking` says when.
10. A kill switch that denies does so before any policy is asked. One that puts a policy into shadow makes 4 hold for
    it; the verdict says so wherever that policy had something to say.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, NamedTuple

from app.core.admission.asking import Heard, ask_admission
from app.core.budgets import NOT_COUNTED, Counters, concerned, counted, exhausted_message
from app.core.cel import (
    CLAUSE_STEPS_MAX,
    Authorizer,
    Bindings,
    EvaluationError,
    Program,
    RequestBindings,
    bind,
    deciding_clause,
    metered,
    one_line,
    truth,
)
from app.core.index import MESSAGE_MAX_CHARS, AnyPolicy, Approval, Budget, CompiledPolicySet, Duty, Policy, Rule
from app.core.lifting import Lifting
from app.core.switches import Switch, SwitchKind, denying, shadowed
from app.core.types import (
    BudgetUse,
    Clause,
    Effect,
    Json,
    Mode,
    NormalisedMutation,
    Obligation,
    Outcome,
    Reason,
    Verdict,
)
from app.core.validity import ALWAYS, Phase

# Who speaks where no policy does; no policy can have this name.
FIREWALL = "mutation-firewall"
DEFAULT_DENY = "default-deny"
MORE_REASONS = "more-reasons"
INTERNAL_ERROR = "internal-error"
TOO_MANY_OBLIGATIONS = "too-many-obligations"
# The rules under which the firewall speaks of kill switches.
SWITCH_DENY_ALL = "switch-deny-all"
SWITCH_DENY_SUBJECT = "switch-deny-subject"
SWITCH_SHADOW = "switch-shadow"
RULE_ERROR = "rule_error: "

# Beyond this nobody reads on, and a large policy set in shadow must not blow up the record.
REASONS_MAX = 16
SHADOW_REASONS_MAX = 16
LIFTED_REASONS_MAX = 16
SWITCH_REASONS_MAX = 16
# Each has up to 4 KiB, and every one of them has to be met: none may be left out of an allow.
OBLIGATIONS_MAX = 64

_STRENGTH = (Effect.DENY, Effect.HOLD, Effect.ALLOW)


class _Spoken(NamedTuple):
    """One rule, or one condition, that had something to say.

    `asked` is the expression that made it speak, and `path` where that stands; what speaks without one has its clause,
    or always speaks. `failure` is the text it failed with. `violated` is there for a validation of an admission policy,
    which speaks because `asked` is false: the values it was asked with.
    """

    reason: Reason
    asked: Program | Clause | None
    path: str
    failure: str | None = None
    approval: Approval | None = None
    uncounted: bool = False
    obligations: tuple[Obligation, ...] = ()
    violated: RequestBindings | None = None

    @property
    def failed(self) -> bool:
        """Whether it speaks because it has no value."""
        return self.failure is not None


class _Meter(NamedTuple):
    """What is known of budgets, and those that were asked for on the way."""

    counters: Counters
    uses: list[BudgetUse]


def decide(
    policy_set: CompiledPolicySet,
    normalised: NormalisedMutation,
    now: datetime,
    counters: Counters = NOT_COUNTED,
    switches: Sequence[Switch] = (),
    authorizer: Authorizer | None = None,
) -> Verdict:
    """Judge one mutation under one policy set at one instant.

    `now` is aware and in UTC. `counters` say how much of each budget is used, counted for the uses that a verdict
    without them names (`Verdict.uncounted`): one that is not there denies. `switches` are the kill switches in force.
    `authorizer` answers for policies that were loaded to ask one: its answers are inputs, so whoever gives one records
    them with the decision.
    Never raises: what goes wrong in here is a deny that says so, and tells no more, for an unknown failure may quote
    anything.
    """
    try:
        if switches and (switch := denying(switches, normalised.inputs["subject"]["id"], now)) is not None:
            return Verdict(Effect.DENY, (_switched_off(switch),))
        bindings = bind(normalised.inputs, now=now, authorizer=authorizer)
        meter, heard = _Meter(counters, []), Heard()
        candidates = policy_set.select(normalised.inputs)
        spoken = [word for policy in candidates for word in _ask(policy, bindings, meter, heard)]
        if policy_set.exceptions:
            spoken = _lifted(spoken, Lifting(policy_set, bindings))
        silenced = _silenced(spoken, meter, shadowed(switches, now)) if switches else ()
        verdict = _metered(spoken, bindings, meter.uses) if meter.uses else _combine(spoken, bindings)
        if silenced:
            verdict = verdict._replace(reasons=(*verdict.reasons, *silenced))
        return _noted(verdict, heard)
    except Exception as error:  # noqa: BLE001 - total: doubt denies
        message = f"{RULE_ERROR}the policies could not be evaluated (`{type(error).__name__}`)"
        return Verdict(Effect.DENY, (Reason(FIREWALL, INTERNAL_ERROR, Effect.DENY, message),))


def _switched_off(switch: Switch) -> Reason:
    """Say that people turned this off. Why stands in the ledger: it is not for whom the switch is thrown against."""
    if switch.kind is SwitchKind.DENY_ALL:
        rule, what = SWITCH_DENY_ALL, "every mutation is denied"
    else:
        rule, what = SWITCH_DENY_SUBJECT, "every mutation that this subject asks for is denied"
    return Reason(FIREWALL, rule, Effect.DENY, f"{what} {switch.ends}, by kill switch `{switch.id}`")


def _silenced(spoken: list[_Spoken], meter: _Meter, switches: Mapping[str, Switch]) -> tuple[Reason, ...]:
    """Put into shadow what these policies said, where it stands, and give the firewall's word for each that it changed.

    That word has the strongest effect that was silenced.
    """
    strongest: dict[str, Effect] = {}
    for position, word in enumerate(spoken):
        reason = word.reason
        if reason.policy in switches and reason.mode is Mode.ENFORCE:
            spoken[position] = word._replace(reason=replace(reason, mode=Mode.SHADOW))
            # What an exception lifts did not count anyway.
            if reason.exception is None:
                known = strongest.get(reason.policy, reason.effect)
                strongest[reason.policy] = min(known, reason.effect, key=_STRENGTH.index)
    meter.uses[:] = [use._replace(mode=Mode.SHADOW) if use.policy in switches else use for use in meter.uses]
    return tuple(
        [
            Reason(
                FIREWALL,
                SWITCH_SHADOW,
                effect,
                f"policy `{policy}` is in shadow {switches[policy].ends}, by kill switch `{switches[policy].id}`",
                Mode.SHADOW,
            )
            for policy, effect in sorted(strongest.items())[:SWITCH_REASONS_MAX]
        ]
    )


def _noted(verdict: Verdict, heard: Heard) -> Verdict:
    """Add what admission policies say beside the decision, if they do."""
    if not heard.notes:
        return verdict
    return verdict._replace(warnings=heard.bounded_warnings(), annotations=heard.all_annotations())


def _metered(spoken: list[_Spoken], bindings: Bindings, uses: list[BudgetUse]) -> Verdict:
    """Combine where budgets have a say. Those that nobody counted are left out where that cannot change the effect."""
    known = [use for use in uses if use.used is not None]
    if len(known) != len(uses):
        without = _combine([word for word in spoken if not word.uncounted], bindings)
        # A default deny may still become a hold.
        if without.effect is Effect.DENY and without.reasons[0].policy != FIREWALL:
            return without._replace(budgets=tuple(known))
    return _combine(spoken, bindings)._replace(budgets=tuple(uses))


def _ask(policy: AnyPolicy, bindings: RequestBindings, meter: _Meter, heard: Heard) -> Iterable[_Spoken]:
    """Step 7 for one policy."""
    if not isinstance(policy, Policy):
        return [
            _Spoken(word.reason, word.asked, word.path, failure=word.failure, violated=word.bindings)
            for word in ask_admission(policy, bindings, heard)
        ]
    if policy.validity is not ALWAYS and policy.validity.phase(bindings.now) is not Phase.CURRENT:
        return []
    if policy.metered:
        bindings = metered(bindings)
    truths = _at_once(policy, bindings)
    if truths is not None and not truths:
        return []
    failures: list[_Spoken] = []
    for position, condition in enumerate(policy.conditions if truths is None else ()):
        holds = truth(condition.program, bindings)
        if holds is False:
            return []
        if holds is not True:
            path = f"matchConditions[{position}].expression"
            failures.append(_failure(policy, condition.name, holds, condition.program, path))
    if failures:
        return failures
    spoken: list[_Spoken] = []
    for position, (rule, reason) in enumerate(zip(policy.rules, policy.reasons, strict=True)):
        frozen = None if rule.window is None else rule.window.end(bindings.now)
        if rule.window is not None and frozen is None:
            continue
        holds = _holds(rule, bindings) if truths is None else truths[position]
        if holds is True:
            if frozen is not None:
                asked = _open_window(policy, position, bindings) if rule.when is None else rule.when
                spoken.append(_Spoken(_frozen(reason, frozen), asked, "when", approval=rule.approval))
                continue
            said = reason if rule.message_expression is None else _explained(reason, rule.message_expression, bindings)
            path = f"rules[{position}]" if rule.when is None else "when"
            word = _Spoken(said, rule.when, path, approval=rule.approval)
            spoken.append(word if not rule.duties else _obliging(word, policy, rule, bindings))
        elif holds is not False:
            spoken.append(_failure(policy, rule.name, holds, rule.when, "when"))
    for position, budget in enumerate(policy.budgets):
        limited = _budget(policy, budget, bindings, meter, path=f"budgets[{position}]")
        if limited is not None:
            spoken.append(limited)
    return spoken


def _at_once(policy: Policy, bindings: RequestBindings) -> Sequence[bool] | None:
    """Give what the rules of a policy say, nothing if it is silent; None if it must be asked one by one."""
    if policy.at_once is None:
        return None
    try:
        return policy.at_once(bindings)
    except Exception:  # noqa: BLE001 - which expression failed, and how, is found out one by one
        return None


def _holds(rule: Rule, bindings: Bindings) -> bool | str:
    """Give the truth of a rule, or the text of its failure."""
    return True if rule.when is None else truth(rule.when, bindings)


def _budget(policy: Policy, budget: Budget, bindings: Bindings, meter: _Meter, *, path: str) -> _Spoken | None:
    """Ask one budget: it is silent while there is room."""
    holds = True if budget.when is None else truth(budget.when, bindings)
    if holds is False:
        return None
    if holds is not True:
        return _failure(policy, budget.name, holds, budget.when, f"{path}.when")
    limit = f"{budget.limit} in {budget.window}"
    unknown = Clause(path, limit, 0, 0, Outcome.ERROR, {})
    try:
        use = counted(concerned(policy, budget, bindings), meter.counters)
    except EvaluationError as error:
        return _failure(policy, budget.name, str(error), unknown, path)
    except Exception as error:  # noqa: BLE001 - as for a rule
        return _failure(policy, budget.name, f"`{type(error).__name__}`", unknown, path)
    meter.uses.append(use)
    if use.has_room:
        return None
    if use.used is None:
        word = _failure(policy, budget.name, "how much of this budget is used is not known", unknown, path)
        return word._replace(uncounted=True)
    reason = Reason(policy.name, budget.name, budget.effect, exhausted_message(budget, use), policy.mode)
    exhausted = Clause(path, limit, 0, 0, Outcome.TRUE, {"used": use.used})
    return _Spoken(reason, exhausted, path, approval=budget.approval)


def _obliging(word: _Spoken, policy: Policy, rule: Rule, bindings: Bindings) -> _Spoken:
    """Give what a rule said with its obligations, or its failure to say which they are."""
    found: list[Obligation] = []
    for position, duty in enumerate(rule.duties):
        try:
            value = _value(duty, bindings)
        except Exception as error:  # noqa: BLE001 - as for every expression
            if rule.effect is Effect.DENY:
                continue
            text = str(error) if isinstance(error, EvaluationError) else f"`{type(error).__name__}`"
            path = f"obligations[{position}].valueExpression"
            said = f"the obligation `{duty.key}` has no value: {text}"
            return _failure(policy, rule.name, said, duty.expression, path)._replace(failure=text)
        found.append(Obligation(policy.name, rule.name, duty.key, value))
    return word._replace(obligations=tuple(found))


def _value(duty: Duty, bindings: Bindings) -> Json:
    return duty.value if duty.expression is None else duty.expression.evaluate(bindings)


def _failure(policy: Policy, name: str, text: str, asked: Program | Clause | None, path: str) -> _Spoken:
    message = one_line(f"{RULE_ERROR}{text}", MESSAGE_MAX_CHARS)
    return _Spoken(Reason(policy.name, name, Effect.DENY, message, policy.mode), asked, path, failure=text)


def _open_window(policy: Policy, position: int, bindings: Bindings) -> Clause:
    """Say which freeze a policy is in. Its freezes stand behind its rules."""
    window = policy.rules[position].window
    path = f"freezes[{position - sum(rule.window is None for rule in policy.rules)}].schedule"
    text = f"{window.schedule} {window.time_zone}" if window is not None else ""
    return Clause(path, text, 1, 1, Outcome.TRUE, {"now": _instant(bindings.now)})


def _explained(reason: Reason, expression: Program, bindings: Bindings) -> Reason:
    """Give the reason with the message that the rule's expression makes, if it makes one. Never changes the effect."""
    try:
        text = one_line(str(expression.evaluate(bindings)), MESSAGE_MAX_CHARS)
    except Exception:  # noqa: BLE001 - the effect stands without its explanation
        return reason
    return Reason(reason.policy, reason.rule, reason.effect, text, reason.mode) if text else reason


def _frozen(reason: Reason, end: datetime) -> Reason:
    """Give the reason of a freeze with what its reader wants to know: when to come back."""
    until = f"; the window ends at {_instant(end)}"
    message = one_line(reason.message, MESSAGE_MAX_CHARS - len(until)) + until
    return Reason(reason.policy, reason.rule, reason.effect, message, reason.mode)


def _instant(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


def _lifted(spoken: list[_Spoken], lifting: Lifting) -> list[_Spoken]:
    """Mark what exceptions lift. A policy in shadow is marked too: it shows what it would do."""
    return [
        word._replace(reason=replace(word.reason, exception=name))
        if word.reason.effect is not Effect.ALLOW
        and (name := lifting.exception(word.reason.policy, word.reason.rule)) is not None
        else word
        for word in spoken
    ]


def _combine(spoken: list[_Spoken], bindings: Bindings) -> Verdict:
    """Step 8. Reasons: those of the winning effect, real ones before failures, by policy and rule; then what exceptions
    lifted, then the shadows.
    """
    if len(spoken) > 1:
        spoken.sort(key=lambda word: (word.failed, word.reason.policy, word.reason.rule))
    enforced = [word for word in spoken if word.reason.mode is Mode.ENFORCE and word.reason.exception is None]
    silent: list[Reason] = []
    if len(enforced) != len(spoken):
        shadows = [w.reason for w in spoken if w.reason.mode is not Mode.ENFORCE]
        lifted = [w.reason for w in spoken if w.reason.mode is Mode.ENFORCE and w.reason.exception is not None]
        silent = [*_bounded(lifted, LIFTED_REASONS_MAX), *_bounded(shadows, SHADOW_REASONS_MAX)]
    for effect in _STRENGTH:
        winning = [word for word in enforced if word.reason.effect is effect]
        if winning:
            reasons = _bounded(_with_clauses(winning, effect, bindings), REASONS_MAX)
            approval = _together(word.approval for word in winning) if effect is Effect.HOLD else None
            obligations = tuple([obligation for word in winning for obligation in word.obligations])
            if len(obligations) > OBLIGATIONS_MAX:
                if effect is not Effect.DENY:
                    message = f"{effect} with {len(obligations)} obligations, and {OBLIGATIONS_MAX} are the most"
                    denial = Reason(FIREWALL, TOO_MANY_OBLIGATIONS, Effect.DENY, message)
                    return Verdict(Effect.DENY, (denial, *silent))
                obligations = obligations[:OBLIGATIONS_MAX]
            return Verdict(effect, (*reasons, *silent), approval, obligations)
    inputs = bindings.inputs
    what = f"{inputs['action']['name']} of {inputs['resource']['type']} `{inputs['resource']['id']}`"
    message = one_line(f"no policy allows this {what}", MESSAGE_MAX_CHARS)
    return Verdict(Effect.DENY, (Reason(FIREWALL, DEFAULT_DENY, Effect.DENY, message), *silent))


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
    if isinstance(word.asked, Clause):
        return word.asked
    return deciding_clause(
        word.asked,
        bindings if word.violated is None else word.violated,
        path=word.path,
        failure=word.failure,
        budget=budget,
        holds=word.violated is None,
    )


def _bounded(reasons: list[Reason], limit: int) -> list[Reason]:
    if len(reasons) <= limit:
        return reasons
    kept, rest = reasons[: limit - 1], reasons[limit - 1 :]
    message = f"{len(rest)} more rules spoke; the record has the mutation and the policy set to ask them again"
    return [*kept, replace(rest[0], policy=FIREWALL, rule=MORE_REASONS, message=message, clause=None)]


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
