"""`mfw policies explain`: a decision as a tree of everything that was asked."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from app.cli.authoring.inputs import read_instant, read_normalised, read_policies
from app.cli.budgets import read_used
from app.cli.decide import STYLES
from app.cli.exits import ExitCode
from app.cli.output import console, plain, write_json
from app.core.types import Mode
from app.policies.explain import Asked, ExplainedPolicy, Explanation, Seen, combination, explain
from app.policies.trace import Outcome

if TYPE_CHECKING:
    from rich.tree import Tree

_OUTCOMES = {Outcome.TRUE: "bold green", Outcome.FALSE: "dim", Outcome.ERROR: "bold red"}


def run_explain(
    file: str, *, policies: Path, now: str | None, everything: bool, used: Sequence[str] = (), as_json: bool
) -> ExitCode:
    """Show why a mutation is decided as it is."""
    checked, policy_set = read_policies(policies, as_json=as_json)
    counters = read_used(used, policy_set=policy_set)
    found = explain(checked, read_normalised(file), now=read_instant(now), counters=counters)
    if as_json:
        write_json(_json(found))
    else:
        _show(found, everything=everything)
    return ExitCode.OK


def _show(found: Explanation, *, everything: bool) -> None:
    from rich.text import Text
    from rich.tree import Tree

    effect = found.verdict.effect
    root = Tree(Text(effect.value.upper(), style=STYLES[effect]))
    silent = [policy for policy in found.policies if not policy.matches]
    for policy in found.policies:
        if policy.matches:
            _policy(root, policy)
        elif everything:
            words = f"does not match: {', '.join(policy.unmatched)}"
            root.add(Text.assemble(("policy ", "dim"), (policy.name, "dim"), (f"  {words}", "dim")))
    if silent and not everything:
        root.add(Text(f"{len(silent)} more policies do not match (--all shows them)", style="dim"))
    for use in found.verdict.budgets:
        style = "green" if use.has_room else "red"
        shadow = "  shadow: decides nothing" if use.mode is Mode.SHADOW else ""
        words = f"{use.used} of {use.limit} used in {use.window}"
        root.add(
            Text.assemble(("budget ", "dim"), (f"{use.policy}/{use.budget}", "bold"), "  ", (words, style), shadow)
        )
    answer = root.add(Text.assemble(("combined: ", "bold"), combination(found)))
    for reason in found.verdict.reasons:
        shadow = " (shadow)" if reason.mode is Mode.SHADOW else ""
        answer.add(
            Text.assemble(
                (reason.effect.value, STYLES[reason.effect]),
                f"{shadow} {reason.policy}/{reason.rule}: {plain(reason.message)}",
            )
        )
    console().print(root)


def _policy(root: "Tree", policy: ExplainedPolicy) -> None:
    from rich.text import Text

    shadow = ("  shadow: decides nothing", "yellow") if policy.mode is Mode.SHADOW else ""
    speaks = all(condition.said.outcome is Outcome.TRUE for condition in policy.conditions)
    silent = "" if speaks else ("  silenced by its conditions", "dim")
    node = root.add(Text.assemble(("policy ", "dim"), (policy.name, "bold"), "  matches", shadow, silent))
    for condition in policy.conditions:
        _asked(node, "condition", condition)
    for variable in policy.variables:
        value = ("= " + plain(variable.value), "") if variable.value is not None else ("no value", "yellow")
        why = f": {plain(variable.error)}" if variable.error else ""
        line = node.add(Text.assemble(("variable ", "dim"), variable.name, " ", value, why))
        line.add(Text(_flat(variable.text), style="cyan"))
        _seen(line, variable.seen)
    for rule in policy.rules:
        _asked(node, "rule", rule)


def _asked(node: "Tree", what: str, asked: Asked) -> None:
    from rich.text import Text

    outcome = asked.said.outcome
    effect = (f"  {asked.effect}", STYLES[asked.effect]) if asked.effect and outcome is Outcome.TRUE else ""
    error = (f": {plain(asked.said.error)}", "red") if asked.said.error else ""
    line = node.add(
        Text.assemble((f"{what} ", "dim"), asked.name, "  ", (outcome.value, _OUTCOMES[outcome]), error, effect)
    )
    line.add(Text(_flat(asked.text) if asked.text is not None else "always", style="cyan"))
    _seen(line, asked.seen)


def _seen(node: "Tree", seen: tuple[Seen, ...]) -> None:
    from rich.text import Text

    for one in seen:
        value = plain(one.value) if one.value is not None else "is not there"
        node.add(Text.assemble((f"{one.path} ", "dim"), (value, "" if one.value is not None else "yellow")))


def _flat(text: str) -> str:
    return plain(" ".join(text.split()))


def _json(found: Explanation) -> dict[str, object]:
    return {
        "decision": found.verdict.effect.value,
        "combination": combination(found),
        "reasons": [
            {
                "policy": reason.policy,
                "rule": reason.rule,
                "effect": reason.effect.value,
                "mode": reason.mode.value,
                "message": reason.message,
            }
            for reason in found.verdict.reasons
        ],
        "budgets": [
            {"policy": use.policy, "budget": use.budget, "used": use.used, "limit": use.limit, "window": use.window}
            for use in found.verdict.budgets
        ],
        "policies": [
            {
                "name": policy.name,
                "mode": policy.mode.value,
                "matches": policy.matches,
                "unmatched": list(policy.unmatched),
                "conditions": [_asked_json(asked) for asked in policy.conditions],
                "variables": [
                    {
                        "name": variable.name,
                        "expression": variable.text,
                        "value": variable.value,
                        "error": variable.error,
                        "reads": {one.path: one.value for one in variable.seen},
                    }
                    for variable in policy.variables
                ],
                "rules": [_asked_json(asked) for asked in policy.rules],
            }
            for policy in found.policies
        ],
    }


def _asked_json(asked: Asked) -> dict[str, object]:
    return {
        "name": asked.name,
        **({"effect": asked.effect.value} if asked.effect else {}),
        "expression": asked.text,
        "outcome": asked.said.outcome.value,
        "error": asked.said.error,
        "reads": {one.path: one.value for one in asked.seen},
    }
