"""Finds recorded decisions: an index beside the ledger, filled behind it, and pages of it from the newest down.

A record is opaque bytes to the ledger, so what is searched for is taken out of it later, by whichever replica comes
first (docs/adr/0038-reading.md). Everything in the index follows from the records, masked as they are.

INVARIANT: who indexes or erases holds the row of `ledger_search_progress`; so each entry is indexed in its order, and
nothing that was erased comes back.
"""

import asyncio
import logging
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any, Final
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from app.background import chance, ended
from app.core.canonical import canonical
from app.core.types import Effect
from app.errors import FirewallError, Kind
from app.persistence.engine import DATABASE_ERRORS, Observer, Transactions, translate
from app.persistence.tables import ledger_head, ledger_search, ledger_search_progress

# Seconds between two looks at a ledger that does not grow: what was decided is found within a second.
POLL_SECONDS: Final = 0.5
# Entries that are indexed by one transaction, at most; fewer while they take longer than SLICE_SECONDS, so that an
# erasure, which waits for the same row, need not wait for long.
SLICE_MAX: Final = 2000
SLICE_SECONDS: Final = 0.5
# Seconds after a failure.
RETRY_SECONDS: Final = 2.0
# Of a page.
LIMIT_MAX: Final = 200
# Characters of a word that are kept to be shown and compared; more than any that passes step 4.
WORD_CHARACTERS_MAX: Final = 1024
# By how much the times of two entries may be the other way round than their indexes: a transaction takes its time when
# it begins and its index when it writes. No statement of ours may take longer than the half of it.
OVERLAP: Final = timedelta(minutes=5)

_FIRST: Final = datetime.min.replace(tzinfo=UTC)
_LAST: Final = datetime.max.replace(tzinfo=UTC)

_CURSOR_PREFIX: Final = b"mutationfirewall.io/decision-cursor/v1\x00"
_CURSOR_DIGEST_BYTES: Final = 6
_INDEX_BYTES: Final = 8
_OPERATION: Final = "search"

_log: Final = logging.getLogger("mfw.search")

_LAG: Final = sa.select(
    sa.select(ledger_head.c.next_index).scalar_subquery().label("size"),
    sa.select(ledger_search_progress.c.next_index).scalar_subquery().label("indexed"),
)
# Another replica that is at it already is not waited for.
_TURN: Final = sa.select(ledger_search_progress.c.next_index).with_for_update(skip_locked=True)
_MOVE: Final = sa.update(ledger_search_progress).values(next_index=sa.bindparam("end"))


def _key(one: str, other: str = "''") -> str:
    """`ledger_search_key` written out: a call of it costs more than what it does."""
    text = f"char_length({one})::text || ':' || {one} || {other}"
    return f"('x' || encode(substring(sha256(convert_to({text}, 'UTF8')) FOR 8), 'hex'))::bit(64)::bigint"


# From `start` up to before `end`, on the server: no record travels, and nothing of it is parsed where requests are
# answered.
FILL: Final = sa.text(f"""
    INSERT INTO ledger_search (
        idx, recorded_at, id, subject_key, resource_key, resource_type_key, action_key, policy_key, rule_key,
        subject_type, subject_id, resource_type, resource_id, action, decision, policy, rule, mode
    )
    SELECT idx, recorded_at, id,
        {_key("subject_type", "subject_id")}, {_key("resource_type", "resource_id")},
        {_key("resource_type")}, {_key("action")}, {_key("policy")}, {_key("policy", "rule")},
        left(subject_type, {WORD_CHARACTERS_MAX}), left(subject_id, {WORD_CHARACTERS_MAX}),
        left(resource_type, {WORD_CHARACTERS_MAX}), left(resource_id, {WORD_CHARACTERS_MAX}),
        left(action, {WORD_CHARACTERS_MAX}), decision, left(policy, {WORD_CHARACTERS_MAX}),
        left(rule, {WORD_CHARACTERS_MAX}), mode
    FROM (
        SELECT idx, recorded_at, id,
            coalesce(content #>> '{{input,subject,type}}', '') AS subject_type,
            coalesce(content #>> '{{input,subject,id}}', '') AS subject_id,
            coalesce(content #>> '{{input,resource,type}}', '') AS resource_type,
            coalesce(content #>> '{{input,resource,id}}', '') AS resource_id,
            coalesce(content #>> '{{input,action,name}}', '') AS action,
            coalesce(content ->> 'decision', '') AS decision,
            coalesce(content #>> '{{reasons,0,policy}}', '') AS policy,
            coalesce(content #>> '{{reasons,0,rule}}', '') AS rule,
            coalesce(content #>> '{{reasons,0,mode}}', '') AS mode
        FROM (
            SELECT entries.idx, entries.recorded_at, entries.id, ledger_search_read(record) AS content
            FROM ledger_entries AS entries JOIN ledger_records USING (idx, recorded_at)
            WHERE idx >= :start AND idx < :end AND kind = 'decision'
            OFFSET 0
        ) AS read
        WHERE content IS NOT NULL
        OFFSET 0
    ) AS found
    ON CONFLICT DO NOTHING
""")  # noqa: S608 - a number of ours
# For this transaction only. A plan that suits every subject suits none that is rare.
_CUSTOM_PLANS: Final = sa.text("SELECT set_config('plan_cache_mode', 'force_custom_plan', true)")
_BOUNDS: Final = sa.text("""
    SELECT
        CASE WHEN CAST(:since AS timestamptz) IS NULL THEN 0 ELSE ledger_index_at(CAST(:since AS timestamptz)) END
            AS first,
        CASE WHEN CAST(:until AS timestamptz) IS NULL THEN NULL ELSE ledger_index_at(CAST(:until AS timestamptz)) END
            AS end,
        (SELECT next_index FROM ledger_search_progress) AS indexed
""")


