"""Which requests are refused so that the others are answered in time: decided before a byte of them is read.

    (1) health is never refused: who is overloaded and cannot say so is taken for dead
    (2) single decisions and admissions, up to a limit that follows their latency
    (3) batches, while decisions have room to spare, and a few at a time
    (4) everything else, while decisions have more room to spare, and up to a number of its own

An event loop that is late, or memory that runs out, closes (4), then (3), then (2).
"""

import asyncio
import ctypes
import gc
import logging
import math
import os
import time
from collections.abc import Callable, Mapping
from enum import IntEnum
from pathlib import Path
from typing import Final, NamedTuple

import orjson
from starlette.types import ASGIApp, Receive, Scope, Send

from app.background import chance
from app.edge.context import SAFE_HEADERS, Header, fresh_request_id, request_id_in
from app.errors import Kind

# Seconds over which latencies are averaged before the limit moves, and how many make an average.
WINDOW_SECONDS: Final = 0.1
WINDOW_SAMPLES: Final = 10
# How much slower than while few are under way a decision may be on average.
TOLERANCE: Final = 3.0
# A latency that was measured longer ago than this may be that of another database or another machine.
BASE_SECONDS: Final = 60.0
# Of the limit: how much of it decisions may use while batches, and everything else, are let in.
BATCH_SHARE: Final = 0.75
OTHER_SHARE: Final = 0.5
# What remains for a thread to grow into before the kernel ends the process.
MEMORY_EXHAUSTED: Final = 0.97
# From which share on memory that nothing is in any more is given back, and how often at most. Seconds.
GIVE_BACK_SHARE: Final = 0.8
GIVE_BACK_SECONDS: Final = 15.0
# Seconds, whole: who was refused together shall not come back together.
RETRY_SECONDS: Final = (1, 2, 3)
# A refusal costs a tenth of a decision. So many of them in a second take a few hundredths of a core, and so many are
# given at once before that counts; whoever else is refused is told so later. A connection that waits to be told asks
# for nothing meanwhile, and that is the cheapest refusal there is.
REFUSALS_PER_SECOND: Final = 500
REFUSALS_AT_ONCE: Final = 100
# Longer than this nobody waits for a refusal: as long as the shortest `Retry-After`.
HELD_SECONDS: Final = 1.0
# Who waits is told together with others, since to wake up for one of them costs more than to tell it.
TOLD_EVERY_SECONDS: Final = 0.02

# Under which name the lifespan gives the server the door, and where the server leaves, in the scope of a request, that
# it was let in already: what it is worth, and when its head was read.
DOOR: Final = "door"
ENTERED: Final = "mfw.entered"

# Statuses of decisions that say how long decisions take.
_TELLING: Final = (200, 504)

_LAG_INTERVAL: Final = 0.05
# A look that was late weighs this much: one pause of the collector is no overload.
_LAG_WEIGHT: Final = 0.2
# Many times the lag at which the least is refused, even decisions come too late to be of use.
_LAG_EXHAUSTED: Final = 4.0

_log: Final = logging.getLogger("mfw.load")


class Priority(IntEnum):
    """What a request is worth while not all can be answered; the least is refused last."""

    HEALTH = 1
    DECISION = 2
    BATCH = 3
    OTHER = 4


class AdaptiveLimit:
    """How many decisions may be under way: as many as still have at most `TOLERANCE` times the latency of few.

    Additive increase, multiplicative decrease, on the mean of a window. What "the latency of few" is was measured at
    the lowest limit, for one window a minute: measured under load it would creep up with the load. Pure: `now` is
    brought.
    """

    __slots__ = ("_base", "_base_at", "_count", "_limit", "_maximum", "_minimum", "_peak", "_probing", "_since", "_sum")

    def __init__(self, *, initial: int = 64, minimum: int = 16, maximum: int = 1024) -> None:
        self._minimum = minimum
        self._maximum = max(maximum, minimum)
        self._limit = float(min(max(initial, minimum), self._maximum))
        self._base: float | None = None
        self._base_at = 0.0
        self._probing = False
        self._since = float("-inf")
        self._sum = 0.0
        self._count = 0
        self._peak = 0

    @property
    def value(self) -> int:
        """How many decisions may be under way now."""
        return self._minimum if self._probing else int(self._limit)

    @property
    def base(self) -> float | None:
        """The latency of few, in seconds; None until it was measured."""
        return self._base

    def observe(self, seconds: float, *, under_way: int, now: float) -> None:
        """Tell of a decision that was made, how long it took, and how many were under way with it."""
        if now - self._since > BASE_SECONDS:
            self._begin(now)  # what came before a pause as long as this says nothing about now
        self._sum += seconds
        self._count += 1
        self._peak = max(self._peak, under_way)
        if now - self._since >= WINDOW_SECONDS and self._count >= WINDOW_SAMPLES:
            self._close(self._sum / self._count, now)
            self._begin(now)

    def _begin(self, now: float) -> None:
        self._since, self._sum, self._count, self._peak = now, 0.0, 0, 0

    def _close(self, mean: float, now: float) -> None:
        few = self._peak <= self._minimum
        if self._base is None or mean < self._base or (few and now - self._base_at > BASE_SECONDS):
            self._base, self._base_at = mean, now
        if self._probing:
            # Begun with decisions under way from before: only a window that had few all along measures few.
            self._probing = not few
            return
        if now - self._base_at > BASE_SECONDS:
            self._probing = True
        elif mean > self._base * TOLERANCE:
            # With few under way it is not them that make it slow, and refusing some would help nobody.
            if self._peak >= self.value * 0.5:
                # By as much as they are too slow: a load that comes at once has to be met at once.
                share = max(0.5, min(0.95, self._base * TOLERANCE / mean))
                self._limit = max(self._limit * share, float(self._minimum))
        elif self._peak >= self.value * 0.9:
            # Only who uses what there is needs more.
            self._limit = min(self._limit + max(1.0, self._limit * 0.05), float(self._maximum))


