"""AuthZEN 1.0 on the wire: what becomes of a request, and of an outcome."""

import copy
from typing import Any

import orjson
import pytest

from app.core.types import Effect, Obligation, Reason
from app.errors import FirewallError, Kind
from app.service.decide import Decision
from app.service.search import Found, Wanted
from app.surfaces.authzen.wire import (
    MAX_EVALUATIONS,
    MAX_FULFILS,
    PAGE_DEFAULT,
    PAGE_MAX,
    evaluation_of,
    evaluation_to_wire,
    evaluations_of,
    evaluations_to_wire,
    found_to_wire,
    search_of,
)

GOOD: dict[str, Any] = {
    "subject": {"type": "user", "id": "alice", "properties": {"role": "sre"}, "unknown": 1},
    "action": {"name": "read", "more": 2},
    "resource": {"type": "doc", "id": "1"},
    "context": {"time": "now", "change": {"after": 1}},
    "extra": True,
}


def changed(**members: Any) -> dict[str, Any]:
    tree = {**copy.deepcopy(GOOD), **members}
    return {name: value for name, value in tree.items() if value is not ...}


def test_unknown_members_are_passed_over_and_the_change_leaves_the_context():
    mutation, fulfilled = evaluation_of(GOOD)
    assert fulfilled == frozenset()
    assert mutation.subject == {"type": "user", "id": "alice", "properties": {"role": "sre"}}
    assert mutation.action == {"name": "read", "properties": {}}
    assert (mutation.change, mutation.context) == ({"after": 1}, {"time": "now"})
    assert evaluation_of(changed(context=...)).mutation.change == {}


@pytest.mark.parametrize(
    ("tree", "pointer"),
    [
        ([], ""),
        (None, ""),
        (changed(subject=...), "/subject"),
        (changed(action=...), "/action"),
        (changed(resource=...), "/resource"),
        (changed(subject="alice"), "/subject"),
        (changed(subject={"type": "user"}), "/subject/id"),
        (changed(subject={"type": "user", "id": 1}), "/subject/id"),
        (changed(subject={"type": "", "id": "a"}), "/subject/type"),
        (changed(subject={"type": "user", "id": "a" * 513}), "/subject/id"),
        (changed(subject={"type": "user", "id": "a", "properties": []}), "/subject/properties"),
        (changed(action={}), "/action/name"),
        (changed(action=7), "/action"),
        (changed(context=[]), "/context"),
        (changed(context={"change": []}), "/context/change"),
        (changed(context={"fulfils": "audit/ticket"}), "/context/fulfils"),
        (changed(context={"fulfils": {"audit/ticket": True}}), "/context/fulfils"),
        (changed(context={"fulfils": ["audit/ticket", None]}), "/context/fulfils"),
        (changed(context={"fulfils": True}), "/context/fulfils"),
        (changed(context={"fulfils": ["a"] * (MAX_FULFILS + 1)}), "/context/fulfils"),
    ],
)
def test_what_is_no_evaluation(tree, pointer):
    with pytest.raises(FirewallError) as caught:
        evaluation_of(tree)
    assert (caught.value.kind, caught.value.pointer) == (Kind.MALFORMED, pointer)


def test_defaults_are_taken_whole():
    batch, single = evaluations_of(
        changed(
            evaluations=[
                {},
                {"subject": {"type": "user", "id": "bob"}},
                {"context": {}},
                {"resource": {"type": "doc"}},
                7,
            ]
        )
    )
    assert not single
    first, second, third, fourth, fifth = batch.items
    assert first == evaluation_of(GOOD).mutation
    assert not isinstance(second, FirewallError)
    # Not merged: what the default has of properties is gone.
    assert second.subject == {"type": "user", "id": "bob", "properties": {}}
    assert not isinstance(third, FirewallError)
    assert (third.change, third.context) == ({}, {})
    assert isinstance(fourth, FirewallError)
    assert fourth.pointer == "/resource/id"
    assert isinstance(fifth, FirewallError)
    assert batch.until is None


@pytest.mark.parametrize("evaluations", [..., []])
def test_without_evaluations_it_is_a_single_one(evaluations):
    batch, single = evaluations_of(changed(evaluations=evaluations))
    assert (list(batch.items), single) == ([evaluation_of(GOOD).mutation], True)


@pytest.mark.parametrize(
    ("semantic", "until"),
    [("execute_all", None), ("deny_on_first_deny", False), ("permit_on_first_permit", True)],
)
def test_the_three_semantics(semantic, until):
    tree = changed(evaluations=[{}], options={"evaluations_semantic": semantic, "another": 1})
    assert evaluations_of(tree)[0].until is until


