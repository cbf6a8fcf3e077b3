"""What a set computes once for several expressions changes no verdict: no value, no error, no budget."""

import datetime as dt
import os
import random
from functools import lru_cache

import pytest

from app.core.cel import EvaluationError, ResultType, bind, compile_expression
from app.core.cel.budget import STEPS_MAX
from app.core.decide import decide
from app.core.index import CompiledPolicySet, Condition, Policy, Rule
from app.core.types import Effect, NormalisedMutation
from tests.seeds import seed

NOW = dt.datetime(2026, 3, 14, tzinfo=dt.UTC)
CASES = int(os.environ.get("MFW_SHARING_CASES", "300"))
VARIABLES = {
    "names": "change.after.items.map(x, x.name)",
    "x": "change.after.x",
    "half": "lists.range(context.n)",
}
HEAVY = [
    "change.after.items.all(x, x.name.startsWith('a'))",
    "change.after.items.exists(x, x.n > 1)",
    "change.after.items.filter(x, x.n > 1).exists(y, y.n == 2)",
    "change.after.items.map(x, x.name).join(',').contains('a')",
    "variables.names.exists(x, x == 'b')",
    "'b' in variables.names",
    "change.after.x.matches('^[a-c]+$')",
    "variables.x.matches('^[a-c]+$')",
    "change.after.x.split('b').size() > 1",
    "change.after.x.replace('a', 'b').split('b').size() > change.after.x.split('b').size()",
    "cel.bind(v, change.after.x.split('b'), v.size() > 1 && v.all(w, w != 'q'))",
    "cel.bind(x, change.after.items, x.filter(x, x.n > 1).size() > 0)",
    "cel.bind(x, change.before.items, x.filter(x, x.n > 1).size() > 0)",
    "change.after.items.all(x, change.after.x.split('b').exists(y, y == x.name))",
    "size(lists.range(context.n)) > 3",
    "lists.range(context.n).all(i, i >= 0)",
    "size(variables.half) > 2",
    "quantity(change.after.x).isGreaterThan(quantity('1Gi'))",
    "change.after.?items.optMap(i, i.exists(x, x.n == 1)).orValue(false)",
    "timestamp(change.after.x) < now",
    "has(change.after.x)",
]
ITEMS = [[], None, "a", [{"name": "a", "n": 1}], [{"name": "b", "n": 2}, {"name": "a"}], [{"n": 3}, {"name": 1}]]


@lru_cache(maxsize=10_000)
def program(text):
    return compile_expression(text, result=ResultType.BOOL, variables=VARIABLES)


def condition(pick, depth=2):
    if depth == 0 or pick.random() < 0.4:
        return pick.choice(HEAVY)
    a, b = condition(pick, depth - 1), condition(pick, depth - 1)
    return pick.choice([f"({a} && {b})", f"({a} || {b})", f"!({a})", f"({a} ? {b} : {a})"])


