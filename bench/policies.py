"""`python -m bench.policies`: what policies cost, beside other engines, in one run.

Each pair is measured in turn, a piece of the one and a piece of the other, because a machine's speed drifts; medians
of the pieces are printed, and their ratio. Time is that of this process, so that others on the machine matter less.
Peers that are not installed are left out with a word on how to get them.
"""

import argparse
import gc
import itertools
import json
import statistics
import time
import tracemalloc
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

from cel_expr_python import cel

from app.core.cel import Program, ResultType, bind, compile_expression
from app.core.decide import decide
from app.core.glob import compile_glob
from app.core.index import CompiledPolicySet, Condition, EntityPattern, Match, Policy, Rule
from app.core.normalise import normalise
from app.core.types import Effect, Json, JsonObject, Mutation, NormalisedMutation
from app.policies.load import check_documents

MUTATION = Path(__file__).parent / "mutation.json"
NOW = datetime(2026, 3, 14, tzinfo=UTC)
EXTENSIONS = "extensions:\n- name: optional\n- name: lists\n- name: strings\n- name: math\n- name: bindings"
INPUTS = ("subject", "action", "resource", "context", "change")

# Conditions and rules as people write them, ten of each: `{i}` makes each of a hundred policies another one. On the
# right the same in Cedar, which has neither loops nor functions on texts but `like`.
Template = tuple[tuple[str, str], ...]
TYPICAL: tuple[Template, ...] = (
    (
        ("change.after.metadata.namespace != 'kube-{i}'", 'context.after.metadata.namespace != "kube-{i}"'),
        ("change.after.spec.replicas > 100 + {i}", "context.after.spec.replicas > 100 + {i}"),
        ("change.after.spec.replicas == 0 && {i} > 0", "context.after.spec.replicas == 0 && {i} > 0"),
        (
            "change.after.spec.replicas <= change.before.spec.replicas + {i}",
            "context.after.spec.replicas <= context.before.spec.replicas + {i}",
        ),
    ),
    (
        (
            "resource.properties.environment in ['production', 'staging-{i}']",
            '["production", "staging-{i}"].contains(resource.environment)',
        ),
        ("subject.properties.model == 'small-{i}'", 'principal.model == "small-{i}"'),
        (
            "!('alice' in subject.properties.on_behalf_of) && {i} >= 0",
            '!principal.on_behalf_of.contains("alice") && {i} >= 0',
        ),
        ("context.ticket.startsWith('OPS-{i}')", 'context.ticket like "OPS-{i}*"'),
    ),
    (
        (
            "has(change.after.metadata.labels) && has(change.after.metadata.labels.team)",
            "context.after.metadata has labels && context.after.metadata.labels has team",
        ),
        ("change.after.metadata.labels.team == 'team-{i}'", 'context.after.metadata.labels.team == "team-{i}"'),
        (
            "change.after.metadata.labels.app != change.before.metadata.labels.app || {i} < 0",
            "context.after.metadata.labels.app != context.before.metadata.labels.app || {i} < 0",
        ),
        ("has(change.after.metadata.annotations) && {i} > 1", "context.after.metadata has annotations && {i} > 1"),
    ),
    (
        (
            "action.name == 'update' || action.name == 'patch-{i}'",
            'action == Action::"update" || action == Action::"patch-{i}"',
        ),
        ("resource.id.startsWith('system-{i}/')", 'resource.name like "system-{i}/*"'),
        ("resource.id.endsWith('-canary-{i}')", 'resource.name like "*-canary-{i}"'),
        (
            "resource.id == 'shop/web' && subject.id == 'root-{i}'",
            'resource.name == "shop/web" && principal.name == "root-{i}"',
        ),
    ),
    (
        (
            "change.after.kind == 'Deployment' && change.before.kind == 'Deployment' && {i} >= 0",
            'context.after.kind == "Deployment" && context.before.kind == "Deployment" && {i} >= 0',
        ),
        (
            "change.after.metadata.name != change.before.metadata.name || {i} < 0",
            "context.after.metadata.name != context.before.metadata.name || {i} < 0",
        ),
        ("context.session == 'none-{i}'", 'context.session == "none-{i}"'),
        (
            "change.after.spec.replicas > 3 && change.after.spec.replicas < 10 && {i} > 4",
            "context.after.spec.replicas > 3 && context.after.spec.replicas < 10 && {i} > 4",
        ),
    ),
)
# What Cedar cannot say.
LOOPS: tuple[tuple[str, ...], ...] = (
    (
        "change.after.spec.template.spec.containers.size() > 0 && {i} >= 0",
        "change.after.spec.template.spec.containers.exists(c, c.image.startsWith('docker-{i}.io/'))",
        "!change.after.spec.template.spec.containers.all(c, has(c.resources.limits.memory) && {i} >= 0)",
        "change.after.spec.template.spec.containers.filter(c, c.image.endsWith(':latest')).size() > {i}",
    ),
    (
        "!resource.id.matches('^kube-{i}/.*$')",
        "change.after.metadata.labels.exists(k, k.startsWith('internal-{i}/'))",
        "change.after.spec.template.spec.containers.map(c, c.name).exists(n, n == 'debug-{i}')",
        "resource.id.split('/')[0] != change.after.metadata.namespace && {i} >= 0",
    ),
)
EFFECTS = (Effect.DENY, Effect.DENY, Effect.ALLOW)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.policies", description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="pieces of each measurement (default 15)")
    parser.add_argument("--many", type=int, default=10_000, help="policies in the large set (default 10000)")
    options = parser.parse_args()
    body = json.loads(MUTATION.read_bytes())
    mutation = normalise(Mutation(**{name: body[name] for name in INPUTS}))
    print(f"medians of {options.rounds} pieces; microseconds for one decision, in which every policy given is asked\n")
    _index(mutation, options.many, rounds=options.rounds)
    _peers(mutation, rounds=options.rounds)
    _compilation()
    _memory()


