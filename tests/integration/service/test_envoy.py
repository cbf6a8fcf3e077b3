"""A real Envoy between callers and a server, over HTTP and over gRPC, set up as docs/integrations/envoy.md says."""

import contextlib
import gzip
import itertools
import json
from typing import Any

import pytest

from tests.corpus.cases import load
from tests.integration.service.behind import Reached, cut_off, send
from tests.integration.service.enveloped import Firewall, envoy, token
from tests.integration.service.orders import ANSWERS, CORPUS, JSON, MAPPING, POLICY, Behind
from tests.ports import free_port

BOT = f"Authorization: Bearer {token(sub='bot')}"
NOBODY = f"Authorization: Bearer {token(other='bot')}"


def settings(folder) -> dict[str, str]:
    return {
        "MFW_POLICIES__DIRECTORY": str(folder / "policies"),
        "MFW_EXT_AUTHZ__MAPPING": str(folder / "mapping.yaml"),
        "MFW_EXT_AUTHZ__GRPC_PORT": str(free_port()),
    }


@contextlib.contextmanager
def both(dsn, folder, made):
    """A service and the Envoy that asks it."""
    from tests.integration.service.conftest import running

    with running(dsn, **made) as service:
        asked = Firewall(int(service.url.rpartition(":")[2]), int(made["MFW_EXT_AUTHZ__GRPC_PORT"]), service.key)
        with envoy(folder, asked) as ports:
            yield service, ports


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("envoy")
    (made / "policies").mkdir()
    (made / "policies" / "p.yaml").write_text(POLICY)
    (made / "mapping.yaml").write_text(MAPPING)
    return made


@pytest.fixture(scope="module")
def started(folder, shared_database_dsn):
    with both(shared_database_dsn, folder, settings(folder)) as (service, ports):
        yield service, ports


@pytest.fixture(params=["http", "grpc"])
def behind(started, request):
    service, ports = started
    return Behind(ports[request.param], service, BOT)


@pytest.fixture(autouse=True)
def _nobody_was_there():
    Reached.forget()


@pytest.mark.parametrize(("method", "target", "body", "status", "effect"), ANSWERS)
def test_each_answer_is_in_the_ledger(behind, method, target, body, status, effect):
    behind.answers(method, target, body, status, effect)


def test_what_is_behind_hears_the_gateway_alone(behind):
    """Neither what callers say in the firewall's or the gateway's name, nor the credentials of either."""
    spoofed = [
        *("X-Mfw-Effect: deny", "X-Mfw-Effect: hold", "X-Mfw-Policy-Set: x", "x-MFW-anything: x"),
        *(f"X-Mfw-Authorization: Bearer {behind.service.key}", "X-Internal: 1"),
        *("X-Agent-Id: admin", "X-Agent-Id: root", "X-Envoy-Auth-Headers-To-Remove: host, x-mfw-effect"),
    ]
    assert behind.send("GET", "/v1/orders/7", *spoofed).status == 200
    told = Reached.told()
    assert (told["x-mfw-effect"], told["x-agent-id"], told["host"]) == (["allow"], ["bot"], ["api.example.com"])
    named = {name for name in told if name.startswith("x-mfw-")}
    assert named == {"x-mfw-effect", "x-mfw-decision-id", "x-mfw-ledger-index"}
    assert not {"x-internal", "authorization"} & told.keys()
    assert behind.decided(behind.service.entries()[-1])["subject"]["id"] == "bot"


@pytest.mark.parametrize("name", ["X-Agent-Id", "X-Mfw-Authorization", "X-Mfw-Effect", "Content-Type"])
def test_no_header_is_lost_because_a_caller_calls_it_its_connections(behind, name):
    behind.keeps(name)


def test_a_caller_without_a_name_reaches_nobody(behind):
    for who, headers, status in (
        ("", (), 401),
        ("", ("X-Agent-Id: bot",), 401),
        ("Authorization: Bearer x", ("X-Agent-Id: bot",), 401),
        (f"X-Mfw-Authorization: Bearer {behind.service.key}", ("X-Agent-Id: bot",), 401),
        (NOBODY, ("X-Agent-Id: bot",), 400),
    ):
        assert behind.send("GET", "/v1/orders/7", *headers, who=who).status == status
    assert Reached.paths == []


