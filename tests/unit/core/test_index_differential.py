"""Leaving a policy out gives exactly the verdict that asking it would have given, for any set and any mutation."""

import datetime as dt
import os
import random
from functools import lru_cache
from typing import cast

from app.core.budgets import Count
from app.core.cel import ResultType, compile_expression
from app.core.decide import decide
from app.core.freeze import Window
from app.core.glob import compile_glob
from app.core.index import (
    Approval,
    Budget,
    CompiledPolicySet,
    Condition,
    EntityPattern,
    LabelPattern,
    Match,
    Per,
    Policy,
    PropertyPattern,
    Rule,
)
from app.core.types import Effect, Mode, NormalisedMutation
from app.core.validity import ALWAYS, Validity
from tests.seeds import seed

HOUR = dt.timedelta(hours=1)
NOW = dt.datetime(2026, 3, 14, tzinfo=dt.UTC)
APPROVAL = Approval({"anyOf": [{"group": "sre", "count": 1}]}, "168h", 604_800, "1h", 3_600)
MUTATIONS = 50
# To load one takes as long as to ask twenty policies; what matters is in which sets and under which matches they stand.
CONDITIONS = 1000
# Pairs of a set and a mutation; made by `random`, which is many times as fast as shrinking and says the case as well.
SETS = max(int(os.environ.get("MFW_INDEX_CASES", "20000")) // MUTATIONS, 1)
# One that is open, one that is not.
WINDOWS = [Window(schedule, time_zone="UTC", duration=HOUR) for schedule in ("0 0 * * *", "0 12 * * *")]


class EveryPolicyAsked:
    """The reference: no index at all."""

    def __init__(self, policies):
        self.policies = sorted(policies, key=lambda policy: policy.name)
        self.exceptions = ()

    def select(self, inputs):
        return [policy for policy in self.policies if policy.match.matches(inputs)]


# --- conditions -----------------------------------------------------------------------------------------------------

PATHS = [
    "resource.type",
    "resource.id",
    "action.name",
    "subject.type",
    "subject.properties.model",
    "resource.properties.env",
    "resource.properties['env']",
    "change.after.kind",
    "change.after.spec.n",
    "object.kind",
    "object",
    "oldObject",
    "context.team",
    "context",
    "variables.kind",
    "variables.env",
]
OPTIONAL = [
    "resource.properties.?env.orValue('a')",
    "change.?after.kind.orValue(1)",
    "change.after.?spec.?n.orValue(true)",
    "variables.some",
]
CONSTANTS = ["'a'", "'b'", "'t'", "1", "1.0", "1u", "0", "true", "false", "2.5", "null", "9007199254740993"]
VARIABLES = {
    "kind": "change.after.kind",
    "env": "resource.properties.env",
    "some": "resource.properties.?env.orValue('b')",
    "few": "['a', 1]",
    "one": "variables.kind == 'a' || variables.kind == 1",
    "heavy": "size(lists.range(int('2000000'))) > 0",
}
OTHERS = [
    "true",
    "false",
    "change.nothing == 1",
    "1 / size(context) == 1",
    "has(change.after)",
    "has(change.after.kind)",
    "has(change.after.spec.n)",
    "has(resource.properties.env)",
    "variables.one",
    "variables.heavy",
    "change.after.kind > 'a'",
    "resource.id.startsWith('a')",
    "['a', 'b'].exists(x, x == resource.id)",
    "change.after.spec.n > 0",
    "(true && change.after.kind)",
]


def atom(pick):
    constant, path = pick.choice(CONSTANTS), pick.choice(PATHS)
    return pick.choice(
        [
            f"{path} == {constant}",
            f"{path} == {constant}",
            f"{constant} == {path}",
            f"{path} in [{constant}, {pick.choice(CONSTANTS)}]",
            f"{path} in variables.few",
            f"{path} != {constant}",
            f"{pick.choice(OPTIONAL)} == {constant}",
            pick.choice(OTHERS),
        ]
    )


def condition(pick, depth=2):
    if depth == 0 or pick.random() < 0.4:
        return atom(pick)
    a, b, c = (condition(pick, depth - 1) for _ in range(3))
    return pick.choice([f"({a} && {b})", f"({a} && {b})", f"({a} || {b})", f"!({a})", f"({a} ? {b} : {c})"])


@lru_cache(maxsize=20_000)
def program(text):
    return compile_expression(text, result=ResultType.BOOL, variables=VARIABLES)


# --- sets and mutations ---------------------------------------------------------------------------------------------

TYPES = ["t", "u", "a", "ab"]
GLOBS = [*TYPES, *TYPES, "a*", "?", "*"]
VALUES = [
    "a",
    "b",
    "t",
    1,
    1.0,
    0,
    True,
    False,
    2.5,
    None,
    [],
    ["a"],
    {},
    {"a": 1},
    9007199254740993,
    9007199254740992.0,
]


def some(pick, most, make):
    return tuple(make(pick) for _ in range(pick.randint(0, most)))


def glob(pick):
    return compile_glob(pick.choice(GLOBS))


def pattern(pick):
    def prop(pick):
        name = pick.choice(["env", "model", "n"])
        value = pick.choice(["a", "b", "a*", 1, True, 2.5])
        return (
            PropertyPattern(name, glob=compile_glob(value))
            if isinstance(value, str)
            else PropertyPattern(name, value=value)
        )

    def label(pick):
        return LabelPattern(pick.choice(["team", "tier"]), compile_glob(pick.choice(["a", "b", "a*"])))

    return EntityPattern(
        type=glob(pick) if pick.random() < 0.7 else None,
        id=glob(pick) if pick.random() < 0.2 else None,
        properties=some(pick, 1, prop),
        labels=some(pick, 1, label) if pick.random() < 0.3 else (),
    )


def match(pick, *, exclude=True):
    return Match(
        subjects=some(pick, 1, pattern),
        actions=some(pick, 2, glob) if pick.random() < 0.5 else (),
        resources=some(pick, 2, pattern),
        exclude=(match(pick, exclude=False),) if exclude and pick.random() < 0.2 else (),
    )


def policy(pick, name, conditions):
    def rule(position):
        effect = pick.choice(list(Effect))
        when = program(pick.choice(conditions)) if pick.random() < 0.9 else None
        approval = APPROVAL if effect is Effect.HOLD else None
        return Rule(f"r{position}", effect, when, approval=approval, window=pick.choice([None] * 8 + WINDOWS))

    def budget(position):
        when = program(pick.choice(conditions)) if pick.random() < 0.8 else None
        return Budget(f"b{position}", Per.SUBJECT, 2, "1h", 3_600, when=when)

    return Policy(
        name,
        tuple(rule(position) for position in range(pick.randint(1, 3))),
        mode=pick.choice([Mode.ENFORCE, Mode.ENFORCE, Mode.SHADOW]),
        match=match(pick),
        validity=pick.choice([ALWAYS, ALWAYS, Validity(start=NOW + HOUR), Validity(start=NOW - HOUR)]),
        budgets=tuple(budget(position) for position in range(pick.choice([0, 0, 0, 0, 1, 2]))),
        conditions=tuple(
            Condition(f"c{i}", program(pick.choice(conditions))) for i in range(pick.choice([0, 0, 1, 1, 2]))
        ),
    )


def mutation(pick):
    def properties():
        labels = {"labels": pick.choice([None, "a", {}, {"team": "a"}, {"team": "b", "tier": pick.choice(VALUES)}])}
        found = {name: pick.choice(VALUES) for name in ("env", "model", "n") if pick.random() < 0.6}
        return found | labels if pick.random() < 0.5 else found

    after = pick.choice(
        [
            None,
            "a",
            [],
            {},
            {"kind": pick.choice(VALUES)},
            {"kind": pick.choice(VALUES), "spec": {"n": pick.choice(VALUES)}},
        ]
    )
    change: dict[str, object] = {"paths": [], "added": [], "removed": [], "files": [], "statements": []}
    inputs = {
        "subject": {"type": pick.choice(TYPES), "id": pick.choice(TYPES), "properties": properties()},
        "action": {"name": pick.choice(TYPES), "properties": {}},
        "resource": {"type": pick.choice(TYPES), "id": pick.choice(TYPES), "properties": properties()},
        "context": pick.choice([{}, {"team": pick.choice(VALUES)}]),
        "change": change if pick.random() < 0.2 else {**change, "after": after},
    }
    return NormalisedMutation(inputs, "sha256:0")


def test_an_index_changes_no_verdict():
    begin = seed()
    left_out = 0
    texts = random.Random(f"{begin}")
    conditions = [condition(texts) for _ in range(CONDITIONS)]
    for case in range(SETS):
        pick = random.Random(f"{begin}-{case}")
        policies = [policy(pick, f"p{i:02}", conditions) for i in range(pick.choice([1, 3, 8, 20]))]
        indexed, every = CompiledPolicySet(policies, digest="d"), EveryPolicyAsked(policies)
        for number in range(MUTATIONS):
            asked = mutation(pick)
            counters = {(p.name, "b0"): Count(pick.randint(0, 3)) for p in policies if pick.random() < 0.7}
            expected = decide(cast("CompiledPolicySet", every), asked, NOW, counters=counters)
            assert decide(indexed, asked, NOW, counters=counters) == expected, (
                f"set {begin}-{case}, mutation {number}: {asked.inputs}"
            )
            left_out += len(every.select(asked.inputs)) - len(indexed.select(asked.inputs))
    # Otherwise it compares nothing.
    assert left_out > SETS
