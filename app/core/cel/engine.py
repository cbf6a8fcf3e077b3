"""From the text of an expression to a program: cel-expr-python parses and checks, `generate` writes the Python.

The engine is Google's C++ implementation of CEL. It is here when policies are loaded, and in tests, where it says what
an expression should have given; no request reaches it. Nothing outside this package names it.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import lru_cache
from typing import Any, NamedTuple

from cel_expr_python import cel

from app.core.cel.admission import VARIABLES
from app.core.cel.bindings import AUTHORIZER, NOW, REQUEST_RESOURCE, RequestBindings, Variable, load
from app.core.cel.budget import POLICY_STEPS_MAX, STEPS_MAX, Budget, charge, policy_too_expensive
from app.core.cel.checked import MalformedTreeError, Node
from app.core.cel.clauses import Trace, traced
from app.core.cel.estimate import UNKNOWN, Estimate
from app.core.cel.failures import FAIL, said
from app.core.cel.functions import Kind
from app.core.cel.generate import Generated, Generator, Name, UnsupportedError, generate
from app.core.cel.instrument import Source
from app.core.cel.kubernetes.signatures import MERGED, declarations, telling_names
from app.core.cel.needs import NOTHING_LIFTED, Lifted
from app.core.cel.operators import MISSING
from app.core.cel.plain import to_json
from app.core.cel.program import (
    ADMISSION_SCOPE,
    INPUT_NAMES,
    KUBERNETES_NAMES,
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
from app.core.cel.sharing import PartKey, parts
from app.core.cel.tokens import TokenKind, position, tokens
from app.core.cel.variables import PRESENCE, check_shape, null_of_any_type, order, with_presence
from app.core.types import Json

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
_LANGUAGE = {"extensions": [{"name": name} for name in _EXTENSIONS]}
_BASE: dict[str, Any] = {**dict.fromkeys(INPUT_NAMES, cel.Type.DYN), "now": cel.Type.TIMESTAMP}
_LANGUAGE_CONFIG = cel.NewEnvConfigFromYaml(json.dumps(_LANGUAGE))
# The language alone, with all of its functions: what tests evaluate with too.
_ENVIRONMENT = cel.NewEnv(config=_LANGUAGE_CONFIG, variables=_BASE)
# The language with Kubernetes' libraries, of which the engine knows the types and nothing else.
_KUBERNETES_CONFIG = cel.NewEnvConfigFromYaml(json.dumps({**_LANGUAGE, **declarations()}))
_CALLED, _NAMED = telling_names()
# Blanks and comments may stand before the bracket of a call. Texts that only look like it cost an environment.
_TELLING = re.compile(rf"\b(?:(?:{'|'.join(sorted(_CALLED))})(?:\s|//[^\n\r]*)*+\(|(?:{'|'.join(sorted(_NAMED))})\b)")
_MERGED = cel.CelExtension(
    "kubernetes",
    [
        cel.FunctionDecl(
            name,
            [cel.Overload(f"list_{name}", cel.Type.INT, [cel.Type.List(cel.Type.DYN), cel.Type.DYN], is_member=True)],
        )
        for name in MERGED
    ],
)
_NAMES: dict[Scope, dict[str, Any]] = {
    Scope.MUTATION: {**_BASE, **dict.fromkeys(KUBERNETES_NAMES, cel.Type.DYN)},
    Scope.ADMISSION: dict.fromkeys(ADMISSION_SCOPE, cel.Type.DYN),
}
_IN_SCOPE = {Scope.MUTATION: SCOPE, Scope.ADMISSION: ADMISSION_SCOPE}
# What a name of the one scope is called in the other: a near miss there would send the reader the wrong way.
_ELSEWHERE: Mapping[Scope, Mapping[str, str]] = {
    Scope.MUTATION: {
        "params": "only a `ValidatingAdmissionPolicy` has parameters; write the value, or declare it in `variables`",
    },
    Scope.ADMISSION: {
        "subject": "an admission policy reads who asks from `request.userInfo`",
        "action": "an admission policy reads what is done from `request.operation`",
        "resource": "an admission policy reads what is changed from `request.resource`, or from `object`",
        "context": "an admission policy reads `request` and `namespaceObject`",
        "change": "an admission policy reads `object` and `oldObject`",
        "now": "an admission policy cannot read the time, for a cluster could not either",
    },
}
# `chnage`, `objekt`; not `container` for `context`.
_SLIP = 0.8
_CUT_SHORT_MIN_CHARS = 3
_RESULTS = {
    ResultType.BOOL: (cel.Type.BOOL,),
    ResultType.STRING: (cel.Type.STRING,),
    ResultType.TEXT: (cel.Type.STRING, cel.Type.DYN),
    ResultType.STRING_OR_NULL: (cel.Type.STRING, cel.Type.NULL, cel.Type.DYN),
}
_WRONG_RESULT_FIXES = {
    ResultType.BOOL: "make it a comparison, for example with `== true`",
    ResultType.STRING: "convert it with `string(...)`",
    ResultType.TEXT: "convert it with `string(...)`",
    ResultType.STRING_OR_NULL: "convert it with `string(...)`",
}
_NEVER_JSON = re.compile(r"BYTES|\bTYPE<|\boptional_type|\bMAP<(?!STRING|DYN)|\bkubernetes\.|\bnet\.")
_NEVER_JSON_FIXES = {
    "BYTES": "write `base64.encode(...)`",
    "TYPE<": "write `string(...)` around what the type is of",
    "optional_type": "say what is given without a value: `.orValue(...)`",
    "MAP<": "make the keys texts",
    "kubernetes.": "give what one of its functions gives, for example `.asInteger()` or `.getHost()`",
    "net.": "write `string(...)`",
}
# One problem in the text of the engine: `ERROR: <input>:1:19: undeclared reference to 'x' (in container '')`.
_PROBLEM = re.compile(r"^(?:[A-Z_]+: )?ERROR: <input>:(-?\d+):(-?\d+): (.*)$", re.MULTILINE)
_NOISE = re.compile(r"^[A-Z_]+: |^<input>:-1:-1: | \[[A-Z_]+\]$| \(in container ''\)$| expecting \{.*\}$|\.$")
_QUOTED = re.compile(r"'([^']*)'")
_UNDECLARED = re.compile(r"undeclared reference to '([^']*)'")
# What an expression of a MutatingAdmissionPolicy makes.
_PATCHES = frozenset({"JSONPatch", "Object"})


# What the inputs are for this package's own evaluator; the checker is told that they may be anything.
_INPUTS = {name: Name(f"i[{name!r}]", Kind.MAP) for name in INPUT_NAMES}
_SCOPE: dict[str, Name] = {
    **_INPUTS,
    "now": Name(variable=NOW, kind=Kind.TIMESTAMP),
    **{variable.name: Name(variable=variable) for variable in VARIABLES},
}
# For `also`: expressions that ask an authorizer are only compiled where one will answer.
AUTHORIZED = frozenset({"authorizer"})
# What an expression can read only where it is said to be there, by the name that says so.
_OPTIONAL_SCOPE = {
    "authorizer": {
        "authorizer": Name(variable=AUTHORIZER, kind=Kind.OPAQUE, fails=True),
        "authorizer.requestResource": Name(variable=REQUEST_RESOURCE, kind=Kind.OPAQUE, fails=True),
    }
}
_WHO_ASKS = "test who asks: `subject`, or in an admission policy `request.userInfo`"
_REFUSED = {
    name: Name(refusal=(f"`{name}` cannot be read here: nothing answers its checks", _WHO_ASKS))
    for name in _OPTIONAL_SCOPE["authorizer"]
}
_ALONE: Mapping[str, Name] = {**_SCOPE, **_REFUSED}
_KINDS = {
    ResultType.BOOL: Kind.BOOL,
    ResultType.STRING: Kind.STRING,
    ResultType.TEXT: Kind.STRING,
    ResultType.STRING_OR_NULL: Kind.ANY,
}
# The checker's word for a `null` beside a value of another type.
_NULL_TYPE = "null_type"


@dataclass(frozen=True, slots=True)
class CompiledProgram:
    """One expression, checked and turned into Python."""

    text: str
    run: Callable[..., Any] = field(repr=False, compare=False)
    source: Source = field(repr=False, compare=False)
    lifted: Lifted = field(default=NOTHING_LIFTED, repr=False, compare=False)
    estimate: Estimate = field(default=UNKNOWN, repr=False, compare=False)
    reads: tuple[Variable, ...] = field(default=(), repr=False, compare=False)
    parts: tuple[PartKey, ...] = field(default=(), repr=False, compare=False)

    def evaluate(self, bindings: Bindings) -> Json:
        """Evaluate once; see `Program.evaluate`."""
        if not isinstance(bindings, RequestBindings):
            raise EvaluationError("the values were bound for another engine")
        try:
            answer: Json = (
                self.run(bindings, bindings.inputs, bindings.values, [STEPS_MAX])
                if bindings.allowance is None
                else self._paid(bindings, bindings.allowance)
            )
        except EvaluationError:
            raise
        except FAIL as error:
            text = said(error)
        except Exception as error:  # noqa: BLE001 - whatever goes wrong, this expression has no value
            text = f"`{type(error).__name__}`"
        else:
            return answer
        raise EvaluationError(text)

    def _paid(self, bindings: RequestBindings, allowance: Budget) -> Json:
        """Evaluate for a policy that has to pay for all of its expressions together."""
        if allowance[0] < 0:
            raise policy_too_expensive()
        budget = [STEPS_MAX]
        try:
            answer: Json = self.run(bindings, bindings.inputs, bindings.values, budget)
        finally:
            charge(allowance, budget)
        return answer

    def trace(self, bindings: Bindings, *, budget: Budget | None = None) -> Trace:
        """Evaluate once more, with notes; see `Program.trace`."""
        return traced(self.source, bindings, budget=budget)


def truth(program: Program, bindings: Bindings) -> bool | str:
    """Give the truth of a condition, or the text of its failure. INVARIANT: nothing but `True` itself counts as true.

    As `Program.evaluate`, with a call less: a decision asks hundreds of conditions.
    """
    try:
        if type(program) is CompiledProgram and type(bindings) is RequestBindings and bindings.allowance is None:
            value = program.run(bindings, bindings.inputs, bindings.values, [STEPS_MAX])
        else:
            value = program.evaluate(bindings)
    except EvaluationError as error:
        return str(error)
    except FAIL as error:
        return str(EvaluationError(said(error)))
    except Exception as error:  # noqa: BLE001 - one broken condition must not silence the others
        return f"`{type(error).__name__}`"
    return value if isinstance(value, bool) else "gave no bool"


def estimate_of(program: Program) -> Estimate:
    """Say what a program may cost, without the variables that it reads."""
    return program.estimate if isinstance(program, CompiledProgram) else UNKNOWN


def can_exceed(programs: Iterable[Program], *, times: int = 1) -> bool:
    """Tell whether a policy of these programs can spend more than `POLICY_STEPS_MAX`, their variables included.

    Only `metered` bindings hold it to that; a policy that cannot exceed it needs none. `times` is how often each of
    them is asked.
    """
    most = 0
    seen: set[Variable] = set()
    for program in programs:
        most += min(estimate_of(program).most, STEPS_MAX)
        waiting = list(program.reads) if isinstance(program, CompiledProgram) else []
        while waiting:
            variable = waiting.pop()
            if variable not in seen:
                seen.add(variable)
                most += min(variable.estimate.most, STEPS_MAX)
                waiting += variable.reads
    return most * times > POLICY_STEPS_MAX


def compile_expression(
    text: str,
    *,
    result: ResultType,
    variables: Mapping[str, str] | None = None,
    scope: Scope = Scope.MUTATION,
    also: frozenset[str] = frozenset(),
) -> Program:
    """Compile an expression whose type is known to be `result`, with the variables that it reads.

    `variables` maps names to expressions; positions in errors are those of the text that is at fault. `scope` says
    which names there are, and whether a type that is known only when it runs will do. `also` names what is in scope
    beside them: `authorizer`, if the bindings will have one.

    Raises:
        ExpressionError: the expression, or a variable it reads (`ExpressionError.variable`), cannot be compiled.
    """
    declared = variables or {}
    reading = _Reading(scope, also)
    checked, ordered = _checked(text, declared, scope)
    found = checked.type
    if result is ResultType.JSON:
        if (never := _NEVER_JSON.search(str(found))) is not None:
            fix = _NEVER_JSON_FIXES[never.group()]
            raise ExpressionError(
                (Problem(1, 1, f"the expression gives {_name(found)}, which JSON does not have", fix),)
            )
        generated, source = _generated(checked, ordered, declared, text, reading)
        run = _giving_json(generated.run)
        return CompiledProgram(text, run, source, estimate=generated.estimate, reads=generated.reads)
    wanted = _RESULTS[result]
    if found not in wanted and not (scope is Scope.ADMISSION and found == cel.Type.DYN):
        message = f"the expression gives {_name(found)}, not {_name(wanted[0])}"
        raise ExpressionError((Problem(1, 1, message, _WRONG_RESULT_FIXES[result]),))
    generated, source = _generated(checked, ordered, declared, text, reading, wanted=_KINDS[result])
    return CompiledProgram(
        text, generated.run, source, generated.lifted, generated.estimate, generated.reads, generated.parts
    )


def together(
    conditions: Iterable[Program], rules: Iterable[Program | None]
) -> Callable[[RequestBindings], Sequence[bool] | None] | None:
    """Make a function that evaluates the expressions of a policy at once; None if they are not of this engine.

    It gives what each rule says (True for one that is None) if all conditions are true, nothing if one is false or no
    rule is true, and None if something is no truth. It raises whatever an expression raises: who wants to know which
    one, and why, evaluates them one by one. Not for bindings with an allowance.
    """
    first, then = list(conditions), list(rules)
    if not all(isinstance(program, CompiledProgram) for program in (*first, *then) if program is not None):
        return None
    before = tuple(program.run for program in first if isinstance(program, CompiledProgram))
    runs = tuple(program.run if isinstance(program, CompiledProgram) else None for program in then)

    def ask(bindings: RequestBindings) -> Sequence[bool] | None:
        inputs, values = bindings.inputs, bindings.values
        for run in before:
            holds = run(bindings, inputs, values, [STEPS_MAX])
            if holds is not True:
                return () if holds is False else None
        said: list[bool] = []
        for rule in runs:
            holds = True if rule is None else rule(bindings, inputs, values, [STEPS_MAX])
            if holds is not True and holds is not False:
                return None
            said.append(holds)
        return said if True in said else ()

    return ask


def share(programs: Iterable[Program]) -> dict[int, Program]:
    """Write the conditions anew that have costly parts in common, so that a request computes those once.

    Gives those that are new by the identity of those they replace; they say the same of every input, at the same cost.
    """
    known = [program for program in programs if isinstance(program, CompiledProgram)]
    counts = Counter(key for program in known for key in program.parts)
    sharing = _Sharing(counts)
    return {
        id(program): sharing.rewritten(program) for program in known if any(counts[key] > 1 for key in program.parts)
    }


class _Sharing:
    def __init__(self, counts: Mapping[PartKey, int]) -> None:
        self._counts = counts
        self._made: dict[PartKey, tuple[Variable, Generated]] = {}

    def rewritten(self, program: CompiledProgram) -> CompiledProgram:
        tree, scope = program.source.checked(), program.source.scope
        common = [(node, key) for node, key in parts(tree.root, scope) if self._counts[key] > 1]
        generator = Generator(scope, self._shared(common, scope))
        return replace(program, run=generator.function(tree.root, Kind.BOOL).run)

    def _shared(
        self, common: Iterable[tuple[Node, PartKey]], scope: Mapping[str, Name]
    ) -> dict[int, tuple[Variable, Generated]]:
        found = {id(node): self._part(node, key, scope) for node, key in common}
        # What is known already is not computed.
        return {node: made for node, made in found.items() if made[1].constant is MISSING}

    def _part(self, node: Node, key: PartKey, scope: Mapping[str, Name]) -> tuple[Variable, Generated]:
        if key not in self._made:
            # What is in it and nowhere else is computed with it.
            inner = [
                (part, its)
                for part, its in parts(node, scope)
                if part is not node and self._counts[its] > self._counts[key]
            ]
            generated = Generator(scope, self._shared(inner, scope)).function(node, Kind.ANY)
            self._made[key] = Variable("shared", generated.run), generated
        return self._made[key]


def _giving_json(run: Callable[..., Any]) -> Callable[..., Json]:
    def plain(*given: Any) -> Json:
        return to_json(run(*given))

    return plain


class _Reading(NamedTuple):
    """Which names an expression can read."""

    scope: Scope
    also: frozenset[str]


def _generated(
    checked: "_Checked",
    ordered: tuple[str, ...],
    texts: Mapping[str, str],
    text: str,
    reading: _Reading,
    *,
    wanted: Kind = Kind.ANY,
) -> tuple[Generated, Source]:
    """Generate an expression with the variables that it reads; the source is for its traces."""
    scope = _scope(ordered, texts, reading)
    boolean = checked.type == cel.Type.BOOL
    serialised = checked.expression.serialize()
    source = Source(text, serialised, scope=scope, boolean=boolean, variables=tuple(texts), added=checked.added)
    try:
        tree = source.checked()
    except MalformedTreeError as error:
        raise ExpressionError((Problem(1, 1, str(error), "report this: it is a fault of the firewall"),)) from error
    try:
        return generate(tree, scope, wanted=wanted), source
    except UnsupportedError as error:
        line, column = position(text, tree.positions.get(error.node, 0))
        raise ExpressionError((Problem(line, column, error.message, error.fix),)) from None


def _scope(ordered: tuple[str, ...], texts: Mapping[str, str], reading: _Reading) -> Mapping[str, Name]:
    if not ordered and not reading.also:
        return _ALONE  # shared, for a program keeps its scope
    scope = dict(_ALONE)
    for name in reading.also:
        scope.update(_OPTIONAL_SCOPE[name])
    for name in ordered:
        scope[f"variables.{name}"] = found = _variable(name, texts, reading)
        if reading.scope is Scope.ADMISSION:
            scope[f"{PRESENCE}.{name}"] = _presence(found)
    return scope


def _presence(found: Name) -> Name:
    """Make the name that is true where a variable has a value; where it has none, its error stands."""
    variable = found.variable
    if variable is None or found.constant is not MISSING:
        return Name(kind=Kind.BOOL, constant=True)

    def run(bindings: RequestBindings, *_: Any) -> bool:
        if variable not in bindings.values:
            load(bindings, variable)
        return True

    return Name(kind=Kind.BOOL, fails=found.fails, variable=Variable(variable.name, run, local=variable.local))


def _variable(name: str, texts: Mapping[str, str], reading: _Reading) -> Name:
    needed = order(f"variables.{name}", texts, presence=reading.scope is Scope.ADMISSION)
    return _compiled_variable(name, tuple((other, texts[other]) for other in needed), reading)


@lru_cache(maxsize=4096)  # the rules of a policy, and policies with the same variable, share one object and its value
def _compiled_variable(name: str, texts: tuple[tuple[str, str], ...], reading: _Reading) -> Name:
    known = dict(texts)
    checked, ordered = _checked(known[name], known, reading.scope)
    generated, source = _generated(checked, ordered, known, known[name], reading)
    # INVARIANT: whatever may depend on `params` is computed for each of them. A variable of a loop may have this name.
    local = reading.scope is Scope.ADMISSION and any(
        token.kind is TokenKind.NAME and token.text == "params" for text in known.values() for token in tokens(text)
    )
    return Name(
        kind=generated.kind,
        element=generated.element,
        fails=generated.fails,
        constant=generated.constant,
        variable=Variable(name, generated.run, source, local, generated.estimate, generated.reads),
        root=generated.root,
    )


def check_variable(
    name: str, *, variables: Mapping[str, str], scope: Scope = Scope.MUTATION, also: frozenset[str] = frozenset()
) -> None:
    """Check the text of one declared variable, whether or not anything reads it; the rest as in `compile_expression`.

    Raises:
        ExpressionError: it cannot be compiled; `variable` is set if the fault is in another variable that it reads.
    """
    # Through `order`, so that a variable that reads itself is found.
    try:
        order(f"variables.{name}", variables, presence=scope is Scope.ADMISSION)
    except ExpressionError as error:
        raise ExpressionError(error.problems, variable=None if error.variable == name else error.variable) from None
    # With all of its variables, so that one of them that is at fault is blamed for it; then as its readers compile it.
    _checked(variables[name], variables, scope)
    _variable(name, variables, _Reading(scope, also))


def serialised(text: str, *, variables: Mapping[str, str]) -> bytes:
    """Give the checked expression as the engine writes it: the tree (`read_checked`) and its types (`read_types`).

    Raises:
        ExpressionError: as `compile_expression`.
    """
    data: bytes = _checked(text, variables, Scope.MUTATION)[0].expression.serialize()
    return data


@dataclass(frozen=True, slots=True)
class _Checked:
    """What the engine's checker made of a text; `added` are the places where the text was given `dyn()`."""

    expression: Any
    added: tuple[int, ...] = ()

    @property
    def type(self) -> Any:
        """The type of the value."""
        return self.expression.return_type()


