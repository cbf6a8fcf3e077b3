"""The `mutation-firewall` command (alias `mfw`): what a person meets.

What a command needs is imported inside it: `mfw --version` and a refused decision in a shell hook should not pay for a
web server.
"""

from pathlib import Path
from typing import Annotated
from uuid import UUID

import typer

from app.cli import policy_sets_commands, signing_commands  # noqa: F401 - they register their commands
from app.cli.auditing import commands as _auditing  # noqa: F401 - they register their commands
from app.cli.authoring.commands import policies
from app.cli.backup_commands import backup
from app.cli.checking.commands import check
from app.cli.controller_commands import controller
from app.cli.decisions_commands import decisions
from app.cli.hook_commands import hook
from app.cli.integrity_commands import integrity
from app.cli.kubernetes_commands import kubernetes
from app.cli.ledger_commands import ledger
from app.cli.mcp_commands import mcp
from app.cli.options import DEFAULT_URL, ApiKey, Json, Local, LocalPolicies, Timeout, Url, Used, local_policies
from app.cli.output import reporting
from app.cli.switch_commands import switch
from app.cli.witness_commands import witnessing
from app.core.principal import AccessScope, Role

app = typer.Typer(
    name="mutation-firewall",
    help="Every change that an AI wants to make is asked here first: allowed, denied, or held for people, with proof.",
    epilog="Start with `mfw dev`. Exit codes and every option: docs/cli.md.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
config = typer.Typer(no_args_is_help=True, help="See what the environment says.")
keys = typer.Typer(no_args_is_help=True, help="Make, list, rotate and revoke API keys.")
tokens = typer.Typer(no_args_is_help=True, help="Rotate the secret that tokens are signed with.")
app.add_typer(policies, name="policies")
app.add_typer(config, name="config")
app.add_typer(keys, name="keys")
app.add_typer(decisions, name="decisions")
app.add_typer(ledger, name="ledger")
app.add_typer(integrity, name="integrity")
app.add_typer(backup, name="backup")
app.add_typer(tokens, name="tokens")
app.add_typer(switch, name="switch")
app.add_typer(witnessing, name="witness")
app.add_typer(kubernetes, name="kubernetes")
app.add_typer(mcp, name="mcp")
app.add_typer(check, name="check")
app.add_typer(hook, name="hook")
app.command(
    "controller", epilog="Example: `mfw controller --key-file /var/run/mfw/key --exceptions-namespace payments`"
)(controller)


def _version(*, wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"mutation-firewall {version('mutation-firewall')}")
        raise typer.Exit


@app.callback()
def _root(
    *,
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=lambda wanted: _version(wanted=wanted),
            is_eager=True,
            help="Show the version and exit.",
        ),
    ] = False,
) -> None:
    del version


@app.command(
    epilog="Example: `mfw dev`, then, in another terminal: `mfw decide -f examples/allow-k8s-deployment-scaled.json`"
)
def dev(
    *,
    port: Annotated[int | None, typer.Option(min=0, max=65_535, help="Port of the service (default: 8080).")] = None,
    metrics_port: Annotated[
        int | None, typer.Option(min=0, max=65_535, help="Port of the metrics (default: 9090).")
    ] = None,
    state_dir: Annotated[
        Path | None,
        typer.Option(help="Where the database and the API key are kept (default: see docs/configuration.md)."),
    ] = None,
    policies: Annotated[
        Path | None, typer.Option(help="Directory of the policy files (default: the starter policies).")
    ] = None,
) -> None:
    """Start everything on this machine: database, migrations, API key, policies, service.

    For trying out and for development. The database is a PostgreSQL that comes with the package and keeps its data
    between runs. Ctrl-C stops everything.
    """
    from app.cli.dev import run_dev

    with reporting():
        run_dev(port=port, metrics_port=metrics_port, state_dir=state_dir, policies=policies)


