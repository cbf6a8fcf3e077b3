"""How a DSN is read, and what the caller is told of the database's errors."""

import socket
import ssl

import asyncpg
import pytest
import sqlalchemy as sa

from app.errors import FirewallError, Kind
from app.ledger.published import PublishedLedger
from app.ledger.slices import LedgerDatabase
from app.persistence import revision
from app.persistence.engine import ErrorKind, create_engine, error_kind, explained, parse_dsn, raw_dsn, translate
from app.persistence.operation_runs import OperationRuns
from app.persistence.partitions import make_ahead


@pytest.mark.parametrize(
    ("dsn", "raw"),
    [
        ("postgresql://u:p@h:5432/d", "postgresql://u:p@h:5432/d"),
        ("postgres://u@h/d", "postgresql://u@h/d"),
        ("postgresql+asyncpg://u:p%40@h/d", "postgresql://u:p%40@h/d"),
        ("postgresql://u:p@/d?host=/run/x", "postgresql://u:p@/d?host=%2Frun%2Fx"),
    ],
)
def test_each_form_of_a_dsn_reaches_both_drivers(dsn, raw):
    assert raw_dsn(dsn) == raw
    assert parse_dsn(dsn).drivername == "postgresql+asyncpg"


@pytest.mark.parametrize(
    "dsn", ["", "nonsense", "mysql://u:hunter2@h/d", "postgresql+psycopg://u:hunter2@h/d", "http://h:port/"]
)
def test_other_dsns_are_refused_without_their_password(dsn):
    with pytest.raises(FirewallError) as caught:
        parse_dsn(dsn)
    assert caught.value.kind is Kind.INVALID_SETTINGS
    assert "hunter2" not in str(caught.value)
    assert "postgresql://" in str(caught.value.fix)


def _wrapped(error):
    """As SQLAlchemy does it: the driver's error, the adapter's, its own."""
    adapter = sa.exc.DBAPIError.instance("SELECT 1", {}, Exception(), Exception)
    adapter.__cause__ = error
    outer = sa.exc.OperationalError("SELECT 1", {}, Exception())
    outer.__cause__ = adapter
    return outer


@pytest.mark.parametrize(
    ("error", "kind", "told"),
    [
        (asyncpg.QueryCanceledError(), ErrorKind.TIMEOUT, Kind.TIMEOUT),
        (asyncpg.LockNotAvailableError(), ErrorKind.TIMEOUT, Kind.TIMEOUT),
        (TimeoutError(), ErrorKind.TIMEOUT, Kind.TIMEOUT),
        (sa.exc.TimeoutError(), ErrorKind.TIMEOUT, Kind.TIMEOUT),
        (asyncpg.UniqueViolationError(), ErrorKind.CONFLICT, Kind.UNAVAILABLE),
        (asyncpg.SerializationError(), ErrorKind.CONFLICT, Kind.UNAVAILABLE),
        (asyncpg.AdminShutdownError(), ErrorKind.CONNECTION, Kind.UNAVAILABLE),
        (asyncpg.ConnectionDoesNotExistError(), ErrorKind.CONNECTION, Kind.UNAVAILABLE),
        (asyncpg.InvalidPasswordError(), ErrorKind.CONNECTION, Kind.UNAVAILABLE),
        (asyncpg.InterfaceError("closed"), ErrorKind.CONNECTION, Kind.UNAVAILABLE),
        (asyncpg.InternalClientError("cannot switch to state 15"), ErrorKind.CONNECTION, Kind.UNAVAILABLE),
        (ConnectionRefusedError(), ErrorKind.CONNECTION, Kind.UNAVAILABLE),
        (asyncpg.UndefinedTableError(), ErrorKind.OTHER, Kind.UNAVAILABLE),
        (asyncpg.DiskFullError(), ErrorKind.OTHER, Kind.UNAVAILABLE),
        (RuntimeError(), ErrorKind.OTHER, Kind.UNAVAILABLE),
    ],
)
def test_an_error_keeps_its_kind_however_deep_it_is_wrapped(error, kind, told):
    for seen in (error, _wrapped(error)):
        assert error_kind(seen) is kind
        translated = translate(seen, retry_after=3.0)
        assert translated.kind is told
        assert translated.retry_after == 3.0


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ssl.SSLCertVerificationError(1, "self-signed certificate"), ["its certificate", "sslrootcert=FILE"]),
        (asyncpg.ClientConfigurationError("root certificate file"), ["the URL", "sslrootcert=FILE"]),
        (asyncpg.InvalidPasswordError("for user a"), ["does not let us in", "password"]),
        (asyncpg.InvalidCatalogNameError('database "b"'), ["is not on that server", "create it"]),
        (socket.gaierror(-2, "Name or service not known"), ["the name of its host cannot be looked up"]),
    ],
)
def test_what_waiting_does_not_mend_is_said_to_who_runs_this(error, words):
    for seen in (error, _wrapped(error)):
        told = str(explained(seen))
        assert told.startswith("the database cannot be reached: ")
        assert all(word in told for word in words)
        assert str(error) not in told
        # Callers, agents among them, are not sent to look for passwords.
        assert str(translate(seen)) == "the database cannot be reached"
    assert str(explained(ConnectionRefusedError())) == "the database cannot be reached"
    assert explained(TimeoutError()).kind is Kind.TIMEOUT


async def test_commands_say_the_reason_and_the_service_does_not(monkeypatch, tmp_path):
    # No authority is there, which is found out before anything is connected to.
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("PGSSLROOTCERT", raising=False)
    dsn = "postgresql://u:p@127.0.0.1/d?sslmode=verify-full"
    engine = create_engine(dsn)
    for asked in (revision.check(engine), make_ahead(dsn), LedgerDatabase.open(dsn)):
        with pytest.raises(FirewallError, match="asks for what is not here"):
            await asked
    for served in (PublishedLedger(engine).checkpoint(), OperationRuns(engine).latest()):
        with pytest.raises(FirewallError) as caught:
            await served
        assert (caught.value.detail, caught.value.fix) == ("the database cannot be reached", None)
    await engine.dispose()


def test_what_is_already_ours_stays():
    error = FirewallError(Kind.NOT_FOUND, "no such thing")
    assert translate(error) is error
    assert explained(error) is error


def test_the_databases_own_words_stay_inside():
    assert "secret_table" not in str(translate(asyncpg.UndefinedTableError("relation secret_table does not exist")))
