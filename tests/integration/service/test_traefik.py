"""A real Traefik between callers and a server, set up as docs/integrations/traefik.md says."""

import base64
import contextlib
import hashlib
import io
import json
import re
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.corpus.cases import load
from tests.integration.service.behind import Reached, backend, cut_off, program, send
from tests.integration.service.orders import ANSWERS, CORPUS, JSON, MAPPING, POLICY, Behind
from tests.ports import free_port

PAGE = (Path(__file__).resolve().parents[3] / "docs/integrations/traefik.md").read_text()
TRAEFIK = Path(sys.executable).with_name("traefik")
PASSWORD = "secret"
BOT = "Authorization: Basic " + base64.b64encode(f"bot:{PASSWORD}".encode()).decode()


@contextlib.contextmanager
def traefik(folder: Path, service: Any) -> Iterator[Mapping[str, int]]:
    """Run it until the block ends; the ports of `web`, of `gone` where no firewall is, and of `open` for any caller."""
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    users = folder / "users"
    users.write_text("bot:{SHA}" + base64.b64encode(hashlib.sha1(PASSWORD.encode()).digest()).decode() + "\n")
    text = block.replace("mfw_...", service.key).replace("/etc/traefik/users", str(users))
    made = YAML(typ="safe").load(io.StringIO(text.replace("http://mutation-firewall:8080", service.url)))
    middlewares = made["http"]["middlewares"]
    (order,) = re.findall(r"`middlewares: \[(.*?)\]`", PAGE)
    ordered = order.split(", ")
    away = f"http://127.0.0.1:{free_port()}/"
    middlewares["mfw-gone"] = {"forwardAuth": {**middlewares["mfw"]["forwardAuth"], "address": away}}
    chains = {
        "web": ordered,
        "gone": ["mfw-gone" if one == "mfw" else one for one in ordered],
        "open": [one for one in ordered if one != "who-asks"],
    }
    rule = {"rule": "PathPrefix(`/`)", "service": "backend"}
    made["http"]["routers"] = {
        name: {**rule, "entryPoints": [name], "middlewares": chain} for name, chain in chains.items()
    }
    ports = {name: free_port() for name in chains}
    with backend() as behind:
        servers = [{"url": f"http://127.0.0.1:{behind}"}]
        made["http"]["services"] = {"backend": {"loadBalancer": {"servers": servers}}}
        (folder / "dynamic.yaml").write_text(json.dumps(made))
        command = [
            str(TRAEFIK),
            f"--providers.file.filename={folder / 'dynamic.yaml'}",
            "--providers.file.watch=false",
            "--global.checknewversion=false",
            "--global.sendanonymoususage=false",
            "--entrypoints.web.http.aliasheadersstrategy=delete",
            *(f"--entrypoints.{name}.address=127.0.0.1:{port}" for name, port in ports.items()),
        ]
        with program(command, folder=folder, ports=list(ports.values())) as log:
            deadline = time.monotonic() + 60
            # It listens before it has read what is to be done there.
            while any(send(port, "GET", "/").status == 404 for port in ports.values()):
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.02)
            yield ports


def settings(folder: Path) -> dict[str, Any]:
    return {
        "MFW_POLICIES__DIRECTORY": str(folder / "policies"),
        "MFW_EXT_AUTHZ__MAPPING": str(folder / "mapping.yaml"),
    }


@pytest.fixture(scope="module")
def started(tmp_path_factory, shared_database_dsn):
    from tests.integration.service.conftest import running

    folder = tmp_path_factory.mktemp("traefik")
    (folder / "policies").mkdir()
    (folder / "policies" / "p.yaml").write_text(POLICY)
    (folder / "mapping.yaml").write_text(MAPPING.replace("kind: envoy", "kind: traefik"))
    with running(shared_database_dsn, **settings(folder)) as service, traefik(folder, service) as ports:
        yield service, ports


@pytest.fixture
def behind(started):
    service, ports = started
    return Behind(ports["web"], service, BOT)


@pytest.fixture(autouse=True)
def _nobody_was_there():
    Reached.forget()


@pytest.mark.parametrize(("method", "target", "body", "status", "effect"), ANSWERS)
def test_each_answer_is_in_the_ledger(behind, method, target, body, status, effect):
    behind.answers(method, target, body, status, effect)


