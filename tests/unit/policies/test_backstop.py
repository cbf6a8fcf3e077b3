"""The wall denies what the policies deny: rule by rule, for requests of every kind, as our own engine reads both."""

import json
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from app.core.admission.asking import Heard, ask_admission
from app.core.admission.callers import ClusterView, agent_rule, environment_rule
from app.core.admission.facts import facts_of
from app.core.cel import bind, truth
from app.core.decide import decide
from app.core.index import Policy
from app.core.normalise import normalise
from app.core.types import Effect
from app.errors import FirewallError
from app.policies.backstop import LABEL, Backstop, LeftOut, render
from app.policies.load import check_directory, check_documents, check_text
from app.surfaces.admission.wire import review_of
from tests.corpus.cases import ROOT, STARTER, load
from tests.corpus.reviews import environment_of, review_for

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
EXEMPT = frozenset({"kube-system", "kube-public", "kube-node-lease", "own"})

FEATURES = (ROOT / "tests" / "corpus" / "backstop.yaml").read_text()
VIEW = ClusterView(
    agents=tuple(map(agent_rule, ("namespace=agents", "group=ai-?", "user=copilot*", "extra=k=v*"))),
    environments=(environment_rule("*-dev=dev"), environment_rule("a?=dev"), environment_rule("*=production")),
    cluster="eu",
)


def backstop(**more):
    given_ = {
        "agents": VIEW.agents,
        "environments": VIEW.environments,
        "cluster": "eu",
        "exempt_namespaces": ["own"],
        "holds": True,
    }
    return Backstop("wall", **{**given_, **more})


class Wall:
    """Policies and their wall, both compiled."""

    def __init__(self, checked, **more):
        assert checked.policy_set is not None, checked.diagnostics
        self.source = checked.policy_set
        self.rendered = render(checked, backstop(**more))
        wall = check_documents(self.rendered.documents)
        assert wall.policy_set is not None, [str(one) for one in wall.diagnostics]
        assert not wall.diagnostics, [str(one) for one in wall.diagnostics]
        self.wall = wall.policy_set
        self.names: dict[str, dict[str, str]] = {}
        for policy, rule in self.rendered.rules:
            own = self.names.setdefault(policy, {})
            own[f"validations[{len(own)}]"] = rule

    def is_about(self, policy, request):
        """Whether the rules for resources that were rendered for a policy have a request."""
        part, whole = request.get("subResource", ""), request["resource"]["resource"]
        spec = next(one["spec"] for one in self.rendered.documents if one["metadata"]["name"] == f"wall-{policy}")
        return any(
            request["operation"] in rule["operations"]
            and {request["resource"]["group"], "*"} & set(rule["apiGroups"])
            and {f"{whole}/{part}", f"*/{part}"}
            & set(rule["resources"] if part else [f"{r}/" for r in rule["resources"]])
            for rule in spec["matchConstraints"]["resourceRules"]
        )

    def says(self, inputs, now=NOW):
        """The rules that deny, by the wall and by the policies, among those that the wall claims to have."""
        bindings = bind(inputs, now=now)
        found, expected = set(), set()
        # What an API server knows of a namespace it does not tell the firewall.
        kubernetes = {"request": inputs["context"]["kubernetes"]["request"]}
        asked = {**inputs, "context": {**inputs["context"], "kubernetes": kubernetes}}
        asking = bind(asked, now=now)
        for policy in self.wall.policies:
            assert not isinstance(policy, Policy)
            named = self.names[policy.name.split("/")[0].removeprefix("wall-")]
            found |= {
                (policy.name.split("/")[0].removeprefix("wall-"), named[word.reason.rule])
                for word in ask_admission(policy, bindings, Heard())
            }
        for policy in self.source.policies:
            if isinstance(policy, Policy):
                for rule in speaking(policy, asked, asking):
                    if rule in self.names.get(policy.name, {}).values():
                        expected.add((policy.name, rule))
        return found, expected


