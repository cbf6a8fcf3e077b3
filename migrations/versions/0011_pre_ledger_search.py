"""The index over recorded decisions that a search reads, and how far it has come."""

import sqlalchemy as sa
from alembic import op

revision: str = "0011"
down_revision: str | None = "0010"
branch_labels: None = None
depends_on: None = None

# Eight bytes of SHA-256 instead of the words: an index of them is small, and no word is too long for one. The length
# before the first keeps `ab`, `c` apart from `a`, `bc`; app/ledger/search.py makes the same number.
_KEY = """
CREATE FUNCTION ledger_search_key(one text, other text DEFAULT '') RETURNS bigint
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT ('x' || encode(substring(
        sha256(convert_to(char_length(one)::text || ':' || one || other, 'UTF8')) FOR 8
    ), 'hex'))::bit(64)::bigint
$$
"""
# A record that is no JSON must not stop the index for ever: it is left out.
_READ = """
CREATE FUNCTION ledger_search_read(record bytea) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE STRICT AS $$
BEGIN
    RETURN convert_from(record, 'UTF8')::jsonb;
EXCEPTION WHEN OTHERS THEN
    RETURN NULL;
END
$$
"""
# The first entry that was recorded at a time or later. Indexes have no gap and rise with the time, but for as long as
# transactions overlap, so halving finds it without an index by time; who asks allows for the overlap.
_INDEX_AT = """
CREATE FUNCTION ledger_index_at(moment timestamptz) RETURNS bigint LANGUAGE plpgsql STABLE STRICT AS $$
DECLARE
    low bigint := 0;
    high bigint := (SELECT next_index FROM ledger_head);
    middle bigint;
BEGIN
    WHILE low < high LOOP
        middle := low + (high - low) / 2;
        IF (SELECT recorded_at FROM ledger_entries WHERE idx = middle) < moment THEN
            low := middle + 1;
        ELSE
            high := middle;
        END IF;
    END LOOP;
    RETURN low;
END
$$
"""
# The months that records have partitions for; those to come are made ahead by `mfw ledger partitions`.
_PARTITIONS = """
DO $$
DECLARE
    month text;
    starts timestamp;
BEGIN
    FOR month IN
        SELECT substring(relname FROM '^ledger_records_([0-9]{4}_[0-9]{2})$')
        FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
        WHERE inhparent = 'ledger_records'::regclass AND relname ~ '^ledger_records_[0-9]{4}_[0-9]{2}$'
    LOOP
        starts := to_date(month, 'YYYY_MM');
        EXECUTE format(
            'CREATE TABLE %I PARTITION OF ledger_search FOR VALUES FROM (%L) TO (%L)',
            'ledger_search_' || month, starts AT TIME ZONE 'UTC', (starts + interval '1 month') AT TIME ZONE 'UTC'
        );
    END LOOP;
END $$
"""


def upgrade() -> None:
    op.execute(_KEY)
    op.execute(_READ)
    op.execute(_INDEX_AT)
    words = ("subject_type", "subject_id", "resource_type", "resource_id", "action", "decision", "policy", "rule")
    keys = ("subject_key", "resource_key", "resource_type_key", "action_key", "policy_key", "rule_key")
    op.create_table(
        "ledger_search",
        sa.Column("idx", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("recorded_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in keys),
        *(sa.Column(name, sa.Text(), nullable=False) for name in words),
        sa.Column("mode", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("idx", "recorded_at", name=op.f("ledger_search_pkey")),
        postgresql_partition_by="RANGE (recorded_at)",
    )
    for name in (*keys, "decision"):
        # With the index behind it, so that a page is read in the order in which it is shown.
        op.create_index(f"ledger_search_{name}_idx", "ledger_search", [name, "idx"])
    op.execute("CREATE TABLE ledger_search_rest PARTITION OF ledger_search DEFAULT")
    op.execute(_PARTITIONS)
    op.create_table(
        "ledger_search_progress",
        sa.Column("singleton", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("next_index", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("singleton", name=op.f("ledger_search_progress_pkey")),
        sa.CheckConstraint("singleton", name=op.f("ledger_search_progress_singleton_check")),
        sa.CheckConstraint("next_index >= 0", name=op.f("ledger_search_progress_next_index_check")),
    )
    # What was recorded before is indexed by whoever runs first.
    op.execute("INSERT INTO ledger_search_progress (next_index) VALUES (0)")
    op.execute("ALTER TABLE ledger_search_progress SET (fillfactor = 10)")


def downgrade() -> None:
    # Everything in it follows from the ledger.
    op.drop_table("ledger_search_progress")
    op.drop_table("ledger_search")
    op.execute("DROP FUNCTION ledger_index_at(timestamptz)")
    op.execute("DROP FUNCTION ledger_search_read(bytea)")
    op.execute("DROP FUNCTION ledger_search_key(text, text)")
