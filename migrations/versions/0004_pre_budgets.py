"""The uses of budgets: what each allowed mutation took from them, for as long as their windows look back."""

import sqlalchemy as sa
from alembic import op

revision: str = "0004"
down_revision: str | None = "0003"
branch_labels: None = None
depends_on: None = None


def upgrade() -> None:
    op.create_table(
        "budget_uses",
        sa.Column("key", sa.LargeBinary(), nullable=False),
        sa.Column("decided_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("decision_id", sa.Uuid(), nullable=False),
        sa.Column("policy", sa.Text(), nullable=False),
        sa.Column("budget", sa.Text(), nullable=False),
        sa.Column("value", sa.LargeBinary(), nullable=True),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        # In this order it is the index of the one question that is asked: the uses of a key since an instant.
        sa.PrimaryKeyConstraint("key", "decided_at", "decision_id", name=op.f("budget_uses_pkey")),
        sa.CheckConstraint("octet_length(key) = 32", name=op.f("budget_uses_key_check")),
        sa.CheckConstraint("octet_length(value) = 32", name=op.f("budget_uses_value_check")),
        sa.CheckConstraint("expires_at > decided_at", name=op.f("budget_uses_expires_at_check")),
    )
    op.create_index("budget_uses_expires_at_idx", "budget_uses", ["expires_at"])


def downgrade() -> None:
    # The ledger keeps every decision that used a budget; what is lost is how much of each window is used.
    op.drop_table("budget_uses")
