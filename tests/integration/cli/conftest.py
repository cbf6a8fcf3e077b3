"""The command as a process of its own, and one development service for the tests that only ask."""

import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration.service.conftest import UNHURRIED
from tests.ports import free_port

ROOT = Path(__file__).resolve().parents[3]
MFW = (sys.executable, "-m", "app")
START_SECONDS = 120
STOP_SECONDS = 120


def environment(**more: str) -> dict[str, str]:
    """The environment of a command: this one's, without settings of the person who runs the tests."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MFW_")}
    return kept | more


def mfw(*arguments: object, stdin: str = "", **settings: str) -> "subprocess.CompletedProcess[str]":
    """Run a command to its end."""
    return subprocess.run(
        [*MFW, *map(str, arguments)],
        input=stdin,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment(**settings),
        timeout=START_SECONDS,
        check=False,
    )


@contextmanager
def state_directory() -> Iterator[Path]:
    """A state directory that another uid can reach: pytest's own lies below a 0700 one, which PostgreSQL cannot enter."""
    above = Path(tempfile.mkdtemp(prefix="mfw-cli-"))
    above.chmod(0o711)
    try:
        yield above / "state"
    finally:
        shutil.rmtree(above, ignore_errors=True)


@dataclass
class Process:
    """A server of ours in the foreground of its own process group, with what it wrote so far."""

    popen: "subprocess.Popen[bytes]"
    written: bytes = b""

    @property
    def output(self) -> str:
        """The same as text; what is read may end in the middle of a character."""
        return self.written.decode(errors="replace")

    def read_until(self, text: str) -> str:
        """Wait for a text on standard output or error."""
        deadline = time.monotonic() + START_SECONDS
        assert self.popen.stdout is not None
        while text not in self.output:
            left = deadline - time.monotonic()
            readable, _, _ = select.select([self.popen.stdout], [], [], max(0, left))
            chunk = os.read(self.popen.stdout.fileno(), 65536) if readable else b""
            assert chunk, f"`{text}` never came:\n{self.output}"
            self.written += chunk
        return self.output

    def heard(self) -> str:
        """What it wrote up to now."""
        assert self.popen.stdout is not None
        while select.select([self.popen.stdout], [], [], 0)[0] and (
            chunk := os.read(self.popen.stdout.fileno(), 65536)
        ):
            self.written += chunk
        return self.output

    def stop(self, number: signal.Signals) -> int:
        """Send a signal and give the exit code."""
        self.popen.send_signal(number)
        rest, _ = self.popen.communicate(timeout=STOP_SECONDS)
        self.written += rest
        return self.popen.returncode


@contextmanager
def running(*arguments: object, settings: Mapping[str, str]) -> Iterator[Process]:
    """A command that runs until it is stopped; killed at the end if the test did not stop it."""
    popen = subprocess.Popen(
        [*MFW, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=ROOT,
        env=environment(**settings),
        start_new_session=True,
    )
    process = Process(popen)
    try:
        yield process
    finally:
        if popen.poll() is None:
            # gunicorn's worker as well: it would keep the pipe open that is read to its end below.
            os.killpg(popen.pid, signal.SIGKILL)
        popen.communicate()


@dataclass(frozen=True)
class Service:
    """A development service: where it answers, and where its state is."""

    url: str
    metrics_url: str
    state: Path
    process: Process

    @property
    def settings(self) -> dict[str, str]:
        """What a command on the same machine has in its environment."""
        return {"MFW_STATE_DIR": str(self.state), "MFW_URL": self.url}


@contextmanager
def development(state: Path, **settings: str) -> Iterator[Service]:
    """`mfw dev` on free ports."""
    port, metrics_port = free_port(), free_port()
    with running(
        *("dev", "--port", port, "--metrics-port", metrics_port, "--state-dir", state),
        settings={"MFW_LIMITS__FAILURES_PER_MINUTE_PER_IP": "100000", **UNHURRIED, **settings},
    ) as process:
        process.read_until("Ctrl-C stops everything")
        yield Service(f"http://127.0.0.1:{port}", f"http://127.0.0.1:{metrics_port}/metrics", state, process)


def ready(url: str, **options: Any) -> httpx.Response:
    """What a service says that is ready: a component that has not answered within two seconds is not, on a busy machine."""
    deadline = time.monotonic() + 60
    while (found := httpx.get(f"{url}/health/ready", timeout=60, **options)).status_code != 200:
        assert time.monotonic() < deadline, found.text
        time.sleep(0.1)
    return found


@dataclass(frozen=True)
class Commands:
    """What a test needs to run commands; importing from a conftest is not possible."""

    run = staticmethod(mfw)
    running = staticmethod(running)
    development = staticmethod(development)
    state_directory = staticmethod(state_directory)
    free_port = staticmethod(free_port)
    ready = staticmethod(ready)


@pytest.fixture(scope="session")
def commands() -> Commands:
    """The commands of this checkout, as processes."""
    return Commands()


@pytest.fixture
def state() -> Iterator[Path]:
    """An empty place for a state directory."""
    with state_directory() as directory:
        yield directory


@pytest.fixture(scope="session")
def service() -> Iterator[Service]:
    """One development service for every test that only asks it."""
    with (
        state_directory() as state,
        development(state, MFW_LIMITS__PER_MINUTE="100000", MFW_LIMITS__BURST="10000") as made,
    ):
        yield made
        assert made.process.stop(signal.SIGTERM) == 0
