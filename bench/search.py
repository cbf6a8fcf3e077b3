"""How long a search of decisions takes over millions of them: `python -m bench.search [--rows N]`.

Fills the index by SQL in an embedded PostgreSQL of its own, which is gone afterwards: some 450 bytes for each row.
"""

import argparse
import asyncio
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
from rich.console import Console
from rich.table import Table
from sqlalchemy.dialects import postgresql

from app.core.principal import AuthMethod, Principal, PrincipalKind, Role
from app.core.types import Effect, Mutation, Reason, Verdict
from app.ledger.append import LedgerWriter
from app.ledger.receipt import PendingDecision, seal_decision
from app.ledger.search import Indexer, Wanted, search_key, statement_of
from app.migrations import schema
from app.persistence.embedded import EmbeddedPostgres
from app.persistence.engine import create_engine

# As a real one has it: a year of months, few policies, many agents and far more resources.
MONTHS = 12
SUBJECTS, RESOURCES, TYPES, ACTIONS, POLICIES, RULES = 10_000, 200_000, 20, 10, 50, 4
START = datetime(2025, 1, 1, tzinfo=UTC)
WORDS = f"""
CREATE TEMP TABLE words AS
SELECT number,
    'bot-' || number % {SUBJECTS} AS subject, ledger_search_key('agent', 'bot-' || number % {SUBJECTS}) AS subject_key,
    'apps/Type' || number % {TYPES} AS resource_type,
    ledger_search_key('apps/Type' || number % {TYPES}) AS resource_type_key,
    'prod/service-' || number AS resource,
    ledger_search_key('apps/Type' || number % {TYPES}, 'prod/service-' || number) AS resource_key,
    'act-' || number % {ACTIONS} AS action, ledger_search_key('act-' || number % {ACTIONS}) AS action_key,
    'policy-' || number % {POLICIES} AS policy, ledger_search_key('policy-' || number % {POLICIES}) AS policy_key,
    'rule-' || number / {POLICIES} % {RULES} AS rule,
    ledger_search_key('policy-' || number % {POLICIES}, 'rule-' || number / {POLICIES} % {RULES}) AS rule_key
FROM generate_series(0, $resources - 1) AS number
"""
# One row in a thousand is a hold, one in twenty a deny; which words it has follows from its index.
FILL = """
INSERT INTO ledger_search (
    idx, recorded_at, id, subject_key, resource_key, resource_type_key, action_key, policy_key, rule_key,
    subject_type, subject_id, resource_type, resource_id, action, decision, policy, rule, mode
)
SELECT idx, $3::timestamptz + (idx * $4::float8) * interval '1 second', gen_random_uuid(),
    subject_key, resource_key, resource_type_key, action_key, policy_key, rule_key,
    'agent', subject, resource_type, resource, action,
    CASE WHEN idx % 1000 = 7 THEN 'hold' WHEN idx % 20 = 3 THEN 'deny' ELSE 'allow' END, policy, rule, 'enforce'
FROM generate_series($1::bigint, $2::bigint) AS idx JOIN words ON words.number = (idx * 7919) % $5
"""
DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call]  # has no types
WHO = Principal("bench", PrincipalKind.AGENT, frozenset({Role.AGENT}), AuthMethod.API_KEY)


def asked() -> dict[str, Wanted]:
    """Each filter alone, and those that are asked for together."""
    middle = START + timedelta(days=180)
    return {
        "nothing": Wanted(),
        "subject": Wanted(subject=("agent", "bot-77")),
        "resource": Wanted(resource=("apps/Type7", "prod/service-7")),
        "resource type": Wanted(resource_type="apps/Type7"),
        "action": Wanted(action="act-7"),
        "decision, 1 in 20": Wanted(decision=Effect.DENY),
        "decision, 1 in 1,000": Wanted(decision=Effect.HOLD),
        "policy": Wanted(policy="policy-7"),
        "policy and rule": Wanted(policy="policy-7", rule="rule-0"),
        "subject and decision": Wanted(subject=("agent", "bot-77"), decision=Effect.DENY),
        "resource type, action, decision": Wanted(resource_type="apps/Type7", action="act-7", decision=Effect.HOLD),
        "since and until, a day": Wanted(since=middle, until=middle + timedelta(days=1)),
        "decision until half a year ago": Wanted(decision=Effect.DENY, until=middle),
        "an unknown subject": Wanted(subject=("agent", "nobody")),
    }


@contextmanager
def database() -> Iterator[str]:
    """A migrated database on the local disk."""
    state = Path(tempfile.mkdtemp(prefix="mfw-search-"))
    state.chmod(0o711)
    server = EmbeddedPostgres(state / "postgresql", settings={"max_wal_size": "4GB", "maintenance_work_mem": "512MB"})
    try:
        dsn = server.start()
        asyncio.run(schema.apply(dsn))
        yield dsn
    finally:
        server.stop()
        shutil.rmtree(state, ignore_errors=True)


