"""What the integrity check looks at: a closed set, since each is a label of a metric and a line of a runbook."""

from enum import StrEnum
from typing import assert_never


class IntegrityCheck(StrEnum):
    """One question about the stored data; `app/ops/` asks it."""

    SCHEMA = "schema"
    CONSTRAINTS = "constraints"
    TRIGGERS = "triggers"
    INDEXES = "indexes"
    PARTITIONS = "partitions"
    HEAD = "head"
    GAPS = "gaps"
    IDS = "ids"
    RECEIPTS = "receipts"
    RECORDS = "records"
    TIMES = "times"
    ORPHANS = "orphans"
    TREE = "tree"
    CHECKPOINTS = "checkpoints"
    ERASURES = "erasures"
    ARCHIVES = "archives"
    ACTIVATIONS = "activations"
    POLICY_SETS = "policy_sets"
    SWITCHES = "switches"
    KEYS = "keys"
    BUDGETS = "budgets"
    SEARCH = "search"
    OUTBOX = "outbox"
    EXPIRED = "expired"


class Severity(StrEnum):
    """How bad a finding is: the log itself, something beside it, or something that a job will put right."""

    CRITICAL = "critical"
    MAJOR = "major"
    MINOR = "minor"


def severity_of(check: IntegrityCheck) -> Severity:
    """How bad it is when a check finds something."""
    match check:
        case (
            IntegrityCheck.HEAD
            | IntegrityCheck.GAPS
            | IntegrityCheck.IDS
            | IntegrityCheck.RECEIPTS
            | IntegrityCheck.RECORDS
            | IntegrityCheck.TREE
            | IntegrityCheck.CHECKPOINTS
            | IntegrityCheck.POLICY_SETS
        ):
            return Severity.CRITICAL
        case (
            IntegrityCheck.SCHEMA
            | IntegrityCheck.CONSTRAINTS
            | IntegrityCheck.TRIGGERS
            | IntegrityCheck.INDEXES
            | IntegrityCheck.TIMES
            | IntegrityCheck.ORPHANS
            | IntegrityCheck.ERASURES
            | IntegrityCheck.ARCHIVES
            | IntegrityCheck.ACTIVATIONS
            | IntegrityCheck.SWITCHES
            | IntegrityCheck.KEYS
            | IntegrityCheck.OUTBOX
        ):
            return Severity.MAJOR
        case IntegrityCheck.PARTITIONS | IntegrityCheck.BUDGETS | IntegrityCheck.SEARCH | IntegrityCheck.EXPIRED:
            return Severity.MINOR
        case _:
            assert_never(check)


def advice(check: IntegrityCheck) -> str:
    """What to do when a check finds something."""
    match check:
        case IntegrityCheck.SCHEMA:
            return "run `python -m app.migrations.status`, and the release that fits"
        case IntegrityCheck.CONSTRAINTS:
            return "find out who dropped it; `ALTER TABLE ... VALIDATE CONSTRAINT ...`, or restore a backup beside it"
        case IntegrityCheck.TRIGGERS:
            return "somebody could change the ledger meanwhile: run `--full`, then `--repair` enables what is disabled"
        case IntegrityCheck.INDEXES:
            return "`REINDEX INDEX CONCURRENTLY ...`; a missing one: see its migration"
        case IntegrityCheck.PARTITIONS:
            return "run `mfw ledger partitions`, or this with `--repair`"
        case IntegrityCheck.BUDGETS:
            return "budgets count decisions that are not recorded; they go by themselves when their windows are over"
        case IntegrityCheck.SEARCH:
            return "run this with `--repair`: searches miss decisions, or find what is not there; the ledger is whole"
        case IntegrityCheck.EXPIRED:
            return "run this with `--repair`; with some traffic they are swept by themselves"
        case IntegrityCheck.OUTBOX:
            return "look at what could not be delivered, and why"
        case (
            IntegrityCheck.KEYS
            | IntegrityCheck.ACTIVATIONS
            | IntegrityCheck.SWITCHES
            | IntegrityCheck.ERASURES
            | IntegrityCheck.ARCHIVES
        ):
            return "somebody wrote to the database past the service: find out who, and compare with a backup"
        case (
            IntegrityCheck.HEAD
            | IntegrityCheck.GAPS
            | IntegrityCheck.IDS
            | IntegrityCheck.RECEIPTS
            | IntegrityCheck.RECORDS
            | IntegrityCheck.TIMES
            | IntegrityCheck.ORPHANS
            | IntegrityCheck.TREE
            | IntegrityCheck.CHECKPOINTS
            | IntegrityCheck.POLICY_SETS
        ):
            return "keep the database as it is, stop writing to it, and restore a backup beside it (docs/operations.md)"
        case _:
            assert_never(check)
