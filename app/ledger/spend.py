"""Decisions that use budgets: counted, made, recorded and used in one transaction.

    (1) admit     a breaker, a bounded number that wait, one at a time for each key and a few at a time in all
    (2) lock      the keys of the budgets, in one order for everybody
    (3) count     what of each is used within its window
    (4) judge     the core again, with these counts
    (5) use       the budgets of an allow; a decision that uses nothing goes to the ledger's writer like any other
    (6) append    to the ledger, its head last; COMMIT

What has to be recorded in one commit with something else takes this way as well: an atomic batch, with (2) and (3) only
where there are budgets, and an answer that is kept under an idempotency key. That one is looked for first, before
anybody works out what to ask: a retry costs one look. It is stored after (6). Only a request with a key that also uses
budgets looks twice, since its place at the door is for the budgets too.

INVARIANT: a use is there exactly if the decision that took it is in the ledger; both are one commit.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, NamedTuple, TypeAlias, TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.core.budgets import Counters, Tally
from app.core.types import BudgetUse, Verdict
from app.errors import FirewallError, Kind
from app.ledger.append import DEADLINE
from app.ledger.once import Claim, claimed, store
from app.ledger.receipt import SealedEntry
from app.ledger.uses import SKEW_MAX, add, count, lock, taken
from app.ledger.within import append_within
from app.persistence.breaker import CircuitBreaker
from app.persistence.engine import RETRY_AFTER, ErrorKind, Observer, Unobserved, transaction

# Connections at a time: half of the engine's pool, so that nothing else waits for what budgets do.
CONCURRENT_MAX: Final = 5
# Who may wait. A transaction takes some 5 ms: beyond this the deadline would come first.
WAITING_MAX: Final = 512
# Who may wait for one key: whoever asks most must not keep everybody else out.
WAITING_PER_KEY_MAX: Final = 64

OPERATION: Final = "budgets"

T = TypeVar("T")

# Makes the decision, and its entry, with what was counted.
Judge: TypeAlias = Callable[[Counters], tuple[Verdict, SealedEntry]]


class Judged(NamedTuple):
    """A verdict and the entry that says so."""

    verdict: Verdict
    entry: SealedEntry


# Makes all decisions of one transaction in their order; what one takes is in the tally for the next.
JudgeAll: TypeAlias = Callable[[Tally], Sequence[Judged]]


class Question(NamedTuple):
    """What is asked under a claim: the budgets to count, and who judges by them; no entry where nothing is decided."""

    uses: Sequence[BudgetUse]
    judge: JudgeAll


# Works out what is asked, when it is known that it was not answered before.
Prepare: TypeAlias = Callable[[], Awaitable[Question]]
# Writes the answer, once its entries have their indexes, of which the first is given.
Write: TypeAlias = Callable[[Sequence[Judged], int], bytes]


class Settled(NamedTuple):
    """What was decided, and the index of the first entry, which the others follow; None where none was appended.

    `answer` is what is kept under the claim; nothing was decided where it was `kept_before`.
    """

    judged: Sequence[Judged]
    first_index: int | None
    answer: bytes = b""
    kept_before: bool = False


async def settle_within(
    connection: AsyncConnection,
    uses: Sequence[BudgetUse],
    *,
    now: datetime,
    judge: Judge,
    skew_max: timedelta = SKEW_MAX,
) -> tuple[Verdict, SealedEntry]:
    """Steps 2 to 5 inside a transaction that somebody else commits, together with the entry, or not at all.

    Before anything that takes the ledger's head. Raises FirewallError (UNAVAILABLE) where clocks are apart, and what
    the database raises.
    """
    await lock(connection, uses)
    tally = await count(connection, uses, now=now, skew_max=skew_max)
    verdict, entry = judge(tally.counters(uses))
    if took := taken(verdict):
        await add(connection, [(entry.id, use) for use in took], now=now, skew_max=skew_max)
    return verdict, entry


class BudgetLedger:
    """Settles decisions that use budgets, for one process. Times are in seconds."""

    def __init__(
        self,
        engine: AsyncEngine,
        *,
        deadline: float = DEADLINE,
        concurrent_max: int = CONCURRENT_MAX,
        waiting_max: int = WAITING_MAX,
        waiting_per_key_max: int = WAITING_PER_KEY_MAX,
        skew_max: timedelta = SKEW_MAX,
        breaker: CircuitBreaker | None = None,
        observer: Observer | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._deadline = deadline
        self._door = _Door(
            concurrent_max=concurrent_max, waiting_max=waiting_max, waiting_per_key_max=waiting_per_key_max
        )
        self._skew_max = skew_max
        self._breaker = breaker or CircuitBreaker(clock=clock)
        self._observer = observer or Unobserved()
        self._clock = clock

    async def settle(
        self,
        uses: Sequence[BudgetUse],
        *,
        now: datetime,
        judge: JudgeAll,
        together: bool = False,
    ) -> Settled:
        """The verdicts with every budget counted, and the index of the first entry once they are committed.

        The index is None where no decision uses anything, unless they have to stand in the ledger `together`: their
        entries still have to be appended.

        Raises FirewallError, each with `retry_after`: OVERLOADED when too many wait or it took too long to be let in,
        TIMEOUT when the database took too long, UNAVAILABLE when it is away or its clock is another. After TIMEOUT and
        UNAVAILABLE the entries and their uses may be there all the same, all of them, but nobody was told so.
        """

        async def settle(connection: AsyncConnection) -> Settled:
            judged, took = await self._judged(connection, Question(uses, judge), now)
            index = None
            if took or together:
                index = await append_within(connection, [one.entry for one in judged])
            return Settled(judged, index)

        return await self._enter([use.key for use in uses], settle)

    async def settle_once(self, claim: Claim, *, now: datetime, prepare: Prepare, write: Write) -> Settled:
        """The answer that is kept under the claim; else what `prepare` asks, decided, with its answer in one commit.

        `prepare` runs only where no answer is kept. Where it leaves nothing to decide, nothing is kept either.

        Raises FirewallError: CONFLICT where the claim is for another request, what `prepare` and `settle` raise.
        """
        question: Question | None = None

        async def look(connection: AsyncConnection) -> Settled | None:
            nonlocal question
            if (kept := await claimed(connection, claim)) is not None:
                return Settled((), None, kept, kept_before=True)
            if question is None:
                question = await prepare()
                if question.uses:
                    return None
            judged, _ = await self._judged(connection, question, now)
            if not judged:
                return Settled((), None)
            index = await append_within(connection, [one.entry for one in judged])
            answer = write(judged, index)
            await store(connection, claim, answer)
            return Settled(judged, index, answer)

        settled = await self._enter([claim.id], look)
        if settled is None:
            assert question is not None  # noqa: S101 - what it uses is why there is no answer yet
            # Whoever waits for a budget holds no connection: so the place is given back, and taken again with all keys.
            settled = await self._enter([claim.id, *(use.key for use in question.uses)], look)
            assert settled is not None  # noqa: S101 - the question is there now
        return settled

    async def _enter(self, keys: Iterable[bytes], act: "Callable[[AsyncConnection], Awaitable[T]]") -> T:
        """Step 1, then all that `act` does in one transaction."""
        admitted = False
        try:
            async with asyncio.timeout(self._deadline), self._door.entered(keys):
                admitted = True
                return await self._commit(act)
        except TimeoutError:
            if not admitted:
                raise _crowded() from None
            self._observer.error(ErrorKind.TIMEOUT)
            raise FirewallError(
                Kind.TIMEOUT, "the decision was not recorded in time", retry_after=RETRY_AFTER
            ) from None

    async def _judged(
        self, connection: AsyncConnection, question: Question, now: datetime
    ) -> tuple[Sequence[Judged], bool]:
        """Steps 2 to 5, and whether anything was used."""
        tally = Tally()
        if question.uses:
            await lock(connection, question.uses)
            tally = await count(connection, question.uses, now=now, skew_max=self._skew_max)
        judged = question.judge(tally)
        took = [(entry.id, use) for verdict, entry in judged for use in taken(verdict)]
        if took:
            await add(connection, took, now=now, skew_max=self._skew_max)
        return judged, bool(took)

    async def _commit(self, act: "Callable[[AsyncConnection], Awaitable[T]]") -> T:
        if not self._breaker.allow():
            self._observer.error(ErrorKind.BREAKER_OPEN)
            raise FirewallError(
                Kind.UNAVAILABLE,
                "the database could not be reached, and is left alone for now",
                retry_after=max(RETRY_AFTER, self._breaker.retry_after),
            )
        try:
            async with transaction(
                self._engine, operation=OPERATION, observer=self._observer, clock=self._clock
            ) as connection:
                done = await act(connection)
        except FirewallError as error:
            if error.__cause__ is None:
                self._breaker.success()  # refused by us: the database did answer
            else:
                self._breaker.failure()
            raise
        except BaseException:
            # Too late, nobody waits any more, or a defect: a probe that does not come back must not keep everybody out.
            self._breaker.failure()
            raise
        self._breaker.success()
        return done


@dataclass(slots=True)
class _Queue:
    """Who uses one key in this process, one at a time; `waiting` counts whoever is inside as well."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    waiting: int = 0


