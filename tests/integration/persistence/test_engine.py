"""The engine's limits and the revision check, on a real database."""

import time

import pytest
import sqlalchemy as sa

from app.errors import FirewallError, Kind
from app.persistence import revision
from app.persistence.engine import Unobserved, connect, create_engine, transaction


@pytest.fixture
async def engine(database_dsn):
    made = create_engine(database_dsn, statement_timeout=20.0, lock_timeout=2.5)
    yield made
    await made.dispose()


async def test_every_connection_says_who_it_is_and_has_limits(engine, database_dsn):
    async with engine.connect() as connection:
        shown = [
            await connection.scalar(sa.text(f"SHOW {name}"))
            for name in ("application_name", "statement_timeout", "lock_timeout", "timezone")
        ]
    assert shown == ["mutation-firewall", "20s", "2500ms", "UTC"]
    raw = await connect(database_dsn)
    assert await raw.fetchval("SHOW statement_timeout") == "30s"
    assert await raw.fetchval("SHOW application_name") == "mutation-firewall"
    await raw.close()


async def test_a_slow_statement_is_a_timeout(database_dsn):
    engine = create_engine(database_dsn, statement_timeout=1.0)
    with pytest.raises(FirewallError) as caught:
        async with transaction(engine, operation="other", observer=Unobserved(), clock=time.perf_counter) as connection:
            await connection.execute(sa.text("SELECT pg_sleep(30)"))
    assert caught.value.kind is Kind.TIMEOUT
    await engine.dispose()


async def test_an_error_rolls_back_and_the_callers_own_errors_pass(engine):
    async def insert_and_fail(error):
        async with transaction(engine, operation="other", observer=Unobserved(), clock=time.perf_counter) as connection:
            await connection.execute(sa.text("CREATE TABLE t (n int)"))
            raise error

    with pytest.raises(RuntimeError, match="mine"):
        await insert_and_fail(RuntimeError("mine"))
    with pytest.raises(FirewallError, match="no such thing"):
        await insert_and_fail(FirewallError(Kind.NOT_FOUND, "no such thing"))
    async with engine.connect() as connection:
        assert await connection.scalar(sa.text("SELECT to_regclass('t')")) is None


async def test_a_migrated_database_is_served(engine):
    assert await revision.check(engine) == revision.MAXIMUM_REVISION


@pytest.mark.parametrize("found", ["0000", "9999"])
async def test_another_revision_is_refused(engine, found):
    async with engine.begin() as connection:
        await connection.execute(sa.text("UPDATE alembic_version SET version_num = :found"), {"found": found})
    with pytest.raises(FirewallError) as caught:
        await revision.check(engine)
    assert caught.value.kind is Kind.SCHEMA_MISMATCH
    assert "python -m app.migrations." in str(caught.value.fix)


async def test_a_database_without_schema_is_refused(empty_database_dsn):
    engine = create_engine(empty_database_dsn)
    with pytest.raises(FirewallError) as caught:
        await revision.check(engine)
    assert caught.value.kind is Kind.SCHEMA_MISMATCH
    assert "python -m app.migrations.apply" in str(caught.value.fix)
    await engine.dispose()


async def test_a_database_that_is_away_is_not_a_mismatch():
    engine = create_engine("postgresql://nobody@/none?host=/nowhere")
    with pytest.raises(FirewallError) as caught:
        await revision.check(engine)
    assert caught.value.kind is Kind.UNAVAILABLE
    await engine.dispose()


@pytest.mark.parametrize("mode", ["disable", "prefer"])
async def test_the_dsn_means_the_same_to_the_engine_as_to_the_driver(database_dsn, mode):
    engine = create_engine(f"{database_dsn}{'&' if '?' in database_dsn else '?'}sslmode={mode}")
    async with engine.connect() as connection:
        assert await connection.scalar(sa.text("SELECT 1")) == 1
    await engine.dispose()
