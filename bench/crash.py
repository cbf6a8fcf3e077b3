"""Kill what a decision depends on under load, again and again, and hold every acknowledged decision against the ledger.

`python -m bench.crash --times 200 --what service|postgres|network|anything`. Two replicas answer all the while.

Exit code 0: every answer that reached a client is in the ledger, once, at the index and with the leaf hash that it
named, and the index has no gap.
"""

import argparse
import asyncio
import contextlib
import hashlib
import json
import os
import random
import signal
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import assert_never

from rich.progress import Progress

from app.migrations.schema import apply
from app.persistence.embedded import EmbeddedPostgres
from bench import load, service
from bench.network import BreakingNetwork
from bench.stores import agent_key, ledger_entries

REPLICAS = 2
CALLERS = 8  # of each replica
LIVED_SECONDS = (0.05, 0.6)  # of load before a kill; random, so that death comes at any instruction
PAUSE_SECONDS = 0.02  # of a caller that was refused
RECOVERY_SECONDS = 90.0
ANYTHING = "anything"
# Few rules: what is asked here is not what they say.
POLICIES = service.ROOT / "bench" / "policies"


class What(StrEnum):
    """What is killed."""

    SERVICE = "service"  # kill -9 of one replica; the other goes on
    POSTGRES = "postgres"  # kill -9 of the postmaster, then a start with recovery
    NETWORK = "network"  # each connection to PostgreSQL breaks after a random number of bytes


@dataclass(slots=True)
class Acknowledged:
    """What clients were told: decision id -> (ledger index, leaf hash)."""

    decisions: dict[str, tuple[int, str]] = field(default_factory=dict)
    refused: int = 0


class Replica:
    """One `mfw serve` that can be killed and started again, and those who ask it."""

    def __init__(self, database_url: str, request: bytes, told: Acknowledged) -> None:
        self._database_url = database_url
        self._request = request
        self._told = told
        self._running = contextlib.ExitStack()
        self._started: service.Started | None = None
        self._callers: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Start, and ask as soon as it is ready."""
        self._started = await asyncio.to_thread(
            self._running.enter_context, service.firewall(self._database_url, cores=None, policies=POLICIES)
        )
        self._callers = [asyncio.create_task(self._caller(self._started.port)) for _ in range(CALLERS)]

    async def kill(self) -> None:
        """End it as a kernel that is out of memory does."""
        assert self._started is not None
        service.kill_group(self._started.group, signal.SIGKILL)
        await self.stop()

    async def stop(self) -> None:
        """End it as an orchestrator does."""
        for caller in self._callers:
            caller.cancel()
        await asyncio.gather(*self._callers, return_exceptions=True)
        await asyncio.to_thread(self._running.close)

    async def _caller(self, port: int) -> None:
        while True:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await self._ask(port)
            await asyncio.sleep(PAUSE_SECONDS)

    async def _ask(self, port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            while True:
                writer.write(self._request)
                head = await reader.readuntil(b"\r\n\r\n")
                lower = head.lower()
                at = lower.index(b"content-length:") + 15
                answer = json.loads(await reader.readexactly(int(lower[at : lower.index(b"\r\n", at)])))
                if head[9:12] == b"200":
                    self._told.decisions[answer["id"]] = (answer["ledger_index"], answer["receipt_hash"])
                else:
                    self._told.refused += 1
                    await asyncio.sleep(PAUSE_SECONDS)
        finally:
            writer.close()


async def _more(told: Acknowledged, *, than: int) -> None:
    """Wait for an acknowledgement after the first `than`: it goes on."""
    deadline = time.monotonic() + RECOVERY_SECONDS
    while len(told.decisions) <= than:
        assert time.monotonic() < deadline, f"nothing was acknowledged for {RECOVERY_SECONDS:.0f} s"
        await asyncio.sleep(0.005)


async def _suffer(
    plan: Sequence[What],
    *,
    server: EmbeddedPostgres,
    replicas: list[Replica],
    network: BreakingNetwork,
    told: Acknowledged,
) -> None:
    with Progress(transient=True, disable=not os.isatty(2)) as progress:
        task = progress.add_task("kill", total=len(plan))
        for what in plan:
            await asyncio.sleep(random.uniform(*LIVED_SECONDS))
            match what:
                case What.SERVICE:
                    victim = random.choice(replicas)
                    await victim.kill()
                    await victim.start()
                case What.POSTGRES:
                    os.kill(server.pid or 0, signal.SIGKILL)
                    while server.pid is not None:
                        await asyncio.sleep(0.001)
                    await server.astart()
                case What.NETWORK:
                    await network.break_once(within=RECOVERY_SECONDS)
                case other:
                    assert_never(other)
            await _more(told, than=len(told.decisions))
            progress.advance(task)


async def _run(plan: Sequence[What], server: EmbeddedPostgres) -> Acknowledged:
    await apply(server.dsn)
    key = await asyncio.to_thread(agent_key, server.dsn)
    mutation = (service.ROOT / "examples" / "allow-k8s-deployment-scaled.json").read_bytes()
    request = load.http_post("/v1/decisions", mutation, headers={"Authorization": f"Bearer {key}"})
    told = Acknowledged()
    network = BreakingNetwork(server.dsn)
    through = await network.start()
    replicas = [Replica(through, request, told) for _ in range(REPLICAS)]
    try:
        await asyncio.gather(*(replica.start() for replica in replicas))
        await _more(told, than=0)
        await _suffer(plan, server=server, replicas=replicas, network=network, told=told)
    finally:
        await asyncio.gather(*(replica.stop() for replica in replicas))
        await network.stop()
    return told


def crash(plan: Sequence[What], *, scratch: Path) -> Acknowledged:
    """Kill what `plan` names, in turn, under the load of two replicas on one database, then check the ledger.

    Raises AssertionError naming the decision that was lost, changed or misplaced, or the gap.
    """
    # As root the server runs under a uid of its own, which must be able to pass through.
    scratch.chmod(0o711)
    server = EmbeddedPostgres(scratch / "postgres")
    server.start()
    try:
        told = asyncio.run(_run(plan, server))
        receipts = ledger_entries(server.dsn)
    finally:
        server.stop()
    indexes = [index for index, _, _ in receipts]
    assert indexes == list(range(len(indexes))), "the index has a gap"
    written = {
        identity: (index, "sha256:" + hashlib.sha256(b"\x00" + receipt).hexdigest())
        for index, identity, receipt in receipts
    }
    assert len(written) == len(receipts), "one decision has two entries"
    for identity, said in told.decisions.items():
        assert written.get(identity) == said, (
            f"decision {identity} was acknowledged as {said}, the ledger says otherwise"
        )
    assert told.decisions, "nothing was acknowledged: the load did not run"
    killed = ", ".join(f"{what} {plan.count(what)} times" for what in dict.fromkeys(plan))
    print(
        f"killed {killed}: {len(told.decisions):,} acknowledged decisions, all in the ledger; "
        f"{len(receipts):,} entries, no gap; {told.refused} refusals"
    )
    return told


def main() -> None:
    """Run as a command."""
    parser = argparse.ArgumentParser(prog="python -m bench.crash", description=__doc__)
    parser.add_argument("--times", type=int, default=200, help="how often to kill (default 200)")
    parser.add_argument("--what", choices=[*What, ANYTHING], default=ANYTHING, help="what to kill (default: anything)")
    options = parser.parse_args()
    each = list(What) if options.what == ANYTHING else [What(options.what)]
    with tempfile.TemporaryDirectory() as scratch:
        crash(random.choices(each, k=options.times), scratch=Path(scratch))


if __name__ == "__main__":
    main()
