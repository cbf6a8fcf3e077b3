"""A real Kubernetes control plane on the loopback: etcd, the API server and, where asked for, the controllers.

No node belongs to it: pods are accepted and never run. What lies in between, authentication, RBAC, admission and storage,
is what a cluster has.
"""

import contextlib
import datetime as dt
import ipaddress
import json
import os
import secrets
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from app.core.api_key import SECRET_BYTES, generate
from app.persistence import spawn
from tests.ports import free_port

ROOT: Final = Path(__file__).resolve().parents[2]
BUILD: Final = Path(__file__).parent / "tools" / "build"
# Compiling takes minutes where nothing is in Go's cache.
BUILD_SECONDS: Final = 1800
# Half a minute where nobody else keeps the machine busy.
START_SECONDS: Final = 300
# Longer than what a command is told to wait for itself.
COMMAND_SECONDS: Final = 180
ISSUER: Final = "https://kubernetes.default.svc"
# What the API server's certificate is for, in a cluster as here.
_NAMES: Final = ("localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc")
_SERVICES: Final = "10.96.0.0/16"
# Who sends a review to a webhook: a host and port, or anyone's.
_ANY_WEBHOOK: Final = "*"
# Services of this namespace are sent no credential: those of a stranger's cluster, whose API server has none.
STRANGERS: Final = "mutation-firewall"


class NotHereError(Exception):
    """What a control plane is made of is missing on this machine."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a command did."""

    returncode: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        """Standard output, read."""
        return json.loads(self.stdout)


