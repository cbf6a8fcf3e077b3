"""How long an entry waits for its checkpoint under full load, what signing costs who appends, how fast a backlog goes.

`python -m bench.checkpoints --seconds 10 --backlog 300000`. One process appends and signs, as in the service; the
embedded PostgreSQL has `fsync` and `synchronous_commit` on.
"""

import argparse
import asyncio
import os
import shutil
import tempfile
import time
from collections import deque
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from uuid import UUID

import uvloop
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from app.core.notes import SignerKey
from app.ledger.append import LedgerWriter
from app.ledger.checkpoints import Notary
from app.ledger.guard import GuardFile
from app.ledger.receipt import EntryKind, SealedEntry
from app.ledger.signing import KeySigner
from app.ledger.tree import StoredCheckpoint
from app.migrations import schema
from app.persistence.embedded import EmbeddedPostgres
from app.persistence.engine import connect

CALLERS = 64
# As long as a decision's receipt and a small record.
RECEIPT = b'{"made":"' + b"x" * 560 + b'"}'
RECORD = b"{}" + b" " * 900
FILL = """
WITH head AS (UPDATE ledger_head SET next_index = next_index + $1 RETURNING next_index - $1 AS before)
INSERT INTO ledger_entries (idx, id, kind, receipt)
SELECT before + n, gen_random_uuid(), 'decision', convert_to(repeat('x', 560), 'UTF8')
FROM head, generate_series(0, $1 - 1) AS n
"""


@dataclass(slots=True)
class Load:
    """What came out of some seconds of appending."""

    seconds: float
    appends: list[float] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    loop_lags: list[float] = field(default_factory=list)
    checkpoints: int = 0

    @property
    def rate(self) -> float:
        """Entries a second."""
        return len(self.appends) / self.seconds


def made() -> SealedEntry:
    """An entry; what is in it does not matter to the tree."""
    return SealedEntry(UUID(bytes=os.urandom(16)), EntryKind.DECISION, RECEIPT, bytes(32), RECORD)


async def load(writer: LedgerWriter, seconds: float, *, hear: "list[deque[tuple[int, float]]] | None" = None) -> Load:
    """64 callers, each with one append in flight; `hear` gets what waits for a checkpoint."""
    found = Load(seconds)
    end = time.perf_counter() + seconds

    async def caller() -> None:
        while (began := time.perf_counter()) < end:
            index = await writer.append(made())
            now = time.perf_counter()
            found.appends.append(now - began)
            if hear is not None:
                hear[0].append((index, now))

    async def watch() -> None:
        while (began := time.perf_counter()) < end:
            await asyncio.sleep(0.005)
            found.loop_lags.append(time.perf_counter() - began - 0.005)

    await asyncio.gather(watch(), *(caller() for _ in range(CALLERS)))
    return found


async def measure(dsn: str, *, seconds: float, backlog: int, guard: Path) -> None:
    await schema.apply(dsn)
    writer = LedgerWriter(dsn)
    await writer.start()
    pending: list[deque[tuple[int, float]]] = [deque()]
    waits: list[float] = []
    sizes: list[int] = []

    def heard(checkpoint: StoredCheckpoint) -> None:
        now = time.perf_counter()
        sizes.append(checkpoint.size)
        later: deque[tuple[int, float]] = deque()
        for index, at in pending[0]:
            if index < checkpoint.size:
                waits.append(now - at)
            else:
                later.append((index, at))
        pending[0] = later

    def notary() -> Notary:
        return Notary(
            partial(connect, dsn, writable=True),
            engine="bench",
            entropy=os.urandom,
            signer=KeySigner(SignerKey.of("bench.example.com", key)),
            guard=GuardFile(guard),
            published=heard,
        )

    key = Ed25519PrivateKey.generate()
    await load(writer, 1.0)
    for round_ in range(2):
        without = await load(writer, seconds / 2)
        one = notary()
        await one.start()
        while one.size == 0 or one.lag:
            await asyncio.sleep(0.05)
        waits.clear()
        pending[0].clear()
        count = len(sizes)
        signed = await load(writer, seconds / 2, hear=pending)
        await asyncio.sleep(2)
        await one.stop()
        tails = quantiles(waits, n=100)
        print(
            f"round {round_ + 1}: without signing {without.rate:,.0f} entries/s,"
            f" p50 {median(without.appends) * 1000:.1f} ms,"
            f" p99 {quantiles(without.appends, n=100)[98] * 1000:.1f} ms, loop p99"
            f" {quantiles(without.loop_lags, n=100)[98] * 1000:.1f} ms\n"
            f"         signing         {signed.rate:,.0f} entries/s ({signed.rate / without.rate:.0%}),"
            f" p50 {median(signed.appends) * 1000:.1f} ms, p99 {quantiles(signed.appends, n=100)[98] * 1000:.1f} ms,"
            f" loop p99 {quantiles(signed.loop_lags, n=100)[98] * 1000:.1f} ms\n"
            f"         an entry waits for its checkpoint: p50 {median(waits):.2f} s, p99 {tails[98]:.2f} s,"
            f" longest {max(waits):.2f} s; {len(sizes) - count} checkpoints"
        )
    await writer.stop()
    connection = await connect(dsn, statement_timeout=300)
    await connection.execute(FILL, backlog)
    total = await connection.fetchval("SELECT next_index FROM ledger_head")
    await connection.close()
    one = notary()
    began = time.perf_counter()
    await one.start()
    while one.size < total:
        await asyncio.sleep(0.01)
    took = time.perf_counter() - began
    await one.stop()
    print(f"backlog of {backlog:,}: {took:.1f} s, {backlog / took:,.0f} entries/s")


def main() -> None:
    """Measure, and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="seconds of load in each of two rounds")
    parser.add_argument("--backlog", type=int, default=300_000, help="entries that wait when signing begins")
    asked = parser.parse_args()
    state = Path(tempfile.mkdtemp(prefix="mfw-bench-"))
    state.chmod(0o711)
    server = EmbeddedPostgres(state / "postgresql", settings={"min_wal_size": "1GB"})
    try:
        dsn = server.start()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(measure(dsn, seconds=asked.seconds, backlog=asked.backlog, guard=state / "guard"))
    finally:
        server.stop()
        shutil.rmtree(state, ignore_errors=True)


if __name__ == "__main__":
    main()
