"""`POST /v1/decisions` by both of its ways in, with a use case that takes the steps in their order."""

from hashlib import sha256
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import httpx
import orjson
import pytest
from fastapi import FastAPI
from starlette.types import ASGIApp

from app.core.api_key import generate
from app.core.quota import DEFAULT_LIMIT, Limit, RouteClass
from app.core.types import Effect, Reason
from app.edge.authn import ApiKeyRing, Authenticator, FailedAttempts
from app.edge.body import ClientDisconnectedError
from app.edge.context import ContextMiddleware
from app.edge.gate import Gate
from app.edge.limits import RateLimits, TokenBuckets
from app.errors import FirewallError, Kind
from app.observability.metrics import Metrics
from app.service.decide import Decision, Exchange
from app.surfaces.native.models import EXAMPLE_REQUEST
from app.surfaces.native.routes import PATH, DecisionEndpoint, HotPath, decisions_router
from app.surfaces.openapi import install_openapi
from app.surfaces.problems import install_problem_handlers, internal_problem, problem

KEY = generate(b"\x01" * 32)
VIEWER_KEY = generate(b"\x02" * 32)

DECISION = Decision(
    id=UUID("01980c3e-6f2a-7c11-9d0e-3a5b1c2d4e5f"),
    effect=Effect.DENY,
    reasons=(Reason("p", "r", Effect.DENY, "no"),),
    policy_set="sha256:" + "1f" * 32,
    mutation_digest="sha256:" + "2e" * 32,
    ledger_index=41,
    receipt_hash="sha256:" + "3d" * 32,
    decided_at="2026-01-31T09:30:00.000000Z",
    approval=None,
    request_id=None,
)


class Steps:
    """The order of the design, with a constant for the core and the ledger."""

    def __init__(self) -> None:
        self.decided = 0
        self.error: BaseException | None = None

    async def decide(self, exchange: Exchange) -> bytes:
        body = await exchange.read()
        principal = await exchange.authenticate()
        await exchange.limit(principal)
        exchange.parse(body)
        if self.error is not None:
            raise self.error
        self.decided += 1
        return exchange.render(DECISION)


async def load() -> list[Any]:
    return [
        SimpleNamespace(
            id=uuid4(),
            hash=sha256(key.encode()).digest(),
            principal_id=name,
            roles=[role],
            scopes=[],
            subjects=[],
            networks=[],
            expires_at=None,
        )
        for key, name, role in ((KEY, "ci", "agent"), (VIEWER_KEY, "audit", "viewer"))
    ]


METRICS = Metrics(version="0")


