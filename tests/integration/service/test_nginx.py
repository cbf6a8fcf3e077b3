"""A real NGINX between callers and a server, set up as docs/integrations/nginx.md says."""

import contextlib
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.integration.service.behind import Reached, backend, cut_off, program, send
from tests.ports import free_port

ROOT = Path(__file__).resolve().parents[3]
POLICY = """\
apiVersion: mutationfirewall.io/v1
kind: MutationPolicy
metadata: {name: orders}
spec:
  match: {resources: [{type: order}]}
  rules:
    - {name: any, effect: allow, when: "resource.id != 'frozen' && action.name != 'delete'"}
    - {name: delete, effect: hold, when: "action.name == 'delete'", message: gone for good, approval: {anyOf: [{group: sales}]}}
"""
MAPPING = """\
apiVersion: mutationfirewall.io/v1
kind: GatewayMapping
gateways: [{kind: nginx, refusals: forbidden}]
routes:
  - {path: "/v1/orders/{order}", hosts: [api.example.com], resource: {type: order, id: "{order}"}}
"""
# What a service of a real gateway would read from a token or a certificate.
AGENT = "Bearer token-of-bot"
CONFIGURATION = """\
error_log stderr; pid FOLDER/nginx.pid; worker_processes 1;
events { worker_connections 64; }
http {
    access_log off; client_body_temp_path FOLDER/a; proxy_temp_path FOLDER/b; fastcgi_temp_path FOLDER/c;
    uwsgi_temp_path FOLDER/d; scgi_temp_path FOLDER/e;
    upstream backend { server 127.0.0.1:BACKEND; }
    upstream mutation-firewall { server FIREWALL; }
    map $http_authorization $agent { "Bearer token-of-bot" "bot"; default ""; }
    server { listen 127.0.0.1:PORT; server_name api.example.com;
PAGE
    }
}
"""


class Behind(NamedTuple):
    """NGINX, and the service that it asks."""

    port: int
    service: Any

    def send(self, method: str, target: str, *headers: str, agent: str = AGENT) -> tuple[int, dict[str, str]]:
        """One request as it is written here; status and headers of the answer."""
        return send(self.port, method, target, *headers, *([f"Authorization: {agent}"] if agent else []))[:2]


