"""How uvicorn is set up: the same in development and under gunicorn."""

from typing import Any, Final

# Load balancers keep idle connections for 60 s (nginx, AWS); a server that closes first makes them answer 502.
KEEP_ALIVE_SECONDS: Final = 75

OPTIONS: Final[dict[str, Any]] = {
    "loop": "uvloop",
    # Over httptools, with limits for what comes before a request.
    "http": "app.cli.protocol:Protocol",
    "ws": "none",
    # A service that cannot start must end, not answer.
    "lifespan": "on",
    # app/observability writes the log.
    "log_config": None,
    "access_log": False,
    "server_header": False,
    "timeout_keep_alive": KEEP_ALIVE_SECONDS,
}
