"""What keeps the ledger in order, on the database that the settings name, or on the one of `mfw dev`."""

import asyncio
import secrets
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from app.cli.keys import named_database, operator
from app.cli.output import console, plain, write_json
from app.core.months import Month
from app.ops.archive import Archived, Keeper, archive, unarchive
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


def run_archive(before: str, directory: Path, *, drop: bool, as_json: bool) -> None:
    """Archive months and say which. Raises `FirewallError` and `Refused`."""
    month = Month.parse(before)
    keeper = Keeper(operator(), clock=partial(datetime.now, UTC), entropy=secrets.token_bytes)
    with named_database() as dsn:
        done = asyncio.run(archive(dsn, directory, before=month, keeper=keeper, drop=drop))
    if as_json:
        write_json([_described(one) for one in done])
        return
    out = console()
    for one in done:
        what = "dropped" if one.dropped else "detached" if one.file else "empty, and left alone"
        out.print(plain(f"{one.month}: {one.records} records, {what}{f', in {one.file}' if one.file else ''}"))
    if not done:
        out.print(f"nothing before {month} is in the database")


def run_unarchive(month: str, directory: Path, *, as_json: bool) -> None:
    """Bring a month back. Raises `FirewallError` and `Refused`."""
    with named_database() as dsn:
        done = asyncio.run(unarchive(dsn, directory, month=Month.parse(month)))
    if as_json:
        write_json(_described(done))
    else:
        console().print(f"{done.month}: {done.records} records are back")


def _described(one: Archived) -> dict[str, Any]:
    return {
        "month": str(one.month),
        "partition": one.partition,
        "records": one.records,
        "file": one.file,
        "dropped": one.dropped,
    }
