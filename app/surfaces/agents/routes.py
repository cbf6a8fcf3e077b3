"""`/agents/v1/...`: tool calls of agents, asked about before they are made."""

import logging
from collections.abc import Coroutine, Sequence
from http import HTTPStatus
from typing import Any, Final, Protocol

from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app.core.batch import Batch, BatchMode
from app.core.principal import AccessScope, Principal, require
from app.core.quota import RouteClass
from app.core.types import JsonObject
from app.edge.body import ClientDisconnectedError, read_body
from app.edge.context import context_of, deliver
from app.edge.deadline import Deadline
from app.edge.gate import Gate
from app.edge.idempotency import REPLAYED, claim_of
from app.errors import FirewallError, Kind
from app.ledger.once import Claim
from app.service.decide import BatchExchange, Outcome
from app.surfaces.agents import models
from app.surfaces.agents.answers import (
    Told,
    approvals_to_wire,
    hook_answer,
    hook_to_wire,
    mcp_refusal,
    mcp_to_wire,
    refused_in_words,
    told_of,
    tool_call_to_wire,
)
from app.surfaces.agents.wire import Asked, hook_call_of, mcp_call_of, rpc_id_of, tool_call_of
from app.surfaces.answering import Delegated, success, too_late
from app.surfaces.openapi import ONCE, REPLAYED_HEADER, inlined, json_body, problem_responses
from app.surfaces.problems import problem, status_and_title

CLAUDE_CODE: Final = "/agents/v1/claude-code"
TOOL_CALL: Final = "/agents/v1/tool-call"
MCP_CHECK: Final = "/agents/v1/mcp/check"

_log: Final = logging.getLogger("mfw.agents")


class DecidesBatches(Protocol):
    """The use case: it takes the steps in their order, through the exchange, and gives back what `render` made."""

    def decide_batch(self, exchange: BatchExchange) -> Coroutine[Any, Any, bytes]:
        """Return the rendered answer, or raise FirewallError."""


class Format(Protocol):
    """One wire format of tool calls."""

    path: str

    def read(self, body: bytes) -> Asked:
        """Step 4. Raises FirewallError(MALFORMED)."""

    def write(self, told: Told, asked: Asked, body: bytes) -> bytes:
        """Step 10."""

    def refusal(self, error: FirewallError, body: bytes, request_id: str) -> bytes | None:
        """The words of this format for a call that could not be decided; None where a problem says it best."""


class GenericFormat:
    """`POST /agents/v1/tool-call`."""

    path = TOOL_CALL

    def read(self, body: bytes) -> Asked:
        """Step 4."""
        return tool_call_of(body)

    def write(self, told: Told, asked: Asked, _body: bytes) -> bytes:
        """Step 10."""
        return approvals_to_wire(told, asked) if asked.approvals else tool_call_to_wire(told, asked)

    def refusal(self, _error: FirewallError, _body: bytes, _request_id: str) -> bytes | None:
        """A problem."""
        return None


class HookFormat:
    """`POST /agents/v1/claude-code`.

    Claude Code carries a call out when a hook answers with any other status than 200: a refusal is a deny.
    """

    path = CLAUDE_CODE

    def read(self, body: bytes) -> Asked:
        """Step 4."""
        return hook_call_of(body)

    def write(self, told: Told, _asked: Asked, _body: bytes) -> bytes:
        """Step 10."""
        return hook_to_wire(told)

    def refusal(self, error: FirewallError, _body: bytes, request_id: str) -> bytes | None:
        """A deny that says so."""
        return hook_answer("deny", f"{refused_in_words(error)} (request {request_id})")


class McpFormat:
    """`POST /agents/v1/mcp/check`."""

    path = MCP_CHECK

    def read(self, body: bytes) -> Asked:
        """Step 4."""
        return mcp_call_of(body)

    def write(self, told: Told, _asked: Asked, body: bytes) -> bytes:
        """Step 10."""
        return mcp_to_wire(told, rpc_id_of(body))

    def refusal(self, error: FirewallError, body: bytes, request_id: str) -> bytes | None:
        """A JSON-RPC error."""
        return mcp_refusal(error, rpc_id_of(body), request_id)


