"""Checks of gateways on the running service, with the ledger beside each answer."""

import http.client
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.corpus.cases import load

ROOT = Path(__file__).resolve().parents[3]
CHECK = "/envoy/v1/check"
POLICY = """\
apiVersion: mutationfirewall.io/v1
kind: MutationPolicy
metadata: {name: orders}
spec:
  match: {resources: [{type: order}]}
  rules:
    - {name: read, effect: allow, when: "action.name == 'read'"}
    - {name: note, effect: allow, when: "action.name != 'read' && change.after.amount <= 10"}
    - {name: large, effect: hold, when: "action.name != 'read' && change.after.amount > 10", message: large, approval: {anyOf: [{group: sales}]}}
    - {name: gone, effect: deny, when: "resource.id == 'frozen'", message: frozen for good}
---
apiVersion: mutationfirewall.io/v1
kind: MutationPolicy
metadata: {name: web}
spec:
  match: {resources: [{type: http}]}
  rules: [{name: reading, effect: allow, when: "action.name in ['read', 'options', 'propfind']"}]
"""
MAPPING = """\
apiVersion: mutationfirewall.io/v1
kind: GatewayMapping
gateways:
  - {kind: envoy, principals: [test]}
routes:
  - {path: "/v1/orders/{order}", methods: [GET, HEAD], resource: {type: order, id: "{order}"}}
  - {path: "/v1/orders/{order}", body: json, resource: {type: order, id: "{order}"}}
  - {path: "/web/{rest*}", resource: {type: http, id: "{path}"}, query: ["*"]}
answers: {remove: [x-internal]}
"""


@pytest.fixture(scope="module")
def firewall(tmp_path_factory, shared_database_dsn):
    from tests.integration.service.conftest import running

    folder = tmp_path_factory.mktemp("gateways")
    (folder / "policies").mkdir()
    (folder / "policies" / "p.yaml").write_text(POLICY)
    (folder / "gateways.yaml").write_text(MAPPING)
    with running(
        shared_database_dsn,
        MFW_POLICIES__DIRECTORY=str(folder / "policies"),
        MFW_EXT_AUTHZ__MAPPING=str(folder / "gateways.yaml"),
        MFW_HTTP__CORS_ORIGINS="https://console.example.com",
        MFW_HTTP__MAX_BODY_BYTES="20000",
    ) as started:
        yield started


def ask(service, method, path, *, key=None, headers=(), subject="bot", **options: Any) -> httpx.Response:
    """Ask as Envoy does; the path goes out as it is."""
    own = {"X-Mfw-Authorization": f"Bearer {service.key if key is None else key}", "Host": "api.example.com"}
    if key == "":
        del own["X-Mfw-Authorization"]
    if subject:
        own["X-Agent-Id"] = subject
    with httpx.Client(timeout=60) as client:
        url = httpx.URL(service.url).copy_with(raw_path=(CHECK + path).encode())
        return client.request(method, url, headers=[*own.items(), *dict(headers).items()], **options)


@pytest.mark.parametrize(
    ("method", "path", "options", "status", "effect"),
    [
        ("GET", "/v1/orders/7", {}, 200, "allow"),
        ("HEAD", "/v1/orders/7", {}, 200, "allow"),
        ("POST", "/v1/orders/7", {"json": {"amount": 3}}, 200, "allow"),
        ("POST", "/v1/orders/7", {"json": {"amount": 30}}, 403, "hold"),
        ("POST", "/v1/orders/frozen", {"json": {"amount": 3}}, 403, "deny"),
        ("POST", "/v1/orders/7", {"json": {"other": 3}}, 403, "deny"),
        ("PROPFIND", "/web/a%20b?x=1", {}, 200, "allow"),
        ("DELETE", "/web/", {}, 403, "deny"),
    ],
)
def test_each_answer_is_in_the_ledger(firewall, method, path, options, status, effect):
    answer = ask(firewall, method, path, **options)
    assert answer.status_code == status, answer.text
    assert answer.headers["x-mfw-effect"] == effect
    index, identifier, receipt = firewall.entries()[int(answer.headers["x-mfw-ledger-index"])]
    assert (str(index), str(identifier)) == (answer.headers["x-mfw-ledger-index"], answer.headers["x-mfw-decision-id"])
    assert json.loads(receipt)["decision"] == effect
    if status == 200:
        assert answer.content == b""
        assert answer.headers["x-envoy-auth-headers-to-remove"] == "x-internal"
    else:
        told = answer.json()
        assert (told["decision"], told["decision_id"]) == (effect, identifier)
        assert told["type"].endswith({"hold": "/held", "deny": "/denied"}[effect])


