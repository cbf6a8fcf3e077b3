"""Around everything: a request gets an id, a log line, metrics, safe headers, and an answer whatever breaks."""

import asyncio
import logging
import math
import os
import random
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from typing import Any, Final, Protocol

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.core.principal import Principal
from app.edge.body import ClientDisconnectedError
from app.edge.deadline import TIMEOUT_HEADERS, caller_gone, caller_seconds, too_little
from app.edge.peer import Peer
from app.errors import FirewallError
from app.observability.logs import current_request
from app.observability.metrics import OTHER, Metrics

_KEY: Final = "mfw.context"

# Where the protocol leaves the connection's `Peer`: `client` of the scope is what a proxy says once one is trusted.
PEER: Final = "mfw.peer"

# What is read here of the headers of a request.
_READ: Final = frozenset({b"x-request-id", b"traceparent"}) | TIMEOUT_HEADERS

# Health says how the service does, whatever else a caller says.
_UNTIMED: Final = "/health"

# A UUID, base64, a path, `Root=1-67891233-abcdef`: what gateways and clients make. Longer or stranger ids, with spaces,
# quotes or brackets, would only serve to write into what other people read.
_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._~:/+=@|,-]{1,128}")

# What is written back where a specification lets callers send any text: all that a header can hold, and no more of it
# than fits into a line of a log elsewhere.
_ECHOED: Final = re.compile(rb"[^\x00-\x1f\x7f]{1,1024}")

# W3C Trace Context, section 3.2: version, trace id, parent id, flags; a version later than 00 may append more.
_TRACEPARENT: Final = re.compile(
    rb"(?!ff|00.{54})[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?"
)