# --- what is measured -----------------------------------------------------------------------------------------------


def _index(mutation: NormalisedMutation, many: int, *, rounds: int) -> None:
    """The cost of policies that cannot match: types and namespaces in turn, so that 20 of 10,000 can."""
    policies = [
        Policy(
            name=f"p{number:05}",
            rules=tuple(
                Rule(f"r{i}", effect, _program(text))
                for i, (effect, text) in enumerate(
                    zip(EFFECTS, ("change.after.spec.replicas > 50", *_ASKED), strict=True)
                )
            ),
            match=Match(
                actions=tuple(compile_glob(name) for name in ("create", "update")),
                resources=(EntityPattern(type=compile_glob(f"apps/{_numbered('Deployment', number % 20)}")),),
            ),
            conditions=(
                Condition(
                    "namespace",
                    _program(f"change.after.metadata.namespace == '{_numbered('shop', number // 20 % 25)}'"),
                ),
            ),
        )
        for number in range(many)
    ]
    everything = CompiledPolicySet(policies, digest="everything")
    chosen = everything.select(mutation.inputs)
    alone = CompiledPolicySet(chosen, digest="alone")
    assert decide(everything, mutation, NOW) == decide(alone, mutation, NOW)
    large, small = _paired(
        lambda: decide(everything, mutation, NOW), lambda: decide(alone, mutation, NOW), rounds=rounds
    )
    print(f"the {len(chosen)} policies alone{small:>40,.1f} us")
    print(f"the same among {many:,}{large:>41,.1f} us{large / small:>10.2f} times (aim: below 1.3)")
    found = min(_timed(lambda: CompiledPolicySet(policies, digest="again"), 1) for _ in range(3)) / 1e6
    print(f"indexing {many:,} policies{found:>34.2f} s\n")


