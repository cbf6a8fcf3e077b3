"""The tools of policy authors with Kubernetes' documents: schemas, formatting, tests, differences, lints."""

import json
from datetime import UTC, datetime
from textwrap import dedent
from typing import Any, ClassVar

import pytest
from jsonschema import Draft202012Validator

from app.cli.authoring.explaining import run_explain
from app.core.normalise import normalise
from app.core.types import Outcome
from app.policies.compare import Change, compare
from app.policies.coverage_page import coverage_page
from app.policies.explain import combination, explain
from app.policies.layout import layout
from app.policies.lint import Lint, lint
from app.policies.load import check_text
from app.policies.measure import measure
from app.policies.schema import schema
from app.policies.suite import read_suites
from app.policies.testing import run
from app.policies.tree import documents
from app.surfaces.native.wire import mutation_from_wire

NOW = datetime(2026, 3, 13, 12, tzinfo=UTC)
ALLOW = """\
apiVersion: mutationfirewall.io/v1
kind: MutationPolicy
metadata: {name: allow}
spec: {rules: [{name: all, effect: allow, when: "resource.type.startsWith('core/')"}]}
---
"""
SET = """\
kind: ValidatingAdmissionPolicy   # as it came
apiVersion: admissionregistration.k8s.io/v1
metadata: {name: demo.example.com}
spec:
  validations:
  - message: too many
    expression: object.spec.replicas <= params.max
  matchConstraints:
    resourceRules:
    - resources: [replicationcontrollers]
      apiGroups: [""]
      apiVersions: [v1]
      operations: [CREATE, UPDATE]
  paramKind: {kind: Limit, apiVersion: rules.example.com/v1}
  matchConditions: [{name: c, expression: "true"}]
  auditAnnotations: [{key: k, valueExpression: "'v' + string(object.spec.replicas)"}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: demo}
spec: {policyName: demo.example.com, validationActions: [Deny], paramRef: {name: limit, parameterNotFoundAction: Deny}}
---
apiVersion: rules.example.com/v1
kind: Limit
metadata: {name: limit}
max: 5
"""

# Nothing about this one is doubtful.
QUIET = SET.replace('expression: "true"', "expression: object != null")
RULES = """\
  matchConstraints: {resourceRules: [{resources: [pods], apiGroups: [""], apiVersions: [v1], operations: ["*"]}]}
  paramKind: {kind: Limit, apiVersion: rules.example.com/v1}
"""


def read(text):
    found = check_text(text, name="p.yaml")
    assert found.policy_set is not None, [str(one) for one in found.diagnostics]
    return found


class TestSchemas:
    @pytest.mark.parametrize("position", [0, 1])
    def test_what_loads_is_valid(self, position):
        root = documents(SET)[position].plain()
        assert isinstance(root, dict)
        Draft202012Validator(schema(root["kind"])).validate(root)

    @pytest.mark.parametrize(
        ("position", "change"),
        [
            (0, {"spec": {"validations": []}}),
            (0, {"apiVersion": "admissionregistration.k8s.io/v1beta1"}),
            (0, {"metadata": {"name": "Upper"}}),
            (0, {"other": 1}),
            (1, {"spec": {"policyName": "x", "validationActions": []}}),
            (1, {"spec": {"policyName": "x", "validationActions": ["Block"]}}),
            (1, {"status": {}}),
        ],
    )
    def test_what_is_refused_is_not(self, position, change):
        root = documents(SET)[position].plain()
        assert isinstance(root, dict)
        assert not Draft202012Validator(schema(root["kind"])).is_valid({**root, **change})

    def test_null_is_what_is_not_there(self):
        root = documents(SET)[0].plain()
        assert isinstance(root, dict)
        root["spec"] |= {"failurePolicy": None, "variables": None, "paramKind": None}
        Draft202012Validator(schema("ValidatingAdmissionPolicy")).validate(root)


def test_formatting_orders_the_members_and_keeps_the_meaning():
    text = layout(SET)
    assert layout(text) == text
    assert text.index("matchConstraints:") < text.index("matchConditions:") < text.index("validations:")
    assert "# as it came" in text
    assert read(ALLOW + text).policy_set.digest == read(ALLOW + SET).policy_set.digest


