"""Only a whole answer is one, whatever is left out of it or put in its place."""

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.client import answers
from app.client.answers import Decision, Effect
from app.client.problems import ProblemError, ProblemKind
from app.core.types import Effect as CoreEffect
from app.errors import Kind
from app.surfaces.native.models import EXAMPLE_DECISION

FULL: dict[str, Any] = {
    "id": "01980c3e-6f2a-7c11-9d0e-3a5b1c2d4e5f",
    "decision": "allow",
    "reasons": [
        {
            "policy": "p",
            "rule": "r",
            "effect": "allow",
            "mode": "enforce",
            "message": "yes",
            "binding": "b",
            "exception": "e",
            "clause": {"path": "when", "text": "x", "line": 1, "column": 1, "outcome": "true", "values": {"a": 1}},
        }
    ],
    "policy_set": "sha256:" + "0" * 64,
    "mutation_digest": "sha256:" + "1" * 64,
    "ledger_index": 7,
    "receipt_hash": "sha256:" + "2" * 64,
    "decided_at": "2026-03-14T00:00:00.000000Z",
    "approval": {"anyOf": []},
    "budgets": [{"policy": "p", "budget": "b", "used": 1, "limit": 2, "window": "1h"}],
    "obligations": [{"policy": "p", "rule": "r", "key": "k", "value": None}],
    "warnings": ["w"],
    "annotations": {"a": "b"},
    "request_id": "q",
}
REQUIRED = ("id", "decision", "reasons", "policy_set", "mutation_digest", "ledger_index", "receipt_hash", "decided_at")


def read(value: object, **more: Any) -> Decision:
    return answers.decision(json.dumps(value).encode(), request_id=more.get("request_id"))


def test_every_member_is_read():
    decision = read(FULL, request_id="q")
    assert decision.allowed
    assert decision.effect is Effect.ALLOW
    assert decision.reasons[0].clause is not None
    assert decision.reasons[0].clause.values == {"a": 1}
    assert (decision.reasons[0].binding, decision.reasons[0].exception) == ("b", "e")
    assert decision.budgets[0].limit == 2
    assert decision.obligations[0].value is None
    assert (decision.warnings, decision.annotations, decision.approval) == (("w",), {"a": "b"}, {"anyOf": []})
    assert json.loads(decision.raw) == FULL


def test_the_documents_example_is_read():
    assert read(EXAMPLE_DECISION).ledger_index == EXAMPLE_DECISION["ledger_index"]


@pytest.mark.parametrize("effect", ["deny", "hold"])
def test_only_allow_is_allowed(effect):
    assert not read(FULL | {"decision": effect}).allowed


@pytest.mark.parametrize("name", REQUIRED)
def test_a_member_that_is_missing_or_wrong_makes_it_none(name):
    wrongs: list[dict[str, Any]] = [{}, {name: None}, {name: {}}, {name: True}, {name: 1.5}]
    for wrong in wrongs:
        with pytest.raises(ProblemError) as caught:
            read({key: value for key, value in FULL.items() if key != name} | wrong)
        assert caught.value.kind is ProblemKind.NOT_A_FIREWALL


@pytest.mark.parametrize("decision", ["ALLOW", "allow ", "perhaps", "", True, 1, ["allow"]])
def test_what_only_resembles_allow_is_none(decision):
    with pytest.raises(ProblemError):
        read(FULL | {"decision": decision})


def test_an_answer_about_another_request_is_none():
    for other in (FULL, {name: value for name, value in FULL.items() if name != "request_id"}):
        with pytest.raises(ProblemError, match="another request"):
            read(other, request_id="mine")


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b'"allow"', b"{", b"[" * 100_000, b"\xff"])
def test_what_is_no_object_is_none(body):
    with pytest.raises(ProblemError):
        answers.decision(body, request_id=None)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, child in inner for place in places(child, (*path, key)))]


@given(st.sampled_from(places(FULL)[1:]), st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.just([]))
def test_whatever_stands_in_a_place_it_is_a_decision_or_a_problem(place, value):
    changed = copy.deepcopy(FULL)
    parent: Any = changed
    for key in place[:-1]:
        parent = parent[key]
    parent[place[-1]] = value
    try:
        allowed: bool | None = read(changed).allowed
    except ProblemError:
        allowed = None
    assert allowed in {None, changed["decision"] == "allow"}


PROBLEM = {"title": "the request is malformed", "status": 400, "type": "https://mutationfirewall.io/problems/malformed"}


def batch(*results: dict[str, Any], count: int | None = None) -> answers.Batch:
    return answers.batch(json.dumps({"results": results}).encode(), count=len(results) if count is None else count)


def test_a_batch_has_its_results_in_their_order():
    made = batch(FULL | {"index": 0}, PROBLEM | {"index": 1}, FULL | {"index": 2, "decision": "deny"})
    first, second, third = made.results
    assert isinstance(first, Decision)
    assert isinstance(second, ProblemError)
    assert isinstance(third, Decision)
    assert (first.allowed, second.kind, third.effect) == (True, ProblemKind.MALFORMED, Effect.DENY)
    assert not made.allowed
    assert batch(FULL | {"index": 0}).allowed


@pytest.mark.parametrize("indexes", [[1, 0], [0, 0], [0], [0, 1, 2], [1, 2], [True, False]])
def test_results_that_are_not_those_of_the_batch_are_none(indexes):
    with pytest.raises(ProblemError):
        batch(*(FULL | {"index": index} for index in indexes), count=2)


def test_the_words_are_those_of_the_service():
    assert [effect.value for effect in Effect] == [effect.value for effect in CoreEffect]
    assert {kind.value for kind in Kind} <= {kind.value for kind in ProblemKind}


@pytest.mark.parametrize(
    ("read_one", "good"),
    [
        (
            answers.policy_set,
            {"digest": "d", "policies": 1, "rules": 1, "created_at": "t", "created_by": "b", "active": True},
        ),
        (
            answers.active_set,
            {"digest": "d", "source": "s", "since": "t", "stale": False, "policies": 1, "rules": 1, "documents": [{}]},
        ),
        (
            answers.activation,
            {
                "sequence": 1,
                "digest": "d",
                "reason": "r",
                "activated_by": "a",
                "activated_at": "t",
                "ledger_id": "i",
                "ledger_index": 0,
            },
        ),
        (answers.health, {"status": "healthy", "version": "1"}),
        (answers.readiness, {"ready": True, "reasons": []}),
    ],
)
def test_the_others_are_whole_as_well(read_one, good):
    assert read_one(good)
    assert answers.page({"items": [good], "next": 3}, read_one).next == 3
    for name in good:
        with pytest.raises(ProblemError):
            read_one({key: value for key, value in good.items() if key != name})
    with pytest.raises(ProblemError):
        answers.active_set({**good, "documents": [1]})


def test_what_may_be_left_out_has_a_place():
    made = answers.active_set(
        {
            "digest": "d",
            "source": "s",
            "since": "t",
            "stale": False,
            "policies": 1,
            "rules": 1,
            "documents": [],
            "sequence": 2,
            "signed_by": ["alice"],
        }
    )
    assert (made.sequence, made.signed_by) == (2, ("alice",))
