"""The endpoint: whatever goes wrong once a review was read is a review that is not allowed."""

import asyncio
import logging
from typing import Any

import httpx
import orjson
import pytest

from app.core.admission.callers import ClusterView
from app.core.admission.canary import NAME, Canary, flown
from app.core.quota import DEFAULT_LIMIT, RouteClass
from app.edge.authn import UnsafeAnonymousAuthenticator
from app.edge.body import ClientDisconnectedError
from app.edge.context import PEER
from app.edge.gate import Gate
from app.edge.limits import RateLimits, TokenBuckets
from app.edge.peer import Peer
from app.errors import FirewallError, Kind
from app.observability.metrics import Metrics
from app.service.decide import ReviewExchange
from app.surfaces.admission.models import EXAMPLE
from app.surfaces.admission.routes import AdmissionEndpoint, waits_for

METRICS = Metrics(version="0")

pytestmark = pytest.mark.filterwarnings("ignore:.*(anybody|whoever).*")


class Fails:
    """Takes the first steps, as many as it is told, then fails."""

    def __init__(self, error: BaseException | None, *, steps: int) -> None:
        self._error = error
        self._steps = steps

    async def review(self, exchange: ReviewExchange) -> bytes:
        body = b""
        if self._steps > 0:
            body = await exchange.read()
        if self._steps > 1:
            await exchange.limit(await exchange.authenticate())
        if self._steps > 2:
            exchange.parse(body)
        if self._error is None:
            await asyncio.Event().wait()
        raise self._error  # type: ignore[misc]  # nobody sets the event


def endpoint_of(service: Any, *, canary: Canary | None = None) -> AdmissionEndpoint:
    limits = RateLimits(dict.fromkeys(RouteClass, DEFAULT_LIMIT), make=lambda _route, limit: TokenBuckets(limit))
    return AdmissionEndpoint(
        service,
        gate=Gate(UnsafeAnonymousAuthenticator(), limits=limits, metrics=METRICS),
        view=ClusterView(),
        api_servers=(),
        max_body_bytes=100_000,
        timeout_seconds=0.05,
        canary=canary,
    )


def asked(error: BaseException | None, *, steps: int = 3, body: Any = EXAMPLE, query: str = "") -> httpx.Response:
    return asked_of(endpoint_of(Fails(error, steps=steps)), body, query=query)


def asked_of(endpoint: AdmissionEndpoint, body: Any, *, query: str = "") -> httpx.Response:
    async def post() -> httpx.Response:
        transport = httpx.ASGITransport(endpoint)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.post(f"/kubernetes/v1/validate{query}", json=body)

    return asyncio.run(post())


