"""The tables as SQLAlchemy knows them; a test holds them equal to what the migrations make."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

metadata = MetaData(
    naming_convention={
        "pk": "%(table_name)s_pkey",
        "uq": "%(table_name)s_%(column_0_name)s_key",
        "ck": "%(table_name)s_%(constraint_name)s_check",
        "ix": "%(table_name)s_%(column_0_name)s_idx",
    }
)

# INVARIANT: one row. Its `next_index` is the number of entries, and its row lock is what makes the index gapless:
# whoever appends holds it until the commit.
ledger_head = Table(
    "ledger_head",
    metadata,
    Column("singleton", Boolean, primary_key=True, server_default=text("true")),
    Column("next_index", BigInteger, nullable=False),
    CheckConstraint("singleton", name="singleton"),
    CheckConstraint("next_index >= 0", name="next_index"),
)

# INVARIANT: rows are inserted and never changed (a trigger, for every role); idx is 0, 1, 2 ... without a gap.
ledger_entries = Table(
    "ledger_entries",
    metadata,
    Column("idx", BigInteger, primary_key=True, autoincrement=False),
    Column("id", Uuid, nullable=False),
    Column("kind", Text, nullable=False),
    Column("recorded_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
    Column("receipt", LargeBinary, nullable=False),
    CheckConstraint("idx >= 0", name="idx"),
    CheckConstraint(
        "kind IN ('decision', 'request', 'vote', 'permit', 'activation', 'break-glass', 'snapshot', 'rollback', 'key',"
        " 'erasure', 'archive')",
        name="kind",
    ),
    # The receipt is the leaf of the Merkle tree: what stands here is what is hashed (app/ledger/receipt.py).
    CheckConstraint("octet_length(receipt) BETWEEN 2 AND 4096", name="receipt"),
    Index("ledger_entries_id_key", "id", unique=True),
)

# Apart from the entries, so that a record can be erased by law without touching what the log is made of. No foreign
# key: it would cost a lookup per row, and one statement writes both. Partitions by month: `mfw ledger partitions` makes
# them ahead, and what no partition was made for goes into `ledger_records_rest`. INVARIANT: rows are inserted and never
# changed (a trigger); one goes after its erasure was written down, or with its whole partition once that is archived.
ledger_records = Table(
    "ledger_records",
    metadata,
    Column("idx", BigInteger, nullable=False, autoincrement=False),
    # The transaction's time, as in `ledger_entries`: equal for one index, so that a join looks into one partition.
    Column("recorded_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
    Column("salt", LargeBinary, nullable=False),
    Column("record", LargeBinary, nullable=False),
    PrimaryKeyConstraint("idx", "recorded_at", name="ledger_records_pkey"),
    CheckConstraint("octet_length(salt) = 32", name="salt"),
    postgresql_partition_by="RANGE (recorded_at)",
)

# What a search of decisions reads: derived from the records, masked as they are, filled by app/ledger/search.py. What
# is searched for is found by its key, eight bytes of SHA-256 (`ledger_search_key`); the words are compared as well.
ledger_search = Table(
    "ledger_search",
    metadata,
    Column("idx", BigInteger, nullable=False, autoincrement=False),
    # The entry's: its partitions are those of the records.
    Column("recorded_at", DateTime(timezone=True), nullable=False),
    Column("id", Uuid, nullable=False),
    Column("subject_key", BigInteger, nullable=False),
    Column("resource_key", BigInteger, nullable=False),
    Column("resource_type_key", BigInteger, nullable=False),
    Column("action_key", BigInteger, nullable=False),
    Column("policy_key", BigInteger, nullable=False),
    Column("rule_key", BigInteger, nullable=False),
    Column("subject_type", Text, nullable=False),
    Column("subject_id", Text, nullable=False),
    Column("resource_type", Text, nullable=False),
    Column("resource_id", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("decision", Text, nullable=False),
    # Of the reason that decided.
    Column("policy", Text, nullable=False),
    Column("rule", Text, nullable=False),
    Column("mode", Text, nullable=False),
    PrimaryKeyConstraint("idx", "recorded_at", name="ledger_search_pkey"),
    *(
        Index(f"ledger_search_{name}_idx", name, "idx")
        for name in (
            "subject_key",
            "resource_key",
            "resource_type_key",
            "action_key",
            "policy_key",
            "rule_key",
            "decision",
        )
    ),
    postgresql_partition_by="RANGE (recorded_at)",
)

# INVARIANT: one row. Every entry below `next_index` is in the index, or was erased; who indexes or erases holds its
# lock, so that nothing is put into the index that was erased meanwhile.
ledger_search_progress = Table(
    "ledger_search_progress",
    metadata,
    Column("singleton", Boolean, primary_key=True, server_default=text("true")),
    Column("next_index", BigInteger, nullable=False),
    CheckConstraint("singleton", name="singleton"),
    CheckConstraint("next_index >= 0", name="next_index"),
)

# The tables that lie in partitions by the month of `recorded_at`, each with one more that is called `..._rest`.
PARTITIONED = ("ledger_records", "ledger_search")

# Which records were erased, and why; each has its entry in the ledger, written by the same transaction. Append-only.
ledger_erasures = Table(
    "ledger_erasures",
    metadata,
    Column("idx", BigInteger, primary_key=True, autoincrement=False),
    Column("reason", Text, nullable=False),
    Column("erased_by", Text, nullable=False),
    Column("erased_at", DateTime(timezone=True), nullable=False),
    Column("ledger_id", Uuid, nullable=False),
    Column("ledger_index", BigInteger, nullable=False),
    CheckConstraint("reason <> '' AND length(reason) <= 1000", name="reason"),
)

# The Merkle tree over the receipts, in tiles of 256 hashes (C2SP tlog-tiles). INVARIANT: a tile only grows (a trigger);
# the last one of a level may have fewer, and what a smaller tree had of it is its beginning.
ledger_tiles = Table(
    "ledger_tiles",
    metadata,
    Column("level", SmallInteger, primary_key=True, autoincrement=False),
    Column("idx", BigInteger, primary_key=True, autoincrement=False),
    Column("hashes", LargeBinary, nullable=False),
    CheckConstraint("level BETWEEN 0 AND 7 AND idx >= 0", name="place"),
    CheckConstraint("octet_length(hashes) BETWEEN 32 AND 8192 AND octet_length(hashes) % 32 = 0", name="hashes"),
)

# INVARIANT: one row, of what is integrated into tiles. Who integrates holds its lock until the commit that writes
# tiles, tree and checkpoint, so no two trees are ever made of one ledger. The size only grows (a trigger).
ledger_tree = Table(
    "ledger_tree",
    metadata,
    Column("singleton", Boolean, primary_key=True, server_default=text("true")),
    Column("size", BigInteger, nullable=False),
    Column("root", LargeBinary, nullable=False),
    CheckConstraint("singleton", name="singleton"),
    CheckConstraint("size >= 0", name="size"),
    CheckConstraint("octet_length(root) = 32", name="root"),
)

# What was signed (C2SP tlog-checkpoint). `note` is the signed note as it is served, `cosignatures` the lines that
# witnesses added. Older ones are thinned out: whoever needs one has saved it.
ledger_checkpoints = Table(
    "ledger_checkpoints",
    metadata,
    Column("size", BigInteger, primary_key=True, autoincrement=False),
    Column("root", LargeBinary, nullable=False),
    Column("origin", Text, nullable=False),
    Column("signed_at", DateTime(timezone=True), nullable=False),
    Column("note", LargeBinary, nullable=False),
    Column("cosignatures", LargeBinary, nullable=False, server_default=text("''::bytea")),
    CheckConstraint("size > 0", name="size"),
    CheckConstraint("octet_length(root) = 32", name="root"),
)

# What was written to files and may be gone from here: a month's records at a time. Each row has its entry in the
# ledger, written by the same transaction. INVARIANT: append-only (a trigger); no partition is dropped without a row.
ledger_archives = Table(
    "ledger_archives",
    metadata,
    Column("ledger_index", BigInteger, primary_key=True, autoincrement=False),
    Column("ledger_id", Uuid, nullable=False),
    Column("partition", Text, nullable=False),
    # From the first moment to the one after the last.
    Column("starts_at", DateTime(timezone=True), nullable=False),
    Column("ends_at", DateTime(timezone=True), nullable=False),
    Column("first_index", BigInteger, nullable=False),
    Column("last_index", BigInteger, nullable=False),
    Column("records", BigInteger, nullable=False),
    # The file: its name, its size in bytes and its SHA-256.
    Column("file", Text, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("archived_by", Text, nullable=False),
    Column("archived_at", DateTime(timezone=True), nullable=False),
    CheckConstraint("ends_at > starts_at", name="ends_at"),
    CheckConstraint("records > 0 AND first_index >= 0 AND last_index >= first_index", name="records"),
    CheckConstraint("octet_length(digest) = 32", name="digest"),
)

# What jobs found and did: each run of the integrity check and of the backup. The service shows the latest as metrics.
operation_runs = Table(
    "operation_runs",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("operation", Text, nullable=False),
    Column("started_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
    Column("finished_at", DateTime(timezone=True)),
    Column("outcome", Text),
    # The index to go on from, where a run was interrupted.
    Column("position", BigInteger, nullable=False, server_default=text("0")),
    # How many of each check, and what else is to be known of the run.
    Column("issues", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    Column("details", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    CheckConstraint("operation IN ('integrity', 'backup')", name="operation"),
    CheckConstraint("outcome IN ('ok', 'findings', 'failed')", name="outcome"),
    CheckConstraint("(finished_at IS NULL) = (outcome IS NULL)", name="finished_at"),
    Index("operation_runs_operation_idx", "operation", "id"),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("name", Text, nullable=False),
    Column("principal_id", Text, nullable=False),
    Column("roles", ARRAY(Text), nullable=False),
    # SHA-256 of the key: the key itself is shown once and never stored.
    Column("hash", LargeBinary, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
    Column("expires_at", DateTime(timezone=True)),
    Column("revoked_at", DateTime(timezone=True)),
    # Beside the roles; what may be done is the union.
    Column("scopes", ARRAY(Text), nullable=False, server_default=text("'{}'")),
    # Whom it may speak for (`TYPE:ID`) and where it may come from (CIDR); none is any.
    Column("subjects", ARRAY(Text), nullable=False, server_default=text("'{}'")),
    Column("networks", ARRAY(Text), nullable=False, server_default=text("'{}'")),
    # To the minute: written in batches, off the way of requests.
    Column("last_used_at", DateTime(timezone=True)),
    # The key that it was rotated from.
    Column("replaces", Uuid),
    CheckConstraint("octet_length(hash) = 32", name="hash"),
    CheckConstraint("name <> '' AND length(name) <= 200", name="name"),
    CheckConstraint("principal_id <> '' AND length(principal_id) <= 200", name="principal_id"),
    Index("api_keys_hash_key", "hash", unique=True),
)

# INVARIANT: rows are inserted and never changed (a trigger): a decision is replayed with the set that it names.
policy_sets = Table(
    "policy_sets",
    metadata,
    Column("digest", Text, primary_key=True),
    # The order in which sets came, to list them by.
    Column("number", BigInteger, Identity(always=True), nullable=False),
    # Canonical JSON (RFC 8785) of the documents, sorted: the very bytes that the digest is of.
    Column("documents", LargeBinary, nullable=False),
    Column("policies", Integer, nullable=False),
    Column("rules", Integer, nullable=False),
    Column("note", Text),
    Column("created_by", Text, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
    CheckConstraint("digest = 'sha256:' || encode(sha256(documents), 'hex')", name="digest"),
    CheckConstraint("policies > 0 AND rules > 0", name="policies"),
    CheckConstraint("length(note) <= 1000", name="note"),
    Index("policy_sets_number_key", "number", unique=True),
)

# INVARIANT: sequence is 1, 2, 3 ...; the last row names the set in force, and each row has its entry in the ledger,
# written by the same transaction.
policy_set_activations = Table(
    "policy_set_activations",
    metadata,
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("digest", Text, nullable=False),
    Column("previous", Text),
    Column("reason", Text, nullable=False),
    Column("activated_by", Text, nullable=False),
    Column("activated_at", DateTime(timezone=True), nullable=False),
    Column("ledger_id", Uuid, nullable=False),
    Column("ledger_index", BigInteger, nullable=False),
    ForeignKeyConstraint(["digest"], ["policy_sets.digest"], name="policy_set_activations_digest_fkey"),
    CheckConstraint("sequence > 0", name="sequence"),
    CheckConstraint("reason <> '' AND length(reason) <= 1000", name="reason"),
    Index("policy_set_activations_digest_idx", "digest"),
    Index("policy_set_activations_ledger_id_key", "ledger_id", unique=True),
)

# INVARIANT: rows are inserted and never changed (a trigger). A row proves nothing by being here: whoever relies on a
# signature verifies it again, with keys that are not in this database.
policy_set_signatures = Table(
    "policy_set_signatures",
    metadata,
    Column("digest", Text, primary_key=True),
    # SHA-256 of the public key, in hex.
    Column("keyid", Text, primary_key=True),
    # Part of the key, so that a row which somebody made up never stands in the way of the good one.
    Column("signature", LargeBinary, primary_key=True),
    # The in-toto statement that was signed; with the signature it makes the DSSE envelope.
    Column("payload", LargeBinary, nullable=False),
    Column("added_by", Text, nullable=False),
    Column("added_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
    ForeignKeyConstraint(["digest"], ["policy_sets.digest"], name="policy_set_signatures_digest_fkey"),
    CheckConstraint("keyid ~ '^[0-9a-f]{64}$'", name="keyid"),
    CheckConstraint("octet_length(signature) = 64", name="signature"),
    CheckConstraint("octet_length(payload) BETWEEN 2 AND 65536", name="payload"),
)

# What allowed mutations took from budgets. Not append-only: rows go when no window looks back at them any more, and the
# ledger, written by the same transaction, keeps the decision. INVARIANT: who writes here holds the lock of the key.
budget_uses = Table(
    "budget_uses",
    metadata,
    # SHA-256 of whose budget it is (app/core/budgets.py).
    Column("key", LargeBinary, nullable=False),
    Column("decided_at", DateTime(timezone=True), nullable=False),
    Column("decision_id", Uuid, nullable=False),
    # For people who look into the table; the key says the same.
    Column("policy", Text, nullable=False),
    Column("budget", Text, nullable=False),
    # SHA-256 of what is counted once, for a budget of distinct values.
    Column("value", LargeBinary),
    Column("expires_at", DateTime(timezone=True), nullable=False),
    PrimaryKeyConstraint("key", "decided_at", "decision_id", name="budget_uses_pkey"),
    CheckConstraint("octet_length(key) = 32", name="key"),
    CheckConstraint("octet_length(value) = 32", name="value"),
    CheckConstraint("expires_at > decided_at", name="expires_at"),
    Index("budget_uses_expires_at_idx", "expires_at"),
)

# INVARIANT: a row is inserted once and its end is written once (a trigger); both have their entry in the ledger,
# written by the same transaction.
kill_switches = Table(
    "kill_switches",
    metadata,
    # That of its entry in the ledger.
    Column("id", Uuid, primary_key=True),
    Column("kind", Text, nullable=False),
    # The id of a subject or the name of a policy.
    Column("target", Text),
    Column("until", DateTime(timezone=True)),
    Column("reason", Text, nullable=False),
    Column("thrown_by", Text, nullable=False),
    Column("thrown_at", DateTime(timezone=True), nullable=False),
    Column("ledger_index", BigInteger, nullable=False),
    Column("ended_at", DateTime(timezone=True)),
    Column("ended_by", Text),
    Column("end_reason", Text),
    Column("end_ledger_index", BigInteger),
    CheckConstraint("kind IN ('deny-all', 'deny-subject', 'shadow', 'stop-approvals')", name="kind"),
    CheckConstraint("(kind IN ('deny-subject', 'shadow')) = (target IS NOT NULL)", name="target"),
    CheckConstraint("kind <> 'shadow' OR until IS NOT NULL", name="until"),
    CheckConstraint("reason <> '' AND length(reason) <= 1000", name="reason"),
    CheckConstraint(
        "(ended_at IS NULL) = (ended_by IS NULL) AND (ended_at IS NULL) = (end_reason IS NULL)"
        " AND (ended_at IS NULL) = (end_ledger_index IS NULL)",
        name="end",
    ),
    Index("kill_switches_ledger_index_idx", "ledger_index"),
)

# Answers under idempotency keys (app/ledger/once.py). Not append-only: rows go when their time is over.
idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    # SHA-256 of who sent which key.
    Column("id", LargeBinary, primary_key=True),
    # SHA-256 of what was sent with it.
    Column("fingerprint", LargeBinary, nullable=False),
    Column("answer", LargeBinary, nullable=False),
    Column("expires_at", DateTime(timezone=True), nullable=False),
    CheckConstraint("octet_length(id) = 32", name="id"),
    CheckConstraint("octet_length(fingerprint) = 32", name="fingerprint"),
    Index("idempotency_keys_expires_at_idx", "expires_at"),
)

# What a release has to know to work with the schema at each revision: the newest row is for releases that do not know
# it (app/persistence/revision.py). Migrations write it (migrations/env.py).
schema_revisions = Table(
    "schema_revisions",
    metadata,
    Column("revision", Text, primary_key=True),
    Column("needs", Text, nullable=False),
    Column("applied_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
    CheckConstraint("revision ~ '^[0-9]{4}$'", name="revision"),
    CheckConstraint("needs ~ '^[0-9]{4}$' AND needs <= revision", name="needs"),
)
