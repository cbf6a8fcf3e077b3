"""CEL, the language of conditions: text in, programs out. Which engine runs them is known in this package only."""

from app.core.cel.admission import bind_params, facts_in
from app.core.cel.bindings import RequestBindings, Variable, bind, metered
from app.core.cel.budget import POLICY_STEPS_MAX, STEPS_MAX
from app.core.cel.clauses import ABSENT, CLAUSE_STEPS_MAX, SeenSite, SeenVariable, Trace, deciding_clause, traced
from app.core.cel.engine import CompiledProgram, can_exceed, check_variable, compile_expression, estimate_of
from app.core.cel.estimate import USUAL, Estimate
from app.core.cel.instrument import FALSE, TRUE, Form, Site, Source, conjuncts, source_of, variables_of
from app.core.cel.needs import NOTHING_LIFTED, Key, Lifted, Need, Needs, Path, both, either, key_of
from app.core.cel.plain import JSON_MAX_BYTES
from app.core.cel.program import (
    ERROR_MAX_CHARS,
    EXPRESSION_MAX_CHARS,
    INPUT_NAMES,
    KUBERNETES_NAMES,
    NESTING_MAX,
    SCOPE,
    Bindings,
    EvaluationError,
    ExpressionError,
    Problem,
    Program,
    ResultType,
    Scope,
    one_line,
)
from app.core.cel.variables import RESERVED_WORDS, VARIABLE_NAME, VARIABLES_PER_EXPRESSION_MAX

__all__ = [
    "ABSENT",
    "CLAUSE_STEPS_MAX",
    "ERROR_MAX_CHARS",
    "EXPRESSION_MAX_CHARS",
    "FALSE",
    "INPUT_NAMES",
    "JSON_MAX_BYTES",
    "KUBERNETES_NAMES",
    "NESTING_MAX",
    "NOTHING_LIFTED",
    "POLICY_STEPS_MAX",
    "RESERVED_WORDS",
    "SCOPE",
    "STEPS_MAX",
    "TRUE",
    "USUAL",
    "VARIABLES_PER_EXPRESSION_MAX",
    "VARIABLE_NAME",
    "Bindings",
    "CompiledProgram",
    "Estimate",
    "EvaluationError",
    "ExpressionError",
    "Form",
    "Key",
    "Lifted",
    "Need",
    "Needs",
    "Path",
    "Problem",
    "Program",
    "RequestBindings",
    "ResultType",
    "Scope",
    "SeenSite",
    "SeenVariable",
    "Site",
    "Source",
    "Trace",
    "Variable",
    "bind",
    "bind_params",
    "both",
    "can_exceed",
    "check_variable",
    "compile_expression",
    "conjuncts",
    "deciding_clause",
    "either",
    "estimate_of",
    "facts_in",
    "key_of",
    "metered",
    "one_line",
    "source_of",
    "traced",
    "variables_of",
]
