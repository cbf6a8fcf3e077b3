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
ITEM = {
    "type": "tool_approval_item",
    "tool_name": "refund",
    "raw_item": {"type": "function_call", "name": "refund", "call_id": "c1", "arguments": '{"order": 7}'},
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
@given(hostile([EXAMPLE_CALL, SHELL, ITEM]))
def test_tool_call(body):
    answer, entries = asked(GenericFormat(), body)
    if answer.status != 200:
        assert problem_of(answer, reading)["status"] in {400, 413}
        assert not entries
        return
    found, tree = reading(answer.body), reading(body)
    assert len(found["decisions"]) == len(entries) > 0
    assert found["approved"] == (found["decision"] == "allow")
    assert found["tool"] == (tree["raw_item"] if tree.get("type") == ITEM["type"] else tree)["name"]


@QUICK
@given(hostile([EXAMPLE_HOOK]))
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
