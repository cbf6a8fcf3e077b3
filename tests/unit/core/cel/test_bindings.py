"""Variables of a request: computed when first read, once for all programs, and a failure is remembered too."""

import datetime as dt
from typing import Any

import pytest

from app.core.cel import EvaluationError, ResultType, bind, compile_expression
from app.core.cel.bindings import RequestBindings, Variable, load
from app.core.cel.budget import STEPS_MAX, spend
from app.core.cel.failures import FAIL, said
from app.core.cel.values import NONE, CelError, Duration, MixedMap, Optional, Timestamp, TypeValue, UInt, type_name

NOW = dt.datetime(2026, 3, 14, 15, 9, 26, 535897, tzinfo=dt.UTC)
EMPTY: dict[str, Any] = {"subject": {}, "action": {}, "resource": {}, "context": {}, "change": {}}


def counting(answer):
    calls = []

    def run(bindings, inputs, values, budget):
        calls.append(inputs)
        return answer(budget)

    return Variable("counted", run), calls


def raise_key_error(_budget):
    return EMPTY["absent"]


def spend_all(budget):
    spend(budget, STEPS_MAX + 1)


def test_a_variable_is_computed_once():
    variable, calls = counting(lambda _budget: [1])
    bindings = bind(EMPTY, now=NOW)
    first = load(bindings, variable)
    assert bindings.values[variable] is first
    assert len(calls) == 1
    assert calls[0] is EMPTY


@pytest.mark.parametrize(
    ("answer", "message"), [(raise_key_error, "no such key: `absent`"), (spend_all, "takes more than 1000000 steps")]
)
def test_a_failure_is_computed_once(answer, message):
    variable, calls = counting(answer)
    bindings = bind(EMPTY, now=NOW)
    for _ in range(3):
        with pytest.raises((EvaluationError, KeyError)) as caught:
            load(bindings, variable)
        assert message in (said(caught.value) if isinstance(caught.value, FAIL) else str(caught.value))
    assert len(calls) == 1


def test_two_variables_of_one_name_are_two():
    one, two = Variable("x", lambda *_: 1), Variable("x", lambda *_: 2)
    bindings = bind(EMPTY, now=NOW)
    assert [load(bindings, one), load(bindings, two)] == [1, 2]
    assert len(bindings.values) == 2


def test_programs_share_a_variable_by_its_text():
    variables = {"paths": "change.paths.filter(p, p != '')", "count": "variables.paths.size()"}
    programs = [
        compile_expression(text, result=ResultType.BOOL, variables=variables)
        for text in (
            "variables.paths == ['a']",
            "variables.count == 1",
            "variables.count + variables.paths.size() == 2",
        )
    ]
    bindings = bind({**EMPTY, "change": {"paths": ["", "a"]}}, now=NOW)
    assert [program.evaluate(bindings) for program in programs] == [True, True, True]
    assert sorted(variable.name for variable in bindings.values) == ["count", "paths"]
    # Another policy with the same text has the same value, one with another text has not.
    again = compile_expression("variables.paths.size() == 1", result=ResultType.BOOL, variables=dict(variables))
    other = compile_expression(
        "variables.paths == [] || true", result=ResultType.BOOL, variables={"paths": "change.paths"}
    )
    assert again.evaluate(bindings) is other.evaluate(bindings) is True
    assert sorted(variable.name for variable in bindings.values) == ["count", "paths", "paths"]


def test_what_is_not_read_is_not_computed():
    variables = {"fails": "1 / 0 == 1", "works": "change.x == 1"}
    program = compile_expression("variables.works || variables.fails", result=ResultType.BOOL, variables=variables)
    bindings = bind({**EMPTY, "change": {"x": 1}}, now=NOW)
    assert program.evaluate(bindings) is True
    assert [variable.name for variable in bindings.values] == ["works"]
    assert bindings.failures == {}


def test_a_failure_of_a_variable_can_be_absorbed_each_time():
    program = compile_expression(
        "variables.fails || variables.fails || true", result=ResultType.BOOL, variables={"fails": "1 / 0 == 1"}
    )
    bindings = bind(EMPTY, now=NOW)
    assert program.evaluate(bindings) is True
    assert list(bindings.failures.values()) == [(CelError, "divide by zero")]


def test_a_constant_variable_is_known_to_its_readers():
    variables = {"pattern": "'^a+$'", "names": "['a', 'b']", "limit": "3", "map": "{'a': 1}"}
    text = (
        "'aaa'.matches(variables.pattern) && 'a' in variables.names && variables.limit > 2 && variables.map.a == 1"
        " && variables.names.exists(n, n == 'b')"
    )
    bindings = bind(EMPTY, now=NOW)
    assert compile_expression(text, result=ResultType.BOOL, variables=variables).evaluate(bindings) is True
    assert bindings.values == {}


def test_now_has_nanoseconds():
    bindings = bind(EMPTY, now=NOW)
    program = compile_expression(
        "now == timestamp('2026-03-14T15:09:26.535897Z') && now < now + duration('1ns')", result=ResultType.BOOL
    )
    assert program.evaluate(bindings) is True
    assert list(bindings.values.values()) == [Timestamp(1773500966535897000)]
    assert isinstance(bindings, RequestBindings)


def test_what_is_said_of_an_error():
    assert said(CelError("")) == "no matching overload"
    assert said(KeyError("x" * 500)) == f"no such key: `{'x' * 120}`"
    assert said(TypeError("not raised")) == "no matching overload"
    with pytest.raises(TypeError) as caught:
        len(1)  # type: ignore[arg-type]  # that is the point
    assert said(caught.value) == "no matching overload"


def test_a_type_error_that_is_no_selection():
    # `change` is a map for every program; should it not be, the evaluation still ends in an error.
    program = compile_expression("change.size() == 1 && change.x.y == 1", result=ResultType.BOOL)
    with pytest.raises(EvaluationError, match="no matching overload"):
        program.evaluate(bind({**EMPTY, "change": 1}, now=NOW))


def test_whatever_else_goes_wrong_is_an_evaluation_error():
    class Odd(dict[str, Any]):
        def __getitem__(self, key):
            raise MemoryError

    with pytest.raises(EvaluationError, match="`MemoryError`"):
        compile_expression("change.x == 1", result=ResultType.BOOL).evaluate(bind({**EMPTY, "change": Odd()}, now=NOW))


class TestValues:
    def test_a_mixed_map_tells_true_from_one(self):
        mixed = MixedMap([(True, "yes"), (1, "one"), (UInt(2), "two"), ("a", "text")])
        assert list(mixed.keys()) == [True, 1, 2, "a"]
        assert [mixed.get(key, None) for key in (True, 1, UInt(1), 2, "a", False)] == [
            "yes",
            "one",
            "one",
            "two",
            "text",
            None,
        ]
        assert dict(mixed.items()) == {True: "yes", 2: "two", "a": "text"} | {1: "one"}
        assert len(mixed) == 4

    def test_a_field_of_an_optional_is_optional(self):
        assert Optional({"a": 1})["a"] == Optional(1)
        assert Optional({"a": 1})["b"] is NONE
        assert NONE["a"] is NONE
        with pytest.raises(TypeError):
            Optional(1)["a"]

    def test_names(self):
        assert [type_name(value) for value in (UInt(1), Duration(1), TypeValue("int"), object())] == [
            "uint",
            "google.protobuf.Duration",
            "type",
            "unknown",
        ]
        assert repr(UInt(1)) == "UInt(1)"
