"""The first engine: cel-expr-python, Google's C++ implementation of CEL. Nothing outside this package names it.

Guards around its binding, each found by experiment:

- a string of the input ends at NUL for it, and nesting of some thousands kills the process: step 1 of the way of a
  request (`core/strict_json.py`) lets neither in;
- on Python 3.11 a null result takes a reference too many from `None`, and after some thousand of them the interpreter
  aborts: only results whose type is BOOL, STRING or ERROR are ever read, and variables are inlined, never read back;
- a failure comes as a value of type ERROR or as an exception: both become `EvaluationError`;
- an activation belongs to the thread that made it;
- an evaluation is given up after 10,000 steps of comprehensions: an error, so the decision is `deny`.
"""

import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from difflib import get_close_matches
from functools import lru_cache
from typing import Any

from cel_expr_python import cel

from app.core.cel.program import (
    INPUT_NAMES,
    SCOPE,
    Bindings,
    EvaluationError,
    ExpressionError,
    Problem,
    Program,
    ResultType,
    one_line,
)
from app.core.cel.variables import check_shape, inline, order
from app.core.types import JsonObject

_EXTENSIONS = (
    "optional",  # `regex` needs it before itself
    "lists",
    "sets",
    "strings",
    "math",
    "encoders",
    "bindings",
    "two-var-comprehensions",
    "regex",
)
_CONFIG = cel.NewEnvConfigFromYaml("extensions:\n" + "\n".join(f"- name: {name}" for name in _EXTENSIONS))
_BASE: dict[str, Any] = {**dict.fromkeys(INPUT_NAMES, cel.Type.DYN), "now": cel.Type.TIMESTAMP}
_ENVIRONMENT = cel.NewEnv(config=_CONFIG, variables=_BASE)
_RESULTS = {ResultType.BOOL: cel.Type.BOOL, ResultType.STRING: cel.Type.STRING}
_WRONG_RESULT_FIXES = {
    ResultType.BOOL: "make it a comparison, for example with `== true`",
    ResultType.STRING: "convert it with `string(...)`",
}
# One problem in the text of the engine: `ERROR: <input>:1:19: undeclared reference to 'x' (in container '')`.
_PROBLEM = re.compile(r"^(?:[A-Z_]+: )?ERROR: <input>:(-?\d+):(-?\d+): (.*)$", re.MULTILINE)
_NOISE = re.compile(r"^[A-Z_]+: |^<input>:-1:-1: | \[[A-Z_]+\]$| \(in container ''\)$| expecting \{.*\}$|\.$")
_QUOTED = re.compile(r"'([^']*)'")
_UNDECLARED = re.compile(r"undeclared reference to '([^']*)'")


class EngineBindings:
    """The values of one request, converted for the engine when the first program reads them."""

    __slots__ = ("_activation", "_owner", "inputs", "now")

    def __init__(self, inputs: JsonObject, *, now: datetime) -> None:
        self.inputs = inputs
        self.now = now
        self._activation: Any = None
        self._owner = 0

    def activation(self) -> Any:
        """Give the engine's view of the inputs: one for all programs, but never one of another thread."""
        me = threading.get_ident()
        if self._activation is None or self._owner != me:
            self._activation = _ENVIRONMENT.Activation({**self.inputs, "now": self.now})
            self._owner = me
        return self._activation


@dataclass(frozen=True, slots=True)
class EngineProgram:
    """One expression, checked and ready."""

    text: str
    result: ResultType
    expression: Any

    def evaluate(self, bindings: Bindings) -> bool | str:
        """Evaluate once; see `Program.evaluate`."""
        if not isinstance(bindings, EngineBindings):
            raise EvaluationError("the values were bound for another engine")
        wanted = _RESULTS[self.result]
        try:
            value = self.expression.eval(bindings.activation())
            found = value.type()
            if found == wanted:
                # INVARIANT: `value()` is read for BOOL, STRING and ERROR only, see the head of this file.
                answer: bool | str = value.value()
                return answer
            text = (
                _plain(str(value.value())) if found == cel.Type.ERROR else f"gave {_name(found)}, not {_name(wanted)}"
            )
        except Exception as error:  # noqa: BLE001 - whatever the engine throws, this expression has no value
            text = _plain(str(error)) or type(error).__name__
        raise EvaluationError(text)


def bind(inputs: JsonObject, *, now: datetime) -> EngineBindings:
    """Make the values of one request readable for programs; `inputs` must not change while they are used."""
    return EngineBindings(inputs, now=now)


