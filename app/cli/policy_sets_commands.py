"""The commands `mfw policies ...` that store sets of policies in a service and put them into force."""

from pathlib import Path
from typing import Annotated

import typer

from app.cli.authoring.commands import policies
from app.cli.options import DEFAULT_URL, ApiKey, Json, Reason, Timeout, Url, service_at
from app.cli.output import reporting


@policies.command("push", epilog="Example: `mfw policies push policies/starter --note 'commit 41d5c0e'`")
def policies_push(
    paths: Annotated[list[Path], typer.Argument(help="A directory of policy files, or the files.")],
    *,
    note: Annotated[str | None, typer.Option(help="Where the set comes from, for those who list it.")] = None,
    signature: Annotated[
        Path | None,
        typer.Option(
            help="What `mfw policies sign` wrote (default: policy-set.dsse.json in the directory, if it is there)."
        ),
    ] = None,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    timeout: Timeout = 60.0,
    as_json: Json = False,
) -> None:
    """Check policies here and store them in a service as one set. It decides nothing until it is activated.

    Pushed again, a set stays as it is, and takes further signatures.
    """
    from app.cli.policy_sets import run_push

    with reporting(as_json=as_json):
        run_push(paths, service=service_at(url, api_key, timeout), note=note, signature=signature, as_json=as_json)


@policies.command(
    "activate",
    epilog="Example: `mfw policies activate sha256:... --reason 'reviewed in change 4711'`. "
    "Exit codes: 10 when the set in force denies it, 11 when it holds it.",
)
def policies_activate(
    digest: Annotated[str, typer.Argument(help="What `mfw policies push` showed.")],
    *,
    reason: Reason,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    timeout: Timeout = 60.0,
    as_json: Json = False,
) -> None:
    """Put a stored set into force on all replicas, if the set that is in force now allows it."""
    from app.cli.policy_sets import run_activate

    with reporting(as_json=as_json):
        run_activate(digest, reason=reason, service=service_at(url, api_key, timeout), as_json=as_json)


@policies.command("history", epilog="Example: `mfw policies history --limit 10`")
def policies_history(
    *,
    limit: Annotated[int, typer.Option(min=1, max=200, help="How many at most.")] = 50,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    timeout: Timeout = 10.0,
    as_json: Json = False,
) -> None:
    """List which set came into force when, by whom and why, the latest first."""
    from app.cli.policy_sets import run_history

    with reporting(as_json=as_json):
        run_history(limit=limit, service=service_at(url, api_key, timeout), as_json=as_json)


@policies.command("rollback", epilog="Example: `mfw policies rollback --reason 'holds every deployment'`")
def policies_rollback(
    digest: Annotated[
        str | None, typer.Argument(help="The set to go back to (default: the one before the one in force).")
    ] = None,
    *,
    reason: Reason,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    timeout: Timeout = 60.0,
    as_json: Json = False,
) -> None:
    """Put an earlier set into force again: a new activation, judged like any other."""
    from app.cli.policy_sets import run_rollback

    with reporting(as_json=as_json):
        run_rollback(digest, reason=reason, service=service_at(url, api_key, timeout), as_json=as_json)


@policies.command("force", epilog="Example: `mfw policies force sha256:... --reason 'locked out'`")
def policies_force(
    digest: Annotated[str, typer.Argument(help="A stored set.")],
    *,
    reason: Reason,
    unsafe_unsigned: Annotated[
        bool,
        typer.Option(
            "--unsafe-unsigned",
            help="Also without the signatures that MFW_POLICIES__SIGNERS requires. The ledger says so, and replicas "
            "with such a setting follow only when it is changed or the signatures come.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Break the glass: put a stored set into force without asking the one that is.

    Works on the database that the settings name, as `mfw keys` does, for a set that denies every activation. The ledger
    keeps an entry of the kind break-glass.
    """
    from app.cli.policy_sets import run_force

    with reporting(as_json=as_json):
        run_force(digest, reason=reason, unsafe_unsigned=unsafe_unsigned, as_json=as_json)


@policies.command("export", epilog="Example: `mfw policies export sha256:... -o policies-in-force`")
def policies_export(
    digest: Annotated[str, typer.Argument(help="What `mfw policies history` shows.")],
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="A directory that is not there yet.")],
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    timeout: Timeout = 60.0,
    as_json: Json = False,
) -> None:
    """Write a stored set as files, one per policy. Loaded again they have the same digest."""
    from app.cli.policy_sets import run_export

    with reporting(as_json=as_json):
        run_export(digest, output=output, service=service_at(url, api_key, timeout), as_json=as_json)
