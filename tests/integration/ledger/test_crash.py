"""Whatever is killed, what was acknowledged is in the ledger, and the index has no gap."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest

from app.errors import FirewallError, Kind
from app.ledger.append import LedgerWriter
from app.ledger.read import LedgerReader
from app.migrations import schema
from app.persistence.breaker import CircuitBreaker
from app.persistence.embedded import EmbeddedPostgres
from app.persistence.engine import create_engine
from tests.integration.ledger.conftest import PATIENT, deadline

APPENDER = Path(__file__).with_name("appender.py")
REPOSITORY = Path(__file__).resolve().parents[3]

pytestmark = pytest.mark.slow


def appender(dsn, *, callers, each):
    return subprocess.Popen(
        [sys.executable, APPENDER, dsn, str(callers), str(each)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )


def said(output):
    """The acknowledged entries; a last line that was cut off by a kill was not acknowledged."""
    lines = output.decode().split("\n")[:-1]
    return {(int(idx), UUID(id_)) for idx, _, id_ in (line.partition(" ") for line in lines)}


async def in_the_ledger(dsn):
    connection = await asyncpg.connect(dsn)
    rows = await connection.fetch("SELECT idx, id FROM ledger_entries")
    await connection.close()
    return {(row["idx"], row["id"]) for row in rows}


async def report(dsn):
    engine = create_engine(dsn)
    found = await LedgerReader(engine).verify_gapless()
    await engine.dispose()
    return found


async def test_eight_processes_share_one_index(database_dsn):
    processes = [appender(database_dsn, callers=8, each=25) for _ in range(8)]
    outputs = await asyncio.gather(*(asyncio.to_thread(one.communicate) for one in processes))
    assert [one.returncode for one in processes] == [0] * 8
    acknowledged = [said(output) for output, _ in outputs]
    together = set().union(*acknowledged)
    assert len(together) == sum(map(len, acknowledged)) == 8 * 8 * 25
    assert {idx for idx, _ in together} == set(range(8 * 8 * 25))
    assert await in_the_ledger(database_dsn) == together
    assert (await report(database_dsn)).whole


async def test_a_killed_process_loses_nothing_that_it_acknowledged(database_dsn):
    acknowledged = set()
    for round_ in range(5):
        process = appender(database_dsn, callers=16, each=1_000_000)
        first = await asyncio.to_thread(process.stdout.read, 2000 * (1 + round_ % 3))
        process.kill()
        rest, _ = await asyncio.to_thread(process.communicate)
        acknowledged |= said(first + rest)
    assert acknowledged <= await in_the_ledger(database_dsn)
    assert (await report(database_dsn)).whole


async def test_a_killed_postgres_loses_nothing_that_was_acknowledged(state_directory, entry):
    server = EmbeddedPostgres(state_directory)
    dsn = await server.astart()
    try:
        await schema.apply(dsn)
        acknowledged = set()
        stop = asyncio.Event()

        async def caller(writer):
            while not stop.is_set():
                one = entry()
                # UNAVAILABLE and TIMEOUT are honest answers here; nothing was promised.
                with contextlib.suppress(FirewallError):
                    acknowledged.add((await writer.append(one), one.id))

        breaker = CircuitBreaker(clock=time.monotonic, failures_to_open=10_000)
        writer = LedgerWriter(dsn, deadline=PATIENT, breaker=breaker, backoff=(0.0, 0.02))
        await writer.start()
        callers = [asyncio.create_task(caller(writer)) for _ in range(32)]
        for _ in range(5):
            least = len(acknowledged) + 200
            async with asyncio.timeout(60):
                while len(acknowledged) < least:
                    await asyncio.sleep(0.002)
            os.kill(server.pid or 0, signal.SIGKILL)
            while server.pid is not None:
                await asyncio.sleep(0.002)
            await server.astart()
        stop.set()
        await asyncio.gather(*callers)
        await writer.stop()
        there = await in_the_ledger(dsn)
        found = await report(dsn)
    finally:
        await server.astop()
    assert acknowledged <= there
    assert found.whole
    # Everybody waited until the end, so nothing is there that nobody was told of.
    assert len(there) == len(acknowledged)


async def test_a_stopped_backend_is_a_timeout_and_goes_on_later(state_directory, entry):
    with EmbeddedPostgres(state_directory) as server:
        await schema.apply(server.dsn)
        writer = LedgerWriter(server.dsn, deadline=PATIENT)
        await writer.start()
        assert await writer.append(entry()) == 0
        assert writer._connection is not None
        backend = writer._connection.get_server_pid()
        os.kill(backend, signal.SIGSTOP)
        try:
            with deadline(writer, 1.0), pytest.raises(FirewallError) as caught:
                await writer.append(entry())
            assert caught.value.kind is Kind.TIMEOUT
        finally:
            os.kill(backend, signal.SIGCONT)
        async with asyncio.timeout(60):
            while writer.waiting:
                await asyncio.sleep(0.005)
        last = await writer.append(entry())
        await writer.stop()
        found = await report(server.dsn)
    assert found.whole
    assert found.size == last + 1
