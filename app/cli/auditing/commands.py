"""The commands `mfw ledger ...` of whoever trusts nobody: export, verify, replay."""

from pathlib import Path
from typing import Annotated

import typer

from app.cli.ledger_commands import ledger
from app.cli.options import Json
from app.cli.output import reporting

_Export = Annotated[
    Path | None,
    typer.Argument(
        metavar="[EXPORT]", help="What `mfw ledger export` wrote (default: the database of the settings, read only)."
    ),
]


@ledger.command("export", epilog="Example: `mfw ledger export /backup/ledger`, and the same again tomorrow.")
def ledger_export(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Where to; empty, or an export of this ledger.")],
    *,
    without_records: Annotated[
        bool, typer.Option("--without-records", help="Receipts alone: no input, no reasons, no personal data.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write the ledger into a directory that can be verified and replayed without this service and its database.

    Goes on where it was interrupted, and adds what is new when it is given again. Records hold what was asked, with
    whatever personal data that has; all files are for their owner alone.
    """
    from app.cli.auditing.exporting import run_export
    from app.cli.keys import named_database

    with reporting(as_json=as_json), named_database() as dsn:
        run_export(dsn, directory, records=not without_records, as_json=as_json)


@ledger.command(
    "verify",
    epilog="Examples: `mfw ledger verify /backup/ledger --key log.vkey`; "
    "`mfw ledger verify /backup/ledger --key log.vkey --since checkpoint-of-january --witness witness.vkey`. "
    "Exit codes: 0 nothing is wrong, 1 something is.",
)
def ledger_verify(
    export: Annotated[Path, typer.Argument(metavar="EXPORT", help="What `mfw ledger export` wrote.")],
    *,
    key: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY", help="The log's public key (`NAME+ID+BASE64`), or a file with it; several times."),
    ] = None,
    since: Annotated[
        list[Path] | None,
        typer.Option(help="A checkpoint that was kept, or an earlier export; may be given several times."),
    ] = None,
    witness: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY", help="The key of a witness that must have cosigned; may be given several times."),
    ] = None,
    origin: Annotated[str | None, typer.Option(help="The log's origin (default: the name of its key).")] = None,
    unsafe_no_key: Annotated[
        bool, typer.Option("--unsafe-no-key", help="Compare the export with itself: whoever wrote it may have lied.")
    ] = False,
    report: Annotated[Path | None, typer.Option(help="Where to write the report as JSON.")] = None,
    as_json: Json = False,
) -> None:
    """Find out whether an export is a log that nobody touched, and name the first entry that was.

    Needs no service and no database. A log that was truncated, forked or made anew with its own key is found by a
    checkpoint from before: keep some, elsewhere, or have a witness.
    """
    from app.cli.auditing.verifying import run_verify

    with reporting(as_json=as_json):
        raise typer.Exit(
            run_verify(
                export,
                keys=key or (),
                unsafe_no_key=unsafe_no_key,
                witnesses=witness or (),
                origin=origin,
                since=since or (),
                report=report,
                as_json=as_json,
            )
        )


@ledger.command(
    "replay",
    epilog="Examples: `mfw ledger replay`; `mfw ledger replay /backup/ledger --workers 8 --report replay.json`; "
    "`mfw ledger replay --to 4000000 --shard /16` in a Job of Kubernetes with 16 completions, indexed. "
    "Exit codes: 0 all agree, 1 something differs.",
)
def ledger_replay(
    export: _Export = None,
    *,
    start: Annotated[int, typer.Option("--from", min=0, help="The first entry.")] = 0,
    end: Annotated[
        int | None, typer.Option("--to", min=0, help="The entry to stop before (default: all that there are).")
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(metavar="I/N", help="One part of N, from 0; `/N` takes I from JOB_COMPLETION_INDEX. Give --to."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, max=256, help="Processes at a time (default: one for each core).")
    ] = None,
    policies: Annotated[
        list[Path] | None,
        typer.Option(help="A directory whose policies decided, where no set was stored; may be given several times."),
    ] = None,
    max_lag_seconds: Annotated[
        float, typer.Option(min=0, max=86_400, help="For how long a replica may have followed an activation late.")
    ] = 60.0,
    report: Annotated[Path | None, typer.Option(help="Where to write the report as JSON.")] = None,
    as_json: Json = False,
) -> None:
    """Derive every decision again from its record and its policy set, and compare it byte for byte.

    Reads, and changes nothing. Records hold what was asked, and differences show some of it.
    """
    from datetime import timedelta

    from app.cli.auditing.replaying import read_shard, run_replay
    from app.cli.auditing.sources import Place
    from app.cli.keys import named_database

    def run(place: Place) -> int:
        return run_replay(
            place,
            start=start,
            end=end,
            shard=read_shard(shard),
            workers=workers,
            policies=policies or (),
            lag_max=timedelta(seconds=max_lag_seconds),
            report=report,
            as_json=as_json,
        )

    with reporting(as_json=as_json):
        if export is not None:
            raise typer.Exit(run(Place(export=export)))
        with named_database() as dsn:
            raise typer.Exit(run(Place(dsn=dsn)))
