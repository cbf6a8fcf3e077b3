"""What a kubelet and Prometheus are answered by a controller."""

import asyncio
import contextlib
import socket
import threading

import httpx
import pytest

from app.controller.metrics import ControllerMetrics
from app.controller.serving import serving
from app.errors import FirewallError, Kind
from tests.ports import free_port

REGISTRY = ControllerMetrics(version="0").registry
WAIT_SECONDS = 60


async def test_health_and_metrics() -> None:
    ready = threading.Event()
    with serving("127.0.0.1", 0, registry=REGISTRY, ready=ready.is_set, alive_seconds=WAIT_SECONDS) as port:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=WAIT_SECONDS) as client:

            async def ask(path: str) -> tuple[int, str]:
                answer = await client.get(path)
                assert answer.headers["cache-control"] == "no-store"
                assert answer.headers["server"] == "mutation-firewall"
                return answer.status_code, answer.text

            assert await ask("/health/live") == (200, "alive\n")
            assert await ask("/health/ready") == (503, "not ready\n")
            ready.set()
            assert await ask("/health/ready?verbose") == (200, "ready\n")
            status, text = await ask("/metrics")
            assert status == 200
            assert "mfw_controller_leader 0.0" in text
            told = await client.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
            assert told.headers["content-type"].startswith("application/openmetrics-text")
            assert told.text.endswith("# EOF\n")
            assert (await ask("/"))[0] == 404
            assert (await client.post("/metrics")).status_code == 501


async def test_an_event_loop_that_hangs_is_not_alive() -> None:
    with serving("127.0.0.1", 0, registry=REGISTRY, ready=lambda: True, alive_seconds=0.2) as port:
        answers: list[int] = []

        def ask() -> None:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=WAIT_SECONDS) as client:
                answers.append(client.get("/health/live").status_code)
                # What needs no event loop is answered all the same.
                answers.append(client.get("/metrics").status_code)

        asking = threading.Thread(target=ask)
        asking.start()
        # This is the event loop, and it waits here.
        asking.join(WAIT_SECONDS)
        assert answers == [503, 200]


async def test_who_says_nothing_keeps_nobody_else_waiting() -> None:
    with contextlib.ExitStack() as kept:
        # No port that the kernel gives to others as soon as it is free, or to who connects to it.
        with serving("127.0.0.1", free_port(), registry=REGISTRY, ready=lambda: True) as port:
            silent = kept.enter_context(socket.create_connection(("127.0.0.1", port)))
            silent.send(b"GET /health")
            async with httpx.AsyncClient(timeout=WAIT_SECONDS) as client:
                assert (await client.get(f"http://127.0.0.1:{port}/health/ready")).status_code == 200
        # It ended while somebody was still connected.
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)


async def test_no_resolver_is_asked_for_the_name_of_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    def away(_name: str = "") -> str:
        raise AssertionError("the resolver is away")

    monkeypatch.setattr(socket, "getfqdn", away)
    with serving("0.0.0.0", 0, registry=REGISTRY, ready=lambda: True) as port:
        async with httpx.AsyncClient(timeout=WAIT_SECONDS) as client:
            assert (await client.get(f"http://127.0.0.1:{port}/health/ready")).status_code == 200


async def test_over_ipv6() -> None:
    with serving("::1", 0, registry=REGISTRY, ready=lambda: True) as port:
        async with httpx.AsyncClient(timeout=WAIT_SECONDS) as client:
            assert (await client.get(f"http://[::1]:{port}/health/ready")).status_code == 200


@pytest.mark.parametrize(("host", "port"), [("127.0.0.1", None), ("192.0.2.1", 0), ("no such host", 0)])
async def test_an_address_that_cannot_be_bound_is_refused(host: str, port: int | None) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        wanted = taken.getsockname()[1] if port is None else port
        with (
            pytest.raises(FirewallError, match="cannot be served on") as caught,
            serving(host, wanted, registry=REGISTRY, ready=lambda: True),
        ):
            pass
    assert caught.value.kind is Kind.INVALID_SETTINGS
    assert "--metrics-port" in str(caught.value.fix)
