"""What a kubelet and Prometheus ask a controller: `/health/live`, `/health/ready` and `/metrics`, on a port of its own.

A thread answers, and asks the event loop whether it goes on: one that hangs is not alive.
"""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from app.errors import FirewallError, Kind

# How long the event loop may be busy with one thing: building a large set is done in a thread.
ALIVE_SECONDS: Final = 3.0
# How long one request may take to come.
_REQUEST_SECONDS: Final = 10.0
_TEXT: Final = "text/plain; charset=utf-8"


class _Handler(BaseHTTPRequestHandler):
    timeout = _REQUEST_SECONDS

    def __init__(
        self, *arguments: object, registry: CollectorRegistry, live: Callable[[], bool], ready: Callable[[], bool]
    ) -> None:
        self._registry = registry
        self._checks = {"/health/live": (live, "alive", "stuck"), "/health/ready": (ready, "ready", "not ready")}
        super().__init__(*arguments)  # type: ignore[arg-type]  # as the server gives them

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/metrics":
            encode, content_type = choose_encoder(self.headers.get("Accept", ""))
            self._answer(HTTPStatus.OK, encode(self._registry), content_type)
        elif path in self._checks:
            check, well, otherwise = self._checks[path]
            good = check()
            status = HTTPStatus.OK if good else HTTPStatus.SERVICE_UNAVAILABLE
            self._answer(status, f"{well if good else otherwise}\n".encode(), _TEXT)
        else:
            self._answer(HTTPStatus.NOT_FOUND, b"there is /metrics, /health/live and /health/ready\n", _TEXT)

    def _answer(self, status: HTTPStatus, body: bytes, content_type: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)

    def version_string(self) -> str:
        """Say nothing about what runs here."""
        return "mutation-firewall"

    def log_message(self, format: str, *_: object) -> None:  # noqa: A002 - the name of the base class
        """Write no line for each probe."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def server_bind(self) -> None:
        """Bind, and ask no resolver for the name of this host: it may be away, and the event loop would wait for it."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]  # of an IP address

    def handle_error(self, *_: object) -> None:
        """Somebody who left, or never said anything whole, is no event."""


@contextlib.contextmanager
def serving(
    host: str,
    port: int,
    *,
    registry: CollectorRegistry,
    ready: Callable[[], bool],
    alive_seconds: float = ALIVE_SECONDS,
) -> Iterator[int]:
    """Answer while the block runs, inside of the event loop that is asked about; gives the port.

    Raises FirewallError(INVALID_SETTINGS) when the address cannot be bound.
    """
    loop = asyncio.get_running_loop()

    def live() -> bool:
        answered = threading.Event()
        loop.call_soon_threadsafe(answered.set)
        return answered.wait(alive_seconds)

    handler = partial(_Handler, registry=registry, live=live, ready=ready)
    # One class for each, for the family is the class's own.
    family = type("_Listening", (_Server,), {"address_family": socket.AF_INET6 if ":" in host else socket.AF_INET})
    try:
        server = family((host, port), handler)
    except (OSError, OverflowError) as error:
        raise FirewallError(
            Kind.INVALID_SETTINGS,
            f"metrics and health cannot be served on `{host}:{port}`: {error}",
            fix="give --metrics-host and --metrics-port an address of this machine that is free",
        ) from error
    thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        # Its loop is this one's: a request that asks `live` now would wait for nothing.
        server.shutdown()
        server.server_close()
        thread.join()
