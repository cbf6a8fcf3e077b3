"""The lints: each finding with its code, and silence where there is doubt."""

from datetime import UTC, datetime

import pytest

from app.policies.expressions import constant, reads_nothing, signature, variables_read
from app.policies.lint import lint
from app.policies.load import check_directory

NOW = datetime(2026, 3, 13, 12, tzinfo=UTC)
HEAD = "apiVersion: mutationfirewall.io/v1\nkind: MutationPolicy\nmetadata: {name: NAME}\nspec:\n"
RULES = "  rules: [{name: r, effect: allow, when: 'change.after.x == 1'}]\n"


def codes(tmp_path, *specs):
    for i, spec in enumerate(specs):
        (tmp_path / f"{i}.yaml").write_text(HEAD.replace("NAME", f"p{i}") + spec)
    checked = check_directory(tmp_path)
    assert checked.policy_set is not None, checked.diagnostics
    return [(one.code, one.path) for one in lint(checked.documents, sources=checked.sources, now=NOW)]


def rules(*texts):
    return "  rules:\n" + "".join(f"    - {{{text}}}\n" for text in texts)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (RULES, []),
        (rules("name: r, effect: allow, when: 'false'"), [("dead-rule", "spec.rules[0].when")]),
        (rules("name: r, effect: allow, when: 'change.after.x == 1 && (true && 1 > 2)'"), [("dead-rule", "spec.rules[0].when")]),
        (rules("name: r, effect: allow, when: 'change.after.x == 1 || false'"), []),
        (rules("name: r, effect: allow, when: 'change.after.x == 1 ? false : true'"), []),
        (rules('name: r, effect: allow, when: "action.name == \'a\' && \'b\' == action.name"'), [("dead-rule", "spec.rules[0].when")]),
        (rules('name: r, effect: allow, when: "action.name in [\'a\', \'b\'] && action.name == \'b\'"'), []),
        ("  match: {actions: ['delete*']}\n" + rules('name: r, effect: allow, when: "action.name == \'update\'"'), [("dead-rule", "spec.rules[0].when")]),
        ("  match: {actions: ['delete*']}\n" + rules('name: r, effect: allow, when: "action.name == \'delete\'"'), []),
        ("  match: {resources: [{type: a}]}\n  matchConditions: [{name: c, expression: \"resource.type in ['b', 'c']\"}]\n" + RULES, [("dead-policy", "spec.matchConditions[0].expression")]),
        ("  match: {subjects: [{type: a}]}\n  matchConditions: [{name: c, expression: \"subject.type == 'b'\"}]\n" + RULES, [("dead-policy", "spec.matchConditions[0].expression")]),
        ("  matchConditions: [{name: c, expression: '1 < 2'}]\n" + RULES, [("constant-condition", "spec.matchConditions[0].expression")]),
        ("  matchConditions: [{name: c, expression: 'false'}]\n" + RULES, [("dead-policy", "spec.matchConditions[0].expression")]),
        ("  variables: [{name: a, expression: '1'}, {name: b, expression: variables.a}]\n" + RULES, [("unused-variable", "spec.variables[0].expression"), ("unused-variable", "spec.variables[1].expression")]),
        ("  variables: [{name: a, expression: '1'}, {name: b, expression: variables.a}]\n" + rules("name: r, effect: allow, when: 'change.after.x == variables.b'"), []),
        ("  variables: [{name: a, expression: subject.id}]\n  budgets: [{name: b, key: variables.a, limit: 1, window: 1h}]\n", []),
        ("  variables: [{name: a, expression: 'false'}]\n" + rules("name: r, effect: allow, when: variables.a"), [("dead-rule", "spec.rules[0].when")]),
        (rules("name: r, effect: allow, when: 'change.after.x == 1'", "name: s, effect: deny, message: m"), [("shadowed-rule", "spec.rules[0]")]),
        (rules("name: r, effect: deny, message: m, when: 'change.after.x == 1'", "name: s, effect: hold, message: m, approval: {anyOf: [{group: g}]}"), []),
        (rules("name: r, effect: allow, when: 'change.after.x == 1'", "name: s, effect: allow, when: 'change.after.x==1 // same'"), [("duplicate-rule", "spec.rules[1]")]),
        (rules("name: r, effect: allow, when: 'change.after.x == 1'", "name: s, effect: deny, message: m, when: 'change.after.x == 1'"), []),
        ("  match: {actions: [a, '*']}\n" + RULES, [("redundant-pattern", "spec.match.actions[0]")]),
        ("  match: {actions: [a, a]}\n" + RULES, [("redundant-pattern", "spec.match.actions[1]")]),
        ("  match: {actions: ['a*b', 'a*']}\n" + RULES, [("redundant-pattern", "spec.match.actions[0]")]),
        ("  match: {actions: ['a*b', '*b?']}\n" + RULES, []),
        ("  match: {resources: [{type: 'a/*'}, {type: a/b, id: x}]}\n" + RULES, [("redundant-pattern", "spec.match.resources[1]")]),
        ("  match: {resources: [{type: a, properties: {x: 1}}, {type: a}]}\n" + RULES, [("redundant-pattern", "spec.match.resources[0]")]),
        ("  match: {resources: [{type: a, id: x}, {type: a, id: y}]}\n" + RULES, []),
        ("  match: {resources: [{type: a, properties: {x: 1}}, {type: a, properties: {x: true}}]}\n" + RULES, []),
        ("  match: {resources: [{labels: {a: b, c: d}}, {labels: {a: 'b*'}}]}\n" + RULES, [("redundant-pattern", "spec.match.resources[0]")]),
        ("  match: {resources: [{properties: {labels: x}, labels: {a: b}}]}\n" + RULES, [("impossible-pattern", "spec.match.resources[0]")]),
        ("  match: {resources: [{type: 'a/*'}], exclude: [{resources: [{type: a/b}]}]}\n" + RULES, []),
        ("  match: {resources: [{type: 'a/*'}], exclude: [{resources: [{type: b}]}]}\n" + RULES, [("useless-exclusion", "spec.match.exclude[0]")]),
        ("  match: {actions: [a], exclude: [{actions: [b, c]}]}\n" + RULES, [("useless-exclusion", "spec.match.exclude[0]")]),
        ("  match: {resources: [{type: a/b}], exclude: [{actions: [x]}, {resources: [{type: 'a/*'}]}]}\n" + RULES, [("dead-policy", "spec.match.exclude[1]")]),
        ("  match: {exclude: [{subjects: [{type: '*'}]}]}\n" + RULES, [("dead-policy", "spec.match.exclude[0]")]),
        ("  match: {exclude: [{actions: ['de*']}]}\n" + rules('name: r, effect: allow, when: "action.name == \'delete\'"'), [("dead-rule", "spec.rules[0].when")]),
        ("  match: {exclude: [{actions: ['de*'], resources: [{type: t}]}]}\n" + rules('name: r, effect: allow, when: "action.name == \'delete\'"'), []),
        ("  match: {exclude: [{resources: [{id: x}]}]}\n" + rules('name: r, effect: allow, when: "resource.id == \'x\'"'), [("dead-rule", "spec.rules[0].when")]),
        ("  match: {exclude: [{resources: [{id: x, labels: {a: b}}]}]}\n" + rules('name: r, effect: allow, when: "resource.id == \'x\'"'), []),
        ("  match: {exclude: [{subjects: [{type: x}]}]}\n" + rules('name: r, effect: allow, when: "subject.type == \'x\'"'), [("dead-rule", "spec.rules[0].when")]),
        ("  match: {exclude: [{subjects: [{type: x}], actions: [a]}]}\n" + rules('name: r, effect: allow, when: "subject.type == \'x\'"'), []),
        ("  variables: [{name: a, expression: '1'}]\n" + rules("name: r, effect: allow, when: 'change.after.x == 1', obligations: [{key: k, valueExpression: variables.a}]"), []),
        ("  validUntil: 2026-03-13T12:00:00Z\n" + RULES, [("expired", "spec.validUntil")]),
        ("  validUntil: 2026-03-27T12:00:00Z\n" + RULES, [("expires-soon", "spec.validUntil")]),
        ("  validUntil: 2026-03-27T12:00:01Z\n" + RULES, []),
        ("  freezes: [{name: f, schedule: '0 0 * * *', timeZone: UTC, duration: 24h}]\n", [("endless-freeze", "spec.freezes[0]")]),
        ("  freezes: [{name: f, schedule: '0 0 * * *', timeZone: UTC, duration: 23h}]\n", []),
        ("  freezes: [{name: f, schedule: '0 0 * * *', timeZone: UTC, duration: 23h, when: 'false'}]\n", [("dead-rule", "spec.freezes[0].when")]),
        (RULES + "  freezes: [{name: f, schedule: '0 0 * * *', timeZone: UTC, duration: 23h}, {name: g, schedule: '0 0 * * *', timeZone: UTC, duration: 22h}]\n", []),
    ],
)  # fmt: skip
def test_codes(tmp_path, spec, expected):
    assert codes(tmp_path, spec) == expected


