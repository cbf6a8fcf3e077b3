"""`mfw policies`: what the service would say about a directory of policies, before it has to."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from app.cli.exits import ExitCode
from app.cli.output import complain, console, plain, table, write_json
from app.policies.diagnostics import Diagnostic, Severity
from app.policies.load import check_directory


def run_check(directory: Path, *, as_json: bool) -> ExitCode:
    """Show what a directory holds, or everything that is wrong with it."""
    checked = check_directory(directory)
    policy_set = checked.policy_set
    if as_json:
        held = (
            {"policies": len(policy_set.policies), "rules": len(policy_set.rules), "policy_set": policy_set.digest}
            if policy_set is not None
            else {}
        )
        write_json(
            {
                "ok": policy_set is not None,
                **held,
                "diagnostics": [asdict(diagnostic) for diagnostic in checked.diagnostics],
            }
        )
    else:
        show_diagnostics(checked.diagnostics)
        if policy_set is not None:
            out = console()
            out.print(
                f"{_count(policy_set.policies, 'policy', 'policies')}, {_count(policy_set.rules, 'rule', 'rules')}"
            )
            out.print(f"policy set {policy_set.digest}")
        else:
            errors = [found for found in checked.diagnostics if found.severity is Severity.ERROR]
            complain(f"the policy set is refused with {_count(errors, 'error', 'errors')}")
    return ExitCode.OK if policy_set is not None else ExitCode.BAD_DATA


def _count(things: Sequence[object], one: str, many: str) -> str:
    return f"{len(things)} {one if len(things) == 1 else many}"


def show_diagnostics(diagnostics: Sequence[Diagnostic]) -> None:
    """Write a table of what is wrong, on standard error."""
    if not diagnostics:
        return
    listing = table("place", "", "what is wrong", "fix")
    for found in diagnostics:
        place = f"{found.file}:{found.line}:{found.column}" if found.line else found.file
        what = f"{found.path}: {found.message}" if found.path else found.message
        listing.add_row(*(plain(text) for text in (place, found.severity.value, what, found.fix or "")))
    console(stderr=True).print(listing)
