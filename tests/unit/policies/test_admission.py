"""Kubernetes' documents in a policy set: what loads, what is refused and where, what is only doubted."""

from datetime import UTC, datetime
from textwrap import dedent

import pytest

from app.core.admission.policy import Action, AdmissionPolicy, FailurePolicy
from app.core.decide import decide
from app.core.normalise import normalise
from app.core.types import Effect, Mutation
from app.policies.diagnostics import Severity
from app.policies.load import check_directory, check_documents, check_text

GROUP = "admissionregistration.k8s.io/v1"
ALLOW = """\
apiVersion: mutationfirewall.io/v1
kind: MutationPolicy
metadata: {name: allow}
spec: {rules: [{name: all, effect: allow, when: "resource.type == 'x'"}]}
---
"""
POLICY = """\
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: demo.example.com}
spec:
  matchConstraints:
    resourceRules: [{apiGroups: [apps], apiVersions: [v1], operations: [CREATE], resources: [deployments]}]
  validations: [{expression: object.spec.replicas <= 5}]
"""
BINDING = """\
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: demo}
spec: {policyName: demo.example.com, validationActions: [Deny]}
"""


def checked(text):
    return check_text(text, name="p.yaml")


def errors(text):
    found = checked(text)
    assert found.policy_set is None
    return [str(one) for one in found.diagnostics if one.severity is Severity.ERROR]


def warnings(text):
    found = checked(text)
    assert found.policy_set is not None, [str(one) for one in found.diagnostics]
    return [str(one) for one in found.diagnostics]


def policy(spec, *, more=""):
    return f"""\
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {{name: x{more}}}
spec:
{spec}"""


MATCH = """\
  matchConstraints:
    resourceRules: [{apiGroups: [apps], apiVersions: [v1], operations: [CREATE], resources: [deployments]}]
"""


