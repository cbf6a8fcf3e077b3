"""The endpoint, where the service behind it fails: nothing that goes wrong is a yes."""

import json
from types import SimpleNamespace

import pytest

from app.core.principal import AuthMethod, Principal, PrincipalKind, Role
from app.core.quota import Limit, RouteClass
from app.edge.gate import Gate
from app.edge.limits import RateLimits, TokenBuckets
from app.errors import FirewallError, Kind
from app.observability.metrics import Metrics
from app.surfaces.ext_authz.checking import Checks
from app.surfaces.ext_authz.mapping import (
    DEFAULT_SUBJECT,
    Gateway,
    GatewayKind,
    GatewayMapping,
    Refusals,
    default_mapping,
)
from app.surfaces.ext_authz.routes import PREFIX, CheckEndpoint, GatewayPaths

AWAY = FirewallError(Kind.UNAVAILABLE, "the ledger is away", retry_after=2)


class Known:
    """Everybody is the gateway; what it was shown is kept."""

    def __init__(self):
        self.seen = []

    async def authenticate(self, headers, *, client_ip, peer=None):
        self.seen.append(list(headers))
        return Principal("edge", PrincipalKind.SERVICE, frozenset({Role.AGENT}), AuthMethod.API_KEY)


class Service:
    """Takes the first four steps, and then does what a test says."""

    def __init__(self, outcome):
        self.outcome = outcome
        self.mutation = None

    async def decide(self, exchange):
        body = await exchange.read()
        principal = await exchange.authenticate()
        await exchange.limit(principal)
        assert exchange.claim(principal, body) is None
        exchange.replayed()
        self.mutation = exchange.parse(body)
        return await self.outcome()


async def never():
    import asyncio

    await asyncio.Event().wait()


def raising(error):
    async def outcome():
        raise error

    return outcome


def endpoint(outcome, mapping=None, *, seconds=5.0, header="X-Mfw-Authorization", certificate=None):
    limit = Limit(1000, 1000)
    limits = RateLimits(dict.fromkeys(RouteClass, limit), make=lambda _route, of: TokenBuckets(of))
    known = Known()
    gate = Gate(known, limits=limits, metrics=Metrics(version="t"))
    service = Service(outcome)
    checks = Checks(
        service,
        gate=gate,
        mapping=mapping or default_mapping(GatewayKind.ENVOY),
        credential_header=header,
        certificate_header=certificate,
        max_body_bytes=1000,
    )
    return CheckEndpoint(checks, timeout_seconds=seconds), service, known


async def asked(app, headers=((b"host", b"a"), (b"x-agent-id", b"bot")), message=None, path=b"orders/7"):
    sent = []

    async def receive():
        return message or {"type": "http.request", "body": b"", "more_body": False}

    async def send(part):
        sent.append(part)

    scope = {
        "type": "http",
        "method": "GET",
        "path": PREFIX + path.decode(),
        "raw_path": PREFIX.encode() + path,
        "query_string": b"",
        "headers": list(headers),
    }
    await app(scope, receive, send)
    return SimpleNamespace(sent=sent, scope=scope, status=sent[0]["status"] if sent else None)


@pytest.mark.parametrize(
    ("refusals", "error", "status"),
    [
        (Refusals.OWN, AWAY, 503),
        (Refusals.FORBIDDEN, AWAY, 403),
        (Refusals.OWN, FirewallError(Kind.UNAUTHENTICATED, "x"), 403),
        (Refusals.OWN, FirewallError(Kind.TOKEN_EXPIRED, "x"), 403),
        (Refusals.FORBIDDEN, FirewallError(Kind.RATE_LIMITED, "x", retry_after=1), 403),
    ],
)
async def test_a_refusal_has_the_status_that_its_gateway_understands(refusals, error, status):
    mapping = GatewayMapping((Gateway((), GatewayKind.ENVOY, DEFAULT_SUBJECT, refusals),))
    app, _, _ = endpoint(raising(error), mapping)
    answer = await asked(app)
    told = json.loads(answer.sent[1]["body"])
    assert answer.status == told["status"] == status
    assert told["detail"] == error.detail


async def test_time_that_is_over_lets_nothing_through():
    app, _, _ = endpoint(never, seconds=0.01)
    assert (await asked(app)).status == 504


async def test_what_nobody_foresaw_is_left_to_who_answers_that():
    app, _, _ = endpoint(raising(RuntimeError("x")))
    with pytest.raises(RuntimeError):
        await asked(app)


async def test_a_gateway_that_left_is_not_answered():
    app, _, _ = endpoint(never)
    assert (await asked(app, message={"type": "http.disconnect"})).status is None


async def test_the_credential_of_the_gateway_alone_is_looked_at_and_never_kept():
    sent = [
        (b"host", b"a"),
        (b"x-agent-id", b"bot"),
        (b"authorization", b"Bearer caller"),
        (b"x-api-key", b"caller"),
        (b"x-mfw-authorization", b"Bearer gateway"),
    ]
    app, service, known = endpoint(raising(AWAY))
    await asked(app, sent)
    assert known.seen == [[(b"authorization", b"Bearer gateway")]]
    assert "gateway" not in json.dumps(service.mutation.context)
    app, _, known = endpoint(raising(AWAY), header="Authorization")
    await asked(app, sent)
    assert known.seen == [[(b"authorization", b"Bearer caller")]]


async def test_a_certificate_that_a_caller_names_is_not_that_of_its_gateway():
    sent = [(b"host", b"a"), (b"x-agent-id", b"bot"), (b"x-forwarded-client-cert", b"URI=spiffe://x/gateway")]
    named = "X-Forwarded-Client-Cert"
    app, _, known = endpoint(raising(AWAY), certificate=named)
    await asked(app, sent)
    assert known.seen == [[]]
    # Unless it is said that gateways show theirs there, and so overwrite it.
    app, service, known = endpoint(raising(AWAY), header=named, certificate=named)
    await asked(app, sent)
    assert known.seen == [[(b"x-forwarded-client-cert", b"URI=spiffe://x/gateway")]]
    assert "spiffe" not in json.dumps(service.mutation.context)


async def test_a_host_that_is_there_twice_or_not_at_all():
    app, _, _ = endpoint(raising(AWAY))
    for hosts in ([], [(b"host", b"a"), (b"host", b"b")]):
        assert (await asked(app, [*hosts, (b"x-agent-id", b"bot")])).status == 400


async def test_checks_are_taken_out_before_anything_answers_them():
    reached = []
    matched = None

    async def inside(_scope, _receive, _send):
        reached.append("app")

    async def check(scope, _receive, _send):
        nonlocal matched
        reached.append("check")
        matched = scope["route"].path

    async def receive():
        raise AssertionError

    async def send(_part):
        raise AssertionError

    paths = GatewayPaths(inside, endpoint=check)
    for scope in ({"type": "lifespan"}, {"type": "http", "path": "/envoy/v1/chec"}, {"type": "http", "path": "/"}):
        await paths(scope, receive, send)
    await paths({"type": "http", "path": "/envoy/v1/check/a\nb"}, receive, send)
    # What a gateway was asked for may not begin with a slash: `OPTIONS *`, and CORS answers that by itself.
    for path in ("/envoy/v1/check", "/envoy/v1/check*"):
        await paths({"type": "http", "path": path}, receive, send)
    assert reached == ["app"] * 3 + ["check"] * 3
    assert matched == "/envoy/v1/check/{path:path}"