@app.command(
    epilog="Example: `MFW_DATABASE__URL_FILE=/run/secrets/database-url MFW_POLICIES__DIRECTORY=/policies mfw serve`"
)
def serve() -> None:
    """Run the service in production, on the settings in the environment.

    Refuses to start, with every reason at once, when a setting is wrong or unsafe or when the database has another
    schema than this version needs. Apply migrations first: `python -m app.migrations.apply`.
    """
    from app.cli.serve import run_serve

    with reporting():
        run_serve()


@app.command(
    epilog="Examples: `mfw decide -f change.json`; `cat change.json | mfw decide -f -`; "
    "`mfw decide -f examples/deny-sql-drop-table.json --local --policies policies/starter`. "
    "Exit codes: 0 allow, 10 deny, 11 hold, everything else is no decision."
)
def decide(
    *,
    file: Annotated[str, typer.Option("--file", "-f", help="The mutation as JSON; `-` reads standard input.")],
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    timeout: Timeout = 10.0,
    local: Local = False,
    policies: LocalPolicies = None,
    used: Used = None,
    as_json: Json = False,
) -> None:
    """Ask for a decision about one mutation.

    The exit code is the decision, so that a hook can say `mfw decide -f - && do-it`.
    """
    from app.cli.decide import run_decide

    with reporting(as_json=as_json):
        code = run_decide(
            file,
            url=url,
            api_key=api_key,
            timeout=timeout,
            policies=local_policies(policies, used, local=local),
            used=used or (),
            as_json=as_json,
        )
        raise typer.Exit(code)


@app.command(epilog="Example: `mfw health`; exit code 0 if it takes requests, 1 if it does not, 69 if nobody answers.")
def health(*, url: Url = DEFAULT_URL, api_key: ApiKey = None, timeout: Timeout = 10.0, as_json: Json = False) -> None:
    """Show every component of a service, and what is wrong with it. Needs the scope `ops`."""
    from app.cli.health import run_health

    with reporting(as_json=as_json):
        run_health(url=url, api_key=api_key, timeout=timeout, as_json=as_json)


@config.command("check", epilog="Example: `MFW_ENVIRONMENT=production mfw config check`")
def config_check(*, as_json: Json = False) -> None:
    """Show the settings in force, secrets masked, or everything that is wrong with them."""
    from app.cli.config import run_check

    with reporting(as_json=as_json):
        raise typer.Exit(run_check(as_json=as_json))


@config.command("reference", epilog="Example: `mfw config reference > docs/configuration.md`")
def config_reference(*, as_json: Json = False) -> None:
    """Write the table of every setting, as it stands in docs/configuration.md."""
    from app.cli.config import run_reference

    with reporting(as_json=as_json):
        run_reference(as_json=as_json)


_Reason = Annotated[str, typer.Option(help="Why, for the ledger.")]
_BY_HAND = "by hand, with `mfw keys`"


@keys.command("create", epilog="Example: `MFW_API_KEY=$(mfw keys create ci --role agent --expires-in-days 90)`")
def keys_create(
    name: Annotated[str, typer.Argument(help="What the key is for, in words of yours.")],
    *,
    principal: Annotated[
        str | None, typer.Option(help="Who asks with it, as the ledger will say (default: the name).")
    ] = None,
    role: Annotated[
        list[Role] | None,
        typer.Option(help="What it may do; may be given several times (default: agent, unless a scope is given)."),
    ] = None,
    scope: Annotated[
        list[AccessScope] | None, typer.Option(help="One thing that it may do beside; may be given several times.")
    ] = None,
    subject: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TYPE:ID",
            help="Whom it may speak for, such as `agent:deploy-*`; may be given several times (default: anybody).",
        ),
    ] = None,
    network: Annotated[
        list[str] | None,
        typer.Option(metavar="CIDR", help="Where it may be used from; may be given several times (default: anywhere)."),
    ] = None,
    expires_in_days: Annotated[int | None, typer.Option(min=1, max=3650, help="Days until it ends by itself.")] = None,
    reason: _Reason = _BY_HAND,
    as_json: Json = False,
) -> None:
    """Make an API key and show it, this once; only its digest is stored. The ledger says that it was made."""
    from datetime import timedelta

    from app.cli.keys import DEFAULT_ROLES, run_create
    from app.service.keys import WantedKey

    with reporting(as_json=as_json):
        wanted = WantedKey(
            name,
            principal_id=principal or "",
            roles=frozenset(role or (() if scope else DEFAULT_ROLES)),
            scopes=frozenset(scope or ()),
            subjects=tuple(subject or ()),
            networks=tuple(network or ()),
            lifetime=None if expires_in_days is None else timedelta(days=expires_in_days),
        )
        run_create(wanted, reason=reason, as_json=as_json)


