"""`mfw kubernetes webhook-config`: the configuration of the webhook, for given policies."""

import base64
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import typer

from app.cli.exits import ExitCode
from app.cli.output import Refused
from app.cli.policy_sets import to_yaml
from app.core.admission.callers import agent_rule
from app.policies.load import load_directory
from app.policies.webhook import Webhook, webhook_configuration

_PATH: Final = "/kubernetes/v1/validate"
_SERVICE: Final = re.compile(r"([a-z0-9-]{1,63})/([a-z0-9-]{1,63})(?::([1-9]\d{0,4}))?")
_CERTIFICATE: Final = b"-----BEGIN CERTIFICATE-----"


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
