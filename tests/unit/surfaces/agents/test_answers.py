"""The worst of what a call would do counts, and people can read why."""

import json
from typing import Any
from uuid import UUID

import pytest

from app.core.batch import BATCH_NOT_ALLOWED
from app.core.decide import FIREWALL
from app.core.tool_calls import read_tool_call
from app.core.types import Clause, Effect, Obligation, Outcome, Reason
from app.errors import FirewallError, Kind
from app.service.decide import Decision
from app.surfaces.agents.answers import (
    CONFIRM,
    MESSAGE_CHARS,
    approvals_to_wire,
    hook_to_wire,
    in_words,
    mcp_to_wire,
    refused_in_words,
    told_of,
    tool_call_to_wire,
)
from app.surfaces.agents.wire import MAX_APPROVALS, Asked, tool_call_of

CLAUSE = Clause("when", "a == 1", 1, 1, Outcome.TRUE, {"a": 1})
APPROVAL = {"anyOf": [{"group": "owners", "count": 2}]}
FOLLOWS = Reason(FIREWALL, BATCH_NOT_ALLOWED, Effect.DENY, "all or none")
ASKED = Asked(read_tool_call("x", {}))


def decided(effect: Effect, *reasons: Reason, index: int = 7, **more: Any) -> Decision:
    return Decision(
        id=UUID(int=index),
        effect=effect,
        reasons=reasons or (Reason("p", "r", effect, "because", clause=CLAUSE),),
        policy_set="sha256:p",
        mutation_digest="sha256:m",
        ledger_index=index,
        receipt_hash="sha256:r",
        decided_at="2026-01-01T00:00:00Z",
        approval=APPROVAL if effect is Effect.HOLD else None,
        request_id=None,
        **more,
    )


ALLOW = decided(Effect.ALLOW)
HOLD = decided(Effect.HOLD)
DENY = decided(Effect.DENY)
FOLLOWING = decided(Effect.DENY, FOLLOWS)


@pytest.mark.parametrize(
    ("outcomes", "effect"),
    [
        ([ALLOW], Effect.ALLOW),
        ([ALLOW, ALLOW], Effect.ALLOW),
        ([FOLLOWING, HOLD], Effect.HOLD),
        ([HOLD, DENY], Effect.DENY),
        ([FOLLOWING, HOLD, DENY], Effect.DENY),
        ([FOLLOWING, FOLLOWING], Effect.DENY),
        ([ALLOW, FOLLOWING], Effect.DENY),
        ([ALLOW, HOLD], Effect.HOLD),
        ([], Effect.DENY),
    ],
)
def test_the_worst_counts(outcomes, effect):
    told = told_of(outcomes)
    assert told.effect is effect
    answer = json.loads(tool_call_to_wire(told, ASKED))
    assert (answer["decision"], answer["approved"]) == (effect.value, effect is Effect.ALLOW)
    assert len(answer["decisions"]) == len(outcomes)
    hook = json.loads(hook_to_wire(told))["hookSpecificOutput"]
    assert hook["permissionDecision"] == ("allow" if effect is Effect.ALLOW else "deny")
    rpc = json.loads(mcp_to_wire(told, 1))
    assert ("result" in rpc) == (effect is Effect.ALLOW)


def test_what_refused_a_part_refuses_the_call():
    with pytest.raises(FirewallError, match="away"):
        told_of([ALLOW, FirewallError(Kind.UNAVAILABLE, "away")])


def test_a_hold_says_who_has_to_agree():
    words = in_words(told_of([FOLLOWING, HOLD, decided(Effect.HOLD, index=8)]))
    assert words == (
        "held by policy `p`, rule `r`: because; because `a == 1` is true, where `a` is 1; needs the approval of 2 of group "
        "`owners`: give them the id of the decision, and repeat this once they agreed; also `p/r` (decision "
        "00000000-0000-0000-0000-000000000007, ledger entry 7)"
    )


def test_a_deny_names_what_else_spoke():
    others = [Reason("p", f"r{i}", Effect.DENY, "x") for i in range(7)]
    assert "also `p/r1`, `p/r2`, `p/r3`, `p/r4` and 2 more" in in_words(told_of([decided(Effect.DENY, *others)]))
    assert in_words(told_of([ALLOW, ALLOW])).startswith("allowed by policy `p`, rule `r`: because (decision ")


