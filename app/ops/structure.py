"""Integrity of the schema: constraints, triggers, indexes and partitions are there, valid and enabled."""

from collections.abc import Iterator
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import asyncpg

from app.core.integrity import IntegrityCheck
from app.core.months import Month
from app.errors import FirewallError
from app.ops.findings import Findings
from app.persistence.partitions import partition_name, rest_name
from app.persistence.tables import PARTITIONED, metadata

# What keeps the ledger append-only, whoever asks. Partitions have those of `ledger_records`.
TRIGGERS: Final = frozenset(
    {
        ("kill_switches", "ends_once"),
        ("kill_switches", "never_emptied"),
        ("ledger_archives", "append_only"),
        ("ledger_entries", "append_only"),
        ("ledger_erasures", "append_only"),
        ("ledger_head", "append_only"),
        ("ledger_head", "grows"),
        ("ledger_records", "append_only"),
        ("ledger_records", "never_emptied"),
        ("ledger_tiles", "grows"),
        ("ledger_tiles", "never_emptied"),
        ("ledger_tree", "grows"),
        ("ledger_tree", "one_row"),
        ("policy_set_activations", "append_only"),
        ("policy_set_signatures", "append_only"),
        ("policy_sets", "append_only"),
    }
)
# SHA-256 of the bodies of the functions that those triggers call: a guard may be there and let everything pass.
FUNCTIONS: Final = MappingProxyType(
    {
        "kill_switches_refuse": "1ecd17374e8ca1d83332453ac2d8704a43e48bf48f75865dd8db00bdd803a885",
        "ledger_head_grows": "55d31777823deea643202b3de15d2f94942444756060ff045606b3ff081aaa67",
        "ledger_records_guard": "187a2bdd0de83b955ce7118565f923ebe134755484ba0647cb83352fabee6a90",
        "ledger_refuse": "4a8f48c8adb2a7a0793ecdb5dda09d3b85ac8473f70467e60b97b10593acdcb6",
        "ledger_tiles_grow": "909bf81daf09184c3da939e78f848c3b63673c51a21ec657f0e99d77b8c4c65b",
        "ledger_tree_grows": "404819f6a116f6dc56ba15c5fbf48fb4b12d4c257e04c8b92bf08608e90d0135",
        "policy_sets_refuse": "1ba320aded24109d1f2a1f8003cb626f2172c7fd2c74c13e709e436e445718cc",
    }
)
# Rows in a default partition are counted up to here: that there are any is what matters.
_COUNTED_MAX: Final = 1_000_000

_CONSTRAINTS: Final = """
SELECT conrelid::regclass::text AS on_table, conname AS name, convalidated AS valid,
       coalesce((to_jsonb(pg_constraint) ->> 'conenforced')::boolean, true) AS enforced
FROM pg_constraint WHERE connamespace = current_schema()::regnamespace AND conrelid <> 0
"""
_TRIGGERS: Final = """
SELECT tgrelid::regclass::text AS on_table, tgname AS name, tgenabled = 'A' AS always, proname AS function,
       encode(sha256(convert_to(prosrc, 'UTF8')), 'hex') AS body
FROM pg_trigger JOIN pg_class ON pg_class.oid = tgrelid JOIN pg_proc ON pg_proc.oid = tgfoid
WHERE NOT tgisinternal AND relnamespace = current_schema()::regnamespace
"""
_INDEXES: Final = """
SELECT indrelid::regclass::text AS on_table, indexrelid::regclass::text AS name, indisvalid AND indisready AS usable
FROM pg_index JOIN pg_class ON pg_class.oid = indrelid WHERE relnamespace = current_schema()::regnamespace
"""
_PARTITIONS: Final = """
SELECT relname AS name, pg_get_expr(relpartbound, pg_class.oid) AS bounds
FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid WHERE inhparent = $1::text::regclass
"""
_DETACHED: Final = """
SELECT relname AS name FROM pg_class
WHERE relkind = 'r' AND NOT relispartition AND relnamespace = current_schema()::regnamespace
AND relname ~ ('^' || $1 || '_[0-9]{4}_[0-9]{2}$')
AND NOT EXISTS (SELECT FROM ledger_archives WHERE partition = relname) ORDER BY 1
"""


async def check_structure(connection: "asyncpg.Connection[Any]", findings: Findings) -> None:
    """Compare the schema as it is with the one that this release makes. Raises what asyncpg raises."""
    await _check_constraints(connection, findings)
    await _check_triggers(connection, findings)
    await _check_indexes(connection, findings)
    for table in PARTITIONED:
        await _check_partitions(connection, table, findings)