def speaking(policy, inputs, bindings):
    """The rules of a policy that deny, as `core/decide.py` has it in words: the reference, without its index."""
    if not policy.match.matches(inputs):
        return set()
    holds = [truth(one.program, bindings) for one in policy.conditions]
    if False in holds:
        return set()
    if any(one is not True for one in holds):
        return {rule.name for rule in policy.rules}
    return {rule.name for rule in policy.rules if rule.when is None or truth(rule.when, bindings) is not False}


STARTING = Wall(check_directory(STARTER))
FEATURED = Wall(check_text(FEATURES, name="p.yaml"))
CASES = [case for case in load() if review_for(case) is not None]


def asked_of(review, view):
    """What the policies read of a review, with what an API server knows of the namespace."""
    mutation = review_of(orjson.dumps(review), view).mutation
    namespace = namespace_of(review)
    shown = {"metadata": {"name": namespace, "labels": {}}} if namespace else None
    inputs = normalise(mutation).inputs
    inputs["context"]["kubernetes"]["namespaceObject"] = shown
    return inputs


def test_every_feature_is_expressed():
    assert FEATURED.rendered.left_out == ()
    assert len(FEATURED.names["features"]) == 10


def test_of_the_starter_policies_every_rule_that_denies_in_a_cluster():
    expressed = {policy for policy, _ in STARTING.rendered.rules}
    assert {
        "firewall-itself",
        "k8s-access",
        "k8s-deletion",
        "k8s-deployment",
        "k8s-object",
        "k8s-pod-safety",
    } <= expressed
    for one in STARTING.rendered.left_out:
        assert one.rule is None or "change.paths" in one.reason, one


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_corpus(case):
    environment = environment_of(case) or "unknown"
    review = review_for(case)
    view = ClusterView(agents=(agent_rule("user=*"),), environments=(environment_rule(f"*={environment}"),))
    wall = corpus_wall(environment)
    inputs = asked_of(review, view)
    if is_broken(inputs):
        return  # no API server says this, and the firewall denies it
    found, expected = wall.says(inputs)
    assert found == (set() if is_exempt(inputs) else expected)
    if found:
        verdict = decide(wall.source, normalise(review_of(orjson.dumps(review), view).mutation), case.now)
        assert verdict.effect in {Effect.DENY, Effect.HOLD}


WALLS: dict[str, Wall] = {}


def corpus_wall(environment):
    if environment not in WALLS:
        WALLS[environment] = Wall(
            check_directory(STARTER),
            agents=[agent_rule("user=*")],
            environments=[environment_rule(f"*={environment}")],
            cluster="",
        )
    return WALLS[environment]


def is_broken(inputs):
    facts = facts_of(inputs)
    return facts is None or facts.problem is not None


def is_exempt(inputs):
    facts = facts_of(inputs)
    return facts is not None and str(facts.namespace_labels()[0].get("kubernetes.io/metadata.name")) in EXEMPT


def namespace_of(review):
    request = review["request"]
    return request.get("name", "") if request["resource"]["resource"] == "namespaces" else request.get("namespace")


NAMES = st.sampled_from(["checkout", "spared-1", "box", "a-b", "aXb", "jane", "cart"])
NAMESPACES = st.sampled_from(["shop", "shop-dev", "ab", "a", "own", "kube-system", "axb"])
KINDS = st.sampled_from(
    [
        ("apps", "Deployment", "deployments"),
        ("apps", "StatefulSet", "statefulsets"),
        ("", "Pod", "pods"),
        ("", "Namespace", "namespaces"),
        ("", "ConfigMap", "configmaps"),
        ("rbac.authorization.k8s.io", "ClusterRole", "clusterroles"),
        ("rbac.authorization.k8s.io", "ClusterRoleBinding", "clusterrolebindings"),
        ("example.com", "CronTab", "crontabs"),
        ("example.com", "Policy", "policies"),
        ("coordination.k8s.io", "Lease", "leases"),
    ]
)
USERS = st.fixed_dictionaries(
    {
        "username": st.sampled_from(
            [
                "system:serviceaccount:agents:fixer",
                "system:serviceaccount:agents:a:b",
                "system:serviceaccount:other:fixer",
                "system:serviceaccount::x",
                "copilot-1",
                "copilot\n2",
                "jane",
            ]
        )
    },
    optional={
        "uid": st.sampled_from(["u1", "u2", ""]),
        "groups": st.lists(st.sampled_from(["a", "ai-1", "ai-12", "system:masters"]), max_size=2),
        "extra": st.sampled_from([{}, {"k": ["v1"]}, {"l": ["v"]}]),
    },
)
SPECS = st.fixed_dictionaries(
    {},
    optional={
        "replicas": st.sampled_from([0, 1, 2, 5, "2", None]),
        "template": st.builds(
            lambda images, more: {"spec": {"containers": [{"name": "c", "image": i, **more} for i in images]}},
            st.lists(st.sampled_from(["registry.example.com/a:1", "evil.io/a:1", "registry.k8s.io/a"]), max_size=2),
            st.sampled_from([{}, {"securityContext": {"privileged": True}}, {"ports": [{"hostPort": 1}]}]),
        ),
    },
)