def test_no_text_moves_the_cursor():
    bad = "a\x1b[2J\nb\u202ec" + "x" * 5000
    for text in (
        in_words(told_of([decided(Effect.DENY, Reason("p", "r", Effect.DENY, bad))])),
        refused_in_words(FirewallError(Kind.UNAVAILABLE, bad, fix=bad)),
    ):
        assert text.isprintable()
        assert len(text) <= MESSAGE_CHARS


@pytest.mark.parametrize(
    ("keys", "hook", "rpc"), [([CONFIRM], "ask", False), ([CONFIRM, "other"], "deny", False), ([], "allow", True)]
)
def test_an_obligation_that_cannot_be_met_is_a_no(keys, hook, rpc):
    told = told_of([decided(Effect.ALLOW, obligations=tuple(Obligation("p", "r", key, "yes") for key in keys))])
    assert json.loads(hook_to_wire(told))["hookSpecificOutput"]["permissionDecision"] == hook
    assert ("result" in json.loads(mcp_to_wire(told, None))) == rpc
    assert json.loads(tool_call_to_wire(told, ASKED))["approved"] == rpc


def request(*tools, **more):
    return json.dumps({"type": "tool_approval_request", "tools": list(tools), **more}).encode()


TOOLS = (
    {"id": "a", "name": "x", "args": {"n": 1}, "unknown": 1},
    {"id": "b", "name": "Bash", "args": {"command": "ls"}},
)


def test_a_request_for_approval_is_all_of_its_calls():
    asked = tool_call_of(request(*TOOLS, hint="both"))
    assert asked.approvals == ("a", "b")
    assert [part.resource["id"] for part in asked.call.parts] == ["x", "ls"]
    assert [part.context["tool"]["name"] for part in asked.call.parts] == ["x", "Bash"]
    assert asked.call.parts[0].change == {"after": {"n": 1}}
    assert asked.subject is None


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        (request(), "/tools"),
        (request(*[{"id": str(at), "name": "x"} for at in range(MAX_APPROVALS + 1)]), "/tools"),
        (request(*[{"id": str(at), "name": "Bash", "args": {"command": "ls;" * 9}} for at in range(8)]), "/tools"),
        (request(7), "/tools/0"),
        (request({"name": "x"}), "/tools/0/id"),
        (request({"id": "a"}), "/tools/0/name"),
        (request({"id": "a", "name": "x", "args": '{"n": 1}'}), "/tools/0/args"),
        (request(TOOLS[0], {**TOOLS[1], "id": "a"}), "/tools/1/id"),
        (b'{"type": "tool_approval_request", "tools": {}}', "/tools"),
        (b'{"type": "tool_approval_request"}', "/tools"),
    ],
)
def test_what_is_no_request_for_approval(body, pointer):
    with pytest.raises(FirewallError) as caught:
        tool_call_of(body)
    assert (caught.value.kind, caught.value.pointer) == (Kind.MALFORMED, pointer)


DUTY = decided(Effect.ALLOW, obligations=(Obligation("p", "r", "ticket", 7),))


@pytest.mark.parametrize(
    ("outcomes", "approved", "why"),
    [
        ([ALLOW, ALLOW], True, None),
        ([ALLOW, DUTY], False, "`ticket` of `p/r`"),
        ([FOLLOWING, HOLD], False, "held"),
        ([FOLLOWING, DENY], False, "because"),
    ],
)
def test_each_id_has_an_answer_and_all_have_the_same(outcomes, approved, why):
    found = json.loads(approvals_to_wire(told_of(outcomes), tool_call_of(request(*TOOLS))))
    assert found["type"] == "tool_approval_response"
    assert [one["id"] for one in found["approvals"]] == ["a", "b"]
    for one in found["approvals"]:
        assert one["approved"] is approved
        assert ("rejection_reason" in one) is not approved
        assert why is None or why in one["rejection_reason"]
    assert len(found["decisions"]) == 2
