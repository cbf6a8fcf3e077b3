"""CEL, the language of conditions: text in, programs out. Which engine runs them is known in this package only."""

from app.core.cel.bindings import bind
from app.core.cel.engine import check_variable, compile_expression
from app.core.cel.plain import JSON_MAX_BYTES
from app.core.cel.program import (
    ERROR_MAX_CHARS,
    EXPRESSION_MAX_CHARS,
    INPUT_NAMES,
    NESTING_MAX,
    SCOPE,
    Bindings,
    EvaluationError,
    ExpressionError,
    Problem,
    Program,
    ResultType,
    one_line,
)
from app.core.cel.variables import RESERVED_WORDS, VARIABLE_NAME, VARIABLES_PER_EXPRESSION_MAX

__all__ = [
    "ERROR_MAX_CHARS",
    "EXPRESSION_MAX_CHARS",
    "INPUT_NAMES",
    "JSON_MAX_BYTES",
    "NESTING_MAX",
    "RESERVED_WORDS",
    "SCOPE",
    "VARIABLES_PER_EXPRESSION_MAX",
    "VARIABLE_NAME",
    "Bindings",
    "EvaluationError",
    "ExpressionError",
    "Problem",
    "Program",
    "ResultType",
    "bind",
    "check_variable",
    "compile_expression",
    "one_line",
]
