"""What the keeping of the ledger needs: archives, the runs of jobs, and how its tables are vacuumed."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

from app.errors import FirewallError, Kind

revision: str = "0010"
down_revision: str | None = "0009"
branch_labels: None = None
depends_on: None = None

_INSERT_ONLY = {
    "autovacuum_vacuum_insert_scale_factor": "0",
    "autovacuum_vacuum_insert_threshold": "100000",
    "autovacuum_freeze_min_age": "0",
    "autovacuum_analyze_scale_factor": "0",
    "autovacuum_analyze_threshold": "500000",
}


def upgrade() -> None:
    op.create_table(
        "ledger_archives",
        sa.Column("ledger_index", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("ledger_id", sa.Uuid(), nullable=False),
        sa.Column("partition", sa.Text(), nullable=False),
        sa.Column("starts_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ends_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("first_index", sa.BigInteger(), nullable=False),
        sa.Column("last_index", sa.BigInteger(), nullable=False),
        sa.Column("records", sa.BigInteger(), nullable=False),
        sa.Column("file", sa.Text(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("archived_by", sa.Text(), nullable=False),
        sa.Column("archived_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("ledger_index", name=op.f("ledger_archives_pkey")),
        sa.CheckConstraint("ends_at > starts_at", name=op.f("ledger_archives_ends_at_check")),
        sa.CheckConstraint(
            "records > 0 AND first_index >= 0 AND last_index >= first_index", name=op.f("ledger_archives_records_check")
        ),
        sa.CheckConstraint("octet_length(digest) = 32", name=op.f("ledger_archives_digest_check")),
    )
    op.execute(
        "CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger_archives"
        " FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse()"
    )
    op.execute("ALTER TABLE ledger_archives ENABLE ALWAYS TRIGGER append_only")
    op.create_table(
        "operation_runs",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("operation", sa.Text(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True)),
        sa.Column("outcome", sa.Text()),
        sa.Column("position", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("issues", JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column("details", JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("operation_runs_pkey")),
        sa.CheckConstraint("operation IN ('integrity', 'backup')", name=op.f("operation_runs_operation_check")),
        sa.CheckConstraint("outcome IN ('ok', 'findings', 'failed')", name=op.f("operation_runs_outcome_check")),
        sa.CheckConstraint("(finished_at IS NULL) = (outcome IS NULL)", name=op.f("operation_runs_finished_at_check")),
    )
    op.create_index("operation_runs_operation_idx", "operation_runs", ["operation", "id"])
    settings = ", ".join(f"{name} = {value}" for name, value in _INSERT_ONLY.items())
    for table in _insert_only():
        op.execute(f'ALTER TABLE "{table}" SET ({settings})')


def downgrade() -> None:
    if op.get_bind().scalar(sa.text("SELECT EXISTS (SELECT FROM ledger_archives)")):
        raise FirewallError(
            Kind.CONFLICT,
            "records were archived, and only `ledger_archives` says where they are, so revision `0010` cannot be "
            "rolled back",
            fix="stay with this release",
        )
    for table in _insert_only():
        op.execute(f'ALTER TABLE "{table}" RESET ({", ".join(_INSERT_ONLY)})')
    op.drop_table("operation_runs")
    op.drop_table("ledger_archives")


def _insert_only() -> list[str]:
    """The tables whose rows are inserted and never change; the settings of partitions are their own."""
    partitions = op.get_bind().scalars(
        sa.text(
            "SELECT relname FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid"
            " WHERE inhparent = 'ledger_records'::regclass ORDER BY 1"
        )
    )
    return ["ledger_entries", *partitions]
