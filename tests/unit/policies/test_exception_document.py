"""The PolicyException kind: what is refused, where, and with which fix; and what a set makes of good ones."""

import textwrap
from datetime import UTC, datetime

import pytest

from app.core.decide import decide
from app.core.normalise import normalise
from app.core.types import Effect
from app.policies.load import check_documents, check_text
from app.surfaces.native.wire import mutation_from_wire

POLICY = """\
apiVersion: mutationfirewall.io/v1
kind: MutationPolicy
metadata: {name: guard}
spec:
  rules:
    - {name: yes, effect: allow, when: "true"}
    - {name: never, effect: deny, when: "true", message: m}
    - {name: ask, effect: hold, when: "true", message: m, approval: {anyOf: [{group: g}]}}
  freezes:
    - {name: weekend, schedule: "0 18 * * 5", timeZone: UTC, duration: 62h}
---
"""
HEAD = "apiVersion: mutationfirewall.io/v1\nkind: PolicyException\nmetadata: {name: e}\nspec:\n"
GOOD = """\
owner: team-checkout
reason: "migration, ticket 4711"
validFrom: 2026-03-01T00:00:00Z
validUntil: 2026-04-01T00:00:00+02:00
policies:
  - {name: guard, rules: [never, weekend]}
match: {resources: [{type: t}], exclude: [{actions: [delete]}]}
matchConditions: [{name: ticket, expression: "context.ticket == '4711'"}]
"""
LINES = POLICY.count("\n") + HEAD.count("\n")


def checked(spec, *, policy=POLICY):
    return check_text(policy + HEAD + textwrap.indent(textwrap.dedent(spec), "  "), name="p.yaml")


def changed(**members):
    """The good one with some members written anew; None leaves a member out."""
    lines = {line.split(":", 1)[0]: line for line in GOOD.splitlines()}
    lines["policies"] = "policies: [{name: guard, rules: [never, weekend]}]"
    lines = {name: line for name, line in lines.items() if not name.startswith(" ")}
    for name, text in members.items():
        lines[name] = f"{name}: {text}"
        if text is None:
            del lines[name]
    return "\n".join(lines.values()) + "\n"


def test_a_good_one():
    found = checked(GOOD)
    assert found.diagnostics == ()
    assert found.policy_set is not None
    (exception,) = found.policy_set.exceptions
    assert (exception.name, exception.owner, exception.reason) == ("e", "team-checkout", "migration, ticket 4711")
    assert exception.validity.start == datetime(2026, 3, 1, tzinfo=UTC)
    assert exception.validity.end == datetime(2026, 3, 31, 22, tzinfo=UTC)
    assert exception.policies == {"guard": frozenset({"never", "weekend"})}
    assert [policy.name for policy in found.policy_set.policies] == ["guard"]
    assert exception.covers("guard", "never")
    assert not exception.covers("guard", "ask")
    assert not exception.covers("other", "never")
    assert found.policy_set.exceptions_of("guard", "weekend") == (exception,)
    assert found.policy_set.exceptions_of("guard", "yes") == ()
    assert [rule.effect for rule in found.policy_set.policies[0].rules][-1] is Effect.DENY


@pytest.mark.parametrize(
    ("spec", "path", "message", "fix"),
    [
        (changed(owner=None), "spec", "`owner` is missing", "add `owner`"),
        (changed(owner="' '"), "spec.owner", "is empty", None),
        (changed(reason=None), "spec", "`reason` is missing", "add `reason`"),
        (changed(reason="''"), "spec.reason", "is empty", None),
        (changed(reason="x" * 1001), "spec.reason", "has more than 1000 characters", None),
        (changed(validUntil=None), "spec", "`validUntil` is missing", "add `validUntil`"),
        (changed(validUntil="never"), "spec.validUntil", "`never` is not an instant with an offset", "write it as `2026-03-13T12:00:00Z`"),
        (changed(validUntil="2026-03-01T00:00:00Z"), "spec.validUntil", "ends before it starts: `validUntil` is not after `validFrom`", "correct one of them"),
        (changed(policies=None), "spec", "`policies` is missing", "add `policies`"),
        (changed(policies="[]"), "spec.policies", "the list is empty", "leave the member out, or fill it"),
        (changed(policies="[guard]"), "spec.policies[0]", "must be an object, not text", None),
        (changed(policies="[{rules: [never]}]"), "spec.policies[0]", "`name` is missing", "add `name`"),
        (changed(policies="[{name: guard}, {name: guard}]"), "spec.policies[1].name", "the policy `guard` is named twice", "make one of them"),
        (changed(policies="[{name: gaurd}]"), "spec.policies[0].name", "there is no policy `gaurd` in the set", "did you mean `guard`?"),
        (changed(policies="[{name: mutation-firewall}]"), "spec.policies[0].name", "there is no policy `mutation-firewall` in the set", "a decision that no policy made cannot be lifted: write a rule that allows"),
        (changed(policies="[{name: guard, rules: []}]"), "spec.policies[0].rules", "the list is empty", "leave the member out, or fill it"),
        (changed(policies="[{name: guard, rules: [nevr]}]"), "spec.policies[0].rules[0]", "the policy `guard` has no rule `nevr`", "did you mean `never`?"),
        (changed(policies="[{name: guard, rules: [zzz]}]"), "spec.policies[0].rules[0]", "the policy `guard` has no rule `zzz`", "it has `never`, `ask`, `weekend` to lift"),
        (changed(policies="[{name: guard, rules: ['yes']}]"), "spec.policies[0].rules[0]", "the rule `yes` allows, and an exception lifts what denies or holds", "remove it"),
        (changed(policies="[{name: guard, rule: [never]}]"), "spec.policies[0].rule", "unknown member `rule`", "did you mean `rules`?"),
        (changed(match="{}"), "spec.match", "is empty", "leave it out to match everything"),
        (changed(matchConditions="[{name: c, expression: 'resource.id'}]"), "spec.matchConditions[0].expression", "the expression gives `dyn`, not `bool`", "make it a comparison, for example with `== true`"),
        (changed(matchConditions="[{name: c, expression: 'variables.x == 1'}]"), "spec.matchConditions[0].expression", "no variable `x` is declared", "there are no variables"),
        (changed(effect="allow"), "spec.effect", "unknown member `effect`", None),
    ],
)  # fmt: skip
def test_what_is_refused(spec, path, message, fix):
    found = checked(spec)
    assert found.policy_set is None
    (one,) = found.diagnostics
    assert (one.path, one.message) == (path, message)
    if fix is not None and "no variable" not in message:
        assert one.fix == fix
    assert one.line > POLICY.count("\n")


