"""Which revisions of the schema this code works with, and the refusal to work with any other."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.errors import FirewallError, Kind
from app.persistence.engine import DATABASE_ERRORS, translate

# Both ends, because a pod of the release before keeps running while `pre` migrations are applied (see migrations/).
MINIMUM_REVISION = "0011"
MAXIMUM_REVISION = "0011"

VERSION_TABLE = "alembic_version"

ASK_EVERY_SECONDS: Final = 1.0
# What may be another thing a moment later: everything starts at once where a release is installed.
_PASSING: Final = frozenset({Kind.UNAVAILABLE, Kind.TIMEOUT, Kind.SCHEMA_MISMATCH})

Found = TypeVar("Found")


async def current(connection: AsyncConnection) -> str | None:
    """The revision the database is at, None where no migration was ever applied. Raises what SQLAlchemy raises."""
    exists = await connection.scalar(sa.text("SELECT to_regclass(:name)::text"), {"name": VERSION_TABLE})
    if exists is None:
        return None
    found: str | None = await connection.scalar(
        sa.text(f"SELECT max(version_num) FROM {VERSION_TABLE}")  # noqa: S608 - a constant
    )
    return found


def judge(found: str | None, *, minimum: str = MINIMUM_REVISION, maximum: str = MAXIMUM_REVISION) -> None:
    """Refuse a revision that this code does not work with.

    Revisions are four digits, so they compare as text. Raises FirewallError (SCHEMA_MISMATCH) with the command to type.
    """
    if found is None:
        raise FirewallError(
            Kind.SCHEMA_MISMATCH, "the database has no schema yet", fix="run `python -m app.migrations.apply`"
        )
    if found < minimum:
        raise FirewallError(
            Kind.SCHEMA_MISMATCH,
            f"the database is at revision `{found}`, and this release needs at least `{minimum}`",
            fix="run `python -m app.migrations.apply`",
        )
    if found > maximum:
        raise FirewallError(
            Kind.SCHEMA_MISMATCH,
            f"the database is at revision `{found}`, and this release works up to `{maximum}`",
            fix="start the release that made it, or with that release run "
            f"`python -m app.migrations.rollback {maximum}`",
        )


async def read(engine: AsyncEngine) -> str | None:
    """Say what `current` says. Raises FirewallError (UNAVAILABLE, TIMEOUT) where it cannot be read."""
    try:
        async with engine.connect() as connection:
            return await current(connection)
    except DATABASE_ERRORS as error:
        raise translate(error) from error


async def check(engine: AsyncEngine) -> str:
    """The revision of the database, if this code works with it.

    Raises FirewallError (SCHEMA_MISMATCH) with the command to type, or UNAVAILABLE / TIMEOUT where it cannot be read.
    """
    found = await read(engine)
    judge(found)
    return str(found)


async def wait(
    check: Callable[[], Awaitable[Found]],
    *,
    within: float,
    told: Callable[[str], None],
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> Found:
    """What `check` finds, asked for `within` seconds while the database is away or its schema is another one.

    `told` hears each reason once. Raises what `check` raised last.
    """
    until = clock() + within
    known: set[str] = set()
    while True:
        try:
            return await check()
        except FirewallError as error:
            if error.kind not in _PASSING or clock() >= until:
                raise
            if error.detail not in known:
                known.add(error.detail)
                told(error.detail)
        await sleep(ASK_EVERY_SECONDS)
