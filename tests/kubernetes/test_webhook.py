"""The firewall in front of a real API server: what kubectl does, is told, and leaves in the ledger."""

import fnmatch
import json
import time
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.kubernetes.cluster import Cluster, Result
from tests.kubernetes.firewall import CHANGES, GUARD, STARTER, Firewall, served
from tests.kubernetes.shop import AGENT, made, scaled

NOTED_SECONDS = 60
ACTIONS: list[dict[str, Any]] = YAML(typ="safe").load(Path(__file__).parent / "actions.yaml")


@pytest.fixture(scope="module")
def firewall(cluster: Cluster, shared_database_dsn: str, agent: str) -> Any:
    """The service as it is run, with the starter policies, and the webhook in front of agents as the command writes it."""
    with served(cluster, shared_database_dsn, STARTER) as started, started.in_front(started.webhook(STARTER)):
        yield started


@dataclass(frozen=True, slots=True)
class Action:
    """A case: what an agent does in a namespace, to an object that has the name of the case."""

    case: dict[str, Any]

    @property
    def namespace(self) -> str:
        """Where it happens."""
        return str(self.case.get("in", "shop-staging"))

    @property
    def name(self) -> str:
        """Of its object."""
        return str(self.case["name"]).replace(" ", "-")

    @property
    def allowed(self) -> bool:
        """Whether kubectl succeeds."""
        return not self.case.get("refused") and all(one["as"] == "allow" for one in self.case["decided"])

    @property
    def webhook(self) -> str:
        """The one of the two that is called."""
        return GUARD if self.case.get("webhook") == "exemptions" else CHANGES

    def filled(self, text: str) -> str:
        """With the name and the namespace in it."""
        return Template(text).safe_substitute({"name": self.name, "in": self.namespace})

    def given(self, cluster: Cluster) -> None:
        """Make what it is about, as somebody whom nobody is asked about."""
        if "given" in self.case:
            how = ["--server-side"] if self.case.get("server_side") else []
            done = cluster.kubectl("apply", *how, "-f", "-", stdin=made(self.case["given"], self.name, self.namespace))
            assert done.returncode == 0, done.stderr

    def done(self, cluster: Cluster, token: str) -> Result:
        """Do it."""
        stdin = json.loads(self.filled(json.dumps(self.case.get("stdin"))))
        if stdin and stdin.pop("given", False):
            stdin = made(stdin.pop("kind", self.case.get("given")), self.name, self.namespace, **stdin)
        words = map(self.filled, self.case["kubectl"])
        return cluster.kubectl("-n", self.namespace, *words, stdin=stdin, as_token=token)


def noted(cluster: Cluster, key: str, ids: list[str]) -> list[str]:
    """Those of the ids that admission noted under a key in the audit log, once all of them are there or long after."""
    deadline = time.monotonic() + NOTED_SECONDS
    while True:
        said = [event.get("annotations", {}).get(key) for event in cluster.events()]
        found = [one for one in said if one in ids]
        if len(found) >= len(ids) or time.monotonic() > deadline:
            return found
        time.sleep(0.02)


@pytest.mark.parametrize("case", ACTIONS, ids=lambda case: case["name"])
def test_an_agent(cluster: Cluster, firewall: Firewall, agent: str, case: dict[str, Any]) -> None:
    action = Action(case)
    action.given(cluster)
    firewall.decided()

    done = action.done(cluster, agent)

    told = f"{done.stdout}\n{done.stderr}"
    assert (done.returncode == 0) is action.allowed, told
    for words in case["says"]:
        assert action.filled(words) in (done.stdout if action.allowed else done.stderr), told
    decided = firewall.decided()
    assert [in_the_words_of_cases(one) for one in decided] == [
        {"part": None} | one | {"id": None} for one in case["decided"]
    ]
    for one, wanted in zip(decided, case["decided"], strict=True):
        asked = one["record"]["input"]
        identifier = asked["resource"]["id"]
        assert fnmatch.fnmatchcase(identifier, action.filled(wanted.get("id", "$in/$name")))
        environment = "staging" if identifier.partition("/")[0].endswith("-staging") else "production"
        assert asked["resource"]["properties"] == {"environment": environment}
        assert (asked["subject"]["type"], asked["subject"]["id"]) == ("agent", AGENT)
        assert one["receipt"]["decision"] == one["decision"]
    # The same decisions, in the audit log of the cluster.
    ids = [one["id"] for one in decided]
    assert noted(cluster, f"{action.webhook}decision-id", ids) == ids
    if not action.allowed:
        assert f'admission webhook "{action.webhook[:-1]}" denied the request' in told
    if decided and not action.allowed:
        last = decided[-1]
        word = "held" if last["decision"] == "hold" else "denied"
        assert f"{word} by policy `{last['policy']}`, rule `{last['rule']}`" in told
        assert any(f"(decision {one['id']}, ledger entry {one['ledger_index']})" in told for one in decided)


