"""Coverage by clause: which parts count, what of them was seen, and where they stand in their files."""

import re

import pytest

from app.core.index import Policy
from app.policies.coverage import clause_percent
from app.policies.coverage_page import coverage_page
from app.policies.load import check_directory
from app.policies.suite import read_suites
from app.policies.testing import run
from app.policies.trace import expressions, variables
from app.surfaces.native.wire import mutation_from_wire

POLICY = """\
apiVersion: mutationfirewall.io/v1
kind: MutationPolicy
metadata: {name: sizes}
spec:
  match: {resources: [{type: box}]}
  variables:
    - {name: size, expression: "change.after.size"}
    - {name: big, expression: "variables.size > 10 || variables.size < 0"}
    - {name: sizes, expression: "[1, 2]"}
  matchConditions:
    - {name: known, expression: "has(change.after.size)"}
  rules:
    - {name: small, effect: allow, when: "variables.size in variables.sizes && true"}
    - name: large
      effect: hold
      when: >-
        variables.big
        && action.name == 'update'
      messageExpression: "variables.size > 100 ? 'very large' : 'large'"
      approval: {anyOf: [{group: owners}]}
      obligations: [{key: a, valueExpression: "variables.size == 11"}]
  freezes:
    - name: weekend
      schedule: "0 0 * * 6"
      timeZone: UTC
      duration: 48h
      when: "subject.type == 'agent'"
  budgets:
    - name: few
      per: subject
      limit: 9
      window: 1h
      when: "resource.id == 'b'"
      distinct: "resource.id"
"""
TEST = """\
apiVersion: mutationfirewall.io/v1
kind: PolicyTest
metadata: {name: t}
spec:
  policies: policies
  cases:
"""
CASE = """\
    - name: NAME
      mutation: {subject: {type: agent, id: a}, action: {name: ACTION}, resource: {type: box, id: ID}, change: {after: AFTER}}
      budgets: {sizes/few: {used: 0}}
      expect: {decision: DECISION}
"""


def case(name, after, decision, *, action="update", resource="b"):
    return (
        CASE.replace("NAME", name)
        .replace("ACTION", action)
        .replace("ID", resource)
        .replace("AFTER", after)
        .replace("DECISION", decision)
    )


@pytest.fixture
def covered(tmp_path):
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "sizes.yaml").write_text(POLICY)

    def covered(*cases):
        (tmp_path / "t.yaml").write_text(TEST + "".join(cases))
        found = run(read_suites([tmp_path / "t.yaml"], parse=mutation_from_wire))
        assert not found.failed, [result.failures for result in found.failed]
        return found

    return covered


def missing(found):
    return [(clause.path, clause.site.text, clause.missing) for clause in found.coverage[0].clauses if clause.missing]


def test_what_one_case_leaves(covered):
    found = covered(case("small", "{size: 1}", "allow"))
    assert missing(found) == [
        ("variables[1].expression", "variables.size > 10 || variables.size < 0", "never true"),
        ("variables[1].expression", "variables.size > 10", "never true"),
        ("variables[1].expression", "variables.size < 0", "never true"),
        ("matchConditions[0].expression", "has(change.after.size)", "never false"),
        ("rules[0].when", "variables.size in variables.sizes && true", "never false"),
        ("rules[0].when", "variables.size in variables.sizes", "never false"),
        ("rules[1].when", "variables.big && action.name == 'update'", "never true"),
        ("rules[1].when", "variables.big", "never true"),
        ("rules[1].when", "action.name == 'update'", "never reached"),
        ("rules[1].messageExpression", "variables.size > 100", "never reached"),
        ("rules[1].obligations[0].valueExpression", "variables.size == 11", "never reached"),
        ("freezes[0].when", "subject.type == 'agent'", "never reached"),
        ("budgets[0].when", "resource.id == 'b'", "never false"),
    ]
    (coverage,) = found.coverage
    assert coverage.clause_percent == clause_percent(coverage.clauses) < coverage.percent
    # A part that reads nothing is covered by one outcome.
    (constant,) = [clause for clause in coverage.clauses if clause.site.text == "true"]
    assert (constant.wanted, constant.seen, constant.missing) == (1, 1, "")


def test_everything_that_can_be_seen(covered):
    found = covered(
        case("small", "{size: 1}", "allow"),
        case("large", "{size: 11}", "hold"),
        case("very large", "{size: 111}", "hold", resource="c"),
        case("less than nothing", "{size: -1}", "hold"),
        case("another action", "{size: 11}", "deny", action="patch"),
        case("nothing", "{}", "deny"),
    )
    assert missing(found) == [("freezes[0].when", "subject.type == 'agent'", "never reached")]


def test_each_part_stands_in_its_file(covered, tmp_path):
    found = covered(case("small", "{size: 1}", "allow"))
    lines = (tmp_path / "policies" / "sizes.yaml").read_text().splitlines()
    for clause in found.coverage[0].clauses:
        word = re.split(r"[^\w.]", clause.site.text)[0]
        assert lines[clause.line - 1][clause.column - 1 :].startswith(word), clause


def test_an_expression_that_fails_has_said_neither(covered):
    found = covered(case("no number", "{size: x}", "deny"))
    assert ("variables[1].expression", "variables.size > 10", "never reached") in missing(found)


def test_the_page_shows_the_text_in_colours(covered):
    found = covered(case("small", "{size: 1}", "allow"), case("large", "{size: 11}", "hold"))
    page = coverage_page(found.coverage, results=found.results)
    assert '<span class="part" title="never false">action.name == &#x27;update&#x27;</span>' in page
    assert '<span class="good" title="covered">variables.size &gt; 10</span>' in page
    assert '<code>variables.size &lt; 0</code> <span class="part">never true</span>' in page
    assert '<span class="bad" title="never reached">subject.type' in page


def test_every_expression_has_a_path(tmp_path):
    (tmp_path / "sizes.yaml").write_text(POLICY)
    policy_set = check_directory(tmp_path).policy_set
    assert policy_set is not None
    (policy,) = policy_set.policies
    assert isinstance(policy, Policy)
    assert [path for path, _ in expressions(policy)] == [
        "matchConditions[0].expression",
        "rules[0].when",
        "rules[1].when",
        "rules[1].messageExpression",
        "rules[1].obligations[0].valueExpression",
        "freezes[0].when",
        "budgets[0].when",
        "budgets[0].distinct",
    ]
    # The third is a constant.
    assert sorted(variables(policy)) == ["variables[0].expression", "variables[1].expression"]


EXCEPTION = """\
---
apiVersion: mutationfirewall.io/v1
kind: PolicyException
metadata: {name: sizes}
spec:
  owner: zoe@example.com
  reason: the move to the new boxes
  validUntil: "2026-04-01T00:00:00Z"
  policies: [{name: sizes}]
  matchConditions:
    - {name: moved, expression: "change.after.size > 5 && resource.id == 'b'"}
"""


def test_the_conditions_of_an_exception_count(covered, tmp_path):
    (tmp_path / "policies" / "sizes.yaml").write_text(POLICY + EXCEPTION)
    found = covered(case("small", "{size: 1}", "allow"))
    path = "matchConditions[0].expression"
    assert [
        (one.site.text, one.line, one.missing) for one in found.coverage[0].clauses if one.policy == "exception sizes"
    ] == [
        ("change.after.size > 5 && resource.id == 'b'", 45, "never true"),
        ("change.after.size > 5", 45, "never true"),
        ("resource.id == 'b'", 45, "never reached"),
    ]
    page = coverage_page(found.coverage, results=found.results)
    assert f"<h2>exception sizes</h2>\n<div>{path}" in page
