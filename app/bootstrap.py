"""The composition root: settings become stores, keys, policies, services and one ASGI application."""

import asyncio
import contextlib
import gc
import logging
import math
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fastapi import FastAPI
from pydantic import SecretStr
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from app.background import ended
from app.cluster.accounts import ServiceAccounts
from app.cluster.api import Access, KubernetesApi
from app.cluster.canary import CanaryFlight
from app.core.admission.callers import AgentSource, ClusterView
from app.core.admission.canary import Canary
from app.core.ed25519 import private_key
from app.core.log_keys import log_key
from app.core.networks import networks_of
from app.core.quota import Limit, RouteClass
from app.core.types import Effect
from app.core.witnessing import WitnessAddress
from app.edge.authn import (
    ApiKeyRing,
    Authenticates,
    Authenticator,
    ClientCertificates,
    FailedAttempts,
    JwksKeys,
    JwtVerifier,
    RoleRule,
    SignedDeliveries,
    StaticKeys,
    SubjectCondition,
    TokenKeys,
    UnsafeAnonymousAuthenticator,
    http_jwks,
    identity_rule,
    role_rule,
)
from app.edge.context import ContextMiddleware
from app.edge.gate import Gate
from app.edge.limits import Buckets, RateLimits, TokenBuckets
from app.edge.plain import HealthWithoutTls
from app.edge.shared_limits import SharedBuckets, StoreLink
from app.edge.shedding import DOOR, AdaptiveLimit, Door, Memory, Priority, Shedder, SheddingMiddleware, Watch
from app.edge.tls import ServingCertificate
from app.errors import FirewallError, Kind
from app.ledger.append import LedgerWriter
from app.ledger.checkpoints import Notary, NotaryState
from app.ledger.erase import RecordEraser
from app.ledger.guard import GuardFile
from app.ledger.prove import Prover
from app.ledger.published import PublishedLedger
from app.ledger.read import LedgerReader
from app.ledger.search import DecisionIndex, Indexer
from app.ledger.signing import KeySigner
from app.ledger.spend import BudgetLedger
from app.ledger.tree import TileStore
from app.ledger.witnesses import CosignatureStore, HttpPost, Witnesses, WitnessesState
from app.observability.logs import Logs
from app.observability.metrics import DbErrorKind, DbOperation, Metrics, PolicyFailure, serve_metrics
from app.observability.traces import Traces, start_traces
from app.persistence import revision
from app.persistence.api_keys import ActiveKeys, ApiKeyStore
from app.persistence.breaker import BreakerState
from app.persistence.engine import connect, create_engine
from app.persistence.listening import Opens
from app.persistence.operation_runs import OperationRuns
from app.persistence.shared_buckets import SharedBucketStore
from app.persistence.switchboard import STALE_SECONDS, Switchboard
from app.persistence.switches import SwitchStore
from app.persistence.upkeep import Upkeep
from app.policies.distribute import DatabaseSource, DirectorySource, Failure, PolicySource, SetInForce, SourceState
from app.policies.signatures import RequiredSigners
from app.policies.store import PolicySetStore
from app.service.activate import ActivateService
from app.service.attest import AttestService
from app.service.decide import DecisionService
from app.service.erase import EraseService
from app.service.keys import Installed, KeyService
from app.service.publish import PublishService
from app.service.read import ReadService
from app.service.search import Entities, SearchService
from app.service.sign import SignService
from app.service.switch import SwitchService
from app.settings import (
    CanarySettings,
    Environment,
    ExtAuthzSettings,
    GithubSettings,
    JwtSettings,
    KubernetesAccessSettings,
    KubernetesSettings,
    LedgerSettings,
    LimitSettings,
    LogLevel,
    MtlsSettings,
    PlainHttp,
    Settings,
    SheddingSettings,
    TlsSettings,
)
from app.settings import PolicySource as Source
from app.surfaces.admission.routes import VALIDATE, AdmissionEndpoint, admission_router
from app.surfaces.agents.routes import (
    CLAUDE_CODE,
    MCP_CHECK,
    TOOL_CALL,
    GenericFormat,
    HookFormat,
    McpFormat,
    ToolCallEndpoint,
    agents_router,
)
from app.surfaces.authzen.entities import read_entities
from app.surfaces.authzen.metadata import ACCESS, EVALUATION, EVALUATIONS
from app.surfaces.authzen.routes import (
    AuthzenEndpoints,
    EvaluationEndpoint,
    EvaluationsEndpoint,
    authzen_router,
)
from app.surfaces.decisions.routes import ReadEndpoints, decisions_read_router
from app.surfaces.ext_authz.checking import Checks
from app.surfaces.ext_authz.mapping import GatewayKind, GatewayMapping, default_mapping
from app.surfaces.ext_authz.mapping_file import read_mapping
from app.surfaces.ext_authz.routes import PREFIX as CHECKS_PREFIX
from app.surfaces.ext_authz.routes import CheckEndpoint, GatewayPaths, gateway_router
from app.surfaces.github.client import GithubClient, app_of
from app.surfaces.github.routes import PRINCIPAL as GITHUB
from app.surfaces.github.routes import WEBHOOK, WebhookEndpoint, github_router
from app.surfaces.github.wire import GithubView
from app.surfaces.keys.routes import KeyEndpoints, keys_router
from app.surfaces.ledger.routes import LedgerEndpoints, ledger_router
from app.surfaces.native.batch import BatchEndpoint, batch_router
from app.surfaces.native.lines import LinesEndpoint
from app.surfaces.native.routes import PATH, DecisionEndpoint, HotPath, decisions_router
from app.surfaces.openapi import install_openapi, openapi_router
from app.surfaces.ops.health import CheckResult, Health, Report, Status, health_router
from app.surfaces.policy_sets.routes import PolicySetEndpoints, policy_sets_router
from app.surfaces.problems import TYPE_PREFIX, install_problem_handlers, internal_problem, problem
from app.surfaces.reference.routes import reference_router
from app.surfaces.switches.routes import SwitchEndpoints, switches_router

if TYPE_CHECKING:
    from app.surfaces.ext_authz.grpc.server import CheckServer

VERSION: Final = version("mutation-firewall")
# What the ledger says decided.
ENGINE: Final = f"mutation-firewall/{VERSION}"

