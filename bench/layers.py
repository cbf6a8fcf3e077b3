"""`python -m bench.layers`: what each layer of the edge costs, one upon the other, beside a bare endpoint.

One process on one core. Requests come over loopback connections that are written before the clock starts and read after
it stops, so that what is measured is the server alone: its system calls, the HTTP protocol, and the layers. Every layer
is measured once in each round, and the least of all rounds counts, because whatever else runs only adds to it.
"""

import argparse
import asyncio
import contextlib
import gc
import json
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import orjson
import uvicorn
import uvloop
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jose import jwt
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from app.bootstrap import PRIORITIES, YOUNG_MAX
from app.cli.protocol import Protocol
from app.cli.server import OPTIONS
from app.core import strict_json
from app.core.api_key import hash_key
from app.core.principal import Role
from app.core.quota import Limit, RouteClass
from app.edge.authn import ApiKeyRing, Authenticator, FailedAttempts, JwtVerifier, StaticKeys
from app.edge.context import ContextMiddleware
from app.edge.gate import Gate
from app.edge.limits import Buckets, RateLimits, TokenBuckets
from app.edge.shared_limits import SharedBuckets, StoreLink
from app.edge.shedding import DOOR, AdaptiveLimit, Door, Priority, Shedder, SheddingMiddleware
from app.observability.logs import Logs
from app.observability.metrics import Metrics
from app.observability.traces import start_traces
from app.persistence.shared_buckets import SharedBucketStore
from app.service.decide import Exchange
from app.surfaces.native.models import EXAMPLE_DECISION
from app.surfaces.native.routes import PATH, DecisionEndpoint
from app.surfaces.problems import internal_problem, problem
from bench import service
from bench.bare import bare

# Requests that are under way together, as under load.
AT_ONCE: Final = 32
ANSWER: Final = orjson.dumps(EXAMPLE_DECISION)
KEY: Final = "mfw_" + "k" * 43
ISSUER: Final = "https://issuer.example"
AUDIENCE: Final = "mutation-firewall"
FREE: Final = Limit(100_000_000, 10_000_000)

ASGI = Callable[[Any, Any, Any], Awaitable[None]]


class _NoMetrics(Metrics):
    """Counts nothing."""

    def route_of(self, path: str) -> str:
        return path

    def observe_request(self, route: str, method: str, code: int, seconds: float) -> None:
        pass


@dataclass(frozen=True, slots=True)
class _Key:
    """An API key as a store has it."""

    id: Any
    hash: bytes
    principal_id: str = "bench"
    roles: tuple[str, ...] = (Role.AGENT.value,)
    scopes: tuple[str, ...] = ()
    subjects: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    expires_at: None = None


class _Steps:
    """Takes the first steps of `service/decide.py`, as many as it is told, and answers what it always answers."""

    def __init__(self, *, strict: bool = False, authenticate: bool = False, limit: bool = False) -> None:
        self._strict = strict
        self._authenticate = authenticate
        self._limit = limit

    async def decide(self, exchange: Exchange) -> bytes:
        body = await exchange.read()
        if self._authenticate:
            principal = await exchange.authenticate()
            if self._limit:
                await exchange.limit(principal)
        if self._strict:
            strict_json.parse(body)
        return ANSWER


@dataclass(frozen=True, slots=True)
class Layer:
    """What is served, by which protocol, in which state, and what is sent: requests in turn."""

    name: str
    app: ASGI
    requests: Sequence[bytes]
    protocol: type[HttpToolsProtocol] = Protocol
    state: Mapping[str, Any] | None = None
    upon: str = ""


class _Tokens:
    """Tokens of an issuer of our own, and who checks them."""

    def __init__(self, algorithm: str) -> None:
        private: Any = (
            rsa.generate_private_key(public_exponent=65537, key_size=2048)
            if algorithm == "RS256"
            else ec.generate_private_key(ec.SECP256R1())
        )
        self._algorithm = algorithm
        self._private = private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode()
        public = private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        keys = StaticKeys(algorithms=[algorithm], public_keys={"bench": public.decode()})
        self.verifier = JwtVerifier(keys, issuer=ISSUER, audience=AUDIENCE)

    def token(self, subject: str) -> str:
        now = int(time.time())
        claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": subject, "iat": now, "nbf": now, "exp": now + 3600}
        made: str = jwt.encode(
            {**claims, "roles": ["agent"]}, self._private, algorithm=self._algorithm, headers={"kid": "bench"}
        )
        return made


def _request(body: bytes, credential: str) -> bytes:
    """A request as clients send them, with the headers that they send."""
    lines = [
        f"POST {PATH} HTTP/1.1",
        "Host: firewall.example:8080",
        "Accept: application/json",
        "User-Agent: bench",
        f"Authorization: Bearer {credential}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def _authenticator(
    metrics: Metrics, *, tokens: _Tokens | None = None, cached: int = 100
) -> tuple[Authenticator, ApiKeyRing]:
    async def load() -> list[_Key]:
        return [_Key(uuid4(), hash_key(KEY))]

    ring = ApiKeyRing(load)
    await ring.refresh()
    failures = FailedAttempts(Limit(1000, 1000))
    verifier = None if tokens is None else tokens.verifier
    return (
        Authenticator(api_keys=ring, jwt=verifier, failures=failures, metrics=metrics, max_cached_tokens=cached),
        ring,
    )


