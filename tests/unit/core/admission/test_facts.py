"""What a mutation is to Kubernetes' admission: derived from objects, or taken over."""

from typing import Any

import pytest

from app.core.admission import facts as module
from app.core.admission.resources import resource_of


def facts_of(mutation) -> Any:
    return module.facts_of(mutation)


def inputs(*, action="create", after=None, before=None, kubernetes=None, resource="apps/Deployment", groups=None):
    change = {name: value for name, value in (("before", before), ("after", after)) if value is not None}
    return {
        "action": {"name": action},
        "subject": {"id": "someone", "properties": {} if groups is None else {"groups": groups}},
        "resource": {"type": resource, "id": "shop/web"},
        "change": change,
        "context": {} if kubernetes is None else {"kubernetes": kubernetes},
    }


def thing(api_version="apps/v1", kind="Deployment", **metadata):
    return {"apiVersion": api_version, "kind": kind, "metadata": {"name": "web", **metadata}}


REQUEST = {
    "operation": "UPDATE",
    "kind": {"group": "apps", "version": "v1", "kind": "Deployment"},
    "resource": {"group": "apps", "version": "v1", "resource": "deployments"},
    "name": "web",
    "namespace": "shop",
    "userInfo": {"username": "system:serviceaccount:shop:deployer"},
}


