"""The scope of admission policies: its names, values that are shared or not, `has(variables.x)`, and `null` beside a value."""

from datetime import UTC, datetime

import pytest

from app.core.cel import (
    EvaluationError,
    ExpressionError,
    ResultType,
    Scope,
    bind,
    bind_params,
    check_variable,
    compile_expression,
    deciding_clause,
)
from app.core.cel.admission import OBJECT
from app.core.types import Outcome

NOW = datetime(2026, 3, 13, 12, tzinfo=UTC)


def bindings(after=None, **kubernetes):
    return bind(
        {
            "subject": {"type": "user", "id": "u", "properties": {}},
            "action": {"name": "create", "properties": {}},
            "resource": {"type": "core/Pod", "id": "x", "properties": {}},
            "context": {"kubernetes": kubernetes} if kubernetes else {},
            "change": {"after": after} if after is not None else {},
        },
        now=NOW,
    )


def program(text, *, result=ResultType.BOOL, scope=Scope.ADMISSION, **variables):
    return compile_expression(text, result=result, variables=variables, scope=scope)


def value(text, given, params=None, *, result=ResultType.BOOL, **variables):
    return program(text, result=result, **variables).evaluate(bind_params(given, params))


@pytest.mark.parametrize("text", ["object == null", "oldObject == null", "request == null", "namespaceObject == null"])
@pytest.mark.parametrize("scope", list(Scope))
def test_what_is_no_change_of_kubernetes_is_null(text, scope):
    assert program(text, scope=scope).evaluate(bind_params(bindings(), None)) is True


@pytest.mark.parametrize("name", ["subject", "action", "resource", "context", "change", "now", "authorizer"])
def test_what_only_the_firewall_knows_is_not_in_scope(name):
    with pytest.raises(ExpressionError):
        program(f"{name} == null")


def test_parameters_are_not_in_the_scope_of_our_own_policies():
    with pytest.raises(ExpressionError, match="undeclared reference to `params`"):
        program("params == null", scope=Scope.MUTATION)


def test_a_type_that_is_known_late_is_checked_late():
    one = program("object.ready")
    assert one.evaluate(bindings({"ready": True})) is True
    with pytest.raises(EvaluationError, match="gave `string`, not `bool`"):
        one.evaluate(bindings({"ready": "yes"}))
    with pytest.raises(ExpressionError, match="not `bool`"):
        program("object.ready", scope=Scope.MUTATION)


def test_values_of_the_request_are_shared_and_those_of_parameters_are_not():
    given = bindings({"n": 2})
    variables = {"n": "object.n", "sum": "variables.n + params.add", "again": "variables.sum * 10"}
    for add in (1, 2):
        assert value(f"variables.again == {(2 + add) * 10}", given, {"add": add}, **variables) is True
    assert [variable.name for variable in given.values] == ["object", "n"]
    assert not given.failures


def test_a_failure_is_shared_as_well_and_told_alike():
    given = bindings({})
    for _ in range(2):
        with pytest.raises(EvaluationError, match="no such key: `n`"):
            value("variables.n == 1", given, {}, n="object.n")
    assert len(given.failures) == 1
    assert OBJECT in given.values


def test_without_parameters_that_were_bound_there_is_no_value():
    with pytest.raises(EvaluationError, match="`params` was not bound"):
        program("params == null").evaluate(bindings())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("has(variables.a)", True),
        ("!has( variables . a )", False),
        ("has(variables.nothing) && variables.nothing == null", True),
        ("has(variables.constant)", True),
        ("object.list.all(e, has(variables.a) && e == variables.a)", True),
        ("has(variables.map.field) && !has(variables.map.other)", True),
    ],
)
def test_a_variable_is_there_if_it_has_a_value(text, expected):
    given = bindings({"list": [1], "map": {"field": 1}})
    variables = {"a": "object.list[0]", "nothing": "object.?no.orValue(null)", "constant": "1", "map": "object.map"}
    assert value(text, given, **variables) is expected


def test_a_variable_without_a_value_is_an_error_that_can_be_absorbed():
    given = bindings({})
    with pytest.raises(EvaluationError, match="no such key: `x`"):
        value("has(variables.x)", given, x="object.x")
    assert value("has(variables.x) || true", given, x="object.x") is True


def test_our_own_policies_are_told_that_it_says_nothing():
    with pytest.raises(ExpressionError, match="is always true"):
        program("has(variables.x)", scope=Scope.MUTATION, x="1")


@pytest.mark.parametrize(
    ("text", "given", "expected"),
    [
        ("object.n > 1 ? 'many' : null", {"n": 2}, "many"),
        ("object.n > 1 ? 'many' : null", {"n": 1}, None),
        ("object.n == null ? null : object.n > 1 ? 'null' : null", {"n": 2}, "null"),
    ],
)
def test_null_may_stand_beside_a_text(text, given, expected):
    assert value(text, bindings(given), result=ResultType.STRING_OR_NULL) == expected


def test_a_variable_may_be_null_or_not():
    variables = {"v": "has(object.n) ? object.n : null"}
    check_variable("v", variables=variables, scope=Scope.ADMISSION)
    assert value("variables.v == null || variables.v == 1", bindings({"n": 1}), **variables) is True


def test_what_else_is_wrong_is_said_of_the_text_as_it_was_written():
    with pytest.raises(ExpressionError) as caught:
        program("(object.a ? 'x' : null) == objekt", result=ResultType.BOOL)
    assert all("dyn(null" not in problem.message for problem in caught.value.problems)
    assert any(problem.column == 28 for problem in caught.value.problems)


def test_a_clause_after_a_null_has_its_place():
    text = "(object.a == 1 ? 'x' : null) == null || object.b == 2 || object.c == 3"
    one = program(text)
    given = bind_params(bindings({"a": 1, "b": 2, "c": 3}), None)
    clause = deciding_clause(one, given, path="p", failure=None, budget=[1000])
    assert (clause.text, clause.column) == ("object.b == 2", text.index("object.b") + 1)
    assert clause.values == {"object.b": 2}


def test_a_clause_says_why_a_validation_is_false():
    one = program("has(variables.a) && object.a < params.max && object.a > 0", a="object.a")
    given = bind_params(bindings({"a": 7}), {"max": 5})
    clause = deciding_clause(one, given, path="p", failure=None, budget=[1000], holds=False)
    assert (clause.text, clause.outcome) == ("object.a < params.max", Outcome.FALSE)
    assert clause.values == {"object.a": 7, "params.max": 5}
    doubted = deciding_clause(one, given, path="p", failure="another", budget=[1000], holds=False)
    assert (doubted.text, doubted.outcome, doubted.values) == (one.text, Outcome.ERROR, {})


def test_a_clause_names_the_variable_that_failed_for_every_evaluation():
    one = program("variables.a == 1", a="object.no.such == 1 ? 1 : 2")
    given = bindings({})
    for _ in range(2):
        own = bind_params(given, {})
        with pytest.raises(EvaluationError) as caught:
            one.evaluate(own)
        clause = deciding_clause(one, own, path="p", failure=str(caught.value), budget=[1000])
        assert clause.path == "variables[0].expression"
        assert clause.outcome is Outcome.ERROR
