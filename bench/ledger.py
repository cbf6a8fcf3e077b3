"""`python -m bench.ledger`: what a durable ledger costs, beside a commit for each decision and beside none; in one run.

Decisions are made in this process (steps 4 to 10, `bench/mutation.json`, the starter policies), without HTTP. Twice: on
this machine's disk, and as on one that takes a millisecond more (`commit_delay`: PostgreSQL sleeps where it waits for
the disk). Then one writer process beside four, and what 100,000 decisions weigh on disk.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn
from uuid import uuid4

import asyncpg
import uvloop

from app.core import strict_json
from app.core.principal import AuthMethod, Principal, PrincipalKind, Role
from app.core.types import Mutation
from app.errors import FirewallError
from app.ledger.append import WRITE, LedgerWriter
from app.ledger.receipt import SealedEntry
from app.migrations.schema import apply
from app.persistence.embedded import EmbeddedPostgres
from app.persistence.engine import raw_dsn
from app.policies.load import load_directory
from app.service.decide import Decision, DecisionService, Exchange
from app.surfaces.native.wire import decision_to_wire, mutation_from_wire
from bench import service

MUTATION = service.ROOT / "bench" / "mutation.json"
CALLERS = (1, 64, 512)
WRITERS = 4
CALLERS_OF_A_WRITER = (8, 64)
# A pool as services have it; PostgreSQL is happier with fewer connections than callers.
POOL = 32
SLOWER_MICROSECONDS = 1000
WEIGHED = 100_000
PARTS = ("weight", "ways", "writers")
WHO = Principal("bench", PrincipalKind.AGENT, frozenset({Role.AGENT}), AuthMethod.API_KEY)


@dataclass(slots=True)
class Measured:
    """How many in how many seconds, of which this process was busy for `cpu`, and the seconds that each append took."""

    seconds: float = 0.0
    cpu: float = 0.0
    count: int = 0
    appends: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Decisions per second."""
        return self.count / self.seconds

    def quantile(self, fraction: float) -> float:
        """Milliseconds that `fraction` of the appends did not exceed."""
        ordered = sorted(self.appends)
        return ordered[min(len(ordered) - 1, int(len(ordered) * fraction))] * 1e3


Append = Callable[[SealedEntry], Coroutine[Any, Any, int]]


class Timed:
    """A ledger for the service that appends as it is told and keeps how long each took."""

    def __init__(self, append: Append, measured: Measured) -> None:
        self._append = append
        self._measured = measured

    async def append(self, entry: SealedEntry) -> int:
        """Append one."""
        began = time.perf_counter()
        index = await self._append(entry)
        self._measured.appends.append(time.perf_counter() - began)
        return index

    async def append_all(self, entries: Sequence[SealedEntry]) -> list[int | FirewallError]:
        """Append some."""
        return [await self.append(entry) for entry in entries]


class Asked(Exchange):
    """One request whose bytes are here already, of somebody who is known."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    async def read(self) -> bytes:
        """Step 1."""
        return self._body

    async def authenticate(self) -> Principal:
        """Step 2."""
        return WHO

    async def limit(self, principal: Principal) -> None:
        """Step 3."""

    def parse(self, body: bytes) -> Mutation:
        """Step 4."""
        return mutation_from_wire(strict_json.parse(body).tree)

    def claim(self, principal: Principal, body: bytes) -> None:
        """No key."""

    def render(self, decision: Decision) -> bytes:
        """Step 10."""
        return decision_to_wire(decision)

    def replayed(self) -> None:
        """Never."""


class NoBudgets:
    """The policies that are measured have none."""

    def settle(self, *_: Any, **__: Any) -> NoReturn:
        """Never asked."""
        raise AssertionError

    settle_once = settle


async def nowhere(_entry: SealedEntry) -> int:
    """No ledger."""
    return 0


class EachItsCommit:
    """What is done where nobody thought of it: each entry its own statement and its own commit, through a pool."""

    def __init__(self, connections: Sequence["asyncpg.Connection[Any]"], statement: str, *, values: Any) -> None:
        self._idle: asyncio.Queue[Any] = asyncio.Queue()
        self._connections, self._statement, self._values = connections, statement, values

    async def prepare(self) -> None:
        """Once on each connection."""
        for connection in self._connections:
            self._idle.put_nowait(await connection.prepare(self._statement))

    async def append(self, entry: SealedEntry) -> int:
        """On the next connection that is idle."""
        prepared = await self._idle.get()
        try:
            index: int | None = await prepared.fetchval(*self._values(entry))
            return index or 0
        finally:
            self._idle.put_nowait(prepared)


PLAIN_TABLE = """
CREATE TABLE bench_plain (id uuid PRIMARY KEY, kind text, receipt bytea, salt bytea, record bytea,
    recorded_at timestamptz NOT NULL DEFAULT now())
