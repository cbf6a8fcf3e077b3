"""How this service reaches PostgreSQL: an engine for everything, and one raw connection for the ledger's writer."""

import socket
import ssl
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from enum import StrEnum
from functools import partial
from typing import Any, Protocol, assert_never

import asyncpg
import sqlalchemy as sa
from sqlalchemy.engine import URL, make_url
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from app.errors import FirewallError, Kind

APPLICATION_NAME = "mutation-firewall"
# Seconds. A database that takes longer to greet us is as good as away.
CONNECT_TIMEOUT = 5.0
# Seconds; reference/firewall-failure-mode-matrix.md, mode 2.
STATEMENT_TIMEOUT = 30.0
# The server says so itself first; this is for a server that says nothing any more.
CLIENT_GRACE = 2.0
# For the server's side: a client that is gone without a word must not keep its locks for the two hours of a kernel's
# default. Half a minute.
TCP_KEEPALIVES = {"tcp_keepalives_idle": "15", "tcp_keepalives_interval": "5", "tcp_keepalives_count": "3"}
# Outside the hot path little happens at a time.
POOL_SIZE = 5
POOL_OVERFLOW = 5
# What a client should wait before it asks again, where nothing better is known.
RETRY_AFTER = 1.0

# SQLAlchemy prepares every statement; one without a name lives until the next one of the same transaction.
_NAMELESS = {"prepared_statement_cache_size": 0, "prepared_statement_name_func": lambda: ""}

_DRIVER = "postgresql+asyncpg"
_SCHEMES = frozenset({"postgresql", "postgres", _DRIVER})


class Observer(Protocol):
    """What persistence tells about itself; `observability/metrics.py` listens."""

    def error(self, kind: str) -> None:
        """A database error happened; `kind` is a member of `ErrorKind`."""

    def timed(self, operation: str, seconds: float) -> None:
        """A database operation took that long."""


class ErrorKind(StrEnum):
    """The closed set of what `Observer.error` is told, so that every label child can exist from the start."""

    CONNECTION = "connection"
    TIMEOUT = "timeout"
    CONFLICT = "conflict"
    BREAKER_OPEN = "breaker_open"
    OTHER = "other"


class Unobserved:
    """An observer for who has none."""

    def error(self, kind: str) -> None:
        """Nobody listens."""

    def timed(self, operation: str, seconds: float) -> None:
        """Nobody listens."""


def parse_dsn(dsn: str) -> URL:
    """The DSN as SQLAlchemy's URL for asyncpg.

    Takes `postgresql://`, `postgres://` and `postgresql+asyncpg://`. Raises FirewallError (INVALID_SETTINGS); the
    DSN, which may hold a password, is never part of the message.
    """
    try:
        url = make_url(dsn)
    except (sa.exc.ArgumentError, ValueError):
        raise FirewallError(
            Kind.INVALID_SETTINGS,
            "the database url cannot be read",
            fix="write `postgresql://user:password@host/database`",
        ) from None
    if url.drivername not in _SCHEMES:
        raise FirewallError(
            Kind.INVALID_SETTINGS,
            f"the database url has the scheme `{url.drivername}`",
            fix="use `postgresql://`; no other database is supported",
        )
    return url.set(drivername=_DRIVER)


def raw_dsn(dsn: str) -> str:
    """The same DSN as asyncpg itself wants it. Raises as `parse_dsn`."""
    return parse_dsn(dsn).set(drivername="postgresql").render_as_string(hide_password=False)


def _server_settings(statement_timeout: float, more: Mapping[str, str], *, pooled: bool) -> dict[str, str]:
    # PgBouncer keeps these two for each client, and refuses to open a connection with any that it does not know.
    kept = {"application_name": APPLICATION_NAME, "timezone": "UTC"}
    if pooled:
        return kept
    return {**kept, **TCP_KEEPALIVES, "statement_timeout": _milliseconds(statement_timeout), **more}


def _milliseconds(seconds: float) -> str:
    return str(int(seconds * 1000))


