"""The main job over HTTP: each example decides as its name says, and the ledger holds what was answered."""

import asyncio
import hashlib
import json
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from asgi_lifespan import LifespanManager

from app.bootstrap import create_app
from app.cli.protocol import MAX_HEAD_BYTES
from app.core import strict_json
from app.ledger import receipt as receipts
from app.settings import Settings
from app.surfaces.native.routes import HotPath
from tests.integration.service.conftest import UNHURRIED, running, scraped
from tests.ports import free_port

ROOT = Path(__file__).resolve().parents[3]
EXAMPLES = sorted((ROOT / "examples").glob("*.json"))


def post(client: httpx.Client, body: bytes, **headers: str) -> httpx.Response:
    return client.post("/v1/decisions", content=body, headers={"Content-Type": "application/json", **headers})


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_example_decides_as_named_and_is_recorded(service, example):
    with service.client() as client:
        answer = post(client, example.read_bytes())
    assert answer.status_code == 200, answer.text
    decision = answer.json()
    assert decision["decision"] == example.stem.split("-")[0]
    assert decision["reasons"]
    assert ("approval" in decision) == (decision["decision"] == "hold")

    index, identity, receipt = service.entries()[decision["ledger_index"]]
    assert (index, identity) == (decision["ledger_index"], decision["id"])
    assert decision["receipt_hash"] == "sha256:" + hashlib.sha256(b"\x00" + receipt).hexdigest()
    members = receipts.parse(receipt)
    assert members["decision"] == decision["decision"]
    assert members["mutation"] == decision["mutation_digest"]
    assert members["policy_set"] == decision["policy_set"]
    assert members["at"] == decision["decided_at"]
    assert (members["policy"], members["rule"]) == (decision["reasons"][0]["policy"], decision["reasons"][0]["rule"])


def test_the_metrics_tell_what_was_decided_and_what_was_refused(serve, database_dsn):
    port = free_port()
    named = {effect: next(e for e in EXAMPLES if e.stem.startswith(effect)) for effect in ("allow", "deny", "hold")}
    with serve(database_dsn, MFW_METRICS__ENABLED="true", MFW_METRICS__PORT=str(port)) as service:
        with service.client() as client:
            for count, example in enumerate(named.values(), start=1):
                for _ in range(count):
                    assert post(client, example.read_bytes()).status_code == 200
            assert post(client, b"{}").status_code == 400
        with service.client(key="mfw_wrong") as stranger:
            assert post(stranger, b"{}").status_code == 401
        scraped(
            port,
            *(f'mfw_decisions_total{{effect="{effect}"}} {count}.0' for count, effect in enumerate(named, start=1)),
            'mfw_auth_attempts_total{method="api_key",result="success"} 7.0',
            'mfw_auth_attempts_total{method="api_key",result="failure"} 1.0',
        )


def test_a_head_without_end_is_refused(service):
    """By the protocol that `mfw` serves with, not only by its own tests."""
    url = httpx.URL(service.url)
    # Hardly more than the limit: what the server has not read when it closes would take its answer away.
    with socket.create_connection((url.host, url.port), timeout=60) as connection:
        connection.sendall(b"GET /health/live HTTP/1.1\r\nX-Padding: " + b"x" * MAX_HEAD_BYTES)
        assert connection.makefile("rb").readline().split()[1] == b"431"


def test_identifier_is_a_uuid7_of_the_moment_and_indexes_follow_one_another(service):
    body = EXAMPLES[0].read_bytes()
    with service.client() as client:
        answers = [post(client, body).json() for _ in range(5)]
    indexes = [answer["ledger_index"] for answer in answers]
    assert indexes == list(range(indexes[0], indexes[0] + 5))
    assert len({answer["id"] for answer in answers}) == 5
    for answer in answers:
        identity = UUID(answer["id"])
        assert identity.version == 7
        moment = datetime.fromtimestamp((identity.int >> 80) / 1000, UTC)
        assert abs(moment - datetime.fromisoformat(answer["decided_at"])) < timedelta(milliseconds=2)


