"""What the chart says to the service and to its jobs is what these understand."""

import os
import secrets
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from typer.testing import CliRunner

from app.cli import app
from app.cli.controller import Wanted, _documents
from app.core.notes import SignerKey
from app.ops.backup import backups
from app.settings import Environment, Settings
from tests.certificates import serving, write
from tests.helm.chart import (
    CHART,
    EXAMPLES,
    MINIMAL,
    NAMESPACE,
    QUICKSTART,
    RELEASE,
    ROOT,
    Object,
    Pod,
    env,
    example,
    one,
    pods,
    render,
)

SECRETS: Final = "/run/secrets/"
BACKUPS: Final = "/backups"
POLICIES: Final = "/opt/mutation-firewall"
IN_THE_DATABASE: Final = CHART / "ci" / "backups-values.yaml"
# Of whose certificates one is of the chart's own making, and the other somebody else's.
OWN: Final = CHART / "ci" / "webhook-own-certificates-values.yaml"
GIVEN: Final = CHART / "ci" / "webhook-given-certificate-values.yaml"


def _contents() -> dict[str, str]:
    """A value for every secret setting that an example names, as production wants it."""
    password = secrets.token_hex(16)
    database = f"postgresql://firewall:{password}@db.example.com:5432/firewall?sslmode=verify-full"
    signer = Ed25519PrivateKey.generate().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return {
        "MFW_DATABASE__URL": database,
        "MFW_DATABASE__DIRECT_URL": database,
        "MFW_LEDGER__SIGNING_KEY": SignerKey.of("firewall.example.com/ledger", Ed25519PrivateKey.generate()).text,
        "MFW_LIMITS__REDIS_URL": f"rediss://firewall:{password}@redis.example.com:6379/0",
        "MFW_KUBERNETES__CANARY__KEY": secrets.token_hex(32),
        "MFW_POLICIES__SIGNERS": signer.decode(),
    }


def _environment(container: Object, folder: Path, contents: Mapping[str, str]) -> dict[str, str]:
    """The variables of a container, with what is mounted below `folder`, and this checkout for the image."""
    given = {}
    for name, value in env(container).items():
        given[name] = value.replace(SECRETS, f"{folder}/").replace(POLICIES, str(ROOT))
        if name.endswith("_FILE") and value.startswith(f"{SECRETS}mfw/"):
            path = Path(given[name])
            path.parent.mkdir(exist_ok=True)
            path.write_text(contents[name.removesuffix("_FILE")])
    return given


@pytest.mark.parametrize("file", [file for file in EXAMPLES if file != QUICKSTART], ids=lambda file: file.stem)
def test_the_service_takes_its_settings_in_production(file: Path, tmp_path: Path) -> None:
    (tmp_path / "tls").mkdir()
    write(tmp_path / "tls", serving())
    (container,) = one(example(file), "Deployment")["spec"]["template"]["spec"]["containers"]
    given = _environment(container, tmp_path, _contents())
    loaded = Settings.load(given)
    assert loaded.environment is Environment.PRODUCTION
    assert (loaded.http.host, loaded.http.port, loaded.metrics.port) == ("0.0.0.0", 8080, 9090)


def _job(objects: tuple[Object, ...] | list[Object], name: str) -> tuple[Pod, Object]:
    """The pod of a job and its last container."""
    (pod,) = [pod for pod in pods(objects) if pod.of.startswith((f"CronJob/{RELEASE}-{name}", f"Job/{RELEASE}-{name}"))]
    return pod, pod.containers[-1]


def _command(container: Object) -> list[str]:
    """What runs: of `args` alone behind the entrypoint of the image."""
    found = [*container.get("command", ["mutation-firewall"]), *container.get("args", ())]
    return [str(word) for word in found]