@st.composite
def reviews(draw):
    group, kind, resource = draw(KINDS)
    operation = draw(st.sampled_from(["CREATE", "UPDATE", "UPDATE", "DELETE", "CONNECT"]))
    namespaced = resource not in {"clusterroles", "clusterrolebindings"}
    name = draw(NAMES)
    namespace = (name if kind == "Namespace" else draw(NAMESPACES)) if namespaced else ""
    part, shown = "", (group, "v1", kind)
    if operation in {"CONNECT", "CREATE"} and kind == "Pod" and draw(st.booleans()):
        operation = "CONNECT"
    elif operation == "CONNECT":
        operation = "UPDATE"
    if operation == "CONNECT":
        part = draw(st.sampled_from(["exec", "proxy", "attach"]))
        shown = ("", "v1", {"exec": "PodExecOptions", "attach": "PodAttachOptions"}.get(part, "PodProxyOptions"))
    elif operation == "UPDATE" and kind in {"Deployment", "StatefulSet", "CronTab"} and draw(st.booleans()):
        part = "scale"
        shown = ("autoscaling", "v1", "Scale") if draw(st.booleans()) else shown
    elif operation == "CREATE" and kind == "Pod" and draw(st.booleans()):
        part, shown = "eviction", ("policy", "v1", "Eviction")

    def made():
        metadata = {"name": name, **({"namespace": namespace} if namespace and kind != "Namespace" else {})}
        labels = draw(st.sampled_from([None, {}, {"x": "y"}, {"pod-security.kubernetes.io/enforce": "baseline"}]))
        return {
            "apiVersion": f"{shown[0]}/{shown[1]}" if shown[0] else shown[1],
            "kind": shown[2],
            "metadata": {**metadata, **({} if labels is None else {"labels": labels})},
            "spec": draw(SPECS),
            **({"roleRef": {"name": "cluster-admin"}} if resource == "clusterrolebindings" else {}),
        }

    after: Any = (
        made() if operation in {"CREATE", "UPDATE"} or (operation == "CONNECT" and draw(st.booleans())) else None
    )
    before = made() if operation == "UPDATE" or (operation == "DELETE" and draw(st.booleans())) else None
    asked_name = name
    if operation == "CONNECT" and after is not None:
        after.pop("metadata")
    if operation == "CREATE" and not part and kind != "Namespace" and draw(st.booleans()):
        asked_name = ""
        if draw(st.booleans()):
            after["metadata"] |= {"generateName": "box"}
            after["metadata"].pop("name")
    if operation == "DELETE" and kind != "Namespace" and draw(st.booleans()):
        asked_name = ""
    request = {
        "uid": "u",
        "kind": {"group": shown[0], "version": shown[1], "kind": shown[2]},
        "resource": {"group": group, "version": "v1", "resource": resource},
        "operation": operation,
        "userInfo": draw(USERS),
        "dryRun": False,
        "object": after,
        "oldObject": before,
        # An API server leaves out what is empty.
        **({"name": asked_name} if asked_name else {}),
        **({"namespace": namespace} if namespace else {}),
        **({"subResource": part} if part else {}),
    }
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}