# What Envoy puts right: it asks about the path that it sends on.
@pytest.mark.parametrize(
    "target",
    [
        "/v1/orders/../orders/frozen",
        "/v1/orders/7/../frozen",
        "/v1/orders/%66rozen",
        "/v1/orders/7/%2e%2e/frozen",
        "/v1//orders/frozen",
        "//v1/orders/frozen",
        "/v1/orders/7;/../frozen",
        "/v1/orders/7\\..\\frozen",
        "http://api.example.com/v1/orders/frozen",
    ],
)
def test_every_spelling_of_a_path_is_that_path(behind, target):
    behind.reads_as_frozen(target)


def test_what_is_put_right_is_what_goes_on(behind):
    for target in ("/v1/orders//7", "/v1/orders/%37", "/v1/x/../orders/7", "http://api.example.com/v1/orders/7"):
        assert behind.send("GET", target).status == 200, target
    assert Reached.paths == ["/v1/orders/7"] * 4


@pytest.mark.parametrize(
    ("method", "target", "headers"),
    [
        ("GET", "/v1/orders/7%2f..%2ffrozen", ()),
        ("GET", "/v1/orders/7%5c..%5cfrozen", ()),
        ("GET", "/v1/orders/7%252f..%252ffrozen", ()),
        ("GET", "/v1/orders/%2566rozen", ()),
        ("GET", "/v1/orders/7%00", ()),
        ("GET", "/v1/orders/7%0d%0aX-Mfw-Effect:%20allow", ()),
        ("GET", "/v1/orders/7#/../frozen", ()),
        ("GET", "/v1/orders/7;x", ()),
        ("GET", "/v1/orders/7?_method=DELETE", ()),
        ("GET", "/v2/orders/7", ()),
        ("GET", "*", ()),
        ("GET", "http://other.example.com/v1/orders/7", ()),
        ("GET", "/v1/orders/7", ("Host: other.example.com",)),
        ("GET", "/v1/orders/7", ("Host: api.example.com", "Host: other.example.com")),
        ("GET", "/v1/orders/7", ("x_mfw_effect: allow",)),
        ("GET", "/v1/orders/7", ("X-HTTP-Method-Override: DELETE",)),
        ("GET", "/v1/orders/7", ("X-HTTP-Method: DELETE",)),
        ("GET", "/v1/orders/7", ("X-Method-Override: DELETE",)),
        ("GET", "/v1/orders/7", ("Upgrade: websocket", "Connection: Upgrade")),
        ("CONNECT", "api.example.com:443", ()),
        ("OPTIONS", "/v1/orders/7", ("Origin: https://a.example.com", "Access-Control-Request-Method: DELETE")),
        ("TRACE", "/v1/orders/7", ()),
        ("DELETE", "/v1/orders/7", ()),
        ("get", "/v1/orders/7", ()),
    ],
)
def test_what_could_be_read_in_two_ways_reaches_nobody(behind, method, target, headers):
    assert behind.refuses(method, target, *headers) in {400, 403, 404}


@pytest.mark.parametrize(
    "headers",
    [
        ("Transfer-Encoding: chunked",),
        ("Content-Length: 4",),
        ("Transfer-Encoding : chunked",),
        ("Transfer-Encoding: x, chunked",),
        ("X-Original-URI: /v1/orders/7", "X-Forwarded-Uri: /v1/orders/7", "X-Envoy-Original-Path: /v1/orders/7"),
        ("X-Rewrite-URL: /v1/orders/7", "X-Original-Method: GET", "X-Forwarded-Method: GET"),
        ("X-Envoy-Auth-Partial-Body: false", "X-Envoy-Internal: true"),
        ("X-Agent-Id: bot\rX-Original-URI: /v1/orders/7",),
    ],
)
def test_no_header_of_a_caller_makes_another_request_of_it(behind, headers):
    assert behind.send("POST", "/v1/orders/frozen", JSON, *headers, body=b'{"amount": 3}').status in {400, 403, 501}
    assert Reached.paths == []


