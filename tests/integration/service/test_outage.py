"""The database goes away under load and comes back: errors with Retry-After, nothing acknowledged is lost, no restart."""

import hashlib
import threading
import time
from pathlib import Path

import httpx

from app.migrations import schema
from app.persistence.embedded import EmbeddedPostgres
from app.surfaces.admission.models import EXAMPLE as REVIEW
from app.surfaces.native.models import EXAMPLE_REQUEST

ROOT = Path(__file__).resolve().parents[3]
BODY = (ROOT / "examples" / "allow-k8s-deployment-scaled.json").read_bytes()
CALLERS = 4
AGENT = {"type": "agent", "id": "deploy-bot"}


class Caller(threading.Thread):
    """Asks without pause until told to stop, and keeps every answer."""

    def __init__(self, client: httpx.Client) -> None:
        super().__init__()
        self.client = client
        self.stopping = threading.Event()
        self.acknowledged: list[dict[str, object]] = []
        self.refusals: list[httpx.Response] = []
        self.broken: list[httpx.HTTPError] = []

    def run(self) -> None:
        while not self.stopping.is_set():
            try:
                answer = self.client.post("/v1/decisions", content=BODY, headers={"Content-Type": "application/json"})
            except httpx.HTTPError as error:
                self.broken.append(error)
                continue
            if answer.status_code == 200:
                self.acknowledged.append(answer.json())
            else:
                self.refusals.append(answer)


def wait_until(condition, *, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


async def apply(dsn):
    await schema.apply(dsn)


def each_door_refuses_in_its_own_words(client):
    """Nobody who asks while nothing can be recorded takes the answer for a yes."""
    problems = {
        "/v1/decisions": EXAMPLE_REQUEST,
        "/access/v1/evaluation": {"subject": AGENT, "action": {"name": "update"}, "resource": AGENT},
        "/agents/v1/tool-call": {"name": "x", "arguments": {}},
    }
    for path, body in problems.items():
        answer = client.post(path, json=body)
        assert answer.status_code in {503, 504}, (path, answer.text)
        assert int(answer.headers["retry-after"]) >= 1, path
        assert answer.headers["content-type"] == "application/problem+json", path
    credential = {"x-mfw-authorization": client.headers["authorization"], "x-agent-id": "deploy-bot"}
    gateway = client.get("/envoy/v1/check/orders", headers=credential)
    assert gateway.status_code in {503, 504}, gateway.text
    review = client.post("/kubernetes/v1/validate", json=REVIEW).json()["response"]
    assert (review["uid"], review["allowed"]) == (REVIEW["request"]["uid"], False)
    assert review["status"]["code"] in {503, 504}
    hook = {"hook_event_name": "PreToolUse", "tool_name": "Bash", "tool_input": {"command": "ls"}}
    told = client.post("/agents/v1/claude-code", json=hook).json()["hookSpecificOutput"]
    assert told["permissionDecision"] == "deny"
    assert "nothing was decided" in told["permissionDecisionReason"]
    call = {"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {"name": "x", "arguments": {}}}
    refused = client.post("/agents/v1/mcp/check", json={"request": call}).json()
    assert (refused["id"], refused["error"]["data"]["status"] in {503, 504}) == (7, True)


def test_outage(state_directory, serve):
    import asyncio

    server = EmbeddedPostgres(state_directory, start_timeout=180)
    dsn = server.start()
    try:
        asyncio.run(apply(dsn))
        # Keys that were read are believed for three times as long as they are not read again: longer than the outage.
        settings = {"MFW_LEDGER__DEADLINE_SECONDS": "1", "MFW_AUTH__API_KEYS__REFRESH_SECONDS": "60"}
        with serve(dsn, **settings) as service, service.client() as client:
            callers = [Caller(client) for _ in range(CALLERS)]
            for caller in callers:
                caller.start()
            try:
                wait_until(lambda: sum(len(c.acknowledged) for c in callers) > 50)
                server.stop()
                wait_until(lambda: sum(len(c.refusals) for c in callers) > 10)
                assert client.get("/health/live").status_code == 200
                wait_until(lambda: client.get("/health/ready").status_code == 503)
                each_door_refuses_in_its_own_words(client)
                assert server.start() == dsn
                known = sum(len(c.acknowledged) for c in callers)
                wait_until(lambda: sum(len(c.acknowledged) for c in callers) > known + 50)
                wait_until(lambda: client.get("/health/ready").status_code == 200)
            finally:
                for caller in callers:
                    caller.stopping.set()
                for caller in callers:
                    caller.join(60)
            entries = service.entries()
    finally:
        server.stop()

    assert not [error for caller in callers for error in caller.broken]
    for refusal in (refusal for caller in callers for refusal in caller.refusals):
        assert refusal.status_code in {503, 504}, refusal.text
        assert int(refusal.headers["retry-after"]) >= 1
        assert refusal.headers["content-type"] == "application/problem+json"
    assert [index for index, _, _ in entries] == list(range(len(entries)))
    written = {identity: (index, receipt) for index, identity, receipt in entries}
    for decision in (decision for caller in callers for decision in caller.acknowledged):
        index, receipt = written[str(decision["id"])]
        assert index == decision["ledger_index"]
        assert decision["receipt_hash"] == "sha256:" + hashlib.sha256(b"\x00" + receipt).hexdigest()
