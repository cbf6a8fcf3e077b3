"""Entries that stand or fall with something else: appended inside a transaction that somebody else commits.

For what happens rarely. A decision goes through `append.py`, which shares one commit among many.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from app.errors import FirewallError, Kind
from app.ledger.receipt import SealedEntry
from app.persistence.tables import ledger_entries, ledger_head, ledger_records

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
    count = len(entries)
    # The head's row lock, held until the commit, makes indexes gapless across processes.
    taken = (
        sa.update(ledger_head).values(next_index=ledger_head.c.next_index + count).returning(ledger_head.c.next_index)
    )
    after = await connection.scalar(taken)
    if after is None:
        raise FirewallError(Kind.UNAVAILABLE, "the ledger has no head; restore the database")
    first = int(after) - count
    await connection.execute(
        sa.insert(ledger_entries),
        [
            {"idx": idx, "id": entry.id, "kind": str(entry.kind), "receipt": entry.receipt}
            for idx, entry in enumerate(entries, start=first)
        ],
    )
    await connection.execute(
        sa.insert(ledger_records),
        [{"idx": idx, "salt": entry.salt, "record": entry.record} for idx, entry in enumerate(entries, start=first)],
    )
    return first
