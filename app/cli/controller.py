"""`mfw controller` and `mfw kubernetes controller-rights`."""

import asyncio
import contextlib
import json
import logging
import re
import signal
import socket
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final, cast
from uuid import uuid4

from app.cli.certificates import access_of
from app.cli.exits import ExitCode
from app.cli.output import Refused, console
from app.cli.policy_sets import to_yaml
from app.client import AsyncFirewall, ProblemError, ProblemKind
from app.client.connection import address
from app.cluster.api import ACCOUNT, KubernetesApi
from app.controller.follow import Follower
from app.controller.lease import DURATION_SECONDS, Lease
from app.controller.metrics import ControllerMetrics
from app.controller.reconcile import Reconciler
from app.controller.rights import rights
from app.controller.running import Controller, Pace
from app.controller.serving import serving
from app.core.types import JsonObject
from app.observability.logs import Logs
from app.policies.custom_resources import EXCEPTIONS, POLICIES
from app.policies.diagnostics import PolicyErrors, Severity
from app.policies.load import check_directory

NAMESPACE: Final = "mutation-firewall"
_NAME: Final = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?")
_log: Final = logging.getLogger("mfw.controller")
_NO_POLICIES: Final = "an empty set is refused"
_ACCOUNT: Final = re.compile(r"([a-z0-9-]{1,63})/([a-z0-9.-]{1,253})")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the controller is told on its command line."""

    url: str
    api_key: str | None
    key_file: Path | None
    ca_file: Path | None
    exceptions: Sequence[str]
    also: Path | None
    namespace: str | None
    lease: str
    pace: Pace
    lease_seconds: int = DURATION_SECONDS
    metrics: tuple[str, int] | None = None


def run_controller(wanted: Wanted, *, access: tuple[str | None, Path | None, Path | None]) -> None:
    """Follow the cluster until SIGTERM. Raises Refused, and FirewallError outside of a pod."""
    _check(wanted.exceptions)
    namespace = wanted.namespace or _own_namespace()
    _check([namespace])
    try:
        address(wanted.url)
    except ProblemError as error:
        raise Refused(ExitCode.USAGE, error.detail, fix=error.fix) from None
    reached = access_of(*access)
    # Another pod may have the same name one day; another process never has this one.
    identity = f"{socket.gethostname()}_{uuid4()}"

    @contextlib.asynccontextmanager
    async def service() -> AsyncIterator[AsyncFirewall]:
        # Key and authority are read for each look: a Secret may have others by now.
        async with _client(wanted) as firewall:
            yield firewall

    async def follow() -> None:
        async with KubernetesApi(reached) as api:
            lease = Lease(
                api, namespace=namespace, name=wanted.lease, identity=identity, duration_seconds=wanted.lease_seconds
            )
            reconciler = Reconciler(api, service=service, identity=identity, also=lambda: _documents(wanted.also))
            controller = Controller(lease, reconciler, pace=wanted.pace, told=metrics.looked, stood_by=metrics.stood_by)
            metrics.watch(
                leads=lambda: controller.leads, ready=lambda: controller.ready, waiting=lambda: controller.waiting
            )
            followers = [
                Follower(api, POLICIES, changed=controller.changed),
                *(
                    Follower(api, EXCEPTIONS, namespace=one, changed=controller.changed)
                    for one in dict.fromkeys(wanted.exceptions)
                ),
            ]
            with contextlib.ExitStack() as served:
                if wanted.metrics is not None:
                    host, port = wanted.metrics
                    bound = served.enter_context(
                        serving(host, port, registry=metrics.registry, ready=lambda: controller.ready)
                    )
                    _log.info("metrics and health served", extra={"fields": {"host": host, "port": bound}})
                running = asyncio.create_task(controller.run(followers))
                loop = asyncio.get_running_loop()
                for number in (signal.SIGTERM, signal.SIGINT):
                    loop.add_signal_handler(number, running.cancel)
                with contextlib.suppress(asyncio.CancelledError):
                    await running

    metrics = ControllerMetrics(version=version("mutation-firewall"))
    logs = Logs()
    logs.install()
    try:
        asyncio.run(follow())
    finally:
        logs.stop()


def run_rights(*, name: str, account: str, lease: str, exceptions: Sequence[str]) -> None:
    """Write the roles and bindings as YAML."""
    found = _ACCOUNT.fullmatch(account)
    if found is None:
        raise Refused(ExitCode.USAGE, f"`{account}` is no ServiceAccount", fix="write it as `NAMESPACE/NAME`")
    _check(exceptions)
    made = rights(name=name, namespace=found[1], account=found[2], lease=lease, exceptions=exceptions)
    # Written and read: what is shared would be written as anchors.
    console().file.write("---\n".join(to_yaml(json.loads(json.dumps(one))) for one in made))


def _check(namespaces: Sequence[str]) -> None:
    for one in namespaces:
        if not _NAME.fullmatch(one):
            raise Refused(ExitCode.USAGE, f"`{one}` is no name of a namespace", fix="name one, for example `payments`")


def _own_namespace(account: Path = ACCOUNT) -> str:
    try:
        return (account / "namespace").read_text().strip()
    except OSError:
        return NAMESPACE


def _client(wanted: Wanted) -> AsyncFirewall:
    try:
        return AsyncFirewall(wanted.url, _key(wanted), ca_file=wanted.ca_file)
    except OSError as error:
        # ssl's errors are OSErrors: the file is not there, or is none of certificates.
        reason = (error.strerror or type(error).__name__).lower()
        raise ProblemError(
            ProblemKind.INVALID_REQUEST, f"the file of the authority cannot be read: {reason}", fix="look at --ca-file"
        ) from None


def _key(wanted: Wanted) -> str | None:
    if wanted.key_file is None:
        return wanted.api_key
    try:
        return wanted.key_file.read_text().strip()
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise ProblemError(
            ProblemKind.INVALID_REQUEST, f"the file of the key cannot be read: {reason}", fix="look at --key-file"
        ) from None


def _documents(directory: Path | None) -> list[JsonObject]:
    """What is in the directory. Raises PolicyErrors: what it has must be read whole, for it may be what keeps values
    out of the ledger; only policies may be missing in it.
    """
    if directory is None:
        return []
    checked = check_directory(directory)
    errors = [one for one in checked.diagnostics if one.severity is Severity.ERROR]
    # The loader says that where there are no policies, and nothing else is wrong.
    if errors and not (checked.documents and _NO_POLICIES in errors[0].message):
        raise PolicyErrors(errors, what=f"`{directory}` is refused", fix=f"`mfw policies check {directory}` shows all")
    return [cast("JsonObject", one.root.plain()) for one in checked.documents]
