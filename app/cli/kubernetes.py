"""`mfw kubernetes webhook-config` and `certificates`: the webhook for given policies, and what it is checked by."""

import asyncio
import base64
import contextlib
import json
import re
import signal
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import typer

from app.cli.exits import ExitCode
from app.cli.output import Refused, complain
from app.cli.policy_sets import to_yaml
from app.cluster.api import Access, KubernetesApi
from app.cluster.certificates import RENEW_SHARE, CertificateKeeper, Outcome, Terms
from app.core.admission.callers import agent_rule
from app.errors import FirewallError, Kind
from app.policies.load import load_directory
from app.policies.webhook import Webhook, webhook_configuration

_PATH: Final = "/kubernetes/v1/validate"
_SERVICE: Final = re.compile(r"([a-z0-9-]{1,63})/([a-z0-9-]{1,63})(?::([1-9]\d{0,4}))?")
_CERTIFICATE: Final = b"-----BEGIN CERTIFICATE-----"

# What may be over soon; everything else is somebody's to put right.
_PASSING: Final = frozenset({Kind.UNAVAILABLE, Kind.TIMEOUT, Kind.CONFLICT})
_AGAIN_SECONDS: Final = 10.0
_INSTANT: Final = "%Y-%m-%dT%H:%M:%SZ"


def run_webhook_config(
    policies: Path,
    *,
    ca_file: Path | None,
    service: str,
    url: str | None,
    agents: Sequence[str],
    exempt: Sequence[str],
    named_only: bool,
    name: str,
    timeout_seconds: int,
    as_json: bool,
) -> None:
    """Write it to standard output. Raises Refused, PolicyErrors."""
    client, own = _client(service, url)
    if ca_file is not None:
        client["caBundle"] = _bundle(ca_file)
    try:
        rules = [agent_rule(text) for text in agents]
        webhook = Webhook(
            name=name,
            client=client,
            exempt_namespaces=[*exempt, *own],
            agents=rules,
            timeout_seconds=timeout_seconds,
            named_only=named_only,
        )
        made = webhook_configuration(load_directory(policies), webhook)
    except ValueError as error:
        raise Refused(ExitCode.USAGE, str(error), fix="`mfw kubernetes webhook-config --help` has examples") from None
    text = json.dumps(made, indent=2)
    # Read again: what stands in two webhooks would otherwise be written as an alias of the first.
    typer.echo(text if as_json else to_yaml(json.loads(text)), nl=as_json)


def _client(service: str, url: str | None) -> tuple[dict[str, Any], list[str]]:
    """`clientConfig`, and the namespace of the firewall if it is in the cluster."""
    if url is not None:
        parts = urlsplit(url)
        # What an API server takes: no user, no query, no fragment.
        if parts.scheme != "https" or not parts.hostname or parts.query or parts.fragment or parts.username:
            raise Refused(ExitCode.USAGE, f"`{url}` is no https URL", fix="write it as `https://firewall.example.com`")
        return {"url": url.rstrip("/") + _PATH}, []
    found = _SERVICE.fullmatch(service)
    if found is None:
        raise Refused(ExitCode.USAGE, f"`{service}` is no Service", fix="write it as `NAMESPACE/NAME:443`")
    namespace, name, port = found.groups()
    return {"service": {"namespace": namespace, "name": name, "path": _PATH, "port": int(port or 443)}}, [namespace]


def _bundle(file: Path) -> str:
    try:
        content = file.read_bytes()
    except OSError as error:
        why = (error.strerror or type(error).__name__).lower()
        raise Refused(ExitCode.USAGE, f"`{file}` cannot be read: {why}", fix="name a PEM file") from None
    if _CERTIFICATE not in content:
        raise Refused(ExitCode.USAGE, f"`{file}` has no certificate in PEM", fix="name the file of the authority")
    return base64.b64encode(content).decode()


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
    namespace, name, _ = found.groups()
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
        async with KubernetesApi(_access(*access)) as api:
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


def _access(server: str | None, token_file: Path | None, ca_file: Path | None) -> Access:
    if server is None and token_file is None and ca_file is None:
        return Access.in_cluster()
    if server is None or token_file is None or ca_file is None:
        raise Refused(
            ExitCode.USAGE,
            "an API server outside needs an address, a token and an authority",
            fix="give --server, --token-file and --server-ca-file",
        )
    return Access(server.rstrip("/"), token_file, ca_file)
