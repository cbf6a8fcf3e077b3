"""Two sets compared by meaning; explanations; costs; masks."""

import datetime as dt

import pytest

from app.core.masking import MASK
from app.core.normalise import normalise
from app.policies.compare import Change, Decided, compare
from app.policies.explain import combination, explain
from app.policies.load import check_directory
from app.policies.measure import measure
from app.surfaces.native.wire import mutation_from_wire

NOW = dt.datetime(2026, 3, 13, 12, tzinfo=dt.UTC)
POLICY = """\
apiVersion: mutationfirewall.io/v1
kind: MutationPolicy
metadata: {name: sizes}
spec:
  match: {resources: [{type: box}, {type: crate}]}
  matchConditions: [{name: known, expression: "has(change.after.size)"}]
  variables:
    - {name: size, expression: "change.after.size"}
    - {name: keys, expression: "[change.after.password, 'x']"}
  rules:
    - {name: small, effect: allow, when: "variables.size <= 2"}
    - name: large
      effect: hold
      when: "variables.size > 2"
      messageExpression: "'size ' + string(variables.size)"
      approval: {anyOf: [{group: a}, {group: b, count: 2}], expiresAfter: 24h}
    - {name: odd, effect: deny, when: "variables.keys == ['y']", message: m}
"""


def documents(directory, text):
    directory.mkdir()
    (directory / "a.yaml").write_text(text)
    checked = check_directory(directory)
    assert checked.policy_set is not None, checked.diagnostics
    return checked


def changes(tmp_path, before, after):
    one, other = documents(tmp_path / "a", before), documents(tmp_path / "b", after)
    return [(found.part, found.change, found.member) for found in compare(one.documents, other.documents)]


def mutation(after, resource="box"):
    body = {
        "subject": {"type": "agent", "id": "a"},
        "action": {"name": "update"},
        "resource": {"type": resource, "id": "b"},
    }
    return normalise(mutation_from_wire({**body, "change": {"after": after}}))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("variables.size <= 2", "variables.size<=2 // as before"),
        ("{type: box}, {type: crate}", "{type: crate}, {type: box}"),
        ("[{group: a}, {group: b, count: 2}], expiresAfter: 24h", "[{group: b, count: 2}, {group: a, count: 1}], expiresAfter: 1440m, executeWithin: 1h"),
        ("spec:\n", "spec:\n  mode: enforce\n"),
        ("metadata:", "# words\nmetadata:"),
    ],
)  # fmt: skip
def test_what_means_the_same(tmp_path, old, new):
    assert old in POLICY
    assert changes(tmp_path, POLICY, POLICY.replace(old, new)) == []


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("variables.size <= 2", "variables.size <= 3", [("rules.small", Change.CHANGED, "when")]),
        ("effect: allow", "effect: deny, message: m", [("rules.small", Change.CHANGED, "effect"), ("rules.small", Change.CHANGED, "message")]),
        ("name: small", "name: tiny", [("rules.small", Change.REMOVED, ""), ("rules.tiny", Change.ADDED, "")]),
        ("count: 2", "count: 3", [("rules.large", Change.CHANGED, "approval")]),
        ("{type: box}, ", "", [("match", Change.CHANGED, "")]),
        ("spec:\n", "spec:\n  mode: shadow\n", [("mode", Change.CHANGED, "")]),
        ("{name: sizes}", "{name: sizes, labels: {a: b}}", [("labels", Change.ADDED, "")]),
        ("has(change.after.size)", "has(change.after)", [("matchConditions.known", Change.CHANGED, "")]),
        ('"change.after.size"', '"change.after.width"', [("variables.size", Change.CHANGED, ""), ("rules.large", Change.CHANGED, "variables.size"), ("rules.small", Change.CHANGED, "variables.size")]),
        ("{name: sizes}", "{name: others}", [("", Change.ADDED, ""), ("", Change.REMOVED, "")]),
    ],
)  # fmt: skip
def test_what_does_not(tmp_path, old, new, expected):
    assert old in POLICY
    assert changes(tmp_path, POLICY, POLICY.replace(old, new)) == expected


