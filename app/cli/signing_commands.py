"""The commands `mfw policies ...` that sign sets of policies and check signatures."""

from pathlib import Path
from typing import Annotated

import typer

from app.cli.authoring.commands import policies
from app.cli.options import Json
from app.cli.output import reporting

Target = Annotated[str, typer.Argument(help="A directory of policies, or the digest of a set.")]


@policies.command("keygen", epilog="Example: `mfw policies keygen --out keys --name sre --encrypt`")
def policies_keygen(
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="Directory for the two files; made if it is not there.")],
    name: Annotated[
        str, typer.Option(help="Who signs with it: the files are NAME.key (private) and NAME.pem (public).")
    ] = "signer",
    encrypt: Annotated[
        bool,
        typer.Option(
            "--encrypt", help="Protect the private key with a passphrase, asked for or from MFW_SIGNING_PASSPHRASE."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Make a pair of Ed25519 keys for signing policy sets.

    The private key is readable by you alone and never overwritten. The public key goes to the service, with
    MFW_POLICIES__SIGNERS.
    """
    from app.cli.signing import run_keygen

    with reporting(as_json=as_json):
        run_keygen(out, name=name, encrypt=encrypt, as_json=as_json)


@policies.command(
    "sign",
    epilog="Examples: `mfw policies sign policies/starter --key keys/sre.key`; "
    "`mfw policies sign sha256:... --key keys/sre.key --out set.dsse.json`",
)
def policies_sign(
    target: Target,
    *,
    key: Annotated[Path, typer.Option("--key", "-k", help="Private key, as `mfw policies keygen` makes it.")],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Where to write the signature (default: policy-set.dsse.json beside the policies)."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Sign a policy set: say that it is fit to be in force.

    Needs no service. The digest is the one that the service computes, so formatting, comments and file names may change
    without a new signature. A second person signs into the same file; signatures of what the policies were before are
    dropped. The passphrase of an encrypted key is asked for, or comes from MFW_SIGNING_PASSPHRASE.
    """
    from app.cli.signing import run_sign

    with reporting(as_json=as_json):
        run_sign(target, key=key, output=out, as_json=as_json)


@policies.command(
    "verify",
    epilog="Example: `mfw policies verify policies/starter --signer keys/sre.pem --signer keys/sec.pem --required 1`",
)
def policies_verify(
    target: Target,
    *,
    signature: Annotated[
        Path | None,
        typer.Option(help="File with the signatures (default: policy-set.dsse.json beside the policies)."),
    ] = None,
    signer: Annotated[
        list[Path] | None,
        typer.Option(help="Public key; may be given several times (default: those of MFW_POLICIES__SIGNERS)."),
    ] = None,
    required: Annotated[
        int | None, typer.Option(min=1, help="How many of them must have signed (default: all).")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check who signed a policy set, as the service does before it puts one into force.

    Needs no service. Exit code 65 when there are too few good signatures.
    """
    from app.cli.signing import run_verify

    with reporting(as_json=as_json):
        run_verify(target, signature=signature, signers=signer or (), required=required, as_json=as_json)
