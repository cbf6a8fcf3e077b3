"""The commands `mfw kubernetes ...`."""

from pathlib import Path
from typing import Annotated

import typer

from app.cli.options import CaFile, Json, Policies, Server, ServerCaFile, TokenFile
from app.cli.output import reporting

kubernetes = typer.Typer(no_args_is_help=True, help="Put the firewall in front of a cluster.")


@kubernetes.command(
    "webhook-config",
    epilog="Example: `mfw kubernetes webhook-config --policies policies/starter --ca-file ca.crt "
    "--agent namespace=agents | kubectl apply -f -`",
)
def webhook_config(
    *,
    policies: Policies,
    ca_file: CaFile = None,
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
    canary: Annotated[
        bool, typer.Option("--canary", help="Ask about the canary too (MFW_KUBERNETES__CANARY__KEY), whoever sends it.")
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
            canary=canary,
            name=name,
            timeout_seconds=timeout_seconds,
            as_json=as_json,
        )


@kubernetes.command(
    "backstop",
    epilog="Example: `mfw kubernetes backstop --policies policies/starter --agent namespace=agents "
    "--environment '*=production' | kubectl apply -f -`",
)
def backstop(
    *,
    policies: Policies,
    agent: Annotated[
        list[str] | None,
        typer.Option(
            help="Deny agents alone, told as MFW_KUBERNETES__AGENTS tells them (`namespace=agents`); may be given "
            "several times."
        ),
    ] = None,
    environment: Annotated[
        list[str] | None,
        typer.Option(
            help="Environment of namespaces as in MFW_KUBERNETES__ENVIRONMENTS (`*-staging=staging`), in the same "
            "order; may be given several times."
        ),
    ] = None,
    cluster: Annotated[str, typer.Option(help="Name of the cluster, as in MFW_KUBERNETES__CLUSTER.")] = "",
    service: Annotated[
        str,
        typer.Option(metavar="NAMESPACE/NAME[:PORT]", help="The Service of the firewall; its namespace is exempt."),
    ] = "mutation-firewall/mutation-firewall:443",
    exempt_namespace: Annotated[
        list[str] | None,
        typer.Option(help="Namespace that the webhook is not asked about either; may be given several times."),
    ] = None,
    named_only: Annotated[
        bool, typer.Option("--named-only", help="Only resources that policies name, as the webhook was told.")
    ] = False,
    holds: Annotated[
        bool, typer.Option("--holds", help="Deny what is held as well: nobody can lift it while this is in place.")
    ] = False,
    report: Annotated[
        Path | None, typer.Option(help="File for what the wall has and what was left out, as JSON.")
    ] = None,
    name: Annotated[str, typer.Option(help="What the names of all documents begin with.")] = "mutation-firewall",
    as_json: Json = False,
) -> None:
    """Write native ValidatingAdmissionPolicies for the rules that deny, as a wall behind the webhook.

    Only rules that Kubernetes' CEL evaluates as the firewall does; every other one is named on standard error with the
    reason. Give the same agents, environments and exemptions as the firewall and its webhook have.
    """
    from app.cli.kubernetes import run_backstop

    with reporting(as_json=as_json):
        run_backstop(
            policies,
            agents=agent or (),
            environments=environment or (),
            cluster=cluster,
            service=service,
            exempt=exempt_namespace or (),
            named_only=named_only,
            holds=holds,
            report=report,
            name=name,
            as_json=as_json,
        )


@kubernetes.command(
    "certificates",
    epilog="Example: `mfw kubernetes certificates --service mutation-firewall/mutation-firewall --dry-run`",
)
def certificates(
    *,
    service: Annotated[
        str, typer.Option(metavar="NAMESPACE/NAME", help="The Service of the firewall, whose names it gets.")
    ] = "mutation-firewall/mutation-firewall",
    secret: Annotated[
        str | None, typer.Option(help="Name of the Secret beside the Service; that of the Service and `-tls` if unset.")
    ] = None,
    webhook: Annotated[
        list[str] | None,
        typer.Option(help="ValidatingWebhookConfiguration whose caBundle is kept; may be given several times."),
    ] = None,
    no_webhook: Annotated[
        bool, typer.Option("--no-webhook", help="There is none: nobody but clients of the service is to believe it.")
    ] = False,
    name: Annotated[
        list[str] | None, typer.Option(help="A further DNS name or address; may be given several times.")
    ] = None,
    days: Annotated[float, typer.Option(min=0.0001, max=3650, help="How long a certificate lives.")] = 90,
    settle_seconds: Annotated[
        float, typer.Option(min=0, max=86_400, help="How long API servers know an authority before it is needed.")
    ] = 60,
    overlap_seconds: Annotated[
        float,
        typer.Option(min=0, max=604_800, help="How long they know the former one, until every replica has the Secret."),
    ] = 3600,
    watch: Annotated[bool, typer.Option("--watch", help="Stay, and renew it when it is due.")] = False,
    every_seconds: Annotated[
        float, typer.Option(min=0.1, max=86_400, help="With --watch: how often to look that all is as it should be.")
    ] = 600,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Have the API server check it; change nothing.")] = False,
    server: Server = None,
    token_file: TokenFile = None,
    server_ca_file: ServerCaFile = None,
    as_json: Json = False,
) -> None:
    """Make the certificate of the webhook, renew it, and have API servers know it.

    It lies in a Secret; its authority, whose key nobody keeps, in the caBundle. Safe to repeat and to run twice at the
    same time. A renewal takes three looks: the next authority is announced, then its certificate is used, then the
    former one is taken out. Without --watch run it every day, as a CronJob.
    """
    from app.cli.certificates import configurations_of, run_certificates

    with reporting(as_json=as_json):
        run_certificates(
            service=service,
            secret=secret,
            configurations=configurations_of(webhook or (), none=no_webhook),
            names=name or (),
            terms=(days, settle_seconds, overlap_seconds),
            access=(server, token_file, server_ca_file),
            watch_seconds=every_seconds if watch else None,
            dry_run=dry_run,
            as_json=as_json,
        )


@kubernetes.command(
    "controller-rights",
    epilog="Example: `mfw kubernetes controller-rights --exceptions-namespace payments | kubectl apply -f -`",
)
def controller_rights(
    *,
    account: Annotated[
        str, typer.Option(metavar="NAMESPACE/NAME", help="ServiceAccount that the controller runs as.")
    ] = "mutation-firewall/mutation-firewall-controller",
    exceptions_namespace: Annotated[
        list[str] | None,
        typer.Option(help="Namespace whose exceptions count, as `mfw controller` is told; may be given several times."),
    ] = None,
    lease: Annotated[str, typer.Option(help="Name of its Lease.")] = "mutation-firewall-controller",
    name: Annotated[str, typer.Option(help="Name of the roles and bindings.")] = "mutation-firewall-controller",
) -> None:
    """Write the roles that `mfw controller` needs, and no more, with their bindings."""
    from app.cli.controller import run_rights

    with reporting():
        run_rights(name=name, account=account, lease=lease, exceptions=exceptions_namespace or ())