@dataclass(frozen=True, slots=True)
class Answer:
    """What the API server said; `body` is read if it is JSON."""

    status: int
    body: Any
    headers: httpx.Headers


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate and its key, as PEM."""

    certificate: bytes
    key: bytes

    def write(self, directory: Path, name: str) -> tuple[Path, Path]:
        """Write NAME.crt and NAME.key."""
        paths = directory / f"{name}.crt", directory / f"{name}.key"
        for path, content in zip(paths, (self.certificate, self.key), strict=True):
            path.write_bytes(content)
        return paths


class Authority:
    """A certificate authority that lives as long as the test session."""

    def __init__(self, name: str) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        made = self._builder(self._name, self._key.public_key()).add_extension(
            x509.BasicConstraints(ca=True, path_length=0), critical=True
        )
        self._certificate = made.add_extension(_usage(signs=True), critical=True).sign(self._key, hashes.SHA256())
        self.pem = self._certificate.public_bytes(Encoding.PEM)

    def server(self, *names: str) -> Certificate:
        """A certificate for a server with these DNS names or addresses; the first one is its common name."""
        alternatives: list[x509.GeneralName] = []
        for name in names:
            try:
                alternatives.append(x509.IPAddress(ipaddress.ip_address(name)))
            except ValueError:
                alternatives.append(x509.DNSName(name))
        extension = x509.SubjectAlternativeName(alternatives)
        return self._issue(names[0], (), ExtendedKeyUsageOID.SERVER_AUTH, extension)

    def client(self, name: str, *groups: str) -> Certificate:
        """A certificate of somebody: to Kubernetes the common name is the user, the organisations are the groups."""
        return self._issue(name, groups, ExtendedKeyUsageOID.CLIENT_AUTH, None)

    def _issue(
        self, name: str, groups: Sequence[str], use: x509.ObjectIdentifier, more: x509.ExtensionType | None
    ) -> Certificate:
        key = ec.generate_private_key(ec.SECP256R1())
        attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
        subject = x509.Name([*attributes, x509.NameAttribute(NameOID.COMMON_NAME, name)])
        made = (
            self._builder(subject, key.public_key())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([use]), critical=False)
        )
        if more is not None:
            made = made.add_extension(more, critical=False)
        certificate = made.sign(self._key, hashes.SHA256())
        return Certificate(certificate.public_bytes(Encoding.PEM), _private(key))

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        now = dt.datetime.now(dt.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(minutes=5))
            .not_valid_after(now + dt.timedelta(days=1))
        )


class Cluster:
    """One control plane in a folder of its own, alive from `start` to `stop` and never longer than this process.

    `webhook_secret` makes `webhook_key`, the bearer key that the API server sends to every webhook: who stores it in a
    database of the firewall's (`ApiKeyStore(engine, entropy=lambda _: cluster.webhook_secret)`) has an API server that is
    known there. Beside it it shows a client certificate of `authority`, for user `kube-apiserver`.
    """

    def __init__(self, programs: Path, etcd: Path) -> None:
        self.programs, self._etcd = programs, etcd
        self.folder = Path(tempfile.mkdtemp(prefix="mfw-cluster-"))
        self.authority = Authority("tests")
        self.url = f"https://127.0.0.1:{free_port()}"
        self.webhook_secret = secrets.token_bytes(SECRET_BYTES)
        self.webhook_key = generate(self.webhook_secret)
        self._children: list[subprocess.Popen[bytes]] = []
        self._clients: dict[bool, httpx.Client] = {}
        self._events: list[dict[str, Any]] = []
        self._heard = 0

    @property
    def ca_file(self) -> Path:
        """The authority's certificate."""
        return self.folder / "ca.crt"

    @property
    def admin_kubeconfig(self) -> Path:
        """Of a member of `system:masters`, whom RBAC refuses nothing."""
        return self.folder / "admin.kubeconfig"

    @property
    def audit_log(self) -> Path:
        """One JSON event a line for each request that changes something, with the annotations of admission."""
        return self.folder / "audit.log"

    @property
    def egress_socket(self) -> Path:
        """Where connections to Services go, by CONNECT to the Service's own address: `tests/kubernetes/node.py` listens."""
        return self.folder / "egress"

    @property
    def issuer(self) -> str:
        """The issuer of service account tokens; the keys are at `jwks_url`."""
        return ISSUER

    @property
    def jwks_url(self) -> str:
        """Where the keys of service account tokens are, for whoever may read them."""
        return f"{self.url}/openid/v1/jwks"

    def start(self) -> Self:
        """Start etcd and the API server and wait until it is ready."""
        try:
            self._write_files()
            etcd = self._start_etcd()
            self._start_server(etcd)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End what was started, the last one first, and remove the folder."""
        for client in self._clients.values():
            client.close()
        self._clients.clear()
        for child in reversed(self._children):
            # Nothing here is kept: no server needs the time that an orderly end takes.
            child.kill()
            child.wait()
        self._children.clear()
        shutil.rmtree(self.folder, ignore_errors=True)

    @contextlib.contextmanager
    def controllers(self) -> Iterator[None]:
        """Run the controller manager: service accounts, endpoints, garbage, and namespaces that end.

        Not for ever: what controllers change meanwhile, patches of others are tried again for, and webhooks asked again.
        """
        port = free_port()
        child = self._spawn(
            "kube-controller-manager",
            str(self.programs / "kube-controller-manager"),
            f"--kubeconfig={self.admin_kubeconfig}",
            f"--authentication-kubeconfig={self.admin_kubeconfig}",
            f"--authorization-kubeconfig={self.admin_kubeconfig}",
            f"--service-account-private-key-file={self.folder / 'accounts.key'}",
            f"--root-ca-file={self.ca_file}",
            "--use-service-account-credentials=true",
            "--leader-elect=false",
            "--bind-address=127.0.0.1",
            f"--secure-port={port}",
            f"--cert-dir={self.folder / 'controllers'}",
        )
        try:
            self._wait(lambda: self.api("GET", "/api/v1/namespaces/default/serviceaccounts/default").status == 200)
            yield
        finally:
            child.kill()
            child.wait()
            self._children.remove(child)

    # What tests say

    def kubectl(
        self, *arguments: str, stdin: str | dict[str, Any] | None = None, as_token: str | None = None
    ) -> Result:
        """Run kubectl to its end as the administrator, or as whose token it is. A dict as `stdin` is sent as JSON."""
        if as_token is None:
            who = [f"--kubeconfig={self.admin_kubeconfig}"]
        else:
            # No kubeconfig: a client certificate in it would win over the token.
            who = ["--kubeconfig=/dev/null", f"--server={self.url}", f"--certificate-authority={self.ca_file}"]
            who += [f"--token={as_token}"]
        done = subprocess.run(
            [str(self.programs / "kubectl"), *who, *arguments],
            input=json.dumps(stdin) if isinstance(stdin, dict) else stdin or "",
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
            env={
                "PATH": os.environ.get("PATH", ""),
                "HOME": str(self.folder),
                "KUBECACHEDIR": str(self.folder / "cache"),
            },
        )
        return Result(done.returncode, done.stdout, done.stderr)

    def api(
        self,
        method: str,
        path: str,
        json: Any = None,
        *,
        token: str | None = None,
        content_type: str = "application/json",
        headers: dict[str, str] | None = None,
    ) -> Answer:
        """Send one request to the API server, as the administrator or as whose token it is."""
        client = self._http(certified=token is None)
        sent = {"Content-Type": content_type, "Accept": "application/json, */*;q=0.1", **(headers or {})}
        if token is not None:
            sent["Authorization"] = f"Bearer {token}"
        content = None if json is None else _json(json)
        answer = client.request(method, path, content=content, headers=sent)
        with contextlib.suppress(ValueError):
            return Answer(answer.status_code, answer.json(), answer.headers)
        return Answer(answer.status_code, answer.text, answer.headers)

    def apply(self, *documents: dict[str, Any]) -> None:
        """Make or change these objects as the administrator, who must not be refused."""
        done = self.kubectl("apply", "-f", "-", stdin={"apiVersion": "v1", "kind": "List", "items": list(documents)})
        assert done.returncode == 0, done.stderr

    def namespace(self, name: str, **labels: str) -> str:
        """A namespace with the service account that its pods need, where it is not there yet."""
        made = self.api(
            "POST",
            "/api/v1/namespaces",
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}},
        )
        assert made.status in {201, 409}, made
        self._account(name, "default")
        return name

    def service_account(self, namespace: str, name: str, *, audiences: Sequence[str] = ()) -> str:
        """A token of a service account, which is made with its namespace where it is not there yet."""
        self.namespace(namespace)
        self._account(namespace, name)
        asked = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"audiences": list(audiences)},
        }
        made = self.api("POST", f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token", asked)
        assert made.status == 201, made
        token: str = made.body["status"]["token"]
        return token

    def grant(self, name: str, account: str, *rules: dict[str, Any]) -> None:
        """Let the service account NAMESPACE/NAME do what the rules of RBAC say, everywhere."""
        namespace, _, of = account.partition("/")
        group, there = "rbac.authorization.k8s.io", {"metadata": {"name": name}}
        role = {"apiVersion": f"{group}/v1", "kind": "ClusterRole", **there, "rules": list(rules)}
        subject = {"kind": "ServiceAccount", "namespace": namespace, "name": of}
        bound = {"roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": name}, "subjects": [subject]}
        binding = {"apiVersion": f"{group}/v1", "kind": "ClusterRoleBinding", **there, **bound}
        for kind, document in (("clusterroles", role), ("clusterrolebindings", binding)):
            made = self.api("POST", f"/apis/{group}/v1/{kind}", document)
            assert made.status in {201, 409}, made

    def events(self) -> list[dict[str, Any]]:
        """Every event of the audit log, the oldest first; it is written behind the answer."""
        # Megabytes in the end, and asked for every few milliseconds: each line is read once.
        with self.audit_log.open("rb") as log:
            log.seek(self._heard)
            text, newline, _ = log.read().rpartition(b"\n")
        self._heard += len(text + newline)
        self._events += [json.loads(line) for line in text.splitlines()]
        return list(self._events)

    def kubeconfig(self, name: str, token: str) -> Path:
        """A kubeconfig of whose token it is, as NAME.kubeconfig in the folder."""
        return self._write_kubeconfig(f"{name}.kubeconfig", {"token": token})

    # How it starts

    def _account(self, namespace: str, name: str) -> None:
        account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}}
        made = self.api("POST", f"/api/v1/namespaces/{namespace}/serviceaccounts", account)
        assert made.status in {201, 409}, made

    def _http(self, *, certified: bool) -> httpx.Client:
        if certified not in self._clients:
            context = ssl.create_default_context(cafile=str(self.ca_file))
            if certified:
                context.load_cert_chain(self.folder / "admin.crt", self.folder / "admin.key")
            self._clients[certified] = httpx.Client(base_url=self.url, verify=context, timeout=COMMAND_SECONDS)
        return self._clients[certified]

    def _write_files(self) -> None:
        self.ca_file.write_bytes(self.authority.pem)
        self.authority.server("127.0.0.1", *_NAMES, "10.96.0.1").write(self.folder, "server")
        admin = self.authority.client("admin", "system:masters").write(self.folder, "admin")
        caller = self.authority.client("kube-apiserver").write(self.folder, "webhooks")
        accounts = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        (self.folder / "accounts.key").write_bytes(_private(accounts))
        (self.folder / "accounts.pub").write_bytes(
            accounts.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        )
        self._write_kubeconfig("admin.kubeconfig", _certified(*admin))
        # What the API server shows to webhooks it reads once, when it starts.
        shown = {"name": _ANY_WEBHOOK, "user": {"token": self.webhook_key, **_certified(*caller)}}
        nothing = {"name": f"*.{STRANGERS}.svc", "user": {}}
        self._write("webhooks.kubeconfig", {"apiVersion": "v1", "kind": "Config", "users": [shown, nothing]})
        to_services = {"proxyProtocol": "HTTPConnect", "transport": {"uds": {"udsName": str(self.egress_socket)}}}
        self._write(
            "egress.json",
            {
                "apiVersion": "apiserver.k8s.io/v1beta1",
                "kind": "EgressSelectorConfiguration",
                "egressSelections": [{"name": "cluster", "connection": to_services}],
            },
        )
        config = {
            "apiVersion": "apiserver.config.k8s.io/v1",
            "kind": "WebhookAdmissionConfiguration",
            "kubeConfigFile": str(self.folder / "webhooks.kubeconfig"),
        }
        plugin = {"name": "ValidatingAdmissionWebhook", "configuration": config}
        self._write(
            "admission.json",
            {"apiVersion": "apiserver.config.k8s.io/v1", "kind": "AdmissionConfiguration", "plugins": [plugin]},
        )
        # What is connected to is read, by its verb, and asked about.
        connected = [f"pods/{part}" for part in ("exec", "attach", "portforward", "proxy")]
        rules = [
            {"level": "Metadata", "resources": [{"group": "", "resources": connected}]},
            {"level": "None", "verbs": ["get", "list", "watch"]},
            {"level": "None", "resources": [{"group": "coordination.k8s.io"}]},
            {"level": "Metadata"},
        ]
        self._write(
            "audit.json",
            {
                "apiVersion": "audit.k8s.io/v1",
                "kind": "Policy",
                "omitStages": ["RequestReceived", "ResponseStarted"],
                "rules": rules,
            },
        )

    def _write_kubeconfig(self, name: str, user: dict[str, Any]) -> Path:
        server = {"server": self.url, "certificate-authority": str(self.ca_file)}
        return self._write(
            name,
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "test", "cluster": server}],
                "users": [{"name": "test", "user": user}],
                "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
                "current-context": "test",
            },
        )

    def _write(self, name: str, document: dict[str, Any]) -> Path:
        # JSON is YAML.
        path = self.folder / name
        path.write_text(json.dumps(document, indent=2))
        return path

    def _start_etcd(self) -> str:
        url, peers = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
        data = self.folder / "etcd"
        data.mkdir(mode=0o700)
        self._spawn(
            "etcd",
            str(self._etcd),
            f"--data-dir={data}",
            f"--listen-client-urls={url}",
            f"--advertise-client-urls={url}",
            f"--listen-peer-urls={peers}",
            f"--initial-advertise-peer-urls={peers}",
            f"--initial-cluster=default={peers}",
            "--logger=zap",
            "--log-level=error",
            # Nothing here is kept, and how slow a disk is at the moment must not decide. A variable: not every release
            # has the option.
            ETCD_UNSAFE_NO_FSYNC="true",
        )
        with httpx.Client() as client:
            self._wait(lambda: client.get(f"{url}/health").json()["health"] == "true")
        return url

    def _start_server(self, etcd: str) -> None:
        self._spawn(
            "kube-apiserver",
            str(self.programs / "kube-apiserver"),
            f"--etcd-servers={etcd}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            f"--secure-port={self.url.rpartition(':')[2]}",
            # A loopback address is no endpoint; without this the server ends.
            "--endpoint-reconciler-type=none",
            f"--service-cluster-ip-range={_SERVICES}",
            f"--tls-cert-file={self.folder / 'server.crt'}",
            f"--tls-private-key-file={self.folder / 'server.key'}",
            f"--client-ca-file={self.ca_file}",
            "--authorization-mode=RBAC",
            f"--service-account-issuer={ISSUER}",
            f"--service-account-jwks-uri={self.jwks_url}",
            f"--service-account-signing-key-file={self.folder / 'accounts.key'}",
            f"--service-account-key-file={self.folder / 'accounts.pub'}",
            f"--admission-control-config-file={self.folder / 'admission.json'}",
            f"--egress-selector-config-file={self.folder / 'egress.json'}",
            f"--audit-policy-file={self.folder / 'audit.json'}",
            f"--audit-log-path={self.audit_log}",
            f"--cert-dir={self.folder / 'apiserver'}",
            "--allow-privileged=true",
            "--profiling=false",
            "--v=0",
        )
        self._wait(lambda: self.api("GET", "/readyz").status == 200)

    def _spawn(self, name: str, *command: str, **variables: str) -> "subprocess.Popen[bytes]":
        """Start a program that dies when this process does; its words go to NAME.log."""
        dying = [sys.executable, spawn.__file__, str(signal.SIGKILL.value), str(os.getpid())]
        with (self.folder / f"{name}.log").open("wb") as log:
            child = subprocess.Popen(
                [*dying, str(os.geteuid()), str(os.getegid()), *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env={**os.environ, **variables},
            )
        self._children.append(child)
        return child

    def _wait(self, ready: Any) -> None:
        """Until `ready`; a request that fails is not ready."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            with contextlib.suppress(httpx.HTTPError, ValueError):
                if ready():
                    return
            for child in self._children:
                assert child.poll() is None, f"it ended by itself:\n{self._told()}"
            assert time.monotonic() < deadline, f"it did not become ready:\n{self._told()}"
            time.sleep(0.05)

    def _told(self) -> str:
        tails = {path.name: path.read_text(errors="replace")[-3000:] for path in sorted(self.folder.glob("*.log"))}
        return "\n".join(f"-- {name}\n{tail}" for name, tail in tails.items())


def programs() -> tuple[Path, Path]:
    """Where the API server lies, built if need be, and etcd. Raises NotHereError."""
    etcd = shutil.which("etcd")
    if etcd is None:
        raise NotHereError("no etcd here; on Debian: apt-get install etcd-server")
    built = subprocess.run(
        ["bash", str(BUILD)],
        capture_output=True,
        text=True,
        check=False,
        timeout=BUILD_SECONDS,
    )
    if built.returncode != 0:
        raise NotHereError(f"no API server here: {built.stderr.strip()[-2000:]}")
    return Path(built.stdout.strip()), Path(etcd)


def _json(document: Any) -> bytes:
    return document if isinstance(document, bytes) else json.dumps(document).encode()


def _certified(certificate: Path, key: Path) -> dict[str, str]:
    return {"client-certificate": str(certificate), "client-key": str(key)}


def _private(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )
