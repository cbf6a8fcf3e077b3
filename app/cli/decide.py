"""`mfw decide`: one mutation to a service, or through the core in this process."""

import json
import sys
from collections.abc import Mapping
from http import HTTPStatus
from http.client import HTTPException
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final, NoReturn
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from app.cli.exits import ExitCode, of_effect
from app.cli.output import Refused, complain, console, plain, table, write_json
from app.core.types import Effect

# The service's own limit is 1 MiB unless its owner raised it, up to this.
MUTATION_BYTES_MAX: Final = 16_777_216
# Above the service's default limit a broken connection most likely means that limit.
SERVICE_BYTES_MAX: Final = 1_048_576
# A decision is a few KiB; this only guards against an address that is not a firewall at all.
ANSWER_BYTES_MAX: Final = 16_777_216

STYLES: Final = {Effect.ALLOW: "bold green", Effect.DENY: "bold red", Effect.HOLD: "bold yellow"}


def run_decide(
    file: str, *, url: str, api_key: str | None, timeout: float, policies: Path | None, as_json: bool
) -> ExitCode:
    """Decide, show the answer, and give the exit code that says the effect.

    `policies` names a directory to decide by in this process; None asks the service at `url`. Raises `FirewallError`
    and `Refused`.
    """
    body = read_mutation(file)
    if policies is not None:
        answer, raw = decide_here(body, policies=policies), None
    else:
        raw = ask(body, url=url, api_key=api_key, timeout=timeout)
        answer = _decision(raw, url=url)
    effect = Effect(answer["decision"])
    if not as_json:
        _show(answer, effect)
    elif raw is not None:
        # As it came: a receipt that is checked later must not have been through a parser.
        sys.stdout.write(raw.decode() + "\n")
    else:
        write_json(answer)
    return of_effect(effect)