BEYOND = """\
apiVersion: mutationfirewall.io/v1
kind: MutationPolicy
metadata: {name: sizes}
spec:
  validFrom: 2026-03-01T00:00:00Z
  match: {actions: [a, b], exclude: [{actions: [x, y]}, {subjects: [{type: s}]}]}
  variables:
    - {name: size, expression: "change.after.size"}
  rules:
    - name: small
      effect: allow
      obligations: [{key: k, valueExpression: "[variables.size]"}, {key: l, value: 1}]
  freezes:
    - {name: weekend, schedule: "0 18 * * 5", timeZone: UTC, duration: 62h}
---
apiVersion: mutationfirewall.io/v1
kind: PolicyException
metadata: {name: e}
spec:
  owner: o
  reason: r
  validUntil: 2026-04-01T00:00:00Z
  policies: [{name: sizes, rules: [weekend]}]
  match: {actions: [a, b]}
  matchConditions: [{name: c, expression: "subject.id == 'x'"}]
"""


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("2026-03-01T00:00:00Z", "2026-03-01T01:00:00+01:00", []),
        ("actions: [x, y]}, {subjects: [{type: s}]}", "subjects: [{type: s}]}, {actions: [y, x]}", []),
        ("[variables.size]", "[ variables.size ]", []),
        ("0 18 * * 5", "0  18  * * 5", []),
        ("duration: 62h", "duration: 3720m, effect: deny", []),
        ("match: {actions: [a, b]}", "match: {actions: [b, a]}", []),
        ("subject.id == 'x'", "subject.id=='x'", []),
        ("  validFrom: 2026-03-01T00:00:00Z\n", "", [("validFrom", Change.REMOVED, "")]),
        ("{actions: [x, y]}, ", "", [("match", Change.CHANGED, "")]),
        ("value: 1", "value: 2", [("rules.small", Change.CHANGED, "obligations")]),
        ('"change.after.size"', '"change.after.width"', [("variables.size", Change.CHANGED, ""), ("rules.small", Change.CHANGED, "variables.size")]),
        ("timeZone: UTC", "timeZone: Europe/Berlin", [("freezes.weekend", Change.CHANGED, "timeZone")]),
        ("duration: 62h", "duration: 63h", [("freezes.weekend", Change.CHANGED, "duration")]),
        ("0 18 * * 5", "0 17 * * 5", [("freezes.weekend", Change.CHANGED, "schedule")]),
        ("reason: r", "reason: s", [("reason", Change.CHANGED, "")]),
        ("2026-04-01T00", "2026-05-01T00", [("validUntil", Change.CHANGED, "")]),
        (", rules: [weekend]", "", [("policies", Change.CHANGED, "")]),
        ("subject.id == 'x'", "subject.id == 'y'", [("matchConditions", Change.CHANGED, "")]),
        ("{name: e}", "{name: f}", [("", Change.REMOVED, ""), ("", Change.ADDED, "")]),
    ],
)  # fmt: skip
def test_what_is_beyond_rules(tmp_path, old, new, expected):
    assert BEYOND.count(old) >= 1
    assert changes(tmp_path, BEYOND, BEYOND.replace(old, new, 1)) == expected


def test_a_difference_says_of_which_kind_it_is(tmp_path):
    one = documents(tmp_path / "a", BEYOND)
    other = documents(tmp_path / "b", BEYOND.replace("reason: r", "reason: s").replace("value: 1", "value: 2"))
    assert [(found.kind, found.policy) for found in compare(one.documents, other.documents)] == [
        ("policy", "sizes"),
        ("exception", "e"),
    ]


def test_decisions_differ_by_what_is_lifted_and_by_obligations(tmp_path):
    change = mutation({"size": 1})
    sets = [documents(tmp_path / "a", BEYOND)]
    for i, (old, new) in enumerate([("value: 1", "value: 2"), ("actions: [a, b]}\n", "actions: [update]}\n")]):
        sets.append(documents(tmp_path / str(i), BEYOND.replace("actions: [a, b], ", "").replace(old, new)))
    from app.core.decide import decide

    saturday = NOW + dt.timedelta(days=1)
    base = documents(tmp_path / "base", BEYOND.replace("actions: [a, b], ", ""))
    for now, found, expected in ((NOW, sets[1], True), (NOW, base, False)):
        assert (
            Decided("m", decide(base.policy_set, change, now), decide(found.policy_set, change, now)).differs
            is expected
        )
    verdict = decide(sets[2].policy_set, change, saturday)
    assert [reason.exception for reason in verdict.reasons] == [None]


