"""The image as a cluster runs it: what the Kustomize base says, with a real PostgreSQL and a real Redis outside."""

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import asyncpg
import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from ruamel.yaml import YAML

from app.core.notes import SignerKey
from app.persistence.embedded import EmbeddedPostgres
from app.persistence.engine import parse_dsn
from tests.image.engine import LABEL, ROOT, Engine
from tests.integration.conftest import IN_HASTE
from tests.integration.service.conftest import UNHURRIED
from tests.ports import free_port

BASE: Final = ROOT / "k8s" / "base" / "objects.yaml"
ORIGIN: Final = "firewall.example.com/ledger"
EXAMPLES: Final = ROOT / "examples"
WAIT_SECONDS: Final = 120
# Long enough for anybody to ask whether it is ready, however busy the machine is.
DRAIN_SECONDS: Final = 15
CLIENTS: Final = 8
UNDER_LOAD: Final = 400

Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Pods:
    """What the base makes of pods, as words for `docker run`; `secrets` holds what a Secret would, by setting."""

    engine: Engine
    image: str
    secrets: Path
    ports: dict[str, str] = field(default_factory=dict)

    def words(self, kind: str, *, read_only: bool = True, more: dict[str, str] | None = None) -> list[str]:
        """All but the program's own words, for the only container of the first object of a kind."""
        spec = next(one for one in YAML(typ="safe", pure=True).load_all(BASE.read_text()) if one["kind"] == kind)
        pod = spec["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        security = {**pod["securityContext"], **container["securityContext"]}
        assert security["readOnlyRootFilesystem"]
        assert security["allowPrivilegeEscalation"] is False
        limits = container["resources"]["limits"]
        memory = limits["memory"].replace("Mi", "m")
        cpus = int(limits["cpu"].removesuffix("m")) / 1000
        mounts = {one["name"]: one["mountPath"] for one in container["volumeMounts"]}
        assert mounts.keys() == {"secrets", "tmp"}
        environ = {one["name"]: one["value"] for one in container["env"]} | self.ports | (more or {})
        return [
            *("--label", LABEL, "--network", "host", "--user", f"{security['runAsUser']}:{security['runAsGroup']}"),
            *("--memory", memory, "--memory-swap", memory, "--cpus", str(cpus)),
            *(word for capability in security["capabilities"]["drop"] for word in ("--cap-drop", capability)),
            *("--security-opt", "no-new-privileges"),
            *(("--read-only",) if read_only else ()),
            *("--tmpfs", f"{mounts['tmp']}:rw,noexec,nosuid,size=64m,mode=1777"),
            *("--volume", f"{self.secrets}:{mounts['secrets']}:ro"),
            *(word for name, value in environ.items() for word in ("--env", f"{name}={value}")),
            *(("--entrypoint", container["command"][0]) if "command" in container else ()),
            self.image,
            *container.get("command", ())[1:],
            *container.get("args", ()),
        ]


@dataclass(frozen=True, slots=True)
class Container:
    """A container of the service, and what reaches it."""

    engine: Engine
    image: str
    name: str
    url: str
    metrics_url: str
    key: str
    dsn: str

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers={"Authorization": f"Bearer {self.key}"}, timeout=60)

    def python(self, program: str) -> str:
        """What a program prints inside."""
        return self.engine.run("exec", self.name, "python", "-c", program).stdout.strip()

    def logs(self) -> str:
        done = self.engine.run("logs", self.name)
        return done.stdout + done.stderr

    def state(self) -> Object:
        (told,) = json.loads(self.engine.run("inspect", self.name).stdout)
        return dict(told["State"])


@pytest.fixture(scope="module")
def dsn() -> Iterator[str]:
    """An empty database in a server on the loopback, over TCP as from a cluster."""
    above = Path(tempfile.mkdtemp(prefix="mfw-image-"))
    above.chmod(0o711)
    port = free_port()
    server = EmbeddedPostgres(above / "postgresql", port=port, settings=IN_HASTE)
    try:
        url = parse_dsn(server.start()).set(drivername="postgresql", host="127.0.0.1", port=port, query={})
        yield url.render_as_string(hide_password=False)
    finally:
        server.stop()
        shutil.rmtree(above, ignore_errors=True)


