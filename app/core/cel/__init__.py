"""CEL, the language of conditions: text in, programs out. Which engine runs them is known in this package only."""

from app.core.cel.bindings import bind, metered
from app.core.cel.budget import POLICY_STEPS_MAX, STEPS_MAX
from app.core.cel.clauses import CLAUSE_STEPS_MAX, SeenSite, Trace, deciding_clause
from app.core.cel.engine import can_exceed, check_variable, compile_expression, estimate_of
from app.core.cel.estimate import Estimate
from app.core.cel.needs import NOTHING_LIFTED, Key, Lifted, Need, Needs, Path, both, either, key_of
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
    "CLAUSE_STEPS_MAX",
    "ERROR_MAX_CHARS",
    "EXPRESSION_MAX_CHARS",
    "INPUT_NAMES",
    "JSON_MAX_BYTES",
    "NESTING_MAX",
    "NOTHING_LIFTED",
    "POLICY_STEPS_MAX",
    "RESERVED_WORDS",
    "SCOPE",
    "STEPS_MAX",
    "VARIABLES_PER_EXPRESSION_MAX",
    "VARIABLE_NAME",
    "Bindings",
    "Estimate",
    "EvaluationError",
    "ExpressionError",
    "Key",
    "Lifted",
    "Need",
    "Needs",
    "Path",
    "Problem",
    "Program",
    "ResultType",
    "SeenSite",
    "Trace",
    "bind",
    "both",
    "can_exceed",
    "check_variable",
    "compile_expression",
    "deciding_clause",
    "either",
    "estimate_of",
    "key_of",
    "metered",
    "one_line",
]