# No answer of ours may be kept by a cache, unless it says so itself, or taken for another type than it says.
SAFE_HEADERS: Final = ((b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff"))

# nginx's number for "the client closed the request": there was nobody to send a status to.
CLIENT_CLOSED_REQUEST: Final = 499

_MAX_LOGGED_PATH: Final = 200

_log: Final = logging.getLogger("mfw.request")

# Seeded by the operating system, and again in every forked child.
_random: Final = random.Random()  # noqa: S311 - ids, not secrets
os.register_at_fork(after_in_child=_random.seed)


class _Rendered(Protocol):
    """What `surfaces/problems.py` renders; this layer is below the surfaces and does not import them."""

    @property
    def status(self) -> int: ...
    @property
    def headers(self) -> Sequence[tuple[bytes, bytes]]: ...
    @property
    def body(self) -> bytes: ...


class _RendersUnforeseen(Protocol):
    def __call__(self, request_id: str, *, error: Exception) -> _Rendered: ...


class Renders(Protocol):
    """How `surfaces/problems.py` renders an error."""

    def __call__(self, error: FirewallError, request_id: str, /) -> _Rendered:
        """Render it for the request with this id."""


Header = tuple[bytes, bytes]


class RequestContext:
    """What is known about the request while it is answered. `principal` is filled in by step 2.

    `keep` is the `Cache-Control` of an answer that never changes: nothing else may be kept by a cache. `limits` are the
    fields that say how often the caller may ask, where the gate took a token. `outcome` is the status that is counted
    where a protocol says it inside an answer of 200, as an AdmissionReview does: an outage must not look like traffic.
    """

    __slots__ = ("keep", "limits", "outcome", "principal", "request_id", "trace_id")

    def __init__(self, request_id: str, trace_id: str | None) -> None:
        self.request_id = request_id
        self.trace_id = trace_id
        self.principal: Principal | None = None
        self.keep: bytes | None = None
        self.limits: Sequence[Header] = ()
        self.outcome: int | None = None


def context_of(scope: Scope) -> RequestContext:
    """The context of a request; one is made where the middleware is not around, as in a test of a single endpoint."""
    context = scope.get(_KEY)
    if context is None:
        context = scope[_KEY] = RequestContext(fresh_request_id(), None)
    assert isinstance(context, RequestContext)  # noqa: S101 - nobody else writes this key
    return context


def request_id_of(scope: Scope) -> str:
    """The id under which the caller and the log know this request."""
    return context_of(scope).request_id


def request_id_in(headers: Sequence[Header]) -> str:
    """The caller's request id if it is a harmless one, else a fresh one: for an answer that has no context."""
    return _harmless([value for name, value in headers if name == b"x-request-id"]) or fresh_request_id()


def client_address(scope: Scope) -> str:
    """The caller's address as the server sees it: behind a proxy, what the server was told to trust of `Forwarded`."""
    client = scope.get("client")
    return client[0] if client else "unknown"


def peer_of(scope: Scope) -> Peer | None:
    """The other end of the connection itself, whatever a header says; None where the server does not tell."""
    peer: Peer | None = scope.get(PEER)
    return peer


def fresh_request_id() -> str:
    """96 random bits in hexadecimal digits.

    Unique, not secret: `os.urandom` would let go of the interpreter on every request, and whoever takes it then, such
    as the writer of the log, keeps it for milliseconds (measured: 25 us more for each request under load).
    """
    return f"{_random.getrandbits(96):024x}"


class ContextMiddleware:
    """The outermost ASGI callable: pure, since one `BaseHTTPMiddleware` costs 300 us.

    `problem` renders what is wrong with the time that a caller gives, `internal_problem` an error nobody foresaw. `log`
    takes one event per request, None for no access log. `longest` is the time in seconds from which on a caller's is
    none of its own; `least` tells how long an answer of a path takes at the least just now, as far as that is known.
    `ended` is told of every request, with its status, when it is over. Below the path `echoes` an answer carries the
    caller's request id whatever it is; one that is not harmless is written nowhere else.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        metrics: Metrics,
        problem: Renders,
        internal_problem: _RendersUnforeseen,
        log: Callable[[dict[str, Any]], None] | None,
        longest: float = math.inf,
        least: Callable[[str], float | None] = lambda _path: None,
        ended: Callable[[Scope, int], None] | None = None,
        echoes: str | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._problem = problem
        self._longest = longest
        self._least = least
        self._ended = ended
        self._echoes = echoes
        self._internal_problem = internal_problem
        self._log = log
        self._clock = clock
        self._own: tuple[tuple[bytes, bytes], ...] = SAFE_HEADERS

    def drain(self) -> None:
        """Close each connection with its next answer, so that none is about to be used when all are closed."""
        self._own = (*SAFE_HEADERS, (b"connection", b"close"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; whatever the application raises becomes an answer and a log entry."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = self._clock()
        request_id, trace_id, timeouts, strange = _read(scope["headers"])
        answered = request_id.encode()
        if strange is not None and self._echoes is not None and scope["path"].startswith(self._echoes):
            answered = strange
        context = scope[_KEY] = RequestContext(request_id, trace_id)
        # The server gives each request a task of its own, and the value ends with it.
        current_request.set((request_id, trace_id))
        status = 0
        complete = False

        def send_on(message: Message) -> Awaitable[None]:
            nonlocal status, complete
            if message["type"] == "http.response.start":
                status = message["status"]
                own = (b"x-request-id", answered)
                safe = self._own
                if context.keep is not None and status == HTTPStatus.OK:
                    safe = ((b"cache-control", context.keep), *safe[1:])
                message["headers"] = [*message.get("headers", ()), *context.limits, own, *safe]
            else:
                complete = not message.get("more_body", False)
            return send(message)

        try:
            if timeouts is None:
                await self._app(scope, receive, send_on)
            else:
                await self._in_time(timeouts, scope, receive, send_on)
        except ClientDisconnectedError:
            status = status or CLIENT_CLOSED_REQUEST
        except FirewallError as error:
            if status == 0:
                await deliver(self._problem(error, request_id), send_on)
            elif not complete:
                raise
        except Exception as error:
            _log.exception("request failed", extra={"fields": {"error": type(error).__name__}})
            if status == 0:
                await deliver(self._internal_problem(request_id, error=error), send_on)
            elif not complete:
                # Half an answer is out: only the server can tell the client, by closing the connection.
                raise
        finally:
            status = status or CLIENT_CLOSED_REQUEST
            if context.outcome is not None and status == HTTPStatus.OK:
                status = context.outcome
            if self._ended is not None:
                self._ended(scope, status)
            self._record(scope, context, status, self._clock() - started)

    async def _in_time(self, timeouts: Sequence[Header], scope: Scope, receive: Receive, send: Send) -> None:
        """Ask the application for as long as the caller waits. Raises FirewallError: MALFORMED, OVERLOADED, TIMEOUT."""
        path: str = scope["path"]
        if path == _UNTIMED or path.startswith(f"{_UNTIMED}/"):
            await self._app(scope, receive, send)
            return
        seconds = caller_seconds(timeouts)
        if seconds >= self._longest:
            await self._app(scope, receive, send)
            return
        least = self._least(path)
        if least is not None and seconds < least:
            raise too_little(least)
        patience = asyncio.timeout(seconds)
        try:
            async with patience:
                await self._app(scope, receive, send)
        except TimeoutError:
            if not patience.expired():
                raise
            raise caller_gone() from None

    def _record(self, scope: Scope, context: RequestContext, status: int, seconds: float) -> None:
        metrics = self._metrics
        # Starlette leaves the matched route in the scope; the decision endpoint is reached without it.
        route = metrics.route_of(getattr(scope.get("route"), "path", None) or scope["path"])
        method = scope["method"]
        metrics.observe_request(route, method, status, seconds)
        if self._log is None:
            return
        event = {
            "ts": time.time(),
            "level": "info",
            "event": "request",
            "logger": "mfw.access",
            "request_id": context.request_id,
            "method": method,
            "route": route,
            "status": status,
            "duration_ms": round(seconds * 1000, 3),
            "client": client_address(scope),
        }
        if context.trace_id is not None:
            event["trace_id"] = context.trace_id
        if context.principal is not None:
            event["principal"] = context.principal.id
        if route == OTHER:
            event["path"] = scope["path"][:_MAX_LOGGED_PATH]
        self._log(event)


async def deliver(answer: _Rendered, send: Send, extra: Sequence[tuple[bytes, bytes]] = ()) -> None:
    """Send a whole answer; a client that is gone by now is nobody's error."""
    try:
        await send({"type": "http.response.start", "status": answer.status, "headers": [*answer.headers, *extra]})
        await send({"type": "http.response.body", "body": answer.body})
    except OSError:
        # ASGI 2.4, "Disconnected Client - send exception". What was decided is in the ledger either way.
        _log.debug("the client left before its answer")


def _read(headers: Sequence[Header]) -> tuple[str, str | None, Sequence[Header] | None, bytes | None]:
    """The caller's request id if it is a harmless one, else a fresh one; the trace id of a valid `traceparent`; the
    headers that say how long the caller waits, None where there are none; and a request id that was not taken.

    A header given twice says two things, so it says nothing (W3C Trace Context, section 4.3).
    """
    request_ids: list[bytes] = []
    parents: list[bytes] = []
    timeouts: list[Header] | None = None
    for name, value in headers:
        # One look for all of them: most headers are none of these.
        if name in _READ:
            if name == b"x-request-id":
                request_ids.append(value)
            elif name == b"traceparent":
                parents.append(value)
            else:
                timeouts = timeouts or []
                timeouts.append((name, value))
    request_id = _harmless(request_ids)
    strange: bytes | None = None
    if request_id is None and len(request_ids) == 1 and _ECHOED.fullmatch(request_ids[0]):
        strange = request_ids[0]
    trace_id: str | None = None
    if len(parents) == 1:
        valid = _TRACEPARENT.fullmatch(parents[0])
        if valid:
            trace_id = valid[1].decode()
    return request_id or fresh_request_id(), trace_id, timeouts, strange


def _harmless(request_ids: Sequence[bytes]) -> str | None:
    if len(request_ids) == 1 and _REQUEST_ID.fullmatch(request_ids[0]):
        return request_ids[0].decode()
    return None
