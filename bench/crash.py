"""Kill the service with -9 under load, again and again, and hold every acknowledged decision against the ledger.

`python -m bench.crash --times 200`. Exit code 0: every answer that reached a client is in the ledger at the index and
with the leaf hash that it named, and the index has no gap.
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
from dataclasses import dataclass, field
from pathlib import Path

from rich.progress import track

from app.migrations.schema import apply
from bench import load, service
from bench.stores import agent_key, ledger_entries, started_postgres

CALLERS = 16
LIVED_SECONDS = (0.05, 0.6)  # after the first answer; random, so that death comes at any instruction


@dataclass(slots=True)
class Acknowledged:
    """What clients were told: decision id -> (ledger index, leaf hash)."""

    decisions: dict[str, tuple[int, str]] = field(default_factory=dict)
    refused: int = 0


async def _caller(port: int, request: bytes, told: Acknowledged) -> None:
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            while True:
                writer.write(request)
                head = await reader.readuntil(b"\r\n\r\n")
                lower = head.lower()
                at = lower.index(b"content-length:") + 15
                answer = json.loads(await reader.readexactly(int(lower[at : lower.index(b"\r\n", at)])))
                if head[9:12] == b"200":
                    told.decisions[answer["id"]] = (answer["ledger_index"], answer["receipt_hash"])
                else:
                    told.refused += 1
        finally:
            writer.close()


async def _load_until_killed(started: service.Started, request: bytes, told: Acknowledged) -> None:
    callers = [asyncio.create_task(_caller(started.port, request, told)) for _ in range(CALLERS)]
    before = len(told.decisions)
    deadline = time.monotonic() + 20
    while len(told.decisions) == before and time.monotonic() < deadline:
        await asyncio.sleep(0.005)
    await asyncio.sleep(random.uniform(*LIVED_SECONDS))
    service.kill_group(started.group, signal.SIGKILL)
    await asyncio.wait_for(asyncio.gather(*callers), timeout=20)


def crash(*, times: int, scratch: Path) -> Acknowledged:
    """Start, load and kill the service `times` times on one database, then check the ledger.

    Raises AssertionError naming the decision that was lost, changed or misplaced, or the gap.
    """
    mutation = (service.ROOT / "examples" / "allow-k8s-deployment-scaled.json").read_bytes()
    told = Acknowledged()
    with started_postgres(scratch) as database_url:
        asyncio.run(apply(database_url))
        key = agent_key(database_url)
        request = load.http_post("/v1/decisions", mutation, headers={"Authorization": f"Bearer {key}"})
        for _ in track(range(times), description="kill -9", transient=True, disable=not os.isatty(2)):
            with service.firewall(database_url, cores={0, 1}) as started:
                asyncio.run(_load_until_killed(started, request, told))
        receipts = ledger_entries(database_url)
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
    print(
        f"killed {times} times: {len(told.decisions):,} acknowledged decisions, all in the ledger; "
        f"{len(receipts):,} entries, no gap; {told.refused} refusals"
    )
    return told


def main() -> None:
    """Run as a command."""
    parser = argparse.ArgumentParser(prog="python -m bench.crash", description=__doc__)
    parser.add_argument("--times", type=int, default=200, help="how often to kill (default 200)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        crash(times=options.times, scratch=Path(scratch))


if __name__ == "__main__":
    main()
