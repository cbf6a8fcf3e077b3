"""The commands `mfw witness ...`."""

from pathlib import Path
from typing import Annotated

import typer

from app.cli.options import Json
from app.cli.output import reporting

witnessing = typer.Typer(
    no_args_is_help=True, help="Witness the ledger of somebody else: cosign what never contradicts."
)


@witnessing.command("keygen", epilog="Example: `mfw witness keygen --name witness.example.com/audit --out witness.key`")
def witness_keygen(
    *,
    name: Annotated[
        str, typer.Option(help="What the witness is called: a URL without its scheme, which need not exist.")
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="File for the private key; the public one gets `.pub` behind it.")
    ],
    as_json: Json = False,
) -> None:
    """Make the key of a witness.

    The private key is readable by you alone and never overwritten. The public key goes to the log, with
    MFW_LEDGER__WITNESSES, and to whoever verifies it.
    """
    from app.cli.witness import run_keygen

    with reporting(as_json=as_json):
        run_keygen(out, name=name, as_json=as_json)


@witnessing.command(
    "serve",
    epilog="Example: `mfw witness serve --key witness.key --state-dir /var/lib/mfw-witness "
    "--log firewall.example.com/ledger+53462ec3+AXm1Vi6P5lT5QHixEuipi6eQH4U65pW+1+DjkQutBJZk`",
)
def witness_serve(
    *,
    key: Annotated[Path, typer.Option("--key", "-k", help="Private key, as `mfw witness keygen` makes it.")],
    state_dir: Annotated[
        Path, typer.Option(help="Directory for what was cosigned last; made if it is not there, never to be lost.")
    ],
    log: Annotated[
        list[str],
        typer.Option(
            "--log",
            metavar="VKEY [ORIGIN]",
            help="Verifier key of a log, and its origin where that is not the key's name; may be given several times.",
        ),
    ],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Port to listen on; 0 takes a free one.")] = 8090,
    json_logs: Annotated[bool, typer.Option("--json-logs", help="One JSON object per line of the log.")] = False,
) -> None:
    """Cosign checkpoints of logs (C2SP tlog-witness), each only if it continues all that were cosigned before.

    Needs no service and no database. Run it where the operators of the log have no rights, behind a proxy that does
    TLS. What was cosigned last is at `/<SHA-256 of the origin>/checkpoint`, for auditors.
    """
    from app.cli.witness import run_serve

    with reporting():
        run_serve(key=key, directory=state_dir, logs=log, host=host, port=port, json_logs=json_logs)
