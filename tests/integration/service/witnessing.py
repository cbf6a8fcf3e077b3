"""A witness of the tests' log, on loopback, in a thread of its own."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import uvicorn

from app.cli.server import OPTIONS
from app.cli.witness import Witness, WitnessApp
from app.core.notes import SignerKey
from app.core.witnessing import WitnessAddress
from tests.integration.service.published import LOG, ORIGIN


@contextlib.contextmanager
def witness(key: SignerKey, directory: Path) -> Iterator[WitnessAddress]:
    """A witness that answers, and its address."""
    state = Witness(key, logs={ORIGIN: (LOG.verifier,)}, directory=directory)
    options = OPTIONS | {"lifespan": "off", "loop": "asyncio"}
    server = uvicorn.Server(uvicorn.Config(WitnessApp(state), host="127.0.0.1", port=0, **options))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()), name=key.name)
    thread.start()
    try:
        deadline = time.monotonic() + 180
        while not server.started and thread.is_alive() and time.monotonic() < deadline:
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield WitnessAddress(key.verifier, f"http://127.0.0.1:{port}")
    finally:
        server.should_exit = True
        thread.join(180)
        state.close()
