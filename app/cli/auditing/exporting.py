"""`mfw ledger export`: the ledger of a database into a directory."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from app.cli.auditing.progress import progress
from app.cli.auditing.sources import check_schema
from app.cli.output import console, write_json
from app.ledger.export import Exported, export
from app.ledger.slices import LedgerDatabase


def run_export(dsn: str, directory: Path, *, records: bool, as_json: bool) -> None:
    """Export, and say what was written. Raises `FirewallError`."""
    with progress("exporting") as bar:
        made = asyncio.run(_export(dsn, directory, records=records, started=bar.total, advanced=bar.more))
    if as_json:
        write_json(
            {
                "directory": str(directory),
                "size": made.size,
                "since": made.since,
                "behind": made.behind,
                "signed": made.signed,
            }
        )
        return
    out = console()
    new = f", {made.size - made.since} of them new" if made.since else ""
    out.print(f"{made.size} entries{new} are in {directory}", soft_wrap=True)
    if made.behind:
        out.print(f"{made.behind} more are not under a checkpoint yet: export again for these")
    if not made.signed:
        out.print("nothing is signed: without a checkpoint nobody can tell this ledger from one that was made anew")


async def _export(
    dsn: str,
    directory: Path,
    *,
    records: bool,
    started: Callable[[int], object],
    advanced: Callable[[int], object],
) -> Exported:
    await check_schema(dsn)
    source = await LedgerDatabase.open(dsn)
    try:
        return await export(
            source,
            directory,
            now=datetime.now(UTC),
            engine=f"mutation-firewall/{version('mutation-firewall')}",
            records=records,
            started=started,
            advanced=advanced,
        )
    finally:
        await source.close()
