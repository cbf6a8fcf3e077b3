"""The agents' surface on the running service, with the ledger beside each answer."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.corpus.calls import call_of
from tests.corpus.cases import load
from tests.integration.service.conftest import scraped
from tests.ports import free_port

ROOT = Path(__file__).resolve().parents[3]

POLICY = """\
apiVersion: mutationfirewall.io/v1
kind: MutationPolicy
metadata: {name: tools}
spec:
  match: {resources: [{type: tool}]}
  rules:
    - {name: orders, effect: allow, when: "resource.id == 'shop/get_order'"}
    - {name: careful, effect: allow, when: "resource.id == 'shop/note'", obligations: [{key: agents/confirm, value: yes}]}
    - {name: watched, effect: allow, when: "resource.id == 'shop/watch'", obligations: [{key: other, value: yes}]}
    - name: ask
      effect: hold
      when: "resource.id == 'shop/cancel_order'"
      message: ask the owner
      approval: {anyOf: [{group: owners}]}
    - {name: never, effect: deny, when: "action.properties.risk == 'destroys'", message: "no\\e[2J"}
"""
EFFECTS = {"get_order": "allow", "cancel_order": "hold", "wipe": "deny"}


@pytest.fixture(scope="module")
def firewall(tmp_path_factory, shared_database_dsn):
    from tests.integration.service.conftest import running

    folder = tmp_path_factory.mktemp("agents")
    (folder / "p.yaml").write_text(POLICY)
    with running(shared_database_dsn, MFW_POLICIES__DIRECTORY=str(folder)) as started:
        yield started


def post(firewall, path, body, key=None, **headers):
    with firewall.client(key=key) as client:
        if isinstance(body, bytes):
            headers["Content-Type"] = "application/json"
            return client.post(f"/agents/v1/{path}", content=body, headers=headers)
        return client.post(f"/agents/v1/{path}", json=body, headers=headers)


def call(name, **more):
    return {"name": name, "server": "shop", "arguments": {"order": 7}, **more}


def item(name, arguments):
    raw = {"type": "function_call", "call_id": "call_1", "name": name, "arguments": arguments}
    return {"type": "tool_approval_item", "tool_name": name, "tool_namespace": "shop", "raw_item": raw}


def hook(name, **tool_input):
    return {
        "hook_event_name": "PreToolUse",
        "tool_name": f"mcp__shop__{name}",
        "tool_input": tool_input,
        "cwd": "/srv",
        "session_id": "s1",
        "tool_use_id": "toolu_1",
        "transcript_path": "/x",
    }


def rpc(name, **more):
    params = {"name": name, "arguments": {"order": 7}, "_meta": {"progressToken": 1}}
    return {"server": "shop", "request": {"jsonrpc": "2.0", "id": 5, "method": "tools/call", "params": params}, **more}


def receipt_of(firewall, decision):
    index, identifier, receipt = firewall.entries()[decision["ledger_index"]]
    assert (index, identifier) == (decision["ledger_index"], decision["id"])
    return json.loads(receipt)


@pytest.mark.parametrize(("name", "effect"), EFFECTS.items())
@pytest.mark.parametrize("form", [call, lambda name: item(name, '{"order": 7}')])
def test_each_answer_to_a_tool_call_is_in_the_ledger(firewall, name, effect, form):
    hints = {"annotations": {"destructiveHint": True}} if name == "wipe" and form is call else {}
    told = post(firewall, "tool-call", {**form(name), **hints}).json()
    assert (told["decision"], told["approved"]) == (effect, effect == "allow")
    (decision,) = told["decisions"]
    assert receipt_of(firewall, decision)["decision"] == effect
    assert decision["id"] in told["reason"]


def test_both_forms_of_one_call_have_one_digest(firewall):
    first = post(firewall, "tool-call", call("get_order", context={"surface": "openai-agents"})).json()
    second = post(firewall, "tool-call", item("get_order", '{"order": 7}')).json()
    assert first["decisions"][0]["mutation_digest"] == second["decisions"][0]["mutation_digest"]


@pytest.mark.parametrize(
    "written", ['{"a": 1, "a": 2}', '{"a": NaN}', "[]", "7", "{", '{"a": 1e999}', '"x"', '{"a": "\\ud800"}', "null"]
)
def test_arguments_that_two_readers_read_differently_are_no_call(firewall, written):
    before = len(firewall.entries())
    answer = post(firewall, "tool-call", item("get_order", written))
    assert (answer.status_code, answer.json()["pointer"]) == (400, "/raw_item/arguments")
    assert len(firewall.entries()) == before


@pytest.mark.parametrize(("name", "effect"), {**EFFECTS, "note": "ask", "watch": "deny"}.items())
def test_each_answer_to_a_hook_is_in_the_ledger(firewall, name, effect):
    before = len(firewall.entries())
    answer = post(firewall, "claude-code", hook(name))
    assert answer.status_code == 200
    told = answer.json()["hookSpecificOutput"]
    assert told.keys() == {"hookEventName", "permissionDecision", "permissionDecisionReason"}
    assert told["hookEventName"] == "PreToolUse"
    assert told["permissionDecision"] == {"hold": "deny"}.get(effect, effect)
    entries = firewall.entries()
    assert len(entries) == before + 1
    recorded = json.loads(entries[-1][2])["decision"]
    if effect in {"allow", "hold"}:
        assert recorded == effect
        assert entries[-1][1] in told["permissionDecisionReason"]
    if effect == "hold":
        assert "approval of 1 of group `owners`" in told["permissionDecisionReason"]


@pytest.mark.parametrize(("name", "effect"), EFFECTS.items())
def test_each_answer_to_a_gateway_is_in_the_ledger(firewall, name, effect):
    hints = {"annotations": {"destructiveHint": True}} if name == "wipe" else {"annotations": {"readOnlyHint": True}}
    told = post(firewall, "mcp/check", rpc(name, **hints)).json()
    assert (told["jsonrpc"], told["id"]) == ("2.0", 5)
    if effect == "allow":
        assert "error" not in told
        data = told["result"]
    else:
        assert "result" not in told
        code, message = {"hold": (-32099, "approval_required"), "deny": (-32098, "denied")}[effect]
        assert (told["error"]["code"], told["error"]["message"]) == (code, message)
        data = told["error"]["data"]
    assert data["decision"] == effect
    assert receipt_of(firewall, data["decisions"][0])["decision"] == effect
    if effect == "hold":
        assert data["approval_ref"] == data["decision_id"]
        assert data["approval"]["anyOf"][0]["group"] == "owners"
    if name == "wipe":
        assert "\x1b" not in data["reason"]


def test_an_obligation_that_a_gateway_cannot_meet_is_a_no(firewall):
    told = post(firewall, "mcp/check", rpc("watch")).json()
    assert told["error"]["code"] == -32098
    assert "`other`" in told["error"]["data"]["reason"]
    generic = post(firewall, "tool-call", call("watch")).json()
    assert (generic["decision"], generic["approved"]) == ("allow", False)


BAD = [
    b"",
    b"{",
    b"[]",
    b"null",
    b'{"name": "a", "name": "b"}',
    b'{"name": "\xd0\xb0"}',
    b'{"x": NaN}',
    b"[" * 100,
    b'{"hook_event_name": "PostToolUse", "tool_name": "x"}',
    b'{"request": {"jsonrpc": "2.0", "id": 1.5, "method": "tools/call", "params": {"name": "x"}}}',
    b'{"request": {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"name": "x"}}}',
    b'{"name": "x", "arguments": []}',
    b'{"name": "x", "unheard": 1}',
    b'{"hook_event_name": "PreToolUse", "tool_name": "x\\u202e"}',
]


@pytest.mark.parametrize("body", BAD)
def test_what_cannot_be_read_is_refused_by_each_format_in_its_own_words(firewall, body):
    before = len(firewall.entries())
    generic = post(firewall, "tool-call", body)
    assert generic.status_code == 400
    assert generic.headers["content-type"] == "application/problem+json"
    told = post(firewall, "claude-code", body)
    assert told.status_code == 200  # with any other status the tool would run
    assert told.json()["hookSpecificOutput"]["permissionDecision"] == "deny"
    error = post(firewall, "mcp/check", body).json()["error"]
    assert (error["code"], error["data"]["status"]) == (-32097, 400)
    assert len(firewall.entries()) == before


def test_a_body_beyond_the_limit_is_refused_before_it_is_read(firewall):
    body = json.dumps(call("get_order", context={"x": "y" * 2_000_000})).encode()
    assert post(firewall, "tool-call", body).status_code == 413
    assert 'permissionDecision":"deny' in post(firewall, "claude-code", body).text
    assert post(firewall, "mcp/check", body).json()["error"]["data"]["status"] == 413


def test_who_is_not_known_is_answered_in_no_format(firewall):
    for path, body in (("tool-call", call("x")), ("claude-code", hook("x")), ("mcp/check", rpc("x"))):
        assert post(firewall, path, body, key="").status_code == 401
        assert post(firewall, path, body, key=firewall.operator_key).status_code == 403


def test_who_asks_too_often_is_told_so_in_the_words_of_the_format(serve, database_dsn):
    port = free_port()
    settings = {"MFW_LIMITS__BURST": "2", "MFW_LIMITS__PER_MINUTE": "1", "MFW_METRICS__PORT": str(port)}
    with serve(database_dsn, MFW_METRICS__ENABLED="true", **settings) as scarce:
        told = [post(scarce, "claude-code", hook("x")).json()["hookSpecificOutput"] for _ in range(3)]
        assert [one["permissionDecision"] for one in told] == ["deny"] * 3
        assert "nothing was decided" in told[2]["permissionDecisionReason"]
        assert post(scarce, "mcp/check", rpc("x")).json()["error"]["data"]["status"] == 429
        assert post(scarce, "tool-call", call("x")).status_code == 429
        # Alerts see what is said, not the 200 around it.
        for route in ("claude-code", "mcp/check", "tool-call"):
            scraped(port, f'mfw_requests_total{{code="429",method="POST",route="/agents/v1/{route}"}} 1.0')


def test_the_subject_is_whoever_asks_unless_the_caller_says(firewall):
    said = {"subject": {"type": "agent", "id": "coder"}}
    digests = {
        post(firewall, "tool-call", {**call("get_order"), **more}).json()["decisions"][0]["mutation_digest"]
        for more in ({}, said, {"subject": {"type": "agent", "id": "other"}})
    }
    assert len(digests) == 3


def test_an_answer_under_a_key_is_given_again(firewall):
    key = {"Idempotency-Key": "agents-1"}
    first, again = (post(firewall, "claude-code", hook("get_order"), **key) for _ in range(2))
    assert first.content == again.content
    assert again.headers["idempotency-replayed"] == "true"


def test_the_corpus_is_answered_as_on_the_native_route(service):
    """Every case that names a call of a tool, through this surface, and the entries beside the answers."""
    calls = [(case, body) for case in load() if (body := call_of(case)) is not None]
    assert len(calls) > 200
    with service.client() as client:
        native = client.post("/v1/decisions:batch", json={"mutations": [case.mutation for case, _ in calls]}).json()
        answers = [client.post("/agents/v1/tool-call", json=body).json() for _, body in calls]
    entries = {identifier: json.loads(receipt) for _, identifier, receipt in service.entries()}
    for (case, _), answer, other in zip(calls, answers, native["results"], strict=True):
        found = [one for one in answer["decisions"] if one["mutation_digest"] == other["mutation_digest"]]
        assert found, case.name
        if len(answer["decisions"]) == 1:
            assert answer["decision"] == other["decision"] == case.decision, case.name
            assert found[0]["reasons"] == other["reasons"], case.name
        elif other["decision"] != "allow":
            assert found[0]["decision"] == other["decision"], case.name
        for one in answer["decisions"]:
            assert entries[one["id"]]["decision"] == one["decision"]
        strengths = ["allow", "hold", "deny"]
        assert strengths.index(answer["decision"]) >= strengths.index(other["decision"]), case.name


def test_the_five_lines_of_the_page_work(service):
    page = (ROOT / "docs" / "integrations" / "agents.md").read_text()
    (command,) = re.findall(r"```console\n\$ (curl .*?)```", page, re.DOTALL)
    result = subprocess.run(
        ["bash", "-c", command],
        env={"MFW_URL": service.url, "MFW_API_KEY": service.key, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        check=True,
    )
    assert json.loads(result.stdout)["decision"] == "allow", result.stdout


def test_the_five_lines_of_the_hook_work(service, tmp_path):
    page = (ROOT / "docs" / "integrations" / "claude-code.md").read_text()
    (block,) = re.findall(r"```console\n(\$ mkdir .*?)```", page, re.DOTALL)
    lines = [line.removeprefix("$ ") for line in block.strip().splitlines()]
    assert len(lines) == 5
    # The tree that is tested instead of the one that is installed.
    script = "mfw() { " + f"'{sys.executable}' -P -m app" + ' "$@"; }\nset -e\n' + "\n".join(lines)
    script = script.replace(
        '| sh -c "$hook"', '| sh -c "$(sed "s/ -I / -P /; s/--timeout 10/--timeout 50/" <<<"$hook")"'
    )
    result = subprocess.run(
        ["bash", "-c", script],
        env={
            "MFW_URL": service.url,
            "MFW_API_KEY": service.key,
            "HOME": str(tmp_path),
            "PYTHONPATH": str(ROOT),
            "PATH": "/usr/bin:/bin",
        },
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["hookSpecificOutput"]["permissionDecision"] == "allow"
