"""Which revisions of the schema this code works with, and the refusal to work with any other."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, TypeVar

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.errors import FirewallError, Kind
from app.persistence.engine import DATABASE_ERRORS, explained

# The least that this code needs: the last `pre` migration of its release.
MINIMUM_REVISION = "0012"
# The newest that this code knows: the last migration of its release. It works with later ones as far as they say so.
MAXIMUM_REVISION = "0012"

VERSION_TABLE = "alembic_version"
NEEDS_TABLE = "schema_revisions"

ASK_EVERY_SECONDS: Final = 1.0
# What may be another thing a moment later: everything starts at once where a release is installed.
_PASSING: Final = frozenset({Kind.UNAVAILABLE, Kind.TIMEOUT, Kind.SCHEMA_MISMATCH})

Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a database stands: its revision, None without any; and for one that is not known here, what it needs.

    `needs` is the revision that a release has to know to work with it, None where the database does not say.
    """

    revision: str | None
    needs: str | None = None


async def current(connection: AsyncConnection) -> str | None:
    """The revision the database is at, None where no migration was ever applied. Raises what SQLAlchemy raises."""
    exists = await connection.scalar(sa.text("SELECT to_regclass(:name)::text"), {"name": VERSION_TABLE})
    if exists is None:
        return None
    found: str | None = await connection.scalar(
        sa.text(f"SELECT max(version_num) FROM {VERSION_TABLE}")  # noqa: S608 - a constant
    )
    return found


async def standing(connection: AsyncConnection) -> Standing:
    """Where the database stands. Raises what SQLAlchemy raises."""
    found = await current(connection)
    if found is None or found <= MAXIMUM_REVISION:
        return Standing(found)
    if await connection.scalar(sa.text("SELECT to_regclass(:name)::text"), {"name": NEEDS_TABLE}) is None:
        return Standing(found)
    needs: str | None = await connection.scalar(
        sa.text(f"SELECT needs FROM {NEEDS_TABLE} WHERE revision = :found"),  # noqa: S608 - a constant
        {"found": found},
    )
    return Standing(found, needs)


def judge(found: Standing, *, minimum: str = MINIMUM_REVISION, maximum: str = MAXIMUM_REVISION) -> str:
    """The revision, if this code works with it; a later one that says that it does is one of those.

    Revisions are four digits, so they compare as text. Raises FirewallError (SCHEMA_MISMATCH) with the command to type.
    """
    if found.revision is None:
        raise FirewallError(
            Kind.SCHEMA_MISMATCH, "the database has no schema yet", fix="run `python -m app.migrations.apply`"
        )
    if found.revision < minimum:
        raise FirewallError(
            Kind.SCHEMA_MISMATCH,
            f"the database is at revision `{found.revision}`, and this release needs at least `{minimum}`",
            fix="run `python -m app.migrations.apply`",
        )
    # INVARIANT: the `pre` migrations of the next release leave the pods of this one ready (ADR 55).
    if found.revision > maximum and (found.needs is None or found.needs > maximum):
        raise FirewallError(
            Kind.SCHEMA_MISMATCH,
            f"the database is at revision `{found.revision}`, and this release works up to `{maximum}`",
            fix="start the release that made it, or with that release run "
            f"`python -m app.migrations.rollback {maximum}`",
        )
    return found.revision


async def read(engine: AsyncEngine) -> Standing:
    """Say what `standing` says. Raises FirewallError (UNAVAILABLE, TIMEOUT) where it cannot be read."""
    try:
        async with engine.connect() as connection:
            return await standing(connection)
    except DATABASE_ERRORS as error:
        raise explained(error) from error


async def check(engine: AsyncEngine) -> str:
    """The revision of the database, if this code works with it.

    Raises FirewallError (SCHEMA_MISMATCH) with the command to type, or UNAVAILABLE / TIMEOUT where it cannot be read.
    """
    return judge(await read(engine))


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
