"""`spec.budgets`: what a good one becomes, and what is refused, where, with which fix."""

import re
import textwrap
from pathlib import Path

import pytest

from app.core.index import Per
from app.core.types import Effect
from app.policies.document import read_policy
from app.policies.durations import seconds
from app.policies.reader import Reader
from app.policies.tree import documents

HEAD = "apiVersion: mutationfirewall.io/v1\nkind: MutationPolicy\nmetadata: {name: p}\nspec:\n"
GOOD = """\
variables: [{name: zone, expression: "string(resource.properties.zone)"}]
budgets:
  - name: objects-per-hour
    per: subject
    limit: 20
    window: 1h
    effect: hold
    message: "more than 20 changes in an hour need a person"
    approval: {anyOf: [{group: sre}]}
  - {name: namespaces-per-day, per: resource, distinct: "resource.properties.namespace", limit: 3, window: 24h}
  - {name: zones, key: "variables.zone", when: "action.name == 'delete'", limit: 1, window: 744h, effect: deny}
"""


def spec(text):
    text = HEAD + textwrap.indent(textwrap.dedent(text), "  ")
    reader = Reader("p.yaml", text=text)
    (root,) = documents(text)
    policy = read_policy(root, reader)
    return policy, [(d.path, d.message, d.fix) for d in reader.diagnostics]


def test_a_good_one():
    policy, found = spec(GOOD)
    assert found == []
    assert policy is not None
    assert policy.rules == ()
    held, distinct, keyed = policy.budgets
    assert (held.name, held.per, held.limit, held.window, held.window_seconds) == (
        "objects-per-hour", Per.SUBJECT, 20, "1h", 3600,
    )  # fmt: skip
    assert (held.effect, held.key, held.distinct, held.when) == (Effect.HOLD, None, None, None)
    assert held.message == "more than 20 changes in an hour need a person"
    assert held.approval is not None
    assert held.approval.tree == {"anyOf": [{"group": "sre", "count": 1}]}
    assert (distinct.per, distinct.effect, distinct.approval, distinct.message) == (
        Per.RESOURCE, Effect.DENY, None, None,
    )  # fmt: skip
    assert distinct.distinct is not None
    assert distinct.distinct.text == "resource.properties.namespace"
    assert (keyed.per, keyed.window_seconds) == (Per.KEY, 744 * 3600)
    assert keyed.key is not None
    assert keyed.when is not None


BUDGET = "{name: b, per: subject, limit: 1, window: 1h}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("budgets: []", ("spec.budgets", "the list is empty", "leave the member out, or fill it")),
        ("budgets: [{name: b, per: subject, limit: 1}]", ("spec.budgets[0]", "`window` is missing", "add `window`")),
        ("budgets: [{name: b, per: subject, window: 1h}]", ("spec.budgets[0]", "`limit` is missing", "add `limit`")),
        ("budgets: [{per: subject, limit: 1, window: 1h}]", ("spec.budgets[0]", "`name` is missing", "add `name`")),
        ("budgets: [{name: b, limit: 1, window: 1h}]",
         ("spec.budgets[0]", "needs exactly one of `per` and `key`", "say whose budget it is: `per: subject`, `per: resource`, or a `key` of your own")),
        (f"budgets: [{BUDGET[:-1]}, key: \"'k'\"}}]",
         ("spec.budgets[0]", "needs exactly one of `per` and `key`", "say whose budget it is: `per: subject`, `per: resource`, or a `key` of your own")),
        ("budgets: [{name: b, per: key, limit: 1, window: 1h}]",
         ("spec.budgets[0].per", "must be one of `subject`, `resource`, not `key`", None)),
        ("budgets: [{name: b, per: subject, limit: 0, window: 1h}]", ("spec.budgets[0].limit", "must be from 1 to 10000, not 0", None)),
        ("budgets: [{name: b, per: subject, limit: 10001, window: 1h}]", ("spec.budgets[0].limit", "must be from 1 to 10000, not 10001", None)),
        ("budgets: [{name: b, per: subject, limit: 1, window: 745h}]",
         ("spec.budgets[0].window", "`745h` is not between a second and 31 days", "write for example `168h`")),
        ("budgets: [{name: b, per: subject, limit: 1, window: 1d}]",
         ("spec.budgets[0].window", "`1d` is not a duration", "write hours, minutes and seconds, for example `168h`")),
        (f"budgets: [{BUDGET[:-1]}, effect: allow}}]", ("spec.budgets[0].effect", "must be one of `deny`, `hold`, not `allow`", None)),
        (f"budgets: [{BUDGET[:-1]}, effect: hold}}]",
         ("spec.budgets[0]", "a budget that says `hold` needs `approval`", "add `approval: {anyOf: [{group: NAME, count: 1}]}`")),
        (f"budgets: [{BUDGET[:-1]}, approval: {{anyOf: [{{group: g}}]}}}}]",
         ("spec.budgets[0].approval", "no approval lifts a budget that says `deny`", "remove it, or make the effect `hold`")),
        (f"budgets: [{BUDGET[:-1]}, distinct: '1'}}]",
         ("spec.budgets[0].distinct", "the expression gives `int`, not `string`", "convert it with `string(...)`")),
        (f"budgets: [{BUDGET[:-1]}, when: \"'a'\"}}]",
         ("spec.budgets[0].when", "the expression gives `string`, not `bool`", "make it a comparison, for example with `== true`")),
        (f"budgets: [{BUDGET}, {BUDGET}]", ("spec.budgets[1].name", "the name `b` is used twice in this policy", "rename one")),
        (f"budgets: [{BUDGET}]\nrules: [{{name: b, effect: allow, when: 'true'}}]",
         ("spec.budgets[0].name", "the name `b` is used twice in this policy", "rename one")),
        (f"budgets: [{BUDGET[:-1]}, windows: 1}}]", ("spec.budgets[0].windows", "unknown member `windows`", "did you mean `window`?")),
        ("budgets: [1]", ("spec.budgets[0]", "must be an object, not a whole number", None)),
        ("{}", ("spec", "`rules` is missing", "add `rules`")),
    ],
)  # fmt: skip
def test_what_is_refused(text, expected):
    policy, found = spec(text)
    assert policy is None
    assert expected in found


def test_a_text_that_is_no_duration_has_no_seconds():
    with pytest.raises(ValueError, match="`1d` is not a duration"):
        seconds("1d")


def test_the_documented_ones_load():
    page = (Path(__file__).resolve().parents[3] / "docs" / "policies.md").read_text()
    (block,) = re.findall(r"## Budgets\n\n```yaml\n(.*?)```", page, flags=re.DOTALL)
    policy, found = spec(block)
    assert found == []
    assert policy is not None
    assert [budget.name for budget in policy.budgets] == ["objects-per-hour", "namespaces-per-day"]