async def fill(dsn: str, rows: int, *, resources: int = RESOURCES) -> None:
    """`rows` rows over a year about so many resources, in partitions by month, their indexes made afterwards."""
    connection = await asyncpg.connect(dsn)
    indexes = await connection.fetch(
        "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = 'ledger_search' AND indexname <> $1",
        "ledger_search_pkey",
    )
    for one in indexes:
        await connection.execute(f"DROP INDEX {one['indexname']}")
    for month in range(MONTHS):
        first, last = (datetime(2025 + at // 12, at % 12 + 1, 1, tzinfo=UTC) for at in (month, month + 1))
        name, bounds = f"ledger_search_{first:%Y_%m}", f"FROM ('{first}') TO ('{last}')"
        await connection.execute(f"CREATE TABLE {name} PARTITION OF ledger_search FOR VALUES {bounds}")
    await connection.execute(WORDS.replace("$resources", str(resources)))
    await connection.execute("ANALYZE words")
    pace = timedelta(days=360).total_seconds() / rows
    for at in range(0, rows, 250_000):
        await connection.execute(FILL, at, min(at + 250_000, rows) - 1, START, pace, resources)
    for one in indexes:
        # Of the whole table, its partitions included.
        await connection.execute(one["indexdef"].replace(" ON ONLY ", " ON "))
    await connection.execute("VACUUM ANALYZE ledger_search")
    await connection.close()


async def plan(connection: "asyncpg.Connection[Any]", wanted: Wanted, *, rows: int) -> tuple[float, int, int, set[str]]:
    """Milliseconds (median of five), rows found, blocks looked at, and the kinds of nodes of the plan."""
    pace = timedelta(days=360).total_seconds() / rows

    def index(moment: datetime | None) -> int | None:
        return None if moment is None else max(0, int((moment - START).total_seconds() / pace))

    statement = statement_of(wanted, first=index(wanted.since) or 0, end=index(wanted.until)).limit(51)
    text = str(statement.compile(dialect=DIALECT, compile_kwargs={"literal_binds": True}))
    times, told = [], {}
    for _ in range(5):
        (told,) = json.loads(await connection.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {text}"))
        times.append(told["Planning Time"] + told["Execution Time"])
    top = told["Plan"]
    blocks = top["Shared Hit Blocks"] + top["Shared Read Blocks"]
    return statistics.median(times), top["Actual Rows"], blocks, set(kinds(top))


def kinds(node: dict[str, Any]) -> Iterator[str]:
    """The kinds of nodes in a plan that were run."""
    if node.get("Actual Loops", 1):
        yield node["Node Type"]
        for one in node.get("Plans", ()):
            yield from kinds(one)


async def indexing(dsn: str, entries: int) -> float:
    """Entries in a second that the index takes from the ledger."""
    writer = LedgerWriter(dsn, deadline=60, queue_max=entries)
    await writer.start()
    await writer.wait_connected(within=10)

    def entry(number: int) -> Any:
        mutation = Mutation(
            subject={"type": "agent", "id": f"bot-{number % 100}", "properties": {"owner": "team-checkout"}},
            action={"name": "update", "properties": {}},
            resource={"type": "apps/Deployment", "id": f"prod/service-{number}", "properties": {"environment": "prod"}},
            change={"before": {"spec": {"replicas": 3}, "note": "x" * 300}, "after": {"spec": {"replicas": number}}},
            context={},
        )
        verdict = Verdict(Effect.ALLOW, (Reason("prod-replicas", "small-growth", Effect.ALLOW, "adds 2 replicas"),))
        digest = "sha256:" + "0" * 64
        now = datetime.now(UTC)
        return seal_decision(
            PendingDecision(uuid4(), now, WHO, mutation, digest, digest, verdict, "bench"), salt=os.urandom(32)
        )

    for at in range(0, entries, 2000):
        await asyncio.gather(*(writer.append(entry(number)) for number in range(at, at + 2000)))
    await writer.stop()
    engine = create_engine(dsn)
    indexer = Indexer(engine)
    started = time.perf_counter()
    while await indexer.step():
        pass
    took = time.perf_counter() - started
    await engine.dispose()
    return entries / took


async def measure(dsn: str, rows: int, console: Console) -> None:
    """Everything, as tables."""
    console.print(f"the index takes {await indexing(dsn, 20_000):,.0f} decisions a second from the ledger")
    connection = await asyncpg.connect(dsn)
    await connection.execute("TRUNCATE ledger_search")
    started = time.perf_counter()
    await fill(dsn, rows)
    size = await connection.fetchval(
        "SELECT sum(pg_total_relation_size(inhrelid)) FROM pg_inherits WHERE inhparent = 'ledger_search'::regclass"
    )
    took = time.perf_counter() - started
    console.print(
        f"{rows:,} rows in {took:.0f} s, {size / 2**30:.2f} GiB: {size / rows:.0f} bytes a row with its indexes"
    )
    table = Table(title=f"a page of 50 out of {rows:,}")
    for name in ("filter", "ms", "found", "blocks", "plan"):
        table.add_column(name, justify="left" if name in {"filter", "plan"} else "right")
    for name, wanted in asked().items():
        milliseconds, found, blocks, nodes = await plan(connection, wanted, rows=rows)
        table.add_row(
            name, f"{milliseconds:.2f}", str(min(found, 50)), str(blocks), ", ".join(sorted(nodes - {"Limit"}))
        )
    console.print(table)
    assert search_key("agent", "bot-77") == await connection.fetchval("SELECT ledger_search_key('agent', 'bot-77')")
    await connection.close()


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=5_000_000)
    arguments = parser.parse_args()
    with database() as dsn:
        asyncio.run(measure(dsn, arguments.rows, Console(width=140)))


if __name__ == "__main__":
    main()