async def connect(
    dsn: str,
    *,
    connect_timeout: float = CONNECT_TIMEOUT,
    statement_timeout: float = STATEMENT_TIMEOUT,
    settings: Mapping[str, str] | None = None,
    writable: bool = False,
    pooled: bool = False,
) -> "asyncpg.Connection[Any]":
    """One raw asyncpg connection, outside any pool of ours. Timeouts are in seconds.

    `writable` refuses a replica. `pooled` is for a pooler that gives each transaction another connection of the server:
    statements have no names, and nothing is set for the session (`settings` and the server's own limit of
    `statement_timeout` are left out), for both would meet somebody else. Raises whatever asyncpg raises; `translate`
    turns it into a FirewallError.
    """
    return await asyncpg.connect(
        raw_dsn(dsn),
        timeout=connect_timeout,
        command_timeout=statement_timeout + CLIENT_GRACE,
        server_settings=_server_settings(statement_timeout, settings or {}, pooled=pooled),
        target_session_attrs="read-write" if writable else "any",
        **({"statement_cache_size": 0} if pooled else {}),
    )


def create_engine(
    dsn: str,
    *,
    pool_size: int = POOL_SIZE,
    connect_timeout: float = CONNECT_TIMEOUT,
    statement_timeout: float = STATEMENT_TIMEOUT,
    lock_timeout: float | None = None,
    stall_timeout: float | None = None,
    pooled: bool = False,
) -> AsyncEngine:
    """The engine for everything that is not on the hot path; it connects when first used. Timeouts are in seconds.

    After `stall_timeout` the server ends a transaction in which nothing is asked: who died there held its locks.
    `pooled` as for `connect`; the timeouts are then set anew in each transaction. Raises as `parse_dsn`.
    """
    limits = {"lock_timeout": lock_timeout, "idle_in_transaction_session_timeout": stall_timeout}
    settings = {name: _milliseconds(limit) for name, limit in limits.items() if limit is not None}
    # Checked now, so that a bad DSN is refused here and not by the first query.
    raw_dsn(dsn)
    engine = create_async_engine(
        f"{_DRIVER}://",
        # Not SQLAlchemy's own reading of the DSN: it hands `sslmode` on as an argument that asyncpg does not know.
        async_creator=partial(
            connect,
            dsn,
            connect_timeout=connect_timeout,
            statement_timeout=statement_timeout,
            settings=settings,
            pooled=pooled,
        ),
        connect_args=_NAMELESS if pooled else {},
        pool_size=pool_size,
        max_overflow=POOL_OVERFLOW,
        pool_timeout=connect_timeout,
        pool_pre_ping=True,
    )
    if pooled:
        _set_in_each_transaction(engine, {"statement_timeout": _milliseconds(statement_timeout), **settings})
    return engine


def _set_in_each_transaction(engine: AsyncEngine, settings: Mapping[str, str]) -> None:
    """Set these at each BEGIN, for that transaction alone."""
    calls = ", ".join(f"set_config('{name}', '{value}', true)" for name, value in settings.items())

    @sa.event.listens_for(engine.sync_engine, "begin")
    def begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql(f"SELECT {calls}")


def causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what it was raised from, outermost first: SQLAlchemy wraps the driver's errors twice."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__


def error_kind(error: BaseException) -> ErrorKind:
    """What kind an error of the database, its driver or the network is; the cause may stand deep in the chain."""
    for cause in causes(error):
        match cause:
            case (
                asyncpg.QueryCanceledError() | asyncpg.LockNotAvailableError() | TimeoutError() | sa.exc.TimeoutError()
            ):
                return ErrorKind.TIMEOUT
            case asyncpg.IntegrityConstraintViolationError() | asyncpg.TransactionRollbackError():
                return ErrorKind.CONFLICT
            case (
                asyncpg.PostgresConnectionError()
                | asyncpg.OperatorInterventionError()
                | asyncpg.InvalidAuthorizationSpecificationError()
                | asyncpg.InvalidCatalogNameError()
                | asyncpg.TooManyConnectionsError()
                | asyncpg.ReadOnlySQLTransactionError()
                | asyncpg.InterfaceError()
                | asyncpg.InternalClientError()
                | OSError()
            ):
                return ErrorKind.CONNECTION
            case _:
                continue
    return ErrorKind.OTHER


