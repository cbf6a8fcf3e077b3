"""A real browser, asked over a pipe in its own language (the Chrome DevTools Protocol), with everything that it tells."""

import itertools
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

NAMES = ("chromium-headless-shell", "chromium", "google-chrome")
SECONDS = 60.0
OPTIONS = (
    "--headless",
    "--no-sandbox",  # the tests of CI run as root, and load pages of ours only
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    # Whatever is asked for elsewhere is asked for in vain, and seen.
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
    "--remote-debugging-pipe",
)


def executable() -> str:
    """The browser; without one the test is skipped, which CI forbids."""
    for name in NAMES:
        if (found := shutil.which(name)) is not None:
            return found
    if os.environ.get("MFW_REQUIRE_ALL"):
        pytest.fail("chromium is not installed")
    pytest.skip("chromium is not installed: apt-get install chromium-headless-shell")


class Tab:
    """One page, and what it did: the addresses that it asked for, and what it complained about."""

    def __init__(self, to: int, came: int) -> None:
        self._to = to
        self._came = came
        self._rest = b""
        self._numbers = itertools.count(1)
        self._session = ""
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.answered: dict[str, int] = {}

    def open(self) -> None:
        """Make it, and listen to all that it says."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Ask, and wait for the answer."""
        number = next(self._numbers)
        asked: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if self._session:
            asked["sessionId"] = self._session
        os.write(self._to, json.dumps(asked).encode() + b"\0")
        while (told := self._next()).get("id") != number:
            pass
        assert "error" not in told, (method, told)
        result: dict[str, Any] = told["result"]
        return result

    def evaluate(self, expression: str) -> Any:
        """The value of an expression in the page, waited for where it is a promise."""
        told = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in told, told
        return told["result"].get("value")

    def wait(self, expression: str, holds: Callable[[Any], bool] = bool) -> Any:
        """Evaluate until it holds."""
        deadline = time.monotonic() + SECONDS
        while not holds(value := self.evaluate(expression)):
            assert time.monotonic() < deadline, (expression, value, self.complaints)
            time.sleep(0.02)
        return value

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            readable, _, _ = select.select([self._came], [], [], SECONDS)
            chunk = os.read(self._came, 1_048_576) if readable else b""
            assert chunk, "the browser says nothing"
            self._rest += chunk
        message, _, self._rest = self._rest.partition(b"\0")
        told: dict[str, Any] = json.loads(message)
        self._keep(told.get("method", ""), told.get("params", {}))
        return told

    def _keep(self, event: str, said: dict[str, Any]) -> None:
        match event:
            case "Network.requestWillBeSent":
                self.requests.append(said["request"]["url"])
            case "Network.responseReceived":
                self.answered[said["response"]["url"]] = said["response"]["status"]
            case "Runtime.consoleAPICalled" if said["type"] in {"error", "warning", "assert"}:
                self.complaints.append(json.dumps(said["args"]))
            case "Runtime.exceptionThrown":
                self.complaints.append(json.dumps(said["exceptionDetails"]))
            case "Log.entryAdded" if said["entry"]["level"] in {"error", "warning"}:
                self.complaints.append(said["entry"]["text"])
            case _:
                pass


@contextmanager
def tab() -> Iterator[Tab]:
    """A page in a browser that has never been anywhere."""
    found = executable()
    to_read, to = os.pipe()
    came, came_write = os.pipe()
    with tempfile.TemporaryDirectory(prefix="mfw-browser-", ignore_cleanup_errors=True) as profile:
        # The browser reads from descriptor 3 and writes to descriptor 4.
        script = f'exec "$@" 3<&{to_read} 4>&{came_write}'
        started = subprocess.Popen(
            ["bash", "-c", script, "bash", found, *OPTIONS, f"--user-data-dir={profile}"],
            pass_fds=(to_read, came_write),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_read)
        os.close(came_write)
        try:
            made = Tab(to, came)
            made.open()
            yield made
        finally:
            started.kill()
            started.wait()
            os.close(to)
            os.close(came)
