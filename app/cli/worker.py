"""The one gunicorn worker of a pod, and gunicorn's own log in our form."""

import os
import sys
from typing import Any

from gunicorn.arbiter import Arbiter
from gunicorn.config import Config
from gunicorn.glogging import Logger
from uvicorn_worker import UvicornWorker

from app.cli.draining import DrainingServer
from app.cli.server import OPTIONS
from app.observability.logs import Logs


class Worker(UvicornWorker):  # type: ignore[misc]  # uvicorn-worker carries no types
    """A uvicorn server that ends its requests, then its lifespan, before gunicorn's patience does."""

    CONFIG_KWARGS = OPTIONS

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """The arguments are gunicorn's."""
        super().__init__(*args, **kwargs)
        self.config.timeout_graceful_shutdown = max(0, self.cfg.graceful_timeout - CLOSING_SECONDS)
        # Read by our protocol, which answers a connection too many itself.
        self.config.limit_concurrency = self.cfg.worker_connections
        # Without a proxy to trust there is nothing to look for in the headers of each request.
        self.config.proxy_headers = bool(self.config.forwarded_allow_ips)

    async def _serve(self) -> None:
        """As uvicorn-worker does it, with our server."""
        self.config.app = self.wsgi
        server = DrainingServer(config=self.config)
        self._install_sigquit_handler()
        await server.serve(sockets=self.sockets)
        if not server.started:
            sys.exit(Arbiter.WORKER_BOOT_ERROR)


# What the lifespan gets after the last request: the ledger's last commit, connections, the log.
CLOSING_SECONDS = 5


class GunicornLogger(Logger):  # type: ignore[misc]  # nor does gunicorn
    """Sends the lines of gunicorn itself where all the others go. `mfw serve` has checked the two variables before."""

    def setup(self, cfg: Config) -> None:
        """Called by gunicorn in the master, and again when it reloads."""
        super().setup(cfg)
        level: Any = os.environ.get("MFW_LOGGING__LEVEL") or "info"
        form: Any = os.environ.get("MFW_LOGGING__FORMAT") or "json"
        Logs(level=level, form=form).install()
