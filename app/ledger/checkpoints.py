"""Integrates what was appended into the tree, and signs what the tree is: one replica at a time, for all of them.

Every replica runs this; whoever gets the lock does the next step, in one transaction:

    (1) look        how many entries there are, how many are in the tree, how many under a checkpoint
    (2) elect       an advisory lock that ends with the transaction; who does not get it looks again later
    (3) fence       the row of `ledger_tree`, held to the commit: no two trees are ever made of one ledger
    (4) the step    introduce   a key that is new says so in the log before it signs anything
                    integrate   a slice of the entries below the head: new tiles, size, root
                    sign        compare the tree with everything that is known to have been signed (in memory, in the
                                database, in the guard file), remember it outside the database, write it down
    (5) COMMIT      publishes it

INVARIANT: nothing is signed that is not a continuation of everything signed before, as far as anybody remembers; and
nothing is signed that is not on disk. What can be seen of the ledger may not be on disk yet (docs/adr/0035), so a slice
is integrated and committed, which takes the disk along, and is signed by the transaction after it. A process that dies
between any two steps leaves either nothing or the whole.
"""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import Enum, StrEnum, auto
from typing import Any, Final, assert_never
from uuid import UUID

import asyncpg

from app.background import chance
from app.core.merkle import Growth, grow, root, tiles_for_root
from app.core.notes import Checkpoint, Note, NoteSignature, parse_note
from app.core.tiles import HASH_BYTES
from app.errors import FirewallError, Kind
from app.ledger.append import WRITE
from app.ledger.guard import Guard
from app.ledger.signing import Signer, introduction, introduction_id
from app.ledger.tree import Place, StoredCheckpoint, read_places, reader_of, widest, write_growth
from app.persistence.engine import (
    DATABASE_ERRORS,
    STATEMENT_TIMEOUT,
    Observer,
    Unobserved,
    error_kind,
    translate,
)

# Seconds between two checkpoints at the least, whoever signs them.
INTERVAL: Final = 1.0
# Entries in one transaction: half a megabyte of hashes, a tenth of a second of the database's time.
SLICE: Final = 16_384
# What part of a slice may be left for the next checkpoint.
_NEARLY: Final = 16
# Leaves hashed before others get their turn: a millisecond of the event loop.
_CHUNK_BYTES: Final = 1024 * HASH_BYTES
# Seconds; as for the writer (reference/firewall-failure-mode-matrix.md, mode 1).
BACKOFF: Final = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
# Seconds. A signer that takes longer is as good as away.
SIGN_TIMEOUT: Final = 5.0
# Seconds in which a process that stopped in the middle keeps the others from their work.
_STALL: Final = 15.0
# Seconds for which entries may wait for their checkpoint before health says so.
BEHIND: Final = 60.0
# Seconds between two looks at a ledger that is not signed any more: a human has to find out first.
REFUSED_PAUSE: Final = 5.0
# Seconds between two times that old checkpoints are thinned out.
_THIN_EVERY: Final = 600.0

OPERATION: Final = "checkpoint"

# The advisory lock's name: any number, the same in every release ("mfw sign" in ASCII).
ADVISORY_LOCK: Final = 0x6D66_7720_7369_676E

_LOOK: Final = """
SELECT head.next_index AS entries, tree.size AS integrated, tree.root AS root,
    newest.size AS signed, newest.root AS signed_root, newest.note AS note,
    extract(epoch FROM clock_timestamp() - newest.signed_at)::float8 AS age,
    (SELECT idx FROM ledger_entries WHERE id = $1::uuid) AS introduced,
    (SELECT idx FROM ledger_entries WHERE id = $2::uuid) AS previous_introduced
FROM ledger_head AS head CROSS JOIN ledger_tree AS tree
LEFT JOIN LATERAL (SELECT * FROM ledger_checkpoints ORDER BY size DESC LIMIT 1) AS newest ON true
"""
# For this transaction alone, so that it is the same through a pooler: nothing is published that is not on disk, and who
# is stopped in the middle loses the locks.
_LOCAL: Final = """
SELECT set_config('statement_timeout', $1, true), set_config('idle_in_transaction_session_timeout', $2, true),
    CASE WHEN current_setting('synchronous_commit') = 'off' THEN set_config('synchronous_commit', 'on', true) END
"""
_ELECT: Final = "SELECT pg_try_advisory_xact_lock($1)"
_FENCE: Final = "SELECT FROM ledger_tree FOR UPDATE"
# Hashed where the receipts are: 32 bytes travel for each. RFC 9162 section 2.1.1: 0x00 before a leaf.
_LEAVES: Final = r"""
SELECT count(*) AS found, string_agg(sha256('\x00'::bytea || receipt), ''::bytea ORDER BY idx) AS hashes
FROM ledger_entries WHERE idx >= $1 AND idx < $2
"""
_LATEST_OF: Final = "SELECT max(idx) FROM ledger_entries WHERE id = ANY($1::uuid[])"
_PUBLISH: Final = """
INSERT INTO ledger_checkpoints (size, root, origin, signed_at, note) VALUES ($1, $2, $3, clock_timestamp(), $4)
RETURNING signed_at
"""
# All of the last hour, then the last one of each hour.
_THIN: Final = """
DELETE FROM ledger_checkpoints AS old USING (
    SELECT size, signed_at, lead(signed_at) OVER (ORDER BY size) AS following FROM ledger_checkpoints
) AS row
WHERE old.size = row.size AND row.signed_at < now() - interval '1 hour'
    AND date_trunc('hour', row.signed_at, 'UTC') = date_trunc('hour', row.following, 'UTC')
"""

