"""The definitions of the custom resources on a real API server: what it keeps, what it refuses, and in which words."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from app.policies.custom_resources import EXCEPTIONS, GROUP, POLICIES, RESOURCES, definition
from app.policies.load import check_directory, check_documents
from tests.kubernetes.cluster import Cluster

ROOT = Path(__file__).resolve().parents[2]
PUBLISHED = sorted(path.parent for path in (ROOT / "policies").glob("*/*.yaml"))


@pytest.fixture(scope="module", autouse=True)
def definitions(cluster: Cluster) -> None:
    """The committed files, with every bound that the API server puts on CEL."""
    done = cluster.kubectl("apply", "--server-side", "-f", str(ROOT / "k8s" / "crds"))
    assert done.returncode == 0, done.stderr
    for resource in RESOURCES:
        waited = cluster.kubectl("wait", f"crd/{resource.name}", "--for=condition=Established", "--timeout=60s")
        assert waited.returncode == 0, waited.stderr
        there = cluster.api("GET", f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{resource.name}").body
        found = [one for one in there["status"]["conditions"] if one["type"] == "NonStructuralSchema"]
        assert found == []


def policy(name: str = "one", **spec: Any) -> dict[str, Any]:
    """A policy with a rule, and with what is given."""
    rules = [{"name": "all", "effect": "deny", "message": "no"}]
    return {
        "apiVersion": f"{GROUP}/v1",
        "kind": "MutationPolicy",
        "metadata": {"name": name},
        "spec": {"rules": rules, **spec},
    }


def exception(**spec: Any) -> dict[str, Any]:
    """An exception of a policy, with what is given."""
    given = {"owner": "sre", "reason": "a migration", "validUntil": "2030-01-01T00:00:00Z", "policies": [{"name": "p"}]}
    return {
        "apiVersion": f"{GROUP}/v1",
        "kind": "PolicyException",
        "metadata": {"name": "one", "namespace": "default"},
        "spec": {**given, **spec},
    }


def refusal(cluster: Cluster, document: dict[str, Any]) -> str:
    """What the API server says to it, in a dry run."""
    where = EXCEPTIONS if document["kind"] == "PolicyException" else POLICIES
    path = f"/apis/{GROUP}/v1/" + ("namespaces/default/" if where.namespaced else "") + where.plural
    answer = cluster.api("POST", f"{path}?dryRun=All&fieldValidation=Strict", document)
    assert answer.status in {201, 400, 422}, answer
    return "" if answer.status == 201 else answer.body["message"]


HOLD = {"name": "all", "effect": "hold", "message": "ask"}
APPROVAL = {"anyOf": [{"group": "sre", "count": 2}, {"allOf": [{"group": "a"}, {"anyOf": [{"group": "b"}]}]}]}
FREEZE = {"name": "night", "schedule": "0 22 * * *", "timeZone": "UTC", "duration": "8h"}
BUDGET = {"name": "few", "per": "subject", "limit": 3, "window": "1h"}


@pytest.mark.parametrize(
    "document",
    [
        policy(),
        policy(rules=[{**HOLD, "approval": {**APPROVAL, "expiresAfter": "24h30m"}}]),
        policy(freezes=[{**FREEZE, "effect": "hold", "approval": APPROVAL}, {**FREEZE, "name": "day"}]),
        policy(budgets=[BUDGET, {**BUDGET, "name": "other", "effect": "hold", "approval": APPROVAL}]),
        policy(validFrom="2026-01-01T00:00:00Z", validUntil="2026-01-01T02:00:00+01:00"),
        policy(match={"resources": [{"properties": {"text": "a*", "number": 3, "yes": True}}]}),
        exception(),
        exception(validFrom="2029-01-01T00:00:00Z", policies=[{"name": "p", "rules": ["r"]}]),
    ],
)
def test_what_the_loader_takes_is_taken_and_kept_as_it_is(cluster: Cluster, document: dict[str, Any]) -> None:
    """Nothing is pruned and nothing is put in: the digest is that of the file."""
    where = EXCEPTIONS if document["kind"] == "PolicyException" else POLICIES
    path = f"/apis/{GROUP}/v1/" + ("namespaces/default/" if where.namespaced else "") + where.plural
    answer = cluster.api("POST", f"{path}?dryRun=All&fieldValidation=Strict", document)

    assert answer.status == 201, answer
    assert answer.body["spec"] == document["spec"]


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (policy("mutation-firewall"), "is the name of what the firewall itself says"),
        (policy("a.b"), "and no dot"),
        (policy("a" * 64), "at most 63 characters"),
        (policy(rules=[]), "should have at least 1 items"),
        ({**policy(), "spec": {"mode": "enforce"}}, "`rules` is missing"),
        (policy(mode="on"), "supported values"),
        (policy(rule=[]), "unknown field"),
        (policy(rules=[{"name": "all", "effect": "deny"}]), "needs a `message`"),
        (policy(rules=[HOLD]), "`approval` says who lifts a hold"),
        (policy(rules=[{"name": "all", "effect": "allow", "approval": APPROVAL}]), "`approval` says who lifts a hold"),
        (policy(rules=[{**HOLD, "approval": {"expiresAfter": "1h"}}]), "exactly one of `anyOf` and `allOf`"),
        (policy(rules=[{**HOLD, "approval": {**APPROVAL, "allOf": [{"group": "a"}]}}]), "exactly one of `anyOf`"),
        (policy(rules=[{**HOLD, "approval": {**APPROVAL, "expiresAfter": "soon"}}]), "should match"),
        (policy(rules=[{**HOLD, "approval": {**APPROVAL, "expiresAfter": ""}}]), "expiresAfter"),
        (policy(rules=[{**HOLD, "approval": {"anyOf": [{"group": "a", "allOf": [{"group": "b"}]}]}}]), "oneOf"),
        (policy(rules=[HOLD | {"effect": "deny"}] * 2), "Duplicate value"),
        (policy(freezes=[{**FREEZE, "effect": "hold"}]), "`approval` says who lifts a hold"),
        (policy(freezes=[{**FREEZE, "approval": APPROVAL}]), "`approval` says who lifts a hold"),
        (policy(budgets=[{**BUDGET, "key": "'a'"}]), "exactly one of `per` and `key`"),
        (policy(budgets=[{**BUDGET, "effect": "hold"}]), "`approval` says who lifts a hold"),
        (policy(budgets=[{**BUDGET, "limit": 0}]), "greater than or equal to 1"),
        (policy(match={}), "at least 1 properties"),
        (policy(validFrom="2026-01-01T00:00:00Z", validUntil="2026-01-01T01:00:00+01:00"), "ends before it starts"),
        (policy(validFrom="tomorrow"), "should match"),
        (policy(rules=[{"name": "all", "effect": "allow", "obligations": [{"key": "a"}]}]), "oneOf"),
        ({**exception(), "spec": {"owner": "me"}}, "Required value"),
        (exception(validFrom="2031-01-01T00:00:00Z"), "ends before it starts"),
        (exception(policies=[{"name": "p"}, {"name": "p"}]), "Duplicate value"),
    ],
)
def test_what_the_loader_refuses_is_refused_at_the_door(
    cluster: Cluster, document: dict[str, Any], message: str
) -> None:
    """Whoever types `kubectl apply` reads at once what is wrong; and it is wrong as a file as well."""
    assert message in refusal(cluster, document)

    beside = [policy("p")] if document["kind"] == "PolicyException" else []
    plain = deepcopy(document)
    plain["metadata"].pop("namespace", None)
    assert check_documents([plain, *beside]).policy_set is None


@pytest.mark.parametrize("directory", sorted(set(PUBLISHED)), ids=lambda path: path.name)
def test_every_published_policy_is_a_custom_resource(cluster: Cluster, directory: Path) -> None:
    """What is in a directory can be applied, unless it is of a kind that no custom resource is."""
    for one in check_directory(directory).documents:
        document: Any = one.root.plain()
        if document["kind"] == "MutationPolicy":
            assert refusal(cluster, document) == "", one.file


def test_the_committed_definitions_are_those_of_the_models() -> None:
    """And the files hold nothing else."""
    kept = {path.stem: YAML(typ="safe").load(path) for path in (ROOT / "k8s" / "crds").iterdir()}

    assert kept == {resource.plural: definition(resource) for resource in RESOURCES}
