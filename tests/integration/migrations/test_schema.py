"""The schema moves forward and back, one mover at a time, and never drops the ledger."""

import asyncio
import re
from datetime import UTC, datetime
from uuid import uuid4

import asyncpg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from app.errors import FirewallError, Kind
from app.migrations import schema
from app.persistence import revision
from app.persistence.engine import create_engine
from app.persistence.tables import metadata

PARTITION = re.compile(r"ledger_(?:records|search)_(rest|\d{4}_\d\d)")
MONTH = re.compile(r"ledger_(?:records|search)_\d{4}_\d\d")
# What `compare_metadata` does not look at.
CONSTRAINTS = """
SELECT conrelid::regclass::text AS on_table, conname AS name, pg_get_constraintdef(oid) AS definition
FROM pg_constraint WHERE connamespace = 'public'::regnamespace AND contype IN ('c', 'p')
AND NOT EXISTS (SELECT FROM pg_class WHERE pg_class.oid = conrelid AND relispartition) ORDER BY 1, 2
"""
TRIGGERS = """
SELECT tgrelid::regclass::text AS on_table, tgname AS name, tgenabled = 'A' AS always
FROM pg_trigger WHERE NOT tgisinternal ORDER BY 1, 2
"""


@pytest.fixture
async def database(empty_database_dsn):
    connection = await asyncpg.connect(empty_database_dsn)
    yield connection
    await connection.close()


async def shape(connection):
    columns = await connection.fetch(
        "SELECT table_name, column_name, data_type, is_nullable, column_default FROM information_schema.columns"
        " WHERE table_schema = 'public' ORDER BY 1, 2"
    )
    return columns, await connection.fetch(CONSTRAINTS), await connection.fetch(TRIGGERS)


async def refused(awaitable):
    with pytest.raises(FirewallError) as caught:
        await awaitable
    return caught.value


async def test_models_match_migrations(database_dsn):
    engine = create_engine(database_dsn)
    async with engine.connect() as connection:
        differences = await connection.run_sync(
            lambda sync: compare_metadata(
                MigrationContext.configure(
                    sync,
                    opts={
                        "compare_type": True,
                        "compare_server_default": True,
                        # Partitions are made by a job, not by a migration.
                        "include_name": lambda name, kind, _: kind != "table" or not PARTITION.fullmatch(name),
                    },
                ),
                metadata,
            )
        )
    await engine.dispose()
    assert differences == []


async def test_models_have_the_constraints_of_the_migrations(database_dsn, empty_database_dsn, database):
    engine = create_engine(empty_database_dsn)
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
    await engine.dispose()
    migrated = await asyncpg.connect(database_dsn)
    theirs = [row for row in await migrated.fetch(CONSTRAINTS) if row["on_table"] != revision.VERSION_TABLE]
    await migrated.close()
    assert await database.fetch(CONSTRAINTS) == theirs


async def test_every_trigger_of_the_ledger_fires_always(database_dsn):
    connection = await asyncpg.connect(database_dsn)
    triggers = await connection.fetch(TRIGGERS)
    await connection.close()
    months = [row["name"] for row in triggers if MONTH.fullmatch(row["on_table"])]
    assert months == ["append_only", "never_emptied"] * 4
    assert all(row["always"] for row in triggers)
    assert [
        (row["on_table"], row["name"], row["always"]) for row in triggers if not MONTH.fullmatch(row["on_table"])
    ] == [
        ("kill_switches", "ends_once", True),
        ("kill_switches", "never_emptied", True),
        ("ledger_archives", "append_only", True),
        ("ledger_entries", "append_only", True),
        ("ledger_erasures", "append_only", True),
        ("ledger_head", "append_only", True),
        ("ledger_head", "grows", True),
        ("ledger_records", "append_only", True),
        ("ledger_records", "never_emptied", True),
        ("ledger_records_rest", "append_only", True),
        ("ledger_records_rest", "never_emptied", True),
        ("ledger_tiles", "grows", True),
        ("ledger_tiles", "never_emptied", True),
        ("ledger_tree", "grows", True),
        ("ledger_tree", "one_row", True),
        ("policy_set_activations", "append_only", True),
        ("policy_set_signatures", "append_only", True),
        ("policy_sets", "append_only", True),
    ]


async def test_forward_is_repeatable(empty_database_dsn, database):
    before = await schema.status(empty_database_dsn)
    assert (before.current, before.pending, before.served) == (
        None,
        ("0001", "0002", "0003", "0004", "0005", "0006", "0007", "0008", "0009", "0010", "0011", "0012"),
        False,
    )
    after = await schema.apply(empty_database_dsn)
    assert (after.current, after.pending, after.served) == (after.newest, (), True)
    made = await shape(database)
    assert await schema.apply(empty_database_dsn) == after == await schema.status(empty_database_dsn)
    assert await shape(database) == made


