"""The commands `mfw kubernetes ...`."""

from pathlib import Path
from typing import Annotated

import typer

from app.cli.options import Json
from app.cli.output import reporting

kubernetes = typer.Typer(no_args_is_help=True, help="Put the firewall in front of a cluster.")


@kubernetes.command(
    "webhook-config",
    epilog="Example: `mfw kubernetes webhook-config --policies policies/starter --ca-file ca.crt "
    "--agent namespace=agents | kubectl apply -f -`",
)
def webhook_config(
    *,
    policies: Annotated[Path, typer.Option(help="Directory of the policy files.")],
    ca_file: Annotated[
        Path | None, typer.Option(help="PEM file of the authority that the firewall's certificate is checked by.")
    ] = None,
    service: Annotated[
        str, typer.Option(metavar="NAMESPACE/NAME[:PORT]", help="The Service of the firewall in the cluster.")
    ] = "mutation-firewall/mutation-firewall:443",
    url: Annotated[
        str | None, typer.Option(help="https URL of the firewall, in place of a Service; the path is added.")
    ] = None,
    agent: Annotated[
        list[str] | None,
        typer.Option(
            help="Ask about agents alone, told as MFW_KUBERNETES__AGENTS tells them (`namespace=agents`); may be given "
            "several times."
        ),
    ] = None,
    exempt_namespace: Annotated[
        list[str] | None,
        typer.Option(
            help="Namespace that is not asked about, beside those of the cluster itself and of the Service; may be "
            "given several times."
        ),
    ] = None,
    named_only: Annotated[
        bool, typer.Option("--named-only", help="Ask only about resources that policies name, not about all.")
    ] = False,
    name: Annotated[str, typer.Option(help="Name of the configuration.")] = "mutation-firewall",
    timeout_seconds: Annotated[
        int, typer.Option(min=1, max=30, help="How long the API server waits; then it denies.")
    ] = 3,
    as_json: Json = False,
) -> None:
    """Write the ValidatingWebhookConfiguration for a policy set.

    Its rules are as narrow as the policies allow. Leases, events and reviews of access are never asked about, nor
    namespaces with the label `mutationfirewall.io/exempt`; who puts that label on a namespace is.
    """
    from app.cli.kubernetes import run_webhook_config

    with reporting(as_json=as_json):
        run_webhook_config(
            policies,
            ca_file=ca_file,
            service=service,
            url=url,
            agents=agent or (),
            exempt=exempt_namespace or (),
            named_only=named_only,
            name=name,
            timeout_seconds=timeout_seconds,
            as_json=as_json,
        )