def _peers(mutation: NormalisedMutation, *, rounds: int) -> None:
    cedar = _cedar(mutation, TYPICAL)
    plain = tuple(tuple(ours for ours, _ in template) for template in TYPICAL)
    for title, templates, other in (
        ("100 policies without loops", plain, cedar),
        ("100 policies, a third with loops", (*plain, *LOOPS), None),
    ):
        texts = [[text.format(i=i) for text in template] for i, template in zip(range(100), itertools.cycle(templates))]
        policies = [
            Policy(
                name=f"p{i:03}",
                conditions=(Condition("c", _program(condition)),),
                rules=tuple(Rule(f"r{j}", EFFECTS[j], _program(text)) for j, text in enumerate(rules)),
            )
            for i, (condition, *rules) in enumerate(texts)
        ]
        policy_set = CompiledPolicySet(policies, digest="typical")

        def ours(policy_set: CompiledPolicySet = policy_set) -> Any:
            return decide(policy_set, mutation, NOW)

        everything = [text for policy in texts for text in policy]
        print(f"{title}: {len(everything)} expressions, {len(policy_set.select(mutation.inputs))} policies asked")
        google = _google(mutation, everything)
        _check(policies, mutation, google)
        mine, theirs = _paired(ours, google, rounds=rounds)
        print(f"  mutation firewall, the decision{mine:>29,.1f} us")
        print(f"  cel-expr-python, the expressions{theirs:>28,.1f} us{mine / theirs:>10.2f} of it (aim: below 0.5)")
        if other is not None:
            mine, theirs = _paired(ours, other, rounds=rounds)
            print(f"  mutation firewall, the decision{mine:>29,.1f} us")
            print(f"  cedarpy, the decision{theirs:>39,.1f} us{mine / theirs:>10.2f} of it (aim: below 1)")
        elif templates is plain:
            print("  cedarpy is not installed: `pip install cedarpy` for the comparison with Cedar")
        print()


def _compilation() -> None:
    documents: list[Json] = [_document(number) for number in range(1_000)]
    check_documents([_document(1_000_000)])
    began = time.process_time()
    checked = check_documents(documents)
    took = time.process_time() - began
    assert checked.policy_set is not None
    print(f"compiling 1,000 policies{took:>35.2f} s          (3 rules, 2 conditions, a variable each; aim: below 5)")


def _memory() -> None:
    documents: list[Json] = [_document(number) for number in range(2_000_000, 2_000_500)]
    gc.collect()
    tracemalloc.start()
    policy_set = check_documents(documents).policy_set
    gc.collect()
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert policy_set is not None
    print(f"memory of one of them{used / len(documents) / 1024:>36.1f} KiB        (Python's own count)")


# --- the sides ------------------------------------------------------------------------------------------------------

_ASKED = ("change.after.spec.replicas < 0", "change.after.spec.replicas <= change.before.spec.replicas * 2")


def _numbered(name: str, number: int) -> str:
    return name if number == 0 else f"{name}-{number}"


@lru_cache(maxsize=10_000)
def _program(text: str) -> Program:
    return compile_expression(text, result=ResultType.BOOL)


def _google(mutation: NormalisedMutation, texts: Sequence[str]) -> Callable[[], list[Any]]:
    """Google's C++ engine: the inputs converted once for all of the expressions of a request."""
    environment = cel.NewEnv(config=cel.NewEnvConfigFromYaml(EXTENSIONS), variables=dict.fromkeys(INPUTS, cel.Type.DYN))
    expressions = [environment.compile(text) for text in texts]

    def evaluated() -> list[Any]:
        activation = environment.Activation(mutation.inputs)
        return [expression.eval(activation).value() for expression in expressions]

    return evaluated


def _check(policies: Sequence[Policy], mutation: NormalisedMutation, google: Callable[[], list[Any]]) -> None:
    """See to it that all say the same: what is compared must be the same work."""
    bindings = bind(mutation.inputs, now=NOW)
    said = [
        program.evaluate(bindings)
        for policy in policies
        for program in (policy.conditions[0].program, *(rule.when for rule in policy.rules))
        if program is not None
    ]
    if said != google():
        raise SystemExit("the engines do not say the same")
    if decide(CompiledPolicySet(policies, digest="typical"), mutation, NOW).effect is not Effect.ALLOW:
        raise SystemExit("a denial says which clause denied, and nobody else here does")
    if not all(policy.conditions[0].program.evaluate(bindings) for policy in policies):
        raise SystemExit("a policy is not asked")


