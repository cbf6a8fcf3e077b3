"""`mfw policies check`: what the service would say about a directory of policies, before it has to, and the lints."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import assert_never

from app.cli.authoring.formats import Format
from app.cli.exits import ExitCode
from app.cli.output import complain, console, plain, table, write_json
from app.core.cel import STEPS_MAX
from app.core.index import CompiledPolicySet
from app.policies.cost import USUAL_SIZES, StepCost, estimated
from app.policies.diagnostics import Diagnostic, Severity
from app.policies.lint import lint
from app.policies.load import check_directory
from app.policies.report import github, sarif, text_lines

STYLES = {"error": "bold red", "warning": "bold yellow", "source": "", "caret": "bold green", "fix": "cyan"}


def run_check(directory: Path, *, form: Format, strict: bool, now: datetime, cost: bool = False) -> ExitCode:
    """Show what a directory holds, or everything that is wrong with it; with `strict` a warning refuses as well.

    `now` tells what has expired, and what soon will. With `cost`, text and JSON have what each expression may cost.
    """
    checked = check_directory(directory)
    found = sorted(
        (*checked.diagnostics, *lint(checked.documents, sources=checked.sources, now=now)),
        key=lambda one: (one.file, one.line, one.column, one.path),
    )
    refused = checked.policy_set is None or (strict and bool(found))
    match form:
        case Format.TEXT:
            show(found, directory=directory, sources=checked.sources)
            if cost and checked.policy_set is not None:
                _costs(estimated(checked.policy_set))
            _summary(checked.policy_set, found, refused=refused)
        case Format.JSON:
            _json(checked.policy_set, found, refused=refused, cost=cost)
        case Format.GITHUB:
            for one in found:
                console().file.write(github(one, directory=directory) + "\n")
        case Format.SARIF:
            from importlib.metadata import version

            write_json(sarif(found, directory=directory, version=version("mutation-firewall")))
        case _:
            assert_never(form)
    return ExitCode.BAD_DATA if refused else ExitCode.OK


def show(found: Sequence[Diagnostic], *, directory: Path, sources: Mapping[str, str]) -> None:
    """Print findings on standard error as a compiler does; `sources` as in `Checked`."""
    from rich.text import Text

    out = console(stderr=True)
    for one in found:
        for role, line in text_lines(one, directory=directory, source=sources.get(one.file)):
            out.print(Text(plain(line).replace("\\t", "\t"), style=STYLES[role]), soft_wrap=True)


def _summary(policy_set: CompiledPolicySet | None, found: Sequence[Diagnostic], *, refused: bool) -> None:
    errors = [one for one in found if one.severity is Severity.ERROR]
    warnings = [one for one in found if one.severity is Severity.WARNING]
    if policy_set is not None:
        out = console()
        held = [
            count(len(policy_set.policies), "policy", "policies"),
            count(len(policy_set.rules), "rule", "rules"),
            *([count(len(policy_set.exceptions), "exception", "exceptions")] if policy_set.exceptions else []),
            *([count(len(policy_set.masks), "mask", "masks")] if policy_set.masks else []),
        ]
        out.print(", ".join(held))
        out.print(f"policy set {policy_set.digest}")
    if refused:
        many = count(len(errors), "error", "errors")
        if warnings:
            many += f" and {count(len(warnings), 'warning', 'warnings')}"
        complain(f"the policy set is refused with {many}")
    elif warnings:
        console(stderr=True).print(count(len(warnings), "warning", "warnings"))


def _costs(costs: Sequence[StepCost]) -> None:
    """Print a table of steps; what costs nothing is counted only."""
    shown = [one for one in costs if one.estimate.usual > 0]
    out = console()
    if shown:
        listing = table("least", "usual", "most", "policy", "name", "")
        for column in listing.columns[:3]:
            column.justify = "right"
        for one in shown:
            numbers = (one.estimate.least, one.estimate.usual, one.estimate.most)
            listing.add_row(*map(_steps, numbers), one.policy, one.name, one.part)
        out.print(listing)
    free = len(costs) - len(shown)
    rest = f"; {count(free, 'expression costs', 'expressions cost')} nothing" if free else ""
    out.print(f"estimated steps, {STEPS_MAX:,} at most for each; usual: {USUAL_SIZES}{rest}")


def _steps(number: int) -> str:
    return f"{number:,}" if number <= STEPS_MAX else f"over {STEPS_MAX:,}"


def _json(policy_set: CompiledPolicySet | None, found: Sequence[Diagnostic], *, refused: bool, cost: bool) -> None:
    held = (
        {
            "policies": len(policy_set.policies),
            "rules": len(policy_set.rules),
            "exceptions": len(policy_set.exceptions),
            "masks": len(policy_set.masks),
            "policy_set": policy_set.digest,
        }
        if policy_set is not None
        else {}
    )
    costs = {"costs": [asdict(one) for one in estimated(policy_set)]} if cost and policy_set is not None else {}
    write_json({"ok": not refused, **held, **costs, "diagnostics": [asdict(one) for one in found]})


def count(number: int, one: str, many: str) -> str:
    """Write a number of things."""
    return f"{number} {one if number == 1 else many}"
