"""The composition root, as far as it goes without a database."""

import json
import logging
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

import pytest

from app.bootstrap import _install_key, create_app
from app.errors import FirewallError, Kind
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


async def test_a_bootstrap_key_without_a_database_is_for_the_next_start(caplog: pytest.LogCaptureFixture) -> None:
    service = AsyncMock()
    service.bootstrap.side_effect = FirewallError(Kind.UNAVAILABLE, "the database cannot be reached")
    with caplog.at_level(logging.WARNING):
        await _install_key("mfw_secret", service=service)
    (record,) = caplog.records
    assert record.message == "bootstrap key not stored"
    assert "mfw_secret" not in repr(record.__dict__)


def test_a_rule_for_certificates_that_no_glob_can_be_made_of() -> None:
    settings = Settings.load(
        {
            "MFW_ENVIRONMENT": "test",
            "MFW_DATABASE__URL": "postgresql://nobody@127.0.0.1:1/none",
            "MFW_POLICIES__DIRECTORY": str(STARTER),
            "MFW_AUTH__MTLS__HEADER": "X-Client",
            "MFW_AUTH__MTLS__PROXIES": "10.0.0.0/8",
            "MFW_AUTH__MTLS__ROLES": "agent=spiffe://**",
        }
    )
    with pytest.raises(FirewallError, match="a rule for certificates"):
        create_app(settings)
