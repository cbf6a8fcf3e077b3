"""`mfw serve`, a proxy process in front of it, and whoever calls past the proxy: who is believed about whom."""

import contextlib
import json
import signal
import subprocess
import sys
from pathlib import Path

import httpx

from tests.integration.cli.test_serve import MUTATION, production

PROXY = Path(__file__).with_name("proxy.py")
SPIFFE = "spiffe://example.org/ns/agents/sa/a"
# Linux has all of 127.0.0.0/8 on its loopback: the proxy calls from another address than everybody else here.
TRUSTED, OTHER = "127.0.0.2", "127.0.0.3"
TYPED = {"Content-Type": "application/json"}


@contextlib.contextmanager
def proxy(port, upstream, *, address=TRUSTED, identity=SPIFFE):
    started = subprocess.Popen(
        [sys.executable, str(PROXY), str(port), str(upstream), address, identity], stdout=subprocess.PIPE
    )
    try:
        assert started.stdout is not None
        assert started.stdout.readline() == b"ready\n"
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=TYPED, timeout=60) as client:
            yield client
    finally:
        started.kill()
        started.communicate()


def test_who_is_believed(commands, database_dsn):
    port, metrics = commands.free_port(), commands.free_port()
    settings = production(database_dsn, port, metrics) | {
        "MFW_HTTP__TRUSTED_PROXIES": TRUSTED,
        "MFW_AUTH__MTLS__HEADER": "X-Client-Identity",
        "MFW_AUTH__MTLS__PROXIES": TRUSTED,
        "MFW_AUTH__MTLS__ROLES": "agent=spiffe://example.org/ns/agents/*",
        "MFW_AUTH__MTLS__SUBJECT_CONDITION": "context.claims.identity.endsWith('/sa/' + subject.id)",
    }
    made = commands.run(
        "keys", "create", "edge", "--role", "agent", "--network", "203.0.113.0/24", MFW_DATABASE__URL=database_dsn
    )
    bound = {"Authorization": f"Bearer {made.stdout.strip()}"}
    with commands.running("serve", settings=settings) as process:
        process.read_until("Application startup complete")

        def ask(client, *, subject="a", **headers):
            body = json.loads(MUTATION)
            body["subject"]["id"] = subject
            answer = client.post(
                "/v1/decisions", json=body, headers={name.replace("_", "-"): v for name, v in headers.items()}
            )
            return answer.status_code, answer.json()

        with (
            httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=TYPED, timeout=60) as direct,
            proxy(commands.free_port(), port) as through,
            proxy(commands.free_port(), port, address=OTHER) as pretender,
            proxy(commands.free_port(), port, identity="") as plain,
        ):
            status, answer = ask(through)
            assert status == 200, answer
            # Whatever its client says it is, the proxy says who.
            assert ask(through, X_Client_Identity="spiffe://example.org/ns/agents/sa/other")[0] == 200
            # The certificate of one agent does not ask as another.
            status, answer = ask(through, subject="other")
            assert (status, answer["pointer"]) == (403, "/subject")
            # The header from anybody but the proxy is an error, wherever they claim to come from.
            for client, headers in (
                (direct, {"X_Client_Identity": SPIFFE}),
                (direct, {"X_Client_Identity": SPIFFE, "X_Forwarded_For": TRUSTED}),
                (pretender, {}),
            ):
                status, answer = ask(client, **headers)
                assert (status, "trusted proxy" in answer["detail"]) == (400, True)
            # Without it nobody is anybody.
            assert ask(direct)[0] == ask(plain)[0] == 401
            # `X-Forwarded-For` is believed of the proxy, and of nobody else: the key is good from 203.0.113.0/24 only.
            assert ask(plain, X_Test_From="203.0.113.9", **bound)[0] == 200
            assert ask(plain, X_Test_From="198.51.100.1", **bound)[0] == 401
            assert ask(direct, X_Forwarded_For="203.0.113.9", **bound)[0] == 401
        assert process.stop(signal.SIGTERM) == 0
