"""Starting and stopping what is measured: a PostgreSQL, the service as production runs it, the bare floor."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tests import ports

ROOT = Path(__file__).resolve().parents[1]
STARTER = ROOT / "policies" / "starter"
READY_WITHIN_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Started:
    """A process that answers: its port, its process group, its pid (the worker's where there is a master), how long it
    took from start to ready."""

    port: int
    group: int
    pid: int
    seconds_to_ready: float


def free_port() -> int:
    """A port of the loopback that nobody holds, and that no connection which goes out is given meanwhile."""
    return ports.free_port()


# What this process may use before anything is pinned: a child inherits what its parent was pinned to meanwhile.
_CORES = os.sched_getaffinity(0)


def pin(cores: set[int]) -> None:
    """Ask for these cores, where the machine has them."""
    wanted = cores & _CORES
    if wanted:
        os.sched_setaffinity(0, wanted)


def worker_of(pid: int) -> int:
    """The youngest descendant: gunicorn's worker, or the process itself."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return worker_of(int(children[-1])) if children else pid


def resident_mib(pid: int) -> float:
    """Resident memory of one process in MiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def cpu_seconds(pid: int) -> float:
    """User and system time of one process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def kill_group(group: int, number: int) -> None:
    """Signal every process of a group that this module started; one that is already gone is no error."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)


@contextlib.contextmanager
def process(
    command: list[str], *, environment: Mapping[str, str], ready: str, cores: set[int] | None
) -> Iterator[Started]:
    """Run `command` on `cores` (None: anywhere) until the block ends; yields when `ready` (a URL) answers 200."""
    began = time.perf_counter()
    # A file, not a pipe: nobody reads while the load runs, and a full pipe would be part of the measurement.
    log = tempfile.TemporaryFile()  # noqa: SIM115 - closed below, after the child
    child = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=log,
        process_group=0,
        # Who measures has no threads, and affinity must precede exec.
        preexec_fn=None if cores is None else lambda: pin(cores),  # noqa: PLW1509 - see above
    )
    try:
        _await(child, log, ready, deadline=began + READY_WITHIN_SECONDS)
        port = int(ready.split(":")[2].split("/", maxsplit=1)[0])
        ready_after = time.perf_counter() - began
        yield Started(port=port, group=child.pid, pid=worker_of(child.pid), seconds_to_ready=ready_after)
    finally:
        if child.poll() is None:
            child.terminate()
        try:
            child.wait(20)
        except subprocess.TimeoutExpired:
            kill_group(child.pid, signal.SIGKILL)
            child.wait()
        log.close()


def _await(child: "subprocess.Popen[bytes]", log: IO[bytes], url: str, *, deadline: float) -> None:
    while time.perf_counter() < deadline:
        if child.poll() is not None:
            log.seek(0)
            raise SystemExit(f"{child.args!r} ended with {child.returncode}: {log.read().decode()[-2000:]}")
        try:
            with urllib.request.urlopen(url, timeout=1) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.01)
    raise SystemExit(f"{url} did not answer 200 within {READY_WITHIN_SECONDS:.0f} s")


@contextlib.contextmanager
def bare(answer: Path, *, cores: set[int]) -> Iterator[Started]:
    """The floor: `bench/bare.py` answering the bytes of `answer`."""
    port = free_port()
    command = [sys.executable, "-m", "bench.bare", "--port", str(port), "--answer", str(answer)]
    with process(command, environment={}, ready=f"http://127.0.0.1:{port}/", cores=cores) as started:
        yield started


@contextlib.contextmanager
def firewall(
    database_url: str,
    *,
    cores: set[int] | None,
    policies: Path = STARTER,
    shedding: bool = False,
    settings: Mapping[str, str] | None = None,
) -> Iterator[Started]:
    """`mfw serve` as production runs it but for the rate limit and, unless `shedding`, for refusals under load.

    `settings` are MFW_ variables beside those.
    """
    port, metrics_port = free_port(), free_port()
    environment = {
        "MFW_ENVIRONMENT": "test",
        "MFW_DATABASE__URL": database_url,
        "MFW_DATABASE__EMBEDDED": "false",
        "MFW_HTTP__PORT": str(port),
        # Nobody balances load here, who would have to notice.
        "MFW_HTTP__DRAIN_SECONDS": "0",
        "MFW_METRICS__PORT": str(metrics_port),
        "MFW_POLICIES__DIRECTORY": str(policies),
        "MFW_LIMITS__PER_MINUTE": "100000000",
        "MFW_LIMITS__BURST": "10000000",
        "MFW_LIMITS__BATCH_PER_MINUTE": "100000000",
        "MFW_LIMITS__BATCH_BURST": "10000000",
        # The cost of looking stays, so that the figures have it.
        **({} if shedding else {"MFW_SHEDDING__DECISIONS_MIN": "1024", "MFW_SHEDDING__LAG_SECONDS": "60"}),
        **(settings or {}),
    }
    command = [sys.executable, "-m", "app", "serve"]
    ready = f"http://127.0.0.1:{port}/health/ready"
    with process(command, environment=environment, ready=ready, cores=cores) as started:
        yield started


def post(port: int, path: str, body: bytes, *, key: str) -> bytes:
    """One decision through the front door."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}",
        data=body,
        headers={"Content-Type": "application/json", "Authorization": f"Bearer {key}"},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        answered: bytes = answer.read()
        return answered