def _checked(text: str, variables: Mapping[str, str], scope: Scope) -> tuple[_Checked, tuple[str, ...]]:
    """Compile with the variables declared under their own names, so that positions and types are the author's."""
    check_shape(text)
    ordered = order(text, variables, presence=scope is Scope.ADMISSION)
    types: dict[str, Any] = {}
    for name in ordered:
        try:
            check_shape(variables[name])
            types[f"variables.{name}"] = _compile(variables[name], types, scope).type
        except ExpressionError as error:
            raise ExpressionError(error.problems, variable=name) from None
    return _compile(text, types, scope), ordered


def _compile(text: str, types: Mapping[str, Any], scope: Scope) -> _Checked:
    if scope is Scope.MUTATION:
        return _Checked(_compiled(text, text, types, scope))
    rewritten, tested = with_presence(text, [name.removeprefix("variables.") for name in types])
    declared = {**types, **{f"{PRESENCE}.{name}": cel.Type.BOOL for name in tested}}
    try:
        return _Checked(_compiled(rewritten, text, declared, scope))
    except ExpressionError as error:
        if not any(_NULL_TYPE in problem.message for problem in error.problems):
            raise
        lenient, added = null_of_any_type(rewritten)
        try:
            return _Checked(_compiled(lenient, text, declared, scope), added)
        except ExpressionError:
            # What is wrong beside it is said of the text that its author knows.
            raise error from None


