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


@ledger.command("archive", epilog="Example: `mfw ledger archive --before 2026-01 --to /archive --drop`")
def ledger_archive(
    *,
    before: Annotated[str, typer.Option(metavar="MONTH", help="Archive every month before this one.")],
    to: Annotated[Path, typer.Option(help="Where the files go; keep them as long as the records are to be kept.")],
    drop: Annotated[
        bool, typer.Option("--drop", help="Drop the tables as well, after each was compared with its file once more.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Move records of months that are over into files; receipts stay, so everything can still be verified.

    Each month is written, read back and verified against its receipts, named in the ledger, and detached. Interrupted,
    the same command goes on where it stopped. Nothing is ever dropped that is not in a verified file.
    """
    from app.cli.keeping import run_archive

    with reporting(as_json=as_json):
        run_archive(before, to, drop=drop, as_json=as_json)


@ledger.command("unarchive", epilog="Example: `mfw ledger unarchive 2025-12 --from /archive`")
def ledger_unarchive(
    month: Annotated[str, typer.Argument(metavar="MONTH", help="The month to bring back, such as `2025-12`.")],
    *,
    directory: Annotated[Path, typer.Option("--from", help="Where its file is.")],
    as_json: Json = False,
) -> None:
    """Bring the records of an archived month back, each verified against its entry in the ledger.

    A record that was erased since does not come back.
    """
    from app.cli.keeping import run_unarchive

    with reporting(as_json=as_json):
        run_unarchive(month, directory, as_json=as_json)


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
