"""uvicorn's HTTP protocol with an end to what a stranger may send before there is a request, and a door.

uvicorn collects the head of a request for as long as it comes: 200 MiB of header lines take 200 MiB of memory, from
anybody, and a head that never ends holds its connection for ever. Here a head has a size and a deadline.

Where the application has a door (edge/shedding.py), it is asked as soon as a head is read: before a task, an event, a
context are made for a request that is refused anyway.
"""

import asyncio
from typing import Any, Final
from urllib.parse import unquote

import httptools
import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from app.edge.context import PEER, request_id_in
from app.edge.peer import Peer
from app.edge.shedding import DOOR, ENTERED, Door
from app.surfaces.problems import TYPE_PREFIX

# A token has at most 8 KiB (edge/authn.py); nginx and Node.js allow 32 and 16 KiB for all header lines. What arrives
# whole with one read of the socket passes up to the size of that read (256 KiB): the bound is for memory.
MAX_HEAD_BYTES: Final = 32 * 1024

# From the first byte of a request to the end of its head. A working network needs one round trip.
HEAD_TIMEOUT_SECONDS: Final = 10.0

# Of the body of a request that is refused: read and thrown away, so that the connection can be used again. Who sends
# more is answered before it is read.
MAX_DISCARDED_BYTES: Final = 64 * 1024

# Who was answered in the middle of sending: closing at once would take back the answer (RFC 9112 section 9.6).
LINGER_SECONDS: Final = 1.0
MAX_LINGER_BYTES: Final = 1024 * 1024

_OVERLOADED: Final = b"HTTP/1.1 503 Service Unavailable\r\n"
_NOT_HTTP: Final = "this is not a request of HTTP/1.1"


class _Refused:
    """A request that was not let in: in the place of uvicorn's cycle while it waits to be told."""

    __slots__ = ("disconnected", "head_only", "keep_alive", "request_id", "response_complete", "size")

    # What uvicorn asks of a cycle; nobody waits for this event.
    message_event = asyncio.Event()
    response_started = True

    def __init__(self, request_id: bytes, *, keep_alive: bool, head_only: bool) -> None:
        self.request_id = request_id
        self.keep_alive = keep_alive
        self.head_only = head_only
        self.size = 0
        self.disconnected = False
        self.response_complete = False