class TestPolicies:
    def test_every_member_of_the_type_is_known(self):
        text = """\
        apiVersion: admissionregistration.k8s.io/v1
        kind: ValidatingAdmissionPolicy
        metadata:
          name: demo.example.com
          generateName: null
          labels: {a: b}
          annotations: {kubectl.kubernetes.io/last-applied-configuration: "{}"}
          uid: 705ab4f5-6393-11e8-b7cc-42010a800002
          resourceVersion: "1"
          generation: 1
          creationTimestamp: null
          ownerReferences: []
          finalizers: []
          managedFields: [{manager: kubectl}]
        spec:
          failurePolicy: Ignore
          paramKind: null
          matchConstraints:
            namespaceSelector: {}
            objectSelector: {matchLabels: {a: b}, matchExpressions: [{key: c, operator: Exists, values: []}]}
            resourceRules:
            - apiGroups: ["", apps]
              apiVersions: [v1]
              operations: [CREATE, UPDATE, CONNECT, DELETE]
              resources: [pods, "pods/*", "*/scale"]
              scope: Namespaced
              resourceNames: []
            excludeResourceRules: []
            matchPolicy: Exact
          matchConditions: [{name: a/b, expression: "request.userInfo.username != 'x'"}]
          variables: [{name: a, expression: object.spec}, {name: b, expression: variables.a.b}]
          validations:
          - {expression: variables.b == 1, message: m, messageExpression: "'m'", reason: Forbidden}
          - {expression: request.dryRun, message: "", reason: null}
          auditAnnotations: [{key: k, valueExpression: "object.x ? 'v' : null"}]
        status: {observedGeneration: 1, typeChecking: {}, conditions: []}
        ---
        apiVersion: admissionregistration.k8s.io/v1
        kind: ValidatingAdmissionPolicyBinding
        metadata: {name: demo.example.com}
        spec:
          policyName: demo.example.com
          paramRef: null
          matchResources: {namespaceSelector: {matchLabels: {a: b}}, matchPolicy: Equivalent}
          validationActions: [Warn, Audit]
        """
        found = checked(dedent(text))
        assert not found.diagnostics
        (one,) = found.policy_set.policies
        assert isinstance(one, AdmissionPolicy)
        assert one.name == "demo.example.com/demo.example.com"
        assert one.actions == (Action.WARN, Action.AUDIT)
        assert one.failure_policy is FailurePolicy.IGNORE
        assert one.labels == {"a": "b"}

    @pytest.mark.parametrize("version", ["v1beta1", "v1alpha1", "v2"])
    def test_other_versions_are_named(self, version):
        (error,) = errors(POLICY.replace("k8s.io/v1", f"k8s.io/{version}"))
        assert error.startswith(f"p.yaml:1:13: error: apiVersion: `admissionregistration.k8s.io/{version}` is not")
        assert "write `admissionregistration.k8s.io/v1`" in error

    def test_other_kinds_of_the_group_are_refused(self):
        (error,) = errors(POLICY.replace("ValidatingAdmissionPolicy", "MutatingAdmissionPolicy"))
        assert "kind: must be one of `ValidatingAdmissionPolicy`, `ValidatingAdmissionPolicyBinding`" in error

    @pytest.mark.parametrize(
        ("spec", "message"),
        [
            (f"{MATCH}  validation: []", "spec: needs `validations` or `auditAnnotations`; add"),
            (f"{MATCH}  validation: []", "spec.validation: unknown member `validation`; did you mean `validations`?"),
            ("  validations: [{expression: 'true'}]", "spec: `matchConstraints` is missing"),
            (
                "  matchConstraints: {}\n  validations: [{expression: 'true'}]",
                "spec.matchConstraints: `resourceRules` is missing",
            ),
            (f"{MATCH}  validations: [{{message: m}}]", "spec.validations[0]: `expression` is missing"),
            (
                f"{MATCH}  validations: [{{expression: 'true', message: \"a\\nb\"}}]",
                "spec.validations[0].message: has more than one line",
            ),
            (
                f"{MATCH}  validations: [{{expression: 'true', reason: Nope}}]",
                "spec.validations[0].reason: must be one of `Unauthorized`",
            ),
            (
                f"{MATCH}  failurePolicy: ignore\n  validations: [{{expression: 'true'}}]",
                "spec.failurePolicy: must be one of `Fail`, `Ignore`, not `ignore`; did you mean `Ignore`?",
            ),
            (
                f"{MATCH}  validations: [{{expression: object.a + 1}}]\n  matchConditions: [{{name: a b, expression: 'true'}}]",
                "spec.matchConditions[0].name: `a b` is not a name",
            ),
            (
                f"{MATCH}  validations: [{{expression: \"'text'\"}}]",
                "spec.validations[0].expression: the expression gives `string`, not `bool`",
            ),
            (
                f"{MATCH}  validations: [{{expression: subject.id == 'x'}}]",
                "spec.validations[0].expression: undeclared reference to `subject.id`;",
            ),
            (
                f"{MATCH}  validations: [{{expression: 'true', messageExpression: '1'}}]",
                "spec.validations[0].messageExpression: the expression gives `int`, not `string`",
            ),
            (
                f"{MATCH}  auditAnnotations: [{{key: k, valueExpression: '1'}}]",
                "spec.auditAnnotations[0].valueExpression: the expression gives `int`, not `string`",
            ),
            (
                f"{MATCH}  auditAnnotations: [{{key: k, valueExpression: \"'a'\"}}, {{key: k, valueExpression: \"'b'\"}}]",
                "spec.auditAnnotations[1].key: the key `k` is used twice",
            ),
            (
                f"{MATCH}  auditAnnotations: [{', '.join(f'{{key: k{i}, valueExpression: object.a}}' for i in range(21))}]",
                "spec.auditAnnotations: there are 21, and 20 are the most",
            ),
            (
                (
                    f"{MATCH}  variables: [{{name: a, expression: variables.b}}, {{name: b, expression: '1'}}]\n"
                    "  validations: [{expression: variables.a == 1}]"
                ),
                "spec.variables[0].expression: no variable `b` is declared",
            ),
            (
                f"{MATCH}  variables: [{{name: in, expression: '1'}}]\n  validations: [{{expression: 'true'}}]",
                "spec.variables[0].name: `in` is not a variable name",
            ),
            (
                (
                    f"{MATCH}  variables: [{{name: a, expression: '1'}}, {{name: a, expression: '2'}}]\n"
                    "  validations: [{expression: 'true'}]"
                ),
                "spec.variables[1].name: the variable `a` is declared twice",
            ),
            (
                (
                    f"{MATCH}  matchConditions: [{{name: a, expression: 'true'}}, {{name: a, expression: 'true'}}]\n"
                    "  validations: [{expression: 'true'}]"
                ),
                "spec.matchConditions[1].name: the name `a` is used twice",
            ),
            (
                (
                    "  matchConstraints: {resourceRules: [{apiGroups: [], apiVersions: [v1], operations: [CREATE], resources: [a]}]}\n"
                    "  validations: [{expression: 'true'}]"
                ),
                "spec.matchConstraints.resourceRules[0].apiGroups: the list is empty",
            ),
            (
                (
                    "  matchConstraints: {resourceRules: [{apiGroups: [a], apiVersions: [v1], operations: [PATCH], resources: [a]}]}\n"
                    "  validations: [{expression: 'true'}]"
                ),
                "spec.matchConstraints.resourceRules[0].operations[0]: must be one of `CREATE`",
            ),
            (
                (
                    f"{MATCH}    objectSelector: {{matchExpressions: [{{key: a, operator: In}}]}}\n"
                    "  validations: [{expression: 'true'}]"
                ),
                "spec.matchConstraints.objectSelector.matchExpressions[0]: `In` needs values",
            ),
            (
                (
                    f"{MATCH}    objectSelector: {{matchExpressions: [{{key: a, operator: Exists, values: [b]}}]}}\n"
                    "  validations: [{expression: 'true'}]"
                ),
                "spec.matchConstraints.objectSelector.matchExpressions[0]: `Exists` takes no values",
            ),
            (
                f"{MATCH}    objectSelector: {{matchLabels: {{a: 1}}}}\n  validations: [{{expression: 'true'}}]",
                "spec.matchConstraints.objectSelector.matchLabels.a: must be text",
            ),
            (
                f"{MATCH}    objectSelector: {{matchLabels: [a]}}\n  validations: [{{expression: 'true'}}]",
                "spec.matchConstraints.objectSelector.matchLabels: must be an object of texts",
            ),
        ],
    )
    def test_what_is_refused(self, spec, message):
        assert any(message in error for error in errors(policy(spec))), errors(policy(spec))

    @pytest.mark.parametrize("name", ["Upper", "a_b", "-a", "a..b", "mutation-firewall"])
    def test_names(self, name):
        (error,) = errors(POLICY.replace("demo.example.com", name))
        assert "metadata.name: " in error

    def test_a_fault_in_an_expression_has_its_place(self):
        text = policy(f"{MATCH}  validations:\n  - expression: |\n      object.a == 1 &&\n      objekt.b == 2\n")
        (error,) = errors(text)
        assert error.startswith(
            "p.yaml:10:7: error: spec.validations[0].expression: undeclared reference to `objekt.b`"
        )
        assert "did you mean `object`?" in error

    def test_a_fault_beside_a_null_has_its_place_as_well(self):
        text = policy(f"{MATCH}  auditAnnotations: [{{key: k, valueExpression: \"object.a ? 'x' : null + objekt\"}}]\n")
        assert all("dyn" not in error for error in errors(text))

    def test_only_what_reads_a_faulty_variable_is_not_noted_as_well(self):
        text = policy(
            f"{MATCH}  variables: [{{name: a, expression: objekt.a}}]\n  validations: [{{expression: variables.a == 1}}]"
        )
        (error,) = errors(text)
        assert "spec.variables[0].expression" in error