@pytest.mark.parametrize("wall", [STARTING, FEATURED], ids=["starter", "features"])
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
@given(review=reviews())
def test_every_request(wall, review):
    try:
        inputs = asked_of(review, VIEW)
    except FirewallError:
        assume(False)
    assume(not is_broken(inputs))
    found, expected = wall.says(inputs)
    request = review["request"]
    if inputs["subject"]["type"] != "agent" or is_exempt(inputs) or request["resource"]["resource"] == "leases":
        # Nobody asks the firewall about these, so the wall has nothing to say.
        assert not found
        return
    if inputs["subject"]["id"] in {"copilot\n2", "system:serviceaccount:agents:a:b"}:
        # The condition that keeps everybody else away knows fewer agents than the firewall: it denies less.
        assert found <= expected
        return
    # What a policy's rules for resources do not have is not asked about on its behalf: `test_webhook.py` has these.
    assert found == {(policy, rule) for policy, rule in expected if wall.is_about(policy, request)}


RULE = """\
apiVersion: mutationfirewall.io/v1
kind: MutationPolicy
metadata: {{name: p}}
spec:
  mode: {mode}
  match: {match}
  matchConditions: [{{name: c, expression: {condition}}}]
  variables: [{{name: v, expression: {variable}}}, {{name: w, expression: "variables.v"}}]
  rules:
    - {{name: r, effect: deny, message: m, when: {when}}}
    - {{name: other, effect: deny, message: m, when: "object == null"}}
    - {{name: fine, effect: allow, when: "true"}}
"""
EVERYTHING = '{resources: [{type: "*"}]}'


def policy(*, when="true", mode="enforce", match=EVERYTHING, condition="true", variable="true"):
    texts = {"when": when, "condition": condition, "variable": variable}
    return RULE.format(mode=mode, match=match, **{name: json.dumps(text) for name, text in texts.items()})


def rendered(text, **more):
    checked = check_text(text, name="p.yaml")
    assert checked.policy_set is not None, checked.diagnostics
    return render(checked, backstop(**more))


@pytest.mark.parametrize(
    ("when", "reason"),
    [
        ("size(change.paths) > 0", "it reads `change.paths`, which no API server has"),
        ("change == {}", "it reads `change`, which no API server has"),
        ("change[action.name] == 1", "it reads `change`, which no API server has"),
        ("change.before[resource.properties[action.name]] == now", "it reads `now`, which no API server has"),
        ("namespaceObject != null", "it reads `namespaceObject`, which no API server has"),
        ("context == {}", "it reads `context`, which no API server has"),
        ("context.kubernetes == {}", "it reads `context.kubernetes`, which no API server has"),
        ("context.kubernetes.request == {}", "it reads `context.kubernetes.request`, the whole context"),
        ("request == {}", "it reads `request`, the whole request"),
        ("has(request.options)", "it reads `request.options`"),
        ("has(request.uid)", "it reads `request.uid`"),
        ("string(object.spec.x) == '1'", "`string` is not known to be the same there"),
        ("[1, 2].distinct().size() == 1", "`distinct` is not known to be the same there"),
        ("[1, 'a'].size() == 1", "Kubernetes takes no list and no map whose members have several types"),
        ("{'a': 1, 'b': 'c'}.size() == 1", "Kubernetes takes no list and no map whose members have several types"),
        ("{'a': 1, 2: 3}.size() == 1", "Kubernetes takes no list and no map whose members have several types"),
        ("object.x.all(change, change > 1)", "the variable `change` of a loop hides the input of that name"),
        ("object.x.all(i, v, i > v)", "it has a loop with two variables"),
        ("cel.bind(x, 1, x > 0)", "Kubernetes has no `cel.bind`"),
        (".change.after == 1", "it reads `.change`, with a leading dot"),
        ("change.?after.`a-b`.orValue(1) == 1", "it has a name in backticks"),
        ("type(object) == map", "it reads `map`"),
        ("object.a.matches('x') && google.protobuf.Timestamp{} == now", None),
    ],
)
def test_what_is_left_out(when, reason):
    if reason is None:
        assert check_text(policy(when=when), name="p.yaml").policy_set is None
        return
    found = rendered(policy(when=when))
    assert found.left_out == (LeftOut("p", "r", reason),)
    assert found.rules == (("p", "other"),)
    inner = rendered(policy(when="variables.w == true", variable=when))
    assert inner.left_out == (LeftOut("p", "r", f"its variable `v`: {reason}"),)
    assert inner.rules == (("p", "other"),)
    with pytest.raises(ValueError, match="no rule can be expressed"):
        rendered(policy(condition=when))


