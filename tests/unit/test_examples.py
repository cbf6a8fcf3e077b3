"""Each example decides as its name says."""

import datetime as dt

import pytest

from app.core import strict_json
from app.core.decide import RULE_ERROR, decide
from app.core.normalise import normalise
from app.core.types import Effect
from app.policies.load import load_directory
from tests.corpus.cases import EXAMPLES, NOW, STARTER, example, mutation

POLICY_SET = load_directory(STARTER)
NAMES = sorted(file.name for file in EXAMPLES.glob("*.json"))


@pytest.mark.parametrize("name", NAMES)
def test_example(name):
    verdict = decide(POLICY_SET, normalise(mutation(example(name))), dt.datetime.fromisoformat(NOW))
    assert verdict.effect == name.split("-")[0]
    assert not any(reason.message.startswith(RULE_ERROR) for reason in verdict.reasons)
    assert (verdict.approval is not None) is (verdict.effect is Effect.HOLD)


@pytest.mark.parametrize("name", NAMES)
def test_it_passes_the_guard_of_the_wire(name):
    document = strict_json.parse((EXAMPLES / name).read_bytes())
    assert document.tree == example(name)


def test_every_effect_has_examples():
    assert {name.split("-")[0] for name in NAMES} == set(Effect)