"""
PLAIN = "INSERT INTO bench_plain (id, kind, receipt, salt, record) VALUES ($1, $2, $3, $4, $5)"


async def under_load(
    work: Callable[[], Coroutine[Any, Any, Any]], measured: Measured, *, callers: int, seconds: float
) -> Measured:
    """Do it from `callers` tasks, each again as soon as it is done."""
    began, busy = time.perf_counter(), time.process_time()
    end = began + seconds

    async def caller() -> None:
        while time.perf_counter() < end:
            await work()
            measured.count += 1
            # Where nothing waits for anything the others have their turn all the same.
            await asyncio.sleep(0)

    await asyncio.gather(*(caller() for _ in range(callers)))
    measured.seconds = time.perf_counter() - began
    measured.cpu = time.process_time() - busy
    return measured


class Bench:
    """One policy set, one body, and the database."""

    def __init__(self, dsn: str, *, seconds: float) -> None:
        self._dsn = dsn
        self._seconds = seconds
        self._policies = load_directory(service.STARTER)
        self._body = json.dumps(json.loads(MUTATION.read_bytes()), separators=(",", ":")).encode()

    def decide(self, append: Append, measured: Measured) -> Callable[[], Coroutine[Any, Any, bytes]]:
        """Make and record one decision."""
        decisions = DecisionService(
            lambda: self._policies,
            ledger=Timed(append, measured),
            budgets=NoBudgets(),
            clock=lambda: datetime.now(UTC),
            entropy=os.urandom,
            engine="bench",
            counted=lambda _: None,
            exhausted=lambda _: None,
        )
        return lambda: decisions.decide(Asked(self._body))

    async def entry(self) -> SealedEntry:
        """One as decisions make it."""
        kept: list[SealedEntry] = []

        async def keep(entry: SealedEntry) -> int:
            kept.append(entry)
            return 0

        await self.decide(keep, Measured())()
        return kept[0]

    async def _ways(self, stack: AsyncExitStack) -> dict[str, Append]:
        pool = [await asyncpg.connect(raw_dsn(self._dsn)) for _ in range(POOL)]
        for connection in pool:
            stack.push_async_callback(connection.close)
        gapless = EachItsCommit(pool, WRITE, values=lambda entry: (*([member] for member in entry), False))
        plain = EachItsCommit(pool, PLAIN, values=tuple)
        for each in (gapless, plain):
            await each.prepare()
        for connection in pool:
            # What preparing began ends here, and its locks with it.
            await connection.execute("SELECT 1")
        writer = LedgerWriter(self._dsn)
        await writer.start()
        stack.push_async_callback(writer.stop)
        assert await writer.wait_connected(within=10)
        return {
            "no ledger": nowhere,
            "(a) INSERT and COMMIT each, no index": plain.append,
            "(a) the same with the index": gapless.append,
            "the ledger": writer.append,
        }

    async def compare(self) -> None:
        """A row for each way and number of callers, those of one number in turn."""
        async with AsyncExitStack() as stack:
            ways = await self._ways(stack)
            one = await self.entry()
            plain, indexed, ledger = list(ways)[1:]
            bare = await under_load(
                lambda: ways[plain](one._replace(id=uuid4())), Measured(), callers=1, seconds=self._seconds / 2
            )
            print(f"  a bare commit: {1e3 / bare.rate:.2f} ms")
            print(f"  {'':<54}{'decisions':>11}{'append p50':>13}{'p99':>11}{'CPU each':>11}")
            for callers in CALLERS:
                found: dict[str, Measured] = {}
                for name, append in ways.items():
                    measured = Measured()
                    found[name] = await under_load(
                        self.decide(append, measured), measured, callers=callers, seconds=self._seconds
                    )
                    row = found[name]
                    print(
                        f"  {f'{callers} callers: {name}':<54}{row.rate:>9,.0f}/s"
                        f"{row.quantile(0.5):>10.2f} ms{row.quantile(0.99):>8.2f} ms"
                        f"{row.cpu / row.count * 1e6:>8.0f} us"
                    )
                print(
                    f"  {'':<4}the ledger is {found[ledger].rate / found[plain].rate:.1f} times (a) without,"
                    f" {found[ledger].rate / found[indexed].rate:.1f} times (a) with the index,"
                    f" and {found[ledger].rate / found['no ledger'].rate:.0%} of no ledger"
                )
            print("  entries that are sealed already, 64 callers:")
            for name in (plain, indexed, ledger):
                row = await under_load(
                    lambda append=ways[name]: append(one._replace(id=uuid4())),  # type: ignore[misc]  # bound now
                    Measured(),
                    callers=64,
                    seconds=self._seconds,
                )
                print(f"  {'':<4}{name:<50}{row.rate:>9,.0f}/s")

    def writers(self) -> None:
        """One writer process beside four, each with so many callers."""
        for callers in CALLERS_OF_A_WRITER:
            one, four = (self._processes(number, callers) for number in (1, WRITERS))
            print(
                f"  {callers} callers each: one writer {sum(one):,.0f}/s, {WRITERS} writers {sum(four):,.0f}/s"
                f" (slowest {min(four):,.0f}, fastest {max(four):,.0f}): {sum(four) / sum(one):.2f} times"
            )

    def _processes(self, number: int, callers: int) -> list[float]:
        command = [sys.executable, "-m", "bench.ledger", "--writer", self._dsn, str(callers), str(self._seconds)]
        started = [
            subprocess.Popen(command, cwd=service.ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for _ in range(number)
        ]
        for one in started:
            assert one.stdout is not None
            one.stdout.readline()
        for one in started:
            assert one.stdin is not None
            one.stdin.write("go\n")
            one.stdin.flush()
        return [float(one.communicate()[0]) for one in started]

    async def write(self, callers: int) -> None:
        """One of these processes: says that it is ready, waits for a line, and says its rate."""
        one = await self.entry()
        writer = LedgerWriter(self._dsn)
        await writer.start()
        assert await writer.wait_connected(within=10)
        print("ready", flush=True)
        sys.stdin.readline()
        measured = await under_load(
            lambda: writer.append(one._replace(id=uuid4())), Measured(), callers=callers, seconds=self._seconds
        )
        print(measured.rate)
        await writer.stop()

    async def weigh(self) -> None:
        """Bytes per decision, for each table and index, and in the write-ahead log."""
        connection = await asyncpg.connect(raw_dsn(self._dsn))
        writer = LedgerWriter(self._dsn)
        await writer.start()
        before = await connection.fetchval("SELECT pg_current_wal_insert_lsn()")
        count = 0
        measured = Measured()
        work = self.decide(writer.append, measured)

        async def caller() -> None:
            nonlocal count
            while count < WEIGHED:
                count += 1
                await work()

        await asyncio.gather(*(caller() for _ in range(256)))
        logged = await connection.fetchval("SELECT pg_current_wal_insert_lsn() - $1::pg_lsn", before)
        await writer.stop()
        parts = await connection.fetch(SIZES)
        entries = await connection.fetchval("SELECT count(*) FROM ledger_entries")
        total = sum(row["size"] for row in parts) / entries
        print(
            f"  {count:,} decisions of {len(self._body)} bytes: {total:,.0f} bytes each on disk,"
            f" {logged / count:,.0f} in the write-ahead log"
        )
        for row in parts:
            print(f"  {row['name']:<40}{row['size'] / entries:>8,.0f} bytes")
        await connection.close()


# What a relation has of its own; the parts of a divided table under the name of the whole.
SIZES = """
SELECT regexp_replace(relname, '_[0-9]{4}_[0-9]{2}', '') AS name, sum(pg_relation_size(oid))::bigint AS size
FROM pg_class WHERE (relname LIKE 'ledger%') AND relkind IN ('r', 'i') AND pg_relation_size(oid) > 100000
GROUP BY 1 ORDER BY 2 DESC
"""


async def _execute(dsn: str, *statements: str) -> None:
    connection = await asyncpg.connect(raw_dsn(dsn))
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.ledger", description=__doc__)
    parser.add_argument("--seconds", type=float, default=1.0, help="of load per measurement (default 1)")
    parser.add_argument("--part", choices=PARTS, nargs="*", default=PARTS, help="only these (default: all)")
    parser.add_argument("--writer", nargs=3, metavar=("DSN", "CALLERS", "SECONDS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.writer:
        dsn, callers, seconds = options.writer
        uvloop.run(Bench(dsn, seconds=float(seconds)).write(int(callers)))
        return
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; everything shares them")
    with tempfile.TemporaryDirectory() as scratch:
        Path(scratch).chmod(0o711)
        if "weight" in options.part:
            with EmbeddedPostgres(Path(scratch) / "weighed") as server:
                uvloop.run(apply(server.dsn))
                print("what a decision weighs:")
                uvloop.run(Bench(server.dsn, seconds=0).weigh())
        for slower in (0, SLOWER_MICROSECONDS) if {"ways", "writers"} & {*options.part} else ():
            settings = {"commit_delay": str(slower), "commit_siblings": "0", "min_wal_size": "2GB"}
            with EmbeddedPostgres(Path(scratch) / f"slower-{slower}", settings=settings) as server:
                uvloop.run(apply(server.dsn))
                uvloop.run(_execute(server.dsn, PLAIN_TABLE))
                bench = Bench(server.dsn, seconds=options.seconds)
                print(f"this disk and {slower / 1000:g} ms:" if slower else "this disk:")
                if "ways" in options.part:
                    uvloop.run(bench.compare())
                if "writers" in options.part:
                    bench.writers()


if __name__ == "__main__":
    main()