class _Door:
    """Lets in one at a time for each key, and a few at a time in all, so that a key that many want costs the others
    one connection and not all of them.
    """

    def __init__(self, *, concurrent_max: int, waiting_max: int, waiting_per_key_max: int) -> None:
        self._slots = asyncio.Semaphore(concurrent_max)
        self._waiting_max = waiting_max
        self._waiting_per_key_max = waiting_per_key_max
        self._waiting = 0
        self._queues: dict[bytes, _Queue] = {}

    @contextlib.asynccontextmanager
    async def entered(self, keys: Iterable[bytes]) -> AsyncIterator[None]:
        """Wait for the keys, then for a place. Raises FirewallError (OVERLOADED) where too many wait already."""
        # Sorted: two who want the same two keys must not each hold one.
        wanted = sorted(set(keys))
        longest = max((self._queues[key].waiting for key in wanted if key in self._queues), default=0)
        if self._waiting >= self._waiting_max or longest >= self._waiting_per_key_max:
            raise _crowded()
        queues = [self._queues.setdefault(key, _Queue()) for key in wanted]
        self._waiting += 1
        for queue in queues:
            queue.waiting += 1
        try:
            async with contextlib.AsyncExitStack() as held:
                for queue in queues:
                    await held.enter_async_context(queue.lock)
                await held.enter_async_context(self._slots)
                yield
        finally:
            self._waiting -= 1
            for key, queue in zip(wanted, queues, strict=True):
                queue.waiting -= 1
                if not queue.waiting:
                    del self._queues[key]


def _crowded() -> FirewallError:
    return FirewallError(
        Kind.OVERLOADED,
        "too many requests wait for a budget or a key",
        retry_after=RETRY_AFTER,
    )
