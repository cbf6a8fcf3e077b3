"""Kill switches at rest: one row for each that was thrown, for good; its end is written into it once."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.core.switches import Switch, SwitchKind
from app.errors import FirewallError, Kind
from app.persistence.engine import Observer, Transactions
from app.persistence.tables import kill_switches

# Replicas listen here; the payload means no more than "look now".
CHANNEL: Final = "mfw_switches"
# In force at a time. They are looked through for each decision; who needs more of them needs a policy.
SWITCHES_MAX: Final = 256
# Seconds. A replica whose clock is behind the database's must not lose a switch early.
_CLOCK_SKEW: Final = 60

_OPERATION: Final = "switches"


@dataclass(frozen=True, slots=True)
class StoredSwitch:
    """A switch with who threw it, why, and how it ended. Its id is that of its entry in the ledger."""

    switch: Switch
    reason: str
    thrown_by: str
    thrown_at: datetime
    ledger_index: int
    ended_at: datetime | None = None
    ended_by: str | None = None
    end_reason: str | None = None
    end_ledger_index: int | None = None


Append = Callable[[AsyncConnection], Awaitable[int]]


class SwitchStore:
    """The table of kill switches. Every method raises FirewallError (UNAVAILABLE, TIMEOUT) when the database fails."""

    def __init__(self, engine: AsyncEngine, *, observer: Observer | None = None) -> None:
        self._transaction = Transactions(engine, operation=_OPERATION, observer=observer)

    async def in_force(self) -> tuple[StoredSwitch, ...]:
        """Every switch that nobody ended and that holds still, or did so a minute ago; the earliest first."""
        columns = kill_switches.c
        recently = sa.func.now() - sa.text(f"interval '{_CLOCK_SKEW} seconds'")
        statement = (
            sa.select(kill_switches)
            .where(columns.ended_at.is_(None), columns.until.is_(None) | (columns.until > recently))
            .order_by(columns.ledger_index)
        )
        async with self._transaction() as connection:
            return tuple(_stored(row) for row in await connection.execute(statement))

    async def history(self, *, limit: int) -> tuple[StoredSwitch, ...]:
        """Up to `limit` switches, whether they hold or not, the latest first."""
        statement = sa.select(kill_switches).order_by(kill_switches.c.ledger_index.desc()).limit(limit)
        async with self._transaction() as connection:
            return tuple(_stored(row) for row in await connection.execute(statement))

    async def get(self, id: UUID) -> StoredSwitch:  # noqa: A002 - the column's name
        """One switch, over or not. Raises FirewallError (NOT_FOUND)."""
        async with self._transaction() as connection:
            return _stored(await _find(connection, id))

    async def throw(
        self, switch: Switch, *, reason: str, thrown_by: str, thrown_at: datetime, append: Append
    ) -> StoredSwitch:
        """Put a switch into force and tell all replicas.

        `append` writes the ledger's entry in the same transaction and gives its index: either both are there or
        neither. Raises FirewallError (CONFLICT) where too many are in force.
        """
        columns = kill_switches.c
        async with self._transaction() as connection:
            # First: it makes whoever throws a switch wait for who does so already, and the count below is exact.
            index = await append(connection)
            open_ones = sa.select(sa.func.count()).where(
                columns.ended_at.is_(None), columns.until.is_(None) | (columns.until > thrown_at)
            )
            if (await connection.execute(open_ones)).scalar_one() >= SWITCHES_MAX:
                raise FirewallError(
                    Kind.CONFLICT,
                    f"{SWITCHES_MAX} kill switches are in force, and that is the most",
                    fix="end some with `mfw switch off`, or use `mfw switch deny-all`",
                )
            await connection.execute(
                sa.insert(kill_switches).values(
                    id=UUID(switch.id),
                    kind=switch.kind.value,
                    target=switch.target,
                    until=switch.until,
                    reason=reason,
                    thrown_by=thrown_by,
                    thrown_at=thrown_at,
                    ledger_index=index,
                )
            )
            await _tell(connection)
        return StoredSwitch(switch, reason, thrown_by, thrown_at, index)

    async def end(self, id: UUID, *, reason: str, ended_by: str, ended_at: datetime, append: Append) -> StoredSwitch:  # noqa: A002 - the column's name
        """End a switch and tell all replicas; `append` as in `throw`.

        Raises FirewallError: NOT_FOUND for one that was never thrown, CONFLICT for one that is over.
        """
        columns = kill_switches.c
        async with self._transaction() as connection:
            index = await append(connection)
            # The lock on the ledger's head makes all changes here one after another: what is read stays true.
            found = await _find(connection, id)
            if found.ended_at is not None or (found.until is not None and found.until <= ended_at):
                raise FirewallError(Kind.CONFLICT, f"kill switch `{id}` is over already")
            statement = (
                sa.update(kill_switches)
                .where(columns.id == id)
                .values(ended_at=ended_at, ended_by=ended_by, end_reason=reason, end_ledger_index=index)
                .returning(kill_switches)
            )
            row = (await connection.execute(statement)).one()
            await _tell(connection)
        return _stored(row)


async def _find(connection: AsyncConnection, id: UUID) -> "sa.Row[Any]":  # noqa: A002 - the column's name
    row = (await connection.execute(sa.select(kill_switches).where(kill_switches.c.id == id))).one_or_none()
    if row is None:
        raise FirewallError(Kind.NOT_FOUND, f"there is no kill switch `{id}`", fix="`mfw switch list` shows them")
    return row


async def _tell(connection: AsyncConnection) -> None:
    # Sent by the server when, and only when, the transaction commits.
    await connection.execute(sa.select(sa.func.pg_notify(CHANNEL, "")))


def _stored(row: "sa.Row[Any]") -> StoredSwitch:
    return StoredSwitch(
        switch=Switch(str(row.id), SwitchKind(row.kind), row.target, row.until),
        reason=row.reason,
        thrown_by=row.thrown_by,
        thrown_at=row.thrown_at,
        ledger_index=row.ledger_index,
        ended_at=row.ended_at,
        ended_by=row.ended_by,
        end_reason=row.end_reason,
        end_ledger_index=row.end_ledger_index,
    )
