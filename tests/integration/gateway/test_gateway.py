"""The gateway between real clients and servers of the SDK, with the ledger beside each call."""

import json
import re
import shlex
import subprocess
import sys
from functools import partial
from typing import Any

import anyio
import pytest
from mcp import Client
from mcp.client.stdio import StdioServerParameters
from mcp.shared.exceptions import MCPDeprecationWarning
from mcp_types import ElicitResult, PromptReference

from app.core.canonical import canonical
from tests.integration.gateway.conftest import CORPUS, ROOT

ERAS = ["legacy", "auto"]
OFFERED = ["add", "drop", "transfer", "wipe", "echo", "slow", "ask", "say", "tell", "fail", "change", "rug", "die"]


def text_of(result: Any) -> str:
    return "".join(part.text for part in result.content)


def facts_of(result: Any) -> dict[str, Any]:
    assert result.is_error
    facts: dict[str, Any] = result.meta["io.mutationfirewall/decision"]
    assert result.structured_content in (None, {"mutation_firewall": facts})
    return facts


@pytest.mark.parametrize("mode", ERAS)
@pytest.mark.parametrize("transport", ["stdio", "http"])
async def test_the_corpus_with_the_ledger_beside_each_call(served, mode, transport):
    async with Client(served.url if transport == "http" else served.stdio(), mode=mode) as client:
        for case in CORPUS["cases"]:
            before, called = len(served.records()), len(served.reached())
            result = await client.call_tool(case["tool"], case["arguments"])
            entries, reached = served.records()[before:], served.reached()[called:]
            if case["decision"] == "none":
                assert (entries, reached) == ([], [])
                assert facts_of(result)["refused"] == "no-decision", case
                continue
            (receipt,) = entries
            assert receipt["decision"] == case["decision"], case
            if case["decision"] == "allow":
                assert (result.is_error, text_of(result)) == (
                    case.get("failed", False),
                    case.get("answer", text_of(result)),
                )
                (call,) = reached
                # What was judged is what arrived.
                assert canonical(call["arguments"]) == canonical(case["arguments"])
            else:
                assert reached == [], case
                facts = facts_of(result)
                assert facts["decision"] == case["decision"]
                assert facts["reasons"][0]["rule"] == case["rule"], facts
                assert facts["ledger_index"] == before
                assert facts["decision_id"] in text_of(result)
                assert f"rule `{case['rule']}`" in text_of(result)
                assert "\u202e" not in text_of(result)


@pytest.mark.parametrize("mode", ERAS)
async def test_a_hold_says_who_has_to_agree(served, mode):
    async with Client(served.url, mode=mode) as client:
        result = await client.call_tool("transfer", {"amount": 1})
    facts = facts_of(result)
    assert result.structured_content == {"mutation_firewall": facts}
    assert "2 of the group `treasury` or 1 of the group `board`" in text_of(result)
    assert facts["approval"]["anyOf"] == [{"group": "treasury", "count": 2}, {"group": "board", "count": 1}]
    assert facts["decision_id"] in facts["fix"]


async def test_an_allow_with_an_obligation_is_none(served):
    async with Client(served.url) as client:
        result = await client.call_tool("say", {})
    assert facts_of(result)["obligations"] == [{"key": "example/quietly", "value": "true"}]
    assert served.reached() == []


@pytest.mark.parametrize("mode", ERAS)
async def test_what_is_no_call_passes_as_it_is(served, mode):
    async with Client(served.url, mode=mode) as client:
        assert client.session.instructions == "use it well"
        tools = (await client.list_tools()).tools
        assert [tool.name for tool in tools] == OFFERED
        (echo,) = (tool for tool in tools if tool.name == "echo")
        assert echo.meta == {"example.com/kept": 1}
        first = await client.list_prompts()
        second = await client.list_prompts(cursor=first.next_cursor)
        assert [one.name for one in (*first.prompts, *second.prompts)] == ["greet", "second"]
        assert second.next_cursor is None
        assert "hello you" in str((await client.get_prompt("greet", {"who": "you"})).messages)
        assert [str(one.uri) for one in (await client.list_resources()).resources] == ["test://one"]
        assert len((await client.list_resource_templates()).resource_templates) == 1
        assert (await client.read_resource("test://one")).contents[0].text == "the text"  # type: ignore[union-attr]  # it is a text
        done = await client.complete(PromptReference(name="greet", type="ref/prompt"), {"name": "who", "value": "a"})
        assert done.completion.values == ["a!"]
    assert served.reached() == []


