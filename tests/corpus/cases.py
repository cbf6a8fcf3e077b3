"""The corpus: cases in YAML that every way of deciding must answer alike.

A file is a list of cases:

- `name`: unique in the corpus
- `example`: a file of `examples/`, or `mutation`: the body of a request
- `edit`: RFC 6902 operations on that body, optional
- `now`: the instant of the decision, by default a Friday at noon
- `expect`: `decision`, and `reasons` in order: `policy`, `rule`, and `mode` where it is not `enforce`
"""

import copy
import datetime as dt
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.core import patch
from app.core.types import Mutation
from app.policies.tree import documents

HERE = Path(__file__).parent
EXAMPLES = HERE.parent.parent / "examples"
STARTER = HERE.parent.parent / "policies" / "starter"
NOW = "2026-03-13T12:00:00Z"


@dataclass(frozen=True)
class Case:
    """One question and its answer."""

    name: str
    mutation: dict[str, Any]
    now: dt.datetime
    decision: str
    reasons: list[dict[str, str]]

    def parsed(self) -> Mutation:
        """Give the mutation as the core knows it."""
        return mutation(self.mutation)


def mutation(body: dict[str, Any]) -> Mutation:
    """Give a request body as the core knows it."""
    entity: dict[str, Any] = {"properties": {}}
    return Mutation(
        subject={**entity, **body["subject"]},
        action={**entity, **body["action"]},
        resource={**entity, **body["resource"]},
        change=body["change"],
        context=body.get("context", {}),
    )


def example(name: str) -> dict[str, Any]:
    """Read one example."""
    body: dict[str, Any] = json.loads((EXAMPLES / name).read_text())
    return body


def load() -> list[Case]:
    """Read every case of every file."""
    return [_case(raw) for file in sorted(HERE.glob("*.yaml")) for raw in _list(file)]


def _list(file: Path) -> list[Any]:
    (root,) = documents(file.read_text())
    cases = root.plain()
    assert isinstance(cases, list)
    return cases


def _case(raw: dict[str, Any]) -> Case:
    assert raw.keys() <= {"name", "example", "mutation", "edit", "now", "expect"}, raw["name"]
    body = example(raw["example"]) if "example" in raw else copy.deepcopy(raw["mutation"])
    if "edit" in raw:
        body = patch.apply(patch.parse(raw["edit"]), before=body)
    expect = raw["expect"]
    assert expect.keys() == {"decision", "reasons"}, raw["name"]
    now = dt.datetime.fromisoformat(raw.get("now", NOW))
    return Case(raw["name"], body, now, expect["decision"], expect["reasons"])
