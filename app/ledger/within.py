"""Entries that stand or fall with something else: appended inside a transaction that somebody else commits.

For what happens rarely. A decision goes through `append.py`, which shares one commit among many.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from app.errors import FirewallError, Kind
from app.ledger.append import WRITE
from app.ledger.receipt import SealedEntry

# As in append.py: nothing is acknowledged that is not on disk. For this transaction only; the connection is of a pool.
_DURABLE = sa.text(
    "SELECT set_config('synchronous_commit', 'on', true) WHERE current_setting('synchronous_commit') = 'off'"
)


async def append_within(connection: AsyncConnection, entries: Sequence[SealedEntry]) -> int:
    """Append one or more entries with consecutive indexes and give the first one.

    From here to the end of the transaction nobody else can append: commit soon. Raises what the database raises, and
    FirewallError (UNAVAILABLE) where the ledger has no head.
    """
    await connection.execute(_DURABLE)
    # The writer's own statement: one round trip, and the head is held from here on and not from any earlier.
    columns = tuple(list(column) for column in zip(*entries, strict=True))
    first: int | None = (await connection.exec_driver_sql(WRITE, columns)).scalar()
    if first is None:
        raise FirewallError(Kind.UNAVAILABLE, "the ledger has no head; restore the database")
    return first
