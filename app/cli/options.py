"""Options that several commands have."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from app.cli.client import Service

Json = Annotated[bool, typer.Option("--json", help="Write JSON for a machine instead of tables for a person.")]
Url = Annotated[str, typer.Option(envvar="MFW_URL", show_envvar=True, help="Address of the service.")]
ApiKey = Annotated[
    str | None,
    typer.Option(
        envvar="MFW_API_KEY",
        show_envvar=True,
        help="API key; better in the environment, because other users see a command line. "
        "For a service of `mfw dev` on this machine it is found by itself.",
    ),
]
Timeout = Annotated[float, typer.Option(min=0.1, max=300, help="Seconds to wait for the answer.")]
Reason = Annotated[str, typer.Option("--reason", "-r", help="Why, for the ledger.")]
For = Annotated[
    str | None,
    typer.Option("--for", metavar="DURATION", help="When it ends by itself, such as `1h` (default: when it is ended)."),
]
Local = Annotated[
    bool, typer.Option("--local", help="Decide in this process, with no service. Nothing is recorded: a rehearsal.")
]
LocalPolicies = Annotated[Path | None, typer.Option(help="Directory of the policy files, with --local.")]
Policies = Annotated[Path, typer.Option(help="Directory of the policy files.")]
Used = Annotated[
    list[str] | None,
    typer.Option(
        "--budget",
        metavar="POLICY/BUDGET=USED",
        help="How much of a budget to take for used (default: nothing); may be given several times.",
    ),
]
CaFile = Annotated[
    Path | None, typer.Option(help="PEM file of the authority that the firewall's certificate is checked by.")
]
Server = Annotated[str | None, typer.Option(help="https URL of the API server, outside of a pod.")]
TokenFile = Annotated[Path | None, typer.Option(help="File of the token that is sent there.")]
ServerCaFile = Annotated[Path | None, typer.Option(help="PEM file of its authority.")]
DEFAULT_URL = "http://127.0.0.1:8080"


def local_policies(policies: Path | None, used: list[str] | None, *, local: bool) -> Path | None:
    """The directory to decide by in this process, None to ask a service. Raises `typer.BadParameter`."""
    if local and policies is None:
        raise typer.BadParameter("--local needs --policies DIR, for example `--policies policies/starter`")
    if policies is not None and not local:
        raise typer.BadParameter("--policies goes with --local; a service decides by its own policies")
    if used and not local:
        raise typer.BadParameter("--budget goes with --local; a service counts for itself")
    return policies


def service_at(url: str, api_key: str | None, timeout: float) -> "Service":
    """The service that a command asks."""
    from app.cli.client import Service

    return Service(url, api_key, timeout)
