"""The file of gateways: what it says, and where it is wrong."""

import re
from pathlib import Path

import pytest

from app.errors import FirewallError, Kind
from app.surfaces.ext_authz.mapping import BodyUse, Fact, GatewayKind, Refusals
from app.surfaces.ext_authz.mapping_file import FILE_BYTES_MAX, read_mapping
from app.surfaces.ext_authz.targets import target_of

ROOT = Path(__file__).resolve().parents[4]
HEAD = "apiVersion: mutationfirewall.io/v1\nkind: GatewayMapping\n"
GATEWAYS = "gateways: [{kind: envoy}]\n"
ROUTES = 'routes: [{path: "/{path_*}", resource: {type: http, id: "{path_}"}}]\n'
WHOLE = (
    HEAD
    + """\
gateways:
  - principals: [edge-*]
    kind: nginx
    subject: {header: X-Client, type: service}
    refusals: forbidden
  - {kind: envoy, subject: {header: x-subject, form: json}}
routes:
  - hosts: ["api.*"]
    methods: [POST, PATCH]
    path: /v1/orders/{order}
    resource: {type: order, id: "{host}/{order}", properties: {environment: production, tier: 1, path: "{path}"}}
    action: reopen
    body: json
    query: [why, "*"]
    headers: [X-Tenant]
  - {path: "/files/{rest*}", resource: {type: file, id: "{rest}"}}
  - {path: /, resource: {type: root, id: root}}
  - {path: /mutations, body: mutation}
answers:
  add: {X-Decision: decision_id}
  remove: [Authorization]
"""
)


def read(tmp_path, text):
    file = tmp_path / "gateways.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_mapping(file)


def test_everything_that_a_file_says(tmp_path):
    mapping = read(tmp_path, WHOLE)
    nginx, envoy = mapping.gateways
    assert mapping.gateway_of("edge-1") is nginx
    assert mapping.gateway_of("other") is envoy
    assert (nginx.kind, nginx.refusals) == (GatewayKind.NGINX, Refusals.FORBIDDEN)
    assert (nginx.subject.header, nginx.subject.type) == ("x-client", "service")
    assert (envoy.subject.header, envoy.subject.type) == ("x-subject", None)
    orders, files, root, mutations = mapping.routes
    assert orders.methods == {"POST", "PATCH"}
    assert (orders.action, orders.body) == ("reopen", BodyUse.JSON)
    assert (orders.query, orders.any_query, orders.headers) == ({"why"}, True, {"x-tenant"})
    assert orders.properties["tier"] == 1
    values = orders.match("POST", "api.x", target_of("/v1/orders/7"))
    assert orders.resource_id.fill(values) == "api.x/7"
    assert files.match("GET", "h", target_of("/files/a/b"))["rest"] == "a/b"
    assert files.match("GET", "h", target_of("/files")) is None
    assert root.match("GET", "h", target_of("/")) is not None
    assert mutations.body is BodyUse.MUTATION
    assert mapping.facts == {"x-decision": Fact.DECISION_ID}
    assert mapping.removed == ("authorization",)


def test_the_file_of_the_page(tmp_path):
    page = (ROOT / "docs" / "integrations" / "envoy.md").read_text()
    (text,) = [one for one in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL) if "GatewayMapping" in one]
    mapping = read(tmp_path, text)
    assert len(mapping.routes) == 2
    assert mapping.facts["x-mfw-policy-set"] is Fact.POLICY_SET


def test_who_is_no_gateway(tmp_path):
    mapping = read(tmp_path, HEAD + "gateways: [{kind: envoy, principals: [edge]}]\n" + ROUTES)
    assert mapping.gateway_of("agent") is None


