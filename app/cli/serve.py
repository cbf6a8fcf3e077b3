"""`mfw serve`: the production service. It checks everything that can be checked before, then becomes gunicorn."""

import asyncio
import math
import os
import signal
import sys
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final, NoReturn

import orjson

from app.cli.exits import ExitCode
from app.cli.output import Refused, complain
from app.cli.server import KEEP_ALIVE_SECONDS
from app.edge.tls import Served
from app.errors import FirewallError, Kind
from app.policies.load import load_directory
from app.settings import LogFormat, PlainHttp, Settings, advice

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
        _tell(f"advice: {hint}", logger="mfw.settings", form=settings.logging.format)
    if settings.policies.directory is not None:
        # Compiled once more by the worker: a second now, for a reason in words instead of a worker that fails to boot.
        load_directory(settings.policies.directory)
    if settings.tls.files is not None:
        Served.of(settings.tls.files)
    # The first process of a container hears no order to stop unless it asks to; what comes next asks by itself.
    signal.signal(signal.SIGTERM, _stop)
    asyncio.run(_check_schema(settings, settings.database.url.get_secret_value()))
    os.execv(sys.executable, [sys.executable, "-m", "gunicorn", *gunicorn_arguments(settings)])  # noqa: S606 - no shell


def _stop(number: int, _frame: object) -> NoReturn:
    raise SystemExit(128 + number)


def _tell(text: str, *, logger: str, form: LogFormat) -> None:
    """Write a line as the service will write all of its lines: who reads them as JSON reads this one too."""
    if form is LogFormat.TEXT:
        complain(text)
        return
    event = {"ts": datetime.now(UTC), "level": "warning", "event": text, "logger": logger}
    line = orjson.dumps(event, option=orjson.OPT_UTC_Z | orjson.OPT_APPEND_NEWLINE)
    sys.stderr.write(line.decode())
    sys.stderr.flush()


async def _check_schema(settings: Settings, dsn: str) -> None:
    """Refuse another schema, once the time to wait for this one is over."""
    from app.persistence import revision
    from app.persistence.engine import create_engine

    engine = create_engine(dsn, pool_size=1, pooled=settings.database.pooled)
    # With a policy set on the local disk the worker starts all the same, and waits for the database.
    may_be_away = settings.policies.cache_directory is not None

    async def check() -> None:
        try:
            await revision.check(engine)
        except FirewallError as error:
            if not may_be_away or error.kind not in {Kind.UNAVAILABLE, Kind.TIMEOUT}:
                raise

    told = partial(_tell, logger="mfw.database", form=settings.logging.format)
    try:
        await revision.wait(check, within=settings.database.wait_seconds, told=lambda why: told(f"waiting: {why}"))
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