_HEALTH_OF_SOURCE: Final = {
    SourceState.CURRENT: Status.HEALTHY,
    SourceState.DOUBTFUL: Status.DEGRADED,
    SourceState.BEHIND: Status.UNHEALTHY,
}

# Refused: what was answered is not in the ledger any more, or the ledger is not what it was. Nobody is sent here.
_HEALTH_OF_NOTARY: Final = {
    NotaryState.CURRENT: Status.HEALTHY,
    NotaryState.UNSIGNED: Status.HEALTHY,
    NotaryState.SUPERSEDED: Status.DEGRADED,
    NotaryState.BEHIND: Status.DEGRADED,
    NotaryState.REFUSED: Status.UNHEALTHY,
}

_BOOTSTRAPPED: Final = {
    Installed.MADE: "bootstrap key stored: there was no key of an administrator",
    Installed.PRESENT: "bootstrap key ignored: it is stored already, and works",
    Installed.NOT_NEEDED: "bootstrap key ignored: there is a key of an administrator",
}

_log: Final = logging.getLogger("mfw.keys")

# What a path is worth under load; what is not here is worth least.
PRIORITIES: Final = {
    PATH: Priority.DECISION,
    EVALUATION: Priority.DECISION,
    VALIDATE: Priority.DECISION,
    CLAUDE_CODE: Priority.DECISION,
    TOOL_CALL: Priority.DECISION,
    MCP_CHECK: Priority.DECISION,
    f"{PATH}:batch": Priority.BATCH,
    EVALUATIONS: Priority.BATCH,
    # It waits for GitHub, for seconds: among decisions that would pass for our own slowness.
    WEBHOOK: Priority.BATCH,
}

# What a path below one of these is worth.
PREFIXES: Final = {CHECKS_PREFIX: Priority.DECISION}

# Seconds that one of our transactions may do nothing, with everything locked that it locked: nobody works so long
# between two statements, so whoever does is gone.
STALL_SECONDS: Final = 10.0

# Containers that may be made, beyond those that were dropped, before the collector looks for cycles. Python's own 700
# are there after six requests in flight, and next to nothing here is in a cycle: counting finds it dropped.
YOUNG_MAX: Final = 50_000


@dataclass(frozen=True, slots=True)
class NamedCheck:
    """A component of `/health`."""

    name: str
    check: Callable[[], Awaitable[CheckResult]]

    async def __call__(self) -> CheckResult:
        """Look now."""
        return await self.check()


class DatabaseObserver:
    """What persistence says of itself, as metrics."""

    def __init__(self, metrics: Metrics) -> None:
        self._errors: Mapping[str, Callable[[], None]] = {k.value: m.inc for k, m in metrics.db_errors.items()}
        self._durations: Mapping[str, Callable[[float], None]] = {
            operation.value: histogram.observe for operation, histogram in metrics.db_query_duration.items()
        }

    def error(self, kind: str) -> None:
        """Count an error under its kind."""
        self._errors.get(kind, self._errors[DbErrorKind.OTHER.value])()

    def timed(self, operation: str, seconds: float) -> None:
        """Observe a duration under its operation."""
        self._durations.get(operation, self._durations[DbOperation.OTHER.value])(seconds)


@dataclass(frozen=True, slots=True)
class Drain:
    """What the server does with us when it is told to go (app/cli/draining.py): `begin`, then wait `seconds`."""

    begin: Callable[[], None]
    seconds: float


class EntropyPool:
    """Random bytes of the kernel, fetched a page at a time: one system call per request costs 10 us and the interpreter
    lock. Each byte is given out once, and never on both sides of a fork.
    """

    _PAGE = 4096

    def __init__(self) -> None:
        self._page = b""
        self._at = 0
        os.register_at_fork(after_in_child=self._forget)

    def __call__(self, count: int) -> bytes:
        """`count` bytes, at most a page."""
        at = self._at
        end = at + count
        if end > len(self._page):
            self._page = os.urandom(self._PAGE)
            at, end = 0, count
        self._at = end
        return self._page[at:end]

    def _forget(self) -> None:
        self._page = b""
        self._at = 0