def _compiled(rewritten: str, text: str, types: Mapping[str, Any], scope: Scope) -> Any:
    declared = tuple(_declared(name, type_) for name, type_ in types.items())
    try:
        return _expression(rewritten, declared, scope)
    except Exception as error:
        names = [*_IN_SCOPE[scope], *(name for name in types if not name.startswith(PRESENCE))]
        raise ExpressionError(_problems(str(error), text, names=names, scope=scope)) from error


@lru_cache(maxsize=512)  # every reader of a variable asks for its type
def _expression(text: str, declared: tuple["_Declared", ...], scope: Scope) -> Any:
    kubernetes = any(declared_.opaque for declared_ in declared) or _needs_kubernetes(text)
    return _environment(declared, scope, kubernetes=kubernetes).compile(text)


def _needs_kubernetes(text: str) -> bool:
    """Tell whether an expression may use Kubernetes' libraries: their declarations double what an environment costs."""
    return _TELLING.search(text) is not None


@dataclass(frozen=True, slots=True)
class _Declared:
    """A variable with its type; the engine's types cannot be hashed, their names can."""

    name: str
    type_name: str
    type_: Any = field(compare=False)

    @property
    def opaque(self) -> bool:
        """Whether the type is one of Kubernetes' own, or has one in it."""
        return "kubernetes." in self.type_name or "net." in self.type_name


