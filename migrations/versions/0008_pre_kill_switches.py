"""Kill switches: one row for each that was thrown, and its end in the same row."""

import sqlalchemy as sa
from alembic import op

from app.errors import FirewallError, Kind

revision: str = "0008"
down_revision: str | None = "0007"
branch_labels: None = None
depends_on: None = None

# What was thrown stays as it was, and ends once: the ledger has both, and this table must not say otherwise.
_REFUSE = """
CREATE FUNCTION kill_switches_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND OLD.ended_at IS NULL AND NEW.ended_at IS NOT NULL
        AND (to_jsonb(OLD) - ARRAY['ended_at', 'ended_by', 'end_reason', 'end_ledger_index'])
          = (to_jsonb(NEW) - ARRAY['ended_at', 'ended_by', 'end_reason', 'end_ledger_index']) THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION '% on kill_switches: a switch is thrown once and ends once', TG_OP
        USING ERRCODE = 'restrict_violation';
END $$
"""


def upgrade() -> None:
    op.create_table(
        "kill_switches",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("target", sa.Text(), nullable=True),
        sa.Column("until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("thrown_by", sa.Text(), nullable=False),
        sa.Column("thrown_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ledger_index", sa.BigInteger(), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ended_by", sa.Text(), nullable=True),
        sa.Column("end_reason", sa.Text(), nullable=True),
        sa.Column("end_ledger_index", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("kill_switches_pkey")),
        sa.CheckConstraint(
            "kind IN ('deny-all', 'deny-subject', 'shadow', 'stop-approvals')", name=op.f("kill_switches_kind_check")
        ),
        sa.CheckConstraint(
            "(kind IN ('deny-subject', 'shadow')) = (target IS NOT NULL)", name=op.f("kill_switches_target_check")
        ),
        sa.CheckConstraint("kind <> 'shadow' OR until IS NOT NULL", name=op.f("kill_switches_until_check")),
        sa.CheckConstraint("reason <> '' AND length(reason) <= 1000", name=op.f("kill_switches_reason_check")),
        sa.CheckConstraint(
            "(ended_at IS NULL) = (ended_by IS NULL) AND (ended_at IS NULL) = (end_reason IS NULL)"
            " AND (ended_at IS NULL) = (end_ledger_index IS NULL)",
            name=op.f("kill_switches_end_check"),
        ),
    )
    op.create_index("kill_switches_ledger_index_idx", "kill_switches", ["ledger_index"])
    op.execute(_REFUSE)
    op.execute(
        "CREATE TRIGGER ends_once BEFORE UPDATE OR DELETE ON kill_switches "
        "FOR EACH ROW EXECUTE FUNCTION kill_switches_refuse()"
    )
    op.execute(
        "CREATE TRIGGER never_emptied BEFORE TRUNCATE ON kill_switches "
        "FOR EACH STATEMENT EXECUTE FUNCTION kill_switches_refuse()"
    )
    op.execute("ALTER TABLE kill_switches ENABLE ALWAYS TRIGGER ends_once")
    op.execute("ALTER TABLE kill_switches ENABLE ALWAYS TRIGGER never_emptied")


def downgrade() -> None:
    # Locked first: a switch that is thrown between the look and the drop would be lost without a word.
    op.execute("LOCK TABLE kill_switches IN ACCESS EXCLUSIVE MODE")
    if op.get_bind().scalar(
        sa.text("SELECT EXISTS (SELECT FROM kill_switches WHERE ended_at IS NULL AND (until IS NULL OR until > now()))")
    ):
        raise FirewallError(
            Kind.CONFLICT,
            "kill switches are in force, and the release before does not know them, so revision `0008` cannot be "
            "rolled back",
            fix="end them first: `mfw switch list`, `mfw switch off ID --reason ...`",
        )
    # The ledger keeps who threw and ended what.
    op.drop_table("kill_switches")
    op.execute("DROP FUNCTION kill_switches_refuse()")
