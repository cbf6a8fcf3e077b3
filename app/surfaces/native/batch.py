"""`POST /v1/decisions:batch`: up to a thousand mutations in one request, answered in their order."""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, Final, Protocol

import orjson
from fastapi import APIRouter, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from app.core import strict_json
from app.core.batch import Batch
from app.core.principal import AccessScope, Principal, require
from app.core.quota import RouteClass
from app.core.types import Effect, JsonObject
from app.edge.body import ClientDisconnectedError, read_body
from app.edge.context import RequestContext, context_of, deliver
from app.edge.deadline import Deadline
from app.edge.gate import Gate
from app.edge.idempotency import REPLAYED, claim_of
from app.errors import FirewallError, Kind
from app.ledger.once import Claim
from app.service.decide import BatchExchange, Outcome
from app.surfaces.answering import Delegated, success, too_late
from app.surfaces.decided import decision_members
from app.surfaces.native.lines import is_lines
from app.surfaces.native.models import EXAMPLE_DECISION, EXAMPLE_REQUEST, BatchOut, BatchRequest
from app.surfaces.native.wire import batch_from_wire
from app.surfaces.openapi import ONCE, REPLAYED_HEADER, json_body, problem_responses
from app.surfaces.problems import problem, problem_members

PATH: Final = "/v1/decisions:batch"

# Bodies that one process holds at a time: a mebibyte of JSON becomes some ten of Python's.
AT_ONCE: Final = 2
# Beyond this a body is read in a thread: its parsers hold the interpreter for a few milliseconds at a time, and between
# two of them everybody else gets theirs (docs/overload.md has the figures).
INLINE_BYTES: Final = 131_072
# A thousand mutations with five hundred values each; a change of a Deployment, both sides of it whole, has 250.
MAX_VALUES: Final = 500_000

# A mutation stands two levels deeper in a batch than alone.
MAX_DEPTH: Final = strict_json.MAX_DEPTH + 2

_REFUSED: Final = "refused"


class DecidesBatches(Protocol):
    """The use case: it takes the steps in their order, through the exchange, and gives back what `render` made."""

    def decide_batch(self, exchange: BatchExchange) -> Coroutine[Any, Any, bytes]:
        """Return the rendered answers, or raise FirewallError."""


class BatchNativeExchange:
    """One batch at this surface, in the words of `service/decide.py`."""

    __slots__ = ("_context", "_endpoint", "_receive", "_scope", "_taken", "holds_slot", "limit_headers")

    def __init__(self, endpoint: "BatchEndpoint", scope: Scope, receive: Receive, context: RequestContext) -> None:
        self._endpoint = endpoint
        self._scope = scope
        self._receive = receive
        self._context = context
        self._taken = 0
        self.holds_slot = False
        self.limit_headers = endpoint.unknown_caller_headers

    async def authenticate(self) -> Principal:
        """Step 2."""
        return await self._endpoint.gate.authenticate(self._scope)

    async def limit(self, principal: Principal, count: int) -> None:
        """Step 3: counted by mutations, and more than the bucket can ever hold are refused for good."""
        limits = self._endpoint.gate.limits
        burst = limits.limit_of(principal, RouteClass.BATCH).burst
        self._taken += count
        if self._taken > burst:
            raise FirewallError(
                Kind.TOO_LARGE,
                f"the limit lets no more than {burst} mutations through at once",
                pointer="/mutations",
                fix="send smaller batches",
            )
        if count:
            allowance = await limits.take(principal, RouteClass.BATCH, count)
            self.limit_headers = allowance.headers()
            self._endpoint.gate.checked(allowance)
        require(principal, AccessScope.DECIDE)

    async def read(self) -> bytes:
        """Step 1, when there is room for one more body."""
        await self._endpoint.slots.acquire()
        self.holds_slot = True
        return await read_body(self._scope, self._receive, max_bytes=self._endpoint.max_body_bytes)

    async def parse(self, body: bytes) -> Batch:
        """Step 4."""
        return _batch(body) if len(body) <= INLINE_BYTES else await asyncio.to_thread(_batch, body)

    def claim(self, principal: Principal, body: bytes) -> Claim | None:
        """Step 3b."""
        return claim_of(self._scope["headers"], principal, route=PATH, body=body)

    def replayed(self) -> None:
        """Say so in the answer."""
        self.limit_headers = [*self.limit_headers, REPLAYED]

    def render(self, outcomes: Sequence[Outcome]) -> bytes:
        """Step 10."""
        summary = dict.fromkeys([*(effect.value for effect in Effect), _REFUSED], 0)
        results: list[JsonObject] = []
        for index, outcome in enumerate(outcomes):
            if isinstance(outcome, FirewallError):
                summary[_REFUSED] += 1
                members: JsonObject = problem_members(outcome, self._context.request_id)
                members["pointer"] = f"/mutations/{index}{outcome.pointer or ''}"
            else:
                summary[outcome.effect.value] += 1
                members = decision_members(outcome)
            results.append({"index": index, **members})
        return orjson.dumps({"results": results, "summary": summary})


