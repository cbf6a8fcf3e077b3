"""The firewall in front of the API server of the tests: a service behind TLS, and the webhook that leads to it."""

import asyncio
import contextlib
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import uvicorn
import uvloop

from app.bootstrap import create_app
from app.cli.server import OPTIONS
from app.core.principal import Role
from app.persistence.api_keys import ApiKeyStore
from app.persistence.engine import create_engine
from app.settings import Settings
from tests.integration.cli.conftest import running
from tests.integration.cli.test_serve import production
from tests.integration.service.conftest import UNHURRIED, apart, make_key
from tests.kubernetes.cluster import Cluster
from tests.ports import free_port

ROOT: Final = Path(__file__).resolve().parents[2]
STARTER: Final = ROOT / "policies" / "starter"
NAME: Final = "mutation-firewall"
# Before the keys of audit annotations.
CHANGES: Final = "changes.mutationfirewall.io/"
GUARD: Final = "exemptions.mutationfirewall.io/"
AGENTS: Final = ("namespace=agents",)
API_SERVER: Final = "kube-apiserver"
WAIT_SECONDS: Final = 60
_COMMON: Final = {
    "MFW_LIMITS__PER_MINUTE": "1000000",
    "MFW_LIMITS__BURST": "100000",
    # However often somebody asks who waits until something is so.
    "MFW_LIMITS__READ_PER_MINUTE": "1000000",
    "MFW_LIMITS__READ_BURST": "100000",
    "MFW_LIMITS__ADMIN_PER_MINUTE": "1000000",
    "MFW_LIMITS__ADMIN_BURST": "100000",
    **UNHURRIED,
    "MFW_KUBERNETES__AGENTS": ",".join(AGENTS),
    "MFW_KUBERNETES__API_SERVERS": API_SERVER,
    "MFW_KUBERNETES__ENVIRONMENTS": "*-staging=staging,*=production",
}
_CONFIGURATIONS: Final = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"


@dataclass(slots=True)
class Firewall:
    """A service at `url`, whose certificate the cluster's authority issued."""

    cluster: Cluster
    url: str
    admin_key: str
    seen: int = 0

    def decided(self) -> list[dict[str, Any]]:
        """Every decision recorded since this was asked last, the oldest first, with its record."""
        with self._client() as client:
            found: list[dict[str, Any]] = []
            while (entry := client.get(f"/v1/ledger/entries/{self.seen}")).status_code == 200:
                self.seen += 1
                if entry.json()["kind"] == "decision":
                    one = client.get(f"/v1/decisions/{entry.json()['id']}")
                    assert one.status_code == 200, one.text
                    found.append(one.json())
            assert entry.status_code == 404, entry.text
        return found

    def webhook(self, policies: Path, *, agents: Sequence[str] = AGENTS, more: Sequence[str] = ()) -> str:
        """What `mfw kubernetes webhook-config` writes for it; the API server waits for as long as it can."""
        done = subprocess.run(
            [
                *(sys.executable, "-m", "app", "kubernetes", "webhook-config", "--policies", str(policies)),
                *("--url", self.url, "--ca-file", str(self.cluster.ca_file)),
                # The last one of an option holds.
                *("--timeout-seconds", "30"),
                *(word for agent in agents for word in ("--agent", agent)),
                *more,
            ],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    @contextlib.contextmanager
    def in_front(self, configuration: str) -> Iterator[None]:
        """Have the API server ask, from the first request of the block on, and no more after it."""
        done = self.cluster.kubectl("apply", "-f", "-", stdin=configuration)
        assert done.returncode == 0, done.stderr
        try:
            self._wait(asked=True)
            yield
        finally:
            self.cluster.api("DELETE", f"{_CONFIGURATIONS}/{NAME}")
            self._wait(asked=False)

    def _wait(self, *, asked: bool) -> None:
        """Until a dry run of an agent, which leaves no trace, says that the webhook is called, or is not."""
        token = self.cluster.service_account("agents", "probe")
        self.cluster.grant("probe", "agents/probe", {"apiGroups": [""], "resources": ["pods"], "verbs": ["create"]})
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "probe", "namespace": "agents"}}
        pod["spec"] = {"containers": [{"name": "probe", "image": "probe"}]}
        deadline = time.monotonic() + WAIT_SECONDS
        events: list[dict[str, Any]] = []
        while True:
            told = self.cluster.api("POST", "/api/v1/namespaces/agents/pods?dryRun=All", pod, token=token)
            # A refusal says who refused; an allow is noted in the audit log alone, behind the answer.
            found = "mutationfirewall.io" in str(told.body)
            while not found and not (events := self._events(told.headers["audit-id"])):
                assert time.monotonic() < deadline, told
                time.sleep(0.01)
            if (found or "mutationfirewall.io" in str(events)) is asked:
                return
            assert time.monotonic() < deadline, told
            time.sleep(0.05)

    def _events(self, identifier: str) -> list[dict[str, Any]]:
        return [event for event in self.cluster.events() if event["auditID"] == identifier]

    def _client(self) -> httpx.Client:
        context = ssl.create_default_context(cafile=str(self.cluster.ca_file))
        return httpx.Client(
            base_url=self.url, verify=context, headers={"Authorization": f"Bearer {self.admin_key}"}, timeout=60
        )


