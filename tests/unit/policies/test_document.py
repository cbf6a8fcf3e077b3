"""The MutationPolicy kind: what is refused, where, and with which fix; and what a good one becomes."""

import textwrap

import pytest

from app.core.types import Effect, Mode
from app.policies import shape
from app.policies.diagnostics import Severity
from app.policies.document import read_policy
from app.policies.reader import Reader
from app.policies.tree import documents

GOOD = """\
apiVersion: mutationfirewall.io/v1
kind: MutationPolicy
metadata: {name: prod-replicas, labels: {team: sre}}
spec:
  mode: shadow
  match:
    subjects:  [{type: agent}]
    actions:   [update, patch]
    resources: [{type: apps/Deployment, id: "prod/*", properties: {environment: production, tier: 1, live: true}}]
  matchConditions: [{name: not-canary, expression: "!resource.id.endsWith('-canary')"}]
  variables:       [{name: growth, expression: "change.after.spec.replicas - change.before.spec.replicas"}]
  rules:
    - {name: small-growth, effect: allow, when: "variables.growth <= 2"}
    - name: large-growth
      effect: hold
      when: "variables.growth > 2"
      messageExpression: "'adds ' + string(variables.growth) + ' replicas in production'"
      approval: {anyOf: [{group: sre, count: 2}, {allOf: [{group: incident-commander}, {group: cto}]}], expiresAfter: 24h, executeWithin: 1h30m}
    - {name: to-zero, effect: deny, when: "change.after.spec.replicas == 0", message: "scaling to zero is never automatic"}
"""


def read(text):
    reader = Reader("p.yaml", text=text)
    (root,) = documents(text)
    return read_policy(root, reader), reader.diagnostics


def spec(text):
    """Read a policy whose spec is given; lines count from the first of the spec, columns as written there."""
    head = "apiVersion: mutationfirewall.io/v1\nkind: MutationPolicy\nmetadata: {name: p}\nspec:\n"
    policy, diagnostics = read(head + textwrap.indent(textwrap.dedent(text), "  "))
    return policy, [(d.line - 4, d.column - 2, d.path, d.message, d.fix) for d in diagnostics]


def test_a_good_policy():
    policy, diagnostics = read(GOOD)
    assert diagnostics == []
    assert policy is not None
    assert (policy.name, policy.mode, policy.labels) == ("prod-replicas", Mode.SHADOW, {"team": "sre"})
    assert [(r.name, r.effect) for r in policy.rules] == [
        ("small-growth", Effect.ALLOW),
        ("large-growth", Effect.HOLD),
        ("to-zero", Effect.DENY),
    ]
    approval = policy.rules[1].approval
    assert approval is not None
    assert approval.tree == {
        "anyOf": [
            {"group": "sre", "count": 2},
            {"allOf": [{"group": "incident-commander", "count": 1}, {"group": "cto", "count": 1}]},
        ]
    }
    assert (approval.expires_after_seconds, approval.execute_within_seconds) == (86_400, 5_400)
    (resource,) = policy.match.resources
    assert [(p.name, p.value if p.glob is None else p.glob.text) for p in resource.properties] == [
        ("environment", "production"),
        ("tier", 1),
        ("live", True),
    ]
    assert policy.conditions[0].name == "not-canary"


def test_clocks_have_defaults():
    policy, _ = spec("rules: [{name: r, effect: hold, message: m, approval: {anyOf: [{group: g}]}}]")
    approval = policy.rules[0].approval
    assert (approval.expires_after, approval.execute_within) == ("168h", "1h")


