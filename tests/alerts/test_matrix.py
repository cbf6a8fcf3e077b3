"""The reference failure matrix is kept: each of its facts has a place here, and the place says the same."""

import ast
import fnmatch
import functools
import importlib
from collections import Counter
from pathlib import Path
from typing import Any, Final

import pytest

from app.observability.metrics import Metrics
from app.settings import variables
from tests.alerts.rules import ALERTS, FOLDER, ROOT, read
from tests.helm.chart import EVERYTHING, Object, example

TABLE: Final[list[dict[str, Any]]] = read(Path(__file__).parent / "matrix.yaml")
MODES: Final = {row["mode"]: row for row in TABLE if "mode" in row}
FACTS: Final = [
    (row.get("mode") or row["resilience"], number, fact)
    for row in TABLE
    for number, fact in enumerate(row.get("facts", ()))
]
(ESCALATION,) = [row["escalation"] for row in TABLE if "escalation" in row]
(SUMMARY,) = [row["alerts"] for row in TABLE if "alerts" in row]


def _of(kind: str) -> pytest.MarkDecorator:
    """The facts of one kind."""
    chosen = [pytest.param(fact, id=f"{where}-{number}") for where, number, fact in FACTS if kind in fact]
    return pytest.mark.parametrize("fact", chosen)


def test_all_sixteen_are_there() -> None:
    assert list(MODES) == list(range(1, 17))
    known = {"alert", "metric", "code", "setting", "chart", "page", "test"}
    for *_, fact in FACTS:
        assert len(known & fact.keys()) == 1, fact
    # Each is told to somebody, or, as an expired token, is a label of what is; and each has a page.
    for number, row in MODES.items():
        kinds = set().union(*row["facts"])
        assert "page" in kinds, number
        assert "alert" in kinds or number == 5, number


@_of("alert")
def test_alerts(fact: dict[str, Any]) -> None:
    (found,) = [
        alert
        for alert in ALERTS
        if alert["alert"] == fact["alert"]
        and alert["labels"]["severity"] == fact["severity"]
        and fact["expr"] in alert["expr"]
        and alert["labels"].get("window") in {None, "1h"}
    ]
    assert found.get("for") == fact.get("for")


@_of("metric")
def test_metrics(fact: dict[str, Any]) -> None:
    samples = [sample for family in Metrics(version="0").registry.collect() for sample in family.samples]
    mine = [sample for sample in samples if sample.name.startswith(fact["metric"])]
    assert mine
    if "label" in fact:
        values = {sample.labels[fact["label"]] for sample in mine}
        assert fact.get("value", next(iter(values))) in values


@_of("code")
def test_constants(fact: dict[str, Any]) -> None:
    module, _, name = fact["code"].partition(":")
    value = getattr(importlib.import_module(module), name)
    assert (list(value) if isinstance(value, tuple) else value) == fact["is"]


@_of("setting")
def test_defaults_of_settings(fact: dict[str, Any]) -> None:
    (found,) = [variable for variable in variables() if variable.name == fact["setting"]]
    assert found.default.strip("`") == fact["is"]


@_of("chart")
def test_the_chart(fact: dict[str, Any]) -> None:
    at: Any = _object(fact["chart"])
    for step in fact["path"].split("."):
        at = at[int(step)] if step.isdigit() else at[step]
    assert at == fact["is"]


@_of("page")
def test_runbooks(fact: dict[str, Any]) -> None:
    text = (ROOT / "runbooks" / f"{fact['page']}.md").read_text()
    assert [words for words in fact["has"] if words not in text] == []


@_of("test")
def test_tests(fact: dict[str, Any]) -> None:
    path, _, name = fact["test"].partition("::")
    assert name in _tests(path)


def _object(pattern: str) -> Object:
    (found,) = [
        document
        for document in example(EVERYTHING)
        if fnmatch.fnmatch(f"{document['kind']}/{document['metadata']['name']}", pattern)
    ]
    return found


@functools.cache
def _tests(path: str) -> frozenset[str]:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


@pytest.mark.parametrize("severity", list(ESCALATION))
def test_escalation(severity: str) -> None:
    wanted = ESCALATION[severity]
    routes = [
        route
        for route in read(FOLDER / "alertmanager.yaml")["route"]["routes"]
        if route["matchers"] == [f'severity="{severity}"']
    ]
    path = ", ".join(route["receiver"].removesuffix("-low-urgency") for route in routes)
    assert path == wanted["path"]
    waits = {route["receiver"]: route.get("group_wait") for route in routes if route["receiver"] in wanted["waits"]}
    assert waits == wanted["waits"]
    # All but the last pass it on.
    assert [route.get("continue", False) for route in routes] == [True] * (len(routes) - 1) + [False]
    assert f"| {severity} | {wanted['within']} | {wanted['path']} |" in (ROOT / "runbooks" / "README.md").read_text()


def test_the_summary_counts_them() -> None:
    """Each alert of a mode once, at its highest severity."""
    named: dict[str, str] = {}
    for row in MODES.values():
        for fact in row["facts"]:
            if "alert" in fact and fact["alert"] not in {
                "IntegrityCheckOverdue",
                "BackupOverdue",
                "AvailabilityBudgetBurn",
            }:
                named.setdefault(fact["alert"], fact["severity"])
    assert len(named) == 16
    assert Counter(named.values()) == SUMMARY
