"""The corpus as AdmissionReviews is decided as it is on the native surface."""

import orjson
import pytest

from app.core.admission.callers import ClusterView, agent_rule, environment_rule
from app.core.decide import decide
from app.core.normalise import normalise
from app.policies.load import load_directory
from app.surfaces.admission.wire import review_of
from tests.corpus.cases import STARTER, load
from tests.corpus.reviews import environment_of, review_for

POLICY_SET = load_directory(STARTER)
CASES = [case for case in load() if review_for(case) is not None]


def test_there_are_many():
    assert len(CASES) > 60


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_case(case):
    environment = environment_of(case)
    view = ClusterView(
        agents=(agent_rule("user=*"),),
        environments=() if environment is None else (environment_rule(f"*={environment}"),),
    )
    mutation = review_of(orjson.dumps(review_for(case)), view).mutation
    native = case.parsed()
    assert mutation.resource["type"] == native.resource["type"]
    assert mutation.resource["id"] == native.resource["id"]
    assert mutation.action["name"] == native.action["name"]
    found, expected = (decide(POLICY_SET, normalise(one), case.now) for one in (mutation, native))
    assert found.effect == case.decision
    assert [(one.policy, one.rule, one.message) for one in found.reasons] == [
        (one.policy, one.rule, one.message) for one in expected.reasons
    ]
