"""Kill what a decision depends on under load, again and again, and hold every acknowledged decision against the ledger.

`python -m bench.crash --times 200 --what service|signer|postgres|network|anything`. Two replicas answer all the while.

Exit code 0: every answer that reached a client is in the ledger, once, at the index and with the leaf hash that it
named, the index has no gap, and every checkpoint that was served is one of this ledger.
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
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import assert_never

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from rich.progress import Progress

from app.core.merkle import Frontier, leaf_hash
from app.core.notes import SignerKey, open_checkpoint
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
CHECKPOINT = b"GET /ledger/checkpoint HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
# Few rules: what is asked here is not what they say.
POLICIES = service.ROOT / "bench" / "policies"


class What(StrEnum):
    """What is killed."""

    SERVICE = "service"  # kill -9 of one replica; the other goes on
    SIGNER = "signer"  # kill -9 of all replicas at once, and with them of the one that signs
    POSTGRES = "postgres"  # kill -9 of the postmaster, then a start with recovery
    NETWORK = "network"  # each connection to PostgreSQL breaks after a random number of bytes


@dataclass(slots=True)
class Acknowledged:
    """What clients were told: decision id -> (ledger index, leaf hash), and the checkpoints that they saved."""

    decisions: dict[str, tuple[int, str]] = field(default_factory=dict)
    checkpoints: set[bytes] = field(default_factory=set)
    refused: int = 0


class Replica:
    """One `mfw serve` that can be killed and started again, and those who ask it."""

    def __init__(self, database_url: str, request: bytes, told: Acknowledged, *, signing_key: SignerKey) -> None:
        self._database_url = database_url
        self._settings = {
            "MFW_LEDGER__ORIGIN": signing_key.name,
            "MFW_LEDGER__SIGNING_KEY": signing_key.text,
            "MFW_LEDGER__PUBLIC": "true",
            "MFW_LEDGER__CHECKPOINT_SECONDS": "0.1",
        }
        self._request = request
        self._told = told
        self._running = contextlib.ExitStack()
        self._started: service.Started | None = None
        self._callers: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Start, and ask as soon as it is ready."""
        self._started = await asyncio.to_thread(
            self._running.enter_context,
            service.firewall(self._database_url, cores=None, policies=POLICIES, settings=self._settings),
        )
        port = self._started.port
        work = [*[(self._request, self._decided)] * CALLERS, (CHECKPOINT, self._saved)]
        self._callers = [asyncio.create_task(self._caller(port, *one)) for one in work]

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

    async def _caller(self, port: int, request: bytes, take: Callable[[int, bytes], float]) -> None:
        while True:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await self._ask(port, request, take)
            await asyncio.sleep(PAUSE_SECONDS)

    def _decided(self, status: int, body: bytes) -> float:
        if status != 200:
            self._told.refused += 1
            return PAUSE_SECONDS
        answer = json.loads(body)
        self._told.decisions[answer["id"]] = (answer["ledger_index"], answer["receipt_hash"])
        return 0.0

    def _saved(self, status: int, body: bytes) -> float:
        if status == 200:
            self._told.checkpoints.add(body)
        return PAUSE_SECONDS

    async def _ask(self, port: int, request: bytes, take: Callable[[int, bytes], float]) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            while True:
                writer.write(request)
                head = await reader.readuntil(b"\r\n\r\n")
                lower = head.lower()
                at = lower.index(b"content-length:") + 15
                body = await reader.readexactly(int(lower[at : lower.index(b"\r\n", at)]))
                if pause := take(int(head[9:12]), body):
                    await asyncio.sleep(pause)
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
                case What.SIGNER:
                    await asyncio.gather(*(replica.kill() for replica in replicas))
                    await asyncio.gather(*(replica.start() for replica in replicas))
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


async def _run(plan: Sequence[What], server: EmbeddedPostgres, signing_key: SignerKey) -> Acknowledged:
    await apply(server.dsn)
    key = await asyncio.to_thread(agent_key, server.dsn)
    mutation = (service.ROOT / "examples" / "allow-k8s-deployment-scaled.json").read_bytes()
    request = load.http_post("/v1/decisions", mutation, headers={"Authorization": f"Bearer {key}"})
    told = Acknowledged()
    network = BreakingNetwork(server.dsn)
    through = await network.start()
    replicas = [Replica(through, request, told, signing_key=signing_key) for _ in range(REPLICAS)]
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

    Raises AssertionError naming the decision that was lost, changed or misplaced, the gap, or the checkpoint that is of
    another ledger.
    """
    # As root the server runs under a uid of its own, which must be able to pass through.
    scratch.chmod(0o711)
    server = EmbeddedPostgres(scratch / "postgres")
    server.start()
    signing_key = SignerKey.of("crash.example/ledger", Ed25519PrivateKey.generate())
    try:
        told = asyncio.run(_run(plan, server, signing_key))
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
    sizes = _check_checkpoints(told.checkpoints, [receipt for _, _, receipt in receipts], signing_key)
    killed = ", ".join(f"{what} {plan.count(what)} times" for what in dict.fromkeys(plan))
    print(
        f"killed {killed}: {len(told.decisions):,} acknowledged decisions, all in the ledger; "
        f"{len(receipts):,} entries, no gap; {told.refused} refusals; {sizes} checkpoints, all of this ledger"
    )
    return told


def _check_checkpoints(saved: Collection[bytes], receipts: Sequence[bytes], signing_key: SignerKey) -> int:
    """Each is signed, and over the first entries of the ledger as it is in the end; gives how many sizes there were."""
    opened = [open_checkpoint(content, keys=[signing_key.verifier]).checkpoint for content in saved]
    assert opened, "no checkpoint was served"
    tree = Frontier()
    for checkpoint in sorted(opened, key=lambda one: one.size):
        assert checkpoint.size <= len(receipts), f"{checkpoint.size} entries were signed, there are {len(receipts)}"
        tree.extend(leaf_hash(receipt) for receipt in receipts[tree.size : checkpoint.size])
        assert checkpoint.root == tree.root, f"the checkpoint of {checkpoint.size} entries is of another ledger"
    return len({checkpoint.size for checkpoint in opened})


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
