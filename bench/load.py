"""A load generator on one core: N keep-alive connections, each with one request in flight, latencies kept whole."""

import asyncio
import time
from dataclasses import dataclass, field


@dataclass(slots=True)
class Result:
    """Requests answered, how long it took, and each latency in seconds (unsorted)."""

    seconds: float
    latencies: list[float] = field(default_factory=list)
    statuses: dict[bytes, int] = field(default_factory=dict)

    @property
    def per_second(self) -> float:
        """Answers per second of wall clock."""
        return len(self.latencies) / self.seconds

    def quantile(self, fraction: float) -> float:
        """The latency in seconds that `fraction` of the answers did not exceed."""
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(len(ordered) * fraction))]


class _Caller(asyncio.Protocol):
    """One connection: writes the request again as soon as the answer before it is complete."""

    __slots__ = ("_buffer", "_done", "_need", "_request", "_result", "_sent", "_stop_at", "_transport")

    def __init__(self, request: bytes, result: Result, stop_at: float, done: asyncio.Future[None]) -> None:
        self._request = request
        self._result = result
        self._stop_at = stop_at
        self._done = done
        self._buffer = b""
        self._need = 0
        self._sent = 0.0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the first request."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._send()

    def _send(self) -> None:
        assert self._transport is not None
        self._sent = time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """Collect until the answer is whole, then count it and ask again."""
        self._buffer = self._buffer + data if self._buffer else data
        if not self._need:
            head = self._buffer.find(b"\r\n\r\n")
            if head < 0:
                return
            headers = self._buffer[:head].lower()
            at = headers.index(b"content-length:") + 15
            end = headers.find(b"\r\n", at)
            self._need = head + 4 + int(headers[at : end if end > 0 else None])
        if len(self._buffer) < self._need:
            return
        now = time.perf_counter()
        status = self._buffer[9:12]
        self._result.statuses[status] = self._result.statuses.get(status, 0) + 1
        self._result.latencies.append(now - self._sent)
        self._buffer = b""
        self._need = 0
        if now < self._stop_at:
            self._send()
        elif self._transport is not None:
            self._transport.close()

    def connection_lost(self, _error: Exception | None) -> None:
        """The end of this caller, whoever hung up."""
        if not self._done.done():
            self._done.set_result(None)


def http_post(path: str, body: bytes, *, headers: dict[str, str]) -> bytes:
    """The bytes of a POST, made once and sent again and again."""
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: 127.0.0.1",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
    ]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def run(request: bytes, *, port: int, callers: int, seconds: float) -> Result:
    """Ask `request` of 127.0.0.1:`port` from `callers` connections for about `seconds`."""
    loop = asyncio.get_running_loop()
    started = time.perf_counter()
    result = Result(seconds=0)
    done: list[asyncio.Future[None]] = []
    for _ in range(callers):
        future: asyncio.Future[None] = loop.create_future()
        done.append(future)
        await loop.create_connection(
            lambda future=future: _Caller(request, result, started + seconds, future),  # type: ignore[misc]  # bound now
            "127.0.0.1",
            port,
        )
    await asyncio.wait(done, timeout=seconds + 30)
    result.seconds = time.perf_counter() - started
    return result