@contextlib.contextmanager
def nginx(folder: Path, service: Any) -> Iterator[Behind]:
    """Run it until the block ends."""
    found = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    assert found is not None, "install it: `apt-get install nginx-light`"
    (page,) = re.findall(r"```nginx\n(.*?)```", (ROOT / "docs/integrations/nginx.md").read_text(), re.DOTALL)
    port = free_port()
    text = CONFIGURATION.replace("PAGE", page.replace("mutation-firewall:8080", "mutation-firewall"))
    with backend() as behind:
        for name, value in {
            "FOLDER": str(folder),
            "BACKEND": str(behind),
            "FIREWALL": service.url.removeprefix("http://"),
            "PORT": str(port),
            "mfw_...": service.key,
        }.items():
            text = text.replace(name, value)
        (folder / "nginx.conf").write_text(text)
        alone = "daemon off; master_process off;"
        command = [found, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-g", alone]
        with program(command, folder=folder, ports=[port]):
            yield Behind(port, service)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("nginx")
    (made / "policies").mkdir()
    (made / "policies" / "p.yaml").write_text(POLICY)
    (made / "mapping.yaml").write_text(MAPPING)
    return made


def settings(folder: Path) -> dict[str, Any]:
    return {
        "MFW_POLICIES__DIRECTORY": str(folder / "policies"),
        "MFW_EXT_AUTHZ__MAPPING": str(folder / "mapping.yaml"),
    }


@pytest.fixture(scope="module")
def behind(folder, shared_database_dsn):
    from tests.integration.service.conftest import running

    with running(shared_database_dsn, **settings(folder)) as service, nginx(folder, service) as gateway:
        yield gateway


@pytest.fixture(autouse=True)
def _nobody_was_there():
    Reached.forget()


@pytest.mark.parametrize(
    ("method", "target", "status", "effect"),
    [
        ("GET", "/v1/orders/7", 200, "allow"),
        ("POST", "/v1/orders/7", 200, "allow"),
        ("GET", "/v1/orders/frozen", 403, "deny"),
        ("DELETE", "/v1/orders/7", 403, "hold"),
    ],
)
def test_each_answer_is_in_the_ledger(behind, method, target, status, effect):
    before = len(behind.service.entries())
    told, headers = behind.send(method, target)
    assert (told, headers["x-mfw-effect"]) == (status, effect)
    entries = behind.service.entries()
    assert len(entries) == before + 1
    assert json.loads(entries[-1][2])["decision"] == effect
    assert Reached.paths == ([target] if status == 200 else [])


@pytest.mark.parametrize(
    "target",
    [
        "/v1/orders/../orders/frozen",
        "/v1/orders/7/../frozen",
        "/v1/orders/%66rozen",
        "/v1/orders/7%2f..%2ffrozen",
        "/v1/orders/7/%2e%2e/frozen",
        "/v1/orders//7",
        "//v1/orders/7",
        "/v1/orders/7;/../frozen",
        "/v1/orders/7\\..\\frozen",
        "/v1/orders/7%5c..%5cfrozen",
        "/v1/orders/7%252f..%252ffrozen",
        "/v1/orders/7%00",
        "/v1/orders/7%0d%0aX-Original-URI:%20/v1/orders/7",
        "/v1/orders/7#/../frozen",
        "/v1/orders/7?_method=DELETE",
        "/_mfw",
        "/v2/orders/7",
        "*",
    ],
)
def test_what_could_be_read_in_two_ways_reaches_nobody(behind, target):
    before = len(behind.service.entries())
    status, _ = behind.send("GET", target)
    assert status in {400, 403, 404}, status
    assert Reached.paths == []
    assert len(behind.service.entries()) == before


@pytest.mark.parametrize(
    ("headers", "agent", "statuses"),
    [
        (["X-Original-URI: /v1/orders/7"], AGENT, {403}),
        (["X-Original-Method: GET", "X-Original-Host: api.example.com"], AGENT, {403}),
        (["X-Rewrite-URL: /v1/orders/7", "X-Original-URL: /v1/orders/7"], AGENT, {403}),
        (["X-Mfw-Effect: allow", "X-Mfw-Authorization: Bearer mfw_x"], AGENT, {403}),
        (["X-Agent-Id: bot"], "", {403}),
        (["X-Agent-Id: bot"], "Bearer other", {403}),
        (["X-HTTP-Method-Override: GET"], AGENT, {403}),
        (["Transfer-Encoding: chunked", "Content-Length: 4"], AGENT, {400}),
        (["Host: api.example.com", "Host: other.example.com"], AGENT, {400}),
        (["Host: other.example.com"], AGENT, {403}),
        (["Transfer-Encoding : chunked"], AGENT, {400, 403}),
        (["X-Agent-Id: bot\rX-Original-URI: /v1/orders/7"], AGENT, {400, 403}),
    ],
)
def test_no_header_of_a_caller_gets_past(behind, headers, agent, statuses):
    """`frozen` is denied to everybody; none of these makes another request of it."""
    status, told = behind.send("POST", "/v1/orders/frozen", *headers, agent=agent)
    assert status in statuses, (status, told)
    assert told.get("x-mfw-effect", "deny") == "deny"
    assert Reached.paths == []


def test_a_caller_without_a_name_reaches_nobody(behind):
    for agent, headers in (("", ()), ("", ("X-Agent-Id: bot",)), ("Bearer wrong", ("X-Agent-Id: bot",))):
        assert behind.send("GET", "/v1/orders/7", *headers, agent=agent)[0] == 403
    assert Reached.paths == []


def test_a_host_in_the_request_line_is_the_host(behind):
    assert behind.send("GET", "http://other.example.com/v1/orders/7")[0] == 403
    assert Reached.paths == []


def test_without_a_ledger_or_a_firewall_nothing_passes(serve, database_dsn, folder, tmp_path):
    with contextlib.ExitStack() as opened:
        # NGINX waits a minute.
        made = settings(folder) | {"MFW_LEDGER__DEADLINE_SECONDS": "4"}
        service = opened.enter_context(serve(database_dsn, **made))
        with nginx(tmp_path, service) as gateway:
            assert gateway.send("GET", "/v1/orders/7")[0] == 200
            cut_off(database_dsn)
            Reached.forget()
            assert gateway.send("GET", "/v1/orders/7")[0] == 403
            opened.close()
            assert gateway.send("GET", "/v1/orders/7")[0] == 500
    assert Reached.paths == []


def test_what_nginx_makes_of_refusals_of_their_own(serve, shared_database_dsn, folder, tmp_path):
    """Each status but 401 and 403 is a failure to NGINX, which is told with 500 and in its log."""
    (tmp_path / "mapping.yaml").write_text(MAPPING.replace("refusals: forbidden", "refusals: own"))
    changed = settings(folder) | {"MFW_EXT_AUTHZ__MAPPING": str(tmp_path / "mapping.yaml")}
    with serve(shared_database_dsn, **changed) as service, nginx(tmp_path, service) as gateway:
        assert gateway.send("GET", "/v1/orders/7%2f..%2ffrozen")[0] == 500
        assert gateway.send("GET", "/v2/orders/7")[0] == 403
        assert gateway.send("GET", "/v1/orders/frozen")[0] == 403
    assert Reached.paths == []
    assert "auth request unexpected status: 400" in (tmp_path / "gateway.log").read_text()
