"""AdmissionReviews: what becomes of each kind of request, and of what is none."""

import copy
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.core.admission.callers import ClusterView, agent_rule, environment_rule
from app.core.admission.facts import facts_of
from app.core.normalise import normalise
from app.errors import FirewallError, Kind
from app.surfaces.admission.models import EXAMPLE
from app.surfaces.admission.wire import API_VERSION, FORMER_API_VERSION, Asked, asked_by, review_of

VIEW = ClusterView(
    agents=(agent_rule("namespace=agents"), agent_rule("extra=example.com/agent=*"), agent_rule("group=ai-*")),
    environments=(environment_rule("*-staging=staging"), environment_rule("shop=production")),
    cluster="eu-1",
)
POD = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "namespace": "shop"}}
SCALE = {"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "checkout", "namespace": "shop"}}


def asking(**members: Any) -> dict[str, Any]:
    tree = copy.deepcopy(EXAMPLE)
    tree["request"] = {name: value for name, value in (tree["request"] | members).items() if value is not ...}
    return tree


def read(tree: Any, view: ClusterView = VIEW):
    return review_of(orjson.dumps(tree), view)


def members(**given: Any) -> dict[str, Any]:
    return given


def gvk(group: str, kind: str) -> dict[str, str]:
    return {"group": group, "version": "v1", "kind": kind}


def gvr(group: str, resource: str) -> dict[str, str]:
    return {"group": group, "version": "v1", "resource": resource}


def test_an_update():
    review = read(asking(options={"kind": "UpdateOptions"}, requestKind=gvk("apps", "Deployment"), unknown=1))
    mutation = review.mutation
    assert (review.uid, review.dry_run) == (EXAMPLE["request"]["uid"], False)
    assert mutation.request_id == review.uid
    assert mutation.subject == {
        "type": "agent",
        "id": "system:serviceaccount:agents:fixer",
        "properties": {
            "groups": ["system:serviceaccounts:agents"],
            "serviceAccount": {"namespace": "agents", "name": "fixer"},
        },
    }
    assert mutation.action == {"name": "update", "properties": {"operation": "UPDATE"}}
    assert mutation.resource == {
        "type": "apps/Deployment",
        "id": "shop/checkout",
        "properties": {"environment": "production", "cluster": "eu-1"},
    }
    assert mutation.change == {"before": EXAMPLE["request"]["oldObject"], "after": EXAMPLE["request"]["object"]}
    request = mutation.context["kubernetes"]["request"]
    assert request.keys() == {
        "kind", "resource", "requestKind", "name", "namespace", "operation", "userInfo", "dryRun", "options",
    }  # fmt: skip
    facts = facts_of(normalise(mutation).inputs)
    assert facts is not None
    assert facts.problem is None


def test_the_same_request_made_again_is_the_same_mutation():
    one, other = read(asking(uid="1")).mutation, read(asking(uid="2")).mutation
    assert normalise(one).digest == normalise(other).digest


CASES = [
    (
        members(
            operation="DELETE", object=None, oldObject=POD, name="web", kind=gvk("", "Pod"), resource=gvr("", "pods")
        ),
        ("delete", "core/Pod", "shop/web"),
    ),
    # Of a collection the request has no name, but each object has.
    (
        members(
            operation="DELETE", object=None, oldObject=POD, name=None, kind=gvk("", "Pod"), resource=gvr("", "pods")
        ),
        ("delete", "core/Pod", "shop/web"),
    ),
    (
        members(
            operation="DELETE", object=None, oldObject=None, name=..., kind=gvk("", "Pod"), resource=gvr("", "pods")
        ),
        ("deletecollection", "core/Pod", "shop/*"),
    ),
    (
        members(operation="CREATE", oldObject=None, object=POD, name="", kind=gvk("", "Pod"), resource=gvr("", "pods")),
        ("create", "core/Pod", "shop/web"),
    ),
    (
        members(
            operation="CREATE",
            oldObject=None,
            object={"metadata": {"generateName": "web-"}},
            name="",
            kind=gvk("", "Pod"),
            resource=gvr("", "pods"),
        ),
        ("create", "core/Pod", "shop/web-*"),
    ),
    (
        members(object=SCALE, oldObject=SCALE, kind=gvk("autoscaling", "Scale"), subResource="scale"),
        ("update", "apps/Deployment", "shop/checkout"),
    ),
    (members(subResource="status"), ("update", "apps/Deployment", "shop/checkout")),
    (
        members(
            operation="CREATE",
            oldObject=None,
            object={"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "web", "namespace": "shop"}},
            name="web",
            kind=gvk("policy", "Eviction"),
            resource=gvr("", "pods"),
            subResource="eviction",
        ),
        ("eviction", "core/Pod", "shop/web"),
    ),
    *(
        (
            members(
                operation="CONNECT",
                oldObject=None,
                object={"apiVersion": "v1", "kind": f"Pod{part.title()}Options", "command": ["sh"]},
                name="web",
                kind=gvk("", f"Pod{part.title()}Options"),
                resource=gvr("", "pods"),
                subResource=part,
            ),
            (part, "core/Pod", "shop/web"),
        )
        for part in ("exec", "attach", "portforward")
    ),
    (
        members(
            operation="CONNECT", oldObject=None, object=None, name="n", kind=gvk("", "X"), resource=gvr("", "nodes")
        ),
        ("connect", "core/X", "shop/n"),
    ),
    # What Kubernetes does not bring itself: by its own kind, or without one.
    (
        members(kind=gvk("example.com", "CronTab"), resource=gvr("example.com", "crontabs"), subResource="status"),
        ("update", "example.com/CronTab", "shop/checkout"),
    ),
    (
        members(kind=gvk("autoscaling", "Scale"), resource=gvr("example.com", "crontabs"), subResource="scale"),
        ("update", "example.com/crontabs", "shop/checkout"),
    ),
    (
        members(
            kind=gvk("", "Namespace"),
            resource=gvr("", "namespaces"),
            name="shop",
            namespace="shop",
            object={"metadata": {"name": "shop"}},
            oldObject={"metadata": {"name": "shop"}},
        ),
        ("update", "core/Namespace", "shop"),
    ),
    (
        members(kind=gvk("rbac.authorization.k8s.io", "ClusterRole"), name="system:x", namespace=None),
        ("update", "rbac.authorization.k8s.io/ClusterRole", "system:x"),
    ),
]


@pytest.mark.parametrize(("sent", "expected"), CASES)
def test_what_a_request_is_about(sent, expected):
    mutation = read(asking(**sent)).mutation
    assert (mutation.action["name"], mutation.resource["type"], mutation.resource["id"]) == expected
    normalise(mutation)


@pytest.mark.parametrize(
    ("user", "kind"),
    [
        ({"username": "system:serviceaccount:agents:fixer"}, "agent"),
        ({"username": "system:serviceaccount:other:fixer"}, "service"),
        ({"username": "system:serviceaccount:agents"}, "service"),
        ({"username": "system:node:n1"}, "service"),
        ({"username": "jane", "groups": ["sre"]}, "user"),
        ({"username": "jane", "groups": ["sre", "ai-helpers"], "uid": "7"}, "agent"),
        ({"username": "jane", "groups": None, "extra": {"example.com/agent": ["copilot"]}}, "agent"),
        ({"username": "jane", "extra": None, "uid": None}, "user"),
    ],
)
def test_who_asks(user, kind):
    subject = read(asking(userInfo=user)).mutation.subject
    assert (subject["type"], subject["id"]) == (kind, user["username"])
    for name in ("uid", "extra"):
        assert subject["properties"].get(name) == user.get(name)


def test_what_nobody_says_is_not_there():
    mutation = read(asking(namespace="other"), ClusterView()).mutation
    assert (mutation.subject["type"], mutation.resource["properties"]) == ("service", {})
    assert read(asking(dryRun=True)).dry_run is True
    assert read(asking(dryRun=None)).dry_run is False
    staging = read(asking(namespace="shop-staging")).mutation.resource["properties"]
    assert staging["environment"] == "staging"


@pytest.mark.parametrize(
    ("tree", "pointer"),
    [
        ([], ""),
        ({}, "/apiVersion"),
        ({**EXAMPLE, "apiVersion": FORMER_API_VERSION}, "/apiVersion"),
        ({**EXAMPLE, "kind": "Review"}, "/apiVersion"),
        ({**EXAMPLE, "request": None}, "/request"),
        (asking(uid=...), "/request/uid"),
        (asking(uid=7), "/request/uid"),
        (asking(uid="u" * 129), "/request/uid"),
        (asking(dryRun="false"), "/request/dryRun"),
        (asking(operation="PATCH"), "/request/operation"),
        (asking(operation=["UPDATE"]), "/request/operation"),
        (asking(kind=...), "/request/kind"),
        (asking(kind={"kind": ""}), "/request/kind/kind"),
        (asking(kind={"kind": "A", "group": 1}), "/request/kind/group"),
        (asking(resource={"resource": "a/b"}), "/request/resource/resource"),
        (asking(requestKind=1), "/request/requestKind"),
        (asking(subResource=1), "/request/subResource"),
        (asking(name="a/b"), "/request/name"),
        (asking(name="a\u0007"), "/request/name"),
        (asking(namespace="a b"), "/request/namespace"),
        (asking(namespace="a" * 300, name="b" * 300), "/request/name"),
        (asking(object=None), "/request/object"),
        (asking(object=[]), "/request/object"),
        (asking(oldObject=None), "/request/oldObject"),
        (asking(operation="CREATE"), "/request/oldObject"),
        (asking(operation="DELETE"), "/request/object"),
        (asking(operation="CONNECT"), "/request/oldObject"),
        (asking(userInfo=None), "/request/userInfo"),
        (asking(userInfo={"username": ""}), "/request/userInfo/username"),
        (asking(userInfo={"username": "u", "uid": 1}), "/request/userInfo/uid"),
        (asking(userInfo={"username": "u", "groups": "a"}), "/request/userInfo/groups"),
        (asking(userInfo={"username": "u", "groups": [1]}), "/request/userInfo/groups"),
        (asking(userInfo={"username": "u", "extra": []}), "/request/userInfo/extra"),
        (asking(userInfo={"username": "u", "extra": {"a": "b"}}), "/request/userInfo/extra"),
    ],
)
def test_what_is_no_review(tree, pointer):
    with pytest.raises(FirewallError) as caught:
        read(tree)
    assert (caught.value.kind, caught.value.pointer) == (Kind.MALFORMED, pointer)


@pytest.mark.parametrize(
    ("body", "asked"),
    [
        (orjson.dumps(EXAMPLE), Asked(EXAMPLE["request"]["uid"], API_VERSION)),
        (orjson.dumps({"apiVersion": FORMER_API_VERSION, "request": {"uid": "1"}}), Asked("1", FORMER_API_VERSION)),
        # Refused by the strict reader, and answered all the same.
        (b'{"request":{"uid":"1","a":1,"a":2}}', Asked("1", API_VERSION)),
        (b'{"request":{"uid":""}}', None),
        (b'{"request":{"uid":1}}', None),
        (b'{"request":[]}', None),
        (b"[]", None),
        (b"{", None),
        (b"\xff", None),
    ],
)
def test_whom_to_refuse(body, asked):
    assert asked_by(body) == asked


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from([*sorted(EXAMPLE["request"]), "subResource", "options"]), JSON, max_size=4))
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_nothing_but_a_refusal_comes_of_nonsense(sent):
    """Whatever stands in a member, it is a mutation that can be judged, or refused with its place."""
    tree = copy.deepcopy(EXAMPLE)
    tree["request"].update(sent)
    try:
        body = orjson.dumps(tree)
    except TypeError:
        return  # an integer or a text that JSON has no room for
    try:
        mutation = review_of(body, VIEW).mutation
        facts_of(normalise(mutation).inputs)
    except FirewallError as error:
        assert error.kind in {Kind.MALFORMED, Kind.TOO_LARGE}  # noqa: PT017
        asked_by(body)


@given(st.binary(max_size=64))
def test_bytes_of_any_kind_are_refused(body):
    with pytest.raises(FirewallError):
        review_of(body, VIEW)
    assert asked_by(body) is None
