"""What a replica knows of kill switches: the last it read, and never "none" before it read anything."""

import asyncio
import datetime as dt

import pytest

from app.core.switches import Switch, SwitchKind
from app.errors import FirewallError, Kind
from app.persistence.switchboard import STALE_SECONDS, Switchboard
from app.persistence.switches import StoredSwitch

NOW = dt.datetime(2026, 3, 14, tzinfo=dt.UTC)
HOUR = dt.timedelta(hours=1)


def stored(identifier="1", kind=SwitchKind.DENY_ALL, until=None):
    return StoredSwitch(Switch(identifier, kind, None, until), "why", "me", NOW, 7)


async def nowhere():
    raise OSError


class Board:
    """A board over a store that a test holds in its hands."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.monotonic = 100.0
        self.now = NOW
        self.asked = asyncio.Event()
        self.board = Switchboard(
            self.load,
            connect=nowhere,
            poll_seconds=0.01,
            monotonic=lambda: self.monotonic,
            now=lambda: self.now,
            jitter=lambda: 0.0,
        )

    def later(self, seconds):
        self.monotonic += seconds
        return self.board

    async def load(self):
        self.asked.set()
        answer = self.answers[0] if len(self.answers) == 1 else self.answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer


async def test_what_was_never_read_is_not_none():
    held = Board(OSError())
    await held.board.refresh()
    assert not held.board.known
    assert held.board.in_force() == ()
    assert held.board.age == float("inf")
    with pytest.raises(FirewallError) as caught:
        held.board.concerning("s", NOW)
    assert caught.value.kind is Kind.UNAVAILABLE
    assert caught.value.retry_after == 1


async def test_no_switch_is_an_answer_too():
    held = Board(())
    await held.board.refresh()
    assert held.board.known
    assert held.board.concerning("s", NOW) == ()
    assert held.board.count(SwitchKind.DENY_ALL) == 0


async def test_what_is_known_stays_while_nothing_can_be_read(caplog):
    held = Board((stored(),), OSError())
    await held.board.refresh()
    held.monotonic += STALE_SECONDS
    await held.board.refresh()
    await held.board.refresh()
    assert [held.board.stale, held.later(0.001).stale] == [False, True]
    assert [one.id for one in held.board.concerning("s", NOW)] == ["1"]
    # Said once, not at every poll.
    assert [record.message for record in caplog.records].count("kill switches not read") == 1


async def test_a_switch_is_over_at_its_end_without_a_look():
    held = Board((stored(until=NOW + HOUR), stored("2", SwitchKind.STOP_APPROVALS)))
    await held.board.refresh()
    assert held.board.count(SwitchKind.DENY_ALL) == 1
    held.now += HOUR
    assert held.board.count(SwitchKind.DENY_ALL) == 0
    assert [one.switch.id for one in held.board.in_force()] == ["2"]
    assert [one.id for one in held.board.concerning("s", held.now)] == ["2"]


async def test_it_follows_and_says_what_comes_and_goes(caplog):
    held = Board((), (stored(),), ())
    await held.board.start()
    async with asyncio.timeout(60):
        while len(held.answers) > 1 or held.board.in_force():
            held.asked.clear()
            await held.asked.wait()
    await held.board.stop()
    said = [record.message for record in caplog.records if record.name == "mfw.switches"]
    assert said == ["kill switch in force", "kill switch over"]
