"""The protocol in front of every request, fed by hand."""

import asyncio
import json
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from app.cli.protocol import HEAD_TIMEOUT_SECONDS, MAX_HEAD_BYTES, Protocol
from app.cli.server import KEEP_ALIVE_SECONDS, OPTIONS


class Wire(asyncio.Transport):
    """What the protocol wrote, and whether it closed."""

    def __init__(self):
        super().__init__()
        self.written = b""
        self.closed = False

    def write(self, data):
        self.written += data

    def close(self):
        self.closed = True

    def is_closing(self):
        return self.closed

    def get_extra_info(self, name, default=None):
        return default

    def pause_reading(self):
        pass

    def resume_reading(self):
        pass


class Timers:
    """A loop whose timers ring when told to."""

    def __init__(self, loop):
        self._loop = loop
        self.set = []

    def call_later(self, delay, callback):
        handle = asyncio.TimerHandle(0, callback, (), self._loop)
        self.set.append((delay, handle))
        return handle

    def waiting(self):
        return [delay for delay, handle in self.set if not handle.cancelled()]

    def ring(self, seconds):
        due = [handle for delay, handle in self.set if delay <= seconds and not handle.cancelled()]
        for handle in due:
            handle._run()
            handle.cancel()

    def __getattr__(self, name):
        return getattr(self._loop, name)


class Connection:
    """One connection to an application that answers 204 and keeps the headers it saw when the body was whole."""

    def __init__(self):
        self.seen = []
        config = uvicorn.Config(self.app, interface="asgi3", **OPTIONS)
        config.load()
        self.timers = Timers(asyncio.get_running_loop())
        protocol_class: Any = config.http_protocol_class
        self.protocol = protocol_class(config=config, server_state=ServerState(), app_state={}, _loop=self.timers)
        self.wire = Wire()
        self.answer = asyncio.Event()
        self.answer.set()
        self.protocol.connection_made(self.wire)

    async def app(self, scope, receive, send):
        while (await receive()).get("more_body"):
            pass
        self.seen.append([name for name, _ in scope["headers"]])
        await self.answer.wait()
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def send(self, data):
        self.protocol.data_received(data)
        for _ in range(5):
            await asyncio.sleep(0)

    def status_and_problem(self):
        head, _, body = self.wire.written.partition(b"\r\n\r\n")
        assert b"content-type: application/problem+json\r\n" in head
        assert b"content-length: %d\r\n" % len(body) in head
        return int(head.split()[1]), json.loads(body)


@pytest.fixture
async def connection():
    made = Connection()
    assert isinstance(made.protocol, Protocol)
    yield made
    made.protocol.connection_lost(None)
    assert made.timers.waiting() == []


REQUEST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}"


async def test_requests_in_any_pieces_are_answered(connection):
    await connection.send(REQUEST + REQUEST[:20])
    await connection.send(REQUEST[20:])
    for byte in REQUEST:
        await connection.send(bytes([byte]))
    assert connection.wire.written.count(b"HTTP/1.1 204") == 3
    assert not connection.wire.closed
    assert connection.timers.waiting() == [KEEP_ALIVE_SECONDS]


async def test_a_head_without_end_is_refused_before_it_fills_the_memory(connection):
    await connection.send(b"POST / HTTP/1.1\r\n")
    sent = 0
    while not connection.wire.closed:
        await connection.send(b"X-A: aaaaaaaa\r\n" * 64)
        sent += 15 * 64
        assert sent < 2 * MAX_HEAD_BYTES
    status, problem = connection.status_and_problem()
    assert (status, problem["type"].rpartition("/")[2]) == (431, "too-large")
    assert connection.seen == []


async def test_one_header_line_without_end_is_refused(connection):
    await connection.send(b"POST / HTTP/1.1\r\nX-A: ")
    for _ in range(MAX_HEAD_BYTES // 1024 + 1):
        await connection.send(b"a" * 1024)
    assert connection.status_and_problem()[0] == 431


async def test_a_large_body_is_no_large_head(connection):
    size = 4 * MAX_HEAD_BYTES
    await connection.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size)
    for _ in range(4):
        await connection.send(b"x" * MAX_HEAD_BYTES)
    assert connection.wire.written.startswith(b"HTTP/1.1 204")