def in_the_words_of_cases(decision: dict[str, Any]) -> dict[str, Any]:
    """A decision, as `actions.yaml` says what it wants; ids are patterns there."""
    asked = decision["record"]["input"]
    return {
        "as": decision["decision"],
        "by": f"{decision['policy']}/{decision['rule']}",
        "action": asked["action"]["name"],
        "type": asked["resource"]["type"],
        "part": asked["action"]["properties"].get("subresource"),
        "change": sorted(asked["change"], reverse=True),
        "id": None,
    }


def test_people_and_controllers_go_on(cluster: Cluster, firewall: Firewall) -> None:
    """Nobody is asked about who is no agent; an impersonated agent is one."""
    cluster.apply(made("deployment", "peopled", "shop"))
    firewall.decided()
    done = cluster.kubectl("scale", "deployment/peopled", "--replicas=0", "-n", "shop")
    assert done.returncode == 0, done.stderr
    assert firewall.decided() == []
    done = cluster.kubectl("scale", "deployment/peopled", "--replicas=9", "-n", "shop", f"--as={AGENT}")
    assert "rule `large-scale`: replicas 0 -> 9" in done.stderr
    (one,) = firewall.decided()
    assert one["record"]["input"]["subject"]["id"] == AGENT


def test_who_exempts_a_namespace_takes_it_away_from_the_webhook(
    cluster: Cluster, firewall: Firewall, agent: str
) -> None:
    cluster.namespace("loose", **{"mutationfirewall.io/exempt": "yes"})
    firewall.decided()
    done = cluster.kubectl("create", "configmap", "one", "-n", "loose", as_token=agent)
    assert done.returncode == 0, done.stderr
    assert firewall.decided() == []
    # What is exempt already may be labelled otherwise, and the label may be taken away.
    for label in ("other=x", "mutationfirewall.io/exempt-"):
        done = cluster.kubectl("label", "namespace", "loose", label)
        assert done.returncode == 0, done.stderr
    # The API server hears of its own labels by watching them.
    create = ("create", "configmap", "two", "-n", "loose", "--dry-run=server")
    deadline = time.monotonic() + NOTED_SECONDS
    while "default-deny" not in (done := cluster.kubectl(*create, as_token=agent)).stderr:
        assert time.monotonic() < deadline, done


def test_a_megabyte_is_read(cluster: Cluster, firewall: Firewall, agent: str) -> None:
    """What etcd takes at the most, before and after."""
    large = made("configmap", "large", "shop") | {"data": {"one": "x" * 1_000_000}}
    assert cluster.api("POST", "/api/v1/namespaces/shop/configmaps", large).status == 201
    firewall.decided()
    path = "/api/v1/namespaces/shop/configmaps/large"
    told = cluster.api("PUT", path, large | {"data": {"one": "y" * 1_000_000}}, token=agent)
    assert (told.status, told.body["reason"]) == (403, "Forbidden")
    (one,) = firewall.decided()
    assert (one["decision"], one["rule"]) == ("deny", "default-deny")


def test_a_refusal_is_a_status_that_programs_can_read(cluster: Cluster, firewall: Firewall, agent: str) -> None:
    cluster.apply(made("deployment", "told", "shop"))
    firewall.decided()
    told = scaled(cluster, agent, "told", 0)
    (one,) = firewall.decided()
    assert (told.status, told.body["kind"], told.body["code"], told.body["reason"]) == (403, "Status", 403, "Forbidden")
    assert told.body["details"]["uid"] == one["id"]
    assert [cause["reason"] for cause in told.body["details"]["causes"]] == ["k8s-deployment/to-zero"]
