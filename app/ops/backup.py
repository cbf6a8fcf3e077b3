"""Backups of the whole database, each with a note of what the ledger was: PostgreSQL's own dump beside a manifest.

    (1) look       one snapshot, which the dump uses too: the ledger's size, its tree, its last checkpoint
    (2) dump       under a name that nobody takes for a backup
    (3) read back  digest and table of contents
    (4) name       the dump, then the manifest: a backup is there when its manifest is
    (5) prune      what is older than wanted, never the last one

A backup holds everything: records, digests of API keys, policies. Its files are for their owner alone.
"""

import asyncio
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import asyncpg
import orjson
from sqlalchemy.ext.asyncio import AsyncEngine

from app.errors import FirewallError, Kind
from app.ledger.files import PART_SUFFIX, digest_file, read_file, sync_directory, write_file
from app.ops.programs import clean_environment, find_program, must, told
from app.persistence import revision
from app.persistence.engine import DATABASE_ERRORS, connect, create_engine, explained
from app.persistence.operation_runs import Operation, OperationRuns, Outcome

MANIFEST_VERSION: Final = 1
# The first schema with what a backup reads and writes: the ledger's tree, and the runs of operations.
OLDEST_REVISION: Final = "0010"
DUMP_SUFFIX: Final = ".dump"
MANIFEST_SUFFIX: Final = ".json"
# reference/firewall-failure-mode-matrix.md, mode 15.
KEEP: Final = timedelta(days=30)
# What an interrupted run left, once it is certain that it does not go on.
_LEFT_BEHIND: Final = timedelta(days=1)
_MANIFEST_BYTES_MAX: Final = 1024 * 1024
# Seconds that the connection with the snapshot may take for one statement; in between it only waits.
_STATEMENT_TIMEOUT: Final = 60.0
_NAME: Final = re.compile(r"mfw-\d{8}T\d{6}Z-\d+", re.ASCII)

Clock = Callable[[], datetime]


@dataclass(frozen=True, slots=True)
class LedgerState:
    """What the ledger was: how many entries, the tree over them, and the last checkpoint as it was signed."""

    size: int
    tree_size: int
    tree_root: str
    checkpoint: str | None


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a backup is; `size_bytes` and `sha256` are of its dump, `postgresql` the server's major version."""

    name: str
    created_at: datetime
    engine: str
    postgresql: int
    revision: str
    ledger: LedgerState
    size_bytes: int
    sha256: str

    def serialise(self) -> bytes:
        """The manifest as its file has it."""
        return orjson.dumps(
            {"version": MANIFEST_VERSION, **asdict(self)}, option=orjson.OPT_INDENT_2 | orjson.OPT_UTC_Z
        )

    @classmethod
    def parse(cls, content: bytes, *, name: str) -> "Manifest":
        """The manifest of a file. Raises FirewallError (MALFORMED)."""
        try:
            members = orjson.loads(content)
            known = members.pop("version") == MANIFEST_VERSION and members["name"] == name
            members["created_at"] = datetime.fromisoformat(members["created_at"])
            members["ledger"] = LedgerState(**members["ledger"])
            found = cls(**members)
        except (AttributeError, KeyError, TypeError, ValueError):
            known, found = False, None
        if found is None or not known:
            raise FirewallError(Kind.MALFORMED, f"the manifest of `{name}` cannot be read", fix="take another backup")
        return found


@dataclass(frozen=True, slots=True)
class Created:
    """A new backup, and the names of those that went."""

    manifest: Manifest
    pruned: tuple[str, ...]


async def reached(dsn: str, *, within: float, told: Callable[[str], None]) -> None:
    """Wait for a database that is away. Raises FirewallError (UNAVAILABLE, TIMEOUT) where it does not come in time."""
    engine = create_engine(dsn, pool_size=1)
    try:
        await revision.wait(partial(revision.read, engine), within=within, told=told)
    finally:
        await engine.dispose()


async def create(dsn: str, directory: Path, *, clock: Clock, keep: timedelta = KEEP) -> Created:
    """Make a backup in a directory, and forget those that are older than `keep`.

    Safe to interrupt. Raises FirewallError: SCHEMA_MISMATCH, UNAVAILABLE (database, programs, disk), TIMEOUT.
    """
    engine = create_engine(dsn, pool_size=1)
    try:
        await revision.check(engine)
        return await _create(engine, dsn, directory, clock=clock, keep=keep)
    finally:
        await engine.dispose()


