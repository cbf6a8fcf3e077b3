"""Spans of the decision path and of FastAPI, only for what is sampled; and nothing imported while tracing is off."""

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from app.observability.traces import Traces, start_traces

TRACE = "0af7651916cd43dd8448eb211c80319c"
SCOPE: dict[str, Any] = {"type": "http", "method": "POST", "path": "/v1/decisions", "headers": []}


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def traces(exporter: InMemorySpanExporter) -> Iterator[Traces]:
    made = start_traces(endpoint="http://127.0.0.1:9/v1/traces", sample_ratio=0.5, version="0", exporter=exporter)
    yield made
    made.stop()


def answering(status: int) -> Any:
    async def endpoint(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    return endpoint


async def run(app: Any, *headers: tuple[bytes, bytes]) -> list[Any]:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    await app(SCOPE | {"headers": list(headers)}, None, send)
    return sent


async def test_a_sampled_decision_is_one_span(traces: Traces, exporter: InMemorySpanExporter) -> None:
    app = traces.around(answering(200), name="POST /v1/decisions", draw=lambda: 0.49)
    assert [message["type"] for message in await run(app)] == ["http.response.start", "http.response.body"]
    traces.stop()
    (span,) = exporter.get_finished_spans()
    assert span.name == "POST /v1/decisions"
    assert dict(span.attributes or {}) == {
        "http.request.method": "POST",
        "url.path": "/v1/decisions",
        "http.response.status_code": 200,
    }
    assert span.resource.attributes["service.name"] == "mutation-firewall"


async def test_one_that_is_not_sampled_is_none(traces: Traces, exporter: InMemorySpanExporter) -> None:
    app = traces.around(answering(200), name="n", draw=lambda: 0.5)
    assert len(await run(app)) == 2
    traces.stop()
    assert exporter.get_finished_spans() == ()


@pytest.mark.parametrize(("flags", "spans"), [("01", 1), ("00", 0), ("03", 1)])
async def test_the_caller_decides_if_it_traces(
    traces: Traces, exporter: InMemorySpanExporter, flags: str, spans: int
) -> None:
    app = traces.around(answering(200), name="n", draw=lambda: 0.0)
    await run(app, (b"host", b"h"), (b"traceparent", f"00-{TRACE}-b7ad6b7169203331-{flags}".encode()))
    traces.stop()
    finished = exporter.get_finished_spans()
    assert [f"{span.context.trace_id:032x}" for span in finished if span.context] == [TRACE] * spans


async def test_a_failure_of_ours_marks_the_span(traces: Traces, exporter: InMemorySpanExporter) -> None:
    await run(traces.around(answering(503), name="n", draw=lambda: 0.0))
    traces.stop()
    assert exporter.get_finished_spans()[0].status.status_code is StatusCode.ERROR


async def test_the_routes_of_fastapi_are_traced_and_health_is_not(exporter: InMemorySpanExporter) -> None:
    traces = start_traces(endpoint="http://127.0.0.1:9/v1/traces", sample_ratio=1, version="0", exporter=exporter)
    api = FastAPI()

    @api.get("/thing")
    async def thing() -> str:
        return "x"

    @api.get("/health/live")
    async def live() -> str:
        return "x"

    traces.instrument(api)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://firewall") as client:
        await client.get("/thing")
        await client.get("/health/live")
    traces.stop()
    assert [span.name for span in exporter.get_finished_spans()] == ["GET /thing"]


def test_nothing_of_it_is_imported_while_tracing_is_off() -> None:
    code = "import sys, app.observability.traces; sys.exit(any(n.startswith('opentelemetry') for n in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
