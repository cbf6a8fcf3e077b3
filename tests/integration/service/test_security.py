"""What docs/security.md promises of the service as a whole, asked over HTTP."""

import json
import socket
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from urllib.parse import urlsplit

import pytest

from app.core.normalise import normalise
from app.surfaces.native.wire import mutation_from_wire
from tests.integration.service.conftest import apart, running

JSON = {"Content-Type": "application/json"}
ABSENT = "sha256:" + "0" * 64
SAFE = {"cache-control": "no-store", "x-content-type-options": "nosniff"}
SITE = "https://console.example.com"


def mutation(number=0, **changes):
    return {
        "subject": {"type": "agent", "id": f"a-{number}"},
        "action": {"name": "update"},
        "resource": {"type": "note", "id": f"r-{number}"},
        "change": {"before": {"n": 0}, "after": {"n": number}},
        "request_id": f"request-{number}",
        **changes,
    }


@pytest.mark.parametrize(
    "path",
    [
        "/v1/policy-sets/" + ABSENT.upper(),
        "/v1/policy-sets/" + ABSENT + "'--",
        "/v1/policy-sets/' OR '1'='1",
        "/v1/policy-sets/" + ABSENT + "%00",
        "/v1/policy-sets/" + ABSENT + "%0a",
        "/v1/policy-sets/%2e%2e/active",
        "/v1/policy-sets/../policy-sets/active",
        "/v1/policy-sets/..%2fdecisions",
        "/v1/policy-sets//active",
        "/v1/policy-sets/active/activate",
        "/v1/policy-sets/data.secrets[_]",
        "/v1/policy-sets/" + ABSENT + "/activate;x=1",
        "/v1/policy-sets/${jndi:ldap://x}",
        "//v1/decisions",
        "/v1/Decisions",
        "/v1/decisions%2f",
        "/v1/decisions;a",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_path_is_a_name_and_no_expression(service, path, method):
    """OPA read a path as part of a query (CVE-2025-46569). Sent by hand: a client would tidy the path up."""
    before = len(service.entries())
    parts = urlsplit(service.url)
    body = b'{"reason": "x"}'
    head = (
        f"{method} {path.replace(' ', '%20')} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {service.admin_key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    with socket.create_connection((parts.hostname, parts.port), timeout=60) as connection:
        connection.sendall(head.encode() + body)
        answer = b"".join(iter(lambda: connection.recv(65_536), b""))
    status = int(answer.split(b" ", 2)[1])
    assert status in {400, 404, 405}, answer
    assert b"application/problem+json" in answer
    assert len(service.entries()) == before


def test_answers_never_mix(service):
    """Many ask at once and share one commit; each is answered about its own mutation (CVE-2026-34972)."""
    with service.client() as client, ThreadPoolExecutor(max_workers=32) as threads:

        def ask(number):
            return client.post("/v1/decisions", json=mutation(number)).json()

        answers = list(threads.map(ask, range(400)))
    receipts = {identity: json.loads(receipt) for _, identity, receipt in service.entries()}
    for number, answer in enumerate(answers):
        assert answer["request_id"] == f"request-{number}"
        assert answer["mutation_digest"] == normalise(mutation_from_wire(mutation(number))).digest
        assert receipts[answer["id"]]["mutation"] == answer["mutation_digest"]
    assert len({answer["ledger_index"] for answer in answers}) == len(answers)


TEXTS = [
    "'; DROP TABLE ledger_entries; --",
    '" OR ""="',
    "%s %d %n {0} ${jndi:ldap://x/a} #{7*7} {{7*7}}",
    "\r\nSet-Cookie: a=b",
    "<script>alert(1)</script>",
    "\u001b[2J\u0007",
    "../../etc/passwd",
    "\u202egnp.exe",
]


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_is_only_a_text(service, text):
    """It is recorded as it came, and steers neither the database nor the answer's headers nor the next entry."""
    sent = mutation(
        subject={"type": "agent", "id": text, "properties": {text: text}},
        resource={"type": text, "id": text},
        context={text: text},
        rationale=text,
        request_id=text,
    )
    with service.client() as client:
        answer = client.post("/v1/decisions", json=sent)
        after = client.post("/v1/decisions", json=mutation())
    assert (answer.status_code, after.status_code) == (200, 200), answer.text
    assert answer.json()["request_id"] == text
    assert "set-cookie" not in answer.headers

    async def record():
        import asyncpg

        connection = await asyncpg.connect(service.dsn)
        try:
            return await connection.fetchval(
                "SELECT record FROM ledger_records WHERE idx = $1", answer.json()["ledger_index"]
            )
        finally:
            await connection.close()

    kept = json.loads(apart(record()))["input"]
    assert (kept["subject"]["id"], kept["context"], kept["resource"]["type"]) == (text, {text: text}, text)
    indexes = [index for index, _, _ in service.entries()]
    assert all(second == first + 1 for first, second in pairwise(indexes))


def test_a_decision_about_an_activation_activates_nothing(service):
    """Whoever may ask can claim to be an administrator who activates; the answer is about that claim, and no more."""
    claimed = mutation(
        subject={"type": "service", "id": "api", "properties": {"roles": ["admin"]}},
        action={"name": "activate"},
        resource={"type": "policy-set", "id": ABSENT},
        context={"surface": "policy-sets"},
    )
    with service.client() as asking, service.client(key=service.admin_key) as client:
        before = client.get("/v1/policy-sets/active").json()["digest"]
        assert asking.post("/v1/decisions", json=claimed).status_code == 200
        assert asking.post(f"/v1/policy-sets/{ABSENT}/activate", json={"reason": "x"}).status_code == 403
        assert client.get("/v1/policy-sets/active").json()["digest"] == before
        assert client.get("/v1/policy-sets/activations").json() == {"items": []}


def test_no_origin_may_call_by_default(service):
    asked = {"Origin": SITE, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    with service.client() as client:
        preflight = client.options("/v1/decisions", headers=asked)
        answer = client.post("/v1/decisions", json=mutation(), headers={"Origin": SITE})
    assert preflight.status_code == 405
    assert answer.status_code == 200
    for headers in (preflight.headers, answer.headers):
        assert not [name for name in headers if name.startswith("access-control-")]


def test_an_origin_that_is_named_may_call_and_no_other(database_dsn):
    with running(database_dsn, MFW_HTTP__CORS_ORIGINS=SITE) as service, service.client() as client:

        def ask(origin, **more):
            asked = {"Origin": origin, "Access-Control-Request-Method": "POST", **more}
            return (
                client.options("/v1/decisions", headers=asked),
                client.post("/v1/decisions", json=mutation(), headers={"Origin": origin}),
            )

        wanted = "authorization, content-type, idempotency-key, traceparent, x-request-id"
        preflight, answer = ask(SITE, **{"Access-Control-Request-Headers": wanted})
        assert preflight.status_code == 200, preflight.text
        assert preflight.headers["access-control-allow-origin"] == SITE
        assert "x-request-id" in preflight.headers
        assert answer.headers["access-control-allow-origin"] == SITE
        for headers in (preflight.headers, answer.headers):
            # A browser's own cookies and certificates are never a credential here.
            assert "access-control-allow-credentials" not in headers
            assert "origin" in headers["vary"].lower()
        for other in (
            "https://evil.example.com",
            "null",
            SITE + ".evil.com",
            "http://console.example.com",
            SITE.upper(),
        ):
            for refused in ask(other):
                assert "access-control-allow-origin" not in refused.headers, other


@pytest.mark.parametrize(
    ("method", "path", "content", "status"),
    [
        ("POST", "/v1/decisions", json.dumps(mutation()).encode(), 200),
        ("POST", "/v1/decisions", b"{", 400),
        ("POST", "/v1/decisions", b" " * 1_048_577, 413),
        ("PUT", "/v1/decisions", b"", 405),
        ("GET", "/v1/policy-sets", b"", 403),
        ("GET", "/v1/nothing", b"", 404),
        ("GET", "/health/live", b"", 200),
        ("GET", "/openapi.json", b"", 200),
    ],
)
def test_every_answer_is_safe_and_has_the_id_of_its_request(service, method, path, content, status):
    headers = JSON | {"X-Request-Id": "caller-7"}
    with service.client() as client:
        answer = client.request(method, path, content=content, headers=headers)
    assert answer.status_code == status, answer.text
    assert {name: answer.headers.get(name) for name in SAFE} == SAFE
    assert answer.headers["x-request-id"] == "caller-7"
    assert "server" not in answer.headers