def test_two_policies_that_say_the_same(tmp_path):
    assert codes(tmp_path, RULES, RULES) == [("duplicate-policy", "metadata.name")]


EXCEPTION = """\
apiVersion: mutationfirewall.io/v1
kind: PolicyException
metadata: {name: NAME}
spec: {owner: o, reason: r, validFrom: 2026-03-01T00:00:00Z, validUntil: UNTIL, policies: POLICIES, MORE}
"""
TWICE = "change.l.all(x, change.l.all(y, change.l.all(z, x + y > z)))"


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (rules(f"name: r, effect: allow, when: '{TWICE}'"), ["spec.rules[0].when"]),
        (rules(f"name: r, effect: allow, when: '{TWICE.replace('change.l.all(z', 'change.s.all(z')}'"), ["spec.rules[0].when"]),
        (rules("name: r, effect: allow, when: 'change.l.all(x, change.l.all(y, x > y))'"), []),
        (rules(f"name: r, effect: deny, messageExpression: 'string({TWICE})'"), ["spec.rules[0].messageExpression"]),
        (f"  matchConditions: [{{name: c, expression: '{TWICE}'}}]\n" + RULES, ["spec.matchConditions[0].expression"]),
        # A variable is to blame itself, and once.
        (f"  variables: [{{name: v, expression: '{TWICE}'}}]\n"
         + rules("name: r, effect: allow, when: variables.v", "name: s, effect: allow, when: '!variables.v'"),
         ["spec.variables[0].expression"]),
        # Twelve expressions, each of them almost too dear.
        (rules(*(f"name: r{n}, effect: allow, when: '{n} == {n} && change.l.all(x, change.l.all(y, x.a.contains(y.a + y.b) && x.b.contains(y.b) && x.c.contains(y.b) && x.e.contains(y.e)))'" for n in range(12))), ["spec"]),
    ],
)  # fmt: skip
def test_what_is_expensive(tmp_path, spec, expected):
    found = [one for one in codes(tmp_path, spec) if one[0] == "expensive"]
    assert found == [("expensive", path) for path in expected]