def test_what_is_behind_hears_the_gateway_alone(behind):
    spoofed = [
        *("X-Mfw-Effect: deny", "X-Mfw-Effect: hold", "X-Mfw-Policy-Set: x", "x-MFW-anything: x", "x_mfw_effect: hold"),
        *("X-Mfw-Authorization: Bearer x", "X-Agent-Id: admin", "x-agent-ID: root", "x_agent_id: root"),
        *("X-Forwarded-Method: HEAD", "X-Forwarded-Uri: /v2", "X-Forwarded-Host: other"),
    ]
    assert behind.send("GET", "/v1/orders/7", *spoofed).status == 200
    told = Reached.told()
    assert (told["x-mfw-effect"], told["x-agent-id"], told["host"]) == (["allow"], ["bot"], ["api.example.com"])
    named = {name for name in told if re.match("x[-_]mfw[-_]", name)}
    # The credential is gone with the rest of them.
    assert named == {"x-mfw-effect", "x-mfw-decision-id", "x-mfw-ledger-index"}
    assert not {"authorization", "x_agent_id"} & told.keys()
    assert behind.decided(behind.service.entries()[-1])["subject"]["id"] == "bot"


@pytest.mark.parametrize(
    "name", ["X-Agent-Id", "X-Mfw-Authorization", "X-Mfw-Effect", "X-Forwarded-Uri", "X-Forwarded-Method"]
)
def test_no_header_is_lost_because_a_caller_calls_it_its_connections(behind, name):
    """In Traefik it was, CVE-2024-45410."""
    behind.keeps(name)


def test_a_caller_without_a_name_reaches_nobody(behind):
    for who in ("", "Authorization: Basic x", f"X-Mfw-Authorization: Bearer {behind.service.key}"):
        assert behind.send("GET", "/v1/orders/7", "X-Agent-Id: bot", who=who).status == 401
    assert Reached.paths == []


@pytest.mark.parametrize(
    "target",
    [
        "/v1/orders/../orders/frozen",
        "/v1/orders/7/../frozen",
        "/v1/orders/7/%2e%2e/frozen",
        "/v1//orders/frozen",
        "//v1/orders/frozen",
        "/v1/orders/%66rozen",
        "/v1/orders/frozen/.",
        "http://api.example.com/v1/orders/frozen",
    ],
)
def test_every_spelling_of_a_path_is_that_path(behind, target):
    """Traefik puts these right, and asks about the path that it sends on."""
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
        ("GET", "/v1/orders/7\\..\\frozen", ()),
        ("GET", "/v1/orders/7%252f..%252ffrozen", ()),
        ("GET", "/v1/orders/%2566rozen", ()),
        ("GET", "/v1/orders/7%00", ()),
        ("GET", "/v1/orders/7%0d%0aX-Forwarded-Uri:%20/v1/orders/7", ()),
        ("GET", "/v1/orders/7#/../frozen", ()),
        ("GET", "/v1/orders/7;x", ()),
        ("GET", "/v1/orders/7?_method=DELETE", ()),
        ("GET", "/v2/orders/7", ()),
        ("GET", "*", ()),
        ("GET", "http://other.example.com/v1/orders/7", ()),
        ("GET", "/v1/orders/7", ("Host: other.example.com",)),
        ("GET", "/v1/orders/7", ("Host: api.example.com", "Host: other.example.com")),
        ("GET", "/v1/orders/7", ("X-HTTP-Method-Override: DELETE",)),
        ("GET", "/v1/orders/7", ("X-HTTP-Method: DELETE",)),
        ("GET", "/v1/orders/7", ("X-Method-Override: DELETE",)),
        ("CONNECT", "api.example.com:443", ()),
        ("OPTIONS", "/v1/orders/7", ("Origin: https://a.example.com", "Access-Control-Request-Method: DELETE")),
        ("TRACE", "/v1/orders/7", ()),
        ("DELETE", "/v1/orders/7", ()),
        ("get", "/v1/orders/7", ()),
    ],
)
def test_what_could_be_read_in_two_ways_reaches_nobody(behind, method, target, headers):
    assert behind.refuses(method, target, *headers) in {400, 403, 404, 501}


