"""`mfw policies diff`: what differs in meaning between two directories of policies."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from app.cli.authoring.inputs import read_instant, read_normalised, read_policies
from app.cli.decide import STYLES
from app.cli.exits import ExitCode
from app.cli.output import console, plain, write_json
from app.core.budgets import Assumed
from app.core.decide import decide
from app.core.types import Verdict
from app.policies.compare import Change, Decided, Difference, compare

_MARKS = {Change.ADDED: ("+", "green"), Change.REMOVED: ("-", "red"), Change.CHANGED: ("~", "yellow")}


def run_diff(
    before: Path, after: Path, *, files: Sequence[str], now: str | None, exit_code: bool, as_json: bool
) -> ExitCode:
    """Show the differences; with `exit_code` they make the command fail."""
    old, old_set = read_policies(before, as_json=as_json)
    new, new_set = read_policies(after, as_json=as_json)
    differences = compare(old.documents, new.documents)
    instant = read_instant(now)
    decided: list[Decided] = []
    for file in files:
        mutation = read_normalised(file)
        # Nothing is known of budgets here: both sides are asked as if none was ever used.
        verdicts = [decide(policy_set, mutation, instant, Assumed()) for policy_set in (old_set, new_set)]
        decided.append(Decided(file, *verdicts))
    changed = [one for one in decided if one.differs]
    if as_json:
        write_json(
            {
                "same": not differences,
                "differences": [asdict(one) for one in differences],
                "decisions": [_decided_json(one) for one in changed],
            }
        )
    else:
        _show(differences, changed, asked=len(files))
    return ExitCode.FAILED if exit_code and (differences or changed) else ExitCode.OK


def _show(differences: Sequence[Difference], decided: Sequence[Decided], *, asked: int) -> None:
    from rich.text import Text

    out = console()
    if not differences:
        out.print("the policies mean the same")
    shown = None
    for one in differences:
        mark, style = _MARKS[one.change]
        if one.part and (one.kind, one.policy) != shown:
            out.print(Text.assemble(("~", "yellow"), f" {one.kind} ", (one.policy, "bold")))
        shown = one.kind, one.policy
        if not one.part:
            out.print(Text.assemble((mark, style), f" {one.kind} ", (one.policy, "bold")))
            continue
        what = one.part + (f" {one.member}" if one.member else "")
        line = Text.assemble("    ", (mark, style), f" {what}")
        if one.member.startswith("variables."):
            line.append("  reads what changed", style="dim")
        out.print(line)
        for text, sign, shade in ((one.before, "-", "red"), (one.after, "+", "green")):
            if text is not None:
                out.print(Text(f"        {sign} {plain(text)}", style=shade))
    for change in decided:
        _show_decided(change)
    if asked:
        out.print(f"{len(decided)} of {asked} mutations are decided differently")


def _show_decided(change: Decided) -> None:
    from rich.text import Text

    out = console()
    before, after = change.before, change.after
    out.print(
        Text.assemble(
            f"{plain(change.mutation)}: ",
            (before.effect.value, STYLES[before.effect]),
            " -> ",
            (after.effect.value, STYLES[after.effect]),
        )
    )
    for sign, verdict in (("-", before), ("+", after)):
        out.print(Text(f"    {sign} {plain(_spoken(verdict))}", style="dim"))


def _spoken(verdict: Verdict) -> str:
    return ", ".join(f"{reason.policy}/{reason.rule}" for reason in verdict.reasons)


def _decided_json(change: Decided) -> dict[str, object]:
    return {
        "mutation": change.mutation,
        **{
            name: {
                "decision": verdict.effect.value,
                "reasons": [{"policy": reason.policy, "rule": reason.rule} for reason in verdict.reasons],
            }
            for name, verdict in (("before", change.before), ("after", change.after))
        },
    }
