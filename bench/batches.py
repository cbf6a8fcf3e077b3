"""`python -m bench.batches`: a hundred mutations in one request, and one that is answered once, beside single ones.

The service has one core, the load and PostgreSQL the other; the rows take turns, and the median round is printed.
"""

import argparse
import asyncio
import json
import statistics
import tempfile
import uuid
from pathlib import Path

from app.migrations.schema import apply
from bench import load, service
from bench.stores import agent_key, started_postgres

BATCH = 100
MUTATION = service.ROOT / "bench" / "mutation.json"
SERVED_ON, LOADED_ON = {0}, {1}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.batches", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="of every row (default 5)")
    parser.add_argument("--seconds", type=float, default=4.0, help="of load per measurement (default 4)")
    options = parser.parse_args()
    service.pin(LOADED_ON)
    body = json.dumps(json.loads(MUTATION.read_bytes()), separators=(",", ":")).encode()
    many = b'{"mutations":[' + b",".join([body] * BATCH) + b"]"
    with tempfile.TemporaryDirectory() as scratch, started_postgres(Path(scratch)) as database_url:
        asyncio.run(apply(database_url))
        headers = {"Authorization": f"Bearer {agent_key(database_url)}"}
        replayed = headers | {"Idempotency-Key": str(uuid.uuid4())}
        rows = {
            "single, 64 callers": (1, 64, load.http_post("/v1/decisions", body, headers=headers)),
            "single, 1 caller": (1, 1, load.http_post("/v1/decisions", body, headers=headers)),
            "batch of 100, 4 callers": (BATCH, 4, load.http_post("/v1/decisions:batch", many + b"}", headers=headers)),
            "batch of 100, 1 caller": (BATCH, 1, load.http_post("/v1/decisions:batch", many + b"}", headers=headers)),
            "batch of 100, atomic, 1 caller": (
                BATCH,
                1,
                load.http_post("/v1/decisions:batch", many + b',"mode":"atomic"}', headers=headers),
            ),
            "replay by its key, 4 callers": (1, 4, load.http_post("/v1/decisions", body, headers=replayed)),
        }
        measured: dict[str, list[tuple[float, float, float]]] = {name: [] for name in rows}
        with service.firewall(database_url, cores=SERVED_ON) as guarded:
            for turn in range(options.rounds + 1):
                for name, (size, callers, request) in rows.items():
                    before = service.cpu_seconds(guarded.pid)
                    seconds = options.seconds if turn else 1.0
                    result = asyncio.run(load.run(request, port=guarded.port, callers=callers, seconds=seconds))
                    used = service.cpu_seconds(guarded.pid) - before
                    unexpected = {status: count for status, count in result.statuses.items() if status != b"200"}
                    if unexpected:
                        raise SystemExit(f"{name}: answers other than 200: {unexpected}")
                    if turn:  # the first one warms up
                        mutations = len(result.latencies) * size
                        each = (mutations / result.seconds, result.quantile(0.5) * 1e3, used / mutations * 1e6)
                        measured[name].append(each)
        print(f"{'':<34}{'mutations':>12}{'p50':>12}{'CPU each':>12}")
        for name, turns in measured.items():
            per_second, median, cpu = (statistics.median(column) for column in zip(*turns, strict=True))
            print(f"{name:<34}{per_second:>10,.0f}/s{median:>9.2f} ms{cpu:>9.1f} us")


if __name__ == "__main__":
    main()
