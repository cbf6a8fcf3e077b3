"""The end of a server in two steps: it says that it is going, and goes when everybody could have heard it."""

import asyncio
import math
import signal
from types import FrameType
from typing import Any, Protocol, runtime_checkable

from uvicorn import Config, Server

# Under which name the application's lifespan gives the server its `Drain`.
STATE: str = "drain"


@runtime_checkable
class Drain(Protocol):
    """What the application does when it is told to go; `seconds` is how long requests are still accepted after it."""

    seconds: float

    def begin(self) -> None:
        """Say that requests should go elsewhere from now on."""


class DrainingServer(Server):
    """On the first SIGTERM readiness is false, and connections are accepted as before for a while.

    A load balancer needs that time: what it sends before it has heard would meet a closed door. Every other signal, and
    a second SIGTERM, ends at once what uvicorn ends at once.
    """

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._going = False

    async def serve(self, sockets: Any = None) -> None:
        """Serve until told to go."""
        self._loop = asyncio.get_running_loop()
        await super().serve(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Called by Python between two instructions of the main thread, which is that of the event loop."""
        drain = getattr(getattr(self, "lifespan", None), "state", {}).get(STATE)
        if sig != signal.SIGTERM or self._going or self._loop is None or not isinstance(drain, Drain):
            super().handle_exit(sig, frame)
            return
        self._going = True
        # Raised again when all is over, as uvicorn does it.
        self._captured_signals.append(sig)
        self._loop.call_soon_threadsafe(self._go, drain)

    def _go(self, drain: Drain) -> None:
        drain.begin()
        if self.config.timeout_graceful_shutdown is not None:
            # gunicorn's patience began with the signal.
            left = self.config.timeout_graceful_shutdown - math.ceil(drain.seconds)
            self.config.timeout_graceful_shutdown = max(0, left)
        if drain.seconds > 0:
            asyncio.get_running_loop().call_later(drain.seconds, self._gone)
        else:
            self._gone()

    def _gone(self) -> None:
        self.should_exit = True
