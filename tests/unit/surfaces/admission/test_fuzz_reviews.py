"""Hostile AdmissionReviews: whoever can be answered is told no, by a message that steers nobody's terminal."""

import unicodedata

from hypothesis import HealthCheck, given, settings

from app.core.admission.callers import ClusterView, agent_rule, environment_rule
from app.surfaces.admission.models import EXAMPLE
from app.surfaces.admission.routes import VALIDATE, AdmissionEndpoint
from tests.corpus.cases import load
from tests.corpus.hostile import hostile, reading
from tests.corpus.reviews import review_for
from tests.corpus.served import MAX_BODY_BYTES, Kept, ask, gate, problem_of, service

REVIEWS = [EXAMPLE, *[review for case in load() if (review := review_for(case)) is not None][::8]]
VIEW = ClusterView(
    agents=(agent_rule("user=*copilot*"), agent_rule("extra=k=*")),
    environments=(environment_rule("*=production"),),
)


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(hostile(REVIEWS))
def test_review(body):
    ledger = Kept()
    endpoint = AdmissionEndpoint(
        service(ledger), gate=gate(), view=VIEW, api_servers=(), max_body_bytes=MAX_BODY_BYTES, timeout_seconds=10
    )
    answer = ask(endpoint, VALIDATE, body)
    if answer.status != 200:
        problem_of(answer, reading)
        assert not ledger.entries
        return
    review = reading(answer.body)
    assert review["kind"] == "AdmissionReview"
    response = review["response"]
    if response["allowed"]:
        asked = reading(body, max_depth=66)
        assert (review["apiVersion"], response["uid"]) == ("admission.k8s.io/v1", asked["request"]["uid"])
        assert len(ledger.entries) == (0 if asked["request"].get("dryRun") else 1)
        return
    status = response["status"]
    assert 400 <= status["code"] < 500, status
    shown = [status["message"], *(cause["message"] for cause in status.get("details", {}).get("causes", ()))]
    for text in (*shown, *response.get("warnings", ())):
        bad = [c for c in text if unicodedata.category(c) in {"Cc", "Cf", "Zl", "Zp", "Cs"} and c != "\n"]
        assert not bad, text
