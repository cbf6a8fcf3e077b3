"""Expressions are refused when they are loaded, with their place and the fix, or they compile."""

import pytest

from app.core.cel import (
    EXPRESSION_MAX_CHARS,
    NESTING_MAX,
    VARIABLES_PER_EXPRESSION_MAX,
    ExpressionError,
    Problem,
    ResultType,
    check_variable,
    compile_expression,
)


def refused(text, *, result=ResultType.BOOL, variables=None) -> Problem:
    with pytest.raises(ExpressionError) as caught:
        compile_expression(text, result=result, variables=variables or {})
    assert caught.value.problems
    assert str(caught.value)
    return caught.value.problems[0]


@pytest.mark.parametrize(
    ("text", "line", "column", "message", "fix"),
    [
        ("", 1, 1, "the expression is empty", "write `true`"),
        (" \n\t", 1, 1, "the expression is empty", "write `true`"),
        ("// nothing but a comment", 1, 25, "mismatched input the end", None),
        ("chnage.after.x == 1", 1, 1, "undeclared reference to `chnage.after.x`", "did you mean `change`?"),
        ("zzz", 1, 1, "undeclared reference to `zzz`", "in scope are `action`, `change`"),
        ("change.after.x ==", 1, 18, "mismatched input the end", None),
        ("subj.id == 'a'", 1, 1, "undeclared reference to `subj.id`", "did you mean `subject`?"),
        ("old_object == null", 1, 1, "undeclared reference to `old_object`", "did you mean `oldObject`?"),
        (
            "params.a == 1",
            1,
            1,
            "undeclared reference to `params.a`",
            "only a `ValidatingAdmissionPolicy` has parameters; write the value, or declare it in `variables`",
        ),
        ("true &&\n  chnage == 1", 2, 3, "undeclared reference to `chnage`", "did you mean `change`?"),
        ("'é' == 'é' && chnage == 1", 1, 15, "undeclared reference to `chnage`", "did you mean `change`?"),
        ("1 + 'a' == 2", 1, 3, "found no matching overload for `_+_`", None),
        ("change.after.enabled", 1, 1, "gives `dyn`, not `bool`", "== true"),
        ("1 + 1", 1, 1, "gives `int`, not `bool`", "== true"),
        ("null", 1, 1, "gives `null", "== true"),
        ("optional.of(true)", 1, 1, "not `bool`", "== true"),
        ("'a\\", 1, 1, "token recognition error", None),
        ("true\0 && false", 1, 5, "U+0000", "remove it"),
        ("true \x1b[2J", 1, 6, "U+001B", "remove it"),
        ("'\ud800' == ''", 1, 2, "U+D800", "remove it"),
        ("__mfw_x == 1", 1, 1, "names that start with `__mfw_` are reserved", "rename it"),
    ],
)
def test_what_is_refused(text, line, column, message, fix):
    problem = refused(text)
    assert message in problem.message
    assert (problem.line, problem.column) == (line, column)
    assert problem.fix == fix if fix is None else fix in (problem.fix or "")


def test_a_message_must_be_a_string():
    problem = refused("1 + 1", result=ResultType.STRING)
    assert (problem.message, problem.fix) == (
        "the expression gives `int`, not `string`",
        "convert it with `string(...)`",
    )


def test_every_problem_of_an_expression_is_told_once():
    with pytest.raises(ExpressionError) as caught:
        compile_expression("aaa == 1 && bbb == 2 && aaa == 1", result=ResultType.BOOL)
    assert [(p.column, p.message) for p in caught.value.problems] == [
        (1, "undeclared reference to `aaa`"),
        (13, "undeclared reference to `bbb`"),
        (25, "undeclared reference to `aaa`"),
    ]


@pytest.mark.parametrize("bracket", ["(", "[", "{1:"])
def test_nesting_has_a_limit_with_a_place(bracket):
    problem = refused("change == " + bracket * (NESTING_MAX + 1))
    assert "nested more than" in problem.message
    assert problem.column == 11 + NESTING_MAX * len(bracket)


@pytest.mark.parametrize(
    "text",
    [
        "change" + ".a" * 2_000 + " == 1",
        "1" + " + 1" * 3_000 + " == 1",
        "true ? 1 : " * 1_000 + "1 == 1",
        "-" * 15_000 + "a == 1",
        "[0]" + "[0]" * 3_000 + " == 1",
        "'" * 15_001,
        '"""' + "a" * 15_000,
        "!" * 15_000,
        "." * 15_000,
        "\\" * 15_000,
        "has(" * 20 + "change.a" + ")" * 20,
        "/" * 15_000,
        "`" * 15_001,
        "0x" * 7_000,
    ],
)
def test_extreme_texts_are_refused_not_fatal(text):
    assert refused(text).message


def test_too_deep_for_the_engine_says_what_to_do():
    assert refused("change" + ".a" * 100 + " == 1").fix == "make the expression simpler"
    assert "recursion" in refused("change" + ".a" * 100 + " == 1").message


def test_length_has_a_limit():
    assert str(EXPRESSION_MAX_CHARS) in refused("true" + " " * EXPRESSION_MAX_CHARS).message
    compile_expression("true" + " " * (EXPRESSION_MAX_CHARS - 4), result=ResultType.BOOL)


