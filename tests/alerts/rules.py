"""The files of `alerts/`, and promtool, which reads them as Prometheus does."""

import functools
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest
from ruamel.yaml import YAML

from app.controller.metrics import ControllerMetrics
from app.observability.metrics import Metrics

ROOT: Final = Path(__file__).resolve().parents[2]
FOLDER: Final = ROOT / "alerts"

_yaml: Final = YAML(typ="safe", pure=True)


def read(path: Path) -> Any:
    """One YAML document."""
    return _yaml.load(path.read_text())


# What is recorded comes first: alerts read it.
GROUPS: Final = sorted(
    (group["name"] for path in (FOLDER / "rules").glob("*.yaml") for group in read(path)["groups"]),
    key=lambda name: (name not in {"mutation-firewall-requests", "mutation-firewall-objectives"}, name),
)
RULES: Final[Mapping[Path, list[dict[str, Any]]]] = {
    path: [rule for group in read(path)["groups"] for rule in group["rules"]]
    for path in sorted((FOLDER / "rules").glob("*.yaml"))
}
ALERTS: Final = [rule for file in RULES.values() for rule in file if "alert" in rule]
RECORDED: Final = {rule["record"]: rule["expr"] for file in RULES.values() for rule in file if "record" in rule}
CASES: Final[list[dict[str, Any]]] = read(Path(__file__).parent / "cases.yaml")

# Words of PromQL, and labels in parentheses and braces, are no metrics.
_STRINGS: Final = re.compile(
    r"\"[^\"]*\"|#[^\n]*|\b(?:by|on|without|group_left|group_right)\s*\([^)]*\)|\{[^}]*\}|\[[^]]*\]"
)
_METRIC: Final = re.compile(r"\b[a-z_][a-z0-9_:]*\b(?!\s*\()")
_WORDS: Final = frozenset(
    {"and", "or", "unless", "by", "on", "bool", "offset", "group_left", "sum", "max", "min", "count"}
)


def metrics_in(expression: str) -> set[str]:
    """The names of metrics that an expression reads."""
    bare = _STRINGS.sub(" ", re.sub(r"\{(?:\"[^\"]*\"|[^}\"])*\}", " ", expression))
    return {name for name in _METRIC.findall(bare) if name not in _WORDS and not re.fullmatch(r"\d+[smhdwy]", name)}


@functools.cache
def exposed() -> frozenset[str]:
    """The names of all samples of a service, and of a controller."""
    service = Metrics(version="0")
    service.know_components(["database"], statuses=["healthy"])
    service.show_policy_set("sha256:0", policies=0, rules=0)
    registries = (service.registry, ControllerMetrics(version="0").registry)
    return frozenset(sample.name for one in registries for family in one.collect() for sample in family.samples)


def run(program: str, *arguments: str) -> str:
    """Run a program of Prometheus or Alertmanager; the test fails with what it said if it fails."""
    if shutil.which(program) is None:
        packages = {"promtool": "prometheus", "amtool": "prometheus-alertmanager"}
        pytest.skip(f"no {program}: apt-get install {packages[program]}")
    done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout
