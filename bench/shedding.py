"""`python -m bench.shedding`: what is left of a service that is asked four times as often as it can answer.

Each round: one caller, as many as saturate it, a moderate open loop, and the overload. In an open loop requests leave
at their time whether or not the ones before were answered, on as many connections as it takes, up to a number; what
finds none of them idle was not asked, and is counted. Ratios are taken within a round, because a machine's speed
drifts; the median round is printed.

The service has the first core, the generator the second; `--database` says which of them PostgreSQL has.
"""

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop

from app.migrations.schema import apply
from bench import load, service
from bench.service import Started
from bench.stores import agent_key, started_postgres

CONNECTIONS = 512
TICK_SECONDS = 0.002
# As many as saturate it.
CALLERS = 16
# Of the peak, for the moderate load.
MODERATE = 0.5


class _Connection(asyncio.Protocol):
    """One connection of the open loop: idle, or waiting for one answer."""

    def __init__(self, idle: list["_Connection"], latencies: dict[bytes, list[float]]) -> None:
        self.idle = idle
        self._latencies = latencies
        self._buffer = b""
        self._need = 0
        self._sent = 0.0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # uvloop's is no subclass of asyncio's
        self.idle.append(self)

    def ask(self, request: bytes) -> None:
        assert self._transport is not None
        self._sent = time.perf_counter()
        self._transport.write(request)

    def close(self) -> None:
        assert self._transport is not None
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._need:
            head = self._buffer.find(b"\r\n\r\n")
            if head < 0:
                return
            headers = self._buffer[:head].lower()
            at = headers.index(b"content-length:") + 15
            end = headers.find(b"\r\n", at)
            self._need = head + 4 + int(headers[at : end if end > 0 else None])
        if len(self._buffer) >= self._need:
            self._latencies.setdefault(self._buffer[9:12], []).append(time.perf_counter() - self._sent)
            self._buffer, self._need = b"", 0
            self.idle.append(self)


@dataclass(frozen=True, slots=True)
class Load:
    """What came of a load: latencies in seconds by status, requests that found no connection, seconds it took, and the
    seconds of processor time that the service and the generator used meanwhile.
    """

    latencies: dict[bytes, list[float]]
    unsent: int
    seconds: float
    served: float
    generated: float

    def rate(self, status: bytes = b"200") -> float:
        """Answers with a status in a second."""
        return len(self.latencies.get(status, ())) / self.seconds

    def quantile(self, fraction: float, status: bytes = b"200") -> float:
        """Milliseconds that this share of the answers did not exceed."""
        ordered = sorted(self.latencies.get(status, ()))
        return ordered[min(len(ordered) - 1, int(len(ordered) * fraction))] * 1e3 if ordered else 0.0


class _Schedule(list[_Connection]):
    """Idle connections; one that becomes idle takes what became due since the last tick."""

    def __init__(self, request: bytes, rate: float, began: float) -> None:
        super().__init__()
        self.unsent = 0
        self._request = request
        self._rate = rate
        self._began = began
        self._asked = 0

    def append(self, connection: _Connection) -> None:
        if (time.perf_counter() - self._began) * self._rate > self._asked:
            self._asked += 1
            connection.ask(self._request)
        else:
            super().append(connection)

    def tick(self) -> float:
        """Ask what is due, and give up what finds no connection; seconds since the beginning."""
        passed = time.perf_counter() - self._began
        due = int(passed * self._rate)
        while self and self._asked < due:
            self._asked += 1
            self.pop().ask(self._request)
        self.unsent += max(0, due - self._asked)
        self._asked = max(due, self._asked)
        return passed


async def _connected(latencies: dict[bytes, list[float]], *, port: int, connections: int) -> list[_Connection]:
    loop = asyncio.get_running_loop()
    made: list[_Connection] = []
    for _ in range(connections):
        await loop.create_connection(lambda: _Connection(made, latencies), "127.0.0.1", port)
    return list(made)