class Pressure(NamedTuple):
    """How the process does: seconds that the event loop is late, and the share of its memory that is used."""

    lag: float = 0.0
    memory: float = 0.0


class Shedder:
    """Lets requests in, and counts them. For one event loop.

    `lag_seconds` and `memory_share` are the watermarks from which everything but decisions is refused.
    """

    def __init__(
        self,
        limit: AdaptiveLimit,
        *,
        batches_max: int,
        others_max: int,
        lag_seconds: float,
        memory_share: float,
    ) -> None:
        self.limit = limit
        self.under_way = dict.fromkeys(Priority, 0)
        self.pressure = Pressure()
        self._most = {Priority.BATCH: (batches_max, BATCH_SHARE), Priority.OTHER: (others_max, OTHER_SHARE)}
        self._lag = lag_seconds
        self._memory = memory_share
        self._memory_exhausted = max(MEMORY_EXHAUSTED, memory_share)
        self._closed = Priority.OTHER + 1

    def feel(self, pressure: Pressure) -> None:
        """Take notice of how the process does."""
        self.pressure = pressure
        self._closed = Priority.OTHER + 1
        if pressure.lag >= self._lag or pressure.memory >= self._memory:
            self._closed = Priority.BATCH
        if pressure.lag >= self._lag * _LAG_EXHAUSTED or self.out_of_memory:
            self._closed = Priority.DECISION

    @property
    def out_of_memory(self) -> bool:
        """Whether memory alone closes the door for all but health: fewer requests do not give it back."""
        return self.pressure.memory >= self._memory_exhausted

    @property
    def closed(self) -> tuple[Priority, ...]:
        """What is refused altogether at the moment."""
        return tuple(priority for priority in Priority if priority >= self._closed)

    def enter(self, priority: Priority) -> bool:
        """Let a request in, or not; who was let in has to `leave`."""
        under_way = self.under_way
        if priority is not Priority.HEALTH:
            if priority >= self._closed:
                return False
            decisions = under_way[Priority.DECISION]
            limit = self.limit.value
            if priority is Priority.DECISION:
                if decisions >= limit:
                    return False
            else:
                most, share = self._most[priority]
                if under_way[priority] >= most or decisions >= limit * share:
                    return False
        under_way[priority] += 1
        return True

    def leave(self, priority: Priority, *, seconds: float | None, now: float) -> None:
        """Take note that a request is answered; `seconds` is how long a decision took, None for what tells nothing."""
        under_way = self.under_way[priority]
        self.under_way[priority] = under_way - 1
        if seconds is not None and priority is Priority.DECISION:
            self.limit.observe(seconds, under_way=under_way, now=now)


class Pace:
    """When refusals are given: at once while they are few, one after the other where they are many.

    The generic cell rate algorithm (ITU-T I.371), as the rate limits have it. Pure: `now` is brought.
    """

    __slots__ = ("_ahead", "_interval", "_longest", "_next")

    def __init__(
        self,
        *,
        per_second: float = REFUSALS_PER_SECOND,
        at_once: int = REFUSALS_AT_ONCE,
        longest: float = HELD_SECONDS,
    ) -> None:
        self._interval = 1 / per_second
        self._ahead = at_once / per_second
        self._longest = longest
        self._next = float("-inf")

    def delay(self, now: float) -> float:
        """Seconds until the next refusal may be given, and count it."""
        due = max(self._next, now)
        wait = due - now - self._ahead
        if wait <= 0:
            self._next = due + self._interval
            return 0.0
        if wait < self._longest:
            self._next = due + self._interval
        else:
            # Who would have to wait for longer does not push those behind back any further.
            wait = self._longest
        return math.ceil((now + wait) / TOLD_EVERY_SECONDS) * TOLD_EVERY_SECONDS - now