@pytest.fixture(scope="module")
def pods(engine: Engine, image: str, dsn: str) -> Iterator[Pods]:
    """What a cluster would hold ready for the pods."""
    folder = Path(tempfile.mkdtemp(prefix="mfw-secrets-"))
    contents = {
        "MFW_DATABASE__URL": dsn,
        "MFW_LEDGER__SIGNING_KEY": SignerKey.of(ORIGIN, Ed25519PrivateKey.generate()).text,
        # One replica shares its buckets with nobody; that it needs none is said below.
        "MFW_LIMITS__REDIS_URL": f"redis://:{secrets.token_hex(16)}@127.0.0.1:{free_port()}/0",
    }
    for name, value in contents.items():
        (folder / name).write_text(value)
        # As a projected Secret: whoever has the group of the pod.
        (folder / name).chmod(0o440)
        if os.geteuid() == 0:
            os.chown(folder / name, 0, 10001)
        else:
            (folder / name).chmod(0o444)
    folder.chmod(0o755)
    ports = {
        "MFW_HTTP__HOST": "127.0.0.1",
        "MFW_METRICS__HOST": "127.0.0.1",
        "MFW_HTTP__DRAIN_SECONDS": str(DRAIN_SECONDS),
        **UNHURRIED,
        "MFW_LIMITS__PER_MINUTE": "1000000",
        "MFW_LIMITS__BURST": "100000",
    }
    try:
        yield Pods(engine, image, folder, ports)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def migrated(pods: Pods) -> "tuple[str, str]":
    """What the migration job printed, and what it left in its file system, which it could have written to."""
    engine = pods.engine
    name = f"migrate-{secrets.token_hex(4)}"
    done = engine.run("run", "--name", name, *pods.words("Job", read_only=False), timeout=WAIT_SECONDS)
    changed = engine.run("diff", name).stdout
    engine.run("rm", "--force", name)
    return done.stdout + done.stderr, changed


@contextlib.contextmanager
def serving(pods: Pods, dsn: str) -> Iterator[Container]:
    """The container of the Deployment once it is ready, with a key that a job made; gone afterwards."""
    engine = pods.engine
    name = f"firewall-{secrets.token_hex(4)}"
    http, metrics = free_port(), free_port()
    words = pods.words("Deployment", more={"MFW_HTTP__PORT": str(http), "MFW_METRICS__PORT": str(metrics)})
    made = engine.run("run", "--rm", *words[:-1], "keys", "create", name, "--role", "agent").stdout
    engine.run("run", "--detach", "--name", name, "--health-interval", "1s", *words)
    try:
        container = Container(
            engine,
            pods.image,
            name,
            f"http://127.0.0.1:{http}",
            f"http://127.0.0.1:{metrics}",
            made.strip().splitlines()[-1],
            dsn,
        )
        deadline = time.monotonic() + WAIT_SECONDS
        with container.client() as client:
            while not ready(client):
                assert container.state()["Running"], container.logs()
                assert time.monotonic() < deadline, container.logs()
                time.sleep(0.1)
        yield container
    finally:
        engine.run("rm", "--force", "--volumes", name)


@pytest.fixture(scope="module")
def service(pods: Pods, migrated: "tuple[str, str]", dsn: str) -> Iterator[Container]:
    """A service that tests share, so none of them stops it: they come in any order."""
    assert migrated
    with serving(pods, dsn) as container:
        yield container


@pytest.fixture
def own_service(pods: Pods, migrated: "tuple[str, str]", dsn: str) -> Iterator[Container]:
    """A service that a test may stop."""
    assert migrated
    with serving(pods, dsn) as container:
        yield container


def ready(client: httpx.Client) -> bool:
    """Whether it says that it takes requests."""
    try:
        return client.get("/health/ready").status_code == 200
    except httpx.TransportError:
        return False


def memory(container: Container) -> int:
    """Bytes of all its processes, what they share counted once."""
    return int(
        container.python(
            "import glob, re\n"
            "total = 0\n"
            "for path in glob.glob('/proc/[0-9]*/smaps_rollup'):\n"
            "    try:\n"
            "        total += int(re.search(r'^Pss: +([0-9]+)', open(path).read(), re.M)[1]) * 1024\n"
            "    except (OSError, TypeError):\n"
            "        pass\n"
            "print(total)"
        )
    )


def test_the_migration_runs_as_its_job(migrated):
    told, changed = migrated
    assert "the service starts on this schema" in told
    # Only where something was mounted.
    assert {line.split()[1] for line in changed.splitlines()} <= {"/run", "/run/secrets", "/run/secrets/mfw", "/tmp"}


def test_it_runs_without_rights(service, figures):
    told = service.python(
        "import os, re\n"
        "status = open('/proc/1/status').read()\n"
        "print(os.getuid(), os.getgid(), *re.findall(r'^(?:CapEff|CapBnd|NoNewPrivs):\\s+(\\S+)', status, re.M))"
    ).split()
    assert told[:2] == ["10001", "10001"]
    # Effective and bounding set empty; no program that is started gets more.
    assert [int(word, 16) for word in told[2:]] == [0, 0, 1]
    figures["memory at rest"] = f"{memory(service) / 1e6:.0f} MB"