class TestTests:
    @pytest.fixture
    def directory(self, tmp_path):
        (tmp_path / "policies").mkdir()
        (tmp_path / "policies" / "p.yaml").write_text(ALLOW + SET)
        return tmp_path

    def run(self, directory, expect):
        after = {
            "apiVersion": "v1",
            "kind": "ReplicationController",
            "metadata": {"name": "x"},
            "spec": {"replicas": 6},
        }
        case = {
            "name": "case",
            "mutation": {
                "subject": {"type": "user", "id": "u"},
                "action": {"name": "create"},
                "resource": {"type": "core/ReplicationController", "id": "x"},
                "change": {"after": after},
            },
            "expect": expect,
        }
        suite = {
            "apiVersion": "mutationfirewall.io/v1",
            "kind": "PolicyTest",
            "metadata": {"name": "t"},
            "spec": {"policies": "policies", "cases": [case]},
        }
        (directory / "t.yaml").write_text(json.dumps(suite))
        # A directory above both: what is no test is passed over.
        (result,) = run(read_suites([directory], parse=mutation_from_wire)).results
        return result.failures

    def test_what_is_expected_is_found(self, directory):
        reason = {"policy": "demo.example.com", "rule": "validations[0]", "binding": "demo", "message": "too many"}
        annotations = {"demo.example.com/k": "v6"}
        expect = {"decision": "deny", "reasons": [reason], "warnings": [], "annotations": annotations}
        assert self.run(directory, expect) == ()

    def test_what_is_not_is_told(self, directory):
        reason = {"policy": "demo.example.com", "rule": "validations[0]", "binding": "other"}
        expect = {"decision": "deny", "reasons": [reason], "warnings": ["careful"], "annotations": {"a": "b"}}
        failures = self.run(directory, expect)
        assert [failure.split(":")[0] for failure in failures] == ["reasons", "warnings", "annotations"]
        assert "expected “careful”; got none" in failures[1]
        assert "expected `a` “b”; got `demo.example.com/k` “v6”" in failures[2]

    def test_annotations_are_texts(self, directory):
        with pytest.raises(Exception, match="must be text"):
            self.run(directory, {"decision": "deny", "annotations": {"a": 1}})
        with pytest.raises(Exception, match="must be an object of texts"):
            self.run(directory, {"decision": "deny", "annotations": ["a"]})


class TestDifferences:
    def differences(self, before, after):
        return [
            (one.kind, one.policy, one.part, one.change)
            for one in compare(read(ALLOW + before).documents, read(ALLOW + after).documents)
        ]

    def test_layout_is_none(self):
        other = SET.replace("object.spec.replicas <= params.max", "object.spec.replicas<=params.max // five")
        assert self.differences(SET, layout(other)) == []

    @pytest.mark.parametrize(
        ("text", "other", "expected"),
        [
            ("too many", "too much", ("admission policy", "demo.example.com", "validations[0]", Change.CHANGED)),
            (
                "string(object",
                "string( 1 + object",
                ("admission policy", "demo.example.com", "auditAnnotations.k", Change.CHANGED),
            ),
            (
                "[CREATE, UPDATE]",
                "[CREATE]",
                ("admission policy", "demo.example.com", "matchConstraints", Change.CHANGED),
            ),
            ("name: c,", "name: d,", ("admission policy", "demo.example.com", "matchConditions.c", Change.REMOVED)),
            ("[Deny]", "[Audit]", ("binding", "demo", "validationActions", Change.CHANGED)),
            ("max: 5", "max: 6", ("parameter", "rules.example.com/v1 Limit limit", "max", Change.CHANGED)),
            ("name: demo}", "name: other}", ("binding", "demo", "", Change.REMOVED)),
        ],
    )
    def test_what_differs(self, text, other, expected):
        assert expected in self.differences(SET, SET.replace(text, other))