_WHAT_NOW: Final = "do not restart it away: docs/ledger.md, `When signing is refused`, says how to find out and go on"

_log: Final = logging.getLogger("mfw.checkpoints")


class NotaryState(StrEnum):
    """How the tree and its checkpoints do, as this replica knows."""

    CURRENT = "current"
    UNSIGNED = "unsigned"  # there is no key: the tree is integrated, nothing is signed
    SUPERSEDED = "superseded"  # a newer key signs; this replica has an old one
    BEHIND = "behind"  # entries wait for longer than they should
    REFUSED = "refused"  # what would be signed contradicts what was: needs a human


class _Step(Enum):
    """What one transaction does."""

    NONE = auto()
    INTRODUCE = auto()
    INTEGRATE = auto()
    SIGN = auto()


@dataclass(frozen=True, slots=True)
class _Look:
    """The ledger at one moment. `age` is that of the newest checkpoint, in seconds by the database's clock; `ours` says
    whether our key signed that.
    """

    entries: int
    integrated: int
    root: bytes
    newest: Checkpoint | None
    note: Note | None
    age: float
    introduced: int | None
    previous_introduced: int | None
    superseded: bool
    ours: bool

    @property
    def signed(self) -> int:
        """How many entries are under the newest checkpoint."""
        return 0 if self.newest is None else self.newest.size


@dataclass(frozen=True, slots=True)
class _Signed:
    """A checkpoint that was signed, and where that is remembered."""

    where: str
    checkpoint: Checkpoint