@pytest.mark.parametrize(
    ("method", "path", "options", "status"),
    [
        ("GET", "/v1/orders/%2e%2e", {}, 400),
        ("GET", "/v1/orders//7", {}, 400),
        ("GET", "/v1/orders/7%2fx", {}, 400),
        ("GET", "/v1/orders/7%252fx", {}, 400),
        ("GET", "/v1/orders/%00", {}, 400),
        ("GET", "/v1/orders/%0a", {}, 400),
        ("GET", "/v1/orders/7;x", {}, 400),
        ("GET", "//v1/orders/7", {}, 400),
        ("GET", "/v1/orders/7?force=1", {}, 403),
        ("GET", "/v2/orders/7", {}, 403),
        ("GET", "/", {}, 403),
        ("GET", "/v1/orders/7", {"subject": ""}, 400),
        ("GET", "/v1/orders/7", {"key": ""}, 403),
        ("GET", "/v1/orders/7", {"key": "mfw_wrong"}, 403),
        ("POST", "/v1/orders/7", {}, 400),
        ("POST", "/v1/orders/7", {"content": b"{}"}, 415),
        ("POST", "/v1/orders/7", {"json": {"amount": 1}, "headers": {"x-envoy-auth-partial-body": "true"}}, 413),
        ("POST", "/v1/orders/7", {"json": {"amount": "1" * 30_000}}, 413),
    ],
)
def test_what_is_refused_leaves_nothing(firewall, method, path, options, status):
    before = len(firewall.entries())
    answer = ask(firewall, method, path, **options)
    assert answer.status_code == status, answer.text
    assert answer.json()["status"] == status
    assert "www-authenticate" not in answer.headers
    assert "x-mfw-effect" not in answer.headers
    assert len(firewall.entries()) == before


def as_it_is(service, path):
    """The status of a path that clients would put right before they send it."""
    connection = http.client.HTTPConnection(service.url.removeprefix("http://"), timeout=60)
    headers = {"X-Mfw-Authorization": f"Bearer {service.key}", "X-Agent-Id": "bot"}
    connection.request("GET", path, headers=headers)
    status = connection.getresponse().status
    connection.close()
    return status


def test_paths_that_clients_would_put_right(firewall):
    before = len(firewall.entries())
    for path in (
        "/v1/orders/../orders/7",
        "/web/./x",
        "/../../../v1/orders/7",
        "/web/x/..",
        "/..",
        "/web/\\x",
        "/web/x#/../y",
    ):
        assert as_it_is(firewall, CHECK + path) == 400, path
    assert len(firewall.entries()) == before
    assert as_it_is(firewall, CHECK + "/web/x") == 200


def test_the_credential_of_a_caller_is_not_that_of_its_gateway(firewall):
    caller = {"Authorization": f"Bearer {firewall.key}"}
    assert ask(firewall, "GET", "/v1/orders/7", key="", headers=caller).status_code == 403
    assert (
        ask(firewall, "GET", "/v1/orders/7", headers={"Authorization": "Basic x", "X-API-Key": "y"}).status_code == 200
    )
    assert ask(firewall, "GET", "/v1/orders/7", key=firewall.operator_key).status_code == 403


def test_a_bound_gateway_names_no_one_else(firewall):
    bound = {"roles": ["agent"], "subjects": ["agent:shop-*"], "principal_id": "test"}
    with firewall.client(key=firewall.admin_key) as client:
        key = client.post("/v1/keys", json={"name": "t", "reason": "a test", **bound}).json()["key"]
        other = client.post("/v1/keys", json={"name": "t", "reason": "a test", **bound, "principal_id": "x"}).json()[
            "key"
        ]
    assert ask(firewall, "GET", "/v1/orders/7", key=key, subject="shop-bot").status_code == 200
    assert ask(firewall, "GET", "/v1/orders/7", key=key, subject="bot").status_code == 403
    unknown = ask(firewall, "GET", "/v1/orders/7", key=other, subject="shop-bot")
    assert (unknown.status_code, "not known as a gateway" in unknown.text) == (403, True)


