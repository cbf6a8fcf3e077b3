"""A real PostgreSQL for every integration test: one server per session, one migrated template, one database per test.

The embedded server is the default; `MFW_TEST_DATABASE=testcontainers` takes one in Docker, of the image that
`MFW_TEST_POSTGRES_IMAGE` names, with the network of this machine where `MFW_TEST_CONTAINER_NETWORK` is `host`.

Ask for `database_dsn`: a database of your own, migrated, empty, gone afterwards; `database` is a connection to it.
`empty_database_dsn` is one without any schema. `server_dsn` is the server itself, for who needs to create databases.
All are superuser DSNs for asyncpg.
"""

import asyncio
import contextlib
import itertools
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
import pytest

from app.migrations import schema
from app.persistence import embedded
from app.persistence.embedded import SERVER_UID, EmbeddedPostgres
from app.persistence.engine import parse_dsn
from tests.ports import free_port

TEMPLATE = "template_migrated"
# A checkout of the release after this one: everything then runs on the schema that a rollout of that one makes.
NEXT_RELEASE = os.environ.get("MFW_TEST_NEXT_RELEASE")
# By which containers of tests are found.
CONTAINER_LABEL = "mutation-firewall.test"
# Nothing here outlives the session, so nothing needs to reach the disk. Crash tests start servers of their own.
# And nothing happens by itself: a vacuum takes locks, and starts when it likes.
IN_HASTE = {
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "on",
    "max_connections": "100",
    "autovacuum": "off",
}

T = TypeVar("T")
_numbers = itertools.count(1)


def _run(work: "Coroutine[Any, Any, T]") -> T:
    """Run it in a loop of its own, in a thread of its own: the test's loop may be running here already."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(asyncio.run, work).result()


def with_database(dsn: str, name: str) -> str:
    """The same server and role, another database."""
    return parse_dsn(dsn).set(drivername="postgresql", database=name).render_as_string(hide_password=False)


async def _execute(dsn: str, *statements: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


async def _clone(dsn: str, name: str, template: str) -> None:
    """Make a database from another one, which nobody may be connected to: who has just left it may take a while."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return await _execute(dsn, f"CREATE DATABASE {name} TEMPLATE {template}")
        except asyncpg.ObjectInUseError:
            if time.monotonic() > deadline:
                raise


@contextlib.contextmanager
def _container() -> Iterator[str]:
    """A server in a container, by its DSN."""
    from testcontainers.community.postgres import PostgresContainer

    image = os.environ.get("MFW_TEST_POSTGRES_IMAGE", "postgres:18-bookworm")
    # What production asks of a password; and it is asked for, also on the loopback.
    made = PostgresContainer(image, username="firewall", password=secrets.token_hex(24), dbname="firewall", driver=None)
    made.with_env("POSTGRES_INITDB_ARGS", "--auth-host=scram-sha-256")
    made.with_command(" ".join(["postgres", *(f"-c {name}={value}" for name, value in IN_HASTE.items())]))
    options: dict[str, Any] = {"labels": {CONTAINER_LABEL: ""}}
    if os.environ.get("MFW_TEST_CONTAINER_NETWORK") != "host":
        with made.with_kwargs(**options) as running:
            yield running.get_connection_url()
        return
    # A daemon without a bridge publishes no port; the server and those who ask whether it is ready read this one.
    port = free_port()
    made.with_env("PGPORT", str(port))
    made.ports.clear()
    with made.with_kwargs(**options, network_mode="host"):
        yield f"postgresql://{made.username}:{made.password}@127.0.0.1:{port}/{made.dbname}"


@pytest.fixture(scope="session", autouse=True)
def _servers_take_their_time() -> Iterator[None]:
    """However busy the disk is: a server comes up, and the one before it writes its checkpoint and ends."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedded, "LOCK_TIMEOUT", 120.0)
        patch.setitem(vars(EmbeddedPostgres)["__init__"].__kwdefaults__, "start_timeout", 120.0)
        yield


@pytest.fixture(scope="session")
def server_dsn() -> Iterator[str]:
    """The test session's server: the embedded one, or one in Docker with MFW_TEST_DATABASE=testcontainers."""
    if os.environ.get("MFW_TEST_DATABASE") == "testcontainers":
        with _container() as dsn:
            yield dsn
        return
    # Not pytest's tmp_path: as root that lies below a 0700 directory, which the server's uid cannot enter.
    state = Path(tempfile.mkdtemp(prefix="mfw-test-"))
    server = EmbeddedPostgres(state / "postgresql", settings=IN_HASTE)
    state.chmod(0o711)
    try:
        yield server.start()
    finally:
        server.stop()
        shutil.rmtree(state, ignore_errors=True)


