"""The end in two steps: SIGTERM says so first; whoever insists ends it at once."""

import asyncio
import signal
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn

from app.cli.draining import STATE, DrainingServer


class Drain:
    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.begun = 0

    def begin(self) -> None:
        self.begun += 1


async def nothing(_scope: Any, _receive: Any, _send: Any) -> None:
    """No application is asked here."""


def server(drain: object, **options: Any) -> DrainingServer:
    made = DrainingServer(uvicorn.Config(nothing, **options))
    made._loop = asyncio.get_running_loop()
    made.lifespan = SimpleNamespace(state={STATE: drain})
    return made


async def test_the_first_sigterm_says_that_it_goes_and_goes_later():
    drain = Drain(0.05)
    made = server(drain, timeout_graceful_shutdown=20)
    made.handle_exit(signal.SIGTERM, None)
    assert (drain.begun, made.should_exit) == (0, False)  # not between two instructions: in the loop
    await asyncio.sleep(0)
    assert (drain.begun, made.should_exit) == (1, False)
    async with asyncio.timeout(60):
        while not made.should_exit:
            await asyncio.sleep(0.005)
    assert not made.force_exit
    # Raised again by uvicorn when all is over, and the time that draining took is not given twice.
    assert made._captured_signals == [signal.SIGTERM]
    assert made.config.timeout_graceful_shutdown == 19


async def test_without_a_time_to_drain_it_goes_at_once():
    made = server(Drain(0))
    made.handle_exit(signal.SIGTERM, None)
    await asyncio.sleep(0)
    assert made.should_exit
    assert made.config.timeout_graceful_shutdown is None


async def test_a_grace_that_is_shorter_than_the_draining_is_over():
    made = server(Drain(60), timeout_graceful_shutdown=5)
    made.handle_exit(signal.SIGTERM, None)
    await asyncio.sleep(0)
    assert made.config.timeout_graceful_shutdown == 0
    assert not made.should_exit


async def test_a_second_sigterm_skips_the_draining():
    drain = Drain(60)
    made = server(drain)
    made.handle_exit(signal.SIGTERM, None)
    await asyncio.sleep(0)
    made.handle_exit(signal.SIGTERM, None)
    assert made.should_exit
    assert drain.begun == 1


@pytest.mark.parametrize("drain", [None, object()], ids=["no lifespan yet", "no drain"])
async def test_what_cannot_drain_goes_at_once(drain):
    made = server(drain)
    made.handle_exit(signal.SIGTERM, None)
    assert made.should_exit
    early = DrainingServer(uvicorn.Config(nothing))
    early.handle_exit(signal.SIGTERM, None)
    assert early.should_exit


async def test_ctrl_c_goes_at_once():
    drain = Drain(60)
    made = server(drain)
    made.handle_exit(signal.SIGINT, None)
    assert made.should_exit
    await asyncio.sleep(0)
    assert drain.begun == 0
