"""Generated code: whatever an author writes, it reaches nothing of Python's; what Python limits, it divides or refuses."""

import builtins
import datetime as dt
import dis
import keyword
import re
from pathlib import Path
from types import CodeType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.cel import EvaluationError, ExpressionError, ResultType, bind, compile_expression
from app.core.cel.checked import Checked, Comprehension, Constant, Identifier, Select
from app.core.cel.engine import CompiledProgram
from app.core.cel.generate import UnsupportedError, generate
from app.core.cel.tokens import RESERVED_WORDS
from app.policies.load import load_directory

NOW = dt.datetime(2026, 3, 14, 15, 9, 26, tzinfo=dt.UTC)
GENERATED = re.compile(r"[a-z][0-9]+")
# fmt: off
RUNTIME = {
    "FAIL", "INT_MAX", "concat", "INT_MIN", "MISSING", "NONE", "Optional", "bool", "dict", "entries_of", "fail", "force", "has",
    "has_value", "int", "len", "list", "load", "loop", "loop_pairs", "make_map", "map_with_optionals", "optional_value",
    "overflow", "path", "said", "select", "spend", "str", "truth", "type", "with_optionals", "wrong_result",
}
# fmt: on
HOSTILE = [
    "'",
    '"',
    "'''",
    '"""',
    "\\",
    "\\'",
    "\\x27",
    "\n",
    "\r\n",
    "']",
    "'] or True or x['",
    "{x}",
    "%s",
    "__class__",
    "__builtins__",
    "__import__('os').system('true')",
    "\u2028",
    "\u202e",
    "\ufeff",
    "é\U0001f600",
    "\x7f",
    "a" * 300,
    "#",
    "; import os",
    "\N{FULLWIDTH LATIN SMALL LETTER E}val",
]


def inputs(change):
    return {"subject": {}, "action": {}, "resource": {}, "context": {}, "change": change}


def literal(text):
    """Write a text as a literal of CEL in which nothing is left to the parser."""
    return "'" + "".join(f"\\U{ord(character):08x}" for character in text) + "'"


def data(text):
    return "b'" + "".join(f"\\x{byte:02x}" for byte in text.encode()) + "'"


def inspect(code: CodeType) -> None:
    """Prove for every instruction: no attribute but `append`, no global that is not ours."""
    for instruction in dis.get_instructions(code):
        if "ATTR" in instruction.opname or "METHOD" in instruction.opname:
            assert instruction.argval == "append"
        if "GLOBAL" in instruction.opname or instruction.opname.endswith("_NAME"):
            assert instruction.argval in RUNTIME or GENERATED.fullmatch(instruction.argval), instruction
        assert "IMPORT" not in instruction.opname
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            inspect(constant)


def compiled(text, result=ResultType.BOOL, variables=None):
    program = compile_expression(text, result=result, variables=variables or {})
    assert isinstance(program, CompiledProgram)
    inspect(program.run.__code__)
    assert program.run.__globals__["__builtins__"] == {}
    return program


def run(text, change, **rest):
    return compiled(text, **rest).evaluate(bind(inputs(change), now=NOW))


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
class TestHostileTexts:
    def test_as_a_constant(self, text):
        assert run(f"change.x == {literal(text)}", {"x": text})
        assert run(f"{literal(text)} in change.x && {literal(text)} in [{literal(text)}, 'b']", {"x": [text]})
        assert run(f"change.x + {literal(text)} == {literal(text)} + {literal(text)}", {"x": text})
        assert run(f"[{literal(text)}].map(y, y) == change.x && change.x == [{literal(text)}]", {"x": [text]})
        assert run(f"bytes({literal(text)}) == {data(text)}", {})

    def test_as_a_key(self, text):
        assert run(f"change[{literal(text)}] == 1 && change[?{literal(text)}].orValue(2) == 1", {text: 1})
        assert run(f"change[?'a'][?{literal(text)}].orValue({literal(text)}) == {literal(text)}", {"a": {}})
        assert run(f"{{{literal(text)}: 1}} == change && {literal(text)} in change", {text: 1})
        assert run(f"{{{literal(text)}: change.x}}[{literal(text)}] == 1", {"x": 1})

    def test_as_a_message(self, text):
        assert run(f"{literal(text)} + change.x", {"x": "!"}, result=ResultType.STRING) == text + "!"

    def test_in_an_error(self, text):
        with pytest.raises(EvaluationError, match="no such key") as caught:
            run(f"change[{literal(text)}] == 1", {})
        assert str(caught.value).isprintable()
        with pytest.raises(EvaluationError) as caught:
            run(f"change.x[{literal(text)}] == 1", {"x": 1})
        assert str(caught.value).isprintable()

    def test_as_a_pattern(self, text):
        quoted = "".join(f"\\x{{{ord(character):x}}}" for character in text[:100])
        assert run(f"change.x.matches({literal(quoted)})", {"x": text})


# fmt: off
NAMES = sorted(
    {*keyword.kwlist, *keyword.softkwlist, *dir(builtins), *RUNTIME}
    | {"b", "i", "c", "q", "x", "run", "source", "t1", "x1", "k1", "f1", "v1", "r1", "__class__", "__globals__", "__code__"}
)
# fmt: on
CEL_WORDS = RESERVED_WORDS | {"in", "null", "true", "false", "as"}