@pytest.mark.parametrize(
    "when",
    [
        "has(context.surface) || has(context.kubernetes.namespaceObject)",
        "change.?after.optMap(x, x == 1).orValue(false)",
        "resource.properties.owner == 'x'",
        "resource == {} && subject == {} && action == {}",
        "['a', resource.id, change.after].size() > 2 && {'a': resource.id, 'b': 'c'}.size() > 1",
        "object.x.map(x, x.change).filter(y, y.all(z, z > 1)).size() > request.name.size()",
        "quantity(object.spec.x).isGreaterThan(quantity('1Gi')) && isURL(object.spec.u) && cidr('10.0.0.0/8').containsIP('10.1.1.1')",
        "sets.contains([1], [object.x]) && object.y.findAll('a+').size() > 1 && [1].sum() == 1",
    ],
)
def test_what_is_expressed(when):
    found = rendered(policy(when=when))
    assert found.left_out == ()
    assert check_documents(found.documents).policy_set is not None


@pytest.mark.parametrize(
    ("text", "more", "reason"),
    [
        (policy(mode="shadow"), {}, "it is in shadow"),
        (policy().replace("  match:", "  validUntil: '2030-01-01T00:00:00Z'\n  match:"), {}, "valid for a time only"),
        (
            policy().replace("name: v,", "name: mfw_v,").replace("variables.v", "variables.mfw_v"),
            {},
            "`mfw_v` begins with `mfw_`",
        ),
        (policy(match="{resources: [{type: sql/Database}]}"), {}, "about nothing that an API server changes"),
        (policy(match="{subjects: [{type: agent}]}"), {"agents": ()}, "name them with `--agent`"),
        (policy(when="subject.type == 'x'"), {"agents": ()}, "name them with `--agent`"),
        (policy(match="{resources: [{properties: {environment: p}}]}"), {"environments": ()}, "with `--environment`"),
        (policy(match="{resources: [{properties: {cluster: p}}]}"), {"cluster": ""}, "give it with `--cluster`"),
        (policy(when="resource == {}"), {"environments": ()}, "with `--environment`"),
        (policy(when="resource == {}"), {"cluster": ""}, "give it with `--cluster`"),
        (policy(when="resource.properties.environment == 'x'"), {"environments": ()}, "with `--environment`"),
        (policy(condition="now == now"), {}, "its condition `c`: it reads `now`"),
    ],
)
def test_why_a_policy_or_a_rule_is_left_out(text, more, reason):
    spared = policy(when="false").replace("name: p}", "name: q}")
    found = rendered(f"{text}---\n{spared}", **more)
    assert reason in found.left_out[0].reason
    assert found.left_out[0].policy == "p"
    assert ("p", "r") not in found.rules
    assert ("q", "r") in found.rules


def test_what_time_counts_and_people_lift():
    text = policy().replace(
        "    - {name: fine",
        "    - {name: held, effect: hold, message: m, approval: {anyOf: [{group: g, count: 1}]}}\n    - {name: fine",
    )
    text += "  freezes: [{name: f, schedule: '0 0 * * 6', timeZone: UTC, duration: 48h}]\n"
    text += "  budgets: [{name: b, per: subject, limit: 1, window: 1h}]\n"
    found = rendered(text, holds=False)
    assert {(one.rule, one.reason) for one in found.left_out} == {
        ("held", "people may lift a hold; `--holds` denies it"),
        ("f", "no admission policy reads the time"),
        ("b", "an API server counts no budgets"),
    }
    assert ("p", "held") in rendered(text).rules


