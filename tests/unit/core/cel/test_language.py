"""The language definition of CEL and its extensions, line by line: `language.txt` here and in the engine."""

import datetime as dt
from pathlib import Path
from typing import NamedTuple

import pytest
from cel_expr_python import cel

from app.core.cel import EvaluationError, ExpressionError, ResultType, bind, compile_expression
from app.core.cel.engine import _ENVIRONMENT

INPUTS = {
    "subject": {},
    "action": {},
    "resource": {},
    "context": {},
    "change": {
        "s": "abc",
        "i": 1,
        "one": 1.0,
        "d": 1.5,
        "zero": 0,
        "big": 2**63 - 1,
        "yes": True,
        "none": None,
        "l": [1, 2],
        "t": ["a", "b"],
        "e": [],
        "m": {"x": 1, "n": None},
        "o": [{"a": 1}, {}],
        "a b": 3,
        "é": 4,
        "__class__": "mine",
    },
}
NOW = dt.datetime(2026, 3, 14, 15, 9, 26, 535897, tzinfo=dt.UTC)


class Line(NamedTuple):
    expression: str
    error: str | None
    ours: bool


def lines():
    text = Path(__file__).with_name("language.txt").read_text(encoding="utf-8")
    # A text in three quotes goes on in the next line.
    text = text.replace('"""a\n', '"""a\x00')
    for line in text.splitlines():
        if line and not line.startswith("#"):
            ours = line.endswith(" [ours]")
            expression, _, error = line.removesuffix(" [ours]").partition(" !! ")
            yield Line(expression.replace("\x00", "\n"), error or None, ours)


LINES = list(lines())


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.expression[:60])
def test_here(line):
    bindings = bind(INPUTS, now=NOW)
    if line.error is None:
        assert compile_expression(line.expression, result=ResultType.BOOL).evaluate(bindings) is True
        return
    with pytest.raises((ExpressionError, EvaluationError)) as caught:
        compile_expression(line.expression, result=ResultType.BOOL).evaluate(bindings)
    assert line.error in str(caught.value)


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.expression[:60])
def test_in_the_engine(line):
    try:
        value = _ENVIRONMENT.compile(line.expression).eval(_ENVIRONMENT.Activation({**INPUTS, "now": NOW}))
        answer = value.value() if value.type() == cel.Type.BOOL else None
    except (RuntimeError, ValueError):
        answer = None
    assert (answer is (True if line.error is None else None)) is not line.ours


def test_the_corpus_is_read():
    assert len(LINES) > 300
