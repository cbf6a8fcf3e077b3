"""The corpus as AdmissionReviews: those of its cases that an API server could ask about."""

from typing import Any

from app.core.admission.facts import CREATE, DELETE, UPDATE
from app.core.admission.resources import resource_of
from app.core.normalise import normalise
from tests.corpus.cases import Case, mutation

_OPERATIONS = {"create": CREATE, "update": UPDATE, "delete": DELETE}
_GROUPS = ("core", "apps", "batch", "policy")


def review_for(case: Case, *, uid: str = "u") -> dict[str, Any] | None:
    """Write a case as a review; None for what no API server asks."""
    body = case.mutation
    group, _, kind = body["resource"]["type"].rpartition("/")
    sent = body.get("context", {}).get("kubernetes", {}).get("request", {})
    if sent and "subResource" not in sent:
        return None
    operation = sent.get("operation") or _OPERATIONS.get(body["action"]["name"])
    change = body.get("change", {})
    if group not in _GROUPS and not group.endswith(".k8s.io"):
        return None
    if not kind[:1].isupper() or operation is None or not change.keys() <= {"before", "after", "patch"}:
        return None
    if "patch" in change:
        if "before" not in change:
            return None
        change = normalise(mutation(body)).inputs["change"]
    before, after = change.get("before"), change.get("after")
    if (before is not None, after is not None) != (operation in {UPDATE, DELETE}, operation != DELETE):
        return None
    namespace, _, name = body["resource"]["id"].rpartition("/")
    if "/" in namespace:
        return None
    group = "" if group == "core" else group
    return {
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": uid,
            "kind": {"group": group, "version": "v1", "kind": kind},
            "resource": {"group": group, "version": "v1", "resource": resource_of(kind)},
            "name": name,
            "namespace": name if kind == "Namespace" else namespace,
            "operation": operation,
            "userInfo": {"username": body["subject"]["id"], "groups": ["system:authenticated"]},
            "object": after,
            "oldObject": before,
            "dryRun": False,
            "options": None,
            **{name: sent[name] for name in ("kind", "resource", "subResource") if name in sent},
        },
    }


def environment_of(case: Case) -> str | None:
    """Give what a case says of where its object runs."""
    found: str | None = case.mutation["resource"].get("properties", {}).get("environment")
    return found
