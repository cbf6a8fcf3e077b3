"""A ledger that cannot be read to its end is an error with what to do, never a shorter ledger."""

from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from app.errors import FirewallError, Kind
from app.ledger.append import LedgerWriter
from app.ledger.slices import LedgerDatabase
from tests.integration.ledger.conftest import PATIENT


@pytest.fixture
async def ledger(database_dsn):
    opened = await LedgerDatabase.open(database_dsn)
    yield opened
    await opened.close()


async def emptied(database, table):
    """What no role of the service may do."""
    await database.execute(f"ALTER TABLE {table} DISABLE TRIGGER ALL")
    await database.execute(f"DELETE FROM {table}")


async def test_what_was_written_comes_in_order_and_what_is_not_there_is_left_out(ledger, database_dsn, entry):
    writer = LedgerWriter(database_dsn, deadline=PATIENT)
    await writer.start()
    entries = [entry() for _ in range(3)]
    await writer.append_all(entries)
    await writer.stop()
    assert await ledger.size() == 3
    assert [(row.idx, row.id) async for row in ledger.rows(0, 10_000)] == [
        (index, one.id) for index, one in enumerate(entries)
    ]
    assert [row async for row in ledger.rows(3, 10_000)] == []


async def test_it_can_only_read(ledger):
    with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
        await ledger._connection.execute("DELETE FROM ledger_search")


@pytest.mark.parametrize(
    ("table", "ask", "told"),
    [("ledger_head", "size", "the ledger has no head"), ("ledger_tree", "published", "the ledger has no tree")],
)
async def test_without_a_head_or_a_tree_it_says_so(ledger, database, table, ask, told):
    await emptied(database, table)
    with pytest.raises(FirewallError, match=told) as caught:
        await getattr(ledger, ask)()
    assert (caught.value.kind, caught.value.fix) == (Kind.UNAVAILABLE, "restore the database from its backup")


async def test_a_database_that_goes_away_is_unavailable(database_dsn, database):
    ledger = await LedgerDatabase.open(database_dsn)
    await database.execute("SELECT pg_terminate_backend($1)", ledger._connection.get_server_pid())
    with pytest.raises(FirewallError) as caught:
        await ledger.size()
    assert caught.value.kind is Kind.UNAVAILABLE
    with pytest.raises(FirewallError):
        assert [row async for row in ledger.rows(0, 1)] == []
    await ledger.close()
    await ledger.close()
    nowhere = urlunsplit(urlsplit(database_dsn)._replace(path="/nowhere"))
    with pytest.raises(FirewallError) as caught:
        await LedgerDatabase.open(nowhere)
    assert caught.value.kind is Kind.UNAVAILABLE


async def test_who_does_not_answer_any_more_is_not_waited_for():
    ended: list[bool] = []

    class Silent:
        async def close(self, *, timeout: float) -> None:
            raise TimeoutError

        def terminate(self) -> None:
            ended.append(True)

    await LedgerDatabase(Silent()).close()
    assert ended == [True]
