"""What a linter of rules would say: types, labels, values, ranges, anchors, guards, and why something has no `for`."""

import re
from typing import Any, Final, NamedTuple

import pytest

from app.controller.metrics import ControllerMetrics
from app.observability.metrics import Metrics
from tests.alerts.rules import ALERTS, RECORDED, ROOT, RULES, metrics_in

SCRAPE_SECONDS: Final = 30
# What Prometheus knows of each target, whatever it says of itself.
OF_TARGETS: Final = {"namespace", "pod", "instance", "job", "container", "service", "node", "endpoint"}
COMPONENTS: Final = sorted(
    set(re.findall(r'NamedCheck\(\s*"(\w+)"', (ROOT / "app" / "bootstrap.py").read_text(encoding="utf-8")))
)


class Family(NamedTuple):
    """A metric: its type, and of each label the values that there are; an empty set is any."""

    type: str
    labels: dict[str, set[str]]


# Of kube-state-metrics (docs/metrics/workload there) and of the library of metrics.
FOREIGN: Final = {
    "kube_deployment_status_condition": Family(
        "gauge", {"deployment": set(), "condition": {"Progressing"}, "status": {"true", "false", "unknown"}}
    ),
    "kube_deployment_spec_replicas": Family("gauge", {"deployment": set()}),
    "kube_job_failed": Family("gauge", {"job_name": set(), "condition": {"true", "false", "unknown"}}),
    "kube_pod_container_resource_limits": Family("gauge", {"resource": {"cpu", "memory"}, "unit": set()}),
    "kube_pod_container_status_last_terminated_exitcode": Family("gauge", {}),
    "kube_pod_container_status_last_terminated_reason": Family("gauge", {"reason": {"OOMKilled", "Error"}}),
    "kube_pod_container_status_restarts_total": Family("counter", {}),
    "kube_pod_container_status_waiting_reason": Family(
        "gauge",
        {
            "reason": {
                "CrashLoopBackOff",
                "CreateContainerConfigError",
                "CreateContainerError",
                "ImagePullBackOff",
                "ErrImagePull",
                "InvalidImageName",
                "ContainerCreating",
            }
        },
    ),
    "process_cpu_seconds_total": Family("counter", {}),
    "up": Family("gauge", {}),
}

# An alert that does not wait, and why it need not.
AT_ONCE: Final = {
    "CheckpointRefused": "evidence: it does not become less by waiting",
    "DataIntegrityIssue": "a check that took minutes has found it; it does not flap",
    "KillSwitchOn": "a person turned it on, for everybody",
    "LogEventsDropped": "its range is its memory, and it wakes nobody",
    "MigrationFailed": "a Job has failed for good when it says so",
    "PodOOMKilled": "it has happened, and its range is its memory",
    "WitnessContradiction": "evidence: it does not become less by waiting",
}


def _ours() -> dict[str, Family]:
    metrics = Metrics(version="0")
    metrics.know_components(COMPONENTS, statuses=["healthy", "degraded", "unhealthy"])
    metrics.show_policy_set("sha256:0", policies=0, rules=0)
    found: dict[str, Family] = {}
    registries = (metrics.registry, ControllerMetrics(version="0").registry)
    for family in (family for one in registries for family in one.collect()):
        for sample in family.samples:
            known = found.setdefault(sample.name, Family(family.type, {}))
            for name, value in sample.labels.items():
                known.labels.setdefault(name, set()).add(value)
    return found


OURS: Final = _ours()
KNOWN: Final = OURS | FOREIGN

RULE_LIST: Final = [rule for rules in RULES.values() for rule in rules]
EXPRESSIONS: Final = {
    f"{rule.get('alert') or rule['record']}-{number}": rule["expr"] for number, rule in enumerate(RULE_LIST)
}
every_expression = pytest.mark.parametrize("expr", EXPRESSIONS.values(), ids=EXPRESSIONS)
every_alert = pytest.mark.parametrize(
    "alert", ALERTS, ids=lambda one: "-".join((one["alert"], *one["labels"].values()))
)

