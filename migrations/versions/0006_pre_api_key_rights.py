"""API keys: scopes beside roles, subjects, networks, last use, and the key that one was rotated from.

The release before goes on working: it names the columns that it knows, and each new one has a default. It does not
enforce subjects and networks, so keys that have them are made once all pods are of this release.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0006"
down_revision: str | None = "0005"
branch_labels: None = None
depends_on: None = None

_LISTS = ("scopes", "subjects", "networks")


def upgrade() -> None:
    # Defaults that are constants: the rows are not rewritten, the lock is held for a moment.
    for name in _LISTS:
        op.add_column(
            "api_keys", sa.Column(name, postgresql.ARRAY(sa.Text()), server_default=sa.text("'{}'"), nullable=False)
        )
    op.add_column("api_keys", sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("api_keys", sa.Column("replaces", sa.Uuid(), nullable=True))


def downgrade() -> None:
    # Without its bounds a key would be good for every subject and from everywhere: such keys end here.
    op.execute(
        "UPDATE api_keys SET revoked_at = now()"
        " WHERE revoked_at IS NULL AND (cardinality(subjects) > 0 OR cardinality(networks) > 0)"
    )
    for name in (*_LISTS, "last_used_at", "replaces"):
        op.drop_column("api_keys", name)
