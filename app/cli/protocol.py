"""uvicorn's HTTP protocol with an end to what a stranger may send before there is a request.

uvicorn collects the head of a request for as long as it comes: 200 MiB of header lines take 200 MiB of memory, from
anybody, and a head that never ends holds its connection for ever. Here a head has a size and a deadline.
"""

import asyncio
from typing import Any, Final

import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from app.edge.context import PEER
from app.surfaces.problems import TYPE_PREFIX

# A token has at most 8 KiB (edge/authn.py); nginx and Node.js allow 32 and 16 KiB for all header lines. What arrives
# whole with one read of the socket passes up to the size of that read (256 KiB): the bound is for memory.
MAX_HEAD_BYTES: Final = 32 * 1024

# From the first byte of a request to the end of its head. A working network needs one round trip.
HEAD_TIMEOUT_SECONDS: Final = 10.0


_NOT_HTTP: Final = "this is not a request of HTTP/1.1"


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

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn narrows it
        """Nobody holds a connection without ever asking: the first request has the time that each further one has."""
        super().connection_made(transport)
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
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Feed the parser, then look whether a head is still open: most come whole, and cost a comparison."""
        super().data_received(data)
        if not self._in_head:
            if self._deadline is not None:
                self._unset_deadline()
            return
        if self.transport.is_closing():
            return
        self._head_bytes += len(data)
        if self._head_bytes > MAX_HEAD_BYTES:
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
        self.scope[PEER] = self.client  # type: ignore[typeddict-unknown-key]  # a member of our own
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
        self._in_head = False
        super().on_headers_complete()
        # RFC 9110 section 6.5.1: trailers are no headers. uvicorn would append them to those of the request, without a
        # limit, and a credential like anything else.
        self.headers = _Nowhere()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's words
        """What is not HTTP gets a problem as well."""
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
