"""Where a ledger is read from: a database, or an export of one."""

from dataclasses import dataclass
from pathlib import Path

from app.errors import FirewallError, Kind
from app.ledger.exported import Export
from app.ledger.rows import LedgerSource
from app.ledger.slices import LedgerDatabase
from app.persistence import revision
from app.persistence.engine import create_engine


@dataclass(frozen=True, slots=True)
class Place:
    """A database by its DSN, or an export by its directory; exactly one of them."""

    dsn: str | None = None
    export: Path | None = None


async def open_source(place: Place) -> LedgerSource:
    """Open it. Raises FirewallError."""
    if place.dsn is not None:
        return await LedgerDatabase.open(place.dsn)
    if place.export is not None:
        return Export.open(place.export)
    raise FirewallError(Kind.INVALID_SETTINGS, "no ledger is named")


async def check_schema(dsn: str) -> None:
    """Refuse a database that this release does not work with. Raises FirewallError (SCHEMA_MISMATCH)."""
    engine = create_engine(dsn, pool_size=1)
    try:
        await revision.check(engine)
    finally:
        await engine.dispose()
