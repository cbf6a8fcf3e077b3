"""OpenID AuthZEN Authorization API 1.0: `/access/v1/...` and its metadata."""

from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence
from typing import Any, Final, Protocol

import orjson
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fastapi import APIRouter, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from app.core import strict_json
from app.core.batch import Batch
from app.core.principal import AccessScope, Principal, require
from app.core.quota import RouteClass
from app.core.types import JsonObject, Mutation
from app.edge.body import ClientDisconnectedError, read_body
from app.edge.context import CLIENT_CLOSED_REQUEST, context_of, deliver
from app.edge.deadline import Deadline
from app.edge.gate import Gate
from app.edge.idempotency import REPLAYED, claim_of
from app.errors import FirewallError, Kind
from app.ledger.once import Claim
from app.service.decide import BatchExchange, Decision, Exchange, Outcome
from app.service.search import Found, Search, Wanted
from app.surfaces.answering import Delegated, in_time, success, too_late
from app.surfaces.authzen import models
from app.surfaces.authzen.metadata import EVALUATION, EVALUATIONS, SEARCH, metadata_of
from app.surfaces.authzen.wire import (
    evaluation_of,
    evaluation_to_wire,
    evaluations_of,
    evaluations_to_wire,
    found_to_wire,
    placed,
    search_of,
)
from app.surfaces.openapi import ONCE, REPLAYED_HEADER, json_body, problem_responses
from app.surfaces.problems import problem

METADATA: Final = "/.well-known/authzen-configuration"

# An evaluation stands two levels deeper among others than alone.
_DEPTH_AMONG_OTHERS: Final = strict_json.MAX_DEPTH + 2
_SEARCH_BYTES_MAX: Final = 1_048_576


class Decides(Protocol):
    """The use cases: they take the steps in their order, through the exchange, and give back what `render` made."""

    def decide(self, exchange: Exchange) -> Coroutine[Any, Any, bytes]:
        """Return the rendered decision, or raise FirewallError."""

    def decide_batch(self, exchange: BatchExchange) -> Coroutine[Any, Any, bytes]:
        """Return the rendered answers, or raise FirewallError."""


class Searches(Protocol):
    """The use case behind the searches."""

    def find(self, search: Search, *, principal: Principal) -> Coroutine[Any, Any, Found]:
        """Return a page, or raise FirewallError."""


class _Asked:
    """What both kinds of exchange have in common."""

    __slots__ = ("_context", "_endpoint", "_receive", "_scope", "limit_headers")

    def __init__(self, endpoint: "_Endpoint", scope: Scope, receive: Receive) -> None:
        self._endpoint = endpoint
        self._scope = scope
        self._receive = receive
        self._context = context_of(scope)
        self.limit_headers = [endpoint.gate.limits.policy_header(endpoint.route_class)]

    def read(self) -> Coroutine[Any, Any, bytes]:
        """Step 1."""
        return _read(self._scope, self._receive, max_bytes=self._endpoint.max_body_bytes)

    async def authenticate(self) -> Principal:
        """Step 2."""
        return await self._endpoint.gate.authenticate(self._scope)

    def claim(self, principal: Principal, body: bytes) -> Claim | None:
        """Step 3b."""
        return claim_of(self._scope["headers"], principal, route=self._endpoint.path, body=body)

    def replayed(self) -> None:
        """Say so in the answer."""
        self.limit_headers = [*self.limit_headers, REPLAYED]

    async def take(self, principal: Principal, count: int) -> None:
        """Step 3."""
        gate = self._endpoint.gate
        allowance = await gate.limits.take(principal, self._endpoint.route_class, count)
        self.limit_headers = allowance.headers()
        gate.checked(allowance)


class EvaluationExchange(_Asked):
    """One evaluation, in the words of `service/decide.py`."""

    __slots__ = ("_fulfilled",)

    def __init__(self, endpoint: "_Endpoint", scope: Scope, receive: Receive) -> None:
        super().__init__(endpoint, scope, receive)
        self._fulfilled: Collection[str] = ()

    async def limit(self, principal: Principal) -> None:
        """Step 3."""
        await self.take(principal, 1)
        require(principal, AccessScope.DECIDE)

    def parse(self, body: bytes) -> Mutation:
        """Step 4."""
        mutation, self._fulfilled = evaluation_of(strict_json.parse(body).tree)
        return mutation

    def render(self, decision: Decision) -> bytes:
        """Step 10."""
        return evaluation_to_wire(decision, self._fulfilled)


