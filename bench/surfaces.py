"""`python -m bench.surfaces`: what a surface adds to a decision, beside the native route in the same run.

The same change is asked about by `POST /v1/decisions`, as an AuthZEN evaluation, as an AdmissionReview and as a check
of a gateway over HTTP and over gRPC, as it is and with objects of 10 and of 100 KB; every other surface asks what it
can. The rows take turns with one caller, who over gRPC is gRPC's own client, which costs more than bytes on a socket;
printed are the medians of the rounds, and of the differences to the native route within a round. The
service has one core, the load and PostgreSQL the other.
"""

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import grpc

from app.migrations.schema import apply
from app.surfaces.agents.models import EXAMPLE_CALL, EXAMPLE_CHECK, EXAMPLE_HOOK
from app.surfaces.ext_authz.grpc.messages import AUTH, CheckRequest, CheckResponse
from bench import load, service
from bench.stores import agent_key, started_postgres

SERVED_ON, LOADED_ON = {0}, {1}
EXAMPLE = service.ROOT / "examples" / "allow-k8s-deployment-scaled.json"
SIZES = (10_000, 100_000)
# The change as it is.
SMALL = 0
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


def evaluation(mutation: dict[str, Any]) -> dict[str, Any]:
    """The same question as AuthZEN has it."""
    asked = {name: value for name, value in mutation.items() if name in {"subject", "action", "resource"}}
    return {**asked, "context": {**mutation.get("context", {}), "change": mutation["change"]}}


def check(mutation: dict[str, Any], subject: str) -> bytes:
    """The same question as Envoy asks it over gRPC."""
    message = CheckRequest()
    http = message.attributes.request.http
    http.method, http.path, http.host = "POST", "/mutations", "127.0.0.1"
    http.raw_body = json.dumps(mutation, separators=(",", ":")).encode()
    http.headers.update({"content-type": "application/json", "x-subject": subject})
    content: bytes = message.SerializeToString()
    return content


class Surface(NamedTuple):
    """A way to ask: `body` makes the request of a mutation; `status` is that of its answers."""

    name: str
    path: str
    body: Callable[[dict[str, Any]], Any]
    sizes: Sequence[int]
    status: bytes = b"200"


NATIVE = Surface("native", "/v1/decisions", lambda mutation: mutation, (SMALL, *SIZES))
# One line for each; what asks about something else than the mutation has its decision to pay for as well.
SURFACES = (
    Surface("AuthZEN", "/access/v1/evaluation", evaluation, (SMALL, *SIZES)),
    Surface("admission", "/kubernetes/v1/validate?timeout=10s", review, (SMALL, *SIZES)),
    Surface("a tool call", "/agents/v1/tool-call", lambda _: EXAMPLE_CALL, (SMALL,)),
    Surface("Claude Code hook", "/agents/v1/claude-code", lambda _: EXAMPLE_HOOK, (SMALL,)),
    Surface("MCP check", "/agents/v1/mcp/check", lambda _: EXAMPLE_CHECK, (SMALL,)),
    Surface("gateway check", "/envoy/v1/check/mutations", lambda mutation: mutation, (SMALL, *SIZES)),
)

GRPC = "gateway check, gRPC"

_Row = tuple[str, int]
# Asks of a service for so many seconds.
_Asks = Callable[[service.Started, float], load.Result]
_Figures = tuple[float, float, float]


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
        mapping_file = Path(scratch) / "gateways.yaml"
        mapping_file.write_text(MAPPING)
        grpc_port = service.free_port()
        settings = {"MFW_EXT_AUTHZ__MAPPING": str(mapping_file), "MFW_EXT_AUTHZ__GRPC_PORT": str(grpc_port)}
        credential = f"Bearer {agent_key(database_url)}"
        headers = {
            "Authorization": credential,
            "X-Mfw-Authorization": credential,
            "X-Subject": json.dumps(mutation["subject"]),
        }
        requests: dict[_Row, tuple[_Asks, bytes]] = {}
        for size in (SMALL, *SIZES):
            large = sized(mutation, size)
            for one in (NATIVE, *SURFACES):
                if size in one.sizes:
                    sent = json.dumps(one.body(large), separators=(",", ":")).encode()
                    requests[one.name, size] = _over_http(load.http_post(one.path, sent, headers=headers)), one.status
            message = check(large, headers["X-Subject"])
            requests[GRPC, size] = _over_grpc(message, port=grpc_port, credential=credential), b"0"
        measured: dict[_Row, list[_Figures]] = {row: [] for row in requests}
        with service.firewall(database_url, cores=SERVED_ON, settings=settings) as guarded:
            for turn in range(options.rounds + 1):
                for row, (asks, status) in requests.items():
                    figures = _measure(asks, status, guarded, seconds=options.seconds if turn else 1.0, row=row)
                    if turn:  # the first one warms up
                        measured[row].append(figures)
    _show(measured)


def _over_http(request: bytes) -> _Asks:
    return lambda guarded, seconds: asyncio.run(load.run(request, port=guarded.port, callers=1, seconds=seconds))


def _over_grpc(message: bytes, *, port: int, credential: str) -> _Asks:
    """One call after the other on one connection; statuses are those of the response, 0 for an allow."""

    def asks(_guarded: service.Started, seconds: float) -> load.Result:
        result = load.Result(seconds=seconds)
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = channel.unary_unary(f"/{AUTH}.Authorization/Check")
            stop_at = time.perf_counter() + seconds
            while (began := time.perf_counter()) < stop_at:
                answer = call(message, metadata=(("authorization", credential),), timeout=30, wait_for_ready=True)
                result.latencies.append(time.perf_counter() - began)
                status = b"%d" % CheckResponse.FromString(answer).status.code
                result.statuses[status] = result.statuses.get(status, 0) + 1
        return result

    return asks


def _measure(asks: _Asks, expected: bytes, guarded: service.Started, *, seconds: float, row: _Row) -> _Figures:
    before = service.cpu_seconds(guarded.pid)
    result = asks(guarded, seconds)
    used = service.cpu_seconds(guarded.pid) - before
    unexpected = {status: count for status, count in result.statuses.items() if status != expected}
    if unexpected:
        raise SystemExit(f"{row}: answers other than {expected.decode()}: {unexpected}")
    return result.quantile(0.5) * 1e3, result.quantile(0.99) * 1e3, used / len(result.latencies) * 1e6


def _show(measured: Mapping[_Row, Sequence[_Figures]]) -> None:
    """Print the medians of the rounds, and of what each round has more than the native route in the same round."""
    print(f"{'':<30}{'p50':>11}{'p99':>11}{'CPU each':>12}{'p50 more':>13}{'p99 more':>11}{'CPU more':>11}")
    for (name, size), turns in measured.items():
        beside = measured[NATIVE.name, size]
        more = [tuple(a - b for a, b in zip(*pair, strict=True)) for pair in zip(turns, beside, strict=True)]
        median, late, cpu = (statistics.median(column) for column in zip(*turns, strict=True))
        title = f"{name}, {size // 1000 or '<1'} KB"
        line = f"{title:<30}{median:>8.2f} ms{late:>8.2f} ms{cpu:>9.0f} us"
        if name != NATIVE.name:
            median, late, cpu = (statistics.median(column) for column in zip(*more, strict=True))
            line += f"{median:>+10.2f} ms{late:>+8.2f} ms{cpu:>+8.0f} us"
        print(line)


if __name__ == "__main__":
    main()
