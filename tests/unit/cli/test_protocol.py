"""The protocol in front of every request, fed by hand."""

import asyncio
import json
import re
from functools import partial
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from app.cli.protocol import (
    HEAD_TIMEOUT_SECONDS,
    LINGER_SECONDS,
    MAX_DISCARDED_BYTES,
    MAX_HEAD_BYTES,
    MAX_LINGER_BYTES,
    Protocol,
)
from app.cli.server import KEEP_ALIVE_SECONDS, OPTIONS
from app.edge.shedding import DOOR, AdaptiveLimit, Door, Pace, Pressure, Priority, Shedder, SheddingMiddleware


class Wire(asyncio.Transport):
    """What the protocol wrote, and whether it closed."""

    def __init__(self):
        super().__init__()
        self.written = b""
        self.closed = False
        self.ended = False

    def write(self, data):
        self.written += data

    def close(self):
        self.closed = True

    def abort(self):
        self.closed = True

    def can_write_eof(self):
        return True

    def write_eof(self):
        self.ended = True

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

    def call_later(self, delay, callback, *args):
        handle = asyncio.TimerHandle(0, callback, args, self._loop)
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

    def __init__(self, app=None, **app_state):
        self.seen = []
        config = uvicorn.Config(app or self.app, interface="asgi3", **OPTIONS)
        config.load()
        self.timers = Timers(asyncio.get_running_loop())
        protocol_class: Any = config.http_protocol_class
        state = ServerState()
        state.default_headers = [(b"date", b"today")]
        self.protocol = protocol_class(config=config, server_state=state, app_state=app_state, _loop=self.timers)
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
        (b"GET /a#b HTTP/1.1\r\nHost: a\r\n", "the target of the request has a fragment"),
        (b"GET /a?b#/../c HTTP/1.1\r\nHost: a\r\n", "the target of the request has a fragment"),
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


class Guarded:
    """An application behind a door that lets in as many decisions as told; its answers wait until they may."""

    def __init__(self, *, decisions=1, **options):
        limit = AdaptiveLimit(initial=decisions, minimum=decisions, maximum=decisions)
        self.shedder = Shedder(limit, batches_max=1, others_max=1, lag_seconds=1, memory_share=0.9)
        self.shed: list[Priority] = []
        self.door = Door(
            self.shedder,
            priorities={"/v1/decisions": Priority.DECISION},
            health="/health",
            shed={priority: partial(self.shed.append, priority) for priority in Priority},
            problem_type="https://example.com/",
            chance=lambda: 0.0,
            # It stands still: how many may be refused by now is not for the machine to say.
            clock=lambda: 100.0,
            **options,
        )
        self.seen = []
        self.answer = asyncio.Event()
        self.answer.set()
        self.app = SheddingMiddleware(self.around, self.door)

    async def around(self, scope, receive, send):
        try:
            await self.inner(scope, receive, send)
        finally:
            self.door.leave(scope, 200)

    async def inner(self, scope, receive, send):
        self.seen.append((scope["method"], scope["path"]))
        while (await receive()).get("more_body"):
            pass
        await self.answer.wait()
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    def close(self):
        """Let nothing in but health."""
        self.shedder.feel(Pressure(lag=9))

    def open(self):
        self.shedder.feel(Pressure())

    @property
    def under_way(self):
        return sum(self.shedder.under_way.values())


POST = b"POST /v1/decisions HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}"
ID = re.compile(rb"[0-9a-f]{24}")


@pytest.fixture
async def guarded():
    """A guarded application, and a function that connects to it; by the middleware alone where told so."""
    made = Guarded()
    connections = []

    def connect(*, door=True):
        connection = Connection(made.app, **({DOOR: made.door} if door else {}))
        connections.append(connection)
        return connection

    yield made, connect
    made.answer.set()
    for connection in connections:
        for _ in range(3):
            await asyncio.sleep(0)
        connection.protocol.connection_lost(None)
        assert connection.timers.waiting() == []
    for _ in range(3):
        await asyncio.sleep(0)
    assert made.under_way == 0


