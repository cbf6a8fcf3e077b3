"""The corpus: the tests of the starter policies, `policies/starter.tests/`, which every way of deciding must answer alike."""

import datetime as dt
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.core.types import Mutation
from app.policies.suite import NOW, read_suites
from app.surfaces.native.wire import mutation_from_wire

ROOT = Path(__file__).parent.parent.parent
EXAMPLES = ROOT / "examples"
STARTER = ROOT / "policies" / "starter"
TESTS = ROOT / "policies" / "starter.tests"

__all__ = ["EXAMPLES", "NOW", "ROOT", "STARTER", "TESTS", "Case", "example", "load", "mutation"]


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
    return mutation_from_wire(body)


def example(name: str) -> dict[str, Any]:
    """Read one example."""
    body: dict[str, Any] = json.loads((EXAMPLES / name).read_text())
    return body


def load() -> list[Case]:
    """Read every case of every file."""
    return [
        Case(
            case.name,
            case.body,
            case.now,
            case.expect.decision,
            [_short(reason) for reason in case.expect.reasons or ()],
        )
        for suite in read_suites([TESTS], parse=mutation_from_wire)
        for case in suite.cases
    ]


def _short(reason: dict[str, str]) -> dict[str, str]:
    """A reason with its `mode` only where that is not `enforce`."""
    return {name: text for name, text in reason.items() if (name, text) != ("mode", "enforce")}
