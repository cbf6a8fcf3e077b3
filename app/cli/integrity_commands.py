"""The commands `mfw integrity ...`: whether the stored data is what it should be."""

from typing import Annotated

import typer

from app.cli.options import Json
from app.cli.output import reporting

integrity = typer.Typer(no_args_is_help=True, help="Check the integrity of the stored data.")


@integrity.command(
    "check",
    epilog="Examples: `mfw integrity check`; `mfw integrity check --sample 5 --json`; `mfw integrity check --repair`. "
    "Exit codes: 0 nothing was found, 1 something was found, 69 the database is away.",
)
def integrity_check(
    *,
    sample: Annotated[
        float, typer.Option(min=0.01, max=100, metavar="PERCENT", help="How much of the log to read (default: all).")
    ] = 100.0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an interrupted run stopped.")] = False,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair",
            help="Make missing partitions, sweep what expired, enable disabled triggers. Never the log itself.",
        ),
    ] = False,
    pace: Annotated[
        float, typer.Option(min=0.01, max=1, metavar="SHARE", help="Share of the time to use; the rest is for others.")
    ] = 0.5,
    record: Annotated[
        bool, typer.Option("--record/--no-record", help="Leave a row, which feeds metrics and lets a run be resumed.")
    ] = True,
    as_json: Json = False,
) -> None:
    """Look at all that is stored: the log, its tree, what lies beside it, the schema. Changes nothing by itself.

    It reads, slice by slice, on a connection that cannot write, so it may run while decisions are made, and on a
    replica with --no-record.
    """
    from app.cli.integrity import run_check
    from app.ops.integrity import Wanted

    with reporting(as_json=as_json):
        wanted = Wanted(sample=sample, resume=resume, repair=repair, pace=pace, record=record)
        raise typer.Exit(run_check(wanted, as_json=as_json))
