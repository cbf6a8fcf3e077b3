"""The line in front of the ledger: order, bounds, and nobody lost on the way in or out."""

import asyncio
from typing import Any, cast
from uuid import UUID

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from app.ledger.receipt import EntryKind, SealedEntry
from app.ledger.waiting import Waiter, WaitingLine


class Answer:
    """What the line needs of a future, without a loop."""

    def __init__(self):
        self.given = False

    def done(self):
        return self.given


def waiter(number=0, size=10):
    entry = SealedEntry(UUID(int=number), EntryKind.DECISION, b"r" * size, b"", b"")
    return Waiter(entry, future=cast("Any", Answer()), deadline=float(number))


def line(entries_max=100, bytes_max=10_000):
    return WaitingLine(entries_max=entries_max, bytes_max=bytes_max)


def test_first_in_first_out():
    standing = line()
    waiters = [waiter(number) for number in range(5)]
    for one in waiters:
        standing.join(one)
    assert standing.take(entries_max=3, bytes_max=1000) == waiters[:3]
    assert standing.take(entries_max=3, bytes_max=1000) == waiters[3:]
    assert standing.take(entries_max=3, bytes_max=1000) == []


def test_a_batch_ends_at_its_bytes_but_is_never_empty():
    standing = line()
    waiters = [waiter(number, size) for number, size in enumerate([10, 10, 90, 500])]
    for one in waiters:
        standing.join(one)
    assert [len(standing.take(entries_max=9, bytes_max=100)) for _ in range(4)] == [2, 1, 1, 0]


def test_who_was_answered_is_not_taken():
    standing = line()
    waiters = [waiter(number) for number in range(3)]
    for one in waiters:
        standing.join(one)
    waiters[1].future.given = True
    assert standing.take(entries_max=2, bytes_max=1000) == [waiters[0], waiters[2]]


def test_put_back_stands_in_front_in_the_same_order():
    standing = line()
    waiters = [waiter(number) for number in range(4)]
    for one in waiters:
        standing.join(one)
    batch = standing.take(entries_max=3, bytes_max=1000)
    batch[1].future.given = True
    standing.put_back(batch)
    assert list(standing) == [waiters[0], waiters[2], waiters[3]]


def test_full_by_number_and_by_bytes():
    standing = line(entries_max=2, bytes_max=100)
    standing.join(waiter(1))
    assert not standing.full
    standing.join(waiter(2))
    assert standing.full
    standing = line(entries_max=9, bytes_max=100)
    standing.join(waiter(1, 100))
    assert standing.full


def test_leaving_twice_is_harmless():
    standing = line(bytes_max=20)
    one = waiter(1, 20)
    standing.join(one)
    standing.leave(one)
    standing.leave(one)
    assert len(standing) == 0
    assert not standing.full


async def test_a_real_future_is_an_answer():
    standing = line()
    future = asyncio.get_running_loop().create_future()
    standing.join(Waiter(waiter().entry, future=future, deadline=0.0))
    future.cancel()
    assert standing.take(entries_max=1, bytes_max=1) == []


class LineAgainstList(RuleBasedStateMachine):
    """The line against a plain list that does the same slowly."""

    def __init__(self):
        super().__init__()
        self.line = line()
        self.model = []
        self.taken = []
        self.number = 0

    @rule(size=st.integers(0, 50))
    def join(self, size):
        self.number += 1
        one = waiter(self.number, size)
        self.line.join(one)
        self.model.append(one)

    @rule(at=st.integers(0, 10))
    def leave(self, at):
        if at < len(self.model):
            self.line.leave(self.model.pop(at))

    @rule(at=st.integers(0, 10))
    def answer(self, at):
        if at < len(self.model):
            self.model[at].future.given = True

    @rule(entries=st.integers(1, 5), size=st.integers(0, 100))
    def take(self, entries, size):
        self.taken = self.line.take(entries_max=entries, bytes_max=size)
        used = 0
        expected: list[Waiter] = []
        while self.model and len(expected) < entries:
            one = self.model[0]
            if not one.future.done():
                if expected and used + one.size > size:
                    break
                expected.append(one)
                used += one.size
            self.model.pop(0)
        assert self.taken == expected

    @rule()
    def put_back(self):
        self.line.put_back(self.taken)
        self.model = [one for one in self.taken if not one.future.done()] + self.model
        self.taken = []

    @invariant()
    def same(self):
        assert list(self.line) == self.model
        assert self.line._bytes == sum(one.size for one in self.model)


LineAgainstList.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestLineAgainstList = pytest.mark.filterwarnings("default")(LineAgainstList.TestCase)
