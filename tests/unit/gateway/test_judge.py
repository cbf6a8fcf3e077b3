"""What the firewall is asked, and what its answers are worth."""

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from app.client.firewall import AsyncFirewall
from app.gateway.definitions import Definition, read
from app.gateway.judge import Judge
from app.gateway.verdicts import TEXT_CHARS

REASON = {"policy": "p", "rule": "r", "effect": "allow", "mode": "enforce", "message": "why"}
DECISION: dict[str, Any] = {
    "id": "i",
    "decision": "allow",
    "reasons": [REASON],
    "policy_set": "sha256:0",
    "mutation_digest": "sha256:1",
    "ledger_index": 7,
    "receipt_hash": "sha256:2",
    "decided_at": "now",
}
OBLIGATION = {"policy": "p", "rule": "r", "key": "k\u202e", "value": 1}


def tool(**members: Any) -> Definition:
    found = read("s", {"name": "a", "inputSchema": {}, **members})
    assert found is not None
    return found


def response(status: int, content: bytes) -> httpx.Response:
    """An answer that is read as it comes."""
    return httpx.Response(status, stream=httpx.ByteStream(content))


class Service:
    """A firewall that keeps what it was asked, and answers as it is told."""

    def __init__(self, answer: Callable[[Any], Any]) -> None:
        self.answer = answer
        self.asked: list[Any] = []

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(body := json.loads(request.content))
        found = self.answer(body)
        return found if isinstance(found, httpx.Response) else response(200, json.dumps(found).encode())

    def judge(self) -> Judge:
        transport = httpx.MockTransport(self)
        return Judge(AsyncFirewall("http://127.0.0.1:1", "key", transport=transport, retries=0), agent="bot")


def result(effect: str = "allow", **decision: Any) -> Callable[[Any], Any]:
    one = {**DECISION, **decision}
    return lambda body: {
        "jsonrpc": "2.0",
        "id": body["request"]["id"],
        "result": {"decision": effect, "reason": "said", "decisions": [one]},
    }


def error(code: int, **data: Any) -> Callable[[Any], Any]:
    return lambda body: {
        "jsonrpc": "2.0",
        "id": body["request"]["id"],
        "error": {"code": code, "message": "x", "data": {"reason": "said\u202e", "decisions": [], **data}},
    }


async def call(service: Service, arguments: bytes = b"{}", **members: Any) -> Any:
    return await service.judge().about_call(tool(**members), arguments, beside={}, client={})


async def test_the_arguments_are_sent_as_they_are():
    service = Service(result())
    sent = b'{"a": 1.0, "b" :[1e2,"\\u00fc"]}'
    verdict = await service.judge().about_call(tool(), sent, beside={"x": 1}, client={"name": "c"})
    assert verdict.allowed
    (asked,) = service.asked
    assert asked["request"]["params"] == {"name": "a", "arguments": json.loads(sent)}
    assert asked["subject"] == {"type": "agent", "id": "bot"}
    assert asked["server"] == "s"
    assert asked["context"] == {
        "mcp": {"definition_digest": tool().digest, "client": {"name": "c"}, "beside": {"x": 1}}
    }


@pytest.mark.parametrize(
    ("annotations", "told"),
    [
        ({"destructiveHint": True, "openWorldHint": True}, {"destructiveHint": True, "openWorldHint": True}),
        ({"readOnlyHint": True, "idempotentHint": True, "destructiveHint": False, "title": "harmless"}, {}),
        ({"destructiveHint": "yes"}, {}),
        ("none", {}),
    ],
)
async def test_only_what_raises_the_risk_is_told(annotations, told):
    service = Service(result())
    await call(service, annotations=annotations)
    assert service.asked[0]["annotations"] == told
    assert service.asked[0]["context"] == {"mcp": {"definition_digest": tool(annotations=annotations).digest}}


