"""The composition root, as far as it goes without a database."""

import json
import logging
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

import pytest

from app.bootstrap import _check_load, _install_key, create_app
from app.edge.shedding import MEMORY_EXHAUSTED, AdaptiveLimit, Pressure, Shedder
from app.errors import FirewallError, Kind
from app.settings import Settings
from app.surfaces.ops.health import Health, Status

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


@pytest.mark.parametrize(
    ("pressure", "status"),
    [
        (Pressure(), Status.HEALTHY),
        (Pressure(memory=0.9), Status.DEGRADED),
        # Refuses all but health as well, and is ready: with fewer requests it is late no more.
        (Pressure(lag=60.0), Status.DEGRADED),
        (Pressure(memory=MEMORY_EXHAUSTED), Status.UNHEALTHY),
    ],
)
async def test_who_refuses_everything_for_want_of_memory_is_not_ready_until_it_has_some(
    pressure: Pressure, status: Status
) -> None:
    class Load:
        name = "load"

        async def __call__(self) -> Any:
            return await _check_load(shedder)

    shedder = Shedder(AdaptiveLimit(), batches_max=4, others_max=64, lag_seconds=0.5, memory_share=0.9)
    now = 0.0
    health = Health([Load()], version="1", monotonic=lambda: now)
    health.started = True
    shedder.feel(pressure)
    report = await health.report()
    assert report.status is status
    assert health.ready(report) is (status is not Status.UNHEALTHY)
    shedder.feel(Pressure())
    now = 10.0
    assert health.ready(await health.report())


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
