"""`/envoy/v1/check/...`: whether a gateway shall let a request through; any method, any path behind the prefix."""

from types import SimpleNamespace
from typing import Final

from fastapi import APIRouter, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from app.edge.body import ClientDisconnectedError, read_any_body
from app.edge.context import client_address, context_of, deliver, peer_of
from app.edge.deadline import Deadline
from app.errors import FirewallError
from app.surfaces.answering import Answer, Delegated, too_late
from app.surfaces.ext_authz import models
from app.surfaces.ext_authz.checking import CheckExchange, Checks
from app.surfaces.ext_authz.wire import Check, header_of
from app.surfaces.openapi import inlined, problem_responses
from app.surfaces.problems import CONTENT_TYPE

PREFIX: Final = "/envoy/v1/check/"
ROUTE: Final = PREFIX + "{path:path}"

# Where a check leaves its exchange for the transport that carried it.
ANSWERED: Final = "mfw.check"

# Without the slash: gateways put it in front of whatever they were asked for, `*` of `OPTIONS *` included.
_STEM: Final = PREFIX.removesuffix("/")
_RAW_STEM: Final = _STEM.encode()
# What the middleware around finds where Starlette leaves a matched route.
_MATCHED: Final = SimpleNamespace(path=ROUTE)


class HttpCheck(CheckExchange):
    """A check that came as a request of HTTP."""

    __slots__ = ("_max_body_bytes", "_receive", "_scope")

    def __init__(self, checks: Checks, scope: Scope, receive: Receive) -> None:
        super().__init__(
            checks,
            headers=scope["headers"],
            context=context_of(scope),
            client_ip=client_address(scope),
            peer=peer_of(scope),
        )
        self._max_body_bytes = checks.max_body_bytes
        self._scope = scope
        self._receive = receive

    async def read(self) -> bytes:
        """Step 1."""
        return await read_any_body(self._scope, self._receive, max_bytes=self._max_body_bytes)

    def check(self, body: bytes) -> Check:
        """Give what is asked: the path as it was sent, since decoding hides what two servers read differently."""
        scope = self._scope
        rest = scope["raw_path"].removeprefix(_RAW_STEM).decode("latin-1")
        query = scope["query_string"].decode("latin-1")
        host = header_of(scope["headers"], b"host")
        return Check(
            method=scope["method"],
            host=None if host is None else host.decode("latin-1"),
            rest=f"{rest}?{query}" if query else rest,
            headers=self._checks.without_credential(scope["headers"]),
            body=body,
        )


class CheckEndpoint:
    """The raw ASGI endpoint. Whatever goes wrong is an answer that no gateway takes for a yes."""

    def __init__(self, checks: Checks, *, timeout_seconds: float) -> None:
        self._checks = checks
        self._deadline = Deadline(timeout_seconds)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        exchange = scope[ANSWERED] = HttpCheck(self._checks, scope, receive)
        try:
            await self._deadline.limit(self._checks.service.decide(exchange))
            answer = exchange.answer
            assert answer is not None  # noqa: S101 - `decide` returns what `render` made
        except FirewallError as error:
            answer = exchange.refused(error)
        except TimeoutError:
            answer = exchange.refused(too_late())
        except ClientDisconnectedError:
            return
        await deliver(Answer(*answer), send, exchange.limit_headers)


class GatewayPaths:
    """Takes checks out before anything else answers them.

    INVARIANT: nothing in front of the endpoint answers a check by itself: a preflight request that CORS answers with
    200 would be let through by the gateway, and nobody would have decided.
    """

    def __init__(self, app: ASGIApp, *, endpoint: ASGIApp) -> None:
        self._app = app
        self._endpoint = endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand the request to whom it belongs."""
        if scope["type"] == "http" and scope["path"].startswith(_STEM):
            scope["route"] = _MATCHED
            await self._endpoint(scope, receive, send)
            return
        await self._app(scope, receive, send)


def gateway_router(endpoint: ASGIApp) -> APIRouter:
    """The same endpoint as FastAPI routes, so that it stands in the API document; it answers every other method too."""
    router = APIRouter(tags=["gateways"])
    refused = {"content": {CONTENT_TYPE: {"schema": inlined(models.Refused)}}}
    allowed = {
        "description": "Let through: an allow was committed to the ledger. The body is empty.",
        "headers": {
            "X-Mfw-Decision-Id": {"schema": {"type": "string"}, "required": False},
            "X-Mfw-Effect": {"schema": {"type": "string", "enum": ["allow"]}, "required": False},
            "X-Mfw-Ledger-Index": {"schema": {"type": "integer"}, "required": False},
        },
    }
    for method in ("GET", "POST"):

        @router.api_route(
            ROUTE,
            methods=[method],
            summary="Gateways: check a request",
            operation_id=f"gateway_check_{method.lower()}",
            response_class=Response,
            responses={
                200: allowed,
                403: {**refused, "description": "Denied, held, or not from a known gateway."},
                **problem_responses(400, 413, 415, 429, 500, 503, 504),
            },
            openapi_extra={"security": [{"gateway": []}]},
        )
        async def check(_request: Request, path: str) -> Response:  # noqa: ARG001 - it is read as it was sent
            """Ask with any method: 200 lets the request through, and every other status does not."""
            return Delegated(endpoint)

    return router
