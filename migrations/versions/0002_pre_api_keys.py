"""API keys: a name, a principal, roles, and the SHA-256 of what was shown once."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0002"
down_revision: str | None = "0001"
branch_labels: None = None
depends_on: None = None


def upgrade() -> None:
    op.create_table(
        "api_keys",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("principal_id", sa.Text(), nullable=False),
        sa.Column("roles", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("api_keys_pkey")),
        sa.CheckConstraint("octet_length(hash) = 32", name=op.f("api_keys_hash_check")),
        sa.CheckConstraint("name <> '' AND length(name) <= 200", name=op.f("api_keys_name_check")),
        sa.CheckConstraint(
            "principal_id <> '' AND length(principal_id) <= 200", name=op.f("api_keys_principal_id_check")
        ),
    )
    op.create_index("api_keys_hash_key", "api_keys", ["hash"], unique=True)


def downgrade() -> None:
    op.drop_table("api_keys")
