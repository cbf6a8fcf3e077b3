"""`mfw decide` against the real service, and against what is not one."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

MUTATION = json.dumps(
    {
        "subject": {"type": "agent", "id": "a"},
        "action": {"name": "update"},
        "resource": {"type": "box", "id": "b"},
        "change": {"after": {"size": 1}},
        "request_id": "r-1",
    }
)


def test_an_answer_for_a_person(commands, service):
    result = commands.run("decide", "-f", "-", stdin=MUTATION, **service.settings)
    assert result.returncode == 10
    assert result.stdout.startswith("DENY")
    assert "default-deny" in result.stdout
    assert "ledger index" in result.stdout
    assert "not recorded" not in result.stdout


def test_an_answer_for_a_machine_is_what_the_service_said(commands, service):
    result = commands.run("decide", "-f", "-", "--json", stdin=MUTATION, **service.settings)
    answer = json.loads(result.stdout)
    assert answer["decision"] == "deny"
    assert answer["request_id"] == "r-1"
    assert answer["receipt_hash"].startswith("sha256:")
    assert result.returncode == 10


def test_every_answer_is_another_entry(commands, service):
    indexes = [
        json.loads(commands.run("decide", "-f", "-", "--json", stdin=MUTATION, **service.settings).stdout)[
            "ledger_index"
        ]
        for _ in range(2)
    ]
    assert indexes[1] > indexes[0]


def test_a_wrong_key(commands, service):
    result = commands.run("decide", "-f", "-", "--api-key", "mfw_wrong", stdin=MUTATION, **service.settings)
    assert result.returncode == 77
    assert "401" in result.stderr
    assert "mfw_wrong" not in result.stderr


def test_no_key(commands, service, tmp_path):
    result = commands.run("decide", "-f", "-", stdin=MUTATION, **service.settings | {"MFW_STATE_DIR": str(tmp_path)})
    assert result.returncode == 77
    assert "fix:" in result.stderr


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("", "400"),
        ("{", "400"),
        ("{}", "`/subject`"),
        ('{"subject": 1, "subject": 2}', "400"),
        (MUTATION.replace('"resource"', '"resuorce"'), "resource"),
    ],
)
def test_what_is_no_mutation_is_explained(commands, service, body, words):
    result = commands.run("decide", "-f", "-", stdin=body, **service.settings)
    assert result.returncode == 65
    assert words in result.stderr
    assert "Traceback" not in result.stderr


def test_a_problem_for_a_machine(commands, service):
    result = commands.run("decide", "-f", "-", "--json", stdin="{}", **service.settings)
    assert result.returncode == 65
    assert json.loads(result.stdout)["error"]["detail"]
    assert result.stderr == ""


def test_too_large(commands, service):
    result = commands.run("decide", "-f", "-", stdin=json.dumps({"a": "x" * 2_000_000}), **service.settings)
    assert result.returncode == 65
    # Either its answer came through, or it hung up first.
    assert "413" in result.stderr or "hung up" in result.stderr


def test_nobody_there(commands):
    result = commands.run("decide", "-f", "-", "--url", f"http://127.0.0.1:{commands.free_port()}", stdin=MUTATION)
    assert result.returncode == 69
    assert "mfw dev" in result.stderr


@contextmanager
def stranger(status: int, headers: dict[str, str], body: bytes) -> Iterator[tuple[str, list[dict[str, str]]]]:
    """A web server that is no firewall, and the headers of what it was sent."""
    seen: list[dict[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            seen.append(dict(self.headers))
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            seen.append(dict(self.headers))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (200, b"<html>", 65),
        (200, b"{}", 65),
        (200, b'{"decision": "allow"}', 65),
        (200, b'{"decision": "perhaps", "reasons": []}', 65),
        (200, b'{"decision": "allow", "reasons": [], "id": "x", "policy_set": "x", "mutation_digest": "x"}', 65),
        (200, b"[" * 100_000, 65),
        (500, b"<html>", 1),
        (502, b"", 1),
        (404, b"{}", 1),
        (503, b"busy", 75),
        (429, b'{"title": "too many requests", "retry_after": 7}', 75),
        (403, b'{"title": "forbidden", "detail": "role `agent` is needed"}', 77),
    ],
)
def test_what_is_no_decision_is_never_an_allow(commands, status, body, code):
    with stranger(status, {}, body) as (url, _):
        result = commands.run("decide", "-f", "-", "--url", url, "--api-key", "mfw_x", stdin=MUTATION)
    assert result.returncode == code
    assert result.stdout == ""
    assert "error:" in result.stderr
    assert "Traceback" not in result.stderr


def test_retry_after_is_said(commands):
    with stranger(429, {}, b'{"title": "too many requests", "retry_after": 7}') as (url, _):
        assert "7 seconds" in commands.run("decide", "-f", "-", "--url", url, stdin=MUTATION).stderr


def test_a_redirect_is_not_followed_with_the_key(commands):
    with stranger(200, {}, b"{}") as (elsewhere, seen), stranger(302, {"Location": elsewhere}, b"") as (url, _):
        result = commands.run("decide", "-f", "-", "--url", url, "--api-key", "mfw_x", stdin=MUTATION)
    assert result.returncode == 1
    assert "302" in result.stderr
    assert seen == []


def test_control_characters_of_an_answer_are_shown_not_obeyed(commands):
    with stranger(403, {}, json.dumps({"title": "no", "detail": "\x1b[2Jgone"}).encode()) as (url, _):
        shown = commands.run("decide", "-f", "-", "--url", url, stdin=MUTATION).stderr
    assert "\x1b" not in shown
    assert "\\x1b[2Jgone" in shown