def compile_expression(text: str, *, result: ResultType, variables: Mapping[str, str] | None = None) -> Program:
    """Compile an expression whose type is known to be `result`, with the variables that it reads.

    `variables` maps names to expressions; positions in errors are those of the text that is at fault.

    Raises:
        ExpressionError: the expression, or a variable it reads (`ExpressionError.variable`), cannot be compiled.
    """
    declared = variables or {}
    checked, ordered = _checked(text, declared)
    wanted = _RESULTS[result]
    found = checked.return_type()
    if found != wanted:
        raise ExpressionError(
            (Problem(1, 1, f"the expression gives {_name(found)}, not {_name(wanted)}", _WRONG_RESULT_FIXES[result]),)
        )
    if ordered:
        try:
            checked = _ENVIRONMENT.compile(inline(text, declared, ordered))
        except Exception as error:
            # What was checked with its variables declared fails with them bound only for its size.
            message = f"the expression with its variables is too deep: {one_line(_plain(str(error)), 80)}"
            raise ExpressionError((Problem(1, 1, message, "use fewer or simpler variables"),)) from error
    return EngineProgram(text=text, result=result, expression=checked)


def check_variable(name: str, *, variables: Mapping[str, str]) -> None:
    """Check the text of one declared variable, whether or not anything reads it.

    Raises:
        ExpressionError: it cannot be compiled; `variable` is set if the fault is in another variable that it reads.
    """
    # Through `order`, so that a variable that reads itself is found.
    try:
        order(f"variables.{name}", variables)
    except ExpressionError as error:
        raise ExpressionError(error.problems, variable=None if error.variable == name else error.variable) from None
    _checked(variables[name], variables)


def _checked(text: str, variables: Mapping[str, str]) -> tuple[Any, tuple[str, ...]]:
    """Compile with the variables declared under their own names, so that positions and types are the author's."""
    check_shape(text)
    ordered = order(text, variables)
    types: dict[str, Any] = {}
    for name in ordered:
        try:
            check_shape(variables[name])
            types[f"variables.{name}"] = _compile(variables[name], types).return_type()
        except ExpressionError as error:
            raise ExpressionError(error.problems, variable=name) from None
    return _compile(text, types), ordered


def _compile(text: str, types: Mapping[str, Any]) -> Any:
    declared = tuple(_Declared(name, str(type_), type_) for name, type_ in types.items())
    environment = _environment(declared) if declared else _ENVIRONMENT
    try:
        return environment.compile(text)
    except Exception as error:
        raise ExpressionError(_problems(str(error), text, names=[*SCOPE, *types])) from error


@dataclass(frozen=True, slots=True)
class _Declared:
    """A variable with its type; the engine's types cannot be hashed, their names can."""

    name: str
    type_name: str
    type_: Any = field(compare=False)


@lru_cache(
    maxsize=64
)  # the expressions of a policy share their variables, and making an environment takes a millisecond
def _environment(declared: tuple[_Declared, ...]) -> Any:
    return cel.NewEnv(config=_CONFIG, variables={**_BASE, **{d.name: d.type_ for d in declared}})


def _problems(said: str, text: str, *, names: list[str]) -> tuple[Problem, ...]:
    lines = text.split("\n")
    found: dict[Problem, None] = {}
    for line, column, message in _PROBLEM.findall(said):
        # -1:-1 is the engine's way to say that its own limits, not a token, are the problem.
        at, column_at = max(int(line), 1), max(int(column), 1)
        undeclared = _UNDECLARED.search(message)
        if undeclared is not None and "." in undeclared.group(1):
            # The engine points at the last dot of `a.b.c`; the reader looks for its start.
            start = column_at - undeclared.group(1).rindex(".")
            shown = lines[at - 1] if at <= len(lines) else ""
            if shown[max(start - 1, 0) :].startswith(undeclared.group(1)):
                column_at = start
        root = undeclared.group(1).split(".", 1)[0] if undeclared is not None else None
        found[Problem(at, column_at, one_line(_plain(message), 200), _fix(message, root, names))] = None
    return tuple(found) or (Problem(1, 1, one_line(_plain(said), 200), "make the expression simpler"),)


def _fix(message: str, undeclared: str | None, names: list[str]) -> str | None:
    if undeclared is None:
        return "make the expression simpler" if "recursion" in message else None
    near = get_close_matches(undeclared, names, n=1)
    return f"did you mean `{near[0]}`?" if near else "in scope are " + ", ".join(f"`{n}`" for n in sorted(names))


def _plain(text: str) -> str:
    """Say what the engine says in the firewall's manner: no status codes, lower case, user input in backticks."""
    text, previous = text.split("\n", 1)[0].replace("'<EOF>'", "the end"), ""
    while previous != text:
        previous, text = text, _NOISE.sub("", text).strip()
    text = _QUOTED.sub(r"`\1`", text).replace("in map : ", "in map: ")
    return text[:1].lower() + text[1:] if text[1:2].islower() else text


def _name(of: Any) -> str:
    return f"`{str(of).lower()}`"