@contextlib.contextmanager
def serving(
    cluster: Cluster, dsn: str, policies: Path, *, port: int | None = None, **overrides: str
) -> Iterator[Firewall]:
    """A service behind TLS that knows this API server. `overrides` are MFW_ variables."""
    _adopt(dsn, cluster.webhook_secret)
    settings = Settings.load(
        {
            "MFW_ENVIRONMENT": "test",
            "MFW_DATABASE__URL": dsn,
            "MFW_POLICIES__DIRECTORY": str(policies),
            "MFW_METRICS__ENABLED": "false",
            "MFW_LOGGING__LEVEL": "warning",
            **_COMMON,
            **overrides,
        }
    )
    certificate, key = cluster.authority.server("127.0.0.1", "localhost").write(cluster.folder, "firewall")
    port = port or free_port()
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(settings), host="127.0.0.1", port=port, ssl_certfile=certificate, ssl_keyfile=key, **OPTIONS
        )
    )

    def serve() -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(server.serve())

    thread = threading.Thread(target=serve, name="firewall")
    thread.start()
    try:
        deadline = time.monotonic() + WAIT_SECONDS
        while not server.started:
            assert thread.is_alive(), "the firewall ended by itself"
            assert time.monotonic() < deadline, "the firewall did not start"
            time.sleep(0.01)
        yield Firewall(cluster, f"https://127.0.0.1:{port}", make_key(dsn, Role.ADMIN))
    finally:
        server.should_exit = True
        thread.join(WAIT_SECONDS)
    assert not thread.is_alive(), "the firewall did not stop"


@contextlib.contextmanager
def served(cluster: Cluster, dsn: str, policies: Path, **overrides: str) -> Iterator[Firewall]:
    """The same as it is run in production: `mfw serve`, a process of its own with TLS of its own."""
    _adopt(dsn, cluster.webhook_secret)
    certificate, key = cluster.authority.server("127.0.0.1", "localhost").write(cluster.folder, "served")
    port = free_port()
    settings = production(dsn, free_port(), free_port()) | {
        "MFW_POLICIES__DIRECTORY": str(policies),
        "MFW_TLS__CERTIFICATE_FILE": str(certificate),
        "MFW_TLS__KEY_FILE": str(key),
        "MFW_TLS__HOST": "127.0.0.1",
        "MFW_TLS__PORT": str(port),
        **_COMMON,
        **overrides,
    }
    with running("serve", settings=settings) as process:
        process.read_until("Application startup complete")
        yield Firewall(cluster, f"https://127.0.0.1:{port}", make_key(dsn, Role.ADMIN))
        assert process.stop(signal.SIGTERM) == 0, process.output


def _adopt(dsn: str, secret: bytes) -> None:
    """Store the key that the API server sends, as one that may ask about everybody."""

    async def store() -> None:
        engine = create_engine(dsn)
        try:
            keys = ApiKeyStore(engine, entropy=lambda _: secret)
            if API_SERVER not in {key.name for key in await keys.list_active()}:
                await keys.create(API_SERVER, principal_id=API_SERVER, roles=[Role.AGENT])
        finally:
            await engine.dispose()

    apart(store())
