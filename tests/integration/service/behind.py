"""What stands around a real gateway in a test: callers that write requests themselves, and the server behind it."""

import asyncio
import contextlib
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from http.client import BadStatusLine, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar, NamedTuple
from urllib.parse import urlsplit, urlunsplit

import asyncpg

HOST = "api.example.com"


class Reached(BaseHTTPRequestHandler):
    """The server behind a gateway: it notes what reached it."""

    paths: ClassVar[list[str]] = []
    methods: ClassVar[list[str]] = []
    headers_of: ClassVar[list[list[tuple[str, str]]]] = []
    bodies: ClassVar[list[bytes]] = []

    @classmethod
    def forget(cls) -> None:
        for noted in (cls.paths, cls.methods, cls.headers_of, cls.bodies):
            noted.clear()

    @classmethod
    def told(cls) -> dict[str, list[str]]:
        """The headers of the one request that reached it, by name."""
        (headers,) = cls.headers_of
        return {name: [value for one, value in headers if one == name] for name, _ in headers}

    def do_GET(self) -> None:
        self.paths.append(self.path)
        self.methods.append(self.command)
        self.headers_of.append([(name.lower(), value) for name, value in self.headers.items()])
        self.bodies.append(self._body())
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(b"ok")

    do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = do_OPTIONS = do_TRACE = do_CONNECT = do_GET  # noqa: N815 - the names that its base class looks for

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("transfer-encoding", ""):
            return self.rfile.read(int(self.headers.get("content-length", 0)))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def log_message(self, *_args: Any) -> None:
        """Say nothing."""


class Answered(NamedTuple):
    """What a caller got; status 0 where the connection was closed instead."""

    status: int
    headers: dict[str, str]
    body: bytes


def send(port: int, method: str, target: str, *headers: str, body: bytes = b"", raw: bytes = b"") -> Answered:
    """One request as it is written here; `body` gets a length, `raw` goes out as it is."""
    lines = [f"{method} {target} HTTP/1.1", "Connection: close", *headers]
    if not any(line.lower().startswith("host:") for line in headers):
        lines.append(f"Host: {HOST}")
    if body:
        lines.append(f"Content-Length: {len(body)}")
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        # Whoever has heard enough answers, and may close, before all of it was said.
        with contextlib.suppress(ConnectionError):
            connection.sendall("\r\n".join([*lines, "", ""]).encode("latin-1") + body + raw)
        response = HTTPResponse(connection, method=method)
        try:
            # Up to the end of the answer: some gateways keep the connection for a while, also where asked to close it.
            response.begin()
            content = response.read()
        except (ConnectionResetError, BadStatusLine):
            return Answered(0, {}, b"")
        finally:
            response.close()
    return Answered(response.status, {name.lower(): value for name, value in response.getheaders()}, content)


@contextlib.contextmanager
def backend() -> Iterator[int]:
    """The port of the server behind, until the block ends."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Reached)
    # Serving threads end with their connections; a gateway that keeps one open must not keep the test.
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, name="backend")
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join(60)


@contextlib.contextmanager
def silent() -> Iterator[int]:
    """A port that takes connections and never says anything."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(64)
        yield int(listening.getsockname()[1])


@contextlib.contextmanager
def program(command: Sequence[str], *, folder: Path, ports: Sequence[int]) -> Iterator[Path]:
    """Run a gateway until the block ends; gives what it writes, once it listens on all its ports."""
    log = folder / "gateway.log"
    with (
        log.open("wb") as written,
        subprocess.Popen(command, cwd=folder, stdout=written, stderr=subprocess.STDOUT) as process,
    ):
        try:
            deadline = time.monotonic() + 180
            for port in ports:
                while True:
                    assert process.poll() is None, log.read_text()
                    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                        break
                    assert time.monotonic() < deadline, log.read_text()
                    time.sleep(0.02)
            yield log
        finally:
            process.terminate()
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()


def cut_off(dsn: str) -> None:
    """Take the database away from who uses it."""
    parts = urlsplit(dsn)
    name = parts.path.removeprefix("/")

    async def cut() -> None:
        connection = await asyncpg.connect(urlunsplit(parts._replace(path="/postgres")))
        try:
            await connection.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
            await connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
        finally:
            await connection.close()

    asyncio.run(cut())