async def test_the_log_level_reaches_the_server(served):
    async with Client(served.url, mode="legacy") as client:
        with pytest.warns(MCPDeprecationWarning):
            await client.session.set_logging_level("error")
    assert [one["level"] for one in served.reached("level")] == ["error"]


@pytest.mark.parametrize("mode", ERAS)
async def test_structured_and_unknown_content_is_kept(served, mode):
    async with Client(served.url, mode=mode) as client:
        assert (await client.call_tool("add", {"a": 2, "b": 3})).structured_content == {"sum": 5}
        # A client of the SDK takes no more than 1 MiB in one event.
        result = await client.call_tool("echo", {"size": 1_000_000 if mode == "legacy" else 3_000_000})
        assert len(text_of(result)) > 1_000_000
        assert (result.meta or {})["example.com/kept"] == [1, None]


@pytest.mark.parametrize("mode", ERAS)
async def test_progress_and_cancellation_go_through(served, mode):
    told: list[float] = []

    async def seen(progress: float, total: float | None, message: str | None) -> None:
        told.append(progress)
        assert (total, message) == (3 if total == 3 else 10_000, f"step {int(progress)}")

    async with Client(served.url, mode=mode) as client:
        assert text_of(await client.call_tool("slow", {"steps": 3}, progress_callback=seen)) == "done"
        with anyio.fail_after(60):
            while told != [0, 1, 2]:
                await anyio.sleep(0.02)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(client.call_tool, "slow", {"steps": 10_000}, progress_callback=seen))
            # Once the server has begun: before that there is nothing that could be cancelled there.
            with anyio.fail_after(60):
                while len(told) == 3:
                    await anyio.sleep(0.02)
            tasks.cancel_scope.cancel()
        with anyio.fail_after(60):
            while not served.reached("cancelled"):
                await anyio.sleep(0.02)
        assert text_of(await client.call_tool("slow", {"steps": 1})) == "done"


async def test_a_server_can_ask_the_person(served):
    async def answer(context: Any, params: Any) -> ElicitResult:
        del context
        assert params.message == "your name?"
        return ElicitResult(action="accept", content={"name": "Ada"})

    async with Client(served.url, mode="legacy", elicitation_callback=answer) as client:
        assert "accept {'name': 'Ada'}" in text_of(await client.call_tool("ask", {}))


async def test_what_else_reaches_a_tool_is_judged_too(served):
    also: Any = {"example.com/also": "rm"}
    async with Client(served.url) as client:
        result = await client.call_tool("echo", {}, meta=also)
        assert facts_of(result)["reasons"][0]["rule"] == "beside"
        assert served.reached() == []


async def test_tools_that_look_alike_or_have_no_name_are_not_called(served):
    async with Client(served.url) as client:
        for name in ("List_Files", "list-fiIes", "naïve", "nothing", "ADD", "add\u200b"):
            facts = facts_of(await client.call_tool(name, {}))
            assert facts["refused"] == "unknown-tool", name
    assert served.reached() == []


