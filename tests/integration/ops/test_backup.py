"""A backup is made, found whole or not, and restored; and decisions go on after the worst."""

import os
import stat
import time
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import asyncpg
import orjson
import pytest

from app.errors import FirewallError, Kind
from app.ledger.files import digest_file
from app.migrations import schema
from app.ops import backup as module
from app.ops import programs
from app.ops.backup import backups, create, create_before_migration, manifest_of, prune, reached
from app.ops.integrity import Wanted, run
from app.ops.restore import restore, verify
from app.persistence import revision
from app.persistence.engine import create_engine, parse_dsn
from app.persistence.operation_runs import OperationRuns
from tests.integration.service.conftest import scraped
from tests.ports import free_port

clock = partial(datetime.now, UTC)


@pytest.fixture
async def made(mixed_dsn, tmp_path):
    return (await create(mixed_dsn, tmp_path / "backups", clock=clock)).manifest


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "backups"


async def latest(dsn):
    engine = create_engine(dsn)
    try:
        return await OperationRuns(engine).latest()
    finally:
        await engine.dispose()


async def test_a_database_that_is_on_its_way_is_waited_for(database_dsn, monkeypatch):
    read = revision.read
    words: list[str] = []
    asked: list[object] = []

    async def late(engine):
        asked.append(engine)
        if len(asked) == 1:
            raise FirewallError(Kind.UNAVAILABLE, "the database cannot be reached")
        return await read(engine)

    monkeypatch.setattr(revision, "read", late)
    await reached(database_dsn, within=60, told=words.append)
    assert len(asked) == 2
    assert words == ["the database cannot be reached"]
    nowhere = "postgresql://firewall:secret@127.0.0.1:1/firewall"
    assert (await refused(reached(nowhere, within=0, told=words.append))).kind is Kind.UNAVAILABLE


async def refused(awaitable):
    with pytest.raises(FirewallError) as caught:
        await awaitable
    return caught.value


async def test_a_directory_that_cannot_be_made_is_not_the_databases_fault(tmp_path):
    (tmp_path / "file").touch()
    away = "postgresql://u@/d?host=/nowhere"
    error = await refused(module._dump(away, tmp_path / "file/backups", clock=clock))
    assert "file/backups` cannot be made" in error.detail
    assert "--dir" in (error.fix or "")
    assert (
        await refused(module._dump(away, tmp_path / "backups", clock=clock))
    ).detail == "the database cannot be reached"


async def test_a_backup_says_what_it_is(made, directory, mixed_dsn):
    (found,) = backups(directory)
    assert found == made == manifest_of(directory, "latest") == manifest_of(directory, made.name)
    assert (made.ledger.size, made.ledger.tree_size, made.revision) == (310, 310, revision.MAXIMUM_REVISION)
    assert made.ledger.checkpoint is not None
    assert made.ledger.checkpoint.startswith("log.example/ledger\n310\n")
    files = sorted(directory.iterdir())
    assert [file.name for file in files] == [f"{made.name}.dump", f"{made.name}.json"]
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert (await latest(mixed_dsn)).backup_at is not None


async def test_the_drill(made, directory, mixed_dsn, server_dsn, serve):
    """Create, destroy, restore, verify, and go on deciding."""
    name = parse_dsn(mixed_dsn).database
    connection = await asyncpg.connect(server_dsn)
    await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await connection.execute(f"CREATE DATABASE {name} TEMPLATE template0")
    await connection.close()
    restored = await restore(mixed_dsn, directory, "latest")
    assert restored.whole, restored
    with serve(mixed_dsn) as service, service.client() as client:
        answer = client.post(
            "/v1/decisions",
            json={
                "subject": {"type": "agent", "id": "a"},
                "action": {"name": "update"},
                "resource": {"type": "box", "id": "b"},
                "change": {"after": {"size": 1}},
            },
        )
        assert answer.status_code == 200
        assert [idx for idx, _, _ in service.entries()] == list(range(311))
    assert {one.check.value for one in (await run(mixed_dsn, Wanted(pace=1.0, record=False))).findings} <= {"keys"}