def _cedar(mutation: NormalisedMutation, templates: Sequence[Template]) -> Callable[[], Any] | None:
    """Cedar: one policy for each rule, with the condition of its policy in front; policies parsed once."""
    try:
        cedarpy: Any = import_module("cedarpy")
    except ImportError:
        return None
    words = {Effect.DENY: "forbid", Effect.ALLOW: "permit"}
    lines = []
    for i, ((_, condition), *rules) in zip(range(100), itertools.cycle(templates)):
        for effect, (_, text) in zip(EFFECTS, rules, strict=True):
            when = f"({condition}) && ({text})".replace("{i}", str(i))
            lines.append(f"{words[effect]}(principal, action, resource) when {{ {when} }};")
    policies = cedarpy.PolicySet.from_str("\n".join(lines))
    inputs = mutation.inputs
    entities = [
        {"uid": {"type": "Agent", "id": "a"}, "parents": [], "attrs": {"name": "a", **inputs["subject"]["properties"]}},
        {
            "uid": {"type": "Resource", "id": "r"},
            "parents": [],
            "attrs": {"name": inputs["resource"]["id"], **inputs["resource"]["properties"]},
        },
    ]

    def decided() -> Any:
        # What belongs to the request is given with it: who asks, for what, and the change.
        context = {**inputs["context"], "before": inputs["change"]["before"], "after": inputs["change"]["after"]}
        request = {
            "principal": 'Agent::"a"',
            "action": 'Action::"update"',
            "resource": 'Resource::"r"',
            "context": context,
        }
        return cedarpy.is_authorized(request, policies, entities)

    answer = decided()
    if answer.diagnostics.errors:
        raise SystemExit(f"cedar: {answer.diagnostics.errors[:3]}")
    return decided


def _document(number: int) -> JsonObject:
    """A policy that has no text in common with any other."""
    growth = f"change.after.spec.replicas - change.before.spec.replicas - {number}"
    containers = "change.after.spec.template.spec.containers"
    return {
        "apiVersion": "mutationfirewall.io/v1",
        "kind": "MutationPolicy",
        "metadata": {"name": f"p{number}"},
        "spec": {
            "match": {"actions": ["update"], "resources": [{"type": f"apps/T{number % 50}"}]},
            "matchConditions": [
                {"name": "here", "expression": f"change.after.metadata.namespace == 'ns-{number}'"},
                {"name": "no-canary", "expression": f"!resource.id.endsWith('-canary-{number}')"},
            ],
            "variables": [{"name": "growth", "expression": growth}],
            "rules": [
                {"name": "small", "effect": "allow", "when": f"variables.growth <= {number % 7}"},
                {
                    "name": "registry",
                    "effect": "deny",
                    "message": "the registry is not trusted",
                    "when": f"{containers}.exists(c, c.image.startsWith('bad-{number}/'))",
                },
                {
                    "name": "large",
                    "effect": "deny",
                    "messageExpression": f"'adds ' + string(variables.growth) + ' to {number}'",
                    "when": f"variables.growth > {number % 7 + 2} && subject.type == 'agent'",
                },
            ],
        },
    }


# --- the clock ------------------------------------------------------------------------------------------------------


def _paired(one: Callable[[], Any], other: Callable[[], Any], *, rounds: int) -> tuple[float, float]:
    """Give the medians of both in microseconds, measured in turn."""
    times = {one: max(int(5e4 / _timed(one, 20)), 5), other: max(int(5e4 / _timed(other, 20)), 5)}
    pieces: dict[Callable[[], Any], list[float]] = {one: [], other: []}
    for _ in range(rounds):
        for side, repetitions in times.items():
            pieces[side].append(_timed(side, repetitions))
    return statistics.median(pieces[one]), statistics.median(pieces[other])


def _timed(what: Callable[[], Any], repetitions: int) -> float:
    gc.collect()
    gc.disable()
    try:
        began = time.process_time()
        for _ in range(repetitions):
            what()
        return (time.process_time() - began) / repetitions * 1e6
    finally:
        gc.enable()


if __name__ == "__main__":
    main()
