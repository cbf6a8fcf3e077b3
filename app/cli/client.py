"""Speaking to a service: one request, its answer, and every way in which there is none, in words and an exit code."""

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final, NoReturn, TypeVar

from app.cli.exits import ExitCode, of_effect
from app.cli.output import Refused, complain
from app.client.connection import address, in_plain_text, is_local
from app.client.operations import Call, Operation
from app.client.problems import ProblemError, ProblemKind
from app.core.types import Effect

T = TypeVar("T")

# Above the service's default limit a broken connection most likely means that limit.
SERVICE_BYTES_MAX: Final = 1_048_576
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


@dataclass(frozen=True, slots=True)
class Service:
    """A service and who asks it; `timeout` is in seconds."""

    url: str
    api_key: str | None
    timeout: float

    def ask(self, path: str, body: Mapping[str, Any] | bytes | None = None) -> dict[str, Any]:
        """The JSON object of a success. Raises `Refused`."""
        sent = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        raw = call(path, url=self.url, api_key=self.api_key, timeout=self.timeout, body=sent, what="policy set")
        try:
            answer = json.loads(raw)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            raise Refused(ExitCode.BAD_DATA, f"what answers at `{self.url}` is no mutation firewall", fix="check --url")
        return answer

    def run(self, operation: Operation[T]) -> tuple[T, Any]:
        """The answer, and the JSON that it came as. Raises `Refused`."""
        return run(operation, url=self.url, api_key=self.api_key, timeout=self.timeout)


def call(
    path: str,
    *,
    url: str,
    api_key: str | None,
    timeout: float,
    body: bytes | None = None,
    what: str = "request",
) -> bytes:
    """GET a path of a service, or POST JSON to it, and give the body of its success. Raises `Refused`."""
    request = Call("GET" if body is None else "POST", path, body)
    return _answer(request, url=url, api_key=api_key, timeout=timeout, what=what)


def run(operation: Operation[T], *, url: str, api_key: str | None, timeout: float) -> tuple[T, Any]:
    """What a service answers to an operation of the client, and the JSON that said so. Raises `Refused`."""
    answer = _answer(operation.call, url=url, api_key=api_key, timeout=timeout, what="request")
    try:
        return operation.read(answer), json.loads(answer)
    except ProblemError as problem:
        _refuse(problem, size=0, what="request")


def _answer(request: Call, *, url: str, api_key: str | None, timeout: float, what: str) -> bytes:
    # What imports httpx: `mfw --help` and a decision in this process do without.
    from app.client.firewall import Firewall

    key = key_for(url, api_key)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            # A shell has retries of its own, and a hook rather a quick answer than a late one.
            firewall = Firewall(url, key, timeout=timeout, retries=0)
        with firewall:
            return firewall.call(request)
    except ProblemError as problem:
        _refuse(problem, size=len(request.body or b""), what=what)


def key_for(url: str, api_key: str | None) -> str | None:
    """The key to show at an address: the given one, or that of `mfw dev` on this machine. Raises `Refused`."""
    try:
        host = address(url).hostname or ""
    except ProblemError as problem:
        raise Refused(ExitCode.USAGE, problem.detail, fix=problem.fix) from None
    key = api_key or (_development_key() if is_local(host) else None)
    if in_plain_text(url, key):
        complain(f"the API key goes to `{host}` in plain text", fix="use an https address")
    return key


def _development_key() -> str | None:
    """The key that `mfw dev` made on this machine, if there is one that we may read."""
    from app.cli.state import key_file, read_private, state_directory

    return read_private(key_file(state_directory()))


def _refuse(problem: ProblemError, *, size: int, what: str) -> NoReturn:
    """An answer that is no success, or none at all, in words."""
    match problem.kind:
        case ProblemKind.INVALID_REQUEST:
            # The address was looked at before: it is the key.
            raise Refused(ExitCode.NOT_PERMITTED, problem.detail, fix=problem.fix) from None
        case ProblemKind.NO_ANSWER:
            raise Refused(ExitCode.UNREACHABLE, problem.detail, fix=problem.fix) from None
        case ProblemKind.UNREACHABLE if size > SERVICE_BYTES_MAX:
            # It answers 413 and hangs up while we are still sending, so the answer itself is lost.
            raise Refused(
                ExitCode.BAD_DATA,
                f"the service hung up on a {what} of {size} bytes",
                fix="it is most likely longer than MFW_HTTP__MAX_BODY_BYTES there: send less, or ask its owner",
            ) from None
        case ProblemKind.UNREACHABLE:
            fix = "start a service with `mfw dev`, or name another with --url or MFW_URL"
            raise Refused(ExitCode.UNREACHABLE, problem.detail, fix=fix) from None
        case ProblemKind.NOT_A_FIREWALL:
            code = _exit_of_status(problem.status) if problem.status else ExitCode.BAD_DATA
            raise Refused(code, problem.detail, fix=problem.fix) from None
        case _:
            pass
    detail = f"{problem.title} ({problem.status})"
    for member, words in (("detail", ": {}"), ("pointer", ", at `{}`"), ("request_id", "; request {}")):
        if problem.members.get(member):
            detail += words.format(problem.members[member])
    fix = problem.fix or ""
    if problem.retry_after is not None:
        fix = (f"{fix}; " if fix else "") + f"try again in {problem.retry_after:g} seconds"
    if problem.status == HTTPStatus.UNAUTHORIZED and not fix:
        fix = "set MFW_API_KEY"
    code = _exit_of_status(problem.status)
    if problem.status == HTTPStatus.CONFLICT and problem.retry_after is not None:
        code = ExitCode.TRY_AGAIN  # a state that passes by itself
    if problem.members.get("decision") in tuple(Effect):
        # An activation that the set in force judged.
        code = of_effect(Effect(problem.members["decision"]))
    kept: dict[str, Any] = {member: problem.members[member] for member in _FURTHER if member in problem.members}
    raise Refused(code, detail, fix=fix or None, extra=kept) from None


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
