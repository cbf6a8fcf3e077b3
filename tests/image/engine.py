"""A container engine: Docker where one answers, else a daemon of our own, which touches no network of the machine."""

import contextlib
import fcntl
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.integration.cli.conftest import environment
from tests.integration.conftest import CONTAINER_LABEL

ROOT: Final = Path(__file__).resolve().parents[2]
NAME: Final = "mutation-firewall-test:latest"
BASE: Final = "python:3.13-slim-bookworm"
LABEL: Final = CONTAINER_LABEL
START_SECONDS: Final = 120
# What is asked of an image that is there, or of a container.
ASK_SECONDS: Final = 120
# Tens of megabytes from a registry, or a network that lets nothing through and does not say so.
PULL_SECONDS: Final = 300
# Bootstrapping a base, downloading what the locks name, compiling it: minutes where all cores are busy.
BUILD_SECONDS: Final = 1500
_KEPT: Final = "72h"


class NotHereError(Exception):
    """There is no engine here, and none can be started."""


@dataclass(frozen=True, slots=True)
class Engine:
    """A daemon that answers; `host` is where, or empty for the one that this user has anyway."""

    host: str

    def run(
        self, *words: object, check: bool = True, timeout: float = ASK_SECONDS, stdin: str = ""
    ) -> "subprocess.CompletedProcess[str]":
        """One command of `docker`."""
        done = subprocess.run(
            ["docker", *map(str, words)],
            env=self.environment(),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert not check or done.returncode == 0, f"docker {words}: {done.stdout}{done.stderr}"
        return done

    def environment(self, **more: str) -> dict[str, str]:
        """The environment in which commands reach it."""
        return environment(**({"DOCKER_HOST": self.host} if self.host else {}), **more)

    def script(self, name: str, *words: str, **more: str) -> str:
        """What a script of `image/` prints."""
        done = subprocess.run(
            ["bash", str(ROOT / "image" / name), *words],
            env=self.environment(**more),
            capture_output=True,
            text=True,
            timeout=BUILD_SECONDS,
            check=False,
        )
        assert done.returncode == 0, f"image/{name}: {done.stdout[-4000:]}{done.stderr[-4000:]}"
        return done.stdout.strip()

    def has(self, image: str) -> bool:
        """Whether an image is there, or can be pulled; a registry that answers nothing, or too slowly, has none."""
        if self.run("image", "inspect", image, check=False).returncode == 0:
            return True
        try:
            return self.run("pull", image, check=False, timeout=PULL_SECONDS).returncode == 0
        except subprocess.TimeoutExpired:
            return False


@contextlib.contextmanager
def started() -> Iterator[Engine]:
    """An engine while the block lasts; nothing of a test is left in it."""
    if shutil.which("docker") is None:
        raise NotHereError("no docker here; on Debian: apt-get install docker.io debootstrap")
    theirs = Engine("")
    with contextlib.ExitStack() as stack:
        if theirs.run("info", check=False).returncode == 0:
            engine = theirs
        elif os.geteuid() == 0 and shutil.which("dockerd", path=f"{os.environ.get('PATH', '')}:/usr/sbin"):
            engine = stack.enter_context(_daemon())
        else:
            raise NotHereError("no docker that answers, and a daemon of our own needs root and dockerd")
        stack.callback(_clean, engine)
        yield engine


def _clean(engine: Engine) -> None:
    left = engine.run("ps", "--all", "--quiet", "--filter", f"label={LABEL}").stdout.split()
    if left:
        engine.run("rm", "--force", "--volumes", *left)
    if engine.host:
        engine.run("image", "prune", "--force", "--filter", f"until={_KEPT}")


@contextlib.contextmanager
def _daemon() -> Iterator[Engine]:
    """A daemon without bridge and packet filter: containers have the machine's network, or none.

    What it has built is kept beside other tools that are built once, and only one at a time has it.
    """
    above = Path(os.environ.get("MFW_TOOLS_CACHE") or Path.home() / ".cache" / "mutation-firewall") / "image"
    above.mkdir(parents=True, exist_ok=True)
    running = Path(tempfile.mkdtemp(prefix="mfw-docker-"))
    host = f"unix://{running}/docker.sock"
    # Without one, a daemon takes away the bridge that another one on this machine may have made.
    bridge = "docker0" if Path("/sys/class/net/docker0").exists() else "none"
    with (above / "daemon.lock").open("w") as lock, (running / "log").open("wb") as log:
        fcntl.flock(lock, fcntl.LOCK_EX)
        process = subprocess.Popen(
            [
                shutil.which("dockerd", path=f"{os.environ.get('PATH', '')}:/usr/sbin") or "dockerd",
                *("--host", host, "--data-root", str(above / "docker"), "--exec-root", str(running / "exec")),
                *("--pidfile", str(running / "pid"), "--bridge", bridge, "--iptables=false", "--ip-forward=false"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            # Its containerd is found by PATH, which may lack where Debian puts servers.
            env={**os.environ, "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"},
            start_new_session=True,
        )
        engine = Engine(host)
        try:
            deadline = time.monotonic() + START_SECONDS
            while engine.run("info", check=False).returncode != 0:
                told = (running / "log").read_text(errors="replace")
                assert process.poll() is None, f"dockerd ended by itself: {told[-4000:]}"
                assert time.monotonic() < deadline, f"dockerd did not start: {told[-4000:]}"
                time.sleep(0.2)
            yield engine
        finally:
            process.terminate()
            try:
                process.wait(START_SECONDS)
            finally:
                process.kill()
                process.wait()
                # The namespace of the machine's network stays mounted, and would hold the folder.
                subprocess.run(
                    ["umount", str(running / "exec" / "netns" / "default")], capture_output=True, check=False
                )
                shutil.rmtree(running, ignore_errors=True)


def built(engine: Engine) -> str:
    """The name of the image, built from the Dockerfile as it is; the base is bootstrapped where none can be pulled."""
    base = BASE if engine.has(BASE) else engine.script("base")
    engine.script("build", NAME, ENGINE="docker", PYTHON_IMAGE=base, BUILD_OPTIONS="--network host")
    return NAME
