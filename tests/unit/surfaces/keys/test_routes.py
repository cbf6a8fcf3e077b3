"""`/v1/keys` where the client leaves and where the database does not answer; the rest is asked over HTTP."""

import asyncio
from typing import Any

import pytest
from fastapi import FastAPI

from app.core.principal import AuthMethod, Principal, PrincipalKind, Role
from app.surfaces.keys.routes import KeyEndpoints, keys_router
from app.surfaces.problems import install_problem_handlers

ADMIN = Principal("boss", PrincipalKind.USER, frozenset({Role.ADMIN}), AuthMethod.JWT)
ID = "5f0c6b0e-8d1f-4c59-9f8a-1c2d3e4f5a6b"


class Gate:
    async def admit(self, *_: Any) -> Principal:
        return ADMIN


class Store:
    """A database that never answers."""

    async def page(self, **_: Any) -> Any:
        await asyncio.Event().wait()


def application() -> FastAPI:
    app = FastAPI()
    endpoints = KeyEndpoints(store=Store(), keys=None, gate=Gate(), timeout_seconds=0.01)  # type: ignore[arg-type]  # doubles
    app.include_router(keys_router(endpoints))
    install_problem_handlers(app)
    return app


async def ask(method: str, path: str, *received: dict[str, Any]) -> int:
    messages, sent = list(received), []

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "scheme": "http",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json"), (b"content-length", b"9")],
    }
    await application()(scope, receive, send)
    status: int = sent[0]["status"]
    return status


@pytest.mark.parametrize("path", ["/v1/keys", f"/v1/keys/{ID}/rotate"])
async def test_a_client_that_leaves_before_its_body_is_whole(path: str) -> None:
    assert await ask("POST", path, {"type": "http.disconnect"}) == 499


async def test_a_database_that_does_not_answer_in_time() -> None:
    assert await ask("GET", "/v1/keys", {"type": "http.request", "body": b""}) == 504
