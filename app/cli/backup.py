"""`mfw backup`: what was made, found and restored, in words or as JSON."""

import asyncio
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from app.cli.exits import ExitCode
from app.cli.integrity import described_finding
from app.cli.keys import named_database
from app.cli.output import console, plain, table, write_json
from app.cli.progress import progress
from app.ops.backup import Created, Manifest, backups, create, create_before_migration, reached
from app.ops.restore import Restored, restore, verify


def run_create(directory: Path, *, keep_days: int, before_migration: bool, wait: float, as_json: bool) -> None:
    """Make a backup. Raises `FirewallError` and `Refused`."""
    clock, keep = partial(datetime.now, UTC), timedelta(days=keep_days)
    with named_database() as dsn:
        make = create_before_migration if before_migration else create

        async def waited() -> Created | None:
            await reached(dsn, within=wait, told=lambda why: console(stderr=True).print(f"waiting: {plain(why)}"))
            return await make(dsn, directory, clock=clock, keep=keep)

        made = asyncio.run(waited())
    if made is None:
        if as_json:
            write_json({})
        else:
            console().print("the database has no schema yet: there is nothing to back up")
        return
    if as_json:
        write_json({**_described(made.manifest), "pruned": list(made.pruned)})
        return
    manifest = made.manifest
    out = console()
    out.print(f"{manifest.name}: {manifest.ledger.size} entries, {_size(manifest.size_bytes)}")
    if made.pruned:
        out.print(f"forgotten, being older than {keep_days} days: {', '.join(made.pruned)}")


def run_list(directory: Path, *, as_json: bool) -> None:
    """Show what there is. Raises `FirewallError`."""
    found = list(backups(directory))
    if as_json:
        write_json([_described(one) for one in found])
        return
    listing = table("name", "made", "entries", "size", "schema", "checkpoint")
    for one in found:
        signed = "none" if one.ledger.checkpoint is None else one.ledger.checkpoint.split("\n")[1]
        listing.add_row(
            one.name,
            f"{one.created_at:%Y-%m-%d %H:%M}Z",
            str(one.ledger.size),
            _size(one.size_bytes),
            one.revision,
            plain(signed),
        )
    console().print(listing if found else "there are no backups; make one with `mfw backup create`")


def run_verify(directory: Path, name: str, *, deep: bool, as_json: bool) -> ExitCode:
    """Say whether one is whole. Raises `FirewallError` and `Refused`."""
    if not deep:
        restored = asyncio.run(verify(directory, name, server=None))
        if as_json:
            write_json({**_described(restored.manifest), "whole": None})
        else:
            console().print(f"{restored.manifest.name} is the file that was made, and can be read; --deep restores it")
        return ExitCode.OK
    with named_database() as dsn, progress("entries") as shown:
        restored = asyncio.run(verify(directory, name, server=dsn, progress=shown))
    return _say(restored, as_json=as_json)


def run_restore(directory: Path, name: str, *, as_json: bool) -> ExitCode:
    """Restore one. Raises `FirewallError` and `Refused`."""
    with named_database() as dsn, progress("entries") as shown:
        restored = asyncio.run(restore(dsn, directory, name, progress=shown))
    code = _say(restored, as_json=as_json)
    if not as_json:
        note = console(stderr=True)
        if not restored.checked:
            note.print("next: python -m app.migrations.apply, then mfw integrity check")
        note.print("next: give the service's role its rights on these tables, if it is not their owner")
        note.print("next: what was decided after the backup is missing; read `Going on after a restore` in")
        note.print("      docs/operations.md before the service signs another checkpoint")
    return code


def _say(restored: Restored, *, as_json: bool) -> ExitCode:
    if as_json:
        write_json(
            {
                **_described(restored.manifest),
                "whole": restored.whole,
                "checked": restored.checked,
                "differences": list(restored.differences),
                "findings": [described_finding(one) for one in restored.findings],
            }
        )
    else:
        out = console()
        name = restored.manifest.name
        for difference in restored.differences:
            out.print(plain(difference))
        for one in restored.findings:
            out.print(plain(f"{one.severity}: {one.check}: {one.count}, such as {one.examples[0]}"))
        if restored.whole:
            out.print(f"{name} is whole: {restored.manifest.ledger.size} entries, verified one by one")
        elif not restored.checked:
            out.print(f"{name} is of another release (schema {restored.manifest.revision}), so it was not looked into")
    return ExitCode.OK if restored.whole or not restored.checked else ExitCode.FAILED


def _described(one: Manifest) -> dict[str, Any]:
    return {
        "name": one.name,
        "created_at": one.created_at.isoformat(),
        "engine": one.engine,
        "postgresql": one.postgresql,
        "revision": one.revision,
        "bytes": one.size_bytes,
        "sha256": one.sha256,
        "ledger": {
            "size": one.ledger.size,
            "tree_size": one.ledger.tree_size,
            "tree_root": one.ledger.tree_root,
            "checkpoint": one.ledger.checkpoint,
        },
    }


def _size(count: int) -> str:
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
