"""Entries to append, and a wire between the writer and its database that can be cut at the worst moment."""

import asyncio
import contextlib
import itertools
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from enum import Enum, auto
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from sqlalchemy import URL
from sqlalchemy.ext.asyncio import AsyncEngine

from app.core.principal import AuthMethod, Principal, PrincipalKind, Role
from app.core.types import Effect, Mutation, Reason, Verdict
from app.ledger.append import LedgerWriter
from app.ledger.read import LedgerReader
from app.ledger.receipt import PendingDecision, SealedEntry, seal_decision
from app.persistence.engine import create_engine, parse_dsn

WHO = Principal("key-1", PrincipalKind.AGENT, frozenset({Role.AGENT}), AuthMethod.API_KEY)
ALLOW = Verdict(Effect.ALLOW, (Reason("prod-replicas", "small-growth", Effect.ALLOW, "adds 1"),))
DIGEST = "sha256:" + "0" * 64

_numbers = itertools.count()
# Longer than any machine takes: where no time is to run out, none does, however busy it is.
PATIENT = 60.0


@contextlib.contextmanager
def deadline(writer: LedgerWriter, seconds: float) -> Iterator[None]:
    """What is appended in the block has so long."""
    before = writer._deadline
    _told(writer, seconds)
    try:
        yield
    finally:
        _told(writer, before)


def _told(writer: LedgerWriter, seconds: float) -> None:
    # It looks at the line when the deadline of the first is over: of one that was longer, too late for those that follow.
    if writer._alarm is not None:
        writer._alarm.cancel()
        writer._alarm = None
    writer._deadline = seconds


def make_entry(*, entry_id: UUID | None = None, size: int = 100) -> SealedEntry:
    mutation = Mutation(
        subject={"type": "agent", "id": "coder-7", "properties": {}},
        action={"name": "update", "properties": {}},
        resource={"type": "apps/Deployment", "id": f"shop-{next(_numbers)}", "properties": {}},
        change={"after": {"note": "x" * size}},
        context={},
    )
    pending = PendingDecision(entry_id or uuid4(), datetime.now(UTC), WHO, mutation, DIGEST, DIGEST, ALLOW, "0.1.0")
    return seal_decision(pending, salt=os.urandom(32))


@pytest.fixture
def entry() -> Callable[..., SealedEntry]:
    return make_entry


@pytest.fixture
async def engine(database_dsn: str) -> AsyncIterator[AsyncEngine]:
    made = create_engine(database_dsn, connect_timeout=PATIENT)
    yield made
    await made.dispose()


@pytest.fixture
def reader(engine: AsyncEngine) -> LedgerReader:
    return LedgerReader(engine)


class Fault(Enum):
    """What the wire does to the next statement that writes."""

    NONE = auto()
    LOSE_THE_ANSWER = auto()  # the server commits, the writer never hears of it
    LOSE_THE_QUESTION = auto()  # the server never hears of it
    HANG = auto()  # nothing moves any more, and nothing is closed


class Wire:
    """A Unix socket in front of the real server. `fault` strikes once, at the next message with entries in it."""

    def __init__(self, dsn: str) -> None:
        self._url = parse_dsn(dsn)
        self._directory = Path(tempfile.mkdtemp(prefix="mfw-wire-"))
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self.fault = Fault.NONE
        self.struck = asyncio.Event()
        self.mended = asyncio.Event()
        self.connections = 0

    @property
    def dsn(self) -> str:
        # Without host and port, which a server in a container has: `set` takes nothing away.
        url = URL.create(
            "postgresql",
            username=self._url.username,
            password=self._url.password,
            database=self._url.database,
            query={"host": str(self._directory)},
        )
        return url.render_as_string(hide_password=False)

    async def open(self) -> None:
        self._server = await asyncio.start_unix_server(self._accept, self._directory / ".s.PGSQL.5432")

    async def cut(self) -> None:
        """No connection any more, and no new one."""
        if self._server is not None:
            self._server.close()
            self._server = None
        with contextlib.suppress(FileNotFoundError):
            (self._directory / ".s.PGSQL.5432").unlink()
        self._drop()
        for writer in list(self._writers):
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        self._writers.clear()

    async def close(self) -> None:
        self.mended.set()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.cut()
        shutil.rmtree(self._directory)

    def _drop(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()

    async def _upstream(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if "host" in self._url.query:
            port = self._url.query.get("port", "5432")
            return await asyncio.open_unix_connection(f"{self._url.query['host']}/.s.PGSQL.{port}")
        return await asyncio.open_connection(self._url.host, self._url.port)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        if (accepting := asyncio.current_task()) is not None:
            self._tasks.add(accepting)
            accepting.add_done_callback(self._tasks.discard)
        up_reader, up_writer = await self._upstream()
        self._writers.add(up_writer)
        lost = asyncio.Event()
        for work in (self._questions(reader, up_writer, lost), self._answers(up_reader, writer, lost)):
            task = asyncio.create_task(work)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _questions(self, reader: asyncio.StreamReader, up: asyncio.StreamWriter, lost: asyncio.Event) -> None:
        with contextlib.suppress(ConnectionError):
            while content := await reader.read(1 << 20):
                if self.fault is not Fault.NONE and b'"kind":"decision"' in content:
                    fault, self.fault = self.fault, Fault.NONE
                    if fault is Fault.LOSE_THE_QUESTION:
                        self.struck.set()
                        self._drop()
                        return
                    lost.set()
                    if fault is Fault.HANG:
                        self.struck.set()
                        await self.mended.wait()
                        lost.clear()
                up.write(content)
                await up.drain()
        up.close()

    async def _answers(self, up: asyncio.StreamReader, writer: asyncio.StreamWriter, lost: asyncio.Event) -> None:
        with contextlib.suppress(ConnectionError):
            while content := await up.read(1 << 20):
                if lost.is_set():
                    # PostgreSQL answers only after the commit, so by now it is committed.
                    self.struck.set()
                    self._drop()
                    return
                writer.write(content)
                await writer.drain()
        writer.close()


@pytest.fixture
async def wire(database_dsn: str) -> AsyncIterator[Wire]:
    made = Wire(database_dsn)
    await made.open()
    yield made
    await made.close()


# Says at the very end of a transaction how it will be committed.
WITNESS = """
CREATE TABLE witnessed (durable text, isolation text);
CREATE FUNCTION witness() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO witnessed VALUES (current_setting('synchronous_commit'), current_setting('transaction_isolation'));
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER witness AFTER INSERT ON ledger_entries DEFERRABLE INITIALLY DEFERRED
FOR EACH ROW EXECUTE FUNCTION witness();
"""


@pytest.fixture
def witness() -> str:
    return WITNESS


@pytest.fixture
def fault() -> type[Fault]:
    return Fault
