"""What each of the five answers says, to whom, and what it costs."""

import asyncio
import logging
from hashlib import sha256
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import httpx
import pytest
from fastapi import FastAPI

from app.core.api_key import generate
from app.core.quota import DEFAULT_LIMIT, Limit, RouteClass
from app.edge.authn import ApiKeyRing, Authenticator, FailedAttempts
from app.edge.gate import Gate
from app.edge.limits import RateLimits, TokenBuckets
from app.errors import FirewallError, Kind
from app.observability.metrics import Metrics
from app.surfaces.ops.health import CheckResult, Health, Report, Status, health_router
from app.surfaces.problems import install_problem_handlers

KEYS = {role: generate(bytes([number]) * 32) for number, role in enumerate(["operator", "admin", "agent"])}
METRICS = Metrics(version="0")


class Check:
    def __init__(self, name: str, result: Any = Status.HEALTHY) -> None:
        self.name = name
        self.result = result
        self.asked = 0

    async def __call__(self) -> CheckResult:
        self.asked += 1
        if isinstance(self.result, BaseException):
            raise self.result
        if isinstance(self.result, asyncio.Event):
            await self.result.wait()
            return CheckResult(Status.HEALTHY)
        return CheckResult(self.result, f"{self.name} says {self.result}")


async def load() -> list[Any]:
    return [
        SimpleNamespace(
            id=uuid4(),
            hash=sha256(key.encode()).digest(),
            principal_id=role,
            roles=[role],
            scopes=[],
            subjects=[],
            networks=[],
            expires_at=None,
        )
        for role, key in KEYS.items()
    ]


class Service:
    def __init__(self, *checks: Check, started: bool = True, **options: Any) -> None:
        self.now = 100.0
        self.told: list[bool] = []
        self.health = Health(checks, version="1.2.3", monotonic=lambda: self.now, found=self.tell, **options)
        self.health.started = started
        authenticator = Authenticator(
            api_keys=ApiKeyRing(load), jwt=None, failures=FailedAttempts(DEFAULT_LIMIT), metrics=METRICS
        )
        limits = RateLimits({RouteClass.READ: Limit(60, 5)}, make=lambda _, limit: TokenBuckets(limit))
        gate = Gate(authenticator, limits=limits, metrics=METRICS)
        self.api = FastAPI()
        self.api.include_router(health_router(self.health, gate=gate))
        install_problem_handlers(self.api)

    def tell(self, report: Report, ready: bool) -> None:
        assert ready == self.health.ready(report)
        self.told.append(ready)

    async def get(self, path: str, *, role: str | None = None) -> tuple[int, Any]:
        headers = {} if role is None else {"x-api-key": KEYS[role]}
        transport = httpx.ASGITransport(self.api)
        async with httpx.AsyncClient(transport=transport, base_url="http://firewall", headers=headers) as client:
            response = await client.get(path)
        return response.status_code, response.json()


async def test_all_is_well() -> None:
    service = Service(Check("database"), Check("ledger"))
    assert await service.get("/health") == (200, {"status": "healthy", "version": "1.2.3"})
    assert await service.get("/health/ready") == (200, {"ready": True, "reasons": []})
    assert await service.get("/health/live") == (200, {"status": "alive"})
    assert await service.get("/health/startup") == (200, {"status": "started"})
    assert service.told == [True, True]


async def test_a_dependency_that_is_gone_ends_readiness_and_not_life() -> None:
    service = Service(Check("database", Status.UNHEALTHY), Check("ledger"))
    assert await service.get("/health") == (503, {"status": "unhealthy", "version": "1.2.3"})
    assert await service.get("/health/ready") == (503, {"ready": False, "reasons": ["database is unhealthy"]})
    assert (await service.get("/health/live"))[0] == 200
    assert (await service.get("/health/startup"))[0] == 200
    assert service.told[-1] is False


