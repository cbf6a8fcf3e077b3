"""gRPC where the application behind it fails: nothing that goes wrong is a yes, and nothing is an error of gRPC."""

import asyncio
import json

import grpc
import pytest

from app.surfaces.ext_authz.grpc.messages import (
    CheckRequest,
    CheckResponse,
    HealthCheckRequest,
    HealthCheckResponse,
)
from app.surfaces.ext_authz.grpc.server import CheckServer


class Aborted(Exception):  # noqa: N818 - what grpc itself raises has no better name
    pass


class Context:
    """What grpc tells of a call."""

    def __init__(self, *, peer="ipv4:192.0.2.1:4321", remaining=None, metadata=()):
        self._peer, self._remaining, self._metadata = peer, remaining, metadata

    def peer(self):
        return self._peer

    def auth_context(self):
        return {}

    def time_remaining(self):
        return self._remaining

    def invocation_metadata(self):
        return self._metadata

    async def abort(self, code, detail):
        raise Aborted(code, detail)


def server(app, *, ready=True, seconds=5.0):
    async def answer():
        return ready

    return CheckServer(
        app,
        host="127.0.0.1",
        port=0,
        tls=None,
        credential_header="X-Own",
        max_body_bytes=1000,
        concurrent_max=1,
        timeout_seconds=seconds,
        ready=answer,
    )


def message(**headers):
    request = CheckRequest()
    http = request.attributes.request.http
    http.method, http.path, http.host = "GET", "/a?b=c", "h"
    for name, value in headers.items():
        http.headers[name.replace("_", "-")] = value
    return request.SerializeToString()


def denied(response):
    told = CheckResponse.FromString(response)
    assert told.status.code != 0
    assert not told.HasField("ok_response")
    body = json.loads(told.denied_response.body)
    assert body["status"] == told.denied_response.status.code
    return told.denied_response.status.code


def field(number, content):
    """A field of protobuf by hand: its number, that it has a length, and its bytes."""
    content = content if isinstance(content, bytes) else content.encode()
    key = number << 3 | 2
    tag = bytes([key]) if key < 128 else bytes([key & 127 | 128, key >> 7])
    assert len(content) < 128
    return tag + bytes([len(content)]) + content


async def test_fields_have_the_numbers_that_envoy_publishes():
    """`attribute_context.proto`, `external_auth.proto` and `base.proto`, written by hand."""
    http = b"".join(
        (
            field(1, "id"),
            field(2, "POST"),
            field(3, field(1, "x-a") + field(2, "b")),
            field(4, "/p?q"),
            field(5, "h"),
            field(6, "https"),
            field(7, "q"),
            field(8, "f"),
            b"\x48\x05",  # 9: size, a varint
            field(10, "HTTP/2"),
            field(11, "text"),
        )
    )
    source, extensions = field(1, field(4, "spiffe://x")), field(10, field(1, "k") + field(2, "v"))
    request = CheckRequest.FromString(field(1, source + field(4, field(2, http)) + extensions))
    found = request.attributes.request.http
    assert (found.id, found.method, found.path, found.host, found.scheme) == ("id", "POST", "/p?q", "h", "https")
    assert (found.query, found.fragment) == ("q", "f")
    assert (found.size, found.protocol, found.body, dict(found.headers)) == (5, "HTTP/2", "text", {"x-a": "b"})
    raw = field(12, b"\xff") + field(13, field(1, field(1, "x-a") + field(3, b"b")))
    found = CheckRequest.FromString(field(1, field(4, field(2, raw)))).attributes.request.http
    assert found.raw_body == b"\xff"
    assert [(one.key, one.raw_value) for one in found.header_map.headers] == [("x-a", b"b")]

    option = field(1, field(1, "n") + field(2, "v")) + b"\x18\x02"  # 3: append_action, overwrite
    allowed = CheckResponse()
    allowed.status.SetInParent()
    allowed.ok_response.headers.add(append_action=2, header={"key": "n", "value": "v"})
    allowed.ok_response.headers_to_remove.append("r")
    allowed.dynamic_metadata.update({"k": "v"})
    value = field(1, field(1, "k") + field(2, field(3, "v")))
    assert allowed.SerializeToString() == field(1, "") + field(3, field(2, option) + field(5, "r")) + field(4, value)
    refused = CheckResponse()
    refused.status.code = 7
    refused.denied_response.status.code = 100
    refused.denied_response.headers.add(append_action=2, header={"key": "n", "value": "v"})
    refused.denied_response.body = "b"
    expected = field(1, b"\x08\x07") + field(2, field(1, b"\x08\x64") + field(2, option) + field(3, "b"))
    assert refused.SerializeToString() == expected
    assert HealthCheckResponse(status=1).SerializeToString() == b"\x08\x01"
    assert HealthCheckRequest.FromString(field(1, "s")).service == "s"


