"""What raw ASGI endpoints have in common: how they answer, and how they stand in the API document."""

import asyncio
from collections.abc import Awaitable, Iterable
from typing import Final, NamedTuple, TypeVar

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from app.errors import FirewallError, Kind

T = TypeVar("T")

JSON: Final = (b"content-type", b"application/json")


class Answer(NamedTuple):
    """A decision as it goes over the wire."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


def success(body: bytes, headers: Iterable[tuple[bytes, bytes]]) -> Answer:
    """Make the answer of a request that went well: JSON, and what its caller is told beside it."""
    return Answer(200, [JSON, (b"content-length", b"%d" % len(body)), *headers], body)


async def in_time(work: Awaitable[T], *, seconds: float, fix: str | None = None) -> T:
    """Give up after the time that any request may take; `fix` says what to do then. Raises FirewallError (TIMEOUT)."""
    try:
        async with asyncio.timeout(seconds):
            return await work
    except TimeoutError:
        raise FirewallError(Kind.TIMEOUT, "the request took too long", retry_after=1, fix=fix) from None


def too_late() -> FirewallError:
    """Say that a request used up its time."""
    return FirewallError(
        Kind.TIMEOUT,
        "the request took too long",
        retry_after=1,
        fix="ask again; a decision that was recorded meanwhile was not given to anybody",
    )


class Delegated(Response):
    """Lets a raw ASGI endpoint answer a FastAPI route."""

    def __init__(self, endpoint: ASGIApp) -> None:
        super().__init__()
        self._endpoint = endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand over."""
        await self._endpoint(scope, receive, send)
