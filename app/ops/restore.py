"""Brings a backup into an empty database and finds out whether it is what it says; never into one that has something.

(1) check      the dump is the one that the manifest names
(2) refuse     a database that is not empty
(3) restore    in one transaction: all of it or nothing
(4) ready      partitions for the coming months
(5) verify     size, tree and checkpoint as the manifest has them, then the whole integrity check
"""

import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import asyncpg

from app.errors import FirewallError, Kind
from app.ops.backup import Manifest, check_dump, ledger_state, manifest_of
from app.ops.findings import Finding
from app.ops.integrity import Progress, Wanted, run
from app.ops.programs import find_program, must, told
from app.persistence import revision
from app.persistence.engine import DATABASE_ERRORS, connect, create_engine, explained, parse_dsn
from app.persistence.partitions import make_ahead

# Tables, views and sequences outside the schemas of the server itself.
_CONTENT: Final = """
SELECT count(*) FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
WHERE nspname NOT IN ('pg_catalog', 'information_schema') AND nspname NOT LIKE 'pg\\_%'
"""


@dataclass(frozen=True, slots=True)
class Restored:
    """What came of a restore: `differences` to the manifest, and what the integrity check found."""

    manifest: Manifest
    differences: tuple[str, ...]
    findings: tuple[Finding, ...]
    checked: bool

    @property
    def whole(self) -> bool:
        """Whether it is what it says."""
        return self.checked and not self.differences and not self.findings


async def restore(dsn: str, directory: Path, name: str, *, progress: Progress | None = None) -> Restored:
    """Bring a backup, or the `latest`, into the database that the DSN names, which must be empty, and verify it.

    Raises FirewallError: NOT_FOUND, CONFLICT for a database that is not empty or a dump that is another, UNAVAILABLE.
    """
    manifest = manifest_of(directory, name)
    dump = await check_dump(directory, manifest)  # (1)
    try:
        connection = await connect(dsn, writable=True)
        try:
            major = connection.get_server_version().major
            found = await connection.fetchval(_CONTENT)
        finally:
            await connection.close()
    except DATABASE_ERRORS as error:
        raise explained(error) from error
    if found:  # (2)
        raise FirewallError(
            Kind.CONFLICT,
            "the database is not empty, and a restore overwrites nothing",
            fix="create another one (`createdb`), and name it in MFW_DATABASE__URL",
        )
    program = await find_program("pg_restore", major=max(major, manifest.postgresql))
    with told(dsn) as environment:  # (3)
        await must(
            [
                str(program),
                "--no-password",
                "--no-owner",
                "--no-privileges",
                "--exit-on-error",
                "--single-transaction",
                f"--dbname={environment['PGDATABASE']}",
                str(dump),
            ],
            environment=environment,
            what="the backup could not be restored",
        )
    if not await _known(dsn):
        # Of another release: its schema is brought forward first.
        return Restored(manifest, (), (), checked=False)
    await make_ahead(dsn)  # (4)
    differences = await _compare(dsn, manifest)  # (5)
    report = await run(dsn, Wanted(pace=1.0, record=False), progress=progress)
    return Restored(manifest, differences, report.findings, checked=True)


async def verify(directory: Path, name: str, *, server: str | None, progress: Progress | None = None) -> Restored:
    """Whether a backup is whole; with a `server`, by restoring it into a database of its own there, dropped afterwards.

    Raises FirewallError: NOT_FOUND, CONFLICT for a dump that is another, UNAVAILABLE, also where the role may not
    create databases.
    """
    manifest = manifest_of(directory, name)
    await check_dump(directory, manifest)
    if server is None:
        return Restored(manifest, (), (), checked=False)
    scratch = f"mfw_verify_{secrets.token_hex(6)}"
    dsn = parse_dsn(server).set(drivername="postgresql", database=scratch).render_as_string(hide_password=False)
    try:
        connection = await connect(server, statement_timeout=300.0, writable=True)
        try:
            await connection.execute(f"CREATE DATABASE {scratch} TEMPLATE template0")
            try:
                return await restore(dsn, directory, manifest.name, progress=progress)
            finally:
                await connection.execute(f"DROP DATABASE IF EXISTS {scratch} WITH (FORCE)")
        finally:
            await connection.close()
    except asyncpg.InsufficientPrivilegeError as error:
        raise FirewallError(
            Kind.FORBIDDEN,
            "the role may not create the database to restore into",
            fix="give it CREATEDB, or set MFW_DATABASE__URL to another server",
        ) from error
    except DATABASE_ERRORS as error:
        raise explained(error) from error


async def _known(dsn: str) -> bool:
    """Whether this release works with the schema that was restored."""
    engine = create_engine(dsn, pool_size=1)
    try:
        await revision.check(engine)
    except FirewallError as error:
        if error.kind is not Kind.SCHEMA_MISMATCH:
            raise
        return False
    finally:
        await engine.dispose()
    return True


async def _compare(dsn: str, manifest: Manifest) -> tuple[str, ...]:
    try:
        connection = await connect(dsn)
        try:
            state = await ledger_state(connection)
        finally:
            await connection.close()
    except DATABASE_ERRORS as error:
        raise explained(error) from error
    wanted = manifest.ledger
    differences = []
    for what, there, said in (
        ("entries", state.size, wanted.size),
        ("leaves in the tree", state.tree_size, wanted.tree_size),
        ("the tree's root", state.tree_root, wanted.tree_root),
        ("the last checkpoint", state.checkpoint, wanted.checkpoint),
    ):
        if there != said:
            differences.append(f"{what}: `{there}`, and the manifest says `{said}`")
    return tuple(differences)
