"""A mutation as Kubernetes' admission sees it: operation, resource, namespace, and the objects.

They come in `context.kubernetes` from an enforcement point that knows them, or are derived from the objects themselves,
always in the same way. A mutation that has neither is none of Kubernetes' and no admission policy is about it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from app.core.admission.resources import is_namespaced, resource_of, spellings, subresource_of
from app.core.types import JsonObject

MaybeObject: TypeAlias = "JsonObject | None"

CREATE, UPDATE, DELETE, CONNECT = "CREATE", "UPDATE", "DELETE", "CONNECT"
OPERATIONS = (CREATE, UPDATE, DELETE, CONNECT)
# Actions that open a connection to an object and change none of its members.
_CONNECTING = frozenset({"connect", "exec", "attach", "portforward", "port-forward", "proxy"})
# What they connect to, if they say it: a rule about `pods/exec` is not one about `pods`.
_CONNECTED = {name: name.replace("-", "") for name in _CONNECTING - {"connect"}}
_CREATING = frozenset({"create"})
_DELETING = frozenset({"delete", "deletecollection"})
_UPDATING = frozenset({"update", "patch", "scale", "replace", "edit", "label", "annotate", "set", "rollout"})
_NAMESPACES = "namespaces"
# Every namespace has this label, with its own name.
NAMESPACE_NAME_LABEL = "kubernetes.io/metadata.name"
_CONTEXT = "context.kubernetes"


@dataclass(frozen=True, slots=True)
class Facts:
    """What rules and selectors of admission policies are matched against.

    `namespace` is empty for what lives in none, and for a namespace its own name; `namespaced` is None where nobody can
    tell. `object` and `old_object` are objects or None. `request` is what expressions read. `problem` says what is
    wrong with facts that were sent: they then mean nothing, and every policy must say so. `spellings` are what else
    `resource` may be called, where it is derived from a kind that is not Kubernetes' own.
    """

    operation: str
    group: str
    version: str
    kind: str
    resource: str
    subresource: str
    name: str
    namespace: str
    namespaced: bool | None
    object: MaybeObject
    old_object: MaybeObject
    namespace_object: MaybeObject
    request: JsonObject
    problem: str | None = None
    spellings: frozenset[str] = frozenset()

    @property
    def is_namespace(self) -> bool:
        """Whether the change is one of a namespace itself."""
        return self.resource == _NAMESPACES and not self.group

    def namespace_labels(self) -> tuple[Mapping[str, Any], bool]:
        """Give the labels of the namespace, and whether these are all; of an unknown one only the name is known."""
        holder = self.namespace_object
        if self.is_namespace and not self.subresource:
            fresh = self.object if self.operation in {CREATE, UPDATE} else self.old_object
            holder = fresh if fresh is not None else holder
        own = {NAMESPACE_NAME_LABEL: self.namespace} if self.namespace else {}
        if holder is None:
            return own, False
        return {**own, **labels_of(holder)}, True


def facts_of(inputs: JsonObject) -> Facts | None:
    """Give the facts of a mutation; None if it is no change of a Kubernetes object. `inputs` as policies read them."""
    sent = inputs["context"].get("kubernetes")
    change = inputs["change"]
    after, before = _object(change.get("after")), _object(change.get("before"))
    if _holds_objects(change.get("after")) or _holds_objects(change.get("before")):
        return _broken("the change is a list of objects, and policies are about one: send each by itself")
    if sent is None:
        shown = after if _is_kubernetes(after) else before
        return _derived(inputs, shown, after, before) if shown is not None and _is_kubernetes(shown) else None
    if not isinstance(sent, dict):
        return _broken(f"`{_CONTEXT}` is not an object")
    namespace_object = sent.get("namespaceObject")
    if namespace_object is not None and not isinstance(namespace_object, dict):
        return _broken(f"`{_CONTEXT}.namespaceObject` is not an object")
    request = sent.get("request")
    if request is not None:
        return _sent(request, after, before, namespace_object)
    shown = after if _is_kubernetes(after) else before
    if shown is None or not _is_kubernetes(shown):
        return None
    return _derived(inputs, shown, after, before, namespace_object)


def labels_of(holder: JsonObject) -> Mapping[str, Any]:
    """Give the labels of an object; none if they are no object."""
    metadata = holder.get("metadata")
    labels = metadata.get("labels") if isinstance(metadata, dict) else None
    return labels if isinstance(labels, dict) else {}


def group_and_version(api_version: str) -> tuple[str, str]:
    """Split an `apiVersion`; the group of `v1` is empty."""
    group, _, version = api_version.rpartition("/")
    return group, version


def _object(value: Any) -> MaybeObject:
    return value if isinstance(value, dict) else None


def _is_kubernetes(value: MaybeObject) -> bool:
    return value is not None and isinstance(value.get("apiVersion"), str) and isinstance(value.get("kind"), str)


def _holds_objects(value: Any) -> bool:
    """Tell whether a value is several objects at once: a `List`, as kubectl writes it, or the items alone."""
    if isinstance(value, dict) and _is_kubernetes(value) and value["kind"].endswith("List"):
        value = value.get("items")
    return isinstance(value, list) and any(_is_kubernetes(_object(item)) for item in value)


def _broken(problem: str) -> Facts:
    return Facts("", "", "", "", "", "", "", "", None, None, None, None, {}, problem)


def _derived(
    inputs: JsonObject,
    shown: JsonObject,
    after: MaybeObject,
    before: MaybeObject,
    namespace_object: MaybeObject = None,
) -> Facts:
    """Make a request of the objects. Whatever the caller did not say is left out, as the API server leaves it out."""
    problem = _contradiction(inputs, after, before, namespace_object)
    if problem is not None:
        return _broken(problem)
    group, version = group_and_version(shown["apiVersion"])
    kind: str = shown["kind"]
    resource_group, resource_version, resource, subresource = group, version, resource_of(kind), ""
    called = spellings(group, kind)
    namespaced = is_namespaced(group, kind)
    part = subresource_of(group, kind)
    if part is not None:
        target, subresource = part
        resource_group, resource_version, resource, namespaced, called = _target(target, inputs["resource"]["type"])
    action = inputs["action"]["name"].lower()
    if not subresource and action in _CONNECTING:
        if action not in _CONNECTED:
            return _broken(f"the action is `{action}`, and nothing says to which part of the object")
        subresource = _CONNECTED[action]
    # A manifest may leave out what the object that is there says: they are one object.
    name = _said(after, "name") or _said(before, "name")
    namespace = _said(after, "namespace") or _said(before, "namespace")
    if resource == _NAMESPACES and not resource_group:
        namespace = name
    elif namespaced and not namespace:
        # Where a manifest does not say, and nobody else did, it is the namespace that Kubernetes calls by this name.
        namespace = "default"
    operation = _operation(inputs["action"]["name"], after, before)
    of_kind = {"group": group, "version": version, "kind": kind}
    of_resource = {"group": resource_group, "version": resource_version, "resource": resource}
    subject = inputs["subject"]
    groups = subject["properties"].get("groups")
    request: JsonObject = {
        "kind": of_kind,
        "resource": of_resource,
        **({"subResource": subresource} if subresource else {}),
        "requestKind": of_kind,
        "requestResource": of_resource,
        **({"requestSubResource": subresource} if subresource else {}),
        **({"name": name} if name else {}),
        **({"namespace": namespace} if namespace else {}),
        "operation": operation,
        "userInfo": {"username": subject["id"], "groups": groups if isinstance(groups, list) else []},
        "dryRun": False,
    }
    return Facts(
        operation,
        resource_group,
        resource_version,
        kind,
        resource,
        subresource,
        name,
        namespace,
        True if namespace and namespaced is None else namespaced,
        after,
        before,
        namespace_object,
        request,
        spellings=called - {resource},
    )


def _contradiction(
    inputs: JsonObject, after: MaybeObject, before: MaybeObject, namespace_object: MaybeObject
) -> str | None:
    """Say what of a change cannot be true together: policies would be asked about the one, and not about the other."""
    change = inputs["change"]
    for member, shown in (("after", after), ("before", before)):
        if shown is None and change.get(member) is not None:
            return f"`change.{member}` is not an object"
    if after is not None:
        if inputs["action"]["name"].lower() in _DELETING:
            return f"the action is `{inputs['action']['name']}`, and `change.after` says that the object stays"
        if before is not None and _is_kubernetes(after) and _is_kubernetes(before) and after["kind"] != before["kind"]:
            return "`change.before` and `change.after` are not of one kind"
        for member in ("name", "namespace"):
            one, other = _said(before, member), _said(after, member)
            if one and other and one != other:
                return f"`metadata.{member}` of `change.before` and of `change.after` differ"
    namespace = _said(after, "namespace") or _said(before, "namespace")
    return _other_namespace(namespace_object, namespace) if namespace else None


def _other_namespace(namespace_object: MaybeObject, namespace: str) -> str | None:
    """Say that the namespace that was sent is another one, if it is."""
    name = _said(namespace_object, "name")
    if name and name != namespace:
        return f"`{_CONTEXT}.namespaceObject` is not the namespace of the object that is changed"
    return None


def _target(target: tuple[str, str] | None, resource_type: str) -> tuple[str, str, str, bool | None, frozenset[str]]:
    """Give group, version, resource and scope of what a part such as `scale` belongs to."""
    if target is not None:
        return target[0], "v1", target[1], target[1] != "nodes", frozenset()
    group, _, kind = resource_type.rpartition("/")
    group = "" if group == "core" else group
    return group, "v1", resource_of(kind), is_namespaced(group, kind), spellings(group, kind)


def _operation(action: str, after: MaybeObject, before: MaybeObject) -> str:
    """Give the operation: the action says whether one connects, the objects whether something comes or goes."""
    name = action.lower()
    if name in _CONNECTING:
        return CONNECT
    if after is None:
        return DELETE
    if name in _CREATING or (before is None and name not in _UPDATING):
        return CREATE
    return UPDATE


def _sent(request: Any, after: MaybeObject, before: MaybeObject, namespace_object: MaybeObject) -> Facts:
    """Take the facts over from who knows them; what contradicts itself or the objects is no basis for a decision."""
    where = f"`{_CONTEXT}.request"
    if not isinstance(request, dict):
        return _broken(f"{where}` is not an object")
    kind, resource = request.get("kind"), request.get("resource")
    for member, value, last in (("kind", kind, "kind"), ("resource", resource, "resource")):
        if not isinstance(value, dict):
            return _broken(f"{where}.{member}` is not an object")
        for part in ("group", "version", last):
            # The API server leaves nothing out here, the empty group neither.
            if not isinstance(value.get(part, ""), str) or (part == last and not value.get(part)):
                return _broken(f"{where}.{member}.{part}` is missing, or no text")
    assert isinstance(kind, dict)  # noqa: S101 - the loop has seen it
    assert isinstance(resource, dict)  # noqa: S101 - as above
    for member in ("subResource", "name", "namespace"):
        if not isinstance(request.get(member, ""), str):
            return _broken(f"{where}.{member}` is no text")
    operation = request.get("operation")
    if operation not in OPERATIONS:
        return _broken(f"{where}.operation` is none of {', '.join(f'`{one}`' for one in OPERATIONS)}")
    group, version = kind.get("group", ""), kind.get("version", "")
    for shown in (after, before):
        if shown is not None and _is_kubernetes(shown):
            found = (*group_and_version(shown["apiVersion"]), shown["kind"])
            if found != (group, version, kind["kind"]):
                return _broken(f"{where}.kind` is not the kind of the object that is changed")
        if (other := _other_object(request, shown)) is not None:
            return _broken(f"{where}.{other}` is not that of the object that is changed")
    own_kind = is_namespaced(group, kind["kind"]) is not None and not request.get("subResource")
    if own_kind and (resource.get("group", ""), resource["resource"]) != (group, resource_of(kind["kind"])):
        return _broken(f"{where}.resource` is not what serves `{kind['kind']}`")
    if (after if operation == DELETE else before if operation == CREATE else None) is not None:
        return _broken(f"{where}.operation` is `{operation}`, which the objects of the change contradict")
    namespace, name = request.get("namespace", ""), request.get("name", "")
    if resource["resource"] == _NAMESPACES and not resource.get("group", ""):
        namespace = name or namespace
    if namespace and (problem := _other_namespace(namespace_object, namespace)) is not None:
        return _broken(problem)
    return Facts(
        operation,
        resource.get("group", ""),
        resource.get("version", ""),
        kind["kind"],
        resource["resource"],
        request.get("subResource", ""),
        name,
        namespace,
        bool(namespace),
        after,
        before,
        namespace_object,
        request,
    )


def _said(shown: MaybeObject, member: str) -> str:
    """Give the name or the namespace that an object says it has, empty where it says none."""
    metadata = _object(shown.get("metadata")) if shown is not None else None
    return _text(metadata.get(member)) if metadata is not None else ""


def _other_object(request: JsonObject, shown: MaybeObject) -> str | None:
    """Name the member of a request that speaks of another object than the one that is shown, if one does."""
    namespace = _said(shown, "namespace")
    if namespace and namespace != request.get("namespace", ""):
        return "namespace"
    # What is sent to a part of an object may have a name of its own, and a name may still have to be made.
    name, asked = _said(shown, "name"), request.get("name", "")
    return "name" if name and asked and name != asked and not request.get("subResource") else None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
