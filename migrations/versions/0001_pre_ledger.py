"""The ledger: its head, its entries, its records, and the triggers that keep them append-only."""

import sqlalchemy as sa
from alembic import op

from app.errors import FirewallError, Kind

revision: str = "0001"
down_revision: str | None = None
branch_labels: None = None
depends_on: None = None

# Statement triggers, so that they cost nothing per row and refuse even what touches no row; ENABLE ALWAYS, so that a
# session with session_replication_role = replica is refused too.
REFUSE = """
CREATE FUNCTION ledger_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the ledger is append-only: % on % is refused', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'restrict_violation';
END
$$
"""
# The head only grows: going back would ask for an index twice.
GROW = """
CREATE FUNCTION ledger_head_grows() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.next_index <= OLD.next_index THEN
        RAISE EXCEPTION 'the ledger is append-only: its head cannot go from % to %', OLD.next_index, NEW.next_index
            USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END
$$
"""


def upgrade() -> None:
    op.create_table(
        "ledger_head",
        sa.Column("singleton", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("next_index", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("singleton", name=op.f("ledger_head_pkey")),
        sa.CheckConstraint("singleton", name=op.f("ledger_head_singleton_check")),
        sa.CheckConstraint("next_index >= 0", name=op.f("ledger_head_next_index_check")),
    )
    op.create_table(
        "ledger_entries",
        sa.Column("idx", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("recorded_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("receipt", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("idx", name=op.f("ledger_entries_pkey")),
        sa.CheckConstraint("idx >= 0", name=op.f("ledger_entries_idx_check")),
        sa.CheckConstraint(
            "kind IN ('decision', 'request', 'vote', 'permit', 'activation', "
            "'break-glass', 'snapshot', 'rollback', 'key')",
            name=op.f("ledger_entries_kind_check"),
        ),
        sa.CheckConstraint("octet_length(receipt) BETWEEN 2 AND 4096", name=op.f("ledger_entries_receipt_check")),
    )
    op.create_index("ledger_entries_id_key", "ledger_entries", ["id"], unique=True)
    op.create_table(
        "ledger_records",
        sa.Column("idx", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("salt", sa.LargeBinary(), nullable=False),
        sa.Column("record", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("idx", name=op.f("ledger_records_pkey")),
        sa.CheckConstraint("octet_length(salt) = 32", name=op.f("ledger_records_salt_check")),
    )
    op.execute("INSERT INTO ledger_head (next_index) VALUES (0)")
    # One row that changes at each commit: room on its page for the versions that are not yet swept away.
    op.execute("ALTER TABLE ledger_head SET (fillfactor = 10)")
    op.execute(REFUSE)
    op.execute(GROW)
    for table, events in (
        ("ledger_head", "INSERT OR DELETE OR TRUNCATE"),
        ("ledger_entries", "UPDATE OR DELETE OR TRUNCATE"),
        ("ledger_records", "UPDATE OR DELETE OR TRUNCATE"),
    ):
        op.execute(
            f"CREATE TRIGGER append_only BEFORE {events} ON {table} FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse()"
        )
        op.execute(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER append_only")
    op.execute("CREATE TRIGGER grows BEFORE UPDATE ON ledger_head FOR EACH ROW EXECUTE FUNCTION ledger_head_grows()")
    op.execute("ALTER TABLE ledger_head ENABLE ALWAYS TRIGGER grows")


def downgrade() -> None:
    raise FirewallError(
        Kind.CONFLICT,
        "the ledger is never dropped, so revision `0001` cannot be rolled back",
        fix="to begin anew, create another database and set MFW_DATABASE__URL to it",
    )