async def test_forward_back_and_forward_again(empty_database_dsn, database):
    step = await schema.apply(empty_database_dsn, revision="0001")
    assert (step.current, step.pending, step.served) == (
        "0001",
        ("0002", "0003", "0004", "0005", "0006", "0007", "0008", "0009", "0010", "0011", "0012"),
        False,
    )
    at_0001 = await shape(database)
    await schema.apply(empty_database_dsn)
    newest = await shape(database)
    assert (await schema.rollback(empty_database_dsn, "0001")).current == "0001"
    assert await shape(database) == at_0001
    assert (await schema.apply(empty_database_dsn)).current == "0012"
    assert await shape(database) == newest


async def test_policy_sets_are_never_dropped(empty_database_dsn, database):
    await schema.apply(empty_database_dsn)
    await database.execute(
        "INSERT INTO policy_sets (digest, documents, policies, rules, created_by)"
        " VALUES ('sha256:' || encode(sha256('[]'), 'hex'), '[]', 1, 1, 'test')"
    )
    error = await refused(schema.rollback(empty_database_dsn, "0002"))
    assert error.kind is Kind.CONFLICT
    assert "replayed" in error.detail
    assert (await schema.status(empty_database_dsn)).current == "0003"


# What the release before this schema sends about keys.
KEY_OF_THE_RELEASE_BEFORE = (
    "INSERT INTO api_keys (id, name, principal_id, roles, hash, expires_at)"
    " VALUES ($1, $2, 'p', ARRAY['agent'], sha256($2::text::bytea), NULL)"
    " RETURNING id, name, principal_id, roles, hash, created_at, expires_at, revoked_at"
)


async def test_the_release_before_makes_keys_on_the_new_schema(empty_database_dsn, database):
    await schema.apply(empty_database_dsn)
    await database.fetchrow(KEY_OF_THE_RELEASE_BEFORE, uuid4(), "old")
    row = await database.fetchrow("SELECT * FROM api_keys")
    assert (row["scopes"], row["subjects"], row["networks"]) == ([], [], [])
    assert (row["last_used_at"], row["replaces"]) == (None, None)


async def test_keys_with_bounds_end_when_their_bounds_go(empty_database_dsn, database):
    await schema.apply(empty_database_dsn)
    for name in ("free", "bound", "fenced"):
        await database.fetchrow(KEY_OF_THE_RELEASE_BEFORE, uuid4(), name)
    await database.execute("UPDATE api_keys SET subjects = ARRAY['agent:a'] WHERE name = 'bound'")
    await database.execute("UPDATE api_keys SET networks = ARRAY['10.0.0.0/8'] WHERE name = 'fenced'")
    await schema.rollback(empty_database_dsn, "0005")
    rows = await database.fetch("SELECT name FROM api_keys WHERE revoked_at IS NULL")
    assert [row["name"] for row in rows] == ["free"]


async def test_signatures_are_never_dropped(empty_database_dsn, database):
    await schema.apply(empty_database_dsn)
    await database.execute(
        "INSERT INTO policy_sets (digest, documents, policies, rules, created_by)"
        " VALUES ('sha256:' || encode(sha256('[]'), 'hex'), '[]', 1, 1, 'test')"
    )
    await database.execute(
        "INSERT INTO policy_set_signatures (digest, keyid, signature, payload, added_by)"
        " SELECT digest, repeat('a', 64), decode(repeat('00', 64), 'hex'), '{}', 'test' FROM policy_sets"
    )
    error = await refused(schema.rollback(empty_database_dsn, "0004"))
    assert error.kind is Kind.CONFLICT
    assert "without their keys" in error.detail
    assert (await schema.status(empty_database_dsn)).current == "0005"


async def test_a_switch_is_thrown_once_and_ends_once(database_dsn):
    connection = await asyncpg.connect(database_dsn)
    await connection.execute(
        "INSERT INTO kill_switches (id, kind, reason, thrown_by, thrown_at, ledger_index)"
        " VALUES (gen_random_uuid(), 'deny-all', 'why', 'me', now(), 0)"
    )
    for statement in (
        "UPDATE kill_switches SET until = now()",
        "UPDATE kill_switches SET reason = 'x', ended_at = now(), ended_by = 'me', end_reason = 'x', end_ledger_index = 1",
        "DELETE FROM kill_switches",
        "TRUNCATE kill_switches",
    ):
        with pytest.raises(asyncpg.RestrictViolationError, match="thrown once"):
            await connection.execute(statement)
    with pytest.raises(asyncpg.CheckViolationError):
        await connection.execute("UPDATE kill_switches SET ended_at = now()")
    end = "UPDATE kill_switches SET ended_at = now(), ended_by = 'me', end_reason = 'x', end_ledger_index = 1"
    await connection.execute(end)
    with pytest.raises(asyncpg.RestrictViolationError, match="ends once"):
        await connection.execute(end)
    await connection.close()


