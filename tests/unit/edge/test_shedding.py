"""What is refused under load, and in which order: the limit in a simulated service, the bulkheads, the watermarks."""

import asyncio
import heapq
import json
import os
import random
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.edge.shedding import (
    BASE_SECONDS,
    ENTERED,
    GIVE_BACK_SECONDS,
    HELD_SECONDS,
    MEMORY_EXHAUSTED,
    REFUSALS_AT_ONCE,
    REFUSALS_PER_SECOND,
    RETRY_SECONDS,
    TOLD_EVERY_SECONDS,
    TOLERANCE,
    AdaptiveLimit,
    Door,
    Memory,
    Pace,
    Pressure,
    Priority,
    Shedder,
    SheddingMiddleware,
    Watch,
    _give_back,
)

HEALTH, DECISION, BATCH, OTHER = Priority


def simulate(limit, *, rate, seconds, work=0.0002, commit=0.001, start=0.0, seed=1):
    """A service with one core (`work` each) and commits of `commit`: goodput and latencies at `rate` requests a second.

    Arrivals are random; whoever finds the limit reached is refused at no cost.
    """
    chance = random.Random(seed)
    now, core_free, answered = start, start, []
    under_way: list[tuple[float, float]] = []
    while now < start + seconds:
        now += chance.expovariate(rate)
        while under_way and under_way[0][0] <= now:
            end, began = heapq.heappop(under_way)
            answered.append(end - began)
            limit.observe(end - began, under_way=len(under_way) + 1, now=end)
        if len(under_way) < limit.value:
            core_free = max(core_free, now) + work
            heapq.heappush(under_way, (core_free + commit, now))
    return len(answered) / seconds, sorted(answered)


class TestAdaptiveLimit:
    def test_under_four_times_the_load_it_answers_as_much_as_it_can_and_in_time(self):
        limit = AdaptiveLimit()
        simulate(limit, rate=500, seconds=5)
        quiet = AdaptiveLimit()
        _, alone = simulate(quiet, rate=100, seconds=20)
        goodput, latencies = simulate(limit, rate=20_000, seconds=20, start=5.0)
        # The core gives 5,000 a second.
        assert goodput > 0.9 * 5_000
        assert latencies[int(len(latencies) * 0.99)] < 5 * alone[int(len(alone) * 0.99)]

    def test_a_load_that_stays_does_not_become_what_is_normal(self):
        limit = AdaptiveLimit()
        simulate(limit, rate=500, seconds=2)
        base = limit.base
        assert base is not None
        simulate(limit, rate=20_000, seconds=BASE_SECONDS * 4, start=2.0, work=0.002)
        slow = limit.base
        assert slow is not None
        # Ten times the work for each: with as few as may be under way that is what it costs.
        assert slow < 0.002 * 16 + 0.002

    def test_a_slower_database_is_found_out_within_a_minute_or_two(self):
        limit = AdaptiveLimit()
        simulate(limit, rate=500, seconds=2)
        simulate(limit, rate=1_000, seconds=BASE_SECONDS * 2 + 10, start=2.0, commit=0.05)
        assert limit.base is not None
        assert limit.base > 0.04

    def test_it_grows_only_where_it_is_used(self):
        limit = AdaptiveLimit(initial=32)
        for number in range(1_000):
            limit.observe(0.001, under_way=1, now=number * 0.01)
        assert limit.value == 32
        for number in range(1_000):
            limit.observe(0.001, under_way=limit.value, now=10 + number * 0.01)
        assert limit.value > 64

    def test_slowness_with_few_under_way_is_not_theirs(self):
        limit = AdaptiveLimit(initial=64)
        for number in range(100):
            limit.observe(0.001, under_way=1, now=number * 0.01)
        for number in range(1_000):
            limit.observe(0.5, under_way=1, now=1 + number * 0.01)
        assert limit.value == 64

    def test_what_came_before_a_long_pause_is_not_counted_with_what_came_after(self):
        limit = AdaptiveLimit()
        limit.observe(9.0, under_way=1, now=0.0)
        for number in range(20):
            limit.observe(0.001, under_way=1, now=BASE_SECONDS + 1 + number * 0.01)
        assert limit.base == pytest.approx(0.001)

    @given(
        st.integers(1, 200),
        st.integers(1, 200),
        st.lists(st.tuples(st.floats(0, 100), st.integers(1, 2_000), st.floats(0, 100)), max_size=300),
    )
    @settings(deadline=None)
    def test_it_stays_within_its_bounds_whatever_it_is_told(self, minimum, maximum, told):
        limit = AdaptiveLimit(initial=64, minimum=minimum, maximum=maximum)
        now = 0.0
        for seconds, under_way, passed in told:
            now += passed
            limit.observe(seconds, under_way=under_way, now=now)
            assert minimum <= limit.value <= max(minimum, maximum)