RULE = "rules: [{name: r, effect: allow, when: 'true'}]\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("rules: []", (1, 8, "spec.rules", "the list is empty", "leave the member out, or fill it")),
        ("rules: {}", (1, 8, "spec.rules", "must be a list, not an object", "write `- ` before each item")),
        ("rules: [x]", (1, 9, "spec.rules[0]", "must be an object, not text", None)),
        ("mode: enforce", (1, 1, "spec", "`rules` is missing", "add `rules`")),
        (RULE + "mdoe: enforce", (2, 1, "spec.mdoe", "unknown member `mdoe`", "did you mean `mode`?")),
        (RULE + "zzz: 1", (2, 1, "spec.zzz", "unknown member `zzz`", "known are " + ", ".join(f"`{name}`" for name in shape.SPEC.known))),
        (RULE + "mode: Shadow", (2, 7, "spec.mode", "must be one of `enforce`, `shadow`, not `Shadow`", "did you mean `shadow`?")),
        (RULE + "mode: [x]", (2, 7, "spec.mode", "must be one of `enforce`, `shadow`, not a list", None)),
        (RULE + "match: {}", (2, 8, "spec.match", "is empty", "leave it out to match everything")),
        (RULE + "match: {subjects: []}", (2, 19, "spec.match.subjects", "the list is empty", "leave the member out, or fill it")),
        (RULE + "match: {subjects: [{}]}", (2, 20, "spec.match.subjects[0]", "matches everything", "leave `subjects` out instead")),
        (RULE + "match: {subjects: [{typ: a}]}", (2, 21, "spec.match.subjects[0].typ", "unknown member `typ`", "did you mean `type`?")),
        (RULE + "match: {actions: [1]}", (2, 19, "spec.match.actions[0]", "must be text, not a whole number", "quote it")),
        (RULE + "match: {actions: ['a**']}", (2, 19, "spec.match.actions[0]", "`**` means no more than `*`, which crosses `/` already", "write `*`")),
        (RULE + "match: {actions: [' ']}", (2, 19, "spec.match.actions[0]", "is empty", None)),
        (RULE + "match: {resources: [{properties: {}}]}", (2, 34, "spec.match.resources[0].properties", "must be an object with at least one property", None)),
        (RULE + "match: {resources: [{properties: {a: [b]}}]}", (2, 38, "spec.match.resources[0].properties.a", "must be text, a number or a boolean", "use `matchConditions` for more")),
        (RULE + "match: {resources: [{labels: {}}]}", (2, 30, "spec.match.resources[0].labels", "must be an object with at least one label", None)),
        (RULE + "match: {resources: [{labels: [x]}]}", (2, 30, "spec.match.resources[0].labels", "must be an object with at least one label", None)),
        (RULE + "match: {resources: [{labels: {a: 1}}]}", (2, 34, "spec.match.resources[0].labels.a", "must be text, not a whole number", "quote it")),
        (RULE + "match: {resources: [{labels: {a: 'x**'}}]}", (2, 34, "spec.match.resources[0].labels.a", "`**` means no more than `*`, which crosses `/` already", "write `*`")),
        (RULE + "match: {resources: [{labels: {' ': x}}]}", (2, 31, "spec.match.resources[0].labels", "the key of a label is empty", None)),
        (RULE + "match: {resources: [{labels: {" + "a" * 318 + ": b}}]}", (2, 351, "spec.match.resources[0].labels", "the key of a label has more than 317 characters", None)),
        (RULE + "match: {exclude: []}", (2, 18, "spec.match.exclude", "the list is empty", "leave the member out, or fill it")),
        (RULE + "match: {exclude: [{}]}", (2, 19, "spec.match.exclude[0]", "is empty", "leave it out")),
        (RULE + "match: {exclude: [{exclude: [{actions: [a]}]}]}", (2, 20, "spec.match.exclude[0].exclude", "unknown member `exclude`", "known are `subjects`, `actions`, `resources`")),
        (RULE + "match: {exclude: [{actions: ['']}]}", (2, 30, "spec.match.exclude[0].actions[0]", "is empty", None)),
        (RULE + "validFrom: 2026-03-01", (2, 12, "spec.validFrom", "`2026-03-01` is not an instant with an offset", "write it as `2026-03-13T12:00:00Z`")),
        (RULE + "validUntil: [x]", (2, 13, "spec.validUntil", "must be text, not a list", "quote it")),
        (RULE + "validUntil: 2026-03-01T00:00:00Z\nvalidFrom: 2026-03-01T01:00:00+01:00", (2, 13, "spec.validUntil", "ends before it starts: `validUntil` is not after `validFrom`", "correct one of them")),
        ("rules: [{name: r, effect: allow, when: 'true', obligations: []}]", (1, 61, "spec.rules[0].obligations", "the list is empty", "leave the member out, or fill it")),
        ("rules: [{name: r, effect: allow, when: 'true', obligations: [{value: 1}]}]", (1, 62, "spec.rules[0].obligations[0]", "`key` is missing", "add `key`")),
        ("rules: [{name: r, effect: allow, when: 'true', obligations: [{key: k}]}]", (1, 62, "spec.rules[0].obligations[0]", "needs exactly one of `value` and `valueExpression`", "give the value, or the expression that makes it")),
        ("rules: [{name: r, effect: allow, when: 'true', obligations: [{key: k, value: 1, valueExpression: '1'}]}]", (1, 62, "spec.rules[0].obligations[0]", "needs exactly one of `value` and `valueExpression`", "give the value, or the expression that makes it")),
        ("rules: [{name: r, effect: allow, when: 'true', obligations: [{key: -k, value: 1}]}]", (1, 68, "spec.rules[0].obligations[0].key", "`-k` is not the key of an obligation", "use at most 128 letters, digits and `-`, `_`, `.`, `/`")),
        ("rules: [{name: r, effect: allow, when: 'true', obligations: [{key: k, value: null}]}]", (1, 78, "spec.rules[0].obligations[0].value", "must be text, a number or a boolean", "use `valueExpression` for more")),
        ("rules: [{name: r, effect: allow, when: 'true', obligations: [{key: k, value: [x]}]}]", (1, 78, "spec.rules[0].obligations[0].value", "must be text, a number or a boolean", "use `valueExpression` for more")),
        ("rules: [{name: r, effect: allow, when: 'true', obligations: [{key: k, value: '" + "é" * 2048 + "'}]}]", (1, 78, "spec.rules[0].obligations[0].value", "has more than 4096 bytes as JSON", None)),
        ("rules: [{name: r, effect: allow, when: 'true', obligations: [{key: k, valueExpression: \"b'x'\"}]}]", (1, 89, "spec.rules[0].obligations[0].valueExpression", "the expression gives `bytes`, which JSON does not have", "write `base64.encode(...)`")),
        ("rules: [{name: r, effect: allow, when: 'true', obligations: [{key: k, value: 1}, {key: k, value: 2}]}]", (1, 88, "spec.rules[0].obligations[1].key", "the rule has the obligation `k` twice", "make one of them")),
        ("rules: [{name: r, effect: allow, when: 'true', obligations: [" + "{key: k, value: 1}, " * 17 + "]}]", (1, 61, "spec.rules[0].obligations", "the rule has 17 obligations, and 16 are the most", "put several values into one")),
        ("freezes: []", (1, 10, "spec.freezes", "the list is empty", "leave the member out, or fill it")),
        ("freezes: [{name: f, schedule: '0 18 * * 5', timeZone: UTC}]", (1, 11, "spec.freezes[0]", "`duration` is missing", "add `duration`")),
        ("freezes: [{name: f, schedule: '0 18 * * 5', timeZone: Europe/Belrin, duration: 1h}]", (1, 55, "spec.freezes[0].timeZone", "there is no time zone `Europe/Belrin`", "did you mean `Europe/Berlin`?")),
        ("freezes: [{name: f, schedule: '0 18 * * 5', timeZone: zzz, duration: 1h}]", (1, 55, "spec.freezes[0].timeZone", "there is no time zone `zzz`", "write a name such as `Europe/Berlin`, or `UTC`")),
        ("freezes: [{name: f, schedule: '0 25 * * 5', timeZone: UTC, duration: 1h}]", (1, 31, "spec.freezes[0].schedule", "`0 25 * * 5` is not a schedule: the hour is wrong", "write minute, hour, day of the month, month and day of the week, for example `0 18 * * 5`")),
        ("freezes: [{name: f, schedule: '0 18 * * 5', timeZone: UTC, duration: 7d}]", (1, 70, "spec.freezes[0].duration", "`7d` is not a duration", "write hours, minutes and seconds, for example `168h`")),
        ("freezes: [{name: f, schedule: '0 18 * * 5', timeZone: UTC, duration: 1h, effect: allow}]", (1, 82, "spec.freezes[0].effect", "must be one of `deny`, `hold`, not `allow`", None)),
        ("freezes: [{name: f, schedule: '0 18 * * 5', timeZone: UTC, duration: 1h, effect: hold}]", (1, 11, "spec.freezes[0]", "a rule that says `hold` needs `approval`", "add `approval: {anyOf: [{group: NAME, count: 1}]}`")),
        ("freezes: [{name: f, schedule: '0 18 * * 5', timeZone: UTC, duration: 1h, approval: {anyOf: [{group: g}]}}]", (1, 84, "spec.freezes[0].approval", "no approval lifts a rule that says `deny`", "remove it, or make the effect `hold`")),
        (RULE + "freezes: [{name: r, schedule: '0 18 * * 5', timeZone: UTC, duration: 1h}]", (2, 18, "spec.freezes[0].name", "the name `r` is used twice in this policy", "rename one")),
        ("freezes: [{name: f, schedule: '0 18 * * 5', timeZone: UTC, duration: 1h, when: 'change'}]", (1, 81, "spec.freezes[0].when", "the expression gives `dyn`, not `bool`", "make it a comparison, for example with `== true`")),
        (RULE + "match: {resources: [{properties: {a: null}}]}", (2, 38, "spec.match.resources[0].properties.a", "must be text, a number or a boolean", "use `matchConditions` for more")),
        (RULE + "match: {resources: [{properties: {" + "a" * 129 + ": b}}]}", (2, 166, "spec.match.resources[0].properties", "a property's name has more than 128 characters", None)),
        ("rules: [{name: R, effect: allow}]", (1, 16, "spec.rules[0].name", "`R` is not a name", "use at most 63 lower case letters, digits and dashes")),
        ("rules: [{name: " + "a" * 64 + ", effect: allow, when: 'true'}]", (1, 16, "spec.rules[0].name", f"`{'a' * 64}` is not a name", "use at most 63 lower case letters, digits and dashes")),
        ("rules: [{name: r, effect: alow, when: 'true'}]", (1, 27, "spec.rules[0].effect", "must be one of `allow`, `deny`, `hold`, not `alow`", "did you mean `allow`?")),
        ("rules: [{name: r, effect: true, when: 'true'}]", (1, 27, "spec.rules[0].effect", "must be one of `allow`, `deny`, `hold`, not `True`", None)),
        ("rules: [{name: r, when: 'true'}]", (1, 9, "spec.rules[0]", "`effect` is missing", "add `effect`")),
        ("rules: [{effect: allow, when: 'true'}]", (1, 9, "spec.rules[0]", "`name` is missing", "add `name`")),
        ("rules: [{name: r, effect: deny, when: 'true'}]", (1, 9, "spec.rules[0]", "a rule that says `deny` needs a `message` or a `messageExpression`", "add `message`: what the proposer can do instead")),
        ("rules: [{name: r, effect: hold, message: m}]", (1, 9, "spec.rules[0]", "a rule that says `hold` needs `approval`", "add `approval: {anyOf: [{group: NAME, count: 1}]}`")),
        ("rules: [{name: r, effect: deny, message: m, approval: {anyOf: [{group: g}]}}]", (1, 55, "spec.rules[0].approval", "no approval lifts a rule that says `deny`", "remove it, or make the effect `hold`")),
        ("rules: [{name: r, effect: allow, when: true}]", (1, 40, "spec.rules[0].when", "must be text, not true or false", "quote it")),
        ("rules: [{name: r, effect: allow, message: '" + "m" * 513 + "'}]", (1, 43, "spec.rules[0].message", "has more than 512 characters", None)),
        ("rules: [{name: r, effect: allow, when: 'chnage.after == 1'}]", (1, 41, "spec.rules[0].when", "undeclared reference to `chnage.after`", "did you mean `change`?")),
        ("rules: [{name: r, effect: allow, messageExpression: '1', when: 'true'}]", (1, 54, "spec.rules[0].messageExpression", "the expression gives `int`, not `string`", "convert it with `string(...)`")),
        (RULE + "variables: [{name: in, expression: '1'}]", (2, 20, "spec.variables[0].name", "`in` is not a variable name", "use letters, digits and underscores, and no word of CEL")),
        (RULE + "variables: [{name: a-b, expression: '1'}]", (2, 20, "spec.variables[0].name", "`a-b` is not a variable name", "use letters, digits and underscores, and no word of CEL")),
        (RULE + "variables: [{name: a, expression: '1'}, {name: a, expression: '2'}]", (2, 48, "spec.variables[1].name", "the variable `a` is declared twice", "rename one")),
        (RULE + "variables: [{name: a}]", (2, 13, "spec.variables[0]", "`expression` is missing", "add `expression`")),
        (RULE + "variables: [{name: a, expression: 'variables.a'}]", (2, 36, "spec.variables[0].expression", "the variables go round in a circle: `a -> a`", "break the circle")),
        (RULE + "matchConditions: [{name: c, expression: 'change'}]", (2, 42, "spec.matchConditions[0].expression", "the expression gives `dyn`, not `bool`", "make it a comparison, for example with `== true`")),
        (RULE + "matchConditions: [{name: r, expression: 'true'}]", (1, 16, "spec.rules[0].name", "the name `r` is used twice in this policy", "rename one")),
        ("rules: [{name: r, effect: allow, when: 'true'}, {name: r, effect: allow, when: 'true'}]", (1, 56, "spec.rules[1].name", "the name `r` is used twice in this policy", "rename one")),
    ],
)  # fmt: skip
def test_what_is_refused(text, expected):
    policy, found = spec(text)
    assert policy is None
    assert found == [expected]


