"""Steps 4 and 10: what is taken for a mutation, what is refused and where, and how a decision looks."""

import copy
import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from app.core.types import BudgetUse, Clause, Effect, Mode, Obligation, Outcome, Reason
from app.errors import FirewallError, Kind
from app.service.decide import Decision
from app.surfaces.native.models import EXAMPLE_DECISION, EXAMPLE_REQUEST, DecisionOut, DecisionRequest
from app.surfaces.native.wire import (
    MAX_RATIONALE_CHARS,
    MEMBERS,
    decision_to_wire,
    mutation_from_wire,
)
from app.surfaces.parties import MAX_ID_CHARS

GOOD: dict[str, Any] = {
    "subject": {"type": "agent", "id": "bot"},
    "action": {"name": "update"},
    "resource": {"type": "file", "id": "a.txt"},
    "change": {"after": 1},
}


def changed(**members: Any) -> dict[str, Any]:
    tree = copy.deepcopy(GOOD) | members
    return {name: value for name, value in tree.items() if value is not ...}


def refused(tree: Any) -> FirewallError:
    with pytest.raises(FirewallError) as caught:
        mutation_from_wire(tree)
    assert caught.value.kind is Kind.MALFORMED
    assert caught.value.fix
    assert caught.value.detail[0] not in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    assert not caught.value.detail.endswith(".")
    return caught.value


def test_the_least_mutation_has_all_its_properties() -> None:
    mutation = mutation_from_wire(GOOD)
    assert mutation.subject == {"type": "agent", "id": "bot", "properties": {}}
    assert mutation.action == {"name": "update", "properties": {}}
    assert mutation.resource == {"type": "file", "id": "a.txt", "properties": {}}
    assert mutation.change == {"after": 1}
    assert (mutation.context, mutation.request_id, mutation.rationale) == ({}, None, None)


def test_everything_that_may_be_sent_arrives() -> None:
    mutation = mutation_from_wire(
        {
            "subject": {"type": "agent", "id": "bot", "properties": {"owner": "o"}},
            "action": {"name": "update", "properties": {"force": True}},
            "resource": {"type": "file", "id": "a.txt", "properties": {"mode": 1}},
            "change": {"before": None, "after": 1, "patch": [], "diff": "", "statement": {}, "manifest": {}},
            "context": {"ticket": "T-1"},
            "request_id": "r",
            "rationale": "why",
        }
    )
    assert mutation.subject["properties"] == {"owner": "o"}
    assert mutation.action["properties"] == {"force": True}
    assert mutation.resource["properties"] == {"mode": 1}
    assert set(mutation.change) == {"before", "after", "patch", "diff", "statement", "manifest"}
    assert mutation.context == {"ticket": "T-1"}
    assert (mutation.request_id, mutation.rationale) == ("r", "why")


def test_a_change_may_be_only_what_was_there_before() -> None:
    assert mutation_from_wire(changed(change={"before": None})).change == {"before": None}


@pytest.mark.parametrize("tree", [None, True, 1, 1.5, "x", [], [GOOD]])
def test_what_is_no_object_is_refused_at_the_root(tree: Any) -> None:
    assert refused(tree).pointer == ""


@pytest.mark.parametrize("name", ["subject", "action", "resource", "change"])
def test_a_missing_member_is_named(name: str) -> None:
    error = refused(changed(**{name: ...}))
    assert error.pointer == f"/{name}"
    assert f"`{name}` is missing" in error.detail


@pytest.mark.parametrize("value", [None, 1, "x", [], True])
@pytest.mark.parametrize("name", ["subject", "action", "resource", "change", "context"])
def test_a_member_of_the_wrong_type_is_named(name: str, value: Any) -> None:
    assert refused(changed(**{name: value})).pointer == f"/{name}"


@pytest.mark.parametrize(
    ("tree", "pointer", "fix"),
    [
        (changed(subjct={}), "/subjct", "did you mean `subject`?"),
        (changed(requestId="x"), "/requestId", "did you mean `request_id`?"),
        (
            changed(subject={"type": "a", "id": "b", "propertys": {}}),
            "/subject/propertys",
            "did you mean `properties`?",
        ),
        (changed(action={"nme": "a"}), "/action/nme", "did you mean `name`?"),
        (changed(resource={"type": "a", "id": "b", "a/b~": 1}), "/resource/a~1b~0", "known members are"),
        (changed(zzz=1), "/zzz", "known members are"),
    ],
)
def test_an_unknown_member_is_named_with_the_one_that_was_meant(tree: Any, pointer: str, fix: str) -> None:
    error = refused(tree)
    assert error.pointer == pointer
    assert error.fix is not None
    assert fix in error.fix