def shedder(*, decisions=8, batches_max=2, others_max=3):
    limit = AdaptiveLimit(initial=decisions, minimum=decisions, maximum=decisions)
    return Shedder(limit, batches_max=batches_max, others_max=others_max, lag_seconds=0.5, memory_share=0.9)


class TestShedder:
    def test_each_has_its_own_room(self):
        held = shedder()
        assert [held.enter(OTHER) for _ in range(4)] == [True, True, True, False]
        assert [held.enter(BATCH) for _ in range(3)] == [True, True, False]
        # However many read or change something: decisions have all of their room.
        assert [held.enter(DECISION) for _ in range(9)] == [True] * 8 + [False]
        assert [held.enter(HEALTH) for _ in range(100)] == [True] * 100
        held.leave(DECISION, seconds=None, now=0)
        assert held.enter(DECISION)

    def test_the_least_goes_first_as_decisions_fill_their_room(self):
        held = shedder(batches_max=100, others_max=100)
        refused: dict[Priority, int] = {}
        for decisions in range(9):
            for priority in (BATCH, OTHER):
                if held.enter(priority):
                    held.leave(priority, seconds=None, now=0)
                else:
                    refused.setdefault(priority, decisions)
            held.enter(DECISION)
        assert refused == {OTHER: 4, BATCH: 6}

    @pytest.mark.parametrize(
        ("pressure", "closed"),
        [
            (Pressure(), ()),
            (Pressure(lag=0.499, memory=0.899), ()),
            (Pressure(lag=0.5), (BATCH, OTHER)),
            (Pressure(memory=0.9), (BATCH, OTHER)),
            (Pressure(lag=2.0), (DECISION, BATCH, OTHER)),
            (Pressure(memory=MEMORY_EXHAUSTED), (DECISION, BATCH, OTHER)),
        ],
    )
    def test_watermarks_close_all_but_what_matters(self, pressure, closed):
        held = shedder()
        held.feel(pressure)
        assert held.closed == closed
        assert {priority for priority in Priority if not held.enter(priority)} == set(closed)
        held.feel(Pressure())
        assert held.closed == ()

    def test_only_decisions_move_the_limit(self):
        held = shedder()
        for number in range(100):
            held.enter(OTHER)
            held.leave(OTHER, seconds=5.0, now=number)
        assert held.limit.base is None


class TestPace:
    def test_few_are_told_at_once_and_many_one_after_the_other(self):
        pace = Pace(per_second=100, at_once=10, longest=1)
        delays = [pace.delay(0.0) for _ in range(200)]
        assert delays[:11] == [0.0] * 11
        # One for each hundredth of a second, two of them together.
        assert all(0 <= delays[10 + number] - number / 100 < 0.0201 for number in range(1, 100))
        assert len({round(delay, 6) for delay in delays[11:110]}) <= 51
        # Nobody waits longer, however many there are, and those behind them wait no longer for that.
        assert delays[111:] == pytest.approx([1.0] * 89)
        assert pace.delay(0.5) == pytest.approx(0.52, abs=0.03)
        assert pace.delay(10.0) == 0.0

    @given(st.lists(st.floats(0, 0.01), min_size=1, max_size=500))
    def test_they_are_told_in_their_order_and_in_time(self, pauses):
        pace = Pace()
        now, last = 0.0, 0.0
        for pause in pauses:
            now += pause
            delay = pace.delay(now)
            assert 0 <= delay <= HELD_SECONDS + TOLD_EVERY_SECONDS
            assert now + delay >= last - 1e-9
            last = now + delay

    def test_of_four_times_the_load_only_so_many_are_told_in_a_second(self):
        pace = Pace()
        assert [pace.delay(0.0) for _ in range(REFUSALS_AT_ONCE)] == [0.0] * REFUSALS_AT_ONCE
        told, idle, now = 0, [0.0] * 512, 0.0
        while now < 10.0:
            # A client with 512 connections, each of which asks again as soon as it is told.
            now = heapq.heappop(idle)
            told += 1
            heapq.heappush(idle, now + max(pace.delay(now), 1e-6))
        assert told / 10 < 1.2 * max(REFUSALS_PER_SECOND, 512 / HELD_SECONDS)


