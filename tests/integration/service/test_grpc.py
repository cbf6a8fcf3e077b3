"""Envoy's gRPC on the running service: the same answers as over HTTP, and the ledger beside them."""

import asyncio
import json
import socket
import time
from pathlib import Path

import grpc
import pytest

from app.surfaces.ext_authz.grpc.messages import (
    CheckRequest,
    CheckResponse,
    HealthCheckRequest,
    HealthCheckResponse,
)
from tests.certificates import ClientAuthority, serving, write
from tests.corpus.cases import load
from tests.integration.service.test_gateways import MAPPING, POLICY, ask
from tests.ports import free_port

CHECK = "/envoy.service.auth.v3.Authorization/Check"
HEALTH = "/grpc.health.v1.Health/Check"
OK, DENIED, UNAVAILABLE = 0, 7, 14


def asking(method="GET", path="/v1/orders/7", host="api.example.com", body=None, **headers):
    request = CheckRequest()
    http = request.attributes.request.http
    http.method, http.path, http.host, http.scheme = method, path, host, "https"
    http.headers["x-agent-id"] = "bot"
    # Envoy sends these as well, and nothing may come of them.
    http.headers[":path"] = "/other"
    http.headers["content-length"] = "99999999"
    if body is not None:
        http.body = json.dumps(body)
        http.headers["content-type"] = "application/json"
    for name, value in headers.items():
        http.headers[name.replace("_", "-")] = value
    return request


def unary(channel, path, message):
    return channel.unary_unary(path, request_serializer=None, response_deserializer=None), message.SerializeToString()


def sent(channel, request, key=None, timeout=60.0):
    call, content = unary(channel, CHECK, request)
    metadata = (("authorization", f"Bearer {key}"),) if key else ()
    return CheckResponse.FromString(call(content, metadata=metadata, timeout=timeout))