@pytest.mark.parametrize(
    "text",
    [
        "change.?after.?spec.orValue(1) == 1",
        "[3, 1, 2].sort() == [1, 2, 3]",
        "sets.contains([1, 2], [1])",
        "'a-b'.split('-') == ['a', 'b']",
        "math.greatest(1, 2) == 2",
        "base64.encode(b'a') == 'YQ=='",
        "cel.bind(x, 1, x == 1)",
        "{'a': 1}.all(k, v, v == 1)",
        "regex.replace('abc', 'b', '') == 'ac'",
        "now > timestamp('2024-01-01T00:00:00Z')",
        "change.`with-dash` == 1",
    ],
)
def test_the_language_has_its_extensions(text):
    assert compile_expression(text, result=ResultType.BOOL).text == text


class TestVariables:
    VARIABLES = {  # noqa: RUF012 - read only
        "growth": "change.after - change.before // what is added",
        "big": "variables.growth > 2",
        "text": "'variables.nothing ' + r'variables.none\\d' + string(variables.growth)",
        "typo": "chnage.after",
        "reads_typo": "variables.typo == 1",
        "left": "variables.right",
        "right": "variables.left",
        "itself": "variables.itself + 1",
    }

    @pytest.mark.parametrize("name", ["growth", "big", "text"])
    def test_a_good_variable(self, name):
        check_variable(name, variables=self.VARIABLES)

    @pytest.mark.parametrize(
        ("name", "column", "message", "at_fault"),
        [
            ("typo", 1, "undeclared reference to `chnage.after`", None),
            ("reads_typo", 1, "undeclared reference to `chnage.after`", "typo"),
            ("left", 1, "`left -> right -> left`", "right"),
            ("itself", 1, "`itself -> itself`", None),
        ],
    )
    def test_a_variable_at_fault_is_named(self, name, column, message, at_fault):
        with pytest.raises(ExpressionError, match=message) as caught:
            check_variable(name, variables=self.VARIABLES)
        assert caught.value.variable == at_fault
        assert caught.value.problems[0].column == column

    def test_a_reader_knows_that_the_variable_is_at_fault(self):
        with pytest.raises(ExpressionError) as caught:
            compile_expression("variables.reads_typo", result=ResultType.BOOL, variables=self.VARIABLES)
        assert caught.value.variable == "typo"

    @pytest.mark.parametrize(
        ("text", "column", "message", "fix"),
        [
            ("variables.grwth > 1", 11, "no variable `grwth` is declared", "did you mean `variables.growth`?"),
            ("variables.zzzzzz", 11, "no variable `zzzzzz` is declared", "declared are `big`, "),
            ("true && has(variables.big)", 9, "`has(variables.big)` is always true", "test the field itself"),
            ("variables == 1", 1, "can only be read as `variables.NAME`", "after a dot"),
            ("variables['growth'] == 1", 1, "can only be read as `variables.NAME`", "after a dot"),
            ("variables.?growth == 1", 1, "can only be read as `variables.NAME`", "after a dot"),
            ("[1].exists(variables, variables.growth == 1)", 12, "can only be read as", "after a dot"),
            (".variables.big", 1, "`.variables` is not a variable", "leave out the leading dot"),
            ("true || .variables.big", 9, "`.variables` is not a variable", "leave out the leading dot"),
            ("1 in .variables.big", 6, "`.variables` is not a variable", "leave out the leading dot"),
            ("variables.growth == 'a'", 18, "found no matching overload", None),
            ("variables.growth(1) == 1", 1, "undeclared reference to `variables`", "did you mean `variables.growth`?"),
            ("variables.growth == 1 && chnage == 1", 26, "undeclared reference to `chnage`", "`change`"),
        ],
    )
    def test_what_is_refused(self, text, column, message, fix):
        # `growth` is an int for the checker only if its operands are.
        problem = refused(text, variables={"growth": "1 + 1", "big": "true"})
        assert message in problem.message
        assert problem.column == column
        assert problem.fix == fix if fix is None else fix in (problem.fix or "")

    def test_without_any_the_fix_is_to_declare_one(self):
        assert refused("variables.x == 1").fix == "declare it in `spec.variables`"

    def test_the_variables_of_one_expression_have_a_limit(self):
        many = {f"v{i}": "1" for i in range(VARIABLES_PER_EXPRESSION_MAX + 1)}
        text = "[" + ", ".join(f"variables.{name}" for name in many) + "].size() > 0"
        assert "more than 64 variables" in refused(text, variables=many).message
        del many["v64"]
        compile_expression(text.replace(", variables.v64", ""), result=ResultType.BOOL, variables=many)

    def test_a_chain_of_variables_has_a_limit_too(self):
        chain = {"v0": "1"} | {f"v{i}": f"variables.v{i - 1} + 1" for i in range(1, 2_000)}
        assert "more than 64 variables" in refused("variables.v1999 > 0", variables=chain).message

    def test_the_depth_of_variables_does_not_add_up(self):
        deep = {f"v{i}": "(" * 20 + "1" + ")" * 20 for i in range(16)}
        text = " + ".join(f"variables.{name}" for name in deep) + " > 0"
        assert compile_expression(text, result=ResultType.BOOL, variables=deep).text == text
