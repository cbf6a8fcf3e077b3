"""`POST /github/v1/webhook`: deliveries of a GitHub App, decided and answered while GitHub waits.

There is no queue between: the firewall keeps nothing but its ledger. What is not done within GitHub's ten seconds is an
error, so that the delivery shows as failed and can be sent again; the decision is not made twice then, but reported.
"""

import asyncio
import contextlib
import logging
import re
from collections.abc import Callable, Coroutine
from datetime import datetime, timedelta
from typing import Any, Final, Protocol

import orjson
from fastapi import APIRouter, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from app.core.principal import AccessScope, AuthMethod, Principal, PrincipalKind, Role, require, subject_patterns
from app.core.quota import RouteClass
from app.core.types import JsonObject, Mutation
from app.edge.authn import SignedDeliveries
from app.edge.body import ClientDisconnectedError, read_body
from app.edge.context import client_address, context_of, deliver
from app.edge.gate import Gate
from app.edge.idempotency import REPLAYED
from app.errors import FirewallError, Kind
from app.ledger.once import Claim, claim
from app.service.decide import Decision, Exchange
from app.surfaces.answering import Delegated, success
from app.surfaces.github import models
from app.surfaces.github.answers import decision_to_wire, doubts_of, nothing_to_wire, refusal
from app.surfaces.github.wire import Event, GithubView, event_of, files_of, mutation_of, require_small
from app.surfaces.openapi import REPLAYED_HEADER, inlined, problem_responses
from app.surfaces.problems import problem

WEBHOOK: Final = "/github/v1/webhook"

# GitHub sends up to 25 MB, but then of pushes and installations. The texts of a pull request are bounded at 65,536
# characters, and what is around them is some 30 KB.
MAX_BODY_BYTES: Final = 2_097_152
# What is left of GitHub's ten seconds to say that nothing was decided.
TELL_SECONDS: Final = 1.0

# Whoever holds the secret speaks for those who have an account there, and for nobody else.
PRINCIPAL: Final = Principal(
    "github",
    PrincipalKind.SERVICE,
    frozenset({Role.AGENT}),
    AuthMethod.SIGNATURE,
    binding=subject_patterns(["agent:github:*", "user:github:*"]),
)

_DELIVERY: Final = re.compile(rb"[A-Za-z0-9-]{1,64}")
_EVENT: Final = re.compile(rb"[a-z_]{1,64}")

_log: Final = logging.getLogger("mfw.github")


class Decides(Protocol):
    """The use case."""

    def decide(self, exchange: Exchange) -> Coroutine[Any, Any, bytes]:
        """Return the rendered decision, or raise FirewallError."""


class Github(Protocol):
    """The GitHub that delivers."""

    async def diff(self, event: Event) -> str:
        """Fetch what changes. Raises FirewallError."""

    async def report(self, event: Event, report: JsonObject, *, again: bool) -> None:
        """Give a report. Raises FirewallError."""


class NothingToDecideError(Exception):
    """A delivery asks nothing."""


class DeliveryExchange:
    """One delivery, in the words of `service/decide.py`."""

    __slots__ = (
        "_body",
        "_context",
        "_diff",
        "_endpoint",
        "_files",
        "_name",
        "_receive",
        "_scope",
        "_signature",
        "again",
        "decided",
        "delivery",
        "event",
        "limit_headers",
    )

    def __init__(self, endpoint: "WebhookEndpoint", scope: Scope, receive: Receive) -> None:
        self._endpoint = endpoint
        self._scope = scope
        self._receive = receive
        self._context = context_of(scope)
        self._body = b""
        self._diff = ""
        self._files: list[JsonObject] = []
        self._name = ""
        self._signature = b""
        self.again = False
        self.decided = False
        self.delivery = ""
        self.event: Event | None = None
        self.limit_headers = [endpoint.gate.limits.policy_header(RouteClass.DECIDE)]

    async def read(self) -> bytes:
        """Step 1; without a signature nothing is read."""
        self._signature = self._endpoint.deliveries.presented(self._scope["headers"])
        self._body = await read_body(self._scope, self._receive, max_bytes=self._endpoint.max_body_bytes)
        return self._body

    async def authenticate(self) -> Principal:
        """Step 2."""
        principal = await self._endpoint.deliveries.authenticate(
            self._body, self._signature, client_ip=client_address(self._scope)
        )
        self._context.principal = principal
        return principal

    async def limit(self, principal: Principal) -> None:
        """Step 3; then what the delivery does not say is fetched, for whoever may ask."""
        gate = self._endpoint.gate
        allowance = await gate.limits.take(principal, RouteClass.DECIDE)
        self.limit_headers = allowance.headers()
        gate.checked(allowance)
        require(principal, AccessScope.DECIDE)
        self._name = _header(self._scope, b"x-github-event", _EVENT)
        self.delivery = _header(self._scope, b"x-github-delivery", _DELIVERY)
        event = event_of(self._name, self._body, self._endpoint.view)
        if event is None:
            raise NothingToDecideError
        self._endpoint.require_recent(event)
        self.event = event
        require_small(event)
        self._diff = await self._endpoint.github.diff(event)
        self._files = files_of(event, self._diff)

    def parse(self, body: bytes) -> Mutation:  # noqa: ARG002 - it was read in step 3, to know what to fetch
        """Step 4."""
        return mutation_of(self._known(), self._diff, view=self._endpoint.view, request_id=self.delivery)

    def claim(self, principal: Principal, body: bytes) -> Claim | None:
        """Step 3b: what is delivered again has the same id, and gets the same answer."""
        return claim(principal, self.delivery, route=f"{WEBHOOK}#{self._name}", body=body)

    def render(self, decision: Decision) -> bytes:
        """Step 10."""
        event = self._known()
        doubts = doubts_of(event, forks=self._endpoint.view.forks)
        return decision_to_wire(decision, event, delivery=self.delivery, doubts=doubts, files=self._files)

    def replayed(self) -> None:
        """Learn that the answer was given before: the report may be there."""
        self.again = True
        self.limit_headers = [*self.limit_headers, REPLAYED]

    def nothing(self) -> bytes:
        """Answer what asks nothing."""
        return nothing_to_wire(self._name, delivery=self.delivery)

    def _known(self) -> Event:
        assert self.event is not None  # noqa: S101 - step 3 was before
        return self.event