def search_key(one: str, other: str = "") -> int:
    """The number under which the index has a word, or two of them: the same as the database's `ledger_search_key`."""
    return int.from_bytes(sha256(f"{len(one)}:{one}{other}".encode()).digest()[:8], "big", signed=True)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is searched for; everything that is given must fit. `until` itself is left out, `since` is not.

    `policy` and `rule` are those of the reason that decided; a rule is one of its policy. Moments are in UTC.
    """

    subject: tuple[str, str] | None = None
    resource: tuple[str, str] | None = None
    resource_type: str | None = None
    action: str | None = None
    decision: Effect | None = None
    policy: str | None = None
    rule: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    def cursor(self, idx: int) -> str:
        """Where the page after the entry at `idx` begins: opaque, and of this search alone."""
        return urlsafe_b64encode(idx.to_bytes(_INDEX_BYTES, "big") + self._digest).decode().rstrip("=")

    def read_cursor(self, text: str) -> int:
        """The index in a cursor. Raises FirewallError (MALFORMED) for one that no page of this search gave."""
        try:
            content = urlsafe_b64decode(f"{text}{'=' * (-len(text) % 4)}".encode("ascii"))
        except ValueError:
            content = b""
        idx = int.from_bytes(content[:_INDEX_BYTES], "big")
        if content[_INDEX_BYTES:] != self._digest or idx >= 2**63 or self.cursor(idx) != text:
            raise FirewallError(
                Kind.MALFORMED,
                "`cursor` is not one that this search gave",
                fix="send `next` of the page before, with the same filters; leave it out for the first page",
            )
        return idx

    @property
    def _digest(self) -> bytes:
        moments = [None if moment is None else moment.isoformat() for moment in (self.since, self.until)]
        parts = [self.subject, self.resource, self.resource_type, self.action, self.decision, self.policy, self.rule]
        asked = canonical([list(part) if isinstance(part, tuple) else part for part in parts] + moments)
        return sha256(_CURSOR_PREFIX + asked).digest()[:_CURSOR_DIGEST_BYTES]


@dataclass(frozen=True, slots=True)
class FoundDecision:
    """One decision as the index has it."""

    idx: int
    id: UUID
    recorded_at: datetime
    subject: tuple[str, str]
    resource: tuple[str, str]
    action: str
    decision: str
    policy: str
    rule: str
    mode: str


@dataclass(frozen=True, slots=True)
class Page:
    """Decisions from the newest down. `indexed` says how many entries of the ledger were searched.

    `more` tells that older ones may fit as well.
    """

    items: tuple[FoundDecision, ...]
    more: bool
    indexed: int


class DecisionIndex:
    """The index, to search in. Every method raises FirewallError (UNAVAILABLE, TIMEOUT) when the database fails."""

    def __init__(self, engine: AsyncEngine, *, observer: Observer | None = None) -> None:
        self._transaction = Transactions(engine, operation=_OPERATION, observer=observer)

    async def page(self, wanted: Wanted, *, limit: int, before: int | None = None) -> Page:
        """Up to `limit` decisions that fit, the newest first, each with an index lower than `before`."""
        times = {
            "since": None if wanted.since is None else max(wanted.since, _FIRST + OVERLAP) - OVERLAP,
            "until": None if wanted.until is None else min(wanted.until, _LAST - OVERLAP) + OVERLAP,
        }
        async with self._transaction() as connection:
            await connection.execute(_CUSTOM_PLANS)
            bounds = (await connection.execute(_BOUNDS, times)).one()
            ends = [end for end in (before, bounds.end) if end is not None]
            statement = statement_of(wanted, first=bounds.first, end=min(ends) if ends else None).limit(limit + 1)
            rows = list(await connection.execute(statement))
        return Page(tuple(map(_found, rows[:limit])), more=len(rows) > limit, indexed=bounds.indexed)


def statement_of(wanted: Wanted, *, first: int, end: int | None) -> "sa.Select[Any]":
    """The search itself, over the indexes from `first` to the one before `end`."""
    of = ledger_search.c
    conditions: list[sa.ColumnElement[bool]] = []
    if wanted.subject is not None:
        kind, name = wanted.subject
        conditions += [of.subject_key == search_key(kind, name), of.subject_type == kind, of.subject_id == name]
    if wanted.resource is not None:
        kind, name = wanted.resource
        conditions += [of.resource_key == search_key(kind, name), of.resource_type == kind, of.resource_id == name]
    if wanted.resource_type is not None:
        conditions += [
            of.resource_type_key == search_key(wanted.resource_type),
            of.resource_type == wanted.resource_type,
        ]
    if wanted.action is not None:
        conditions += [of.action_key == search_key(wanted.action), of.action == wanted.action]
    if wanted.decision is not None:
        conditions.append(of.decision == wanted.decision.value)
    if wanted.policy is not None and wanted.rule is not None:
        conditions += [of.rule_key == search_key(wanted.policy, wanted.rule), of.rule == wanted.rule]
    elif wanted.policy is not None:
        conditions.append(of.policy_key == search_key(wanted.policy))
    if wanted.policy is not None:
        conditions.append(of.policy == wanted.policy)
    if wanted.since is not None:
        conditions += [of.recorded_at >= wanted.since, of.idx >= first]
    if wanted.until is not None:
        conditions.append(of.recorded_at < wanted.until)
    if end is not None:
        conditions.append(of.idx < end)
    return sa.select(ledger_search).where(*conditions).order_by(of.idx.desc())


def _found(row: "sa.Row[Any]") -> FoundDecision:
    return FoundDecision(
        idx=row.idx,
        id=row.id,
        recorded_at=row.recorded_at,
        subject=(row.subject_type, row.subject_id),
        resource=(row.resource_type, row.resource_id),
        action=row.action,
        decision=row.decision,
        policy=row.policy,
        rule=row.rule,
        mode=row.mode,
    )


class Indexer:
    """Fills the index behind the ledger, on an engine of its own; each replica runs one, and one of them works.

    Belongs to the event loop that `start` ran in. Times are in seconds. `jitter` gives numbers from 0 to 1.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        *,
        poll_seconds: float = POLL_SECONDS,
        retry_seconds: float = RETRY_SECONDS,
        slice_max: int = SLICE_MAX,
        observer: Observer | None = None,
        clock: Callable[[], float] = time.perf_counter,
        jitter: Callable[[], float] = chance,
    ) -> None:
        self._engine = engine
        self._poll_seconds = poll_seconds
        self._retry_seconds = retry_seconds
        self._slice_max = slice_max
        self._slice = slice_max
        self._transaction = Transactions(engine, operation=_OPERATION, observer=observer, clock=clock)
        self._clock = clock
        self._jitter = jitter
        self._lag = 0
        self._failing = False
        self._task: asyncio.Task[None] | None = None

    @property
    def lag(self) -> int:
        """How many entries of the ledger are not in the index yet, as of the last look."""
        return self._lag

    async def start(self) -> None:
        """Begin to follow the ledger; returns at once."""
        self._task = asyncio.create_task(self._run(), name="search index")

    async def stop(self) -> None:
        """End following; a slice that is under way is rolled back and done again by the next one."""
        task, self._task = self._task, None
        await ended(task)

    async def step(self) -> bool:
        """Index one slice where it is our turn; False where there was nothing to do, or another replica does it.

        Raises FirewallError (UNAVAILABLE, TIMEOUT) when the database fails.
        """
        if not await self._look():
            return False
        started = self._clock()
        try:
            async with self._transaction() as connection:
                start = (await connection.execute(_TURN)).scalar_one_or_none()
                if start is None:
                    return False
                # Read after the turn was ours: what was committed before is all there.
                size = (await connection.execute(sa.select(ledger_head.c.next_index))).scalar_one()
                end = min(size, start + self._slice)
                if end > start:
                    await connection.execute(FILL, {"start": start, "end": end})
                    await connection.execute(_MOVE, {"end": end})
        except FirewallError:
            # Whatever it was, less of it is easier.
            self._slice = max(1, self._slice // 8)
            raise
        self._lag = max(0, size - end)
        if self._clock() - started > SLICE_SECONDS:
            self._slice = max(1, self._slice // 2)
        else:
            self._slice = min(self._slice_max, self._slice * 2)
        return bool(end > start)

    async def _look(self) -> int:
        """How far the index is behind, without a lock: most looks find nothing to do."""
        try:
            async with self._engine.connect() as connection:
                row = (await connection.execute(_LAG)).one()
        except DATABASE_ERRORS as error:
            raise translate(error) from error
        self._lag = max(0, (row.size or 0) - (row.indexed or 0))
        return self._lag

    async def _run(self) -> None:
        while True:
            try:
                wait = 0.0 if await self.step() else self._poll_seconds
                self._failing = False
            except Exception as error:  # noqa: BLE001 - INVARIANT: the index is followed whatever happens to one slice
                if not self._failing:
                    _log.warning("decisions not indexed", extra={"fields": {"error": type(error).__name__}})
                self._failing = True
                wait = self._retry_seconds
            # Not all replicas at the same moment.
            await asyncio.sleep(wait * (0.5 + 0.5 * self._jitter()))
