"""Hostile documents at the surface of agents: a yes is about what any reader would have read, and is in the ledger."""

import pytest
from hypothesis import HealthCheck, given, settings

from app.client.hook import BlockedError, read_answer
from app.surfaces.agents.models import EXAMPLE_CALL, EXAMPLE_CHECK, EXAMPLE_HOOK
from app.surfaces.agents.routes import GenericFormat, HookFormat, McpFormat, ToolCallEndpoint
from tests.corpus.hostile import hostile, reading
from tests.corpus.served import MAX_BODY_BYTES, Kept, ask, gate, problem_of, service

QUICK = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
SHELL = {"name": "Bash", "arguments": {"command": "ls -la"}, "cwd": "/srv/app", "context": {"a": [1]}}
# One call, four things that it would do: all of them, or none.
MANY = {"name": "Bash", "arguments": {"command": "cd a && rm b; echo c > d"}, "cwd": "/srv/app"}
ITEM = {
    "type": "tool_approval_item",
    "tool_name": "refund",
    "raw_item": {"type": "function_call", "name": "refund", "call_id": "c1", "arguments": '{"order": 7}'},
}
REQUEST = {
    "type": "tool_approval_request",
    "hint": "both",
    "tools": [
        {"id": "a1", "call_id": "c1", "name": "delete_file", "args": {"path": "data/report.csv"}},
        {"id": "a2", "name": "refund", "args": {"order": 7}},
    ],
}
ANSWER = {
    "hookSpecificOutput": {
        "hookEventName": "PreToolUse",
        "permissionDecision": "allow",
        "permissionDecisionReason": "allowed by policy `x`",
    }
}


def asked(form, body):
    ledger = Kept()
    endpoint = ToolCallEndpoint(service(ledger), form, gate=gate(), max_body_bytes=MAX_BODY_BYTES, timeout_seconds=10)
    return ask(endpoint, form.path, body), ledger.entries


@QUICK
@given(hostile([EXAMPLE_CALL, SHELL, MANY, ITEM]))
def test_tool_call(body):
    answer, entries = asked(GenericFormat(), body)
    if answer.status != 200:
        assert problem_of(answer, reading)["status"] in {400, 413}
        assert not entries
        return
    found, tree = reading(answer.body), reading(body)
    assert len(found["decisions"]) == len(entries) > 0
    assert (
        found["approved"]
        == (found["decision"] == "allow")
        == all(one["decision"] == "allow" for one in found["decisions"])
    )
    assert found["tool"] == (tree["raw_item"] if tree.get("type") == ITEM["type"] else tree)["name"]


@QUICK
@given(hostile([REQUEST]))
def test_request_for_approval(body):
    """Each id that was asked about has one answer, and no other has: what is left out is not approved."""
    answer, entries = asked(GenericFormat(), body)
    if answer.status != 200:
        assert problem_of(answer, reading)["status"] in {400, 413}
        assert not entries
        return
    found, tree = reading(answer.body), reading(body)
    assert len(found["decisions"]) == len(entries) > 0
    if tree.get("type") != REQUEST["type"]:
        assert "approvals" not in found
        return
    assert [one["id"] for one in found["approvals"]] == [one["id"] for one in tree["tools"]]
    assert {one["approved"] for one in found["approvals"]} == {found["decision"] == "allow"}
    assert all(one["decision"] == "allow" for one in found["decisions"]) == (found["decision"] == "allow")


@QUICK
@given(hostile([EXAMPLE_HOOK, {**EXAMPLE_HOOK, "tool_input": MANY["arguments"]}]))
def test_claude_code(body):
    """It always answers 200: Claude Code takes any other status for a yes."""
    answer, entries = asked(HookFormat(), body)
    assert answer.status == 200
    output = reading(answer.body)["hookSpecificOutput"]
    assert output["hookEventName"] == "PreToolUse"
    assert output["permissionDecision"] in {"allow", "deny"}
    if output["permissionDecision"] == "allow":
        assert isinstance(reading(body)["tool_name"], str)
        assert entries
    if not entries:
        assert "nothing was decided" in output["permissionDecisionReason"]


@QUICK
@given(hostile([EXAMPLE_CHECK]))
def test_mcp_check(body):
    answer, entries = asked(McpFormat(), body)
    assert answer.status == 200
    found = reading(answer.body)
    assert ("result" in found) != ("error" in found)
    if "result" in found:
        tree = reading(body)
        assert found["id"] == tree["request"]["id"]
        assert found["result"]["decision"] == "allow"
        assert len(found["result"]["decisions"]) == len(entries) > 0


@QUICK
@given(hostile([ANSWER]))
def test_the_hook_goes_on_for_nothing_but_an_answer(body):
    try:
        decision, told = read_answer(200, body)
    except BlockedError:
        return
    assert decision in {"allow", "deny", "ask"}
    assert told["hookSpecificOutput"]["permissionDecision"] == decision
    assert decision.encode() in body or b"\\u" in body


@pytest.mark.parametrize("status", [201, 204, 301, 302, 307, 400, 401, 500, 503])
def test_the_hook_goes_on_for_no_other_status(status):
    with pytest.raises(BlockedError):
        read_answer(status, b'{"hookSpecificOutput":{}}')
