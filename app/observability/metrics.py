"""What is counted. Every child exists from the start, so that a ratio without errors is 0 and not absent."""

import threading
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, disable_created_metrics
from prometheus_client.exposition import start_http_server
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from app.core.principal import AuthMethod
from app.core.types import Effect
from app.errors import FirewallError, Kind

OTHER: Final = "other"

# Method and route of everything that is served: a label has these values and `other`, whatever is asked for.
ROUTES: Final = (
    ("POST", "/v1/decisions"),
    ("GET", "/health"),
    ("GET", "/health/live"),
    ("GET", "/health/ready"),
    ("GET", "/health/startup"),
    ("GET", "/health/detailed"),
    ("GET", "/openapi.json"),
    ("GET", "/docs"),
)

# Every status that the API document names; 499 stands for a client that left before it could be answered.
CODES: Final = (200, 400, 401, 403, 404, 405, 409, 413, 415, 429, 499, 500, 503, 504)

# Seconds. A decision takes 0.7 ms alone and about 5 ms under load; 30 s is the longest that a request may take.
REQUEST_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
QUERY_BUCKETS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0)


class AuthResult(StrEnum):
    """How an attempt to authenticate ended."""

    SUCCESS = "success"
    FAILURE = "failure"
    EXPIRED = "expired"
    LIMITED = "limited"
    UNAVAILABLE = "unavailable"


class LimitScope(StrEnum):
    """Which bucket was empty."""

    PRINCIPAL = "principal"
    ADDRESS = "address"


class DbErrorKind(StrEnum):
    """How a database operation failed."""

    CONNECTION = "connection"
    TIMEOUT = "timeout"
    CONFLICT = "conflict"
    BREAKER_OPEN = "breaker_open"
    OTHER = "other"


class DbOperation(StrEnum):
    """What was asked of the database."""

    APPEND = "append"
    LOAD_KEYS = "load_keys"
    REVISION = "revision"
    PING = "ping"
    POLICY_SETS = "policy_sets"
    OTHER = "other"


class Metrics:
    """All metrics of one process, in a registry of their own.

    A child looked up by its labels costs 11 us, a kept one 1 us: the ones of the request path are plain attributes and
    dictionaries of ready children.
    """

    def __init__(self, *, version: str, routes: Iterable[tuple[str, str]] = ROUTES) -> None:
        # A `_created` series beside each counter doubles every scrape, and nothing of ours reads them.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # it has no types
        registry = self.registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
        Info("mfw_build", "the version that runs", registry=registry).info({"version": version})

        self._requests = Counter("mfw_requests", "requests answered", ("route", "method", "code"), registry=registry)
        self._durations = Histogram(
            "mfw_request_duration_seconds",
            "from the first look at a request to the last byte of its answer",
            ("route",),
            buckets=REQUEST_BUCKETS,
            registry=registry,
        )
        routes = tuple(routes)
        self._methods: Mapping[str, str] = {path: method for method, path in routes}
        self._requests_by: dict[tuple[str, str, int], Counter] = {}
        for method, path in (*routes, (OTHER, OTHER)):
            for code in CODES:
                self._requests_by[path, method, code] = self._requests.labels(path, method, str(code))
        self._durations_by: Mapping[str, Histogram] = {
            path: self._durations.labels(path) for path in (*self._methods, OTHER)
        }

        decisions = Counter("mfw_decisions", "decisions recorded in the ledger", ("effect",), registry=registry)
        self.decisions: Mapping[Effect, Counter] = {effect: decisions.labels(effect) for effect in Effect}

        attempts = Counter("mfw_auth_attempts", "attempts to authenticate", ("method", "result"), registry=registry)
        self.auth_attempts: Mapping[tuple[AuthMethod, AuthResult], Counter] = {
            (method, result): attempts.labels(method, result) for method in AuthMethod for result in AuthResult
        }

        rejections = Counter("mfw_rate_limit_rejections", "requests refused with 429", ("scope",), registry=registry)
        self.rate_limit_rejections: Mapping[LimitScope, Counter] = {
            scope: rejections.labels(scope) for scope in LimitScope
        }

        db_errors = Counter("mfw_db_errors", "database operations that failed", ("kind",), registry=registry)
        self.db_errors: Mapping[DbErrorKind, Counter] = {kind: db_errors.labels(kind) for kind in DbErrorKind}
        queries = Histogram(
            "mfw_db_query_duration_seconds",
            "database operations, their wait for a connection included",
            ("operation",),
            buckets=QUERY_BUCKETS,
            registry=registry,
        )
        self.db_query_duration: Mapping[DbOperation, Histogram] = {
            operation: queries.labels(operation) for operation in DbOperation
        }

        self.ready = Gauge("mfw_ready", "1 while this process takes requests", registry=registry)
        self.log_events_dropped = Counter(
            "mfw_log_events_dropped", "log events lost because standard error was blocked", registry=registry
        )
        self._policy_set = Info("mfw_policy_set", "the policy set in force", registry=registry)

    def route_of(self, path: str) -> str:
        """The route's label: the path if it is one of ours, else `other`."""
        return path if path in self._durations_by else OTHER

    def observe_request(self, route: str, method: str, code: int, seconds: float) -> None:
        """Count one request; a route, method or code that is not in the tables is counted as the nearest that is."""
        child = self._requests_by.get((route, method, code))
        if child is None:
            child = self._requests_by[self._nearest(route, code)]
        child.inc()
        self._durations_by.get(route, self._durations_by[OTHER]).observe(seconds)

    def show_policy_set(self, digest: str, *, policies: int, rules: int) -> None:
        """Say which policy set is in force."""
        self._policy_set.info({"digest": digest, "policies": str(policies), "rules": str(rules)})

    def _nearest(self, route: str, code: int) -> tuple[str, str, int]:
        # A known route with the wrong method is a 405 of that route; its method label stays the route's own.
        own_method = self._methods.get(route, OTHER)
        return (
            route if route in self._methods else OTHER,
            own_method,
            code if code in CODES else max(known for known in CODES if known <= max(code, CODES[0])),
        )


def serve_metrics(metrics: Metrics, *, host: str, port: int) -> tuple[int, Callable[[], None]]:
    """Serve `/metrics` on a port of its own, in a thread; returns the port and a function that stops the server.

    Raises FirewallError(INVALID_SETTINGS) when the address cannot be bound.
    """
    try:
        server, thread = start_http_server(port, addr=host, registry=metrics.registry)
    except (OSError, OverflowError) as error:
        raise FirewallError(
            Kind.INVALID_SETTINGS,
            f"the metrics cannot be served on `{host}:{port}`: {error}",
            fix="set MFW_METRICS__HOST and MFW_METRICS__PORT to an address of this machine that is free",
        ) from error

    def stop() -> None:
        server.shutdown()
        server.server_close()
        _join(thread)

    return server.server_port, stop


def _join(thread: threading.Thread) -> None:
    thread.join(timeout=5)
