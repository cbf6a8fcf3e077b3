"""The listening side, many callers at once, and everything that can go away in the middle of a call."""

import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import anyio
import anyio.to_thread
import asyncpg
import httpx
import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from app.persistence.engine import parse_dsn
from tests.integration.gateway.conftest import listening, started
from tests.integration.gateway.test_gateway import facts_of, text_of
from tests.ports import free_port

INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}},
}
TOKEN = "t" * 32


def post(url: str, **headers: str) -> int:
    accepted = {"Accept": "application/json, text/event-stream", **headers}
    return httpx.post(url, json=INITIALIZE, headers=accepted, timeout=60).status_code


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Origin": "http://localhost:3000"}, 200),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "evil.example"}, 421),
        ({"Host": "127.0.0.1.evil.example:80"}, 421),
        ({"Content-Type": "text/plain"}, 400),
    ],
)
def test_a_page_in_a_browser_does_not_get_in(served, headers, status):
    assert post(served.url, **headers) == status
    assert post(served.url, **{"MCP-Protocol-Version": "2026-07-28", **headers}) == (400 if status == 200 else status)


async def test_a_client_needs_the_token_and_it_goes_nowhere(served, tmp_path):
    inward, outward = tmp_path / "inward", tmp_path / "outward"
    inward.write_text(TOKEN + "\n")
    outward.write_text("o" * 32)
    options = ["--token-file", str(inward), "--upstream-token-file", str(outward), "--upstream", served.upstream_url]
    with listening(served, *options, behind=[]) as url:
        for given in (
            {},
            {"Authorization": f"Bearer {TOKEN}x"},
            {"Authorization": TOKEN},
            {"Authorization": "Basic dDp0"},
        ):
            assert post(url, **given) == 401
        headers = {"Authorization": f"Bearer {TOKEN}"}
        async with (
            httpx2.AsyncClient(headers=headers, timeout=60) as http,
            Client(streamable_http_client(url, http_client=http)) as client,
        ):
            assert text_of(await client.call_tool("add", {"a": 1, "b": 1})) == "2"
        (call,) = served.reached()
        assert call["authorization"] == f"Bearer {'o' * 32}"


def test_sessions_are_apart_and_none_is_invented(served):
    accepted = {"Accept": "application/json, text/event-stream", "MCP-Session-Id": "0" * 32}
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "add", "arguments": {}}}
    assert httpx.post(served.url, json=call, headers=accepted, timeout=60).status_code == 404
    del accepted["MCP-Session-Id"]
    assert httpx.post(served.url, json=call, headers=accepted, timeout=60).status_code == 400
    assert httpx.post(served.url, content=b"x" * 5_000_000, headers=accepted, timeout=60).status_code == 413
    assert served.reached() == []


