"""What jobs leave behind of their runs, and what the service shows of the latest ones."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from app.persistence.engine import Observer, Transactions
from app.persistence.tables import operation_runs

# Runs that are kept of each operation: a year of daily ones.
KEPT: Final = 400

_OPERATION: Final = "other"


class Operation(StrEnum):
    """What leaves a row behind; the database holds the same set."""

    INTEGRITY = "integrity"
    BACKUP = "backup"


class Outcome(StrEnum):
    """How a run ended."""

    OK = "ok"
    FINDINGS = "findings"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Run:
    """One run; `outcome` is None while it goes on, or where it was interrupted."""

    id: int
    started_at: datetime
    finished_at: datetime | None = None
    outcome: Outcome | None = None
    position: int = 0
    issues: Mapping[str, int] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Latest:
    """What the service shows: the last backup, the last integrity check that went through, and what it found."""

    backup_at: datetime | None
    integrity_at: datetime | None
    issues: Mapping[str, int]


class OperationRuns:
    """The runs of jobs. Every method raises FirewallError (UNAVAILABLE, TIMEOUT) when the database fails."""

    def __init__(self, engine: AsyncEngine, *, observer: Observer | None = None) -> None:
        self._transaction = Transactions(engine, operation=_OPERATION, observer=observer)

    async def begin(self, operation: Operation, *, details: Mapping[str, Any]) -> Run:
        """Say that a run began; old ones are forgotten."""
        runs = operation_runs.c
        old = (
            sa.select(runs.id).where(runs.operation == operation.value).order_by(runs.id.desc()).offset(KEPT - 1)
        ).scalar_subquery()
        async with self._transaction() as connection:
            await connection.execute(sa.delete(operation_runs).where(runs.id.in_(old)))
            row = await connection.execute(
                sa.insert(operation_runs)
                .values(operation=operation.value, details=dict(details))
                .returning(*operation_runs.c)
            )
            return _run(row.one())

    async def save(self, run: int, *, position: int, issues: Mapping[str, int], details: Mapping[str, Any]) -> None:
        """Say how far a run is."""
        async with self._transaction() as connection:
            await connection.execute(
                sa.update(operation_runs)
                .where(operation_runs.c.id == run)
                .values(position=position, issues=dict(issues), details=dict(details))
            )

    async def finish(
        self, run: int, outcome: Outcome, *, issues: Mapping[str, int] | None = None, details: Mapping[str, Any]
    ) -> None:
        """Say how a run ended."""
        async with self._transaction() as connection:
            await connection.execute(
                sa.update(operation_runs)
                .where(operation_runs.c.id == run)
                .values(
                    finished_at=sa.func.clock_timestamp(),
                    outcome=outcome.value,
                    issues=dict(issues or {}),
                    details=dict(details),
                )
            )

    async def unfinished(self, operation: Operation) -> Run | None:
        """The latest run if it was interrupted, else None."""
        async with self._transaction() as connection:
            row = (
                await connection.execute(
                    sa.select(operation_runs)
                    .where(operation_runs.c.operation == operation.value)
                    .order_by(operation_runs.c.id.desc())
                    .limit(1)
                )
            ).one_or_none()
        return None if row is None or row.outcome not in {None, Outcome.FAILED.value} else _run(row)

    async def latest(self) -> Latest:
        """What to show as metrics."""
        backup = await self._last(Operation.BACKUP, Outcome.OK)
        integrity = await self._last(Operation.INTEGRITY, Outcome.OK, Outcome.FINDINGS)
        return Latest(
            backup_at=None if backup is None else backup.finished_at,
            integrity_at=None if integrity is None else integrity.finished_at,
            issues={} if integrity is None else integrity.issues,
        )

    async def _last(self, operation: Operation, *outcomes: Outcome) -> Run | None:
        runs = operation_runs.c
        statement = (
            sa.select(operation_runs)
            .where(runs.operation == operation.value, runs.outcome.in_([one.value for one in outcomes]))
            .order_by(runs.id.desc())
            .limit(1)
        )
        async with self._transaction() as connection:
            row = (await connection.execute(statement)).one_or_none()
        return None if row is None else _run(row)


def _run(row: "sa.Row[Any]") -> Run:
    return Run(
        id=row.id,
        started_at=row.started_at,
        finished_at=row.finished_at,
        outcome=None if row.outcome is None else Outcome(row.outcome),
        position=row.position,
        issues=row.issues,
        details=row.details,
    )