class TestBindings:
    @pytest.mark.parametrize(
        ("spec", "message"),
        [
            ("{validationActions: [Deny]}", "spec: `policyName` is missing"),
            ("{policyName: demo.example.com}", "spec: `validationActions` is missing"),
            ("{policyName: demo.example.com, validationActions: []}", "spec.validationActions: the list is empty"),
            (
                "{policyName: demo.example.com, validationActions: [Deny, Warn]}",
                "spec.validationActions: `Deny` and `Warn` do not go together",
            ),
            (
                "{policyName: demo.example.com, validationActions: [Deny, Deny]}",
                "spec.validationActions[1]: `Deny` is there twice",
            ),
            (
                "{policyName: demo.example.com, validationActions: [Block]}",
                "spec.validationActions[0]: must be one of `Deny`, `Warn`, `Audit`",
            ),
            (
                "{policyName: demo.example.com, validationActions: [Deny], paramRef: {name: a}}",
                "spec.paramRef: `parameterNotFoundAction` is missing",
            ),
            (
                "{policyName: demo.example.com, validationActions: [Deny], paramRef: {parameterNotFoundAction: Deny}}",
                "spec.paramRef: needs exactly one of `name` and `selector`",
            ),
            (
                (
                    "{policyName: demo.example.com, validationActions: [Deny], "
                    "paramRef: {name: a, selector: {}, parameterNotFoundAction: Deny}}"
                ),
                "spec.paramRef: needs exactly one of `name` and `selector`",
            ),
            (
                "{policyName: demo.exmaple.com, validationActions: [Deny]}",
                "spec.policyName: there is no policy `demo.exmaple.com`; did you mean `demo.example.com`?",
            ),
        ],
    )
    def test_what_is_refused(self, spec, message):
        start = BINDING.index("spec:")
        found = errors(POLICY + BINDING[:start] + f"spec: {spec}\n")
        assert any(message in error for error in found), found

    def test_a_policy_that_has_errors_is_not_missing(self):
        found = errors(POLICY.replace("object.spec", "objekt.spec") + BINDING)
        assert len(found) == 1

    def test_a_policy_without_binding_does_nothing_and_says_so(self):
        (warning,) = warnings(ALLOW + POLICY)
        assert warning == (
            "p.yaml:6:1: warning: the policy `demo.example.com` does nothing: no binding names it; "
            "add a `ValidatingAdmissionPolicyBinding` with `policyName: demo.example.com`"
        )

    def test_a_set_in_which_nothing_is_in_force_is_refused(self):
        assert errors(POLICY) == [": error: no policy of the set is in force; add a binding, or a `MutationPolicy`"]

    def test_each_binding_makes_a_policy_of_the_set(self):
        second = BINDING.replace("name: demo}", "name: second}")
        found = checked(ALLOW + POLICY + BINDING + second)
        names = [one.name for one in found.policy_set.policies]
        assert names == ["allow", "demo.example.com/demo", "demo.example.com/second"]


