"""Whoever signs is killed at any instant, again and again: every checkpoint that was ever seen stays consistent."""

import asyncio
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from app.core.merkle import Frontier, leaf_hash
from app.core.notes import SignerKey, open_checkpoint
from app.ledger.append import LedgerWriter
from app.ledger.guard import GuardFile
from tests.integration.ledger.conftest import PATIENT

SIGNER = Path(__file__).with_name("signer.py")
REPOSITORY = Path(__file__).resolve().parents[3]
ORIGIN = "firewall.example.com/ledger"

pytestmark = pytest.mark.slow


async def test_a_killed_signer_leaves_no_contradiction(database_dsn, tmp_path, entry):
    key = SignerKey.of(ORIGIN, Ed25519PrivateKey.generate())
    guard = tmp_path / "guard"
    told: list[bytes] = []
    chance = random.Random(7)
    started: list[subprocess.Popen[bytes]] = []

    def start() -> "subprocess.Popen[bytes]":
        process = subprocess.Popen(
            [sys.executable, SIGNER, database_dsn, ORIGIN, key.text, str(guard)],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        )
        started.append(process)
        return process

    async def kept_reading(process: "subprocess.Popen[bytes]") -> None:
        assert process.stdout is not None
        told.append(await asyncio.to_thread(process.stdout.read))

    writer = LedgerWriter(database_dsn, deadline=PATIENT)
    await writer.start()
    watching = await asyncpg.connect(database_dsn)
    stop = asyncio.Event()
    seen: set[tuple[int, bytes]] = set()

    async def append() -> None:
        while not stop.is_set():
            await writer.append_all([entry() for _ in range(chance.randint(1, 40))])
            await asyncio.sleep(0.002)

    async def watch() -> None:
        """A reader outside: whatever was published once."""
        while not stop.is_set():
            row = await watching.fetchrow("SELECT size, root FROM ledger_checkpoints ORDER BY size DESC LIMIT 1")
            if row is not None:
                seen.add((row["size"], row["root"]))
            await asyncio.sleep(0.001)

    async def progress(count: int) -> None:
        least = len(seen) + count
        async with asyncio.timeout(60):
            while len(seen) < least:
                await asyncio.sleep(0.001)

    tasks = [asyncio.create_task(append()), asyncio.create_task(watch())]
    running = [start(), start()]
    readers = [asyncio.create_task(kept_reading(one)) for one in running]
    try:
        for _ in range(8):
            await progress(14)
            await asyncio.sleep(chance.random() * 0.02)
            at = chance.randrange(2)
            running[at].kill()
            running[at] = start()
            readers.append(asyncio.create_task(kept_reading(running[at])))
        await progress(14)
    finally:
        stop.set()
        await asyncio.gather(*tasks)
        await writer.stop()
        for one in started:
            one.kill()
            one.wait()
        await asyncio.gather(*readers)
        for one in started:
            if one.stdout is not None:
                one.stdout.close()

    lines = [line.split() for said in told for line in said.decode().split("\n")[:-1]]
    seen |= {(int(size), bytes.fromhex(digest)) for size, digest in lines}
    sizes = [size for size, _ in seen]
    assert len(sizes) == len(set(sizes)) > 120
    # Nobody published the same size twice, not even the same thing.
    assert len(lines) == len({size for size, _ in lines})
    rows = await watching.fetch("SELECT receipt FROM ledger_entries ORDER BY idx")
    found: dict[int, bytes] = {}
    frontier = Frontier()
    for row in rows:
        frontier.append(leaf_hash(row["receipt"]))
        found[frontier.size] = frontier.root
    assert [size for size, digest in seen if found[size] != digest] == []
    kept = GuardFile(guard).read()
    assert kept is not None
    assert kept.root == found[kept.size]
    note: Any = await watching.fetchval("SELECT note FROM ledger_checkpoints ORDER BY size DESC LIMIT 1")
    await watching.close()
    newest = open_checkpoint(note, keys=[key.verifier]).checkpoint
    # The guard is written first: it may know of one that was never published.
    assert kept.size >= newest.size