class Service:
    def __init__(self, *, burst: int = 50, timeout_seconds: float = 30) -> None:
        self.steps = Steps()
        authenticator = Authenticator(
            api_keys=ApiKeyRing(load), jwt=None, failures=FailedAttempts(DEFAULT_LIMIT), metrics=METRICS
        )
        limits = RateLimits(
            {RouteClass.DECIDE: Limit(250, burst)}, make=lambda _, limit: TokenBuckets(limit, clock_ns=lambda: 0)
        )
        self.endpoint = DecisionEndpoint(
            self.steps,
            gate=Gate(authenticator, limits=limits, metrics=METRICS),
            max_body_bytes=2000,
            timeout_seconds=timeout_seconds,
        )
        self.api = FastAPI(title="t", version="0", redirect_slashes=False)
        self.api.include_router(decisions_router(self.endpoint))
        install_problem_handlers(self.api)
        install_openapi(self.api)
        self.hot = HotPath(self.api, endpoints={PATH: self.endpoint})

    def app(self, way: str) -> ASGIApp:
        return self.hot if way == "hot" else self.api

    async def ask(self, way: str, **options: Any) -> httpx.Response:
        around = ContextMiddleware(
            self.app(way), metrics=METRICS, problem=problem, internal_problem=internal_problem, log=None
        )
        options = {"method": "POST", "url": PATH, "headers": {"authorization": f"Bearer {KEY}"}} | options
        if "content" not in options:
            options["json"] = options.get("json", EXAMPLE_REQUEST)
        transport = httpx.ASGITransport(around, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://firewall") as client:
            return await client.request(**options)


way = pytest.mark.parametrize("way", ["hot", "fastapi"])


def same(response: httpx.Response) -> tuple[int, dict[str, str], dict[str, Any]]:
    """What must not depend on the way in: everything but the request's own id."""
    headers = dict(response.headers)
    body = response.json()
    for holder in (headers, body):
        holder.pop("x-request-id", None)
        holder.pop("request_id", None)
    return response.status_code, headers, body


@way
async def test_a_decision_is_answered(way: str) -> None:
    service = Service()
    response = await service.ask(way)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert int(response.headers["content-length"]) == len(response.content)
    assert response.headers["ratelimit"] == '"default";r=49;t=1'
    assert response.headers["ratelimit-policy"] == '"default";q=50;w=12'
    assert response.headers["cache-control"] == "no-store"
    assert response.json()["decision"] == "deny"
    assert service.steps.decided == 1


REFUSALS: list[tuple[int, dict[str, Any]]] = [
    (400, {"content": b"", "headers": {"content-type": "application/json"}}),
    (400, {"content": b"{", "headers": {"authorization": f"Bearer {KEY}", "content-type": "application/json"}}),
    (400, {"json": {"subject": {}}}),
    (400, {"json": [EXAMPLE_REQUEST]}),
    (400, {"headers": {"authorization": f"Bearer {KEY}", "x-api-key": KEY}}),
    (401, {"headers": {}}),
    (401, {"headers": {"authorization": "Bearer nonsense"}}),
    (403, {"headers": {"x-api-key": VIEWER_KEY}}),
    (413, {"json": {"x": "y" * 2000}}),
    (415, {"content": b"{}", "headers": {"content-type": "text/plain"}}),
]


@pytest.mark.parametrize(("status", "options"), REFUSALS)
async def test_a_refusal_is_a_problem_and_the_same_by_both_ways(status: int, options: dict[str, Any]) -> None:
    hot, fastapi = Service(), Service()
    first, second = await hot.ask("hot", **options), await fastapi.ask("fastapi", **options)
    assert same(first) == same(second)
    assert first.status_code == status
    assert first.headers["content-type"] == "application/problem+json"
    assert first.json()["request_id"] == first.headers["x-request-id"]
    assert first.headers["ratelimit-policy"] == '"default";q=50;w=12'
    # What is left can only be told to who is known.
    assert ("ratelimit" in first.headers) == (
        status == 403 or ("pointer" in first.json() and options.get("content") != b"")
    )
    assert hot.steps.decided == fastapi.steps.decided == 0


@way
@pytest.mark.parametrize(
    ("kind", "status"), [(Kind.UNAVAILABLE, 503), (Kind.OVERLOADED, 503), (Kind.TIMEOUT, 504), (Kind.CONFLICT, 409)]
)
async def test_a_failure_of_the_use_case_is_a_problem(way: str, kind: Kind, status: int) -> None:
    service = Service()
    service.steps.error = FirewallError(kind, "not now", retry_after=2)
    response = await service.ask(way)
    assert response.status_code == status
    assert response.headers["retry-after"] == "2"
    assert response.headers["ratelimit"]


@way
async def test_the_bucket_of_a_principal_runs_empty(way: str) -> None:
    service = Service(burst=2)
    before = METRICS.registry.get_sample_value("mfw_rate_limit_rejections_total", {"scope": "principal"}) or 0
    statuses = [(await service.ask(way)).status_code for _ in range(2)]
    refused = await service.ask(way)
    assert statuses == [200, 200]
    assert refused.status_code == 429
    assert refused.headers["retry-after"] == "1"
    assert refused.headers["ratelimit"] == '"default";r=0;t=1'
    assert METRICS.registry.get_sample_value("mfw_rate_limit_rejections_total", {"scope": "principal"}) == before + 1
    # Another principal has a bucket of its own, and a missing role draws on it too.
    roles = [(await service.ask(way, headers={"x-api-key": VIEWER_KEY})).status_code for _ in range(3)]
    assert roles == [403, 403, 429]


@way
async def test_an_unknown_error_is_a_500_without_its_text(way: str, caplog: pytest.LogCaptureFixture) -> None:
    service = Service()
    service.steps.error = RuntimeError("the secret plan")
    response = await service.ask(way)
    assert response.status_code == 500
    assert response.headers["content-type"] == "application/problem+json"
    assert "secret plan" not in response.text
    assert len([record for record in caplog.records if record.exc_info]) == 1


@way
async def test_a_request_that_takes_too_long_is_a_504(way: str) -> None:
    service = Service(timeout_seconds=30)
    service.steps.error = TimeoutError()
    response = await service.ask(way)
    assert response.status_code == 504
    assert response.headers["retry-after"] == "1"


@way
async def test_a_client_that_leaves_with_its_body_half_sent_is_not_answered(way: str) -> None:
    service = Service()
    service.steps.error = ClientDisconnectedError()
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    app = service.app(way)
    headers = [(b"content-type", b"application/json")]
    await app({"type": "http", "method": "POST", "path": PATH, "headers": headers, "query_string": b""}, receive, send)
    assert sent == []


@way
async def test_a_client_that_is_gone_before_its_answer_is_no_error_and_the_decision_stands(way: str) -> None:
    service = Service()
    body = orjson.dumps(EXAMPLE_REQUEST)
    headers = [(b"content-type", b"application/json"), (b"x-api-key", KEY.encode())]

    async def receive() -> Any:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(_message: Any) -> None:
        raise ConnectionResetError

    app = service.app(way)
    await app({"type": "http", "method": "POST", "path": PATH, "headers": headers, "query_string": b""}, receive, send)
    assert service.steps.decided == 1


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"])
async def test_other_methods_are_refused_by_name(method: str) -> None:
    response = await Service().ask("hot", method=method)
    assert response.status_code == 405
    assert response.headers["allow"] == "POST"
    assert response.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("path", ["/v1/decisions/", "/v1/decision", "/v1/decisions/x", "/", "//v1/decisions"])
async def test_other_paths_are_not_found(path: str) -> None:
    response = await Service().ask("hot", url=f"http://firewall{path}")
    assert response.status_code == 404
    assert response.headers["content-type"] == "application/problem+json"


async def test_the_lifespan_belongs_to_fastapi() -> None:
    seen: list[Any] = []

    async def app(scope: Any, *_: Any) -> None:
        seen.append(scope["type"])

    service = Service()
    hot = HotPath(app, endpoints={PATH: service.endpoint})

    async def nothing(*_: Any) -> Any: ...

    await hot({"type": "lifespan"}, nothing, nothing)
    assert seen == ["lifespan"]


def test_the_document_names_every_answer() -> None:
    document = Service().api.openapi()
    operation = document["paths"][PATH]["post"]
    assert set(operation["responses"]) == {
        "200", "400", "401", "403", "409", "413", "415", "429", "500", "503", "504",
    }  # fmt: skip
    for status, response in operation["responses"].items():
        kind = "application/json" if status == "200" else "application/problem+json"
        assert list(response["content"]) == [kind]
        assert response["description"]
    assert operation["responses"]["401"]["headers"]["WWW-Authenticate"]
    assert operation["responses"]["429"]["headers"]["Retry-After"]
    assert operation["security"] == [{"bearer": []}, {"apiKey": []}]
    assert set(document["components"]["securitySchemes"]) == {"bearer", "apiKey", "gateway", "githubSignature"}
    body = operation["requestBody"]
    assert body["required"] is True
    assert body["content"]["application/json"]["example"] == EXAMPLE_REQUEST
    # Everything that is referred to is there, and nothing speaks of the 422 that is never sent.
    text = orjson.dumps(document).decode()
    assert "$defs" not in text
    assert "HTTPValidationError" not in text
    assert "Problem" in document["components"]["schemas"]
    assert Service().api.openapi() == document


def test_the_document_is_made_once() -> None:
    service = Service()
    assert service.api.openapi() is service.api.openapi()