@pytest.mark.parametrize("mode", ERAS)
async def test_a_tool_that_changed_its_meaning_is_held(bench, mode):
    async with Client(bench.stdio(), mode=mode) as client:
        await client.list_tools()
        assert text_of(await client.call_tool("rug", {})) == "rug done"
        await client.call_tool("change", {})
        called, before = len(bench.reached()), len(bench.records())
        result = await client.call_tool("rug", {})
        facts = facts_of(result)
        assert (facts["decision"], facts["reasons"][0]["rule"]) == ("hold", "definition-changed")
        # What the client was told before may promise another structure.
        assert result.structured_content is None
        assert len(bench.reached()) == called
        # Not even told to the model, and asked about once.
        assert "rug" not in [tool.name for tool in (await client.list_tools(cache_mode="refresh")).tools]
        assert [one["decision"] for one in bench.records()[before:]] == ["hold"]


async def test_a_pinned_tool_is_the_one_that_was_pinned(bench, tmp_path):
    pins = tmp_path / "pins.json"
    only = bench.upstream("--only", "add", "--only", "rug", "--only", "change")
    command = [sys.executable, "-m", "app", "mcp", "pin", str(pins), "--", *only]
    done = subprocess.run(command, env={**bench.environ}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert sorted(json.loads(pins.read_text())["tools"]["server"]) == ["add", "change", "rug"]
    async with Client(bench.stdio("--pin", str(pins))) as client:
        assert [tool.name for tool in (await client.list_tools()).tools] == ["add", "change", "rug"]
        assert facts_of(await client.call_tool("echo", {}))["refused"] == "pinned"
        await client.call_tool("change", {})
        before = len(bench.records())
        assert facts_of(await client.call_tool("rug", {}))["refused"] == "pinned"
        assert len(bench.records()) == before


async def test_two_upstreams_have_names_of_their_own(bench):
    one, two = shlex.join(bench.upstream()), shlex.join(bench.upstream("--only", "add"))
    gateway = bench.stdio("--upstream", f"one={one}", "--upstream", f"two={two}", behind=[])
    async with Client(gateway) as client:
        names = [tool.name for tool in (await client.list_tools()).tools]
        assert names == [*(f"one__{name}" for name in OFFERED), "two__add"]
        assert text_of(await client.call_tool("two__add", {"a": 1, "b": 1})) == "2"
        assert json.loads(bench.firewall.entries()[-1][2])["decision"] == "allow"
        for name in ("add", "two__echo", "three__add", "__add"):
            assert facts_of(await client.call_tool(name, {}))["refused"] == "unknown-tool"
        prompts: list[str] = []
        cursor = None
        while True:
            page = await client.list_prompts(cursor=cursor)
            prompts += [one.name for one in page.prompts]
            if (cursor := page.next_cursor) is None:
                break
        assert prompts == ["one__greet", "one__second", "two__greet", "two__second"]
        assert "hello x" in str(await client.get_prompt("two__greet", {"who": "x"}))
        assert (await client.read_resource("test://two")).contents


async def test_a_server_sees_no_secret_of_the_gateway(bench, tmp_path):
    shown = tmp_path / "environment"
    behind = ["sh", "-c", f'env > {shown}; exec "$@"', "sh", *bench.upstream()]
    async with Client(bench.stdio("--env", "PYTHONPATH", behind=behind)) as client:
        await client.list_tools()
    seen = shown.read_text()
    assert "PYTHONPATH" in seen
    assert bench.firewall.key not in seen
    assert "do-not-pass" not in seen


async def test_the_five_lines_of_the_page_work(bench):
    page = (ROOT / "docs" / "integrations" / "mcp.md").read_text()
    (block,) = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    assert len(block.splitlines()) == 5
    (server,) = json.loads(block)["mcpServers"].values()
    assert (server["command"], sorted(server["env"])) == ("mfw", ["MFW_API_KEY", "MFW_URL"])
    # The server of the test in place of one that npm would have to bring.
    arguments = [*server["args"][: server["args"].index("--") + 1], *bench.upstream()]
    started = StdioServerParameters(command=sys.executable, args=["-m", "app", *arguments], env=bench.environ, cwd=ROOT)
    async with Client(started) as client:
        assert text_of(await client.call_tool("add", {"a": 1, "b": 2})) == "3"
        assert facts_of(await client.call_tool("drop", {}))["decision"] == "deny"
