"""The RecordMask kind: what is refused, where, and with which fix; and what a set makes of good ones."""

import textwrap

import pytest

from app.core.record_masks import MaskAction
from app.policies.compare import compare
from app.policies.load import check_text

POLICY = """\
apiVersion: mutationfirewall.io/v1
kind: MutationPolicy
metadata: {name: guard}
spec:
  rules: [{name: yes, effect: allow, when: "true"}]
---
"""
HEAD = "apiVersion: mutationfirewall.io/v1\nkind: RecordMask\nmetadata: {name: secrets}\nspec:\n"
GOOD = """\
match: {resources: [{type: v1/Secret}]}
matchConditions: [{name: real, expression: "context.dry != true"}]
masks:
  - {pointer: /change/after/data/*, action: hash}
  - {pointer: /**/password}
  - {pointersExpression: "change.paths.map(p, '/change/after' + p)"}
"""


def checked(spec, *, head=HEAD):
    return check_text(POLICY + head + textwrap.indent(textwrap.dedent(spec), "  "), name="p.yaml")


def test_a_good_one():
    found = checked(GOOD)
    assert found.diagnostics == ()
    (one,) = found.policy_set.masks
    assert one.name == "secrets"
    assert [(hiding.action, hiding.pattern) for hiding in one.hidings] == [
        (MaskAction.HASH, ("change", "after", "data", "*")),
        (MaskAction.ERASE, ("**", "password")),
        (MaskAction.ERASE, ()),
    ]
    assert one.hidings[2].pointers.text == "change.paths.map(p, '/change/after' + p)"
    assert [policy.name for policy in found.policy_set.policies] == ["guard"]


@pytest.mark.parametrize(
    ("spec", "path", "message", "fix"),
    [
        ("match: {actions: [x]}", "spec", "`masks` is missing", "add `masks`"),
        ("masks: []", "spec.masks", "the list is empty", None),
        ("masks: [{}]", "spec.masks[0]", "exactly one of", "in one way"),
        ("masks: [{pointer: /change/x, pointersExpression: '[]'}]", "spec.masks[0]", "exactly one of", None),
        ("masks: [{pointer: change}]", "spec.masks[0].pointer", "starts with `/`", None),
        ("masks: [{pointer: /change}]", "spec.masks[0].pointer", "no place that can be hidden", "`/change/...`"),
        ("masks: [{pointer: /rationale/x}]", "spec.masks[0].pointer", "no place", None),
        ("masks: [{pointer: /**}]", "spec.masks[0].pointer", "hides all of every mutation", "begin with"),
        ("masks: [{pointer: /*/*}]", "spec.masks[0].pointer", "hides all", None),
        ("masks: [{pointer: /chagne/x}]", "spec.masks[0].pointer", "no place", None),
        ("masks: [{pointer: /change/~x}]", "spec.masks[0].pointer", "`~`", None),
        ("masks: [{pointer: /change/x, action: hide}]", "spec.masks[0].action", "must be one of", None),
        ("masks: [{pointersExpression: 'change.'}]", "spec.masks[0].pointersExpression", "", None),
        ("masks: [{pointr: /change/x}]", "spec.masks[0].pointr", "unknown member", "did you mean `pointer`?"),
        (
            "matchConditions: [{name: a, expression: '1'}]\nmasks: [{pointer: /change/x}]",
            "spec.matchConditions[0].expression",
            "",
            None,
        ),
    ],
)
def test_what_is_refused(spec, path, message, fix):
    found = checked(spec)
    assert found.policy_set is None
    one = next(one for one in found.diagnostics if one.path == path)
    assert message in one.message
    assert fix is None or fix in (one.fix or "")


def test_a_document_without_a_spec_or_a_name_is_refused():
    head = "apiVersion: mutationfirewall.io/v1\nkind: RecordMask\n"
    assert any("`spec` is missing" in str(one) for one in check_text(POLICY + head, name="p").diagnostics)
    found = check_text(POLICY + head + "spec: {masks: [{pointer: /change/x}]}", name="p")
    assert [one.message for one in found.diagnostics] == ["`metadata` is missing"]


def test_two_of_one_name_are_refused_and_a_mask_is_no_policy():
    again = GOOD.replace("hash", "erase")
    both = POLICY + HEAD + textwrap.indent(GOOD, "  ") + "---\n" + HEAD + textwrap.indent(again, "  ")
    assert any("used twice" in one.message for one in check_text(both, name="p.yaml").diagnostics)
    alone = check_text(HEAD + textwrap.indent(GOOD, "  "), name="p.yaml")
    assert any("empty set" in one.message for one in alone.diagnostics)
    # Its name may be that of a policy.
    assert checked(GOOD, head=HEAD.replace("secrets", "guard")).policy_set is not None


def test_a_mask_is_part_of_what_the_digest_names():
    assert checked(GOOD).policy_set.digest != checked(GOOD.replace("hash", "erase")).policy_set.digest


def differences(before, after):
    old, new = (check_text(text, name="p.yaml").documents for text in (before, after))
    return [(one.kind, one.policy, one.part, str(one.change)) for one in compare(old, new)]


def test_what_differs_between_two_sets():
    good = POLICY + HEAD + textwrap.indent(GOOD, "  ")
    assert differences(good, good) == []
    assert differences(POLICY, good) == [("mask", "secrets", "", "added")]
    assert differences(good, POLICY) == [("mask", "secrets", "", "removed")]
    (changed,) = differences(good, good.replace("hash", "erase"))
    assert changed[:2] == ("mask", "secrets")
    assert differences(good, good.replace("{pointer: /**/password}", "{pointer: /**/password, action: erase}")) == []


TEST = """\
apiVersion: mutationfirewall.io/v1
kind: PolicyTest
metadata: {{name: t}}
spec:
  policies: ../policies
  cases:
    - name: a secret is hidden
      mutation:
        subject: {{type: agent, id: a}}
        action: {{name: update}}
        resource: {{type: t, id: r}}
        change: {{before: {{}}, after: {{password: hunter2}}}}
      expect: {{decision: allow, masked: {masked}}}
"""


@pytest.mark.parametrize(
    ("masked", "failure"),
    [("[/change/after/password]", None), ("[]", "masked: expected"), ("[/change/after/x]", "masked: expected")],
)
def test_a_policy_test_can_say_what_is_hidden(tmp_path, masked, failure):
    from typer.testing import CliRunner

    from app.cli import app

    (tmp_path / "policies").mkdir()
    (tmp_path / "tests").mkdir()
    mask = HEAD + "  masks: [{pointer: /**/password}]\n"
    (tmp_path / "policies" / "p.yaml").write_text(POLICY + mask)
    (tmp_path / "tests" / "t.yaml").write_text(TEST.format(masked=masked))
    result = CliRunner().invoke(app, ["policies", "test", str(tmp_path / "tests")])
    assert result.exit_code == (0 if failure is None else 1), result.output
    assert failure is None or failure in result.output
