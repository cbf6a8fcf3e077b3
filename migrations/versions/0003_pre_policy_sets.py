"""Policy sets by digest, and which of them was put into force when; both are only ever added to."""

import sqlalchemy as sa
from alembic import op

from app.errors import FirewallError, Kind

revision: str = "0003"
down_revision: str | None = "0002"
branch_labels: None = None
depends_on: None = None

# As for the ledger: statement triggers that fire for every role and in every replication mode.
REFUSE = """
CREATE FUNCTION policy_sets_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'policy sets are only added to: % on % is refused', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'restrict_violation';
END
$$
"""


def upgrade() -> None:
    op.create_table(
        "policy_sets",
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("number", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("documents", sa.LargeBinary(), nullable=False),
        sa.Column("policies", sa.Integer(), nullable=False),
        sa.Column("rules", sa.Integer(), nullable=False),
        sa.Column("note", sa.Text(), nullable=True),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("policy_sets_pkey")),
        # The digest is of the documents, so nobody can file one set under the name of another.
        sa.CheckConstraint(
            "digest = 'sha256:' || encode(sha256(documents), 'hex')", name=op.f("policy_sets_digest_check")
        ),
        sa.CheckConstraint("policies > 0 AND rules > 0", name=op.f("policy_sets_policies_check")),
        sa.CheckConstraint("length(note) <= 1000", name=op.f("policy_sets_note_check")),
    )
    op.create_index("policy_sets_number_key", "policy_sets", ["number"], unique=True)
    op.create_table(
        "policy_set_activations",
        sa.Column("sequence", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("previous", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("activated_by", sa.Text(), nullable=False),
        sa.Column("activated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ledger_id", sa.Uuid(), nullable=False),
        sa.Column("ledger_index", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("sequence", name=op.f("policy_set_activations_pkey")),
        sa.ForeignKeyConstraint(["digest"], ["policy_sets.digest"], name=op.f("policy_set_activations_digest_fkey")),
        sa.CheckConstraint("sequence > 0", name=op.f("policy_set_activations_sequence_check")),
        sa.CheckConstraint("reason <> '' AND length(reason) <= 1000", name=op.f("policy_set_activations_reason_check")),
    )
    op.create_index("policy_set_activations_digest_idx", "policy_set_activations", ["digest"])
    op.create_index("policy_set_activations_ledger_id_key", "policy_set_activations", ["ledger_id"], unique=True)
    op.execute(REFUSE)
    for table in ("policy_sets", "policy_set_activations"):
        op.execute(
            f"CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION policy_sets_refuse()"
        )
        op.execute(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER append_only")


def downgrade() -> None:
    # Locked first: a set that is stored between the look and the drop would be lost without a word.
    op.execute("LOCK TABLE policy_sets IN ACCESS EXCLUSIVE MODE")
    if op.get_bind().scalar(sa.text("SELECT EXISTS (SELECT FROM policy_sets)")):
        raise FirewallError(
            Kind.CONFLICT,
            "there are policy sets, and decisions are replayed with them, so revision `0003` cannot be rolled back",
            fix="stay at this revision: the release before works on it as well if its maximum allows it",
        )
    op.drop_table("policy_set_activations")
    op.drop_table("policy_sets")
    op.execute("DROP FUNCTION policy_sets_refuse()")
