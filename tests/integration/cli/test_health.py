"""`mfw health` against the real service, and against what is not one."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest


def once_well(commands, service, is_well, *options):
    """What it says once all is well: a component that has not answered within two seconds is not, on a busy machine."""
    deadline = time.monotonic() + 60
    while not is_well((result := commands.run("health", *options, **service.settings)).stdout):
        assert time.monotonic() < deadline, result.stdout + result.stderr
    assert result.returncode == 0, result.stderr
    return result


def test_every_component_for_a_person(commands, service):
    result = once_well(commands, service, lambda text: "healthy, takes requests" in text)
    assert "schema revision" in result.stdout
    for component in ("database", "ledger", "policies", "switches", "checkpoints"):
        assert component in result.stdout


def test_the_same_for_a_machine(commands, service):
    told = json.loads(
        once_well(commands, service, lambda text: json.loads(text).get("status") == "healthy", "--json").stdout
    )
    assert (told["ready"], told["components"]["database"]["status"]) == (True, "healthy")


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        (
            {
                "status": "unhealthy",
                "version": "1",
                "ready": False,
                "components": {
                    "ledger": {"status": "healthy", "latency_ms": 1, "detail": ""},
                    "database": {"status": "unhealthy", "latency_ms": 2000, "detail": "no answer within 2 s\x1b[2J"},
                },
            },
            1,
            "unhealthy, takes no requests",
        ),
        ({"status": "ok"}, 65, "not the health of a firewall"),
        ({"ready": True, "status": "", "version": "", "components": {"database": 1}}, 65, "not the health"),
        ([], 65, "not the health of a firewall"),
    ],
)
def test_what_is_wrong_is_said_first_and_fails(commands, body, code, words):
    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        result = commands.run("health", MFW_URL=f"http://127.0.0.1:{server.server_port}", MFW_API_KEY="mfw_x")
    finally:
        server.shutdown()
        server.server_close()
    assert result.returncode == code
    assert words in result.stdout + result.stderr
    assert "\x1b" not in result.stdout
    if code == 1:
        assert result.stdout.index("database") < result.stdout.index("ledger")


def test_nobody_there(commands):
    assert commands.run("health", MFW_URL=f"http://127.0.0.1:{commands.free_port()}").returncode == 69
