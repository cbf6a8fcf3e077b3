"""A connection that owes an answer is left, whatever its driver says of that."""

import asyncpg
import pytest

from app.ledger.append import _leave


class Connection:
    """Says this when it is to be closed."""

    def __init__(self, error: Exception) -> None:
        self.error, self.terminated = error, False

    async def close(self, *, timeout: float) -> None:
        assert timeout > 0
        raise self.error

    def terminate(self) -> None:
        self.terminated = True


@pytest.mark.parametrize(
    "error",
    [
        asyncpg.PostgresError("no"),
        asyncpg.InterfaceError("no"),
        asyncpg.InternalClientError("cannot switch to state 15"),
        ConnectionResetError(),
        TimeoutError(),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_it_is_ended_in_any_case(error: Exception) -> None:
    connection = Connection(error)
    await _leave(connection)
    assert connection.terminated