@pytest.mark.parametrize(
    ("approval", "path", "message"),
    [
        ("{}", "", "needs exactly one of `anyOf` and `allOf`"),
        ("{anyOf: [{group: g}], allOf: [{group: g}]}", "", "needs exactly one of `anyOf` and `allOf`"),
        ("{anyOf: []}", ".anyOf", "the list is empty"),
        ("{anyOf: [{}]}", ".anyOf[0]", "`group` is missing"),
        ("{anyOf: [{count: 1}]}", ".anyOf[0]", "`group` is missing"),
        ("{anyOf: [x]}", ".anyOf[0]", "must be an object, not text"),
        ("{anyOf: [{group: g, count: 0}]}", ".anyOf[0].count", "must be from 1 to 100, not 0"),
        ("{anyOf: [{group: g, count: 101}]}", ".anyOf[0].count", "must be from 1 to 100, not 101"),
        ("{anyOf: [{group: g, count: true}]}", ".anyOf[0].count", "must be a whole number, not true or false"),
        ("{anyOf: [{group: g, count: 1.5}]}", ".anyOf[0].count", "must be a whole number, not a number"),
        ("{anyOf: [{group: 1}]}", ".anyOf[0].group", "must be text, not a whole number"),
        ("{anyOf: [{group: g, allOf: [{group: h}]}]}", ".anyOf[0]", "is either a group or a tree, not both"),
        ("{anyOf: [{count: 1, allOf: [{group: h}]}]}", ".anyOf[0].count", "only a group has a count"),
        ("{anyOf: [{allOf: [{anyOf: [{allOf: [{anyOf: [{group: g}]}]}]}]}]}", ".anyOf[0].allOf[0].anyOf[0].allOf[0]", "approvals are nested more than 4 deep"),
        ("{anyOf: [{group: g}], expiresAfter: 7d}", ".expiresAfter", "`7d` is not a duration"),
        ("{anyOf: [{group: g}], expiresAfter: h}", ".expiresAfter", "`h` is not a duration"),
        ("{anyOf: [{group: g}], expiresAfter: 0h}", ".expiresAfter", "`0h` is not between a second and a year"),
        ("{anyOf: [{group: g}], expiresAfter: 999999h}", ".expiresAfter", "`999999h` is not between a second and a year"),
        ("{anyOf: [{group: g}], executeWithin: 60}", ".executeWithin", "must be text, not a whole number"),
        ("{anyof: [{group: g}]}", ".anyof", "unknown member `anyof`"),
    ],
)  # fmt: skip
def test_what_is_refused_of_an_approval(approval, path, message):
    policy, found = spec(f"rules: [{{name: r, effect: hold, message: m, approval: {approval}}}]")
    assert policy is None
    assert ("spec.rules[0].approval" + path, message) in [(f[2], f[3]) for f in found]


