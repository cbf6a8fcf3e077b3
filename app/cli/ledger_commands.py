"""The commands `mfw ledger ...`: the ledger itself, by whoever holds its database or its files."""

from pathlib import Path
from typing import Annotated

import typer

from app.cli.options import Json
from app.cli.output import reporting

ledger = typer.Typer(no_args_is_help=True, help="Keep the ledger, take it out, and find out whether it is what it was.")


@ledger.command("keygen", epilog="Example: `mfw ledger keygen --origin firewall.example.com/ledger --out ledger.key`")
def ledger_keygen(
    *,
    origin: Annotated[
        str,
        typer.Option(help="What the log is called, for good: a URL without its scheme, which need not be served."),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="File for the private key; the public one gets `.pub` behind it.")
    ],
    as_json: Json = False,
) -> None:
    """Make the key that signs the checkpoints of the ledger.

    The private key is readable by you alone and never overwritten; it goes to the service, with
    MFW_LEDGER__SIGNING_KEY_FILE.
    The public key goes to auditors and witnesses.
    """
    from app.cli.log_key import run_keygen

    with reporting(as_json=as_json):
        run_keygen(out, origin=origin, as_json=as_json)


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


@ledger.command(
    "reveal",
    epilog="Example: `mfw ledger reveal record.json /change/after/data/password --value value.json`, where "
    '`value.json` has `"hunter2"`',
)
def ledger_reveal(
    record: Annotated[str, typer.Argument(metavar="RECORD", help="The decision's record as JSON; `-` reads it.")],
    pointer: Annotated[str, typer.Argument(help="Where the value stood: a JSON pointer that `masked` has.")],
    *,
    value: Annotated[str, typer.Option(metavar="FILE", help="The value, as JSON; `-` reads it.")],
    salt: Annotated[
        str | None, typer.Option(help="The salt of this value; without, MFW_LEDGER__MASK_KEY gives it.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show that a value is the one that a `RecordMask` with `hash` has hidden, without showing any other.

    With the key of the service the salt of this one value is found and printed; with the salt anybody can check.
    """
    from app.cli.revealing import run_reveal

    with reporting(as_json=as_json):
        run_reveal(record, pointer, value_file=value, salt=salt, as_json=as_json)
