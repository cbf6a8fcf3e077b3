"""What the controller may do in a cluster: as little as it needs, for `kubectl apply`."""

from collections.abc import Sequence
from typing import Final

from app.controller.lease import API as LEASE_API
from app.controller.reconcile import EVENTS, EVENTS_NAMESPACE
from app.core.types import JsonObject
from app.policies.custom_resources import EXCEPTIONS, GROUP, POLICIES, Resource

_RBAC: Final = "rbac.authorization.k8s.io"


def rights(*, name: str, namespace: str, account: str, lease: str, exceptions: Sequence[str]) -> list[JsonObject]:
    """Give the roles and bindings for a ServiceAccount of a namespace; `exceptions` are the namespaces that count.

    It may create a Lease and an event, read and renew its own Lease, read the objects, and write their status. It may
    change no object, read no Secret, and see no exception of another namespace.
    """
    events = {"apiGroups": [EVENTS.partition("/")[0]], "resources": ["events"], "verbs": ["create"]}
    leases = {"apiGroups": [LEASE_API.partition("/")[0]], "resources": ["leases"]}
    subject = {"kind": "ServiceAccount", "namespace": namespace, "name": account}
    found = _role(name, None, _follows(POLICIES), subject)
    of_namespaces: dict[str, list[JsonObject]] = {
        namespace: [
            {**leases, "verbs": ["create"]},
            {**leases, "resourceNames": [lease], "verbs": ["get", "update"]},
        ],
    }
    # It may be the same one.
    of_namespaces.setdefault(EVENTS_NAMESPACE, [])
    for one in dict.fromkeys(exceptions):
        of_namespaces.setdefault(one, []).extend(_follows(EXCEPTIONS))
    for one, rules in of_namespaces.items():
        tells = one == EVENTS_NAMESPACE or one in exceptions
        found += _role(name, one, [*rules, *([events] if tells else [])], subject)
    return found


def _follows(resource: Resource) -> list[JsonObject]:
    return [
        {"apiGroups": [GROUP], "resources": [resource.plural], "verbs": ["get", "list", "watch"]},
        {"apiGroups": [GROUP], "resources": [f"{resource.plural}/status"], "verbs": ["patch"]},
    ]


def _role(name: str, namespace: str | None, rules: list[JsonObject], subject: JsonObject) -> list[JsonObject]:
    kind = "ClusterRole" if namespace is None else "Role"
    metadata = {
        "name": name,
        **({} if namespace is None else {"namespace": namespace}),
        "labels": {"app.kubernetes.io/name": "mutation-firewall", "app.kubernetes.io/component": "controller"},
    }
    return [
        {"apiVersion": f"{_RBAC}/v1", "kind": kind, "metadata": metadata, "rules": rules},
        {
            "apiVersion": f"{_RBAC}/v1",
            "kind": f"{kind}Binding",
            "metadata": metadata,
            "roleRef": {"apiGroup": _RBAC, "kind": kind, "name": name},
            "subjects": [subject],
        },
    ]
