"""Every child is there from the start, and no request can make another."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import generate_latest

from app.core.types import Effect, Mode
from app.observability.metrics import CODES, ROUTES, AuthResult, Metrics

EXPECTED = {
    "mfw_requests_total",
    "mfw_request_duration_seconds_count",
    "mfw_decisions_total",
    "mfw_auth_attempts_total",
    "mfw_rate_limit_rejections_total",
    "mfw_budgets_exhausted_total",
    "mfw_db_errors_total",
    "mfw_db_query_duration_seconds_count",
    "mfw_log_events_dropped_total",
    "mfw_build_info",
    "mfw_ready",
    "process_resident_memory_bytes",
    "python_info",
}


def series(metrics: Metrics) -> set[tuple[str, frozenset[tuple[str, str]]]]:
    return {
        (sample.name, frozenset(sample.labels.items()))
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name.startswith("mfw_") and not sample.name.endswith("_created")
    }


def test_every_series_is_there_from_the_start_at_nothing() -> None:
    metrics = Metrics(version="1.2.3")
    names = {sample.name for family in metrics.registry.collect() for sample in family.samples}
    assert names >= EXPECTED
    value = metrics.registry.get_sample_value
    for method, route in ROUTES:
        for code in CODES:
            assert value("mfw_requests_total", {"route": route, "method": method, "code": str(code)}) == 0
    for effect in Effect:
        assert value("mfw_decisions_total", {"effect": effect.value}) == 0
    for mode in Mode:
        assert value("mfw_budgets_exhausted_total", {"mode": mode.value}) == 0
    for result in AuthResult:
        for method in ("api_key", "jwt", "none"):
            assert value("mfw_auth_attempts_total", {"method": method, "result": result.value}) == 0
    assert value("mfw_build_info", {"version": "1.2.3"}) == 1
    assert b"# HELP mfw_requests_total" in generate_latest(metrics.registry)


METRICS = Metrics(version="0")
SERIES = series(METRICS)


@given(
    path=st.text() | st.sampled_from([route for _, route in ROUTES]),
    method=st.text() | st.sampled_from(["GET", "POST", "HEAD"]),
    code=st.integers(-1, 1000),
)
def test_no_request_makes_another_series(path: str, method: str, code: int) -> None:
    METRICS.observe_request(METRICS.route_of(path), method, code, 0.001)
    METRICS.observe_request(path, method, code, 0.001)
    assert series(METRICS) == SERIES


@pytest.mark.parametrize(
    ("asked", "counted"),
    [
        (("/v1/decisions", "POST", 200), ("/v1/decisions", "POST", "200")),
        (("/v1/decisions", "PUT", 405), ("/v1/decisions", "POST", "405")),
        (("/v1/decisions", "POST", 418), ("/v1/decisions", "POST", "415")),
        (("/health", "GET", 599), ("/health", "GET", "504")),
        (("/nowhere", "GET", 404), ("other", "other", "404")),
        (("/health", "GET", 100), ("/health", "GET", "200")),
    ],
)
def test_what_is_not_in_the_tables_is_counted_as_the_nearest(
    asked: tuple[str, str, int], counted: tuple[str, str, str]
) -> None:
    metrics = Metrics(version="0")
    path, sent_method, status = asked
    metrics.observe_request(path, sent_method, status, 0.2)
    route, method, code = counted
    value = metrics.registry.get_sample_value
    assert value("mfw_requests_total", {"route": route, "method": method, "code": code}) == 1
    assert value("mfw_request_duration_seconds_sum", {"route": route}) == pytest.approx(0.2)


@pytest.mark.parametrize("code", [401, 429])
def test_who_tries_wrong_keys_spends_no_budget_of_latency(code: int) -> None:
    metrics = Metrics(version="0")
    value = metrics.registry.get_sample_value
    metrics.observe_request("/v1/decisions", "POST", code, 2.0)
    assert value("mfw_request_duration_seconds_count", {"route": "/v1/decisions"}) == 0
    assert value("mfw_requests_total", {"route": "/v1/decisions", "method": "POST", "code": str(code)}) == 1
    metrics.observe_request("/v1/decisions", "POST", 403, 0.2)
    assert value("mfw_request_duration_seconds_count", {"route": "/v1/decisions"}) == 1


def test_the_policy_set_in_force_is_told_by_its_digest() -> None:
    metrics = Metrics(version="0")
    for digest in ("sha256:aa", "sha256:bb"):
        metrics.show_policy_set(digest, policies=2, rules=5)
    shown = [labels for name, labels in series(metrics) if name == "mfw_policy_set_info"]
    assert shown == [frozenset({("digest", "sha256:bb"), ("policies", "2"), ("rules", "5")})]


def test_components_are_in_one_status_each() -> None:
    metrics = Metrics(version="0")
    metrics.know_components(["database", "ledger"], statuses=["healthy", "unhealthy"])
    metrics.show_components({"database": "unhealthy", "ledger": "healthy", "stranger": "healthy"})
    assert _value(metrics, component="database", status="unhealthy") == 1
    assert _value(metrics, component="database", status="healthy") == 0
    assert _value(metrics, component="ledger", status="healthy") == 1
    assert _value(metrics, component="stranger", status="healthy") is None


def _value(metrics: Metrics, **labels: str) -> float | None:
    return metrics.registry.get_sample_value("mfw_component_status", labels)
