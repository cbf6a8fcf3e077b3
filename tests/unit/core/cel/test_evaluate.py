"""A program gives a bool or a str or raises `EvaluationError`, for any input, any number of times."""

import datetime as dt
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.cel import ERROR_MAX_CHARS, EvaluationError, ResultType, bind, compile_expression, one_line

NOW = dt.datetime(2026, 3, 14, 15, 9, 26, 535897, tzinfo=dt.UTC)
EMPTY: dict[str, dict[str, object]] = {"subject": {}, "action": {}, "resource": {}, "context": {}, "change": {}}


def run(text, *, change=None, variables=None, result=ResultType.BOOL):
    program = compile_expression(text, result=result, variables=variables or {})
    return program.evaluate(bind({**EMPTY, "change": change if change is not None else {}}, now=NOW))


@pytest.mark.parametrize(
    ("text", "change", "expected"),
    [
        ("change.a == 1", {"a": 1}, True),
        ("change.a == 1", {"a": True}, False),
        ("change.a == true", {"a": 1}, False),
        ("change.a == null", {"a": None}, True),
        ("change.a == 1", {"a": 1.0}, True),
        ("change.a == 9223372036854775807", {"a": 2**63 - 1}, True),
        ("change.a == -9223372036854775808", {"a": -(2**63)}, True),
        ("change.a == 'é\U0001f600'", {"a": "é\U0001f600"}, True),
        ("has(change.a.b)", {"a": {}}, False),
        ("change.?a.?b.orValue('none') == 'none'", {}, True),
        ("change.a.exists(x, x.b == null)", {"a": [{"b": None}]}, True),
        ("change.a[?0].orValue(null) == null", {"a": [None]}, True),
        ("true || change.nothing == 1", {}, True),
        ("change.nothing == 1 || true", {}, True),
        ("change.nothing == 1 && false", {}, False),
        ("now == timestamp('2026-03-14T15:09:26.535897Z')", {}, True),
        ("now.getDayOfWeek('Europe/Berlin') == 6", {}, True),
        ("change.a.matches('^(a+)+$')", {"a": "a" * 5_000 + "b"}, False),
    ],
)
def test_values(text, change, expected):
    assert run(text, change=change) is expected


@pytest.mark.parametrize(
    ("text", "change", "message"),
    [
        ("change.nothing == 1", {}, "no such key: `nothing`"),
        ("1 / change.a == 1", {"a": 0}, "divide by zero"),
        ("change.a + 1 > 0", {"a": 2**63 - 1}, "overflow"),
        ("change.a == true || change.a > 1", {"a": "x"}, "no matching overload"),
        ("change.a.all(x, change.a.all(y, x == y))", {"a": [1] * 2_000}, "more than 1000000 steps"),
        ("'a'.matches(change.a)", {"a": "("}, "invalid regular expression"),
        ("change.a ? true : false", {"a": None}, "no matching overload"),
        ("timestamp(change.a) < now", {"a": "yesterday"}, "a timestamp is written as"),
        ("change.a.exists(x, 1/x == 1)", {"a": [0]}, "divide by zero"),
    ],
)
def test_failures(text, change, message):
    with pytest.raises(EvaluationError, match=message) as caught:
        run(text, change=change)
    assert "\n" not in str(caught.value)


def test_an_error_quotes_little_of_the_input():
    secret = "s3cret\n" * 1_000
    with pytest.raises(EvaluationError) as caught:
        run("{'a': 1}[change.a] == 1", change={"a": secret})
    assert len(str(caught.value)) <= ERROR_MAX_CHARS
    assert "\n" not in str(caught.value)


def test_a_message():
    variables = {"growth": "change.after - change.before"}
    text = "'adds ' + string(variables.growth)"
    assert run(text, change={"before": 1, "after": 4}, variables=variables, result=ResultType.STRING) == "adds 3"