class TestDerived:
    def test_a_request_is_what_the_api_server_would_send(self):
        facts = facts_of(inputs(after=thing(namespace="shop"), groups=["team:shop"]))
        assert facts.request == {
            "kind": {"group": "apps", "version": "v1", "kind": "Deployment"},
            "resource": {"group": "apps", "version": "v1", "resource": "deployments"},
            "requestKind": {"group": "apps", "version": "v1", "kind": "Deployment"},
            "requestResource": {"group": "apps", "version": "v1", "resource": "deployments"},
            "name": "web",
            "namespace": "shop",
            "operation": "CREATE",
            "userInfo": {"username": "someone", "groups": ["team:shop"]},
            "dryRun": False,
        }
        assert facts.problem is None
        assert facts.namespaced is True

    def test_what_nobody_said_is_left_out(self):
        facts = facts_of(inputs(after={"apiVersion": "x.io/v1", "kind": "Custom"}, groups="not a list"))
        assert not {"name", "namespace", "subResource"} & facts.request.keys()
        assert facts.request["userInfo"] == {"username": "someone", "groups": []}
        assert facts.namespaced is None

    @pytest.mark.parametrize(
        ("action", "before", "after", "operation"),
        [
            ("create", False, True, "CREATE"),
            ("apply", False, True, "CREATE"),
            ("apply", True, True, "UPDATE"),
            ("update", True, True, "UPDATE"),
            ("patch", False, True, "UPDATE"),
            ("scale", True, True, "UPDATE"),
            ("delete", True, False, "DELETE"),
            # Whatever it is called, nothing is there afterwards, or it is.
            ("update", True, False, "DELETE"),
            ("frobnicate", False, True, "CREATE"),
            ("frobnicate", True, True, "UPDATE"),
            ("exec", False, True, "CONNECT"),
            ("Port-Forward", False, True, "CONNECT"),
        ],
    )
    def test_the_operation(self, action, before, after, operation):
        found = facts_of(inputs(action=action, before=thing() if before else None, after=thing() if after else None))
        assert found.operation == operation

    @pytest.mark.parametrize(
        ("action", "subresource"), [("exec", "exec"), ("Port-Forward", "portforward"), ("attach", "attach")]
    )
    def test_who_connects_says_to_what(self, action, subresource):
        found = facts_of(inputs(action=action, after=thing("v1", "Pod"), resource="core/Pod"))
        assert (found.resource, found.subresource, found.problem) == ("pods", subresource, None)
        assert found.request["subResource"] == subresource
        # A rule about `pods/exec` is not one about `pods`, so a connection to nobody knows what is judged by all.
        unclear = facts_of(inputs(action="Connect", after=thing("v1", "Pod"), resource="core/Pod"))
        assert "nothing says to which part" in unclear.problem

    @pytest.mark.parametrize(
        ("kind", "resource"),
        [
            ("Deployment", "deployments"),
            ("Ingress", "ingresses"),
            ("NetworkPolicy", "networkpolicies"),
            ("Endpoints", "endpoints"),
            ("ComponentStatus", "componentstatuses"),
            ("CSIStorageCapacity", "csistoragecapacities"),
            ("PriorityClass", "priorityclasses"),
            ("CustomThing", "customthings"),
            ("Sandbox", "sandboxes"),
            ("Gateway", "gateways"),
            ("Mesh", "meshes"),
            ("Branch", "branches"),
        ],
    )
    def test_the_resource_of_a_kind(self, kind, resource):
        assert resource_of(kind) == resource

    def test_what_else_a_kind_may_be_called(self):
        assert facts_of(inputs(after=thing("x.io/v1", "Sandbox"))).spellings == {"sandbox", "sandboxs"}
        assert facts_of(inputs(after=thing("x.io/v1", "Gateway"))).spellings == {"gateway", "gatewayes", "gatewaies"}
        # Kubernetes' own kinds are called as they are, and so is what a request names.
        for own in (thing("apps/v1", "Deployment"), thing("v1", "Unheard")):
            assert facts_of(inputs(after=own)).spellings == frozenset()

    @pytest.mark.parametrize(
        ("shown", "of", "expected"),
        [
            (thing("autoscaling/v1", "Scale"), "apps/StatefulSet", ("apps", "statefulsets", "scale", True)),
            (
                thing("autoscaling/v1", "Scale"),
                "core/ReplicationController",
                ("", "replicationcontrollers", "scale", True),
            ),
            (thing("autoscaling/v1", "Scale"), "x.io/Custom", ("x.io", "customs", "scale", None)),
            (thing("policy/v1", "Eviction"), "core/Pod", ("", "pods", "eviction", True)),
            (thing("v1", "PodExecOptions"), "core/Pod", ("", "pods", "exec", True)),
            (thing("v1", "NodeProxyOptions"), "core/Node", ("", "nodes", "proxy", False)),
        ],
    )
    def test_objects_that_are_sent_to_a_part_of_another(self, shown, of, expected):
        facts = facts_of(inputs(after=shown, resource=of))
        assert (facts.group, facts.resource, facts.subresource, facts.namespaced) == expected
        assert facts.request["subResource"] == facts.request["requestSubResource"] == facts.subresource
        assert facts.request["kind"]["kind"] == shown["kind"]

    @pytest.mark.parametrize(
        ("shown", "namespace", "namespaced"),
        [
            (thing(), "default", True),
            (thing("v1", "Node"), "", False),
            (thing("v1", "Namespace"), "web", False),
            (thing("x.io/v1", "Custom"), "", None),
            (thing("x.io/v1", "Custom", namespace="shop"), "shop", True),
            (thing(namespace=3), "default", True),
        ],
    )
    def test_the_namespace(self, shown, namespace, namespaced):
        facts = facts_of(inputs(after=shown))
        assert facts.namespace == namespace
        assert facts.namespaced is namespaced

    def test_a_deletion_is_known_by_what_was_there(self):
        facts = facts_of(inputs(action="delete", before=thing(namespace="shop")))
        assert (facts.operation, facts.kind, facts.namespace) == ("DELETE", "Deployment", "shop")
        assert facts.object is None
        assert facts.old_object is not None

    @pytest.mark.parametrize(
        ("given", "problem"),
        [
            ({"action": "delete", "before": thing(), "after": thing()}, "says that the object stays"),
            ({"action": "DeleteCollection", "after": thing()}, "says that the object stays"),
            ({"action": "update", "before": thing(), "after": [thing()]}, "send each by itself"),
            ({"after": [{}, thing()]}, "send each by itself"),
            ({"after": thing("v1", "List") | {"items": [thing()]}}, "send each by itself"),
            ({"before": thing("apps/v1", "DeploymentList") | {"items": [thing()]}}, "send each by itself"),
            ({"action": "update", "before": thing(), "after": ["text"]}, "`change.after` is not an object"),
            ({"action": "create", "before": "text", "after": thing()}, "`change.before` is not an object"),
            ({"before": thing(), "after": thing("v1", "ConfigMap")}, "are not of one kind"),
            ({"before": thing(namespace="shop"), "after": thing(namespace="dev")}, "`metadata.namespace` of"),
            ({"before": thing(), "after": thing(name="other")}, "`metadata.name` of"),
            (
                {
                    "after": thing(namespace="shop"),
                    "kubernetes": {"namespaceObject": {"metadata": {"name": "dev", "labels": {"a": "b"}}}},
                },
                "`context.kubernetes.namespaceObject` is not the namespace",
            ),
        ],
    )
    def test_what_contradicts_itself_is_a_problem(self, given, problem):
        assert problem in facts_of(inputs(**given)).problem

    def test_a_manifest_may_leave_out_what_is_there_and_change_its_version(self):
        after = {"apiVersion": "apps/v1", "kind": "Deployment"}
        facts = facts_of(inputs(action="apply", before=thing("extensions/v1beta1", namespace="shop"), after=after))
        assert (facts.problem, facts.namespace, facts.name) == (None, "shop", "web")

    def test_a_namespace_that_was_sent_has_its_labels(self):
        sent = {"namespaceObject": {"metadata": {"labels": {"a": "b"}}}}
        facts = facts_of(inputs(after=thing(namespace="shop"), kubernetes=sent))
        assert facts.namespace_labels() == ({"kubernetes.io/metadata.name": "shop", "a": "b"}, True)

    @pytest.mark.parametrize("labels", [None, "text", [1]])
    def test_labels_that_are_none_do_not_match(self, labels):
        facts = facts_of(inputs(after=thing("v1", "Namespace", labels=labels)))
        assert facts.namespace_labels() == ({"kubernetes.io/metadata.name": "web"}, True)

    def test_a_namespace_that_goes_is_known_as_it_was(self):
        facts = facts_of(inputs(action="delete", before=thing("v1", "Namespace", labels={"a": "b"})))
        assert facts.namespace_labels() == ({"kubernetes.io/metadata.name": "web", "a": "b"}, True)

    @pytest.mark.parametrize(
        "after",
        [{}, {"kind": "Deployment"}, {"apiVersion": "v1"}, {"apiVersion": 1, "kind": "Pod"}, ["a"], "text"],
    )
    @pytest.mark.parametrize("kubernetes", [None, {}, {"namespaceObject": {}}])
    def test_what_is_no_object_of_kubernetes_is_none_of_its_business(self, after, kubernetes):
        assert facts_of(inputs(after=after, kubernetes=kubernetes)) is None


