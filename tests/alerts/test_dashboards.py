"""The dashboards are what their definitions make, and ask for nothing that is not there."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from alerts.grafana import WHERE, dashboards
from tests.alerts.rules import ALERTS, FOLDER, RECORDED, exposed, metrics_in, run
from tests.alerts.test_lint import FOREIGN

FILES = sorted((FOLDER / "dashboards").glob("*.json"))
TARGETS = [
    (file.stem, panel["title"], target["expr"])
    for file in FILES
    for panel in json.loads(file.read_text())["panels"]
    for target in panel["targets"]
]


def test_they_are_generated() -> None:
    assert {file.name: file.read_text() for file in FILES} == dashboards(), "run: python alerts/grafana.py"


def test_prometheus_reads_every_query(tmp_path: Path) -> None:
    asked = [{"record": f"dashboards:{number}", "expr": expr} for number, (*_, expr) in enumerate(TARGETS)]
    file = tmp_path / "queries.yaml"
    with file.open("w") as out:
        YAML().dump({"groups": [{"name": "dashboards", "rules": asked}]}, out)
    run("promtool", "check", "rules", str(file))


@pytest.mark.parametrize(("name", "title", "expr"), TARGETS)
def test_every_query_is_about_metrics_that_exist_and_the_chosen_namespace(name: str, title: str, expr: str) -> None:
    there = exposed() | set(RECORDED) | FOREIGN.keys()
    read = metrics_in(expr) - {"time"}
    assert read or "ALERTS{" in expr, expr
    assert read <= there
    assert expr.count(WHERE) >= len(read)


def _sources(metrics: set[str]) -> set[str]:
    """What is read in the end: histograms by their name, records by what they are recorded from."""
    found = {name for metric in metrics for name in (metrics_in(RECORDED[metric]) if metric in RECORDED else {metric})}
    return {re.sub(r"_(bucket|sum|count)$", "", name) for name in found} - {"time"}


@pytest.mark.parametrize("alert", ALERTS, ids=lambda one: "-".join((one["alert"], *one["labels"].values())))
def test_what_an_alert_is_about_is_on_a_panel(alert: dict[str, Any]) -> None:
    shown = _sources(set().union(*(metrics_in(expr) for *_, expr in TARGETS)))
    assert _sources(metrics_in(re.sub(r"#[^\n]*", "", alert["expr"]))) <= shown


def test_panels_do_not_lie_on_each_other() -> None:
    for file in FILES:
        taken: set[tuple[int, int]] = set()
        for panel in json.loads(file.read_text())["panels"]:
            place = panel["gridPos"]
            cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
            assert not cells & taken
            assert max(x for x, _ in cells) < 24
            taken |= cells