@pytest.mark.parametrize(
    ("text", "path", "message"),
    [
        ("apiVersion: v1\nkind: MutationPolicy\nmetadata: {name: p}\nspec: {rules: [{name: r, effect: allow, when: 'true'}]}", "apiVersion", "must be one of `mutationfirewall.io/v1`, not `v1`"),
        ("apiVersion: mutationfirewall.io/v1\nkind: MutationPolice\nmetadata: {name: p}\nspec: {}", "kind", "must be one of " + ", ".join(f"`{kind}`" for kind in shape.SET_KINDS) + ", not `MutationPolice`"),
        ("[]", "", "must be an object, not a list"),
        ("text", "", "must be an object, not text"),
        ("apiVersion: mutationfirewall.io/v1\nkind: MutationPolicy\nmetadata: {name: mutation-firewall}\nspec: {rules: [{name: r, effect: allow, when: 'true'}]}", "metadata.name", "the name `mutation-firewall` is the firewall's own in reasons"),
        ("apiVersion: mutationfirewall.io/v1\nkind: MutationPolicy\nmetadata: {name: p, labels: [x]}\nspec: {rules: [{name: r, effect: allow, when: 'true'}]}", "metadata.labels", "must be an object of texts"),
        ("apiVersion: mutationfirewall.io/v1\nkind: MutationPolicy\nmetadata: {name: p, labels: {a: 1}}\nspec: {rules: [{name: r, effect: allow, when: 'true'}]}", "metadata.labels.a", "must be text, not a whole number"),
        ("apiVersion: mutationfirewall.io/v1\nkind: MutationPolicy\nmetadata: {}\nspec: x", "spec", "must be an object, not text"),
    ],
)  # fmt: skip
def test_what_is_refused_around_the_spec(text, path, message):
    policy, diagnostics = read(text)
    assert policy is None
    assert (path, message) in [(d.path, d.message) for d in diagnostics]


