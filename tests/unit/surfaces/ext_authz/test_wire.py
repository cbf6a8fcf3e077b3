"""A check becomes a mutation, or nothing does."""

import gzip
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.glob import compile_glob
from app.errors import FirewallError, Kind
from app.surfaces.ext_authz.mapping import (
    DEFAULT_ROUTE,
    DEFAULT_SUBJECT,
    BodyUse,
    Gateway,
    GatewayKind,
    GatewayMapping,
    PathPattern,
    Refusals,
    Route,
    SubjectSource,
    Template,
    default_mapping,
)
from app.surfaces.ext_authz.wire import Check, mutation_of

AGENT = (b"x-agent-id", b"deploy-bot")
JSON = (b"content-type", b"application/json")
ENVOY = default_mapping(GatewayKind.ENVOY)
MUTATION = {
    "action": {"name": "update"},
    "resource": {"type": "order", "id": "7"},
    "change": {"after": {"note": 1}},
    "context": {"ticket": "T-1"},
    "request_id": "r",
    "rationale": "because",
}


def check(rest="/v1/orders/7", method="POST", host="Api.example.com:8443", headers=(AGENT,), body=b""):
    return Check(method, host, rest, headers, body)


ROUTE = Route(PathPattern(("v1", "orders", None), ("order",), None), "order", Template("{host}/{order}"))


def route(**members: Any) -> Route:
    return replace(ROUTE, **members)


def made(asked, mapping=ENVOY, max_bytes=10_000):
    return mutation_of(asked, mapping.gateways[0], mapping, max_bytes=max_bytes, request_id="req-1")


def refused(asked, mapping=ENVOY, **options):
    with pytest.raises(FirewallError) as caught:
        made(asked, mapping, **options)
    return caught.value


def by(*routes, kind=GatewayKind.ENVOY, subject=DEFAULT_SUBJECT):
    return GatewayMapping((Gateway((), kind, subject, Refusals.OWN),), routes)


def test_the_mapping_that_needs_no_file():
    mutation = made(check("/v1/orders/7?force=1"))
    assert mutation.subject == {"type": "agent", "id": "deploy-bot", "properties": {}}
    assert mutation.action == {"name": "create", "properties": {}}
    assert mutation.resource == {"type": "http", "id": "api.example.com/v1/orders/7", "properties": {}}
    assert mutation.change == {}
    assert mutation.context == {"http": {"method": "POST", "host": "api.example.com", "path": "/v1/orders/7"}}
    assert mutation.request_id == "req-1"


@pytest.mark.parametrize(
    ("method", "action"),
    [("GET", "read"), ("HEAD", "read"), ("PUT", "update"), ("DELETE", "delete"), ("PROPFIND", "propfind")],
)
def test_methods_are_actions(method, action):
    assert made(check(method=method)).action["name"] == action


def test_a_route_names_what_it_is_about():
    mapping = by(
        route(
            hosts=(compile_glob("api.*"),),
            methods=frozenset({"POST"}),
            action="reopen",
            properties={"environment": "production", "path": Template("{path}"), "tier": 1},
            query=frozenset({"why"}),
            headers=frozenset({"x-tenant", "x-none"}),
        )
    )
    asked = check("/v1/orders/7?why=late", headers=(AGENT, (b"x-tenant", b"t1"), (b"x-other", b"secret")))
    mutation = made(asked, mapping)
    assert mutation.action["name"] == "reopen"
    assert mutation.resource == {
        "type": "order",
        "id": "api.example.com/7",
        "properties": {"environment": "production", "path": "/v1/orders/7", "tier": 1},
    }
    assert mutation.context["http"]["query"] == {"why": "late"}
    assert mutation.context["http"]["headers"] == {"x-tenant": "t1"}
    assert "secret" not in json.dumps(mutation.context)


@pytest.mark.parametrize(
    "asked",
    [
        check("/v1/orders"),
        check("/v1/orders/"),
        check("/v1/orders/7/"),
        check("/v1/orders/7/lines"),
        check("/V1/orders/7"),
        check("/v1/orders/7", method="PUT"),
        check("/v1/orders/7", host="other.example.com"),
        check("/v1/orders/7?force=1"),
    ],
)
def test_what_no_route_is_for_is_denied(asked):
    mapping = by(route(hosts=(compile_glob("api.*"),), methods=frozenset({"POST"})))
    assert refused(asked, mapping).kind is Kind.FORBIDDEN


def test_the_first_route_that_fits():
    rest = route(path=PathPattern(("v1",), (), "rest"), resource_id=Template("{rest}"), any_query=True)
    mapping = by(route(), rest)
    assert made(check("/v1/orders/7"), mapping).resource["id"] == "api.example.com/7"
    assert made(check("/v1/orders/7/lines?x"), mapping).resource["id"] == "orders/7/lines"
    assert refused(check("/v1"), mapping).kind is Kind.FORBIDDEN