def _batch(body: bytes) -> Batch:
    return batch_from_wire(strict_json.parse(body, max_depth=MAX_DEPTH, max_values=MAX_VALUES).tree)


class BatchEndpoint:
    """The raw ASGI endpoint of batches."""

    def __init__(
        self,
        service: DecidesBatches,
        *,
        gate: Gate,
        max_body_bytes: int,
        timeout_seconds: float,
        lines: ASGIApp | None = None,
    ) -> None:
        self._service = service
        self._lines = lines
        self._deadline = Deadline(timeout_seconds)
        self.slots = asyncio.Semaphore(AT_ONCE)
        self.gate = gate
        self.max_body_bytes = max_body_bytes
        self.unknown_caller_headers = [gate.limits.policy_header(RouteClass.BATCH)]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one batch; a client that leaves while it is committed changes nothing."""
        if self._lines is not None and is_lines(scope):
            await self._lines(scope, receive, send)
            return
        context = context_of(scope)
        exchange = BatchNativeExchange(self, scope, receive, context)
        try:
            body = await self._deadline.limit(self._service.decide_batch(exchange))
        except FirewallError as error:
            await deliver(problem(error, context.request_id), send, exchange.limit_headers)
            return
        except TimeoutError:
            await deliver(problem(too_late(), context.request_id), send, exchange.limit_headers)
            return
        except ClientDisconnectedError:
            return
        finally:
            if exchange.holds_slot:
                self.slots.release()
        await deliver(success(body, exchange.limit_headers), send)


def batch_router(endpoint: BatchEndpoint) -> APIRouter:
    """The route of batches."""
    router = APIRouter(tags=["decisions"])
    results = [{"index": 0, **EXAMPLE_DECISION}]
    example = {"results": results, "summary": {"allow": 1, "deny": 0, "hold": 0, "refused": 0}}
    success: dict[int | str, dict[str, Any]] = {
        200: {
            "model": BatchOut,
            "description": "What became of each mutation, after all of it was committed to the ledger.",
            "headers": REPLAYED_HEADER,
            "content": {
                "application/json": {"example": example},
                "application/x-ndjson": {
                    "schema": {
                        "type": "string",
                        "description": "a result for each `line`, then a summary",
                    }
                },
            },
        }
    }

    @router.post(
        PATH,
        summary="Ask for decisions about many mutations",
        operation_id="decide_batch",
        responses=success | problem_responses(400, 401, 403, 409, 413, 415, 429, 500, 503, 504),
        openapi_extra=ONCE | json_body(BatchRequest, {"mutations": [EXAMPLE_REQUEST], "mode": "each"}),
    )
    async def decide_batch(_request: Request) -> Response:
        """Each mutation has an entry of its own in the ledger; one that cannot be read fails alone."""
        return Delegated(endpoint)

    return router
