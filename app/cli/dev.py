"""`mfw dev`: everything on this machine, in one process beside the database's.

(1) settings     of the environment, for development
(2) ports        taken now, so that a busy one is said before anything is started
(3) database     the PostgreSQL that comes with the package, unless a URL is set
(4) migrations   applied
(5) API key      made once, kept in a file
(6) service      until Ctrl-C; then the other way round
"""

import asyncio
import errno
import os
import shlex
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, Final

import uvicorn
import uvloop
from pydantic import SecretStr

from app.cli.exits import ExitCode
from app.cli.output import Refused, complain, console
from app.cli.server import OPTIONS
from app.cli.state import (
    database_file,
    key_file,
    ledger_key_file,
    ledger_public_key_file,
    private_directory,
    read_private,
    write_private,
)
from app.settings import Environment, PolicySource, Settings, advice

ROOT: Final = Path(__file__).resolve().parents[2]
STARTER_POLICIES: Final = ROOT / "policies" / "starter"
EXAMPLE: Final = ROOT / "examples" / "allow-k8s-deployment-scaled.json"
DEVELOPMENT_ORIGIN: Final = "mutation-firewall.localhost/ledger"
# Nobody waits longer at a terminal.
GRACE_SECONDS_MAX: Final = 5
BACKLOG: Final = 2048


