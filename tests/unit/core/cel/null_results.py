"""Run by `test_evaluate.py` in a process of its own: prints `alive` if the interpreter survives."""

import datetime as dt
import gc

from app.core.cel import EvaluationError, ResultType, bind, compile_expression

NOW = dt.datetime(2026, 3, 14, tzinfo=dt.UTC)
NULLS = {"a": None, "list": [None] * 10, "deep": {"x": {"y": None}}}
INPUTS = dict.fromkeys(("subject", "action", "resource", "context", "change"), NULLS)
VARIABLES = {"nothing": "change.a", "all": "change.list", "never": "change.missing"}
BOOLS = [
    "change.a == null",
    "variables.nothing == null && variables.all.all(x, x == null)",
    "change.list.map(x, x).exists(x, x == null)",
    "change.?deep.?x.?y.orValue(null) == null",
    "variables.never == null",
    "change.a ? true : false",
    "type(change.a) == null_type",
    "false",
]
STRINGS = ["true ? 'text' : 'other'", "string(change.a)", "'x' + string(size(change.list))"]


def main() -> None:
    programs = [compile_expression(text, result=ResultType.BOOL, variables=VARIABLES) for text in BOOLS]
    programs += [compile_expression(text, result=ResultType.STRING, variables=VARIABLES) for text in STRINGS]
    for turn in range(20_000):
        bindings = bind(INPUTS, now=NOW)
        try:
            programs[turn % len(programs)].evaluate(bindings)
        except EvaluationError:
            continue
    for program in programs:
        bindings = bind(INPUTS, now=NOW)
        for _ in range(20_000):
            try:
                program.evaluate(bindings)
            except EvaluationError:
                continue
    gc.collect()
    print("alive")  # noqa: T201


main()
