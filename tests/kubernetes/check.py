"""`make kubernetes-check`: the trial of `docs/install.md` on a real API server of this machine, told as it goes."""

import contextlib
import shutil
import sys
import tempfile
import time
from pathlib import Path

from app.persistence.embedded import EmbeddedPostgres
from tests.helm.chart import program
from tests.kubernetes.cluster import Cluster, NotHereError, programs
from tests.kubernetes.node import Node
from tests.kubernetes.story import told


def say(text: str) -> None:
    """Write at once: somebody watches."""
    print(text, flush=True)  # noqa: T201 - this is a command


def main() -> int:
    """Start a cluster, tell the story, and take everything away. The exit code is 0 if all went as the page says."""
    begun = time.monotonic()
    say(
        "== etcd, kube-apiserver, kube-controller-manager, kubectl and helm; the first time they are built, for minutes"
    )
    try:
        found = programs()
        program()
    except NotHereError as error:
        say(str(error))
        return 1
    # Not below a folder of root's own, which the server's uid could not enter.
    state = Path(tempfile.mkdtemp(prefix="mfw-check-"))
    state.chmod(0o711)
    with contextlib.ExitStack() as last:
        last.callback(shutil.rmtree, state, ignore_errors=True)
        server = EmbeddedPostgres(state / "postgresql")
        last.callback(server.stop)
        dsn = server.start()
        cluster = Cluster(*found)
        last.callback(cluster.stop)
        cluster.start()
        version = cluster.api("GET", "/version").body["gitVersion"]
        say(
            f"== Kubernetes {version} on the loopback. It has no nodes: what a pod would do, a process of this machine does"
        )
        last.enter_context(cluster.controllers())
        node = last.enter_context(Node(cluster, dsn))
        try:
            told(cluster, node, say)
        except AssertionError as error:
            say(f"\n== not as it should be: {error}")
            return 1
    say(f"\n== all as docs/install.md says, in {time.monotonic() - begun:.0f} seconds; the cluster is gone as well")
    return 0


if __name__ == "__main__":
    sys.exit(main())
