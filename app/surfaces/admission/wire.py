"""Step 4 for an AdmissionReview (`admission.k8s.io/v1`): what an API server asks becomes a mutation.

The subject is `userInfo`; the resource is what the request is about, also where it is sent to a part of it; the change
is `oldObject` and `object`; the rest of the request stands in `context.kubernetes.request`, where policies look for it.
"""

import re
from typing import Any, Final, NamedTuple, NoReturn

import orjson

from app.core import strict_json
from app.core.admission.callers import ClusterView, service_account
from app.core.admission.facts import CONNECT, CREATE, DELETE, OPERATIONS, UPDATE
from app.core.admission.resources import kind_of, spellings
from app.core.types import Json, JsonObject, Mutation
from app.errors import FirewallError, Kind
from app.surfaces.parties import MAX_ID_CHARS

API_VERSION: Final = "admission.k8s.io/v1"
FORMER_API_VERSION: Final = "admission.k8s.io/v1beta1"
KIND: Final = "AdmissionReview"

# A UUID has 36 characters; who sends more wants to have something echoed.
UID_MAX_CHARS: Final = 128
# Objects stand two levels deep in a review, and are themselves as deep as everywhere.
MAX_DEPTH: Final = strict_json.MAX_DEPTH + 2
# Two objects, before and after.
MAX_VALUES: Final = 2 * strict_json.MAX_VALUES

# What policies read as `request` in a ValidatingAdmissionPolicy. Not the uid: Kubernetes leaves it out as well, and a
# request that is made again would be another mutation.
_REQUEST_MEMBERS: Final = (
    "kind",
    "resource",
    "subResource",
    "requestKind",
    "requestResource",
    "requestSubResource",
    "name",
    "namespace",
    "operation",
    "userInfo",
    "dryRun",
    "options",
)
# The same names as the verbs of an API server's authorization have.
_ACTIONS: Final = {CREATE: "create", UPDATE: "update", DELETE: "delete", CONNECT: "connect"}
# Whether there is an object before and after; None where there may be one.
_BEFORE: Final = {CREATE: False, UPDATE: True, DELETE: None, CONNECT: False}
_AFTER: Final = {CREATE: True, UPDATE: True, DELETE: False, CONNECT: None}
_COLLECTION: Final = "deletecollection"
_NAMESPACES: Final = ("", "namespaces")
_PRINTED: Final = re.compile(r"[^\x00-\x20\x7f/]+")


class Review(NamedTuple):
    """What an API server asks; with `dry_run` nothing will be changed, whatever the answer."""

    uid: str
    mutation: Mutation
    dry_run: bool


class Asked(NamedTuple):
    """To whom a refusal goes: the id of a review, and the version in which it is written."""

    uid: str
    api_version: str


def review_of(body: bytes, view: ClusterView) -> Review:
    """Read a review.

    Raises FirewallError: what `strict_json.parse` raises, MALFORMED with the pointer of the member at fault. Does not
    check: that the objects are of the kind that the request names; policies do, which know the native surface as well.
    """
    tree = strict_json.parse(body, max_depth=MAX_DEPTH, max_values=MAX_VALUES).tree
    if not isinstance(tree, dict):
        _refuse("the body is not an object", "")
    version = tree.get("apiVersion")
    if version == FORMER_API_VERSION:
        raise FirewallError(
            Kind.MALFORMED,
            f"`{FORMER_API_VERSION}` is not supported",
            pointer="/apiVersion",
            fix="set `admissionReviewVersions: [v1]` in the webhook configuration",
        )
    if version != API_VERSION or tree.get("kind") != KIND:
        _refuse(f"`apiVersion` and `kind` are not `{API_VERSION}` and `{KIND}`", "/apiVersion")
    request = tree.get("request")
    if not isinstance(request, dict):
        _refuse("`request` is not an object", "/request")
    uid = _text(request, "uid", most=UID_MAX_CHARS)
    if not uid:
        _refuse("`request.uid` is empty", "/request/uid")
    dry_run = request.get("dryRun")
    if not isinstance(dry_run, bool | None):
        _refuse("`request.dryRun` is neither true nor false", "/request/dryRun")
    return Review(uid, _mutation(request, uid, view), dry_run is True)


