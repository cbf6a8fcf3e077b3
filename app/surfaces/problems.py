"""The single map from a kind of error to the wire: RFC 9457 problems."""

import math
from http import HTTPStatus
from typing import Final, NamedTuple, assert_never

import orjson
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from app.core.pointer import build
from app.edge.context import request_id_of
from app.edge.encoding import ACCEPTED
from app.errors import FirewallError, Kind

CONTENT_TYPE: Final = "application/problem+json"
TYPE_PREFIX: Final = "https://mutationfirewall.io/problems/"
INTERNAL: Final = "internal"

Headers = list[tuple[bytes, bytes]]

_PROBLEM_TYPE: Final = (b"content-type", CONTENT_TYPE.encode())


class Problem(NamedTuple):
    """An error as it goes over the wire."""

    status: int
    headers: Headers
    body: bytes


def status_and_title(kind: Kind) -> tuple[int, str]:
    """The HTTP status of a kind, and its title, which is the same for every occurrence (RFC 9457 section 3.1.3)."""
    match kind:
        case Kind.MALFORMED:
            return 400, "the request is malformed"
        case Kind.UNAUTHENTICATED:
            return 401, "the caller is not authenticated"
        case Kind.TOKEN_EXPIRED:
            return 401, "the token has expired"
        case Kind.FORBIDDEN:
            return 403, "the caller may not do this"
        case Kind.NOT_FOUND:
            return 404, "there is nothing here"
        case Kind.METHOD_NOT_ALLOWED:
            return 405, "the method is not allowed here"
        case Kind.NOT_ACCEPTABLE:
            return 406, "there is no such representation"
        case Kind.CONFLICT:
            return 409, "the request conflicts with the present state"
        case Kind.TOO_LARGE:
            return 413, "the request is too large"
        case Kind.UNSUPPORTED_MEDIA_TYPE:
            return 415, "the media type is not supported"
        case Kind.UNSUPPORTED_ENCODING:
            return 415, "the content encoding is not supported"
        case Kind.RATE_LIMITED:
            return 429, "too many requests"
        case Kind.UNAVAILABLE:
            return 503, "a dependency is unavailable"
        case Kind.OVERLOADED:
            return 503, "the service is overloaded"
        case Kind.TIMEOUT:
            return 504, "a dependency did not answer in time"
        case Kind.INVALID_SETTINGS:
            return 503, "the settings are invalid"
        case Kind.INVALID_POLICY:
            return 503, "the policies are invalid"
        case Kind.INVALID_SIGNATURE:
            return 422, "the signatures do not hold"
        case Kind.SCHEMA_MISMATCH:
            return 503, "the database schema does not fit"
        case _:
            assert_never(kind)


def problem(error: FirewallError, request_id: str, *, allow: str | None = None) -> Problem:
    """Render an error for its caller; `allow` lists the methods that a 405 must name (RFC 9110 section 15.5.6)."""
    members = problem_members(error, request_id)
    status, _ = status_and_title(error.kind)
    headers: Headers = [_PROBLEM_TYPE]
    if error.retry_after is not None:
        headers.append((b"retry-after", b"%d" % whole_seconds(error.retry_after)))
    if status == HTTPStatus.UNAUTHORIZED:
        headers.append((b"www-authenticate", _challenge(error)))
    if error.kind is Kind.UNSUPPORTED_ENCODING:
        # RFC 9110 section 12.5.3: this header in a 415 says that the coding was at fault, and not the media type.
        headers.append((b"accept-encoding", ACCEPTED))
    if allow is not None:
        headers.append((b"allow", allow.encode("latin-1")))
    return _sealed(status, headers, members)


def problem_members(error: FirewallError, request_id: str) -> dict[str, object]:
    """Give the members of a problem, for an answer that has several of them."""
    status, title = status_and_title(error.kind)
    members: dict[str, object] = {
        **(error.extra or {}),
        "type": TYPE_PREFIX + error.kind,
        "title": title,
        "status": status,
        "detail": error.detail,
        "request_id": request_id,
    }
    if error.pointer is not None:
        members["pointer"] = error.pointer
    if error.fix is not None:
        members["fix"] = error.fix
    if error.retry_after is not None:
        members["retry_after"] = whole_seconds(error.retry_after)
    return members


