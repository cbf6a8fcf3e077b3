"""The commands `mfw ledger ...`: the ledger itself, by whoever holds its database or its files."""

from typing import Annotated

import typer

from app.cli.options import Json
from app.cli.output import reporting

ledger = typer.Typer(no_args_is_help=True, help="Keep the ledger: its partitions, its archives.")


@ledger.command("partitions", epilog="Example: `mfw ledger partitions --ahead 6`")
def ledger_partitions(
    *,
    ahead: Annotated[int, typer.Option(min=1, max=120, help="Months to be ready for, beside this one.")] = 3,
    as_json: Json = False,
) -> None:
    """Make the partitions of the coming months, so that no record ever waits for one; made for a daily job.

    Safe to repeat. Records that fell into the default partition, because this did not run in time, are brought into
    their month. Migrations do the same when they are applied.
    """
    from app.cli.keeping import run_partitions

    with reporting(as_json=as_json):
        run_partitions(ahead=ahead, as_json=as_json)
