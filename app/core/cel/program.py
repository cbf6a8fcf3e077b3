"""What the rest of the firewall knows of an expression: a compiled program, what it reads, how it fails."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from app.core.cel.needs import Lifted
from app.core.types import Json, JsonObject

if TYPE_CHECKING:
    from app.core.cel.budget import Budget
    from app.core.cel.clauses import Trace

# The names an expression can read. `now` is a timestamp, all others are JSON values.
INPUT_NAMES = ("subject", "action", "resource", "context", "change")
# What Kubernetes calls the parts of a change to one of its objects; null where a change is none.
KUBERNETES_NAMES = ("object", "oldObject", "request", "namespaceObject")
SCOPE = (*INPUT_NAMES, "now", *KUBERNETES_NAMES)
# What a ValidatingAdmissionPolicy reads: Kubernetes' names, and nothing that only the firewall knows.
ADMISSION_SCOPE = (*KUBERNETES_NAMES, "params")

# Longer texts are programs, not conditions; the parser's work grows faster than the text.
EXPRESSION_MAX_CHARS = 16_384
# Brackets open at the same time: as many as the published cases have. Where they are not all parentheses, the engine's
# parser gives up a little earlier, and without a position.
NESTING_MAX = 32
# An engine's error can quote a value of the input: enough to recognise it, not enough to copy a document into a log.
ERROR_MAX_CHARS = 300


class ResultType(StrEnum):
    """What an expression may give. Everything else is refused when the policy is loaded."""

    BOOL = "bool"
    STRING = "string"
    # A string as well, but one that may only turn out to be one when the expression is evaluated.
    TEXT = "text"
    STRING_OR_NULL = "string or null"
    JSON = "json"


class Scope(StrEnum):
    """Which names an expression can read, and how strict its type is.

    In `ADMISSION` an expression whose type is only known when it runs is accepted, for Kubernetes knows types that the
    checker here does not; a value of another type is then an error of the evaluation.
    """

    MUTATION = "mutation"
    ADMISSION = "admission"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with an expression: where in its text (lines and columns from 1, in code points), and the fix."""

    line: int
    column: int
    message: str
    fix: str | None = None


class ExpressionError(Exception):
    """An expression that cannot be compiled; `problems` is never empty.

    `variable` is the name of a variable whose own text is at fault, None where the fault is in the expression itself:
    whoever has already reported that variable need not report it again.
    """

    def __init__(self, problems: tuple[Problem, ...], *, variable: str | None = None) -> None:
        super().__init__("; ".join(f"{p.line}:{p.column}: {p.message}" for p in problems))
        self.problems = problems
        self.variable = variable


class EvaluationError(Exception):
    """An expression that gave no usable value for this input. The text is one line of at most `ERROR_MAX_CHARS`."""

    def __init__(self, text: str) -> None:
        super().__init__(one_line(text, ERROR_MAX_CHARS))


class Bindings(Protocol):
    """The values of one request, ready to be read by any number of programs of the engine that made them."""

    @property
    def inputs(self) -> JsonObject:
        """The tree with exactly the keys of `INPUT_NAMES`."""
        ...

    @property
    def now(self) -> datetime:
        """The instant of the decision, aware and in UTC."""
        ...


class Program(Protocol):
    """A compiled expression: pure, reusable, usable from any thread."""

    @property
    def text(self) -> str:
        """The expression as its author wrote it."""
        ...

    @property
    def lifted(self) -> Lifted:
        """What is known of a condition before it is evaluated."""
        ...

    def evaluate(self, bindings: Bindings) -> Json:
        """Evaluate once: a `bool`, a `str` or any JSON value, as the `ResultType` said when it was compiled.

        Of `STRING_OR_NULL` the caller checks what it gets.

        Raises:
            EvaluationError: for every value and every failure that is not of that type.
        """
        ...

    def trace(self, bindings: Bindings, *, budget: "Budget | None" = None) -> "Trace":
        """Evaluate once more, and note what each boolean part says: several times the cost, and for a reason only.

        What it costs is taken from `budget`, of steps; without one it may cost what an evaluation may.

        Raises:
            Exception: there is no trace. The value of the expression is what `evaluate` says, whatever happens here.
        """
        ...


def one_line(text: str, limit: int) -> str:
    """Make a text fit for one line of a reason: control characters become blanks, the rest after `limit` is cut."""
    if len(text) <= limit and text.isprintable():
        return text.strip()
    clean = "".join(c if c.isprintable() else " " for c in text[: limit + 1]).strip()
    return clean if len(clean) <= limit else clean[: limit - 1].rstrip() + "…"
