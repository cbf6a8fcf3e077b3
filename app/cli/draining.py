"""A server that listens with TLS as well, and ends in two steps.

It says that it is going, and goes when everybody could have heard it. Where the application has a certificate, the last
of the sockets speaks TLS; another certificate is another listener on the same socket, so that no connection waits, and
none that is open hears of it.
"""

import asyncio
import math
import signal
import ssl
from collections.abc import Awaitable, Callable, Sequence
from socket import socket
from types import FrameType
from typing import Any, Final, Protocol, runtime_checkable

from uvicorn import Config, Server

# Under which name the application's lifespan gives the server its `Drain`.
STATE: Final = "drain"
TLS: Final = "tls"


@runtime_checkable
class Drain(Protocol):
    """What the application does when it is told to go; `seconds` is how long requests are still accepted after it."""

    seconds: float

    def begin(self) -> None:
        """Say that requests should go elsewhere from now on."""


@runtime_checkable
class Certificate(Protocol):
    """What the application listens with; `follow` takes what is called when `context` is another one."""

    handshake_seconds: float
    shutdown_seconds: float

    @property
    def context(self) -> ssl.SSLContext:
        """For new connections."""

    def follow(self, changed: Callable[[], Awaitable[None]]) -> None:
        """Have it called."""


class DrainingServer(Server):
    """On the first SIGTERM readiness is false, and connections are accepted as before for a while.

    A load balancer needs that time: what it sends before it has heard would meet a closed door. Every other signal, and
    a second SIGTERM, ends at once what uvicorn ends at once.
    """

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._going = False
        self._certificate: Certificate | None = None
        self._tls_socket: socket | None = None

    async def startup(self, sockets: Sequence[socket] | None = None) -> None:
        """Start the application, then listen: it says with what."""
        if sockets is None:
            await super().startup()
            return
        await super().startup(sockets=[])
        certificate = self.lifespan.state.get(TLS)
        plain = list(sockets)
        if isinstance(certificate, Certificate):
            self._certificate, self._tls_socket = certificate, plain.pop()
            certificate.follow(self._listen_anew)
            self.servers.append(await self._listen_tls(certificate, self._tls_socket))
        loop = asyncio.get_running_loop()
        for one in plain:
            self.servers.insert(0, await loop.create_server(self._connection, sock=one, backlog=self.config.backlog))

    def _connection(self) -> asyncio.Protocol:
        made: asyncio.Protocol = self.config.http_protocol_class(  # type: ignore[call-arg]  # as uvicorn calls it
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return made

    async def _listen_tls(self, certificate: Certificate, on: socket) -> asyncio.Server:
        # A listener closes what it was given when it ends; the next one needs the socket still.
        return await asyncio.get_running_loop().create_server(
            self._connection,
            sock=on.dup(),
            ssl=certificate.context,
            backlog=self.config.backlog,
            ssl_handshake_timeout=certificate.handshake_seconds,
            ssl_shutdown_timeout=certificate.shutdown_seconds,
        )

    async def _listen_anew(self) -> None:
        """Accept with the new context, then no longer with the old one; both may for a moment."""
        if self.should_exit or self._certificate is None or self._tls_socket is None:
            return
        before = self.servers[-1]
        self.servers[-1] = await self._listen_tls(self._certificate, self._tls_socket)
        before.close()

    async def serve(self, sockets: Any = None) -> None:
        """Serve until told to go."""
        self._loop = asyncio.get_running_loop()
        await super().serve(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Called by Python between two instructions of the main thread, which is that of the event loop."""
        drain = getattr(getattr(self, "lifespan", None), "state", {}).get(STATE)
        if sig != signal.SIGTERM or self._going or self._loop is None or not isinstance(drain, Drain):
            super().handle_exit(sig, frame)
            return
        self._going = True
        # Raised again when all is over, as uvicorn does it.
        self._captured_signals.append(sig)
        self._loop.call_soon_threadsafe(self._go, drain)

    def _go(self, drain: Drain) -> None:
        drain.begin()
        if self.config.timeout_graceful_shutdown is not None:
            # gunicorn's patience began with the signal.
            left = self.config.timeout_graceful_shutdown - math.ceil(drain.seconds)
            self.config.timeout_graceful_shutdown = max(0, left)
        if drain.seconds > 0:
            asyncio.get_running_loop().call_later(drain.seconds, self._gone)
        else:
            self._gone()

    def _gone(self) -> None:
        self.should_exit = True
