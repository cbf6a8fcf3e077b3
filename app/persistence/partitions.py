"""Partitions of the ledger's large tables, by month: made ahead, so that no append has to wait for one.

    (1) make       a table of its own, empty, with the storage settings and triggers of its kind; nobody sees it yet
    (2) attach     writers go on; who reads across the default partition waits for a moment
    (3) settle     rows that fell into the default partition, because nobody ran this in time, come into their month

Everything is safe to repeat, and one caller at a time works.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import asyncpg

from app.core.months import Month
from app.errors import FirewallError, Kind
from app.persistence.engine import DATABASE_ERRORS, connect, explained
from app.persistence.tables import PARTITIONED

# Beside the current month. A job that fails for a whole quarter is noticed before the last one is full.
AHEAD: Final = 3
# Seconds. Who waits for a lock makes everybody behind it wait too.
LOCK_TIMEOUT: Final = 5.0
# Seconds: rows in the default partition are read through once.
STATEMENT_TIMEOUT: Final = 300.0
# Rows are moved without anybody waiting only where no row of another month can come meanwhile.
_QUIET: Final = timedelta(hours=1)
# The advisory lock's name ("mfw part" in ASCII).
_ADVISORY_LOCK: Final = 0x6D66_7720_7061_7274

# Rows are inserted and never change, so vacuuming has two things to do: to mark pages as visible to all, for scans of
# an index alone, and to freeze them. Soon and little at a time, instead of all of them when their ids run out; what is
# frozen once is never written again. docs/adr/0040-keeping-the-ledger.md has the reasons.
INSERT_ONLY: Final = (
    "autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 100000,"
    " autovacuum_freeze_min_age = 0, autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 500000"
)

_PARTITIONS = """
SELECT child.relname AS name, pg_get_expr(child.relpartbound, child.oid) AS bounds
FROM pg_inherits JOIN pg_class AS child ON child.oid = inhrelid
WHERE inhparent = $1::text::regclass ORDER BY 1
"""
_UNTUNED = """
SELECT relname AS name FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
WHERE inhparent = $1::text::regclass AND reloptions IS NULL ORDER BY 1
"""
# Statement triggers are not handed down to partitions, and TRUNCATE fires no others.
_STATEMENT_TRIGGERS = """
SELECT tgname AS name, proname AS function FROM pg_trigger JOIN pg_proc ON pg_proc.oid = tgfoid
WHERE tgrelid = $1::text::regclass AND NOT tgisinternal AND tgtype & 1 = 0 AND tgtype & 32 <> 0
"""
_ROW_TRIGGERS = """
SELECT tgname AS name FROM pg_trigger WHERE tgrelid = $1::text::regclass AND NOT tgisinternal AND tgtype & 1 = 1
"""
_MONTHS = "SELECT DISTINCT date_trunc('month', recorded_at, 'UTC') AS month FROM {table} ORDER BY 1"


@dataclass(frozen=True, slots=True)
class Partition:
    """One partition as it is attached; `month` is None for the default one."""

    table: str
    name: str
    month: Month | None


@dataclass(frozen=True, slots=True)
class Made:
    """What `make_ahead` did: names of new partitions, and how many rows it moved out of the default ones."""

    partitions: tuple[str, ...]
    moved: int


def partition_name(table: str, month: Month) -> str:
    """What the partition of a month is called."""
    return f"{table}_{month.suffix}"


def rest_name(table: str) -> str:
    """What the default partition is called."""
    return f"{table}_rest"


async def attached(connection: "asyncpg.Connection[Any]", table: str) -> list[Partition]:
    """The partitions of a table, the default one among them. Raises what asyncpg raises."""
    found = []
    for row in await connection.fetch(_PARTITIONS, table):
        name = row["name"]
        month = None if row["bounds"] == "DEFAULT" else Month.parse(name.removeprefix(f"{table}_"))
        found.append(Partition(table, name, month))
    return found


async def make_ahead(
    dsn: str,
    *,
    ahead: int = AHEAD,
    tables: Sequence[str] = PARTITIONED,
    lock_timeout: float = LOCK_TIMEOUT,
    statement_timeout: float = STATEMENT_TIMEOUT,
) -> Made:
    """Have a partition for this month and the `ahead` after it, and move what lies in the default one.

    Timeouts are in seconds. Raises FirewallError: TIMEOUT where a lock was not to be had (safe to repeat), UNAVAILABLE.
    """
    try:
        connection = await connect(
            dsn,
            statement_timeout=statement_timeout,
            settings={"lock_timeout": f"{int(lock_timeout * 1000)}ms"},
            writable=True,
        )
        try:
            names: list[str] = []
            moved = 0
            for table in tables:
                made = await _keep_ahead(connection, table, ahead)
                names += made.partitions
                moved += made.moved
            return Made(tuple(names), moved)
        finally:
            await connection.close()
    except asyncpg.LockNotAvailableError as error:
        raise FirewallError(
            Kind.TIMEOUT,
            "a partition did not get its lock: a transaction holds the table",
            retry_after=lock_timeout,
            fix="run `mfw ledger partitions` again; if it persists, end the oldest transaction in `pg_stat_activity`",
        ) from error
    except DATABASE_ERRORS as error:
        raise explained(error) from error


async def attach(connection: "asyncpg.Connection[Any]", table: str, month: Month) -> None:
    """Attach a table that has the name and the columns of a partition; its rows are read through first.

    Within a transaction of the caller's. Raises what asyncpg raises.
    """
    name = partition_name(table, month)
    await connection.execute(
        f"ALTER TABLE {table} ATTACH PARTITION {name} FOR VALUES FROM ('{month.starts}') TO ('{month.ends}')"
    )
    # Handed down from the table, but enabled as an ordinary trigger where the release of PostgreSQL forgets it.
    for row in await connection.fetch(_ROW_TRIGGERS, table):
        await connection.execute(f'ALTER TABLE {name} ENABLE ALWAYS TRIGGER "{row["name"]}"')


async def create(connection: "asyncpg.Connection[Any]", table: str, name: str) -> None:
    """Make a table like a partition of `table`, with its storage settings and its triggers of statements.

    Raises what asyncpg raises.
    """
    await connection.execute(
        f"CREATE TABLE {name} (LIKE {table} INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING STORAGE)"
        f" WITH ({INSERT_ONLY})"
    )
    for row in await connection.fetch(_STATEMENT_TRIGGERS, table):
        await connection.execute(
            f'CREATE TRIGGER "{row["name"]}" BEFORE TRUNCATE ON {name}'
            f' FOR EACH STATEMENT EXECUTE FUNCTION "{row["function"]}"()'
        )
        await connection.execute(f'ALTER TABLE {name} ENABLE ALWAYS TRIGGER "{row["name"]}"')


async def _keep_ahead(connection: "asyncpg.Connection[Any]", table: str, ahead: int) -> Made:
    now: datetime = await connection.fetchval("SELECT now()")
    wanted = {Month.of(now).after(count) for count in range(ahead + 1)}
    strayed = await _strayed(connection, table)
    made: list[str] = []
    moved = 0
    if strayed:
        settled = await _settle(connection, table, strayed, now=now, wanted=wanted)
        made += settled.partitions
        moved += settled.moved
    # (1), (2) one transaction each: what is there already is kept when a lock is not to be had.
    for month in sorted(wanted):
        async with connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock($1)", _ADVISORY_LOCK)
            if month in {one.month for one in await attached(connection, table)}:
                continue
            name = partition_name(table, month)
            if await connection.fetchval("SELECT to_regclass($1)", name) is not None:
                # Detached by the archive, or by hand: not ours to attach again.
                continue
            await create(connection, table, name)
            await attach(connection, table, month)
            made.append(name)
    await _tune(connection, table)
    return Made(tuple(made), moved)


async def _tune(connection: "asyncpg.Connection[Any]", table: str) -> None:
    """Give the settings to partitions that a migration made without; writers and readers go on."""
    for row in await connection.fetch(_UNTUNED, table):
        await connection.execute(f'ALTER TABLE "{row["name"]}" SET ({INSERT_ONLY})')


async def _strayed(connection: "asyncpg.Connection[Any]", table: str) -> list[Month]:
    """The months of what lies in the default partition."""
    rows = await connection.fetch(_MONTHS.format(table=rest_name(table)))
    return [Month.of(row["month"]) for row in rows]


async def _settle(
    connection: "asyncpg.Connection[Any]", table: str, strayed: list[Month], *, now: datetime, wanted: set[Month]
) -> Made:
    """(3) Bring rows of the default partition into partitions of their own."""
    present = {one.month for one in await attached(connection, table)}
    month = strayed[0]
    if len(strayed) == 1 and month == Month.of(now) and month not in present and month.ends - now > _QUIET:
        return await _rename(connection, table, month)
    return await _copy(connection, table, {*strayed, *wanted} - present)


async def _rename(connection: "asyncpg.Connection[Any]", table: str, month: Month) -> Made:
    """The default partition becomes that of the one month it has rows of: no row moves, and nobody waits for long."""
    rest, name = rest_name(table), partition_name(table, month)
    bounds = f"{rest}_bounds"
    # Left by a run that was interrupted: it would refuse rows of the months to come.
    await connection.execute(f"ALTER TABLE {rest} DROP CONSTRAINT IF EXISTS {bounds}")
    await connection.execute(
        f"ALTER TABLE {rest} ADD CONSTRAINT {bounds}"
        f" CHECK (recorded_at >= '{month.starts}' AND recorded_at < '{month.ends}') NOT VALID"
    )
    try:
        # Reads it all, while writers go on; what it proves need not be read again under a lock.
        await connection.execute(f"ALTER TABLE {rest} VALIDATE CONSTRAINT {bounds}")
        async with connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock($1)", _ADVISORY_LOCK)
            await connection.execute(f"ALTER TABLE {table} DETACH PARTITION {rest}")
            await connection.execute(f"ALTER TABLE {rest} RENAME TO {name}")
            await connection.execute(f"ALTER TABLE {name} RENAME CONSTRAINT {rest}_pkey TO {name}_pkey")
            await attach(connection, table, month)
            await connection.execute(f"ALTER TABLE {name} DROP CONSTRAINT {bounds}")
            await _make_rest(connection, table)
        moved: int = await connection.fetchval(f"SELECT count(*) FROM {name}")  # noqa: S608 - a name of ours
        return Made((name,), moved)
    except BaseException:
        await connection.execute(f"ALTER TABLE IF EXISTS {rest} DROP CONSTRAINT IF EXISTS {bounds}")
        raise


async def _copy(connection: "asyncpg.Connection[Any]", table: str, missing: set[Month]) -> Made:
    """Rows of several months, or of one that is over: copied, compared and dropped, while everybody waits."""
    rest = rest_name(table)
    before = f"{rest}_before"
    made = []
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock($1)", _ADVISORY_LOCK)
        await connection.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
        await connection.execute(f"ALTER TABLE {table} DETACH PARTITION {rest}")
        await connection.execute(f"ALTER TABLE {rest} RENAME TO {before}")
        await connection.execute(f"ALTER TABLE {before} RENAME CONSTRAINT {rest}_pkey TO {before}_pkey")
        await _make_rest(connection, table)
        for month in sorted(missing):
            name = partition_name(table, month)
            if await connection.fetchval("SELECT to_regclass($1)", name) is not None:
                continue
            await create(connection, table, name)
            await attach(connection, table, month)
            made.append(name)
        moved: int = await connection.fetchval(f"SELECT count(*) FROM {before}")  # noqa: S608 - a name of ours
        await connection.execute(f"INSERT INTO {table} SELECT * FROM {before}")  # noqa: S608 - names of ours
        # INVARIANT: nothing is dropped that is not there a second time, byte by byte.
        lost = await connection.fetchval(
            f"SELECT count(*) FROM (SELECT * FROM {before} EXCEPT ALL SELECT * FROM {table}"  # noqa: S608 - as above
            f" WHERE recorded_at BETWEEN (SELECT min(recorded_at) FROM {before})"
            f" AND (SELECT max(recorded_at) FROM {before})) AS lost"
        )
        if lost:
            raise FirewallError(Kind.CONFLICT, f"{lost} rows of `{rest}` did not arrive in their partitions")
        await connection.execute(f"DROP TABLE {before}")
    return Made(tuple(made), moved)


async def _make_rest(connection: "asyncpg.Connection[Any]", table: str) -> None:
    rest = rest_name(table)
    await create(connection, table, rest)
    await connection.execute(f"ALTER TABLE {table} ATTACH PARTITION {rest} DEFAULT")
    for row in await connection.fetch(_ROW_TRIGGERS, table):
        await connection.execute(f'ALTER TABLE {rest} ENABLE ALWAYS TRIGGER "{row["name"]}"')