def test_all_findings_come_at_once():
    _, found = spec("mdoe: x\nrules:\n- {name: R, effect: no}\n- {effect: deny, when: 'zzz'}\n")
    assert [f[2] for f in found] == [
        "spec.mdoe",
        "spec.rules[0].name",
        "spec.rules[0].effect",
        "spec.rules[1]",
        "spec.rules[1].when",
        "spec.rules[1]",
    ]


def test_a_broken_variable_is_told_once_not_at_its_readers():
    _, found = spec(
        """\
        variables: [{name: a, expression: "zzz"}, {name: b, expression: "variables.a == 1"}, {name: c}]
        rules: [{name: r, effect: allow, when: "variables.b || variables.a == 2"}, {name: s, effect: allow, when: "variables.c == 1"}]
        """
    )
    assert [f[2] for f in found] == ["spec.variables[2]", "spec.variables[0].expression"]


@pytest.mark.parametrize(
    ("when", "line", "column"),
    [
        ('"true && zzz"', 1, 49),
        ("'true && zzz'", 1, 49),
        ("true && zzz", 1, 48),
        ("|\n      true &&\n        zzz", 3, 9),
        ("|\n\n      zzz", 3, 7),
        ("|-\n      zzz", 2, 7),
        (">-\n      true &&\n      zzz", 3, 7),
        (">\n      true &&\n\n        (zzz\n      || true)", 4, 10),
    ],
)
def test_a_place_in_an_expression_is_a_place_in_the_file(when, line, column):
    if "\n" in when:
        line += 3
        _, found = spec(f"rules:\n- name: r\n  effect: allow\n  when: {when}\n")
    else:
        _, found = spec(f"rules: [{{name: r, effect: allow, when: {when}}}]")
    assert (found[0][0], found[0][1], found[0][3]) == (line, column, "undeclared reference to `zzz`")


