"""Integrity of the log itself, in slices: entries, their receipts, their records, and their leaves in the tree."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import asyncpg

from app.core.integrity import IntegrityCheck
from app.core.merkle import leaf_hash, root_of
from app.core.tiles import HASH_BYTES, TILE_WIDTH
from app.core.types import JsonObject
from app.errors import FirewallError
from app.ledger.receipt import SALT_BYTES, EntryKind, parse, record_digest
from app.ops.findings import Findings

# Entries in one transaction: whole tiles, short enough to keep no vacuum waiting.
SLICE: Final = 16 * TILE_WIDTH
# Rows that are on their way at a time: a record may have a megabyte.
_PREFETCH: Final = 64

_ENTRIES: Final = """
SELECT idx, id, kind, recorded_at, receipt FROM ledger_entries WHERE idx >= $1 AND idx < $2 ORDER BY idx
"""
_RECORDS: Final = """
SELECT idx, recorded_at, salt, record FROM ledger_records WHERE idx >= $1 AND idx < $2 ORDER BY idx, recorded_at
"""
_ERASED: Final = "SELECT idx FROM ledger_erasures WHERE idx >= $1 AND idx < $2"
# Months that are archived and not attached: their records are in files.
_ARCHIVED: Final = """
SELECT DISTINCT starts_at, ends_at FROM ledger_archives
WHERE NOT EXISTS (SELECT FROM pg_class WHERE relname = partition AND relispartition) ORDER BY 1
"""
_TILES: Final = """
SELECT level, idx, hashes FROM ledger_tiles
WHERE (level = 0 AND idx >= $1 AND idx < $2) OR (level = 1 AND idx = $1 / 256)
"""
# What an entry of each kind stands beside, by the members of its receipt.
_BESIDE: Final = {
    IntegrityCheck.ERASURES: "SELECT ledger_index FROM ledger_erasures WHERE ledger_index = ANY($1::bigint[])",
    IntegrityCheck.ARCHIVES: "SELECT ledger_index FROM ledger_archives WHERE ledger_index = ANY($1::bigint[])",
    IntegrityCheck.ACTIVATIONS: (
        "SELECT ledger_index FROM policy_set_activations WHERE ledger_index = ANY($1::bigint[])"
    ),
    IntegrityCheck.SWITCHES: (
        "SELECT asked FROM unnest($1::bigint[]) AS asked WHERE EXISTS"
        " (SELECT FROM kill_switches WHERE ledger_index = asked OR end_ledger_index = asked)"
    ),
}
_SEARCH: Final = "SELECT idx, id, decision FROM ledger_search WHERE idx >= $1 AND idx < $2"
_KEYS: Final = "SELECT id, revoked_at IS NOT NULL AS revoked FROM api_keys WHERE id = ANY($1::uuid[])"


@dataclass(slots=True)
class Seen:
    """What a run has to remember: keys whose making is in the ledger, and what is wrong in the index for searches."""

    keys: set[str] = field(default_factory=set)
    search: set[int] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class _Entry:
    idx: int
    id: UUID
    kind: str
    recorded_at: datetime
    receipt: bytes
    records: "list[asyncpg.Record]"


async def check_slice(
    connection: "asyncpg.Connection[Any]", start: int, end: int, *, findings: Findings, seen: Seen
) -> None:
    """Look at the entries from `start`, a multiple of 256, up to before `end`; the ledger has all of these.

    Within one read-only transaction of the caller's, of one snapshot. Raises what asyncpg raises.
    """
    erased = {row["idx"] for row in await connection.fetch(_ERASED, start, end)}
    archived = [(row["starts_at"], row["ends_at"]) for row in await connection.fetch(_ARCHIVED)]
    leaves: list[bytes | None] = [None] * (end - start)
    beside: dict[IntegrityCheck, list[int]] = {}
    # Decisions that a search should find: by index, their id and what was decided.
    searched: dict[int, tuple[UUID, object]] = {}
    keys: list[tuple[int, str, str]] = []
    expected = start
    async for entry in _entries(connection, start, end, findings):
        for missing in range(expected, entry.idx):
            findings.add(IntegrityCheck.GAPS, f"entry {missing} is missing")
        expected = entry.idx + 1
        leaves[entry.idx - start] = leaf_hash(entry.receipt)
        members = _check_receipt(entry, findings)
        is_archived = any(first <= entry.recorded_at < last for first, last in archived)
        _check_record(entry, members, erased=entry.idx in erased, archived=is_archived, findings=findings)
        if members is None:
            continue
        if members["kind"] == EntryKind.DECISION and (entry.records or is_archived):
            searched[entry.idx] = (entry.id, members["decision"])
        match members["kind"]:
            case EntryKind.ERASURE:
                beside.setdefault(IntegrityCheck.ERASURES, []).append(entry.idx)
            case EntryKind.ARCHIVE:
                beside.setdefault(IntegrityCheck.ARCHIVES, []).append(entry.idx)
            case EntryKind.ACTIVATION:
                beside.setdefault(IntegrityCheck.ACTIVATIONS, []).append(entry.idx)
            case EntryKind.BREAK_GLASS:
                # Two acts have this kind: switches, and activations past the policies.
                check = IntegrityCheck.SWITCHES if "switch" in members else IntegrityCheck.ACTIVATIONS
                beside.setdefault(check, []).append(entry.idx)
            case EntryKind.KEY if "key_id" in members:
                keys.append((entry.idx, str(members["key_id"]), str(members.get("act"))))
            case _:
                pass
    for missing in range(expected, end):
        findings.add(IntegrityCheck.GAPS, f"entry {missing} is missing")
    for check, indexes in beside.items():
        found = {row[0] for row in await connection.fetch(_BESIDE[check], indexes)}
        for idx in indexes:
            if idx not in found:
                findings.add(check, f"entry {idx} has no row beside it")
    await _check_keys(connection, keys, findings, seen)
    await _check_search(connection, start, end, searched, archived=bool(archived), findings=findings, seen=seen)
    await _check_leaves(connection, start, leaves, findings)


async def _entries(
    connection: "asyncpg.Connection[Any]", start: int, end: int, findings: Findings
) -> AsyncIterator[_Entry]:
    """Entries with the records of their index; a record without an entry is a finding."""
    records = connection.cursor(_RECORDS, start, end, prefetch=_PREFETCH).__aiter__()
    record = await anext(records, None)
    async for row in connection.cursor(_ENTRIES, start, end, prefetch=_PREFETCH):
        while record is not None and record["idx"] < row["idx"]:
            findings.add(IntegrityCheck.ORPHANS, f"record {record['idx']} has no entry")
            record = await anext(records, None)
        own = []
        while record is not None and record["idx"] == row["idx"]:
            own.append(record)
            record = await anext(records, None)
        yield _Entry(row["idx"], row["id"], row["kind"], row["recorded_at"], row["receipt"], own)
    while record is not None:
        findings.add(IntegrityCheck.ORPHANS, f"record {record['idx']} has no entry")
        record = await anext(records, None)


def _check_receipt(entry: _Entry, findings: Findings) -> "JsonObject | None":
    """The members of a receipt, None where it is none."""
    try:
        members = parse(entry.receipt)
    except FirewallError as error:
        findings.add(IntegrityCheck.RECEIPTS, f"entry {entry.idx}: {error.detail}")
        return None
    if members["id"] != str(entry.id):
        findings.add(IntegrityCheck.IDS, f"entry {entry.idx} has the id {entry.id}, and its receipt another")
    if members["kind"] != entry.kind:
        findings.add(IntegrityCheck.RECEIPTS, f"entry {entry.idx} is called `{entry.kind}`, and its receipt otherwise")
    return members


def _check_record(
    entry: _Entry, members: "JsonObject | None", *, erased: bool, archived: bool, findings: Findings
) -> None:
    if not entry.records:
        if not erased and not archived:
            findings.add(IntegrityCheck.RECORDS, f"the record of entry {entry.idx} is missing")
        return
    if len(entry.records) > 1:
        findings.add(IntegrityCheck.RECORDS, f"entry {entry.idx} has {len(entry.records)} records")
    for record in entry.records:
        if record["recorded_at"] != entry.recorded_at:
            findings.add(
                IntegrityCheck.TIMES,
                f"entry {entry.idx} was recorded at {entry.recorded_at}, and its record at {record['recorded_at']}",
            )
        if members is None:
            continue
        if len(record["salt"]) != SALT_BYTES:
            findings.add(IntegrityCheck.RECORDS, f"the salt of record {entry.idx} has another length")
        elif record_digest(record["salt"], record["record"]) != members["record"]:
            findings.add(IntegrityCheck.RECORDS, f"record {entry.idx} is not the one that its receipt names")


async def _check_keys(
    connection: "asyncpg.Connection[Any]", keys: list[tuple[int, str, str]], findings: Findings, seen: Seen
) -> None:
    if not keys:
        return
    rows = await connection.fetch(_KEYS, sorted({key for _, key, _ in keys}))
    revoked = {str(row["id"]): row["revoked"] for row in rows}
    for idx, key, act in keys:
        if act != "revoke":
            seen.keys.add(key)
        if key not in revoked:
            findings.add(IntegrityCheck.KEYS, f"entry {idx} is about key {key}, which is not there")
        elif act == "revoke" and not revoked[key]:
            findings.add(IntegrityCheck.KEYS, f"entry {idx} revoked key {key}, which works")


async def _check_search(
    connection: "asyncpg.Connection[Any]",
    start: int,
    end: int,
    searched: dict[int, tuple[UUID, object]],
    *,
    archived: bool,
    findings: Findings,
    seen: Seen,
) -> None:
    """Compare the index for searches with the decisions that have a record."""
    indexed = await connection.fetchval("SELECT next_index FROM ledger_search_progress") or 0
    found = {row["idx"]: (row["id"], row["decision"]) for row in await connection.fetch(_SEARCH, start, end)}
    for idx in sorted(searched.keys() | found.keys()):
        if idx not in searched:
            said = f"a search finds entry {idx}, which is no decision or has no record"
        elif idx not in found:
            # The index comes behind; and that of an archived month goes with its records.
            if idx >= indexed or archived:
                continue
            said = f"no search finds entry {idx}"
        elif found[idx] != searched[idx]:
            said = f"a search says other things of entry {idx} than its receipt"
        else:
            continue
        findings.add(IntegrityCheck.SEARCH, said)
        seen.search.add(idx)


async def _check_leaves(
    connection: "asyncpg.Connection[Any]", start: int, leaves: list[bytes | None], findings: Findings
) -> None:
    """Compare the tiles of level 0 with the receipts, and what the level above has of them."""
    size = await connection.fetchval("SELECT size FROM ledger_tree") or 0
    integrated = min(size - start, len(leaves))
    if integrated <= 0:
        return
    first = start // TILE_WIDTH
    rows = await connection.fetch(_TILES, first, first + -(-integrated // TILE_WIDTH))
    tiles = {(row["level"], row["idx"]): row["hashes"] for row in rows}
    above = tiles.get((1, first // TILE_WIDTH), b"")
    for tile in range(first, first + -(-integrated // TILE_WIDTH)):
        offset = (tile - first) * TILE_WIDTH
        width = min(TILE_WIDTH, integrated - offset)
        hashes = tiles.get((0, tile))
        if hashes is None:
            findings.add(IntegrityCheck.TREE, f"tile 0/{tile} is missing")
            continue
        for place in range(width):
            leaf = leaves[offset + place]
            # A gap is told as a gap.
            if leaf is not None and hashes[place * HASH_BYTES : (place + 1) * HASH_BYTES] != leaf:
                idx = start + offset + place
                findings.add(IntegrityCheck.TREE, f"entry {idx} is not the one that the tree has")
        if width == TILE_WIDTH:
            root = root_of([hashes[at : at + HASH_BYTES] for at in range(0, len(hashes), HASH_BYTES)])
            at = tile % TILE_WIDTH * HASH_BYTES
            if above[at : at + HASH_BYTES] != root:
                findings.add(IntegrityCheck.TREE, f"tile 1/{tile // TILE_WIDTH} does not have the root of 0/{tile}")
