"""A firewall, a gateway as a process of its own, and servers behind it that write down what reaches them."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from mcp.client.stdio import StdioServerParameters
from ruamel.yaml import YAML

from tests.integration.service.conftest import Running, running, serve
from tests.ports import free_port

__all__ = ["serve"]

ROOT = Path(__file__).resolve().parents[3]
UPSTREAM = Path(__file__).parent / "upstream.py"
CORPUS: dict[str, Any] = YAML(typ="safe", pure=True).load((Path(__file__).parent / "calls.yaml").read_text())


@dataclass
class Bench:
    """What a test needs to start a gateway."""

    firewall: Running
    calls: Path
    environ: dict[str, str] = field(default_factory=dict)

    def upstream(self, *more: str) -> list[str]:
        """The command of a server behind the gateway."""
        return [sys.executable, str(UPSTREAM), str(self.calls), *more]

    def command(self, *options: str, behind: list[str] | None = None) -> list[str]:
        """The command of a gateway; `behind` is the command of its one upstream, [] for none."""
        behind = self.upstream() if behind is None else behind
        tail = ["--", *behind] if behind else []
        # The last one of an option holds; how fast a firewall is on this machine must not decide.
        patient = ["--timeout", "60"]
        return [sys.executable, "-m", "app", "mcp", "gateway", "--agent", "bot", *patient, *options, *tail]

    def stdio(self, *options: str, behind: list[str] | None = None) -> StdioServerParameters:
        """The gateway as a client starts it."""
        command, *arguments = self.command(*options, behind=behind)
        return StdioServerParameters(command=command, args=arguments, env=self.environ, cwd=ROOT)

    def reached(self, kind: str = "call") -> list[dict[str, Any]]:
        """What reached the servers."""
        if not self.calls.exists():
            return []
        lines = [json.loads(line) for line in self.calls.read_text().splitlines()]
        return [line for line in lines if line["kind"] == kind]

    def records(self) -> list[dict[str, Any]]:
        """The receipts in the ledger."""
        return [json.loads(receipt) for _, _, receipt in self.firewall.entries()]


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until somebody listens."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        try:
            httpx.get(f"http://127.0.0.1:{port}/", timeout=1)
        except httpx.TransportError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError("nobody listens")


@contextmanager
def started(command: list[str], environ: dict[str, str], port: int) -> Iterator[subprocess.Popen[bytes]]:
    """A process that listens on a port, until the block ends."""
    process = subprocess.Popen(command, env={**os.environ, **environ}, cwd=ROOT, stdin=subprocess.DEVNULL)
    try:
        wait_for(port, process)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise


@pytest.fixture(scope="session")
def policies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The policies of the corpus, and the starter's for tools that change."""
    folder = tmp_path_factory.mktemp("policies")
    (folder / "tools.yaml").write_text(CORPUS["policies"])
    starter = ROOT / "policies" / "starter" / "prompts-tools-memory.yaml"
    (folder / starter.name).write_text(starter.read_text())
    return folder


@pytest.fixture(scope="module")
def firewall(shared_database_dsn, policies) -> Iterator[Running]:
    """A firewall for the tests of a module."""
    with running(shared_database_dsn, MFW_POLICIES__DIRECTORY=str(policies)) as found:
        yield found


@dataclass
class Served(Bench):
    """A gateway that listens, in front of one server that listens."""

    url: str = ""
    upstream_url: str = ""


def of(firewall: Running, calls: Path) -> Bench:
    """The surroundings of a gateway that asks a firewall."""
    environ = {"PYTHONPATH": str(ROOT), "MFW_URL": firewall.url, "MFW_API_KEY": firewall.key, "SECRET": "do-not-pass"}
    return Bench(firewall, calls, environ)


@pytest.fixture
def bench(firewall, tmp_path) -> Bench:
    """A gateway's surroundings for one test."""
    return of(firewall, tmp_path / "calls")


@contextmanager
def listening(bench: Bench, *options: str, behind: list[str] | None = None) -> Iterator[str]:
    """A gateway that listens, and its address."""
    port = free_port()
    command = bench.command("--listen", f"127.0.0.1:{port}", *options, behind=behind)
    with started(command, bench.environ, port):
        yield f"http://127.0.0.1:{port}/mcp"


@pytest.fixture(scope="module")
def _served(firewall, tmp_path_factory) -> Iterator[Served]:
    bench = of(firewall, tmp_path_factory.mktemp("served") / "calls")
    port = free_port()
    with started(bench.upstream("--http", str(port)), bench.environ, port):
        behind = f"http://127.0.0.1:{port}/mcp"
        with listening(bench, "--upstream", behind, behind=[]) as url:
            yield Served(firewall, bench.calls, bench.environ, url, behind)


@pytest.fixture
def served(_served: Served) -> Served:
    """One gateway for all tests of a module that leave it as it was."""
    _served.calls.unlink(missing_ok=True)
    return _served
