"""The metrics on a port of their own."""

import httpx
import pytest

from app.errors import FirewallError, Kind
from app.observability.metrics import Metrics, serve_metrics
from tests.ports import free_port


async def test_it_serves_and_stops() -> None:
    metrics = Metrics(version="0")
    # None that the kernel gives to who connects: asked for when nobody listens any more, it could answer itself.
    port, stop = serve_metrics(metrics, host="127.0.0.1", port=free_port())
    async with httpx.AsyncClient(timeout=60) as client:
        response = await client.get(f"http://127.0.0.1:{port}/metrics")
        assert response.status_code == 200
        assert "mfw_decisions_total" in response.text
        stop()
        with pytest.raises(httpx.ConnectError):
            await client.get(f"http://127.0.0.1:{port}/metrics")


@pytest.mark.parametrize(
    ("host", "port"), [("127.0.0.1", None), ("192.0.2.1", 0), ("no such host", 0), ("127.0.0.1", 99_999)]
)
def test_an_address_that_cannot_be_bound_is_an_error_with_its_settings(host: str, port: int | None) -> None:
    taken, stop = serve_metrics(Metrics(version="0"), host="127.0.0.1", port=0)
    try:
        with pytest.raises(FirewallError) as caught:
            serve_metrics(Metrics(version="0"), host=host, port=taken if port is None else port)
    finally:
        stop()
    assert caught.value.kind is Kind.INVALID_SETTINGS
    assert caught.value.fix is not None
    assert "MFW_METRICS__PORT" in caught.value.fix