@pytest.mark.parametrize(
    ("query", "word"), [("why=1&why=2", "twice"), ("why=%", "hexadecimal"), ("why=1;force=1", "which some servers")]
)
def test_parameters_that_two_servers_read_differently(query, word):
    mapping = by(route(query=frozenset({"why"}), any_query=True))
    assert word in refused(check(f"/v1/orders/7?{query}"), mapping).detail
    assert made(check("/v1/orders/7?other=1&why=2"), mapping).context["http"]["query"] == {"why": "2"}


@pytest.mark.parametrize(
    ("headers", "word"),
    [
        ((), "nobody knows who asks"),
        (((b"x-agent-id", b""),), "nobody knows who asks"),
        ((AGENT, AGENT), "twice"),
        ((AGENT, (b"x-agent-id", b"other")), "twice"),
        (((b"x-agent-id", b"a,b"),), "no single id"),
        (((b"x-agent-id", b" a"),), "no single id"),
        (((b"x-agent-id", b"a\tb"),), "no single id"),
        (((b"x-agent-id", "é".encode()),), "no single id"),
        (((b"x-agent-id", b"a" * 600),), "longer than 512"),
        ((AGENT, (b"x-http-method-override", b"DELETE")), "another method"),
        ((AGENT, (b"x-http-method", b"PUT"), (b"x-http-method", b"POST")), "another method"),
        ((AGENT, (b"x_http_method_override", b"DELETE")), "another method"),
        ((AGENT, (b"x-original-url", b"/admin")), "another path"),
        ((AGENT, (b"x_rewrite_url", b"/admin")), "another path"),
        ((AGENT, (b"x_agent_id", b"root")), "another spelling"),
    ],
)
def test_who_asks_is_one_word_of_the_gateway(headers, word):
    error = refused(check(headers=headers))
    assert error.kind is Kind.MALFORMED
    assert word in error.detail


def test_an_override_that_changes_nothing():
    assert made(check(headers=(AGENT, (b"x-http-method-override", b"post")))).action["name"] == "create"
    assert made(check(headers=(AGENT, (b"x-original-url", b"/v1/orders/7")))).action["name"] == "create"
    assert made(check("/v1/orders/7?_method=post&method=DELETE")).action["name"] == "create"


@pytest.mark.parametrize(
    "query", ["_method=DELETE", "a=b&_method=put", "a;_method=put", "%5F%6Dethod=DELETE", "_METHOD"]
)
def test_a_parameter_that_asks_for_another_method(query):
    assert "another method" in refused(check(f"/v1/orders/7?{query}")).detail


def test_a_subject_as_json():
    mapping = by(route(), subject=SubjectSource("x-subject", None))
    whole = {"type": "agent", "id": "a", "properties": {"on_behalf_of": ["jane"]}}
    assert made(check(headers=((b"x-subject", json.dumps(whole).encode()),)), mapping).subject == whole
    for value in (b"a", b"[]", b'{"type":"agent"}', b'{"id":"a","id":"b","type":"x"}', b"{" + b" " * 5000 + b"}"):
        assert refused(check(headers=((b"x-subject", value),)), mapping).kind is Kind.MALFORMED


NGINX = (
    (b"x-original-method", b"DELETE"),
    (b"x-original-host", b"api.example.com"),
    (b"x-original-uri", b"/v1/orders/7?x"),
)
TRAEFIK = (
    (b"x-forwarded-method", b"DELETE"),
    (b"x-forwarded-host", b"api.example.com"),
    (b"x-forwarded-uri", b"/v1/orders/7?x"),
)


@pytest.mark.parametrize(("kind", "headers"), [(GatewayKind.NGINX, NGINX), (GatewayKind.TRAEFIK, TRAEFIK)])
def test_gateways_that_say_it_in_headers(kind, headers):
    mapping = default_mapping(kind)
    asked = check("/", method="GET", host="mfw", headers=(AGENT, *headers))
    assert made(asked, mapping).context["http"] == {
        "method": "DELETE",
        "host": "api.example.com",
        "path": "/v1/orders/7",
    }
    # Its own line is then not what it was asked, and a gateway of another kind would put its caller's path there.
    assert "still asks about a path" in refused(asked._replace(rest="/v1/orders/8"), mapping).detail
    for at in range(3):
        without = tuple(header for position, header in enumerate(headers) if position != at)
        assert "is missing" in refused(asked._replace(headers=(AGENT, *without)), mapping).detail
        assert "twice" in refused(asked._replace(headers=(AGENT, *headers, headers[at])), mapping).detail


def test_headers_of_other_gateways_are_nobodys_word():
    mutation = made(check("/v1/orders/7", headers=(AGENT, *NGINX, *TRAEFIK)))
    assert mutation.action["name"] == "create"
    assert refused(check("/v1/orders/7", host=None)).detail == "the host is missing"


def test_the_body_is_what_would_be():
    mapping = by(route(body=BodyUse.JSON))
    assert made(check(headers=(AGENT, JSON), body=b'{"note":1}'), mapping).change == {"after": {"note": 1}}
    packed = (b"content-encoding", b"gzip")
    asked = check(headers=(AGENT, JSON, packed), body=gzip.compress(b'{"note":1}'))
    assert made(asked, mapping).change == {"after": {"note": 1}}
    whole = check(headers=(AGENT, JSON, (b"x-envoy-auth-partial-body", b"false")), body=b"1")
    assert made(whole, mapping).change == {"after": 1}