async def test_a_switch_in_force_is_never_dropped(empty_database_dsn, database):
    await schema.apply(empty_database_dsn)
    await database.execute(
        "INSERT INTO kill_switches (id, kind, reason, thrown_by, thrown_at, ledger_index, until)"
        " VALUES (gen_random_uuid(), 'deny-all', 'why', 'me', now(), 0, now() + interval '1 hour')"
    )
    error = await refused(schema.rollback(empty_database_dsn, "0007"))
    assert error.kind is Kind.CONFLICT
    assert "mfw switch off" in str(error.fix)


# Entry and record as the release before writes them, at a moment.
ENTRY = """
WITH entry AS (
    INSERT INTO ledger_entries (idx, id, kind, receipt, recorded_at)
    VALUES ($1, gen_random_uuid(), 'decision', '{}', $2)
)
INSERT INTO ledger_records (idx, salt, record) VALUES ($1, sha256('salt'), $3)
"""


async def test_records_move_into_partitions_and_back(empty_database_dsn, database):
    await schema.apply(empty_database_dsn, revision="0008")
    moments = [datetime(2026, 1, 31, 23, 59, 59, 999_999, UTC), datetime(2026, 2, 1, tzinfo=UTC)]
    for idx, moment in enumerate(moments):
        await database.execute(ENTRY, idx, moment, b"record %d" % idx)
    before = await database.fetch("SELECT * FROM ledger_records ORDER BY idx")
    await schema.apply(empty_database_dsn)
    rows = await database.fetch(
        "SELECT tableoid::regclass::text AS place, recorded_at FROM ledger_records ORDER BY idx"
    )
    assert [tuple(row) for row in rows] == [
        ("ledger_records_2026_01", moments[0]),
        ("ledger_records_2026_02", moments[1]),
    ]
    for statement in ("DELETE FROM ledger_records_2026_01", "TRUNCATE ledger_records_2026_01", "TRUNCATE ledger_tiles"):
        with pytest.raises(asyncpg.RestrictViolationError):
            await database.execute(statement)
    await schema.rollback(empty_database_dsn, "0008")
    assert await database.fetch("SELECT * FROM ledger_records ORDER BY idx") == before


async def test_the_release_before_appends_on_the_new_schema(database_dsn):
    connection = await asyncpg.connect(database_dsn)
    async with connection.transaction():
        await connection.execute(ENTRY, 0, await connection.fetchval("SELECT now()"), b"{}")
        assert (
            await connection.fetchval(
                "SELECT count(*) FROM ledger_entries JOIN ledger_records USING (idx, recorded_at)"
            )
            == 1
        )
    await connection.close()


async def test_a_record_goes_only_after_its_erasure(database_dsn):
    connection = await asyncpg.connect(database_dsn)
    for idx in (0, 1):
        await connection.execute(ENTRY, idx, datetime(2026, 1, 1, tzinfo=UTC), b"{}")
    await connection.execute("INSERT INTO ledger_erasures VALUES (1, 'asked for', 'me', now(), gen_random_uuid(), 2)")
    await connection.execute("DELETE FROM ledger_records WHERE idx = 1")
    with pytest.raises(asyncpg.RestrictViolationError, match="append-only"):
        await connection.execute("DELETE FROM ledger_records WHERE idx = 0")
    for statement in ("DELETE FROM ledger_erasures", "UPDATE ledger_erasures SET reason = 'x'"):
        with pytest.raises(asyncpg.RestrictViolationError, match="append-only"):
            await connection.execute(statement)
    await connection.close()


async def test_the_tree_only_grows(database_dsn):
    connection = await asyncpg.connect(database_dsn)
    await connection.execute("INSERT INTO ledger_tiles VALUES (0, 0, sha256('a'))")
    await connection.execute("UPDATE ledger_tiles SET hashes = hashes || sha256('b')")
    await connection.execute("UPDATE ledger_tree SET size = 2")
    for statement in (
        "UPDATE ledger_tiles SET hashes = sha256('a')",
        "UPDATE ledger_tiles SET hashes = sha256('x') || sha256('b')",
        "UPDATE ledger_tiles SET level = 1",
        "DELETE FROM ledger_tiles",
        "UPDATE ledger_tree SET root = sha256('x')",
        "UPDATE ledger_tree SET size = 1",
        "DELETE FROM ledger_tree",
        "INSERT INTO ledger_tree (size, root) VALUES (0, sha256(''))",
        "TRUNCATE ledger_tree",
    ):
        with pytest.raises(asyncpg.RestrictViolationError, match="only grows"):
            await connection.execute(statement)
    await connection.close()


