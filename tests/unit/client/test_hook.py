import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from app.client import hook
from app.client.hook import BLOCK, BlockedError, ask, main, print_settings, read_answer, run

ROOT = Path(__file__).resolve().parents[3]
ALLOW = {
    "hookSpecificOutput": {
        "hookEventName": "PreToolUse",
        "permissionDecision": "allow",
        "permissionDecisionReason": "fine",
    }
}


def answered(**changes):
    return json.dumps({"hookSpecificOutput": {**ALLOW["hookSpecificOutput"], **changes}}).encode()


@pytest.fixture(autouse=True)
def no_alarm(monkeypatch):
    monkeypatch.setattr(hook, "_end_after", lambda seconds: None)
    monkeypatch.setattr(hook, "guard", lambda: None)


@pytest.fixture
def stdin(monkeypatch):
    class Given:
        buffer = io.BytesIO(b"{}")

    monkeypatch.setattr(sys, "stdin", Given)
    return Given


def test_an_answer_is_passed_on_with_its_own_members_alone():
    assert read_answer(200, answered(updatedInput={"command": "rm x"})) == ("allow", ALLOW)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"{}",
        b'{"hookSpecificOutput": null}',
        b'{"hookSpecificOutput": []}',
        answered(hookEventName="PostToolUse"),
        answered(permissionDecision="Allow"),
        answered(permissionDecision=True),
        answered(permissionDecision=None),
        answered(permissionDecisionReason=1),
        b"[" * 100_000,
        b'{"decision": "allow"}',
        answered(permissionDecisionReason="x" * 2_000_000),
        b"\xff",
    ],
)
def test_an_answer_that_says_anything_else_blocks(body):
    with pytest.raises(BlockedError, match="no firewall"):
        read_answer(200, body)


def test_a_status_other_than_200_blocks_and_says_why():
    problem = json.dumps({"detail": "too many requests", "fix": "wait"}).encode()
    with pytest.raises(BlockedError, match="answered 429: too many requests; wait"):
        read_answer(429, problem)
    for body in (b"<html>", b"[]", b"{}", b"1"):
        with pytest.raises(BlockedError, match=r"^the firewall answered 204$"):
            read_answer(204, body)


@pytest.mark.parametrize(
    ("url", "key", "why"),
    [
        ("ftp://x", None, "is no address"),
        ("http://firewall.example.com", "mfw_x", "in plain text"),
        ("http://127.0.0.1:1", "mfw\nx", "characters"),
    ],
)
def test_what_cannot_be_asked_blocks(url, key, why):
    with pytest.raises(BlockedError, match=why):
        ask(b"{}", url=url, api_key=key, timeout=1)


def test_a_call_beyond_the_limit_blocks(monkeypatch):
    monkeypatch.setattr(hook, "INPUT_BYTES_MAX", 3)
    with pytest.raises(BlockedError, match="more than 3 bytes"):
        ask(b"1234", url="http://127.0.0.1:1", api_key=None, timeout=1)


@pytest.mark.parametrize("error", [RuntimeError("x"), KeyboardInterrupt(), MemoryError(), SystemExit(0)])
def test_whatever_goes_wrong_blocks(monkeypatch, capsys, stdin, error):
    def fail(*_args, **_kwargs):
        raise error

    monkeypatch.setattr(hook, "ask", fail)
    assert run(url="http://127.0.0.1:1", api_key=None) == BLOCK
    captured = capsys.readouterr()
    assert captured.out == ""
    assert type(error).__name__ in captured.err


def test_a_deny_blocks_with_its_reason_and_nothing_that_moves_a_cursor(monkeypatch, capsys, stdin):
    told = {"hookSpecificOutput": {"permissionDecisionReason": "no\x1b[2J\nreally"}}
    monkeypatch.setattr(hook, "ask", lambda *_args, **_kwargs: ("deny", told))
    assert run(url="x", api_key=None) == BLOCK
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "mutation firewall: no\\x1b[2J\\nreally\n"


def test_an_allow_is_written(monkeypatch, capsys, stdin):
    monkeypatch.setattr(hook, "ask", lambda *_args, **_kwargs: ("allow", ALLOW))
    assert run(url="x", api_key=None) == 0
    assert json.loads(capsys.readouterr().out) == ALLOW