def _limits(link: StoreLink | None = None) -> RateLimits:
    def make(route: RouteClass, limit: Limit) -> Buckets:
        return TokenBuckets(limit) if link is None else SharedBuckets(limit, route=route, link=link)

    return RateLimits(dict.fromkeys(RouteClass, FREE), make=make)


async def _layers(body: bytes, logs: Logs, link: StoreLink | None) -> list[Layer]:
    with_key = [_request(body, KEY)]
    nothing, metrics = _NoMetrics(version="bench"), Metrics(version="bench")
    by_key, ring = await _authenticator(metrics)
    # What the keys in memory are believed for must not end in the middle.
    asyncio.get_running_loop().create_task(_keep(ring))

    def endpoint(steps: _Steps, authenticator: Authenticator = by_key, limits: RateLimits | None = None) -> ASGI:
        gate = Gate(authenticator, limits=limits or _limits(), metrics=metrics)
        return DecisionEndpoint(steps, gate=gate, max_body_bytes=1_048_576, timeout_seconds=30)

    def around(app: ASGI, *, counted: Metrics = metrics, logged: bool = True, door: Door | None = None) -> ASGI:
        return ContextMiddleware(
            app,
            metrics=counted,
            problem=problem,
            internal_problem=internal_problem,
            log=logs.write if logged else None,
            longest=30,
            ended=None if door is None else door.leave,
        )

    def guarded(app: ASGI) -> tuple[ASGI, Mapping[str, Any]]:
        limit = AdaptiveLimit(initial=1024, minimum=1024, maximum=1024)
        shedder = Shedder(limit, batches_max=4, others_max=32, lag_seconds=60, memory_share=1)
        shed = {priority: metrics.requests_shed[priority.name.lower()].inc for priority in Priority}
        door = Door(shedder, priorities=PRIORITIES, health="/health", shed=shed, problem_type="https://bench/")
        return SheddingMiddleware(around(app, door=door), door), {DOOR: door}

    every = _Steps(strict=True, authenticate=True, limit=True)
    floor = bare(ANSWER)

    async def fresh(scope: Any, receive: Any, send: Any) -> None:
        # The bare endpoint answers with one and the same message, to which what is around it would add and add.
        await floor(scope, receive, lambda message: send({**message}))

    whole, door = guarded(endpoint(every))
    made = [
        Layer("bare endpoint", floor, with_key, protocol=HttpToolsProtocol),
        Layer("+ limits of heads, one host", floor, with_key),
        Layer("+ context: ids, safe headers", around(fresh, counted=nothing, logged=False), with_key),
        Layer("+ metrics", around(fresh, logged=False), with_key),
        Layer("+ a line in the log", around(fresh), with_key),
        Layer("+ endpoint: deadline, body by its headers", around(endpoint(_Steps())), with_key),
        Layer("+ strict body", around(endpoint(_Steps(strict=True))), with_key),
        Layer("+ API key", around(endpoint(_Steps(strict=True, authenticate=True))), with_key),
        Layer("+ limiter, local", around(endpoint(every)), with_key),
        Layer("+ shedding: the whole edge", whole, with_key, state=door),
    ]
    before = "+ strict body"
    for algorithm in ("RS256", "ES256"):
        tokens = _Tokens(algorithm)
        two = [_request(body, tokens.token(subject)) for subject in ("one", "other")]
        # Two in turn where one can be remembered: each is verified anew.
        for name, cached in ((f"JWT {algorithm}, known", 100), (f"JWT {algorithm}, verified each time", 1)):
            authenticator, _ = await _authenticator(metrics, tokens=tokens, cached=cached)
            steps = _Steps(strict=True, authenticate=True)
            made.append(Layer(name, around(endpoint(steps, authenticator)), two, upon=before))
    if link is not None:
        leased = around(endpoint(every, limits=_limits(link)))
        made.append(Layer("limiter, leased from Redis", leased, with_key, upon="+ API key"))
    traces = start_traces(endpoint="http://127.0.0.1:9/v1/traces", sample_ratio=0.01, version="0", exporter=_Nowhere())
    traced, state = guarded(traces.around(endpoint(every), name=f"POST {PATH}"))
    made.append(Layer("traces, 1 % of requests", traced, with_key, state=state, upon="+ shedding: the whole edge"))
    return made