async def _check_constraints(connection: "asyncpg.Connection[Any]", findings: Findings) -> None:
    found: set[tuple[str, str]] = set()
    for row in await connection.fetch(_CONSTRAINTS):
        found.add((row["on_table"], row["name"]))
        if not row["valid"]:
            findings.add(IntegrityCheck.CONSTRAINTS, f"`{row['name']}` on `{row['on_table']}` is not validated")
        elif not row["enforced"]:
            findings.add(IntegrityCheck.CONSTRAINTS, f"`{row['name']}` on `{row['on_table']}` is not enforced")
    for table, name in sorted(set(_constraints()) - found):
        findings.add(IntegrityCheck.CONSTRAINTS, f"`{name}` on `{table}` is missing")


def _constraints() -> Iterator[tuple[str, str]]:
    for table in metadata.tables.values():
        for constraint in table.constraints:
            yield table.name, str(constraint.name)


@dataclass(frozen=True, slots=True)
class _Trigger:
    always: bool
    function: str
    body: str


async def _check_triggers(connection: "asyncpg.Connection[Any]", findings: Findings) -> None:
    wanted, found = await _triggers(connection)
    for table, name in sorted(wanted):
        trigger = found.get((table, name))
        if trigger is None:
            findings.add(IntegrityCheck.TRIGGERS, f"`{name}` on `{table}` is missing")
            continue
        if not trigger.always:
            findings.add(IntegrityCheck.TRIGGERS, f"`{name}` on `{table}` does not always fire")
        if FUNCTIONS.get(trigger.function) != trigger.body:
            findings.add(
                IntegrityCheck.TRIGGERS,
                f"`{name}` on `{table}` calls `{trigger.function}`, which is not as it was made",
            )


async def disabled_triggers(connection: "asyncpg.Connection[Any]") -> list[tuple[str, str]]:
    """Tables and names of the triggers that are there and do not always fire. Raises what asyncpg raises."""
    wanted, found = await _triggers(connection)
    return sorted(one for one in wanted if one in found and not found[one].always)


async def _triggers(
    connection: "asyncpg.Connection[Any]",
) -> tuple[set[tuple[str, str]], dict[tuple[str, str], _Trigger]]:
    """Those that there should be, and those that there are."""
    wanted = set(TRIGGERS)
    for partition in await connection.fetch(_PARTITIONS, "ledger_records"):
        wanted |= {(partition["name"], "append_only"), (partition["name"], "never_emptied")}
    rows = await connection.fetch(_TRIGGERS)
    return wanted, {
        (row["on_table"], row["name"]): _Trigger(row["always"], row["function"], row["body"]) for row in rows
    }


async def _check_indexes(connection: "asyncpg.Connection[Any]", findings: Findings) -> None:
    found = set()
    for row in await connection.fetch(_INDEXES):
        found.add((row["on_table"], row["name"]))
        if not row["usable"]:
            findings.add(IntegrityCheck.INDEXES, f"`{row['name']}` on `{row['on_table']}` is not valid")
    wanted = {(table.name, str(index.name)) for table in metadata.tables.values() for index in table.indexes}
    for table, name in sorted(wanted - found):
        findings.add(IntegrityCheck.INDEXES, f"`{name}` on `{table}` is missing")


async def _check_partitions(connection: "asyncpg.Connection[Any]", table: str, findings: Findings) -> None:
    attached: dict[str, str] = {row["name"]: row["bounds"] for row in await connection.fetch(_PARTITIONS, table)}
    this_month = Month.of(await connection.fetchval("SELECT now()"))
    for month in (this_month, this_month.after(1)):
        if partition_name(table, month) not in attached:
            findings.add(IntegrityCheck.PARTITIONS, f"`{table}` has no partition for {month}")
    rest = rest_name(table)
    if attached.get(rest) != "DEFAULT":
        findings.add(IntegrityCheck.PARTITIONS, f"`{table}` has no default partition `{rest}`")
    else:
        strayed = await connection.fetchval(
            f"SELECT count(*) FROM (SELECT FROM {rest} LIMIT {_COUNTED_MAX}) AS strayed"  # noqa: S608 - a name of ours
        )
        if strayed:
            findings.add(IntegrityCheck.PARTITIONS, f"`{rest}` has {strayed} rows, which belong to months")
    for name, bounds in sorted(attached.items()):
        if name != rest and not _fits(name, bounds, table=table):
            findings.add(IntegrityCheck.PARTITIONS, f"`{name}` has other bounds than its name says: {bounds}")
    # Neither part of the table nor known as archived: whoever detached it knows why, and nobody else.
    for row in await connection.fetch(_DETACHED, table):
        if table == "ledger_records":
            findings.add(IntegrityCheck.PARTITIONS, f"`{row['name']}` is detached and was not archived")


def _fits(name: str, bounds: str, *, table: str) -> bool:
    suffix = name.removeprefix(f"{table}_")
    try:
        month = Month.parse(suffix)
    except FirewallError:
        return False
    return bounds == f"FOR VALUES FROM ('{_written(month)}') TO ('{_written(month.after(1))}')"


def _written(month: Month) -> str:
    # As the server writes it in a session in UTC.
    return f"{month}-01 00:00:00+00"