@pytest.mark.parametrize(
    ("headers", "body", "kind"),
    [
        ((JSON,), b"", Kind.MALFORMED),
        ((JSON,), b"{", Kind.MALFORMED),
        ((JSON,), b'{"a":1,"a":2}', Kind.MALFORMED),
        ((), b"{}", Kind.UNSUPPORTED_MEDIA_TYPE),
        (((b"content-type", b"application/x-www-form-urlencoded"),), b"{}", Kind.UNSUPPORTED_MEDIA_TYPE),
        ((JSON, JSON), b"{}", Kind.MALFORMED),
        ((JSON, (b"x-envoy-auth-partial-body", b"true")), b"{}", Kind.TOO_LARGE),
        ((JSON, (b"x-envoy-auth-partial-body", b"what")), b"{}", Kind.TOO_LARGE),
        ((JSON, (b"content-encoding", b"br")), b"{}", Kind.UNSUPPORTED_ENCODING),
        ((JSON, (b"content-encoding", b"gzip")), gzip.compress(b" " * 50_000), Kind.TOO_LARGE),
    ],
)
def test_a_body_that_is_needed_is_whole_and_plain(headers, body, kind):
    assert refused(check(headers=(AGENT, *headers), body=body), by(route(body=BodyUse.JSON))).kind is kind
    # A route that does not need it does not look at it.
    assert made(check(headers=(AGENT, *headers), body=body), by(route())).change == {}


def test_the_body_is_the_mutation():
    mapping = by(route(body=BodyUse.MUTATION))

    def asked(**members):
        tree = {name: value for name, value in (MUTATION | members).items() if value is not None}
        return check(headers=(AGENT, JSON), body=json.dumps(tree).encode())

    mutation = made(asked(), mapping)
    assert mutation.subject["id"] == "deploy-bot"
    assert mutation.resource == {"type": "order", "id": "7", "properties": {}}
    assert (mutation.change, mutation.context) == (MUTATION["change"], MUTATION["context"])
    assert (mutation.request_id, mutation.rationale) == ("r", "because")
    assert made(asked(subject={"type": "agent", "id": "deploy-bot"}), mapping).subject["id"] == "deploy-bot"
    less = made(asked(context=None, request_id=None, rationale=None), mapping)
    assert (less.context, less.request_id, less.rationale) == ({}, None, None)
    error = refused(asked(subject={"type": "agent", "id": "other"}), mapping)
    assert (error.kind, error.pointer) == (Kind.FORBIDDEN, "/subject")
    for members, pointer in (
        ({"chnage": 1}, "/chnage"),
        ({"action": None}, "/action"),
        ({"change": {}}, "/change"),
        ({"change": 1}, "/change"),
        ({"context": 1}, "/context"),
    ):
        assert refused(asked(**members), mapping).pointer == pointer
    assert refused(check(headers=(AGENT, JSON), body=b"[]"), mapping).detail == "the body is not an object"


def test_headers_that_are_kept_have_bounds():
    mapping = by(route(headers=frozenset({"x-tenant"})))
    assert "longer" in refused(check(headers=(AGENT, (b"x-tenant", b"a" * 5000))), mapping).detail
    assert "twice" in refused(check(headers=(AGENT, (b"x-tenant", b"a"), (b"x-tenant", b"b"))), mapping).detail


def test_an_id_that_no_policy_could_show():
    assert "resource.id" in refused(check("/" + "a" * 600)).detail


NAMES = st.sampled_from(
    [b"x-agent-id", b"content-type", b"content-encoding", b"x-tenant", b"x-envoy-auth-partial-body"]
    + [name for name, _ in (*NGINX, *TRAEFIK)]
)
VALUES = st.binary(max_size=12) | st.sampled_from(
    [b"application/json", b"gzip", b"GET", b"/v1/orders/7", b"a.b", b"bot"]
)
TEXTS = st.text(max_size=20) | st.sampled_from(["/v1/orders/7", "/v1/orders/7?why=1", "/"])


@given(
    kind=st.sampled_from(GatewayKind),
    body=st.sampled_from(BodyUse),
    asked=st.builds(
        Check,
        method=st.sampled_from(["GET", "POST"]) | st.text(max_size=8),
        host=st.none() | st.just("a.b") | st.text(max_size=12),
        rest=TEXTS,
        headers=st.lists(st.tuples(NAMES, VALUES), max_size=6),
        body=st.binary(max_size=20) | st.sampled_from([b"{}", json.dumps(MUTATION).encode()]),
    ),
)
def test_whatever_is_asked_is_a_mutation_or_a_refusal(kind, body, asked):
    mapping = by(route(body=body, headers=frozenset({"x-tenant"}), query=frozenset({"why"})), DEFAULT_ROUTE, kind=kind)
    try:
        mutation = made(asked, mapping)
    except FirewallError:
        return
    assert mutation.subject["id"].isprintable()
    assert ".." not in mutation.resource["id"].split("/")
