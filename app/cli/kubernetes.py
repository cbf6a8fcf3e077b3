"""`mfw kubernetes ...`: the configuration of the webhook for given policies, and the wall behind it."""

import base64
import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import typer

from app.cli.exits import ExitCode
from app.cli.output import Refused, plain
from app.cli.policy_sets import to_yaml
from app.core.admission.callers import AgentRule, AgentSource, agent_rule, environment_rule
from app.policies.backstop import Backstop, Rendered, render
from app.policies.diagnostics import PolicyErrors
from app.policies.load import check_directory, load_directory
from app.policies.webhook import Webhook, webhook_configuration

_PATH: Final = "/kubernetes/v1/validate"
_SERVICE: Final = re.compile(r"([a-z0-9-]{1,63})/([a-z0-9-]{1,63})(?::([1-9]\d{0,4}))?")
_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
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
    canary: bool,
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
            canary=canary,
        )
        made = webhook_configuration(load_directory(policies), webhook)
    except ValueError as error:
        raise Refused(ExitCode.USAGE, str(error), fix="`mfw kubernetes webhook-config --help` has examples") from None
    text = json.dumps(made, indent=2)
    # Read again: what stands in two webhooks would otherwise be written as an alias of the first.
    typer.echo(text if as_json else to_yaml(json.loads(text)), nl=as_json)


def run_backstop(
    policies: Path,
    *,
    agents: Sequence[str],
    environments: Sequence[str],
    cluster: str,
    service: str,
    exempt: Sequence[str],
    named_only: bool,
    holds: bool,
    report: Path | None,
    name: str,
    as_json: bool,
) -> None:
    """Write it to standard output, and what was left out to standard error. Raises Refused, PolicyErrors."""
    checked = check_directory(policies)
    if checked.policy_set is None:
        raise PolicyErrors(checked.diagnostics)
    _, own = _client(service, None)
    try:
        if _NAME.fullmatch(name) is None:
            raise ValueError(f"`{name}` is no name; use at most 63 lower case letters, digits and dashes")  # noqa: TRY301 - said as all faults of the arguments are
        rendered = render(
            checked,
            Backstop(
                name=name,
                agents=_seen_by_api_servers(agents),
                environments=[environment_rule(text) for text in environments],
                cluster=cluster,
                exempt_namespaces=[*exempt, *own],
                named_only=named_only,
                holds=holds,
            ),
        )
    except ValueError as error:
        raise Refused(ExitCode.USAGE, str(error), fix="`mfw kubernetes backstop --help` has examples") from None
    left_out = [plain(f"{one.policy}{f'/{one.rule}' if one.rule else ''}: {one.reason}") for one in rendered.left_out]
    if report is not None:
        _write_report(report, rendered)
    for line in left_out:
        typer.echo(f"left out: {line}", err=True)
    # As for the webhook: nothing is written as an alias.
    documents = [json.loads(json.dumps(one)) for one in rendered.documents]
    if as_json:
        typer.echo(json.dumps({"apiVersion": "v1", "kind": "List", "items": documents}, indent=2))
        return
    # A line break in a comment would make a document of what comes behind it.
    comments = "".join(f"# left out: {' '.join(line.split())}\n" for line in left_out)
    typer.echo(comments + "---\n".join(map(to_yaml, documents)), nl=False)


def _write_report(file: Path, rendered: Rendered) -> None:
    found = {
        "rules": [{"policy": policy, "rule": rule} for policy, rule in rendered.rules],
        "leftOut": [asdict(one) for one in rendered.left_out],
    }
    try:
        file.write_text(json.dumps(found, indent=2) + "\n")
    except OSError as error:
        why = (error.strerror or type(error).__name__).lower()
        raise Refused(ExitCode.USAGE, f"`{file}` cannot be written: {why}", fix="name another file") from None


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


def _seen_by_api_servers(texts: Sequence[str]) -> list[AgentRule]:
    """Read rules for agents that a native policy can look at. Raises ValueError."""
    rules = [agent_rule(text) for text in texts]
    if any(rule.source is AgentSource.LABEL for rule in rules):
        raise ValueError("`label=` is of service accounts, and a native policy sees their names alone")
    return rules
