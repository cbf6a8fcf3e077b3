"""What is counted. Every child exists from the start, so that a ratio without errors is 0 and not absent."""

import math
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import StrEnum
from functools import partial
from itertools import accumulate
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Info, disable_created_metrics
from prometheus_client.exposition import start_http_server
from prometheus_client.gc_collector import GCCollector
from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from app.core.integrity import IntegrityCheck
from app.core.principal import AuthMethod
from app.core.switches import SwitchKind
from app.core.types import Effect, Mode
from app.errors import FirewallError, Kind

OTHER: Final = "other"

# Method and route of everything that is served: a label has these values and `other`, whatever is asked for.
ROUTES: Final = (
    # What is asked by no method that there is counts under the last one of its path.
    ("GET", "/v1/decisions"),
    ("POST", "/v1/decisions"),
    ("POST", "/v1/decisions:batch"),
    ("POST", "/access/v1/evaluation"),
    ("POST", "/access/v1/evaluations"),
    ("POST", "/access/v1/search/subject"),
    ("POST", "/access/v1/search/resource"),
    ("POST", "/access/v1/search/action"),
    ("GET", "/.well-known/authzen-configuration"),
    ("POST", "/kubernetes/v1/validate"),
    ("GET", "/envoy/v1/check/{path:path}"),
    ("POST", "/envoy/v1/check/{path:path}"),
    ("POST", "/agents/v1/claude-code"),
    ("POST", "/agents/v1/tool-call"),
    ("POST", "/agents/v1/mcp/check"),
    ("POST", "/github/v1/webhook"),
    ("GET", "/v1/decisions/{id}"),
    ("GET", "/v1/ledger/entries/{index}"),
    ("GET", "/v1/ledger/entries/{index}/proof"),
    ("GET", "/v1/ledger/consistency"),
    ("POST", "/v1/ledger/erasures"),
    ("POST", "/v1/policy-sets"),
    ("GET", "/v1/policy-sets"),
    ("GET", "/v1/policy-sets/active"),
    ("GET", "/v1/policy-sets/activations"),
    ("GET", "/v1/policy-sets/{digest}"),
    ("POST", "/v1/policy-sets/{digest}/activate"),
    ("GET", "/v1/policy-sets/{digest}/signatures"),
    ("POST", "/v1/policy-sets/{digest}/signatures"),
    ("GET", "/ledger/checkpoint"),
    ("GET", "/ledger/tile/{path:path}"),
    ("GET", "/v1/switches"),
    ("POST", "/v1/switches"),
    ("DELETE", "/v1/switches/{id}"),
    ("GET", "/v1/keys"),
    ("POST", "/v1/keys"),
    ("GET", "/v1/keys/{id}"),
    ("DELETE", "/v1/keys/{id}"),
    ("POST", "/v1/keys/{id}/rotate"),
    ("GET", "/v1/version"),
    ("GET", "/health"),
    ("GET", "/health/live"),
    ("GET", "/health/ready"),
    ("GET", "/health/startup"),
    ("GET", "/health/detailed"),
    ("GET", "/openapi.json"),
    ("GET", "/docs"),
)

# Every status that the API document names; 499 stands for a client that left before it could be answered.
CODES: Final = (200, 201, 304, 400, 401, 403, 404, 405, 406, 409, 413, 415, 422, 429, 499, 500, 503, 504)

# Refused for who asks, or for how often: late on purpose (app/edge/authn/failures.py), or before anything is looked at.
# How long that takes says nothing of how long answers take; whoever tries wrong keys would spend the budget of latency.
_UNTIMED: Final = frozenset({401, 429})

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
    BUDGETS = "budgets"
    SWITCHES = "switches"
    TREE = "tree"
    CHECKPOINT = "checkpoint"
    SEARCH = "search"
    ERASE = "erase"
    LEDGER_READ = "ledger_read"
    COSIGNATURES = "cosignatures"
    OTHER = "other"


# What requests are worth under load (app/edge/shedding.py).
PRIORITIES: Final = ("health", "decision", "batch", "other")


class PolicyFailure(StrEnum):
    """Why a replica did not take a policy set."""

    REFUSED = "refused"
    UNREADABLE = "unreadable"
    COPY = "copy"
    UNSIGNED = "unsigned"


