"""`mfw controller` between a real API server and a real firewall: what is applied, what comes of it, what is told."""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from app.client import Firewall
from app.core.principal import Role
from app.policies.custom_resources import EXCEPTIONS, GROUP, POLICIES, RESOURCES
from tests.integration.cli.conftest import Process, mfw, running
from tests.integration.service.conftest import make_key
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.firewall import served

ROOT = Path(__file__).resolve().parents[2]
ACCOUNT = ("mutation-firewall", "controller")
HONOURED = "payments"
WAIT_SECONDS = 60


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
    key: str

    @contextlib.contextmanager
    def controller(self, *more: str) -> Iterator[Process]:
        """One that runs."""
        with running("controller", *self.arguments, *more, settings={"MFW_API_KEY": self.key}) as process:
            yield process

    def row(self, kind: str, name: str, *more: str) -> dict[str, str]:
        """What `kubectl get` shows of an object, by column."""
        done = self.cluster.kubectl("get", kind, name, "-o", "wide", *more)
        assert done.returncode == 0, done.stderr
        head, line = done.stdout.splitlines()
        starts = [head.index(word) for word in head.split()]
        ends = [*starts[1:], None]
        return {head[a:b].strip(): line[a:b].strip() for a, b in zip(starts, ends, strict=True)}

    def told(self, name: str, reason: str, *, kind: str = "mutationpolicies") -> dict[str, str]:
        """The row once its reason is this."""
        found: dict[str, str] = until(lambda: row if (row := self.row(kind, name))["REASON"] == reason else None)
        return found

    def in_force(self) -> set[str]:
        """The names of what is in force."""
        return {one["metadata"]["name"] for one in self.firewall.active_policy_set().documents}

    def delete(self, kind: str, name: str, *more: str) -> None:
        """Delete an object."""
        done = self.cluster.kubectl("delete", kind, name, "--wait=false", *more)
        assert done.returncode == 0, done.stderr


@pytest.fixture
def world(cluster: Cluster, database_dsn: str, tmp_path: Path) -> Iterator[World]:
    """Everything, with exactly the rights that the command writes; nothing of it stays."""
    done = cluster.kubectl("apply", "--server-side", "-f", str(ROOT / "k8s" / "crds"))
    assert done.returncode == 0, done.stderr
    for resource in RESOURCES:
        cluster.kubectl("wait", f"crd/{resource.name}", "--for=condition=Established", "--timeout=60s")
    token = tmp_path / "token"
    token.write_text(cluster.service_account(*ACCOUNT))
    cluster.namespace(HONOURED)
    cluster.namespace("elsewhere")
    account = ("--account", "/".join(ACCOUNT), "--exceptions-namespace", HONOURED)
    rights = mfw("kubernetes", "controller-rights", *account)
    assert rights.returncode == 0, rights.stderr
    applied = cluster.kubectl("apply", "-f", "-", stdin=rights.stdout)
    assert applied.returncode == 0, applied.stderr
    database = {"MFW_POLICIES__SOURCE": "database", "MFW_POLICIES__DIRECTORY": ""}
    with served(cluster, database_dsn, tmp_path, **database) as service:
        key = make_key(database_dsn, Role.ADMIN)
        arguments = [
            *("--server", cluster.url, "--token-file", str(token), "--server-ca-file", str(cluster.ca_file)),
            *("--url", service.url, "--ca-file", str(cluster.ca_file)),
            *("--exceptions-namespace", HONOURED, "--settle-seconds", "0.2", "--resync-seconds", "2"),
        ]
        with Firewall(service.url, key, ca_file=cluster.ca_file) as firewall:
            yield World(cluster, firewall, arguments, key)
    for resource in RESOURCES:
        cluster.kubectl("delete", resource.name, "--all", "--all-namespaces")
    cluster.api("DELETE", f"/apis/coordination.k8s.io/v1/namespaces/{ACCOUNT[0]}/leases/mutation-firewall-controller")


def test_the_life_of_a_policy(world: World) -> None:
    """Applied, changed, broken, mended, deleted; what is in force follows, and `kubectl get` tells."""
    world.cluster.apply(policy("one", team="sre", **{"helm.sh/chart": "x-1"}), policy("two"))
    with world.controller() as process:
        row = world.told("one", "InForce")
        assert (row["MODE"], row["ACCEPTED"], row["ACTIVE"]) == ("", "True", "True")
        first = world.firewall.active_policy_set()
        assert row["SET"] == first.digest
        assert [one["metadata"] for one in first.documents] == [
            {"name": "one", "labels": {"team": "sre"}},
            {"name": "two"},
        ]
        assert world.firewall.activations().items[0].reason == "custom resources: 2 policies, 0 exceptions"

        world.cluster.apply(policy("two", "action.name == 'create'"))
        changed = until(lambda: now if (now := world.firewall.active_policy_set()).digest != first.digest else None)
        until(lambda: world.row("mutationpolicies", "two")["SET"] == changed.digest)

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
        until(lambda: "Invalid" in world.cluster.kubectl("describe", "mpol", "two").stdout.partition("Events:")[2])

        world.cluster.apply(policy("two"))
        world.told("two", "InForce")
        world.told("one", "InForce")
        waited = world.cluster.kubectl("wait", "mutationpolicies", "--all", "--for=condition=Ready", "--timeout=60s")
        assert waited.returncode == 0, waited.stderr
        assert world.firewall.active_policy_set().digest == first.digest

        world.delete("mutationpolicy", "two")
        until(lambda: world.in_force() == {"one"})
        # The last one: an empty set is never put into force.
        world.delete("mutationpolicy", "one")
        time.sleep(1.5)
        assert world.in_force() == {"one"}
        assert process.stop(signal.SIGTERM) == 0, process.output
        assert world.key not in process.output


