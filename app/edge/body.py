"""Step 1: the bytes of a request, limited before they are looked at."""

import asyncio
from typing import Final

from starlette.types import Receive, Scope

from app.edge.encoding import coding_of, expand, unsupported
from app.errors import FirewallError, Kind

# 1 MiB holds every Kubernetes object (etcd's own limit is 1.5 MiB for the whole request) and a diff of some 20,000
# lines; more than that is not one change a person could judge.
MAX_BODY_BYTES: Final = 1_048_576

# How long the rest of a body may take to arrive: ten seconds for 1 MiB is slower than any working network, and a peer
# that trickles bytes must not hold a request slot for longer.
BODY_TIMEOUT_SECONDS: Final = 10.0

_JSON: Final = b"application/json"


class ClientDisconnectedError(Exception):
    """The client went away before its body was whole: there is nobody to answer."""


async def read_body(
    scope: Scope,
    receive: Receive,
    *,
    max_bytes: int = MAX_BODY_BYTES,
    timeout_seconds: float = BODY_TIMEOUT_SECONDS,
) -> bytes:
    """Read a JSON request's body as bytes.

    Raises FirewallError: UNSUPPORTED_MEDIA_TYPE unless the content type is application/json (RFC 9110 section 8.3; a
    charset must be utf-8, RFC 8259 section 8.1); UNSUPPORTED_ENCODING for a coding that is not gzip or zstd, or one
    inside another; TOO_LARGE by
    Content-Length or as soon as more than `max_bytes` arrived or were decompressed; MALFORMED for an empty body, a bad
    Content-Length, a body that does not arrive in time or is not what its coding says. Raises ClientDisconnectedError
    when the client leaves.

    Does not check: what the bytes say, and how long the first of them take (the deadline of the whole request does; a
    second one here would cost 4 us for every request, and nearly every body comes together with its headers).
    """
    coding = _check_headers(scope, max_bytes)
    body = await _whole(receive, max_bytes, timeout_seconds)
    if not body:
        raise FirewallError(Kind.MALFORMED, "the body is empty", pointer="", fix="send a JSON object")
    return body if coding is None else expand(body, coding, max_bytes=max_bytes)


async def read_any_body(scope: Scope, receive: Receive, *, max_bytes: int) -> bytes:
    """Read a body of any type as the bytes that were sent, none at all included.

    Raises FirewallError: TOO_LARGE and MALFORMED as `read_body` does. Raises ClientDisconnectedError.
    Does not check: its type and its coding, which are for whoever reads it.
    """
    for name, value in scope["headers"]:
        if name == b"content-length":
            _check_length(value, max_bytes)
    return await _whole(receive, max_bytes, BODY_TIMEOUT_SECONDS)


def is_json(content_type: bytes) -> bool:
    """RFC 9110 section 8.3.1: case does not matter, a parameter's value may be quoted."""
    media_type, *parameters = content_type.lower().split(b";")
    return media_type.strip() == _JSON and all(
        parameter.strip() in {b"", b"charset=utf-8", b'charset="utf-8"'} for parameter in parameters
    )


async def _whole(receive: Receive, max_bytes: int, timeout_seconds: float) -> bytes:
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientDisconnectedError
    body: bytes = message.get("body", b"")
    if message.get("more_body", False):
        try:
            async with asyncio.timeout(timeout_seconds):
                body = await _rest(receive, body, max_bytes)
        except TimeoutError:
            raise _late(timeout_seconds) from None
    if len(body) > max_bytes:
        raise _too_large(max_bytes)
    return body


def _check_headers(scope: Scope, max_bytes: int) -> bytes | None:
    """Judge a request by its headers alone, so that what cannot be accepted is never read; give its coding."""
    content_type: bytes | None = None
    encoded = False
    coding: bytes | None = None
    for name, value in scope["headers"]:
        if name == b"content-type":
            if content_type is not None:
                raise _not_json("the content type is given twice")
            content_type = value
        elif name == b"content-length":
            _check_length(value, max_bytes)
        elif name == b"content-encoding":
            if encoded:
                raise unsupported("one content encoding inside another is not supported")
            encoded = True
            coding = coding_of(value)
    if content_type != _JSON and not (content_type is not None and is_json(content_type)):
        raise _not_json("the content type is not application/json")
    return coding


def _check_length(value: bytes, max_bytes: int) -> None:
    # The server has checked the form already, but int() alone would also take `+1` and `1_0`.
    if not value.isdigit():
        raise FirewallError(Kind.MALFORMED, "the content length is not a number")
    if len(value) > len(str(max_bytes)) or int(value) > max_bytes:
        raise _too_large(max_bytes)


async def _rest(receive: Receive, first: bytes, max_bytes: int) -> bytes:
    """Read on until the body is whole, counting: a chunked request has no Content-Length to refuse it by."""
    chunks = [first]
    size = len(first)
    while size <= max_bytes:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnectedError
        chunk = message.get("body", b"")
        size += len(chunk)
        chunks.append(chunk)
        if not message.get("more_body", False):
            break
    else:
        raise _too_large(max_bytes)
    return b"".join(chunks)


def _too_large(max_bytes: int) -> FirewallError:
    return FirewallError(
        Kind.TOO_LARGE,
        f"the body is larger than {max_bytes} bytes",
        fix="send digests of large values",
    )


def _not_json(detail: str) -> FirewallError:
    return FirewallError(Kind.UNSUPPORTED_MEDIA_TYPE, detail, fix="send `Content-Type: application/json`")


def _late(timeout_seconds: float) -> FirewallError:
    return FirewallError(Kind.MALFORMED, f"the body did not arrive within {timeout_seconds:g} seconds")