# `name{matchers}[range]`, the function around it if one is, and whether something only counts or misses it.
_SELECTOR: Final = re.compile(
    r"(?P<around>(?:\b\w+\s*(?:by\s*\([^)]*\)\s*)?\(\s*)?)"
    r"(?<![\w:])(?P<name>[a-z_][a-z0-9_:]*)(?P<matchers>\{[^}]*\})?(?P<range>\[\w+\])?(?!\s*\(|[\w:])"
)
_MATCHER: Final = re.compile(r'(\w+)(=~|!~|!=|=)"([^"]*)"')
_COMMENT: Final = re.compile(r"#[^\n]*")
_BY: Final = re.compile(r"\b(sum|max|min|count|avg|topk)\b(\s+by\s*\(([^)]*)\))?\s*\(")


class Selector(NamedTuple):
    """One reading of a metric."""

    around: str
    name: str
    matchers: list[tuple[str, str, str]]
    range: str | None


def selectors(expr: str) -> list[Selector]:
    """Each reading of a metric in an expression."""
    return [
        Selector(
            re.split(r"\W", found["around"].strip())[0],
            found["name"],
            _MATCHER.findall(found["matchers"] or ""),
            found["range"],
        )
        for found in _SELECTOR.finditer(_COMMENT.sub("", expr))
        if found["name"] in KNOWN or found["name"] in RECORDED
    ]


def test_every_reading_is_found() -> None:
    for expr in EXPRESSIONS.values():
        assert {one.name for one in selectors(expr)} == metrics_in(_COMMENT.sub("", expr)) - {"time"}


@every_expression
def test_what_only_grows_is_read_as_a_rate_and_nothing_else_is(expr: str) -> None:
    for one in selectors(expr):
        if one.name in RECORDED:
            assert one.range is None
            continue
        family = KNOWN[one.name]
        grows = family.type in {"counter", "histogram"}
        if one.range is not None:
            assert one.around in {"rate", "increase"}
            assert grows, f"{one.name} is a {family.type}"
        else:
            # That there are any is no matter of how many.
            assert not grows or one.around in {"count", "absent"}, f"{one.name} is a {family.type}"


@every_expression
def test_a_range_has_four_samples_or_more(expr: str) -> None:
    seconds = {"s": 1, "m": 60, "h": 3600, "d": 86400}
    for number, unit in re.findall(r"\[(\d+)([smhd])\]", expr):
        assert int(number) * seconds[unit] >= 4 * SCRAPE_SECONDS


@every_expression
def test_labels_exist_and_values_fit_some(expr: str) -> None:
    for one in selectors(expr):
        if one.name in RECORDED:
            # Those of what it is recorded from.
            labels: dict[str, set[str]] = {}
            for source in selectors(RECORDED[one.name]):
                labels |= KNOWN[source.name].labels
        else:
            labels = KNOWN[one.name].labels
        for label, operator, value in one.matchers:
            assert label in labels.keys() | OF_TARGETS, f"{one.name} has no label `{label}`"
            values = labels.get(label, set())
            if not values:
                continue
            fitting = {v for v in values if (re.fullmatch(value, v) if "~" in operator else v == value)}
            assert fitting, f"{one.name}: `{label}` is never {value}"
            assert operator in {"=", "=~"} or fitting != values
            if "~" in operator:
                for part in re.split(r"\|(?![^(]*\))", value):
                    assert any(re.fullmatch(part, v) for v in values), f"{one.name}: `{label}` is never {part}"


@every_expression
def test_patterns_are_patterns_and_need_no_anchors(expr: str) -> None:
    for one in selectors(expr):
        for label, operator, value in one.matchers:
            if "~" in operator:
                assert not re.search(r"^\^|(?<!\\)\$$", value), "Prometheus anchors by itself"
                assert re.search(r"[.|*+?\[(]", value), f"`{label}` needs no pattern"
            else:
                assert not re.search(r"[|*+?\[(]", value), f"`{label}` looks like a pattern"


