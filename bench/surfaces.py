"""`python -m bench.surfaces`: what a surface adds to a decision, beside the native route in the same run.

The same change is asked about by `POST /v1/decisions`, as an AdmissionReview, and as a check of a gateway with the
mutation for a body, with objects of 10 and of 100 KB; the rows take turns with one caller, and the median round is
printed. The service has one core, the load and PostgreSQL the other.
"""

import argparse
import asyncio
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from app.migrations.schema import apply
from bench import load, service
from bench.stores import agent_key, started_postgres

SERVED_ON, LOADED_ON = {0}, {1}
EXAMPLE = service.ROOT / "examples" / "allow-k8s-deployment-scaled.json"
SIZES = (10_000, 100_000)
MAPPING = """\
apiVersion: mutationfirewall.io/v1
kind: GatewayMapping
gateways: [{kind: envoy, subject: {header: x-subject, form: json}}]
routes: [{path: /mutations, body: mutation}]
"""


def sized(mutation: dict[str, Any], size: int) -> dict[str, Any]:
    """The same change of an object that has about so many bytes, in as many members as objects have."""
    change = {}
    for member in ("before", "after"):
        object_ = json.loads(json.dumps(mutation["change"][member]))
        annotations = object_["metadata"].setdefault("annotations", {})
        while len(json.dumps(object_)) < size:
            annotations[f"example.com/note-{len(annotations)}"] = "x" * 80
        change[member] = object_
    return {**mutation, "change": change}


def review(mutation: dict[str, Any]) -> dict[str, Any]:
    """The same question as an API server asks it."""
    namespace, name = mutation["resource"]["id"].split("/")
    kind = {"group": "apps", "version": "v1"}
    return {
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
            "kind": {**kind, "kind": "Deployment"},
            "resource": {**kind, "resource": "deployments"},
            "name": name,
            "namespace": namespace,
            "operation": "UPDATE",
            "userInfo": {"username": mutation["subject"]["id"], "groups": ["system:authenticated"]},
            "oldObject": mutation["change"]["before"],
            "object": mutation["change"]["after"],
            "dryRun": False,
        },
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.surfaces", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="of every row (default 5)")
    parser.add_argument("--seconds", type=float, default=4.0, help="of load per measurement (default 4)")
    options = parser.parse_args()
    service.pin(LOADED_ON)
    mutation = json.loads(EXAMPLE.read_bytes())
    with tempfile.TemporaryDirectory() as scratch, started_postgres(Path(scratch)) as database_url:
        asyncio.run(apply(database_url))
        mapping = Path(scratch) / "gateways.yaml"
        mapping.write_text(MAPPING)
        credential = f"Bearer {agent_key(database_url)}"
        headers = {
            "Authorization": credential,
            "X-Mfw-Authorization": credential,
            "X-Subject": json.dumps(mutation["subject"]),
        }
        rows = {}
        for size in SIZES:
            large = sized(mutation, size)
            for name, path, body in (
                ("native", "/v1/decisions", large),
                ("admission", "/kubernetes/v1/validate?timeout=10s", review(large)),
                ("gateway", "/envoy/v1/check/mutations", large),
            ):
                sent = json.dumps(body, separators=(",", ":")).encode()
                rows[name, size] = load.http_post(path, sent, headers=headers)
        measured: dict[tuple[str, int], list[tuple[float, float, float]]] = {row: [] for row in rows}
        settings = {"MFW_EXT_AUTHZ__MAPPING": str(mapping)}
        with service.firewall(database_url, cores=SERVED_ON, settings=settings) as guarded:
            for turn in range(options.rounds + 1):
                for row, request in rows.items():
                    before = service.cpu_seconds(guarded.pid)
                    seconds = options.seconds if turn else 1.0
                    result = asyncio.run(load.run(request, port=guarded.port, callers=1, seconds=seconds))
                    used = service.cpu_seconds(guarded.pid) - before
                    unexpected = {status: count for status, count in result.statuses.items() if status != b"200"}
                    if unexpected:
                        raise SystemExit(f"{row}: answers other than 200: {unexpected}")
                    if turn:  # the first one warms up
                        cpu = used / len(result.latencies) * 1e6
                        measured[row].append((result.quantile(0.5) * 1e3, result.quantile(0.99) * 1e3, cpu))
        print(f"{'':<28}{'p50':>12}{'p99':>12}{'CPU each':>14}")
        for (name, size), turns in measured.items():
            median, late, cpu = (statistics.median(column) for column in zip(*turns, strict=True))
            print(f"{f'{name}, {size // 1000} KB objects':<28}{median:>9.2f} ms{late:>9.2f} ms{cpu:>11.0f} us")


if __name__ == "__main__":
    main()
