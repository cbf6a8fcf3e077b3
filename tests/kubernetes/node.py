"""What a node does, done by processes of this machine: pods of a cluster without nodes start, become ready, and end.

A pod of the firewall's image is a process of this checkout with the arguments, the variables, the files and the token that
its specification says. One of PostgreSQL's image is a database of the server at hand. Of any other it is only said that it
runs. Services lead to pods that are ready, for the API server (which asks its webhooks there) and by `Node.reach`.

What a process cannot have as a pod has it is put in its place: a port of its own on the loopback for each that a container
names, a folder for each mount, and what is written for either in arguments, variables and mounted texts.
"""

import base64
import contextlib
import os
import re
import secrets
import shutil
import signal
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urlsplit, urlunsplit

import httpx

from app.persistence import spawn
from tests.integration.conftest import _execute, _run, with_database
from tests.integration.service.conftest import UNHURRIED
from tests.kubernetes.cluster import ROOT, Answer, Cluster
from tests.ports import free_port

LOOK_SECONDS: Final = 0.1
STOP_SECONDS: Final = 60
# What a pod that asks for its address is told. In its status it has none: who makes EndpointSlices looks for its node.
_ADDRESSES: Final = "10.244.0."
_API_SERVER: Final = "https://kubernetes.default.svc"
_SERVICE: Final = re.compile(r"\b([a-z0-9-]+)\.([a-z0-9-]+)\.svc(?:\.cluster\.local)?:(\d+)")
# Certificates are for names: a script that asks over TLS keeps them, and finds what is behind them.
_WAYS: Final = """\
import socket
def found(host, port, *more, _ways={ways!r}, _really=socket.getaddrinfo, **named):
    return _really(*_ways.get((host, int(port)), (host, port)), *more, **named)
socket.getaddrinfo = found
"""
_ACCOUNT: Final = "/var/run/secrets/kubernetes.io/serviceaccount"

Object = dict[str, Any]


class _StoppedError(Exception):
    """The pod was deleted, or the node goes."""


