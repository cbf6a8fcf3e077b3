"""The schema moves forward and back, one mover at a time, and never drops the ledger."""


from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from app.persistence.engine import create_engine
from app.persistence.tables import metadata


async def test_models_match_migrations(database_dsn):
    engine = create_engine(database_dsn)
    async with engine.connect() as connection:
        differences = await connection.run_sync(
            lambda sync: compare_metadata(MigrationContext.configure(sync, opts={"compare_type": True}), metadata)
        )
    await engine.dispose()
    assert differences == []
