"""`mfw policies bench`: what each rule costs."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from app.cli.authoring.inputs import read_instant, read_normalised, read_policies
from app.cli.exits import ExitCode
from app.cli.output import console, table, write_json
from app.policies.measure import measure


def run_bench(files: Sequence[str], *, policies: Path, rounds: int, now: str | None, as_json: bool) -> ExitCode:
    """Time every expression that the mutations reach and show them, the dearest first."""
    _, policy_set = read_policies(policies, as_json=as_json)
    found = measure(policy_set, [read_normalised(file) for file in files], now=read_instant(now), rounds=rounds)
    if as_json:
        costs = [asdict(cost) for cost in found.costs]
        write_json({"decision_microseconds": found.decision_microseconds, "costs": costs})
        return ExitCode.OK
    out = console()
    if found.costs:
        listing = table("µs", "policy", "name", "")
        listing.columns[0].justify = "right"
        for cost in found.costs:
            listing.add_row(f"{cost.microseconds:.1f}", cost.policy, cost.name, cost.part)
        out.print(listing)
    out.print(f"a whole decision: {found.decision_microseconds:.1f} µs (medians of {rounds} rounds per mutation)")
    return ExitCode.OK
