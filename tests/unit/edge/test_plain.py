"""The port without TLS: probes pass, nobody else."""

from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from app.edge.plain import HealthWithoutTls
from app.surfaces.problems import problem


async def asked(scope: dict[str, Any]) -> int:
    sent: list[Message] = []

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})

    async def receive() -> Message:
        raise AssertionError

    async def send(message: Message) -> None:
        sent.append(message)

    await HealthWithoutTls(app, problem=problem)(scope, receive, send)
    status: int = sent[0]["status"]
    return status


@pytest.mark.parametrize(
    ("scheme", "path", "status"),
    [
        ("http", "/health", 200),
        ("http", "/health/ready", 200),
        ("http", "/healthy", 403),
        ("http", "/v1/decisions", 403),
        ("http", "/", 403),
        ("https", "/v1/decisions", 200),
    ],
)
async def test_who_passes(scheme: str, path: str, status: int) -> None:
    assert await asked({"type": "http", "scheme": scheme, "path": path}) == status


async def test_what_is_no_request_passes() -> None:
    assert await asked({"type": "lifespan"}) == 200
