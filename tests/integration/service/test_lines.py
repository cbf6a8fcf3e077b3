"""Streams of lines: answered as they come, a bad one told by its number, ended with a word wherever they end."""

import asyncio
import gzip
import json
import socket
from pathlib import Path
from typing import Any

import httpx
import pytest
import zstandard

from app.core.principal import AuthMethod, Principal, PrincipalKind, Role
from app.core.quota import Limit, RouteClass
from app.edge.gate import Gate
from app.edge.limits import RateLimits, TokenBuckets
from app.edge.peer import Peer
from app.errors import FirewallError, Kind
from app.observability.metrics import Metrics
from app.surfaces.native.lines import BLANK_LINES_MAX, LINES_AT_ONCE, STREAMS_AT_ONCE, LinesEndpoint, is_lines

ROOT = Path(__file__).resolve().parents[3]
GOOD = json.loads((ROOT / "examples" / "allow-k8s-deployment-scaled.json").read_bytes())
LINE = json.dumps(GOOD).encode()
BATCH = "/v1/decisions:batch"
LINES = {"Content-Type": "application/x-ndjson"}
METRICS = Metrics(version="0")
WHO = Principal("ci", PrincipalKind.AGENT, frozenset({Role.AGENT}), AuthMethod.API_KEY)


def parsed(content: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in content.splitlines()]


def test_a_bad_line_is_told_by_its_number_and_skipped(service):
    before = len(service.entries())
    body = b"\n".join([LINE, b"", b"{", LINE + b"\r", b'{"subject": 1}', b"x" * 1_100_000, b"  ", LINE])
    with service.client() as client:
        answer = client.post(BATCH, content=body, headers=LINES)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/x-ndjson"
    *told, end = parsed(answer.content)
    assert [one["line"] for one in told] == [1, 3, 4, 5, 6, 8]
    assert [one.get("decision", one.get("status")) for one in told] == ["allow", 400, "allow", 400, 413, "allow"]
    assert told[3]["pointer"] == "/action"
    assert end == {"summary": {"allow": 3, "deny": 0, "hold": 0, "refused": 3}, "lines": 8, "complete": True}
    assert len(service.entries()) == before + 3


def test_many_lines_in_any_pieces(service):
    count = 3 * LINES_AT_ONCE + 5
    body = (LINE + b"\n") * count

    def pieces():
        for start in range(0, len(body), 10_007):
            yield body[start : start + 10_007]

    with service.client() as client, client.stream("POST", BATCH, content=pieces(), headers=LINES) as answer:
        *told, end = parsed(b"".join(answer.iter_bytes()))
    assert [one["line"] for one in told] == list(range(1, count + 1))
    indexes = [one["ledger_index"] for one in told]
    assert indexes == sorted(indexes)
    assert end["summary"]["allow"] == count


def test_answers_come_before_the_last_line_is_sent(service):
    host, port = service.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(
            f"POST {BATCH} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {service.key}\r\n"
            "Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        )

        def send(data):
            connection.sendall(b"%x\r\n%b\r\n" % (len(data), data))

        def read_until(part):
            data = b""
            while part not in data:
                more = connection.recv(65_536)
                assert more, data
                data += more

        for number in range(1, 4):
            send(LINE + b"\n")
            read_until(b'"line":%d,' % number)
        send(b"")
        read_until(b'"complete":true')


def test_it_ends_where_the_tokens_do(database_dsn, serve):
    with serve(database_dsn, MFW_LIMITS__BATCH_PER_MINUTE="1", MFW_LIMITS__BATCH_BURST="300") as limited:
        with limited.client() as client:
            answer = client.post(BATCH, content=(LINE + b"\n") * 400, headers=LINES)
        assert answer.status_code == 200
        *told, fault, end = parsed(answer.content)
        assert fault["status"] == 429
        assert fault["retry_after"] >= 1
        assert fault["line"] == len(told) + 1
        assert (end["complete"], end["lines"]) == (False, len(told))
        assert len(limited.entries()) == len(told) == end["summary"]["allow"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Idempotency-Key": "k"}, 400),
        ({"Content-Encoding": "br"}, 415),
        ({"Content-Encoding": "gzip, zstd"}, 415),
        ({"Content-Type": "application/x-ndjson; charset=latin-1"}, 415),
        ({"Content-Encoding": "identity", "Content-Type": "Application/X-NDJSON; charset=utf-8"}, 200),
        ({"Authorization": ""}, 401),
    ],
)
def test_what_is_refused_before_a_line_is_read(service, headers, status):
    with service.client() as client:
        answer = client.post(BATCH, content=LINE, headers=LINES | headers)
    assert answer.status_code == status
    if status != 200:
        assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(("coding", "write"), [("gzip", gzip.compress), ("zstd", zstandard.compress)])