@pytest.fixture(scope="session")
def _template(server_dsn: str) -> str:
    _run(_execute(server_dsn, f"CREATE DATABASE {TEMPLATE}"))
    dsn = with_database(server_dsn, TEMPLATE)
    _run(schema.apply(dsn))
    if NEXT_RELEASE is not None:
        subprocess.run(
            [sys.executable, "-m", "app.migrations.apply", "--before-rollout", "--database-url", dsn],
            cwd=NEXT_RELEASE,
            env={**os.environ, "PYTHONPATH": NEXT_RELEASE},
            check=True,
        )
    return TEMPLATE


def _cloned(server_dsn: str, template: str) -> Iterator[str]:
    name = f"test_{next(_numbers)}"
    _run(_clone(server_dsn, name, template))
    yield with_database(server_dsn, name)
    _run(_execute(server_dsn, f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture
def database_dsn(server_dsn: str, _template: str) -> Iterator[str]:
    """The DSN of a migrated database that this test alone uses."""
    yield from _cloned(server_dsn, _template)


@pytest.fixture
async def database(database_dsn: str) -> "AsyncIterator[asyncpg.Connection[Any]]":
    """A connection to it."""
    connection = await asyncpg.connect(database_dsn)
    yield connection
    await connection.close()


@pytest.fixture(scope="module")
def shared_database_dsn(server_dsn: str, _template: str) -> Iterator[str]:
    """The DSN of a migrated database that the tests of one module share."""
    yield from _cloned(server_dsn, _template)


@pytest.fixture
def empty_database_dsn(server_dsn: str) -> Iterator[str]:
    """The DSN of a database without any schema that this test alone uses."""
    yield from _cloned(server_dsn, "template0")


@pytest.fixture
def state_directory() -> Iterator[Path]:
    """A path for an embedded server of the test's own: not there yet, reachable for any uid, gone afterwards."""
    above = Path(tempfile.mkdtemp(prefix="mfw-test-"))
    above.chmod(0o711)
    yield above / "postgresql"
    shutil.rmtree(above, ignore_errors=True)


class PgBouncer:
    """A pooler in transaction mode on the loopback, in front of every database of one server.

    It gives each transaction another connection than the one before, so that whoever relies on a session is found out.
    """

    def __init__(self, binary: str, directory: Path, server_dsn: str) -> None:
        url = parse_dsn(server_dsn)
        host = url.query.get("host", url.host)
        self._binary, self._directory, self._url = binary, directory, url
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.settings = directory / "pgbouncer.ini"
        self.settings.write_text(
            "[databases]\n"
            f"* = host={host} port={url.query.get('port', url.port or 5432)} user={url.username}"
            f" password='{url.password or ''}'\n"
            "[pgbouncer]\n"
            f"listen_addr = 127.0.0.1\nlisten_port = {self.port}\nunix_socket_dir =\nauth_type = any\n"
            "pool_mode = transaction\nserver_round_robin = 1\ndefault_pool_size = 8\nmax_client_conn = 200\n"
            # Not the fifteen seconds in which it refuses everybody after a connection that was ended while it opened.
            "server_login_retry = 1\n"
        )

    def dsn(self, database_dsn: str) -> str:
        """The same database through the pooler."""
        url = parse_dsn(database_dsn).set(drivername="postgresql", host="127.0.0.1", port=self.port, query={})
        return url.render_as_string(hide_password=False)

    def start(self) -> None:
        """Start, and wait until it listens."""
        # It refuses to be root.
        account: dict[str, Any] = {"user": SERVER_UID, "group": SERVER_UID, "extra_groups": []}
        self._process = subprocess.Popen(
            [self._binary, "-q", str(self.settings)],
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            **(account if os.geteuid() == 0 else {}),
        )
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=60):
                return
            assert time.monotonic() < deadline, "pgbouncer did not start"
            time.sleep(0.02)

    def kill(self) -> None:
        """End it at once, as a crash does."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None


@pytest.fixture(scope="session")
def pgbouncer(server_dsn: str) -> Iterator[PgBouncer]:
    """A pooler in front of the session's server."""
    # Debian puts it where only root's path leads.
    binary = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if binary is None:
        pytest.skip("no pgbouncer here; on Debian: apt-get install pgbouncer")
    directory = Path(tempfile.mkdtemp(prefix="mfw-pgbouncer-"))
    made = PgBouncer(binary, directory, server_dsn)
    if os.geteuid() == 0:
        for path in (directory, made.settings):
            os.chown(path, SERVER_UID, SERVER_UID)
    made.start()
    try:
        yield made
    finally:
        made.kill()
        shutil.rmtree(directory)


@pytest.fixture
def pooled_dsn(pgbouncer: PgBouncer, database_dsn: str) -> str:
    """The DSN of `database_dsn` through a pooler in transaction mode."""
    return pgbouncer.dsn(database_dsn)
