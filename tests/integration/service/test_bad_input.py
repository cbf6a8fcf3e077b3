"""Bad input of any kind: a precise problem that names the member, never a 500, never a 422, and nothing recorded."""

import http.client
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[3]
GOOD = json.loads((ROOT / "examples" / "allow-k8s-deployment-scaled.json").read_bytes())
JSON = {"Content-Type": "application/json"}


def mutated(**members):
    return json.dumps({**GOOD, **members}).encode()


def without(*names):
    return json.dumps({name: value for name, value in GOOD.items() if name not in names}).encode()


def nested(depth):
    return b'{"a":' * depth + b"1" + b"}" * depth


CASES = {
    "empty body": (b"", 400, ""),
    "not json": (b"hello", 400, ""),
    "truncated": (b'{"subject": {"type": "agent"', 400, ""),
    "not an object": (b"[1]", 400, ""),
    "null": (b"null", 400, ""),
    "invalid utf-8": (b'{"subject": "\xff"}', 400, None),
    "byte order mark": (b"\xef\xbb\xbf{}", 400, ""),
    "duplicate key": (b'{"subject": 1, "subject": 2}', 400, ""),
    "duplicate key, escaped": (b'{"subject": 1, "s\\u0075bject": 2}', 400, ""),
    "NUL": (mutated(context={"note": "a\0b"}), 400, "/context/note"),
    "NUL in a key": (mutated(context={"no\0te": 1}), 400, None),
    "lone surrogate": (b'{"context": {"x": "\\ud800"}}', 400, None),
    "2^64": (mutated(context={"n": 2**64}), 400, "/context/n"),
    "2^63": (mutated(context={"n": 2**63}), 400, "/context/n"),
    "below int64": (mutated(context={"n": -(2**63) - 1}), 400, "/context/n"),
    "NaN": (b'{"context": {"n": NaN}}', 400, None),
    "1e400": (b'{"context": {"n": 1e400}}', 400, None),
    "depth 500": (nested(500), 400, None),
    "depth 100000": (nested(100_000), 400, None),
    "missing resource": (without("resource"), 400, "/resource"),
    "missing subject id": (mutated(subject={"type": "agent"}), 400, "/subject/id"),
    "empty id": (mutated(resource={"type": "apps/Deployment", "id": ""}), 400, "/resource/id"),
    "unknown member": (mutated(recource={}), 400, "/recource"),
    "unknown member of change": (mutated(change={"beforr": {}}), 400, "/change/beforr"),
    "no change": (mutated(change={}), 400, "/change"),
    "change is a list": (mutated(change=[]), 400, "/change"),
    "diff is a number": (mutated(change={"diff": 3}), 400, "/change/diff"),
    "empty diff": (mutated(change={"diff": ""}), 400, "/change/diff"),
    "diff with wrong counts": (
        mutated(change={"diff": "--- a/x\n+++ b/x\n@@ -1,3 +1,1 @@\n-a\n+b\n"}),
        400,
        "/change/diff",
    ),
    "unknown dialect": (
        mutated(change={"statement": {"dialect": "cobol", "text": "x"}}),
        400,
        "/change/statement/dialect",
    ),
    "patch that does not apply": (
        mutated(change={"before": {}, "patch": [{"op": "remove", "path": "/a"}]}),
        400,
        "/change/patch/0",
    ),
    "2 MiB body": (mutated(context={"x": "y" * 2_097_152}), 413, None),
}


@pytest.mark.parametrize("name", CASES)
def test_refused_with_its_pointer(service, name):
    body, status, pointer = CASES[name]
    before = len(service.entries())
    with service.client() as client:
        answer = client.post("/v1/decisions", content=body, headers=JSON)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == status
    assert re.fullmatch(r"https://mutationfirewall\.io/problems/[a-z-]+", problem["type"])
    assert problem["request_id"] == answer.headers["x-request-id"]
    assert problem["detail"]
    assert "Traceback" not in answer.text
    if pointer is not None:
        assert problem.get("pointer", "") == pointer, problem
    assert len(service.entries()) == before


@pytest.mark.parametrize("content_type", ["text/plain", "application/xml", "", "application/json; charset=latin-1"])
def test_wrong_content_type(service, content_type):
    headers = {"Content-Type": content_type} if content_type else {}
    with service.client() as client:
        answer = client.post("/v1/decisions", content=mutated(), headers=headers)
    assert answer.status_code == 415
    assert answer.json()["type"].endswith("/unsupported-media-type")


