"""The tree over the ledger, its checkpoints, records in partitions by time, and records that the law erases."""

import sqlalchemy as sa
from alembic import op

from app.errors import FirewallError, Kind

revision: str = "0009"
down_revision: str | None = "0008"
branch_labels: None = None
depends_on: None = None

_KINDS = ("decision", "request", "vote", "permit", "activation", "break-glass", "snapshot", "rollback", "key")
_NEW_KINDS = ("erasure", "archive")

# By row, so that every partition has it, whoever is asked; a record goes only after its erasure was written down.
_RECORDS = """
CREATE FUNCTION ledger_records_guard() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' AND TG_LEVEL = 'ROW' THEN
        IF EXISTS (SELECT FROM ledger_erasures WHERE idx = OLD.idx) THEN
            RETURN OLD;
        END IF;
    END IF;
    RAISE EXCEPTION 'the ledger is append-only: % on % is refused', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'restrict_violation';
END
$$
"""
# What was published stays: a tile is only ever continued.
_TILES = """
CREATE FUNCTION ledger_tiles_grow() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND TG_LEVEL = 'ROW' THEN
        IF NEW.level = OLD.level AND NEW.idx = OLD.idx
            AND substring(NEW.hashes FOR octet_length(OLD.hashes)) = OLD.hashes THEN
            RETURN NEW;
        END IF;
    END IF;
    RAISE EXCEPTION 'the tree of the ledger only grows: % on % is refused', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'restrict_violation';
END
$$
"""
_TREE = """
CREATE FUNCTION ledger_tree_grows() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND TG_LEVEL = 'ROW' THEN
        IF NEW.size > OLD.size THEN
            RETURN NEW;
        END IF;
    END IF;
    RAISE EXCEPTION 'the tree of the ledger only grows: % on % is refused', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'restrict_violation';
END
$$
"""
# Partitions for what is there already; those to come are made ahead by `mfw ledger partitions`.
_PARTITIONS = """
DO $$
DECLARE month timestamptz;
BEGIN
    FOR month IN
        SELECT DISTINCT date_trunc('month', entries.recorded_at, 'UTC')
        FROM ledger_records_before JOIN ledger_entries AS entries USING (idx)
    LOOP
        EXECUTE format(
            'CREATE TABLE %I PARTITION OF ledger_records FOR VALUES FROM (%L) TO (%L)',
            'ledger_records_' || to_char(month AT TIME ZONE 'UTC', 'YYYY_MM'),
            month, (month AT TIME ZONE 'UTC' + interval '1 month') AT TIME ZONE 'UTC'
        );
        EXECUTE format(
            'CREATE TRIGGER never_emptied BEFORE TRUNCATE ON %I FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse()',
            'ledger_records_' || to_char(month AT TIME ZONE 'UTC', 'YYYY_MM')
        );
        EXECUTE format(
            'ALTER TABLE %I ENABLE ALWAYS TRIGGER never_emptied',
            'ledger_records_' || to_char(month AT TIME ZONE 'UTC', 'YYYY_MM')
        );
    END LOOP;
END $$
"""


def upgrade() -> None:
    _kinds(*_KINDS, *_NEW_KINDS)
    op.create_table(
        "ledger_erasures",
        sa.Column("idx", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("erased_by", sa.Text(), nullable=False),
        sa.Column("erased_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ledger_id", sa.Uuid(), nullable=False),
        sa.Column("ledger_index", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("idx", name=op.f("ledger_erasures_pkey")),
        sa.CheckConstraint("reason <> '' AND length(reason) <= 1000", name=op.f("ledger_erasures_reason_check")),
    )
    _always("ledger_erasures", "append_only", "UPDATE OR DELETE OR TRUNCATE", "STATEMENT", "ledger_refuse")
    _partition_records()
    _make_tree()


def downgrade() -> None:
    op.execute("LOCK TABLE ledger_head IN ACCESS EXCLUSIVE MODE")
    connection = op.get_bind()
    for table, what in (("ledger_erasures", "erasures"), ("ledger_checkpoints", "signed checkpoints")):
        if connection.scalar(sa.text(f"SELECT EXISTS (SELECT FROM {table})")):  # noqa: S608 - one of two names
            raise FirewallError(
                Kind.CONFLICT,
                f"the ledger has {what}, which cannot be forgotten, so revision `0009` cannot be rolled back",
                fix="to begin anew, create another database and set MFW_DATABASE__URL to it",
            )
    if connection.scalar(
        sa.text(f"SELECT EXISTS (SELECT FROM ledger_entries WHERE kind IN {_NEW_KINDS})")  # noqa: S608 - two names
    ):
        raise FirewallError(
            Kind.CONFLICT,
            "the ledger has entries of kinds that the release before does not know, so revision `0009` cannot be "
            "rolled back",
            fix="stay with this release",
        )
    op.execute("ALTER TABLE ledger_records RENAME TO ledger_records_after")
    op.execute("ALTER TABLE ledger_records_after RENAME CONSTRAINT ledger_records_pkey TO ledger_records_after_pkey")
    op.create_table(
        "ledger_records",
        sa.Column("idx", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("salt", sa.LargeBinary(), nullable=False),
        sa.Column("record", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("idx", name=op.f("ledger_records_pkey")),
        sa.CheckConstraint("octet_length(salt) = 32", name=op.f("ledger_records_salt_check")),
    )
    op.execute("INSERT INTO ledger_records (idx, salt, record) SELECT idx, salt, record FROM ledger_records_after")
    _always("ledger_records", "append_only", "UPDATE OR DELETE OR TRUNCATE", "STATEMENT", "ledger_refuse")
    for table in ("ledger_records_after", "ledger_checkpoints", "ledger_tiles", "ledger_tree", "ledger_erasures"):
        op.drop_table(table)
    for function in ("ledger_records_guard", "ledger_tiles_grow", "ledger_tree_grows"):
        op.execute(f"DROP FUNCTION {function}()")
    _kinds(*_KINDS)


def _kinds(*kinds: str) -> None:
    """Allow these kinds of entries; only widened while rows are there, so nothing has to be read again."""
    op.execute("ALTER TABLE ledger_entries DROP CONSTRAINT ledger_entries_kind_check")
    op.execute(f"ALTER TABLE ledger_entries ADD CONSTRAINT ledger_entries_kind_check CHECK (kind IN {kinds})")


def _always(table: str, trigger: str, events: str, level: str, function: str) -> None:
    """A trigger that fires also where a session replicates."""
    op.execute(f"CREATE TRIGGER {trigger} BEFORE {events} ON {table} FOR EACH {level} EXECUTE FUNCTION {function}()")
    op.execute(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {trigger}")


def _partition_records() -> None:
    # Nobody appends while records move; readers and writers wait for a second, or for as long as there are records.
    op.execute("LOCK TABLE ledger_records IN ACCESS EXCLUSIVE MODE")
    op.execute("ALTER TABLE ledger_records RENAME TO ledger_records_before")
    op.execute("ALTER TABLE ledger_records_before RENAME CONSTRAINT ledger_records_pkey TO ledger_records_before_pkey")
    op.create_table(
        "ledger_records",
        sa.Column("idx", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("recorded_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("salt", sa.LargeBinary(), nullable=False),
        sa.Column("record", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("idx", "recorded_at", name=op.f("ledger_records_pkey")),
        sa.CheckConstraint("octet_length(salt) = 32", name=op.f("ledger_records_salt_check")),
        postgresql_partition_by="RANGE (recorded_at)",
    )
    # For a month that nobody made a partition for: an append must not fail because a job did not run.
    op.execute("CREATE TABLE ledger_records_rest PARTITION OF ledger_records DEFAULT")
    op.execute(_PARTITIONS)
    op.execute(
        "INSERT INTO ledger_records (idx, recorded_at, salt, record)"
        " SELECT idx, entries.recorded_at, salt, record"
        " FROM ledger_records_before JOIN ledger_entries AS entries USING (idx)"
    )
    op.drop_table("ledger_records_before")
    op.execute(_RECORDS)
    _always("ledger_records", "append_only", "UPDATE OR DELETE", "ROW", "ledger_records_guard")
    for table in ("ledger_records", "ledger_records_rest"):
        _always(table, "never_emptied", "TRUNCATE", "STATEMENT", "ledger_refuse")


def _make_tree() -> None:
    op.create_table(
        "ledger_tiles",
        sa.Column("level", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("idx", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("hashes", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("level", "idx", name=op.f("ledger_tiles_pkey")),
        sa.CheckConstraint("level BETWEEN 0 AND 7 AND idx >= 0", name=op.f("ledger_tiles_place_check")),
        sa.CheckConstraint(
            "octet_length(hashes) BETWEEN 32 AND 8192 AND octet_length(hashes) % 32 = 0",
            name=op.f("ledger_tiles_hashes_check"),
        ),
    )
    # Hashes do not compress: not even tried.
    op.execute("ALTER TABLE ledger_tiles ALTER COLUMN hashes SET STORAGE EXTERNAL")
    op.execute(_TILES)
    _always("ledger_tiles", "grows", "UPDATE OR DELETE", "ROW", "ledger_tiles_grow")
    _always("ledger_tiles", "never_emptied", "TRUNCATE", "STATEMENT", "ledger_tiles_grow")
    op.create_table(
        "ledger_tree",
        sa.Column("singleton", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("root", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("singleton", name=op.f("ledger_tree_pkey")),
        sa.CheckConstraint("singleton", name=op.f("ledger_tree_singleton_check")),
        sa.CheckConstraint("size >= 0", name=op.f("ledger_tree_size_check")),
        sa.CheckConstraint("octet_length(root) = 32", name=op.f("ledger_tree_root_check")),
    )
    # RFC 6962 section 2.1: the root of no leaves is the hash of nothing.
    op.execute("INSERT INTO ledger_tree (size, root) VALUES (0, sha256(''))")
    op.execute("ALTER TABLE ledger_tree SET (fillfactor = 10)")
    op.execute(_TREE)
    _always("ledger_tree", "grows", "UPDATE OR DELETE", "ROW", "ledger_tree_grows")
    _always("ledger_tree", "one_row", "INSERT OR TRUNCATE", "STATEMENT", "ledger_tree_grows")
    op.create_table(
        "ledger_checkpoints",
        sa.Column("size", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("root", sa.LargeBinary(), nullable=False),
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column("signed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("note", sa.LargeBinary(), nullable=False),
        sa.Column("cosignatures", sa.LargeBinary(), server_default=sa.text("''::bytea"), nullable=False),
        sa.PrimaryKeyConstraint("size", name=op.f("ledger_checkpoints_pkey")),
        sa.CheckConstraint("size > 0", name=op.f("ledger_checkpoints_size_check")),
        sa.CheckConstraint("octet_length(root) = 32", name=op.f("ledger_checkpoints_root_check")),
    )
