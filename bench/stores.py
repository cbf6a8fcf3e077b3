"""The database of a measurement: the embedded PostgreSQL, one key, and what was written."""

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path

import asyncpg

from app.core.principal import Role
from app.persistence.api_keys import ApiKeyStore
from app.persistence.embedded import EmbeddedPostgres
from app.persistence.engine import create_engine, raw_dsn


@contextlib.contextmanager
def started_postgres(scratch: Path) -> Iterator[str]:
    """The embedded server, durable as ever (`fsync` and `synchronous_commit` on); gives its URL."""
    # As root the server runs under a uid of its own, which must be able to pass through.
    scratch.chmod(0o711)
    with EmbeddedPostgres(scratch / "postgres") as server:
        yield server.dsn


def agent_key(dsn: str) -> str:
    """A new API key with the role that decisions need."""

    async def make() -> str:
        engine = create_engine(dsn)
        try:
            made = await ApiKeyStore(engine).create("bench", principal_id="bench", roles={Role.AGENT})
            return made.key
        finally:
            await engine.dispose()

    return asyncio.run(make())


def ledger_entries(dsn: str) -> list[tuple[int, str, bytes]]:
    """Index, decision id and receipt of everything in the ledger, by index."""

    async def read() -> list[tuple[int, str, bytes]]:
        connection = await asyncpg.connect(raw_dsn(dsn))
        try:
            rows = await connection.fetch("SELECT idx, id, receipt FROM ledger_entries ORDER BY idx")
            return [(row["idx"], str(row["id"]), row["receipt"]) for row in rows]
        finally:
            await connection.close()

    return asyncio.run(read())
