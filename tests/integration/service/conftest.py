"""The service as it is served: uvicorn on a free port, in a thread of its own, on a database of the test's own."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from unittest.mock import patch

import asyncpg
import httpx
import pytest
import uvicorn
import uvloop

from app.bootstrap import create_app
from app.cli.server import OPTIONS
from app.core.principal import Role
from app.persistence.api_keys import ApiKeyStore
from app.persistence.engine import create_engine
from app.settings import Settings
from app.surfaces.ops.health import Health

ROOT = Path(__file__).resolve().parents[3]
STARTER = ROOT / "policies" / "starter"
# How fast this machine is while the tests run must not decide what they see.
UNHURRIED = {
    "MFW_SHEDDING__ENABLED": "false",
    "MFW_LEDGER__DEADLINE_SECONDS": "60",
    "MFW_DATABASE__CONNECT_TIMEOUT_SECONDS": "60",
    "MFW_DATABASE__STATEMENT_TIMEOUT_SECONDS": "60",
    "MFW_DATABASE__LOCK_TIMEOUT_SECONDS": "60",
    "MFW_EXT_AUTHZ__TIMEOUT_SECONDS": "60",
    "MFW_KUBERNETES__TIMEOUT_SECONDS": "30",
    "MFW_GITHUB__TIMEOUT_SECONDS": "8.5",
    "MFW_HTTP__REQUEST_TIMEOUT_SECONDS": "120",
}


@dataclass(frozen=True, slots=True)
class Running:
    """A service that answers on `url`, the database it writes to, and keys with different roles."""

    url: str
    dsn: str
    key: str
    operator_key: str
    admin_key: str

    def client(self, *, key: str | None = None, timeout: float = 130) -> httpx.Client:
        """A client that sends a key, the requester's unless another is given ("" for none)."""
        key = self.key if key is None else key
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=timeout)

    def entries(self) -> list[tuple[int, str, bytes]]:
        """Index, id and receipt of all that is in the ledger."""

        async def read() -> list[tuple[int, str, bytes]]:
            connection = await asyncpg.connect(self.dsn)
            try:
                rows = await connection.fetch("SELECT idx, id, receipt FROM ledger_entries ORDER BY idx")
                return [(row["idx"], str(row["id"]), row["receipt"]) for row in rows]
            finally:
                await connection.close()

        return apart(read())


T = TypeVar("T")


def apart(work: "Coroutine[Any, Any, T]") -> T:
    """Run it in a loop and a thread of its own: the test's loop may be running here."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(asyncio.run, work).result()


def health(client: httpx.Client, component: str, *, until: str) -> dict[str, Any]:
    """A component of health once its detail says this: a report is up to a second old."""
    deadline = time.monotonic() + 60
    while True:
        found: dict[str, Any] = client.get("/health/detailed").json()["components"][component]
        if until in found["detail"]:
            return found
        assert time.monotonic() < deadline, found
        time.sleep(0.1)


def scraped(port: int, *series: str) -> list[str]:
    """The lines of a scrape that has all these: what was asked is counted after it was answered."""
    deadline = time.monotonic() + 60
    while True:
        lines = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=60).text.splitlines()
        if not set(series) - set(lines):
            return lines
        assert time.monotonic() < deadline, set(series) - set(lines)
        time.sleep(0.05)


def make_key(dsn: str, *roles: Role) -> str:
    """A new API key."""

    async def make() -> str:
        engine = create_engine(dsn)
        try:
            return (await ApiKeyStore(engine).create("test", principal_id="test", roles=roles)).key
        finally:
            await engine.dispose()

    return apart(make())


@contextlib.contextmanager
def running(dsn: str, *, keys: Mapping[str, str] | None = None, **overrides: str) -> Iterator[Running]:
    """Serve until the block ends. `overrides` are MFW_ variables; `keys` are those of a service before, for a database
    that is away.
    """
    environ = {
        "MFW_ENVIRONMENT": "test",
        "MFW_DATABASE__URL": dsn,
        "MFW_POLICIES__DIRECTORY": str(STARTER),
        "MFW_METRICS__ENABLED": "false",
        "MFW_LIMITS__PER_MINUTE": "1000000",
        "MFW_LIMITS__BURST": "100000",
        "MFW_LIMITS__FAILURES_PER_MINUTE_PER_IP": "100000",
        "MFW_LOGGING__LEVEL": "warning",
        **UNHURRIED,
        **overrides,
    }
    if keys is None:
        roles = {"key": Role.AGENT, "operator_key": Role.OPERATOR, "admin_key": Role.ADMIN}
        keys = {name: make_key(dsn, role) for name, role in roles.items()}
    # What answers late is not down: on a busy machine a look at the database takes longer than a probe waits.
    with patch.dict(Health.__init__.__kwdefaults__, {"timeout_seconds": 60.0}):
        app = create_app(Settings.load(environ))
    config = uvicorn.Config(app, host="127.0.0.1", port=0, **OPTIONS)
    server = uvicorn.Server(config)

    def serve() -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(server.serve())

    thread = threading.Thread(target=serve, name="service")
    thread.start()
    try:
        # On a machine that does ten things at once a start takes a minute.
        deadline = time.monotonic() + 180
        while not server.started and thread.is_alive() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert server.started, "the service did not start"
        port = server.servers[0].sockets[0].getsockname()[1]
        yield Running(url=f"http://127.0.0.1:{port}", dsn=dsn, **keys)
    finally:
        server.should_exit = True
        thread.join(180)
    assert not thread.is_alive(), "the service did not stop"


@pytest.fixture
def serve() -> Callable[..., contextlib.AbstractContextManager[Running]]:
    """`with serve(dsn, MFW_...=...) as service`, for a test that needs its own settings or its own server."""
    return running


@pytest.fixture(scope="module")
def service(shared_database_dsn: str) -> Iterator[Running]:
    """One service for the tests of a module."""
    with running(shared_database_dsn) as started:
        yield started