def read_mutation(file: str) -> bytes:
    """The bytes of a file, or of standard input for `-`."""
    try:
        if file == "-":
            body = sys.stdin.buffer.read(MUTATION_BYTES_MAX + 1)
        else:
            with Path(file).open("rb") as source:
                body = source.read(MUTATION_BYTES_MAX + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a file name"
        raise Refused(
            ExitCode.NO_INPUT,
            f"cannot read `{file}`: {reason.lower()}",
            fix="name a JSON file, or `-` for standard input",
        ) from error
    if len(body) > MUTATION_BYTES_MAX:
        raise Refused(ExitCode.BAD_DATA, f"the mutation is longer than {MUTATION_BYTES_MAX} bytes")
    return body


def decide_here(body: bytes, *, policies: Path) -> dict[str, Any]:
    """Steps 1 and 4 to 8 in this process; the answer has no id and no ledger index, because nothing is recorded."""
    from datetime import UTC, datetime

    from app.core import strict_json
    from app.core.decide import decide
    from app.core.normalise import normalise
    from app.policies.load import load_directory
    from app.surfaces.native.wire import mutation_from_wire

    policy_set = load_directory(policies)
    normalised = normalise(mutation_from_wire(strict_json.parse(body).tree))
    now = datetime.now(UTC)
    verdict = decide(policy_set, normalised, now)
    return {
        "recorded": False,
        "decision": verdict.effect.value,
        "reasons": [
            {
                "policy": reason.policy,
                "rule": reason.rule,
                "effect": reason.effect.value,
                "mode": reason.mode.value,
                "message": reason.message,
                **({"clause": reason.clause} if reason.clause is not None else {}),
            }
            for reason in verdict.reasons
        ],
        "policy_set": policy_set.digest,
        "mutation_digest": normalised.digest,
        "decided_at": now.isoformat(timespec="microseconds").replace("+00:00", "Z"),
        **({"approval": dict(verdict.approval)} if verdict.approval is not None else {}),
    }


class _NoRedirect(HTTPRedirectHandler):
    """A redirect would carry the key to whoever the answer names."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def ask(body: bytes, *, url: str, api_key: str | None, timeout: float) -> bytes:
    """POST a mutation to a service and give the body of its 200. Raises `Refused`."""
    parts = _address(url)
    local = _is_local(parts.hostname or "")
    key = api_key or (_development_key() if local else None)
    if key and not local and parts.scheme == "http":
        complain(f"the API key goes to `{parts.hostname}` in plain text", fix="use an https address")
    headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "mutation-firewall-cli"}
    if key:
        if not key.isascii() or not key.isprintable() or " " in key:
            raise Refused(
                ExitCode.NOT_PERMITTED, "the API key has characters in it that no key has", fix="copy it again"
            )
        headers["Authorization"] = f"Bearer {key}"
    request = Request(f"{url.rstrip('/')}/v1/decisions", data=body, headers=headers, method="POST")  # noqa: S310 - `_address` lets http and https pass only
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
        if isinstance(reason, (BrokenPipeError, ConnectionResetError)) and len(body) > SERVICE_BYTES_MAX:
            # It answers 413 and hangs up while we are still sending, so the answer itself is lost.
            raise Refused(
                ExitCode.BAD_DATA,
                f"the service hung up on a mutation of {len(body)} bytes",
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
    raise Refused(_exit_of_status(status), detail, fix=fix)


def _exit_of_status(status: int) -> ExitCode:
    match status:
        case HTTPStatus.UNAUTHORIZED | HTTPStatus.FORBIDDEN | HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
            return ExitCode.NOT_PERMITTED
        case HTTPStatus.TOO_MANY_REQUESTS | HTTPStatus.SERVICE_UNAVAILABLE | HTTPStatus.GATEWAY_TIMEOUT:
            return ExitCode.TRY_AGAIN
        case HTTPStatus.BAD_REQUEST | HTTPStatus.REQUEST_ENTITY_TOO_LARGE | HTTPStatus.UNSUPPORTED_MEDIA_TYPE:
            return ExitCode.BAD_DATA
        case _:
            return ExitCode.FAILED


def _decision(raw: bytes, *, url: str) -> dict[str, Any]:
    """The answer of a 200, checked as far as this command reads it."""
    try:
        answer = json.loads(raw)
        Effect(answer["decision"])
        reasons = [reason[member] for reason in answer["reasons"] for member in ("policy", "rule", "effect", "message")]
        texts = [*reasons, *(answer[member] for member in ("id", "policy_set", "mutation_digest"))]
        complete = bool(reasons) and all(isinstance(text, str) for text in texts)
    except (ValueError, KeyError, TypeError, RecursionError):
        answer, complete = {}, False
    if not complete:
        raise Refused(ExitCode.BAD_DATA, f"what answers at `{url}` is no mutation firewall", fix="check --url")
    return dict(answer)


def _show(answer: Mapping[str, Any], effect: Effect) -> None:
    from rich.text import Text

    out = console()
    out.print(Text(effect.value.upper(), style=STYLES[effect]))
    reasons = table("effect", "policy", "rule", "message")
    for reason in answer["reasons"]:
        shadow = " (shadow)" if reason.get("mode") == "shadow" else ""
        clause = f"\n{reason['clause']}" if reason.get("clause") else ""
        reasons.add_row(
            *(
                plain(text)
                for text in (
                    f"{reason['effect']}{shadow}",
                    reason["policy"],
                    reason["rule"],
                    f"{reason['message']}{clause}",
                )
            )
        )
    out.print(reasons)
    facts = table("", "")
    facts.show_header = False
    if answer.get("approval"):
        facts.add_row("approval", plain(json.dumps(answer["approval"])))
    for member, words in (
        ("id", "decision"),
        ("ledger_index", "ledger index"),
        ("receipt_hash", "receipt"),
        ("policy_set", "policy set"),
        ("mutation_digest", "mutation"),
        ("decided_at", "decided at"),
    ):
        if answer.get(member) is not None:
            facts.add_row(words, plain(answer[member]))
    out.print(facts)
    if answer.get("recorded") is False:
        out.print(Text("not recorded: decided in this process, there is no ledger entry behind it", style="yellow"))
