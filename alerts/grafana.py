"""Makes dashboards/*.json out of dashboards.yaml: `python alerts/grafana.py`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from ruamel.yaml import YAML

FOLDER: Final = Path(__file__).resolve().parent
WHERE: Final = 'namespace=~"$namespace"'

# Grafana's grid is 24 wide.
WIDTH: Final = {"timeseries": 12, "table": 12, "stat": 6}
HEIGHT: Final = 8
_COLUMNS: Final = 24

_SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}


def dashboards() -> dict[str, str]:
    """Each dashboard as the text of its file, by file name."""
    definitions = YAML(typ="safe", pure=True).load((FOLDER / "dashboards.yaml").read_text())
    return {f"{one['name']}.json": json.dumps(dashboard(one), indent=2) + "\n" for one in definitions}


def dashboard(definition: Mapping[str, Any]) -> dict[str, Any]:
    """One dashboard as Grafana imports it."""
    return {
        "uid": f"mutation-firewall-{definition['name']}",
        "title": definition["title"],
        "description": definition["about"],
        "tags": ["mutation-firewall"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {"list": [_datasource(), _namespace()]},
        "panels": _panels(definition["panels"]),
    }


def _panels(definitions: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
    placed, x, y = [], 0, 0
    for number, definition in enumerate(definitions, start=1):
        kind = definition.get("kind", "timeseries")
        if x + WIDTH[kind] > _COLUMNS:
            x, y = 0, y + HEIGHT
        placed.append(_panel(definition, kind, number, {"x": x, "y": y, "w": WIDTH[kind], "h": HEIGHT}))
        x += WIDTH[kind]
    return placed


def _panel(definition: Mapping[str, Any], kind: str, number: int, place: Mapping[str, int]) -> dict[str, Any]:
    table = kind == "table"
    return {
        "id": number,
        "title": definition["title"],
        "type": kind,
        "datasource": _SOURCE,
        "gridPos": place,
        "fieldConfig": {
            "defaults": {
                "unit": definition["unit"],
                "min": None,
                # Nothing found is good news in some panels, and none in others.
                **({"noValue": definition["none"]} if "none" in definition else {}),
            },
            "overrides": [],
        },
        "targets": [
            {
                "refId": chr(ord("A") + position),
                "datasource": _SOURCE,
                "expr": expression.replace("$where", WHERE),
                "legendFormat": legend or "__auto",
                "instant": kind != "timeseries",
                "format": "table" if table else "time_series",
            }
            for position, (legend, expression) in enumerate(definition["queries"].items())
        ],
    }


def _datasource() -> dict[str, Any]:
    return {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Data source"}


def _namespace() -> dict[str, Any]:
    return {
        "name": "namespace",
        "type": "query",
        "label": "Namespace",
        "datasource": _SOURCE,
        "query": {"query": "label_values(mfw_build_info, namespace)", "refId": "namespace"},
        # A process without Kubernetes has no such label: all of them includes none at all.
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
        "refresh": 2,
    }


if __name__ == "__main__":
    for name, text in dashboards().items():
        (FOLDER / "dashboards" / name).write_text(text)
