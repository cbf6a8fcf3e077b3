"""Entries that stand or fall with something else: appended inside a transaction that somebody else commits.

For what happens rarely. A decision goes through `append.py`, which shares one commit among many.
"""

from collections.abc import Awaitable, Callable, Sequence

from sqlalchemy.ext.asyncio import AsyncConnection

from app.errors import FirewallError, Kind
from app.ledger.append import WRITE
from app.ledger.receipt import SealedEntry


async def append_within(connection: AsyncConnection, entries: Sequence[SealedEntry]) -> int:
    """Append one or more entries with consecutive indexes and give the first one.

    From here to the end of the transaction nobody else can append: commit soon. Raises what the database raises, and
    FirewallError (UNAVAILABLE) where the ledger has no head.
    """
    # The writer's own statement: one round trip, and the head is held from here on and not from any earlier. It makes
    # the whole transaction durable, whatever the role says.
    columns = (*(list(column) for column in zip(*entries, strict=True)), False)
    first: int | None = (await connection.exec_driver_sql(WRITE, columns)).scalar()
    if first is None:
        raise FirewallError(Kind.UNAVAILABLE, "the ledger has no head; restore the database")
    return first


def appending(entry: SealedEntry) -> Callable[[AsyncConnection], Awaitable[int]]:
    """What appends one entry within whatever transaction it is given, and gives its index."""

    async def append(connection: AsyncConnection) -> int:
        return await append_within(connection, [entry])

    return append
