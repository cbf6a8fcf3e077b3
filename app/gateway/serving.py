"""Serving the gateway: on standard input and output for one client, or over Streamable HTTP for many."""

import hmac
import logging
from collections.abc import Sequence
from hashlib import sha256
from ipaddress import ip_address
from typing import Any, Final

import uvicorn
from mcp.server.lowlevel.server import Server
from mcp.server.stdio import stdio_server
from mcp.server.transport_security import TransportSecuritySettings
from starlette.types import ASGIApp, Receive, Scope, Send

PATH: Final = "/mcp"
# The firewall's own default bound is 1 MiB; more could not be asked about.
BODY_BYTES_MAX: Final = 4 * 1_048_576
# Each may run a process of its own behind it.
SESSIONS_MAX: Final = 1_000
_DRAIN_SECONDS: Final = 5

_log: Final = logging.getLogger("mfw.gateway")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Bearer:
    """Lets requests with the token in, and answers all others 401."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        # Digests have one length, so that comparing them tells nothing about the token's.
        self._expected = sha256(token.encode()).digest()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "http" and not self._permits(scope):
            body = b'{"error":"this gateway wants a token"}'
            headers = [
                (b"content-type", b"application/json"),
                (b"content-length", str(len(body)).encode()),
                (b"www-authenticate", b'Bearer realm="mutation-firewall"'),
            ]
            await send({"type": "http.response.start", "status": 401, "headers": headers})
            await send({"type": "http.response.body", "body": body})
            return
        await self._app(scope, receive, send)

    def _permits(self, scope: Scope) -> bool:
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        if len(given) != 1:
            return False
        scheme, _, token = given[0].partition(b" ")
        return scheme.lower() == b"bearer" and hmac.compare_digest(sha256(token.strip()).digest(), self._expected)


def application(
    server: Server[Any], *, host: str, token: str | None, hosts: Sequence[str] = (), origins: Sequence[str] = ()
) -> ASGIApp:
    """The gateway as an ASGI application.

    A page in a browser can make a name of its own mean this machine (DNS rebinding): only the given names are
    answered, on a loopback address those of the loopback, and a request with an `Origin` only from the given ones.
    """
    local = ["127.0.0.1", "localhost", "[::1]"] if is_loopback(host) else []
    named = [*local, *hosts]
    security = TransportSecuritySettings(
        enable_dns_rebinding_protection=True,
        allowed_hosts=[form for name in named for form in (name, f"{name}:*")],
        allowed_origins=[*(f"http://{name}{port}" for name in local for port in ("", ":*")), *origins],
    )
    app: ASGIApp = server.streamable_http_app(
        streamable_http_path=PATH,
        host=host,
        transport_security=security,
        max_request_body_size=BODY_BYTES_MAX,
        max_sessions=SESSIONS_MAX,
    )
    return app if token is None else Bearer(app, token)


async def serve_stdio(server: Server[Any]) -> None:
    """Serve one client on standard input and output until it leaves."""
    async with stdio_server() as (reading, writing):
        await server.run(reading, writing, server.create_initialization_options())


class _Announced(uvicorn.Server):
    """Says where it listens once it does."""

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            shown = f"[{host}]" if ":" in host else host
            _log.warning("listening on http://%s:%d%s", shown, port, PATH)


async def serve_http(app: ASGIApp, *, host: str, port: int) -> None:
    """Serve many clients over Streamable HTTP until told to stop."""
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_DRAIN_SECONDS,
    )
    await _Announced(config).serve()