class CanaryResult(StrEnum):
    """What became of the canary (app/cluster/canary.py); only the first is well."""

    DENIED = "denied"
    ALLOWED = "allowed"
    UNPROVEN = "unproven"  # denied by somebody else
    ERROR = "error"


# The services outside this cluster's own database and cache; failure mode 14 is about them.
EXTERNAL = ("jwks", "witness", "github")


class Tally:
    """One counter as a plain integer: the library's own takes a lock and a microsecond each time.

    For the thread of the event loop alone; the thread that answers a scrape only reads.
    """

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0

    def inc(self) -> None:
        """Count one."""
        self.value += 1


class Timing:
    """One histogram of seconds in plain numbers, under the same rule as `Tally`."""

    __slots__ = ("_bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, seconds: float) -> None:
        """Count one duration into its bucket; a bound belongs to the bucket that it ends."""
        self.counts[bisect_left(self._bounds, seconds)] += 1
        self.total += seconds

    def cumulative(self) -> list[tuple[str, float]]:
        """The buckets as Prometheus has them: each bound, and how many were not longer."""
        bounds = [*(str(bound) for bound in self._bounds), "+Inf"]
        return list(zip(bounds, accumulate(self.counts), strict=True))


class _Tallies(Collector):
    """Counters that differ in their labels."""

    def __init__(
        self, name: str, text: str, labels: tuple[str, ...], children: Mapping[tuple[str, ...], Tally]
    ) -> None:
        self._family = name, text, labels
        self._children = children

    def collect(self) -> Iterator[CounterMetricFamily]:
        """Read them all; called by a scrape."""
        name, text, labels = self._family
        family = CounterMetricFamily(name, text, labels=labels)
        for values, tally in self._children.items():
            family.add_metric(values, tally.value)
        yield family


class _Timings(Collector):
    """Histograms that differ in their label."""

    def __init__(self, name: str, text: str, label: str, children: Mapping[str, Timing]) -> None:
        self._family = name, text, label
        self._children = children

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """Read them all; called by a scrape."""
        name, text, label = self._family
        family = HistogramMetricFamily(name, text, labels=(label,))
        for value, timing in self._children.items():
            family.add_metric((value,), buckets=timing.cumulative(), sum_value=timing.total)
        yield family


class Metrics:
    """All metrics of one process, in a registry of their own.

    A child looked up by its labels costs 11 us, a kept one 1 us, one of our own 0.1 us: the request path counts in
    `Tally` and `Timing`, found in dictionaries that are complete from the start.
    """

    def __init__(self, *, version: str, routes: Iterable[tuple[str, str]] = ROUTES) -> None:
        # A `_created` series beside each counter doubles every scrape, and nothing of ours reads them.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # it has no types
        registry = self.registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
        Info("mfw_build", "the version that runs", registry=registry).info({"version": version})

        routes = tuple(routes)
        self._methods: Mapping[str, str] = {path: method for method, path in routes}
        self._requests: Mapping[tuple[str, str, int], Tally] = {
            (path, method, code): Tally() for method, path in (*routes, (OTHER, OTHER)) for code in CODES
        }
        self._durations: Mapping[str, Timing] = {path: Timing(REQUEST_BUCKETS) for path in (*self._methods, OTHER)}
        self.decisions: Mapping[Effect, Tally] = {effect: Tally() for effect in Effect}
        self.budgets_exhausted: Mapping[Mode, Tally] = {mode: Tally() for mode in Mode}
        self.auth_attempts: Mapping[tuple[AuthMethod, AuthResult], Tally] = {
            (method, result): Tally() for method in AuthMethod for result in AuthResult
        }
        self.requests_shed: Mapping[str, Tally] = {priority: Tally() for priority in PRIORITIES}
        self.rate_limit_rejections: Mapping[LimitScope, Tally] = {scope: Tally() for scope in LimitScope}
        self.db_errors: Mapping[DbErrorKind, Tally] = {kind: Tally() for kind in DbErrorKind}
        self._external: Mapping[tuple[str, ...], Tally] = {
            (dependency, result): Tally() for dependency in EXTERNAL for result in ("success", "failure")
        }
        self.canary_results: Mapping[CanaryResult, Tally] = {result: Tally() for result in CanaryResult}
        self.policy_set_failures: Mapping[PolicyFailure, Tally] = {kind: Tally() for kind in PolicyFailure}
        self.db_query_duration: Mapping[DbOperation, Timing] = {
            operation: Timing(QUERY_BUCKETS) for operation in DbOperation
        }
        for collector in (
            _Tallies(
                "mfw_requests",
                "requests answered",
                ("route", "method", "code"),
                {(path, method, str(code)): tally for (path, method, code), tally in self._requests.items()},
            ),
            _Timings(
                "mfw_request_duration_seconds",
                "from the first look at a request to the last byte of its answer; 401 and 429 are not among them",
                "route",
                self._durations,
            ),
            _Tallies(
                "mfw_decisions",
                "decisions recorded in the ledger",
                ("effect",),
                {(effect.value,): tally for effect, tally in self.decisions.items()},
            ),
            _Tallies(
                "mfw_budgets_exhausted",
                "budgets without room that a mutation met; those in shadow decided nothing",
                ("mode",),
                {(mode.value,): tally for mode, tally in self.budgets_exhausted.items()},
            ),
            _Tallies(
                "mfw_auth_attempts",
                "attempts to authenticate",
                ("method", "result"),
                {(method.value, result.value): tally for (method, result), tally in self.auth_attempts.items()},
            ),
            _Tallies(
                "mfw_requests_shed",
                "requests refused with 503 before they were looked at; they are not among the requests answered",
                ("priority",),
                {(priority,): tally for priority, tally in self.requests_shed.items()},
            ),
            _Tallies(
                "mfw_rate_limit_rejections",
                "requests refused with 429",
                ("scope",),
                {(scope.value,): tally for scope, tally in self.rate_limit_rejections.items()},
            ),
            _Tallies(
                "mfw_db_errors",
                "database operations that failed",
                ("kind",),
                {(kind.value,): tally for kind, tally in self.db_errors.items()},
            ),
            _Tallies(
                "mfw_external_calls",
                "calls of services outside, each try by itself",
                ("dependency", "result"),
                self._external,
            ),
            _Tallies(
                "mfw_canary_results",
                "what became of changes that the webhook must deny; anything but denied is wrong",
                ("result",),
                {(result.value,): tally for result, tally in self.canary_results.items()},
            ),
            _Tallies(
                "mfw_policy_set_failures",
                "policy sets that were not taken, and looks for one that failed",
                ("kind",),
                {(kind.value,): tally for kind, tally in self.policy_set_failures.items()},
            ),
            _Timings(
                "mfw_db_query_duration_seconds",
                "database operations, their wait for a connection included",
                "operation",
                {operation.value: timing for operation, timing in self.db_query_duration.items()},
            ),
        ):
            registry.register(collector)

        self.ready = Gauge("mfw_ready", "1 while this process takes requests", registry=registry)
        self.schema_mismatch = Gauge(
            "mfw_schema_mismatch",
            "1 while the database is at a revision that this release does not work with",
            registry=registry,
        )
        self._components = Gauge(
            "mfw_component_status",
            "1 for the status that a component of health is in, 0 for the others",
            ("component", "status"),
            registry=registry,
        )
        self._component_children: dict[tuple[str, str], Gauge] = {}
        self.limits_shared = Gauge(
            "mfw_rate_limits_shared",
            "1 while rate limits are shared with other replicas through Redis, 0 while this one enforces a share",
            registry=registry,
        )
        self.log_events_dropped = Counter(
            "mfw_log_events_dropped", "log events lost because standard error was blocked", registry=registry
        )
        # Not a number while there is nothing to tell: neither larger nor smaller than any limit of an alert.
        self._certificate_expiry = Gauge(
            "mfw_tls_certificate_expiry_timestamp_seconds",
            "when the certificate that is served ends; NaN without TLS",
            registry=registry,
        )
        self._certificate_expiry.set(math.nan)
        self._canary_success = Gauge(
            "mfw_canary_last_success_timestamp_seconds",
            "when the canary was last denied by the firewall; 0 if never, NaN without a canary",
            registry=registry,
        )
        self._canary_success.set(math.nan)
        self._accounts_age = Gauge(
            "mfw_service_accounts_age_seconds",
            "since when the labels of service accounts are confirmed; NaN where no rule asks for labels",
            registry=registry,
        )
        self._accounts_age.set(math.nan)
        self.tls_reload_failures = Counter(
            "mfw_tls_reload_failures",
            "looks at the files of the certificate that found something which cannot be used",
            registry=registry,
        )
        self._policy_set = Info("mfw_policy_set", "the policy set in force", registry=registry)
        self._policy_set_age = Gauge(
            "mfw_policy_set_age_seconds", "since when this process has the set in force", registry=registry
        )
        self._policy_set_lag = Gauge(
            "mfw_policy_set_lag_seconds", "for how long this process may have been behind", registry=registry
        )
        self._decisions_limit = Gauge(
            "mfw_decisions_limit", "single decisions that may be under way at the moment", registry=registry
        )
        under_way = Gauge(
            "mfw_requests_under_way", "requests that are being answered", ("priority",), registry=registry
        )
        self._under_way = {priority: under_way.labels(priority) for priority in PRIORITIES}
        self._lag = Gauge("mfw_event_loop_lag_seconds", "how late the event loop is, on average", registry=registry)
        self._memory = Gauge(
            "mfw_memory_share", "resident memory by the limit of the container; 0 without one", registry=registry
        )
        switches = Gauge("mfw_switches", "kill switches that are on", ("kind",), registry=registry)
        self._switches = {kind: switches.labels(kind.value) for kind in SwitchKind}
        self._switches_age = Gauge(
            "mfw_switches_age_seconds", "since when the kill switches are known", registry=registry
        )
        self.checkpoint_refusals = Counter(
            "mfw_ledger_checkpoint_refusals",
            "times that signing was refused, for the ledger contradicts what was signed of it",
            registry=registry,
        )
        self._checkpoint_age = Gauge(
            "mfw_ledger_checkpoint_age_seconds",
            "since when the newest checkpoint is signed; it grows while there is nothing new",
            registry=registry,
        )
        self._checkpoint_lag = Gauge(
            "mfw_ledger_checkpoint_lag_entries",
            "entries of the ledger that no checkpoint covers yet",
            registry=registry,
        )
        self._checkpoint_size = Gauge(
            "mfw_ledger_checkpoint_size", "entries that the newest checkpoint covers", registry=registry
        )
        self._search_lag = Gauge(
            "mfw_search_lag_entries", "entries of the ledger that no search of decisions finds yet", registry=registry
        )
        self.witness_contradictions = Counter(
            "mfw_ledger_witness_contradictions",
            "answers of witnesses that saw another history of the ledger",
            registry=registry,
        )
        self._cosignatures = Gauge(
            "mfw_ledger_cosignatures",
            "witnesses that cosigned the newest checkpoint which this process signed",
            registry=registry,
        )
        issues = Gauge(
            "mfw_integrity_issues",
            "what the last integrity check that went through found, by check",
            ("check",),
            registry=registry,
        )
        self._integrity_issues = {check: issues.labels(check.value) for check in IntegrityCheck}
        self._integrity_at = Gauge(
            "mfw_integrity_last_success_timestamp_seconds",
            "when the last integrity check went through, whatever it found; 0 if never",
            registry=registry,
        )
        self._backup_at = Gauge(
            "mfw_backup_last_success_timestamp_seconds",
            "when the last backup was complete; 0 if never",
            registry=registry,
        )
        self._policy_set_stale = Gauge(
            "mfw_policy_set_stale",
            "1 while the set in force is the last good copy from the local disk, unconfirmed",
            registry=registry,
        )

    def watch_certificate(self, *, expires_at: Callable[[], float]) -> None:
        """Ask this at each scrape: when the certificate that is served ends, in seconds since 1970."""
        self._certificate_expiry.set_function(expires_at)

    def watch_accounts(self, *, age: Callable[[], float]) -> None:
        """Ask this at each scrape: since when the labels of service accounts are confirmed."""
        self._accounts_age.set_function(age)

    def watch_canary(self, *, last_success: Callable[[], float]) -> None:
        """Ask this at each scrape: when the canary was last denied, in seconds since 1970."""
        self._canary_success.set_function(last_success)

    def know_components(self, names: Iterable[str], *, statuses: Iterable[str]) -> None:
        """Make the children of the components that are checked, and of no other."""
        statuses = tuple(statuses)
        for name in names:
            for status in statuses:
                self._component_children[name, status] = self._components.labels(name, status)

    def show_components(self, found: Mapping[str, str]) -> None:
        """Say in which status each component is."""
        for (name, status), gauge in self._component_children.items():
            gauge.set(found.get(name) == status)

    def watch_shedding(
        self,
        *,
        limit: Callable[[], float],
        under_way: Mapping[str, Callable[[], float]],
        lag: Callable[[], float],
        memory: Callable[[], float],
    ) -> None:
        """Ask these at each scrape; `under_way` is by priority."""
        self._decisions_limit.set_function(limit)
        for priority, count in under_way.items():
            self._under_way[priority].set_function(count)
        self._lag.set_function(lag)
        self._memory.set_function(memory)

    def watch_upkeep(
        self,
        issues: Callable[[IntegrityCheck], float],
        *,
        integrity_at: Callable[[], float],
        backup_at: Callable[[], float],
    ) -> None:
        """Ask these at each scrape: what jobs found, and when they last went through, in seconds since 1970."""
        for check, gauge in self._integrity_issues.items():
            gauge.set_function(partial(issues, check))
        self._integrity_at.set_function(integrity_at)
        self._backup_at.set_function(backup_at)

    def watch_switches(self, count: Callable[[SwitchKind], int], *, age: Callable[[], float]) -> None:
        """Ask these at each scrape: how many kill switches of a kind are on, and since when that is known."""
        for kind, gauge in self._switches.items():
            gauge.set_function(partial(count, kind))
        self._switches_age.set_function(age)

    def watch_checkpoints(
        self, *, age: Callable[[], float], lag: Callable[[], float], size: Callable[[], float]
    ) -> None:
        """Ask these at each scrape; the age is in seconds, the others are entries."""
        self._checkpoint_age.set_function(age)
        self._checkpoint_lag.set_function(lag)
        self._checkpoint_size.set_function(size)

    def watch_search(self, *, lag: Callable[[], float]) -> None:
        """Ask this at each scrape: how many entries of the ledger no search finds yet."""
        self._search_lag.set_function(lag)

    def watch_cosignatures(self, count: Callable[[], float]) -> None:
        """Ask this at each scrape: how many witnesses cosigned the newest checkpoint."""
        self._cosignatures.set_function(count)

    def external(self, dependency: str) -> Callable[[bool], None]:
        """Give what counts the calls of one service outside, by whether they worked."""
        worked, failed = self._external[dependency, "success"], self._external[dependency, "failure"]

        def count(success: bool) -> None:  # noqa: FBT001 - one fact, as the caller has it
            (worked if success else failed).inc()

        return count

    def route_of(self, path: str) -> str:
        """The route's label: the path if it is one of ours, else `other`."""
        return path if path in self._durations else OTHER

    def observe_request(self, route: str, method: str, code: int, seconds: float) -> None:
        """Count one request; a route, method or code that is not in the tables is counted as the nearest that is."""
        tally = self._requests.get((route, method, code))
        if tally is None:
            tally = self._requests[self._nearest(route, code)]
        tally.value += 1
        if code not in _UNTIMED:
            self._durations.get(route, self._durations[OTHER]).observe(seconds)

    def show_policy_set(self, digest: str, *, policies: int, rules: int) -> None:
        """Say which policy set is in force."""
        self._policy_set.info({"digest": digest, "policies": str(policies), "rules": str(rules)})

    def watch_policy_set(
        self, *, age: Callable[[], float], lag: Callable[[], float], stale: Callable[[], float]
    ) -> None:
        """Ask these at each scrape; ages and lag are in seconds."""
        self._policy_set_age.set_function(age)
        self._policy_set_lag.set_function(lag)
        self._policy_set_stale.set_function(stale)

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
