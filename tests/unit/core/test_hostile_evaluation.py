"""Policies that load and blow up when they are asked: a deny each, in bounded time and memory, in a process of its own."""

import json
import resource
import subprocess
import sys
import textwrap

import pytest

# As in `tests/unit/policies/test_hostile.py`.
MEMORY_BYTES = 1024 * 1024 * 1024
CPU_SECONDS = 30

ASK = textwrap.dedent(
    """
    import json, resource, sys
    from datetime import UTC, datetime
    from app.core.decide import decide
    from app.core.types import NormalisedMutation
    from app.policies.load import check_text

    def cpu():
        used = resource.getrusage(resource.RUSAGE_SELF)
        return used.ru_utime + used.ru_stime

    checked = check_text(sys.stdin.read(), name="p.yaml")
    assert checked.policy_set is not None, [str(one)[:500] for one in checked.diagnostics]
    # About the megabyte that a request may have.
    change = {
        "text": "a" * 400_000,
        "lines": ["x" * 50] * 2_000,
        "numbers": list(range(40_000)),
        "nested": [[number] for number in range(5_000)],
        "map": {f"k{number}": number for number in range(5_000)},
        "patterns": [f"(a|b)*c{{0,{number}}}" for number in range(900)],
        "deep": 9223372036854775807,
        "paths": [],
    }
    inputs = {
        "subject": {"type": "agent", "id": "s", "properties": {}},
        "action": {"name": "update", "properties": {}},
        "resource": {"type": "t", "id": "i", "properties": {}},
        "context": {},
        "change": change,
    }
    before_cpu, before_memory = cpu(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    verdict = decide(checked.policy_set, NormalisedMutation(inputs=inputs, digest="sha256:0"), datetime(2026, 3, 14, tzinfo=UTC))
    print(json.dumps({
        "effect": verdict.effect,
        "messages": [reason.message for reason in verdict.reasons],
        "seconds": cpu() - before_cpu,
        "megabytes": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_memory) / 1024,
    }))
    """
)

TOO_MANY_STEPS = "rule_error: the evaluation takes more than 1000000 steps"
POLICY_TOO_MANY = "rule_error: the policy takes more than 10000000 steps in all"


def policy(*expressions, variables=()):
    """Write a policy that would allow, had its rules an answer."""
    declared = [{"name": name, "expression": text} for name, text in variables]
    rules = [{"name": f"r{n}", "effect": "allow", "when": text} for n, text in enumerate(expressions)]
    return json.dumps(
        {
            "apiVersion": "mutationfirewall.io/v1",
            "kind": "MutationPolicy",
            "metadata": {"name": "p"},
            "spec": {"rules": rules, **({"variables": declared} if declared else {})},
        }
    )


def doubled(start, step, times):
    text = f"cel.bind(x0, {start}, "
    for time in range(times):
        text += f"cel.bind(x{time + 1}, {step.format(f'x{time}')}, "
    return text + f"size(x{times}) > 0" + ")" * (times + 1)


CASES = {
    "loops in loops": (
        policy("change.numbers.all(a, change.numbers.all(b, change.numbers.all(c, a + b >= c || true)))"),
        TOO_MANY_STEPS,
    ),
    "a list that grows by itself": (policy(doubled("change.numbers", "{0} + {0}", 14)), TOO_MANY_STEPS),
    "a text that grows by itself": (policy(doubled("change.text", "{0} + {0}", 14)), TOO_MANY_STEPS),
    "quadratic concatenation": (policy("change.numbers.map(n, change.text + string(n)).size() > 0"), TOO_MANY_STEPS),
    "quadratic replacement": (policy("change.text.replace('a', change.text).size() > 0"), TOO_MANY_STEPS),
    "joining what is long": (policy("change.numbers.map(n, change.lines[0]).join(change.text) == ''"), TOO_MANY_STEPS),
    "a format of everything": (
        policy("change.numbers.map(n, '%s %s'.format([change.map, change.lines])).size() > 0"),
        TOO_MANY_STEPS,
    ),
    "a catastrophic pattern": (
        policy("change.numbers.all(n, change.text.matches('^(a+)+$') && change.text.matches('(a|aa)*b') || true)"),
        TOO_MANY_STEPS,
    ),
    "patterns out of the data": (
        policy("change.patterns.all(p, change.text.matches(p) || true)"),
        TOO_MANY_STEPS,
    ),
    "a replacement at every place": (
        policy("regex.replace(change.text, '', change.lines[0]) == ''"),
        TOO_MANY_STEPS,
    ),
    "sorting in a loop": (policy("change.numbers.all(n, change.numbers.sort().size() > 0)"), TOO_MANY_STEPS),
    "sets of lists": (policy("sets.equivalent(change.nested, change.nested)"), TOO_MANY_STEPS),
    "maps of maps": (
        policy("change.map.transformMap(k, v, change.map.transformMap(a, b, change.map)).size() > 0"),
        TOO_MANY_STEPS,
    ),
    "a list of a given length": (policy("lists.range(change.deep).size() > 0"), TOO_MANY_STEPS),
    "variables that multiply": (
        policy(
            "variables.v9.size() > 0",
            variables=[
                ("v0", "change.numbers"),
                *((f"v{n}", f"variables.v{n - 1} + variables.v{n - 1}") for n in range(1, 10)),
            ],
        ),
        TOO_MANY_STEPS,
    ),
    "a thousand rules at the limit": (
        # Each is another expression, within what one may cost, and pays before it fails.
        policy(*(f"change.numbers.all(n, n + n + n + n + n + n + n + n >= n - {n}) && change.nothing" for n in range(1000))),
        POLICY_TOO_MANY,
    ),
    "an integer past its limit": (policy("change.deep + 1 > 0"), "rule_error: integer overflow"),
}  # fmt: skip


def limits():
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))


@pytest.mark.parametrize("name", CASES)
def test_it_denies_in_bounded_time_and_memory(name):
    text, expected = CASES[name]
    result = subprocess.run(
        [sys.executable, "-c", ASK],
        input=text,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=limits,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    found = json.loads(result.stdout)
    assert found["effect"] == "deny"
    assert expected in found["messages"], found["messages"]
    # A second for an expression on a slow machine; a policy may have ten times as much.
    assert found["seconds"] < (8 if expected == POLICY_TOO_MANY else 3), found
    assert found["megabytes"] < 150, found
