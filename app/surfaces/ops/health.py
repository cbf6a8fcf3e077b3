"""Whether this process lives, may be sent requests, has started; and, for operators, what exactly is wrong."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any, Final, NamedTuple, Protocol

import orjson
from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.responses import Response

from app.core.principal import AccessScope
from app.core.quota import RouteClass
from app.edge.gate import Gate
from app.errors import FirewallError
from app.surfaces.openapi import SECURITY, problem_responses

# The usual limit of a probe is three seconds; this leaves time to read the answer.
CHECK_TIMEOUT_SECONDS: Final = 2.0

# Metrics and alerts have to know even where nobody asks: a plain process has no probes.
WATCH_SECONDS: Final = 5.0

# Anybody may ask for health, and each report costs a query: it is made at most once in this time.
REPORT_SECONDS: Final = 1.0

_log: Final = logging.getLogger("mfw.health")


class Status(StrEnum):
    """How well a component, or all of them together, do."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"  # works, but not as it should; requests are still taken
    UNHEALTHY = "unhealthy"  # requests cannot be answered


class CheckResult(NamedTuple):
    """What one check found; `detail` is for operators and holds no secret."""

    status: Status
    detail: str = ""


class Check(Protocol):
    """One component's check. It may raise: that is unhealthy, with the error's own words."""

    @property
    def name(self) -> str:
        """What is checked, in lower case."""

    async def __call__(self) -> CheckResult:
        """Look at the component now."""


class Component(NamedTuple):
    """A check's result, and how long it took in milliseconds."""

    name: str
    status: Status
    latency_ms: float
    detail: str


class Report(NamedTuple):
    """All components at one moment."""

    status: Status
    components: tuple[Component, ...]


class Health:
    """What the process knows about itself. `started` and `draining` are set by whoever starts and stops it.

    Checks run side by side, each within its time; their report is kept for a second and shared by all who ask.
    """

    def __init__(
        self,
        checks: Sequence[Check],
        *,
        version: str,
        timeout_seconds: float = CHECK_TIMEOUT_SECONDS,
        monotonic: Callable[[], float] = time.monotonic,
        found: Callable[["Report", bool], None] | None = None,
    ) -> None:
        """`found` is told each report, and whether requests should be sent here, as for gauges."""
        self.started = False
        self.draining = False
        self.version = version
        self._checks = tuple(checks)
        self._timeout = timeout_seconds
        self._monotonic = monotonic
        self._found = found
        self._report: Report | None = None
        self._reported_at = float("-inf")
        self._reporting = asyncio.Lock()

    async def report(self) -> Report:
        """The components as they were at most a second ago."""
        async with self._reporting:
            if self._report is None or self._monotonic() - self._reported_at >= REPORT_SECONDS:
                components = tuple(await asyncio.gather(*(self._run(check) for check in self._checks)))
                statuses = {component.status for component in components}
                worst = next((s for s in (Status.UNHEALTHY, Status.DEGRADED) if s in statuses), Status.HEALTHY)
                self._report = Report(worst, components)
                self._reported_at = self._monotonic()
            report = self._report
        if self._found is not None:
            self._found(report, self.ready(report))
        return report

    async def watch(self) -> None:
        """Look again and again, until it is cancelled."""
        while True:
            await self.report()
            await asyncio.sleep(WATCH_SECONDS)

    @property
    def components(self) -> tuple[str, ...]:
        """What is checked."""
        return tuple(check.name for check in self._checks)

    def ready(self, report: Report) -> bool:
        """Whether requests should be sent here."""
        return self.started and not self.draining and report.status is not Status.UNHEALTHY

    async def _run(self, check: Check) -> Component:
        began = self._monotonic()
        try:
            async with asyncio.timeout(self._timeout):
                status, detail = await check()
        except TimeoutError:
            status, detail = Status.UNHEALTHY, f"no answer within {self._timeout:g} s"
        except FirewallError as error:
            status, detail = Status.UNHEALTHY, str(error)
        except Exception as error:  # noqa: BLE001 - a check may fail in any way; health must answer all the same
            # An error's text may hold an address or a statement: it goes to the log, its type to the operator.
            _log.exception("health check failed", extra={"fields": {"check": check.name}})
            status, detail = Status.UNHEALTHY, type(error).__name__
        return Component(check.name, status, round((self._monotonic() - began) * 1000, 3), detail)


class Liveness(BaseModel):
    """The event loop turns."""

    status: str


class Summary(BaseModel):
    """How the service does."""

    status: Status
    version: str


class Readiness(BaseModel):
    """Whether requests should be sent here, and what speaks against it."""

    ready: bool
    reasons: list[str]


class ComponentOut(BaseModel):
    """One component."""

    status: Status
    latency_ms: float
    detail: str


class Detailed(BaseModel):
    """Every component."""

    status: Status
    version: str
    ready: bool
    components: dict[str, ComponentOut]


def health_router(health: Health, *, gate: Gate) -> APIRouter:
    """`/health` and its parts. All but `/health/detailed` answer anybody, and therefore say no more than they must."""
    router = APIRouter(tags=["health"])

    @router.get("/health", responses=_answers(Summary), summary="How the service does", operation_id="health")
    async def summary() -> Response:
        """200 while requests can be answered, even if degraded; 503 when not."""
        report = await health.report()
        return _json({"status": report.status, "version": health.version}, ok=report.status is not Status.UNHEALTHY)

    @router.get("/health/live", responses={200: {"model": Liveness}}, summary="Alive", operation_id="health_live")
    async def live() -> Response:
        """200 as long as the event loop turns. Touches no dependency: a restart would not bring one back."""
        return _json({"status": "alive"}, ok=True)

    @router.get("/health/ready", responses=_answers(Readiness), summary="Ready", operation_id="health_ready")
    async def ready() -> Response:
        """200 if requests should be sent here, 503 while starting, draining or without a dependency."""
        report = await health.report()
        is_ready = health.ready(report)
        reasons = [f"{c.name} is unhealthy" for c in report.components if c.status is Status.UNHEALTHY]
        if health.draining:
            reasons.insert(0, "shutting down")
        elif not health.started:
            reasons.insert(0, "starting")
        return _json({"ready": is_ready, "reasons": reasons}, ok=is_ready)

    @router.get("/health/startup", responses=_answers(Liveness), summary="Started", operation_id="health_startup")
    async def startup() -> Response:
        """200 once the service has started, for good; 503 before."""
        return _json({"status": "started" if health.started else "starting"}, ok=health.started)

    @router.get(
        "/health/detailed",
        responses={200: {"model": Detailed}, **problem_responses(400, 401, 403, 429, 503)},
        summary="Every component",
        operation_id="health_detailed",
        openapi_extra={"security": SECURITY},
    )
    async def detailed(request: Request) -> Response:
        """Status, latency and detail of each component; needs the scope `ops`."""
        await gate.admit(request.scope, RouteClass.READ, AccessScope.OPS)
        report = await health.report()
        components = {
            c.name: {"status": c.status, "latency_ms": c.latency_ms, "detail": c.detail} for c in report.components
        }
        # 200 whatever it says: the question was answered, and an operator's tool should show it, not fail on it.
        return _json(
            {
                "status": report.status,
                "version": health.version,
                "ready": health.ready(report),
                "components": components,
            },
            ok=True,
        )

    return router


def _answers(model: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    return {200: {"model": model}, 503: {"model": model, "description": "Not now."}}


def _json(value: dict[str, Any], *, ok: bool) -> Response:
    return Response(orjson.dumps(value), status_code=200 if ok else 503, media_type="application/json")
