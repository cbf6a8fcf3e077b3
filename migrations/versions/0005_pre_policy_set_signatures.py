"""Signatures on policy sets, only ever added to; whoever relies on one verifies it again."""

import sqlalchemy as sa
from alembic import op

from app.errors import FirewallError, Kind

revision: str = "0005"
down_revision: str | None = "0004"
branch_labels: None = None
depends_on: None = None


def upgrade() -> None:
    op.create_table(
        "policy_set_signatures",
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("keyid", sa.Text(), nullable=False),
        sa.Column("signature", sa.LargeBinary(), nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.Column("added_by", sa.Text(), nullable=False),
        sa.Column("added_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("digest", "keyid", "signature", name=op.f("policy_set_signatures_pkey")),
        sa.ForeignKeyConstraint(["digest"], ["policy_sets.digest"], name=op.f("policy_set_signatures_digest_fkey")),
        sa.CheckConstraint("keyid ~ '^[0-9a-f]{64}$'", name=op.f("policy_set_signatures_keyid_check")),
        sa.CheckConstraint("octet_length(signature) = 64", name=op.f("policy_set_signatures_signature_check")),
        sa.CheckConstraint(
            "octet_length(payload) BETWEEN 2 AND 65536", name=op.f("policy_set_signatures_payload_check")
        ),
    )
    # The function is that of revision 0003: these rows are part of the sets.
    op.execute(
        "CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON policy_set_signatures "
        "FOR EACH STATEMENT EXECUTE FUNCTION policy_sets_refuse()"
    )
    op.execute("ALTER TABLE policy_set_signatures ENABLE ALWAYS TRIGGER append_only")


def downgrade() -> None:
    # Locked first: a signature that is stored between the look and the drop would be lost without a word.
    op.execute("LOCK TABLE policy_set_signatures IN ACCESS EXCLUSIVE MODE")
    if op.get_bind().scalar(sa.text("SELECT EXISTS (SELECT FROM policy_set_signatures)")):
        raise FirewallError(
            Kind.CONFLICT,
            "there are signatures of policy sets, and they cannot be made again without their keys, so revision `0005` "
            "cannot be rolled back",
            fix="stay at this revision: the release before works on it as well if its maximum allows it",
        )
    op.drop_table("policy_set_signatures")