def test_decisions_differ_by_who_gave_them(tmp_path):
    from app.core.decide import decide

    one, other = (
        documents(tmp_path / "a", POLICY),
        documents(tmp_path / "b", POLICY.replace("name: small", "name: tiny")),
    )
    change = mutation({"size": 1, "password": "z"})
    found = Decided("m", decide(one.policy_set, change, NOW), decide(other.policy_set, change, NOW))
    assert found.differs
    assert not found.effect_differs


class TestExplain:
    def test_everything_that_was_asked(self, tmp_path):
        found = explain(documents(tmp_path / "a", POLICY), mutation({"size": 5, "password": "hunter2"}), now=NOW)
        (policy,) = found.policies
        assert policy.matches
        assert [(one.name, one.said.outcome) for one in policy.rules] == [
            ("small", "false"),
            ("large", "true"),
            ("odd", "false"),
        ]
        size, keys = policy.variables
        assert (size.name, size.value, keys.name, keys.value) == ("size", 5, "keys", MASK)
        assert [(one.site.text, one.values) for one in keys.sites] == [(keys.text, {"change.after.password": MASK})]
        (large,) = policy.rules[1].sites
        assert (large.site.text, large.outcome, large.values) == ("variables.size > 2", "true", {"variables.size": 5})
        assert combination(found) == "1 hold; deny > hold > allow, so hold"

    def test_what_does_not_match_says_what_of_it(self, tmp_path):
        found = explain(documents(tmp_path / "a", POLICY), mutation({"size": 5}, resource="bag"), now=NOW)
        assert found.policies[0].unmatched == ("resources",)
        assert combination(found) == "nothing spoke, and the default is deny"

    def test_failures_deny(self, tmp_path):
        found = explain(documents(tmp_path / "a", POLICY), mutation({"size": 1}), now=NOW)
        assert combination(found) == "1 allow, 1 failed and denies; deny > hold > allow, so deny"
        failed = found.policies[0].variables[1]
        assert (failed.value, failed.error) == (None, "no such key: `password`")
        assert failed.sites[0].outcome == "error"
        assert found.policies[0].rules[2].sites[0].outcome == "error"

    def test_exceptions_and_what_they_lift(self, tmp_path):
        text = BEYOND.replace("actions: [a, b], ", "").replace("  match: {actions: [a, b]}\n", "")
        checked = documents(tmp_path / "a", text.replace("subject.id == 'x'", "subject.id == 'a'"))
        saturday = NOW + dt.timedelta(days=1)
        found = explain(checked, mutation({"size": 1}), now=saturday)
        (exception,) = found.exceptions
        assert (exception.fits, exception.lifts) == (True, ("sizes/weekend",))
        assert combination(found) == "1 allow, 1 lifted by exceptions; deny > hold > allow, so allow"
        elsewhere = explain(documents(tmp_path / "b", text), mutation({"size": 1}), now=saturday).exceptions[0]
        assert (elsewhere.fits, elsewhere.lifts, elsewhere.conditions[0].said.outcome) == (False, (), "false")
        over = explain(checked, mutation({"size": 1}), now=NOW + dt.timedelta(days=40)).exceptions[0]
        assert over.unmatched == ("validUntil",)
        frozen = text.replace("  rules:\n    - name: small", "  rules:\n    - when: 'false'\n      name: small")
        alone = documents(tmp_path / "c", frozen.replace("subject.id == 'x'", "subject.id == 'a'"))
        assert combination(explain(alone, mutation({"size": 1}), now=saturday)) == (
            "nothing counts, 1 lifted by exceptions, and the default is deny"
        )

    def test_a_policy_outside_of_its_time_says_so(self, tmp_path):
        text = POLICY.replace(
            "spec:\n", "spec:\n  validFrom: 2026-03-01T00:00:00Z\n  validUntil: 2026-04-01T00:00:00Z\n"
        )
        checked = documents(tmp_path / "a", text)
        for days, unmatched in ((-20, ("validFrom",)), (0, ()), (30, ("validUntil",))):
            found = explain(checked, mutation({"size": 1}), now=NOW + dt.timedelta(days=days))
            assert found.policies[0].unmatched == unmatched

    def test_a_condition_that_fails_and_is_lifted(self, tmp_path):
        text = (
            POLICY.replace("has(change.after.size)", "change.after.nothing == 1") + "---\n" + BEYOND.split("---\n")[1]
        )
        text = text.replace(", rules: [weekend]", "").replace("  match: {actions: [a, b]}\n", "")
        checked = documents(tmp_path / "a", text.replace("subject.id == 'x'", "subject.id == 'a'"))
        found = explain(checked, mutation({"size": 1}), now=NOW)
        assert found.exceptions[0].lifts == ("sizes/known",)
        assert combination(found) == "nothing counts, 1 lifted by exceptions, and the default is deny"

    def test_a_refused_set_explains_nothing(self, tmp_path):
        with pytest.raises(ValueError, match="refused"):
            explain(check_directory(tmp_path), mutation({"size": 1}), now=NOW)