class EvaluationsExchange(_Asked):
    """Many evaluations, in the words of `service/decide.py`."""

    __slots__ = ("_claims", "_fulfilled", "_single", "_taken")

    def __init__(self, endpoint: "_Endpoint", scope: Scope, receive: Receive) -> None:
        super().__init__(endpoint, scope, receive)
        self._claims = False
        self._fulfilled: Sequence[Collection[str]] = ()
        self._single = False
        self._taken = 0

    async def limit(self, principal: Principal, count: int) -> None:
        """Step 3: counted by evaluations, and more than the bucket can ever hold are refused for good."""
        burst = self._endpoint.gate.limits.limit_of(principal, RouteClass.BATCH).burst
        self._taken += count
        if self._taken > burst:
            raise FirewallError(
                Kind.TOO_LARGE,
                f"the limit lets no more than {burst} evaluations through at once",
                pointer="/evaluations",
                fix="send fewer in one request",
            )
        if count:
            await self.take(principal, count)
        require(principal, AccessScope.DECIDE)

    def claim(self, principal: Principal, body: bytes) -> Claim | None:
        """Step 3b."""
        claim = super().claim(principal, body)
        self._claims = claim is not None
        return claim

    async def parse(self, body: bytes) -> Batch:
        """Step 4."""
        batch, self._single = evaluations_of(strict_json.parse(body, max_depth=_DEPTH_AMONG_OTHERS).tree)
        if self._claims and batch.until is not None:
            raise FirewallError(
                Kind.MALFORMED,
                "what ends with the first answer of a kind cannot be kept under a key",
                pointer="/options/evaluations_semantic",
                fix="leave out `Idempotency-Key`, or send `execute_all`",
            )
        self._fulfilled = batch.fulfilled or ()
        return batch

    def render(self, outcomes: Sequence[Outcome]) -> bytes:
        """Step 10."""
        if not self._single:
            return evaluations_to_wire(outcomes, self._fulfilled)
        (outcome,) = outcomes
        if isinstance(outcome, FirewallError):
            raise outcome
        return evaluation_to_wire(outcome, self._fulfilled[0])


class _Endpoint:
    """A raw ASGI endpoint: parse, call, render; a refusal becomes a problem."""

    path: str
    route_class: RouteClass

    def __init__(self, service: Decides, *, gate: Gate, max_body_bytes: int, timeout_seconds: float) -> None:
        self._service = service
        self._deadline = Deadline(timeout_seconds)
        self.gate = gate
        self.max_body_bytes = max_body_bytes

    async def _answer(self, exchange: _Asked, work: Coroutine[Any, Any, bytes], scope: Scope, send: Send) -> None:
        request_id = context_of(scope).request_id
        try:
            body = await self._deadline.limit(work)
        except FirewallError as error:
            await deliver(problem(_moved(error), request_id), send, exchange.limit_headers)
            return
        except TimeoutError:
            await deliver(problem(too_late(), request_id), send, exchange.limit_headers)
            return
        except ClientDisconnectedError:
            return
        await deliver(success(body, exchange.limit_headers), send)


class EvaluationEndpoint(_Endpoint):
    """`POST /access/v1/evaluation`."""

    path = EVALUATION
    route_class = RouteClass.DECIDE

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        exchange = EvaluationExchange(self, scope, receive)
        await self._answer(exchange, self._service.decide(exchange), scope, send)


class EvaluationsEndpoint(_Endpoint):
    """`POST /access/v1/evaluations`."""

    path = EVALUATIONS
    route_class = RouteClass.BATCH

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        exchange = EvaluationsExchange(self, scope, receive)
        await self._answer(exchange, self._service.decide_batch(exchange), scope, send)


async def _read(scope: Scope, receive: Receive, *, max_bytes: int) -> bytes:
    """Read a body. Section 10.1 has one status for all that is no such request, another type of media included."""
    try:
        return await read_body(scope, receive, max_bytes=max_bytes)
    except FirewallError as error:
        if error.kind is not Kind.UNSUPPORTED_MEDIA_TYPE:
            raise
        raise FirewallError(Kind.MALFORMED, error.detail, pointer=error.pointer, fix=error.fix) from error


def _moved(error: FirewallError) -> FirewallError:
    """The same error with the place where its cause stands here."""
    if error.pointer is None or placed(error.pointer) == error.pointer:
        return error
    return FirewallError(
        error.kind,
        error.detail,
        pointer=placed(error.pointer),
        fix=error.fix,
        retry_after=error.retry_after,
        extra=error.extra,
    )