class TestSent:
    def test_a_request_is_taken_over(self):
        facts = facts_of(inputs(after=thing(), kubernetes={"request": REQUEST}))
        assert facts.request is REQUEST
        assert (facts.operation, facts.resource, facts.name, facts.namespace) == (
            "UPDATE",
            "deployments",
            "web",
            "shop",
        )
        assert facts.namespaced is True
        assert facts.problem is None

    def test_a_namespace_has_its_own_name(self):
        request = {
            "operation": "DELETE",
            "kind": {"version": "v1", "kind": "Namespace"},
            "resource": {"version": "v1", "resource": "namespaces"},
            "name": "shop",
        }
        facts = facts_of(inputs(before=thing("v1", "Namespace", name="shop"), kubernetes={"request": request}))
        assert facts.namespace == "shop"
        assert facts.is_namespace

    def test_objects_may_be_left_out(self):
        assert facts_of(inputs(kubernetes={"request": REQUEST})).problem is None

    @pytest.mark.parametrize(
        ("request_", "change", "problem"),
        [
            ({"namespace": "dev"}, {"after": thing(namespace="shop")}, "request.namespace` is not that of the object"),
            ({"name": "other"}, {"before": thing()}, "request.name` is not that of the object"),
            ({"operation": "DELETE"}, {"before": thing(), "after": thing()}, "request.operation` is `DELETE`, which"),
            ({"operation": "CREATE"}, {"before": thing(), "after": thing()}, "request.operation` is `CREATE`, which"),
            (
                {"resource": {"group": "", "version": "v1", "resource": "configmaps"}},
                {"after": thing()},
                "request.resource` is not what serves `Deployment`",
            ),
        ],
    )
    def test_a_request_of_another_object_is_a_problem(self, request_, change, problem):
        facts = facts_of(inputs(**change, kubernetes={"request": {**REQUEST, **request_}}))
        assert problem in facts.problem

    @pytest.mark.parametrize(
        ("request_", "after"),
        [
            ({"name": ""}, thing(name="web-x7k2p")),
            ({"subResource": "binding", "name": "web"}, thing(name="other", namespace="shop")),
        ],
    )
    def test_a_name_of_its_own_is_none(self, request_, after):
        assert facts_of(inputs(after=after, kubernetes={"request": {**REQUEST, **request_}})).problem is None

    def test_a_namespace_of_another_name_is_a_problem(self):
        sent = {"request": REQUEST, "namespaceObject": {"metadata": {"name": "dev"}}}
        assert "namespaceObject` is not the namespace" in facts_of(inputs(kubernetes=sent)).problem

    @pytest.mark.parametrize(
        ("kubernetes", "problem"),
        [
            ("text", "`context.kubernetes` is not an object"),
            ({"namespaceObject": "shop"}, "`context.kubernetes.namespaceObject` is not an object"),
            ({"request": []}, "`context.kubernetes.request` is not an object"),
            ({"request": {**REQUEST, "kind": "Deployment"}}, "`context.kubernetes.request.kind` is not an object"),
            ({"request": {**REQUEST, "resource": None}}, "`context.kubernetes.request.resource` is not an object"),
            (
                {"request": {**REQUEST, "resource": {"resource": ""}}},
                "request.resource.resource` is missing, or no text",
            ),
            ({"request": {**REQUEST, "kind": {"kind": "X", "group": 1}}}, "request.kind.group` is missing, or no text"),
            ({"request": {**REQUEST, "name": 1}}, "`context.kubernetes.request.name` is no text"),
            ({"request": {**REQUEST, "namespace": None}}, "`context.kubernetes.request.namespace` is no text"),
            ({"request": {**REQUEST, "operation": "PATCH"}}, "`context.kubernetes.request.operation` is none of"),
            (
                {"request": {**REQUEST, "kind": {"group": "apps", "version": "v1", "kind": "ReplicaSet"}}},
                "is not the kind of the object that is changed",
            ),
        ],
    )
    def test_what_makes_no_sense_is_a_problem(self, kubernetes, problem):
        assert problem in facts_of(inputs(after=thing(), kubernetes=kubernetes)).problem
