"""The composition root, as far as it goes without a database."""

import json
from pathlib import Path
from typing import Any

import pytest

from app.bootstrap import create_app
from app.settings import Settings

STARTER = Path(__file__).resolve().parents[2] / "policies" / "starter"


@pytest.mark.parametrize("debug", [False, True])
async def test_debug_is_about_what_an_unforeseen_error_says(debug: bool) -> None:
    settings = Settings.load(
        {
            "MFW_ENVIRONMENT": "development",
            "MFW_DEBUG": str(debug).lower(),
            "MFW_DATABASE__URL": "postgresql://nobody@127.0.0.1:1/none",
            "MFW_POLICIES__DIRECTORY": str(STARTER),
        }
    )
    app = create_app(settings)
    sent: list[Any] = []

    async def receive() -> Any:
        raise LookupError("the secret plan")

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/decisions",
        "headers": [(b"content-type", b"application/json")],
        "client": ("192.0.2.1", 1),
    }
    await app(scope, receive, send)
    assert sent[0]["status"] == 500
    assert ("LookupError: the secret plan" in json.loads(sent[1]["body"])["detail"]) is debug
