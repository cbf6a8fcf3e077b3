"""Why a decision is what it is: everything that was asked, what each expression read and what it said."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from app.core.budgets import Assumed, Counters
from app.core.cel import Bindings, EvaluationError, ExpressionError, ResultType, bind, compile_expression
from app.core.decide import decide
from app.core.index import Rule
from app.core.masking import MASK, is_secret, masked
from app.core.types import Effect, JsonObject, Mode, NormalisedMutation, Verdict
from app.policies.document import declared_variables
from app.policies.expressions import all_variables_read, paths
from app.policies.load import Checked
from app.policies.trace import Outcome, PolicyTrace, Said, trace

# Enough to recognise a value; who needs all of it has the mutation.
VALUE_MAX_CHARS = 80
# How a value of any type is made text, from the most faithful to the least: the first that works is shown.
_SHOWING = ("'%s'.format([{}])", "string({})", "'a list or map of ' + string(size({}))")


@dataclass(frozen=True, slots=True)
class Seen:
    """A member of the input that an expression names, and its value as shown; None where it is not there."""

    path: str
    value: str | None


@dataclass(frozen=True, slots=True)
class Asked:
    """One expression that was asked; `text` is None for a rule without a condition."""

    name: str
    text: str | None
    said: Said
    seen: tuple[Seen, ...]
    variables: tuple[str, ...]
    effect: Effect | None = None


@dataclass(frozen=True, slots=True)
class Variable:
    """One variable that something asked reads: its value as shown, or why it has none."""

    name: str
    text: str
    value: str | None
    error: str | None
    seen: tuple[Seen, ...]


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
class Explanation:
    """One mutation, every policy of the set, and the verdict of the core."""

    verdict: Verdict
    policies: tuple[ExplainedPolicy, ...]


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
    texts = {
        document.policy.name: declared_variables(document.root)
        for document in checked.documents
        if document.policy is not None
    }
    shown = _Values(normalised.inputs, now)
    found = trace(checked.policy_set, shown.bindings)
    return Explanation(
        decide(checked.policy_set, normalised, now, Assumed() if counters is None else counters),
        tuple(_policy(one, texts[one.policy.name], shown) for one in found),
    )


def _policy(found: PolicyTrace, variables: Mapping[str, str], shown: "_Values") -> ExplainedPolicy:
    conditions = tuple(
        _asked(condition.name, condition.program.text, said, variables, shown) for condition, said in found.conditions
    )
    rules = tuple(_rule(rule, said, variables, shown) for rule, said in found.rules)
    read = {name for asked in (*conditions, *rules) for name in asked.variables}
    return ExplainedPolicy(
        found.policy.name,
        found.policy.mode,
        found.unmatched,
        conditions,
        tuple(shown.variable(name, variables) for name in variables if name in read),
        rules,
    )


def _rule(rule: Rule, said: Said, variables: Mapping[str, str], shown: "_Values") -> Asked:
    text = rule.when.text if rule.when is not None else None
    return _asked(rule.name, text, said, variables, shown, effect=rule.effect)


def _asked(
    name: str,
    text: str | None,
    said: Said,
    variables: Mapping[str, str],
    shown: "_Values",
    *,
    effect: Effect | None = None,
) -> Asked:
    if text is None:
        return Asked(name, None, said, (), (), effect)
    read = all_variables_read(text, variables)
    return Asked(name, text, said, shown.seen(text), tuple(n for n in variables if n in read), effect)


class _Values:
    """The values of one mutation, fit to be shown."""

    def __init__(self, inputs: JsonObject, now: datetime) -> None:
        self.inputs: Any = masked(inputs)
        self.bindings: Bindings = bind(inputs, now=now)
        self.hidden: Bindings = bind(self.inputs, now=now)

    def seen(self, text: str) -> tuple[Seen, ...]:
        """Give the members that an expression names, with their values."""
        found: list[Seen] = []
        for path in paths(text):
            there, value = path.value(self.inputs)
            found.append(Seen(str(path), _cut(json.dumps(value, ensure_ascii=False)) if there else None))
        return tuple(found)

    def variable(self, name: str, variables: Mapping[str, str]) -> Variable:
        """Give a variable with its value, masked where it holds something that is."""
        error = None
        for form in _SHOWING:
            try:
                program = compile_expression(
                    form.format(f"variables.{name}"), result=ResultType.STRING, variables=dict(variables)
                )
                real = str(program.evaluate(self.bindings))
            except ExpressionError:
                continue
            except EvaluationError as failure:
                error = error or str(failure)
                continue
            return Variable(name, variables[name], self._hide(name, real, program), None, self.seen(variables[name]))
        return Variable(name, variables[name], None, error, self.seen(variables[name]))

    def _hide(self, name: str, real: str, program: Any) -> str:
        if is_secret(name):
            return MASK
        try:
            hidden = str(program.evaluate(self.hidden))
        except EvaluationError:
            hidden = MASK
        # A truth or a number tells nothing of the secret it was made from, and the masked one would be wrong.
        plain = real in {"true", "false", "null"} or real.lstrip("-").isdigit()
        return _cut(real if plain or real == hidden else hidden)


def _cut(text: str) -> str:
    return text if len(text) <= VALUE_MAX_CHARS else text[: VALUE_MAX_CHARS - 1] + "…"


def combination(explanation: Explanation) -> str:
    """Say in a sentence how the decision follows from what the rules said."""
    spoken: dict[Effect, int] = dict.fromkeys((Effect.DENY, Effect.HOLD, Effect.ALLOW), 0)
    failed = 0
    for policy in explanation.policies:
        if policy.mode is not Mode.ENFORCE:
            continue
        outcomes = [condition.said.outcome for condition in policy.conditions]
        if Outcome.FALSE not in outcomes:
            failed += outcomes.count(Outcome.ERROR)
        for rule in policy.rules:
            if rule.said.outcome is Outcome.TRUE and rule.effect is not None:
                spoken[rule.effect] += 1
            elif rule.said.outcome is Outcome.ERROR:
                failed += 1
    parts = [f"{number} {effect}" for effect, number in spoken.items() if number]
    if failed:
        parts.append(f"{failed} failed and {'denies' if failed == 1 else 'deny'}")
    if not parts:
        return "nothing spoke, and the default is deny"
    return f"{', '.join(parts)}; deny > hold > allow, so {explanation.verdict.effect}"
