"""A service that is there to be killed: `start [INSTANT]` on standard input forks one that answers, and says its pid and port.

Forked, because the modules are then imported once: a start costs a tenth of a second and not two. `INSTANT` is where it
kills itself with SIGKILL, at the first request that comes there: `stored` (the answer is written, nothing is committed)
or `committed` (the transaction is over, nobody was told).
"""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any

import uvicorn
import uvloop

from app.bootstrap import create_app
from app.cli.server import OPTIONS
from app.ledger import once, spend
from app.settings import Settings


def _deadly(act: Callable[..., Any]) -> Callable[..., Any]:
    async def wrapped(*args: Any, **options: Any) -> Any:
        await act(*args, **options)
        os.kill(os.getpid(), signal.SIGKILL)

    return wrapped


def _serve(instant: str, listener: socket.socket) -> None:
    match instant:
        case "stored":
            spend.store = _deadly(spend.store)  # type: ignore[attr-defined]  # where it is called from
        case "committed":
            spend.BudgetLedger.settle_once = _deadly(spend.BudgetLedger.settle_once)  # type: ignore[method-assign]  # so
        case _:
            pass

    async def serve() -> None:
        config = uvicorn.Config(create_app(Settings.load(dict(os.environ))), **OPTIONS)
        await uvicorn.Server(config).serve(sockets=[listener])

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve())


def main() -> None:
    """Start one at a time; the next one when it is dead."""
    # What the dead one left open is rolled back before anybody is told to come again.
    once.WAIT_SECONDS = 60.0  # type: ignore[misc]  # longer than any machine takes
    for line in sys.stdin:
        _, _, instant = line.strip().partition(" ")
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen(64)
            child = os.fork()
            if not child:
                try:
                    _serve(instant, listener)
                finally:
                    os._exit(1)
            os.write(1, f"{child} {listener.getsockname()[1]}\n".encode())
        os.waitpid(child, 0)
        os.write(1, b"dead\n")


if __name__ == "__main__":
    main()
