"""The commands `mfw decisions ...`, and those of `mfw ledger ...` that ask a service: proof, erase."""

from pathlib import Path
from typing import Annotated
from uuid import UUID

import typer

from app.cli.ledger_commands import ledger
from app.cli.options import DEFAULT_URL, ApiKey, Json, Timeout, Url, service_at
from app.cli.output import reporting
from app.core.types import Effect

decisions = typer.Typer(no_args_is_help=True, help="Look up what was decided, and why.")

_When = Annotated[
    str | None, typer.Option(metavar="TIME", help="RFC 3339, such as `2026-01-31T09:30:00Z`, or how long ago: `24h`.")
]


@decisions.command("show", epilog="Example: `mfw decisions show 01980c3e-6f2a-7c11-9d0e-3a5b1c2d4e5f`")
def decisions_show(
    decision_id: Annotated[UUID, typer.Argument(metavar="ID", help="The id that the answer had.")],
    *,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    timeout: Timeout = 10.0,
    as_json: Json = False,
) -> None:
    """Show one decision: who asked for what, what was said, and where it is in the ledger."""
    from app.cli.recorded import run_show

    with reporting(as_json=as_json):
        run_show(decision_id, service=service_at(url, api_key, timeout), as_json=as_json)


@decisions.command(
    "list",
    epilog="Examples: `mfw decisions list --decision deny --since 24h`; "
    "`mfw decisions list --subject agent:deploy-bot --resource apps/Deployment`",
)
def decisions_list(
    *,
    subject: Annotated[str | None, typer.Option(metavar="TYPE:ID", help="Who wanted the change.")] = None,
    resource: Annotated[
        str | None, typer.Option(metavar="TYPE[:ID]", help="What was to change; a type alone is every one of it.")
    ] = None,
    action: Annotated[str | None, typer.Option(help="What was to be done.")] = None,
    decision: Annotated[Effect | None, typer.Option(help="What was said.")] = None,
    policy: Annotated[str | None, typer.Option(help="The policy that decided.")] = None,
    rule: Annotated[str | None, typer.Option(help="The rule of --policy that decided.")] = None,
    since: _When = None,
    until: _When = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many at most.")] = 50,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    timeout: Timeout = 10.0,
    as_json: Json = False,
) -> None:
    """List recorded decisions, the newest first; every filter must fit."""
    from app.cli.recorded import run_list

    filters = {
        "subject": subject,
        "resource": resource,
        "action": action,
        "decision": None if decision is None else decision.value,
        "policy": policy,
        "rule": rule,
    }
    with reporting(as_json=as_json):
        run_list(
            {name: value for name, value in filters.items() if value is not None},
            since=since,
            until=until,
            limit=limit,
            service=service_at(url, api_key, timeout),
            as_json=as_json,
        )


@ledger.command(
    "proof",
    epilog="Examples: `mfw ledger proof 4711 --key ledger.key.pub`; `mfw ledger proof 4711 --out entry.tlog-proof`",
)
def ledger_proof(
    index: Annotated[int, typer.Argument(min=0, help="The entry's index, as an answer has it in `ledger_index`.")],
    *,
    size: Annotated[
        int | None, typer.Option(min=1, help="Of the tree (default: that of the newest checkpoint).")
    ] = None,
    key: Annotated[
        str | None, typer.Option(metavar="VKEY", help="Public key of the ledger, or a file with it, to verify with.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="File to write the proof to, as C2SP tlog-proof has it.")
    ] = None,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    timeout: Timeout = 10.0,
    as_json: Json = False,
) -> None:
    """Fetch the proof that an entry is in the ledger, and verify it here.

    What the service says is not believed: the entry is hashed here, the root is computed here.
    """
    from app.cli.recorded import run_proof

    with reporting(as_json=as_json):
        run_proof(index, size=size, key=key, out=out, service=service_at(url, api_key, timeout), as_json=as_json)


@ledger.command(
    "erase",
    epilog="Example: `mfw ledger erase 01980c3e-6f2a-7c11-9d0e-3a5b1c2d4e5f --reason 'request 4711, article 17'`",
)
def ledger_erase(
    entry_id: Annotated[UUID, typer.Argument(metavar="ID", help="The id of the decision, or of another entry.")],
    *,
    reason: Annotated[
        str, typer.Option("--reason", "-r", help="Why, for the ledger: no personal data, for it is never erased.")
    ],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask first.")] = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    timeout: Timeout = 30.0,
    as_json: Json = False,
) -> None:
    """Erase the record of an entry, for good. Its receipt stays, and the ledger says that it was erased.

    Copies that lie elsewhere are not reached: exports, archives, backups, the database's log. docs/ledger.md says more.
    """
    from app.cli.recorded import run_erase

    if not yes and not as_json:
        typer.confirm(f"erase the record of {entry_id} for good?", abort=True, err=True)
    with reporting(as_json=as_json):
        run_erase(entry_id, reason=reason, service=service_at(url, api_key, timeout), as_json=as_json)