@pytest.mark.parametrize(
    "headers",
    [
        ("Content-Length: 4",),
        ("Transfer-Encoding : chunked",),
        ("Transfer-Encoding: x, chunked",),
        ("X-Original-URI: /v1/orders/7", "X-Forwarded-Uri: /v1/orders/7", "X-Forwarded-Host: api.example.com"),
        ("X-Rewrite-URL: /v1/orders/7", "X-Original-Method: GET", "X-Forwarded-Method: GET"),
        ("X-Forwarded-Uri: /v1/orders/7", "Connection: X-Forwarded-Uri"),
        ("X-Forwarded-Prefix: /v1", "X-Forwarded-Method: GET", "Connection: X-Forwarded-Method"),
        ("X-Agent-Id: bot\rX-Forwarded-Uri: /v1/orders/7",),
    ],
)
def test_no_header_of_a_caller_makes_another_request_of_it(behind, headers):
    assert behind.send("POST", "/v1/orders/frozen", JSON, *headers, body=b'{"amount": 3}').status in {400, 403, 501}
    assert Reached.paths == []


def test_bodies(behind):
    longer = b'{"amount": 3}' + b" " * 70_000 + b'{"amount": 30}'
    for body, status in (
        # Traefik's own word for one that is longer than `maxBodySize`.
        (longer, 401),
        (b'{"amount": 3, "amount": 30}', 400),
        (b'{"amount": 3}{"amount": 30}', 400),
        (b"", 400),
    ):
        assert behind.send("POST", "/v1/orders/7", JSON, body=body).status == status, body
    assert behind.send("POST", "/v1/orders/7", "Content-Type: text/plain", body=b'{"amount": 3}').status == 415
    partial = behind.send("POST", "/v1/orders/7", JSON, "X-Envoy-Auth-Partial-Body: true", body=b'{"amount": 3}')
    assert partial.status == 413
    chunked = b'e\r\n{"amount": 30}\r\n0\r\n\r\n'
    # Of two lengths the one of the chunks counts (RFC 9112 section 6.3), for both.
    both = (JSON, "Transfer-Encoding: chunked", "Content-Length: 13")
    assert behind.send("POST", "/v1/orders/7", *both, raw=chunked).status in {400, 403}
    assert Reached.paths == []
    chunked = b'd\r\n{"amount": 3}\r\n0\r\n\r\n'
    assert behind.send("POST", "/v1/orders/7", JSON, "Transfer-Encoding: chunked", raw=chunked).status == 200
    assert Reached.bodies == [b'{"amount": 3}']


def test_a_firewall_that_is_away(started):
    _, ports = started
    assert send(ports["gone"], "GET", "/v1/orders/7", BOT).status == 500
    assert Reached.paths == []


def asked(mutation: dict[str, Any]) -> tuple[str, bytes]:
    """The header and the body that say it."""
    body = {name: one for name, one in mutation.items() if name != "subject"}
    return f"X-Agent-Id: {json.dumps(mutation['subject'])}", json.dumps(body).encode()


def test_the_corpus_and_then_no_ledger(serve, database_dsn, tmp_path):
    """Every case, with the subject in a header that is not asked for here, and the rest in the body."""
    (tmp_path / "mapping.yaml").write_text(CORPUS.replace("kind: envoy", "kind: traefik"))
    # Traefik waits 30 seconds: without a ledger it is to hear what the firewall says.
    made = settings(tmp_path) | {"MFW_LEDGER__DEADLINE_SECONDS": "4"}
    del made["MFW_POLICIES__DIRECTORY"]
    compared = 0
    with serve(database_dsn, **made) as service, traefik(tmp_path, service) as ports:
        port = ports["open"]
        for case in load():
            who, body = asked(case.mutation)
            Reached.forget()
            answer = send(port, "POST", "/mutations", JSON, who, body=body)
            assert (answer.status == 200, len(Reached.paths)) in {(True, 1), (False, 0)}, case.name
            told = Reached.told() if Reached.paths else {name: [one] for name, one in answer.headers.items()}
            assert told["x-mfw-effect"] == [case.decision], case.name
            assert case.decision == "allow" or answer.status == 403, case.name
            compared += 1
        assert compared > 100
        entries = service.entries()
        assert len(entries) == compared
        assert [json.loads(one[2])["decision"] for one in entries] == [case.decision for case in load()]
        who, body = asked(load()[0].mutation)
        cut_off(service.dsn)
        Reached.forget()
        refused = send(port, "POST", "/mutations", JSON, who, body=body)
        assert (refused.status, refused.headers["retry-after"]) == (503, "1")
        assert json.loads(refused.body)["type"].endswith("/unavailable")
        assert Reached.paths == []
