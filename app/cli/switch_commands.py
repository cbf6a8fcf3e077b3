"""The commands `mfw switch ...`: turning things off by hand, on all replicas at once."""

from typing import Annotated
from uuid import UUID

import typer

from app.cli.options import DEFAULT_URL, ApiKey, For, Json, Reason, Timeout, Url, service_at
from app.cli.output import reporting
from app.core.switches import SwitchKind

switch = typer.Typer(no_args_is_help=True, help="Throw, list and end kill switches.")


@switch.command("deny-all", epilog="Example: `mfw switch deny-all --reason 'incident 4711' --for 1h`")
def switch_deny_all(
    *,
    reason: Reason,
    lasting: For = None,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    timeout: Timeout = 10.0,
    as_json: Json = False,
) -> None:
    """Deny every mutation, activations of policy sets among them, on all replicas within 2 seconds."""
    from app.cli.switch import run_throw

    with reporting(as_json=as_json):
        service = service_at(url, api_key, timeout)
        run_throw(SwitchKind.DENY_ALL, None, reason=reason, lasting=lasting, service=service, as_json=as_json)


@switch.command("deny-subject", epilog="Example: `mfw switch deny-subject deploy-bot --reason 'deletes too much'`")
def switch_deny_subject(
    subject_id: Annotated[str, typer.Argument(metavar="ID", help="The subject's id; of whatever type.")],
    *,
    reason: Reason,
    lasting: For = None,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    timeout: Timeout = 10.0,
    as_json: Json = False,
) -> None:
    """Deny whatever one subject asks for."""
    from app.cli.switch import run_throw

    with reporting(as_json=as_json):
        service = service_at(url, api_key, timeout)
        run_throw(SwitchKind.DENY_SUBJECT, subject_id, reason=reason, lasting=lasting, service=service, as_json=as_json)


@switch.command("shadow", epilog="Example: `mfw switch shadow prod-replicas --reason 'denies all' --for 30m`")
def switch_shadow(
    policy: Annotated[str, typer.Argument(metavar="POLICY", help="Its name in the set in force.")],
    *,
    reason: Reason,
    lasting: Annotated[str, typer.Option("--for", metavar="DURATION", help="When it ends by itself; at most `24h`.")],
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    timeout: Timeout = 10.0,
    as_json: Json = False,
) -> None:
    """Let one policy speak without being heard: a weakening, which needs the scope `policy:activate` as well.

    All it says is recorded, what it allows among it, and decides nothing.
    """
    from app.cli.switch import run_throw

    with reporting(as_json=as_json):
        service = service_at(url, api_key, timeout)
        run_throw(SwitchKind.SHADOW, policy, reason=reason, lasting=lasting, service=service, as_json=as_json)


@switch.command("stop-approvals", epilog="Example: `mfw switch stop-approvals --reason 'stolen laptop' --for 4h`")
def switch_stop_approvals(
    *,
    reason: Reason,
    lasting: For = None,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    timeout: Timeout = 10.0,
    as_json: Json = False,
) -> None:
    """Take and spend no approvals: what is held stays held."""
    from app.cli.switch import run_throw

    with reporting(as_json=as_json):
        service = service_at(url, api_key, timeout)
        run_throw(SwitchKind.STOP_APPROVALS, None, reason=reason, lasting=lasting, service=service, as_json=as_json)


@switch.command("list", epilog="Example: `mfw switch list --all`")
def switch_list(
    *,
    everything: Annotated[bool, typer.Option("--all", help="Those that are over too.")] = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    timeout: Timeout = 10.0,
    as_json: Json = False,
) -> None:
    """List the kill switches that are on, the latest first."""
    from app.cli.switch import run_list

    with reporting(as_json=as_json):
        run_list(everything=everything, service=service_at(url, api_key, timeout), as_json=as_json)


@switch.command("off", epilog="Example: `mfw switch off 019a... --reason 'fixed by change 4712'`")
def switch_off(
    switch_id: Annotated[UUID, typer.Argument(metavar="ID", help="The id that `mfw switch list` shows.")],
    *,
    reason: Reason,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    timeout: Timeout = 10.0,
    as_json: Json = False,
) -> None:
    """End a kill switch on all replicas within 2 seconds."""
    from app.cli.switch import run_off

    with reporting(as_json=as_json):
        run_off(switch_id, reason=reason, service=service_at(url, api_key, timeout), as_json=as_json)