class Node:
    """Runs every pod of the cluster from the beginning of the block to its end. `server_dsn` is a PostgreSQL's superuser."""

    def __init__(self, cluster: Cluster, server_dsn: str) -> None:
        self.cluster = cluster
        self.server_dsn = server_dsn
        self.folder = Path(tempfile.mkdtemp(prefix="mfw-node-"))
        # What went wrong in running pods that is no pod's own fault; empty at the end of a test.
        self.troubles: list[str] = []
        self.databases: dict[str, str] = {}
        self._pods: dict[str, _Pod] = {}
        self._logs: dict[str, str] = {}
        self._volumes: set[str] = set()
        self._numbers = 0
        self._ended = threading.Event()
        self._watching = threading.Thread(target=self._watch, name="node")
        self._routing = _Routes(str(cluster.egress_socket), self)

    def __enter__(self) -> Self:
        threading.Thread(target=self._routing.serve_forever, kwargs={"poll_interval": 0.05}, name="routes").start()
        self._watching.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ended.set()
        self._watching.join()
        self._provide([])
        for pod in self._pods.values():
            pod.stop()
        for pod in self._pods.values():
            pod.join()
        self._routing.shutdown()
        self._routing.server_close()
        self.cluster.egress_socket.unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    # What tests and stories say

    def reach(self, namespace: str, service: str, port: int) -> str | None:
        """HOST:PORT of a ready pod behind a port of a Service; None while none is ready."""
        found = self.cluster.api("GET", f"/api/v1/namespaces/{namespace}/services/{service}")
        return self._behind(found.body, port) if found.status == 200 else None

    @property
    def running(self) -> list[str]:
        """Names of pods that have not come to their end."""
        return [pod.name_of for pod in list(self._pods.values()) if pod.is_alive()]

    def logs(self, pod: str) -> str:
        """What a pod wrote; a part of its name will do. Those that are gone too."""
        return "".join(text for name, text in sorted(self._told().items()) if pod in name)

    def execute(self, pod: str, *command: str) -> "subprocess.CompletedProcess[str]":
        """Run a command as `kubectl exec` would: with the files and the variables of a pod that runs."""
        (found,) = [one for one in list(self._pods.values()) if one.label == pod and one.ready]
        return found.execute(command)

    def _told(self) -> dict[str, str]:
        return self._logs | {pod.name_of: pod.told() for pod in list(self._pods.values())}

    # How it works

    def _watch(self) -> None:
        while not self._ended.wait(LOOK_SECONDS):
            with contextlib.suppress(httpx.HTTPError):
                listed = self.cluster.api("GET", "/api/v1/pods")
                if listed.status == 200:
                    self._follow({pod["metadata"]["uid"]: pod for pod in listed.body["items"]})
                claims = self.cluster.api("GET", "/api/v1/persistentvolumeclaims")
                if claims.status == 200:
                    self._provide(claims.body["items"])

    def _follow(self, there: Mapping[str, Object]) -> None:
        for uid in [uid for uid in self._pods if uid not in there]:
            self._pods[uid].stop()
            if not self._pods[uid].is_alive():
                gone = self._pods.pop(uid)
                self._logs[gone.name_of] = gone.told()
        for uid, pod in there.items():
            new = uid not in self._pods and pod["status"].get("phase") == "Pending"
            # Those that somebody bound to a node are not ours.
            if new and not pod["spec"].get("nodeName") and not pod["metadata"].get("deletionTimestamp"):
                self._numbers += 1
                self._pods[uid] = _Pod(self, pod, f"{_ADDRESSES}{self._numbers % 250 + 1}")
                self._pods[uid].start()

    def _provide(self, claims: Sequence[Object]) -> None:
        """A volume for each claim, as whoever provisions them makes one; gone when the claim is."""
        there = {claim["metadata"]["uid"]: claim for claim in claims}
        for uid in there.keys() - self._volumes:
            claim, metadata = there[uid]["spec"], there[uid]["metadata"]
            of = {"kind": "PersistentVolumeClaim", "apiVersion": "v1", "uid": uid}
            spec = {
                "capacity": claim["resources"]["requests"],
                "accessModes": claim["accessModes"],
                "persistentVolumeReclaimPolicy": "Retain",
                "storageClassName": claim.get("storageClassName", ""),
                "hostPath": {"path": "/nowhere"},
                "claimRef": of | {"namespace": metadata["namespace"], "name": metadata["name"]},
            }
            volume = {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": f"volume-{uid}"}}
            if self.cluster.api("POST", "/api/v1/persistentvolumes", volume | {"spec": spec}).status in {201, 409}:
                self._volumes.add(uid)
        for uid in self._volumes - there.keys():
            self.cluster.api("DELETE", f"/api/v1/persistentvolumes/volume-{uid}")
            self._volumes.discard(uid)

    def _behind(self, service: Object, port: int) -> str | None:
        (wanted,) = [one for one in service["spec"]["ports"] if one["port"] == port] or [None]
        selector, namespace = service["spec"].get("selector", {}), service["metadata"]["namespace"]
        if wanted is None or not selector:
            return None
        for pod in list(self._pods.values()):
            if pod.ready and pod.namespace == namespace and selector.items() <= pod.labels.items():
                return f"127.0.0.1:{pod.port(wanted['targetPort'])}"
        return None

    def behind_address(self, address: str, port: int) -> str | None:
        """The same for the address of a Service, as the API server finds it."""
        listed = self.cluster.api("GET", "/api/v1/services").body["items"]
        found = [one for one in listed if one["spec"].get("clusterIP") == address]
        return self._behind(found[0], port) if found else None


class _Pod(threading.Thread):
    """One pod, from its first look at its volumes to its end."""

    def __init__(self, node: Node, pod: Object, address: str) -> None:
        metadata = pod["metadata"]
        super().__init__(name=f"pod {metadata['name']}")
        self.name_of: str = metadata["name"]
        self.namespace: str = metadata["namespace"]
        self.labels: dict[str, str] = metadata.get("labels", {})
        self.label = self.labels.get("app.kubernetes.io/component", "")
        self.ready = False
        self._node, self._pod, self._address = node, pod, address
        self._uid: str = metadata["uid"]
        self._folder = node.folder / self._uid
        self._log = node.folder / f"{self._uid}.log"
        self._stopping = threading.Event()
        self._ports: dict[int | str, int] = {}
        self._restarts = 0
        self._mounted: dict[str, Path] = {}
        self._environment: dict[str, str] = {}

    def stop(self) -> None:
        """Have it end, in its own time."""
        self._stopping.set()

    def port(self, target: int | str) -> int:
        """Where the port of that name or number is."""
        return self._ports[target]

    def told(self) -> str:
        """What its processes wrote."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def execute(self, command: Sequence[str]) -> "subprocess.CompletedProcess[str]":
        """Run one more command in it."""
        return subprocess.run(
            self._command({"command": list(command)}),
            env=self._environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=STOP_SECONDS,
        )

    def run(self) -> None:
        """Live."""
        try:
            self._live()
        except _StoppedError:
            pass
        except Exception:  # noqa: BLE001 - whatever it is, the test is told
            self._node.troubles.append(f"{self.namespace}/{self.name_of}:\n{traceback.format_exc()}")
            # Whoever waits for it need not wait for long.
            with contextlib.suppress(_StoppedError):
                self._ended(self._pod["spec"]["containers"][-1], 1)

    def _live(self) -> None:
        spec = self._pod["spec"]
        (container,) = spec["containers"]
        if "mutation-firewall" not in container["image"]:
            self._stands(container, database="postgres" in container["image"])
            return
        for first in spec.get("initContainers", ()):
            if self._to_the_end(first) != 0:
                self._ended(first, 1)
                return
        match spec["restartPolicy"]:
            case "Always":
                while True:
                    self._serve(container)
            case "OnFailure":
                while self._to_the_end(container) != 0:
                    self._restarts += 1
                    self._pause(1)
                self._ended(container, 0)
            case _:
                self._ended(container, self._to_the_end(container))

    def _pause(self, seconds: float) -> None:
        if self._stopping.wait(seconds):
            raise _StoppedError

    def _until(self, get: "Callable[[], Any]") -> Any:
        """What is got, once it is there: kubelets wait for volumes, too."""
        while True:
            with contextlib.suppress(httpx.HTTPError):
                if (found := get()) is not None:
                    return found
            self._pause(LOOK_SECONDS)

    # Processes

    def _to_the_end(self, container: Object) -> int:
        with self._process(container) as process:
            while process.poll() is None:
                self._pause(LOOK_SECONDS)
            return process.returncode

    def _serve(self, container: Object) -> None:
        """Until it ends by itself, which is no reason to give it up."""
        with self._process(container) as process:
            probe = container["readinessProbe"]
            asked = probe["httpGet"]
            url = f"http://127.0.0.1:{self._ports[asked['port']]}{asked['path']}"
            # As a kubelet does, it gives nobody up for one answer: a service with much to do may have it late.
            patience = probe.get("failureThreshold", 3) * probe.get("periodSeconds", 10)
            well = time.monotonic()
            try:
                while process.poll() is None:
                    answered = False
                    with contextlib.suppress(httpx.HTTPError):
                        answered = httpx.get(url, timeout=10).status_code == 200
                    if answered:
                        well = time.monotonic()
                    ready = answered or (self.ready and time.monotonic() - well < patience)
                    if ready is not self.ready:
                        self._running(container, ready=ready)
                    self._pause(LOOK_SECONDS)
            finally:
                self.ready = False
        self._restarts += 1
        self._running(container, ready=False)
        self._pause(1)

    @contextlib.contextmanager
    def _process(self, container: Object) -> "Iterator[subprocess.Popen[bytes]]":
        self._prepare(container)
        dying = [sys.executable, spawn.__file__, str(signal.SIGKILL.value), str(os.getpid())]
        with self._log.open("ab") as log:
            process = subprocess.Popen(
                [*dying, str(os.geteuid()), str(os.getegid()), *self._command(container)],
                env=self._environment,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(STOP_SECONDS)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _prepare(self, container: Object) -> None:
        """Ports, files and variables of a container, all of them new."""
        for port in container.get("ports", ()):
            self._ports[port["containerPort"]] = self._ports[port["name"]] = free_port()
        shutil.rmtree(self._folder, ignore_errors=True)
        self._mounted = {}
        for number, mount in enumerate(container.get("volumeMounts", ())):
            self._mounted[mount["mountPath"]] = self._mount(mount["name"], self._folder / str(number))
        home = self._mounted.get("/tmp") or self._folder / "home"
        home.mkdir(parents=True, exist_ok=True)
        server = urlsplit(self._node.cluster.url)
        given = {
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), "/usr/bin", "/bin"]),
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
            "HOME": str(home),
            "TMPDIR": str(home),
            "KUBERNETES_SERVICE_HOST": str(server.hostname),
            "KUBERNETES_SERVICE_PORT": str(server.port),
            # Where the specification says nothing else.
            **UNHURRIED,
        }
        if _ACCOUNT in self._mounted:
            account = self._mounted[_ACCOUNT]
            given |= {
                "MFW_KUBERNETES__ACCESS__TOKEN_FILE": str(account / "token"),
                "MFW_KUBERNETES__ACCESS__CA_FILE": str(account / "ca.crt"),
            }
        for variable in container.get("env", ()):
            given[variable["name"]] = self._here(self._value(variable))
        for name, value in given.items():
            if name.endswith("__HOST") and value == "0.0.0.0":
                given[name] = "127.0.0.1"
            if name.endswith("__PORT") and value.isdigit() and int(value) in self._ports:
                given[name] = str(self._ports[int(value)])
        self._environment = given

    def _value(self, variable: Object) -> str:
        if "valueFrom" not in variable:
            return str(variable.get("value", ""))
        match variable["valueFrom"]:
            case {"fieldRef": {"fieldPath": path}}:
                return str(self._field(path))
            case {"secretKeyRef": {"name": name, "key": key}}:
                return str(self._until(lambda: self._secret(name, [key]))[key].decode())
            case other:
                raise NotImplementedError(other)

    def _field(self, path: str) -> Any:
        at: Any = self._pod | {"status": {"podIP": self._address}}
        for step in path.split("."):
            at = at[step]
        return at

    def _command(self, container: Object) -> list[str]:
        """What runs; of `args` alone behind the entrypoint of the image."""
        found = [*container.get("command", ["mutation-firewall"]), *container.get("args", ())]
        # Of commands alone: in a variable it is the name of the issuer of tokens.
        program, *words = [self._here(str(word)).replace(_API_SERVER, self._node.cluster.url) for word in found]
        # What knows where its token is by being in a pod is told where it is.
        if words[:2] in (["kubernetes", "certificates"], ["controller"]) or words[:1] == ["controller"]:
            account = self._mounted[_ACCOUNT]
            words += [f"--server={self._node.cluster.url}", f"--token-file={account / 'token'}"]
            words += [f"--server-ca-file={account / 'ca.crt'}"]
        match program:
            case "mutation-firewall" | "mfw":
                return [sys.executable, "-m", "app", *words]
            case "python":
                return [sys.executable, *words]
            case _:
                return [str(shutil.which(program)), *words]

    def _here(self, text: str) -> str:
        """A text of the specification, with what is elsewhere here."""
        paths = {path: str(folder) for path, folder in self._mounted.items() if path != "/tmp"}
        paths["/opt/mutation-firewall"] = str(ROOT)
        longest = sorted(paths, key=len, reverse=True)
        text = re.sub(rf"({'|'.join(map(re.escape, longest))})(?=/|\W|$)", lambda found: paths[found[1]], text)
        services = list(_SERVICE.finditer(text))
        if (
            text.startswith("import ")
            and "\n" in text
            and any(text[: one.start()].endswith("https://") for one in services)
        ):
            behind = {one: self._behind_name(one).split(":") for one in services}
            ways = {(one[0].rpartition(":")[0], int(one[3])): (host, int(port)) for one, (host, port) in behind.items()}
            return _WAYS.format(ways=ways) + text
        return _SERVICE.sub(self._behind_name, text)

    def _behind_name(self, found: "re.Match[str]") -> str:
        service, namespace, port = found.groups()
        return str(self._until(lambda: self._node.reach(namespace, service, int(port))))

    # Volumes

    def _mount(self, name: str, folder: Path) -> Path:
        (volume,) = [one for one in self._pod["spec"]["volumes"] if one["name"] == name]
        match volume:
            case {"persistentVolumeClaim": {"claimName": claim}}:
                folder = self._node.folder / "claims" / self.namespace / claim
                folder.mkdir(parents=True, exist_ok=True)
            case {"emptyDir": _}:
                folder.mkdir(parents=True)
            case {"secret": {"secretName": secret, **rest}}:
                self._files(folder, lambda: self._secret(secret, _keys(rest)), rest)
            case {"configMap": {"name": config, **rest}}:
                self._files(folder, lambda: self._config(config, _keys(rest)), rest)
            case {"projected": {"sources": sources}}:
                folder.mkdir(parents=True)
                for source in sources:
                    self._project(folder, source)
            case other:
                raise NotImplementedError(other)
        return folder

    def _project(self, folder: Path, source: Object) -> None:
        match source:
            case {"secret": {"name": name, **rest}}:
                self._files(folder, lambda: self._secret(name, _keys(rest)), rest)
            case {"configMap": {"name": name, **rest}}:
                self._files(folder, lambda: self._config(name, _keys(rest)), rest)
            case {"serviceAccountToken": {"path": path, **rest}}:
                (folder / path).write_text(self._until(lambda: self._token(rest)))
            case {"downwardAPI": {"items": items}}:
                for item in items:
                    (folder / item["path"]).write_text(str(self._field(item["fieldRef"]["fieldPath"])))
            case other:
                raise NotImplementedError(other)

    def _files(self, folder: Path, get: "Callable[[], dict[str, bytes] | None]", of: Mapping[Any, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        paths = {item["key"]: item["path"] for item in of.get("items", ())}
        for key, content in self._until(get).items():
            (folder / paths.get(key, key)).write_bytes(self._led(content))

    def _led(self, content: bytes) -> bytes:
        """A database's URL, with the host that is behind the name of its Service here."""
        if not content.startswith(b"postgresql://"):
            return content
        parts = urlsplit(content.decode())
        if parts.hostname is None or "." in parts.hostname or parts.hostname == "localhost":
            return content
        name = f"{self.namespace}/{parts.hostname}"
        there: str = self._until(lambda: self._node.databases.get(name))
        return there.encode()

    def _secret(self, name: str, keys: Sequence[str]) -> dict[str, bytes] | None:
        found = self._get("secrets", name)
        data = found.body.get("data") or {} if found.status == 200 else None
        if data is None or not set(keys) <= data.keys():
            return None
        return {key: base64.b64decode(data[key]) for key in keys or data}

    def _config(self, name: str, keys: Sequence[str]) -> dict[str, bytes] | None:
        found = self._get("configmaps", name)
        data = found.body.get("data", {}) if found.status == 200 else None
        if data is None or not set(keys) <= data.keys():
            return None
        return {key: data[key].encode() for key in keys or data}

    def _token(self, of: Mapping[Any, Any]) -> str | None:
        bound = {"apiVersion": "v1", "kind": "Pod", "name": self.name_of, "uid": self._uid}
        spec = {"audiences": [of["audience"]] if "audience" in of else [], "boundObjectRef": bound}
        asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        spec["expirationSeconds"] = of.get("expirationSeconds", 3600)
        account = self._pod["spec"]["serviceAccountName"]
        path = f"/api/v1/namespaces/{self.namespace}/serviceaccounts/{account}/token"
        made = self._node.cluster.api("POST", path, asked)
        return made.body["status"]["token"] if made.status == 201 else None

    def _get(self, kind: str, name: str) -> Answer:
        return self._node.cluster.api("GET", f"/api/v1/namespaces/{self.namespace}/{kind}/{name}")

    # What is no process of ours

    def _stands(self, container: Object, *, database: bool) -> None:
        with self._database(container) if database else contextlib.nullcontext():
            self._running(container, ready=True)
            while True:
                self._pause(STOP_SECONDS)

    @contextlib.contextmanager
    def _database(self, container: Object) -> Iterator[None]:
        """A database of its own role, which is gone with the pod, behind the name of its StatefulSet's Service."""
        variables = {one["name"]: self._value(one) for one in container["env"]}
        name, password = f"pod_{secrets.token_hex(6)}", variables["POSTGRES_PASSWORD"]
        server = self._node.server_dsn
        _run(_execute(server, f"CREATE ROLE {name} LOGIN PASSWORD '{password}'"))
        _run(_execute(server, f"CREATE DATABASE {name} OWNER {name}"))
        there = urlsplit(with_database(server, name))
        _, _, address = there.netloc.rpartition("@")
        service = f"{self.namespace}/{self.name_of.rpartition('-')[0]}"
        self._node.databases[service] = urlunsplit(there._replace(netloc=f"{name}:{password}@{address}"))
        try:
            yield
        finally:
            self._node.databases.pop(service, None)
            _run(_execute(server, f"DROP DATABASE {name} WITH (FORCE)"))
            _run(_execute(server, f"DROP ROLE {name}"))

    # What is said of it

    def _running(self, container: Object, *, ready: bool) -> None:
        self.ready = ready
        state = {"running": {"startedAt": _now()}}
        self._say("Running", container, state, ready=ready, reason="")

    def _ended(self, container: Object, code: int) -> None:
        state = {"terminated": {"exitCode": code, "finishedAt": _now(), "startedAt": _now()}}
        phase = "Failed" if code else "Succeeded"
        self._say(phase, container, state, ready=False, reason="" if code else "PodCompleted")

    def _say(self, phase: str, container: Object, state: Object, *, ready: bool, reason: str) -> None:
        conditions = [
            {"type": kind, "status": str(is_so), "lastTransitionTime": _now(), **({"reason": reason} if reason else {})}
            for kind, is_so in (
                ("PodScheduled", True),
                ("Initialized", True),
                ("ContainersReady", ready),
                ("Ready", ready),
            )
        ]
        status = {"name": container["name"], "ready": ready, "started": ready, "restartCount": self._restarts}
        status |= {"image": container["image"], "imageID": "", "state": state}
        whole = {"phase": phase, "conditions": conditions, "startTime": _now(), "containerStatuses": [status]}
        path = f"/api/v1/namespaces/{self.namespace}/pods/{self.name_of}/status"
        merge = "application/merge-patch+json"
        said = self._until(
            lambda: self._node.cluster.api(
                "PATCH", path, {"metadata": {"uid": self._uid}, "status": whole}, content_type=merge
            )
        )
        if said.status in {404, 409}:
            raise _StoppedError
        assert said.status == 200, said


class _Routes(socketserver.ThreadingUnixStreamServer):
    """Where the API server sends what goes to Services: it says to which address, and a process answers."""

    daemon_threads = True

    def __init__(self, path: str, node: Node) -> None:
        Path(path).unlink(missing_ok=True)
        super().__init__(path, _Route)
        self.node = node


class _Route(socketserver.BaseRequestHandler):
    """One connection."""

    server: _Routes

    def handle(self) -> None:
        """Read where it goes (RFC 9110 section 9.3.6), and carry bytes until one side ends."""
        head = b""
        while b"\r\n\r\n" not in head:
            if not (chunk := self.request.recv(4096)):
                return
            head += chunk
        host, _, port = head.split(b" ", 2)[1].decode().rpartition(":")
        there = self.server.node.behind_address(host.strip("[]"), int(port))
        if there is None:
            self.request.sendall(b"HTTP/1.1 503 no pod of that Service is ready\r\n\r\n")
            return
        name, _, number = there.rpartition(":")
        try:
            other = socket.create_connection((name, int(number)), timeout=STOP_SECONDS)
        except OSError:
            self.request.sendall(b"HTTP/1.1 502 connection refused\r\n\r\n")
            return
        with other:
            other.settimeout(None)
            self.request.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            back = threading.Thread(target=_carry, args=(other, self.request), daemon=True)
            back.start()
            _carry(self.request, other)
            back.join()


def _carry(one: socket.socket, other: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while chunk := one.recv(65536):
            other.sendall(chunk)
    for end in (one, other):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


def _keys(of: Mapping[Any, Any]) -> list[str]:
    return [item["key"] for item in of.get("items", ())]


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