def asked_by(body: bytes) -> Asked | None:
    """Find out whom to refuse, of a body that may be wrong in every other way; None where nothing says it.

    Only for refusals: other readers may read other things in such a body.
    """
    try:
        tree = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    request = tree.get("request") if isinstance(tree, dict) else None
    uid = request.get("uid") if isinstance(request, dict) else None
    if not isinstance(uid, str) or not 0 < len(uid) <= UID_MAX_CHARS:
        return None
    version = tree.get("apiVersion")
    return Asked(uid, version if version == FORMER_API_VERSION else API_VERSION)


def _mutation(request: JsonObject, uid: str, view: ClusterView) -> Mutation:
    operation = request.get("operation")
    if operation not in OPERATIONS:
        _refuse(f"`request.operation` is none of {', '.join(OPERATIONS)}", "/request/operation")
    kind = _names(request, "kind", "kind")
    resource = _names(request, "resource", "resource")
    for member, last in (("requestKind", "kind"), ("requestResource", "resource")):
        if request.get(member) is not None:
            _names(request, member, last)
    part = _text(request, "subResource")
    _text(request, "requestSubResource")
    change = _change(request, operation)
    namespace, name = _text(request, "namespace"), _name(request, change)
    own = (resource["group"], resource["resource"]) == _NAMESPACES
    if not name and operation == CREATE and not part:
        # A name that has yet to be made; no name ends like this.
        name = f"{_said(change.get('after'), 'generateName')}*"
    named = name or "*"
    for member, value in (("name", named), ("namespace", namespace)):
        if value and not _PRINTED.fullmatch(value):
            _refuse(f"`request.{member}` has a character that no name has", f"/request/{member}")
    # A namespace lives in none, though a request about it names it as its own.
    identifier = named if own or not namespace else f"{namespace}/{named}"
    if len(identifier) > MAX_ID_CHARS:
        _refuse(f"namespace and name have more than {MAX_ID_CHARS} characters", "/request/name")
    properties: JsonObject = {}
    # What runs in a namespace runs where that is, and the namespace itself with it.
    environment = view.environment(named if own else namespace)
    if environment is not None:
        properties["environment"] = environment
    if view.cluster:
        properties["cluster"] = view.cluster
    context = {member: request[member] for member in _REQUEST_MEMBERS if request.get(member) is not None}
    action = {
        "name": _action(operation, part, named=bool(name)),
        "properties": {"operation": operation, **({"subresource": part} if part else {})},
    }
    return Mutation(
        subject=_subject(request, view),
        action=action,
        resource={"type": _type(kind, resource, part), "id": identifier, "properties": properties},
        change=change,
        context={"kubernetes": {"request": context}},
        request_id=uid,
    )


def _action(operation: str, part: str, *, named: bool) -> str:
    """Give the verb. What is created or connected to below an object is an act of its own: an eviction creates no pod.

    An update of a part changes the object that it is a part of.
    """
    if operation == DELETE and not named:
        return _COLLECTION
    return part if part and operation in {CREATE, CONNECT} else _ACTIONS[operation]


def _type(kind: JsonObject, resource: JsonObject, part: str) -> str:
    """Give GROUP/KIND of what the request is about, `core` for the group without a name.

    A request to a part of a custom resource may not say its kind: then it is the resource itself, in lower case.
    """
    group, plural, name = resource["group"], resource["resource"], kind["kind"]
    if part:
        same = kind["group"] == group and plural in spellings(group, name)
        name = kind_of(group, plural) or (name if same else plural)
    else:
        group = kind["group"]
    return f"{group or 'core'}/{name}"


