"""How Alembic runs here: on the connection that `app/migrations/schema.py` opened, one transaction per migration."""

from alembic import context

from app.errors import FirewallError, Kind
from app.persistence.tables import metadata

connection = context.config.attributes.get("connection")
if connection is None:
    raise FirewallError(
        Kind.INVALID_SETTINGS,
        "migrations run through the firewall's own command, which holds the locks",
        fix="run `python -m app.migrations.apply`",
    )

context.configure(connection=connection, target_metadata=metadata, transaction_per_migration=True, compare_type=True)
with context.begin_transaction():
    context.run_migrations()