def translate(error: BaseException, *, retry_after: float = RETRY_AFTER) -> FirewallError:
    """The FirewallError for an error of the database: TIMEOUT where it was too slow, UNAVAILABLE for everything else.

    Nothing of the database's own text goes to the caller: it may name hosts, roles or data.
    """
    if isinstance(error, FirewallError):
        return error
    match error_kind(error):
        case ErrorKind.TIMEOUT:
            return FirewallError(Kind.TIMEOUT, "the database did not answer in time", retry_after=retry_after)
        case ErrorKind.CONNECTION | ErrorKind.BREAKER_OPEN:
            return FirewallError(Kind.UNAVAILABLE, "the database cannot be reached", retry_after=retry_after)
        case ErrorKind.CONFLICT | ErrorKind.OTHER:
            return FirewallError(Kind.UNAVAILABLE, "the database refused the operation", retry_after=retry_after)
        case other:
            assert_never(other)


def explained(error: BaseException) -> FirewallError:
    """As `translate`, with the reason: for whoever runs this, who can mend it.

    Callers of the service never hear it: an agent that is told to look at the password does so.
    """
    made = translate(error)
    if made is not error and error_kind(error) is ErrorKind.CONNECTION:
        why, fix = _why(error)
        return FirewallError(made.kind, f"{made.detail}{why}", retry_after=made.retry_after, fix=fix)
    return made


def _why(error: BaseException) -> tuple[str, str | None]:
    """What is wrong between us and the database that waiting does not mend, and what does, where we can tell."""
    for cause in causes(error):
        match cause:
            case ssl.SSLCertVerificationError():
                fix = "see that it is for the host of the URL, and that `sslrootcert=FILE` there names who signed it"
                return ": its certificate does not hold", fix
            case asyncpg.ClientConfigurationError():
                return (
                    ": the URL asks for what is not here",
                    "`sslmode=verify-full` needs the authority of the server's certificate: `sslrootcert=FILE`",
                )
            case asyncpg.InvalidAuthorizationSpecificationError():
                return ": it does not let us in", "see the role and the password of the URL, and pg_hba.conf"
            case asyncpg.InvalidCatalogNameError():
                return ": it is not on that server", "see the name at the end of the URL's path, or create it"
            case socket.gaierror():
                return ": the name of its host cannot be looked up", None
            case _:
                continue
    return "", None


# What can come out of a call to the database. Everything else is a defect of ours and must not be disguised.
DATABASE_ERRORS = (
    sa.exc.SQLAlchemyError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    # What the driver says where the server ended the connection while nothing was asked, and the end was not yet seen.
    asyncpg.InternalClientError,
    OSError,
    TimeoutError,
)


@asynccontextmanager
async def transaction(
    engine: AsyncEngine, *, operation: str, observer: Observer, clock: "Clock"
) -> AsyncIterator[AsyncConnection]:
    """One transaction, timed under `operation`: committed at the end, rolled back on any error.

    Raises FirewallError (UNAVAILABLE, TIMEOUT) for whatever the database does.
    """
    started = clock()
    try:
        async with engine.begin() as connection:
            yield connection
    except DATABASE_ERRORS as error:
        observer.error(error_kind(error))
        raise translate(error) from error
    finally:
        observer.timed(operation, clock() - started)


class Transactions:
    """What opens transactions through one engine, each timed under the name of an operation."""

    __slots__ = ("_clock", "_engine", "_observer", "_operation")

    def __init__(
        self,
        engine: AsyncEngine,
        *,
        operation: str,
        observer: Observer | None = None,
        clock: "Clock" = time.perf_counter,
    ) -> None:
        self._engine = engine
        self._operation = operation
        self._observer = observer or Unobserved()
        self._clock = clock

    def __call__(self, operation: str | None = None) -> AbstractAsyncContextManager[AsyncConnection]:
        """One transaction, as `transaction` has it, under another name if one is given."""
        return transaction(
            self._engine, operation=operation or self._operation, observer=self._observer, clock=self._clock
        )


class Clock(Protocol):
    """Seconds that only go forward: `time.monotonic`, or a test's own."""

    def __call__(self) -> float:
        """Now."""