def run_dev(*, port: int | None, metrics_port: int | None, state_dir: Path | None, policies: Path | None) -> None:
    """Run until Ctrl-C or SIGTERM. Raises `FirewallError` and `Refused`."""
    settings = development_settings(port=port, metrics_port=metrics_port, state_dir=state_dir, policies=policies)
    for hint in advice(settings):
        complain(f"advice: {hint}")
    # SIGTERM ends this like Ctrl-C: the database must go last.
    ctrl_c = _CtrlC()
    before = {number: signal.signal(number, ctrl_c) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        # uvicorn finishes what is in flight, and raises the signal again when it is done.
        with (
            suppress(KeyboardInterrupt),
            _listener(settings) as listener,
            _database(settings) as dsn,
            asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        ):
            if not ctrl_c.pressed:
                runner.run(_serve(_with_database(_with_signing_key(settings), dsn), listener))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    console(stderr=True).print("stopped")


class _CtrlC:
    """Interrupts what is under way, and remembers it.

    Python's own way during `asyncio.run` is to cancel the task, and a task that ends all the same has swallowed it.
    """

    def __init__(self) -> None:
        self.pressed = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.pressed = True
        signal.default_int_handler(number, frame)


def development_settings(
    *, port: int | None, metrics_port: int | None, state_dir: Path | None, policies: Path | None
) -> Settings:
    """Step 1: the environment, with what the command line says laid over it. Raises `SettingsError` and `Refused`."""
    environ = dict(os.environ)
    if environ.get("MFW_ENVIRONMENT") == Environment.PRODUCTION:
        raise Refused(
            ExitCode.BAD_SETTINGS, "`mfw dev` is not for production", fix="use `mfw serve`, or unset MFW_ENVIRONMENT"
        )
    if environ.get("MFW_TLS__CERTIFICATE_FILE"):
        raise Refused(
            ExitCode.BAD_SETTINGS,
            "`mfw dev` speaks plain HTTP",
            fix="use `mfw serve`, or unset MFW_TLS__CERTIFICATE_FILE",
        )
    from_database = environ.get("MFW_POLICIES__SOURCE") == PolicySource.DATABASE
    for name, default in (
        ("MFW_ENVIRONMENT", Environment.DEVELOPMENT.value),
        ("MFW_LOGGING__FORMAT", "text"),
        # Unless the policies shall come from the database.
        *([] if from_database else [("MFW_POLICIES__DIRECTORY", str(STARTER_POLICIES))]),
    ):
        environ[name] = environ.get(name) or default
    for name, chosen in (
        ("MFW_HTTP__PORT", port),
        ("MFW_METRICS__PORT", metrics_port),
        ("MFW_STATE_DIR", state_dir),
        ("MFW_POLICIES__DIRECTORY", policies),
    ):
        if chosen is not None:
            environ[name] = str(chosen)
    return Settings.load(environ)


@contextmanager
def _listener(settings: Settings) -> Iterator[socket.socket]:
    """Step 2: the service's socket; the metrics' one is only tried."""
    if settings.metrics.enabled:
        _bind(settings.metrics.host, settings.metrics.port, "--metrics-port").close()
    with _bind(settings.http.host, settings.http.port, "--port") as listener:
        yield listener


def _bind(host: str, port: int, option: str) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise Refused(
            ExitCode.BAD_SETTINGS, f"cannot listen on `{host}`: {error.strerror}", fix="use 127.0.0.1"
        ) from error
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        # Only now does the kernel tell whether somebody else listens there.
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            detail, fix = (
                f"port {port} on {host} is in use",
                f"stop what listens there, or choose another with {option}",
            )
        else:
            detail, fix = (
                f"cannot listen on {host}:{port}: {(error.strerror or '').lower()}",
                f"choose another with {option}",
            )
        raise Refused(ExitCode.FAILED, detail, fix=fix) from error
    return listener


@contextmanager
def _database(settings: Settings) -> Iterator[str]:
    """Step 3: the database's URL, and the database itself if it is ours to start."""
    if settings.database.url is not None:
        yield settings.database.url.get_secret_value()
        return
    from app.persistence.embedded import EmbeddedPostgres

    private_directory(settings.state_dir)
    with EmbeddedPostgres(settings.state_dir / "postgres", ended=_database_ended) as server:
        write_private(database_file(settings.state_dir), server.dsn)
        try:
            yield server.dsn
        finally:
            database_file(settings.state_dir).unlink(missing_ok=True)


def _database_ended() -> None:
    complain(
        "the database has ended by itself, and every answer is a 503 now",
        fix="press Ctrl-C and start again; no decision that was given is lost",
    )


def _with_database(settings: Settings, dsn: str) -> Settings:
    database = settings.database.model_copy(update={"url": SecretStr(dsn), "embedded": False})
    return settings.model_copy(update={"database": database})


def _with_signing_key(settings: Settings) -> Settings:
    """A key for the ledger of the database that is ours, made once: so that there is something to verify.

    Raises `FirewallError` for a file that has no key in it.
    """
    if not settings.embedded_database or settings.ledger.signing_key is not None:
        return settings
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from app.core.notes import SignerKey

    file = ledger_key_file(private_directory(settings.state_dir))
    kept = read_private(file)
    if kept is None:
        key = SignerKey.of(settings.ledger.origin or DEVELOPMENT_ORIGIN, Ed25519PrivateKey.generate())
        write_private(file, key.text)
    else:
        key = SignerKey.parse(kept)
    # Each time: whoever verifies looks here, and it may have been lost.
    write_private(ledger_public_key_file(settings.state_dir), key.verifier.text)
    signing = {"origin": key.name, "signing_key": SecretStr(key.text)}
    return settings.model_copy(update={"ledger": settings.ledger.model_copy(update=signing)})


async def _serve(settings: Settings, listener: socket.socket) -> None:
    """Steps 4 to 6."""
    from app.bootstrap import create_app
    from app.migrations.schema import apply

    assert settings.database.url is not None  # noqa: S101 - `_with_database` put it there; mypy cannot see it
    dsn = settings.database.command_url()
    assert dsn is not None  # noqa: S101 - as above
    await apply(dsn)
    await ensure_key(dsn, key_file(settings.state_dir))
    options: dict[str, Any] = OPTIONS | {
        "timeout_graceful_shutdown": min(settings.http.shutdown_grace_seconds, GRACE_SECONDS_MAX),
        "proxy_headers": bool(settings.http.trusted_proxies),
        "forwarded_allow_ips": list(settings.http.trusted_proxies),
    }
    server = _Server(uvicorn.Config(create_app(settings), **options), settings, listener.getsockname()[1])
    try:
        await server.serve(sockets=[listener])
    except SystemExit as error:
        raise Refused(ExitCode.FAILED, "the service did not start", fix="the log above says why") from error


class _Server(uvicorn.Server):
    """Says what to do next once it answers."""

    def __init__(self, config: uvicorn.Config, settings: Settings, port: int) -> None:
        super().__init__(config)
        self._settings = settings
        self._port = port

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then show the panel."""
        await super().startup(sockets=sockets)
        if self.started:
            with suppress(BrokenPipeError):
                show_panel(self._settings, self._port)


def show_panel(settings: Settings, port: int) -> None:
    """The few lines that a newcomer needs."""
    from rich.panel import Panel

    out = console()
    public = ledger_public_key_file(settings.state_dir)
    lines = [f"service   http://{_reachable(settings.http.host)}:{port}"]
    if settings.metrics.enabled:
        lines.append(f"metrics   http://{_reachable(settings.metrics.host)}:{settings.metrics.port}/metrics")
    lines += [
        f"policies  {_near(settings.policies.directory) if settings.policies.directory else 'from the database'}",
        f"state     {settings.state_dir}",
        f"API key   in {key_file(settings.state_dir)}",
        *([f"ledger    signed; its public key in {public}"] if public.exists() else []),
    ]
    out.print(Panel("\n".join(lines), title="mutation firewall", expand=False))
    # Outside the box, and never wrapped: it is there to be copied.
    out.print("Ask for a decision:\n", soft_wrap=True)
    out.print(f"  {curl_line(settings, port)}\n", soft_wrap=True)
    out.print("Ctrl-C stops everything.", soft_wrap=True)


def curl_line(settings: Settings, port: int) -> str:
    """A command that works as it stands in this directory; the key is read from its file, not shown."""
    key = shlex.quote(str(key_file(settings.state_dir)))
    return (
        f"curl -sS http://{_reachable(settings.http.host)}:{port}/v1/decisions "
        f'-H "Authorization: Bearer $(cat {key})" -H "Content-Type: application/json" '
        f"--data-binary @{shlex.quote(_near(EXAMPLE))}"
    )


def _reachable(host: str) -> str:
    """Where to call a server that listens on `host`."""
    if host in {"0.0.0.0", "::", "localhost"}:  # noqa: S104 - nothing is bound here
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


def _near(path: Path) -> str:
    """The path as seen from here, if that is shorter."""
    return min(str(path), os.path.relpath(path), key=len)


async def ensure_key(dsn: str, file: Path) -> None:
    """Step 5: the key in the file is good; a new one is made where there is none, or where it was revoked."""
    from app.cli.keys import key_service, key_store, operator
    from app.core.api_key import hash_key
    from app.core.principal import Role
    from app.service.keys import WantedKey

    async with key_store(dsn) as store:
        kept = read_private(file)
        if kept is not None and any(key.hash == hash_key(kept) for key in await store.list_active()):
            return
        # No approver: nobody approves their own change, not even while trying it out.
        roles = frozenset({Role.AGENT, Role.OPERATOR, Role.VIEWER})
        made = await key_service(store).create(
            WantedKey("development", roles=roles), principal=operator(), reason="the key of `mfw dev`"
        )
    write_private(private_directory(file.parent) / file.name, made.key)
