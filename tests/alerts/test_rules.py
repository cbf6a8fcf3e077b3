"""The alert rules, replayed by promtool itself: each is silent, waits, fires and ends when it should."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from app.core.integrity import IntegrityCheck, Severity, severity_of
from app.observability.metrics import REQUEST_BUCKETS, ROUTES
from tests.alerts import told
from tests.alerts.rules import ALERTS, CASES, GROUPS, RECORDED, RULES, exposed, metrics_in, run

# Of the failure matrix: names and severities are a contract.
MATRIX = {
    "DatabaseConnectionDown": "critical",
    "DatabaseSlowQueries": "medium",
    "MigrationMismatch": "high",
    "HighAuthFailureRate": "high",
    "HighRateLimitRejections": "medium",
    "HighMemoryUsage": "high",
    "PodOOMKilled": "high",
    "HighCPUUsage": "medium",
    "ServiceNetworkFailure": "high",
    "DeploymentNotProgressing": "high",
    "MigrationFailed": "high",
    "HighClientErrorRate": "low",
    "HighServerErrorRate": "critical",
    "ExternalAPIDown": "medium",
    "DataIntegrityIssue": "critical",
    "ServiceNotStarting": "critical",
}

# Of kube-state-metrics and of Prometheus itself.
FOREIGN = {
    "kube_deployment_spec_replicas",
    "kube_deployment_status_condition",
    "kube_job_failed",
    "kube_pod_container_resource_limits",
    "kube_pod_container_status_last_terminated_exitcode",
    "kube_pod_container_status_last_terminated_reason",
    "kube_pod_container_status_restarts_total",
    "kube_pod_container_status_waiting_reason",
    "process_cpu_seconds_total",
    "up",
    "time",
}


def test_prometheus_reads_them() -> None:
    run("promtool", "check", "rules", *map(str, RULES))


@pytest.mark.parametrize("interval", sorted({case.get("interval", "1m") for case in CASES}))
def test_each_alert_lives_as_its_cases_say(interval: str, tmp_path: Path) -> None:
    # Between samples that are further apart than five minutes a series is gone: rules are evaluated when there are any.
    notices = told.expected()
    cases = [(number, case) for number, case in enumerate(CASES) if case.get("interval", "1m") == interval]
    document = {
        "rule_files": list(map(str, RULES)),
        "evaluation_interval": interval,
        "group_eval_order": GROUPS,
        # Together, for promtool evaluates all rules for each.
        "tests": [replay(case) | told.notices_of(case, notices.get(number)) for number, case in cases],
    }
    file = tmp_path / "cases.json"  # JSON is YAML
    file.write_text(json.dumps(document))
    run("promtool", "test", "rules", str(file))


def test_what_people_are_told_has_no_holes() -> None:
    for notices in told.expected().values():
        assert notices
        for notice in notices:
            for text in notice["exp_annotations"].values():
                assert not re.search(r"no value|\{\{|\}\}|%!|``|  |NaN|\+Inf|\b(in|of|for) [.,:]", text), text


def test_no_alert_is_without_a_case_in_which_it_fires() -> None:
    fired = [{"alert": case["alert"], **labels_of(case)} for case in CASES if "firing" in case]
    for alert in ALERTS:
        expected = {"alert": alert["alert"], **alert["labels"]}
        assert any(expected.items() <= case.items() for case in fired), expected


def replay(case: dict[str, Any]) -> dict[str, Any]:
    """A case as promtool reads it: it is asked for the alert's own series, which says in which state it is."""
    labels = labels_of(case)
    found = {"silent": None, "pending": "pending", "firing": "firing", "resolved": None}
    chosen = {"alertname": case["alert"], **{name: labels[name] for name in ("window",) if name in labels}}
    return {
        "name": f"{case['alert']} {labels}",
        "interval": case.get("interval", "1m"),
        "input_series": [{"series": series, "values": values} for series, values in case["series"].items()],
        "promql_expr_test": [
            {
                "expr": series(chosen),
                "eval_time": case[moment],
                "exp_samples": []
                if state is None
                else [{"labels": series({"alertname": case["alert"], "alertstate": state, **labels}), "value": 1}],
            }
            for moment, state in found.items()
            if moment in case
        ],
    }


def series(labels: dict[str, str]) -> str:
    return f"ALERTS{{{','.join(f'{name}={json.dumps(value)}' for name, value in labels.items())}}}"


def labels_of(case: dict[str, Any]) -> dict[str, str]:
    """The labels of a case, with the severity of its alert where that has only one."""
    own = {alert["labels"]["severity"] for alert in ALERTS if alert["alert"] == case["alert"]}
    assert own, f"there is no alert `{case['alert']}`"
    labels: dict[str, str] = case.get("labels", {})
    assert labels.get("severity") in own or len(own) == 1, f"say which severity of `{case['alert']}` is meant"
    return {"severity": own.pop(), **labels}


def test_the_alerts_of_the_matrix_are_there() -> None:
    there = {(alert["alert"], alert["labels"]["severity"]) for alert in ALERTS}
    assert set(MATRIX.items()) <= there


@pytest.mark.parametrize("alert", ALERTS, ids=lambda one: "-".join((one["alert"], *one["labels"].values())))
def test_each_says_what_whoever_is_paged_needs(alert: dict[str, Any]) -> None:
    assert alert["labels"]["severity"] in {"critical", "high", "medium", "low"}
    notes = alert["annotations"]
    assert set(notes) == {"summary", "description", "runbook_url"}
    assert notes["runbook_url"] == f"https://mutationfirewall.io/runbooks/{alert['alert']}"
    assert len(notes["summary"]) <= 100
    assert notes["description"].endswith(".")
    # A label that the expression does not keep would be an empty word on somebody's phone.
    told = set(re.findall(r"\$labels\.(\w+)", " ".join(notes.values())))
    kept: set[str] = set().union(*(case.get("labels", {}) for case in CASES if case["alert"] == alert["alert"]))
    assert told <= kept


def test_integrity_checks_alert_as_severely_as_they_are() -> None:
    levels = {Severity.CRITICAL: "critical", Severity.MAJOR: "high", Severity.MINOR: "medium"}
    for alert in ALERTS:
        if alert["alert"] == "DataIntegrityIssue":
            named = re.search(r'check=~"([^"]+)"', alert["expr"])
            assert named is not None
            level = alert["labels"]["severity"]
            assert set(named[1].split("|")) == {one for one in IntegrityCheck if levels[severity_of(one)] == level}


def test_every_metric_exists() -> None:
    ours = exposed()
    used = set().union(*(metrics_in(rule["expr"]) for rules in RULES.values() for rule in rules))
    assert used - ours - set(RECORDED) - FOREIGN == set()
    assert len(used & ours) > 20


def test_the_objective_for_latency_is_about_every_route_that_decides_one_change() -> None:
    expression = RECORDED["mfw:slow_decisions:ratio_rate5m"]
    routes = re.search(r'route=~"([^"]+)", le="([^"]+)"', expression)
    assert routes is not None
    matched = {path for _, path in ROUTES if re.fullmatch(routes[1], path)}
    assert {"/v1/decisions", "/access/v1/evaluation", "/kubernetes/v1/validate"} <= matched
    assert not matched & {"/v1/decisions:batch", "/access/v1/evaluations", "/v1/decisions/{id}"}
    # Without this bucket the objective would silently be about another time.
    assert float(routes[2]) in REQUEST_BUCKETS