@every_expression
def test_installations_do_not_hide_each_other(expr: str) -> None:
    for _, by, labels in _BY.findall(_COMMENT.sub("", expr)):
        assert by, "an aggregation without `by`"
        assert "namespace" in labels.replace(" ", "").split(",")


@every_expression
def test_what_is_kept_is_there(expr: str) -> None:
    bare = _COMMENT.sub("", expr)
    there = set(OF_TARGETS)
    for one in selectors(bare):
        names = [source.name for source in selectors(RECORDED[one.name])] if one.name in RECORDED else [one.name]
        for name in names:
            there |= KNOWN[name].labels.keys()
    for _, _, labels in _BY.findall(bare):
        assert {label.strip() for label in labels.split(",") if label.strip()} <= there
    if "histogram_quantile" in bare:
        assert re.search(r"by \([^)]*\ble\b[^)]*\)", bare)


@every_alert
def test_an_alert_compares_something(alert: dict[str, Any]) -> None:
    expr = _COMMENT.sub("", alert["expr"])
    assert re.search(r"[<>]|==", re.sub(r"\{[^}]*\}", "", expr)) or re.search(r"\b(absent|unless)\b", expr)
    assert not re.search(r"\bbool\b", expr)


@every_alert
def test_what_does_not_wait_says_why(alert: dict[str, Any]) -> None:
    assert ("for" in alert) is (alert["alert"] not in AT_ONCE)


def test_reasons_are_about_alerts_that_there_are() -> None:
    assert AT_ONCE.keys() <= {alert["alert"] for alert in ALERTS}


@every_alert
def test_who_has_five_minutes_is_told_within_five(alert: dict[str, Any]) -> None:
    if alert["labels"]["severity"] == "critical" and "window" not in alert["labels"]:
        assert alert.get("for", "0m") in {"0m", "1m", "2m", "3m", "5m"}


def test_names_of_metrics_say_type_and_unit() -> None:
    for name, family in OURS.items():
        if family.type == "counter":
            assert name.endswith("_total"), name
        if family.type == "gauge":
            assert not name.endswith(("_total", "_count", "_sum", "_bucket")), name
        for word in ("duration", "_age", "timestamp", "expiry"):
            if word in name:
                assert re.search(r"_seconds(_(bucket|sum|count))?$", name), name
        assert not re.search(r"_(ms|milliseconds|minutes|hours|kb|mb)(_|$)", name), name


def test_names_of_records_say_what_was_done() -> None:
    for name in RECORDED:
        assert re.fullmatch(r"mfw:[a-z_]+:([a-z0-9]+_)?rate\d+[mhd]", name), name


def test_nothing_is_said_twice() -> None:
    said = [(alert["alert"], *sorted(alert["labels"].items())) for alert in ALERTS]
    assert len(said) == len(set(said))


def test_who_says_nothing_is_missed() -> None:
    """Ours by MutationFirewallAbsent; of the cluster's, every alert that would be silent is named by the one that says so."""
    (guard,) = [alert for alert in ALERTS if alert["alert"] == "ClusterMetricsAbsent"]
    silent = {
        alert["alert"]
        for alert in ALERTS
        # What comes first is what has to be there: `unless` and `and` only take away from it.
        if all(
            selectors(part)[0].name.startswith("kube_") for part in re.split(r"\bor\b", _COMMENT.sub("", alert["expr"]))
        )
    }
    assert silent
    assert silent <= set(re.findall(r"\b[A-Z]\w+[a-z][A-Z]\w+", guard["annotations"]["description"]))


def test_every_component_of_health_has_an_alert() -> None:
    covered = set()
    for alert in ALERTS:
        for one in selectors(alert["expr"]):
            if one.name != "mfw_component_status":
                continue
            for label, operator, value in one.matchers:
                if label == "component":
                    fits = {c for c in COMPONENTS if re.fullmatch(value, c)}
                    covered |= fits if operator in {"=", "=~"} else set(COMPONENTS) - fits
    # Those that speak through metrics of their own.
    covered |= {"switches", "load"}
    assert covered == set(COMPONENTS)
