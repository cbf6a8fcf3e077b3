"""Integrity of what lies beside the log: each table is asked whether its rows and the ledger's entries agree.

A table with further rows to agree with adds its questions to `QUESTIONS`; nothing else has to be changed.
"""

from dataclasses import dataclass
from typing import Any, Final

import asyncpg

from app.core.integrity import IntegrityCheck
from app.ops.findings import EXAMPLES_SHOWN, Findings


@dataclass(frozen=True, slots=True)
class Question:
    """One SELECT with one column, a text for each row that is wrong; none where all is well."""

    check: IntegrityCheck
    sql: str


def _without_entry(
    check: IntegrityCheck, said: str, table: str, *kinds: str, idx: str = "ledger_index", entry_id: str = "ledger_id"
) -> Question:
    """Rows of a table that name an entry which is not there, or is of no such kind. `said` is SQL for what to say."""
    listed = ", ".join(f"'{kind}'" for kind in kinds)
    return Question(
        check,
        f"SELECT {said} FROM {table} AS x WHERE NOT EXISTS (SELECT FROM ledger_entries AS e"  # noqa: S608 - all of it ours
        f" WHERE e.idx = x.{idx} AND e.id = x.{entry_id} AND e.kind IN ({listed}))",
    )


QUESTIONS: Final = (
    Question(
        IntegrityCheck.HEAD,
        "SELECT 'the ledger has no head' WHERE NOT EXISTS (SELECT FROM ledger_head)",
    ),
    Question(
        IntegrityCheck.HEAD,
        "SELECT format('entry %s lies beyond the head, which is at %s', idx, next_index)"
        " FROM ledger_entries, ledger_head WHERE idx >= next_index",
    ),
    Question(
        IntegrityCheck.ORPHANS,
        "SELECT format('record %s lies beyond the head, which is at %s', idx, next_index)"
        " FROM ledger_records, ledger_head WHERE idx >= next_index",
    ),
    _without_entry(
        IntegrityCheck.ERASURES,
        "format('the erasure of %s has no entry in the ledger', x.idx)",
        "ledger_erasures",
        "erasure",
    ),
    Question(
        IntegrityCheck.ERASURES,
        "SELECT format('%s was erased, and its record is there', x.idx) FROM ledger_erasures AS x"
        " WHERE EXISTS (SELECT FROM ledger_records AS r WHERE r.idx = x.idx)",
    ),
    Question(
        IntegrityCheck.ERASURES,
        "SELECT format('%s was erased, and there is no such entry', x.idx) FROM ledger_erasures AS x"
        " WHERE NOT EXISTS (SELECT FROM ledger_entries AS e WHERE e.idx = x.idx)",
    ),
    _without_entry(
        IntegrityCheck.ARCHIVES,
        "format('the archive of `%s` has no entry in the ledger', x.partition)",
        "ledger_archives",
        "archive",
    ),
    _without_entry(
        IntegrityCheck.ACTIVATIONS,
        "format('activation %s has no entry in the ledger', x.sequence)",
        "policy_set_activations",
        "activation",
        "break-glass",
        "rollback",
    ),
    Question(
        IntegrityCheck.ACTIVATIONS,
        "SELECT format('activation %s is missing', number) FROM generate_series(1,"
        " (SELECT max(sequence) FROM policy_set_activations)) AS number"
        " WHERE NOT EXISTS (SELECT FROM policy_set_activations WHERE sequence = number)",
    ),
    Question(
        IntegrityCheck.POLICY_SETS,
        "SELECT format('policy set `%s` has other documents than its digest says', digest) FROM policy_sets"
        " WHERE digest <> 'sha256:' || encode(sha256(documents), 'hex')",
    ),
    _without_entry(
        IntegrityCheck.SWITCHES,
        "format('switch %s has no entry in the ledger', x.id)",
        "kill_switches",
        "break-glass",
        entry_id="id",
    ),
    Question(
        IntegrityCheck.SWITCHES,
        "SELECT format('the end of switch %s has no entry in the ledger', s.id) FROM kill_switches AS s"
        " WHERE s.end_ledger_index IS NOT NULL AND NOT EXISTS"
        " (SELECT FROM ledger_entries AS e WHERE e.idx = s.end_ledger_index AND e.kind = 'break-glass')",
    ),
    Question(
        IntegrityCheck.BUDGETS,
        "SELECT format('budget `%s/%s` counts decision %s, which is not recorded', u.policy, u.budget, u.decision_id)"
        " FROM budget_uses AS u WHERE NOT EXISTS (SELECT FROM ledger_entries AS e WHERE e.id = u.decision_id)",
    ),
    # With traffic they are swept within seconds; without it they may lie for a while and harm nobody.
    Question(
        IntegrityCheck.EXPIRED,
        "SELECT format('an answer under an idempotency key expired at %s', expires_at) FROM idempotency_keys"
        " WHERE expires_at < now() - interval '1 day'",
    ),
    Question(
        IntegrityCheck.EXPIRED,
        "SELECT format('a use of budget `%s/%s` expired at %s', policy, budget, expires_at) FROM budget_uses"
        " WHERE expires_at < now() - interval '1 day'",
    ),
)
# Only where the index that forbids it is not there: it reads the whole table, and sorts it.
SAME_IDS: Final = Question(
    IntegrityCheck.IDS,
    "SELECT format('entries %s have one id, %s', array_to_string((array_agg(idx ORDER BY idx))[1:5], ', '), id)"
    " FROM ledger_entries GROUP BY id HAVING count(*) > 1",
)


async def ask(connection: "asyncpg.Connection[Any]", question: Question, findings: Findings) -> None:
    """Ask one question. Raises what asyncpg raises."""
    rows = await connection.fetch(
        f"SELECT count(*) OVER () AS count, wrong.said FROM ({question.sql}) AS wrong (said)"  # noqa: S608 - ours
        f" LIMIT {EXAMPLES_SHOWN}"
    )
    for number, row in enumerate(rows, start=1):
        more = row["count"] - len(rows) if number == len(rows) else 0
        findings.add(question.check, row["said"], count=1 + more)