def test_an_answer_that_cannot_be_written_blocks(monkeypatch, stdin):
    class Closed:
        def write(self, _text):
            raise BrokenPipeError

        def flush(self):
            raise BrokenPipeError

    monkeypatch.setattr(hook, "ask", lambda *_args, **_kwargs: ("allow", ALLOW))
    monkeypatch.setattr(sys, "stdout", Closed())
    monkeypatch.setattr(sys, "stderr", Closed())
    assert run(url="x", api_key=None) == BLOCK


@pytest.mark.parametrize(
    "arguments",
    [
        ["--weird"],
        ["--url"],
        ["--timeout", "x"],
        ["--timeout", "0"],
        ["--timeout", "nan"],
        ["--timeout", "999"],
        ["claude-code"],
    ],
)
def test_options_that_are_not_understood_block(arguments, capsys):
    assert main(arguments, {}) == BLOCK
    assert capsys.readouterr().err.startswith("mutation firewall: ")


def test_options_and_the_environment_are_passed_on(monkeypatch, tmp_path):
    seen = []

    def noted(**given):
        seen.append(given)
        return 0

    monkeypatch.setattr(hook, "run", noted)
    key = tmp_path / "key"
    key.write_text("mfw_file\n")
    assert main(["--key-file", "/nowhere/at/all"], {}) == BLOCK
    assert main(["--url", "http://a", "--key-file", str(key), "--timeout", "3", "--ca-file", "c"], {}) == 0
    main([], {"MFW_URL": "http://b", "MFW_API_KEY": "mfw_env"})
    main([], {})
    assert seen == [
        {"url": "http://a", "api_key": "mfw_file", "timeout": 3.0, "ca_file": "c"},
        {"url": "http://b", "api_key": "mfw_env", "timeout": 10.0, "ca_file": None},
        {"url": "http://127.0.0.1:8080", "api_key": None, "timeout": 10.0, "ca_file": None},
    ]


def test_the_settings_block_whatever_the_hook_ends_with():
    settings = json.loads(print_settings(url="http://a b", key_file="/k", python="/usr/bin/python3"))
    (entry,) = settings["hooks"]["PreToolUse"]
    assert entry["matcher"] == "*"
    (command,) = entry["hooks"]
    assert command["command"] == (
        "/usr/bin/python3 -I -m app.client.hook --url 'http://a b' --timeout 10 --key-file /k || exit 2"
    )
    assert command["timeout"] > hook.MAX_TIMEOUT


# Every line of the hook that runs between the guard and the exit is the last one of some process. `deny` is what a firewall said, so
# no end of it may be another than 2; after an allow 0 is what it is without any signal.
_KILLED = """
import os, signal, sys
from app.client import hook

told, at_signal = sys.argv[1], getattr(signal, sys.argv[2])
answer = {"hookSpecificOutput": {"hookEventName": "PreToolUse", "permissionDecision": told, "permissionDecisionReason": "x"}}
hook.ask = lambda *_args, **_kwargs: (told, answer)
silence = os.open(os.devnull, os.O_RDWR)


def ends(line):
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    for one in (0, 1, 2):
        os.dup2(silence, one)
    seen = 0

    def trace(frame, event, _argument):
        nonlocal seen
        if frame.f_code.co_filename != hook.__file__:
            return None
        if event == "line":
            seen += 1
            if seen == line:
                os.kill(os.getpid(), at_signal)
        return trace

    hook.guard()
    sys.settrace(trace)
    code = hook.main(["--url", "http://127.0.0.1:1"], {})
    sys.settrace(None)
    # The signal came, or the last line is behind us: 77 ends the search.
    os._exit(code if seen >= line else 77)


found, line = set(), 0
while (code := ends(line := line + 1)) != 77:
    found.add(code)
print(line, *sorted(found))
"""


@pytest.mark.parametrize(
    ("told", "sent"),
    [("deny", "SIGTERM"), ("deny", "SIGALRM"), ("deny", "SIGABRT"), ("deny", "SIGRTMIN"), ("allow", "SIGTERM")],
)
def test_a_hook_that_is_killed_at_any_line_blocks(told, sent):
    ended = subprocess.run(
        [sys.executable, "-c", _KILLED, told, sent], capture_output=True, text=True, check=True, cwd=ROOT
    )
    lines, *codes = ended.stdout.split()
    assert int(lines) > 30
    assert codes == ["2"]