@pytest.mark.parametrize(
    ("parent", "name"), [("subject", "type"), ("subject", "id"), ("resource", "id"), ("action", "name")]
)
@pytest.mark.parametrize("value", [..., None, 1, "", "x" * (MAX_ID_CHARS + 1), ["a"]])
def test_ids_are_strings_that_are_neither_empty_nor_documents(parent: str, name: str, value: Any) -> None:
    member = dict(GOOD[parent]) | {name: value}
    member = {key: text for key, text in member.items() if text is not ...}
    error = refused(changed(**{parent: member}))
    assert error.pointer == f"/{parent}/{name}"
    assert f"`{parent}.{name}`" in error.detail


@pytest.mark.parametrize("parent", ["subject", "action", "resource"])
@pytest.mark.parametrize("value", [None, 1, "x", []])
def test_properties_are_an_object(parent: str, value: Any) -> None:
    assert refused(changed(**{parent: GOOD[parent] | {"properties": value}})).pointer == f"/{parent}/properties"


@pytest.mark.parametrize(("name", "limit"), [("request_id", MAX_ID_CHARS), ("rationale", MAX_RATIONALE_CHARS)])
def test_the_texts_are_strings_within_their_limits(name: str, limit: int) -> None:
    mutation_from_wire(changed(**{name: "x" * limit}))
    for value in (None, 1, "", "x" * (limit + 1)):
        assert refused(changed(**{name: value})).pointer == f"/{name}"


def test_a_long_name_is_quoted_in_part() -> None:
    error = refused(changed(**{"x" * 100_000: 1}))
    assert len(error.detail) < 200
    assert error.pointer == ""


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)
NEARLY = st.fixed_dictionaries(
    {},
    optional={
        name: JSON
        | st.just(GOOD.get(name, {}))
        | st.dictionaries(st.sampled_from(["type", "id", "name", "properties", "before", "diff", "x"]), JSON)
        for name in MEMBERS
    },
)


@given(JSON | NEARLY)
def test_any_document_is_a_mutation_or_refused_where_it_is_wrong(tree: Any) -> None:
    try:
        mutation = mutation_from_wire(tree)
    except FirewallError as error:
        refusal = error
    else:
        assert mutation.subject["type"]
        return
    assert refusal.kind is Kind.MALFORMED
    assert refusal.pointer is not None


@given(NEARLY)
def test_the_document_of_the_api_and_the_parser_agree_above_the_change(tree: Any) -> None:
    """The schema says more about a change than this step does; about everything else it says the same."""
    schema = DecisionRequest.model_json_schema()
    schema["$defs"]["Change"] = {"type": "object"}
    documented = Draft202012Validator(schema).is_valid(tree)
    try:
        mutation_from_wire(tree)
    except FirewallError:
        assert not documented
    else:
        assert documented


def decision(**changes: Any) -> Decision:
    base: dict[str, Any] = {
        "id": "01980c3e-6f2a-7c11-9d0e-3a5b1c2d4e5f",
        "effect": Effect.ALLOW,
        "reasons": (Reason("p", "r", Effect.ALLOW, "m"),),
        "policy_set": "sha256:" + "1f" * 32,
        "mutation_digest": "sha256:" + "2e" * 32,
        "ledger_index": 41,
        "receipt_hash": "sha256:" + "3d" * 32,
        "decided_at": "2026-01-31T09:30:00.000000Z",
        "approval": None,
        "request_id": None,
    }
    return Decision(**(base | changes))


def test_a_decision_is_written_without_what_does_not_apply() -> None:
    assert json.loads(decision_to_wire(decision())) == {
        "id": "01980c3e-6f2a-7c11-9d0e-3a5b1c2d4e5f",
        "decision": "allow",
        "reasons": [{"policy": "p", "rule": "r", "effect": "allow", "mode": "enforce", "message": "m"}],
        "policy_set": "sha256:" + "1f" * 32,
        "mutation_digest": "sha256:" + "2e" * 32,
        "ledger_index": 41,
        "receipt_hash": "sha256:" + "3d" * 32,
        "decided_at": "2026-01-31T09:30:00.000000Z",
    }


