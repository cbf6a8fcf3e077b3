"""Why a decision is what it is: everything that was asked, what each expression read and what it said."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from app.core.budgets import Assumed, Counters
from app.core.cel import SeenSite, bind
from app.core.decide import RULE_ERROR, decide
from app.core.index import Rule
from app.core.lifting import Lifting
from app.core.types import Effect, Json, Mode, NormalisedMutation, Outcome, Verdict
from app.policies.load import Checked
from app.policies.trace import (
    AdmissionTrace,
    ExceptionTrace,
    PolicyTrace,
    Said,
    trace,
    trace_admission,
    trace_exceptions,
    variables,
)


@dataclass(frozen=True, slots=True)
class Asked:
    """One expression that was asked, with what its boolean parts said and saw.

    `text` is None for a rule without a condition. `freeze` says of a freeze when it is, and
    whether it is open.
    """

    name: str
    text: str | None
    said: Said
    effect: Effect | None = None
    freeze: str | None = None

    @property
    def sites(self) -> tuple[SeenSite, ...]:
        """The boolean parts, the whole first; there are none where the rule was silent without being asked."""
        return self.said.trace.sites_seen() if self.said.trace is not None else ()


@dataclass(frozen=True, slots=True)
class Variable:
    """One variable that was evaluated: its value as shown, or why it has none."""

    name: str
    text: str
    value: Json
    error: str | None
    sites: tuple[SeenSite, ...]


@dataclass(frozen=True, slots=True)
class ExplainedPolicy:
    """One policy; `spoke` if its rules were asked."""

    name: str
    mode: Mode
    unmatched: tuple[str, ...]
    conditions: tuple[Asked, ...]
    variables: tuple[Variable, ...]
    rules: tuple[Asked, ...]

    @property
    def matches(self) -> bool:
        """Whether its `match` fits."""
        return not self.unmatched


@dataclass(frozen=True, slots=True)
class ExplainedException:
    """One exception; `lifts` names the rules that spoke and do not count for it, as `POLICY/RULE`."""

    name: str
    fits: bool
    unmatched: tuple[str, ...]
    conditions: tuple[Asked, ...]
    lifts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ExplainedEvaluation:
    """One evaluation of an admission policy; `parameter` names its parameter object, None where it has none."""

    parameter: str | None
    conditions: tuple[Asked, ...]
    validations: tuple[Asked, ...]


@dataclass(frozen=True, slots=True)
class ExplainedAdmission:
    """One admission policy under one binding; `fits` is None where its match could not be told."""

    policy: str
    binding: str
    actions: tuple[str, ...]
    fits: bool | None
    evaluations: tuple[ExplainedEvaluation, ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """One mutation, every policy and every exception of the set, and the verdict of the core."""

    verdict: Verdict
    policies: tuple[ExplainedPolicy, ...]
    exceptions: tuple[ExplainedException, ...] = ()
    admission: tuple[ExplainedAdmission, ...] = ()


def explain(
    checked: Checked, normalised: NormalisedMutation, *, now: datetime, counters: Counters | None = None
) -> Explanation:
    """Explain one decision. `checked` has a policy set; nothing here changes or decides anything.

    `counters` say how much of which budget is used: nothing, unless they are given.

    Raises:
        ValueError: the set was refused.
    """
    if checked.policy_set is None:
        raise ValueError("a set that was refused decides nothing")
    bindings = bind(normalised.inputs, now=now)
    found = trace(checked.policy_set, bindings)
    lifting = Lifting(checked.policy_set, bindings)
    lifted: dict[str, list[str]] = {}
    for policy, name in _words(found):
        if (exception := lifting.exception(policy, name)) is not None:
            lifted.setdefault(exception, []).append(f"{policy}/{name}")
    return Explanation(
        decide(checked.policy_set, normalised, now, Assumed() if counters is None else counters),
        tuple(_policy(one, now) for one in found),
        tuple(_exception(one, lifted) for one in trace_exceptions(checked.policy_set, bindings)),
        tuple(_admission(one) for one in trace_admission(checked.policy_set, bindings)),
    )


def _admission(found: AdmissionTrace) -> ExplainedAdmission:
    evaluations = [
        ExplainedEvaluation(
            None if (own := one.parameter) is None else "/".join(filter(None, (own.namespace, own.name))),
            tuple(Asked(condition.name, condition.program.text, said) for condition, said in one.conditions),
            tuple(Asked(validation.name, validation.program.text, said) for validation, said in one.validations),
        )
        for one in found.evaluations
    ]
    policy = found.policy
    actions = tuple(str(action) for action in policy.actions)
    return ExplainedAdmission(policy.policy, policy.binding, actions, found.fits, tuple(evaluations))


def _words(found: Iterable[PolicyTrace]) -> Iterator[tuple[str, str]]:
    """The names of what asks for something: rules that are not silent, and conditions that silence nothing but fail."""
    for one in found:
        outcomes = [said.outcome for _, said in one.conditions]
        if Outcome.FALSE not in outcomes:
            for condition, said in one.conditions:
                if said.outcome is Outcome.ERROR:
                    yield one.policy.name, condition.name
            for rule, said in one.rules:
                if said.outcome is not Outcome.FALSE:
                    yield one.policy.name, rule.name


def _exception(found: ExceptionTrace, lifted: Mapping[str, list[str]]) -> ExplainedException:
    lifts = lifted.get(found.exception.name, [])
    conditions = tuple(Asked(one.name, one.program.text, said) for one, said in found.conditions)
    return ExplainedException(found.exception.name, found.fits, found.unmatched, conditions, tuple(lifts))


def _policy(found: PolicyTrace, now: datetime) -> ExplainedPolicy:
    return ExplainedPolicy(
        found.policy.name,
        found.policy.mode,
        found.unmatched,
        tuple(Asked(condition.name, condition.program.text, said) for condition, said in found.conditions),
        tuple(_variables(found)),
        tuple(
            Asked(rule.name, rule.when.text if rule.when is not None else None, said, rule.effect, _freeze(rule, now))
            for rule, said in found.rules
        ),
    )


def _freeze(rule: Rule, now: datetime) -> str | None:
    if rule.window is None:
        return None
    end = rule.window.end(now)
    state = "not open" if end is None else f"open until {end.isoformat().replace('+00:00', 'Z')}"
    return f"`{rule.window.schedule}` {rule.window.time_zone}: {state}"


def _variables(found: PolicyTrace) -> Iterator[Variable]:
    """Give the variables that were evaluated on the way, in the order of their declaration."""
    seen = {one.name: one for trace in found.asked.values() for one in trace.variables_seen()}
    for path, declared in variables(found.policy).items():
        if (one := seen.get(declared.name)) is not None:
            trace = found.asked.get(path)
            sites = trace.sites_seen() if trace is not None else ()
            yield Variable(declared.name, declared.source.text, one.value, one.error, sites)


def combination(explanation: Explanation) -> str:
    """Say in a sentence how the decision follows from what the rules said."""
    spoken: dict[Effect, int] = dict.fromkeys((Effect.DENY, Effect.HOLD, Effect.ALLOW), 0)
    failed = 0
    lifted = {name for exception in explanation.exceptions for name in exception.lifts}
    for policy in explanation.policies:
        if policy.mode is not Mode.ENFORCE:
            continue
        outcomes = {condition.name: condition.said.outcome for condition in policy.conditions}
        if Outcome.FALSE not in outcomes.values():
            failed += sum(
                outcome is Outcome.ERROR and f"{policy.name}/{name}" not in lifted for name, outcome in outcomes.items()
            )
        for rule in policy.rules:
            if f"{policy.name}/{rule.name}" in lifted:
                continue
            if rule.said.outcome is Outcome.TRUE and rule.effect is not None:
                spoken[rule.effect] += 1
            elif rule.said.outcome is Outcome.ERROR:
                failed += 1
    for reason in explanation.verdict.reasons:
        if reason.binding is not None and reason.mode is Mode.ENFORCE and reason.exception is None:
            if reason.message.startswith(RULE_ERROR):
                failed += 1
            else:
                spoken[reason.effect] += 1
    exhausted = sum(
        use.mode is Mode.ENFORCE and not use.has_room and f"{use.policy}/{use.budget}" not in lifted
        for use in explanation.verdict.budgets
    )
    parts = [f"{number} {effect}" for effect, number in spoken.items() if number]
    if exhausted:
        parts.append(f"{exhausted} used up")
    if failed:
        parts.append(f"{failed} failed and {'denies' if failed == 1 else 'deny'}")
    if lifted:
        parts.append(f"{len(lifted)} lifted by exceptions")
    if not any(spoken.values()) and not failed and not exhausted:
        what = f"nothing counts, {', '.join(parts)}," if lifted else "nothing spoke,"
        return f"{what} and the default is deny"
    return f"{', '.join(parts)}; deny > hold > allow, so {explanation.verdict.effect}"
