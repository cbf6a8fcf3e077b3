"""The endpoint of batches where the service or the client fails; tests/integration has the answers themselves."""

import asyncio
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from app.core.principal import AuthMethod, Principal, PrincipalKind, Role
from app.core.quota import Limit, RouteClass
from app.edge.body import ClientDisconnectedError
from app.edge.context import ContextMiddleware
from app.edge.gate import Gate
from app.edge.limits import RateLimits, TokenBuckets
from app.edge.peer import Peer
from app.errors import FirewallError, Kind
from app.observability.metrics import Metrics
from app.service.decide import BatchExchange
from app.surfaces.native.batch import AT_ONCE, PATH, BatchEndpoint, batch_router
from app.surfaces.problems import install_problem_handlers, internal_problem, problem

METRICS = Metrics(version="0")
WHO = Principal("ci", PrincipalKind.AGENT, frozenset({Role.AGENT}), AuthMethod.API_KEY)


class Anybody:
    async def authenticate(self, _headers: Any, *, client_ip: str, peer: Peer | None = None) -> Principal:
        return WHO


class Steps:
    """The order of the design, without a core: every mutation is refused."""

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self.hold: asyncio.Event | None = None
        self.inside = 0

    async def decide_batch(self, exchange: BatchExchange) -> bytes:
        principal = await exchange.authenticate()
        await exchange.limit(principal, 1)
        body = await exchange.read()
        self.inside += 1
        if self.hold is not None:
            await self.hold.wait()
        if self.error is not None:
            raise self.error
        batch = await exchange.parse(body)
        await exchange.limit(principal, len(batch.items) - 1)
        return exchange.render([item for item in batch.items if isinstance(item, FirewallError)])


class Service:
    def __init__(self, *, burst: int = 50, timeout_seconds: float = 30) -> None:
        self.steps = Steps()
        limits = RateLimits(
            {RouteClass.BATCH: Limit(250, burst)}, make=lambda _, limit: TokenBuckets(limit, clock_ns=lambda: 0)
        )
        self.endpoint = BatchEndpoint(
            self.steps,
            gate=Gate(Anybody(), limits=limits, metrics=METRICS),
            max_body_bytes=2000,
            timeout_seconds=timeout_seconds,
        )
        self.api = FastAPI(title="t", version="0")
        self.api.include_router(batch_router(self.endpoint))
        install_problem_handlers(self.api)

    async def ask(self, count: int = 2) -> httpx.Response:
        around = ContextMiddleware(
            self.api, metrics=METRICS, problem=problem, internal_problem=internal_problem, log=None
        )
        transport = httpx.ASGITransport(around, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://firewall") as client:
            return await client.post(PATH, json={"mutations": [{}] * count})


async def test_every_refusal_points_into_the_batch() -> None:
    answer = await Service().ask()
    assert answer.status_code == 200
    assert answer.json()["summary"] == {"allow": 0, "deny": 0, "hold": 0, "refused": 2}
    assert [one["pointer"] for one in answer.json()["results"]] == ["/mutations/0/subject", "/mutations/1/subject"]
    assert answer.headers["ratelimit"] == '"default";r=48;t=1'


@pytest.mark.parametrize(
    ("error", "status"), [(FirewallError(Kind.UNAVAILABLE, "not now", retry_after=2), 503), (TimeoutError(), 504)]
)
async def test_a_failure_is_a_problem(error: BaseException, status: int) -> None:
    service = Service()
    service.steps.error = error
    answer = await service.ask()
    assert answer.status_code == status
    assert answer.headers["retry-after"]
    # Whatever happened, the place is free again.
    assert not service.endpoint.slots.locked()


async def test_a_client_that_leaves_is_not_answered() -> None:
    service = Service()
    service.steps.error = ClientDisconnectedError()
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"{}", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"content-type", b"application/json")]
    await service.endpoint({"type": "http", "method": "POST", "path": PATH, "headers": headers}, receive, send)
    assert sent == []


async def test_one_more_than_there_is_room_for_waits() -> None:
    service = Service()
    service.steps.hold = asyncio.Event()
    asked = [asyncio.create_task(service.ask()) for _ in range(AT_ONCE + 1)]
    while service.steps.inside < AT_ONCE:
        await asyncio.sleep(0)
    for _ in range(100):
        await asyncio.sleep(0)
    assert service.steps.inside == AT_ONCE
    service.steps.hold.set()
    assert [answer.status_code for answer in await asyncio.gather(*asked)] == [200] * (AT_ONCE + 1)


async def test_a_bucket_that_has_too_little() -> None:
    service = Service(burst=5)
    assert (await service.ask(4)).status_code == 200
    assert (await service.ask(2)).status_code == 429
    larger = await Service(burst=5).ask(6)
    assert (larger.status_code, larger.json()["pointer"]) == (413, "/mutations")
    assert (await Service(burst=1).ask(2)).status_code == 413
    assert (await Service(burst=1).ask(1)).status_code == 200
