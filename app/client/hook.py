"""The hook `PreToolUse` of Claude Code: `python -I -m app.client.hook`, or `mfw hook claude-code`.

It runs before each call of a tool, so it imports little: the standard library alone, and no TLS where none is needed.
Claude Code goes on with a call where its hook fails, is late, or answers what it cannot read. So every way out of here
but an allow ends with the exit code 2, which blocks, and the reason on standard error. From `guard` on that holds for
every signal that ends a process and can be caught, whenever it comes; the settings that `print_settings` writes turn
every other end of the process into a 2, those before it, SIGKILL and a crash too.
"""

import http.client
import json
import os
import shlex
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

from app.client.connection import USER_AGENT, address, headers_of, in_plain_text
from app.client.problems import ProblemError

PATH: Final = "/agents/v1/claude-code"
EVENT: Final = "PreToolUse"

DEFAULT_URL: Final = "http://127.0.0.1:8080"
# Seconds for all of it. Claude Code waits for 60, and goes on with the call when they are over.
DEFAULT_TIMEOUT: Final = 10.0
MAX_TIMEOUT: Final = 50.0
SETTINGS_TIMEOUT: Final = 60

# What a tool is given, and what a firewall answers: more is neither.
INPUT_BYTES_MAX: Final = 16_777_216
ANSWER_BYTES_MAX: Final = 1_048_576

BLOCK: Final = 2

# All signals but these end a process, those of real time too. These stop it, go by unseen, or cannot be caught ...
_HARMLESS: Final = (
    *("SIGCHLD", "SIGCLD", "SIGCONT", "SIGURG", "SIGWINCH", "SIGPIPE", "SIGXFSZ"),
    *("SIGTSTP", "SIGTTIN", "SIGTTOU", "SIGSTOP", "SIGKILL", "SIGINFO"),
)
# ... and these say that the process itself is broken: what is caught here would come again without an end.
_FAULTS: Final = ("SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGSYS", "SIGEMT")


class BlockedError(Exception):
    """The call must not be made; the only argument says why."""


def run(*, url: str, api_key: str | None, timeout: float = DEFAULT_TIMEOUT, ca_file: str | None = None) -> int:
    """Ask about the call on standard input. Give 0 after an answer that lets it go on, else 2; never raises."""
    try:
        _end_after(timeout)
        call = sys.stdin.buffer.read(INPUT_BYTES_MAX + 1)
        decision, answer = ask(call, url=url, api_key=api_key, timeout=timeout, ca_file=ca_file)
    except BlockedError as error:
        return _blocked(str(error))
    except BaseException as error:  # noqa: BLE001 - whatever it is, nobody allowed the call
        return _blocked(f"the hook failed: {type(error).__name__}: {error}")
    if decision == "deny":
        return _blocked(answer["hookSpecificOutput"]["permissionDecisionReason"])
    try:
        sys.stdout.write(json.dumps(answer))
        sys.stdout.flush()
    except BaseException as error:  # noqa: BLE001 - what was not told was not allowed
        return _blocked(f"the hook could not answer: {type(error).__name__}")
    return 0


def ask(
    call: bytes, *, url: str, api_key: str | None, timeout: float, ca_file: str | None = None
) -> tuple[str, dict[str, Any]]:
    """Ask a service about a call; give its word, and the answer as Claude Code reads it. Raises BlockedError."""
    if len(call) > INPUT_BYTES_MAX:
        raise BlockedError(f"the call has more than {INPUT_BYTES_MAX} bytes")
    try:
        parts = address(url)
    except ProblemError as problem:
        raise BlockedError(f"{problem.detail}; {problem.fix}") from None
    if in_plain_text(url, api_key):
        raise BlockedError(f"the API key would go to `{parts.hostname}` in plain text; use an https address")
    headers = {
        "Accept": "application/json",
        "Accept-Encoding": "identity",
        "User-Agent": USER_AGENT,
        **headers_of({}, body=call, seconds=timeout),
    }
    if api_key:
        if not api_key.isascii() or not api_key.isprintable():
            raise BlockedError("the API key has characters in it that no key has")
        headers["Authorization"] = f"Bearer {api_key}"
    connection = _connection(parts.scheme, parts.hostname or "", parts.port, timeout, ca_file)
    try:
        connection.request("POST", parts.path.rstrip("/") + PATH, body=call, headers=headers)
        response = connection.getresponse()
        status, body = response.status, response.read(ANSWER_BYTES_MAX + 1)
    except (OSError, http.client.HTTPException) as error:
        words = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise BlockedError(f"cannot reach the firewall at `{url}`: {words.lower()}") from None
    finally:
        connection.close()
    return read_answer(status, body)