@pytest.mark.parametrize("version", ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"])
def test_each_version_of_the_protocol_is_spoken(served, version):
    """By hand, as clients without an SDK write it: initialize, initialized, call."""
    accepted = {"Accept": "application/json, text/event-stream"}

    def answer(response: httpx.Response) -> Any:
        (line,) = (line for line in response.text.splitlines() if line.startswith("data: {"))
        return json.loads(line.removeprefix("data: "))

    greeting = {**INITIALIZE, "params": {**INITIALIZE["params"], "protocolVersion": version}}  # type: ignore[dict-item]  # it is an object
    with httpx.Client(headers=accepted, timeout=60) as client:
        first = client.post(served.url, json=greeting)
        assert answer(first)["result"]["protocolVersion"] == version
        client.headers.update({"MCP-Session-Id": first.headers["mcp-session-id"], "MCP-Protocol-Version": version})
        assert (
            client.post(served.url, json={"jsonrpc": "2.0", "method": "notifications/initialized"}).status_code == 202
        )
        for name, failed in (("add", False), ("drop", True)):
            call = {"jsonrpc": "2.0", "id": 2, "method": "tools/call"}
            call["params"] = {"name": name, "arguments": {"a": 1, "b": 1}}
            result = answer(client.post(served.url, json=call))["result"]
            assert result.get("isError", False) is failed
        unknown = {"jsonrpc": "2.0", "id": 3, "method": "tools/invoke", "params": {"name": "add", "arguments": {}}}
        assert answer(client.post(served.url, json=unknown))["error"]["code"] == -32601
    assert [call["version"] for call in served.reached()] == [version]


@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_a_hundred_calls_at_once_are_each_their_own(served, mode):
    before = len(served.records())
    found: dict[int, bool] = {}
    async with Client(served.url, mode=mode) as client:

        async def one(number: int) -> None:
            # Every third is denied.
            result = await client.call_tool("add", {"a": 1_000 if number % 3 == 0 else number, "b": 1})
            found[number] = result.is_error
            assert result.is_error or result.structured_content == {"sum": number + 1}

        async with anyio.create_task_group() as tasks:
            for number in range(1, 101):
                tasks.start_soon(one, number)
    assert found == {number: number == 100 or number % 3 == 0 or number > 100 for number in found} | {100: False}
    assert len(found) == 100
    effects = [one["decision"] for one in served.records()[before:]]
    assert (effects.count("allow"), effects.count("deny")) == (67, 33)
    assert len(served.reached()) == 67


@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_an_upstream_that_dies_fails_its_calls_and_is_started_again(bench, mode):
    async with Client(bench.stdio(), mode=mode) as client:
        facts = facts_of(await client.call_tool("die", {}))
        assert facts["refused"] == "upstream-lost"
        assert "not known" in facts["fix"]
        assert text_of(await client.call_tool("add", {"a": 1, "b": 1})) == "2"


async def test_an_upstream_that_is_not_there(bench):
    port = free_port()
    with listening(bench, "--upstream", f"http://127.0.0.1:{port}/mcp", behind=[]) as url:
        assert post(url) == 200  # which carries an error
        with started(bench.upstream("--http", str(port)), bench.environ, port) as server:
            async with Client(url) as client:
                assert text_of(await client.call_tool("add", {"a": 1, "b": 1})) == "2"
                server.send_signal(signal.SIGKILL)
                server.wait()
                facts = facts_of(await client.call_tool("add", {"a": 1, "b": 1}))
                assert facts["refused"] in {"upstream-away", "upstream-lost"}
    assert len(bench.reached()) == 1


class _Odd(BaseHTTPRequestHandler):
    answer: Any = b""
    over: threading.Event

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        made = self.answer(body)
        if made is None:
            self.over.wait(60)
            return
        content = made if isinstance(made, bytes) else json.dumps(made).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def odd() -> Iterator[type[_Odd]]:
    """Something that answers in place of a firewall, as it is told."""
    over = threading.Event()
    handler = type("Handler", (_Odd,), {"over": over})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    handler.port = server.server_address[1]  # type: ignore[attr-defined]  # made here
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield handler
    finally:
        over.set()
        server.shutdown()
        thread.join()
        server.server_close()


DECISION = {
    "id": "x",
    "decision": "allow",
    "reasons": [{"policy": "p", "rule": "r", "effect": "allow", "mode": "enforce", "message": ""}],
    "policy_set": "sha256:0",
    "mutation_digest": "sha256:0",
    "ledger_index": 1,
    "receipt_hash": "sha256:0",
    "decided_at": "now",
}


def allowed(body: Any, **changed: Any) -> dict[str, Any]:
    data = {"decision": "allow", "reason": "", "decisions": [{**DECISION, **changed}]}
    return {"jsonrpc": "2.0", "id": body["request"]["id"], "result": data}


async def test_whatever_is_no_allow_calls_nothing(bench):
    """A firewall that is slow, mixes answers up, or answers nonsense; and one that is away."""
    answers: list[Any] = [
        lambda _: b"",
        lambda _: b"allow",
        lambda _: {"decision": "allow"},
        lambda body: {**allowed(body), "id": "another"},
        lambda body: {**allowed(body), "error": {"code": -32098, "message": "denied", "data": {}}},
        lambda body: {"jsonrpc": "2.0", "id": body["request"]["id"], "result": {"decision": "allow"}},
        lambda body: {"jsonrpc": "2.0", "id": body["request"]["id"], "error": {"code": 1, "message": "", "data": {}}},
        lambda body: allowed(body, decision="deny"),
        lambda body: allowed(body, decision="maybe"),
        lambda body: allowed(body, obligations=[{"policy": "p", "rule": "r", "key": "k", "value": 1}]),
        lambda body: {**allowed(body), "result": {**allowed(body)["result"], "decisions": []}},
    ]
    with odd() as handler:
        bench.environ["MFW_URL"] = f"http://127.0.0.1:{handler.port}"  # type: ignore[attr-defined]  # made there
        async with Client(bench.stdio()) as client:
            for answer in answers:
                handler.answer = staticmethod(answer)
                result = await client.call_tool("add", {"a": 1, "b": 1})
                assert facts_of(result)["decision"] == "deny"
                # It promises another structure, and clients hold that of an error against the promise.
                assert result.structured_content is None
            assert bench.reached() == []
            handler.answer = staticmethod(allowed)
            assert text_of(await client.call_tool("add", {"a": 1, "b": 1})) == "2"
        # One who never answers, which is all that a gateway with little patience is asked here.
        handler.answer = staticmethod(lambda _: None)
        async with Client(bench.stdio("--timeout", "0.5")) as client:
            assert facts_of(await client.call_tool("add", {"a": 1, "b": 1}))["decision"] == "deny"
    assert len(bench.reached()) == 1


async def test_without_the_ledger_and_without_the_firewall_nothing_is_called(
    bench, policies, server_dsn, database_dsn, serve
):
    async def cut_off() -> None:
        name = parse_dsn(database_dsn).database
        connection = await asyncpg.connect(server_dsn)
        await connection.execute(f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS false")
        await connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
        await connection.close()

    with ExitStack() as stack:
        settings = {"MFW_POLICIES__DIRECTORY": str(policies), "MFW_LEDGER__DEADLINE_SECONDS": "8"}
        firewall = stack.enter_context(serve(database_dsn, **settings))
        bench.environ |= {"MFW_URL": firewall.url, "MFW_API_KEY": firewall.key}
        async with Client(bench.stdio()) as client:
            assert text_of(await client.call_tool("add", {"a": 1, "b": 1})) == "2"
            await cut_off()
            facts = facts_of(await client.call_tool("add", {"a": 1, "b": 1}))
            assert (facts["refused"], facts["status"]) == ("no-decision", 503)
            await anyio.to_thread.run_sync(stack.close)
            facts = facts_of(await client.call_tool("add", {"a": 1, "b": 1}))
            assert (facts["refused"], facts["status"]) == ("no-decision", 0)
            # What asks for nothing still works.
            assert [tool.name for tool in (await client.list_tools()).tools][:1] == ["add"]
    assert len(bench.reached()) == 1


def test_nothing_is_left_behind(bench):
    """SIGTERM ends the gateway and the servers that it started."""
    port = free_port()
    command = bench.command("--listen", f"127.0.0.1:{port}")
    with started(command, bench.environ, port) as gateway:
        assert post(f"http://127.0.0.1:{port}/mcp") == 200
        found = subprocess.run(
            ["ps", "--ppid", str(gateway.pid), "-o", "pid="], capture_output=True, text=True, check=True
        )
        (child,) = found.stdout.split()
    with pytest.raises(ProcessLookupError):
        os.kill(int(child), 0)
