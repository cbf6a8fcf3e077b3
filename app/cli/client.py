"""Speaking to a service over HTTP: one request, its answer, and every way in which there is none, in words."""

import json
from http import HTTPStatus
from http.client import HTTPException
from ipaddress import ip_address
from typing import Any, Final, NoReturn
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from app.cli.exits import ExitCode, of_effect
from app.cli.output import Refused, complain
from app.core.types import Effect

# Above the service's default limit a broken connection most likely means that limit.
SERVICE_BYTES_MAX: Final = 1_048_576
# A policy set with its documents has half of this; it guards against an address that is no firewall at all.
ANSWER_BYTES_MAX: Final = 16_777_216
# What a problem may say beyond a sentence, and `--json` passes on.
_FURTHER: Final = (
    "errors",
    "decision",
    "decision_id",
    "ledger_index",
    "policy_set",
    "reasons",
    "approval",
    "signatures",
)


class _NoRedirect(HTTPRedirectHandler):
    """A redirect would carry the key to whoever the answer names."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def call(
    path: str,
    *,
    url: str,
    api_key: str | None,
    timeout: float,
    body: bytes | None = None,
    what: str = "request",
    method: str | None = None,
) -> bytes:
    """GET a path of a service, or POST JSON to it, and give the body of its success. Raises `Refused`.

    `method` is another than these.
    """
    parts = _address(url)
    local = _is_local(parts.hostname or "")
    key = api_key or (_development_key() if local else None)
    if key and not local and parts.scheme == "http":
        complain(f"the API key goes to `{parts.hostname}` in plain text", fix="use an https address")
    headers = {"Accept": "application/json", "User-Agent": "mutation-firewall-cli"}
    if body is not None:
        headers["Content-Type"] = "application/json"
    if key:
        if not key.isascii() or not key.isprintable() or " " in key:
            raise Refused(
                ExitCode.NOT_PERMITTED, "the API key has characters in it that no key has", fix="copy it again"
            )
        headers["Authorization"] = f"Bearer {key}"
    method = method or ("GET" if body is None else "POST")
    request = Request(f"{url.rstrip('/')}{path}", data=body, headers=headers, method=method)  # noqa: S310 - `_address` lets http and https pass only
    try:
        with build_opener(_NoRedirect).open(request, timeout=timeout) as response:
            answer: bytes = response.read(ANSWER_BYTES_MAX)
    except HTTPError as error:
        with error:
            _refuse(error)
    except TimeoutError:
        raise Refused(
            ExitCode.UNREACHABLE, f"no answer from `{url}` within {timeout:g} seconds", fix="look at its /health/ready"
        ) from None
    except (URLError, HTTPException, OSError) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, (BrokenPipeError, ConnectionResetError)) and body and len(body) > SERVICE_BYTES_MAX:
            # It answers 413 and hangs up while we are still sending, so the answer itself is lost.
            raise Refused(
                ExitCode.BAD_DATA,
                f"the service hung up on a {what} of {len(body)} bytes",
                fix="it is most likely longer than MFW_HTTP__MAX_BODY_BYTES there: send less, or ask its owner",
            ) from None
        raise Refused(
            ExitCode.UNREACHABLE,
            f"cannot reach `{url}`: {_words(reason)}",
            fix="start a service with `mfw dev`, or name another with --url or MFW_URL",
        ) from None
    return answer


def _words(reason: object) -> str:
    """Why a connection failed, without the number."""
    return (getattr(reason, "strerror", None) or str(reason) or type(reason).__name__).lower()


def _address(url: str) -> Any:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        parts = urlsplit("")
    if (
        parts.scheme not in {"http", "https"}
        or not parts.hostname
        or not url.isascii()
        or not url.isprintable()
        or " " in url
    ):
        raise Refused(
            ExitCode.USAGE, f"`{url}` is no address of a service", fix="write it as `https://firewall.example.com`"
        )
    return parts


def _is_local(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _development_key() -> str | None:
    """The key that `mfw dev` made on this machine, if there is one that we may read."""
    from app.cli.state import key_file, read_private, state_directory

    return read_private(key_file(state_directory()))


def _refuse(error: HTTPError) -> NoReturn:
    """An answer that is no decision, in words."""
    try:
        problem = json.loads(error.read(ANSWER_BYTES_MAX))
    except (ValueError, OSError, HTTPException, RecursionError):
        problem = None
    status = error.code
    if not isinstance(problem, dict) or not isinstance(problem.get("title"), str):
        raise Refused(
            _exit_of_status(status),
            f"the service answered {status} {error.reason}, and not as a firewall would",
            fix="check the address, and what stands between here and the service",
        )
    detail = f"{problem['title']} ({status})"
    for member, words in (("detail", ": {}"), ("pointer", ", at `{}`"), ("request_id", "; request {}")):
        if problem.get(member):
            detail += words.format(problem[member])
    fix = problem.get("fix")
    if problem.get("retry_after") is not None:
        fix = (f"{fix}; " if fix else "") + f"try again in {problem['retry_after']} seconds"
    if status == HTTPStatus.UNAUTHORIZED and not fix:
        fix = "set MFW_API_KEY"
    code = _exit_of_status(status)
    if problem.get("decision") in tuple(Effect):
        # An activation that the set in force judged.
        code = of_effect(Effect(problem["decision"]))
    kept = {member: problem[member] for member in _FURTHER if member in problem}
    raise Refused(code, detail, fix=fix, extra=kept)


def _exit_of_status(status: int) -> ExitCode:
    match status:
        case HTTPStatus.UNAUTHORIZED | HTTPStatus.FORBIDDEN | HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
            return ExitCode.NOT_PERMITTED
        case HTTPStatus.TOO_MANY_REQUESTS | HTTPStatus.SERVICE_UNAVAILABLE | HTTPStatus.GATEWAY_TIMEOUT:
            return ExitCode.TRY_AGAIN
        case HTTPStatus.BAD_REQUEST | HTTPStatus.REQUEST_ENTITY_TOO_LARGE | HTTPStatus.UNSUPPORTED_MEDIA_TYPE:
            return ExitCode.BAD_DATA
        case HTTPStatus.UNPROCESSABLE_ENTITY:
            return ExitCode.BAD_DATA
        case _:
            return ExitCode.FAILED
