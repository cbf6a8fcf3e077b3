"""The example of the page loads, and decides as the page says."""

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from app.core.decide import decide
from app.core.normalise import normalise
from app.core.types import Effect
from app.policies.lint import lint
from app.policies.load import check_text
from app.surfaces.native.wire import mutation_from_wire

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "admission-policies.md").read_text()
NOW = datetime(2026, 3, 13, 12, tzinfo=UTC)


@pytest.mark.parametrize(("replicas", "effect"), [(5, Effect.ALLOW), (6, Effect.DENY)])
def test_the_example_decides(replicas, effect):
    (text,) = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    checked = check_text(text, name="p.yaml")
    assert not checked.diagnostics
    assert checked.policy_set is not None
    assert not [
        one for one in lint(checked.documents, sources=checked.sources, now=NOW) if one.code == "allows-nothing"
    ]
    after = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {"replicas": replicas}}
    body = {
        "subject": {"type": "agent", "id": "a"},
        "action": {"name": "update"},
        "resource": {"type": "apps/Deployment", "id": "default/web"},
        "change": {"after": after},
    }
    verdict = decide(checked.policy_set, normalise(mutation_from_wire(body)), NOW)
    assert verdict.effect is effect
    reason = verdict.reasons[0]
    if effect is Effect.DENY:
        assert (reason.policy, reason.binding, reason.rule) == ("replicas.example.com", "replicas", "validations[0]")
        assert reason.message == "at most 5 replicas"
        assert reason.clause is not None
        assert reason.clause.path == "validations[0].expression"
        assert reason.clause.values == {"object.spec.replicas": 6, "params.maxReplicas": 5}