@pytest.mark.parametrize(
    ("body", "status"),
    [
        # More than Envoy keeps: a whole JSON text with spaces behind it, and what is sent on after them.
        (b'{"amount": 3}' + b" " * 70_000 + b'{"amount": 30}', 413),
        (b'{"amount": 3, "note": "' + b"x" * 90_000 + b'"}', 413),
        (b'{"amount": 3, "amount": 30}', 400),
        (b'{"amount": 3}{"amount": 30}', 400),
        (b'{"amount": \xff}', 400),
    ],
)
@pytest.mark.parametrize("headers", [(), ("X-Envoy-Auth-Partial-Body: false",)])
def test_a_body_that_is_not_whole_or_not_one_reaches_nobody(behind, body, status, headers):
    assert behind.send("POST", "/v1/orders/7", JSON, *headers, body=body).status == status
    assert Reached.paths == []


def test_other_bodies(behind):
    packed = gzip.compress(b'{"amount": 30}')
    assert behind.send("POST", "/v1/orders/7", JSON, "Content-Encoding: gzip", body=packed).status == 403
    assert behind.send("POST", "/v1/orders/7", "Content-Type: text/plain", body=b'{"amount": 3}').status == 415
    assert behind.send("POST", "/v1/orders/7", JSON).status == 400
    assert Reached.paths == []
    sent = b'd\r\n{"amount": 3}\r\n0\r\n\r\n'
    assert behind.send("POST", "/v1/orders/7", JSON, "Transfer-Encoding: chunked", raw=sent).status == 200
    assert Reached.bodies == [b'{"amount": 3}']


def test_a_firewall_that_is_slow_or_away(started):
    _, ports = started
    for name in ("slow-http", "slow-grpc", "gone-http", "gone-grpc"):
        assert send(ports[name], "GET", "/v1/orders/7", BOT)[::2] == (403, b""), name
    assert Reached.paths == []


def asked(mutation: dict[str, Any]) -> tuple[str, bytes]:
    """The header and the body that say it."""
    body = {name: one for name, one in mutation.items() if name != "subject"}
    return f"Authorization: Bearer {token(sub=json.dumps(mutation['subject']))}", json.dumps(body).encode()


def test_the_corpus_and_then_no_ledger(database_dsn, tmp_path):
    """Every case, with the subject in the caller's token and the rest in the body."""
    (tmp_path / "mapping.yaml").write_text(CORPUS)
    # Envoy waits longer: without a ledger it is to hear what the firewall says.
    made = settings(tmp_path) | {"MFW_LEDGER__DEADLINE_SECONDS": "4"}
    del made["MFW_POLICIES__DIRECTORY"]
    cases = load()
    assert len(cases) > 100
    with both(database_dsn, tmp_path, made) as (service, ports):
        # In turn: each of the two has all of them without Envoy (`test_gateways.py`, `test_grpc.py`).
        for over, case in zip(itertools.cycle(("http", "grpc")), cases, strict=False):
            who, body = asked(case.mutation)
            Reached.forget()
            answer = send(ports[over], "POST", "/mutations", JSON, who, body=body)
            assert (answer.status, len(Reached.paths)) in {(200, 1), (403, 0)}, (case.name, answer.body)
            told = Reached.told() if Reached.paths else {name: [one] for name, one in answer.headers.items()}
            assert told["x-mfw-effect"] == [case.decision], case.name
            met = answer.status == 200 or json.loads(answer.body)["type"].endswith("/obligations")
            assert met == (case.decision == "allow"), case.name
        decisions = [json.loads(receipt)["decision"] for _, _, receipt in service.entries()]
        assert decisions == [case.decision for case in cases]
        cut_off(service.dsn)
        Reached.forget()
        who, body = asked(cases[0].mutation)
        # Envoy makes 403 of a check over HTTP that failed; over gRPC the refusal is its caller's answer.
        assert send(ports["http"], "POST", "/mutations", JSON, who, body=body)[::2] == (403, b"")
        refused = send(ports["grpc"], "POST", "/mutations", JSON, who, body=body)
        # More than a second where the breaker has opened by now: it was the second to be refused.
        assert (refused.status, int(refused.headers["retry-after"]) >= 1) == (503, True)
        assert json.loads(refused.body)["type"].endswith("/unavailable")
        assert Reached.paths == []