def _change(request: JsonObject, operation: str) -> JsonObject:
    """Give what was there and what will be; what contradicts the operation is no basis for a decision."""
    after, before = _object(request, "object"), _object(request, "oldObject")
    for member, value, states in (("object", after, _AFTER), ("oldObject", before, _BEFORE)):
        needed = states[operation]
        if needed is not None and (value is not None) is not needed:
            fault = "is missing" if needed else "is there"
            _refuse(f"`request.{member}` {fault}, and the operation is {operation}", f"/request/{member}")
    change: JsonObject = {}
    if before is not None:
        change["before"] = before
    if after is not None:
        change["after"] = after
    return change


def _subject(request: JsonObject, view: ClusterView) -> JsonObject:
    user = request.get("userInfo")
    if not isinstance(user, dict):
        _refuse("`request.userInfo` is not an object", "/request/userInfo")
    username = user.get("username")
    if not isinstance(username, str) or not 0 < len(username) <= MAX_ID_CHARS:
        _refuse(f"`username` is no text of 1 to {MAX_ID_CHARS} characters", "/request/userInfo/username")
    uid, groups, extra = user.get("uid"), user.get("groups"), user.get("extra")
    if not isinstance(uid, str | None):
        _refuse("`uid` is no text", "/request/userInfo/uid")
    if groups is not None and not _texts(groups):
        _refuse("`groups` is no list of texts", "/request/userInfo/groups")
    if extra is not None and not (isinstance(extra, dict) and all(map(_texts, extra.values()))):
        _refuse("`extra` is no object of lists of texts", "/request/userInfo/extra")
    properties: JsonObject = {"groups": groups or []}
    if uid:
        properties["uid"] = uid
    if extra:
        properties["extra"] = extra
    account = service_account(username)
    if account is not None:
        properties["serviceAccount"] = {"namespace": account[0], "name": account[1]}
    return {"type": view.subject_type(user), "id": username, "properties": properties}


def _name(request: JsonObject, change: JsonObject) -> str:
    """Give the name that the request says, or else its object: deletions of a collection name it only there."""
    name = _text(request, "name")
    if name or request.get("subResource"):
        return name
    return _said(change.get("after"), "name") or _said(change.get("before"), "name")


def _said(shown: Any, member: str) -> str:
    metadata = shown.get("metadata") if isinstance(shown, dict) else None
    value = metadata.get(member) if isinstance(metadata, dict) else None
    return value if isinstance(value, str) else ""


def _names(request: JsonObject, member: str, last: str) -> JsonObject:
    """A GroupVersionKind or GroupVersionResource with all its members."""
    value = request.get(member)
    if not isinstance(value, dict):
        _refuse(f"`request.{member}` is not an object", f"/request/{member}")
    found = {part: value.get(part, "") for part in ("group", "version", last)}
    for part, text in found.items():
        if not isinstance(text, str) or len(text) > MAX_ID_CHARS // 2 or (text and not _PRINTED.fullmatch(text)):
            _refuse(f"`request.{member}.{part}` is no name", f"/request/{member}/{part}")
    if not found[last]:
        _refuse(f"`request.{member}.{last}` is missing", f"/request/{member}/{last}")
    return found


def _text(request: JsonObject, member: str, *, most: int = MAX_ID_CHARS) -> str:
    value = request.get(member)
    if value is None:
        return ""
    if not isinstance(value, str) or len(value) > most:
        _refuse(f"`request.{member}` is no text of at most {most} characters", f"/request/{member}")
    return value


def _texts(value: Json) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _object(request: JsonObject, member: str) -> "JsonObject | None":
    value = request.get(member)
    if not isinstance(value, dict | None):
        _refuse(f"`request.{member}` is not an object", f"/request/{member}")
    return value


def _refuse(detail: str, pointer: str) -> NoReturn:
    raise FirewallError(
        Kind.MALFORMED, detail, pointer=pointer, fix=f"send an `{KIND}` of `{API_VERSION}`, as an API server does"
    )