def test_exceptions_count_where_the_controller_was_told(world: World, tmp_path: Path) -> None:
    """One of another namespace lifts nothing; it is not even read (CVE-2024-48921), and could not be."""
    world.cluster.apply(policy("never", effect="deny"), exception("elsewhere", "never"), exception(HONOURED, "never"))
    with world.controller():
        world.told("never", "InForce")
        row = until(
            lambda: (
                found
                if (found := world.row(EXCEPTIONS.plural, "migration", "-n", HONOURED))["REASON"] == "InForce"
                else None
            )
        )
        assert (row["OWNER"], row["ACTIVE"]) == ("sre", "True")
        kinds = [one["kind"] for one in world.firewall.active_policy_set().documents]
        assert sorted(kinds) == ["MutationPolicy", "PolicyException"]
        assert world.row(EXCEPTIONS.plural, "migration", "-n", "elsewhere")["REASON"] == ""

        world.cluster.apply(exception(HONOURED, "nowhere"))
        until(lambda: world.row(EXCEPTIONS.plural, "migration", "-n", HONOURED)["REASON"] == "Invalid")
        assert "there is no policy `nowhere`" in world.row(EXCEPTIONS.plural, "migration", "-n", HONOURED)["MESSAGE"]

    token = (tmp_path / "token").read_text()

    def may(*question: str) -> bool:
        return world.cluster.kubectl("auth", "can-i", *question, as_token=token).stdout.strip() == "yes"

    assert may("patch", POLICIES.name, "--subresource=status")
    assert not may("patch", POLICIES.name)
    assert not may("create", POLICIES.name)
    assert not may("delete", POLICIES.name)
    assert may("list", EXCEPTIONS.name, "-n", HONOURED)
    assert not may("list", EXCEPTIONS.name, "-n", "elsewhere")
    assert not may("get", "secrets", "-n", ACCOUNT[0])
    assert not may("get", "lease/another", "-n", ACCOUNT[0])


def test_one_leads_and_another_takes_over(world: World) -> None:
    """At once where the leader ends in order, and after the lease where it is gone without a word."""
    world.cluster.apply(policy("one"))
    with world.controller() as first:
        world.told("one", "InForce")
        with world.controller() as second:
            world.cluster.apply(policy("two"))
            until(lambda: world.in_force() == {"one", "two"})
            assert "policy set in force" not in second.output
            assert first.stop(signal.SIGTERM) == 0, first.output
            world.cluster.apply(policy("three"))
            until(lambda: world.in_force() == {"one", "two", "three"})
            with world.controller():
                # Killed: nobody gives the lease up.
                os.killpg(second.popen.pid, signal.SIGKILL)
                world.cluster.apply(policy("four"))
                until(lambda: world.in_force() == {"one", "two", "three", "four"}, seconds=90)


def test_a_set_that_the_set_in_force_denies(world: World) -> None:
    """Nothing in the cluster gets past the firewall: who may activate is what the policies in force say."""
    guard = policy("guard", "resource.type == 'policy-set' && 'two' in change.after.added", "deny")
    world.cluster.apply(policy("one"), guard)
    with world.controller():
        world.told("one", "InForce")
        world.cluster.apply(policy("two"))
        row = world.told("two", "ActivationDenied")
        assert (row["ACCEPTED"], row["ACTIVE"]) == ("True", "False")
        assert "deny by guard" in row["MESSAGE"]
        row = world.told("one", "ActivationDenied")
        assert row["ACTIVE"] == "True"
        assert world.in_force() == {"one", "guard"}
        time.sleep(3)
        # Asked once: each question is an entry of the ledger.
        sets = [one for one in world.firewall.policy_sets().items if one.policies == 3]
        assert len(sets) == 1


def test_a_service_that_is_away(world: World) -> None:
    """What is applied meanwhile comes into force when it is back."""
    world.cluster.apply(policy("one"))
    away = [*world.arguments]
    away[away.index("--url") + 1] = "http://127.0.0.1:9"
    with running("controller", *away, settings={"MFW_API_KEY": world.key}) as lost:
        row = world.told("one", "ServiceUnavailable")
        assert (row["ACCEPTED"], row["ACTIVE"]) == ("True", "Unknown")
        assert lost.stop(signal.SIGTERM) == 0, lost.output
    with world.controller():
        assert world.told("one", "InForce")["ACTIVE"] == "True"