CLAUSE = Clause("when", "a > b", 1, 1, Outcome.TRUE, {"a": 2, "b": None})


def test_a_hold_says_what_would_lift_it() -> None:
    body = orjson.loads(
        decision_to_wire(
            decision(
                effect=Effect.HOLD,
                reasons=(
                    Reason("p", "r", Effect.HOLD, "m", clause=CLAUSE),
                    Reason("q", "s", Effect.DENY, "n", mode=Mode.SHADOW),
                ),
                approval={"anyOf": [{"group": "sre", "count": 2}]},
                request_id="r-1",
            )
        )
    )
    assert body["decision"] == "hold"
    assert body["approval"] == {"anyOf": [{"group": "sre", "count": 2}]}
    assert body["request_id"] == "r-1"
    assert body["reasons"][0]["clause"] == {
        "path": "when",
        "text": "a > b",
        "line": 1,
        "column": 1,
        "outcome": "true",
        "values": {"a": 2, "b": None},
    }
    assert body["reasons"][1] == {"policy": "q", "rule": "s", "effect": "deny", "mode": "shadow", "message": "n"}


def test_a_reason_that_did_not_count_says_so() -> None:
    reasons = (Reason("p", "r", Effect.ALLOW, "m"), Reason("q", "s", Effect.HOLD, "n", exception="e"))
    body = orjson.loads(decision_to_wire(decision(reasons=reasons)))
    assert [reason.get("exception", "none") for reason in body["reasons"]] == ["none", "e"]
    DecisionOut.model_validate(body)


def test_obligations_are_written_where_there_are_any() -> None:
    obligations = (Obligation("p", "r", "redact", ["a", {"b": 1.5}]), Obligation("p", "r", "level", None))
    body = orjson.loads(decision_to_wire(decision(obligations=obligations)))
    assert body["obligations"] == [
        {"policy": "p", "rule": "r", "key": "redact", "value": ["a", {"b": 1.5}]},
        {"policy": "p", "rule": "r", "key": "level", "value": None},
    ]
    DecisionOut.model_validate(body)


def test_budgets_are_written_where_they_had_a_say() -> None:
    use = BudgetUse("p", "b", Mode.ENFORCE, b"k" * 32, None, limit=20, window="1h", window_seconds=3600, used=3)
    shadow, uncounted = use._replace(mode=Mode.SHADOW), use._replace(used=None)
    body = orjson.loads(decision_to_wire(decision(budgets=(use, shadow, uncounted))))
    assert body["budgets"] == [{"policy": "p", "budget": "b", "used": 3, "limit": 20, "window": "1h"}]
    DecisionOut.model_validate(body)
    assert "budgets" not in orjson.loads(decision_to_wire(decision(budgets=(shadow,))))


@given(
    effect=st.sampled_from(Effect),
    message=st.text(max_size=20),
    clause=st.sampled_from([CLAUSE, None]),
    request_id=st.text(max_size=5) | st.none(),
)
def test_every_decision_fits_the_document(
    effect: Effect, message: str, clause: Clause | None, request_id: str | None
) -> None:
    reasons = (Reason("p", "r", effect, message, clause=clause),)
    body = orjson.loads(decision_to_wire(decision(effect=effect, reasons=reasons, request_id=request_id)))
    DecisionOut.model_validate(body)


def test_the_examples_of_the_document_are_true() -> None:
    mutation_from_wire(EXAMPLE_REQUEST)
    DecisionRequest.model_validate(EXAMPLE_REQUEST)
    DecisionOut.model_validate(EXAMPLE_DECISION)


def test_what_admission_policies_say_is_written_where_they_say_anything() -> None:
    without = orjson.loads(decision_to_wire(decision()))
    assert not {"warnings", "annotations"} & without.keys()
    assert "binding" not in without["reasons"][0]
    reasons = (Reason("p", "validations[0]", Effect.DENY, "no", binding="b"),)
    given = decision(reasons=reasons, warnings=("careful",), annotations={"p/k": "v"})
    body = orjson.loads(decision_to_wire(given))
    assert body["reasons"][0]["binding"] == "b"
    assert (body["warnings"], body["annotations"]) == (["careful"], {"p/k": "v"})