@pytest.mark.parametrize(
    ("tree", "pointer", "kind"),
    [
        ([], "", Kind.MALFORMED),
        (changed(evaluations={}), "/evaluations", Kind.MALFORMED),
        (changed(evaluations=[{}] * (MAX_EVALUATIONS + 1)), "/evaluations", Kind.TOO_LARGE),
        (changed(evaluations=[{}], options=[]), "/options", Kind.MALFORMED),
        (
            changed(evaluations=[{}], options={"evaluations_semantic": "x"}),
            "/options/evaluations_semantic",
            Kind.MALFORMED,
        ),
        (
            changed(evaluations=[{}], options={"evaluations_semantic": 1}),
            "/options/evaluations_semantic",
            Kind.MALFORMED,
        ),
        ({"subject": GOOD["subject"]}, "/action", Kind.MALFORMED),
    ],
)
def test_what_are_no_evaluations(tree, pointer, kind):
    with pytest.raises(FirewallError) as caught:
        evaluations_of(tree)
    assert (caught.value.kind, caught.value.pointer) == (kind, pointer)


def decision(effect, **members):
    reason = Reason("p", "r", effect, "because")
    return Decision("id", effect, (reason,), "set", "digest", 7, "hash", "at", None, None, **members)  # type: ignore[arg-type]


@pytest.mark.parametrize(("effect", "yes"), [(Effect.ALLOW, True), (Effect.DENY, False), (Effect.HOLD, False)])
def test_only_an_allow_is_a_yes(effect, yes):
    answer = orjson.loads(evaluation_to_wire(decision(effect), ()))
    assert answer["decision"] is yes
    context = answer["context"]
    assert (context["evaluation_id"], context["evaluated_at"], context["effect"]) == ("id", "at", effect)
    assert (context["reason"], context["ledger_index"]) == ("because", 7)
    assert ("access_request" in context) is (effect is Effect.HOLD)
    if effect is Effect.HOLD:
        assert context["access_request"] == {"requestable": True, "template": "p/r", "reason": "approval_required"}


DUTIES = (Obligation("p", "r", "ticket", 7), Obligation("q", "s", "mask", None), Obligation("q", "t", "ticket", 8))


@pytest.mark.parametrize(
    ("fulfilled", "unmet"),
    [
        ((), ["mask", "ticket"]),
        (("ticket",), ["mask"]),
        (("mask", "Ticket"), ["ticket"]),
        (("mask", "ticket"), []),
        (("other", "mask", "ticket"), []),
    ],
)
def test_an_allow_is_a_yes_for_who_meets_all_of_its_obligations(fulfilled, unmet):
    answer = orjson.loads(evaluation_to_wire(decision(Effect.ALLOW, obligations=DUTIES), fulfilled))
    context = answer["context"]
    assert answer["decision"] is not bool(unmet)
    # What is to be done stands there either way, and what the policies said.
    assert (context["effect"], len(context["obligations"])) == ("allow", 3)
    assert context.get("unmet", []) == unmet
    assert (context["reason"] == "because") is not bool(unmet)
    for key in unmet:
        assert f"`{key}` of " in context["reason"]
    assert ("context.fulfils" in context.get("fix", "")) is bool(unmet)


@pytest.mark.parametrize("effect", [Effect.HOLD, Effect.DENY])
def test_what_is_not_allowed_says_why_and_nothing_of_obligations(effect):
    answer = orjson.loads(evaluation_to_wire(decision(effect, obligations=DUTIES), ()))
    assert answer["decision"] is False
    assert answer["context"]["reason"] == "because"
    assert len(answer["context"]["obligations"]) == 3
    assert not answer["context"].keys() & {"unmet", "fix"}


def test_what_is_met_is_said_of_each_evaluation_and_is_no_word_for_the_policies():
    ticket = {"context": {"fulfils": ["ticket"], "time": "now"}}
    batch, _ = evaluations_of(changed(evaluations=[{}, ticket, {"resource": 1}], context={"fulfils": ["mask"]}))
    assert batch.fulfilled == [{"mask"}, {"ticket"}, set()]
    assert [one.context for one in batch.items if not isinstance(one, FirewallError)] == [{}, {"time": "now"}]
    allowed = decision(Effect.ALLOW, obligations=DUTIES[1:2])
    found = orjson.loads(evaluations_to_wire([allowed, allowed], batch.fulfilled))["evaluations"]
    assert [one["decision"] for one in found] == [True, False]
    assert search_of({**GOOD, **ticket}, Wanted.ACTION).fulfilled == {"ticket"}


