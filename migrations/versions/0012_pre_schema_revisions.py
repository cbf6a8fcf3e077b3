"""What a release has to know to work with the schema, for a release that does not know the schema."""

import sqlalchemy as sa
from alembic import op

revision: str = "0012"
down_revision: str | None = "0011"
branch_labels: None = None
depends_on: None = None


def upgrade() -> None:
    op.create_table(
        "schema_revisions",
        sa.Column("revision", sa.Text(), nullable=False),
        sa.Column("needs", sa.Text(), nullable=False),
        sa.Column("applied_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("revision", name=op.f("schema_revisions_pkey")),
        sa.CheckConstraint("revision ~ '^[0-9]{4}$'", name=op.f("schema_revisions_revision_check")),
        sa.CheckConstraint("needs ~ '^[0-9]{4}$' AND needs <= revision", name=op.f("schema_revisions_needs_check")),
    )


def downgrade() -> None:
    # Each migration writes its row again when it is applied again.
    op.drop_table("schema_revisions")