@pytest.fixture(scope="module")
def firewall(tmp_path_factory, shared_database_dsn):
    from tests.integration.service.conftest import running

    folder = tmp_path_factory.mktemp("grpc")
    (folder / "policies").mkdir()
    (folder / "policies" / "p.yaml").write_text(POLICY)
    (folder / "gateways.yaml").write_text(MAPPING)
    port = free_port()
    with (
        running(
            shared_database_dsn,
            MFW_POLICIES__DIRECTORY=str(folder / "policies"),
            MFW_EXT_AUTHZ__MAPPING=str(folder / "gateways.yaml"),
            MFW_EXT_AUTHZ__GRPC_PORT=str(port),
            MFW_HTTP__MAX_BODY_BYTES="20000",
        ) as started,
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        yield started, channel


@pytest.mark.parametrize(
    ("request_", "http", "effect"),
    [
        (asking(), 200, "allow"),
        (asking("POST", body={"amount": 3}), 200, "allow"),
        (asking("POST", body={"amount": 30}), 403, "hold"),
        (asking("POST", "/v1/orders/frozen", body={"amount": 3}), 403, "deny"),
        (asking("DELETE", "/web/x?y=1"), 403, "deny"),
    ],
)
def test_each_answer_is_in_the_ledger_and_that_of_http(firewall, request_, http, effect):
    service, channel = firewall
    response = sent(channel, request_, service.key)
    told = response.dynamic_metadata
    assert told["effect"] == effect
    index, identifier, receipt = service.entries()[int(told["ledger_index"])]
    assert (str(index), str(identifier)) == (told["ledger_index"], told["decision_id"])
    assert json.loads(receipt)["decision"] == effect
    asked = request_.attributes.request.http
    same = ask(
        service,
        asked.method,
        asked.path,
        content=asked.body.encode(),
        headers={"Content-Type": "application/json"} if asked.body else {},
    )
    assert same.status_code == http
    if http == 200:
        assert response.status.code == OK
        headers = {one.header.key: one.header.value for one in response.ok_response.headers}
        assert headers["x-mfw-decision-id"] == identifier
        assert {one.append_action for one in response.ok_response.headers} == {2}
        assert list(response.ok_response.headers_to_remove) == ["x-internal"]
        assert not response.HasField("denied_response")
    else:
        assert response.status.code == DENIED
        denied = response.denied_response
        headers = {one.header.key: one.header.value for one in denied.headers}
        assert (denied.status.code, headers["x-mfw-effect"]) == (http, effect)
        assert headers["content-type"] == "application/problem+json"
        mine, theirs = json.loads(denied.body), same.json()
        for changing in ("decision_id", "ledger_index", "request_id"):
            mine.pop(changing), theirs.pop(changing)
        assert mine == theirs
        assert not response.HasField("ok_response")


def test_what_is_refused_leaves_nothing(firewall):
    service, channel = firewall
    before = len(service.entries())
    partial = asking("POST", body={"amount": 1}, x_envoy_auth_partial_body="true")
    mixed = asking("POST", body={"amount": 1})
    mixed.attributes.request.http.header_map.headers.add(key="x-agent-id", raw_value=b"bot")
    both = asking("POST", body={"amount": 1})
    both.attributes.request.http.raw_body = b"{}"
    for request, key, status in [
        (asking(), None, 403),
        (asking(), "mfw_wrong", 403),
        (asking(), service.operator_key, 403),
        (asking(x_mfw_authorization=f"Bearer {service.key}"), None, 403),
        (asking(authorization=f"Bearer {service.key}"), None, 403),
        (asking(path="/v1/orders/../admin"), service.key, 400),
        (asking(path="/v1/orders/%2e%2e"), service.key, 400),
        (asking(path="/v1/orders/7#x"), service.key, 400),
        (asking(path="*"), service.key, 400),
        (asking(path=""), service.key, 400),
        (asking(host=""), service.key, 400),
        (asking(method="get"), service.key, 400),
        (asking(x_agent_id="a,b"), service.key, 400),
        (asking(path="/v2/orders"), service.key, 403),
        (asking("POST"), service.key, 400),
        (partial, service.key, 413),
        (mixed, service.key, 400),
        (both, service.key, 400),
        (asking("POST", body={"amount": "1" * 30_000}), service.key, 413),
        (CheckRequest(), service.key, 400),
    ]:
        response = sent(channel, request, key)
        assert response.status.code == DENIED, request
        assert response.denied_response.status.code == status, request
        if status == 400 and request.attributes.request.http.method:
            assert json.loads(response.denied_response.body)["status"] == 400
    call, _ = unary(channel, CHECK, CheckRequest())
    junk = CheckResponse.FromString(call(b"\xff\xff", timeout=60))
    assert (junk.status.code, junk.denied_response.status.code) == (DENIED, 400)
    with pytest.raises(grpc.RpcError) as caught:
        call(b"\0" * 500_000, timeout=60)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert len(service.entries()) == before


def test_headers_as_they_were_sent(firewall):
    service, channel = firewall
    request = asking()
    http = request.attributes.request.http
    http.headers.clear()
    http.header_map.headers.add(key="X-Agent-Id", raw_value=b"bot")
    assert sent(channel, request, service.key).status.code == OK
    http.header_map.headers.add(key="x-agent-id", raw_value=b"other")
    assert sent(channel, request, service.key).denied_response.status.code == 400


def test_a_deadline_that_is_too_short_lets_nothing_through(firewall):
    service, channel = firewall
    # Whose clock notices first is chance: this side's is an error, the server's an answer.
    try:
        response = sent(channel, asking(), service.key, timeout=0.000001)
    except grpc.RpcError as caught:
        assert caught.code() is grpc.StatusCode.DEADLINE_EXCEEDED  # noqa: PT017 - one of two ways
    else:
        assert response.denied_response.status.code == 504


def test_health(firewall):
    _, channel = firewall
    for service in ("", "envoy.service.auth.v3.Authorization"):
        call, content = unary(channel, HEALTH, HealthCheckRequest(service=service))
        deadline = time.monotonic() + 60
        while (status := HealthCheckResponse.FromString(call(content, timeout=60)).status) != 1:
            assert time.monotonic() < deadline, status
    call, content = unary(channel, HEALTH, HealthCheckRequest(service="other"))
    with pytest.raises(grpc.RpcError) as caught:
        call(content, timeout=60)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_the_corpus_with_tls(serve, database_dsn, tmp_path):
    """Every case, over TLS, with the subject in a header and the rest in the body; and another certificate."""
    (tmp_path / "g.yaml").write_text(
        "apiVersion: mutationfirewall.io/v1\nkind: GatewayMapping\n"
        "gateways: [{kind: envoy, subject: {header: x-subject, form: json}}]\n"
        "routes: [{path: /mutations, methods: [POST], body: mutation}]\n"
    )
    issued = serving()
    files = write(tmp_path, issued)
    port = free_port()
    settings = {
        "MFW_EXT_AUTHZ__MAPPING": str(tmp_path / "g.yaml"),
        "MFW_EXT_AUTHZ__GRPC_PORT": str(port),
        "MFW_TLS__CERTIFICATE_FILE": str(files.certificate),
        "MFW_TLS__KEY_FILE": str(files.key),
        "MFW_TLS__PLAIN_HTTP": "health",
        "MFW_HTTP__CORS_ORIGINS": "https://console.example.com",
    }
    compared = 0

    def channel_of(authority):
        return grpc.secure_channel(f"localhost:{port}", grpc.ssl_channel_credentials(root_certificates=authority))

    with serve(database_dsn, **settings) as service:
        with channel_of(issued.authority) as channel:
            for case in load():
                body = {name: value for name, value in case.mutation.items() if name != "subject"}
                request = asking("POST", "/mutations", body=body, x_subject=json.dumps(case.mutation["subject"]))
                response = sent(channel, request, service.key)
                assert response.dynamic_metadata["effect"] == case.decision, case.name
                if response.status.code == OK:
                    assert case.decision == "allow", case.name
                else:
                    told = json.loads(response.denied_response.body)["reasons"]
                    expected = [one["rule"] for one in case.reasons if one.get("mode", "enforce") == "enforce"]
                    assert [one["rule"] for one in told] == expected or case.decision == "allow", case.name
                compared += 1
            assert len(service.entries()) == compared
        again = serving()
        write(tmp_path, again)
        with channel_of(again.authority) as channel:
            assert sent(channel, asking(), service.key).denied_response.status.code == 403
        # Half of a pair is none: the last good one stays.
        (tmp_path / "tls.key").write_bytes(issued.key)
        with channel_of(again.authority) as channel:
            assert sent(channel, asking(), service.key).denied_response.status.code == 403
        assert ask(service, "GET", "/v1/orders/7").status_code == 403
        # Nothing answers without TLS, a preflight request included; probes may.
        asking_first = {"Origin": "https://console.example.com", "Access-Control-Request-Method": "POST"}
        with service.client() as client:
            for path in ("/v1/decisions", "/envoy/v1/check/x"):
                answer = client.options(path, headers=asking_first)
                assert (answer.status_code, "access-control-allow-origin" in answer.headers) == (403, False), path
            assert client.get("/health/live").status_code == 200
    assert compared > 100


def test_a_gateway_shows_a_certificate_where_one_is_required(serve, database_dsn, tmp_path):
    """It is the credential then; without one, or with one of somebody else's, there is no connection."""
    clients, others = ClientAuthority(), ClientAuthority()
    issued = serving()
    files = write(tmp_path, issued)
    (tmp_path / "clients.pem").write_bytes(clients.certificate)
    (tmp_path / "others").mkdir()
    port = free_port()
    settings = {
        "MFW_EXT_AUTHZ__GRPC_PORT": str(port),
        "MFW_TLS__CERTIFICATE_FILE": str(files.certificate),
        "MFW_TLS__KEY_FILE": str(files.key),
        "MFW_TLS__CLIENT_CA_FILE": str(tmp_path / "clients.pem"),
        "MFW_TLS__CLIENT_CERTIFICATES": "required",
        "MFW_AUTH__MTLS__ROLES": "agent=spiffe://example.com/edge",
    }

    def answered(shown):
        pair = {}
        if shown is not None:
            crt, key = (Path(one).read_bytes() for one in shown)
            pair = {"private_key": key, "certificate_chain": crt}
        credentials = grpc.ssl_channel_credentials(root_certificates=issued.authority, **pair)
        with grpc.secure_channel(f"localhost:{port}", credentials) as channel:
            return sent(channel, asking())

    known = clients.client(tmp_path, "edge", uris=("spiffe://example.com/edge",))
    stranger = clients.client(tmp_path, "stranger", uris=("spiffe://example.com/stranger",))
    forged = others.client(tmp_path / "others", "edge", uris=("spiffe://example.com/edge",))
    with serve(database_dsn, **settings) as service:
        response = answered(known)
        assert response.dynamic_metadata["effect"] == "deny"
        (entry,) = service.entries()
        assert entry[1] == response.dynamic_metadata["decision_id"]
        assert answered(stranger).denied_response.status.code == 403
        for shown in (None, forged):
            with pytest.raises(grpc.RpcError) as caught:
                answered(shown)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert len(service.entries()) == 1


def test_a_port_that_is_taken(serve, database_dsn):
    from app.bootstrap import create_app
    from app.errors import FirewallError
    from app.surfaces.ext_authz.grpc.server import CheckServer

    assert create_app is not None
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()

        async def start():
            async def never(*_args):
                raise AssertionError

            server = CheckServer(
                never,
                host="127.0.0.1",
                port=taken.getsockname()[1],
                tls=None,
                credential_header="x",
                max_body_bytes=1,
                concurrent_max=1,
                timeout_seconds=1,
                ready=never,
            )
            await server.start()

        with pytest.raises(FirewallError, match="nobody can listen"):
            asyncio.run(start())
