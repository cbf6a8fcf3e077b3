"""Clients of one era in front of servers of the other, and what neither knows."""

import json
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client
from mcp.shared.subscriptions import ToolsListChanged

from tests.integration.gateway.conftest import CORPUS, listening, started
from tests.integration.gateway.test_gateway import ERAS, facts_of, text_of
from tests.ports import free_port

RAW = str(Path(__file__).parent / "raw.py")
POLICY = """
---
apiVersion: mutationfirewall.io/v1
kind: MutationPolicy
metadata: {name: odd}
spec:
  match: {resources: [{type: tool, id: "*/odd"}]}
  rules: [{name: odd, effect: allow, when: "true"}]
"""


@pytest.fixture(scope="module")
def policies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Those of the corpus, and one for the tool of the raw server."""
    folder = tmp_path_factory.mktemp("policies")
    (folder / "tools.yaml").write_text(CORPUS["policies"] + POLICY)
    return folder


class ByHand:
    """A client that writes and reads lines."""

    def __init__(self, process: anyio.abc.Process) -> None:
        self._process = process
        self._number = 0
        self._rest = b""

    async def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a request and give what answers it."""
        self._number += 1
        message = {"jsonrpc": "2.0", "id": self._number, "method": method, "params": params}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        await self._process.stdin.send(json.dumps(message).encode() + b"\n")
        while True:
            while b"\n" not in self._rest:
                self._rest += await self._process.stdout.receive()
            line, _, self._rest = self._rest.partition(b"\n")
            found: dict[str, Any] = json.loads(line)
            if found.get("id") == self._number:
                return found


ENVELOPE = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": {"name": "hand", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}


@pytest.mark.parametrize("server", ["legacy", "modern"])
@pytest.mark.parametrize("client", ["legacy", "modern"])
async def test_every_pair_of_eras(bench, client, server):
    command = bench.command(behind=[sys.executable, RAW, str(bench.calls), server])
    meta = {"_meta": ENVELOPE} if client == "modern" else {}
    async with await anyio.open_process(command, env={**bench.environ}, stderr=None) as process:
        hand = ByHand(process)
        if client == "legacy":
            hello = {
                "protocolVersion": "2025-06-18",
                "capabilities": {"tasks": {}},
                "clientInfo": {"name": "h", "version": "1"},
            }
            greeting = await hand.ask("initialize", **hello)
            assert greeting["result"]["protocolVersion"] == "2025-06-18"
        else:
            greeting = await hand.ask("server/discover", **meta)
        # What this release does not follow is not offered.
        assert greeting["result"]["capabilities"] == {"tools": {}}
        listed = (await hand.ask("tools/list", **meta))["result"]
        assert [(tool["name"], tool["x-unknown"]) for tool in listed["tools"]] == [
            ("odd", {"kept": [1]}),
            ("second", {"kept": [1]}),
        ]
        sent = {"a": 1.5, "b": [None, "\u2028"]}
        called = (await hand.ask("tools/call", name="odd", arguments=sent, **meta))["result"]
        assert (called["content"], called["x-unknown"]) == ([{"type": "x-new", "x": 1}], [None])
        if client == "modern":
            assert (called["resultType"], listed["resultType"], listed["cacheScope"]) == (
                "complete",
                "complete",
                "private",
            )
        failed = await hand.ask("tools/call", name="odd", arguments={"error": 1}, **meta)
        assert failed["error"] == {"code": -32050, "message": "its own error", "data": [1]}
        refused = (await hand.ask("tools/call", name="second", arguments={}, **meta))["result"]
        assert refused["isError"] is True
        tasks = (await hand.ask("tools/call", name="odd", arguments={}, task={"ttl": 1}, **meta))["result"]
        assert tasks["structuredContent"]["mutation_firewall"]["refused"] == "tasks"
        assert "error" in await hand.ask("tasks/list", **meta)
        assert "error" in await hand.ask("x/call", name="odd", **meta)
        process.terminate()
    calls = [one["params"] for one in bench.reached()]
    assert [one["arguments"] for one in calls] == [sent, {"error": 1}]
    assert [sorted(one.get("_meta", {})) for one in calls] == (
        [sorted(ENVELOPE)] * 2 if server == "modern" else [[], []]
    )


async def test_a_client_hears_of_changes_it_asked_for(served):
    async with Client(served.url) as client, client.listen(tools_list_changed=True) as heard:
        told: list[Any] = []

        async def hear() -> None:
            told.append(await anext(aiter(heard)))

        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(hear)
                # Until the gateway's own stream from the server is there, a change is told nobody.
                while not told:
                    await client.call_tool("change", {})
                    await anyio.sleep(0.2)
        assert told == [ToolsListChanged()]


async def test_a_client_with_a_handshake_hears_of_changes(served):
    heard = anyio.Event()

    async def hear(message: Any) -> None:
        if getattr(message, "method", "") == "notifications/tools/list_changed":
            heard.set()

    async with Client(served.url, mode="legacy", message_handler=hear) as client:
        with anyio.fail_after(60):
            # Until both streams are there, to the client and from the server, a change is told nobody.
            while not heard.is_set():
                await client.call_tool("change", {})
                with anyio.move_on_after(0.2):
                    await heard.wait()


@pytest.mark.parametrize("mode", ERAS)
@pytest.mark.parametrize("level", [None, "error", "info"])
async def test_the_log_of_a_server_reaches_who_wants_it(served, mode, level):
    heard: list[Any] = []

    async def hear(params: Any) -> None:
        heard.append(params.data)

    async with Client(served.url, mode=mode, logging_callback=hear, log_level=level) as client:
        assert text_of(await client.call_tool("tell", {})) == "told"
        # What a server with a handshake says is filtered by what it was told with `logging/setLevel`.
        expected = ["told"] if mode == "legacy" or level == "info" else []
        with anyio.move_on_after(60):
            while heard != expected:
                await anyio.sleep(0.02)
        assert heard == expected


@pytest.mark.parametrize("mode", ERAS)
async def test_a_server_that_started_again_is_met_again(bench, mode):
    port = free_port()
    command = bench.upstream("--http", str(port))
    async with AsyncExitStack() as stack:
        url = stack.enter_context(listening(bench, "--upstream", f"http://127.0.0.1:{port}/mcp", behind=[]))
        with started(command, bench.environ, port):
            client = await stack.enter_async_context(Client(url, mode=mode))
            assert text_of(await client.call_tool("add", {"a": 1, "b": 1})) == "2"
        facts = facts_of(await client.call_tool("add", {"a": 1, "b": 1}))
        assert facts["refused"] in {"upstream-away", "upstream-lost"}
        stack.enter_context(started(command, bench.environ, port))
        result = await client.call_tool("add", {"a": 1, "b": 1})
        if result.is_error:
            # It knows nothing of the session before; nothing was called, and the next call opens another.
            assert facts_of(result)["refused"] == "upstream-away"
            result = await client.call_tool("add", {"a": 1, "b": 1})
        assert text_of(result) == "2"
    assert len(bench.reached()) == 2
