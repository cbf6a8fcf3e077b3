"""`python -m bench.mcp`: what the gateway adds to a call of a tool, beside a direct call in the same run.

A server whose tool does nothing is called directly, through the gateway, and through the gateway by many at once; the
rows take turns, and the median round is printed. In between stand a policy that allows, the service as production runs
it, and a durable ledger.
"""

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anyio
from mcp import Client
from mcp.client.stdio import StdioServerParameters
from mcp.server.lowlevel.server import Server
from mcp.server.stdio import stdio_server

from app.migrations.schema import apply
from bench import service
from bench.stores import agent_key, started_postgres

SERVED_ON, LOADED_ON = {0}, {1}
SERVER = "server"
POLICY = """\
apiVersion: mutationfirewall.io/v1
kind: MutationPolicy
metadata: {name: tools}
spec:
  match: {resources: [{type: tool, id: "*/nothing"}]}
  rules: [{name: nothing, effect: allow, when: "'text' in change.after"}]
"""
ARGUMENTS = {"text": "x" * 1_000}


async def serve() -> None:
    """The server behind the gateway."""
    full = {"resultType": "complete", "ttlMs": 0, "cacheScope": "private"}

    async def list_tools(_: Any, __: Any) -> Any:
        return {"tools": [{"name": "nothing", "inputSchema": {"type": "object"}}], **full}

    async def call_tool(_: Any, __: Any) -> Any:
        return {"content": [{"type": "text", "text": "done"}], **full}

    made: Server[Any] = Server("bench", on_list_tools=list_tools, on_call_tool=call_tool)
    async with stdio_server() as (reading, writing):
        await made.run(reading, writing, made.create_initialization_options())


async def called(client: Client, *, callers: int, seconds: float) -> tuple[float, float, float]:
    """Calls a second, and the median and the 99th percentile of how long one takes in milliseconds."""
    taken: list[float] = []
    ends = time.perf_counter() + seconds

    async def one() -> None:
        while (begun := time.perf_counter()) < ends:
            result = await client.call_tool("nothing", ARGUMENTS)
            if result.is_error:
                raise SystemExit(f"not allowed: {result.content}")
            taken.append((time.perf_counter() - begun) * 1e3)

    async with anyio.create_task_group() as tasks:
        for _ in range(callers):
            tasks.start_soon(one)
    taken.sort()
    return len(taken) / seconds, statistics.median(taken), taken[int(len(taken) * 0.99)]


async def measure(url: str, key: str, *, rounds: int, seconds: float) -> None:
    """Measure and print."""
    directly = [sys.executable, "-m", "bench.mcp", SERVER]
    through = [sys.executable, "-m", "app", "mcp", "gateway", "--agent", "bench", "--", *directly]
    environment = {**os.environ, "MFW_URL": url, "MFW_API_KEY": key}
    found: dict[tuple[str, int], list[tuple[float, float, float]]] = {}
    async with AsyncExitStack() as stack:
        clients = {}
        for name, (command, *arguments) in {"direct": directly, "gateway": through}.items():
            behind = ["--env", "PYTHONPATH"] if name == "gateway" else []
            arguments[4:4] = behind
            started = StdioServerParameters(command=command, args=arguments, env=environment, cwd=service.ROOT)
            clients[name] = await stack.enter_async_context(Client(started))
            await clients[name].list_tools()
        for turn in range(rounds + 1):
            for callers in (1, 16):
                for name, client in clients.items():
                    result = await called(client, callers=callers, seconds=seconds if turn else 1.0)
                    if turn:  # the first one warms up
                        found.setdefault((name, callers), []).append(result)
    print(f"{'':<24}{'calls/s':>10}{'p50':>12}{'p99':>12}")
    for (name, callers), turns in found.items():
        rate, median, late = (statistics.median(column) for column in zip(*turns, strict=True))
        print(f"{f'{name}, {callers} callers':<24}{rate:>10,.0f}{median:>9.2f} ms{late:>9.2f} ms")


def main() -> None:
    """Start everything, or be the server."""
    if sys.argv[1:] == [SERVER]:
        anyio.run(serve)
        return
    parser = argparse.ArgumentParser(prog="python -m bench.mcp", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="of every row (default 5)")
    parser.add_argument("--seconds", type=float, default=4.0, help="of load per measurement (default 4)")
    options = parser.parse_args()
    service.pin(LOADED_ON)
    with tempfile.TemporaryDirectory() as scratch, started_postgres(Path(scratch)) as database_url:
        asyncio.run(apply(database_url))
        policies = Path(scratch) / "policies"
        policies.mkdir()
        (policies / "tools.yaml").write_text(POLICY)
        with service.firewall(database_url, cores=SERVED_ON, policies=policies) as guarded:
            url, key = f"http://127.0.0.1:{guarded.port}", agent_key(database_url)
            asyncio.run(measure(url, key, rounds=options.rounds, seconds=options.seconds))


if __name__ == "__main__":
    main()