PARAMETERS = POLICY.replace(
    "spec:\n", "spec:\n  paramKind: {apiVersion: rules.example.com/v1, kind: Limit}\n"
) + BINDING.replace("validationActions", "paramRef: {name: limit, parameterNotFoundAction: Allow}, validationActions")
LIMIT = "---\napiVersion: rules.example.com/v1\nkind: Limit\nmetadata: {name: limit}\nmax: 5\n"


class TestParameters:
    def test_a_document_of_the_kind_is_one(self):
        assert warnings(PARAMETERS + LIMIT) == []

    def test_it_may_come_first_and_from_another_file(self, tmp_path):
        (tmp_path / "a.yaml").write_text(LIMIT)
        (tmp_path / "b.yaml").write_text(PARAMETERS)
        found = check_directory(tmp_path)
        assert found.policy_set is not None
        (one,) = found.policy_set.policies
        assert isinstance(one, AdmissionPolicy)
        assert one.parameters is not None
        assert one.parameters.objects[0].value["max"] == 5

    def test_it_is_part_of_what_the_digest_names(self):
        one, other = checked(PARAMETERS + LIMIT), checked(PARAMETERS + LIMIT.replace("5", "6"))
        assert one.policy_set.digest != other.policy_set.digest

    def test_a_document_of_no_known_kind_is_an_error(self):
        found = errors(POLICY + BINDING + LIMIT)
        assert any("apiVersion: must be one of `mutationfirewall.io/v1`, not `rules" in error for error in found)

    def test_one_without_a_name_is_an_error(self):
        (error,) = errors(PARAMETERS + LIMIT.replace("{name: limit}", "{}"))
        assert "metadata: `name` is missing" in error

    def test_two_of_one_name_are_an_error_unless_in_different_namespaces(self):
        (error,) = errors(PARAMETERS + LIMIT + LIMIT)
        assert "metadata.name: the name `limit` is used twice" in error
        other = LIMIT.replace("{name: limit}", "{name: limit, namespace: other}")
        assert warnings(PARAMETERS + LIMIT + other) == []

    def test_a_parameter_that_is_not_there_is_doubted(self):
        (warning,) = warnings(PARAMETERS)
        assert "spec.paramRef: there is no `rules.example.com/v1 Limit` with the name `limit` in the set" in warning
        assert "the binding does nothing" in warning
        (warning,) = warnings(PARAMETERS.replace("Action: Allow", "Action: Deny"))
        assert "every request is denied" in warning

    def test_a_binding_that_names_none_is_doubted(self):
        text = PARAMETERS.replace("paramRef: {name: limit, parameterNotFoundAction: Allow}, ", "")
        (warning,) = warnings(text)
        assert "`params` is null; add `paramRef`" in warning

    def test_a_reference_without_a_kind_is_doubted(self):
        (warning,) = warnings(PARAMETERS.replace("  paramKind: {apiVersion: rules.example.com/v1, kind: Limit}\n", ""))
        assert "has no `paramKind`, so `paramRef` means nothing" in warning


