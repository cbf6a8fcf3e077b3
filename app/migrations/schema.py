"""Moves the schema of a database from one revision to another: one mover at a time, one transaction per migration."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy.ext.asyncio import AsyncConnection

from app.errors import FirewallError, Kind
from app.migrations.phases import Migration, Phase, read_migrations
from app.persistence.engine import (
    CLIENT_GRACE,
    DATABASE_ERRORS,
    ErrorKind,
    causes,
    create_engine,
    error_kind,
    explained,
)
from app.persistence.partitions import make_ahead
from app.persistence.revision import MAXIMUM_REVISION, MINIMUM_REVISION, Standing, judge, standing

FOLDER = Path(__file__).resolve().parents[2] / "migrations"
BASE = "base"
HEAD = "head"

# Seconds. A migration that waits for a lock makes everybody behind it wait too, so it gives up soon and can be
# repeated.
LOCK_TIMEOUT = 5.0
# Seconds. Long enough to build an index, short enough to be noticed.
STATEMENT_TIMEOUT = 300.0
# Seconds that a second `apply` waits for the first: replicas may start at the same time.
QUEUE_TIMEOUT = 60.0
# The advisory lock's name: any number, the same in every release ("mfw migr" in ASCII).
ADVISORY_LOCK = 0x6D66_7720_6D69_6772


@dataclass(frozen=True, slots=True)
class Status:
    """Where a database stands; `current` is None where no migration was applied yet, `pending` is in order.

    `needs` is what a later release wrote down: the revision that a release has to know to work with this schema.
    """

    current: str | None
    newest: str
    minimum: str
    maximum: str
    pending: tuple[str, ...]
    needs: str | None = None

    @property
    def later(self) -> bool:
        """Whether a later release made this schema."""
        return self.current is not None and self.current > self.newest

    @property
    def served(self) -> bool:
        """Whether this release starts on this database."""
        try:
            judge(Standing(self.current, self.needs), minimum=self.minimum, maximum=self.maximum)
        except FirewallError:
            return False
        return True


async def apply(
    dsn: str,
    *,
    revision: str = HEAD,
    before_rollout: bool = False,
    lock_timeout: float = LOCK_TIMEOUT,
    statement_timeout: float = STATEMENT_TIMEOUT,
    queue_timeout: float = QUEUE_TIMEOUT,
) -> Status:
    """Bring the database forward to `revision`, by default the newest, with partitions made ahead. Timeouts in seconds.

    `before_rollout` leaves a `post` migration and what comes after it for later, since the release before may still
    run; an empty database is nobody's. A database that a later release brought further, and that says that this release
    works with it, is left as it is. Safe to repeat and to run twice at the same time. Raises FirewallError: TIMEOUT
    when a lock was not to be had, SCHEMA_MISMATCH when the database is ahead of this release or would stay behind it,
    UNAVAILABLE when it cannot be reached.
    """
    known = _known(revision)

    def forward(found: str | None) -> str:
        return _before_rollout(found) if before_rollout else known

    moved = await _move(dsn, command.upgrade, forward, lock_timeout, statement_timeout, queue_timeout)
    if moved.served:
        await make_ahead(dsn, lock_timeout=lock_timeout, statement_timeout=statement_timeout)
    return moved


async def rollback(
    dsn: str,
    revision: str,
    *,
    lock_timeout: float = LOCK_TIMEOUT,
    statement_timeout: float = STATEMENT_TIMEOUT,
    queue_timeout: float = QUEUE_TIMEOUT,
) -> Status:
    """Take the database back to `revision`. Timeouts are in seconds.

    Raises FirewallError: CONFLICT when that would drop the ledger, MALFORMED when there is no such revision before the
    current one; otherwise as `apply`.
    """
    known = _known(revision)

    def back(found: str | None) -> str:
        _refuse_back(found, down_to=known)
        return known

    return await _move(dsn, command.downgrade, back, lock_timeout, statement_timeout, queue_timeout)


async def status(dsn: str) -> Status:
    """Where the database stands. Raises FirewallError (UNAVAILABLE, TIMEOUT) when it cannot be asked."""
    engine = create_engine(dsn)
    try:
        async with engine.connect() as connection:
            return _status(await standing(connection))
    except DATABASE_ERRORS as error:
        raise explained(error) from error
    finally:
        await engine.dispose()


def _config() -> Config:
    if not (FOLDER / "env.py").is_file():
        raise FirewallError(
            Kind.INVALID_SETTINGS,
            f"the migrations are not at `{FOLDER}`",
            fix="run from a checkout or from the image, which carry the folder `migrations/` beside `app/`",
        )
    config = Config()
    # `%` is configparser's own; a folder may have one in its name.
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def migrations() -> tuple[Migration, ...]:
    """Every migration there is, oldest first."""
    return read_migrations(ScriptDirectory.from_config(_config()))


def _revisions() -> tuple[str, ...]:
    return tuple(found.revision for found in migrations())


def _known(revision: str) -> str:
    known = _revisions()
    if revision not in {*known, BASE, HEAD}:
        raise FirewallError(
            Kind.MALFORMED,
            f"there is no revision `{revision}`",
            fix=f"name one of {', '.join(f'`{one}`' for one in known)}",
        )
    return revision


def _before_rollout(found: str | None) -> str:
    """The last revision before the first pending `post` migration. Raises where this release needs more than that."""
    if found is None:
        return HEAD
    reached = found
    for one in migrations():
        if one.revision <= found:
            continue
        if one.phase is Phase.POST:
            if reached < MINIMUM_REVISION:
                raise FirewallError(
                    Kind.SCHEMA_MISMATCH,
                    f"the `post` migration `{one.revision}` of a release before this one is still to be applied",
                    fix=f"when no replica of a release that does not know `{one.needs}` runs any more, run "
                    f"`python -m app.migrations.apply --to {one.revision}`, then the same command again",
                )
            break
        reached = one.revision
    return reached


def _status(at: Standing) -> Status:
    revisions, found = _revisions(), at.revision
    return Status(
        current=found,
        needs=at.needs,
        newest=revisions[-1],
        minimum=MINIMUM_REVISION,
        maximum=MAXIMUM_REVISION,
        pending=tuple(one for one in revisions if found is None or one > found),
    )


async def _move(
    dsn: str,
    mover: Callable[[Config, str], None],
    target: Callable[[str | None], str],
    lock_timeout: float,
    statement_timeout: float,
    queue_timeout: float,
) -> Status:
    """Move to the revision that `target` makes of the one that was found."""
    engine = create_engine(dsn, statement_timeout=max(statement_timeout, queue_timeout + CLIENT_GRACE))
    try:
        async with engine.connect() as connection:
            await _queue(connection, queue_timeout)
            await _settings(connection, lock_timeout=lock_timeout, statement_timeout=statement_timeout)
            found = await standing(connection)
            await connection.commit()
            if mover is command.upgrade and (status := _status(found)).later and status.served:
                return status
            _refuse_unknown(found.revision)
            await connection.run_sync(_run, mover, target(found.revision))
            await connection.commit()
            return _status(await standing(connection))
    except DATABASE_ERRORS as error:
        raise _explain(error) from error
    except CommandError as error:
        raise FirewallError(
            Kind.CONFLICT, f"alembic refused: {error}", fix="run `python -m app.migrations.status`"
        ) from error
    finally:
        # Closing the connection gives the advisory lock back, also after an error.
        await engine.dispose()


async def _settings(connection: AsyncConnection, *, lock_timeout: float, statement_timeout: float) -> None:
    # For the session, not for the transaction: each migration has a transaction of its own.
    setting = sa.text("SELECT set_config(:name, :value, false)")
    for name, seconds in (("lock_timeout", lock_timeout), ("statement_timeout", statement_timeout)):
        await connection.execute(setting, {"name": name, "value": f"{int(seconds * 1000)}ms"})


async def _queue(connection: AsyncConnection, queue_timeout: float) -> None:
    """Take the advisory lock, or say who is in the way."""
    await _settings(connection, lock_timeout=queue_timeout, statement_timeout=0)
    try:
        await connection.execute(sa.text("SELECT pg_advisory_lock(:key)"), {"key": ADVISORY_LOCK})
    except sa.exc.DBAPIError as error:
        if not any(isinstance(cause, asyncpg.LockNotAvailableError) for cause in causes(error)):
            raise
        raise FirewallError(
            Kind.TIMEOUT,
            f"another migration has been running for more than {queue_timeout:g} s",
            retry_after=queue_timeout,
            fix="wait for it, then run the same command again",
        ) from error
    await connection.commit()


def _refuse_unknown(found: str | None) -> None:
    revisions = _revisions()
    if found is not None and found not in revisions:
        raise FirewallError(
            Kind.SCHEMA_MISMATCH,
            f"the database is at revision `{found}`, which this release does not know",
            fix=f"use the release that made it; this one knows {', '.join(f'`{one}`' for one in revisions)}",
        )


def _refuse_back(found: str | None, *, down_to: str) -> None:
    if down_to == found:
        return
    if found is None or (down_to != BASE and down_to > found):
        raise FirewallError(
            Kind.MALFORMED,
            f"the database is at `{found or BASE}`, and `{down_to}` is not behind that",
            fix="run `python -m app.migrations.status`",
        )


def _run(connection: sa.Connection, mover: Callable[[Config, str], None], revision: str) -> None:
    config = _config()
    config.attributes["connection"] = connection
    mover(config, revision)


def _explain(error: BaseException) -> FirewallError:
    for cause in causes(error):
        match cause:
            case asyncpg.LockNotAvailableError():
                return FirewallError(
                    Kind.TIMEOUT,
                    "a migration did not get its lock: a transaction holds a table that it changes",
                    retry_after=LOCK_TIMEOUT,
                    fix="run the same command again; if it persists, end the oldest transaction in `pg_stat_activity`",
                )
            case asyncpg.QueryCanceledError():
                return FirewallError(
                    Kind.TIMEOUT,
                    "a migration took longer than its limit and was rolled back",
                    fix="run the same command with a larger `--statement-timeout`",
                )
            case asyncpg.PostgresError() if error_kind(cause) is not ErrorKind.CONNECTION:
                # To a person at a terminal who owns the database the server's own words help, and disclose nothing.
                return FirewallError(
                    Kind.UNAVAILABLE, f"the database refused: {cause}", fix="run `python -m app.migrations.status`"
                )
            case _:
                continue
    return explained(error)