@pytest.mark.parametrize("decision", ["allow", "deny", "hold"])
def test_it_decides(service, decision):
    for file in sorted(EXAMPLES.glob(f"{decision}-*.json")):
        with service.client() as client:
            answer = client.post(
                "/v1/decisions", content=file.read_bytes(), headers={"Content-Type": "application/json"}
            )
        assert answer.status_code == 200, answer.text
        assert answer.json()["decision"] == decision, file.name
        assert answer.json()["ledger_index"] >= 0


def test_the_health_check_finds_it(service):
    deadline = time.monotonic() + WAIT_SECONDS
    while (health := service.state()["Health"])["Status"] != "healthy":
        assert time.monotonic() < deadline, health
        time.sleep(0.2)
    told = service.engine.run("image", "inspect", "--format", "{{json .Config.Healthcheck.Test}}", service.image)
    command = json.loads(told.stdout)[1:]
    assert service.engine.run("exec", service.name, *command).returncode == 0
    nobody = service.engine.run("exec", "--env", f"MFW_HTTP__PORT={free_port()}", service.name, *command, check=False)
    assert nobody.returncode != 0


def test_metrics_are_served(service):
    deadline = time.monotonic() + WAIT_SECONDS
    # A component that has not answered within two seconds is not well, on a busy machine.
    while "mfw_ready 1.0" not in (told := httpx.get(f"{service.metrics_url}/metrics", timeout=60).text):
        assert time.monotonic() < deadline, told
        time.sleep(0.2)
    assert "mfw_build_info{" in told


def test_nothing_is_written_but_where_it_may_be(service):
    refused = service.engine.run("exec", service.name, "touch", "/opt/mutation-firewall/x", check=False)
    assert "Read-only file system" in refused.stderr
    changed = service.engine.run("diff", service.name).stdout.splitlines()
    assert {line.split()[1] for line in changed} <= {"/run", "/run/secrets", "/run/secrets/mfw", "/tmp"}
    assert "Read-only" not in service.logs()


def test_sigterm_under_load_loses_nothing_that_was_answered(own_service, figures):
    service = own_service
    body = (EXAMPLES / "allow-sql-update-by-id.json").read_bytes()
    answered: list[str] = []
    odd: list[str] = []
    gone = threading.Event()

    def ask() -> None:
        with service.client() as client:
            while not gone.is_set():
                try:
                    got = client.post("/v1/decisions", content=body, headers={"Content-Type": "application/json"})
                except httpx.TransportError:
                    # The door is closed; before the signal that would be a fault.
                    if not told_to_go.is_set():
                        odd.append("refused before the signal")
                    return
                if got.status_code == 200:
                    answered.append(got.json()["id"])
                else:
                    odd.append(got.text)

    told_to_go = threading.Event()
    clients = [threading.Thread(target=ask, name=f"client-{number}") for number in range(CLIENTS)]
    for one in clients:
        one.start()
    try:
        deadline = time.monotonic() + WAIT_SECONDS
        begun = time.monotonic()
        while len(answered) < UNDER_LOAD:
            assert not odd, odd[:3]
            assert time.monotonic() < deadline, service.logs()
            time.sleep(0.05)
        figures["decisions a second, 8 clients"] = f"{len(answered) / (time.monotonic() - begun):.0f}"
        figures["memory under load"] = f"{memory(service) / 1e6:.0f} MB"
        told_to_go.set()
        told_to = time.monotonic()
        service.engine.run("kill", "--signal", "TERM", service.name)
        with service.client() as client:
            while (status := client.get("/health/ready").status_code) == 200:
                assert time.monotonic() < told_to + WAIT_SECONDS
            assert status == 503
        ended = service.engine.run("wait", service.name, timeout=WAIT_SECONDS).stdout.strip()
    finally:
        told_to_go.set()
        gone.set()
        for one in clients:
            one.join(WAIT_SECONDS)
    assert odd == []
    assert ended == "0", service.logs()
    assert service.state()["OOMKilled"] is False
    recorded = asyncio.run(_recorded(service.dsn))
    assert set(answered) <= recorded
    figures["answered and recorded"] = f"{len(answered)} of {len(answered)}"


async def _recorded(dsn: str) -> set[str]:
    connection = await asyncpg.connect(dsn)
    try:
        return {str(row["id"]) for row in await connection.fetch("SELECT id FROM ledger_entries")}
    finally:
        await connection.close()
