"""Step 9: entries become durable, in groups, in one statement; who waits is answered after the COMMIT.

One task per process writes. It flushes at once; only while a flush is under way do others gather for the next one, so a
lone caller pays one commit and many callers share one.

    (1) admit      a bounded line, a deadline for each, a fast refusal while the breaker is open
    (2) connect    first retry at once, then 1, 2, 4 ... 30 s with jitter
    (3) settle     those whose commit was under way when the connection broke: look their ids up first
    (4) write      one statement: advance the head, insert entries and records; COMMIT
        (4b)       where other processes wait for the head: give it to them before the disk has the commit, then wait
                   for the disk together with them (docs/adr/0035-several-writers.md)
    (5) answer     index by index

INVARIANT: an index is given out only after its commit was confirmed and is on disk, and no id is ever in the ledger
twice.
"""

import asyncio
import contextlib
import math
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any
from uuid import UUID

import asyncpg

from app.errors import FirewallError, Kind
from app.ledger.receipt import SealedEntry
from app.ledger.waiting import Waiter, WaitingLine
from app.persistence.breaker import BreakerState, CircuitBreaker
from app.persistence.engine import (
    CONNECT_TIMEOUT,
    DATABASE_ERRORS,
    RETRY_AFTER,
    STATEMENT_TIMEOUT,
    ErrorKind,
    Observer,
    Unobserved,
    connect,
    error_kind,
    translate,
)

# Entries and bytes in one statement. More entries do not make a commit cheaper; more bytes make everybody wait.
BATCH_MAX = 512
BATCH_BYTES_MAX = 4 * 1024 * 1024
# Entries and bytes that may wait: some 0.4 s of work, and an eighth of a pod's 512 MiB.
QUEUE_MAX = 4096
QUEUE_BYTES_MAX = 64 * 1024 * 1024
# Seconds from `append` to an answer.
DEADLINE = 5.0
# Seconds; reference/firewall-failure-mode-matrix.md, mode 1. The first retry comes at once.
BACKOFF = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
# Seconds that `stop` gives to what still waits.
DRAIN_TIMEOUT = 10.0
# Seconds that a server which hears nothing more of us keeps the head for us; the same as in AWAIT_WRITERS.
STALL = 5.0
# Seconds that a connection has to have its statement cancelled.
LEAVE_TIMEOUT = 2.0
# Seconds. Who waited so long for the head, and finds that others wrote meanwhile, waited for their disk; a round trip
# more costs less than that. After a while the shorter way is tried again.
HEAD_WAIT = 0.0005
CROWDED_SECONDS = 10.0

OPERATION = "append"

# The statement. `sent` numbers the entries from 1 in the order of the arrays; the head's row lock, held until the
# commit, makes indexes gapless across processes. It sees to its own durability, whatever a role, a database or a pooler
# has set, and never acknowledges what is not on disk: only `$6` commits without waiting, and HARDEN follows.
WRITE = """
WITH head AS (
    UPDATE ledger_head SET next_index = next_index + cardinality($1::uuid[])
    WHERE CASE
        WHEN $6::boolean THEN set_config('synchronous_commit', 'off', true)
        WHEN current_setting('synchronous_commit') = 'off' THEN set_config('synchronous_commit', 'on', true)
        ELSE 'as it is'
    END IS NOT NULL
    RETURNING next_index - cardinality($1::uuid[]) - 1 AS before
), entries AS (
    INSERT INTO ledger_entries (idx, id, kind, receipt)
    SELECT head.before + sent.number, sent.id, sent.kind, sent.receipt
    FROM head, unnest($1::uuid[], $2::text[], $3::bytea[]) WITH ORDINALITY AS sent (id, kind, receipt, number)
), records AS (
    INSERT INTO ledger_records (idx, salt, record)
    SELECT head.before + sent.number, sent.salt, sent.record
    FROM head, unnest($4::bytea[], $5::bytea[]) WITH ORDINALITY AS sent (salt, record, number)
)
SELECT before + 1 AS first, extract(epoch FROM clock_timestamp() - statement_timestamp())::float8 AS waited FROM head
"""
# (4b) What was committed before this one commits is on disk with it, here and where a synchronous standby is asked for.
# The row proves that this server has the batch: behind a pooler another one may answer, which was promoted without it.
HARDEN = """
SELECT pg_logical_emit_message(true, 'mfw', ''), CASE
    WHEN current_setting('synchronous_commit') = 'off' THEN set_config('synchronous_commit', 'on', true) END
FROM ledger_entries WHERE idx = $1 AND id = $2
"""
# Whoever holds the head's row may still commit the entries in question: wait for it, then look. The lock is written to
# the log, so that what is found is on disk once this is committed.
AWAIT_WRITERS = """
SELECT next_index, CASE
    WHEN current_setting('synchronous_commit') = 'off' THEN set_config('synchronous_commit', 'on', true) END,
    set_config('idle_in_transaction_session_timeout', '5s', true)
FROM ledger_head FOR UPDATE
"""
# A server that lost us in the middle of a message waits for the rest, and holds the head meanwhile. Only PostgreSQL 17
# and newer has a limit for that; older ones find out when nothing answers on the wire (TCP_KEEPALIVES in engine.py).
LIMIT = """
SELECT set_config('transaction_timeout', $1, false) WHERE current_setting('server_version_num')::int >= 170000
"""
FIND = "SELECT id, idx, receipt FROM ledger_entries WHERE id = ANY($1::uuid[])"


