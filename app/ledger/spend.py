"""Decisions that use budgets: counted, made, recorded and used in one transaction.

    (1) admit     a breaker, a bounded number that wait, one at a time for each key and a few at a time in all
    (2) lock      the keys of the budgets, in one order for everybody
    (3) count     what of each is used within its window
    (4) judge     the core again, with these counts
    (5) use       the budgets of an allow; a decision that uses nothing goes to the ledger's writer like any other
    (6) append    to the ledger, its head last; COMMIT

What has to be recorded in one commit with something else takes this way as well: an atomic batch, with (2) and (3) only
where there are budgets, and an answer that is kept under an idempotency key, which is looked for before (2) and stored
after (6).

INVARIANT: a use is there exactly if the decision that took it is in the ledger; both are one commit.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, NamedTuple, TypeAlias

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

# Makes the decision, and its entry, with what was counted.
Judge: TypeAlias = Callable[[Counters], tuple[Verdict, SealedEntry]]


class Judged(NamedTuple):
    """A verdict and the entry that says so."""

    verdict: Verdict
    entry: SealedEntry


# Makes all decisions of one transaction in their order; what one takes is in the tally for the next.
JudgeAll: TypeAlias = Callable[[Tally], Sequence[Judged]]


class Keep(NamedTuple):
    """An answer to be kept: under which claim, and how it is written once its entries have their indexes."""

    claim: Claim
    render: Callable[[Sequence[Judged], int], bytes]


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
        keep: Keep | None = None,
    ) -> Settled:
        """The verdicts with every budget counted, and the index of the first entry once they are committed.

        The index is None where no decision uses anything, unless they have to stand in the ledger `together`: their
        entries still have to be appended. With `keep` the answer is kept in the same commit, or the one that is kept
        already is given back and nothing is decided.

        Raises FirewallError: CONFLICT where the claim is for another request; each with `retry_after`, OVERLOADED when
        too many wait or it took too long to be let in, TIMEOUT when the database took too long, UNAVAILABLE when it is
        away or its clock is another. After TIMEOUT and UNAVAILABLE the entries and their uses may be there all the
        same, all of them, but nobody was told so.
        """
        keys = [use.key for use in uses]
        if keep is not None:
            keys.append(keep.claim.id)
        admitted = False
        try:
            async with asyncio.timeout(self._deadline), self._door.entered(keys):
                admitted = True
                return await self._settle(uses, now=now, judge=judge, together=together, keep=keep)
        except TimeoutError:
            if not admitted:
                raise _crowded() from None
            self._observer.error(ErrorKind.TIMEOUT)
            raise FirewallError(
                Kind.TIMEOUT, "the decision was not recorded in time", retry_after=RETRY_AFTER
            ) from None

    async def _settle(
        self, uses: Sequence[BudgetUse], *, now: datetime, judge: JudgeAll, together: bool, keep: Keep | None
    ) -> Settled:
        if not self._breaker.allow():
            self._observer.error(ErrorKind.BREAKER_OPEN)
            raise FirewallError(
                Kind.UNAVAILABLE,
                "the database could not be reached, and is left alone for now",
                retry_after=max(RETRY_AFTER, self._breaker.retry_after),
            )
        index: int | None = None
        answer = b""
        try:
            async with transaction(
                self._engine, operation=OPERATION, observer=self._observer, clock=self._clock
            ) as connection:
                if keep is not None and (kept := await claimed(connection, keep.claim)) is not None:
                    self._breaker.success()
                    return Settled((), None, kept, kept_before=True)
                tally = Tally()
                if uses:
                    await lock(connection, uses)
                    tally = await count(connection, uses, now=now, skew_max=self._skew_max)
                judged = judge(tally)
                if took := [(entry.id, use) for verdict, entry in judged for use in taken(verdict)]:
                    await add(connection, took, now=now, skew_max=self._skew_max)
                if took or together or keep is not None:
                    index = await append_within(connection, [one.entry for one in judged])
                    if keep is not None:
                        answer = keep.render(judged, index)
                        await store(connection, keep.claim, answer)
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
        return Settled(judged, index, answer)


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
