"""Whatever goes wrong is a call that is not allowed, said in the words of its format."""

import asyncio
import logging
from typing import Any

import httpx
import pytest

from app.core.quota import DEFAULT_LIMIT, RouteClass
from app.edge.authn import UnsafeAnonymousAuthenticator
from app.edge.body import ClientDisconnectedError
from app.edge.gate import Gate
from app.edge.limits import RateLimits, TokenBuckets
from app.errors import FirewallError, Kind
from app.observability.metrics import Metrics
from app.service.decide import BatchExchange
from app.surfaces.agents.models import EXAMPLE_CALL, EXAMPLE_CHECK, EXAMPLE_HOOK
from app.surfaces.agents.routes import Format, GenericFormat, HookFormat, McpFormat, ToolCallEndpoint

METRICS = Metrics(version="0")
BODIES: dict[type[Any], Any] = {GenericFormat: EXAMPLE_CALL, HookFormat: EXAMPLE_HOOK, McpFormat: EXAMPLE_CHECK}

pytestmark = pytest.mark.filterwarnings("ignore:.*anybody.*")


class Fails:
    """Takes the first steps, as many as it is told, then fails."""

    def __init__(self, error: BaseException | None, *, steps: int) -> None:
        self._error = error
        self._steps = steps

    async def decide_batch(self, exchange: BatchExchange) -> bytes:
        if self._steps > 0:
            await exchange.limit(await exchange.authenticate(), 1)
        if self._steps > 1:
            await exchange.parse(await exchange.read())
        if self._error is None:
            await asyncio.Event().wait()
        raise self._error  # type: ignore[misc]  # nobody sets the event


def asked(form: Format, error: BaseException | None, *, steps: int = 2) -> httpx.Response:
    limits = RateLimits(dict.fromkeys(RouteClass, DEFAULT_LIMIT), make=lambda _route, limit: TokenBuckets(limit))
    endpoint = ToolCallEndpoint(
        Fails(error, steps=steps),
        form,
        gate=Gate(UnsafeAnonymousAuthenticator(), limits=limits, metrics=METRICS),
        max_body_bytes=100_000,
        timeout_seconds=0.05,
    )

    async def post() -> httpx.Response:
        transport = httpx.ASGITransport(endpoint)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.post(form.path, json=BODIES[type(form)])

    return asyncio.run(post())


AWAY = FirewallError(Kind.UNAVAILABLE, "the ledger is away", retry_after=2, fix="wait")


def denied(answer: httpx.Response) -> str:
    assert answer.status_code == 200
    told = answer.json()["hookSpecificOutput"]
    assert told["permissionDecision"] == "deny"
    reason: str = told["permissionDecisionReason"]
    return reason


def test_a_ledger_that_is_away_is_refused_by_each_format():
    generic = asked(GenericFormat(), AWAY)
    assert (generic.status_code, generic.headers["retry-after"]) == (503, "2")
    assert "the ledger is away; wait" in denied(asked(HookFormat(), AWAY))
    mcp = asked(McpFormat(), AWAY)
    assert (mcp.status_code, mcp.json()["id"]) == (200, 1)
    error = mcp.json()["error"]
    assert (error["code"], error["message"], error["data"]["status"]) == (-32097, "not_decided", 503)
    assert error["data"]["problem"]["retry_after"] == 2


def test_time_that_is_over_is_a_refusal():
    assert asked(GenericFormat(), None).status_code == 504
    assert "took too long" in denied(asked(HookFormat(), None))
    assert asked(McpFormat(), None).json()["error"]["data"]["status"] == 504


def test_what_nobody_foresaw_is_a_refusal_and_is_logged(caplog):
    with caplog.at_level(logging.ERROR):
        reason = denied(asked(HookFormat(), RuntimeError("secret")))
    assert "tool call failed" in caplog.text
    assert "secret" not in reason
    assert asked(McpFormat(), RuntimeError("secret")).json()["error"]["data"]["status"] == 503
    with pytest.raises(RuntimeError):
        asked(GenericFormat(), RuntimeError("secret"))


def test_before_the_caller_is_known_nobody_is_told_in_the_words_of_a_decision():
    for form in (GenericFormat(), HookFormat(), McpFormat()):
        assert asked(form, FirewallError(Kind.UNAUTHENTICATED, "who"), steps=0).status_code == 401
        with pytest.raises(RuntimeError):
            asked(form, RuntimeError("x"), steps=0)
    # Known, and the call not read yet.
    limited = FirewallError(Kind.RATE_LIMITED, "too many", retry_after=1)
    assert "too many" in denied(asked(HookFormat(), limited, steps=1))
    mcp = asked(McpFormat(), limited, steps=1).json()
    assert (mcp["id"], mcp["error"]["data"]["status"]) == (None, 429)


def test_a_client_that_left_is_nobodys_error():
    # The transport of the test has no answer then.
    with pytest.raises((AssertionError, httpx.HTTPError)):
        asked(HookFormat(), ClientDisconnectedError())