def test_request_id_is_echoed_and_does_not_change_the_digest(service):
    mutation = json.loads(EXAMPLES[0].read_bytes())
    with service.client() as client:
        plain = post(client, json.dumps(mutation).encode())
        named = post(
            client,
            json.dumps({**mutation, "request_id": "r-1", "rationale": "because"}).encode(),
            **{"X-Request-Id": "caller-7"},
        )
    assert named.json()["request_id"] == "r-1"
    assert named.headers["x-request-id"] == "caller-7"
    assert "request_id" not in plain.json()
    assert named.json()["mutation_digest"] == plain.json()["mutation_digest"]


def test_record_keeps_the_input_and_the_receipt_binds_it(service):
    with service.client() as client:
        decision = post(client, EXAMPLES[0].read_bytes()).json()

    async def record() -> tuple[bytes, bytes]:
        import asyncpg

        connection = await asyncpg.connect(service.dsn)
        try:
            row = await connection.fetchrow(
                "SELECT salt, record FROM ledger_records WHERE idx = $1", decision["ledger_index"]
            )
            assert row is not None
            return row["salt"], row["record"]
        finally:
            await connection.close()

    salt, kept = asyncio.run(record())
    receipt = receipts.parse(service.entries()[decision["ledger_index"]][2])
    assert receipts.record_digest(salt, kept) == receipt["record"]
    content = strict_json.parse(kept).tree
    sent = json.loads(EXAMPLES[0].read_bytes())
    assert content["input"]["change"] == sent["change"]
    assert content["now"] == decision["decided_at"]
    assert content["decision"] == decision["decision"]


async def test_both_ways_in_answer_alike(database_dsn):
    """The dispatcher in front and the FastAPI route behind it: same status, same headers, same members."""
    settings = Settings.load(
        {
            "MFW_ENVIRONMENT": "test",
            "MFW_DATABASE__URL": database_dsn,
            "MFW_POLICIES__DIRECTORY": str(ROOT / "policies" / "starter"),
            "MFW_METRICS__ENABLED": "false",
            "MFW_AUTH__UNSAFE_DISABLED": "true",
            # Each body is sent twice, and how fast that goes is not the question.
            "MFW_LIMITS__BURST": "1000",
            **UNHURRIED,
        }
    )
    with pytest.warns(RuntimeWarning, match="authentication is off"):
        app = create_app(settings)
    hot: Any = app
    while not isinstance(hot, HotPath):
        # What stands around it, the shedding of load among it, is the same for both ways.
        hot = hot._app
    api = hot._app
    bodies = [
        *(example.read_bytes() for example in EXAMPLES),
        b"",
        b"{",
        b"[]",
        b'{"subject":1}',
        b'{"a":1,"a":2}',
        b'{"x":"\\u0000"}',
    ]
    volatile = {"id", "ledger_index", "receipt_hash", "decided_at", "request_id"}
    async with (
        LifespanManager(api),
        httpx.AsyncClient(transport=httpx.ASGITransport(hot), base_url="http://hot") as front,
        httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://api") as back,
    ):
        for body in bodies:
            answers = [
                await client.post("/v1/decisions", content=body, headers={"Content-Type": "application/json"})
                for client in (front, back)
            ]
            first, second = (
                (
                    answer.status_code,
                    sorted(set(answer.headers) - {"date"}),
                    {name: value for name, value in answer.json().items() if name not in volatile},
                )
                for answer in answers
            )
            assert first == second


async def test_a_client_that_leaves_costs_nothing(database_dsn):
    """The decision of a caller that hung up is in the ledger or not, and the next caller is answered."""
    # One of its own: what those who left have asked for may come into the ledger later than this test ends.
    with running(database_dsn) as service:
        await leave_and_ask(service)


async def leave_and_ask(service):
    body = EXAMPLES[0].read_bytes()
    port = int(service.url.rsplit(":", 1)[1])
    head = (
        f"POST /v1/decisions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {service.key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode()
    for sent in (head, head + body[:10], head + body):
        for _ in range(10):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(sent)
            await writer.drain()
            writer.close()
    credential = {"Authorization": f"Bearer {service.key}"}
    async with httpx.AsyncClient(base_url=service.url, headers=credential, timeout=130) as client:
        answer = await client.post("/v1/decisions", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 200
    entries = service.entries()
    assert [index for index, _, _ in entries] == list(range(len(entries)))
    assert 0 < len(entries) <= 11