class _Nowhere(SpanExporter):
    """Takes spans and forgets them."""

    def export(self, _spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return SpanExportResult.SUCCESS


async def _keep(ring: ApiKeyRing) -> None:
    while True:
        await asyncio.sleep(1)
        await ring.refresh()


class _Served:
    """A layer behind a socket, with connections to it."""

    def __init__(self, layer: Layer) -> None:
        self.layer = layer
        self._left = 0
        self._done = asyncio.Event()
        self._sockets: list[socket.socket] = []

    async def start(self) -> None:
        options = OPTIONS | {"http": self.layer.protocol, "lifespan": "off", "proxy_headers": False}
        config = uvicorn.Config(self.layer.app, interface="asgi3", **options)
        config.load()
        state = ServerState()
        state.default_headers = [(b"date", b"Sun, 22 Nov 2026 07:00:00 GMT")]
        answered = self._answered

        class Counted(self.layer.protocol):  # type: ignore[misc,name-defined]  # a class that is a value
            def on_response_complete(self) -> None:
                super().on_response_complete()
                answered()

        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: Counted(config=config, server_state=state, app_state=dict(self.layer.state or {})), "127.0.0.1", 0
        )
        address = server.sockets[0].getsockname()
        for _ in range(AT_ONCE):
            one = socket.create_connection(address)
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._sockets.append(one)
        await asyncio.sleep(0.05)

    def _answered(self) -> None:
        self._left -= 1
        if not self._left:
            self._done.set()

    async def measure(self, batches: int) -> float:
        """Microseconds of processor time for a request."""
        requests = self.layer.requests
        spent = 0
        for _ in range(batches):
            self._left = AT_ONCE
            self._done.clear()
            for number, one in enumerate(self._sockets):
                one.sendall(requests[number % len(requests)])
            began = time.process_time_ns()
            await self._done.wait()
            spent += time.process_time_ns() - began
            for one in self._sockets:
                self._read(one)
        return spent / batches / AT_ONCE / 1000

    def _read(self, one: socket.socket) -> None:
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += one.recv(65536)
        head, _, rest = answer.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise SystemExit(f"{self.layer.name}: {answer.decode()}")
        missing = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]) - len(rest)
        while missing > 0:
            missing -= len(one.recv(65536))


@contextlib.asynccontextmanager
async def _redis(scratch: Path) -> AsyncIterator[StoreLink | None]:
    """A link to a Redis of this bench's own, None where there is no program to start."""
    binary = shutil.which("redis-server") or shutil.which("valkey-server")
    if binary is None:
        yield None
        return
    port = service.free_port()
    command = [binary, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    process = subprocess.Popen(
        command,
        cwd=scratch,
        stdout=subprocess.DEVNULL,
        preexec_fn=lambda: service.pin({1}),  # noqa: PLW1509 - no thread runs here yet
    )
    link = StoreLink(SharedBucketStore(f"redis://127.0.0.1:{port}/0"), replica="bench", expected=1)
    try:
        for _ in range(100):
            await link.announce()
            if link.shared:
                break
            await asyncio.sleep(0.05)
        yield link
    finally:
        await link.stop()
        process.terminate()
        process.wait()


async def _measured(options: argparse.Namespace, scratch: Path) -> None:
    body = json.dumps(json.loads((service.ROOT / "bench" / "mutation.json").read_bytes()), separators=(",", ":"))
    with (scratch / "log").open("wb") as sink:
        logs = Logs(sink=lambda data: (sink.write(data), None)[1])
        async with _redis(scratch) as link:
            served = [_Served(layer) for layer in await _layers(body.encode(), logs, link)]
            for one in served:
                await one.start()
                await one.measure(20)
            gc.collect()
            gc.freeze()
            gc.set_threshold(YOUNG_MAX)
            found: dict[str, list[float]] = {one.layer.name: [] for one in served}
            for _ in range(options.rounds):
                for one in served:
                    found[one.layer.name].append(await one.measure(options.batches))
        logs.stop()
    _print(served, found)


def _print(served: Sequence[_Served], found: Mapping[str, Sequence[float]]) -> None:
    least = {name: min(values) for name, values in found.items()}
    base = least[served[0].layer.name]
    previous = served[0].layer.name
    print(f"{'microseconds of processor time for a request':<46}{'in all':>8}{'of it':>8}{'of the bare endpoint':>23}")
    for one in served:
        name = one.layer.name
        more = least[name] - least[one.layer.upon or previous] if name != previous else base
        print(f"{name:<46}{least[name]:>8.1f}{more:>8.1f}{more / base:>22.0%}")
        if not one.layer.upon:
            previous = name
    edge = least["+ shedding: the whole edge"] - base
    print(f"the whole edge adds {edge:.1f} us, {edge / base:.0%} of what the bare endpoint costs")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.layers", description=__doc__)
    parser.add_argument("--rounds", type=int, default=50, help="(default 50)")
    parser.add_argument("--batches", type=int, default=4, help=f"of {AT_ONCE} requests in a round (default 4)")
    options = parser.parse_args()
    service.pin({0})
    with tempfile.TemporaryDirectory() as scratch, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_measured(options, Path(scratch)))


if __name__ == "__main__":
    main()