@pytest.mark.parametrize("name", NAMES)
def test_names_of_python_are_only_names(name):
    change = {"fields": {name: 7}, "items": [7]}
    texts = (
        f"change.fields.{name} == 7 && has(change.fields.{name}) && change.?fields.?{name}.orValue(0) == 7",
        f"change.items.exists({name}, {name} == 7) && change.items.map({name}, {name} + 1) == [8]",
        f"cel.bind({name}, change.items, {name}[0] == 7 || {name}[1] == 0)",
        f"change.items.all(k, {name}, {name} == 7 && k == 0)",
    )
    # Words that CEL keeps for itself cannot be written so.
    for text in texts if name not in CEL_WORDS else ():
        assert run(text, change)


@pytest.mark.parametrize(
    ("value", "field"),
    [
        (value, field)
        for value in ("text", 1, 1.5, True, None, [], [1])
        for field in (
            "__class__",
            "__init__",
            "__doc__",
            "upper",
            "append",
            "real",
            "as_integer_ratio",
            "strip",
            "sort",
        )
    ],
)
def test_nothing_in_python_is_a_field(value, field):
    with pytest.raises(EvaluationError, match=f"no field `{field}` in a value that is no map"):
        run(f"change.x.{field} == 1", {"x": value})
    with pytest.raises(EvaluationError, match="no field"):
        run(f"has(change.x.{field})", {"x": value})
    with pytest.raises(EvaluationError, match="no matching overload"):
        run(f"change.x.?{field}.hasValue()", {"x": value})
    with pytest.raises(EvaluationError, match="no"):
        run(f"change.x['{field}'] == 1", {"x": value})


@pytest.mark.parametrize("name", ["timestamp(0)", "duration('1s')", "b'a'", "1u", "int", "{1: 2}", "optional.of(1)"])
def test_nothing_in_python_is_a_field_of_values_made_here(name):
    with pytest.raises(EvaluationError):
        run(f"dyn({name}).nanoseconds == 1 || dyn({name}).value == 1 || dyn({name}).name == 'int'", {})


@given(st.text(max_size=20).filter(lambda text: "\0" not in text), st.text(max_size=20))
def test_any_text_is_only_a_text(constant, other):
    assert run(f"change.x == {literal(constant)}", {"x": other}) is (constant == other)


def test_the_starter_policies_reach_nothing_either():
    rules = load_directory(Path(__file__).parents[4] / "policies" / "starter").rules
    programs = [program for _, rule in rules for program in (rule.when, rule.message_expression)]
    checked = 0
    for program in programs:
        if isinstance(program, CompiledProgram):
            inspect(program.run.__code__)
            checked += 1
    assert checked > 50


def test_depth_beyond_one_function_of_python():
    # Twenty loops and `try` inside one another are the most that Python compiles in one function.
    depth = 12
    text = "".join(f"change.l.all(x{level}, change.nothing == 1 || " for level in range(depth)) + "x0 > 0" + ")" * depth
    assert run(text, {"l": [1, 2]}) is True
    text = "".join(f"change.l.map(x{level}, " for level in range(depth)) + "x0 + x11" + ")" * depth + ".size() == 1"
    assert run(text, {"l": [1]}) is True
    text = (
        "".join(f"(change.nothing == {level} || (change.none{level} == 1 && " for level in range(8)) + "true" + "))" * 8
    )
    with pytest.raises(EvaluationError, match="no such key: `nothing`"):
        run(text, {})


def test_python_warns_of_nothing():
    # Warnings are errors here: `1 is None` or `'a'[b]` in the source would fail to compile.
    for text in (
        "1 == 1 && 'a' != 'b' && null == null && true == true",
        "dyn('a').b == 1 || true",
        "dyn(1)['a'] == 1 || true",
        "has(dyn([1]).a) || true",
        "dyn(null).?a.hasValue() || true",
        "(true ? 1 : 2) == 1 && !(1 == 2)",
        "dyn(1) == null || dyn(null) == null",
    ):
        assert run(text, {}) is True


class TestWhatIsNotKnown:
    def refused(self, root):
        with pytest.raises(UnsupportedError) as caught:
            generate(Checked(root, b""), {})
        return str(caught.value)

    @pytest.mark.parametrize(
        ("text", "message", "column"),
        [
            ("change.a == google.protobuf.Int32Value{value: 1}", "the message `google.protobuf.Int32Value`", 13),
            ("true && google.protobuf.Timestamp{seconds: 1} == now", "cannot be made here", 9),
            ("'a'.matches('(')", "invalid regular expression: missing )", 12),
            ("true ||\n 'a'.matches('(')", "invalid regular expression: missing )", 13),
        ],
    )
    def test_it_is_refused_with_its_place(self, text, message, column):
        with pytest.raises(ExpressionError, match=re.escape(message)) as caught:
            compile_expression(text, result=ResultType.BOOL)
        problem = caught.value.problems[0]
        assert (problem.line, problem.column) == (text.count("\n") + 1, column)

    def test_names_and_functions(self):
        assert self.refused(Identifier(1, "nobody")) == "`nobody` is not known here"
        assert self.refused(Identifier(1, ".nobody")) == "`nobody` is not known here"

    def test_loops_that_no_macro_makes(self):
        item = Identifier(1, "x")
        for node in (
            Comprehension(1, "x", "", Constant(2, None), "r", Constant(3, True), Constant(4, True), item, item),
            Comprehension(
                1, "x", "", Constant(2, None), "r", Constant(3, True), Constant(4, True), item, Identifier(5, "r")
            ),
        ):
            assert self.refused(node) == "a loop of this form is not known here"
        assert self.refused(Select(1, Identifier(2, "nobody"), "a", test_only=False)) == "`nobody` is not known here"
