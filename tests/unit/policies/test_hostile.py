"""Hostile and absurd policy files: a clear error each, in bounded time and memory, measured in a process of its own."""

import resource
import subprocess
import sys
import textwrap

import pytest

from app.policies import load

HEAD = "apiVersion: mutationfirewall.io/v1\nkind: MutationPolicy\nmetadata: {name: p}\nspec:\n"
RULES = "  rules: [{name: r, effect: allow, when: 'true'}]\n"
# What a pod may have; the interpreter and the engine take a good part of it before the first file.
MEMORY_BYTES = 1024 * 1024 * 1024
CPU_SECONDS = 15

CHECK = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    from app.policies.load import check_directory
    checked = check_directory(Path(sys.argv[1]))
    assert checked.policy_set is None
    print(len(checked.diagnostics))
    for one in checked.diagnostics[:50]:
        print(str(one)[:2000])
    """
)


def bomb():
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    lines += [f"{b}: &{b} [" + ", ".join([f"*{a}"] * 9) + "]" for a, b in zip("abcdefgh", "bcdefghi", strict=True)]
    return "\n".join(lines)


def expression(text):
    return HEAD + f"  rules:\n    - name: r\n      effect: allow\n      when: |-\n        {text}\n"


CASES = {
    "a bomb of aliases": (bomb(), "an anchor is not allowed"),
    "an anchor": (HEAD + RULES.replace("name: r", "name: &x r"), "an anchor is not allowed"),
    "a merge key": (HEAD + RULES + "  <<: {mode: shadow}\n", "a merge key is not allowed"),
    "a key twice": (HEAD + RULES + RULES, "the key `rules` is there twice, first in line 5"),
    "a tab": (HEAD + "\trules: []\n", "indent with spaces"),
    "ten megabytes": (HEAD + RULES + "#" * 10_000_000, "has more than 1048576 bytes"),
    "a hundred thousand rules": (
        HEAD + "  rules:\n" + "".join(f"  - {{name: r{i}, effect: allow}}\n" for i in range(100_000)),
        "has more than 1048576 bytes",
    ),
    "many rules": (
        HEAD + "  rules:\n" + "".join(f"  - {{name: r{i}, effect: allow}}\n" for i in range(5_000)),
        "spec.rules: the list has 5000 items, and 1000 are the most",
    ),
    "many variables": (
        HEAD + RULES + "  variables:\n" + "".join(f"  - {{name: v{i}, expression: '1'}}\n" for i in range(5_000)),
        "spec.variables: the list has 5000 items",
    ),
    "many unknown members": (HEAD + RULES + "".join(f"  k{i}: 1\n" for i in range(20_000)), "has 20000 unknown members"),
    "many values": ("[" + "[]," * 300_000 + "]", "the file has more than 60000 values"),
    "many members": ("".join(f"k{i}: 1\n" for i in range(100_000)), "the file has more than 60000 values"),
    "many documents": ("---\na\n" * 170_000, "the file has more than 60000 values"),
    "many directives": ("%x\n" * 340_000, "a `%` directive is not allowed"),
    "a text of many lines": (HEAD + RULES + "  mode: " + "b\n    " * 170_000, "spec.mode"),
    "a quoted text of many lines": (HEAD + RULES + '  mode: "' + "\n" * 1_000_000 + '"\n', "spec.mode"),
    "brackets without end": ("[" * 1_000_000, "nested more than 24 deep"),
    "an expression in brackets": (expression("(" * 8_000 + "true" + ")" * 8_000), "brackets are nested more than 32 deep"),
    "a chain of members": (expression("change" + ".a" * 8_000 + " == 1"), "spec.rules[0].when"),
    "a chain of choices": (expression("true ? " * 2_000 + "true" + " : true" * 2_000), "spec.rules[0].when"),
    "an endless expression": (expression("true && " * 20_000 + "true"), "has more than 16384 characters"),
    "beyond int64 in YAML": (HEAD + RULES + "  mode: 18446744073709551616\n", "the number does not fit into 64 bits"),
    "beyond int64 in CEL": (expression("1 < 18446744073709551617"), "spec.rules[0].when"),
    "a circle of variables": (
        HEAD + RULES + "  variables: [{name: a, expression: variables.b}, {name: b, expression: variables.a}]\n",
        "the variables go round in a circle: `",
    ),
    "a circle that a rule reads": (
        HEAD + RULES.replace("'true'", "'variables.a == 1'")
        + "  variables: [{name: a, expression: variables.b}, {name: b, expression: variables.c}, {name: c, expression: variables.b}]\n",
        "the variables go round in a circle: `",
    ),
    "no bool": (expression("1 + 1"), "the expression gives `int`, not `bool`"),
    "not typed": (expression("change.after"), "the expression gives `dyn`, not `bool`"),
    "a NUL": (HEAD + RULES + '  mode: "a\\0b"\n', "U+0000 is not allowed"),
    "a long name": (HEAD + "  rules: [{name: " + "a" * 500_000 + ", effect: allow}]\n", "has more than 253 characters"),
    "a glob of stars": (HEAD + RULES + "  match: {actions: ['" + "*a" * 120 + "']}\n", "at most 8 stars"),
    "groups in groups": (
        HEAD + "  rules: [{name: r, effect: hold, message: m, approval: " + "{anyOf: [" * 7 + "{group: g}" + "]}" * 7 + "}]\n",
        "approvals are nested more than 4 deep",
    ),
}  # fmt: skip


def limits():
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))


@pytest.mark.parametrize("name", CASES)
def test_it_is_refused_with_a_clear_error(name, tmp_path):
    text, expected = CASES[name]
    (tmp_path / "p.yaml").write_text(text)
    result = subprocess.run(
        [sys.executable, "-c", CHECK, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=limits,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert expected in result.stdout, result.stdout
    assert int(result.stdout.split("\n", 1)[0]) <= 50


def test_too_many_rules_in_many_files_end_the_reading(tmp_path, monkeypatch):
    monkeypatch.setattr(load, "RULES_MAX", 3)
    for i in range(6):
        text = HEAD.replace("name: p", f"name: p{i}") + RULES
        (tmp_path / f"{i}.yaml").write_text(text)
    checked = load.check_directory(tmp_path)
    assert checked.policy_set is None
    assert len(checked.documents) == 4
    assert [one.message for one in checked.diagnostics] == ["there are more than 3 rules"]


def test_too_much_text_in_many_files_ends_the_reading(tmp_path, monkeypatch):
    monkeypatch.setattr(load, "SET_MAX_BYTES", 100)
    (tmp_path / "a.yaml").write_text("#" * 101)
    (tmp_path / "b.yaml").write_text(HEAD + RULES)
    checked = load.check_directory(tmp_path)
    assert checked.documents == ()
    assert "there are more than 100 characters in all files together" in [one.message for one in checked.diagnostics]


@pytest.mark.parametrize("name", ["a circle of variables", "a circle that a rule reads"])
def test_a_circle_of_variables_is_told_once(name, tmp_path):
    (tmp_path / "p.yaml").write_text(CASES[name][0])
    checked = load.check_directory(tmp_path)
    assert checked.policy_set is None
    (found,) = checked.diagnostics
    assert "the variables go round in a circle" in found.message
    assert found.path.startswith("spec.variables[")