@pytest.mark.parametrize(
    "sent",
    [
        POST,
        b"GET /v1/keys HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /v1/keys HTTP/1.0\r\n\r\n",
        b"GET /v1/keys HTTP/1.1\r\nHost: a\r\nX-Request-Id: Root=1-67891233-abcdef\r\n\r\n",
        b"HEAD /v1/keys HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /v1/k%65ys?a=b HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        b"GET /healthy HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /he%61lth?verbose HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /v1/keys HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        b"POST /v1/decisions HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX: y\r\n\r\n",
    ],
)
@pytest.mark.parametrize("going", [False, True])
async def test_both_ways_in_answer_the_same(guarded, sent, going):
    application, connect = guarded
    application.close()
    application.door.closing = going
    answers = []
    for door in (True, False):
        connection = connect(door=door)
        await connection.send(sent)
        answers.append((ID.sub(b"ID", connection.wire.written), connection.wire.closed, connection.timers.waiting()))
    assert answers[0] == answers[1]
    assert answers[0][0]
    assert len(application.shed) % 2 == 0


async def test_a_refusal_makes_no_request_and_the_connection_goes_on(guarded):
    application, connect = guarded
    connection = connect()
    application.close()
    await connection.send(POST + POST)
    first, second = connection.wire.written.split(b"HTTP/1.1 503 Service Unavailable\r\n")[1:]
    head, _, body = first.partition(b"\r\n\r\n")
    assert b"content-length: %d\r\n" % len(body) in head
    assert b"retry-after: 1\r\n" in head
    problem = json.loads(body)
    assert problem["type"] == "https://example.com/overloaded"
    assert b"x-request-id: " + problem["request_id"].encode() in head
    assert problem["request_id"].encode() not in second
    assert application.seen == []
    assert application.shed == [Priority.DECISION] * 2
    application.open()
    await connection.send(POST)
    assert application.seen == [("POST", "/v1/decisions")]
    assert connection.wire.written.count(b"HTTP/1.1 204") == 1
    assert not connection.wire.closed


async def test_a_refusal_has_the_request_id_of_the_caller(guarded):
    application, connect = guarded
    connection = connect()
    application.close()
    own = POST.replace(b"Host: a\r\n", b"Host: a\r\nX-Request-ID: mine\r\n")
    assert own != POST
    # The next one on the connection has its own.
    await connection.send(own + POST)
    first, second = connection.wire.written.split(b"HTTP/1.1 503 Service Unavailable\r\n")[1:]
    head, _, body = first.partition(b"\r\n\r\n")
    assert b"\r\nx-request-id: mine" in head
    assert json.loads(body)["request_id"] == "mine"
    assert b"\r\ncontent-length: %d\r\n" % len(body) in head
    assert b"mine" not in second


async def test_the_body_of_a_refused_request_is_read_off_in_any_pieces(guarded):
    application, connect = guarded
    connection = connect()
    application.close()
    for byte in POST[:-1]:
        await connection.send(bytes([byte]))
    assert connection.wire.written == b""
    assert connection.timers.waiting() == [HEAD_TIMEOUT_SECONDS]
    await connection.send(POST[-1:])
    assert connection.wire.written.startswith(b"HTTP/1.1 503")
    assert connection.timers.waiting() == [KEEP_ALIVE_SECONDS]
    application.open()
    await connection.send(POST)
    assert connection.wire.written.count(b"HTTP/1.1 204") == 1