HELD = {**DECISION, "decision": "hold", "reasons": [{**REASON, "effect": "hold"}], "approval": {"allOf": [{"group": "a"}, {"anyOf": [{"group": "b", "count": 2}, {"group": "c"}]}]}}  # fmt: skip
DENIED = {**DECISION, "decision": "deny", "reasons": [{**REASON, "effect": "deny", "clause": {"path": "when", "text": "x", "line": 1, "column": 1, "outcome": "true", "values": {}}}]}  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "decision", "says"),
    [
        (error(-32099, decisions=[HELD]), "hold", "1 of the group `a` and (2 of the group `b` or 1 of the group `c`)"),
        (error(-32099, decisions=[{**HELD, "approval": {}}]), "hold", "those who approve"),
        (error(-32098, decisions=[DENIED]), "deny", "do something else"),
        (error(-32098, decisions=[DECISION, DENIED]), "deny", "do something else"),
        (error(-32098, decisions=[{**DECISION, "obligations": [OBLIGATION]}]), "deny", "obligations"),
        (error(-32098), "deny", "named no decision"),
        (result(obligations=[OBLIGATION]), "deny", "obligations"),
        (result(decision="hold"), "deny", ""),
        (error(-32097, problem={"title": "t", "detail": "full", "retry_after": 3}, status=503), "deny", "in 3 seconds"),
        (error(-32097), "deny", "not-a-firewall"),
        (error(-1), "deny", "not-a-firewall"),
        (lambda _: response(503, b'{"title": "t", "request_id": "q"}'), "deny", "no decision"),
        (lambda _: response(200, b"["), "deny", "not-a-firewall"),
        (lambda body: {**result()(body), "id": 1}, "deny", "another request"),
        (lambda body: {**result()(body), **error(-32098)(body)}, "deny", "not-a-firewall"),
        (lambda body: {"id": body["request"]["id"]}, "deny", "not-a-firewall"),
    ],
)
async def test_what_is_no_allow_says_what_to_do(answer, decision, says):
    verdict = await call(Service(answer))
    assert not verdict.allowed
    assert verdict.facts["decision"] == decision
    assert says in verdict.text
    assert verdict.text.startswith("not called: ")
    assert "\u202e" not in verdict.text
    assert verdict.result()["isError"] is True


async def test_what_nobody_foresaw_is_no_allow():
    def broken(_: Any) -> Any:
        raise ZeroDivisionError

    verdict = await call(Service(broken))
    assert (verdict.allowed, "ZeroDivisionError" in verdict.text) == (False, True)


async def test_a_text_is_no_longer_than_a_model_reads():
    answer = error(-32098, decisions=[DENIED], reason="x" * 10_000)
    verdict = await call(Service(answer))
    assert len(verdict.text) < TEXT_CHARS + 300


def decided(**members: Any) -> Callable[[Any], Any]:
    return lambda body: {**DECISION, "request_id": body["request_id"], **members}


async def test_a_changed_definition_is_a_change_of_a_tool():
    service = Service(decided())
    old, new = tool(), tool(description="x")
    assert (await service.judge().about_definition(old, new)).allowed
    (asked,) = service.asked
    assert asked["resource"]["type"] == "agent/Tool"
    assert asked["action"] == {"name": "update"}
    assert asked["change"]["manifest"] == {
        "kind": "tool",
        "base_digest": old.digest,
        "target_digest": new.digest,
    }
    assert asked["change"]["after"] == {"name": "a", "inputSchema": {}, "description": "x", "permissions": []}


@pytest.mark.parametrize(
    ("answer", "decision", "says"),
    [
        (decided(decision="hold", approval={"group": "x"}), "hold", "held by policy `p`, rule `r`"),
        (decided(decision="deny"), "deny", "denied by policy `p`, rule `r`"),
        (decided(obligations=[OBLIGATION]), "deny", "allowed with obligations"),
        (decided(request_id="another"), "deny", "another request"),
    ],
)
async def test_a_definition_that_is_not_allowed(answer, decision, says):
    verdict = await Service(answer).judge().about_definition(tool(), tool(description="x"))
    assert (verdict.allowed, verdict.facts["decision"]) == (False, decision)
    assert says in verdict.text
