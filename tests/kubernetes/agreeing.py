"""The same admission policies in two namespaces: in one the API server judges by them, in the other the firewall does."""

import contextlib
import copy
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from tests.kubernetes.cluster import Answer, Cluster
from tests.kubernetes.firewall import serving

GROUP: Final = "admissionregistration.k8s.io/v1"
POLICY: Final = "ValidatingAdmissionPolicy"
NATIVE: Final = "agreed-native"
ASKED: Final = "agreed-asked"
ALLOW: Final = {
    "apiVersion": "mutationfirewall.io/v1",
    "kind": "MutationPolicy",
    "metadata": {"name": "allow"},
    "spec": {"match": {"resources": [{"type": "*"}]}, "rules": [{"name": "all", "effect": "allow"}]},
}
# `299 - "text"`, one header for each.
_WARNING: Final = re.compile(r'299 - ("(?:[^"\\]|\\.)*")')
_DENIED: Final = " denied request: "


@contextlib.contextmanager
def both_judging(cluster: Cluster, dsn: str, folder: Path, documents: Sequence[dict[str, Any]]) -> Iterator[None]:
    """Have both judge by these documents: policies, bindings without a namespace of their own, and parameters."""
    (folder / "all.yaml").write_text("\n---\n".join(json.dumps(one) for one in [ALLOW, *documents]))
    native = copy.deepcopy(list(documents))
    for document in native:
        if document["kind"] == f"{POLICY}Binding":
            where = {"matchLabels": {"kubernetes.io/metadata.name": NATIVE}}
            document["spec"].setdefault("matchResources", {})["namespaceSelector"] = where
    with (
        serving(cluster, dsn, folder) as firewall,
        firewall.in_front(firewall.webhook(folder, more=["--exempt-namespace", NATIVE])),
    ):
        cluster.apply(*native)
        try:
            yield
        finally:
            names = {(one["kind"], one["metadata"]["name"]) for one in native}
            for kind, plural in ((f"{POLICY}Binding", "bindings"), (POLICY, "policies")):
                for name in (name for of, name in names if of == kind):
                    stem = "validatingadmissionpolicy" if plural == "bindings" else "validatingadmission"
                    cluster.api("DELETE", f"/apis/{GROUP}/{stem}{plural}/{name}")


def verdict_of(answer: Answer, policy: str) -> dict[str, Any]:
    """What an API server, or the firewall through it, says of a request under a policy, in words that both have."""
    warnings = [json.loads(text) for text in _WARNING.findall(answer.headers.get("warning", ""))]
    told = str(answer.body)
    if answer.status < 400 or ("mutationfirewall.io" not in told and POLICY not in told):
        # What went wrong later came through admission: an object that is there already, a pod that does not run.
        return {"allowed": True, "warnings": warnings}
    return {"allowed": False, "warnings": warnings, "why": _why(answer.body["details"]["causes"], policy)}


def _why(causes: list[dict[str, str]], policy: str) -> str:
    """The message of the validation that stands first; what failed says so in the words of each."""
    if not any("reason" in cause for cause in causes):
        text = causes[0]["message"].partition(_DENIED)[2]
        return "it failed" if " resulted in error: " in text or text.startswith(("failed to", "no params")) else text
    # A decision names what is false before what failed.
    own = [cause for cause in causes if cause["reason"].startswith(f"{policy}/")]
    text = min(own, key=lambda cause: int((re.findall(r"\[(\d+)\]", cause["reason"]) or ["-1"])[0]))["message"]
    return "it failed" if text.startswith("rule_error: ") else text
