"""`mfw integrity check`: what was found, as a table or as JSON."""

import asyncio
from typing import Any

from app.cli.exits import ExitCode
from app.cli.keys import named_database
from app.cli.output import console, plain, table, write_json
from app.cli.progress import progress
from app.ops.findings import Finding
from app.ops.integrity import Report, Wanted, run


def run_check(wanted: Wanted, *, as_json: bool) -> ExitCode:
    """Look, and say what was found. Raises `FirewallError` and `Refused`."""
    with named_database() as dsn, progress("entries") as shown:
        report = asyncio.run(run(dsn, wanted, progress=shown))
    if as_json:
        write_json(described(report))
    else:
        show(report)
    return ExitCode.OK if report.clean else ExitCode.FAILED


def show(report: Report) -> None:
    """Write a report for a person."""
    out = console()
    if report.findings:
        listing = table("severity", "check", "count", "for example", "what to do")
        for one in report.findings:
            listing.add_row(
                one.severity.value,
                one.check.value,
                str(one.count),
                plain("\n".join(one.examples[:3])),
                plain(f"done: {one.repaired}" if one.repaired else one.fix),
            )
        out.print(listing)
    part = "" if report.seed is None else f" (a sample; the same one again: seed {report.seed})"
    out.print(f"{report.looked_at} of {report.entries} entries looked at in {report.seconds:.1f} s{part}")
    count = len(report.findings)
    out.print("nothing was found" if report.clean else f"{count} check{'' if count == 1 else 's'} found something")


def described(report: Report) -> dict[str, Any]:
    """A report for a machine."""
    return {
        "clean": report.clean,
        "started_at": report.started_at.isoformat(),
        "seconds": round(report.seconds, 3),
        "entries": report.entries,
        "looked_at": report.looked_at,
        "resumed_at": report.resumed_at,
        "seed": report.seed,
        "findings": [described_finding(one) for one in report.findings],
    }


def described_finding(one: Finding) -> dict[str, Any]:
    """A finding for a machine."""
    return {
        "check": one.check.value,
        "severity": one.severity.value,
        "count": one.count,
        "examples": list(one.examples),
        "fix": one.fix,
        "repaired": one.repaired,
    }
