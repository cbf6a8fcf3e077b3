"""`mfw kubernetes certificates`: what the webhook's certificate is made and renewed by."""

import asyncio
import contextlib
import json
import re
import signal
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import typer

from app.cli.exits import ExitCode
from app.cli.output import Refused, complain
from app.cluster.api import Access, KubernetesApi
from app.cluster.certificates import RENEW_SHARE, CertificateKeeper, Outcome, Terms
from app.errors import FirewallError, Kind

_SERVICE: Final = re.compile(r"([a-z0-9-]{1,63})/([a-z0-9-]{1,63})")

# What may be over soon; everything else is somebody's to put right.
_PASSING: Final = frozenset({Kind.UNAVAILABLE, Kind.TIMEOUT, Kind.CONFLICT})
_AGAIN_SECONDS: Final = 10.0
_INSTANT: Final = "%Y-%m-%dT%H:%M:%SZ"


def run_certificates(
    *,
    service: str,
    secret: str | None,
    configurations: Sequence[str],
    names: Sequence[str],
    terms: tuple[float, float, float],
    access: tuple[str | None, Path | None, Path | None],
    watch_seconds: float | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Make, renew and announce it. `terms` are days, seconds to settle, seconds of overlap. Raises Refused."""
    found = _SERVICE.fullmatch(service)
    if found is None:
        raise Refused(ExitCode.USAGE, f"`{service}` is no Service", fix="write it as `NAMESPACE/NAME`")
    namespace, name = found.groups()
    days, settle, overlap = terms
    wanted = Terms(
        names=tuple(dict.fromkeys([*_service_names(namespace, name), *names])),
        lifetime=timedelta(days=days),
        settle=timedelta(seconds=settle),
        overlap=timedelta(seconds=overlap),
    )
    if wanted.lifetime * RENEW_SHARE <= wanted.settle + wanted.overlap:
        raise Refused(
            ExitCode.USAGE,
            "a third of the certificate's life is shorter than the time to settle and the overlap",
            fix="let it live longer, or shorten them",
        )

    async def keep() -> None:
        async with KubernetesApi(access_of(*access)) as api:
            keeper = CertificateKeeper(
                api,
                namespace=namespace,
                secret=secret or f"{name}-tls",
                configurations=configurations,
                terms=wanted,
                dry_run=dry_run,
            )
            if watch_seconds is None:
                _tell(await keeper.keep(), dry_run=dry_run, as_json=as_json)
                return
            await _watch(keeper, seconds=watch_seconds, dry_run=dry_run, as_json=as_json)

    asyncio.run(keep())


async def _watch(keeper: CertificateKeeper, *, seconds: float, dry_run: bool, as_json: bool) -> None:
    """Look again when something is due, and every so often; an API server that is away is waited for."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    told = False
    while not ended.is_set():
        try:
            outcome = await keeper.keep()
        except FirewallError as error:
            if error.kind not in _PASSING:
                raise
            complain(error.detail, fix=error.fix)
            pause = min(seconds, _AGAIN_SECONDS)
        else:
            if outcome.done or not told:
                _tell(outcome, dry_run=dry_run, as_json=as_json)
                told = True
            pause = max(1.0, min(seconds, (outcome.due - datetime.now(UTC)).total_seconds()))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await ended.wait()


def _tell(outcome: Outcome, *, dry_run: bool, as_json: bool) -> None:
    """Say what was done; every line or object at once, for who reads along."""
    if as_json:
        told = {
            "done": [{"act": one.act.name.lower(), "what": one.what} for one in outcome.done],
            "dry_run": dry_run,
            "missing": list(outcome.missing),
            "not_after": outcome.not_after.isoformat(),
            "due": outcome.due.isoformat(),
        }
        # One line each: with --watch they come one after the other.
        typer.echo(json.dumps(told))
    else:
        would = "would have " if dry_run else ""
        for one in outcome.done:
            typer.echo(f"{would}{one.act.value}: {one.what}")
        for name in outcome.missing:
            complain(
                f"there is no webhook configuration `{name}`", fix="apply what `mfw kubernetes webhook-config` writes"
            )
        typer.echo(f"valid until {outcome.not_after:{_INSTANT}}, next look due {outcome.due:{_INSTANT}}")
    sys.stdout.flush()


def _service_names(namespace: str, name: str) -> list[str]:
    """The first is the one that API servers ask for."""
    return [f"{name}.{namespace}.svc", f"{name}.{namespace}.svc.cluster.local", f"{name}.{namespace}", name]


def configurations_of(named: Sequence[str], *, none: bool) -> Sequence[str]:
    """Whose `caBundle` is kept: those that options name, or that of the chart. Raises Refused."""
    if none and named:
        raise Refused(ExitCode.USAGE, "a webhook is named, and none is wanted", fix="leave one of the two options out")
    return () if none else named or ("mutation-firewall",)


def access_of(server: str | None, token_file: Path | None, ca_file: Path | None) -> Access:
    """The API server that options name, or the one of the pod that this is. Raises Refused, and FirewallError."""
    if server is None and token_file is None and ca_file is None:
        return Access.in_cluster()
    if server is None or token_file is None or ca_file is None:
        raise Refused(
            ExitCode.USAGE,
            "an API server outside needs an address, a token and an authority",
            fix="give --server, --token-file and --server-ca-file",
        )
    return Access(server.rstrip("/"), token_file, ca_file)