async def test_degraded_still_serves() -> None:
    service = Service(Check("database"), Check("redis", Status.DEGRADED))
    assert await service.get("/health") == (200, {"status": "degraded", "version": "1.2.3"})
    assert (await service.get("/health/ready"))[0] == 200


async def test_life_asks_nobody() -> None:
    database = Check("database")
    service = Service(database)
    await service.get("/health/live")
    await service.get("/health/startup")
    assert database.asked == 0


async def test_before_the_start_and_while_draining_it_is_not_ready() -> None:
    service = Service(Check("database"), started=False)
    assert await service.get("/health/startup") == (503, {"status": "starting"})
    assert await service.get("/health/ready") == (503, {"ready": False, "reasons": ["starting"]})
    service.health.started = service.health.draining = True
    assert await service.get("/health/ready") == (503, {"ready": False, "reasons": ["shutting down"]})
    assert (await service.get("/health/startup"))[0] == 200


async def test_a_report_is_shared_for_a_second() -> None:
    database = Check("database")
    service = Service(database)
    await asyncio.gather(*(service.get("/health") for _ in range(20)))
    assert database.asked == 1
    service.now += 1
    await service.get("/health/ready")
    assert database.asked == 2


async def test_checks_run_side_by_side_and_each_within_its_time() -> None:
    opened = asyncio.Event()

    class Opens(Check):
        async def __call__(self) -> CheckResult:
            opened.set()
            return await super().__call__()

    # The first can only end because the second runs meanwhile.
    service = Service(Check("waits", opened), Opens("opens"))
    assert (await service.get("/health"))[0] == 200
    service = Service(Check("stuck", asyncio.Event()), Check("database"), timeout_seconds=0)
    status, body = await service.get("/health/detailed", role="operator")
    assert status == 200
    assert body["components"]["stuck"] == {
        "status": "unhealthy",
        "latency_ms": 0.0,
        "detail": "no answer within 0 s",
    }


@pytest.mark.parametrize("role", ["operator", "admin"])
async def test_an_operator_sees_every_component(role: str, caplog: pytest.LogCaptureFixture) -> None:
    away = FirewallError(Kind.UNAVAILABLE, "database is away", fix="start it")
    service = Service(
        Check("database", away), Check("ledger"), Check("odd", RuntimeError("postgresql://u:p@host refused"))
    )
    with caplog.at_level(logging.ERROR):
        status, body = await service.get("/health/detailed", role=role)
    assert status == 200
    assert (body["status"], body["version"], body["ready"]) == ("unhealthy", "1.2.3", False)
    assert body["components"] == {
        "database": {"status": "unhealthy", "latency_ms": 0.0, "detail": "database is away; start it"},
        "ledger": {"status": "healthy", "latency_ms": 0.0, "detail": "ledger says healthy"},
        "odd": {"status": "unhealthy", "latency_ms": 0.0, "detail": "RuntimeError"},
    }
    assert len(caplog.records) == 1


async def test_details_are_not_for_everybody() -> None:
    service = Service(Check("database"))
    status, body = await service.get("/health/detailed")
    assert (status, body["type"]) == (401, "https://mutationfirewall.io/problems/unauthenticated")
    status, body = await service.get("/health/detailed", role="agent")
    assert (status, body["detail"]) == (403, "scope `ops` is needed")


async def test_without_checks_it_is_healthy_and_nobody_need_be_told() -> None:
    health = Health([], version="0")
    assert (await health.report()).status is Status.HEALTHY


async def test_somebody_looks_even_where_nobody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.surfaces.ops.health.WATCH_SECONDS", 0)
    database = Check("database")
    service = Service(database)
    watching = asyncio.create_task(service.health.watch())
    async with asyncio.timeout(60):
        while len(service.told) < 3:
            await asyncio.sleep(0)
            service.now += 1  # a report is kept for a second
            database.result = Status.UNHEALTHY
    watching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await watching
    assert service.told[-1] is False
    assert service.health.components == ("database",)
