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
    hook_to_wire,
    in_words,
    mcp_to_wire,
    refused_in_words,
    told_of,
    tool_call_to_wire,
)
from app.surfaces.agents.wire import Asked

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