def test_compressed_lines(service, coding, write):
    body = write(b"\n".join([LINE, b"{", LINE]))

    def pieces():
        for start in range(0, len(body), 50):
            yield body[start : start + 50]

    headers = LINES | {"Content-Encoding": coding}
    with service.client() as client:
        *told, end = parsed(client.post(BATCH, content=pieces(), headers=headers).content)
        assert [one.get("decision", one.get("status")) for one in told] == ["allow", 400, "allow"]
        assert end["complete"] is True
        # Cut off: what was whole is decided, the rest is told.
        *told, fault, end = parsed(client.post(BATCH, content=body[:-9], headers=headers).content)
        assert (fault["status"], end["complete"]) == (400, False)
        # A line that is a bomb is too long for a line, and as a stream it ends at its line.
        bomb = write(LINE + b"\n" + b" " * 50_000_000)
        *told, fault, end = parsed(client.post(BATCH, content=bomb, headers=headers).content)
        assert [one["line"] for one in told] == [1]
        assert (fault["line"], fault["status"], end["complete"]) == (2, 413, False)


def test_one_coding_inside_another(service):
    headers = [("Content-Type", LINES["Content-Type"]), ("Content-Encoding", "gzip"), ("Content-Encoding", "zstd")]
    with service.client() as client:
        answer = client.post(BATCH, content=LINE, headers=headers)
    assert answer.status_code == 415
    assert answer.headers["accept-encoding"] == "gzip, zstd"


async def test_blank_lines_without_end():
    stream = Stream()
    stream.feed(b"\n" * BLANK_LINES_MAX + b"{}\n" + b" \n" * (BLANK_LINES_MAX + 1), more=False)
    told, fault, end = await stream.answer()
    assert told["line"] == BLANK_LINES_MAX + 1
    assert (fault["status"], end["complete"]) == (400, False)
    assert "blank" in fault["detail"]


def test_who_may_not_decide(service):
    with service.client(key=service.operator_key) as client:
        assert client.post(BATCH, content=LINE, headers=LINES).status_code == 403


class Anybody:
    async def authenticate(self, _headers: Any, *, client_ip: str, peer: Peer | None = None) -> Principal:
        return WHO


class Refuses:
    """A service that refuses every mutation, or all of them at once."""

    def __init__(self) -> None:
        self.error: BaseException | None = None

    async def decide_all(self, _principal, batch):
        if self.error is not None:
            raise self.error
        return [FirewallError(Kind.FORBIDDEN, "no") for _ in batch.items]


class Stream:
    """One endpoint, fed by hand."""

    def __init__(self, **options: Any) -> None:
        self.service = Refuses()
        limits = RateLimits({RouteClass.BATCH: Limit(250, 500)}, make=lambda _, limit: TokenBuckets(limit))
        options = {"max_line_bytes": 100, "timeout_seconds": 5.0} | options
        self.endpoint = LinesEndpoint(self.service, gate=Gate(Anybody(), limits=limits, metrics=METRICS), **options)
        self.incoming: asyncio.Queue[Any] = asyncio.Queue()
        self.sent: list[Any] = []

    def feed(self, body: bytes, *, more: bool = True) -> None:
        self.incoming.put_nowait({"type": "http.request", "body": body, "more_body": more})

    async def send(self, message: Any) -> None:
        self.sent.append(message)

    async def answer(self) -> list[dict[str, Any]]:
        scope = {
            "type": "http",
            "method": "POST",
            "path": BATCH,
            "headers": [(b"content-type", b"application/x-ndjson")],
        }
        assert is_lines(scope)
        await self.endpoint(scope, self.incoming.get, self.send)
        return parsed(b"".join(message.get("body", b"") for message in self.sent))


