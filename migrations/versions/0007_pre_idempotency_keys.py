"""Answers that were given under an idempotency key, kept for as long as the same request gets the same answer."""

import sqlalchemy as sa
from alembic import op

revision: str = "0007"
down_revision: str | None = "0006"
branch_labels: None = None
depends_on: None = None


def upgrade() -> None:
    op.create_table(
        "idempotency_keys",
        sa.Column("id", sa.LargeBinary(), nullable=False),
        sa.Column("fingerprint", sa.LargeBinary(), nullable=False),
        sa.Column("answer", sa.LargeBinary(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("idempotency_keys_pkey")),
        sa.CheckConstraint("octet_length(id) = 32", name=op.f("idempotency_keys_id_check")),
        sa.CheckConstraint("octet_length(fingerprint) = 32", name=op.f("idempotency_keys_fingerprint_check")),
    )
    op.create_index("idempotency_keys_expires_at_idx", "idempotency_keys", ["expires_at"])


def downgrade() -> None:
    # The ledger keeps every decision; what is lost is that a request which is sent again is known again.
    op.drop_table("idempotency_keys")