def _declared(name: str, type_: Any) -> _Declared:
    # The binding loses what an optional has in it, and what a type is of: then the variable may be anything.
    if _PARAMETRIC.search(str(type_)):
        type_ = cel.Type.DYN
    return _Declared(name, str(type_), type_)


_PARAMETRIC = re.compile(r"optional_type|\bTYPE\b")


@lru_cache(maxsize=64)  # the expressions of a policy share their variables; an environment takes a millisecond to make
def _environment(declared: tuple[_Declared, ...], scope: Scope, *, kubernetes: bool) -> Any:
    return cel.NewEnv(
        config=_KUBERNETES_CONFIG if kubernetes else _LANGUAGE_CONFIG,
        variables={**_NAMES[scope], **{d.name: d.type_ for d in declared}},
        extensions=[_MERGED] if kubernetes else [],
    )


def _problems(said: str, text: str, *, names: list[str], scope: Scope) -> tuple[Problem, ...]:
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
        if root in _PATCHES:
            made = f"`{root}` makes a patch, as only mutating policies do"
            fix = "mutating policies are out of scope: compare values, and let a rule allow, hold or deny"
            found[Problem(at, column_at, made, fix)] = None
            continue
        found[Problem(at, column_at, one_line(_plain(message), 200), _fix(message, root, names, scope))] = None
    return tuple(found) or (Problem(1, 1, one_line(_plain(said), 200), "make the expression simpler"),)