@keys.command("rotate", epilog="Example: `mfw keys rotate 5f0c6b0e-8d1f-4c59-9f8a-1c2d3e4f5a6b --grace-hours 48`")
def keys_rotate(
    key_id: Annotated[UUID, typer.Argument(metavar="ID", help="The id that `mfw keys list` shows.")],
    *,
    grace_hours: Annotated[int, typer.Option(min=0, max=720, help="Hours for which the old key still works.")] = 24,
    reason: _Reason = _BY_HAND,
    as_json: Json = False,
) -> None:
    """Make an API key with the rights of another and show it, this once; the old one ends after a while."""
    from datetime import timedelta

    from app.cli.keys import run_rotate

    with reporting(as_json=as_json):
        run_rotate(key_id, grace=timedelta(hours=grace_hours), reason=reason, as_json=as_json)


@keys.command("list", epilog="Example: `mfw keys list --all`")
def keys_list(
    *,
    everything: Annotated[bool, typer.Option("--all", help="Revoked and expired ones too.")] = False,
    as_json: Json = False,
) -> None:
    """List the API keys that work. The keys themselves cannot be shown again."""
    from app.cli.keys import run_list

    with reporting(as_json=as_json):
        run_list(everything=everything, as_json=as_json)


@keys.command("revoke", epilog="Example: `mfw keys revoke 5f0c6b0e-8d1f-4c59-9f8a-1c2d3e4f5a6b`")
def keys_revoke(
    key_id: Annotated[UUID, typer.Argument(metavar="ID", help="The id that `mfw keys list` shows.")],
    *,
    force: Annotated[bool, typer.Option("--force", help="Even the last key of an administrator.")] = False,
    reason: _Reason = _BY_HAND,
    as_json: Json = False,
) -> None:
    """Make an API key worthless, at once and for good. The ledger says that it was revoked."""
    from app.cli.keys import run_revoke

    with reporting(as_json=as_json):
        run_revoke(key_id, reason=reason, force=force, as_json=as_json)


@keys.command("generate", epilog="Example: `mfw keys generate > bootstrap-key`")
def keys_generate(*, as_json: Json = False) -> None:
    """Write a fresh API key that is stored nowhere, to be brought along as MFW_AUTH__API_KEYS__BOOTSTRAP."""
    from app.cli.keys import run_generate

    with reporting(as_json=as_json):
        run_generate(as_json=as_json)


@tokens.command("rotate", epilog="Example: `mfw tokens rotate --lifetime-minutes 15 > new-secret`")
def tokens_rotate(
    *,
    lifetime_minutes: Annotated[
        int, typer.Option(min=1, max=43_200, help="How long a token of the issuer is good at most.")
    ] = 60,
    switch_hours: Annotated[
        int, typer.Option(min=0, max=720, help="Hours within which the issuer takes the new secret into use.")
    ] = 24,
    as_json: Json = False,
) -> None:
    """Write a new HMAC secret, and what to set when so that no good token is refused. Changes nothing by itself.

    Reads the settings of the service, so run it where they are. The new secret alone is on standard output.
    """
    from datetime import timedelta

    from app.cli.tokens import run_rotate

    with reporting(as_json=as_json):
        run_rotate(
            lifetime=timedelta(minutes=lifetime_minutes), switch_within=timedelta(hours=switch_hours), as_json=as_json
        )


@app.command("commands", hidden=True)
def commands() -> None:
    """Write the reference of every command, as it stands in docs/cli.md."""
    from app.cli.reference import command_reference

    with reporting():
        typer.echo(command_reference(), nl=False)


def main() -> None:
    """Run the command line of this process."""
    app()
