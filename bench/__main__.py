"""`make bench`: decisions per second, latency, memory and start of the service, beside a bare endpoint, in one run.

The service and the bare endpoint share one core, in turn; the load and PostgreSQL have the other. Ratios are taken
pair by pair, because a machine's speed drifts; the median pair is printed.
"""

import argparse
import asyncio
import json
import os
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

from app.migrations.schema import apply
from bench import load, service
from bench.service import Started
from bench.stores import agent_key, started_postgres

MEMORY_AFTER = 100_000
MUTATION = service.ROOT / "bench" / "mutation.json"
SERVED_ON, LOADED_ON = {0}, {1}


def _measure(target: Started, request: bytes, *, callers: int, seconds: float) -> tuple[load.Result, float]:
    before = service.cpu_seconds(target.pid)
    result = asyncio.run(load.run(request, port=target.port, callers=callers, seconds=seconds))
    used = service.cpu_seconds(target.pid) - before
    unexpected = {status: count for status, count in result.statuses.items() if status != b"200"}
    if unexpected:
        raise SystemExit(f"answers other than 200: {unexpected}")
    return result, used / len(result.latencies) * 1e6


def _row(name: str, measured: list[tuple[load.Result, float]]) -> str:
    def middle(of: Callable[[load.Result, float], float]) -> float:
        return statistics.median(of(result, cpu) for result, cpu in measured)

    return (
        f"{name:<34}{middle(lambda r, _: r.per_second):>10,.0f}/s"
        f"{middle(lambda r, _: r.quantile(0.5)) * 1e3:>9.2f} ms{middle(lambda r, _: r.quantile(0.99)) * 1e3:>9.2f} ms"
        f"{middle(lambda _, cpu: cpu):>9.1f} us"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="pairs per row (default 5)")
    parser.add_argument("--seconds", type=float, default=4.0, help="of load per measurement (default 4)")
    parser.add_argument("--mutation", type=Path, default=MUTATION, help="request body (default bench/mutation.json)")
    parser.add_argument("--policies", type=Path, default=service.STARTER, help="directory (default policies/starter)")
    options = parser.parse_args()
    service.pin(LOADED_ON)
    body = json.dumps(json.loads(options.mutation.read_bytes()), separators=(",", ":")).encode()
    print(
        f"{os.cpu_count()} cores; {options.mutation.name}, {len(body)} bytes; {options.policies.name}; durable ledger"
    )
    with tempfile.TemporaryDirectory() as scratch, started_postgres(Path(scratch)) as database_url:
        asyncio.run(apply(database_url))
        key = agent_key(database_url)
        request = load.http_post("/v1/decisions", body, headers={"Authorization": f"Bearer {key}"})
        answer = Path(scratch) / "answer.json"
        with service.firewall(database_url, cores=SERVED_ON, policies=options.policies) as guarded:
            print(f"cold start to ready, database migrated: {guarded.seconds_to_ready:.2f} s")
            print(f"resident memory at the start: {service.resident_mib(guarded.pid):.0f} MiB")
            answer.write_bytes(service.post(guarded.port, "/v1/decisions", body, key=key))
            with service.bare(answer, cores=SERVED_ON) as floor:
                _measure(guarded, request, callers=8, seconds=1)
                print(f"{'':<34}{'answers':>12}{'p50':>12}{'p99':>12}{'CPU each':>12}")
                for callers in (64, 1):
                    pairs = [
                        (
                            _measure(floor, request, callers=callers, seconds=options.seconds),
                            _measure(guarded, request, callers=callers, seconds=options.seconds),
                        )
                        for _ in range(options.rounds)
                    ]
                    print(_row(f"bare uvicorn, {callers} callers", [bare for bare, _ in pairs]))
                    print(_row(f"mutation firewall, {callers} callers", [ours for _, ours in pairs]))
                    ratios = sorted(ours[0].per_second / bare[0].per_second for bare, ours in pairs)
                    print(
                        f"{'  firewall / bare':<34}{statistics.median(ratios):>11.1%}"
                        f"  (lowest {ratios[0]:.1%}, highest {ratios[-1]:.1%})"
                    )
            answered = 0
            while answered < MEMORY_AFTER:
                answered += len(_measure(guarded, request, callers=64, seconds=options.seconds)[0].latencies)
            print(f"resident memory after {answered:,} further decisions: {service.resident_mib(guarded.pid):.0f} MiB")


if __name__ == "__main__":
    main()