@pytest.mark.parametrize(("query", "fragment", "runs"), [("b=c", "", True), ("b=d", "", False), ("", "f", False)])
async def test_what_is_asked_is_in_the_path(query, fragment, runs):
    request = CheckRequest.FromString(message())
    request.attributes.request.http.query, request.attributes.request.http.fragment = query, fragment
    seen = []

    async def app(scope, _receive, send):
        seen.append(scope["query_string"])
        await send({"type": "http.response.start", "status": 403, "headers": []})
        await send({"type": "http.response.body", "body": b'{"status": 403}'})

    assert denied(await server(app).check(request.SerializeToString(), Context())) == (403 if runs else 400)
    assert seen == ([b"b=c"] if runs else [])


async def test_a_check_is_the_request_that_it_describes():
    seen = []

    async def app(scope, receive, send):
        seen.append((scope, await receive()))
        await send({"type": "http.response.start", "status": 403, "headers": [(b"x-a", b"b"), (b"retry-after", b"1")]})
        await send({"type": "http.response.body", "body": b"{}"})

    content = message(X_Own="forged", host="other", content_length="9", x_b="c")
    context = Context(peer="ipv6:%5B2001:db8::1%5D:55", metadata=(("authorization", "Bearer k"), ("other", b"x")))
    told = CheckResponse.FromString(await server(app).check(content, context))
    assert [(one.header.key, one.header.value) for one in told.denied_response.headers] == [("retry-after", "1")]
    ((scope, body),) = seen
    assert scope["raw_path"] == b"/envoy/v1/check/a"
    assert (scope["query_string"], scope["client"], scope["scheme"]) == (b"b=c", ("2001:db8::1", 0), "http")
    headers = dict(scope["headers"])
    assert len(headers) == len(scope["headers"])
    assert headers == {b"x-own": b"Bearer k", b"host": b"h", b"content-length": b"0", b"x-b": b"c"}
    assert body == {"type": "http.request", "body": b"", "more_body": False}


async def test_what_goes_wrong_denies():
    async def broken(_scope, _receive, _send):
        raise RuntimeError

    async def silent(_scope, _receive, _send):
        await asyncio.Event().wait()

    async def somebody_else(_scope, _receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    assert denied(await server(broken).check(message(), Context())) == 500
    assert denied(await server(silent, seconds=0.01).check(message(), Context())) == 504
    assert denied(await server(silent).check(message(), Context(remaining=0.0, peer="unix:"))) == 504
    assert denied(await server(somebody_else).check(message(), Context())) == 500
    assert denied(await server(broken).check(b"\xff", Context())) == 400


@pytest.mark.parametrize(("ready", "status"), [(True, 1), (False, 2)])
async def test_health(ready, status):
    asked = server(None, ready=ready)
    answer = await asked.health(HealthCheckRequest().SerializeToString(), Context())
    assert HealthCheckResponse.FromString(answer).status == status
    for content in (b"\xff", HealthCheckRequest(service="x").SerializeToString()):
        with pytest.raises(Aborted) as caught:
            await asked.health(content, Context())
        assert caught.value.args[0] is grpc.StatusCode.NOT_FOUND


def test_without_the_extra(monkeypatch):
    import sys

    from app.bootstrap import _grpc_checks
    from app.errors import FirewallError
    from app.settings import ExtAuthzSettings, Settings

    monkeypatch.setitem(sys.modules, "app.surfaces.ext_authz.grpc.server", None)

    async def never(*_args):
        raise AssertionError

    settings = Settings(ext_authz=ExtAuthzSettings(grpc_port=1))
    with pytest.raises(FirewallError, match="needs packages"):
        _grpc_checks(settings, never, ready=never)