async def test_a_body_that_is_too_much_to_throw_away_is_answered_and_the_connection_ends(guarded):
    application, connect = guarded
    connection = connect()
    application.close()
    size = MAX_DISCARDED_BYTES + 2
    await connection.send(b"POST /v1/decisions HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size)
    await connection.send(b"x" * (MAX_DISCARDED_BYTES + 1))
    assert connection.wire.written.count(b"HTTP/1.1 503") == 1
    assert b"\r\nconnection: close\r\n" in connection.wire.written
    # The answer is out; closing now would take it back from who still sends.
    assert (connection.wire.ended, connection.wire.closed) == (True, False)
    assert connection.timers.waiting() == [LINGER_SECONDS]
    # What comes behind it, in this read or the next, is nobody's.
    await connection.send(b"x" + POST)
    connection.timers.ring(LINGER_SECONDS)
    assert connection.wire.closed
    assert connection.wire.written.count(b"HTTP/1.1") == 1
    assert application.seen == []


async def test_what_follows_in_the_same_read_is_not_answered(guarded):
    application, connect = guarded
    connection = connect()
    application.close()
    body = b"x" * (MAX_DISCARDED_BYTES + 1)
    head = b"POST /v1/decisions HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body)
    health = b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n"
    await connection.send(head + body + health + POST + b"no HTTP")
    assert connection.wire.written.count(b"HTTP/1.1") == 1
    assert application.seen == []


async def test_who_goes_on_sending_for_ever_is_hung_up_on(guarded):
    application, connect = guarded
    connection = connect()
    application.close()
    await connection.send(b"POST /v1/decisions HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    sent = 0
    while not connection.wire.closed:
        await connection.send(b"8000\r\n" + b"x" * 0x8000 + b"\r\n")
        sent += 0x8000
        assert sent < 2 * MAX_LINGER_BYTES
    assert connection.wire.written.count(b"HTTP/1.1") == 1


async def test_who_asks_before_sending_is_answered_at_once_on_a_last_connection(guarded):
    application, connect = guarded
    connection = connect()
    application.close()
    await connection.send(POST[:-4] + b"Expect: 100-continue\r\n\r\n")
    assert connection.wire.written.startswith(b"HTTP/1.1 503")
    assert b"\r\nconnection: close\r\n" in connection.wire.written
    assert b"100" not in connection.wire.written.partition(b"\r\n")[0]
    assert connection.wire.ended


async def test_a_body_that_does_not_come_is_not_waited_for(guarded):
    application, connect = guarded
    connection = connect()
    application.close()
    await connection.send(POST[:-2])
    connection.timers.ring(HEAD_TIMEOUT_SECONDS)
    assert connection.wire.written.startswith(b"HTTP/1.1 503")
    assert connection.wire.ended


async def test_a_body_that_is_not_http_of_a_refused_request_gets_a_problem(guarded):
    application, connect = guarded
    connection = connect()
    application.close()
    await connection.send(b"POST /v1/keys HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}")
    assert connection.status_and_problem()[0] == 400
    assert connection.wire.closed


async def test_a_target_that_is_none_takes_no_place(guarded):
    application, connect = guarded
    connection = connect()
    await connection.send(b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n")
    assert connection.wire.written.startswith(b"HTTP/1.1 400")
    assert application.under_way == 0


async def test_behind_a_request_that_is_answered_each_waits_its_turn(guarded):
    application, connect = guarded
    application.answer.clear()
    connection = connect()
    await connection.send(POST + POST)
    # The second has no place yet: its connection may be gone before it is its turn.
    assert application.under_way == 1
    application.close()
    application.answer.set()
    for _ in range(5):
        await asyncio.sleep(0)
    order = re.findall(rb"HTTP/1.1 (\d+)", connection.wire.written)
    assert order == [b"204", b"503"]
    assert application.under_way == 0


async def test_one_refusal_too_many_waits_and_what_is_behind_it(guarded):
    application, connect = guarded
    application.door._pace = Pace(per_second=2, at_once=0, longest=10)
    connection = connect()
    application.close()
    await connection.send(POST)
    assert connection.wire.written.count(b"HTTP/1.1 503") == 1
    await connection.send(POST + POST)
    assert connection.wire.written.count(b"HTTP/1.1 503") == 1
    (delay,) = connection.timers.waiting()
    assert 0.4 < delay <= 0.52
    application.open()
    connection.timers.ring(delay)
    for _ in range(5):
        await asyncio.sleep(0)
    order = re.findall(rb"HTTP/1.1 (\d+)", connection.wire.written)
    assert order == [b"503", b"503", b"204"]


@pytest.mark.parametrize("end", ["gone", "shutdown"])
async def test_who_waits_to_be_refused_when_it_ends(guarded, end):
    application, connect = guarded
    application.door._pace = Pace(per_second=2, at_once=0, longest=10)
    application.close()
    connection = connect()
    await connection.send(POST + POST)
    if end == "gone":
        connection.protocol.connection_lost(None)
        assert connection.timers.waiting() == []
        connection.protocol._tell(connection.protocol.cycle)
        assert connection.wire.written.count(b"HTTP/1.1 503") == 1
    else:
        connection.protocol.shutdown()
        assert not connection.wire.closed
        connection.timers.ring(10)
        assert connection.wire.written.count(b"HTTP/1.1 503") == 2
        assert connection.wire.closed


async def test_who_reads_no_answer_is_hung_up_on(guarded):
    application, connect = guarded
    connection = connect()
    application.close()
    connection.protocol.pause_writing()
    await connection.send(POST)
    assert (connection.wire.written, connection.wire.closed) == (b"", True)


async def test_without_half_closed_connections_the_answer_is_sent_all_the_same(guarded, monkeypatch):
    application, connect = guarded
    connection = connect()
    application.close()
    monkeypatch.setattr(Wire, "can_write_eof", lambda _: False)
    await connection.send(POST[:-4] + b"Expect: 100-continue\r\n\r\n")
    assert connection.wire.written.startswith(b"HTTP/1.1 503")
    assert not connection.wire.ended