async def test_the_service_shows_what_jobs_found(made, mixed_dsn, hands, serve):
    await hands.tamper("UPDATE ledger_records SET record = '' WHERE idx = 5")
    await run(mixed_dsn, Wanted(pace=1.0))
    port = free_port()
    with serve(mixed_dsn, MFW_METRICS__ENABLED="true", MFW_METRICS__PORT=str(port)):
        shown = scraped(port, 'mfw_integrity_issues{check="records"} 1.0')
    assert 'mfw_integrity_issues{check="gaps"} 0.0' in shown
    for name in ("mfw_backup", "mfw_integrity"):
        (line,) = [one for one in shown if one.startswith(f"{name}_last_success_timestamp_seconds ")]
        assert time.time() - float(line.split()[1]) < 3600


async def test_a_backup_is_verified_by_restoring_it(made, directory, mixed_dsn):
    shallow = await verify(directory, "latest", server=None)
    assert not shallow.checked
    deep = await verify(directory, made.name, server=mixed_dsn)
    assert deep.whole
    connection = await asyncpg.connect(mixed_dsn)
    left = await connection.fetch("SELECT datname FROM pg_database WHERE datname LIKE 'mfw_verify%'")
    await connection.close()
    assert left == []


async def test_a_backup_of_a_broken_database_is_told(mixed_dsn, hands, directory):
    await hands.tamper("UPDATE ledger_records SET record = '' WHERE idx = 5")
    await create(mixed_dsn, directory, clock=clock)
    deep = await verify(directory, "latest", server=mixed_dsn)
    assert not deep.whole
    assert [one.check.value for one in deep.findings] == ["records"]


async def test_a_manifest_that_says_otherwise_is_told(made, directory, mixed_dsn):
    file = directory / f"{made.name}.json"
    members = orjson.loads(file.read_bytes())
    members["ledger"]["tree_root"] = "00" * 32
    members["ledger"]["size"] = 311
    file.write_bytes(orjson.dumps(members))
    deep = await verify(directory, "latest", server=mixed_dsn)
    assert not deep.whole
    assert len(deep.differences) == 2
    assert "the manifest says `311`" in deep.differences[0]


async def test_a_database_with_something_in_it_is_left_alone(made, directory, mixed_dsn, empty_database_dsn):
    error = await refused(restore(mixed_dsn, directory, "latest"))
    assert error.kind is Kind.CONFLICT
    assert "not empty" in error.detail
    connection = await asyncpg.connect(empty_database_dsn)
    await connection.execute("CREATE SCHEMA mine; CREATE TABLE mine.one (n int)")
    await connection.close()
    assert (await refused(restore(empty_database_dsn, directory, "latest"))).kind is Kind.CONFLICT


async def test_a_restore_is_all_or_nothing(made, directory, empty_database_dsn):
    # As if the disk had lost the end of it, and somebody had made the manifest fit.
    dump = directory / f"{made.name}.dump"
    dump.write_bytes(dump.read_bytes()[:-3000])
    digest = digest_file(dump)
    assert digest is not None
    file = directory / f"{made.name}.json"
    members = orjson.loads(file.read_bytes()) | {"size_bytes": digest.bytes, "sha256": digest.sha256}
    file.write_bytes(orjson.dumps(members))
    assert (await refused(restore(empty_database_dsn, directory, "latest"))).kind is Kind.UNAVAILABLE
    connection = await asyncpg.connect(empty_database_dsn)
    assert await connection.fetchval("SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace") == 0
    await connection.close()


