"""Kubernetes' own kinds: the resource of each, its scope, and where two groups serve the same thing.

A kind that is not listed is a custom one; its resource is then guessed as Kubernetes' own tools guess it.
"""

from collections.abc import Mapping

_NAMESPACED: Mapping[str, str] = {
    "": (
        "Pod ReplicationController PodTemplate Service ServiceAccount Secret ConfigMap Endpoints Event LimitRange "
        "PersistentVolumeClaim ResourceQuota"
    ),
    "apps": "Deployment ReplicaSet DaemonSet StatefulSet ControllerRevision",
    "authorization.k8s.io": "LocalSubjectAccessReview",
    "autoscaling": "HorizontalPodAutoscaler",
    "batch": "Job CronJob",
    "coordination.k8s.io": "Lease LeaseCandidate",
    "discovery.k8s.io": "EndpointSlice",
    "events.k8s.io": "Event",
    "extensions": "Deployment DaemonSet ReplicaSet Ingress NetworkPolicy",
    "networking.k8s.io": "Ingress NetworkPolicy",
    "policy": "PodDisruptionBudget",
    "rbac.authorization.k8s.io": "Role RoleBinding",
    "resource.k8s.io": "ResourceClaim ResourceClaimTemplate",
    "storage.k8s.io": "CSIStorageCapacity",
}
_CLUSTER: Mapping[str, str] = {
    "": "Namespace Node PersistentVolume ComponentStatus",
    "admissionregistration.k8s.io": (
        "MutatingWebhookConfiguration ValidatingWebhookConfiguration ValidatingAdmissionPolicy "
        "ValidatingAdmissionPolicyBinding MutatingAdmissionPolicy MutatingAdmissionPolicyBinding"
    ),
    "apiextensions.k8s.io": "CustomResourceDefinition",
    "apiregistration.k8s.io": "APIService",
    "authentication.k8s.io": "TokenReview SelfSubjectReview",
    "authorization.k8s.io": "SubjectAccessReview SelfSubjectAccessReview SelfSubjectRulesReview",
    "certificates.k8s.io": "CertificateSigningRequest ClusterTrustBundle",
    "flowcontrol.apiserver.k8s.io": "FlowSchema PriorityLevelConfiguration",
    "networking.k8s.io": "IngressClass IPAddress ServiceCIDR",
    "node.k8s.io": "RuntimeClass",
    "policy": "PodSecurityPolicy",
    "rbac.authorization.k8s.io": "ClusterRole ClusterRoleBinding",
    "resource.k8s.io": "DeviceClass ResourceSlice",
    "scheduling.k8s.io": "PriorityClass",
    "storage.k8s.io": "StorageClass VolumeAttachment CSIDriver CSINode VolumeAttributesClass",
    "storagemigration.k8s.io": "StorageVersionMigration",
}
# True for what lives in a namespace.
_SCOPES: Mapping[tuple[str, str], bool] = {
    (group, kind): namespaced
    for namespaced, table in ((True, _NAMESPACED), (False, _CLUSTER))
    for group, kinds in table.items()
    for kind in kinds.split()
}
# Objects that are only sent to a part of another one: group and kind, then the group and resource they are sent to
# (None where any may have that part), and the part.
_SUBRESOURCES: Mapping[tuple[str, str], tuple[tuple[str, str] | None, str]] = {
    ("autoscaling", "Scale"): (None, "scale"),
    ("policy", "Eviction"): (("", "pods"), "eviction"),
    ("", "Binding"): (("", "pods"), "binding"),
    ("", "PodExecOptions"): (("", "pods"), "exec"),
    ("", "PodAttachOptions"): (("", "pods"), "attach"),
    ("", "PodPortForwardOptions"): (("", "pods"), "portforward"),
    ("", "PodProxyOptions"): (("", "pods"), "proxy"),
    ("", "ServiceProxyOptions"): (("", "services"), "proxy"),
    ("", "NodeProxyOptions"): (("", "nodes"), "proxy"),
    ("authentication.k8s.io", "TokenRequest"): (("", "serviceaccounts"), "token"),
}
# What one group serves under the name of another, with `matchPolicy: Equivalent`.
_EQUIVALENT = (
    (("extensions", "deployments"), ("apps", "deployments")),
    (("extensions", "daemonsets"), ("apps", "daemonsets")),
    (("extensions", "replicasets"), ("apps", "replicasets")),
    (("extensions", "ingresses"), ("networking.k8s.io", "ingresses")),
    (("extensions", "networkpolicies"), ("networking.k8s.io", "networkpolicies")),
    (("extensions", "podsecuritypolicies"), ("policy", "podsecuritypolicies")),
    (("", "events"), ("events.k8s.io", "events")),
)
# `Ingress`, `Sandbox`, `Batch`, `Mesh`: English, as the generators have it.
_HISSING = ("s", "x", "z", "ch", "sh")
_VOWELS = ("a", "e", "i", "o", "u")
_GROUPS: Mapping[tuple[str, str], frozenset[str]] = {
    one: frozenset(group for group, _ in pair) for pair in _EQUIVALENT for one in pair
}


def resource_of(kind: str) -> str:
    """Give the resource of a kind: its name in lower case, in the plural as the generators of definitions write it.

    That of a kind which is not Kubernetes' own is a guess; see `spellings`.
    """
    name = kind.lower()
    if name.endswith("endpoints"):
        return name
    if name.endswith(_HISSING):
        return f"{name}es"
    if name.endswith("y") and name[-2:-1] not in _VOWELS:
        return f"{name[:-1]}ies"
    return f"{name}s"


def spellings(group: str, kind: str) -> frozenset[str]:
    """Give every resource that a kind may have, for who owns a definition chooses the plural; one if it is known."""
    first = resource_of(kind)
    if is_namespaced(group, kind) is not None or not group:
        return frozenset((first,))
    name = kind.lower()
    # Without a plural, and by the rule of Kubernetes' own tools, which knows neither `boxes` nor `gateways`.
    found = {first, name, f"{name}s", f"{name}es"}
    if name.endswith("y"):
        found.add(f"{name[:-1]}ies")
    return frozenset(found)


def is_namespaced(group: str, kind: str) -> bool | None:
    """Tell whether a kind lives in a namespace; None for one that is not Kubernetes' own."""
    return _SCOPES.get((group, kind))


def subresource_of(group: str, kind: str) -> tuple[tuple[str, str] | None, str] | None:
    """Give the group and resource that objects of a kind are sent to, and the part of it; None for ordinary kinds."""
    return _SUBRESOURCES.get((group, kind))


def kind_of(group: str, resource: str) -> str | None:
    """Give the kind that a resource of Kubernetes' own is of; None for that of a custom one."""
    return _KINDS.get((group, resource))


def own_kinds() -> Mapping[tuple[str, str], str]:
    """Give the kinds of Kubernetes' own by group and resource."""
    return _KINDS


def own_groups() -> frozenset[str]:
    """Give the API groups of Kubernetes' own kinds."""
    return frozenset(group for group, _ in (*_SCOPES, *_SUBRESOURCES))


def groups_of(group: str, resource: str) -> frozenset[str]:
    """Give every group under which a resource is served, its own among them."""
    return _GROUPS.get((group, resource)) or frozenset((group,))


_KINDS: Mapping[tuple[str, str], str] = {(group, resource_of(kind)): kind for group, kind in _SCOPES}