def _fix(message: str, undeclared: str | None, names: list[str], scope: Scope) -> str | None:
    if undeclared is None:
        return "make the expression simpler" if "recursion" in message else None
    if (elsewhere := _ELSEWHERE[scope].get(undeclared)) is not None:
        return elsewhere
    near = _near(undeclared, names)
    return f"did you mean `{near}`?" if near else "in scope are " + ", ".join(f"`{n}`" for n in sorted(names))


def _near(name: str, names: list[str]) -> str | None:
    """Find the name that was meant: one that differs by a slip of the fingers, or that was cut short."""
    longer = [one for one in names if len(name) >= _CUT_SHORT_MIN_CHARS and one.lower().startswith(name.lower())]
    near = get_close_matches(name, names, n=1, cutoff=_SLIP)
    return near[0] if near else longer[0] if len(longer) == 1 else None


def _plain(text: str) -> str:
    """Say what the engine says in the firewall's manner: no status codes, lower case, user input in backticks."""
    text, previous = text.split("\n", 1)[0].replace("'<EOF>'", "the end"), ""
    while previous != text:
        previous, text = text, _NOISE.sub("", text).strip()
    text = _QUOTED.sub(r"`\1`", text).replace("in map : ", "in map: ")
    return text[:1].lower() + text[1:] if text[1:2].islower() else text


def _name(of: Any) -> str:
    return f"`{str(of).lower()}`"