async def test_a_dump_that_was_altered_or_lost_is_told(made, directory, empty_database_dsn):
    dump = directory / f"{made.name}.dump"
    content = bytearray(dump.read_bytes())
    content[len(content) // 2] ^= 1
    dump.write_bytes(content)
    error = await refused(restore(empty_database_dsn, directory, "latest"))
    assert (error.kind, "not the one that was made" in error.detail) == (Kind.CONFLICT, True)
    dump.unlink()
    assert "missing" in (await refused(verify(directory, "latest", server=None))).detail


async def test_a_backup_of_an_earlier_release_is_restored_and_not_looked_into(
    server_dsn, empty_database_dsn, directory
):
    await schema.apply(empty_database_dsn, revision=module.OLDEST_REVISION)
    await create_before_migration(empty_database_dsn, directory, clock=clock)
    restored = await verify(directory, "latest", server=server_dsn)
    assert (restored.checked, restored.whole) == (False, False)


async def test_a_backup_of_a_later_release_is_looked_into_as_far_as_this_one_works_with_it(
    server_dsn, database_dsn, directory
):
    connection = await asyncpg.connect(database_dsn)
    await connection.execute("INSERT INTO schema_revisions VALUES ('9998', $1)", revision.MAXIMUM_REVISION)
    await connection.execute("UPDATE alembic_version SET version_num = '9998'")
    await connection.close()
    assert (await create(database_dsn, directory, clock=clock)).manifest.revision == "9998"
    restored = await verify(directory, "latest", server=server_dsn)
    assert (restored.checked, restored.whole) == (True, True)


async def test_what_cannot_be_dumped_leaves_nothing(mixed_dsn, directory, monkeypatch):
    before = (await latest(mixed_dsn)).backup_at

    async def fail(*_, what, **__):
        raise FirewallError(Kind.UNAVAILABLE, what)

    monkeypatch.setattr(module, "must", fail)
    assert "could not be dumped" in (await refused(create(mixed_dsn, directory, clock=clock))).detail
    assert list(directory.iterdir()) == []
    assert (await latest(mixed_dsn)).backup_at == before


async def test_a_schema_that_does_not_fit_is_not_backed_up(empty_database_dsn, directory):
    assert (await refused(create(empty_database_dsn, directory, clock=clock))).kind is Kind.SCHEMA_MISMATCH
    assert not directory.exists()


async def test_before_a_migration_an_earlier_schema_is_backed_up(empty_database_dsn, directory):
    assert await create_before_migration(empty_database_dsn, directory, clock=clock) is None
    assert not directory.exists()
    await schema.apply(empty_database_dsn, revision="0009")
    error = await refused(create_before_migration(empty_database_dsn, directory, clock=clock))
    assert (error.kind, "`0009`" in error.detail) == (Kind.SCHEMA_MISMATCH, True)
    await schema.apply(empty_database_dsn, revision=module.OLDEST_REVISION)
    assert (await refused(create(empty_database_dsn, directory, clock=clock))).kind is Kind.SCHEMA_MISMATCH
    earlier = await create_before_migration(empty_database_dsn, directory, clock=clock)
    assert earlier is not None
    assert earlier.manifest.revision == module.OLDEST_REVISION < revision.MAXIMUM_REVISION
    await schema.apply(empty_database_dsn)
    later = await create_before_migration(empty_database_dsn, directory, clock=lambda: clock() + timedelta(seconds=1))
    assert later is not None
    assert later.manifest.revision == revision.MAXIMUM_REVISION
    assert [one.revision for one in backups(directory)] == [revision.MAXIMUM_REVISION, module.OLDEST_REVISION]


async def test_a_schema_of_a_later_release_is_not_migrated_and_not_backed_up(database_dsn, directory):
    connection = await asyncpg.connect(database_dsn)
    await connection.execute("UPDATE alembic_version SET version_num = '9999'")
    await connection.close()
    error = await refused(create_before_migration(database_dsn, directory, clock=clock))
    assert (error.kind, "works up to" in error.detail) == (Kind.SCHEMA_MISMATCH, True)


async def test_a_ledger_without_head_is_told(mixed_dsn, hands, directory):
    await hands.tamper("DELETE FROM ledger_head")
    assert "no head" in (await refused(create(mixed_dsn, directory, clock=clock))).detail


async def test_an_empty_ledger_has_a_backup(database_dsn, directory):
    await create(database_dsn, directory, clock=clock)
    assert (await verify(directory, "latest", server=database_dsn)).whole


async def test_the_password_is_in_no_argument_and_in_no_file_that_stays(mixed_dsn, directory, hands, monkeypatch):
    await hands.connection.execute("CREATE ROLE keeper LOGIN SUPERUSER PASSWORD 'se:cr\\et'")
    try:
        dsn = parse_dsn(mixed_dsn).set(drivername="postgresql", username="keeper", password="se:cr\\et")
        seen = []
        execute = programs.execute

        async def watch(command, *, environment):
            seen.append((command, dict(environment)))
            return await execute(command, environment=environment)

        monkeypatch.setattr(programs, "execute", watch)
        await create(dsn.render_as_string(hide_password=False), directory, clock=clock)
        assert seen
        assert "cr" + "\\et" not in str(seen)
        files = {environment["PGPASSFILE"] for _, environment in seen if "PGPASSFILE" in environment}
        assert files
        assert not any(Path(file).exists() for file in files)
    finally:
        await hands.connection.execute("DROP ROLE keeper")


def fake(directory: Path, moment: datetime, size: int) -> str:
    state = module.LedgerState(size, 0, "", None)
    name = f"mfw-{moment:%Y%m%dT%H%M%SZ}-{size}"
    manifest = module.Manifest(name, moment, "e", 18, "0010", state, 1, "x")
    (directory / f"{name}.dump").write_bytes(b"x")
    (directory / f"{name}.json").write_bytes(manifest.serialise())
    return name


def test_old_backups_go_and_the_last_one_stays(tmp_path):
    now = datetime(2026, 6, 1, tzinfo=UTC)
    names = [fake(tmp_path, now - timedelta(days=days), days) for days in (1, 29, 31, 400)]
    left = tmp_path / "mfw-20260101T000000Z-7.dump.part"
    left.write_bytes(b"")
    os.utime(left, (0, 0))
    (tmp_path / "mine.txt").write_text("x")
    assert prune(tmp_path, keep=timedelta(days=30), now=now) == (names[2], names[3])
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(
        [f"{name}{suffix}" for name in names[:2] for suffix in (".dump", ".json")] + ["mine.txt"]
    )
    assert prune(tmp_path, keep=timedelta(days=1), now=now + timedelta(days=900)) == (names[1],)
    assert [one.name for one in backups(tmp_path)] == names[:1]


def test_what_is_no_backup_is_not_listed(tmp_path):
    name = fake(tmp_path, datetime(2026, 6, 1, tzinfo=UTC), 1)
    for number, content in enumerate(["{", "[]", '{"version": 2}', '{"version": 1, "name": "x"}']):
        (tmp_path / f"mfw-20260602T00000{number}Z-1.json").write_text(content)
    assert [one.name for one in backups(tmp_path)] == [name]
    for wanted in ("mfw-20260602T000000Z-1", "mfw-20990101T000000Z-1", "../x", "latest/.."):
        with pytest.raises(FirewallError):
            manifest_of(tmp_path, wanted)
    with pytest.raises(FirewallError, match="no directory"):
        list(backups(tmp_path / "none"))


async def test_programs_fit_the_server():
    assert (await programs.find_program("pg_dump", major=18)).name == "pg_dump"
    # The nearest one: a later release may write what an older server does not take.
    assert (
        b" 16."
        in (
            await programs.execute([str(await programs.find_program("pg_dump", major=16)), "--version"], environment={})
        )[1]
    )
    error = await refused(programs.find_program("pg_dump", major=99))
    assert "postgresql-client-99" in str(error.fix)
    with pytest.raises(FirewallError, match="no such file"):
        await programs.must(["/nowhere"], environment={}, what="x")


async def test_a_program_that_fails_says_why():
    error = await refused(programs.must(["/bin/sh", "-c", "echo because; exit 3"], environment={}, what="it failed"))
    assert error.detail == "it failed: `sh` ended with 3: because"
    assert "it said nothing" in (await refused(programs.must(["/bin/false"], environment={}, what="x"))).detail


def test_a_dsn_becomes_an_environment():
    with programs.told("postgresql://u:p@h:5433/d?sslmode=verify-full&sslrootcert=/ca.pem") as environment:
        assert {name: environment[name] for name in environment if name.startswith("PG")} == {
            "PGHOST": "h",
            "PGPORT": "5433",
            "PGUSER": "u",
            "PGDATABASE": "d",
            "PGSSLMODE": "verify-full",
            "PGSSLROOTCERT": "/ca.pem",
            "PGAPPNAME": "mutation-firewall backup",
            "PGCONNECT_TIMEOUT": "5",
            "PGPASSFILE": environment["PGPASSFILE"],
        }
        file = Path(environment["PGPASSFILE"])
        assert file.read_text() == "*:*:*:*:p\n"
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert not file.exists()
    with programs.told("postgresql://u@/d?host=/run") as environment:
        assert environment["PGHOST"] == "/run"
        assert "PGPASSFILE" not in environment


async def test_the_schema_can_be_brought_forward_after_a_restore(made, directory, empty_database_dsn):
    await restore(empty_database_dsn, directory, "latest")
    assert (await schema.apply(empty_database_dsn)).served
