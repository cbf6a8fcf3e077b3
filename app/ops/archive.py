"""Moves a month's records out of the database into a file, and back. Their receipts stay, and so does the log.

    (1) write      the partition's records with their entries into a file, on the disk before it has its name
    (2) verify     read it back: every record is the one that its receipt names, and all are those of the partition
    (3) record     an entry in the ledger, and a row: which file, its digest, what is in it
    (4) detach     the partition is no part of the table any more; nobody's record went meanwhile
    (5) drop       only if asked for, and after the file was compared with the table once more

INVARIANT: nothing is dropped that is not in a file, byte by byte, which the ledger names. Each step looks at what is
there and not at what a run before it meant to do, so a run that was killed anywhere is taken up by the next one.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import asyncpg
import sqlalchemy as sa

from app.core.months import Month
from app.core.principal import Principal
from app.core.uuid7 import uuid7
from app.errors import FirewallError, Kind
from app.ledger.files import digest_file
from app.ledger.receipt import SALT_BYTES, EntryKind, parse, record_digest, seal
from app.ledger.records import SUFFIX, read_records, records_file
from app.ledger.rows import LedgerRow
from app.ledger.search import FILL
from app.ledger.within import append_within
from app.persistence.engine import DATABASE_ERRORS, connect, create_engine, explained
from app.persistence.partitions import attach, attached, create, partition_name
from app.persistence.tables import ledger_search_progress

TABLE: Final = "ledger_records"
SEARCH_TABLE: Final = "ledger_search"
# Seconds. Detaching takes the table from everybody for a moment, so whoever is in the way wins.
LOCK_TIMEOUT: Final = 5.0
STATEMENT_TIMEOUT: Final = 300.0
_ROWS_AT_ONCE: Final = 500
_INDEXED_AT_ONCE: Final = 2000
_UUID_ENTROPY_BYTES: Final = 10

_ROWS: Final = """
SELECT e.idx, e.id, e.kind, r.recorded_at, e.receipt, r.salt, r.record
FROM {partition} AS r JOIN ledger_entries AS e ON e.idx = r.idx AND e.recorded_at = r.recorded_at
WHERE r.idx > $1 ORDER BY r.idx LIMIT $2
"""
_ARCHIVES: Final = """
SELECT ledger_index, first_index, last_index, records, file, bytes, digest FROM ledger_archives
WHERE partition = $1 ORDER BY ledger_index DESC
"""
_INSERT: Final = """
INSERT INTO ledger_archives (ledger_index, ledger_id, partition, starts_at, ends_at, first_index, last_index, records,
    file, bytes, digest, archived_by, archived_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
"""
_TURN: Final = sa.select(ledger_search_progress.c.next_index).with_for_update()
_ATTACHED: Final = "SELECT EXISTS (SELECT FROM pg_class WHERE oid = to_regclass($1) AND relispartition)"


class Step(StrEnum):
    """What was just done; a test ends the process there."""

    WRITTEN = "written"
    VERIFIED = "verified"
    RECORDED = "recorded"
    DETACHED = "detached"
    COMPARED = "compared"
    DROPPED = "dropped"


@dataclass(frozen=True, slots=True)
class Content:
    """What is in a partition or in a file; `digest` is over every record in order, so that the two can be compared."""

    records: int
    first: int
    last: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class Archived:
    """What became of one month."""

    month: Month
    partition: str
    records: int
    file: str | None
    dropped: bool


@dataclass(frozen=True, slots=True)
class Keeper:
    """Who archives, and what it takes to write it down."""

    principal: Principal
    clock: Callable[[], datetime]
    entropy: Callable[[int], bytes]


class _Summing:
    """Sums up records one by one."""

    def __init__(self) -> None:
        self._hash = sha256()
        self._records = 0
        self._first: int | None = None
        self._last = 0

    def add(self, row: LedgerRow) -> None:
        salt, record = row.salt or b"", row.record or b""
        # With lengths, so that no two sequences of records hash the same bytes.
        self._hash.update(f"{row.idx} {row.recorded_at.timestamp():.6f} {len(salt)} {len(record)} ".encode())
        self._hash.update(salt)
        self._hash.update(record)
        self._records += 1
        self._first = row.idx if self._first is None else self._first
        self._last = row.idx

    @property
    def content(self) -> Content:
        return Content(self._records, self._first or 0, self._last, self._hash.digest())


async def archive(
    dsn: str,
    directory: Path,
    *,
    before: Month,
    keeper: Keeper,
    drop: bool = False,
    did: Callable[[Step], None] = lambda _: None,
) -> tuple[Archived, ...]:
    """Archive every month before one that is named; with `drop` the tables go as well. Safe to repeat and to interrupt.

    Raises FirewallError: MALFORMED for a month that is not over, CONFLICT where records are not what their receipts
    say or were erased meanwhile, TIMEOUT where a lock was not to be had, UNAVAILABLE.
    """
    try:
        connection = await _connect(dsn)
        try:
            this_month = Month.of(await connection.fetchval("SELECT now()"))
            if before > this_month:
                raise FirewallError(
                    Kind.MALFORMED,
                    f"`{before}` lies ahead, and only months that are over are archived",
                    fix=f"name `{this_month}` or an earlier one",
                )
            return tuple(
                [
                    await _archive(connection, dsn, month, directory, keeper=keeper, drop=drop, did=did)
                    for month in await _months(connection)
                    if month < before
                ]
            )
        finally:
            connection.terminate()
    except asyncpg.LockNotAvailableError as error:
        raise FirewallError(
            Kind.TIMEOUT,
            "the partition did not get its lock: a transaction holds the table",
            retry_after=LOCK_TIMEOUT,
            fix="run the same command again; it goes on where it stopped",
        ) from error
    except DATABASE_ERRORS as error:
        raise explained(error) from error


async def unarchive(dsn: str, directory: Path, *, month: Month) -> Archived:
    """Bring a month's records back, from its file or from the table that was detached.

    A record that was erased in the meantime stays away. Raises FirewallError: NOT_FOUND where the month was never
    archived, CONFLICT where file and ledger disagree or the month is there, UNAVAILABLE, TIMEOUT.
    """
    partition = partition_name(TABLE, month)
    try:
        connection = await _connect(dsn)
        try:
            rows = await connection.fetch(_ARCHIVES, partition)
            if not rows:
                raise FirewallError(Kind.NOT_FOUND, f"`{month}` was never archived")
            if await connection.fetchval(_ATTACHED, partition):
                raise FirewallError(Kind.CONFLICT, f"the records of `{month}` are there")
            file = await _checked_file(directory, rows[0])
            async with connection.transaction():
                exists = await connection.fetchval("SELECT to_regclass($1) IS NOT NULL", partition)
                if exists:
                    await _compare(connection, partition, file)
                else:
                    await create(connection, TABLE, partition)
                    await _load(connection, partition, file)
                await attach(connection, TABLE, month)
                # Of what was erased since, nothing comes back. Its rows are in `ledger_erasures`, so this is allowed.
                await connection.execute(
                    f"DELETE FROM {partition} WHERE idx IN (SELECT idx FROM ledger_erasures)"  # noqa: S608 - ours
                )
                records = await connection.fetchval(f"SELECT count(*) FROM {partition}")  # noqa: S608 - ours
                search = partition_name(SEARCH_TABLE, month)
                if await connection.fetchval("SELECT to_regclass($1) IS NULL", search):
                    await create(connection, SEARCH_TABLE, search)
                    await attach(connection, SEARCH_TABLE, month)
            await _index_again(dsn, rows[0]["first_index"], rows[0]["last_index"])
            return Archived(month, partition, records, file.name, dropped=False)
        finally:
            connection.terminate()
    except asyncpg.LockNotAvailableError as error:
        raise FirewallError(
            Kind.TIMEOUT, "the partition did not get its lock", retry_after=LOCK_TIMEOUT, fix="run it again"
        ) from error
    except DATABASE_ERRORS as error:
        raise explained(error) from error


async def _connect(dsn: str) -> "asyncpg.Connection[Any]":
    return await connect(
        dsn,
        statement_timeout=STATEMENT_TIMEOUT,
        settings={"lock_timeout": f"{int(LOCK_TIMEOUT * 1000)}ms"},
        writable=True,
    )


async def _months(connection: "asyncpg.Connection[Any]") -> list[Month]:
    """Months with a partition, attached or detached by an archive."""
    found = {one.month for one in await attached(connection, TABLE) if one.month is not None}
    rows = await connection.fetch(
        "SELECT DISTINCT partition FROM ledger_archives WHERE to_regclass(partition) IS NOT NULL"
    )
    return sorted(found | {Month.parse(row["partition"].removeprefix(f"{TABLE}_")) for row in rows})


async def _archive(
    connection: "asyncpg.Connection[Any]",
    dsn: str,
    month: Month,
    directory: Path,
    *,
    keeper: Keeper,
    drop: bool,
    did: Callable[[Step], None],
) -> Archived:
    partition = partition_name(TABLE, month)
    # Before the rows are read: what is erased from here on is noticed when the partition is detached.
    there = await connection.fetchrow(f"SELECT min(idx), max(idx) FROM {partition}")  # noqa: S608 - a name of ours
    erased = await _erased(connection, *there)
    content = await _summed(_rows(connection, partition))
    is_attached = await connection.fetchval(_ATTACHED, partition)
    if not content.records and is_attached:
        # Nothing to write down; an empty table costs nothing.
        return Archived(month, partition, 0, None, dropped=False)
    strangers = await connection.fetchval(f"SELECT count(*) FROM {partition}") - content.records  # noqa: S608 - ours
    if strangers:
        raise FirewallError(
            Kind.CONFLICT,
            f"{strangers} records of `{partition}` have no entry in the ledger",
            fix="run `mfw integrity check`",
        )
    file = await _known_file(connection, directory, partition, content)
    if file is None:
        if not is_attached:
            raise FirewallError(
                Kind.CONFLICT,
                f"`{partition}` was archived, and its file is not in `{directory}` or is another",
                fix="name the directory that has it; the table is still there and nothing is lost",
            )
        file = directory / f"{partition}-{content.first}-{content.last}-{content.records}{SUFFIX}"
        await _write(connection, partition, file)  # (1)
        did(Step.WRITTEN)
        await _compare(connection, partition, file)  # (2)
        did(Step.VERIFIED)
        await _record(dsn, month, file, content, keeper=keeper)  # (3)
        did(Step.RECORDED)
    if is_attached:
        await _detach(connection, partition, content, erased=erased)  # (4)
        did(Step.DETACHED)
    if drop:
        await _compare(connection, partition, file)  # (5)
        did(Step.COMPARED)
        async with connection.transaction():
            # What the index says of that month follows from the records, and speaks of the same people.
            await connection.execute(f"DROP TABLE IF EXISTS {partition_name(SEARCH_TABLE, month)}")
            await connection.execute(f"DROP TABLE {partition}")
        did(Step.DROPPED)
    return Archived(month, partition, content.records, file.name, dropped=drop)


async def _rows(connection: "asyncpg.Connection[Any]", partition: str) -> AsyncIterator[LedgerRow]:
    """The records of a partition with their entries, in short transactions: only an erasure can change what is over."""
    statement = _ROWS.format(partition=partition)
    last = -1
    while rows := await connection.fetch(statement, last, _ROWS_AT_ONCE):
        for row in rows:
            yield LedgerRow(*row.values())
        last = rows[-1]["idx"]


async def _summed(rows: AsyncIterator[LedgerRow]) -> Content:
    summing = _Summing()
    async for row in rows:
        summing.add(row)
    return summing.content


async def _write(connection: "asyncpg.Connection[Any]", partition: str, file: Path) -> None:
    """Step (1)."""
    with records_file(file) as out:
        async for row in _rows(connection, partition):
            out.add(row)


async def _compare(connection: "asyncpg.Connection[Any]", partition: str, file: Path) -> None:
    """Steps (2) and (5): the file has the records of the partition, and they are what their receipts say."""
    there = await _summed(_rows(connection, partition))
    read = await asyncio.to_thread(_verified, file)
    if read != there:
        raise FirewallError(
            Kind.CONFLICT,
            f"`{file.name}` and `{partition}` differ: {read.records} and {there.records} records",
            fix="run `mfw integrity check`; nothing was dropped",
        )


def _verified(file: Path) -> Content:
    """What is in a file, if each record is the one that its receipt names."""
    summing = _Summing()
    for row in read_records(file):
        _check_row(row, file)
        summing.add(row)
    return summing.content


def _check_row(row: LedgerRow, file: Path) -> None:
    members = parse(row.receipt)
    if row.salt is None or row.record is None or len(row.salt) != SALT_BYTES:
        raise FirewallError(Kind.CONFLICT, f"entry {row.idx} has no record in `{file.name}`")
    if members["id"] != str(row.id) or record_digest(row.salt, row.record) != members["record"]:
        raise FirewallError(
            Kind.CONFLICT,
            f"record {row.idx} in `{file.name}` is not the one that its receipt names",
            fix="run `mfw integrity check`; what is not whole is not archived",
        )


async def _record(dsn: str, month: Month, file: Path, content: Content, *, keeper: Keeper) -> None:
    """Step (3): the entry and the row, both or neither."""
    digest = await asyncio.to_thread(digest_file, file)
    if digest is None:
        raise FirewallError(Kind.UNAVAILABLE, f"`{file}` is gone")
    partition = partition_name(TABLE, month)
    now = keeper.clock()
    members = {
        "act": "archive-records",
        "partition": partition,
        "file": file.name,
        "digest": f"sha256:{digest.sha256}",
        "first_index": str(content.first),
        "last_index": str(content.last),
        "records": str(content.records),
    }
    entry = seal(
        EntryKind.ARCHIVE,
        id=uuid7(now, entropy=keeper.entropy(_UUID_ENTROPY_BYTES)),
        at=now,
        principal=keeper.principal,
        members=members,
        record={"engine": f"mutation-firewall/{version('mutation-firewall')}", **members},
        salt=keeper.entropy(SALT_BYTES),
    )
    row = (
        entry.id,
        partition,
        month.starts,
        month.ends,
        content.first,
        content.last,
        content.records,
        file.name,
        digest.bytes,
        bytes.fromhex(digest.sha256),
        keeper.principal.id,
        now,
    )
    engine = create_engine(dsn, pool_size=1)
    try:
        async with engine.begin() as connection:
            index = await append_within(connection, [entry])
            await connection.exec_driver_sql(_INSERT, (index, *row))
    finally:
        await engine.dispose()


async def _known_file(
    connection: "asyncpg.Connection[Any]", directory: Path, partition: str, content: Content
) -> Path | None:
    """The file that an earlier run recorded, if it is there, unaltered, and still has what the partition has."""
    for row in await connection.fetch(_ARCHIVES, partition):
        if (row["records"], row["first_index"], row["last_index"]) != (content.records, content.first, content.last):
            continue
        try:
            return await _checked_file(directory, row)
        except FirewallError:
            continue
    return None


async def _checked_file(directory: Path, row: "asyncpg.Record") -> Path:
    """The file of an archive, if it is the one that the ledger names."""
    # The name comes from a table: it names a file of this directory and nothing else.
    file = directory / Path(row["file"]).name
    digest = await asyncio.to_thread(digest_file, file)
    if digest is None:
        raise FirewallError(Kind.NOT_FOUND, f"`{file}` is not there", fix="name the directory that has it")
    if (digest.bytes, bytes.fromhex(digest.sha256)) != (row["bytes"], row["digest"]):
        raise FirewallError(Kind.CONFLICT, f"`{file}` is not the file that was archived", fix="look for another copy")
    return file


async def _detach(connection: "asyncpg.Connection[Any]", partition: str, content: Content, *, erased: int) -> None:
    """Step (4): takes ACCESS EXCLUSIVE for a moment; without waiting it is not possible beside a default partition."""
    async with connection.transaction():
        await connection.execute(f"ALTER TABLE {TABLE} DETACH PARTITION {partition}")
        # Nobody can erase a record of it now; had somebody done so since it was read, the file would still have it.
        if await _erased(connection, content.first, content.last) != erased:
            raise FirewallError(
                Kind.CONFLICT,
                f"a record of `{partition}` was erased while it was archived",
                fix="delete the file that was just written, and run the same command again",
            )


async def _erased(connection: "asyncpg.Connection[Any]", first: int | None, last: int | None) -> int:
    """How many records were erased from one index to another: a look into an index, no scan."""
    count: int = await connection.fetchval(
        "SELECT count(*) FROM ledger_erasures WHERE idx BETWEEN $1::bigint AND $2::bigint", first, last
    )
    return count


async def _index_again(dsn: str, first: int, last: int) -> None:
    """What searches find of a month that is back. Killed here, an integrity check finds and repairs it."""
    engine = create_engine(dsn, pool_size=1)
    try:
        for start in range(first, last + 1, _INDEXED_AT_ONCE):
            async with engine.begin() as connection:
                # Who indexes or erases holds this row (app/ledger/search.py).
                indexed = await connection.scalar(_TURN)
                end = min(start + _INDEXED_AT_ONCE, last + 1, indexed or 0)
                if end > start:
                    await connection.execute(FILL, {"start": start, "end": end})
    finally:
        await engine.dispose()


async def _load(connection: "asyncpg.Connection[Any]", partition: str, file: Path) -> None:
    """Read a file into an empty table; every row must be that of its entry in the ledger."""
    rows: list[LedgerRow] = []
    for row in read_records(file):
        _check_row(row, file)
        rows.append(row)
        if len(rows) == _ROWS_AT_ONCE:
            await _insert(connection, partition, rows, file)
            rows = []
    if rows:
        await _insert(connection, partition, rows, file)


async def _insert(connection: "asyncpg.Connection[Any]", partition: str, rows: list[LedgerRow], file: Path) -> None:
    entries = {
        row["idx"]: (row["receipt"], row["recorded_at"])
        for row in await connection.fetch(
            "SELECT idx, receipt, recorded_at FROM ledger_entries WHERE idx = ANY($1::bigint[])",
            [row.idx for row in rows],
        )
    }
    for row in rows:
        if entries.get(row.idx) != (row.receipt, row.recorded_at):
            raise FirewallError(Kind.CONFLICT, f"entry {row.idx} in `{file.name}` is not the one that the ledger has")
    await connection.copy_records_to_table(
        partition,
        records=[(row.idx, row.recorded_at, row.salt, row.record) for row in rows],
        columns=["idx", "recorded_at", "salt", "record"],
    )