@dataclass(frozen=True, slots=True)
class Asked:
    """A service, and what it is asked."""

    target: Started
    request: bytes
    connections: int

    def closed(self, *, callers: int, seconds: float) -> Load:
        """Callers who ask again as soon as they are answered."""

        async def ask(connections: list[_Connection]) -> tuple[int, float]:
            asking = _Asking(self.request, time.perf_counter() + seconds)
            for connection in connections:
                connection.idle = asking
                connection.ask(self.request)
            await asyncio.sleep(seconds)
            return 0, seconds

        return self._measure(ask, connections=callers)

    def opened(self, *, rate: float, seconds: float) -> Load:
        """Requests that leave at their time."""

        async def ask(connections: list[_Connection]) -> tuple[int, float]:
            schedule = _Schedule(self.request, rate, time.perf_counter())
            for connection in connections:
                connection.idle = schedule
            list.extend(schedule, connections)
            while (passed := schedule.tick()) < seconds:
                await asyncio.sleep(TICK_SECONDS)
            return schedule.unsent, passed

        return self._measure(ask, connections=self.connections)

    def _measure(
        self, ask: Callable[[list[_Connection]], Coroutine[Any, Any, tuple[int, float]]], *, connections: int
    ) -> Load:
        async def measured() -> Load:
            latencies: dict[bytes, list[float]] = {}
            everybody = await _connected(latencies, port=self.target.port, connections=connections)
            # To accept a connection costs as much as a decision, and is no part of this.
            served, generated = service.cpu_seconds(self.target.pid), time.process_time()
            unsent, seconds = await ask(everybody)
            served = service.cpu_seconds(self.target.pid) - served
            generated = time.process_time() - generated
            for connection in everybody:
                connection.close()
            return Load({status: list(took) for status, took in latencies.items()}, unsent, seconds, served, generated)

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(measured())


class _Asking(list[_Connection]):
    """Whoever is idle asks again at once, until it is over."""

    def __init__(self, request: bytes, stop_at: float) -> None:
        super().__init__()
        self._request = request
        self._stop_at = stop_at

    def append(self, connection: _Connection) -> None:
        if time.perf_counter() < self._stop_at:
            connection.ask(self._request)


@dataclass(frozen=True, slots=True)
class Round:
    """One of each."""

    one: Load
    peak: Load
    moderate: Load
    overload: Load


def _round(asked: Asked, *, seconds: float, times: float) -> Round:
    one = asked.closed(callers=1, seconds=seconds / 2)
    peak = asked.closed(callers=CALLERS, seconds=seconds)
    moderate = asked.opened(rate=peak.rate() * MODERATE, seconds=seconds)
    overload = asked.opened(rate=peak.rate() * times, seconds=seconds)
    return Round(one, peak, moderate, overload)


def _row(name: str, one: Load) -> None:
    refused = one.rate(b"503")
    print(
        f"{name:<22}{one.rate():>8,.0f}/s{refused:>9,.0f}/s{one.unsent / one.seconds:>9,.0f}/s"
        f"{one.quantile(0.5):>8.1f}{one.quantile(0.99):>8.1f} ms"
        f"{one.served / one.seconds:>9.0%}{one.generated / one.seconds:>10.0%}"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.shedding", description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="of load per measurement (default 3)")
    parser.add_argument("--rounds", type=int, default=5, help="(default 5)")
    parser.add_argument("--times", type=float, default=4.0, help="the overload (default 4)")
    parser.add_argument(
        "--connections", type=int, default=CONNECTIONS, help=f"of the open loop (default {CONNECTIONS})"
    )
    parser.add_argument(
        "--database", choices=("generator", "service"), default="generator", help="whose core PostgreSQL shares"
    )
    options = parser.parse_args()
    body = json.dumps(json.loads((service.ROOT / "bench" / "mutation.json").read_bytes())).encode()
    service.pin({1} if options.database == "generator" else {0})
    with tempfile.TemporaryDirectory() as scratch, started_postgres(Path(scratch)) as database_url:
        service.pin({1})
        asyncio.run(apply(database_url))
        key = agent_key(database_url)
        request = load.http_post("/v1/decisions", body, headers={"Authorization": f"Bearer {key}"})
        with service.firewall(database_url, cores={0}, shedding=True) as guarded:
            asked = Asked(guarded, request, options.connections)
            asked.closed(callers=4, seconds=1)
            rounds = [_round(asked, seconds=options.seconds, times=options.times) for _ in range(options.rounds)]
    print(f"{'':<22}{'answered':>10}{'refused':>11}{'unsent':>11}{'p50':>8}{'p99':>11}{'service':>9}{'generator':>10}")
    for each in rounds:
        _row("1 caller", each.one)
        _row(f"{CALLERS} callers", each.peak)
        _row(f"{MODERATE:g} times the peak", each.moderate)
        _row(f"{options.times:g} times the peak", each.overload)
        print()

    def middle(name: str, values: list[float]) -> None:
        print(f"{name:<44}{statistics.median(values):>8.2f}  (lowest {min(values):.2f}, highest {max(values):.2f})")

    middle("goodput / peak", [each.overload.rate() / each.peak.rate() for each in rounds])
    middle(
        "p99 of admitted / p99 of 1 caller", [each.overload.quantile(0.99) / each.one.quantile(0.99) for each in rounds]
    )
    middle(
        "p99 of admitted / p99 at moderate load",
        [each.overload.quantile(0.99) / each.moderate.quantile(0.99) for each in rounds],
    )


if __name__ == "__main__":
    main()