class Notary:
    """Integrates and signs for one process, on one connection of its own. Belongs to the event loop of `start`.

    `connect` opens a connection that can write; it may lead through a pooler in transaction mode. Without a `signer`
    the tree is integrated all the same. With `previous`, the key before this one, every checkpoint has both signatures.
    `published` is told of each checkpoint after its commit, must not raise and returns at once; `refused` is told of
    each refusal. Times are in seconds.

    Does not check: entries that are in the tree already. `mfw ledger verify` reads all of them again.
    """

    def __init__(
        self,
        connect: "Callable[[], Awaitable[asyncpg.Connection[Any]]]",
        *,
        engine: str,
        entropy: Callable[[int], bytes],
        signer: Signer | None = None,
        previous: Signer | None = None,
        guard: Guard | None = None,
        interval: float = INTERVAL,
        slice_max: int = SLICE,
        statement_timeout: float = STATEMENT_TIMEOUT,
        published: Callable[[StoredCheckpoint], None] | None = None,
        refused: Callable[[], None] | None = None,
        observer: Observer | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        monotonic: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = chance,
        backoff: Sequence[float] = BACKOFF,
    ) -> None:
        self._connect = connect
        self._engine = engine
        self._entropy = entropy
        self._signer = signer
        # The one that signs, and the one before it.
        self._signers = [one for one in (signer, previous) if one is not None]
        self._guard = guard
        self._interval = interval
        self._slice_max = slice_max
        self._local = str(int(statement_timeout * 1000)), str(int(_STALL * 1000))
        self._published = published
        self._refused = refused
        self._observer = observer or Unobserved()
        self._now = now
        self._monotonic = monotonic
        self._jitter = jitter
        self._backoff = backoff
        self._ids = [_introduction_of(one) for one in (signer, previous)]
        self._connection: asyncpg.Connection[Any] | None = None
        self._task: asyncio.Task[None] | None = None
        self._failures = 0
        self._remembered: Checkpoint | None = None
        self._learnt: Checkpoint | None = None
        self._concluded = False
        self._guarded: Checkpoint | None = None
        self._began_anew = False
        self._last: _Look | None = None
        self._looked_at = -math.inf
        self._waiting_since: float | None = None
        self._refusal: str | None = None
        self._trouble: str | None = None
        self._thinned_at = -math.inf

    @property
    def lag(self) -> int:
        """How many entries are not under a checkpoint yet, at the last look."""
        return 0 if self._last is None else self._last.entries - self._last.signed

    @property
    def age(self) -> float:
        """Seconds since the newest checkpoint was signed; infinite before the first."""
        if self._last is None:
            return math.inf
        return self._last.age + self._monotonic() - self._looked_at

    @property
    def size(self) -> int:
        """How many entries are under the newest checkpoint."""
        return 0 if self._last is None else self._last.signed

    def report(self) -> tuple[NotaryState, str]:
        """How it does, in words for an operator."""
        if self._refusal is not None:
            return NotaryState.REFUSED, self._refusal
        waited = 0.0 if self._waiting_since is None else self._monotonic() - self._waiting_since
        trouble = "" if self._trouble is None else f"; {self._trouble}"
        if waited > BEHIND:
            return NotaryState.BEHIND, f"{self.lag} entries wait for their checkpoint since {waited:.0f} s{trouble}"
        if self._last is not None and self._last.superseded:
            return NotaryState.SUPERSEDED, "a newer key signs the checkpoints; this replica has an older one"
        if self._signer is None:
            integrated = 0 if self._last is None else self._last.integrated
            return NotaryState.UNSIGNED, f"no signing key: {integrated} entries in the tree, none signed{trouble}"
        return NotaryState.CURRENT, f"{self.size} entries signed, {self.lag} wait{trouble}"

    async def start(self) -> None:
        """Begin to look. Does not wait for the database."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="notary")

    async def stop(self) -> None:
        """End at once; what is under way is rolled back, and somebody else goes on."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        self._drop()

    async def _run(self) -> None:
        while True:
            pause = await self._turn()
            await asyncio.sleep(pause)

    async def _turn(self) -> float:
        """One round; gives the seconds until the next. Raises nothing: INVARIANT: the task outlives what happens."""
        began = time.perf_counter()
        try:
            pause = await self.round()
        except FirewallError as error:
            self._drop()
            if error.kind in {Kind.UNAVAILABLE, Kind.TIMEOUT}:
                return self._fail(error)
            self._refuse(error)
            return max(self._interval, REFUSED_PAUSE)
        except DATABASE_ERRORS as error:
            self._drop()
            self._observer.error(error_kind(error))
            return self._fail(translate(error))
        except Exception as error:  # noqa: BLE001 - a signer may raise anything
            self._drop()
            _log.exception("checkpoint not made")
            return self._fail(FirewallError(Kind.UNAVAILABLE, f"not made: {type(error).__name__}"))
        self._observer.timed(OPERATION, time.perf_counter() - began)
        self._failures = 0
        self._trouble = None
        # Who was not elected found nothing out.
        if self._refusal is not None and self._concluded:
            self._refusal = None
            _log.warning("checkpoints are signed again")
        return pause

    def _fail(self, error: FirewallError) -> float:
        if self._trouble is None:
            _log.warning("checkpoint not made", extra={"fields": {"error": str(error)}})
        self._trouble = str(error)
        self._failures += 1
        return self._backoff[min(self._failures, len(self._backoff)) - 1] * (0.5 + 0.5 * self._jitter())

    def _refuse(self, error: FirewallError) -> None:
        """Loud, and again at each look: it does not go away by itself."""
        text = str(error) if error.fix else f"{error.detail}; {_WHAT_NOW}"
        if self._refused is not None:
            self._refused()
        if self._refusal != text:
            _log.error("checkpoint refused", extra={"fields": {"reason": text}})
        self._refusal = text

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()

    async def round(self) -> float:
        """Look, and do what there is to do, once; gives the seconds after which to look again.

        Raises FirewallError (CONFLICT, MALFORMED) where signing is refused, (UNAVAILABLE, TIMEOUT) where the guard or
        the signer fails; and what asyncpg, or the signer, raises.
        """
        if self._connection is None or self._connection.is_closed():
            self._connection = await self._connect()
            self._guarded = await self._read_guard()
        connection = self._connection
        # In a transaction, or a pooler would ask one server and bring the answer of another.
        async with connection.transaction(isolation="read_committed"):
            look = await self._look(connection)
            await self._learn(connection, look)
        step, wait = self._next(look)
        self._concluded = step is _Step.NONE
        if self._concluded:
            return wait
        made: _Made | None = None
        try:
            async with connection.transaction(isolation="read_committed"):
                await connection.execute(_LOCAL, *self._local)
                if not await connection.fetchval(_ELECT, ADVISORY_LOCK):
                    return self._interval
                await connection.execute(_FENCE)
                # Again, now that nobody else can change it but by appending. Replicas may share the guard file.
                self._guarded = await self._read_guard()
                look = await self._look(connection)
                step, wait = self._next(look)
                match step:
                    case _Step.NONE:
                        pass
                    case _Step.INTRODUCE:
                        await self._introduce(connection, look)
                    case _Step.INTEGRATE:
                        await self._integrate(connection, look)
                    case _Step.SIGN:
                        made = await self._sign(connection, look)
                    case _:
                        assert_never(step)
        except asyncpg.RestrictViolationError as error:
            raise _contradiction("the tree in the database is not the one that it was made of") from error
        self._concluded = True
        if made is not None:
            # Only now: before the commit nobody can fetch it.
            self._take(replace(look, newest=made.checkpoint, note=made.note, age=0.0))
            if self._published is not None:
                self._published(made.stored)
        return wait

    # (1) look

    async def _look(self, connection: "asyncpg.Connection[Any]") -> _Look:
        """The ledger as it is now. Raises FirewallError where that contradicts what was signed."""
        row = await connection.fetchrow(_LOOK, *self._ids)
        if row is None:
            raise FirewallError(
                Kind.UNAVAILABLE, "the ledger has no head or no tree", fix="restore the database from its backup"
            )
        newest, note = _opened(row)
        superseded = is_ours = False
        if self._signer is not None and note is not None:
            is_ours = _signed_by(self._signer, note)
            others = self._others(note)
            latest = await connection.fetchval(_LATEST_OF, others) if others else None
            superseded = latest is not None and row["introduced"] is not None and latest > row["introduced"]
        if superseded and not (self._last is not None and self._last.superseded):
            _log.warning("another key signs the checkpoints now")
        look = _Look(
            entries=row["entries"],
            integrated=row["integrated"],
            root=row["root"],
            newest=newest,
            note=note,
            age=math.inf if row["age"] is None else row["age"],
            introduced=row["introduced"],
            previous_introduced=row["previous_introduced"],
            superseded=superseded,
            ours=is_ours,
        )
        self._take(look)
        self._compare_sizes(look)
        return look

    async def _learn(self, connection: "asyncpg.Connection[Any]", look: _Look) -> None:
        """Compare what another replica signed with what is remembered here, and only then remember that instead.

        Or a replica that remembers nothing, on a database that was restored, would make the others forget.
        """
        newest = look.newest
        if newest is None or newest == self._learnt or not look.ours:
            return
        await self._compare_roots(connection, look)
        self._learnt = newest
        if self._remembered is None or newest.size > self._remembered.size:
            self._remembered = newest

    async def _compare_roots(self, connection: "asyncpg.Connection[Any]", look: _Look) -> dict[Place, bytes]:
        """Compare the tree with everything that was signed of it; gives the tiles that this takes."""
        known = [one for one in self._signed(look) if one.checkpoint.size <= look.integrated]
        wanted = tiles_for_root(look.integrated).union(*(tiles_for_root(one.checkpoint.size) for one in known))
        places = await read_places(connection, wanted)
        for one in known:
            _compare(one, root(one.checkpoint.size, reader_of(places)))
        return places

    def _take(self, look: _Look) -> None:
        """Keep what metrics and health are asked for."""
        now = self._monotonic()
        progressed = self._last is None or look.signed != self._last.signed
        if self._signer is None or look.entries == look.signed:
            self._waiting_since = None
        elif progressed or self._waiting_since is None:
            self._waiting_since = now
        self._last = look
        self._looked_at = now

    def _others(self, note: Note) -> list[UUID]:
        """The ids of the entries that introduce other keys which signed, under our name, and which are not ours."""
        ours = {(one.key.name, one.key.key_id) for one in self._signers}
        names = {name for name, _ in ours}
        return [
            introduction_id(one.name, one.key_id)
            for one in note.signatures
            if one.name in names and (one.name, one.key_id) not in ours
        ]

    def _next(self, look: _Look) -> "tuple[_Step, float]":
        """What there is to do now, and the seconds until the next look after it."""
        may_sign = self._may_sign(look)
        if may_sign and look.introduced is None:
            return _Step.INTRODUCE, 0.0
        due = max(0.0, self._interval - look.age)
        waiting = look.entries - look.integrated
        # What came last as well, or it waits for the next one; but a backlog does not keep from signing.
        caught_up = waiting < self._slice_max // _NEARLY or look.age >= 2 * self._interval
        if may_sign and not due and caught_up and self._can_sign(look):
            return _Step.SIGN, 0.0
        if waiting >= self._slice_max:
            return _Step.INTEGRATE, 0.0
        if waiting and may_sign:
            return (_Step.NONE, due) if due else (_Step.INTEGRATE, 0.0)
        if waiting:
            return _Step.INTEGRATE, self._interval
        return _Step.NONE, due if may_sign and look.signed < look.entries else self._interval

    def _can_sign(self, look: _Look) -> bool:
        return (
            look.signed < look.integrated
            # The entry that introduces the key is in what it signs first.
            and look.introduced is not None
            and look.introduced < look.integrated
            # Something that was signed and not published may be larger: first the tree grows to there.
            and all(one.checkpoint.size <= look.integrated for one in self._signed(look))
        )

    def _may_sign(self, look: _Look) -> bool:
        return self._signer is not None and not look.superseded

    # introduce

    async def _introduce(self, connection: "asyncpg.Connection[Any]", look: _Look) -> None:
        """Say in the log that our key begins. Holds the ledger's head to the commit, which comes next."""
        key, *before = [one.key for one in self._signers]
        replaces = [one.text for one in before]
        if not before:
            replaces = [] if look.note is None else [f"{one.name}+{one.key_id:08x}" for one in look.note.signatures]
        entry = introduction(key, replaces=replaces, now=self._now(), entropy=self._entropy, engine=self._engine)
        await connection.fetchrow(WRITE, *([member] for member in entry), False)
        _log.warning("a key begins to sign the ledger", extra={"fields": {"key": key.text, "replaces": replaces}})

    # integrate

    async def _integrate(self, connection: "asyncpg.Connection[Any]", look: _Look) -> None:
        """Bring a slice into the tree."""
        places = await read_places(connection, tiles_for_root(look.integrated))
        _check_root(look, places)
        await write_growth(connection, await self._grow(connection, look, places))

    async def _grow(self, connection: "asyncpg.Connection[Any]", look: _Look, places: dict[Place, bytes]) -> Growth:
        """What the tree becomes with the next slice; `places` gets the tiles that it then has."""
        size = look.integrated
        end = min(look.entries, size + self._slice_max)
        row = await connection.fetchrow(_LEAVES, size, end)
        if row is None or row["found"] != end - size:
            raise _contradiction(f"entries from {size} to {end - 1} are missing below the head of the ledger")
        steps: list[Growth] = []
        for at in range(0, len(row["hashes"]), _CHUNK_BYTES):
            chunk = row["hashes"][at : at + _CHUNK_BYTES]
            leaves = [chunk[start : start + HASH_BYTES] for start in range(0, len(chunk), HASH_BYTES)]
            step = grow(size, leaves, reader_of(places))
            size = step.size
            places.update(((tile.level, tile.index), hashes) for tile, hashes in step.tiles.items())
            steps.append(step)
            # Decisions come first.
            await asyncio.sleep(0)
        return widest(steps)

    # sign

    def _signed(self, look: _Look) -> Iterator[_Signed]:
        """Everything that is known to have been signed."""
        for where, checkpoint in (
            ("in the database", look.newest),
            ("as this process remembers", self._remembered),
            ("as the guard file says", self._guarded),
        ):
            if checkpoint is not None:
                yield _Signed(where, checkpoint)

    def _compare_sizes(self, look: _Look) -> None:
        """What can be told without reading the tree: entries that were signed are not there any more."""
        if look.integrated > look.entries:
            raise _contradiction(f"the tree has {look.integrated} entries, and the ledger {look.entries}")
        if look.signed > look.integrated:
            raise _contradiction(f"{look.signed} entries were signed, and the tree has {look.integrated}")
        for one in self._signed(look):
            if one.checkpoint.size > look.entries:
                raise _contradiction(
                    f"the ledger has {look.entries} entries, and {one.checkpoint.size} were signed, {one.where}"
                )
            if look.newest is not None and one.checkpoint.size == look.signed:
                _compare(one, look.newest.root)

    async def _sign(self, connection: "asyncpg.Connection[Any]", look: _Look) -> "_Made":
        """Sign the tree as it was committed, if it continues everything that was signed."""
        _check_root(look, await self._compare_roots(connection, look))
        began = (look.introduced, look.previous_introduced)
        signers = [one for one, index in zip(self._signers, began, strict=False) if index is not None]
        checkpoint = Checkpoint(signers[0].key.name, look.integrated, look.root)
        text = checkpoint.text
        # From here on this process signs nothing that contradicts it, whatever becomes of the transaction.
        self._remembered = checkpoint
        note = Note(text, tuple([await _signature(signer, text) for signer in signers]))
        content = note.serialise()
        if self._guard is not None:
            await asyncio.to_thread(self._guard.write, content)
            self._guarded = checkpoint
        signed_at = await connection.fetchval(_PUBLISH, look.integrated, look.root, checkpoint.origin, content)
        if self._monotonic() - self._thinned_at > _THIN_EVERY:
            await connection.execute(_THIN)
            self._thinned_at = self._monotonic()
        stored = StoredCheckpoint(look.integrated, look.root, checkpoint.origin, signed_at, content)
        return _Made(checkpoint, note, stored)

    async def _read_guard(self) -> Checkpoint | None:
        """What the guard file remembers of this log."""
        if self._guard is None or self._signer is None:
            return None
        found = await asyncio.to_thread(self._guard.read)
        if found is not None and found.origin != self._signer.key.name:
            # The way to begin anew after entries were lost: another origin, on purpose.
            if not self._began_anew:
                _log.warning("the guard file is of another log", extra={"fields": {"origin": found.origin}})
            self._began_anew = True
            return None
        return found