def test_costs_of_obligations_and_exceptions(tmp_path):
    text = BEYOND.replace("actions: [a, b], ", "").replace("  match: {actions: [a, b]}\n", "")
    checked = documents(tmp_path / "a", text)
    assert checked.policy_set is not None
    found = measure(checked.policy_set, [mutation({"size": 5})], now=NOW, rounds=2)
    assert {(cost.policy, cost.name, cost.part) for cost in found.costs} == {
        ("e", "c", "exception"),
        ("sizes", "small", "obligation k"),
    }


def test_costs_name_every_expression_that_is_reached(tmp_path):
    checked = documents(tmp_path / "a", POLICY)
    assert checked.policy_set is not None
    found = measure(checked.policy_set, [mutation({"size": 5, "password": "x"})], now=NOW, rounds=3)
    assert {(cost.name, cost.part) for cost in found.costs} == {
        ("known", "condition"), ("small", "when"), ("large", "when"), ("large", "message"), ("odd", "when")
    }  # fmt: skip
    assert all(cost.times == 3 and cost.microseconds > 0 for cost in found.costs)
    assert [cost.microseconds for cost in found.costs] == sorted(
        (cost.microseconds for cost in found.costs), reverse=True
    )


LIMITED = (
    POLICY
    + """\
  budgets:
    - {name: b, key: "string(variables.size)", distinct: "resource.id", limit: 3, window: 1h, when: "true"}
    - {name: c, per: subject, limit: 3, window: 1h}
"""
)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("window: 1h, when", "window: 60m, when", []),
        ("per: subject, limit: 3, window: 1h", "per: subject, limit: 3, window: 1h, effect: deny", []),
        ('"string(variables.size)"', '"string( variables.size )"', []),
        (', when: "true"', "", []),
        ("limit: 3, window: 1h, when", "limit: 4, window: 1h, when", [("budgets.b", Change.CHANGED, "limit")]),
        ("window: 1h, when", "window: 2h, when", [("budgets.b", Change.CHANGED, "window")]),
        ("per: subject", "per: resource", [("budgets.c", Change.CHANGED, "per")]),
        ('"resource.id"', '"subject.id"', [("budgets.b", Change.CHANGED, "distinct")]),
        ("name: c,", "name: d,", [("budgets.c", Change.REMOVED, ""), ("budgets.d", Change.ADDED, "")]),
        ('"change.after.size"', '"change.after.width"',
         [("variables.size", Change.CHANGED, ""), ("rules.large", Change.CHANGED, "variables.size"),
          ("rules.small", Change.CHANGED, "variables.size"), ("budgets.b", Change.CHANGED, "variables.size")]),
    ],
)  # fmt: skip
def test_budgets_are_compared(tmp_path, old, new, expected):
    assert old in LIMITED
    assert changes(tmp_path, LIMITED, LIMITED.replace(old, new)) == expected


def test_a_budget_is_summed_up(tmp_path):
    one, other = documents(tmp_path / "a", POLICY), documents(tmp_path / "b", LIMITED)
    found = {difference.part: difference.after for difference in compare(one.documents, other.documents)}
    assert found == {"budgets.b": "deny beyond 3 in 1h when true", "budgets.c": "deny beyond 3 in 1h when true"}