def mutation(pick):
    after = {"items": pick.choice(ITEMS), "x": pick.choice(["abc", "b", 1, "2Gi", "2026-01-01T00:00:00Z"])}
    change = {"paths": [], "added": [], "removed": [], "files": [], "statements": [], "before": {"items": ITEMS[3]}}
    if pick.random() < 0.9:
        change["after"] = after
    inputs = {
        "subject": {"type": "agent", "id": "s", "properties": {}},
        "action": {"name": "update", "properties": {}},
        "resource": {"type": "t", "id": "i", "properties": {}},
        # The last ones so that two or three together cost more than one expression may.
        "context": {"n": pick.choice([0, 3, 3, 3, STEPS_MAX // 5 * 2, STEPS_MAX * 2])},
        "change": change,
    }
    return NormalisedMutation(inputs, "sha256:0")


def test_sharing_changes_no_verdict(monkeypatch):
    begin = seed()
    rewritten = 0
    for case in range(CASES):
        pick = random.Random(f"{begin}-{case}")
        policies = [
            Policy(
                f"p{i}",
                tuple(
                    Rule(f"r{j}", pick.choice([Effect.ALLOW, Effect.DENY]), program(condition(pick)))
                    for j in range(pick.randint(1, 3))
                ),
                conditions=tuple(Condition(f"c{j}", program(condition(pick))) for j in range(pick.randint(0, 2))),
            )
            for i in range(pick.choice([1, 2, 5]))
        ]
        sharing = CompiledPolicySet(policies, digest="d")
        rewritten += sum(a is not b for a, b in zip(sharing.policies, policies, strict=True))
        with monkeypatch.context() as patched:
            patched.setattr("app.core.index.share", lambda _: {})
            alone = CompiledPolicySet(policies, digest="d")
        assert [a is b for a, b in zip(alone.policies, policies, strict=True)]
        for _ in range(3):
            asked = mutation(pick)
            assert decide(sharing, asked, NOW) == decide(alone, asked, NOW), f"case {begin}-{case}: {asked.inputs}"
    assert rewritten > CASES // 2


def shared(*texts, variables=None, **inputs):
    """Give the programs of a set with these rules, and bindings to evaluate them with."""
    rules = tuple(
        Rule(f"r{i}", Effect.DENY, compile_expression(text, result=ResultType.BOOL, variables=variables or {}))
        for i, text in enumerate(texts)
    )
    (policy,) = CompiledPolicySet([Policy("p", rules)], digest="d").mutation_policies
    everything = {name: {} for name in ("subject", "action", "resource", "context", "change")} | inputs
    new = [rule.when for rule in policy.rules if rule.when is not None]
    old = [rule.when for rule in rules if rule.when is not None]
    return [a is not b for a, b in zip(new, old, strict=True)], new, bind(everything, now=NOW)


def test_a_part_is_computed_once():
    part = "context.xs.exists(x, x == 2)"
    new, programs, bindings = shared(part, f"true && {part}", "context.xs.exists(y, y == 2)", context={"xs": [1, 2]})
    assert new == [True, True, False]
    assert [program.evaluate(bindings) for program in programs] == [True, True, True]
    assert len(bindings.values) == 1


@pytest.mark.parametrize(("n", "fails"), [(3, False), (STEPS_MAX // 5 * 2, True), (STEPS_MAX * 2, True)])
def test_every_reader_pays_for_it(n, fails):
    text = " && ".join(f"size(lists.range(context.n)) > {i}" for i in range(3))
    new, (program_,), bindings = shared(text, context={"n": n})
    assert new == [True]
    alone = program(text)
    for one in (program_, alone):
        if fails:
            with pytest.raises(EvaluationError, match=f"takes more than {STEPS_MAX} steps"):
                one.evaluate(bindings)
        else:
            assert one.evaluate(bindings) is True


@pytest.mark.parametrize(
    "texts",
    [
        # Not the same: names, constants of another type, other variables, other order.
        ("context.x.split('a') == []", "context.y.split('a') == []"),
        ("context.x.matches('1')", "context.x.matches('2')"),
        ("[1].exists(x, x == context.x)", "[1u].exists(x, x == context.x)"),
        ("context.x.all(x, has(x.a))", "context.x.all(x, x.a)"),
        ("context.x.map(a, a) == []", "context.x.map(b, b) == []"),
        # Not costly.
        ("context.x.startsWith('a')", "context.x.startsWith('a')"),
        # Not closed.
        ("cel.bind(x, context.x, x.all(y, y))", "cel.bind(x, context.y, x.all(y, y))"),
        ("context.x.all(x, x.split('a') == [])", "context.y.all(x, x.split('a') == [])"),
    ],
)
def test_what_is_not_shared(texts):
    assert shared(*texts)[0] == [False, False]


def test_a_variable_of_the_same_name_with_another_text_is_another_one():
    def compiled(text):
        return compile_expression("variables.x.split('a') == []", result=ResultType.BOOL, variables={"x": text})

    rules = [Rule("r", Effect.DENY, compiled(text)) for text in ("context.x", "context.y", "context.y")]
    policies = [Policy(f"p{i}", (rule,)) for i, rule in enumerate(rules)]
    found = CompiledPolicySet(policies, digest="d").policies
    assert [a is b for a, b in zip(found, policies, strict=True)] == [True, False, False]