async def test_who_sends_nothing_is_told_and_not_waited_for():
    stream = Stream(read_seconds=0.01)
    stream.feed(b"{}\n{")
    first, fault, end = await stream.answer()
    assert (first["line"], fault["line"], fault["status"]) == (1, 2, 400)
    assert "nothing arrived" in fault["detail"]
    assert end["complete"] is False


async def test_a_stream_has_an_end():
    seconds = iter([0.0, *[i * 40.0 for i in range(100)]])
    stream = Stream(clock=lambda: next(seconds), stream_seconds=100.0, read_seconds=50.0)
    for _ in range(10):
        stream.feed(b"{}\n")
    *_, fault, end = await stream.answer()
    assert (fault["status"], end["complete"]) == (504, False)


async def test_a_ledger_that_is_away_ends_it():
    stream = Stream()
    stream.service.error = FirewallError(Kind.UNAVAILABLE, "away", retry_after=3)
    stream.feed(b"\n{}\n{}\n", more=False)
    fault, end = await stream.answer()
    assert (fault["line"], fault["status"], fault["retry_after"]) == (2, 503, 3)
    assert end["lines"] == 0


async def test_lines_that_take_too_long_end_it():
    stream = Stream()
    stream.service.error = TimeoutError()
    stream.feed(b"{}", more=False)
    fault, _ = await stream.answer()
    assert fault["status"] == 504


@pytest.mark.parametrize("leaves", ["disconnect", "write", "stuck"])
async def test_a_client_that_leaves_or_does_not_read(leaves):
    stream = Stream(timeout_seconds=0.05 if leaves == "stuck" else 60.0)
    stream.feed(b"{}\n")
    stream.incoming.put_nowait({"type": "http.disconnect"})

    async def broken(message):
        if message["type"] == "http.response.body":
            if leaves == "stuck":
                await asyncio.Event().wait()
            raise ConnectionResetError

    if leaves != "disconnect":
        stream.send = broken  # type: ignore[method-assign]  # the wire of this test
    told = await stream.answer()
    assert [one["line"] for one in told] == ([1] if leaves == "disconnect" else [])


async def test_only_so_many_streams():
    stream = Stream()
    tasks = [asyncio.create_task(stream.answer()) for _ in range(STREAMS_AT_ONCE)]
    # Each has begun its answer.
    while len(stream.sent) < STREAMS_AT_ONCE:
        await asyncio.sleep(0.01)
    other = Stream()
    other.endpoint = stream.endpoint
    (refused,) = await other.answer()
    assert (refused["status"], refused["retry_after"]) == (503, 1)
    for _ in tasks:
        stream.feed(b"", more=False)
    await asyncio.gather(*tasks)
    other.sent.clear()
    other.feed(b"", more=False)
    assert (await other.answer())[-1]["complete"] is True


async def test_a_long_line_in_small_pieces_costs_no_memory():
    stream = Stream()
    for _ in range(100):
        stream.feed(b"x" * 10)
    stream.feed(b"\n{}", more=False)
    first, second, _ = await stream.answer()
    assert (first["line"], first["status"]) == (1, 403)
    assert second["line"] == 2


def test_httpx_needs_no_tricks(service):
    with httpx.Client(base_url=service.url, headers={"X-API-Key": service.key}) as client:
        assert client.post(BATCH, content=LINE, headers=LINES).status_code == 200