def test_unknown_action_is_denied_by_default_not_refused(service):
    with service.client() as client:
        answer = client.post("/v1/decisions", content=mutated(action={"name": "defenestrate"}), headers=JSON)
    assert answer.status_code == 200
    assert answer.json()["decision"] == "deny"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("PUT", "/v1/decisions", 405),
        ("POST", "/v1/decisions/", 404),
        ("GET", "/nothing/here", 404),
        ("POST", "/health", 405),
        ("GET", "/v1/decisions/%00", 400),
    ],
)
def test_wrong_way(service, method, path, status):
    with service.client() as client:
        answer = client.request(method, path)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    if status == 405:
        assert answer.headers["allow"]


@pytest.mark.parametrize(
    "header",
    ["", "Bearer", "Bearer mfw_", "Basic dXNlcjpwYXNz", "Bearer a.b.c", "Bearer " + "x" * 9000, "mfw_" + "a" * 49],
)
def test_nobody_without_a_credential(service, header):
    with service.client(key="") as client:
        answer = client.post(
            "/v1/decisions", content=mutated(), headers=JSON | ({"Authorization": header} if header else {})
        )
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")


def test_the_wrong_role_is_forbidden(service):
    with service.client(key=service.operator_key) as client:
        answer = client.post("/v1/decisions", content=mutated(), headers=JSON)
    assert answer.status_code == 403
    assert "decide" in answer.json()["detail"]
    with service.client() as client:
        assert client.get("/health/detailed").status_code == 403
    with service.client(key=service.operator_key) as client:
        detailed = client.get("/health/detailed")
    assert detailed.status_code == 200
    assert {"database", "ledger", "policies", "api_keys"} <= detailed.json()["components"].keys()


def test_health_answers_anybody(service):
    with service.client(key="") as client:
        for path in ("/health", "/health/live", "/health/ready", "/health/startup"):
            assert client.get(path).status_code == 200, path
        assert client.get("/health/detailed").status_code == 401


def test_limit(database_dsn, serve):
    with (
        serve(database_dsn, MFW_LIMITS__PER_MINUTE="1", MFW_LIMITS__BURST="3") as limited,
        limited.client() as client,
    ):
        answers = [client.post("/v1/decisions", content=mutated(), headers=JSON) for _ in range(5)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
        assert answers[0].headers["ratelimit"].startswith('"default";r=2;')
        refused = answers[-1]
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.json()["retry_after"] == int(refused.headers["retry-after"])
        assert len(limited.entries()) == 3


def test_a_chunked_body_is_limited_too(service):
    def chunks():
        for _ in range(64):
            yield b"x" * 65_536

    with service.client() as client:
        answer = client.post("/v1/decisions", content=chunks(), headers=JSON)
    assert answer.status_code == 413


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(body=st.binary(max_size=300))
def test_any_bytes(service, body):
    with service.client() as client:
        answer = client.post("/v1/decisions", content=body, headers=JSON)
    assert answer.status_code == 400, answer.text


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(data=st.data())
def test_any_value_anywhere(service, data):
    """A good mutation with any one member replaced by any JSON value: decided or refused, never an error of ours."""
    json_values = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
        max_leaves=8,
    )
    mutation = json.loads(json.dumps(GOOD))
    places: list[tuple[Any, Any]] = []

    def walk(node):
        if isinstance(node, dict):
            for name in node:
                places.append((node, name))
                walk(node[name])
        elif isinstance(node, list):
            for position in range(len(node)):
                places.append((node, position))
                walk(node[position])

    walk(mutation)
    holder, place = data.draw(st.sampled_from(places))
    holder[place] = data.draw(json_values)
    with service.client() as client:
        answer = client.post("/v1/decisions", content=json.dumps(mutation).encode(), headers=JSON)
    assert answer.status_code in {200, 400}, answer.text


@pytest.mark.parametrize("header", ["x" * 70_000, "bad\tvalue"])
def test_strange_headers_do_not_break_it(service, header):
    host, port = service.url.removeprefix("http://").split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=60)
    try:
        connection.request("POST", "/v1/decisions", body=mutated(), headers=JSON | {"X-Request-Id": header})
        assert connection.getresponse().status in {400, 401, 431}
    except (ConnectionError, http.client.HTTPException):
        pass  # the server may hang up on a head that is too large
    finally:
        connection.close()
    with service.client() as client:
        assert client.get("/health/live").status_code == 200
