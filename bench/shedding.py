"""`python -m bench.shedding`: what is left of a service that is asked four times as often as it can answer.

First one caller, then as many as saturate it, then an open loop: requests leave at their time whether or not the ones
before were answered, on as many connections as it takes.
"""

import argparse
import asyncio
import json
import tempfile
import time
from pathlib import Path

from app.migrations.schema import apply
from bench import load, service
from bench.load import Result
from bench.stores import agent_key, started_postgres

CONNECTIONS = 512
TICK_SECONDS = 0.002


class _Connection(asyncio.Protocol):
    """One connection of the open loop: idle, or waiting for one answer."""

    def __init__(self, idle: list["_Connection"], latencies: dict[bytes, list[float]]) -> None:
        self._idle = idle
        self._latencies = latencies
        self._buffer = b""
        self._need = 0
        self._sent = 0.0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._idle.append(self)

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
            self._idle.append(self)


async def open_loop(
    request: bytes, *, port: int, rate: float, seconds: float
) -> tuple[dict[bytes, list[float]], int, float]:
    """Latencies by status, how many requests found no connection, and how long it took."""
    loop = asyncio.get_running_loop()
    idle: list[_Connection] = []
    latencies: dict[bytes, list[float]] = {}
    for _ in range(CONNECTIONS):
        await loop.create_connection(lambda: _Connection(idle, latencies), "127.0.0.1", port)
    everybody = tuple(idle)
    began = time.perf_counter()
    due, unsent = 0.0, 0
    while (passed := time.perf_counter() - began) < seconds:
        while due < passed * rate:
            due += 1
            if idle:
                idle.pop().ask(request)
            else:
                unsent += 1
        await asyncio.sleep(TICK_SECONDS)
    for connection in everybody:
        connection.close()
    return latencies, unsent, time.perf_counter() - began


def _quantile(values: list[float], fraction: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * fraction))] * 1e3 if values else 0.0


def _closed(request: bytes, port: int, callers: int, seconds: float) -> Result:
    return asyncio.run(load.run(request, port=port, callers=callers, seconds=seconds))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.shedding", description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="of load per measurement (default 5)")
    parser.add_argument("--times", type=float, default=4.0, help="the overload (default 4)")
    options = parser.parse_args()
    service.pin({1})
    body = json.dumps(json.loads((service.ROOT / "bench" / "mutation.json").read_bytes())).encode()
    with tempfile.TemporaryDirectory() as scratch, started_postgres(Path(scratch)) as database_url:
        asyncio.run(apply(database_url))
        key = agent_key(database_url)
        request = load.http_post("/v1/decisions", body, headers={"Authorization": f"Bearer {key}"})
        with service.firewall(database_url, cores={0}, shedding=True) as guarded:
            _closed(request, guarded.port, 4, 1)
            alone = _closed(request, guarded.port, 1, options.seconds)
            one = alone.quantile(0.99) * 1e3
            print(f"1 caller: {alone.per_second:,.0f}/s, p50 {alone.quantile(0.5) * 1e3:.1f} ms, p99 {one:.1f} ms")
            peak = 0.0
            for callers in (8, 16, 32):
                found = _closed(request, guarded.port, callers, options.seconds)
                good = found.statuses.get(b"200", 0) / found.seconds
                peak = max(peak, good)
                print(f"{callers} callers: {good:,.0f}/s, p99 {found.quantile(0.99) * 1e3:.1f} ms, {found.statuses}")
            rate = peak * options.times
            latencies, unsent, took = asyncio.run(
                open_loop(request, port=guarded.port, rate=rate, seconds=options.seconds)
            )
            good = len(latencies.get(b"200", [])) / took
            admitted = latencies.get(b"200", [])
            print(
                f"open loop, {rate:,.0f}/s wanted, {unsent / took:,.0f}/s found no connection:\n"
                f"  answered {good:,.0f}/s ({good / peak:.0%} of the peak), p50 {_quantile(admitted, 0.5):.1f} ms, "
                f"p99 {_quantile(admitted, 0.99):.1f} ms ({_quantile(admitted, 0.99) / one:.1f} times one caller's)"
            )
            for status, took_each in sorted(latencies.items()):
                print(f"  {status.decode()}: {len(took_each) / took:,.0f}/s, p50 {_quantile(took_each, 0.5):.1f} ms")


if __name__ == "__main__":
    main()
