"""PolicyTest files: what is refused, what fails and in which words, what is covered; JUnit and the page."""

import textwrap
from pathlib import Path
from xml.etree.ElementTree import fromstring

import pytest

from app.core.cel import bind
from app.core.decide import decide
from app.core.normalise import normalise
from app.core.types import Effect, Outcome
from app.policies.coverage_page import coverage_page
from app.policies.diagnostics import PolicyErrors
from app.policies.junit import junit
from app.policies.load import load_directory
from app.policies.suite import read_suites
from app.policies.testing import run
from app.policies.trace import trace
from app.surfaces.native.wire import mutation_from_wire
from tests.corpus.cases import STARTER, load

POLICY = """\
apiVersion: mutationfirewall.io/v1
kind: MutationPolicy
metadata: {name: sizes}
spec:
  match: {resources: [{type: box}]}
  rules:
    - {name: small, effect: allow, when: "change.after.size <= 2"}
    - name: large
      effect: hold
      when: "change.after.size > 2"
      message: "<b>large</b>"
      approval: {anyOf: [{group: owners}]}
    - {name: never, effect: deny, when: "change.after.size > 1000", message: m}
"""
HEAD = (
    "apiVersion: mutationfirewall.io/v1\nkind: PolicyTest\nmetadata: {name: t}\nspec:\n  policies: policies\n  cases:\n"
)
MUTATION = "mutation: {subject: {type: agent, id: a}, action: {name: update}, resource: {type: box, id: b}, change: {after: {size: SIZE}}}"


@pytest.fixture
def here(tmp_path):
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "sizes.yaml").write_text(POLICY)
    return tmp_path


def case(name, size, expect):
    return f"    - name: {name}\n      {MUTATION.replace('SIZE', str(size))}\n      expect: {expect}\n"


def tried(here, *cases, text=None):
    (here / "t.yaml").write_text(text if text is not None else HEAD + "".join(cases))
    return run(read_suites([here / "t.yaml"], parse=mutation_from_wire))


def test_what_passes_and_what_fails(here):
    found = tried(
        here,
        case("good", 1, "{decision: allow, reasons: [{policy: sizes, rule: small}]}"),
        case(
            "held",
            3,
            "{decision: hold, message: large, approval: {anyOf: [{group: owners, count: 1}], expiresAfter: 168h}}",
        ),
        case(
            "wrong",
            3,
            "{decision: deny, reasons: [{policy: sizes, rule: never, effect: deny}], message: nobody, approval: {anyOf: [{group: x}]}}",
        ),
        case("no approval", 1, "{decision: allow, approval: {expiresAfter: 1h}}"),
    )
    assert [bool(result.failures) for result in found.results] == [False, False, True, True]
    words = "\n".join(found.failed[0].failures)
    assert "decision: expected `deny`, got `hold` by sizes/large “<b>large</b>”" in words
    assert "reasons: expected sizes/never (effect `deny`); got sizes/large" in words
    assert "message: expected `nobody` in one of" in words
    assert "approval.anyOf: expected" in words
    assert found.failed[1].failures == ("approval: expected one, but the decision is `allow`",)


def test_obligations_are_compared(here):
    obliging = POLICY.replace(
        'when: "change.after.size <= 2"}',
        'when: "change.after.size <= 2", obligations: [{key: a, value: 1}, {key: b, valueExpression: change.after}]}',
    )
    (here / "policies" / "sizes.yaml").write_text(obliging)
    found = tried(
        here,
        case("all", 1, "{decision: allow, obligations: [{policy: sizes, rule: small, key: a, value: 1}, {key: b}]}"),
        case("value", 1, "{decision: allow, obligations: [{key: a, value: 1.0}, {key: b, value: {size: 1}}]}"),
        case("none", 3, "{decision: hold, obligations: []}"),
        case("too few", 1, "{decision: allow, obligations: []}"),
        case("another", 1, "{decision: allow, obligations: [{key: a, value: true}, {key: b}]}"),
    )
    assert [bool(result.failures) for result in found.results] == [False, False, False, True, True]
    (words,) = found.failed[0].failures
    assert words.startswith('obligations: expected none; got `{"key":"a","policy":"sizes"')


EXCEPTION = """\
---
apiVersion: mutationfirewall.io/v1
kind: PolicyException
metadata: {name: movers}
spec:
  owner: o
  reason: r
  validUntil: 2026-04-01T00:00:00Z
  policies: [{name: sizes, rules: [large]}]
---
apiVersion: mutationfirewall.io/v1
kind: MutationPolicy
metadata: {name: anything}
spec: {rules: [{name: any, effect: allow, when: "true"}]}
"""