def test_jobs_run_as_the_chart_writes_them(empty_database_dsn: str, tmp_path: Path) -> None:
    """From an empty database: nothing to back up, migrations, partitions, integrity, a backup, archives."""
    objects = render(IN_THE_DATABASE, archive={"keepMonths": 1})
    contents = {**_contents(), "MFW_DATABASE__URL": empty_database_dsn}
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])

    def run(container: Object) -> str:
        given = _environment(container, tmp_path, contents)
        done = subprocess.run(
            [word.replace(BACKUPS, str(tmp_path / "backups")) for word in _command(container)],
            env={"PATH": path, "PYTHONPATH": str(ROOT), **given},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{_command(container)}: {done.stdout}{done.stderr}"
        return done.stdout

    migration, migrate = _job(objects, "migrate")
    (before,) = migration.spec["initContainers"]
    assert "nothing to back up" in run(before)
    assert "the service starts on this schema" in run(migrate)
    run(before)
    assert len(list(backups(tmp_path / "backups"))) == 1
    for name in ("partitions", "integrity", "backup", "archive"):
        run(_job(objects, name)[1])


@pytest.mark.parametrize("source", ["own", "none"])
def test_the_controller_understands_its_arguments(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it is told, as the command itself reads it; its documents are those of the values."""
    file = CHART / "ci" / "controller-values.yaml"
    objects = render(file, tls={"source": source})
    (container,) = one(objects, "Deployment", f"{RELEASE}-controller")["spec"]["template"]["spec"]["containers"]
    told = _told(monkeypatch, _command(container)[1:])
    wanted = {port["name"]: port["port"] for port in one(objects, "Service")["spec"]["ports"]}
    where = f"{RELEASE}.{NAMESPACE}.svc"
    secure = source == "own"
    assert told.url == (f"https://{where}:{wanted['https']}" if secure else f"http://{where}:{wanted['http']}")
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert told.key_file is not None
    assert str(told.key_file.parent) in mounts
    assert (told.ca_file is not None and str(told.ca_file.parent) in mounts) is secure
    assert (told.namespace, told.lease, list(told.exceptions)) == (NAMESPACE, f"{RELEASE}-controller", ["default"])
    assert told.metrics == ("0.0.0.0", container["ports"][0]["containerPort"])
    assert str(told.also) in mounts
    assert told.api_key is None
    for name, text in one(objects, "ConfigMap", f"{RELEASE}-controller")["data"].items():
        (tmp_path / name).write_text(text)
    assert [document["kind"] for document in _documents(tmp_path)] == ["RecordMask"]


def _told(monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> Wanted:
    """What the command makes of its arguments, without doing it."""
    found: list[Wanted] = []
    monkeypatch.setattr("app.cli.controller.run_controller", lambda wanted, **_: found.append(wanted))
    monkeypatch.delenv("MFW_API_KEY", raising=False)
    monkeypatch.delenv("MFW_URL", raising=False)
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    (told,) = found
    return told


@contextmanager
def _service(status: int, trust: ssl.SSLContext | None = None) -> Iterator[int]:
    """The port of a service that is well, and answers whoever asks for a decision with that status."""

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(200)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self._answer(status)

        def _answer(self, code: int) -> None:
            self.send_response(code)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    if trust is not None:
        server.socket = trust.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    ("file", "status", "known", "said"),
    [
        (MINIMAL, 401, True, None),
        (MINIMAL, 200, True, "a decision was given to nobody in particular"),
        (OWN, 401, True, None),
        (OWN, 200, True, "a decision was given to nobody in particular"),
        (OWN, 403, True, "HTTP Error 403"),
        (OWN, 401, False, "CERTIFICATE_VERIFY_FAILED"),
        (GIVEN, 401, False, None),
        (GIVEN, 200, False, "a decision was given to nobody in particular"),
    ],
)
def test_helm_test_asks_for_a_decision(
    file: Path, status: int, *, known: bool, said: str | None, tmp_path: Path
) -> None:
    (tmp_path / "ca.crt").write_bytes((issued := serving()).authority)
    trust = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    files = write(tmp_path, issued if known else serving())
    trust.load_cert_chain(files.certificate, files.key)
    (container,) = one(example(file), "Pod", f"{RELEASE}-test")["spec"]["containers"]
    command, option, script = _command(container)
    assert (command, option) == ("python", "-c")
    with _service(status) as http, _service(status, trust) as https:
        script = script.replace("/run/secrets/authority", str(tmp_path))
        for scheme, port, here in (("http", 80, http), ("https", 443, https)):
            script = script.replace(f"{scheme}://{RELEASE}.{NAMESPACE}.svc:{port}", f"{scheme}://127.0.0.1:{here}")
        done = subprocess.run(
            [sys.executable, option, script], capture_output=True, text=True, timeout=120, check=False, env={}
        )
    assert done.stdout == "{}\n"
    assert (done.returncode == 0) is (said is None), done.stderr
    assert said is None or said in done.stderr


def test_helm_test_says_where_there_is_no_authority(tmp_path: Path) -> None:
    """Issuers of cert-manager need not write one; a pod that waits for its volume would say nothing."""
    issued = CHART / "ci" / "webhook-cert-manager-values.yaml"
    for values, secret, key in (
        ({}, f"{RELEASE}-tls", "ca.crt"),
        ({"controller": {"authority": {"name": "authority", "key": "a.pem"}}}, "authority", "a.pem"),
    ):
        pod = one(render(issued, **values), "Pod", f"{RELEASE}-test")["spec"]
        (volume,) = pod["volumes"]
        found = volume["secret"]
        assert (found["secretName"], found["items"], found["optional"]) == (
            secret,
            [{"key": key, "path": "ca.crt"}],
            True,
        )
        _, option, script = _command(pod["containers"][0])
        with _service(200) as http:
            script = script.replace(f"http://{RELEASE}.{NAMESPACE}.svc:80", f"http://127.0.0.1:{http}")
            script = script.replace("/run/secrets/authority", str(tmp_path))
            done = subprocess.run(
                [sys.executable, option, script], capture_output=True, text=True, timeout=120, check=False, env={}
            )
        assert done.returncode != 0
        assert f"Secret {secret} has no `{key}` to check the certificate by" in done.stderr


def test_nobody_in_particular_comes_far_where_a_certificate_has_to_be_shown() -> None:
    pod = one(render(OWN, settings={"MFW_TLS__CLIENT_CERTIFICATES": "required"}), "Pod", f"{RELEASE}-test")
    (container,) = pod["spec"]["containers"]
    assert "/health" in _command(container)[-1]
    assert "/v1/decisions" not in _command(container)[-1]