class Refusal(NamedTuple):
    """What a refusal says, but for its request id: that stands between `before` and `after`, and ends the headers.

    `lines` are `headers` as they are written.
    """

    headers: list[Header]
    lines: bytes
    before: bytes
    after: bytes

    def last(self, request_id: bytes) -> tuple[Header, Header]:
        """The headers that the request id decides."""
        size = len(self.before) + len(request_id) + len(self.after)
        return (b"content-length", b"%d" % size), (b"x-request-id", request_id)


class Door:
    """The one rule for both ways in, the protocol's and the middleware's: who is let in, and what the others are told.

    `priorities` are by path, `prefixes` for what is below one; `health` is always let in, with what is below it; `shed`
    counts refusals.
    """

    def __init__(
        self,
        shedder: Shedder,
        *,
        priorities: Mapping[str, Priority],
        prefixes: Mapping[str, Priority] | None = None,
        health: str,
        shed: Mapping[Priority, Callable[[], None]],
        problem_type: str,
        pace: Pace | None = None,
        clock: Callable[[], float] = time.perf_counter,
        chance: Callable[[], float] = chance,
    ) -> None:
        self.clock = clock
        # Each connection ends with its next refusal.
        self.closing = False
        # By the target of a request as it stands in its first line: most are looked up without being taken apart.
        self.targets = {path.encode(): priority for path, priority in priorities.items()}
        self._shedder = shedder
        self._priorities = priorities
        self._prefixes = tuple((prefixes or {}).items())
        self._health = health
        self._below = f"{health}/"
        self._shed = shed
        self._pace = pace or Pace()
        self._chance = chance
        self._refusals = [_refusal(seconds, problem_type) for seconds in RETRY_SECONDS]
        self._untold = dict.fromkeys(Priority, 0)

    def priority_of(self, path: str) -> Priority:
        """What a path is worth."""
        priority = self._priorities.get(path)
        if priority is None:
            healthy = path == self._health or path.startswith(self._below)
            priority = Priority.HEALTH if healthy else self._below_a_prefix(path)
        return priority

    def _below_a_prefix(self, path: str) -> Priority:
        return next((priority for prefix, priority in self._prefixes if path.startswith(prefix)), Priority.OTHER)

    def enter(self, priority: Priority) -> bool:
        """Let a request in, whose scope then says so until it has to `leave`; or not, and count that."""
        if self._shedder.enter(priority):
            return True
        self._shed[priority]()
        self._untold[priority] += 1
        return False

    def leave(self, scope: Scope, status: int) -> None:
        """Take note that a request is answered. Does nothing for one that never came in."""
        entered: tuple[Priority, float] | None = scope.pop(ENTERED, None)
        if entered is None:
            return
        priority, started = entered
        now = self.clock()
        # What was refused further in took no time, and would make every decision look fast; what ran out of time took
        # at least that much, and were it left out, a service that is late for everybody would never know.
        tells = priority is Priority.DECISION and status in _TELLING
        self._shedder.leave(priority, seconds=now - started if tells else None, now=now)

    def refusal(self) -> Refusal:
        """What to tell the next one."""
        return self._refusals[int(self._chance() * len(self._refusals))]

    def delay(self) -> float:
        """Seconds after which to tell it."""
        return self._pace.delay(self.clock())

    def tell(self) -> None:
        """Log how many were refused since the last time, if any: a line for each would cost as much as the refusal."""
        if any(self._untold.values()):
            counts = {priority.name.lower(): count for priority, count in self._untold.items() if count}
            _log.warning("requests refused: overloaded", extra={"fields": counts})
            self._untold = dict.fromkeys(Priority, 0)


