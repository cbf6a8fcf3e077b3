"""The floor of every figure: an ASGI callable that reads the body and answers fixed bytes, on uvicorn with uvloop."""

import argparse
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import uvicorn

HEADERS = [(b"content-type", b"application/json")]


def bare(answer: bytes) -> Callable[..., Awaitable[None]]:
    """An application that answers `answer` to everything, after reading the whole body."""
    start = {
        "type": "http.response.start",
        "status": 200,
        "headers": [*HEADERS, (b"content-length", str(len(answer)).encode())],
    }
    body = {"type": "http.response.body", "body": answer}

    async def application(_scope: dict[str, Any], receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        await send(start)
        await send(body)

    return application


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--answer", type=Path, required=True, help="file with the bytes to answer")
    options = parser.parse_args()
    config = uvicorn.Config(
        bare(options.answer.read_bytes()),
        host="127.0.0.1",
        port=options.port,
        loop="uvloop",
        http="httptools",
        lifespan="off",
        access_log=False,
        log_level="warning",
        date_header=False,
        server_header=False,
    )
    uvicorn.Server(config).run()