class TestLints:
    def codes(self, text):
        found = read(text)
        return [one.code for one in lint(found.documents, sources=found.sources, now=NOW)]

    def test_a_set_that_can_only_deny_is_doubted(self):
        assert self.codes(QUIET) == [Lint.ALLOWS_NOTHING]
        deny = ALLOW.replace("effect: allow", "effect: deny, message: no")
        assert self.codes(deny + QUIET) == [Lint.ALLOWS_NOTHING]
        assert self.codes(ALLOW + QUIET) == []
        assert self.codes(dedent(deny)) == []

    @pytest.mark.parametrize(
        ("members", "expected"),
        [
            (
                'matchConditions: [{name: c, expression: "1 < 2"}]',
                ("spec.matchConditions[0].expression", Lint.CONSTANT_CONDITION, "the condition is always true"),
            ),
            (
                "matchConditions: [{name: c, expression: \"object.a == 'b' && 1 > 2\"}]",
                (
                    "spec.matchConditions[0].expression",
                    Lint.DEAD_POLICY,
                    "the policy can never speak: `1 > 2` is always false",
                ),
            ),
            (
                'variables: [{name: v, expression: "2"}]\n  matchConditions: [{name: c, expression: "variables.v == 3"}]',
                (
                    "spec.matchConditions[0].expression",
                    Lint.DEAD_POLICY,
                    "the policy can never speak: `variables.v == 3` is always false",
                ),
            ),
            (
                "validations: [{expression: object.a}, {expression: 'true || false'}]",
                (
                    "spec.validations[1].expression",
                    Lint.DEAD_RULE,
                    "`validations[1]` can never deny: it is always true",
                ),
            ),
            (
                "validations: [{expression: object.a == 1}, {expression: object.a   ==   1}]",
                (
                    "spec.validations[1].expression",
                    Lint.DUPLICATE_RULE,
                    "`validations[1]` has the expression of `validations[0]`",
                ),
            ),
            (
                "variables: [{name: a, expression: object.a}, {name: b, expression: variables.a}]",
                ("spec.variables[1].expression", Lint.UNUSED_VARIABLE, "nothing reads the variable `b`"),
            ),
            (
                "validations: [{expression: 'object.a.all(x, object.b.all(y, object.c.all(z, x != y + z)))'}]",
                (
                    "spec.validations[0].expression",
                    Lint.EXPENSIVE,
                    None,
                ),
            ),
            # What reads something is no constant, and a validation that always denies may be meant.
            ("matchConditions: [{name: c, expression: params == null}]", None),
            ("validations: [{expression: 'false'}]", None),
            (
                """variables: [{name: a, expression: object.a}, {name: b, expression: variables.a}]
  validations: [{expression: object.b, messageExpression: variables.b}]""",
                None,
            ),
            (
                """variables: [{name: a, expression: object.a}]
  auditAnnotations: [{key: k, valueExpression: variables.a}]""",
                None,
            ),
        ],
    )
    def test_what_is_hardly_meant(self, members, expected):
        spec = QUIET.split("spec:\n")[0] + f"spec:\n  {members}\n" + RULES
        if "validations:" not in members:
            spec += "  validations: [{expression: object.b == 1}]\n"
        found = read(ALLOW + spec + "---\n" + QUIET.split("---\n")[1])
        noted = [(one.path, one.code, one.message) for one in lint(found.documents, sources=found.sources, now=NOW)]
        if expected is None:
            assert noted == []
        elif expected[2] is None:
            assert [one[:2] for one in noted] == [expected[:2]]
        else:
            assert expected in noted

    def test_two_that_say_the_same(self):
        other = QUIET.split("---\n")[0].replace("demo.example.com", "other.example.com")
        found = read(ALLOW + QUIET + "---\n" + other)
        (one,) = lint(found.documents, sources=found.sources, now=NOW)
        assert one.code == Lint.DUPLICATE_POLICY
        assert one.message == "the policy says the same as `demo.example.com` in `p.yaml`"


