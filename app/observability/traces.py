"""OpenTelemetry, only where an endpoint is set: nothing of it is imported without one (16 MB, 0.3 s)."""

import random
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from fastapi import FastAPI
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Tracer

SERVICE_NAME: Final = "mutation-firewall"

# As in ASGI; this layer knows the interface but no framework.
_App = Callable[[Any, Any, Any], Awaitable[None]]


class Traces:
    """Tracing that is on: the FastAPI routes, asyncpg, and the decision path with spans of its own.

    Made by `start_traces`. The FastAPI instrumentation costs 165 us for a request even if it is not sampled; the
    decision path draws first, and a request that is not sampled pays for the draw alone.
    """

    def __init__(self, *, tracer: "Tracer", provider: Any, sample_ratio: float, stop: Callable[[], None]) -> None:
        self._tracer = tracer
        self._provider = provider
        self._sample_ratio = sample_ratio
        self._stop = stop

    def instrument(self, app: "FastAPI") -> None:
        """Trace the routes of a FastAPI application; call it before the first request."""
        from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor

        FastAPIInstrumentor.instrument_app(
            app, tracer_provider=self._provider, excluded_urls="/health", exclude_spans=["receive", "send"]
        )

    def around(self, endpoint: _App, *, name: str, draw: Callable[[], float] = random.random) -> _App:
        """An ASGI endpoint with one span per sampled request; a caller's sampled `traceparent` is always followed."""
        from opentelemetry.trace import SpanKind, StatusCode
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        propagator = TraceContextTextMapPropagator()
        tracer, ratio = self._tracer, self._sample_ratio

        async def traced(scope: Any, receive: Any, send: Any) -> None:
            parent: bytes | None = None
            for header, value in scope["headers"]:
                if header == b"traceparent":
                    parent = value
            sampled = parent[-1:] in b"13579bdf" if parent else draw() < ratio
            if not sampled:
                await endpoint(scope, receive, send)
                return
            context = propagator.extract({"traceparent": parent.decode("latin-1")}) if parent else None
            attributes = {"http.request.method": scope["method"], "url.path": scope["path"]}
            with tracer.start_as_current_span(name, context, SpanKind.SERVER, attributes) as span:

                async def send_on(message: Any) -> None:
                    if message["type"] == "http.response.start":
                        span.set_attribute("http.response.status_code", message["status"])
                        if message["status"] >= 500:
                            span.set_status(StatusCode.ERROR)
                    await send(message)

                await endpoint(scope, receive, send_on)

        return traced

    def stop(self) -> None:
        """Send what waits, for at most five seconds, and take the instrumentation of asyncpg back."""
        self._stop()


def start_traces(*, endpoint: str, sample_ratio: float, version: str, exporter: "SpanExporter | None" = None) -> Traces:
    """Turn tracing on; `endpoint` is an OTLP-over-HTTP URL such as `http://collector:4318/v1/traces`.

    `exporter` takes the place of OTLP. Call it in the process that serves: its thread does not survive a fork.
    """
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.instrumentation.asyncpg import AsyncPGInstrumentor
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased, TraceIdRatioBased

    resource = Resource.create({"service.name": SERVICE_NAME, "service.version": version})
    processor: Any = BatchSpanProcessor(exporter or OTLPSpanExporter(endpoint=endpoint, timeout=5))
    provider = TracerProvider(resource=resource, sampler=ParentBased(TraceIdRatioBased(sample_ratio)))
    provider.add_span_processor(processor)
    # The decision path has drawn before it makes a span: drawing again would sample the square of the ratio.
    drawn = TracerProvider(resource=resource, sampler=ALWAYS_ON)
    drawn.add_span_processor(processor)
    # Statements only, never their parameters: those are people's mutations.
    instrumentor: Any = AsyncPGInstrumentor(capture_parameters=False)  # type: ignore[no-untyped-call]  # it has no types
    instrumentor.instrument(tracer_provider=provider)

    def stop() -> None:
        instrumentor.uninstrument()
        processor.force_flush(5_000)
        processor.shutdown()

    return Traces(
        tracer=drawn.get_tracer(SERVICE_NAME, version), provider=provider, sample_ratio=sample_ratio, stop=stop
    )