def test_exceptions_are_compared(here):
    (here / "policies" / "sizes.yaml").write_text(POLICY + EXCEPTION)
    lifted = "{policy: sizes, rule: large, exception: movers}"
    found = tried(
        here,
        case("named", 3, "{decision: allow, exceptions: [movers]}"),
        case("none", 1, "{decision: allow, exceptions: []}"),
        case("reasons", 3, f"{{decision: allow, reasons: [{{policy: anything, rule: any}}, {lifted}]}}"),
        case("too many", 3, "{decision: allow, exceptions: []}"),
        case("another", 1, "{decision: allow, exceptions: [movers]}"),
        case(
            "unmarked", 3, "{decision: allow, reasons: [{policy: anything, rule: any}, {policy: sizes, rule: large}]}"
        ),
        case(
            "marked",
            1,
            "{decision: allow, reasons: [{policy: anything, rule: any}, {policy: sizes, rule: small, exception: x}]}",
        ),
    )
    assert [bool(result.failures) for result in found.results] == [False, False, False, True, True, True, True]
    assert found.failed[0].failures == ("exceptions: expected none; got `movers`",)
    assert found.failed[1].failures == ("exceptions: expected `movers`; got none",)
    assert "got anything/any “allowed by this rule”, sizes/large (lifted by `movers`)" in found.failed[2].failures[0]
    assert "expected anything/any, sizes/small (lifted by `x`)" in found.failed[3].failures[0]


def test_a_freeze_is_covered_when_it_is_open_and_when_it_is_not(here):
    frozen = POLICY + '  freezes: [{name: weekend, schedule: "0 18 * * 5", timeZone: UTC, duration: 62h}]\n'
    (here / "policies" / "sizes.yaml").write_text(frozen)
    saturday = case("frozen", 1, "{decision: deny}").replace(
        "      expect", "      now: 2026-03-14T00:00:00Z\n      expect"
    )
    (coverage,) = tried(here, case("open", 1, "{decision: allow}")).coverage
    assert coverage.rules[-1].missing == "never spoke"
    (coverage,) = tried(here, case("open", 1, "{decision: allow}"), saturday).coverage
    assert coverage.rules[-1].missing == ""


def test_coverage(here):
    (coverage,) = tried(here, case("a", 1, "{decision: allow}"), case("b", 3, "{decision: hold}")).coverage
    assert [(rule.rule, rule.missing) for rule in coverage.rules] == [
        ("small", ""),
        ("large", ""),
        ("never", "never spoke"),
    ]
    assert coverage.percent == 83.3


def test_a_rule_that_always_speaks_need_not_be_silent(here):
    always = POLICY.replace('when: "change.after.size > 1000", ', "")
    (here / "policies" / "sizes.yaml").write_text(always)
    (coverage,) = tried(here, case("a", 1, "{decision: deny}")).coverage
    assert [rule.missing for rule in coverage.rules] == ["never was silent", "never spoke", ""]


def test_errors_are_counted(here):
    (coverage,) = tried(here, case("a", "x", "{decision: deny}")).coverage
    assert [rule.said[Outcome.ERROR] for rule in coverage.rules] == [1, 1, 1]


def test_junit_is_xml_with_every_case(here):
    found = tried(here, case("good", 1, "{decision: allow}"), case('"b\\x01ad"', 3, "{decision: deny}"))
    root = fromstring(junit(found.results))
    assert root.attrib["tests"] == "2"
    (suite,) = root
    assert [one.attrib["name"] for one in suite] == ["good", "b\ufffdad"]
    assert [len(one) for one in suite] == [0, 1]


def test_the_page_needs_nothing_and_escapes_everything(here):
    found = tried(here, case("'<script>'", 3, "{decision: deny}"))
    page = coverage_page(found.coverage, results=found.results)
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "<b>" not in page
    assert "http" not in page
    assert "never spoke" in page


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("    - {name: a}\n", 7, "`expect` is missing"),
        ("    - {name: a, expect: {decision: allow}}\n", 7, "needs exactly one of `mutation` and `file`"),
        ("    - {name: a, file: none.json, expect: {decision: allow}}\n", 7, "`none.json` cannot be read: no such file or directory"),
        ("    - {name: a, mutation: {}, expect: {decision: alow}}\n", 7, "must be one of `allow`, `deny`, `hold`, not `alow`"),
        ("    - {name: a, mutation: {}, expect: {decision: allow}}\n", 7, "the mutation is refused: member `subject` is missing"),
        ("    - {name: a, mutation: [], expect: {decision: allow}}\n", 7, "must be an object"),
        ("    - {name: a, mutation: {}, edit: [{op: jump}], expect: {decision: allow}}\n", 7, "jump"),
        ("    - {name: a, mutation: {}, nwo: x, expect: {decision: allow}}\n", 7, "unknown member `nwo`"),
        ("    - {name: a, mutation: {}, now: today, expect: {decision: allow}}\n", 7, "`today` is not an instant"),
        (case("a", 1, "{decision: allow}") * 2, 10, "the name `a` is used twice"),
        ("    []\n", 7, "the list is empty"),
    ],
)  # fmt: skip
def test_what_is_no_test(here, text, line, message):
    with pytest.raises(PolicyErrors) as caught:
        tried(here, text=HEAD + text)
    assert any(message in one.message and one.line == line for one in caught.value.diagnostics), (
        caught.value.diagnostics
    )


