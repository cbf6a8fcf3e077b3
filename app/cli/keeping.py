"""What keeps the ledger in order, on the database that the settings name, or on the one of `mfw dev`."""

import asyncio

from app.cli.keys import named_database
from app.cli.output import console, write_json
from app.persistence.partitions import make_ahead


def run_partitions(*, ahead: int, as_json: bool) -> None:
    """Make partitions and say which. Raises `FirewallError` and `Refused`."""
    with named_database() as dsn:
        made = asyncio.run(make_ahead(dsn, ahead=ahead))
    if as_json:
        write_json({"made": list(made.partitions), "moved": made.moved})
        return
    out = console()
    for name in made.partitions:
        out.print(f"made {name}")
    if made.moved:
        out.print(f"{made.moved} rows moved there from the default partition")
    out.print(f"partitions are there for this month and the {ahead} after it")
