"""Hostile documents at the AuthZEN surface: a yes is about what any reader would have read, and all else is a 400."""

from hypothesis import HealthCheck, given, settings

from app.errors import FirewallError, Kind
from app.service.search import Wanted
from app.surfaces.authzen.metadata import EVALUATION, EVALUATIONS
from app.surfaces.authzen.models import EXAMPLE_EVALUATION, EXAMPLE_EVALUATIONS, EXAMPLES
from app.surfaces.authzen.routes import EvaluationEndpoint, EvaluationsEndpoint
from app.surfaces.authzen.wire import search_of
from tests.corpus.hostile import hostile, reading
from tests.corpus.served import MAX_BODY_BYTES, Kept, ask, gate, problem_of, said_of, service

QUICK = settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))


@QUICK
@given(hostile([EXAMPLE_EVALUATION]))
def test_evaluation(body):
    ledger = Kept()
    endpoint = EvaluationEndpoint(service(ledger), gate=gate(), max_body_bytes=MAX_BODY_BYTES, timeout_seconds=10)
    answer = ask(endpoint, EVALUATION, body)
    if answer.status != 200:
        assert problem_of(answer, reading)["status"] in {400, 413}
        assert not ledger.entries
        return
    found, asked = reading(answer.body), reading(body)
    assert isinstance(found["decision"], bool)
    assert len(ledger.entries) == 1
    if found["decision"]:
        assert found["context"]["reason"] == said_of(asked)


@QUICK
@given(hostile([EXAMPLE_EVALUATIONS]))
def test_evaluations(body):
    ledger = Kept()
    endpoint = EvaluationsEndpoint(service(ledger), gate=gate(), max_body_bytes=MAX_BODY_BYTES, timeout_seconds=10)
    answer = ask(endpoint, EVALUATIONS, body)
    if answer.status != 200:
        assert problem_of(answer, reading)["status"] in {400, 413}
        assert not ledger.entries
        return
    found, asked = reading(answer.body), reading(body, max_depth=66)
    listed = asked.get("evaluations") or []
    results = found["evaluations"] if listed else [found]
    assert len(results) <= max(1, len(listed))
    decided = 0
    for one in results:
        assert isinstance(one["decision"], bool)
        error = one["context"].get("error")
        assert error is None or (not one["decision"] and 400 <= error["status"] < 500)
        decided += error is None
    assert decided == len(ledger.entries)


@QUICK
@given(hostile([EXAMPLES[wanted] for wanted in Wanted]))
def test_search(body):
    try:
        tree = reading(body)
    except ValueError:
        return  # nothing of it reaches the parser of searches
    for wanted in Wanted:
        try:
            search = search_of(tree, wanted)
        except FirewallError as error:
            refused: FirewallError | None = error
        else:
            refused = None
            assert search.limit >= 0
        assert refused is None or refused.kind is Kind.MALFORMED