def status_of(answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code == 200
    response = answer.json()["response"]
    assert (response["uid"], response["allowed"]) == (EXAMPLE["request"]["uid"], False)
    status: dict[str, Any] = response["status"]
    return status


def test_a_ledger_that_is_away_denies():
    error = FirewallError(Kind.UNAVAILABLE, "the ledger is away", retry_after=2, fix="wait")
    status = status_of(asked(error))
    assert (status["code"], status["reason"]) == (503, "ServiceUnavailable")
    assert status["details"] == {"retryAfterSeconds": 2}
    assert "the ledger is away; wait" in status["message"]


def test_time_that_is_over_denies():
    assert status_of(asked(None))["code"] == 504
    assert status_of(asked(None, query="?timeout=1ms"))["code"] == 504


def test_what_nobody_foresaw_denies_and_is_logged(caplog):
    with caplog.at_level(logging.ERROR):
        assert status_of(asked(RuntimeError("secret")))["code"] == 500
    assert "review failed" in caplog.text
    assert "secret" not in orjson.dumps(status_of(asked(RuntimeError("secret")))).decode()


def test_before_the_caller_is_known_nobody_is_told_in_words_of_a_review():
    assert asked(FirewallError(Kind.UNAUTHENTICATED, "who"), steps=1).status_code == 401
    assert asked(None, steps=1).status_code == 504
    with pytest.raises(RuntimeError):
        asked(RuntimeError("x"), steps=1)
    # Known, and the review not read yet.
    assert status_of(asked(FirewallError(Kind.RATE_LIMITED, "too many", retry_after=1), steps=2))["code"] == 429
    assert asked(FirewallError(Kind.RATE_LIMITED, "too many", retry_after=1), steps=2, body={}).status_code == 429


def test_a_client_that_left_is_nobodys_error():
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def gone() -> dict[str, str]:
        return {"type": "http.disconnect"}

    scope = {"type": "http", "headers": [(b"content-type", b"application/json")], "query_string": b""}
    asyncio.run(endpoint_of(Fails(ClientDisconnectedError(), steps=1))(scope, gone, send))
    assert sent == []


@pytest.mark.parametrize(
    ("query", "seconds"),
    [
        (b"", None),
        (b"timeout=10s", 10),
        (b"timeout=2.5s", 2.5),
        (b"timeout=1m30s", 90),
        (b"timeout=2m", 120),
        (b"timeout=999.5ms", 0.9995),
        (b"timeout=0s", None),
        (b"timeout=", None),
        (b"timeout=-1s", None),
        (b"timeout=10", None),
        (b"timeout=1s&timeout=2s", None),
        (b"timeout=%ff", None),
        (b"\xff", None),
        (b"&".join([b"a=1"] * 17), None),
    ],
)
def test_how_long_an_api_server_waits(query, seconds):
    assert waits_for(query) == seconds


def test_the_canary_is_denied_before_any_policy_is_asked():
    canary = Canary("k" * 32)
    request = EXAMPLE["request"] | {
        "operation": "CREATE",
        "kind": {"group": "", "version": "v1", "kind": "ConfigMap"},
        "resource": {"group": "", "version": "v1", "resource": "configmaps"},
        "name": NAME,
        "oldObject": None,
        "object": flown("shop", "ab" * 16),
    }
    # Not a dry run, and in any namespace: nobody makes it in earnest either.
    service = Fails(AssertionError("a policy was asked"), steps=3)
    for known, status, words in ((canary, 403, canary.proof("ab" * 16)), (None, 500, "internal error")):
        told = status_of(asked_of(endpoint_of(service, canary=known), EXAMPLE | {"request": request}))
        assert told["code"] == status
        assert words in told["message"]


class Refuses:
    """Knows nobody."""

    async def authenticate(self, headers: Any, *, client_ip: str, peer: Any = None) -> Any:
        raise FirewallError(Kind.UNAUTHENTICATED, "who")


@pytest.mark.parametrize(
    ("unsafe", "headers", "certificate", "code"),
    [
        (True, {}, None, 200),
        (True, {"Authorization": "Bearer mfw_x"}, None, 401),
        (True, {"X-API-Key": "mfw_x"}, None, 401),
        (True, {}, b"of a client", 401),
        (False, {}, None, 401),
    ],
)
def test_reviews_without_a_credential_are_answered_where_that_is_let_pass(unsafe, headers, certificate, code):
    """A credential that is there is checked all the same: whoever sends one means it."""
    limits = RateLimits(dict.fromkeys(RouteClass, DEFAULT_LIMIT), make=lambda _route, limit: TokenBuckets(limit))
    endpoint = AdmissionEndpoint(
        Fails(FirewallError(Kind.UNAVAILABLE, "the ledger is away"), steps=3),
        gate=Gate(Refuses(), limits=limits, metrics=METRICS),
        view=ClusterView(),
        api_servers=(),
        max_body_bytes=100_000,
        timeout_seconds=30,
        unsafe_unauthenticated=unsafe,
    )

    async def connected(scope: Any, receive: Any, send: Any) -> None:
        await endpoint({**scope, PEER: Peer("10.0.0.1", certificate)}, receive, send)

    async def post() -> httpx.Response:
        transport = httpx.ASGITransport(connected)
        async with httpx.AsyncClient(transport=transport, base_url="http://test", headers=headers) as client:
            return await client.post("/kubernetes/v1/validate", json=EXAMPLE)

    answer = asyncio.run(post())
    assert answer.status_code == code
    if code == 200:
        assert status_of(answer)["code"] == 503


def test_who_lets_that_pass_is_warned():
    with pytest.warns(RuntimeWarning, match="answered whoever sends them"):
        AdmissionEndpoint(
            Fails(None, steps=0),
            gate=None,  # type: ignore[arg-type]  # nobody asks
            view=ClusterView(),
            api_servers=(),
            max_body_bytes=1,
            timeout_seconds=1,
            unsafe_unauthenticated=True,
        )
