"""The trial of `docs/install.md`, command by command: what the page says is typed, and what it shows is what comes."""

import contextlib
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from tests.helm.chart import home, program
from tests.kubernetes.cluster import ROOT, Cluster
from tests.kubernetes.node import Node

PAGE: Final = ROOT / "docs" / "install.md"
NAMESPACE: Final = "mutation-firewall"
SHELL_SECONDS: Final = 600
GONE_SECONDS: Final = 120
_FENCE: Final = re.compile(r"^```console trial\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# What a cluster writes down by itself, whoever comes and goes.
_ITS_OWN: Final = frozenset({"events", "leases", "endpointslices", "endpoints"})

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Command:
    """A line of the page, and what it shows below; `...` stands for anything."""

    line: str
    shown: str

    def fits(self, answer: str) -> bool:
        """Whether this is what came."""
        # A line of nothing but dots is any number of lines.
        lines = (
            r"(?:.*\n)*?" if line == "..." else ".*".join(map(re.escape, line.split("..."))) + r".*\n"
            for line in self.shown.strip().splitlines()
        )
        return re.match("".join(lines), f"{answer}\n") is not None


def commands() -> list[Command]:
    """Those of the page's trial, in their order."""
    found: list[Command] = []
    for block in _FENCE.findall(PAGE.read_text()):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            line, _, shown = part.partition("\n")
            found.append(Command(line, shown))
    return found


@contextlib.contextmanager
def shell(cluster: Cluster, folder: Path = ROOT) -> Iterator[Callable[[str], tuple[int, str]]]:
    """What somebody with this cluster's kubeconfig types: the exit code, and output with errors, of a line."""
    path = os.pathsep.join([str(cluster.programs), str(program().parent), "/usr/bin", "/bin"])
    environment = {"PATH": path, "HOME": home(), "KUBECONFIG": str(cluster.admin_kubeconfig)}

    def typed(line: str) -> tuple[int, str]:
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", line],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=folder,
            env=environment,
            timeout=SHELL_SECONDS,
            check=False,
        )
        return done.returncode, done.stdout

    yield typed


def everything(cluster: Cluster) -> set[str]:
    """KIND NAMESPACE/NAME of all that is stored, but for what clusters write down by themselves.

    What a controller makes for something else goes with that, and comes when it has the time.
    """
    groups = cluster.api("GET", "/apis").body["groups"]
    bases = ["/api/v1", *(f"/apis/{group['preferredVersion']['groupVersion']}" for group in groups)]
    found: set[str] = set()
    for base in bases:
        served = cluster.api("GET", base)
        # A group goes with the last of its definitions, also between one question and the next.
        if served.status == 404:
            continue
        for resource in served.body["resources"]:
            if "list" not in resource["verbs"] or "/" in resource["name"] or resource["name"] in _ITS_OWN:
                continue
            listed = cluster.api("GET", f"{base}/{resource['name']}")
            for item in (listed.body["items"] or ()) if listed.status == 200 else ():
                metadata = item["metadata"]
                where, name = metadata.get("namespace", ""), metadata["name"]
                owned = any(one.get("controller") for one in metadata.get("ownerReferences", ()))
                if not owned and where != "kube-system" and name not in {"kube-root-ca.crt", "default"}:
                    found.add(f"{resource['name']} {where}/{name}")
    return found


def until(ready: Callable[[], Any], *, seconds: float = GONE_SECONDS) -> Any:
    """What is found, once there is something."""
    deadline = time.monotonic() + seconds
    while not (found := ready()):
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.1)
    return found


def told(cluster: Cluster, node: Node, say: Say) -> None:
    """Tell the story to its end. Raises AssertionError where something else comes than the page shows."""
    before = everything(cluster)
    with shell(cluster) as typed:
        for command in commands():
            if command.line.startswith(f"helm -n {NAMESPACE} uninstall"):
                _watched(node, say)
            say(f"\n$ {command.line}")
            code, answer = typed(command.line)
            if command.line.startswith(f"helm -n {NAMESPACE} upgrade"):
                patient(cluster)
            say(_shortened(answer))
            assert command.fits(answer), f"{command.line}\n{answer}\nThe page shows:\n{command.shown}\n{node.logs('')}"
            assert (code == 0) is ("Error from server" not in command.shown), answer
    assert node.troubles == [], node.troubles
    say("\nWhat is left of it:")
    left = set[str]()

    def gone() -> bool:
        nonlocal left
        left = everything(cluster) - before
        return not left and not node.running and not node.databases

    try:
        until(gone)
    except AssertionError:
        raise AssertionError(f"left behind: {sorted(left)}, {node.running}, {node.databases}") from None
    say(f"nothing: {len(before)} objects before, none besides them now; no process, no database")


def patient(cluster: Cluster) -> None:
    """Have the API server wait as long as it can, not as long as the chart says: it is not the machine that is tried."""
    path = f"/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/{NAMESPACE}"

    def told() -> bool:
        found = cluster.api("GET", path).body
        for hook in found["webhooks"]:
            hook["timeoutSeconds"] = 30
        # 409 where somebody was quicker.
        return cluster.api("PUT", path, found).status == 200

    until(told)


def _watched(node: Node, say: Say) -> None:
    """What Prometheus would read."""
    where = until(lambda: node.reach(NAMESPACE, f"{NAMESPACE}-metrics", 9090))

    def counted() -> set[str]:
        lines = httpx.get(f"http://{where}/metrics", timeout=60).text.splitlines()
        return {line for line in lines if line.startswith("mfw_decisions_total{") and not line.endswith(" 0.0")}

    # What was asked is counted after it was answered. One each: or more, where an API server with much to do asked again.
    until(lambda: {line.partition('"')[2].partition('"')[0] for line in counted()} == {"allow", "deny", "hold"})
    say(f"\n$ curl -s http://{where}/metrics | grep mfw_decisions_total")
    say("\n".join(sorted(counted())))


def _shortened(answer: str) -> str:
    lines = answer.rstrip().splitlines()
    return "\n".join(lines if len(lines) <= 40 else [*lines[:20], "...", *lines[-20:]])
