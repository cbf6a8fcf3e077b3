"""`POST /kubernetes/v1/validate`: a validating admission webhook."""

import asyncio
import logging
import re
import warnings
from collections.abc import Coroutine, Sequence
from http import HTTPStatus
from typing import Any, Final, Protocol
from urllib.parse import parse_qs

from fastapi import APIRouter, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from app.core.admission.callers import ClusterView
from app.core.admission.canary import Canary
from app.core.glob import Glob
from app.core.principal import AccessScope, AuthMethod, Principal, PrincipalKind, Role, require
from app.core.quota import RouteClass
from app.core.types import Mutation
from app.edge.body import ClientDisconnectedError, read_body
from app.edge.context import context_of, deliver, peer_of
from app.edge.gate import Gate
from app.errors import FirewallError, Kind
from app.service.decide import Decision, Rehearsal, ReviewExchange
from app.surfaces.admission import models
from app.surfaces.admission.answers import decision_to_wire, error_to_wire, rehearsal_to_wire, unforeseen_to_wire
from app.surfaces.admission.wire import API_VERSION, Asked, asked_by, review_of
from app.surfaces.answering import Delegated, success
from app.surfaces.openapi import json_body, problem_responses
from app.surfaces.problems import problem, status_and_title

VALIDATE: Final = "/kubernetes/v1/validate"

# Of the time that an API server waits: the rest is for the way there and back.
SHARE: Final = 0.9

# A duration as Go writes it, `2.5s` or `1m30s`. An API server sends whole seconds.
_DURATION: Final = re.compile(r"(?:(?P<m>\d{1,4})m)?(?:(?P<s>\d{1,6}(?:\.\d{1,9})?)s)?|(?P<ms>\d{1,6}(?:\.\d{1,9})?)ms")

_log: Final = logging.getLogger("mfw.kubernetes")

# Where a credential would be.
_CREDENTIALS: Final = frozenset({b"authorization", b"x-api-key"})
# Who asks where nobody says who it is, and where that is let pass.
UNKNOWN: Final = Principal(
    "unauthenticated-api-server", PrincipalKind.SERVICE, frozenset({Role.AGENT}), AuthMethod.NONE
)


class Reviews(Protocol):
    """The use case: it takes the steps in their order, through the exchange, and gives back what it rendered."""

    def review(self, exchange: ReviewExchange) -> Coroutine[Any, Any, bytes]:
        """Return the rendered decision or rehearsal, or raise FirewallError."""


class AdmissionExchange:
    """One review, in the words of `service/decide.py`."""

    __slots__ = ("_asked", "_body", "_context", "_endpoint", "_receive", "_scope", "limit_headers")

    def __init__(self, endpoint: "AdmissionEndpoint", scope: Scope, receive: Receive) -> None:
        self._endpoint = endpoint
        self._scope = scope
        self._receive = receive
        self._context = context_of(scope)
        self._body: bytes | None = None
        self._asked: Asked | None = None
        self.limit_headers = [endpoint.gate.limits.policy_header(RouteClass.DECIDE)]

    async def read(self) -> bytes:
        """Step 1."""
        self._body = await read_body(self._scope, self._receive, max_bytes=self._endpoint.max_body_bytes)
        return self._body

    async def authenticate(self) -> Principal:
        """Step 2."""
        if self._endpoint.unsafe_unauthenticated and not self._shows_who_it_is():
            self._context.principal = UNKNOWN
            return UNKNOWN
        return await self._endpoint.gate.authenticate(self._scope)

    def _shows_who_it_is(self) -> bool:
        peer = peer_of(self._scope)
        if peer is not None and peer.certificate is not None:
            return True
        return any(name in _CREDENTIALS for name, _ in self._scope["headers"])

    async def limit(self, principal: Principal) -> None:
        """Step 3."""
        gate = self._endpoint.gate
        allowance = await gate.limits.take(principal, RouteClass.DECIDE)
        self.limit_headers = allowance.headers()
        gate.checked(allowance)
        require(principal, AccessScope.DECIDE)
        self._endpoint.require_api_server(principal)

    def parse(self, body: bytes) -> tuple[Mutation, bool]:
        """Step 4."""
        review = review_of(body, self._endpoint.view)
        self._asked = Asked(review.uid, API_VERSION)
        self._endpoint.deny_canary(review.mutation)
        return review.mutation, review.dry_run

    def render(self, decision: Decision) -> bytes:
        """Step 10."""
        return decision_to_wire(decision, self._known())

    def render_rehearsal(self, rehearsal: Rehearsal) -> bytes:
        """Step 10 for a dry run."""
        return rehearsal_to_wire(rehearsal, self._known())

    def asked(self) -> Asked | None:
        """Which review to answer; None where nobody knows yet who its caller is, or it says no id."""
        if self._asked is None and self._body is not None and self._context.principal is not None:
            self._asked = asked_by(self._body)
        return self._asked

    def count_as(self, status: int) -> None:
        """Say what became of this request, whose answer is of status 200 all the same."""
        self._context.outcome = status

    def _known(self) -> Asked:
        assert self._asked is not None  # noqa: S101 - step 4 was before step 10
        return self._asked