async def create_before_migration(dsn: str, directory: Path, *, clock: Clock, keep: timedelta = KEEP) -> Created | None:
    """Make a backup of a schema that this release would bring forward; None where there is no schema yet.

    Raises FirewallError as `create` does.
    """
    engine = create_engine(dsn, pool_size=1)
    try:
        found = await revision.read(engine)
        if found.revision is None:
            return None
        if found.revision < OLDEST_REVISION:
            raise FirewallError(
                Kind.SCHEMA_MISMATCH,
                f"the database is at revision `{found.revision}`, and backups are made from `{OLDEST_REVISION}` on",
                fix="keep a copy with `pg_dump`, then run `python -m app.migrations.apply`",
            )
        revision.judge(found, minimum=OLDEST_REVISION)
        return await _create(engine, dsn, directory, clock=clock, keep=keep)
    finally:
        await engine.dispose()


async def _create(engine: AsyncEngine, dsn: str, directory: Path, *, clock: Clock, keep: timedelta) -> Created:
    """Make it, with a note of the run in the database, and prune."""
    runs = OperationRuns(engine)
    run = await runs.begin(Operation.BACKUP, details={})
    try:
        manifest = await _dump(dsn, directory, clock=clock)
    except BaseException as error:
        detail = error.detail if isinstance(error, FirewallError) else type(error).__name__
        await runs.finish(run.id, Outcome.FAILED, details={"error": detail[:500]})
        raise
    await runs.finish(
        run.id,
        Outcome.OK,
        details={"name": manifest.name, "bytes": manifest.size_bytes, "entries": manifest.ledger.size},
    )
    return Created(manifest, prune(directory, keep=keep, now=clock()))