@pytest.mark.parametrize("when", ['"\\x74rue && zzz"', '"true &&\n      zzz"'])
def test_where_the_writing_hides_the_place_it_is_told_in_words(when):
    _, found = spec(f"rules:\n- name: r\n  effect: allow\n  when: {when}\n")
    assert found[0][:2] == (4, 9)
    assert found[0][3] == "undeclared reference to `zzz` (line 1, column 9 of the expression)"


def test_a_rule_that_allows_everything_is_worth_a_warning():
    policy, found = spec("rules: [{name: r, effect: allow}]")
    assert policy is not None
    assert found[0][2:4] == ("spec", "the rule `r` allows every change of every resource")
    _, diagnostics = read(GOOD)
    assert not diagnostics


def test_severity_of_the_warning():
    _, diagnostics = read(
        "apiVersion: mutationfirewall.io/v1\nkind: MutationPolicy\nmetadata: {name: p}\nspec: {rules: [{name: r, effect: allow}]}"
    )
    assert [d.severity for d in diagnostics] == [Severity.WARNING]


def test_what_a_policy_says_beyond_its_rules():
    policy, found = spec(
        """\
        validFrom: 2026-03-01T00:00:00Z
        match:
          resources: [{type: t, labels: {tier: "gold*", app.kubernetes.io/name: shop}}]
          exclude: [{subjects: [{labels: {team: sre}}], actions: [scale]}, {resources: [{id: x}]}]
        rules:
          - name: r
            effect: allow
            obligations:
              - {key: audit/level, value: full}
              - {key: sample, value: 0.5}
              - {key: redact, valueExpression: "['password'] + change.paths"}
        """
    )
    assert found == []
    assert (str(policy.validity.start), policy.validity.end) == ("2026-03-01 00:00:00+00:00", None)
    (resource,) = policy.match.resources
    assert [(label.key, label.glob.text) for label in resource.labels] == [
        ("tier", "gold*"),
        ("app.kubernetes.io/name", "shop"),
    ]
    first, second = policy.match.exclude
    assert ([glob.text for glob in first.actions], first.subjects[0].labels[0].key) == (["scale"], "team")
    assert (second.resources[0].id.text, second.exclude) == ("x", ())
    assert [(duty.key, duty.value, duty.expression is not None) for duty in policy.rules[0].duties] == [
        ("audit/level", "full", False),
        ("sample", 0.5, False),
        ("redact", None, True),
    ]


def test_a_policy_of_freezes_alone():
    policy, found = spec(
        """\
        freezes:
          - {name: weekend, schedule: "0  18 * * 5", timeZone: Europe/Berlin, duration: 62h}
          - {name: night, schedule: "0 22 * * *", timeZone: UTC, duration: 8h, effect: hold, message: m, approval: {anyOf: [{group: g}]}}
        """
    )
    assert found == []
    weekend, night = policy.rules
    assert (weekend.effect, weekend.window.schedule, weekend.window.duration.total_seconds()) == (
        Effect.DENY,
        "0 18 * * 5",
        62 * 3600,
    )
    assert (night.effect, night.window.time_zone, night.approval is not None) == (Effect.HOLD, "UTC", True)