class TestNames:
    def test_a_policy_of_each_kind_may_not_have_the_same_name(self):
        text = ALLOW.replace("allow}", "demo}") + POLICY.replace("demo.example.com", "demo")
        (error,) = errors(text + BINDING.replace("demo.example.com", "demo"))
        assert "metadata.name: the name `demo` is used twice" in error

    def test_a_policy_and_its_binding_may(self):
        assert warnings(POLICY.replace("demo.example.com", "demo") + BINDING.replace("demo.example.com", "demo")) == []

    def test_two_bindings_may_not(self):
        (error,) = errors(POLICY + BINDING + BINDING)
        assert "the name `demo` is used twice" in error


def test_documents_that_are_json_already_are_read_alike():
    text = checked(POLICY + BINDING)
    values = [document.root.plain() for document in text.documents]
    again = check_documents(values).policy_set
    assert again is not None
    assert again.digest == text.policy_set.digest


def test_a_set_that_only_denies_answers_with_the_default():
    found = checked(POLICY + BINDING)
    assert [one.name for one in found.policy_set.policies] == ["demo.example.com/demo"]
    assert found.policy_set.rules == ()


EXCEPTION = """\
---
apiVersion: mutationfirewall.io/v1
kind: PolicyException
metadata: {name: for-now}
spec:
  owner: sre
  reason: a migration
  validFrom: "2026-03-01T00:00:00Z"
  validUntil: "2026-04-01T00:00:00Z"
  policies: [{name: demo.example.com}]
"""


def test_an_exception_lifts_what_an_admission_policy_says():
    allow = ALLOW.replace("== 'x'", "!= ''")
    after = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "w"}, "spec": {"replicas": 6}}
    mutation = Mutation(
        {"type": "user", "id": "u", "properties": {}},
        {"name": "create", "properties": {}},
        {"type": "apps/Deployment", "id": "w", "properties": {}},
        {"after": after},
        {},
    )
    now = datetime(2026, 3, 13, 12, tzinfo=UTC)
    for more, effect, by in (("", Effect.DENY, None), (EXCEPTION, Effect.ALLOW, "for-now")):
        found = checked(allow + POLICY + BINDING + more)
        assert found.policy_set is not None, found.diagnostics
        verdict = decide(found.policy_set, normalise(mutation), now)
        assert verdict.effect is effect
        own = [reason for reason in verdict.reasons if reason.policy == "demo.example.com"]
        assert [(reason.binding, reason.exception) for reason in own] == [("demo", by)]


def test_an_exception_must_name_a_policy_and_not_a_binding():
    (error,) = errors(ALLOW + POLICY + BINDING + EXCEPTION.replace("demo.example.com", "demo"))
    assert "there is no policy `demo` in the set" in error


@pytest.mark.parametrize(
    ("name", "fix"),
    [
        ("subject", "reads who asks from `request.userInfo`"),
        ("action", "reads what is done from `request.operation`"),
        ("resource", "from `request.resource`, or from `object`"),
        ("context", "reads `request` and `namespaceObject`"),
        ("change", "reads `object` and `oldObject`"),
        ("now", "cannot read the time"),
        ("param", "did you mean `params`?"),
        ("namespaceObj", "did you mean `namespaceObject`?"),
        # Nothing is near enough to be meant.
        ("container", "in scope are `namespaceObject`, `object`, `oldObject`, `params`, `request`"),
    ],
)
def test_a_name_of_another_scope_is_not_taken_for_a_slip(name, fix):
    (error,) = errors(policy(f"{MATCH}  validations: [{{expression: {name}.a == 1}}]\n"))
    assert fix in error
