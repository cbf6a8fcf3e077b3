"""The line of those who wait for their commit: bounded in number and bytes, first in first out, with deadlines."""

import asyncio
from collections import OrderedDict
from collections.abc import Iterable, Iterator

from app.ledger.receipt import SealedEntry


class Waiter:
    """One caller that waits for the index of its entry.

    `deadline` is on the loop's clock. `doubtful` means that a commit with this entry was under way when the connection
    broke: it may be in the ledger already.
    """

    __slots__ = ("deadline", "doubtful", "entry", "future", "size")

    def __init__(self, entry: SealedEntry, *, future: "asyncio.Future[int]", deadline: float) -> None:
        self.entry = entry
        self.future = future
        self.deadline = deadline
        self.doubtful = False
        self.size = len(entry.receipt) + len(entry.record)


class WaitingLine:
    """Who waits and is not in flight. For one thread. All have the same patience, so the first expires first."""

    __slots__ = ("_bytes", "_bytes_max", "_entries_max", "_waiters")

    def __init__(self, *, entries_max: int, bytes_max: int) -> None:
        self._waiters: OrderedDict[Waiter, None] = OrderedDict()
        self._bytes = 0
        self._entries_max = entries_max
        self._bytes_max = bytes_max

    def __len__(self) -> int:
        return len(self._waiters)

    def __iter__(self) -> Iterator[Waiter]:
        return iter(self._waiters)

    @property
    def full(self) -> bool:
        """Whether nobody more is let in. One entry larger than the limit still gets in alone."""
        return len(self._waiters) >= self._entries_max or self._bytes >= self._bytes_max

    def join(self, waiter: Waiter) -> None:
        """Stand at the end. Does not check: `full`."""
        self._waiters[waiter] = None
        self._bytes += waiter.size

    def leave(self, waiter: Waiter) -> None:
        """Step out of the line, wherever one stands; harmless for who is not in it."""
        if waiter in self._waiters:
            del self._waiters[waiter]
            self._bytes -= waiter.size

    def take(self, *, entries_max: int, bytes_max: int) -> list[Waiter]:
        """The next batch, out of the line: at least one if there is one, in order, without those already answered."""
        batch: list[Waiter] = []
        size = 0
        while self._waiters and len(batch) < entries_max:
            waiter, _ = self._waiters.popitem(last=False)
            if not waiter.future.done() and batch and size + waiter.size > bytes_max:
                self._waiters[waiter] = None
                self._waiters.move_to_end(waiter, last=False)
                break
            self._bytes -= waiter.size
            if not waiter.future.done():
                batch.append(waiter)
                size += waiter.size
        return batch

    def put_back(self, batch: Iterable[Waiter]) -> None:
        """Stand at the front again, in the same order; those already answered do not."""
        for waiter in reversed(list(batch)):
            if not waiter.future.done():
                self._waiters[waiter] = None
                self._waiters.move_to_end(waiter, last=False)
                self._bytes += waiter.size