class ToolCallExchange:
    """One tool call, in the words of `service/decide.py`: a batch that stands or falls together."""

    __slots__ = ("_asked", "_body", "_context", "_endpoint", "_receive", "_scope", "limit_headers")

    def __init__(self, endpoint: "ToolCallEndpoint", scope: Scope, receive: Receive) -> None:
        self._endpoint = endpoint
        self._scope = scope
        self._receive = receive
        self._context = context_of(scope)
        self._body: bytes | None = None
        self._asked: Asked | None = None
        self.limit_headers = [endpoint.gate.limits.policy_header(RouteClass.DECIDE)]

    async def authenticate(self) -> Principal:
        """Step 2."""
        return await self._endpoint.gate.authenticate(self._scope)

    async def limit(self, principal: Principal, count: int) -> None:
        """Step 3: counted by what a call would do."""
        if count:
            gate = self._endpoint.gate
            allowance = await gate.limits.take(principal, RouteClass.DECIDE, count)
            self.limit_headers = allowance.headers()
            gate.checked(allowance)
        require(principal, AccessScope.DECIDE)

    async def read(self) -> bytes:
        """Step 1."""
        self._body = await read_body(self._scope, self._receive, max_bytes=self._endpoint.max_body_bytes)
        return self._body

    def claim(self, principal: Principal, body: bytes) -> Claim | None:
        """Step 3b."""
        return claim_of(self._scope["headers"], principal, route=self._endpoint.format.path, body=body)

    async def parse(self, body: bytes) -> Batch:
        """Step 4."""
        asked = self._asked = self._endpoint.format.read(body)
        subject = asked.subject or self._caller(asked)
        parts = [part.mutation(subject, request_id=asked.request_id) for part in asked.call.parts]
        return Batch(parts, BatchMode.ATOMIC if len(parts) > 1 else BatchMode.EACH)

    def _caller(self, asked: Asked) -> JsonObject:
        """Whoever asks, for a format that has no word for the subject."""
        principal = self._context.principal
        assert principal is not None  # noqa: S101 - step 2 was before step 4
        return {"type": principal.kind.value, "id": principal.id, "properties": dict(asked.properties)}

    def render(self, outcomes: Sequence[Outcome]) -> bytes:
        """Step 10."""
        assert self._asked is not None  # noqa: S101 - step 4 was before step 10
        assert self._body is not None  # noqa: S101 - step 1 was before step 10
        return self._endpoint.format.write(told_of(outcomes), self._asked, self._body)

    def replayed(self) -> None:
        """Say so in the answer."""
        self.limit_headers = [*self.limit_headers, REPLAYED]

    def refusal(self, error: FirewallError) -> bytes | None:
        """The format's own refusal; None for who is not known, or may not ask at all."""
        principal = self._context.principal
        if principal is None or AccessScope.DECIDE not in principal.scopes:
            return None
        return self._endpoint.format.refusal(error, self._body or b"", self._context.request_id)


class ToolCallEndpoint:
    """A raw ASGI endpoint: parse, call, render. Whatever goes wrong is a call that is not allowed."""

    def __init__(
        self, service: DecidesBatches, form: Format, *, gate: Gate, max_body_bytes: int, timeout_seconds: float
    ) -> None:
        self._service = service
        self._deadline = Deadline(timeout_seconds)
        self.format = form
        self.gate = gate
        self.max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        exchange = ToolCallExchange(self, scope, receive)
        try:
            body = await self._deadline.limit(self._service.decide_batch(exchange))
        except FirewallError as error:
            await self._refuse(error, exchange, scope, send)
            return
        except TimeoutError:
            await self._refuse(too_late(), exchange, scope, send)
            return
        except ClientDisconnectedError:
            return
        except Exception:
            refused = exchange.refusal(_unforeseen())
            if refused is None:
                raise
            _log.exception("tool call failed")
            context_of(scope).outcome = HTTPStatus.INTERNAL_SERVER_ERROR
            await self._deliver(refused, exchange, send)
            return
        await self._deliver(body, exchange, send)

    async def _refuse(self, error: FirewallError, exchange: ToolCallExchange, scope: Scope, send: Send) -> None:
        refused = exchange.refusal(error)
        if refused is None:
            await deliver(problem(error, context_of(scope).request_id), send, exchange.limit_headers)
        else:
            context_of(scope).outcome, _ = status_and_title(error.kind)
            await self._deliver(refused, exchange, send)

    async def _deliver(self, body: bytes, exchange: ToolCallExchange, send: Send) -> None:
        await deliver(success(body, exchange.limit_headers), send)


def _unforeseen() -> FirewallError:
    return FirewallError(
        Kind.UNAVAILABLE, "an internal error", retry_after=1, fix="try again; if it stays, report the request id"
    )


def agents_router(endpoints: Sequence[ToolCallEndpoint]) -> APIRouter:
    """All routes of this surface, one for each format."""
    router = APIRouter(tags=["agents"])
    for endpoint in endpoints:
        _add(router, endpoint)
    return router


def _add(router: APIRouter, endpoint: ToolCallEndpoint) -> None:
    path = endpoint.format.path
    summary, out, body = _DOCUMENTED[path]

    @router.post(
        path,
        summary=summary,
        operation_id=f"agents_{path.rpartition('v1/')[2].replace('/', '_').replace('-', '_')}",
        responses={
            200: {"model": out, "headers": REPLAYED_HEADER},
            **problem_responses(400, 401, 403, 409, 413, 415, 429, 500, 503, 504),
        },
        openapi_extra=ONCE | body,
    )
    async def ask(_request: Request) -> Response:
        """All that a call would do is decided together: one part that is not allowed, and none of it is."""
        return Delegated(endpoint)


_CALL_BODY: Final[dict[str, Any]] = json_body(models.ToolCallIn, models.EXAMPLE_CALL)
_CALL_BODY["requestBody"]["content"]["application/json"]["schema"] = {
    "anyOf": [inlined(models.ToolCallIn), inlined(models.ApprovalItemIn), inlined(models.ApprovalRequestIn)]
}

_DOCUMENTED: Final[dict[str, tuple[str, type[BaseModel], dict[str, Any]]]] = {
    TOOL_CALL: (
        "Agents: a tool call, an approval item of the OpenAI Agents SDK, or a request for approval of kagent",
        models.ToolCallAnswer,
        _CALL_BODY,
    ),
    CLAUDE_CODE: (
        "Agents: a hook `PreToolUse` of Claude Code",
        models.PreToolUseOut,
        json_body(models.PreToolUseIn, models.EXAMPLE_HOOK),
    ),
    MCP_CHECK: (
        "Agents: a `tools/call` of the Model Context Protocol",
        models.McpCheckOut,
        json_body(models.McpCheckIn, models.EXAMPLE_CHECK),
    ),
}