async def test_a_head_has_a_deadline(connection):
    await connection.send(b"POST / HTTP/1.1\r\nHost: a\r\n")
    await connection.send(b"X-A: a\r\n")
    assert connection.timers.waiting() == [HEAD_TIMEOUT_SECONDS]
    connection.timers.ring(HEAD_TIMEOUT_SECONDS)
    status, problem = connection.status_and_problem()
    assert (status, problem["detail"]) == (408, "the header lines did not arrive within 10 seconds")
    assert connection.wire.closed


async def test_a_connection_that_never_asks_is_closed_without_a_word(connection):
    assert connection.timers.waiting() == [KEEP_ALIVE_SECONDS]
    connection.timers.ring(KEEP_ALIVE_SECONDS)
    assert (connection.wire.written, connection.wire.closed) == (b"", True)


async def test_a_slow_head_behind_a_request_that_is_being_answered_only_closes(connection):
    connection.answer.clear()
    await connection.send(REQUEST + b"POST / HTTP/1.1\r\n")
    connection.timers.ring(HEAD_TIMEOUT_SECONDS)
    assert (connection.wire.written, connection.wire.closed) == (b"", True)
    connection.answer.set()
    await asyncio.sleep(0)


async def test_trailers_are_no_headers(connection):
    await connection.send(
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n"
        b"Authorization: Bearer stolen\r\nX-API-Key: stolen\r\n\r\n"
    )
    assert connection.seen == [[b"host", b"transfer-encoding"]]


async def test_what_is_not_http_gets_a_problem(connection):
    await connection.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
    status, problem = connection.status_and_problem()
    assert (status, problem["type"].rpartition("/")[2]) == (400, "malformed")
    assert connection.wire.closed


@pytest.mark.parametrize(
    ("head", "fault"),
    [
        (b"GET / HTTP/1.1\r\n", "the request has no `Host`"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n", "the request has more than one `Host`"),
        (b"GET / HTTP/1.0\r\nHost: a\r\nhost: a\r\n", "the request has more than one `Host`"),
    ],
)
async def test_a_request_says_once_whom_it_asks(connection, head, fault):
    await connection.send(head + b"\r\n")
    status, problem = connection.status_and_problem()
    assert (status, problem["detail"]) == (400, fault)
    assert connection.wire.closed
    assert connection.seen == []


async def test_http_1_0_needs_no_host(connection):
    await connection.send(b"GET / HTTP/1.0\r\n\r\n")
    assert connection.wire.written.startswith(b"HTTP/1.1 204")


async def test_a_request_without_a_host_behind_another_only_closes(connection):
    connection.answer.clear()
    await connection.send(REQUEST + b"GET / HTTP/1.1\r\n\r\n")
    assert (connection.wire.written, connection.wire.closed) == (b"", True)
    connection.answer.set()
    await asyncio.sleep(0)


async def test_a_body_that_is_not_http_gets_a_problem(connection):
    await connection.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}")
    assert connection.status_and_problem()[0] == 400
    assert connection.wire.closed


async def test_a_body_that_is_not_http_behind_another_request_only_closes(connection):
    connection.answer.clear()
    await connection.send(REQUEST + b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}")
    assert (connection.wire.written, connection.wire.closed) == (b"", True)
    connection.answer.set()
    await asyncio.sleep(0)


async def test_an_upgrade_is_passed_over_in_silence(connection, caplog):
    await connection.send(
        b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    assert connection.wire.written.startswith(b"HTTP/1.1 204")
    assert caplog.text == ""


async def test_a_connection_too_many_is_told_and_closed():
    async def nobody(scope, receive, send):
        raise AssertionError("no request gets here")

    config = uvicorn.Config(nobody, interface="asgi3", limit_concurrency=1, **OPTIONS)
    config.load()
    state = ServerState()
    loop: Any = Timers(asyncio.get_running_loop())
    made = [Protocol(config=config, server_state=state, app_state={}, _loop=loop) for _ in range(2)]
    wires = [Wire(), Wire()]
    for protocol, wire in zip(made, wires, strict=True):
        protocol.connection_made(wire)
    assert (wires[0].written, wires[0].closed) == (b"", False)
    head, _, body = wires[1].written.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert b"retry-after: 1\r\n" in head
    assert json.loads(body)["type"].endswith("/overloaded")
    assert wires[1].closed
    made[1].connection_lost(None)
    assert state.connections == {made[0]}
    made[0].connection_lost(None)
    assert loop.waiting() == []
