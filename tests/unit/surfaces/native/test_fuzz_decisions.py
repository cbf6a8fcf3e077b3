"""Hostile documents at `POST /v1/decisions` and its batches: an allow is about what any reader would have read."""

from hypothesis import HealthCheck, given, settings

from app.surfaces.native.batch import PATH as BATCH
from app.surfaces.native.batch import BatchEndpoint
from app.surfaces.native.models import EXAMPLE_REQUEST
from app.surfaces.native.routes import PATH, DecisionEndpoint
from tests.corpus.cases import EXAMPLES, example
from tests.corpus.hostile import hostile, reading
from tests.corpus.served import MAX_BODY_BYTES, Kept, ask, gate, problem_of, said_of, service

QUICK = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
DOCUMENTS = [EXAMPLE_REQUEST, *(example(file.name) for file in sorted(EXAMPLES.glob("*.json"))[::4])]
EFFECTS = {"allow", "deny", "hold"}


@QUICK
@given(hostile(DOCUMENTS))
def test_one(body):
    ledger = Kept()
    endpoint = DecisionEndpoint(service(ledger), gate=gate(), max_body_bytes=MAX_BODY_BYTES, timeout_seconds=10)
    answer = ask(endpoint, PATH, body)
    if answer.status != 200:
        problem_of(answer, reading)
        assert not ledger.entries
        return
    # Of the answer as of the question there is one reading.
    found, asked = reading(answer.body), reading(body)
    assert found["decision"] in EFFECTS
    assert (len(ledger.entries), found["ledger_index"]) == (1, 0)
    if found["decision"] == "allow":
        assert found["reasons"][0]["message"] == said_of(asked)


@QUICK
@given(hostile([{"mutations": [DOCUMENTS[0], *DOCUMENTS[3:6]], "mode": "each"}, {"mutations": [DOCUMENTS[1]]}]))
def test_many(body):
    ledger = Kept()
    endpoint = BatchEndpoint(service(ledger), gate=gate(), max_body_bytes=MAX_BODY_BYTES, timeout_seconds=10)
    answer = ask(endpoint, BATCH, body)
    if answer.status != 200:
        problem_of(answer, reading)
        assert not ledger.entries
        return
    found, asked = reading(answer.body), reading(body, max_depth=66)
    assert len(found["results"]) == len(asked["mutations"])
    decided = [one for one in found["results"] if "decision" in one]
    assert len(decided) == len(ledger.entries) == sum(found["summary"][effect] for effect in EFFECTS)
    for one in found["results"]:
        assert one.get("decision") in EFFECTS or 400 <= one["status"] < 500, one
