"""A GitHub of the tests' own: a server on this machine that answers as its public API description says."""

import contextlib
import json
import re
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from jose import jwt

APP = 4711
KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
PEM = KEY.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()).decode()
PUBLIC = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
DIFF = """\
diff --git a/docs/start.md b/docs/start.md
index 1111111..2222222 100644
--- a/docs/start.md
+++ b/docs/start.md
@@ -1 +1 @@
-Begin.
+Start here.
"""


class Github:
    """What it was asked, and what it is told to answer."""

    def __init__(self) -> None:
        self.url = ""
        self.reset()

    def reset(self) -> None:
        self.diff: str | bytes = DIFF
        # By the end of a path: statuses to answer in this order before it answers as it should.
        self.failing: dict[str, list[int]] = {}
        self.headers: dict[str, str] = {}
        self.calls: list[tuple[str, str]] = []
        self.bodies: list[Any] = []
        self.checks: list[dict[str, Any]] = []
        self.answers: list[dict[str, Any]] = []
        self.statuses: list[dict[str, Any]] = []
        self.token = "ghs_first"
        self.delay = 0.0

    def answer(self, method: str, path: str, headers: Any, body: Any) -> tuple[int, bytes]:
        # Those of the test that asks: whoever is answered late must not be found in the next one's.
        checks, answers, statuses = self.checks, self.answers, self.statuses
        self.calls.append((method, path))
        for ending, failing in self.failing.items():
            if path.partition("?")[0].endswith(ending) and failing:
                return failing.pop(0), b'{"message": "as told"}'
        bearer = headers["authorization"].removeprefix("Bearer ")
        if path.endswith("/access_tokens"):
            claims = jwt.decode(bearer, PUBLIC, algorithms=["RS256"], options={"verify_aud": False})
            assert claims["iss"] == str(APP)
            assert claims["exp"] - claims["iat"] <= 600
            until = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 3600))
            return 201, json.dumps({"token": self.token, "expires_at": until}).encode()
        if bearer not in {self.token, "github_pat_x"}:
            return 401, b'{"message": "Bad credentials"}'
        time.sleep(self.delay)
        if re.search(r"/(compare/[0-9a-f]{40}\.\.\.[0-9a-f]{40}|commits/[0-9a-f]{40})$", path):
            assert headers["accept"] == "application/vnd.github.diff"
            return 200, self.diff if isinstance(self.diff, bytes) else self.diff.encode()
        if method == "POST" and path.endswith("/check-runs"):
            assert body["status"] == "completed"
            assert len(body["output"]["annotations"]) <= 50
            assert len(body["output"]["summary"]) <= 65_535
            checks.append({"id": len(checks) + 1, **body})
            return 201, json.dumps(checks[-1]).encode()
        if method == "PATCH" and "/check-runs/" in path:
            checks[int(path.rpartition("/")[2]) - 1] |= body
            return 200, b"{}"
        if "/check-runs?" in path:
            assert "check_name=mutation-firewall" in path
            return 200, json.dumps({"total_count": len(checks), "check_runs": checks[-1:]}).encode()
        if path.endswith("/deployment_protection_rule"):
            assert set(body) <= {"environment_name", "state", "comment"}
            assert len(body["comment"]) <= 1024
            answers.append(body)
            return 204, b""
        if "/statuses/" in path:
            assert len(body["description"]) <= 140
            statuses.append(body)
            return 201, b"{}"
        return 404, b'{"message": "Not Found"}'


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    github: ClassVar[Github]

    def handle_one_request(self) -> None:
        with contextlib.suppress(ConnectionError):
            super().handle_one_request()

    def _answer(self) -> None:
        length = int(self.headers.get("content-length", 0))
        sent = self.rfile.read(length)
        status, body = self.github.answer(
            self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, json.loads(sent) if sent else None
        )
        self.send_response(status)
        for name, value in self.github.headers.items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if status != 204:
            self.wfile.write(body)

    do_GET = do_POST = do_PATCH = _answer  # noqa: N815 - the names that the library calls

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as the library calls it
        pass


@contextlib.contextmanager
def github_running() -> Iterator[Github]:
    """Serve until the block ends."""
    github = Github()
    handler = type("Handler", (_Handler,), {"github": github})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    github.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, name="github")
    thread.start()
    try:
        yield github
    finally:
        server.shutdown()
        thread.join(60)
        server.server_close()
