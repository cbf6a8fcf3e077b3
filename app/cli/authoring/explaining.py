"""`mfw policies explain`: a decision as a tree of everything that was asked."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from app.cli.authoring.inputs import read_instant, read_normalised, read_policies
from app.cli.budgets import read_used
from app.cli.decide import STYLES
from app.cli.exits import ExitCode
from app.cli.output import console, plain, write_json
from app.core.cel import ABSENT, Form, SeenSite
from app.core.reasons import reason_members
from app.core.types import Json, Mode, Outcome
from app.policies.explain import (
    Asked,
    ExplainedAdmission,
    ExplainedException,
    ExplainedPolicy,
    Explanation,
    combination,
    explain,
)

if TYPE_CHECKING:
    from rich.tree import Tree

_MARKS = {
    Outcome.TRUE: ("✓", "bold green"),
    Outcome.FALSE: ("✗", "red"),
    Outcome.ERROR: ("!", "bold red"),
    None: ("·", "dim"),
}
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
    for exception in found.exceptions:
        if exception.fits or exception.conditions or everything:
            _exception(root, exception)
    for admission in found.admission:
        if admission.fits is not False or everything:
            _admission(root, admission)
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
        if reason.exception is not None:
            shadow += f" (lifted by {reason.exception})"
        answer.add(
            Text.assemble(
                (reason.effect.value, STYLES[reason.effect]),
                f"{shadow} {reason.policy}/{reason.rule}: {plain(reason.message)}",
            )
        )
    for one in found.verdict.obligations:
        words = f"{plain(one.key)} = {_value(one.value)}  by {one.policy}/{one.rule}"
        answer.add(Text.assemble(("obligation ", "dim"), words))
    for warning in found.verdict.warnings:
        answer.add(Text.assemble(("warning ", "yellow"), plain(warning)))
    for key, value in found.verdict.annotations.items():
        answer.add(Text.assemble(("annotation ", "dim"), f"{plain(key)}: {plain(value)}"))
    console().print(root)


def _admission(root: "Tree", admission: ExplainedAdmission) -> None:
    from rich.text import Text

    matched = {True: "matches", False: "does not match", None: "cannot be matched"}[admission.fits]
    words = f"  {matched}  {', '.join(admission.actions)}"
    name = f"{admission.policy}/{admission.binding}"
    node = root.add(Text.assemble(("admission policy ", "dim"), (name, "bold"), words))
    for one in admission.evaluations:
        inner = node
        if one.parameter is not None:
            inner = node.add(Text.assemble(("with ", "dim"), plain(one.parameter)))
        for condition in one.conditions:
            _asked(inner, "condition", condition)
        for validation in one.validations:
            _asked(inner, "validation", validation)


def _exception(root: "Tree", exception: ExplainedException) -> None:
    from rich.text import Text

    if exception.unmatched:
        words = f"does not match: {', '.join(exception.unmatched)}"
    elif not exception.fits:
        words = "lifts nothing: a condition is not true"
    else:
        words = f"lifts {', '.join(exception.lifts)}" if exception.lifts else "has nothing to lift"
    node = root.add(Text.assemble(("exception ", "dim"), (exception.name, "bold"), f"  {words}"))
    for condition in exception.conditions:
        _asked(node, "condition", condition)


def _policy(root: "Tree", policy: ExplainedPolicy) -> None:
    from rich.text import Text

    shadow = ("  shadow: decides nothing", "yellow") if policy.mode is Mode.SHADOW else ""
    speaks = all(condition.said.outcome is Outcome.TRUE for condition in policy.conditions)
    silent = "" if speaks else ("  silenced by its conditions", "dim")
    node = root.add(Text.assemble(("policy ", "dim"), (policy.name, "bold"), "  matches", shadow, silent))
    for condition in policy.conditions:
        _asked(node, "condition", condition)
    for variable in policy.variables:
        value = ("= " + _value(variable.value), "") if variable.error is None else ("no value", "yellow")
        why = f": {plain(variable.error)}" if variable.error else ""
        line = node.add(Text.assemble(("variable ", "dim"), variable.name, " ", value, why))
        _sites(line, variable.sites)
    for rule in policy.rules:
        _asked(node, "rule" if rule.freeze is None else "freeze", rule)


def _asked(node: "Tree", what: str, asked: Asked) -> None:
    from rich.text import Text

    outcome = asked.said.outcome
    effect = (f"  {asked.effect}", STYLES[asked.effect]) if asked.effect and outcome is Outcome.TRUE else ""
    error = (f": {plain(asked.said.error)}", "red") if asked.said.error else ""
    line = node.add(
        Text.assemble((f"{what} ", "dim"), asked.name, "  ", (outcome.value, _OUTCOMES[outcome]), error, effect)
    )
    if asked.freeze is not None:
        line.add(Text(plain(asked.freeze), style="cyan"))
    if asked.sites:
        _sites(line, asked.sites)
    elif asked.freeze is None or asked.text is not None:
        line.add(Text(_flat(asked.text) if asked.text is not None else "always", style="cyan"))


def _sites(node: "Tree", sites: tuple[SeenSite, ...]) -> None:
    """Write every boolean part beneath the one that it stands in: what it said, and what it read."""
    from rich.text import Text

    nodes: dict[int, Tree] = {}
    for one in sites:
        site = one.site
        mark, style = _MARKS[one.outcome] if site.boolean else ("", "")
        text = (_flat(site.text), "cyan" if one.outcome is not None else "dim")
        nodes[site.number] = nodes.get(site.parent, node).add(Text.assemble((f"{mark} " if mark else "", style), text))
        # What a part reads is told by the parts that it consists of, if it does; a loop tells what it goes over.
        if not site.below or site.form in {Form.EXISTS, Form.ALL}:
            for name, value in one.values.items():
                shown = (_value(value), "yellow" if value == ABSENT else "")
                nodes[site.number].add(Text.assemble((f"{plain(name)} ", "dim"), shown))


def _value(value: Json) -> str:
    return plain(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _flat(text: str) -> str:
    return plain(" ".join(text.split()))


def _json(found: Explanation) -> dict[str, object]:
    return {
        "decision": found.verdict.effect.value,
        "combination": combination(found),
        "reasons": [reason_members(reason) for reason in found.verdict.reasons],
        "admission": [
            {
                "policy": one.policy,
                "binding": one.binding,
                "actions": list(one.actions),
                "matches": one.fits,
                "evaluations": [
                    {
                        "parameter": evaluation.parameter,
                        "conditions": [_asked_json(asked) for asked in evaluation.conditions],
                        "validations": [_asked_json(asked) for asked in evaluation.validations],
                    }
                    for evaluation in one.evaluations
                ],
            }
            for one in found.admission
        ],
        "warnings": list(found.verdict.warnings),
        "annotations": dict(found.verdict.annotations),
        "obligations": [asdict(one) for one in found.verdict.obligations],
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
                        "clauses": [_site_json(one) for one in variable.sites],
                    }
                    for variable in policy.variables
                ],
                "rules": [_asked_json(asked) for asked in policy.rules],
            }
            for policy in found.policies
        ],
        "exceptions": [
            {
                "name": exception.name,
                "fits": exception.fits,
                "unmatched": list(exception.unmatched),
                "conditions": [_asked_json(asked) for asked in exception.conditions],
                "lifts": list(exception.lifts),
            }
            for exception in found.exceptions
        ],
    }


def _asked_json(asked: Asked) -> dict[str, object]:
    return {
        "name": asked.name,
        **({"effect": asked.effect.value} if asked.effect else {}),
        "expression": asked.text,
        "outcome": asked.said.outcome.value,
        "error": asked.said.error,
        **({"freeze": asked.freeze} if asked.freeze is not None else {}),
        "clauses": [_site_json(one) for one in asked.sites],
    }


def _site_json(one: SeenSite) -> dict[str, object]:
    said = one.outcome.value if one.outcome is not None else "not reached"
    return {
        "text": one.site.text,
        "line": one.site.line,
        "column": one.site.column,
        **({"outcome": said} if one.site.boolean else {}),
        "values": dict(one.values),
    }
