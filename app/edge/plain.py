"""The port without TLS beside the one with it: probes and nothing else, so that no credential crosses it by mistake."""

from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from app.edge.context import Renders, context_of, deliver
from app.errors import FirewallError, Kind

HEALTH: Final = "/health"

_REFUSED: Final = FirewallError(
    Kind.FORBIDDEN, "without TLS only `/health` is answered here", fix="use https, on the port of MFW_TLS__PORT"
)


class HealthWithoutTls:
    """Refuses what came without TLS, unless it asks for health.

    A trusted proxy that terminated TLS says so in `X-Forwarded-Proto`, which the server believes of it alone.
    """

    def __init__(self, app: ASGIApp, *, problem: Renders) -> None:
        self._app = app
        self._problem = problem

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "http" and scope["scheme"] != "https":
            path = scope["path"]
            if path != HEALTH and not path.startswith(HEALTH + "/"):
                await deliver(self._problem(_REFUSED, context_of(scope).request_id), send)
                return
        await self._app(scope, receive, send)