@dataclass(frozen=True, slots=True)
class _Made:
    checkpoint: Checkpoint
    note: Note
    stored: StoredCheckpoint


def _introduction_of(signer: Signer | None) -> UUID | None:
    return None if signer is None else introduction_id(signer.key.name, signer.key.key_id)


def _signed_by(signer: Signer, note: Note) -> bool:
    """Whether the key signed the note. Raises FirewallError where it says so and does not hold."""
    key = signer.key
    found = [one for one in note.signatures if (one.name, one.key_id) == (key.name, key.key_id)]
    if not all(key.verify(note.text, one) for one in found):
        raise _contradiction("the newest checkpoint in the database has a signature of ours that does not hold")
    return bool(found)


async def _signature(signer: Signer, text: str) -> NoteSignature:
    """A signature that holds. Raises FirewallError (TIMEOUT, UNAVAILABLE), and what the signer raises."""
    try:
        async with asyncio.timeout(SIGN_TIMEOUT):
            signature = await signer.sign(text)
    except TimeoutError:
        raise FirewallError(Kind.TIMEOUT, "the signer of checkpoints did not answer in time") from None
    if not signer.key.verify(text, signature):
        raise FirewallError(Kind.UNAVAILABLE, "the signer of checkpoints gave a signature that does not hold")
    return signature


def _opened(row: Any) -> tuple[Checkpoint | None, Note | None]:
    """The newest checkpoint, as its note says. Raises FirewallError where the columns beside it say another thing."""
    if row["note"] is None:
        return None, None
    try:
        note = parse_note(row["note"])
        checkpoint = Checkpoint.parse(note.text)
    except FirewallError as error:
        raise _contradiction(f"the newest checkpoint in the database is {error.detail}") from error
    if (checkpoint.size, checkpoint.root) != (row["signed"], row["signed_root"]):
        raise _contradiction("the newest checkpoint in the database says one thing, and its note another")
    return checkpoint, note


def _check_root(look: _Look, places: Mapping[Place, bytes]) -> None:
    if root(look.integrated, reader_of(places)) != look.root:
        raise _contradiction(f"the tiles do not give the root of the tree of {look.integrated} entries")


def _compare(one: _Signed, found: bytes) -> None:
    if one.checkpoint.root != found:
        raise _contradiction(
            f"the first {one.checkpoint.size} entries have another root than the one that was signed, {one.where}"
        )


def _contradiction(detail: str) -> FirewallError:
    return FirewallError(Kind.CONFLICT, detail)