# Asks one of the statements with its values, for its one row.
Ask = Callable[..., Awaitable["asyncpg.Record | None"]]


async def _not_connected(*_values: Any) -> "asyncpg.Record | None":
    raise asyncpg.InterfaceError("not connected")


class LedgerWriter:
    """Appends entries for one process. Belongs to the event loop that `start` ran in.

    `dsn` reaches PostgreSQL itself, or a pooler in session mode; `pooled` says that it is a pooler in transaction mode:
    then no statement is prepared, and the limit of time for one is kept by us and not by the server. Times are in
    seconds. `jitter` gives numbers from 0 to 1.

    Does not check: that the server's `fsync` is on.
    """

    def __init__(
        self,
        dsn: str,
        *,
        deadline: float = DEADLINE,
        queue_max: int = QUEUE_MAX,
        queue_bytes_max: int = QUEUE_BYTES_MAX,
        batch_max: int = BATCH_MAX,
        batch_bytes_max: int = BATCH_BYTES_MAX,
        connect_timeout: float = CONNECT_TIMEOUT,
        statement_timeout: float = STATEMENT_TIMEOUT,
        pooled: bool = False,
        breaker: CircuitBreaker | None = None,
        observer: Observer | None = None,
        jitter: Callable[[], float] = random.random,
        backoff: Sequence[float] = BACKOFF,
    ) -> None:
        self._dsn = dsn
        self._deadline = deadline
        self._batch_max = batch_max
        self._batch_bytes_max = batch_bytes_max
        self._connect_timeout = connect_timeout
        # Once everybody in a batch was told that it took too long there is nobody left to wait for it.
        self._statement_timeout = min(statement_timeout, 2 * deadline)
        self._pooled = pooled
        self._breaker = breaker or CircuitBreaker(clock=time.monotonic)
        self._observer = observer or Unobserved()
        self._jitter = jitter
        self._backoff = backoff
        self._line = WaitingLine(entries_max=queue_max, bytes_max=queue_bytes_max)
        self._in_flight: list[Waiter] = []
        self._connection: asyncpg.Connection[Any] | None = None
        self._insert: Ask = _not_connected
        self._harden: Ask = _not_connected
        self._may_harden = True
        self._warned = False
        self._crowded_until = -math.inf
        # The index that comes next, unless others write.
        self._next = 0
        self._failures = 0
        self._task: asyncio.Task[None] | None = None
        self._leaving: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._probe = asyncio.Event()
        self._open = asyncio.Event()
        self._closing = False
        self._alarm: asyncio.TimerHandle | None = None

    @property
    def connected(self) -> bool:
        """Whether the writer's connection is open, as far as anybody knows without asking."""
        return self._connection is not None and not self._connection.is_closed()

    @property
    def waiting(self) -> int:
        """How many entries wait or are in flight."""
        return len(self._line) + len(self._in_flight)

    @property
    def breaker(self) -> BreakerState:
        """The state of the breaker in front of the database."""
        return self._breaker.state

    async def start(self) -> None:
        """Begin to connect and to write. Does not wait for the database: until then `append` waits or refuses."""
        if self._task is None:
            self._closing = False
            self._task = asyncio.create_task(self._run(), name="ledger-writer")

    async def wait_connected(self, *, within: float) -> bool:
        """Wait up to `within` seconds for the connection to open; tells whether it is."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within):
                await self._open.wait()
        return self.connected

    async def stop(self, *, drain_timeout: float = DRAIN_TIMEOUT) -> None:
        """Write what still waits, refuse what comes, then close the connection.

        What is not written after `drain_timeout` seconds is answered UNAVAILABLE.
        """
        task, self._task = self._task, None
        self._closing = True
        if task is None:
            return
        if waiters := [*self._in_flight, *self._line]:
            await asyncio.wait([waiter.future for waiter in waiters], timeout=drain_timeout)
        task.cancel()
        await asyncio.wait([task, *self._leaving])
        hanging, self._in_flight = self._in_flight, []
        for waiter in (*hanging, *self._line):
            _refuse(waiter, _stopping())
        self._line.take(entries_max=len(self._line), bytes_max=0)
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                # A server that owes an answer will not say goodbye either.
                await connection.close(timeout=0 if hanging else self._connect_timeout)
            except DATABASE_ERRORS:
                connection.terminate()

    # (1) admit

    async def append(self, entry: SealedEntry) -> int:
        """The index of the entry, once it is committed.

        Raises FirewallError, each with `retry_after`: OVERLOADED when too many wait, UNAVAILABLE when the database is
        away or this process is stopping, TIMEOUT when the commit was not confirmed in time; CONFLICT when another entry
        has this id. After UNAVAILABLE and TIMEOUT the entry may be in the ledger all the same, but nobody was told so.

        When the caller is cancelled its entry is dropped if it was not under way yet.
        """
        self._admit()
        waiter = self._stand(entry)
        try:
            return await waiter.future
        except asyncio.CancelledError:
            self._line.leave(waiter)
            raise

    async def append_all(self, entries: Sequence[SealedEntry]) -> list[int | FirewallError]:
        """The index of each entry, once it is committed, or why it is not: they share statements, but not a fate.

        Raises FirewallError as `append` does where they are not let in at all; each error in the list is as there.
        When the caller is cancelled those that are not under way yet are dropped.
        """
        self._admit()
        waiters = [self._stand(entry) for entry in entries]
        try:
            answers = await asyncio.gather(*(waiter.future for waiter in waiters), return_exceptions=True)
        except asyncio.CancelledError:
            for waiter in waiters:
                self._line.leave(waiter)
            raise
        told: list[int | FirewallError] = []
        for answer in answers:
            if not isinstance(answer, int | FirewallError):
                raise answer
            told.append(answer)
        return told

    def _admit(self) -> None:
        """Refuse at once whoever would wait in vain."""
        if self._closing or self._task is None:
            raise _stopping()
        if self._breaker.state is not BreakerState.CLOSED:
            if self._breaker.state is BreakerState.OPEN:
                self._observer.error(ErrorKind.BREAKER_OPEN)
                raise FirewallError(
                    Kind.UNAVAILABLE,
                    "the ledger cannot be reached",
                    retry_after=max(RETRY_AFTER, self._breaker.retry_after),
                )
            self._probe.set()
        if self._line.full:
            raise FirewallError(Kind.OVERLOADED, "too many entries wait for the ledger", retry_after=RETRY_AFTER)

    def _stand(self, entry: SealedEntry) -> Waiter:
        """Put an entry into the line."""
        loop = asyncio.get_running_loop()
        waiter = Waiter(entry, future=loop.create_future(), deadline=loop.time() + self._deadline)
        self._line.join(waiter)
        self._wake.set()
        if self._alarm is None:
            self._alarm = loop.call_at(waiter.deadline, self._expire, loop)
        return waiter

    def _expire(self, loop: asyncio.AbstractEventLoop) -> None:
        """Answer those whose time is over, then set the alarm for the next one."""
        now = loop.time()
        self._alarm = None
        for waiter in (*self._in_flight, *self._line):
            if waiter.future.done():
                continue
            if waiter.deadline > now:
                self._alarm = loop.call_at(waiter.deadline, self._expire, loop)
                return
            self._line.leave(waiter)
            _refuse(waiter, self._too_late())

    def _too_late(self) -> FirewallError:
        if self.connected:
            return FirewallError(Kind.TIMEOUT, "the ledger did not confirm in time", retry_after=RETRY_AFTER)
        return FirewallError(Kind.UNAVAILABLE, "the ledger cannot be reached", retry_after=RETRY_AFTER)

    async def _run(self) -> None:
        while True:
            try:
                connection = await self._connected()
                if not self._line:
                    self._wake.clear()
                    await self._wake.wait()
                    continue
                self._in_flight = self._line.take(entries_max=self._batch_max, bytes_max=self._batch_bytes_max)
                await self._flush(connection, self._in_flight)
                self._in_flight = []
            except Exception as error:  # noqa: BLE001 - INVARIANT: the writer outlives whatever happens to one batch
                self._lost(error)

    # (2) connect

    async def _connected(self) -> "asyncpg.Connection[Any]":
        """The open connection, or one more try to open it."""
        if self._connection is not None and not self._connection.is_closed():
            return self._connection
        if self._failures:
            await self._pause(self._backoff[min(self._failures, len(self._backoff)) - 1])
        connection = await connect(
            self._dsn,
            connect_timeout=self._connect_timeout,
            statement_timeout=self._statement_timeout,
            # A role's default of a stricter isolation would turn waiting for the head's row into an error.
            settings={"default_transaction_isolation": "read committed"},
            writable=True,
            pooled=self._pooled,
        )
        try:
            self._insert, self._harden = await self._asking(connection, WRITE), await self._asking(connection, HARDEN)
            if not self._pooled:
                await connection.fetchval(LIMIT, str(int((self._statement_timeout + STALL) * 1000)))
            # asyncpg prepares without ending what it began: until the first append our locks would stop migrations.
            await connection.execute("SELECT 1")
        except BaseException:
            connection.terminate()
            raise
        connection.add_log_listener(self._hear)
        # Also when nobody asks for anything: readiness follows `connected`, and traffic follows readiness.
        connection.add_termination_listener(lambda _: self._wake.set())
        self._connection = connection
        self._open.set()
        self._breaker.success()
        return connection

    async def _asking(self, connection: "asyncpg.Connection[Any]", query: str) -> "Ask":
        """How to ask for the one row of a query."""
        if not self._pooled:
            prepared: Ask = (await connection.prepare(query)).fetchrow
            return prepared
        if await connection.fetchval("SHOW transaction_isolation") == "read committed":
            return partial(connection.fetchrow, query)

        # What a role has by default cannot be changed for a session that we do not have.
        async def ask(*values: Any) -> "asyncpg.Record | None":
            async with connection.transaction(isolation="read_committed"):
                return await connection.fetchrow(query, *values)

        return ask

    def _hear(self, _connection: object, message: asyncpg.PostgresLogMessage) -> None:
        """A commit whose wait for the synchronous standby was cancelled is confirmed, but with a warning."""
        if message.severity_en == "WARNING":
            self._warned = True

    def _no_warning(self) -> None:
        """Raise where the server confirmed with a warning: what was written is in doubt, and settled."""
        if self._warned:
            self._warned = False
            raise ConnectionError("the server confirmed with a warning")

    async def _pause(self, seconds: float) -> None:
        """Wait from half of the time to all of it, unless a caller comes when the breaker is half open."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds * (0.5 + 0.5 * self._jitter())):
                await self._probe.wait()
        self._probe.clear()

    def _lost(self, error: Exception) -> None:
        """The connection is of no use any more; who was in flight goes back to the front, to be settled first."""
        connection, self._connection = self._connection, None
        self._open.clear()
        if connection is not None:
            if isinstance(error, TimeoutError):
                leaving = asyncio.create_task(_leave(connection), name="ledger-writer-leaves")
                self._leaving.add(leaving)
                leaving.add_done_callback(self._leaving.discard)
            else:
                connection.terminate()
        for waiter in self._in_flight:
            waiter.doubtful = True
        self._line.put_back(self._in_flight)
        self._in_flight = []
        self._failures += 1
        self._breaker.failure()
        self._observer.error(error_kind(error))

    async def _flush(self, connection: "asyncpg.Connection[Any]", batch: list[Waiter]) -> None:
        started = time.perf_counter()
        if doubtful := [waiter for waiter in batch if waiter.doubtful]:
            await self._settle(connection, doubtful)
            batch = [waiter for waiter in batch if not waiter.future.done()]
        if batch:
            await self._write(batch)
        self._observer.timed(OPERATION, time.perf_counter() - started)
        # Only now, not when the connection opened: a server that dies at each write must not be asked without a pause.
        self._failures = 0

    # (3) settle

    async def _settle(self, connection: "asyncpg.Connection[Any]", batch: Sequence[Waiter]) -> None:
        """Answer those whose entry is in the ledger; the others may be written (again).

        Should the broken connection's statement still begin after this, the unique id makes one of the two fail.
        """
        async with connection.transaction(isolation="read_committed"):
            if await connection.fetchrow(AWAIT_WRITERS) is None:
                self._refuse_all(batch, _headless())
                return
            rows = await connection.fetch(FIND, [waiter.entry.id for waiter in batch])
        self._no_warning()
        found: dict[UUID, tuple[int, bytes]] = {row["id"]: (row["idx"], row["receipt"]) for row in rows}
        for waiter in batch:
            waiter.doubtful = False
            if waiter.entry.id not in found:
                continue
            idx, receipt = found[waiter.entry.id]
            if receipt == waiter.entry.receipt:
                _answer(waiter, idx)
            else:
                _refuse(waiter, FirewallError(Kind.CONFLICT, f"the ledger has another entry `{waiter.entry.id}`"))

    # (4) write and (5) answer

    async def _write(self, batch: list[Waiter]) -> None:
        # One array for each member of an entry, in the order of the members, which is that of the statement.
        columns = zip(*[waiter.entry for waiter in batch], strict=True)
        crowded = time.monotonic() < self._crowded_until
        try:
            row = await self._insert(*columns, crowded)
        except asyncpg.TransactionRollbackError as error:
            self._observer.error(error_kind(error))
            self._line.put_back(batch)
        except (asyncpg.QueryCanceledError, asyncpg.InsufficientResourcesError) as error:
            self._refuse_all(batch, error)
        except (asyncpg.PostgresError, asyncpg.DataError) as error:
            if error_kind(error) is ErrorKind.CONNECTION and not isinstance(error, asyncpg.DataError):
                raise
            await self._write_apart(batch, error)
        else:
            if row is None:
                self._refuse_all(batch, _headless())
                return
            first, waited = row
            if waited > HEAD_WAIT and first != self._next and self._may_harden:
                self._crowded_until = time.monotonic() + CROWDED_SECONDS
            self._next = first + len(batch)
            # INVARIANT: whatever goes wrong in here leaves the batch in flight, to be settled.
            self._no_warning()
            if crowded and not await self._on_disk(batch, last=self._next - 1):
                return
            for idx, waiter in enumerate(batch, start=first):
                _answer(waiter, idx)

    async def _on_disk(self, batch: list[Waiter], *, last: int) -> bool:
        """(4b) Wait until the disk has what was written; tells whether the batch is still to be answered."""
        try:
            row = await self._harden(last, batch[-1].entry.id)
        except asyncpg.InsufficientPrivilegeError:
            # Everybody may, unless somebody took it away: then the head is held until the disk has the commit.
            self._may_harden = False
            self._crowded_until = -math.inf
            if self._connection is not None:
                await self._settle(self._connection, batch)
            return False
        if row is None:
            raise ConnectionError("the server that answers now does not have what was written")
        self._no_warning()
        return True

    async def _write_apart(self, batch: list[Waiter], error: Exception) -> None:
        """The server refused a batch for something in it: halve it until who is at fault stands alone."""
        if len(batch) > 1:
            middle = len(batch) // 2
            await self._write(batch[:middle])
            await self._write(batch[middle:])
        elif isinstance(error, asyncpg.UniqueViolationError) and self._connection is not None:
            await self._settle(self._connection, batch)
        else:
            self._refuse_all(batch, error)

    def _refuse_all(self, batch: Sequence[Waiter], error: Exception) -> None:
        self._observer.error(error_kind(error))
        for waiter in batch:
            _refuse(waiter, translate(error))


async def _leave(connection: "asyncpg.Connection[Any]") -> None:
    """Let a statement that took too long be cancelled, if the server still hears us; then go.

    A server's own limit may do it sooner. Behind a pooler in transaction mode there is none, and nobody else would.
    """
    with contextlib.suppress(*DATABASE_ERRORS):
        await connection.close(timeout=LEAVE_TIMEOUT)
    connection.terminate()


def _answer(waiter: Waiter, idx: int) -> None:
    if not waiter.future.done():
        waiter.future.set_result(idx)


def _refuse(waiter: Waiter, error: FirewallError) -> None:
    # Each waiter gets an error of its own: a raised exception carries the traceback of who raised it.
    if not waiter.future.done():
        waiter.future.set_exception(error)


def _headless() -> FirewallError:
    return FirewallError(Kind.UNAVAILABLE, "the ledger has no head; restore the database")


def _stopping() -> FirewallError:
    return FirewallError(Kind.UNAVAILABLE, "the ledger's writer is stopped", retry_after=RETRY_AFTER)
