"""`mfw controller` as the chart runs it, between a real API server and a real firewall.

Definitions, account and rights are the installed chart's, and so are the arguments but for addresses. No node belongs to
this cluster: what a pod would do a process does, with the token of the pod's account.
"""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import httpx
import pytest

from app.client import Firewall, ProblemError
from app.policies.custom_resources import EXCEPTIONS, GROUP, POLICIES, RESOURCES, Resource
from tests.helm.chart import CHART, helm
from tests.integration.cli.conftest import Process, running
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.firewall import served
from tests.ports import free_port

NAMESPACE: Final = "controlled"
RELEASE: Final = "mutation-firewall"
ACCOUNT: Final = (NAMESPACE, f"{RELEASE}-controller")
VALUES: Final = CHART / "ci" / "controller-values.yaml"
HONOURED: Final = "payments"
DEFINITIONS: Final = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
LEASES: Final = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases"
TABLE: Final = "application/json;as=Table;v=v1;g=meta.k8s.io"
WAIT_SECONDS: Final = 60
# What nobody waits for in production; Leases are shorter than the 15 s of production.
QUICKLY: Final = ("--settle-seconds", "0.2", "--resync-seconds", "2", "--lease-seconds", "6")
NEUTRAL: Final = "neutral"


def policy(name: str, when: str = "true", effect: str = "allow", **labels: str) -> dict[str, Any]:
    """A policy with one rule."""
    return {
        "apiVersion": f"{GROUP}/v1",
        "kind": "MutationPolicy",
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "match": {"resources": [{"type": "*"}]},
            "rules": [{"name": "all", "effect": effect, "when": when, "message": f"{effect} by {name}"}],
        },
    }


def exception(namespace: str, of: str) -> dict[str, Any]:
    """An exception of a policy."""
    spec = {"owner": "sre", "reason": "a migration", "validUntil": "2100-01-01T00:00:00Z", "policies": [{"name": of}]}
    return {
        "apiVersion": f"{GROUP}/v1",
        "kind": "PolicyException",
        "metadata": {"name": "migration", "namespace": namespace},
        "spec": spec,
    }


def until(check: Callable[[], Any], *, seconds: float = WAIT_SECONDS) -> Any:
    """Wait until it is so."""
    deadline = time.monotonic() + seconds
    while True:
        found = check()
        if found:
            return found
        assert time.monotonic() < deadline, f"it never came, the last was {found!r}"
        time.sleep(0.1)


@dataclass
class World:
    """The cluster, a firewall that takes its policies from its database, and how a controller is started."""

    cluster: Cluster
    firewall: Firewall
    arguments: list[str]
    token: str
    key: str

    @contextlib.contextmanager
    def controller(self, *more: str) -> Iterator[Process]:
        """One that runs."""
        with running(*self.arguments, *QUICKLY, *more, settings={}) as process:
            yield process

    def row(self, resource: Resource, name: str, namespace: str = "") -> dict[str, str]:
        """What `kubectl get -o wide` shows of an object, by column, as the API server makes it."""
        path = resource.path.replace(
            resource.plural, f"namespaces/{namespace}/{resource.plural}" if namespace else resource.plural
        )
        table = self.cluster.api("GET", f"{path}/{name}", headers={"Accept": TABLE})
        assert table.status == 200, table
        columns = [column["name"].upper() for column in table.body["columnDefinitions"]]
        (shown,) = table.body["rows"]
        return {column: str(cell or "") for column, cell in zip(columns, shown["cells"], strict=True)}

    def told(self, name: str, reason: str, *, resource: Resource = POLICIES, namespace: str = "") -> dict[str, str]:
        """The row once its reason is this."""
        found: dict[str, str] = until(
            lambda: row if (row := self.row(resource, name, namespace))["REASON"] == reason else None
        )
        return found

    def in_force(self) -> set[str]:
        """The names of what is in force."""
        return {one["metadata"]["name"] for one in self.firewall.active_policy_set().documents} - BESIDE

    def delete(self, resource: Resource, name: str) -> None:
        """Delete an object that is in no namespace."""
        gone = self.cluster.api("DELETE", f"{resource.path}/{name}")
        assert gone.status == 200, gone


# What the chart's values have beside the objects.
BESIDE: Final = {"secrets"}