def create_app(settings: Settings | None = None) -> ASGIApp:
    """The whole service as one ASGI callable; its lifespan connects, serves the metrics, and drains.

    Reads the environment unless `settings` are given. Raises FirewallError (INVALID_SETTINGS, INVALID_POLICY) before
    anything was opened; the lifespan raises SCHEMA_MISMATCH or UNAVAILABLE.
    """
    if settings is None:
        settings = Settings.load()
    metrics = Metrics(version=VERSION)
    logs = Logs(
        level=settings.logging.level.value,
        form=settings.logging.format.value,
        dropped=metrics.log_events_dropped.inc,
    )
    certificate = _certificate(settings.tls, metrics)
    dsn = _database_url(settings)
    observer = DatabaseObserver(metrics)
    database = settings.database
    make_engine = partial(
        create_engine,
        dsn,
        connect_timeout=database.connect_timeout_seconds,
        statement_timeout=database.statement_timeout_seconds,
        lock_timeout=database.lock_timeout_seconds,
        stall_timeout=STALL_SECONDS,
        pooled=database.pooled,
    )
    listening = _listening(settings)
    # Two pools: who reads and administers can use up one of them, and not the one that decisions and followers have.
    desk_connections = max(1, database.pool_size // 3)
    engine = make_engine(pool_size=database.pool_size - desk_connections)
    desk = make_engine(pool_size=desk_connections)
    # A connection of its own: filling the index takes none from those who ask.
    indexing = make_engine(pool_size=1)
    indexer = Indexer(indexing, observer=observer)
    metrics.watch_search(lag=lambda: float(indexer.lag))
    ledger = LedgerWriter(
        dsn,
        deadline=settings.ledger.deadline_seconds,
        queue_max=settings.ledger.queue_size,
        batch_max=settings.ledger.max_batch,
        connect_timeout=database.connect_timeout_seconds,
        statement_timeout=database.statement_timeout_seconds,
        pooled=database.pooled,
        observer=observer,
    )
    tree = TileStore(desk, observer=observer)
    witnesses = _witnesses(settings.ledger, tree, CosignatureStore(desk, observer=observer), metrics)
    notary = _notary(settings, dsn, metrics, observer, witnesses)
    metrics.watch_checkpoints(age=lambda: notary.age, lag=lambda: notary.lag, size=lambda: notary.size)
    key_store = ApiKeyStore(engine, observer=observer)
    keys = _key_ring(settings, key_store)
    token_keys = None if settings.auth.unsafe_disabled else _token_keys(settings.auth.jwt, metrics)
    authenticator = _authenticator(settings, keys, token_keys, metrics)
    store = PolicySetStore(engine, observer=observer)
    signers = RequiredSigners.of(settings.policies.signers, required=settings.policies.signatures_required)
    source = _policy_source(settings, store, listening, metrics, signers)
    metrics.watch_policy_set(age=lambda: source.age, lag=lambda: source.lag, stale=lambda: float(source.stale))
    switch_store = SwitchStore(engine, observer=observer)
    board = Switchboard(switch_store.in_force, connect=listening)
    metrics.watch_switches(board.count, age=lambda: board.age)
    upkeep = Upkeep(OperationRuns(desk, observer=observer).latest)
    metrics.watch_upkeep(upkeep.issues, integrity_at=lambda: upkeep.integrity_at, backup_at=lambda: upkeep.backup_at)
    entropy, counted = EntropyPool(), _counter(metrics)
    # What is secret for good comes from the kernel each time, not from a page that lies in memory.
    desk_keys = ApiKeyStore(desk, observer=observer)
    key_service = KeyService(
        desk_keys,
        clock=partial(datetime.now, UTC),
        entropy=os.urandom,
        engine=ENGINE,
        follow=None if keys is None else keys.follow,
    )
    service = DecisionService(
        source.current,
        ledger=ledger,
        budgets=BudgetLedger(
            engine,
            deadline=settings.ledger.deadline_seconds,
            concurrent_max=max(1, (database.pool_size - desk_connections) // 2),
            observer=observer,
        ),
        clock=partial(datetime.now, UTC),
        entropy=entropy,
        engine=ENGINE,
        counted=counted,
        exhausted=lambda mode: metrics.budgets_exhausted[mode].inc(),
        switches=board.concerning,
        mask_key=None if settings.ledger.mask_key is None else settings.ledger.mask_key.get_secret_value().encode(),
    )

    async def check_database() -> CheckResult:
        try:
            found = await revision.check(engine)
        except FirewallError as error:
            metrics.schema_mismatch.set(error.kind is Kind.SCHEMA_MISMATCH)
            raise
        metrics.schema_mismatch.set(0)
        return CheckResult(Status.HEALTHY, f"schema revision {found}")

    async def check_ledger() -> CheckResult:
        if ledger.breaker is not BreakerState.CLOSED or not ledger.connected:
            return CheckResult(Status.UNHEALTHY, f"writer not connected, breaker {ledger.breaker.value}")
        return CheckResult(Status.HEALTHY, f"{ledger.waiting} entries wait")

    async def check_policies() -> CheckResult:
        state, detail = source.report()
        return CheckResult(_HEALTH_OF_SOURCE[state], detail)

    checks = [
        NamedCheck("database", check_database),
        NamedCheck("ledger", check_ledger),
        NamedCheck("policies", check_policies),
        NamedCheck("switches", partial(_check_switches, board)),
        NamedCheck("checkpoints", partial(_check_checkpoints, notary)),
    ]
    if witnesses is not None:
        checks.append(NamedCheck("witnesses", partial(_check_witnesses, witnesses)))
    if keys is not None:
        checks.append(NamedCheck("api_keys", partial(_check_keys, keys)))
    if isinstance(token_keys, JwksKeys):
        checks.append(NamedCheck("token_issuer", partial(_check_issuer, token_keys)))
    if certificate is not None:
        checks.append(NamedCheck("tls", partial(_check_certificate, certificate)))
    canary = _canary(settings.kubernetes.canary)
    flight = None if canary is None else _flight(settings.kubernetes, canary, metrics)
    if flight is not None:
        checks.append(NamedCheck("canary", partial(_check_canary, flight)))
    accounts = _accounts(settings.kubernetes, metrics)
    if accounts is not None:
        checks.append(NamedCheck("service_accounts", partial(_check_accounts, accounts)))
    link = _store_link(settings.limits, metrics)
    if link is not None:
        checks.append(NamedCheck("rate_limits", partial(_check_limits, link)))
    shedder = _shedder(settings.shedding, metrics) if settings.shedding.enabled else None
    door: Door | None = None
    if shedder is not None:
        checks.append(NamedCheck("load", partial(_check_load, shedder)))
        door = Door(
            shedder,
            priorities=PRIORITIES,
            prefixes=PREFIXES,
            health="/health",
            shed={priority: metrics.requests_shed[priority.name.lower()].inc for priority in Priority},
            problem_type=TYPE_PREFIX,
        )

    def show_health(report: Report, ready: bool) -> None:  # noqa: FBT001 - the two facts of a report
        metrics.ready.set(ready)
        metrics.show_components({component.name: component.status for component in report.components})

    health = Health(checks, version=VERSION, found=show_health)
    metrics.know_components(health.components, statuses=Status)
    github = _github_client(settings.github, metrics, diff_bytes_max=settings.http.max_body_bytes)

    traces: Traces | None = None
    if settings.tracing.endpoint is not None:
        traces = start_traces(
            endpoint=settings.tracing.endpoint, sample_ratio=settings.tracing.sample_ratio, version=VERSION
        )

    def begin_draining() -> None:
        health.draining = True
        metrics.ready.set(0)
        source.release()
        around.drain()
        if door is not None:
            door.closing = True

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[dict[str, "Drain | Door | ServingCertificate | None"]]:
        async with contextlib.AsyncExitStack() as opened:
            logs.install()
            opened.callback(logs.stop)
            if traces is not None:
                opened.callback(traces.stop)
            opened.push_async_callback(engine.dispose)
            opened.push_async_callback(desk.dispose)
            opened.push_async_callback(github.close)
            opened.push_async_callback(indexing.dispose)
            await _check_revision(
                partial(revision.check, engine), unless_kept=settings.policies.cache_directory is not None
            )
            await board.start()
            opened.push_async_callback(board.stop)
            await upkeep.start()
            opened.push_async_callback(upkeep.stop)
            await source.start()
            opened.push_async_callback(source.stop)
            await ledger.start()
            opened.push_async_callback(ledger.stop)
            # The database answered just now: waiting saves the first probes from finding the writer on its way.
            await ledger.wait_connected(within=database.connect_timeout_seconds)
            if witnesses is not None:
                await witnesses.start()
                opened.push_async_callback(witnesses.stop)
                await _hand_over_newest(witnesses, tree)
            await notary.start()
            opened.push_async_callback(notary.stop)
            if keys is not None:
                if settings.auth.api_keys.bootstrap is not None:
                    await _install_key(settings.auth.api_keys.bootstrap.get_secret_value(), service=key_service)
                await keys.start()
                opened.push_async_callback(keys.stop)
            if isinstance(token_keys, JwksKeys):
                await token_keys.start()
                opened.push_async_callback(token_keys.stop)
            if link is not None:
                await link.start()
                opened.push_async_callback(link.stop)
            await indexer.start()
            opened.push_async_callback(indexer.stop)
            if settings.metrics.enabled:
                _, stop_metrics = serve_metrics(metrics, host=settings.metrics.host, port=settings.metrics.port)
                opened.callback(stop_metrics)
            if shedder is not None and door is not None:
                watch = Watch(shedder.feel, memory=Memory(closes=settings.shedding.memory_share).share, tell=door.tell)
                watch.start()
                opened.push_async_callback(watch.stop)
            if certificate is not None:
                await certificate.start()
                opened.push_async_callback(certificate.stop)
            if accounts is not None:
                await accounts.start()
                opened.push_async_callback(accounts.stop)
            if flight is not None:
                await flight.start()
                opened.push_async_callback(flight.stop)
            opened.enter_context(_settled_heap())
            if grpc_checks is not None:
                await grpc_checks.start()
                opened.push_async_callback(grpc_checks.stop, max(1.0, settings.http.shutdown_grace_seconds - 5.0))
            health.started = True
            watching = asyncio.create_task(health.watch(), name="health")
            opened.push_async_callback(ended, watching)
            yield {"drain": Drain(begin_draining, settings.http.drain_seconds), DOOR: door, "tls": certificate}
            health.draining = True

    api = FastAPI(
        title="Mutation Firewall",
        version=VERSION,
        summary="Every change that an AI wants to make is asked here first.",
        lifespan=lifespan,
        docs_url=None,
        openapi_url=None,
        redoc_url=None,
        # A redirect for a slash too many would send the caller's credential once more.
        redirect_slashes=False,
    )
    gate = Gate(authenticator, limits=_rate_limits(settings.limits, link), metrics=metrics)
    endpoint = DecisionEndpoint(
        service,
        gate=gate,
        max_body_bytes=settings.http.max_body_bytes,
        timeout_seconds=settings.http.request_timeout_seconds,
    )
    api.include_router(decisions_router(endpoint))
    batches = BatchEndpoint(
        service,
        gate=gate,
        max_body_bytes=settings.http.max_batch_body_bytes,
        timeout_seconds=settings.http.request_timeout_seconds,
        lines=LinesEndpoint(
            service,
            gate=gate,
            max_line_bytes=settings.http.max_body_bytes,
            timeout_seconds=settings.http.request_timeout_seconds,
        ),
    )
    api.include_router(batch_router(batches))
    evaluation = EvaluationEndpoint(
        service,
        gate=gate,
        max_body_bytes=settings.http.max_body_bytes,
        timeout_seconds=settings.http.request_timeout_seconds,
    )
    api.include_router(
        authzen_router(
            AuthzenEndpoints(
                evaluation,
                EvaluationsEndpoint(
                    service,
                    gate=gate,
                    max_body_bytes=settings.http.max_batch_body_bytes,
                    timeout_seconds=settings.http.request_timeout_seconds,
                ),
                searching=SearchService(
                    source.current,
                    clock=partial(datetime.now, UTC),
                    entities=_entities(settings.authzen.entities),
                    switches=board.concerning,
                ),
                gate=gate,
                identifier=settings.authzen.identifier,
                derived=settings.environment is not Environment.PRODUCTION,
                timeout_seconds=settings.http.request_timeout_seconds,
                signing_key=_metadata_key(settings.authzen.signing_key),
            )
        )
    )
    api.include_router(
        agents_router(
            [
                ToolCallEndpoint(
                    service,
                    form,
                    gate=gate,
                    max_body_bytes=settings.http.max_body_bytes,
                    timeout_seconds=settings.http.request_timeout_seconds,
                )
                for form in (HookFormat(), GenericFormat(), McpFormat())
            ]
        )
    )
    kubernetes = settings.kubernetes
    reviews = AdmissionEndpoint(
        service,
        gate=gate,
        view=ClusterView(
            agents=kubernetes.agent_rules,
            environments=kubernetes.environment_rules,
            cluster=kubernetes.cluster or "",
            accounts=accounts,
        ),
        api_servers=kubernetes.api_server_globs,
        max_body_bytes=settings.http.max_admission_body_bytes,
        timeout_seconds=kubernetes.timeout_seconds,
        canary=canary,
        unsafe_unauthenticated=kubernetes.unsafe_unauthenticated,
    )
    api.include_router(admission_router(reviews))
    checks_of_gateways = CheckEndpoint(
        Checks(
            service,
            gate=gate,
            mapping=_gateway_mapping(settings.ext_authz),
            credential_header=settings.ext_authz.credential_header,
            certificate_header=settings.auth.mtls.header,
            max_body_bytes=settings.http.max_body_bytes,
        ),
        timeout_seconds=settings.ext_authz.timeout_seconds,
    )
    api.include_router(gateway_router(checks_of_gateways))
    api.include_router(
        github_router(
            WebhookEndpoint(
                service,
                gate=gate,
                deliveries=_github_deliveries(settings, metrics),
                github=github,
                view=GithubView(
                    api=settings.github.api_url.rstrip("/"),
                    agents=settings.github.agent_globs,
                    forks=settings.github.forks,
                ),
                now=partial(datetime.now, UTC),
                timeout_seconds=settings.github.timeout_seconds,
                replay_window=timedelta(hours=settings.github.replay_hours),
            )
        )
    )
    desk_sets = PolicySetStore(desk, observer=observer)
    policy_sets = PolicySetEndpoints(
        store=desk_sets,
        source=source,
        publishing=PublishService(desk_sets, signers=signers),
        signing=SignService(desk_sets, signers=signers),
        activating=ActivateService(
            desk_sets,
            source=source,
            follows=isinstance(source, DatabaseSource),
            ledger=ledger,
            clock=partial(datetime.now, UTC),
            entropy=entropy,
            engine=ENGINE,
            counted=counted,
            signers=signers,
            switches=board.concerning,
        ),
        gate=gate,
        timeout_seconds=settings.http.request_timeout_seconds,
    )
    api.include_router(policy_sets_router(policy_sets))
    switches = SwitchEndpoints(
        SwitchService(
            switch_store,
            board=board,
            policies=source.current,
            clock=partial(datetime.now, UTC),
            entropy=entropy,
            engine=ENGINE,
        ),
        board=board,
        gate=gate,
        now=partial(datetime.now, UTC),
        timeout_seconds=settings.http.request_timeout_seconds,
    )
    api.include_router(switches_router(switches))
    key_endpoints = KeyEndpoints(
        store=desk_keys, keys=key_service, gate=gate, timeout_seconds=settings.http.request_timeout_seconds
    )
    api.include_router(keys_router(key_endpoints))
    read_service = ReadService(LedgerReader(desk), index=DecisionIndex(desk, observer=observer))
    prover = Prover(desk, observer=observer)
    reading = ReadEndpoints(
        read_service,
        prover=prover,
        attesting=AttestService(
            read_service, prover=prover, signer=_log_signer(settings.ledger.signing_key, origin=settings.ledger.origin)
        ),
        erasing=EraseService(
            RecordEraser(desk, observer=observer),
            clock=partial(datetime.now, UTC),
            entropy=os.urandom,
            engine=ENGINE,
        ),
        gate=gate,
        timeout_seconds=settings.http.request_timeout_seconds,
    )
    api.include_router(decisions_read_router(reading))
    published = LedgerEndpoints(
        PublishedLedger(desk, observer=observer),
        gate=gate,
        public=settings.ledger.public,
        timeout_seconds=settings.http.request_timeout_seconds,
    )
    api.include_router(ledger_router(published))
    api.include_router(health_router(health, gate=gate))
    install_problem_handlers(api, debug=settings.debug)
    install_openapi(api)
    api.include_router(openapi_router(api, gate=gate))
    api.include_router(reference_router(version=VERSION, gate=gate))

    # What is asked before every single change.
    hot: dict[str, ASGIApp] = {PATH: endpoint, EVALUATION: evaluation, VALIDATE: reviews}
    if traces is not None:
        traces.instrument(api)
        hot = {path: traces.around(one, name=f"POST {path}") for path, one in hot.items()}
    app: ASGIApp = HotPath(api, endpoints=hot)
    if settings.http.cors_origins:
        app = CORSMiddleware(
            app,
            allow_origins=settings.http.cors_origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=[
                "Authorization",
                "Content-Type",
                "Idempotency-Key",
                "Traceparent",
                "Tracestate",
                "X-API-Key",
                "X-Request-Id",
                "X-Request-Timeout-Ms",
            ],
            expose_headers=["Idempotency-Replayed", "X-Request-Id", "Retry-After", "RateLimit", "RateLimit-Policy"],
        )
    app = GatewayPaths(app, endpoint=checks_of_gateways)
    if certificate is not None and settings.tls.plain_http is PlainHttp.HEALTH:
        # In front of whatever answers by itself, CORS among it.
        app = HealthWithoutTls(app, problem=problem)
    # One line per request, unless only what is wrong shall be written.
    access_log = logs.write if settings.logging.level in {LogLevel.DEBUG, LogLevel.INFO} else None
    unforeseen = partial(internal_problem, debug=settings.debug)
    around = ContextMiddleware(
        app,
        metrics=metrics,
        problem=problem,
        internal_problem=unforeseen,
        log=access_log,
        longest=settings.http.request_timeout_seconds,
        least=lambda path: shedder.limit.base if shedder is not None and path == PATH else None,
        ended=None if door is None else door.leave,
        # AuthZEN 1.0, section 10.1.3: any text is a request id, and comes back as it was sent.
        echoes=ACCESS,
    )
    outermost: ASGIApp = around if door is None else SheddingMiddleware(around, door)

    async def ready() -> bool:
        return health.ready(await health.report())

    grpc_checks = _grpc_checks(settings, outermost, ready=ready)
    return outermost


def _grpc_checks(settings: Settings, app: ASGIApp, *, ready: Callable[[], Awaitable[bool]]) -> "CheckServer | None":
    """What answers checks over gRPC, if a port is named for it."""
    gateways = settings.ext_authz
    if gateways.grpc_port is None:
        return None
    try:
        from app.surfaces.ext_authz.grpc.server import CheckServer
    except ImportError:
        raise FirewallError(
            Kind.INVALID_SETTINGS,
            "MFW_EXT_AUTHZ__GRPC_PORT needs packages that are not installed",
            fix="`pip install 'mutation-firewall[grpc]'`, or unset it",
        ) from None
    return CheckServer(
        app,
        host=gateways.grpc_host or settings.http.host,
        port=gateways.grpc_port,
        tls=settings.tls.files,
        credential_header=gateways.credential_header,
        max_body_bytes=settings.http.max_body_bytes,
        concurrent_max=settings.http.max_connections,
        timeout_seconds=gateways.timeout_seconds,
        ready=ready,
    )


@contextlib.contextmanager
def _settled_heap() -> Iterator[None]:
    """While requests are answered, the collector passes over what was made before them.

    That is a hundred megabytes which live as long as the process: one look at all of it stops everything for 80 ms.
    """
    thresholds = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_MAX, *thresholds[1:])
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()


def _gateway_mapping(settings: ExtAuthzSettings) -> GatewayMapping:
    if settings.mapping is None:
        return default_mapping(GatewayKind(settings.gateway.value))
    return read_mapping(settings.mapping)


def _entities(file: Path | None) -> Entities:
    return Entities() if file is None else read_entities(file)


def _policy_source(
    settings: Settings, store: PolicySetStore, listening: Opens, metrics: Metrics, signers: RequiredSigners
) -> PolicySource:
    policies = settings.policies

    def changed(taken: SetInForce) -> None:
        compiled = taken.policy_set
        metrics.show_policy_set(taken.digest, policies=len(compiled.policies), rules=len(compiled.rules))

    def failed(failure: Failure) -> None:
        metrics.policy_set_failures[PolicyFailure(failure.value)].inc()

    match policies.chosen_source, policies.directory:
        case Source.DATABASE, _:
            return DatabaseSource(
                store,
                connect=listening,
                copies=policies.cache_directory,
                poll_seconds=policies.poll_seconds,
                max_lag_seconds=policies.max_lag_seconds,
                signers=signers,
                changed=changed,
                failed=failed,
            )
        case _, None:
            raise FirewallError(
                Kind.INVALID_SETTINGS,
                "no policies are named",
                fix="set MFW_POLICIES__DIRECTORY to the directory with the policy files",
            )
        case _, directory:
            return DirectorySource(
                directory,
                poll_seconds=policies.poll_seconds,
                max_lag_seconds=policies.max_lag_seconds,
                signers=signers,
                changed=changed,
                failed=failed,
            )


async def _check_revision(check: Callable[[], Awaitable[str]], *, unless_kept: bool) -> None:
    """Refuse another schema. With a policy set on the local disk a database that is away is waited for instead."""
    try:
        await check()
    except FirewallError as error:
        if not unless_kept or error.kind not in {Kind.UNAVAILABLE, Kind.TIMEOUT}:
            raise


def _database_url(settings: Settings) -> str:
    if settings.database.url is None:
        raise FirewallError(
            Kind.INVALID_SETTINGS,
            "no database is named",
            fix="set MFW_DATABASE__URL, or start `mfw dev`, which brings a database of its own",
        )
    return settings.database.url.get_secret_value()


def _listening(settings: Settings) -> Opens:
    """How to open a connection that hears notifications; None behind a pooler that would give it to somebody else."""
    url = settings.database.session_url
    if url is None:
        return None
    return partial(connect, url, connect_timeout=settings.database.connect_timeout_seconds)


def _key_ring(settings: Settings, store: ApiKeyStore) -> ApiKeyRing | None:
    if settings.auth.unsafe_disabled or not settings.auth.api_keys.enabled:
        return None
    return ApiKeyRing(ActiveKeys(store), refresh_seconds=settings.auth.api_keys.refresh_seconds, write_uses=store.touch)


def _shedder(settings: SheddingSettings, metrics: Metrics) -> Shedder:
    shedder = Shedder(
        AdaptiveLimit(minimum=settings.decisions_min, maximum=settings.decisions_max),
        batches_max=settings.batches_max,
        others_max=settings.others_max,
        lag_seconds=settings.lag_seconds,
        memory_share=settings.memory_share,
    )
    metrics.watch_shedding(
        limit=lambda: shedder.limit.value,
        under_way={priority.name.lower(): partial(shedder.under_way.__getitem__, priority) for priority in Priority},
        lag=lambda: shedder.pressure.lag,
        memory=lambda: shedder.pressure.memory,
    )
    return shedder


async def _check_load(shedder: Shedder) -> CheckResult:
    pressure = shedder.pressure
    detail = f"event loop {pressure.lag * 1000:.0f} ms late, {pressure.memory:.0%} of the memory used"
    if not shedder.closed:
        return CheckResult(Status.HEALTHY, detail)
    refused = ", ".join(priority.name.lower() for priority in shedder.closed)
    # A loop that is late is late with the requests that it has: without them it would be ready, and late again. Memory
    # stays used whoever asks, and is given back by a task: until then others answer.
    status = Status.UNHEALTHY if shedder.out_of_memory else Status.DEGRADED
    return CheckResult(status, f"{detail}; refused: {refused}")


def _metadata_key(secret: SecretStr | None) -> Ed25519PrivateKey | None:
    """What signs the metadata of AuthZEN, if anything does."""
    return None if secret is None else private_key(secret.get_secret_value().encode())


def _log_signer(secret: SecretStr | None, *, origin: str | None) -> KeySigner | None:
    """Who signs for the log, None without a key."""
    if secret is None:
        return None
    if origin is None:
        raise FirewallError(Kind.INVALID_SETTINGS, "a checkpoint says which log it is of", fix="set MFW_LEDGER__ORIGIN")
    return KeySigner(log_key(secret.get_secret_value(), origin=origin))


def _notary(
    settings: Settings, dsn: str, metrics: Metrics, observer: DatabaseObserver, witnesses: Witnesses | None
) -> Notary:
    """What integrates and signs, on a connection of its own. Does not connect."""
    database, ledger = settings.database, settings.ledger
    return Notary(
        partial(
            connect,
            dsn,
            connect_timeout=database.connect_timeout_seconds,
            statement_timeout=database.statement_timeout_seconds,
            writable=True,
            pooled=database.pooled,
        ),
        engine=ENGINE,
        entropy=os.urandom,
        signer=_log_signer(ledger.signing_key, origin=ledger.origin),
        previous=_log_signer(ledger.previous_signing_key, origin=ledger.origin),
        guard=None if ledger.guard_file is None else GuardFile(ledger.guard_file),
        interval=ledger.checkpoint_seconds,
        statement_timeout=database.statement_timeout_seconds,
        published=None if witnesses is None else witnesses.hand_over,
        refused=metrics.checkpoint_refusals.inc,
        observer=observer,
    )


def _witnesses(
    settings: LedgerSettings, tree: TileStore, store: CosignatureStore, metrics: Metrics
) -> Witnesses | None:
    if not settings.witnesses:
        return None
    witnesses = Witnesses(
        [WitnessAddress.parse(text) for text in settings.witnesses],
        tiles=tree.read,
        store=store,
        post=HttpPost(),
        wanted=settings.cosignatures,
        counted=metrics.external("witness"),
        contradicted=metrics.witness_contradictions.inc,
    )
    metrics.watch_cosignatures(lambda: witnesses.cosignatures)
    return witnesses


async def _hand_over_newest(witnesses: Witnesses, tree: TileStore) -> None:
    """What was signed before this start may lack cosignatures; while the database is away, the next one has to do."""
    with contextlib.suppress(FirewallError):
        newest = await tree.newest()
        if newest is not None:
            witnesses.hand_over(newest)


async def _check_witnesses(witnesses: Witnesses) -> CheckResult:
    """At most degraded: nobody may stop decisions by being away."""
    state, detail = witnesses.report()
    return CheckResult(Status.HEALTHY if state is WitnessesState.CURRENT else Status.DEGRADED, detail)


async def _check_checkpoints(notary: Notary) -> CheckResult:
    state, detail = notary.report()
    return CheckResult(_HEALTH_OF_NOTARY[state], detail)


async def _check_switches(board: Switchboard) -> CheckResult:
    """Loud while one is on: whoever looks why nothing is allowed, or why a policy is silent, shall find it here."""
    if not board.known:
        return CheckResult(Status.UNHEALTHY, "the kill switches were never read")
    words = [
        " ".join(filter(None, [one.switch.kind.value, one.switch.target, one.switch.ends, f"({one.switch.id})"]))
        for one in board.in_force()
    ]
    if board.stale:
        words.append(f"not read for {board.age:.0f} s: the last known ones hold (the limit is {STALE_SECONDS:.0f} s)")
    return CheckResult(Status.DEGRADED, "; ".join(words)) if words else CheckResult(Status.HEALTHY, "none is on")


async def _install_key(key: str, *, service: KeyService) -> None:
    """Bring in the first key of an administrator. A database that is away now is no reason not to start."""
    try:
        outcome = await service.bootstrap(key)
    except FirewallError as error:
        _log.warning("bootstrap key not stored", extra={"fields": {"error": str(error)}})
        return
    if outcome is Installed.ENDED:
        _log.warning("bootstrap key ignored: it was revoked or has expired; make another and set that")
    else:
        _log.info(_BOOTSTRAPPED[outcome])


async def _check_keys(keys: ApiKeyRing) -> CheckResult:
    if not keys.usable:
        return CheckResult(Status.UNHEALTHY, "api keys could not be loaded for too long")
    return CheckResult(Status.HEALTHY, f"{len(keys)} api keys")


def _store_link(limits: LimitSettings, metrics: Metrics) -> StoreLink | None:
    """The link to Redis where one is named. Does not connect."""
    if limits.redis_url is None:
        return None
    return StoreLink(
        SharedBucketStore(limits.redis_url.get_secret_value(), prefix=limits.redis_prefix),
        replica=os.urandom(8).hex(),
        expected=limits.replicas,
        changed=metrics.limits_shared.set,
    )


def _github_client(github: GithubSettings, metrics: Metrics, *, diff_bytes_max: int) -> GithubClient:
    """The GitHub that delivers. Does not connect."""
    app = None
    if github.app_id is not None and github.private_key is not None:
        app = app_of(github.app_id, github.private_key.get_secret_value())
    return GithubClient(
        github.api_url,
        app=app,
        token=None if github.token is None else github.token.get_secret_value(),
        check_name=github.check_name,
        diff_bytes_max=diff_bytes_max,
        private_addresses=github.private_addresses,
        environment=github.proxy_environment,
        ca_file=github.ca_file,
        counted=metrics.external("github"),
    )


def _github_deliveries(settings: Settings, metrics: Metrics) -> SignedDeliveries:
    secrets = (settings.github.webhook_secret, settings.github.previous_webhook_secret)
    return SignedDeliveries(
        [secret.get_secret_value().encode() for secret in secrets if secret is not None],
        principal=GITHUB,
        failures=FailedAttempts(
            Limit(settings.limits.failures_per_minute_per_ip, settings.limits.failures_per_minute_per_ip)
        ),
        metrics=metrics,
    )


def _rate_limits(limits: LimitSettings, link: StoreLink | None) -> RateLimits:
    def make(route: RouteClass, limit: Limit) -> Buckets:
        return TokenBuckets(limit) if link is None else SharedBuckets(limit, route=route, link=link)

    return RateLimits(
        {
            RouteClass.DECIDE: Limit(limits.per_minute, limits.burst),
            RouteClass.BATCH: Limit(limits.batch_per_minute, limits.batch_burst),
            RouteClass.READ: Limit(limits.read_per_minute, limits.read_burst),
            RouteClass.ADMIN: Limit(limits.admin_per_minute, limits.admin_burst),
        },
        roles={(one.route, one.role): one.limit for one in limits.role_limits},
        make=make,
    )


async def _check_limits(link: StoreLink) -> CheckResult:
    if link.shared:
        return CheckResult(Status.HEALTHY, f"shared by {link.replicas} replicas")
    return CheckResult(Status.DEGRADED, f"Redis is away: each replica enforces 1/{link.replicas} of every limit")


def _token_keys(jwt: JwtSettings, metrics: Metrics) -> TokenKeys | None:
    """Where the keys of tokens come from: secrets, PEM keys, or what the issuer publishes."""
    algorithms = [algorithm.value for algorithm in jwt.algorithms]
    if not jwt.enabled:
        return None
    if jwt.public_keys or jwt.secret is not None:
        secrets = [] if jwt.secret is None else [(jwt.secret_id, jwt.secret.get_secret_value(), math.inf)]
        if jwt.previous_secret is not None:
            until = math.inf if jwt.previous_secret_until is None else jwt.previous_secret_until.timestamp()
            secrets.append((jwt.previous_secret_id, jwt.previous_secret.get_secret_value(), until))
        return StaticKeys(algorithms=algorithms, public_keys=jwt.public_keys, secrets=secrets)
    return JwksKeys(
        http_jwks(url=jwt.jwks_url, issuer=jwt.issuer, ca_file=jwt.ca_file, token_file=jwt.token_file),
        algorithms=algorithms,
        keep_seconds=jwt.keys_keep_seconds,
        counted=metrics.external("jwks"),
    )


def _role_rules(jwt: JwtSettings) -> list[RoleRule]:
    try:
        return [role_rule(text) for text in jwt.role_rules]
    except ValueError as error:
        raise FirewallError(
            Kind.INVALID_SETTINGS, f"a rule for roles {error}", fix="see MFW_AUTH__JWT__ROLE_RULES"
        ) from None


async def _check_issuer(keys: JwksKeys) -> CheckResult:
    if keys.fresh:
        return CheckResult(Status.HEALTHY, "the token issuer's keys are fresh")
    if keys.usable:
        return CheckResult(Status.DEGRADED, f"the token issuer is away; its keys are {keys.age:.0f} s old")
    return CheckResult(Status.DEGRADED, "the token issuer's keys cannot be fetched: no token is accepted")


def _authenticator(
    settings: Settings, keys: ApiKeyRing | None, token_keys: TokenKeys | None, metrics: Metrics
) -> Authenticates:
    auth = settings.auth
    if auth.unsafe_disabled:
        return UnsafeAnonymousAuthenticator()
    verifier: JwtVerifier | None = None
    if auth.jwt.enabled and token_keys is not None:
        if auth.jwt.issuer is None or auth.jwt.audience is None:
            raise FirewallError(
                Kind.INVALID_SETTINGS,
                "tokens are on without an issuer or an audience",
                fix="set MFW_AUTH__JWT__ISSUER and MFW_AUTH__JWT__AUDIENCE",
            )
        verifier = JwtVerifier(
            token_keys,
            issuer=auth.jwt.issuer,
            audience=auth.jwt.audience,
            roles_claim=auth.jwt.roles_claim,
            role_rules=_role_rules(auth.jwt),
            subjects=None if auth.jwt.subject_condition is None else SubjectCondition(auth.jwt.subject_condition),
            leeway_seconds=auth.jwt.leeway_seconds,
        )
    return Authenticator(
        api_keys=keys,
        jwt=verifier,
        certificates=_certificates(auth.mtls, shown=settings.tls.client_ca_file is not None),
        failures=FailedAttempts(
            Limit(settings.limits.failures_per_minute_per_ip, settings.limits.failures_per_minute_per_ip)
        ),
        metrics=metrics,
    )


def _certificate(tls: TlsSettings, metrics: Metrics) -> ServingCertificate | None:
    """What is listened with, None without TLS. Reads the files, and raises FirewallError for those of no use."""
    if tls.files is None:
        return None
    certificate = ServingCertificate(tls.files, poll_seconds=tls.poll_seconds, failed=metrics.tls_reload_failures.inc)
    metrics.watch_certificate(expires_at=lambda: certificate.expires_at)
    return certificate


async def _check_certificate(certificate: ServingCertificate) -> CheckResult:
    """At most degraded: a replica that turns unready because of a file takes all the others with it."""
    well, detail = certificate.report()
    return CheckResult(Status.HEALTHY if well else Status.DEGRADED, detail)


def _canary(settings: CanarySettings) -> Canary | None:
    return None if settings.key is None else Canary(settings.key.get_secret_value())


def _flight(kubernetes: KubernetesSettings, canary: Canary, metrics: Metrics) -> CanaryFlight:
    """What tries the canary. Does not connect."""
    counters = {result: tally.inc for result, tally in metrics.canary_results.items()}
    flight = CanaryFlight(
        KubernetesApi(_cluster_access(kubernetes.access)),
        canary,
        namespace=kubernetes.canary.namespace,
        every_seconds=kubernetes.canary.every_seconds,
        entropy=os.urandom,
        counted=lambda result: counters[result](),
    )
    metrics.watch_canary(last_success=lambda: flight.last_success)
    return flight


def _accounts(kubernetes: KubernetesSettings, metrics: Metrics) -> ServiceAccounts | None:
    """What knows the labels that rules for agents ask for, None where none does. Does not connect."""
    keys = {rule.key for rule in kubernetes.agent_rules if rule.source is AgentSource.LABEL}
    if not keys:
        return None
    accounts = ServiceAccounts(
        KubernetesApi(_cluster_access(kubernetes.access)),
        keys=keys,
        max_age_seconds=kubernetes.accounts_max_age_seconds,
    )
    metrics.watch_accounts(age=lambda: accounts.age)
    return accounts


async def _check_accounts(accounts: ServiceAccounts) -> CheckResult:
    """At most degraded: doubt makes agents of service accounts, and nothing more."""
    known, detail = accounts.report()
    return CheckResult(Status.HEALTHY if known else Status.DEGRADED, detail)


def _cluster_access(access: KubernetesAccessSettings) -> Access:
    if access.url is None:
        found = Access.in_cluster()
        return Access(found.url, access.token_file, access.ca_file)
    return Access(access.url.rstrip("/"), access.token_file, access.ca_file)


async def _check_canary(flight: CanaryFlight) -> CheckResult:
    """At most degraded: nobody is helped by a firewall that turns unready because it is not asked."""
    well, detail = flight.report()
    return CheckResult(Status.HEALTHY if well else Status.DEGRADED, detail)


def _certificates(mtls: MtlsSettings, *, shown: bool) -> ClientCertificates | None:
    """Who may be named by a certificate; `shown` where connections to us show some."""
    if mtls.header is None and not shown:
        return None
    try:
        rules = [identity_rule(text) for text in mtls.roles]
    except ValueError as error:
        raise FirewallError(
            Kind.INVALID_SETTINGS, f"a rule for certificates {error}", fix="see MFW_AUTH__MTLS__ROLES"
        ) from None
    subjects = None
    if mtls.subject_condition is not None:
        subjects = SubjectCondition(
            mtls.subject_condition,
            setting="MFW_AUTH__MTLS__SUBJECT_CONDITION",
            example="context.claims.identity.endsWith('/sa/' + subject.id)",
        )
    return ClientCertificates(
        header=None if mtls.header is None else mtls.header.lower(),
        proxies=networks_of(mtls.proxies),
        rules=rules,
        subjects=subjects,
    )


def _counter(metrics: Metrics) -> Callable[[Effect], None]:
    increments = {effect: counter.inc for effect, counter in metrics.decisions.items()}

    def counted(effect: Effect) -> None:
        increments[effect]()

    return counted
