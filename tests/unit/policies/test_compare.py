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
        assert {one.name: one.value for one in policy.variables}["size"] == "5"
        assert "hunter2" not in str(found)
        assert policy.variables[1].seen[0].value == f'"{MASK}"'
        assert combination(found) == "1 hold; deny > hold > allow, so hold"

    def test_what_does_not_match_says_what_of_it(self, tmp_path):
        found = explain(documents(tmp_path / "a", POLICY), mutation({"size": 5}, resource="bag"), now=NOW)
        assert found.policies[0].unmatched == ("resources",)
        assert combination(found) == "nothing spoke, and the default is deny"

    def test_failures_deny(self, tmp_path):
        found = explain(documents(tmp_path / "a", POLICY), mutation({"size": 1}), now=NOW)
        assert combination(found) == "1 allow, 1 failed and denies; deny > hold > allow, so deny"
        assert found.policies[0].variables[1].error
        assert found.policies[0].variables[1].seen[0].value is None

    def test_a_refused_set_explains_nothing(self, tmp_path):
        with pytest.raises(ValueError, match="refused"):
            explain(check_directory(tmp_path), mutation({"size": 1}), now=NOW)


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