class AuthzenEndpoints:
    """What the routes share. `identifier` is the https URL under which clients know this service, if it has one.

    `signing_key` signs the metadata, which are not signed without it.
    """

    def __init__(
        self,
        evaluation: ASGIApp,
        evaluations: ASGIApp,
        *,
        searching: Searches,
        gate: Gate,
        identifier: str | None,
        derived: bool,
        timeout_seconds: float,
        signing_key: Ed25519PrivateKey | None = None,
    ) -> None:
        self.evaluation = evaluation
        self.evaluations = evaluations
        self.gate = gate
        self._searching = searching
        self._identifier = identifier
        self._derived = derived
        self._signing_key = signing_key
        self._timeout_seconds = timeout_seconds

    async def search(self, request: Request, wanted: Wanted) -> Response:
        """Look for what would be allowed."""
        principal = await self.gate.admit(request.scope, RouteClass.READ, AccessScope.READ)
        try:
            body = await _read(request.scope, request.receive, max_bytes=_SEARCH_BYTES_MAX)
        except ClientDisconnectedError:
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        search = search_of(strict_json.parse(body).tree, wanted)
        try:
            found = await in_time(
                self._searching.find(search, principal=principal), seconds=self._timeout_seconds, fix="ask for less"
            )
        except FirewallError as error:
            raise _moved(error) from error
        return Response(found_to_wire(search, found), media_type="application/json")

    def metadata(self, request: Request) -> JsonObject:
        """Where everything is. Raises FirewallError (NOT_FOUND)."""
        return metadata_of(self.identifier(request), self._signing_key)

    def identifier(self, request: Request) -> str:
        """Under which URL clients know this service. Raises FirewallError (NOT_FOUND)."""
        if self._identifier is not None:
            return self._identifier.rstrip("/")
        if self._derived:
            return str(request.base_url).rstrip("/")
        raise FirewallError(
            Kind.NOT_FOUND,
            "this service does not say under which URL it is known",
            fix="set MFW_AUTHZEN__IDENTIFIER, such as `https://firewall.example.com`",
        )


def authzen_router(endpoints: AuthzenEndpoints) -> APIRouter:
    """All routes of this surface."""
    router = APIRouter(tags=["authzen"])
    problems = problem_responses(400, 401, 403, 409, 413, 415, 429, 500, 503, 504)

    @router.post(
        EVALUATION,
        summary="AuthZEN: evaluate one request",
        operation_id="authzen_evaluation",
        responses={200: {"model": models.EvaluationOut, "headers": REPLAYED_HEADER}, **problems},
        openapi_extra=ONCE | json_body(models.EvaluationIn, models.EXAMPLE_EVALUATION),
    )
    async def evaluation(_request: Request) -> Response:
        """Allow is `true`; deny, hold, and an allow under obligations that `context.fulfils` does not name are `false`.

        Recorded before it is answered, as every decision.
        """
        return Delegated(endpoints.evaluation)

    @router.post(
        EVALUATIONS,
        summary="AuthZEN: evaluate many requests",
        operation_id="authzen_evaluations",
        responses={200: {"model": models.EvaluationsOut, "headers": REPLAYED_HEADER}, **problems},
        openapi_extra=ONCE | json_body(models.EvaluationsIn, models.EXAMPLE_EVALUATIONS),
    )
    async def evaluations(_request: Request) -> Response:
        """Each evaluation that is answered has an entry of its own in the ledger; one that is wrong is a no."""
        return Delegated(endpoints.evaluations)

    for wanted in Wanted:
        router.post(
            f"{SEARCH}/{wanted}",
            summary=f"AuthZEN: look for each {wanted} that would be allowed",
            operation_id=f"authzen_search_{wanted}",
            responses={
                200: {"model": models.FoundOut},
                **problem_responses(400, 401, 403, 413, 415, 429, 500, 503, 504),
            },
            openapi_extra=json_body(models.SearchIn, models.EXAMPLES[wanted]),
        )(_searching(endpoints, wanted))

    @router.get(
        METADATA,
        summary="AuthZEN: where everything is",
        operation_id="authzen_metadata",
        responses={200: {"model": models.MetadataOut}, **problem_responses(404, 429, 500, 503)},
    )
    async def metadata(request: Request) -> Response:
        """Everybody may read it: section 9."""
        await endpoints.gate.admit_anyone(request.scope, RouteClass.READ)
        return Response(orjson.dumps(endpoints.metadata(request)), media_type="application/json")

    return router


def _searching(endpoints: AuthzenEndpoints, wanted: Wanted) -> Callable[[Request], Awaitable[Response]]:
    async def search(request: Request) -> Response:
        """Nothing is decided and nothing recorded: ask again before anything is changed."""
        return await endpoints.search(request, wanted)

    return search