def test_what_an_exception_may_lift():
    exception = """\
---
apiVersion: mutationfirewall.io/v1
kind: PolicyException
metadata: {name: e}
spec:
  owner: o
  reason: because
  validUntil: "2030-01-01T00:00:00Z"
  policies: [{name: p, rules: [RULE]}]
"""
    assert rendered(policy() + exception.replace("RULE", "r")).left_out == (
        LeftOut("p", "r", "the exception `e` may lift it"),
    )


ADMISSION = """\
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: native}
spec:
  matchConstraints:
    resourceRules: [{apiGroups: [apps], apiVersions: [v1], operations: [CREATE], resources: [deployments]}]
  validations: [{expression: "has(object.spec)"}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: bound}
spec: {policyName: native, validationActions: [Deny]}
"""


def test_native_policies_pass_through():
    found = rendered(policy(when="false") + ADMISSION)
    assert [one["metadata"]["name"] for one in found.documents] == ["wall-p", "wall-p", "native", "bound"]
    assert found.documents[2]["spec"]["validations"] == [{"expression": "has(object.spec)"}]
    alone = rendered(policy(mode="shadow") + ADMISSION)
    assert [one["metadata"]["name"] for one in alone.documents] == ["native", "bound"]


def test_a_native_policy_with_an_exception_is_left_out():
    exception = """\
---
apiVersion: mutationfirewall.io/v1
kind: PolicyException
metadata: {name: e}
spec:
  owner: o
  reason: because
  validUntil: "2030-01-01T00:00:00Z"
  policies: [{name: native}]
"""
    found = rendered(policy() + ADMISSION + exception)
    assert [one["metadata"]["name"] for one in found.documents] == ["wall-p", "wall-p"]
    assert found.left_out == (LeftOut("native", None, "an exception may lift it"),)


def test_where_nothing_is_left():
    with pytest.raises(ValueError, match="`p`: it is in shadow"):
        rendered(policy(mode="shadow"))
    only = policy().split("    - {name: r,")[0] + "    - {name: fine, effect: allow}\n"
    with pytest.raises(ValueError, match="there is none that denies"):
        rendered(only)
    with pytest.raises(ValueError, match="do not load"):
        render(check_text("a: b", name="p.yaml"), backstop())


def test_what_a_cluster_reads():
    policy_, binding = rendered(policy(when="object == null // why")).documents
    assert policy_["metadata"]["labels"] == {LABEL: "true"}
    assert policy_["metadata"] == binding["metadata"]
    spec = policy_["spec"]
    assert spec["failurePolicy"] == "Fail"
    assert [one["name"] for one in spec["matchConditions"]] == ["not-asked", "agents"]
    assert "own" in spec["matchConstraints"]["namespaceSelector"]["matchExpressions"][0]["values"]
    # A comment would hide the bracket.
    assert spec["validations"][0]["expression"] == "variables.mfw_applies ? !(object == null // why\n) : true"
    assert all("\n" not in one["message"] and one["reason"] == "Forbidden" for one in spec["validations"])
    assert binding["spec"] == {"policyName": "wall-p", "validationActions": ["Deny"]}
    # What nothing reads is not computed.
    assert {one["name"] for one in spec["variables"]} < {f"mfw_{n}" for n in ("applies", "resource", "type")} | {
        one["name"] for one in spec["variables"]
    }
    assert "mfw_subject" not in {one["name"] for one in spec["variables"]}


def test_a_condition_that_fails_is_not_outweighed_by_a_rule_that_is_silent():
    """`!a || !b` would be true where `a` fails and `b` is false, and the firewall denies."""
    wall = Wall(check_text(policy(when="false", condition="object.spec.nothing == 1"), name="p.yaml"))
    review = {
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "u",
            "kind": {"group": "", "version": "v1", "kind": "ConfigMap"},
            "resource": {"group": "", "version": "v1", "resource": "configmaps"},
            "operation": "CREATE",
            "name": "a",
            "namespace": "shop",
            "userInfo": {"username": "copilot"},
            "object": {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "shop"}},
        },
    }
    found, expected = wall.says(asked_of(review, VIEW))
    assert found == expected == {("p", "r"), ("p", "other")}
