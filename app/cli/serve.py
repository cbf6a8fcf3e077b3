"""`mfw serve`: the production service. It checks everything that can be checked before, then becomes gunicorn."""

import asyncio
import math
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NoReturn

import orjson

from app.cli.exits import ExitCode
from app.cli.output import Refused, complain
from app.cli.server import KEEP_ALIVE_SECONDS
from app.edge.tls import Served
from app.errors import FirewallError, Kind
from app.policies.load import load_directory
from app.settings import LogFormat, PlainHttp, Settings, SettingsProblem, advice

# Compiling thousands of policies keeps the worker busy before it reports for the first time; one that hangs later is
# found by the liveness probe.
WORKER_SILENCE_SECONDS: Final = 120

# The heartbeat file must be in memory: on a slow disk its update blocks the event loop, and the root may be read-only.
MEMORY_DIRECTORY: Final = Path("/dev/shm")  # noqa: S108 - gunicorn makes a file there that nobody else can open


def run_serve() -> NoReturn:
    """Check settings and schema, then replace this process. Raises `FirewallError` and `Refused`."""
    settings = Settings.load()
    if settings.embedded_database or settings.database.url is None:
        raise Refused(
            ExitCode.BAD_SETTINGS,
            "`mfw serve` needs a PostgreSQL of yours",
            fix="set MFW_DATABASE__URL, or use `mfw dev`",
        )
    for hint in advice(settings):
        _tell(hint, form=settings.logging.format)
    if settings.policies.directory is not None:
        # Compiled once more by the worker: a second now, for a reason in words instead of a worker that fails to boot.
        load_directory(settings.policies.directory)
    if settings.tls.files is not None:
        Served.of(settings.tls.files)
    try:
        asyncio.run(_check_schema(settings.database.url.get_secret_value(), pooled=settings.database.pooled))
    except FirewallError as error:
        # With a policy set on the local disk the worker starts all the same, and waits for the database.
        if settings.policies.cache_directory is None or error.kind not in {Kind.UNAVAILABLE, Kind.TIMEOUT}:
            raise
    os.execv(sys.executable, [sys.executable, "-m", "gunicorn", *gunicorn_arguments(settings)])  # noqa: S606 - no shell


def _tell(hint: SettingsProblem, *, form: LogFormat) -> None:
    """Write a line as the service will write all of its lines: who reads them as JSON reads this one too."""
    if form is LogFormat.TEXT:
        complain(f"advice: {hint}")
        return
    event = {"ts": datetime.now(UTC), "level": "warning", "event": f"advice: {hint}", "logger": "mfw.settings"}
    line = orjson.dumps(event, option=orjson.OPT_UTC_Z | orjson.OPT_APPEND_NEWLINE)
    sys.stderr.write(line.decode())
    sys.stderr.flush()


async def _check_schema(dsn: str, *, pooled: bool) -> None:
    from app.persistence import revision
    from app.persistence.engine import create_engine

    engine = create_engine(dsn, pool_size=1, pooled=pooled)
    try:
        await revision.check(engine)
    finally:
        await engine.dispose()


def gunicorn_arguments(settings: Settings) -> list[str]:
    """The command line of gunicorn: one worker, because a pod is one process and scale is more pods."""
    http, tls = settings.http, settings.tls
    arguments = [
        # The socket with TLS is the last one (app/cli/draining.py).
        *([] if tls.enabled and tls.plain_http is PlainHttp.NONE else [_bind(http.host, http.port)]),
        *([_bind(tls.host or http.host, tls.port)] if tls.enabled else []),
        "--workers=1",
        "--worker-class=app.cli.worker.Worker",
        "--logger-class=app.cli.worker.GunicornLogger",
        # The time of the draining is not taken from the requests that are under way when it is over.
        f"--graceful-timeout={http.shutdown_grace_seconds + math.ceil(http.drain_seconds)}",
        f"--worker-connections={http.max_connections}",
        f"--timeout={WORKER_SILENCE_SECONDS}",
        f"--keep-alive={KEEP_ALIVE_SECONDS}",
        f"--forwarded-allow-ips={','.join(http.trusted_proxies)}",
        # It would be a socket file under the home directory, which a read-only root has not.
        "--no-control-socket",
        "--name=mutation-firewall",
    ]
    if os.access(MEMORY_DIRECTORY, os.W_OK):
        arguments.append(f"--worker-tmp-dir={MEMORY_DIRECTORY}")
    return [*arguments, "app.main:app"]


def _bind(host: str, port: int) -> str:
    return f"--bind=[{host}]:{port}" if ":" in host else f"--bind={host}:{port}"
