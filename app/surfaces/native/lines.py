"""`POST /v1/decisions:batch` as newline-delimited JSON: as many mutations as there are, each answered by a line.

    (1) admit     the caller, the scope, one of a few places for streams; all of this before a line is read
    (2) read      whole lines, a bounded number at a time; what is no line that can be read is told by its number
    (3) limit     a token for each line; without one the stream ends there
    (4) decide    these lines as a batch, each for itself
    (5) write     a line for each, in their order; the client has to read while it sends
    (6) end       a line with the counts: an answer without it was cut off

Memory: one message of the server's, what it becomes where it is compressed (a few mebibytes), at most `LINES_AT_ONCE`
lines, one line of `max_line_bytes`.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from typing import Any, Final, NamedTuple, Protocol

import orjson
from starlette.types import Message, Receive, Scope, Send

from app.core import strict_json
from app.core.batch import Batch
from app.core.principal import AccessScope, Principal
from app.core.quota import RouteClass
from app.core.types import Effect, JsonObject, Mutation
from app.edge.body import BODY_TIMEOUT_SECONDS, ClientDisconnectedError
from app.edge.context import context_of, deliver
from app.edge.encoding import Expander, coding_of, unsupported
from app.edge.gate import Gate
from app.edge.idempotency import idempotency_key
from app.errors import FirewallError, Kind
from app.service.decide import Outcome
from app.surfaces.decided import decision_members
from app.surfaces.native.wire import mutation_from_wire
from app.surfaces.problems import problem, problem_members

CONTENT_TYPE: Final = b"application/x-ndjson"

# Lines that are decided and recorded together.
LINES_AT_ONCE: Final = 128
# Streams that one process answers at a time: each may last for minutes, and holds one of the places for batches (four,
# edge/shedding.py); the other half stays for those that are answered in one go.
STREAMS_AT_ONCE: Final = 2
# From the first line to the last: at a hundred lines a second that is sixty thousand.
STREAM_SECONDS: Final = 600.0
# One after the other: a line costs a token, a blank one only our time.
BLANK_LINES_MAX: Final = 1_000

_REFUSED: Final = "refused"
_HEADERS: Final = [(b"content-type", CONTENT_TYPE)]


class DecidesAll(Protocol):
    """The use case: steps 5 to 9 for mutations that somebody may ask about."""

    def decide_all(self, principal: Principal, batch: Batch) -> Coroutine[Any, Any, list[Outcome]]:
        """Return what became of each, or raise FirewallError where that is the same for all."""


class Line(NamedTuple):
    """A line that was sent: its number, from 1, and its bytes; None where it is too long to be kept."""

    number: int
    body: bytes | None


class LinesEndpoint:
    """The raw ASGI endpoint of streams. Times are in seconds; `timeout_seconds` is for any one step."""

    def __init__(
        self,
        service: DecidesAll,
        *,
        gate: Gate,
        max_line_bytes: int,
        timeout_seconds: float,
        read_seconds: float = BODY_TIMEOUT_SECONDS,
        stream_seconds: float = STREAM_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._service = service
        self._gate = gate
        self._max_line_bytes = max_line_bytes
        self._timeout_seconds = timeout_seconds
        self._read_seconds = read_seconds
        self._stream_seconds = stream_seconds
        self._clock = clock
        self._open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one stream; what was decided before it broke is in the ledger."""
        request_id = context_of(scope).request_id
        try:
            principal, expander = await self._admit(scope)
        except FirewallError as error:
            await deliver(problem(error, request_id), send)
            return
        self._open += 1
        try:
            await self._answer(principal, request_id, receive, send, expander)
        except (ClientDisconnectedError, OSError):
            # There is nobody to tell; the server closes what is left of the connection.
            return
        finally:
            self._open -= 1

    async def _admit(self, scope: Scope) -> tuple[Principal, Expander | None]:
        """(1): who asks, and what undoes the coding of the lines."""
        headers = scope["headers"]
        principal = await self._gate.admit(scope, RouteClass.BATCH, AccessScope.DECIDE)
        encodings = [coding_of(value) for name, value in headers if name == b"content-encoding"]
        if len(encodings) > 1:
            raise unsupported("one content encoding inside another is not supported")
        if idempotency_key(headers) is not None:
            raise FirewallError(
                Kind.MALFORMED,
                "a stream has no one answer that could be kept under an idempotency key",
                fix="send batches as `application/json`, or leave the key out",
            )
        if self._open >= STREAMS_AT_ONCE:
            raise FirewallError(Kind.OVERLOADED, "too many streams are open", retry_after=1)
        coding = encodings[0] if encodings else None
        return principal, None if coding is None else Expander(coding)

    async def _answer(
        self, principal: Principal, request_id: str, receive: Receive, send: Send, expander: Expander | None
    ) -> None:
        counts = dict.fromkeys([*(effect.value for effect in Effect), _REFUSED], 0)
        last = 0
        fault: FirewallError | None = None
        at = 1
        await self._send(send, {"type": "http.response.start", "status": 200, "headers": _HEADERS})
        try:
            async with contextlib.aclosing(self._batches(receive, expander)) as batches:
                async for lines in batches:
                    at = lines[0].number
                    answers = []
                    for line, outcome in zip(lines, await self._decide(principal, lines), strict=True):
                        counts[_REFUSED if isinstance(outcome, FirewallError) else outcome.effect.value] += 1
                        answers.append(_written(line, outcome, request_id))
                    last = lines[-1].number
                    at = last + 1
                    await self._send(send, {"type": "http.response.body", "body": b"".join(answers), "more_body": True})
        except FirewallError as error:
            fault = error
        end = b"" if fault is None else orjson.dumps({"line": at, **problem_members(fault, request_id)}) + b"\n"
        end += orjson.dumps({"summary": counts, "lines": last, "complete": fault is None}) + b"\n"
        await self._send(send, {"type": "http.response.body", "body": end})

    async def _send(self, send: Send, message: Message) -> None:
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await send(message)
        except TimeoutError:
            # Who does not read holds the memory of what was written.
            raise ClientDisconnectedError from None

    async def _decide(self, principal: Principal, lines: Sequence[Line]) -> list[Outcome]:
        """(3) and (4). Raises FirewallError where the stream ends."""
        await self._gate.take(principal, RouteClass.BATCH, len(lines))
        try:
            async with asyncio.timeout(self._timeout_seconds):
                return await self._service.decide_all(principal, Batch([self._read(line) for line in lines]))
        except TimeoutError:
            raise FirewallError(Kind.TIMEOUT, "these lines took too long", retry_after=1) from None

    def _read(self, line: Line) -> Mutation | FirewallError:
        if line.body is None:
            return FirewallError(
                Kind.TOO_LARGE,
                f"the line is longer than {self._max_line_bytes} bytes",
                fix="send digests of large values",
            )
        try:
            return mutation_from_wire(strict_json.parse(line.body).tree)
        except FirewallError as error:
            return error

    async def _batches(self, receive: Receive, expander: Expander | None) -> AsyncGenerator[list[Line], None]:
        """(2): what arrived so far, at most `LINES_AT_ONCE`. Raises FirewallError where it does not go on."""
        number = 0
        blank = 0
        # The line that is not whole yet, in place: many small pieces must not be copied again and again.
        rest = bytearray()
        too_long = False
        async for arrived, more in self._arrivals(receive, expander):
            pieces = arrived.split(b"\n")
            ready: list[Line] = []
            for position, piece in enumerate(pieces):
                if not too_long and len(rest) + len(piece) <= self._max_line_bytes:
                    rest += piece
                else:
                    too_long = True
                    rest.clear()
                if more and position == len(pieces) - 1:
                    break
                number += 1
                # A blank line is counted, and says nothing.
                if too_long or (rest and not rest.isspace()):
                    blank = 0
                    ready.append(Line(number, None if too_long else bytes(rest)))
                else:
                    blank += 1
                    if blank > BLANK_LINES_MAX:
                        if ready:
                            yield ready
                        raise FirewallError(Kind.MALFORMED, f"more than {BLANK_LINES_MAX} lines in a row are blank")
                rest.clear()
                too_long = False
                if len(ready) == LINES_AT_ONCE:
                    yield ready
                    ready = []
            if ready:
                yield ready

    async def _arrivals(self, receive: Receive, expander: Expander | None) -> AsyncGenerator[tuple[bytes, bool], None]:
        """What comes, decompressed, and whether more does. Raises FirewallError where it does not go on."""
        ends = self._clock() + self._stream_seconds
        more = True
        while more:
            message = await self._next(receive, ends)
            more = message.get("more_body", False)
            body: bytes = message.get("body", b"")
            if expander is None:
                yield body, more
                continue
            for piece in expander.feed(body):
                yield piece, True
                # Whatever unfolds, others have their turn meanwhile.
                await asyncio.sleep(0)
            if not more:
                expander.end()
                yield b"", False

    async def _next(self, receive: Receive, ends: float) -> Message:
        left = ends - self._clock()
        try:
            async with asyncio.timeout(min(self._read_seconds, left)):
                message = await receive()
        except TimeoutError:
            if left <= self._read_seconds:
                raise FirewallError(
                    Kind.TIMEOUT,
                    f"the stream took longer than {self._stream_seconds:g} seconds",
                    fix="send the lines from here on in a new request",
                    retry_after=1,
                ) from None
            raise FirewallError(Kind.MALFORMED, f"nothing arrived for {self._read_seconds:g} seconds") from None
        if message["type"] == "http.disconnect":
            raise ClientDisconnectedError
        return message


def _written(line: Line, outcome: Outcome, request_id: str) -> bytes:
    members: JsonObject = (
        problem_members(outcome, request_id) if isinstance(outcome, FirewallError) else decision_members(outcome)
    )
    return orjson.dumps({"line": line.number, **members}) + b"\n"


def is_lines(scope: Scope) -> bool:
    """Whether a request is a stream of lines, by its content type."""
    for name, value in scope["headers"]:
        if name == b"content-type":
            media_type, *parameters = value.lower().split(b";")
            return media_type.strip() == CONTENT_TYPE and all(
                parameter.strip() in {b"", b"charset=utf-8", b'charset="utf-8"'} for parameter in parameters
            )
    return False
