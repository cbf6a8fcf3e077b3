"""`POST /v1/decisions`: the native surface, answered in front of FastAPI and documented in it (ADR 0005)."""

from collections.abc import Awaitable, Coroutine, Mapping
from typing import Any, Final, Protocol

from fastapi import APIRouter, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from app.core import strict_json
from app.core.principal import AccessScope, Principal, require
from app.core.quota import RouteClass
from app.core.types import Mutation
from app.edge.body import ClientDisconnectedError, read_body
from app.edge.context import RequestContext, client_address, context_of, deliver, peer_of
from app.edge.deadline import Deadline
from app.edge.gate import Gate
from app.edge.idempotency import REPLAYED, claim_of
from app.errors import FirewallError
from app.ledger.once import Claim
from app.service.decide import Decision, Exchange
from app.surfaces.answering import Delegated, success, too_late
from app.surfaces.native.models import EXAMPLE_DECISION, EXAMPLE_REQUEST, DecisionOut, DecisionRequest
from app.surfaces.native.wire import decision_to_wire, mutation_from_wire
from app.surfaces.openapi import ONCE, REPLAYED_HEADER, json_body, problem_responses
from app.surfaces.problems import problem

PATH: Final = "/v1/decisions"


class Decides(Protocol):
    """The use case: it takes the steps in their order, through the exchange, and gives back what `render` made."""

    def decide(self, exchange: Exchange) -> Coroutine[Any, Any, bytes]:
        """Return the rendered decision, or raise FirewallError."""


class NativeExchange:
    """One request at this surface: steps 1 to 4 and 10, in the words of `service/decide.py`."""

    __slots__ = ("_context", "_endpoint", "_receive", "_scope", "limit_headers")

    def __init__(self, endpoint: "DecisionEndpoint", scope: Scope, receive: Receive, context: RequestContext) -> None:
        self._endpoint = endpoint
        self._scope = scope
        self._receive = receive
        self._context = context
        # Until the caller is known only the policy can be told, not what remains of it.
        self.limit_headers = endpoint.unknown_caller_headers

    def read(self) -> Coroutine[Any, Any, bytes]:
        """Step 1."""
        return read_body(self._scope, self._receive, max_bytes=self._endpoint.max_body_bytes)

    async def authenticate(self) -> Principal:
        """Step 2."""
        principal = await self._endpoint.gate.authenticator.authenticate(
            self._scope["headers"], client_ip=client_address(self._scope), peer=peer_of(self._scope)
        )
        self._context.principal = principal
        return principal

    async def limit(self, principal: Principal) -> None:
        """Step 3: the rate first, so that a caller without the role cannot ask for ever."""
        gate = self._endpoint.gate
        allowance = gate.limits.take_now(principal, RouteClass.DECIDE) or await gate.limits.take(
            principal, RouteClass.DECIDE
        )
        self.limit_headers = allowance.headers()
        if not allowance.allowed:
            gate.checked(allowance)
        require(principal, AccessScope.DECIDE)

    def parse(self, body: bytes) -> Mutation:
        """Step 4."""
        return mutation_from_wire(strict_json.parse(body).tree)

    def claim(self, principal: Principal, body: bytes) -> Claim | None:
        """Step 3b."""
        return claim_of(self._scope["headers"], principal, route=PATH, body=body)

    def render(self, decision: Decision) -> bytes:
        """Step 10."""
        return decision_to_wire(decision)

    def replayed(self) -> None:
        """Say so in the answer."""
        self.limit_headers = [*self.limit_headers, REPLAYED]


class DecisionEndpoint:
    """The raw ASGI endpoint: parse, call, render; a refusal becomes a problem."""

    def __init__(
        self,
        service: Decides,
        *,
        gate: Gate,
        max_body_bytes: int,
        timeout_seconds: float,
    ) -> None:
        self._service = service
        self._deadline = Deadline(timeout_seconds)
        self.gate = gate
        self.max_body_bytes = max_body_bytes
        self.unknown_caller_headers = [gate.limits.policy_header(RouteClass.DECIDE)]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; a client that leaves while its decision is committed changes nothing."""
        context = context_of(scope)
        exchange = NativeExchange(self, scope, receive, context)
        try:
            body = await self._deadline.limit(self._service.decide(exchange))
        except FirewallError as error:
            await deliver(problem(error, context.request_id), send, exchange.limit_headers)
            return
        except TimeoutError:
            await deliver(problem(too_late(), context.request_id), send, exchange.limit_headers)
            return
        except ClientDisconnectedError:
            # Raised in step 1, so nothing was decided. Not passed on: inside FastAPI it would become a 500.
            return
        await deliver(success(body, exchange.limit_headers), send)


class HotPath:
    """Takes the requests for decisions out before FastAPI sees them: routing there costs more than the decision.

    `endpoints` are by their paths, and answer POST; they are routes of the application as well.
    """

    def __init__(self, app: ASGIApp, *, endpoints: Mapping[str, ASGIApp]) -> None:
        self._app = app
        self._endpoints = dict(endpoints)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Hand the request to whom it belongs; other methods on the path are FastAPI's to refuse."""
        if scope["type"] == "http" and scope["method"] == "POST":
            endpoint = self._endpoints.get(scope["path"])
            if endpoint is not None:
                return endpoint(scope, receive, send)
        return self._app(scope, receive, send)


def decisions_router(endpoint: DecisionEndpoint) -> APIRouter:
    """The same endpoint as a FastAPI route, so that it stands in the API document and answers the same way there."""
    router = APIRouter(tags=["decisions"])
    success: dict[int | str, dict[str, Any]] = {
        200: {
            "model": DecisionOut,
            "description": "The decision, after it was committed to the ledger.",
            "headers": REPLAYED_HEADER,
            "content": {"application/json": {"example": EXAMPLE_DECISION}},
        }
    }

    @router.post(
        PATH,
        summary="Ask for a decision about one mutation",
        operation_id="decide",
        responses=success | problem_responses(400, 401, 403, 409, 413, 415, 429, 500, 503, 504),
        openapi_extra=ONCE | json_body(DecisionRequest, EXAMPLE_REQUEST),
    )
    async def decide(_request: Request) -> Response:
        """Allow, deny or hold: never an answer without a committed ledger entry."""
        return Delegated(endpoint)

    return router