GUARD = HEAD.replace("NAME", "g") + rules(
    "name: a, effect: deny, message: m, when: 'change.after.x == 1'",
    "name: b, effect: deny, message: m, when: 'change.after.x == 2'",
)


def exception(name="e", *, until="2026-05-01T00:00:00Z", policies="[{name: g}]", more="match: {actions: [a]}"):
    text = EXCEPTION.replace("NAME", name).replace("UNTIL", until)
    return text.replace("POLICIES", policies).replace("MORE", more)


@pytest.mark.parametrize(
    ("exceptions", "expected"),
    [
        ([exception()], []),
        ([exception(until="2026-03-13T00:00:00Z")], [("expired", "spec.validUntil")]),
        ([exception(until="2026-03-20T00:00:00Z")], [("expires-soon", "spec.validUntil")]),
        ([exception(until="2026-05-30T00:00:00Z")], []),
        ([exception(until="2026-05-30T00:00:01Z")], [("long-exception", "spec.validUntil")]),
        ([exception(), exception("f")], [("shadowed-exception", "spec.policies")]),
        ([exception(), exception("f", more="match: {actions: [b]}")], []),
        ([exception(more="match: {actions: [a, b]}"), exception("f")], [("shadowed-exception", "spec.policies")]),
        ([exception(), exception("f", policies="[{name: g, rules: [a]}]")], [("shadowed-exception", "spec.policies")]),
        ([exception(policies="[{name: g, rules: [b]}]"), exception("f", policies="[{name: g, rules: [a]}]")], []),
        ([exception(until="2026-04-01T00:00:00Z"), exception("f")], [("shadowed-exception", "spec.policies")]),
        ([exception(more="matchConditions: [{name: c, expression: 'true'}]"), exception("f")], []),
    ],
)
def test_exceptions(tmp_path, exceptions, expected):
    (tmp_path / "a.yaml").write_text("---\n".join([GUARD, *exceptions]))
    checked = check_directory(tmp_path)
    assert checked.policy_set is not None, checked.diagnostics
    assert [(one.code, one.path) for one in lint(checked.documents, sources=checked.sources, now=NOW)] == expected


class TestExpressions:
    def test_what_is_constant(self):
        assert constant("1 < 2 && 'now' != 'then'", {}) is True
        assert constant("variables.a", {"a": "!variables.b", "b": "true"}) is False
        assert constant("change.after == 1", {}) is None
        assert constant("1 / 0 == 1", {}) is None
        assert constant("((", {}) is None
        assert not reads_nothing("variables.a", {"a": "now > timestamp('2020-01-01T00:00:00Z')"})
        assert variables_read("variables.a + x.variables.b") == {"a"}

    def test_layout_does_not_count(self):
        assert signature("a  ==\n b // c") == signature("a==b")