@pytest.mark.parametrize(
    ("statement", "why"),
    [
        ("INSERT INTO ledger_erasures VALUES (0, 'why', 'me', now(), gen_random_uuid(), 1)", "erasures"),
        (
            "INSERT INTO ledger_checkpoints VALUES (1, sha256(''), 'log', now(), 'note')",
            "signed checkpoints",
        ),
        (
            "INSERT INTO ledger_entries (idx, id, kind, receipt) VALUES (0, gen_random_uuid(), 'archive', '{}')",
            "kinds",
        ),
    ],
)
async def test_what_was_erased_or_signed_is_never_forgotten(empty_database_dsn, database, statement, why):
    await schema.apply(empty_database_dsn)
    await database.execute(statement)
    error = await refused(schema.rollback(empty_database_dsn, "0008"))
    assert error.kind is Kind.CONFLICT
    assert why in error.detail
    assert (await schema.status(empty_database_dsn)).current == "0009"


async def test_where_archives_are_is_never_forgotten(empty_database_dsn, database):
    await schema.apply(empty_database_dsn)
    await database.execute(
        "INSERT INTO ledger_archives VALUES (5, gen_random_uuid(), 'ledger_records_2026_01', '2026-01-01', '2026-02-01',"
        " 0, 4, 5, 'f', 1, sha256(''), 'me', now())"
    )
    for statement in (
        "UPDATE ledger_archives SET file = 'g'",
        "DELETE FROM ledger_archives",
        "TRUNCATE ledger_archives",
    ):
        with pytest.raises(asyncpg.RestrictViolationError):
            await database.execute(statement)
    error = await refused(schema.rollback(empty_database_dsn, "0009"))
    assert error.kind is Kind.CONFLICT
    assert "archived" in error.detail
    assert (await schema.status(empty_database_dsn)).current == "0010"


async def test_the_ledger_is_never_dropped(empty_database_dsn, database):
    await schema.apply(empty_database_dsn)
    error = await refused(schema.rollback(empty_database_dsn, "base"))
    assert error.kind is Kind.CONFLICT
    assert "never dropped" in error.detail
    # One transaction per migration: what came after the ledger was undone, the ledger stands.
    assert (await schema.status(empty_database_dsn)).current == "0001"
    assert await database.fetchval("SELECT next_index FROM ledger_head") == 0
    assert (await schema.apply(empty_database_dsn)).served


async def test_two_at_the_same_time_wait_for_one_another(empty_database_dsn):
    outcomes = await asyncio.gather(*(schema.apply(empty_database_dsn) for _ in range(4)))
    assert {outcome.current for outcome in outcomes} == {"0012"}


async def test_a_migration_that_does_not_get_its_turn_says_so(empty_database_dsn, database):
    await database.fetch("SELECT pg_advisory_lock($1::bigint)", schema.ADVISORY_LOCK)
    error = await refused(schema.apply(empty_database_dsn, queue_timeout=0.05))
    assert error.kind is Kind.TIMEOUT
    assert "another migration" in error.detail
    assert (await schema.status(empty_database_dsn)).current is None


async def test_a_lock_that_is_not_to_be_had_is_told(empty_database_dsn, database):
    # Not the newest: what came later changes the table as well, and would be the one to wait.
    await schema.apply(empty_database_dsn, revision="0005")
    async with database.transaction():
        await database.execute("LOCK TABLE api_keys IN ACCESS SHARE MODE")
        error = await refused(schema.rollback(empty_database_dsn, "0001", lock_timeout=0.05))
    assert error.kind is Kind.TIMEOUT
    assert "pg_stat_activity" in str(error.fix)
    # One transaction per migration: the ones before it were undone.
    assert (await schema.status(empty_database_dsn)).current == "0002"
    # The lock was given back: the same command works now.
    assert (await schema.rollback(empty_database_dsn, "0001")).current == "0001"


async def test_a_statement_that_takes_too_long_is_told(empty_database_dsn, database):
    await schema.apply(empty_database_dsn)
    async with database.transaction():
        await database.execute("LOCK TABLE api_keys IN ACCESS SHARE MODE")
        error = await refused(schema.rollback(empty_database_dsn, "0001", lock_timeout=60.0, statement_timeout=0.5))
    assert error.kind is Kind.TIMEOUT
    assert "--statement-timeout" in str(error.fix)