class AdmissionEndpoint:
    """The raw ASGI endpoint. Whatever goes wrong once a review was read is a review that is not allowed.

    `api_servers` are the ids of principals whose reviews are answered, of everybody who may ask where there are none.
    `timeout_seconds` is the longest that a review takes; an API server that waits for less has its answer before that.
    `unsafe_unauthenticated` answers reviews without a credential; one that is there is checked all the same.
    """

    def __init__(
        self,
        service: Reviews,
        *,
        gate: Gate,
        view: ClusterView,
        api_servers: Sequence[Glob],
        max_body_bytes: int,
        timeout_seconds: float,
        canary: Canary | None = None,
        unsafe_unauthenticated: bool = False,
    ) -> None:
        if unsafe_unauthenticated:
            warnings.warn("reviews of Kubernetes are answered whoever sends them", RuntimeWarning, stacklevel=2)
        self._service = service
        self._api_servers = api_servers
        self._canary = canary
        self._timeout_seconds = timeout_seconds
        self.gate = gate
        self.view = view
        self.max_body_bytes = max_body_bytes
        self.unsafe_unauthenticated = unsafe_unauthenticated

    def require_api_server(self, principal: Principal) -> None:
        """Raise FirewallError (FORBIDDEN) for who is not known as an API server, if any are known."""
        if self._api_servers and not any(glob.matches(principal.id) for glob in self._api_servers):
            raise FirewallError(
                Kind.FORBIDDEN,
                f"`{principal.id[:200]}` is not known as an API server",
                fix="use the credential of one, or name it in MFW_KUBERNETES__API_SERVERS",
            )

    def deny_canary(self, mutation: Mutation) -> None:
        """Raise FirewallError (FORBIDDEN) for the canary, before any policy is asked."""
        denial = None if self._canary is None else self._canary.denial(mutation)
        if denial is not None:
            raise FirewallError(Kind.FORBIDDEN, denial)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        exchange = AdmissionExchange(self, scope, receive)
        request_id = context_of(scope).request_id
        try:
            async with asyncio.timeout(self._seconds(scope)):
                body = await self._service.review(exchange)
        except FirewallError as error:
            await self._refuse(error, exchange, request_id, send)
            return
        except TimeoutError:
            await self._refuse(_late(), exchange, request_id, send)
            return
        except ClientDisconnectedError:
            return
        except Exception:
            asked = exchange.asked()
            if asked is None:
                raise
            _log.exception("review failed")
            exchange.count_as(HTTPStatus.INTERNAL_SERVER_ERROR)
            body = unforeseen_to_wire(asked, request_id=request_id)
        await self._deliver(body, exchange, send)

    async def _refuse(self, error: FirewallError, exchange: AdmissionExchange, request_id: str, send: Send) -> None:
        asked = exchange.asked()
        if asked is None:
            await deliver(problem(error, request_id), send, exchange.limit_headers)
            return
        exchange.count_as(status_and_title(error.kind)[0])
        await self._deliver(error_to_wire(error, asked, request_id=request_id), exchange, send)

    async def _deliver(self, body: bytes, exchange: AdmissionExchange, send: Send) -> None:
        await deliver(success(body, exchange.limit_headers), send)

    def _seconds(self, scope: Scope) -> float:
        """How long this review may take: less than the API server waits, for then it decides without us."""
        sent = waits_for(scope.get("query_string", b""))
        return self._timeout_seconds if sent is None else min(self._timeout_seconds, sent * SHARE)


def waits_for(query: bytes) -> float | None:
    """The seconds that an API server waits, as `timeout` says; None where it says nothing that can be read."""
    try:
        texts = parse_qs(query.decode("ascii"), max_num_fields=16).get("timeout", [])
    except ValueError:
        return None
    found = _DURATION.fullmatch(texts[0]) if len(texts) == 1 else None
    if found is None:
        return None
    minutes, seconds, milliseconds = (float(found[name] or 0) for name in ("m", "s", "ms"))
    return minutes * 60 + seconds + milliseconds / 1000 or None


def _late() -> FirewallError:
    return FirewallError(
        Kind.TIMEOUT,
        "the decision took too long",
        retry_after=1,
        fix="try again; a decision that was recorded meanwhile was not given to anybody",
    )


def admission_router(endpoint: ASGIApp) -> APIRouter:
    """The same endpoint as a FastAPI route, so that it stands in the API document."""
    router = APIRouter(tags=["kubernetes"])

    @router.post(
        VALIDATE,
        summary="Kubernetes: validate a change",
        operation_id="kubernetes_validate",
        responses={
            200: {"model": models.AdmissionReviewOut},
            **problem_responses(400, 401, 403, 413, 415, 429, 500, 503, 504),
        },
        openapi_extra=json_body(models.AdmissionReviewIn, models.EXAMPLE)
        | {
            "parameters": [
                {
                    "name": "timeout",
                    "in": "query",
                    "required": False,
                    "description": "how long the API server waits, as it says itself: `10s`",
                    "schema": {"type": "string"},
                    "example": "3s",
                }
            ]
        },
    )
    async def validate(_request: Request) -> Response:
        """Allowed only after an allow was committed to the ledger; a dry run is answered and leaves no trace."""
        return Delegated(endpoint)

    return router