class TestCoverage:
    SET = SET.replace(
        "  paramKind:",
        "  variables:\n"
        '  - {name: free, expression: "params.max - object.spec.replicas"}\n'
        '  - {name: some, expression: "has(object.spec.some) && object.spec.some"}\n'
        "  paramKind:",
    ).replace(
        "object.spec.replicas <= params.max",
        "variables.free >= 0 || variables.some\n    messageExpression: \"variables.free < -5 ? 'far too many' : 'too many'\"",
    )
    BINDING = SET.split("---\n")[1].replace("name: demo}", "name: second}").replace("name: limit,", "name: wide,")
    WIDE = SET.split("---\n")[2].replace("name: limit", "name: wide").replace("max: 5", "max: 50")

    def covered(self, tmp_path, *replicas, more=""):
        (tmp_path / "policies").mkdir()
        (tmp_path / "policies" / "p.yaml").write_text(ALLOW + self.SET + more)
        cases = [
            {
                "name": f"{number}",
                "mutation": {
                    **TestExplanations.BODY,
                    "change": {"after": {**TestExplanations.BODY["change"]["after"], "spec": {"replicas": number}}},
                },
                "expect": {"decision": "deny" if number > 5 else "allow"},
            }
            for number in replicas
        ]
        suite = {
            "apiVersion": "mutationfirewall.io/v1",
            "kind": "PolicyTest",
            "metadata": {"name": "t"},
            "spec": {"policies": "policies", "cases": cases},
        }
        (tmp_path / "t.yaml").write_text(json.dumps(suite))
        found = run(read_suites([tmp_path / "t.yaml"], parse=mutation_from_wire))
        assert [result.failures for result in found.results] == [()] * len(cases)
        return found

    def test_a_validation_is_a_rule(self, tmp_path):
        (coverage,) = self.covered(tmp_path, 1).coverage
        rules = {(rule.policy, rule.rule): rule for rule in coverage.rules}
        validation = rules["demo.example.com", "validations[0]"]
        assert (validation.effect, validation.missing) == ("deny", "never spoke")
        assert validation.text == "variables.free >= 0 || variables.some"
        assert validation.said == {Outcome.TRUE: 1, Outcome.FALSE: 0, Outcome.ERROR: 0}

    def test_every_binding_and_parameter_counts(self, tmp_path):
        more = f"---\n{self.BINDING}---\n{self.WIDE}"
        (coverage,) = self.covered(tmp_path, 6, more=more).coverage
        (validation,) = [rule for rule in coverage.rules if rule.policy == "demo.example.com"]
        assert validation.said == {Outcome.TRUE: 1, Outcome.FALSE: 1, Outcome.ERROR: 0}
        assert validation.missing == ""

    def test_clauses(self, tmp_path):
        found = self.covered(tmp_path, 1, 6)
        (coverage,) = found.coverage
        own = [clause for clause in coverage.clauses if clause.policy == "demo.example.com"]
        assert {clause.path for clause in own} == {
            "variables[1].expression",
            "matchConditions[0].expression",
            "validations[0].expression",
            "validations[0].messageExpression",
        }
        missing = {(clause.path, clause.site.text): clause.missing for clause in own if clause.missing}
        assert missing == {
            ("variables[1].expression", "has(object.spec.some) && object.spec.some"): "never true",
            ("variables[1].expression", "has(object.spec.some)"): "never true",
            ("variables[1].expression", "object.spec.some"): "never reached",
            ("validations[0].expression", "variables.some"): "never true",
            ("validations[0].messageExpression", "variables.free < -5"): "never true",
        }
        assert all(clause.line > 0 for clause in own)
        page = coverage_page(found.coverage, results=found.results)
        assert "validations[0].messageExpression" in page
        assert "validations[0]</td><td>deny" in page

    def test_all_of_it(self, tmp_path):
        (coverage,) = self.covered(tmp_path, 1, 6, 60).coverage
        missing = {clause.path for clause in coverage.clauses if clause.missing and clause.policy != "allow"}
        assert missing == {"variables[1].expression", "validations[0].expression"}

    def test_one_that_always_denies_needs_no_silence(self, tmp_path, monkeypatch):
        monkeypatch.setattr(type(self), "SET", SET.replace("object.spec.replicas <= params.max", '"false"'))
        (coverage,) = self.covered(tmp_path, 6).coverage
        (validation,) = [rule for rule in coverage.rules if rule.policy == "demo.example.com"]
        assert (validation.constant, validation.missing, validation.wanted, validation.seen) == (True, "", 1, 1)