class WebhookEndpoint:
    """The raw ASGI endpoint.

    `timeout_seconds` is how long a delivery may take, less than GitHub waits. Deliveries about what happened longer
    than `replay_window` ago are refused: GitHub delivers nothing again after three days, but who has seen one could.
    """

    def __init__(
        self,
        service: Decides,
        *,
        gate: Gate,
        deliveries: SignedDeliveries,
        github: Github,
        view: GithubView,
        now: Callable[[], datetime],
        timeout_seconds: float,
        replay_window: timedelta,
        max_body_bytes: int = MAX_BODY_BYTES,
    ) -> None:
        self._service = service
        self._now = now
        self._timeout_seconds = timeout_seconds
        self._replay_window = replay_window
        self.gate = gate
        self.deliveries = deliveries
        self.github = github
        self.view = view
        self.max_body_bytes = max_body_bytes

    def require_recent(self, event: Event) -> None:
        """Raise FirewallError (FORBIDDEN) for what GitHub itself would not deliver any more."""
        if self._now() - event.at > self._replay_window:
            raise FirewallError(
                Kind.FORBIDDEN,
                f"the delivery is about {event.at.isoformat()}, which is too long ago",
                fix="push, or reopen the pull request, for a new delivery",
            )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one delivery."""
        exchange = DeliveryExchange(self, scope, receive)
        request_id = context_of(scope).request_id
        try:
            async with asyncio.timeout(self._timeout_seconds):
                body = await self._decided(exchange)
        except FirewallError as error:
            await self._refuse(error, exchange, request_id, send)
            return
        except TimeoutError:
            await self._refuse(_late(), exchange, request_id, send)
            return
        except ClientDisconnectedError:
            return
        except Exception:
            await self._tell(FirewallError(Kind.UNAVAILABLE, "an internal error"), exchange, request_id)
            raise
        await deliver(success(body, exchange.limit_headers), send)

    async def _decided(self, exchange: DeliveryExchange) -> bytes:
        """INVARIANT: nothing is reported before it is in the ledger, and no success is answered before the report."""
        try:
            body = await self._service.decide(exchange)
        except NothingToDecideError:
            return exchange.nothing()
        exchange.decided = True
        assert exchange.event is not None  # noqa: S101 - something was decided
        await self.github.report(exchange.event, orjson.loads(body)["report"], again=exchange.again)
        return body

    async def _refuse(self, error: FirewallError, exchange: DeliveryExchange, request_id: str, send: Send) -> None:
        await self._tell(error, exchange, request_id)
        await deliver(problem(error, request_id), send, exchange.limit_headers)

    async def _tell(self, error: FirewallError, exchange: DeliveryExchange, request_id: str) -> None:
        """Say where people look that nothing was decided. GitHub may be what is away: then nobody is told anything."""
        if exchange.event is None or exchange.decided or error.kind is Kind.CONFLICT:
            return
        try:
            async with asyncio.timeout(TELL_SECONDS):
                with contextlib.suppress(FirewallError):
                    await self.github.report(exchange.event, refusal(error, request_id=request_id), again=False)
        except TimeoutError:
            _log.info("refusal not reported", extra={"fields": {"request_id": request_id}})


def _late() -> FirewallError:
    return FirewallError(
        Kind.TIMEOUT,
        "the delivery took longer than GitHub waits",
        retry_after=1,
        fix="deliver it again: what was decided meanwhile is not decided again, but reported",
    )


def _header(scope: Scope, name: bytes, form: re.Pattern[bytes]) -> str:
    found: list[bytes] = [value for header, value in scope["headers"] if header == name]
    if len(found) != 1 or form.fullmatch(found[0]) is None:
        raise FirewallError(
            Kind.MALFORMED,
            f"`{name.decode()}` is not there once as GitHub sends it",
            fix="deliver what GitHub sends, headers included",
        )
    return found[0].decode("ascii")


def github_router(endpoint: ASGIApp) -> APIRouter:
    """The same endpoint as a FastAPI route, so that it stands in the API document."""
    router = APIRouter(tags=["github"])

    @router.post(
        WEBHOOK,
        summary="GitHub: a delivery of a webhook",
        operation_id="github_webhook",
        responses={
            200: {"model": models.DeliveryOut, "headers": REPLAYED_HEADER},
            **problem_responses(400, 401, 403, 409, 413, 415, 429, 500, 503, 504),
        },
        openapi_extra={
            "security": [{"githubSignature": []}],
            "parameters": models.PARAMETERS,
            "requestBody": {
                "required": True,
                "content": {
                    "application/json": {"schema": inlined(models.DeliveryIn), "example": models.EXAMPLE},
                },
            },
        },
    )
    async def webhook(_request: Request) -> Response:
        """Decided, recorded and reported to GitHub before it is answered; what asks nothing is answered 200 too."""
        return Delegated(endpoint)

    return router