@pytest.fixture(scope="module")
def place(cluster: Cluster, shared_database_dsn: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The chart is installed, the service runs once for all tests here, and the controller may what the chart says."""
    folder = tmp_path_factory.mktemp("controller")
    for namespace in (NAMESPACE, HONOURED, "elsewhere"):
        cluster.namespace(namespace)
    said = _install(cluster)
    assert "keys create controller --role admin" in said
    assert "WARNING: controller" not in said
    try:
        for resource in RESOURCES:
            waited = cluster.kubectl("wait", f"crd/{resource.name}", "--for=condition=Established", "--timeout=60s")
            assert waited.returncode == 0, waited.stderr
        token = folder / "token"
        token.write_text(cluster.service_account(*ACCOUNT))
        deployed = cluster.api("GET", f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{ACCOUNT[1]}").body
        (container,) = deployed["spec"]["template"]["spec"]["containers"]
        also = folder / "also"
        also.mkdir()
        beside = cluster.api("GET", f"/api/v1/namespaces/{NAMESPACE}/configmaps/{ACCOUNT[1]}").body["data"]
        for name, text in beside.items():
            (also / name).write_text(text)
        database = {"MFW_POLICIES__SOURCE": "database", "MFW_POLICIES__DIRECTORY": ""}
        with served(cluster, shared_database_dsn, folder, **database) as service:
            key = service.admin_key
            (folder / "key").write_text(f"{key}\n")
            # Where a pod is, and what is mounted into it.
            elsewhere = {
                "--url": service.url,
                "--ca-file": str(cluster.ca_file),
                "--key-file": str(folder / "key"),
                "--also": str(also),
            }
            arguments = [
                _elsewhere(argument, elsewhere) for argument in container["args"] if "--metrics" not in argument
            ]
            arguments += ["--server", cluster.url, "--token-file", str(token), "--server-ca-file", str(cluster.ca_file)]
            with Firewall(service.url, key, ca_file=cluster.ca_file, timeout=WAIT_SECONDS) as firewall:
                # A key that is this new is known with the next look at all keys.
                until(lambda: _knows(firewall))
                yield World(cluster, firewall, arguments, token.read_text(), key)
    finally:
        helm("uninstall", RELEASE, "-n", NAMESPACE, "--no-hooks", env=_admin(cluster))
    # With the definitions every policy would go: they are left, and nothing else.
    assert all(cluster.api("GET", f"{DEFINITIONS}/{resource.name}").status == 200 for resource in RESOURCES)
    assert cluster.api("GET", f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/{ACCOUNT[1]}").status == 404


def _admin(cluster: Cluster) -> dict[str, str]:
    return {"KUBECONFIG": str(cluster.admin_kubeconfig), "HOME": str(cluster.folder)}


def _install(cluster: Cluster) -> str:
    """Install the chart, or bring it up to date; gives what helm says."""
    done = helm(
        # Other tests here apply the same definitions by hand.
        *("upgrade", "--install", RELEASE, str(CHART), "-n", NAMESPACE, "-f", str(VALUES), "--take-ownership"),
        *("--set", f"controller.exceptionNamespaces={{{HONOURED}}}"),
        env=_admin(cluster),
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _knows(firewall: Firewall) -> bool:
    with contextlib.suppress(ProblemError):
        firewall.policy_sets()
        return True
    return False


def _elsewhere(argument: str, places: dict[str, str]) -> str:
    option, equals, _ = argument.partition("=")
    return f"{option}={places[option]}" if equals and option in places else argument


@pytest.fixture
def world(place: World) -> Iterator[World]:
    """Without an object, and with a set in force that allows everything; nothing of the test stays."""
    stored = place.firewall.publish([policy(NEUTRAL)], note="between tests")
    place.firewall.activate(stored.digest, reason="between tests")
    yield place
    for resource in RESOURCES:
        place.cluster.kubectl("delete", resource.name, "--all", "--all-namespaces", "--wait=false")
    until(lambda: not any(place.cluster.api("GET", one.path).body["items"] for one in RESOURCES))
    place.cluster.api("DELETE", f"{LEASES}/{ACCOUNT[1]}")


def _columns(cluster: Cluster) -> set[str]:
    table = cluster.api("GET", POLICIES.path, headers={"Accept": TABLE}).body
    return {column["name"] for column in table["columnDefinitions"]}


def metric(port: int, name: str, **labels: str) -> float:
    """What a controller shows; -1 while it shows nothing."""
    with contextlib.suppress(httpx.TransportError):
        text = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=WAIT_SECONDS).text
        wanted = f"mfw_controller_{name}" + (
            "{" + ",".join(f'{label}="{value}"' for label, value in labels.items()) + "}" if labels else ""
        )
        return next((float(line.split()[1]) for line in text.splitlines() if line.startswith(f"{wanted} ")), -1.0)
    return -1.0


def health(port: int, what: str) -> int:
    """The status of /health/WHAT; 0 while nobody answers."""
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(f"http://127.0.0.1:{port}/health/{what}", timeout=WAIT_SECONDS).status_code
    return 0


def test_the_life_of_a_policy(world: World) -> None:
    """Applied, changed, broken, mended, deleted; what is in force follows, and `kubectl get` tells."""
    port = free_port()
    world.cluster.apply(policy("one", team="sre", **{"helm.sh/chart": "x-1"}), policy("two"))
    # So long that it still has the Lease when it is told to end, however busy this machine is.
    with world.controller("--metrics-port", str(port), "--lease-seconds", "60") as process:
        row = world.told("one", "InForce")
        assert (row["MODE"], row["ACCEPTED"], row["ACTIVE"]) == ("", "True", "True")
        first = world.firewall.active_policy_set()
        assert row["SET"] == first.digest
        assert [one["metadata"] for one in first.documents if one["kind"] == "MutationPolicy"] == [
            {"name": "one", "labels": {"team": "sre"}},
            {"name": "two"},
        ]
        # What the chart's values put beside them is part of it.
        assert "RecordMask" in {one["kind"] for one in first.documents}
        assert world.firewall.activations().items[0].reason == "custom resources: 2 policies, 0 exceptions"
        until(lambda: metric(port, "objects", kind="MutationPolicy", state="active") == 2)
        until(lambda: (health(port, "live"), health(port, "ready"), metric(port, "leader")) == (200, 200, 1))
        assert metric(port, "last_success_timestamp_seconds") > time.time() - 3600
        until(lambda: metric(port, "behind_seconds") == 0)

        world.cluster.apply(policy("two", "action.name == 'create'"))
        changed = until(lambda: now if (now := world.firewall.active_policy_set()).digest != first.digest else None)
        until(lambda: world.row(POLICIES, "two")["SET"] == changed.digest)

        world.cluster.apply(policy("two", "action.nam == 'create' &&\n  subject.typ ="))
        row = world.told("two", "Invalid")
        assert (row["ACCEPTED"], row["ACTIVE"]) == ("False", "False")
        status = world.cluster.api("GET", f"{POLICIES.path}/two").body["status"]
        (fault,) = status["errors"]
        assert (fault["path"], fault["line"]) == ("spec.rules[0].when", 2)
        assert fault["column"] >= 1
        assert status["observedGeneration"] == 3
        active = next(one for one in status["conditions"] if one["type"] == "Active")
        assert active["reason"] == "NotAccepted"
        assert "with this object as it was" in active["message"]
        # It says so on all, and the set in force stays.
        row = world.told("one", "SetRefused")
        assert (row["ACCEPTED"], row["ACTIVE"]) == ("True", "True")
        assert "MutationPolicy `two`: spec.rules[0].when:2:" in row["MESSAGE"]
        assert world.firewall.active_policy_set().digest == changed.digest
        # What a person sees, in words.
        printed = world.cluster.kubectl("get", "mutationpolicies").stdout.split()
        assert {"NAME", "ACCEPTED", "ACTIVE", "REASON", "one", "two", "Invalid", "SetRefused"} <= set(printed)
        until(lambda: "Invalid" in world.cluster.kubectl("describe", "mpol", "two").stdout.partition("Events:")[2])
        until(lambda: metric(port, "behind_seconds") > 0)
        until(lambda: metric(port, "objects", kind="MutationPolicy", state="not_accepted") == 1)

        world.cluster.apply(policy("two"))
        world.told("two", "InForce")
        world.told("one", "InForce")
        waited = world.cluster.kubectl("wait", "mutationpolicies", "--all", "--for=condition=Ready", "--timeout=60s")
        assert waited.returncode == 0, waited.stderr
        assert world.firewall.active_policy_set().digest == first.digest

        world.delete(POLICIES, "two")
        until(lambda: world.in_force() == {"one"})
        # The last one: an empty set is never put into force.
        refused = metric(port, "looks_total", result="set_refused")
        world.delete(POLICIES, "one")
        until(lambda: metric(port, "looks_total", result="set_refused") > refused)
        assert world.in_force() == {"one"}
        assert process.stop(signal.SIGTERM) == 0, process.output
        assert world.key not in process.output
    # It gave the Lease up.
    assert not world.cluster.api("GET", f"{LEASES}/{ACCOUNT[1]}").body["spec"].get("holderIdentity")


def test_exceptions_count_where_the_controller_was_told(world: World) -> None:
    """One of another namespace lifts nothing; it is not even read (CVE-2024-48921), and could not be."""
    world.cluster.apply(
        *(policy("one"), policy("never", "action.name == 'delete'", "deny")),
        *(exception("elsewhere", "never"), exception(HONOURED, "never")),
    )
    with world.controller():
        world.told("never", "InForce")
        row = world.told("migration", "InForce", resource=EXCEPTIONS, namespace=HONOURED)
        assert (row["OWNER"], row["ACTIVE"]) == ("sre", "True")
        kinds = [one["kind"] for one in world.firewall.active_policy_set().documents]
        assert kinds.count("PolicyException") == 1
        assert world.row(EXCEPTIONS, "migration", "elsewhere")["REASON"] == ""

        world.cluster.apply(exception(HONOURED, "nowhere"))
        row = world.told("migration", "Invalid", resource=EXCEPTIONS, namespace=HONOURED)
        assert "there is no policy `nowhere`" in row["MESSAGE"]


def test_it_may_do_its_work_and_nothing_else(place: World) -> None:
    """By real requests with the token of the chart's account: what is not named is refused."""
    cluster, own = place.cluster, f"{RELEASE}-controller"
    core, rbac = "/api/v1", "/apis/rbac.authorization.k8s.io/v1"
    hooks = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"
    exceptions = EXCEPTIONS.path.replace(EXCEPTIONS.plural, f"namespaces/{{}}/{EXCEPTIONS.plural}")

    def asked(method: str, path: str, body: Any = None) -> int:
        content_type = "application/merge-patch+json" if method == "PATCH" else "application/json"
        return cluster.api(method, path, body, token=place.token, content_type=content_type).status

    may = [
        ("GET", POLICIES.path),
        ("GET", exceptions.format(HONOURED)),
        ("PATCH", f"{POLICIES.path}/none/status"),
        ("PATCH", f"{exceptions.format(HONOURED)}/none/status"),
        ("GET", f"{LEASES}/{own}"),
        ("POST", "/apis/events.k8s.io/v1/namespaces/default/events"),
    ]
    for method, path in may:
        assert asked(method, path, None if method == "GET" else {}) != 403, (method, path)
    may_not = [
        ("POST", POLICIES.path),
        ("PATCH", f"{POLICIES.path}/none"),
        ("DELETE", f"{POLICIES.path}/none"),
        ("GET", EXCEPTIONS.path),
        ("GET", exceptions.format("elsewhere")),
        ("PATCH", f"{exceptions.format('elsewhere')}/none/status"),
        ("PATCH", f"{exceptions.format(HONOURED)}/none"),
        ("GET", LEASES),
        ("GET", f"{LEASES}/another"),
        ("DELETE", f"{LEASES}/{own}"),
        ("POST", "/apis/events.k8s.io/v1/namespaces/kube-system/events"),
        *(("GET", f"{core}/namespaces/{namespace}/secrets") for namespace in (NAMESPACE, HONOURED, "kube-system")),
        ("GET", f"{core}/namespaces/{NAMESPACE}/secrets/mutation-firewall-controller"),
        ("GET", f"{core}/namespaces/{NAMESPACE}/configmaps"),
        ("GET", f"{core}/namespaces/{NAMESPACE}/pods"),
        ("POST", f"{core}/namespaces/{NAMESPACE}/serviceaccounts/{own}/token"),
        ("GET", hooks),
        ("PATCH", f"{hooks}/mutation-firewall"),
        ("DELETE", f"{hooks}/mutation-firewall"),
        ("PATCH", f"{DEFINITIONS}/{POLICIES.name}"),
        ("POST", f"{rbac}/clusterrolebindings"),
        ("PATCH", f"{rbac}/clusterroles/{NAMESPACE}-{own}"),
        ("PATCH", f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{own}"),
    ]
    for method, path in may_not:
        assert asked(method, path, None if method in {"GET", "DELETE"} else {}) == 403, (method, path)


def test_an_upgrade_updates_the_definitions(place: World) -> None:
    """A release before had another one; what Helm finds in a folder `crds/` it would leave as it is."""
    path = f"{DEFINITIONS}/{POLICIES.name}"
    wanted = place.cluster.api("GET", path).body["spec"]["versions"]
    older = [{**version, "additionalPrinterColumns": []} for version in wanted]
    patched = place.cluster.api(
        "PATCH", path, {"spec": {"versions": older}}, content_type="application/merge-patch+json"
    )
    assert patched.status == 200, patched
    assert not patched.body["spec"]["versions"][0].get("additionalPrinterColumns")
    # The API server shows other columns a moment later, these and those; the tests after this one read them.
    shown = {column["name"] for version in wanted for column in version["additionalPrinterColumns"]}
    until(lambda: not shown <= _columns(place.cluster))
    _install(place.cluster)
    assert place.cluster.api("GET", path).body["spec"]["versions"] == wanted
    until(lambda: shown <= _columns(place.cluster))


def test_one_leads_and_another_takes_over(world: World) -> None:
    """At once where the leader ends in order, and after the lease where it is gone without a word."""
    ports = free_port(), free_port(), free_port()
    world.cluster.apply(policy("one"))
    with world.controller("--metrics-port", str(ports[0])) as first:
        world.told("one", "InForce")
        with world.controller("--metrics-port", str(ports[1])) as second:
            # It waits, and is ready.
            until(lambda: health(ports[1], "ready") == 200)
            until(lambda: health(ports[1], "live") == 200)
            # One of them: the second, where the machine had no time for the first for longer than a lease lasts.
            led = until(
                lambda: found if sorted(found := [metric(port, "leader") for port in ports[:2]]) == [0, 1] else 0
            )
            leader, other, port = (first, second, ports[1]) if led[0] else (second, first, ports[0])
            assert leader.stop(signal.SIGTERM) == 0, leader.output
            world.cluster.apply(policy("two"))
            until(lambda: world.in_force() == {"one", "two"})
            until(lambda: metric(port, "leader") == 1)
            with world.controller("--metrics-port", str(ports[2])):
                until(lambda: health(ports[2], "ready") == 200)
                # Killed: nobody gives the lease up.
                os.killpg(other.popen.pid, signal.SIGKILL)
                world.cluster.apply(policy("three"))
                until(lambda: world.in_force() == {"one", "two", "three"})
                until(lambda: metric(ports[2], "looks_total", result="in_force") >= 1)


def test_a_set_that_the_set_in_force_denies(world: World) -> None:
    """Nothing in the cluster gets past the firewall: who may activate is what the policies in force say."""
    port = free_port()
    guard = policy("guard", "resource.type == 'policy-set' && 'two' in change.after.added", "deny")
    world.cluster.apply(policy("one"), guard)
    with world.controller("--metrics-port", str(port)):
        world.told("one", "InForce")
        before = {one.digest for one in world.firewall.policy_sets().items}
        world.cluster.apply(policy("two"))
        row = world.told("two", "ActivationDenied")
        assert (row["ACCEPTED"], row["ACTIVE"]) == ("True", "False")
        assert "deny by guard" in row["MESSAGE"]
        row = world.told("one", "ActivationDenied")
        assert row["ACTIVE"] == "True"
        assert world.in_force() == {"one", "guard"}
        # Asked once, however often it looks: each question is an entry of the ledger.
        until(lambda: metric(port, "looks_total", result="denied") >= 3)
        sets = [one for one in world.firewall.policy_sets().items if one.digest not in before]
        assert len(sets) == 1
        assert f"{sets[0].digest} is stored" in row["MESSAGE"]


def test_a_service_that_is_away(world: World) -> None:
    """What is applied meanwhile comes into force when it is back."""
    world.cluster.apply(policy("one"))
    with world.controller("--url", "http://127.0.0.1:9") as lost:
        row = world.told("one", "ServiceUnavailable")
        assert (row["ACCEPTED"], row["ACTIVE"]) == ("True", "Unknown")
        assert lost.stop(signal.SIGTERM) == 0, lost.output
    with world.controller():
        assert world.told("one", "InForce")["ACTIVE"] == "True"