def internal_problem(request_id: str, *, error: Exception | None = None, debug: bool = False) -> Problem:
    """Render an error that nobody foresaw: it says that it happened, and under which id the log has the rest.

    With `debug`, which production refuses, it also says what happened: an exception's text may quote anything.
    """
    detail = "the request was not answered because of an internal error"
    if debug and error is not None:
        detail = f"{detail}: {type(error).__name__}: {error}"
    return _sealed(
        500,
        [_PROBLEM_TYPE],
        {
            "type": TYPE_PREFIX + INTERNAL,
            "title": "an internal error",
            "status": 500,
            "detail": detail,
            "request_id": request_id,
            "fix": "try again; if it stays, report the request id",
        },
    )


def whole_seconds(seconds: float) -> int:
    """`Retry-After` in whole seconds (RFC 9110 section 10.2.3): rounded up, since earlier would be refused again."""
    return max(1, math.ceil(seconds))


def install_problem_handlers(app: FastAPI, *, debug: bool = False) -> None:
    """Make a FastAPI application answer every error with a problem: ours, Starlette's, validation, the rest."""

    async def on_unknown_error(request: Request, error: Exception) -> Response:
        return _response(internal_problem(request_id_of(request.scope), error=error, debug=debug))

    app.add_exception_handler(FirewallError, _on_firewall_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    # Starlette sends this answer and then raises on: the middleware around the application writes the log entry.
    app.add_exception_handler(Exception, on_unknown_error)


async def _on_firewall_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, FirewallError)  # noqa: S101 - registered for this type
    return _response(problem(error, request_id_of(request.scope)))


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for this type
    request_id = request_id_of(request.scope)
    match error.status_code:
        case HTTPStatus.NOT_FOUND:
            known = FirewallError(
                Kind.NOT_FOUND, "there is no such path", fix="see the API document at `/openapi.json`"
            )
        case HTTPStatus.METHOD_NOT_ALLOWED:
            allow = (error.headers or {}).get("Allow", "")
            known = FirewallError(
                Kind.METHOD_NOT_ALLOWED,
                "the method is not allowed here",
                fix=f"use {allow}" if allow else None,
            )
            return _response(problem(known, request_id, allow=allow))
        case HTTPStatus.UNAUTHORIZED:
            known = FirewallError(Kind.UNAUTHENTICATED, "a valid credential is needed")
        case HTTPStatus.FORBIDDEN:
            known = FirewallError(Kind.FORBIDDEN, "the caller may not do this")
        case status if status < HTTPStatus.INTERNAL_SERVER_ERROR:
            known = FirewallError(Kind.MALFORMED, "the request could not be read")
        case _:
            return _response(internal_problem(request_id))
    return _response(problem(known, request_id))


async def _on_validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for this type
    first = error.errors()[0]
    source, *steps = first["loc"]
    detail = f"{source} parameter `{'.'.join(map(str, steps))}`: {first['msg'][:1].lower()}{first['msg'][1:]}"
    pointer = build(steps) if source == "body" else None
    return _response(problem(FirewallError(Kind.MALFORMED, detail, pointer=pointer), request_id_of(request.scope)))


def _challenge(error: FirewallError) -> bytes:
    """RFC 6750 section 3: no error code when no credential was sent, and nothing that helps to guess one."""
    if error.kind is Kind.TOKEN_EXPIRED:
        return b'Bearer realm="mutation-firewall", error="invalid_token", error_description="token expired"'
    return b'Bearer realm="mutation-firewall"'


def _sealed(status: int, headers: Headers, members: dict[str, object]) -> Problem:
    # An error may quote what the caller sent, and a caller can send half a surrogate pair, which is not UTF-8.
    try:
        body = orjson.dumps(members)
    except (TypeError, ValueError):
        body = orjson.dumps({name: _printable(value) for name, value in members.items()})
    headers.append((b"content-length", b"%d" % len(body)))
    return Problem(status, headers, body)


def _printable(value: object) -> object:
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def _response(answer: Problem) -> Response:
    response = Response(answer.body, status_code=answer.status)
    response.raw_headers = list(answer.headers)
    return response