async def test_a_migration_that_fails_leaves_nothing(empty_database_dsn, database):
    await database.execute("CREATE TABLE api_keys (n int)")
    error = await refused(schema.apply(empty_database_dsn))
    assert error.kind is Kind.UNAVAILABLE
    assert "api_keys" in error.detail
    assert (await schema.status(empty_database_dsn)).current == "0001"


async def test_a_database_from_a_later_release_is_left_alone(empty_database_dsn, database):
    await schema.apply(empty_database_dsn)
    await database.execute("UPDATE alembic_version SET version_num = '9999'")
    for awaitable in (schema.apply(empty_database_dsn), schema.rollback(empty_database_dsn, "0001")):
        error = await refused(awaitable)
        assert error.kind is Kind.SCHEMA_MISMATCH
        assert "9999" in error.detail


@pytest.mark.parametrize("target", ["0999", "", "head+1", "'; DROP TABLE ledger_entries"])
async def test_an_unknown_revision_is_refused(database_dsn, target):
    for awaitable in (schema.rollback(database_dsn, target), schema.apply(database_dsn, revision=target)):
        assert (await refused(awaitable)).kind is Kind.MALFORMED


@pytest.mark.parametrize(("at", "target"), [("0001", "0002"), (None, "0001"), ("0002", "head")])
async def test_back_goes_only_back(empty_database_dsn, at, target):
    if at is not None:
        await schema.apply(empty_database_dsn, revision=at)
    assert (await refused(schema.rollback(empty_database_dsn, target))).kind is Kind.MALFORMED


async def test_back_to_where_it_is_changes_nothing(database_dsn):
    assert (await schema.rollback(database_dsn, "0012")).current == "0012"


async def test_a_database_that_is_away_is_told():
    for awaitable in (
        schema.apply("postgresql://u@/d?host=/nowhere"),
        schema.status("postgresql://u@/d?host=/nowhere"),
    ):
        assert (await refused(awaitable)).kind is Kind.UNAVAILABLE


async def test_the_folder_of_the_migrations_may_be_missing(database_dsn, monkeypatch, tmp_path):
    monkeypatch.setattr(schema, "FOLDER", tmp_path)
    error = await refused(schema.apply(database_dsn))
    assert error.kind is Kind.INVALID_SETTINGS
    assert "migrations" in error.detail


async def test_alembic_by_itself_is_sent_here():
    from alembic import command

    with pytest.raises(FirewallError, match=r"app\.migrations\.apply"):
        command.upgrade(schema._config(), "head")


async def test_migrations_are_named_pre_or_post():
    names = sorted(path.name for path in (schema.FOLDER / "versions").glob("*.py"))
    assert names
    for name in names:
        assert name.split("_")[1] in {"pre", "post"}, name
        assert name[:4].isdigit()


async def test_the_index_has_the_months_of_the_records(empty_database_dsn, database):
    await schema.apply(empty_database_dsn, revision="0008")
    for idx, month in enumerate((1, 2, 12)):
        await database.execute(ENTRY, idx, datetime(2026, month, 1, tzinfo=UTC), b"{}")
    await schema.apply(empty_database_dsn)
    bounds = await database.fetch(
        "SELECT replace(relname, 'records', 'search') AS name, pg_get_expr(relpartbound, pg_class.oid) AS bounds"
        " FROM pg_class WHERE relname LIKE 'ledger_records_%' AND relispartition AND relkind = 'r' ORDER BY 1"
    )
    of_search = await database.fetch(
        "SELECT relname AS name, pg_get_expr(relpartbound, pg_class.oid) AS bounds"
        " FROM pg_class WHERE relname LIKE 'ledger_search_%' AND relispartition AND relkind = 'r' ORDER BY 1"
    )
    assert len(bounds) > 3
    assert of_search == bounds


async def test_an_index_is_found_by_time(empty_database_dsn, database):
    await schema.apply(empty_database_dsn)
    find = "SELECT ledger_index_at($1)"
    moments = [datetime(2026, 1, 1, hour, tzinfo=UTC) for hour in range(1, 22)]
    assert await database.fetchval(find, moments[0]) == 0
    await database.execute("UPDATE ledger_head SET next_index = $1", len(moments))
    for idx, moment in enumerate(moments):
        await database.execute(ENTRY, idx, moment, b"{}")
    for idx, moment in enumerate(moments):
        assert await database.fetchval(find, moment) == idx
        assert await database.fetchval(find, moment.replace(minute=1)) == idx + 1