def read_answer(status: int, body: bytes) -> tuple[str, dict[str, Any]]:
    """Read what a service answered; nothing but what it means to say counts. Raises BlockedError."""
    if status != http.client.OK:
        raise BlockedError(f"the firewall answered {status}{_problem(body)}")
    try:
        # What was cut short is no JSON.
        told = json.loads(body[:ANSWER_BYTES_MAX].decode())["hookSpecificOutput"]
        decision, reason = told["permissionDecision"], told["permissionDecisionReason"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise BlockedError("what answers there is no firewall, or one of another version") from None
    if told.get("hookEventName") != EVENT or decision not in ("allow", "deny", "ask") or not isinstance(reason, str):
        raise BlockedError("what answers there is no firewall, or one of another version")
    output = {"hookEventName": EVENT, "permissionDecision": decision, "permissionDecisionReason": reason}
    return decision, {"hookSpecificOutput": output}


def print_settings(*, url: str, key_file: str | None, timeout: float = DEFAULT_TIMEOUT, python: str = "") -> str:
    """The fragment of `settings.json` that asks before each call; whatever else the command ends with blocks."""
    words = [python or sys.executable, "-I", "-m", "app.client.hook", "--url", url, "--timeout", f"{timeout:g}"]
    if key_file:
        words += ["--key-file", key_file]
    command = f"{shlex.join(words)} || exit {BLOCK}"
    hook = {"type": "command", "command": command, "timeout": SETTINGS_TIMEOUT}
    return json.dumps({"hooks": {EVENT: [{"matcher": "*", "hooks": [hook]}]}}, indent=2)


def key_in(path: str) -> str:
    """The key in a file. Raises BlockedError."""
    try:
        return Path(path).read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:
        raise BlockedError(f"the key file `{path}` cannot be read: {type(error).__name__}") from None


def main(arguments: Sequence[str] | None = None, environment: Mapping[str, str] = os.environ) -> int:
    """Take the few options that there are by hand: a parser of them would take longer than the question."""
    guard()
    try:
        said = _options(list(sys.argv[1:] if arguments is None else arguments))
        timeout = _seconds(said.get("--timeout", ""))
        file = said.get("--key-file") or environment.get("MFW_API_KEY_FILE")
        key = key_in(file) if file else environment.get("MFW_API_KEY")
    except BlockedError as error:
        return _blocked(str(error))
    url = said.get("--url") or environment.get("MFW_URL") or DEFAULT_URL
    return run(url=url, api_key=key, timeout=timeout, ca_file=said.get("--ca-file"))


def _options(words: list[str]) -> dict[str, str]:
    said: dict[str, str] = {}
    while words:
        name = words.pop(0)
        if name not in {"--url", "--key-file", "--timeout", "--ca-file"} or not words:
            raise BlockedError(f"the hook does not know `{name}`")
        said[name] = words.pop(0)
    return said


def _seconds(text: str) -> float:
    try:
        seconds = float(text) if text else DEFAULT_TIMEOUT
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= MAX_TIMEOUT:
        raise BlockedError(f"`--timeout` is a number of seconds up to {MAX_TIMEOUT:g}")
    return seconds


def _connection(
    scheme: str, host: str, port: int | None, timeout: float, ca_file: str | None
) -> http.client.HTTPConnection:
    if scheme != "https":
        return http.client.HTTPConnection(host, port, timeout=timeout)
    from app.trust import trust

    return http.client.HTTPSConnection(host, port, timeout=timeout, context=trust(ca_file))


def guard() -> None:
    """From here on, block at every signal that ends a process and can be caught."""
    left = {getattr(signal, name, None) for name in (*_HARMLESS, *_FAULTS)}
    for number in signal.valid_signals() - left:
        signal.signal(number, _ended)


def _end_after(seconds: float) -> None:
    """Block when the time is over, whatever is going on: a name that does not resolve, an answer byte by byte."""
    guard()
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, seconds)


def _ended(number: int, _frame: object) -> NoReturn:
    """End at once.

    INVARIANT: no exception: it could come between a deny and the exit, and end the process with another code.
    """
    late = hasattr(signal, "SIGALRM") and number == signal.SIGALRM
    words = "the firewall did not answer in time" if late else "the hook was ended before its answer"
    try:
        # Nobody may be reading, and the pipe be full.
        os.set_blocking(2, False)
        os.write(2, f"mutation firewall: {words}\n".encode())
    finally:
        os._exit(BLOCK)


def _problem(body: bytes) -> str:
    """What a problem (RFC 9457) says, as text that a terminal may show."""
    try:
        members = json.loads(body[:ANSWER_BYTES_MAX])
        words = [str(members[name]) for name in ("detail", "fix") if members.get(name)]
    except (ValueError, AttributeError, TypeError, RecursionError):
        return ""
    return f": {'; '.join(words)}" if words else ""


def _blocked(reason: str) -> int:
    shown = "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in reason)
    try:
        sys.stderr.write(f"mutation firewall: {shown[:4096]}\n")
        sys.stderr.flush()
    except BaseException:  # noqa: BLE001, S110 - nobody listens, and the exit code is what counts
        pass
    return BLOCK


if __name__ == "__main__":
    # Without clean-up, which could end in another way.
    os._exit(main())
