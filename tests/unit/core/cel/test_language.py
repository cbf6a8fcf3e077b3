"""The language definition of CEL and its extensions, case by case: `language.yaml` here and in the engine."""

import datetime as dt
from pathlib import Path
from typing import NamedTuple

import pytest
from cel_expr_python import cel
from ruamel.yaml import YAML

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
SHARE = 0.99
# Cases in which this evaluator does not do what the language definition says, each with its reason.
EXCEPTIONS: dict[str, str] = {}


class Case(NamedTuple):
    about: str
    expr: str
    error: str | None = None
    ours: str | None = None


def cases():
    text = Path(__file__).with_name("language.yaml").read_text(encoding="utf-8")
    for group in YAML(typ="safe", pure=True).load(text):
        for case in group["cases"]:
            yield Case(group["about"], case) if isinstance(case, str) else Case(group["about"], **case)


CASES = list(cases())
NAMES = [case.expr[:60] for case in CASES]


def outcome(case, bindings):
    """Give what is wrong with a case; empty if it is as it should be."""
    try:
        answer = compile_expression(case.expr, result=ResultType.BOOL).evaluate(bindings)
    except (ExpressionError, EvaluationError) as error:
        return "" if case.error is not None and case.error in str(error) else str(error)
    return "" if case.error is None and answer is True else f"gave {answer}"


def test_here():
    bindings = bind(INPUTS, now=NOW)
    wrong = {case.expr: text for case in CASES if (text := outcome(case, bindings))}
    share = 1 - len(wrong) / len(CASES)
    print(f"{len(CASES)} cases, {share:.2%} as the language definition has them")  # noqa: T201 - for `pytest -rP`
    assert wrong.keys() == EXCEPTIONS.keys(), "\n".join(f"{expr}\n    {text}" for expr, text in wrong.items())
    assert share >= SHARE


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_in_the_engine(case):
    try:
        value = _ENVIRONMENT.compile(case.expr).eval(_ENVIRONMENT.Activation({**INPUTS, "now": NOW}))
        answer = value.value() if value.type() == cel.Type.BOOL else None
    except (RuntimeError, ValueError):
        answer = None
    assert (answer is (True if case.error is None else None)) is (case.ours is None)


def test_every_case_is_there_once():
    assert len(CASES) > 1_400
    assert len({case.expr for case in CASES}) == len(CASES)
