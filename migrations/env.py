"""How Alembic runs here: on the connection that `app/migrations/schema.py` opened, one transaction per migration."""

from typing import Any

import sqlalchemy as sa
from alembic import context
from alembic.runtime.migration import MigrationContext, MigrationInfo

from app.errors import FirewallError, Kind
from app.migrations.phases import FIRST_NEEDED, read_migrations
from app.persistence.tables import metadata, schema_revisions

connection = context.config.attributes.get("connection")
if connection is None:
    raise FirewallError(
        Kind.INVALID_SETTINGS,
        "migrations run through the firewall's own command, which holds the locks",
        fix="run `python -m app.migrations.apply`",
    )
needs = {one.revision: one.needs for one in read_migrations(context.script)}


def record(*, ctx: MigrationContext, step: MigrationInfo, **_more: Any) -> None:
    """In the transaction of the migration itself: what its schema needs, or that it is gone."""
    at = ctx.connection
    revision = step.up_revision_id
    if at is None or revision is None or revision < FIRST_NEEDED:
        return
    if step.is_upgrade:
        at.execute(sa.insert(schema_revisions).values(revision=revision, needs=needs[revision]))
    elif revision > FIRST_NEEDED:
        at.execute(sa.delete(schema_revisions).where(schema_revisions.c.revision == revision))


context.configure(
    connection=connection,
    target_metadata=metadata,
    transaction_per_migration=True,
    compare_type=True,
    on_version_apply=record,  # type: ignore[arg-type]  # it passes them by name, as its documentation says
)
with context.begin_transaction():
    context.run_migrations()