async def _dump(dsn: str, directory: Path, *, clock: Clock) -> Manifest:
    """Steps (1) to (4)."""
    try:
        await asyncio.to_thread(directory.mkdir, mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise FirewallError(
            Kind.UNAVAILABLE, f"`{directory}` cannot be made", fix="name another directory with --dir"
        ) from error
    try:
        connection = await connect(dsn, statement_timeout=_STATEMENT_TIMEOUT)
    except DATABASE_ERRORS as error:
        raise explained(error) from error
    try:
        major = connection.get_server_version().major
        program = await find_program("pg_dump", major=major)
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            snapshot = await connection.fetchval("SELECT pg_export_snapshot()")
            found = await connection.fetchval("SELECT max(version_num) FROM alembic_version")
            state = await ledger_state(connection)
            moment = clock()
            name = f"mfw-{moment:%Y%m%dT%H%M%SZ}-{state.size}"
            part = directory / (name + DUMP_SUFFIX + PART_SUFFIX)
            try:
                with told(dsn) as environment:
                    await must(
                        [
                            str(program),
                            "--format=custom",
                            "--no-password",
                            "--lock-wait-timeout=30s",
                            f"--snapshot={snapshot}",
                            f"--file={part}",
                        ],
                        environment=environment,
                        what="the database could not be dumped",
                    )
                digest = await asyncio.to_thread(digest_file, part)
                await must(
                    [str(program.with_name("pg_restore")), "--list", str(part)],
                    environment=clean_environment(),
                    what="the dump cannot be read back",
                )
            except BaseException:
                part.unlink(missing_ok=True)
                raise
    except DATABASE_ERRORS as error:
        raise explained(error) from error
    finally:
        connection.terminate()
    if digest is None:
        raise FirewallError(Kind.UNAVAILABLE, f"`{part}` is gone")
    manifest = Manifest(
        name,
        moment,
        f"mutation-firewall/{version('mutation-firewall')}",
        major,
        found,
        state,
        digest.bytes,
        digest.sha256,
    )
    await asyncio.to_thread(_name, part, directory, manifest)
    return manifest


def _name(part: Path, directory: Path, manifest: Manifest) -> None:
    """Step (4), on the disk before it is believed."""
    try:
        descriptor = os.open(part, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fchmod(descriptor, 0o600)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        part.replace(directory / (manifest.name + DUMP_SUFFIX))
        sync_directory(directory)
    except OSError as error:
        raise FirewallError(
            Kind.UNAVAILABLE, f"`{part}` cannot be named: {(error.strerror or 'unknown reason').lower()}"
        ) from error
    write_file(directory / (manifest.name + MANIFEST_SUFFIX), manifest.serialise())


async def ledger_state(connection: "asyncpg.Connection[Any]") -> LedgerState:
    """What the ledger of a database is now. Raises what asyncpg raises."""
    row = await connection.fetchrow(
        "SELECT next_index, size, encode(root, 'hex') AS root,"
        " (SELECT convert_from(note, 'UTF8') FROM ledger_checkpoints ORDER BY size DESC LIMIT 1) AS checkpoint"
        " FROM ledger_head, ledger_tree"
    )
    if row is None:
        raise FirewallError(
            Kind.UNAVAILABLE, "the ledger has no head or no tree", fix="run `mfw integrity check`, and restore a backup"
        )
    return LedgerState(row["next_index"], row["size"], row["root"], row["checkpoint"])


def backups(directory: Path) -> Iterator[Manifest]:
    """The backups of a directory, the newest first; one that cannot be read is passed over.

    Raises FirewallError (NOT_FOUND) where there is no directory.
    """
    if not directory.is_dir():
        raise FirewallError(Kind.NOT_FOUND, f"there is no directory `{directory}`", fix="run `mfw backup create` first")
    names = sorted(file.stem for file in directory.glob(f"mfw-*{MANIFEST_SUFFIX}"))
    for name in reversed(names):
        try:
            yield manifest_of(directory, name)
        except FirewallError:
            continue


def manifest_of(directory: Path, name: str) -> Manifest:
    """One backup by its name, or the newest as `latest`. Raises FirewallError (NOT_FOUND, MALFORMED)."""
    if name == "latest":
        for newest in backups(directory):
            return newest
    elif _NAME.fullmatch(name):
        content = read_file(directory / (name + MANIFEST_SUFFIX), max_bytes=_MANIFEST_BYTES_MAX)
        if content is not None:
            return Manifest.parse(content, name=name)
    raise FirewallError(Kind.NOT_FOUND, f"there is no backup `{name[:80]}`", fix="run `mfw backup list`")


def prune(directory: Path, *, keep: timedelta, now: datetime) -> tuple[str, ...]:
    """Step (5): forget backups that are older than `keep`, but never the newest; gives the names of those that went."""
    gone = []
    for manifest in list(backups(directory))[1:]:
        if manifest.created_at < now - keep:
            # Without its manifest a dump is no backup; a crash between the two leaves a dump that the next run takes.
            (directory / (manifest.name + MANIFEST_SUFFIX)).unlink(missing_ok=True)
            gone.append(manifest.name)
    known = {manifest.name for manifest in backups(directory)}
    for file in directory.glob("mfw-*"):
        name = file.name.partition(".")[0]
        is_ours = file.name.endswith((DUMP_SUFFIX, PART_SUFFIX)) and _NAME.fullmatch(name)
        is_old = file.stat().st_mtime < (now - _LEFT_BEHIND).timestamp()
        if is_ours and name not in known and (is_old or name in gone):
            file.unlink(missing_ok=True)
    return tuple(gone)


async def check_dump(directory: Path, manifest: Manifest) -> Path:
    """The dump of a backup, if it is the one that the manifest names and can be read.

    Raises FirewallError: CONFLICT for a dump that was altered or is missing, UNAVAILABLE for the programs.
    """
    dump = directory / (manifest.name + DUMP_SUFFIX)
    digest = await asyncio.to_thread(digest_file, dump)
    if digest is None:
        raise FirewallError(Kind.CONFLICT, f"the dump of `{manifest.name}` is missing", fix="take another backup")
    if (digest.bytes, digest.sha256) != (manifest.size_bytes, manifest.sha256):
        raise FirewallError(
            Kind.CONFLICT, f"the dump of `{manifest.name}` is not the one that was made", fix="take another backup"
        )
    program = await find_program("pg_restore", major=manifest.postgresql)
    await must([str(program), "--list", str(dump)], environment=clean_environment(), what="the dump cannot be read")
    return dump
