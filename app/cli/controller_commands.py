"""The command `mfw controller`."""

from pathlib import Path
from typing import Annotated

import typer

from app.cli.options import DEFAULT_URL, ApiKey, CaFile, Server, ServerCaFile, TokenFile, Url
from app.cli.output import reporting


def controller(
    *,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    key_file: Annotated[
        Path | None, typer.Option(help="File with the API key, read anew each time; in place of --api-key.")
    ] = None,
    ca_file: CaFile = None,
    exceptions_namespace: Annotated[
        list[str] | None,
        typer.Option(help="Namespace whose PolicyExceptions count; may be given several times. Without it none does."),
    ] = None,
    also: Annotated[
        Path | None,
        typer.Option(
            help="Directory of documents that are part of every set beside the custom resources: record masks, "
            "policies that nobody shall change with kubectl."
        ),
    ] = None,
    namespace: Annotated[
        str | None, typer.Option(help="Namespace of the Lease (default: that of the pod, else `mutation-firewall`).")
    ] = None,
    lease: Annotated[
        str, typer.Option(help="Name of the Lease by which one controller leads.")
    ] = "mutation-firewall-controller",
    settle_seconds: Annotated[
        float, typer.Option(min=0.05, max=60, help="How long nothing must have changed before a set is built.")
    ] = 1.0,
    resync_seconds: Annotated[
        float,
        typer.Option(min=1, max=86_400, help="How often what is in force is looked at though nothing changed."),
    ] = 60.0,
    lease_seconds: Annotated[
        int, typer.Option(min=4, max=600, help="How long the Lease lasts when its holder is gone without a word.")
    ] = 15,
    metrics_host: Annotated[str, typer.Option(help="Address of metrics and health.")] = "127.0.0.1",
    metrics_port: Annotated[
        int | None,
        typer.Option(min=0, max=65_535, help="Port of /metrics, /health/live and /health/ready (default: none)."),
    ] = None,
    server: Server = None,
    token_file: TokenFile = None,
    server_ca_file: ServerCaFile = None,
) -> None:
    """Bring MutationPolicies and PolicyExceptions of a cluster into force, and say on each what became of it.

    All of them together are one policy set, which the set in force judges like any other. An object that is refused
    leaves the set in force as it is. Safe to run several times: one leads, the others wait. docs/controller.md.
    """
    from app.cli.controller import Wanted, run_controller
    from app.controller.running import Pace

    with reporting():
        run_controller(
            Wanted(
                url=url,
                api_key=api_key,
                key_file=key_file,
                ca_file=ca_file,
                exceptions=exceptions_namespace or (),
                also=also,
                namespace=namespace,
                lease=lease,
                pace=Pace(
                    settle_seconds=settle_seconds,
                    resync_seconds=resync_seconds,
                    # Three times within what it lasts, and a little.
                    renew_seconds=lease_seconds * 4 / 15,
                ),
                lease_seconds=lease_seconds,
                metrics=None if metrics_port is None else (metrics_host, metrics_port),
            ),
            access=(server, token_file, server_ca_file),
        )