class TestVariables:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("variables.a == 2", True),
            ("variables.b == 4 && variables.a == 2", True),
            ("change.variables.a == 'field'", True),
            ("change.?variables.?a.orValue('') == 'field'", True),
            ("[1, 2].exists(a, a == variables.a)", True),
            ("'variables.a' != string(variables.a) // variables.zzz", True),
            ("r'variables.a\\d' == 'variables.a' + '\\\\d'", True),
            ('"""variables.a"""' + " == '''variables.a'''", True),
            ("has(variables.m.x) && !has(variables.m.y)", True),
            ("variables.m['x'] == 1 ? variables.a == 2 : variables.broken", True),
            ("true || variables.broken", True),
            ("variables.comment == 1", True),
            ("variables . a == 2", True),
            ("change.`variables`.a == 'field'", True),
        ],
    )
    def test_they_are_read_where_they_are_named_and_nowhere_else(self, text, expected):
        variables = {
            "a": "change.one + 1",
            "b": "variables.a * 2",
            "m": "{'x': 1}",
            "broken": "1 / 0 == 1",
            "comment": "1 // one",
        }
        assert run(text, change={"one": 1, "variables": {"a": "field"}}, variables=variables) is expected

    def test_an_error_in_a_variable_is_an_error_where_it_is_read(self):
        with pytest.raises(EvaluationError, match="divide by zero"):
            run("variables.broken", variables={"broken": "1 / 0 == 1"})

    def test_a_comprehension_of_the_reader_does_not_capture(self):
        # The variable reads `change`; the reader calls its own loop variable so.
        assert run("[5].all(change, variables.a == 1)", change={"x": 1}, variables={"a": "change.x"}) is True


def test_a_program_runs_with_the_bindings_of_every_thread():
    program = compile_expression("change.a == 1", result=ResultType.BOOL)
    bindings = bind({**EMPTY, "change": {"a": 1}}, now=NOW)
    assert bindings.inputs["change"] == {"a": 1}
    assert bindings.now == NOW
    answers = [program.evaluate(bindings)]
    thread = threading.Thread(target=lambda: answers.append(program.evaluate(bindings)))
    thread.start()
    thread.join()
    assert [*answers, program.evaluate(bindings)] == [True, True, True]


def test_bindings_of_another_engine_are_refused():
    class Other:
        inputs = EMPTY
        now = NOW

    with pytest.raises(EvaluationError, match="another engine"):
        compile_expression("true", result=ResultType.BOOL).evaluate(Other())


def test_a_result_of_another_type_is_an_error():
    # The checker believes that `x[?'a'].orValue(true)` is a bool, whatever is there.
    with pytest.raises(EvaluationError, match="gave `int`, not `bool`"):
        run("change[?'a'].orValue(true)", change={"a": 1})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
).filter(lambda tree: "\0" not in repr(tree))

PROGRAMS = [
    compile_expression(text, result=ResultType.BOOL)
    for text in (
        "change.x == 1",
        "change.x.y > 1 || change.x.startsWith('a')",
        "change.x.all(k, k == null)",
        "size(change.x) > 1 ? change.x[0] == change.x[1] : change.?x.?y.orValue(1) == 1",
        "change.x + 1 > change.x",
        "string(change.x).matches('a') || change.x in [1, null, 'a']",
    )
]


@given(JSON)
def test_any_json_gives_a_bool_or_an_evaluation_error(tree):
    bindings = bind({**EMPTY, "change": {"x": tree}}, now=NOW)
    for program in PROGRAMS:
        try:
            answer = program.evaluate(bindings)
        except EvaluationError as error:
            answer = len(str(error)) <= ERROR_MAX_CHARS
        assert isinstance(answer, bool)


@given(JSON)
def test_equality_with_the_same_value_holds(tree):
    program = compile_expression("change.x == change.y", result=ResultType.BOOL)
    assert program.evaluate(bind({**EMPTY, "change": {"x": tree, "y": tree}}, now=NOW)) is True


@given(st.text(), st.integers(2, 50))
def test_one_line(text, limit):
    line = one_line(text, limit)
    assert len(line) <= limit
    assert all(c.isprintable() for c in line)