class Protocol(HttpToolsProtocol):
    """One connection."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """The arguments are uvicorn's."""
        super().__init__(*args, **kwargs)
        self._in_head = False
        self._head_bytes = 0
        self._deadline: asyncio.TimerHandle | None = None
        self._fault = _NOT_HTTP
        # uvicorn's own answer to too many is no problem document, and comes when a request was read.
        self._connections_max, self.limit_concurrency = self.limit_concurrency, None
        self._door: Door | None = self.app_state.get(DOOR)
        # Refused, and its body not yet read.
        self._refused: _Refused | None = None
        # Until one is told, and until a connection is closed that was told in the middle of sending.
        self._held: asyncio.TimerHandle | None = None
        self._lingering: asyncio.TimerHandle | None = None
        self._lingered = 0
        self._peer: Peer | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn narrows it
        """Nobody holds a connection without ever asking: the first request has the time that each further one has."""
        super().connection_made(transport)
        if self.client is not None:
            tls = transport.get_extra_info("ssl_object")
            self._peer = Peer(self.client[0], None if tls is None else tls.getpeercert(True))
        if self._connections_max is not None and len(self.connections) > self._connections_max:
            self._refuse(
                503,
                b"Service Unavailable",
                kind="overloaded",
                title="the service is overloaded",
                detail="too many connections are open",
            )
            return
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def connection_lost(self, exc: Exception | None) -> None:
        """The timers go with the connection."""
        self._unset_deadline()
        for timer in (self._held, self._lingering):
            if timer is not None:
                timer.cancel()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Feed the parser, then look whether a head is still open: most come whole, and cost a comparison."""
        if self._lingering is not None:
            self._linger(len(data))
            return
        super().data_received(data)
        if not self._in_head and self._refused is None:
            if self._deadline is not None:
                self._unset_deadline()
            return
        if self.transport.is_closing() or self._lingering is not None:
            return
        self._head_bytes += len(data)
        if self._in_head and self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(
                431,
                b"Request Header Fields Too Large",
                kind="too-large",
                title="the request is too large",
                detail=f"the header lines are larger than {MAX_HEAD_BYTES} bytes",
            )
        elif self._deadline is None:
            self._deadline = self.loop.call_later(HEAD_TIMEOUT_SECONDS, self._late)

    def on_message_begin(self) -> None:
        """The parser found the first byte of a request."""
        super().on_message_begin()
        # Before anything rewrites `client` by a header.
        self.scope[PEER] = self._peer  # type: ignore[typeddict-unknown-key]  # a member of our own
        self._in_head = True
        self._head_bytes = 0

    def on_headers_complete(self) -> None:
        """The parser found the empty line."""
        # RFC 9112 section 3.2: 400 for no host in HTTP/1.1, and for more than one in any version; whoever stands before
        # us may have taken the other one.
        hosts = sum([name == b"host" for name, _ in self.headers])
        if hosts != 1 and (hosts or self.parser.get_http_version() == "1.1"):
            self._fault = "the request has no `Host`" if not hosts else "the request has more than one `Host`"
            # What a callback raises ends the parser, and comes back as what is not HTTP.
            raise ValueError(self._fault)
        # RFC 9112 section 3.2: no form of a target has a fragment. The parser of URLs would drop it without a word, and
        # a server behind a gateway that asks here may take it for a part of the path.
        if b"#" in self.url:
            self._fault = "the target of the request has a fragment"
            raise ValueError(self._fault)
        self._in_head = False
        # INVARIANT: who was let in here comes to the middleware, which lets it out again: nothing below can fail.
        # Who asks behind a request that is still being answered is looked at when it is its turn, by the middleware.
        before: RequestResponseCycle | None = self.cycle  # None before the first request, whatever its type says
        if (before is None or before.response_complete) and self._door is not None and self._refuses(self._door):
            self.headers = _Nowhere()
            return
        super().on_headers_complete()
        # RFC 9110 section 6.5.1: trailers are no headers. uvicorn would append them to those of the request, without a
        # limit, and a credential like anything else.
        self.headers = _Nowhere()

    def on_body(self, body: bytes) -> None:
        """The parser found a piece of a body."""
        refused = self._refused
        if refused is None:
            super().on_body(body)
        elif not refused.response_complete:
            refused.size += len(body)
            if refused.size > MAX_DISCARDED_BYTES:
                self._turn_away(refused)

    def on_message_complete(self) -> None:
        """The parser found the end of a request."""
        refused = self._refused
        if refused is None:
            super().on_message_complete()
        elif not refused.response_complete:
            assert self._door is not None  # noqa: S101 - nobody else refuses
            self._refused = None
            delay = self._door.delay()
            if delay:
                # What comes behind it waits as it would behind any other.
                self.cycle = refused  # type: ignore[assignment]  # it has what uvicorn asks of one
                self._held = self.loop.call_later(delay, self._tell, refused)
            else:
                self._tell(refused)

    def _refuses(self, door: Door) -> bool:
        """Ask the door, by no more than the target of the request; of who is refused, the request id is read."""
        if self._lingering is not None:
            return True
        priority = door.targets.get(self.url)
        if priority is None:
            path = httptools.parse_url(self.url).path.decode("ascii")
            priority = door.priority_of(self.root_path + (unquote(path) if "%" in path else path))
        if door.enter(priority):
            self.scope[ENTERED] = (priority, door.clock())  # type: ignore[typeddict-unknown-key]  # as PEER is
            return False
        self._refused = _Refused(
            request_id_in(self.headers).encode(),
            keep_alive=self.parser.get_http_version() != "1.0" and self.parser.should_keep_alive(),
            head_only=self.parser.get_method() == b"HEAD",
        )
        if self.expect_100_continue:
            # It may send its body after the answer or leave it: only a new connection is sure to begin with a request.
            self._turn_away(self._refused)
        return True

    def _tell(self, refused: _Refused) -> None:
        """Answer a request that was read to its end."""
        self._held = None
        refused.response_complete = True
        if self.flow.write_paused:
            # Who asks and asks, and reads no answer.
            self.transport.abort()
        if refused.disconnected or self.transport.is_closing():
            return
        self._write(refused)
        self.on_response_complete()

    def _turn_away(self, refused: _Refused) -> None:
        """Answer a request that is still being sent, and close when the answer could have been read."""
        refused.response_complete = True
        refused.keep_alive = False
        self._unset_deadline()
        self._lingering = self.loop.call_later(LINGER_SECONDS, self.transport.close)
        self._write(refused, close=False)
        if self.transport.can_write_eof():
            self.transport.write_eof()

    def _write(self, refused: _Refused, *, close: bool = True) -> None:
        assert self._door is not None  # noqa: S101 - nobody else refuses
        refusal = self._door.refusal()
        request_id = refused.request_id
        parts = [_OVERLOADED]
        for name, value in self.server_state.default_headers:
            parts += (name, b": ", value, b"\r\n")
        parts.append(refusal.lines)
        parts.append(b"\r\n".join([b"%b: %b" % header for header in refusal.last(request_id)]))
        keep_alive = refused.keep_alive and not self._door.closing
        parts.append(b"\r\n\r\n" if keep_alive else b"\r\nconnection: close\r\n\r\n")
        if not refused.head_only:
            parts += (refusal.before, request_id, refusal.after)
        self.transport.write(b"".join(parts))
        if close and not keep_alive:
            self.transport.close()

    def _linger(self, count: int) -> None:
        self._lingered += count
        if self._lingered > MAX_LINGER_BYTES:
            self.transport.close()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's words
        """What is not HTTP gets a problem as well."""
        if self._lingering is not None:
            return  # it was answered already
        self._refuse(
            400,
            b"Bad Request",
            kind="malformed",
            title="the request is malformed",
            detail=self._fault,
        )

    def _unsupported_upgrade_warning(self) -> None:
        """An upgrade is passed over (RFC 9110 section 7.8); uvicorn would advise the log to install a library."""

    def _unset_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _late(self) -> None:
        self._deadline = None
        if self._refused is not None:
            self._turn_away(self._refused)
            return
        self._refuse(
            408,
            b"Request Timeout",
            kind="malformed",
            title="the request is malformed",
            detail=f"the header lines did not arrive within {HEAD_TIMEOUT_SECONDS:g} seconds",
        )

    def _refuse(self, status: int, phrase: bytes, *, kind: str, title: str, detail: str) -> None:
        """Say why and close; behind a request that is still being answered, only close."""
        self._unset_deadline()
        cycle: RequestResponseCycle | None = self.cycle  # None before the first request, whatever its type says
        # Past its head it is the request of `cycle` itself that is at fault, in its body.
        own = not self._in_head and not self.pipeline and cycle is not None and not cycle.response_started
        if cycle is None or cycle.response_complete or own:
            body = orjson.dumps({"type": TYPE_PREFIX + kind, "title": title, "status": status, "detail": detail})
            self.transport.write(
                b"HTTP/1.1 %d %b\r\ncontent-type: application/problem+json\r\ncontent-length: %d\r\n"
                b"cache-control: no-store\r\nx-content-type-options: nosniff\r\n%bconnection: close\r\n\r\n%b"
                % (status, phrase, len(body), b"retry-after: 1\r\n" if status == 503 else b"", body)
            )
        self.transport.close()


class _Nowhere(list[tuple[bytes, bytes]]):
    """Where trailers go."""

    __slots__ = ()

    def append(self, _header: tuple[bytes, bytes]) -> None:
        """Forget it."""