def test_every_expression_has_its_cost():
    text = SET.replace("message: too many", "messageExpression: \"'too many'\"")
    found = read(ALLOW + text)
    mutation = normalise(mutation_from_wire(TestExplanations.BODY))
    costs = measure(found.policy_set, [mutation], now=NOW, rounds=2).costs
    assert {(cost.policy, cost.name, cost.part, cost.times) for cost in costs if cost.policy != "allow"} == {
        ("demo.example.com", "c", "condition", 2),
        ("demo.example.com", "validations[0]", "validation", 2),
        ("demo.example.com", "validations[0]", "message", 2),
        ("demo.example.com", "auditAnnotations[0]", "annotation", 2),
    }


class TestExplanations:
    BODY: ClassVar[dict[str, Any]] = {
        "subject": {"type": "user", "id": "u"},
        "action": {"name": "create"},
        "resource": {"type": "core/ReplicationController", "id": "x"},
        "change": {
            "after": {
                "apiVersion": "v1",
                "kind": "ReplicationController",
                "metadata": {"name": "x"},
                "spec": {"replicas": 6},
            }
        },
    }

    def explained(self, text):
        return explain(read(text), normalise(mutation_from_wire(self.BODY)), now=NOW)

    def test_every_evaluation_is_there_with_what_it_saw(self):
        (one,) = self.explained(ALLOW + SET).admission
        assert (one.policy, one.binding, one.actions, one.fits) == ("demo.example.com", "demo", ("Deny",), True)
        (evaluation,) = one.evaluations
        assert evaluation.parameter == "limit"
        (validation,) = evaluation.validations
        assert validation.said.outcome is Outcome.FALSE
        (site,) = validation.sites
        assert site.values == {"object.spec.replicas": 6, "params.max": 5}

    def test_a_condition_that_is_not_true_ends_it(self):
        (one,) = self.explained(ALLOW + SET.replace('expression: "true"', 'expression: "object == null"')).admission
        (evaluation,) = one.evaluations
        assert [condition.said.outcome for condition in evaluation.conditions] == [Outcome.FALSE]
        assert evaluation.validations == ()

    def test_what_does_not_match_is_not_asked(self):
        (one,) = self.explained(ALLOW + SET.replace("replicationcontrollers", "pods")).admission
        assert one.fits is False
        assert one.evaluations == ()

    def test_the_sentence_counts_it(self):
        assert combination(self.explained(ALLOW + SET)) == "1 deny, 1 allow; deny > hold > allow, so deny"
        failing = SET.replace("object.spec.replicas <= params.max", "object.spec.absent == 1")
        assert (
            combination(self.explained(ALLOW + failing)) == "1 allow, 1 failed and denies; deny > hold > allow, so deny"
        )

    def test_a_policy_of_our_own_shows_what_it_read_under_these_names(self):
        rule = "object.spec.replicas == 6 && request.operation == 'CREATE' && oldObject == null"
        text = ALLOW.replace("resource.type.startsWith('core/')", rule)
        (policy,) = self.explained(text).policies
        (asked,) = policy.rules
        assert asked.said.outcome is Outcome.TRUE
        assert [site.values for site in asked.sites[1:]] == [
            {"object.spec.replicas": 6},
            {"request.operation": "CREATE"},
            {"oldObject": None},
        ]

    @pytest.mark.parametrize("as_json", [False, True])
    def test_the_command_shows_it(self, tmp_path, monkeypatch, capsys, as_json):
        (tmp_path / "p.yaml").write_text(ALLOW + SET)
        (tmp_path / "m.json").write_text(json.dumps(self.BODY))
        monkeypatch.setenv("COLUMNS", "200")
        run_explain(
            str(tmp_path / "m.json"), policies=tmp_path, now="2026-03-13T12:00:00Z", everything=False, as_json=as_json
        )
        shown = capsys.readouterr().out
        if as_json:
            found = json.loads(shown)
            assert found["admission"][0]["evaluations"][0]["validations"][0]["name"] == "validations[0]"
            assert found["annotations"] == {"demo.example.com/k": "v6"}
            return
        for words in (
            "admission policy demo.example.com/demo  matches  Deny",
            "with limit",
            "validation validations[0]  false",
            "params.max 5",
            "annotation demo.example.com/k: v6",
        ):
            assert words in shown