def test_files_that_are_no_tests(here, tmp_path):
    for content in (b"\xff", b"a: [", b"# nothing\n", b"kind: Other\n", b"x" * 1_100_000):
        (here / "t.yaml").write_bytes(content)
        with pytest.raises(PolicyErrors):
            read_suites([here / "t.yaml"], parse=mutation_from_wire)
    with pytest.raises(PolicyErrors):
        read_suites([here / "none"], parse=mutation_from_wire)
    (here / "m.json").write_text("[1]")
    (here / "t.yaml").write_text(HEAD + "    - {name: a, file: m.json, expect: {decision: allow}}\n")
    with pytest.raises(PolicyErrors) as caught:
        read_suites([here], parse=mutation_from_wire)
    assert "is no mutation" in caught.value.diagnostics[0].message


def test_a_file_an_edit_and_an_instant(here):
    (here / "m.json").write_text(
        '{"subject": {"type": "agent", "id": "a"}, "action": {"name": "update"}, "resource": {"type": "box", "id": "b"}, "change": {"after": {"size": 1}}}'
    )
    text = textwrap.indent(
        textwrap.dedent(
            """\
            - name: edited
              file: m.json
              edit: [{op: replace, path: /change/after/size, value: 9}]
              now: "2026-01-01T00:00:00+02:00"
              expect: {decision: hold}
            """
        ),
        "    ",
    )
    found = tried(
        here, text=HEAD.replace("policies: policies", "policies: policies\n  now: '2026-02-01T00:00:00Z'") + text
    )
    assert not found.failed
    assert found.results[0].case.now.month == 1


def test_policies_that_do_not_load(here):
    (here / "policies" / "sizes.yaml").write_text("kind: x\n")
    with pytest.raises(PolicyErrors):
        tried(here, case("a", 1, "{decision: allow}"))


def test_the_trace_and_the_core_agree_on_the_corpus():
    policy_set = load_directory(STARTER)
    for one in load():
        normalised = normalise(one.parsed())
        verdict = decide(policy_set, normalised, one.now)
        asked = trace(policy_set, bind(normalised.inputs, now=one.now))
        assert {policy.policy.name for policy in asked if not policy.unmatched} >= {
            policy.name for policy in policy_set.select(normalised.inputs)
        }
        spoke = {
            (policy.policy.name, rule.name)
            for policy in asked
            for rule, said in policy.rules
            if said.outcome is Outcome.TRUE and rule.effect is verdict.effect
        }
        named = {(reason.policy, reason.rule) for reason in verdict.reasons if reason.clause is None}
        assert (
            named <= spoke | {("mutation-firewall", "default-deny")}
            or verdict.effect is Effect.DENY
            or any(reason.mode == "shadow" for reason in verdict.reasons)
        )


def test_policies_are_passed_over(here):
    (here / "policies" / "t.yaml").write_text(
        (HEAD + case("a", 1, "{decision: allow}")).replace("policies: policies", "policies: .")
    )
    assert len(read_suites([Path(here / "policies")], parse=mutation_from_wire)) == 1


BUDGETED = """\
apiVersion: mutationfirewall.io/v1
kind: MutationPolicy
metadata: {name: limits}
spec:
  match: {resources: [{type: box}]}
  rules: [{name: yes, effect: allow}]
  budgets: [{name: kinds, per: subject, distinct: "string(change.after.size)", limit: 3, window: 24h}]
"""


def budgeted(name, counts, expect):
    return case(name, 1, expect).replace("      expect:", f"      budgets: {counts}\n      expect:")


def test_a_case_says_how_much_is_used(here):
    (here / "policies" / "sizes.yaml").write_text(BUDGETED)
    found = tried(
        here,
        case("unused", 1, "{decision: allow}"),
        budgeted("used", "{limits/kinds: {used: 3}}", "{decision: deny, reasons: [{policy: limits, rule: kinds}]}"),
        budgeted("seen", "{limits/kinds: {used: 3, seen: true}}", "{decision: allow}"),
        budgeted("misspelt", "{limits/kind: {used: 3}, q/b: {used: 1}}", "{decision: allow}"),
    )
    assert [result.failures for result in found.results] == [
        (),
        (),
        (),
        ("budgets: there is no budget `limits/kind`, `q/b`",),
    ]


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ("{}", "must be an object with at least one budget"),
        ("[1]", "must be an object with at least one budget"),
        ("{p/b: {}}", "`used` is missing"),
        ("{p/b: {used: -1}}", "must be from 0 to 1000000, not -1"),
        ("{p/b: {used: 1, seen: x}}", "must be true or false"),
        ("{p/b: {used: 1, sen: true}}", "unknown member `sen`"),
        ("{p/b: 3}", "must be an object, not a whole number"),
    ],
)
def test_counts_that_cannot_be_read(here, counts, words):
    with pytest.raises(PolicyErrors) as caught:
        tried(here, budgeted("c", counts, "{decision: allow}"))
    assert any(words in found.message for found in caught.value.diagnostics)