class SheddingMiddleware:
    """The outermost ASGI callable: a door for servers that do not ask it themselves, and for what they leave to it.

    A refusal costs no look at the headers but for the request id, and none at the body. INVARIANT: whoever is let in
    passes `leave` on the way out; that is `ContextMiddleware`'s part, which is around everything else and knows the
    status.
    """

    def __init__(self, app: ASGIApp, door: Door) -> None:
        self._app = app
        self._door = door

    # A coroutine though it awaits little: by that servers tell ASGI 3 from ASGI 2.
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or refuse it."""
        if scope["type"] == "http" and ENTERED not in scope:
            door = self._door
            priority = door.priority_of(scope["path"])
            if not door.enter(priority):
                await self._refuse(scope, send)
                return
            scope[ENTERED] = (priority, door.clock())
        await self._app(scope, receive, send)

    async def _refuse(self, scope: Scope, send: Send) -> None:
        door = self._door
        delay = door.delay()
        if delay:
            await asyncio.sleep(delay)
        refusal = door.refusal()
        request_id = request_id_in(scope["headers"]).encode()
        close = [(b"connection", b"close")] if door.closing else []
        headers = [*refusal.headers, *refusal.last(request_id), *close]
        await send({"type": "http.response.start", "status": 503, "headers": headers})
        await send({"type": "http.response.body", "body": refusal.before + request_id + refusal.after})


def _refusal(seconds: int, problem_type: str) -> Refusal:
    mark = fresh_request_id()
    body = orjson.dumps(
        {
            "type": problem_type + Kind.OVERLOADED,
            "title": "the service is overloaded",
            "status": 503,
            "detail": "too many requests are under way",
            "request_id": mark,
            "retry_after": seconds,
            "fix": "wait as long as `Retry-After` says, then ask again",
        }
    )
    before, after = body.split(mark.encode())
    headers = [
        (b"content-type", b"application/problem+json"),
        (b"retry-after", b"%d" % seconds),
        *SAFE_HEADERS,
    ]
    lines = b"".join([b"%b: %b\r\n" % header for header in headers])
    return Refusal(headers, lines, before, after)


class Memory:
    """How much of the memory that this process may use is used: of its control group, or of the machine.

    `root` is where the kernel shows it; from the share `closes` on something is refused.
    """

    def __init__(
        self,
        root: Path = Path("/"),
        *,
        closes: float = 1.0,
        give_back: Callable[[], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        # Before the door closes, wherever its watermark is.
        self._give_back_share = min(GIVE_BACK_SHARE, closes)
        self._give_back = give_back or _give_back
        self._clock = clock
        self._next = float("-inf")
        self._statm = root / "proc/self/statm"
        self._limit = _memory_limit(root)
        self._page = os.sysconf("SC_PAGE_SIZE")

    def share(self) -> float:
        """From 0 to about 1; 0 where nobody can tell.

        What large requests leave behind the allocator keeps: it would count for ever, and close the door for ever.
        """
        used = self._share()
        if used >= self._give_back_share and self._clock() >= self._next:
            self._give_back()
            self._next = self._clock() + GIVE_BACK_SECONDS
            used = self._share()
        return used

    def _share(self) -> float:
        if self._limit is None:
            return 0.0
        try:
            # Resident, as the kernel counts when it has to end a process; without the caches of files.
            return int(self._statm.read_bytes().split()[1]) * self._page / self._limit
        except (OSError, ValueError, IndexError):
            return 0.0


def _give_back() -> None:
    """Give what is free back to the kernel, as far as the C library knows how: glibc does."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _memory_limit(root: Path) -> int | None:
    """The limit in bytes of control groups version 2 or 1; None without one that is smaller than the machine."""
    for name in ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            limit = int((root / name).read_text())
        except (OSError, ValueError):
            continue  # not there, or `max`
        # Version 1 says "none" by a number that no machine has.
        return limit if limit < 1 << 60 else None
    return None


class Watch:
    """Looks every 50 ms how late the event loop is, and every second at the memory; `tell` is called as often."""

    def __init__(
        self,
        feel: Callable[[Pressure], None],
        *,
        memory: Callable[[], float],
        tell: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._feel = feel
        self._memory = memory
        self._tell = tell
        self._clock = clock
        self._lag = 0.0
        self._used = 0.0
        self._looks = 0
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to look."""
        self._task = asyncio.get_running_loop().create_task(self._keep_looking(), name="pressure")

    async def stop(self) -> None:
        """End it."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    def look(self, late: float) -> None:
        """Take one look: `late` is by how many seconds it came too late."""
        # Up at once would refuse requests for one pause; down as slowly would refuse them for a second after it.
        self._lag += (max(0.0, late) - self._lag) * _LAG_WEIGHT
        if self._looks % round(1 / _LAG_INTERVAL) == 0:
            self._used = self._memory()
            self._tell()
        self._looks += 1
        self._feel(Pressure(self._lag, self._used))

    async def _keep_looking(self) -> None:
        while True:
            due = self._clock() + _LAG_INTERVAL
            await asyncio.sleep(_LAG_INTERVAL)
            self.look(self._clock() - due)