class Served:
    """The middleware around an application that does what a test says."""

    def __init__(self, held, app=None, **options):
        self.shed = dict.fromkeys(Priority, 0)
        self.now = 0.0
        self.door = Door(
            held,
            priorities={"/v1/decisions": DECISION, "/v1/decisions:batch": BATCH},
            health="/health",
            shed={priority: partial(self.count, priority) for priority in Priority},
            problem_type="https://example.com/",
            clock=lambda: self.now,
            chance=lambda: 0.99,
            **options,
        )
        self.middleware = SheddingMiddleware(self.around(app or self.answer), self.door)

    def count(self, priority):
        self.shed[priority] += 1

    def around(self, app):
        async def context(scope, receive, send):
            try:
                await app(scope, receive, send)
            finally:
                self.door.leave(scope, scope.get("answer", 500))

        return context

    async def answer(self, scope, receive, send):
        self.now += 0.25
        await send({"type": "http.response.start", "status": scope["answer"], "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def ask(self, path, *, answer=200, **more):
        sent = []

        async def receive():
            raise AssertionError("nothing is read of what is refused")

        async def send(message):
            sent.append(message)

        await self.middleware({"type": "http", "path": path, "headers": [], "answer": answer} | more, receive, send)
        return sent


async def test_a_refusal_is_a_problem_that_says_when_to_come_back():
    held = shedder()
    held.feel(Pressure(lag=9))
    served = Served(held)
    start, body = await served.ask("/v1/decisions")
    headers = dict(start["headers"])
    problem = json.loads(body["body"])
    assert start["status"] == 503
    assert headers[b"content-type"] == b"application/problem+json"
    assert headers[b"retry-after"] == b"%d" % RETRY_SECONDS[-1]
    assert headers[b"cache-control"] == b"no-store"
    assert int(headers[b"content-length"]) == len(body["body"])
    assert problem["type"] == "https://example.com/overloaded"
    assert problem["retry_after"] == RETRY_SECONDS[-1]
    assert problem["request_id"].encode() == headers[b"x-request-id"]
    assert served.shed[DECISION] == 1
    assert held.under_way[DECISION] == 0


@pytest.mark.parametrize(
    ("sent", "comes_back"),
    [
        ([b"Root=1-67891233-abcdef"], True),
        ([b"a"], True),
        ([], False),
        ([b"a b"], False),
        ([b"x" * 129], False),
        ([b"one", b"two"], False),
    ],
)
async def test_a_refusal_has_the_request_id_of_the_caller_as_every_answer_has(sent, comes_back):
    held = shedder()
    held.feel(Pressure(lag=9))
    headers = [(b"host", b"a"), *((b"x-request-id", value) for value in sent)]
    start, body = await Served(held).ask("/v1/decisions", headers=headers)
    (told,) = (value for name, value in start["headers"] if name == b"x-request-id")
    assert (sent == [told]) is comes_back
    assert json.loads(body["body"])["request_id"].encode() == told
    assert dict(start["headers"])[b"content-length"] == b"%d" % len(body["body"])


async def test_paths_have_their_priority_and_health_always_answers():
    held = shedder()
    held.feel(Pressure(lag=9))
    served = Served(held)
    for path in ("/v1/decisions", "/v1/decisions:batch", "/v1/policy-sets", "/healthy", "/health/ready", "/health"):
        await served.ask(path)
    assert served.shed == {HEALTH: 0, DECISION: 1, BATCH: 1, OTHER: 2}


async def test_only_answered_decisions_say_how_long_decisions_take():
    held = shedder()
    served = Served(held)
    for status in (401, 429, 503):
        for _ in range(50):
            await served.ask("/v1/decisions", answer=status)
    assert held.limit.base is None
    for _ in range(50):
        await served.ask("/v1/decisions")
    assert held.limit.base == pytest.approx(0.25)
    assert set(held.under_way.values()) == {0}


async def test_who_ran_out_of_time_says_how_long_decisions_take():
    held = shedder()
    served = Served(held)
    for _ in range(50):
        await served.ask("/v1/decisions", answer=504)
    assert held.limit.base == pytest.approx(0.25)


async def test_who_fails_gives_the_place_back_all_the_same():
    async def broken(scope, receive, send):
        raise LookupError

    held = shedder()
    with pytest.raises(LookupError):
        await Served(held, broken).ask("/v1/decisions")
    assert held.under_way[DECISION] == 0


async def test_who_was_let_in_before_is_not_asked_again_and_goes_out_once():
    held = shedder()
    served = Served(held)
    assert served.door.enter(DECISION)
    held.feel(Pressure(lag=9))
    start, _ = await served.ask("/v1/decisions", **{ENTERED: (DECISION, -0.75)})
    assert start["status"] == 200
    # From when the head was read, not from when the middleware was called.
    assert held.limit._sum == 1.0
    assert held.under_way[DECISION] == 0
    assert served.shed[DECISION] == 0
    # Who goes out twice went out once.
    served.door.leave({}, 200)
    assert held.under_way[DECISION] == 0


async def test_who_goes_says_so_in_a_refusal():
    held = shedder()
    held.feel(Pressure(lag=9))
    served = Served(held)
    start, _ = await served.ask("/v1/decisions")
    assert b"connection" not in dict(start["headers"])
    served.door.closing = True
    start, _ = await served.ask("/v1/decisions")
    assert dict(start["headers"])[b"connection"] == b"close"


async def test_one_refusal_too_many_is_told_later():
    held = shedder()
    held.feel(Pressure(lag=9))
    served = Served(held, pace=Pace(per_second=100, at_once=1, longest=0.01))
    loop = asyncio.get_running_loop()
    began = loop.time()
    for _ in range(4):
        await served.ask("/v1/decisions")
    # The clock of the door stands still, the one of the loop does not.
    assert loop.time() - began >= 0.015


def test_refusals_are_told_to_the_log_by_their_number(caplog):
    held = shedder()
    served = Served(held)
    served.door.tell()
    held.feel(Pressure(lag=9))
    for priority in (DECISION, OTHER, OTHER):
        assert not served.door.enter(priority)
    served.door.tell()
    served.door.tell()
    (record,) = caplog.records
    assert record.getMessage() == "requests refused: overloaded"
    assert record.fields == {"decision": 1, "other": 2}


async def test_the_lifespan_passes():
    seen = []

    async def app(scope, receive, send):
        seen.append(scope["type"])

    held = shedder()
    held.feel(Pressure(lag=9))
    served = Served(held, app)
    nobody: Any = None
    await served.middleware({"type": "lifespan"}, nobody, nobody)
    assert seen == ["lifespan"]


class TestMemory:
    def root(self, path, *, resident=256, **files):
        (path / "proc/self").mkdir(parents=True)
        (path / "proc/self/statm").write_text(f"1000 {resident} 30 0 0 0 0\n")
        for name, text in files.items():
            file = path / "sys/fs/cgroup" / name.replace("__", "/").replace("_dot_", ".")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        return path

    @pytest.mark.parametrize("name", ["memory_dot_max", "memory__memory_dot_limit_in_bytes"])
    def test_the_share_of_what_the_container_has(self, tmp_path, name):
        memory = Memory(self.root(tmp_path, **{name: "2097152\n"}))
        # Pages of 4 KiB wherever this runs.
        assert memory.share() == pytest.approx(0.5)

    @pytest.mark.parametrize(
        "files", [{}, {"memory_dot_max": "max\n"}, {"memory__memory_dot_limit_in_bytes": str((1 << 63) - 4096)}]
    )
    def test_without_a_limit_there_is_no_share(self, tmp_path, files):
        assert Memory(self.root(tmp_path, **files)).share() == 0.0

    def test_a_kernel_that_shows_nothing_is_no_reason_to_refuse(self, tmp_path):
        memory = Memory(self.root(tmp_path, memory_dot_max="4096"))
        (tmp_path / "proc/self/statm").write_text("")
        assert memory.share() == 0.0
        (tmp_path / "proc/self/statm").unlink()
        assert memory.share() == 0.0

    def test_what_is_free_is_given_back_before_it_closes_the_door(self, tmp_path):
        root = self.root(tmp_path, memory_dot_max=str(10 * os.sysconf("SC_PAGE_SIZE")))
        statm, now = root / "proc/self/statm", [0.0]
        given_back: list[float] = []
        statm.write_text("20 9 1\n")

        def give_back():
            given_back.append(now[0])
            statm.write_text("20 7 1\n")

        memory = Memory(root, give_back=give_back, clock=lambda: now[0])
        assert (memory.share(), given_back) == (0.7, [0.0])
        statm.write_text("20 8 1\n")
        now[0] = GIVE_BACK_SECONDS - 1
        assert (memory.share(), given_back) == (0.8, [0.0]), "it takes its time, and not every second"
        now[0] = GIVE_BACK_SECONDS
        assert (memory.share(), given_back) == (0.7, [0.0, GIVE_BACK_SECONDS])
        _give_back()

    def test_a_door_that_closes_early_has_it_given_back_as_early(self, tmp_path):
        root = self.root(tmp_path, memory_dot_max=str(10 * os.sysconf("SC_PAGE_SIZE")))
        (root / "proc/self/statm").write_text("20 6 1\n")
        given_back: list[bool] = []
        assert Memory(root, closes=0.7, give_back=lambda: given_back.append(True)).share() == 0.6
        assert given_back == []
        assert Memory(root, closes=0.6, give_back=lambda: given_back.append(True)).share() == 0.6
        assert given_back == [True]


class TestWatch:
    def test_it_tells_as_often_as_it_looks_at_the_memory(self):
        told: list[int] = []
        watch = Watch(lambda _: None, memory=lambda: 0.0, tell=lambda: told.append(1))
        for _ in range(41):
            watch.look(0.0)
        assert len(told) == 3

    def test_one_pause_is_no_overload_and_many_are(self):
        felt: list[Pressure] = []
        watch = Watch(felt.append, memory=lambda: 0.25)
        watch.look(1.0)
        assert felt[-1].lag < 0.5
        assert felt[-1].memory == 0.25
        for _ in range(10):
            watch.look(1.0)
        assert felt[-1].lag > 0.8
        for _ in range(20):
            watch.look(-0.001)
        assert felt[-1].lag < 0.05

    async def test_it_looks_until_it_is_stopped(self):
        enough = asyncio.Event()
        felt: list[Pressure] = []

        def feel(pressure):
            felt.append(pressure)
            if len(felt) > 2:
                enough.set()

        watch = Watch(feel, memory=lambda: 0.0)
        await watch.stop()
        watch.start()
        async with asyncio.timeout(60):
            await enough.wait()
        await watch.stop()


def test_the_tolerance_leaves_room_for_the_slowest():
    # The mean is held at this many times that of few; the slowest hundredth has to stay below five times.
    assert 1 < TOLERANCE < 5


def test_a_prefix_is_worth_something_for_all_that_is_below_it():
    door = Door(
        shedder(),
        priorities={"/v1/decisions": DECISION},
        prefixes={"/envoy/v1/check/": DECISION},
        health="/health",
        shed={},
        problem_type="https://example.com/",
    )
    worth = {path: door.priority_of(path) for path in ("/v1/decisions", "/envoy/v1/check/a/b", "/envoy/v1/check", "/x")}
    assert list(worth.values()) == [DECISION, DECISION, Priority.OTHER, Priority.OTHER]
    assert door.priority_of("/health/live") is Priority.HEALTH
