"""The commands `mfw backup ...`: the whole database in a file, and back."""

from pathlib import Path
from typing import Annotated

import typer

from app.cli.options import Json
from app.cli.output import reporting

backup = typer.Typer(no_args_is_help=True, help="Make, list, verify and restore backups of the database.")

_Directory = Annotated[Path, typer.Option("--dir", help="Where the backups are.")]
_Name = Annotated[str, typer.Argument(metavar="NAME", help="The name that `mfw backup list` shows, or `latest`.")]


@backup.command("create", epilog="Example: `mfw backup create --dir /backups --keep-days 30`")
def backup_create(
    *,
    directory: _Directory,
    keep_days: Annotated[
        int, typer.Option(min=1, max=36_500, help="Forget backups that are older; the last one always stays.")
    ] = 30,
    before_migration: Annotated[
        bool,
        typer.Option(
            "--before-migration",
            help="Take an earlier release's schema too; of a database without any there is nothing to keep.",
        ),
    ] = False,
    wait: Annotated[
        float,
        typer.Option(
            "--wait", min=0, max=86_400, metavar="SECONDS", help="How long to wait for a database that is away."
        ),
    ] = 0,
    as_json: Json = False,
) -> None:
    """Dump the whole database beside a note of its ledger: size, root of the tree, last checkpoint.

    Needs `pg_dump` of the server's release or a later one. Decisions go on meanwhile. A backup has everything in it
    that the database has; its files are for their owner alone.
    """
    from app.cli.backup import run_create

    with reporting(as_json=as_json):
        run_create(directory, keep_days=keep_days, before_migration=before_migration, wait=wait, as_json=as_json)


@backup.command("list", epilog="Example: `mfw backup list --dir /backups`")
def backup_list(*, directory: _Directory, as_json: Json = False) -> None:
    """List the backups, the newest first."""
    from app.cli.backup import run_list

    with reporting(as_json=as_json):
        run_list(directory, as_json=as_json)


@backup.command("verify", epilog="Example: `mfw backup verify latest --deep --dir /backups`")
def backup_verify(
    name: _Name = "latest",
    *,
    directory: _Directory,
    deep: Annotated[
        bool,
        typer.Option(
            "--deep", help="Restore it into a database of its own on the server, and check its integrity there."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Say whether a backup is whole: its digest and its table of contents, or really restored with --deep."""
    from app.cli.backup import run_verify

    with reporting(as_json=as_json):
        raise typer.Exit(run_verify(directory, name, deep=deep, as_json=as_json))


@backup.command(
    "restore", epilog="Example: `createdb firewall_restored`, then `mfw backup restore latest --dir /backups`"
)
def backup_restore(name: _Name, *, directory: _Directory, as_json: Json = False) -> None:
    """Restore a backup into the database of the settings, which must be empty, and verify all of it.

    What was decided after the backup is not in it: docs/operations.md says how to go on.
    """
    from app.cli.backup import run_restore

    with reporting(as_json=as_json):
        raise typer.Exit(run_restore(directory, name, as_json=as_json))