def test_what_could_not_be_decided_is_a_no_with_its_place():
    errors = [
        FirewallError(Kind.MALFORMED, "no", pointer="/change/after", fix="say so"),
        FirewallError(Kind.FORBIDDEN, "not you", pointer="/changes"),
        FirewallError(Kind.UNAVAILABLE, "away"),
    ]
    found = orjson.loads(evaluations_to_wire([*errors, decision(Effect.ALLOW)], [()] * 4))["evaluations"]
    assert [one["decision"] for one in found] == [False, False, False, True]
    assert [one["context"]["error"] for one in found[:3]] == [
        {"status": 400, "message": "no", "pointer": "/evaluations/0/context/change/after", "fix": "say so"},
        {"status": 403, "message": "not you", "pointer": "/evaluations/1/changes"},
        {"status": 503, "message": "away", "pointer": "/evaluations/2"},
    ]


def test_a_search_has_no_need_of_what_it_looks_for():
    found = search_of(changed(subject={"type": "user", "properties": {"a": 1}}), Wanted.SUBJECT)
    assert found.given["subject"] == {"type": "user", "id": "-", "properties": {"a": 1}}
    assert (found.limit, found.after, found.change, found.context) == (
        PAGE_DEFAULT,
        None,
        {"after": 1},
        {"time": "now"},
    )
    assert search_of(changed(resource={"type": "doc", "id": "ignored"}), Wanted.RESOURCE).given["resource"]["id"] == "-"
    assert "action" not in search_of(changed(action=...), Wanted.ACTION).given
    assert search_of(changed(page={"limit": 10 * PAGE_MAX}), Wanted.ACTION).limit == PAGE_MAX


def test_a_token_is_for_the_search_that_it_came_from():
    first = changed(page={"limit": 1})
    search = search_of(first, Wanted.ACTION)
    answer = orjson.loads(found_to_wire(search, Found([{"name": "a"}], "a")))
    assert answer["page"]["count"] == 1
    token = answer["page"]["next_token"]
    assert search_of(changed(page={"limit": 1, "token": token}), Wanted.ACTION).after == "a"
    # As in the example of section 8.2.3: what is left out is as it was.
    for page in ({"token": token}, {"limit": 1, "token": token}):
        found = search_of(changed(page=page), Wanted.ACTION)
        assert (found.after, found.limit, found.fingerprint, found.paged) == (
            "a",
            1,
            search.fingerprint,
            search.paged,
        )
    assert search_of(changed(page={"limit": 1, "token": ""}), Wanted.ACTION).after is None
    for tree, wanted in (
        (changed(page={"limit": 2, "token": token}), Wanted.ACTION),
        (changed(page={"token": token, "properties": {}}), Wanted.ACTION),
        (changed(page={"limit": 1, "token": token}, context={}), Wanted.ACTION),
        (changed(page={"token": token}, context={}), Wanted.ACTION),
        (changed(page={"limit": 1, "token": token}), Wanted.RESOURCE),
        (changed(page={"limit": 1, "token": "!"}), Wanted.ACTION),
        (changed(page={"limit": 1, "token": "W10="}), Wanted.ACTION),
        (changed(page={"limit": 1, "token": 1}), Wanted.ACTION),
        (changed(page={"limit": 1, "token": "x" * 5000}), Wanted.ACTION),
    ):
        with pytest.raises(FirewallError) as caught:
            search_of(tree, wanted)
        assert caught.value.pointer == "/page/token"
    assert orjson.loads(found_to_wire(search, Found([])))["page"] == {"next_token": "", "count": 0}


@pytest.mark.parametrize(
    ("tree", "pointer"),
    [
        ([], ""),
        (changed(subject=...), "/subject"),
        (changed(subject=[]), "/subject"),
        (changed(subject={}), "/subject/type"),
        (changed(page=[]), "/page"),
        (changed(page={"limit": -1}), "/page/limit"),
        (changed(page={"limit": True}), "/page/limit"),
        (changed(page={"limit": "1"}), "/page/limit"),
    ],
)
def test_what_is_no_search(tree, pointer):
    with pytest.raises(FirewallError) as caught:
        search_of(tree, Wanted.SUBJECT)
    assert caught.value.pointer == pointer