def test_around_the_spec():
    found = check_text(POLICY + "apiVersion: v1\nkind: PolicyException\nmetadata: {name: E}\n", name="p.yaml")
    assert [one.path for one in found.diagnostics] == ["", "apiVersion", "metadata.name"]


def test_a_validation_of_kubernetes_is_named_by_its_place():
    admission = """\
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: demo.example.com}
spec:
  matchConstraints:
    resourceRules: [{apiGroups: [apps], apiVersions: [v1], operations: [CREATE], resources: [deployments]}]
  validations: [{expression: object.spec.replicas <= 5}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: demo}
spec: {policyName: demo.example.com, validationActions: [Deny]}
---
"""
    named = changed(policies="[{name: demo.example.com, rules: ['validations[0]']}]", match=None, matchConditions=None)
    found = checked(
        named, policy=POLICY.replace("effect: deny", "effect: deny, obligations: [{key: k, value: 1}]") + admission
    )
    assert found.policy_set is not None, found.diagnostics
    change = {
        "after": {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "x"}, "spec": {"replicas": 9}}
    }
    body = {
        "subject": {"type": "agent", "id": "a"},
        "action": {"name": "create"},
        "resource": {"type": "apps/Deployment", "id": "x"},
        "change": change,
    }
    verdict = decide(found.policy_set, normalise(mutation_from_wire(body)), datetime(2026, 3, 11, tzinfo=UTC))
    lifted = [(reason.policy, reason.rule) for reason in verdict.reasons if reason.exception is not None]
    assert lifted == [("demo.example.com", "validations[0]")]
    wrong = checked(named.replace("[0]']", "[7]']"), policy=POLICY + admission)
    assert [one.message for one in wrong.diagnostics] == ["the policy `demo.example.com` has no rule `validations[7]`"]


def test_a_policy_with_errors_is_not_blamed_on_its_exception():
    found = checked(GOOD, policy=POLICY.replace("effect: deny", "effect: dney"))
    assert [one.path for one in found.diagnostics] == ["spec.rules[1].effect"]


def test_names_are_unique_among_exceptions():
    again = HEAD + textwrap.indent(GOOD, "  ")
    found = check_text(POLICY + again + "---\n" + again, name="p.yaml")
    (one,) = found.diagnostics
    assert "the name `e` is used twice" in one.message
    same = check_text(POLICY + again.replace("{name: e}", "{name: guard}"), name="p.yaml")
    assert same.policy_set is not None


def test_exceptions_alone_are_no_set():
    found = check_text(HEAD + textwrap.indent(GOOD, "  "), name="p.yaml")
    assert found.policy_set is None
    assert "there is no policy `guard` in the set" in [one.message for one in found.diagnostics]
    plain = [root.root.plain() for root in found.documents]
    assert check_documents(plain).policy_set is None


def test_the_digest_is_of_exceptions_too():
    with_one = checked(GOOD)
    other = checked(changed(reason="another"))
    without = check_text(POLICY, name="p.yaml")
    assert with_one.policy_set is not None
    assert other.policy_set is not None
    assert without.policy_set is not None
    assert len({found.policy_set.digest for found in (with_one, other, without) if found.policy_set}) == 3
    again = check_documents([document.root.plain() for document in with_one.documents])
    assert again.policy_set is not None
    assert again.policy_set.digest == with_one.policy_set.digest
    assert len(again.policy_set.exceptions) == 1
