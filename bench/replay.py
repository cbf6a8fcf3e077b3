"""`python -m bench.replay`: what exporting, verifying and replaying a ledger cost, for each entry.

Every example is decided by a service, in batches, until the ledger has so many entries; then the commands run on it.
"""

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from app.cli.auditing.replaying import Shard, Work, replay
from app.cli.auditing.sources import Place
from app.ledger.export import export
from app.ledger.exported import Export
from app.ledger.slices import LedgerDatabase
from app.ledger.verify import Trust, verify
from app.migrations.schema import apply
from bench import load, service
from bench.stores import agent_key, started_postgres

EXAMPLES = service.ROOT / "examples"
STARTER = service.ROOT / "policies" / "starter"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.replay", description=__doc__)
    parser.add_argument("--entries", type=int, default=20_000, help="at least so many (default 20000)")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="processes of a replay (default 1 2)")
    options = parser.parse_args()
    examples = [json.loads(path.read_bytes()) for path in sorted(EXAMPLES.glob("*.json"))]
    body = json.dumps({"mutations": examples * 3}, separators=(",", ":")).encode()
    with tempfile.TemporaryDirectory() as scratch, started_postgres(Path(scratch)) as database_url:
        asyncio.run(apply(database_url))
        request = load.http_post(
            "/v1/decisions:batch", body, headers={"Authorization": f"Bearer {agent_key(database_url)}"}
        )
        with service.firewall(database_url, cores=None, policies=STARTER) as guarded:
            while asyncio.run(_sizes(database_url))[0] < options.entries:
                result = asyncio.run(load.run(request, port=guarded.port, callers=4, seconds=2.0))
                if result.statuses.keys() != {b"200"}:
                    raise SystemExit(f"answers other than 200: {result.statuses}")
            while len(set(asyncio.run(_sizes(database_url)))) > 1:
                time.sleep(0.2)
        directory = Path(scratch) / "export"
        size = asyncio.run(_sizes(database_url))[0]
        _print("export", size, lambda: asyncio.run(_export(database_url, directory)))
        written = sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())
        records = sum(file.stat().st_size for file in (directory / "records").iterdir())
        print(f"{'':24}{written / size:>8.0f} bytes an entry, {records / size:.0f} of them records")
        found = []
        _print("verify", size, lambda: found.append(verify(Export.open(directory), trust=Trust())))
        if not found[0].untouched:
            raise SystemExit(str(found[0].findings.listed))
        for name, place in (("database", Place(dsn=database_url)), ("export", Place(export=directory))):
            for workers in options.workers:
                _print(f"replay of the {name}, {workers}", size, lambda p=place, w=workers: _replay(p, w))  # type: ignore[misc]  # a default binds the loop's value


def _print(name: str, entries: int, act: Callable[[], object]) -> None:
    wall, cpu = time.perf_counter(), time.process_time()
    act()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    per = f"{cpu / entries * 1e6:.0f} us of this process each" if cpu > wall / 2 else "in other processes"
    print(f"{name:24}{entries / wall:>8.0f} entries/s, {entries} in {wall:.1f} s, {per}")


def _replay(place: Place, workers: int) -> None:
    work = Work(place, (STARTER,), timedelta(minutes=1))
    replayed = replay(work, start=0, end=None, shard=Shard(), workers=workers)
    if not replayed.tally.agrees:
        raise SystemExit(str(replayed.tally.differences))


async def _export(dsn: str, directory: Path) -> None:
    source = await LedgerDatabase.open(dsn)
    try:
        await export(source, directory, now=datetime.now(UTC), engine="bench")
    finally:
        await source.close()


async def _sizes(dsn: str) -> tuple[int, int]:
    source = await LedgerDatabase.open(dsn)
    try:
        return await source.size(), (await source.published()).size
    finally:
        await source.close()


if __name__ == "__main__":
    main()