def test_a_preflight_request_is_a_request(firewall):
    """CORS would answer it with 200, and a gateway would let it through with nobody having decided."""
    sent = {"Origin": "https://console.example.com", "Access-Control-Request-Method": "DELETE"}
    before = len(firewall.entries())
    answer = ask(firewall, "OPTIONS", "/v1/orders/frozen", headers=sent)
    assert answer.status_code == 400
    assert "access-control-allow-origin" not in answer.headers
    assert len(firewall.entries()) == before
    assert ask(firewall, "OPTIONS", "/web/x", headers=sent).headers["x-mfw-effect"] == "allow"


def test_every_name_of_the_prefix_is_no_way_round(firewall):
    with firewall.client() as client:
        for path in (CHECK, f"{CHECK[:-1]}%6b/v1/orders/7", f"/{CHECK}/v1/orders/7", CHECK.upper() + "/v1/orders/7"):
            url = httpx.URL(firewall.url).copy_with(raw_path=path.encode())
            answer = client.get(url, headers={"X-Mfw-Authorization": f"Bearer {firewall.key}", "X-Agent-Id": "b"})
            assert answer.status_code in {400, 404}, path


def test_limits_of_a_gateway(serve, database_dsn, tmp_path):
    (tmp_path / "p.yaml").write_text(POLICY)
    settings = {
        "MFW_POLICIES__DIRECTORY": str(tmp_path),
        "MFW_EXT_AUTHZ__GATEWAY": "traefik",
        "MFW_LIMITS__BURST": "2",
        "MFW_LIMITS__PER_MINUTE": "1",
    }
    headers = {"X-Forwarded-Method": "GET", "X-Forwarded-Host": "a", "X-Forwarded-Uri": "/x"}
    with serve(database_dsn, **settings) as service:
        answers = [ask(service, "GET", "/", headers=headers) for _ in range(3)]
    assert [one.status_code for one in answers] == [200, 200, 429]
    assert int(answers[2].headers["retry-after"]) >= 1


def test_the_corpus_is_answered_as_on_the_native_route(serve, database_dsn, tmp_path):
    """Every case, with the mutation for a body, and the entries beside the answers."""
    (tmp_path / "g.yaml").write_text(
        "apiVersion: mutationfirewall.io/v1\nkind: GatewayMapping\n"
        "gateways: [{kind: envoy, subject: {header: x-subject, form: json}}]\n"
        "routes: [{path: /mutations, methods: [POST], body: mutation}]\n"
        "answers: {add: {x-mfw-effect: effect, x-mfw-decision-id: decision_id, x-digest: mutation_digest}}\n"
    )
    compared = 0
    with serve(database_dsn, MFW_EXT_AUTHZ__MAPPING=str(tmp_path / "g.yaml")) as service:
        with service.client() as client:
            for case in load():
                native = client.post("/v1/decisions", json=case.mutation).json()
                body = {name: value for name, value in case.mutation.items() if name != "subject"}
                subject = json.dumps(case.mutation["subject"])
                answer = client.post(
                    f"{CHECK}/mutations",
                    json=body,
                    headers={"X-Subject": subject, "X-Mfw-Authorization": f"Bearer {service.key}"},
                )
                effect, reasons = native["decision"], native["reasons"]
                assert effect == case.decision, case.name
                assert answer.headers["x-mfw-effect"] == effect, case.name
                assert answer.headers["x-digest"] == native["mutation_digest"], case.name
                allowed = effect == "allow" and not native.get("obligations")
                assert answer.status_code == (200 if allowed else 403), case.name
                if effect != "allow":
                    told = answer.json()["reasons"]
                    assert [one["rule"] for one in told] == [
                        one["rule"] for one in reasons if one["mode"] == "enforce"
                    ], case.name
                compared += 1
        entries = service.entries()
    assert compared > 100
    assert len(entries) == 2 * compared


def five_lines(page: str) -> str:
    (command,) = re.findall(r"```console\n\$ (curl .*?)```", (ROOT / "docs/integrations" / page).read_text(), re.DOTALL)
    return str(command)


def test_the_five_lines_of_the_page_work(service):
    result = subprocess.run(
        ["bash", "-c", five_lines("envoy.md")],
        env={"MFW_URL": service.url, "MFW_API_KEY": service.key, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        check=True,
    )
    assert result.stdout.startswith(b"HTTP/1.1 403"), result.stdout
    assert b'"decision":"deny"' in result.stdout