def with_route(route):
    return HEAD + GATEWAYS + f"routes:\n  - {route}\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"\xff", "is not UTF-8"),
        ("a: [", "gateways.yaml:1"),
        ("", "not one document"),
        (HEAD + "---\n" + HEAD, "not one document"),
        ("x" * (FILE_BYTES_MAX + 1), "bytes"),
        (HEAD + GATEWAYS, "`routes` is missing"),
        ("apiVersion: v1\nkind: GatewayMapping\n" + GATEWAYS + ROUTES, "gateways.yaml:1:13"),
        (HEAD + "gateways: []\n" + ROUTES, "gateways.yaml:3:11: error: gateways: the list is empty"),
        (HEAD + "gateways: [{kind: apache}]\n" + ROUTES, "gateways.yaml:3:19"),
        (HEAD + "gateways: [{kind: envoy, principals: []}]\n" + ROUTES, "the list is empty"),
        (HEAD + "gateways: [{kind: envoy, subject: {header: Authorization}}]\n" + ROUTES, "not for this"),
        (
            HEAD + "gateways: [{kind: envoy, subject: {header: a, form: json, type: b}}]\n" + ROUTES,
            "in the header itself",
        ),
        (HEAD + "gateways: [{kind: envoy, subject: {header: 'a b'}}]\n" + ROUTES, "no name of a header"),
        (HEAD + GATEWAYS + ROUTES + "answers: {add: {host: effect}}\n", "not for this"),
        (HEAD + GATEWAYS + ROUTES + "answers: {add: {x-a: effort}}\n", "`effort`"),
        (HEAD + GATEWAYS + ROUTES + "answers: {add: [x-a]}\n", "an object of headers"),
        (HEAD + GATEWAYS + ROUTES + "answers: {remove: [Content-Length]}\n", "not for this"),
        (with_route("{path: /a}"), "`resource` is missing"),
        (with_route("{resource: {type: a, id: b}}"), "`path` is missing"),
        (with_route("{path: a, resource: {type: a, id: b}}"), "does not begin"),
        (with_route("{path: /a//b, resource: {type: a, id: b}}"), "empty segment"),
        (with_route("{path: /a/../b, resource: {type: a, id: b}}"), "`..` is no segment"),
        (with_route("{path: /a%20b, resource: {type: a, id: b}}"), "no segment"),
        (with_route("{path: /a/*, resource: {type: a, id: b}}"), "no segment"),
        (with_route('{path: "/a{b}", resource: {type: a, id: b}}'), "no segment"),
        (with_route('{path: "/{b", resource: {type: a, id: b}}'), "no name"),
        (with_route('{path: "/{B}", resource: {type: a, id: b}}'), "no name"),
        (with_route('{path: "/{host}", resource: {type: a, id: b}}'), "no name"),
        (with_route('{path: "/{a}/{a}", resource: {type: a, id: b}}'), "twice"),
        (with_route('{path: "/{a}/{a*}", resource: {type: a, id: b}}'), "twice"),
        (with_route('{path: "/{a*}/b", resource: {type: a, id: b}}'), "no name"),
        (with_route('{path: "/{a}", resource: {type: a, id: "{b}"}}'), "`{b}` is no name of the path"),
        (with_route('{path: "/a", resource: {type: a, id: "{"}}'), "brace"),
        (with_route('{path: "/a", resource: {type: a, id: b, properties: 1}}'), "an object"),
        (with_route('{path: "/a", resource: {type: a, id: b, properties: {c: "{d}"}}}'), "no name of the path"),
        (with_route("{path: /a, resource: {type: a, id: b}, methods: [post]}"), "upper case"),
        (with_route('{path: /a, resource: {type: a, id: b}, hosts: ["**"]}'), "write `*`"),
        (with_route("{path: /a, resource: {type: a, id: b}, headers: [Cookie]}"), "not for this"),
        (with_route("{path: /a, resource: {type: a, id: b}, headers: [X-API-Key]}"), "not for this"),
        (with_route("{path: /a, resource: {type: a, id: b}, boddy: json}"), "did you mean `body`?"),
        (with_route("{path: /a, resource: {type: a, id: b}, body: mutation}"), "the body says"),
        (with_route("{path: /a, body: mutation, action: x}"), "the body says"),
    ],
)
def test_each_fault_is_told_with_its_place(tmp_path, text, said):
    with pytest.raises(FirewallError) as caught:
        read(tmp_path, text)
    assert caught.value.kind is Kind.INVALID_SETTINGS
    assert said in caught.value.detail
    assert "MFW_EXT_AUTHZ__MAPPING" in (caught.value.fix or "")


def test_faults_are_counted(tmp_path):
    with pytest.raises(FirewallError, match="with 2 errors"):
        read(tmp_path, HEAD + "gateways: [{kind: a}, {kind: b}]\n" + ROUTES)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FirewallError, match="no such file"):
        read_mapping(tmp_path / "none.yaml")
