"""What people read when an alert comes, as Prometheus renders it: `python -m tests.alerts.told` writes told.yaml anew.

Read what changed before it is committed: it is what stands on somebody's phone.
"""

import json
import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from ruamel.yaml import YAML

from tests.alerts.rules import CASES, GROUPS, RULES, read

FILE: Final = Path(__file__).parent / "told.yaml"

Notice = dict[str, Any]

_ALERT: Final = re.compile(r"Labels:\{(?P<labels>.*?)\}\s+Annotations:\{(?P<notes>.*?)\}(?=,?\s|$)", re.DOTALL)
_PAIR: Final = re.compile(r"(\w+)=(\"(?:[^\"\\]|\\.)*\")")


def firing() -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The cases in which something fires, each with its number."""
    for number, case in enumerate(CASES):
        if "firing" in case:
            yield number, case


def notices_of(case: Mapping[str, Any], expected: list[Notice] | None) -> dict[str, Any]:
    """Who is told what while the alert fires, as promtool asks it; nothing where it does not fire."""
    if expected is None:
        return {}
    asked = {"eval_time": case["firing"], "alertname": case["alert"], "exp_alerts": expected}
    return {"alert_rule_test": [asked]}


def question(case: Mapping[str, Any]) -> dict[str, Any]:
    """A case in which nobody is expected to be told anything."""
    return {
        "name": case["alert"],
        "interval": case.get("interval", "1m"),
        "input_series": [{"series": series, "values": values} for series, values in case["series"].items()],
        **notices_of(case, []),
    }


def document(questions: list[dict[str, Any]], interval: str) -> str:
    """The file of several questions."""
    asked = {
        "rule_files": list(map(str, RULES)),
        "evaluation_interval": interval,
        "group_eval_order": GROUPS,
        "tests": questions,
    }
    return json.dumps(asked)  # JSON is YAML


def expected() -> dict[int, list[Notice]]:
    """What told.yaml says, by the number of the case."""
    told: list[dict[str, Any]] = read(FILE)
    return {
        number: [{"exp_labels": notice["labels"], "exp_annotations": notice["says"]} for notice in one["notices"]]
        for (number, _), one in zip(firing(), told, strict=True)
    }


def _rendered(case: Mapping[str, Any]) -> list[Notice]:
    """What promtool finds where nothing is expected."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "case.json"
        file.write_text(document([question(case)], case.get("interval", "1m")))
        said = subprocess.run(["promtool", "test", "rules", str(file)], capture_output=True, text=True, check=False)
    _, _, got = (said.stdout + said.stderr).partition("got:[")
    found = []
    for alert in _ALERT.finditer(got):
        labels = {name: json.loads(value) for name, value in _PAIR.findall(alert["labels"])}
        del labels["alertname"]
        found.append({"labels": labels, "says": {n: json.loads(v) for n, v in _PAIR.findall(alert["notes"])}})
    return found


def main() -> None:
    """Write told.yaml."""
    yaml = YAML()
    yaml.width = 4096
    with FILE.open("w") as out:
        yaml.dump([{"alert": case["alert"], "notices": _rendered(case)} for _, case in firing()], out)


if __name__ == "__main__":
    main()
