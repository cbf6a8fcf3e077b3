"""Values that leave as values: what becomes of each, what JSON does not have, and how much is too much."""

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.canonical import canonical
from app.core.cel import EvaluationError, ExpressionError, ResultType, bind, compile_expression
from app.core.cel.plain import JSON_MAX_BYTES, to_json
from app.core.cel.values import CelError

INPUTS = {
    "subject": {"id": "s"},
    "action": {},
    "resource": {"id": "i", "n": 1.5, "list": [1, {"a": None}]},
    "context": {"nul": "a\0b"},
    "change": {},
}
NOW = dt.datetime(2026, 3, 13, 12, tzinfo=dt.UTC)


def value(text, variables=None):
    return compile_expression(text, result=ResultType.JSON, variables=variables).evaluate(bind(INPUTS, now=NOW))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("null", None),
        ("true", True),
        ("1", 1),
        ("1u", 1),
        ("1.5", 1.5),
        ("'x'", "x"),
        ("resource.list", [1, {"a": None}]),
        ("{'a': [1, 2u], 'b': {'c': resource.id}}", {"a": [1, 2], "b": {"c": "i"}}),
        ("now + duration('90m')", "2026-03-13T13:30:00Z"),
        ("duration('90m')", "5400s"),
        ("[now]", ["2026-03-13T12:00:00Z"]),
        ("resource.?nothing.orValue(3)", 3),
        ("variables.v + 1", 3),
        ("{string(1): 2}", {"1": 2}),
        ("dyn({}) ", {}),
    ],
)
def test_every_json_value_comes_out(text, expected):
    found = value(text, {"v": "size(resource.list)"})
    assert (found, type(found)) == (expected, type(expected))


@pytest.mark.parametrize(
    ("text", "fix"),
    [
        ("b'x'", "base64"),
        ("[b'x']", "base64"),
        ("resource.?id", "orValue"),
        ("{1: 2}", "texts"),
        ("type(1)", "string(...)"),
    ],
)
def test_what_json_never_has_is_refused_when_it_is_loaded(text, fix):
    with pytest.raises(ExpressionError) as refused:
        value(text)
    (problem,) = refused.value.problems
    assert "which JSON does not have" in problem.message
    assert fix in str(problem.fix)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("dyn(b'x')", "`bytes` is no JSON value"),
        ("dyn({1: 2})", "`map` is no JSON value"),
        ("[dyn(type(1))]", "`type` is no JSON value"),
        ("[dyn(resource.?id)]", "`optional_type` is no JSON value"),
        ("double('nan')", "not finite"),
        ("[1.0 / 0.0]", "not finite"),
        ("18446744073709551615u", "out of the range of int"),
        ("context.nul", "NUL"),
        ("{context.nul: 1}", "NUL"),
        ("resource.nothing", "no such key"),
    ],
)
def test_what_json_does_not_have_is_an_error(text, error):
    with pytest.raises(EvaluationError, match=error):
        value(text)


def test_a_value_is_bounded_before_it_is_copied():
    assert len(str(to_json("x" * (JSON_MAX_BYTES - 2)))) == JSON_MAX_BYTES - 2
    for long in ("x" * (JSON_MAX_BYTES - 1), "\u00e9" * 3000, [0] * 5000, {"k" * 5000: 1}, [["x"] * 100] * 10**5):
        with pytest.raises(CelError, match="more than 4096 bytes"):
            to_json(long)
    deep: list[object] = []
    for _ in range(40):
        deep = [deep]
    with pytest.raises(CelError, match="nested more than 32 deep"):
        to_json(deep)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc", max_size=3), inner, max_size=4),
    max_leaves=20,
)


@given(JSON)
def test_json_stays_what_it_is(tree):
    assert canonical(to_json(tree)) == canonical(tree)
