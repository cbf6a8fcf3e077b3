"""From a checked expression to Python: the source of one function, which reads the inputs as they are.

The function takes `b` (the bindings), `i` (the inputs), `c` (the values of variables so far) and `q` (the budget). What
an author wrote reaches the source only as `repr()` of a text, a number or a truth value that the checker has seen, or
as an object in the namespace; every name in it is made up here. There are no builtins in the namespace, no attribute is
looked up but `append`, and fields of a map are subscripts. Errors are exceptions; `FAIL` are those that CEL can absorb:
`CelError`, and the `KeyError` and `TypeError` of a subscript on what is no map or has no such key.

Python evaluates arguments from left to right, and so does this: whatever needs statements of its own (a loop, `&&` over
operands that can fail) has the operands before it put aside first.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import CodeType
from typing import Any, assert_never

from app.core.cel import operators, texts
from app.core.cel.bindings import Variable, load, take
from app.core.cel.budget import STEPS_MAX, Budget, spend
from app.core.cel.checked import (
    Call,
    Checked,
    Comprehension,
    Constant,
    Identifier,
    ListLiteral,
    MapLiteral,
    MessageLiteral,
    Node,
    Select,
)
from app.core.cel.estimate import UNKNOWN, Estimate, estimate, fixed_length, is_bind
from app.core.cel.estimate import weight as step_weight
from app.core.cel.failures import FAIL, GENERATED, SOURCE, fail, said
from app.core.cel.functions import FOLDED, FUNCTIONS, PATTERNS, SUMS, ZONED, Function, Kind
from app.core.cel.instants import zone
from app.core.cel.lifting import lift
from app.core.cel.needs import NOTHING_LIFTED, Lifted
from app.core.cel.patterns import Pattern, pattern
from app.core.cel.sharing import PartKey, parts
from app.core.cel.values import (
    INT_MAX,
    INT_MIN,
    NONE,
    TYPES,
    CelError,
    Duration,
    MixedMap,
    Optional,
    Timestamp,
    UInt,
    no_overload,
    type_name,
)

# A double compares with an integer as integers do, exactly, only below this.
_EXACT = 1 << 53
# Python compiles at most 20 loops and `try` inside one another in one function.
_BLOCKS_MAX = 8
_PLAIN = frozenset({Kind.INT, Kind.UINT, Kind.DOUBLE, Kind.BOOL})
_SORTED = _PLAIN | {Kind.STRING, Kind.BYTES, Kind.TIMESTAMP, Kind.DURATION}
_COMPARISONS = {"_<_": "<", "_<=_": "<=", "_>_": ">", "_>=_": ">="}
_INT_OPERATORS = {"_+_": "+", "_-_": "-", "_*_": "*"}
_SAME_KIND = frozenset({"_+_", "_-_", "_*_", "_/_", "_%_", "-_", "reverse", "math.abs", "math.sign"})
_ARITHMETIC = frozenset({Kind.INT, Kind.UINT, Kind.DOUBLE})


class UnsupportedError(Exception):
    """A part of an expression that this evaluator does not know."""

    def __init__(self, node: int, message: str, fix: str | None = None) -> None:
        super().__init__(message)
        self.node = node
        self.message = message
        self.fix = fix


@dataclass(frozen=True, slots=True)
class Code:
    """A Python expression and what is known of its value.

    `fails`: it, or a statement before it that it needs, can raise one of `FAIL`. `atom`: a name or a literal, which can
    be written twice. `constant`: its value, where that is known already.
    """

    text: str
    kind: Kind = Kind.ANY
    element: Kind = Kind.ANY
    fails: bool = True
    atom: bool = False
    constant: Any = operators.MISSING


@dataclass(frozen=True, slots=True)
class Name:
    """What a name in scope stands for: an expression in terms of `b`, `i` and `c`, or a variable of the policy.

    `refusal` says why it cannot be read here after all, and what to do instead. `root` is the tree of a variable.
    """

    text: str = ""
    kind: Kind = Kind.ANY
    element: Kind = Kind.ANY
    fails: bool = False
    variable: Any = None
    constant: Any = operators.MISSING
    refusal: tuple[str, str] | None = None
    root: Node | None = None


@dataclass(frozen=True, slots=True)
class Generated:
    """A function `run(bindings, inputs, values, budget)`, its source, and what is known of its result and its cost.

    `reads` has the variables that it may evaluate; they are not part of its `estimate`.
    """

    source: str
    run: Callable[..., Any]
    kind: Kind
    element: Kind
    fails: bool
    constant: Any
    root: Node
    lifted: Lifted = NOTHING_LIFTED
    parts: tuple[PartKey, ...] = ()
    estimate: Estimate = UNKNOWN
    reads: tuple[Variable, ...] = ()


def generate(checked: Checked, scope: Mapping[str, Name], *, wanted: Kind = Kind.ANY) -> Generated:
    """Generate the function of one expression.

    `scope` has the inputs and the variables by the name the checker knows them under. With `wanted`, a result of any
    other kind is an error of the evaluation.

    Raises:
        UnsupportedError: a part of it is not known here, or it is certain to cost too much; `node` says which.
    """
    generator = Generator(scope)
    generated = generator.function(checked.root, wanted)
    cost = estimate(checked.root, generator.constants)
    if cost.least > STEPS_MAX:
        message = f"the expression takes at least {cost.least} steps whatever the input, and {STEPS_MAX} are the most"
        raise UnsupportedError(checked.root.id, message, "make the lists and texts that stand in it shorter")
    if wanted is not Kind.BOOL:
        return replace(generated, estimate=cost)
    trees = {name: known.root for name, known in scope.items() if known.root is not None}
    keys = tuple(key for _, key in parts(checked.root, scope))
    return replace(generated, estimate=cost, lifted=lift(checked.root, trees), parts=keys)


def wrong_result(value: Any, wanted: str) -> None:
    """Refuse a result.

    Raises:
        CelError: always.
    """
    raise CelError(f"gave `{type_name(value)}`, not `{wanted}`")


def force(cell: list[Any]) -> Any:
    """Give the value of a lazy binding: computed when it is first read, its error kept as well."""
    state = cell[0]
    if state == "value":
        return cell[1]
    if state == "error":
        raise CelError(cell[1])
    try:
        value = cell[1]()
    except FAIL as error:
        cell[:] = ["error", said(error)]
        raise
    cell[:] = ["value", value]
    return value


def with_optionals(entries: list[tuple[bool, Any]]) -> list[Any]:
    """Make a list of which some elements are optional."""
    found: list[Any] = []
    for optional, value in entries:
        if not optional:
            found.append(value)
        elif operators.has_value(value):
            found.append(value.value)
    return found


def map_with_optionals(entries: list[tuple[bool, Any, Any]]) -> Any:
    """Make a map of which some entries are optional."""
    found: list[tuple[Any, Any]] = []
    for optional, key, value in entries:
        if not optional:
            found.append((key, value))
        elif operators.has_value(value):
            found.append((key, value.value))
    return operators.make_map(found)


def entries_of(value: Any, budget: Budget) -> list[tuple[Any, Any]]:
    """Give the entries of a map that `transformMapEntry` made."""
    if type_name(value) != "map":
        raise no_overload("transformMapEntry", value)
    spend(budget, len(value))
    return list(value.items())


# The names that generated code knows; none of them can be written in an expression.
_RUNTIME: dict[str, Any] = {
    "FAIL": FAIL,
    "INT_MAX": INT_MAX,
    "INT_MIN": INT_MIN,
    "MISSING": operators.MISSING,
    "NONE": NONE,
    "Optional": Optional,
    "concat": texts.concat,
    "dict": dict,
    "entries_of": entries_of,
    "fail": fail,
    "float": float,
    "force": force,
    "has": operators.has,
    "has_value": operators.has_value,
    "int": int,
    "len": len,
    "list": list,
    "load": load,
    "loop": operators.loop,
    "loop_pairs": operators.loop_pairs,
    "make_map": operators.make_map,
    "map_with_optionals": map_with_optionals,
    "optional_select": operators.optional_select,
    "optional_value": operators.optional_value,
    "overflow": operators.overflow,
    "path": operators.path,
    "said": said,
    "select": operators.select,
    "spend": spend,
    "take": take,
    "str": str,
    "truth": operators.truth,
    "type": type,
    "with_optionals": with_optionals,
    "wrong_result": wrong_result,
    "bool": bool,
}


class Generator:
    """Writes the function of one expression; `instrument.py` writes one that also notes what its parts say."""

    # What every function takes: the bindings, the inputs, the values of variables, the budget.
    parameters = "b, i, c, q"

    def __init__(self, scope: Mapping[str, Name], shared: "Mapping[int, tuple[Any, Generated]] | None" = None) -> None:
        """`shared` has the parts, by the identity of their nodes, that are variables with functions of their own."""
        self._scope = scope
        self._shared = shared or {}
        self.constants = {n: known.constant for n, known in scope.items() if known.constant is not operators.MISSING}
        self._locals: dict[str, Code] = {}
        self._lazy: dict[str, str] = {}
        self._namespace: dict[str, Any] = dict(_RUNTIME)
        self._lines: list[str] = []
        self._indent = 1
        self._blocks = 0
        self._loops = 0
        self._count = 0

    def function(self, root: Node, wanted: Kind) -> Generated:
        """Write the function of a whole expression."""
        code = self._value(root)
        if wanted is Kind.ANY or code.kind is wanted:
            self._line(f"return {code.text}")
        else:
            code = self._put_aside(code)
            self._line(f"if type({code.text}) is not {_PYTHON[wanted]}:")
            self._line(f"    wrong_result({code.text}, {wanted.value!r})")
            self._line(f"return {code.text}")
            code = replace(code, kind=wanted, fails=True)
        source = "\n".join([f"def run({self.parameters}):", *self._lines, ""])
        run = _function(source, self._namespace)
        reads = tuple(value for value in self._namespace.values() if isinstance(value, Variable))
        return Generated(source, run, code.kind, code.element, code.fails, code.constant, root, reads=reads)

    # --- writing ----------------------------------------------------------------------------------------------------

    def _line(self, text: str) -> None:
        self._lines.append("    " * self._indent + text)

    @contextmanager
    def _inside(self, *, block: bool = False) -> Iterator[None]:
        self._indent += 1
        self._blocks += block
        yield
        self._indent -= 1
        self._blocks -= block

    def _fresh(self, prefix: str = "t") -> str:
        self._count += 1
        return f"{prefix}{self._count}"

    def _object(self, value: Any, prefix: str = "k") -> str:
        """Put an object into the namespace, once."""
        for name, known in self._namespace.items():
            if known is value:
                return name
        name = self._fresh(prefix)
        self._namespace[name] = value
        return name

    def _put_aside(self, code: Code) -> Code:
        """Evaluate now, into a name."""
        if code.atom:
            return code
        name = self._fresh()
        self._line(f"{name} = {code.text}")
        return replace(code, text=name, atom=True)

    def _apart(self, node: Node, compiled: Callable[[Node], Code]) -> tuple[list[str], Code]:
        """Compile a node, and give the statements that it needs apart from its expression."""
        before, self._lines = self._lines, []
        code = compiled(node)
        lines, self._lines = self._lines, before
        return lines, code

    def _sequence(self, nodes: tuple[Node, ...]) -> list[Code]:
        """Compile nodes that are evaluated one after the other."""
        codes: list[Code] = []
        for node in nodes:
            lines, code = self._apart(node, self._value)
            if lines:
                codes = [self._put_aside(earlier) if earlier.fails else earlier for earlier in codes]
                self._lines += lines
            codes.append(code)
        return codes

    # --- nodes ------------------------------------------------------------------------------------------------------

    def _value(self, node: Node) -> Code:
        if id(node) in self._shared:
            variable, known = self._shared[id(node)]
            return Code(f"take(b, {self._object(variable, 'v')}, q)", known.kind, known.element, fails=known.fails)
        match node:
            case Constant():
                return self._constant(node.value)
            case Identifier():
                return self._identifier(node)
            case Select():
                return self._select(node)
            case Call():
                return self._call(node)
            case ListLiteral():
                return self._list(node)
            case MapLiteral():
                return self._map(node)
            case Comprehension():
                return self._comprehension(node)
            case MessageLiteral():
                raise UnsupportedError(
                    node.id,
                    f"the message `{node.name}` cannot be made here",
                    "use a map, or a function such as `timestamp`",
                )
            case _:
                assert_never(node)

    def _constant(self, value: Any) -> Code:
        kind = _KINDS[type(value)]
        # INVARIANT: only the `repr` of these types is source; a double may be `inf`, for which Python has no literal.
        finite = type(value) is float and math.isfinite(value)
        text = repr(value) if type(value) in _LITERALS or finite else self._object(value)
        if text.startswith("-"):
            text = f"({text})"
        return Code(text, kind, fails=False, atom=True, constant=value)

    def _identifier(self, node: Identifier) -> Code:
        name = node.name
        if name in self._lazy:
            code = self._locals[name]
            return replace(code, text=f"force({self._lazy[name]})")
        if name in self._locals:
            return self._locals[name]
        name = name.removeprefix(".")
        found = self._scope.get(name)
        if found is None:
            if name in TYPES:
                return Code(self._object(TYPES[name]), Kind.TYPE, fails=False, atom=True)
            raise UnsupportedError(node.id, f"`{name}` is not known here")
        if found.refusal is not None:
            raise UnsupportedError(node.id, *found.refusal)
        if found.constant is not operators.MISSING:
            return self._known(found)
        if found.variable is None:
            return Code(found.text, found.kind, found.element, fails=found.fails)
        key = self._object(found.variable, "v")
        return Code(f"(c[{key}] if {key} in c else load(b, {key}))", found.kind, found.element, fails=found.fails)

    def _known(self, found: Name) -> Code:
        """Write a variable whose value is known already, so that its reader knows it too."""
        if found.kind in {Kind.LIST, Kind.MAP, Kind.OPAQUE}:
            text = self._object(found.constant)
            return Code(text, found.kind, found.element, fails=False, atom=True, constant=found.constant)
        return self._constant(found.constant)

    def _select(self, node: Select) -> Code:
        operand = self._value(node.operand)
        field = repr(node.field)
        if node.test_only:
            if operand.kind is Kind.OPTIONAL:
                return Code(f"has({operand.text}, {field})", Kind.BOOL)
            known, name = self._named(operand)
            test = f"({field} in {name} if type({known}) is dict else has({name}, {field}))"
            return Code(test, Kind.BOOL, fails=operand.fails or operand.kind is not Kind.MAP)
        if operand.kind in {Kind.ANY, Kind.MAP}:
            return Code(f"{operand.text}[{field}]")
        kind = Kind.OPTIONAL if operand.kind is Kind.OPTIONAL else Kind.ANY
        return Code(f"select({operand.text}, {field})", kind)

    def _named(self, code: Code) -> tuple[str, str]:
        """Give the text that names a value while it is first evaluated, and its name from then on."""
        if code.atom:
            return code.text, code.text
        name = self._fresh()
        return f"{name} := {code.text}", name

    def _element(self, node: Node, position: int) -> Code:
        """`list[0]`."""
        operand = self._value(node)
        function = self._object(operators.index, "f")
        element = operand.element if operand.kind is Kind.LIST else Kind.ANY
        if operand.kind not in {Kind.ANY, Kind.LIST} or position < 0:
            return Code(f"{function}({operand.text}, {position}, q)")
        known, name = self._named(operand)
        found = f"{name}[{position}] if type({known}) is list and len({name}) > {position}"
        return Code(f"({found} else {function}({name}, {position}, q))", element=Kind.ANY, kind=element)

    def _list(self, node: ListLiteral) -> Code:
        codes = self._sequence(node.elements)
        fails = any(code.fails for code in codes)
        kinds = {code.kind for code in codes}
        element = kinds.pop() if len(kinds) == 1 and not node.optional else Kind.ANY
        if node.optional:
            entries = ", ".join(f"({position in node.optional}, {code.text})" for position, code in enumerate(codes))
            return Code(f"with_optionals([{entries}])", Kind.LIST)
        if all(code.constant is not operators.MISSING for code in codes):
            # INVARIANT: no function changes a list or a map that it was given.
            value = [code.constant for code in codes]
            return Code(self._object(value), Kind.LIST, element, fails=False, atom=True, constant=value)
        return Code(f"[{', '.join(code.text for code in codes)}]", Kind.LIST, element, fails=fails)

    def _map(self, node: MapLiteral) -> Code:
        parts = tuple(part for entry in node.entries for part in (entry.key, entry.value))
        codes = self._sequence(parts)
        keys, values = codes[::2], codes[1::2]
        pairs = [f"{key.text}, {value.text}" for key, value in zip(keys, values, strict=True)]
        if any(entry.optional for entry in node.entries):
            entries = ", ".join(f"({e.optional}, {pair})" for e, pair in zip(node.entries, pairs, strict=True))
            return Code(f"map_with_optionals([{entries}])", Kind.MAP)
        names = [key.constant for key in keys]
        if all(isinstance(name, str) for name in names) and len(set(names)) == len(names):
            if all(value.constant is not operators.MISSING for value in values):
                value = {name: value.constant for name, value in zip(names, values, strict=True)}
                return Code(self._object(value), Kind.MAP, fails=False, atom=True, constant=value)
            inner = ", ".join(f"{key.text}: {value.text}" for key, value in zip(keys, values, strict=True))
            return Code(f"{{{inner}}}", Kind.MAP, fails=any(code.fails for code in codes))
        return Code(f"make_map([{', '.join(f'({pair})' for pair in pairs)}])", Kind.MAP)

    # --- calls ------------------------------------------------------------------------------------------------------

    def _call(self, node: Call) -> Code:
        match node.function:
            case "_&&_":
                return self._logic(node, conjunction=True)
            case "_||_":
                return self._logic(node, conjunction=False)
            case "_?_:_":
                return self._conditional(node)
            case "_?._":
                return self._optional_chain(node, Kind.OPTIONAL)
            case "orValue" | "or":
                return self._or_value(node)
            case "hasValue":
                return self._has_value(node)
            case "optional.none":
                return Code("NONE", Kind.OPTIONAL, fails=False, atom=True)
            case "_[_]" if isinstance(node.arguments[1], Constant) and isinstance(node.arguments[1].value, str):
                return self._select(Select(node.id, node.arguments[0], node.arguments[1].value, test_only=False))
            case "_[_]" if isinstance(node.arguments[1], Constant) and type(node.arguments[1].value) is int:
                return self._element(node.arguments[0], node.arguments[1].value)
            case "!_":
                operand = self._boolean(node.arguments[0], "!_")
                return Code(f"(not {operand.text})", Kind.BOOL, fails=operand.fails)
            case "_==_" | "_!=_":
                return self._equality(node)
            case "_<_" | "_<=_" | "_>_" | "_>=_":
                return self._comparison(node)
            case "@in":
                return self._membership(node)
            case "_+_":
                return self._sum(node)
            case _:
                return self._function(node)

    def _function(self, node: Call) -> Code:
        known = FUNCTIONS.get(f"{node.function}/{len(node.arguments)}") or FUNCTIONS.get(node.function)
        if known is None:
            raise UnsupportedError(node.id, f"the function `{node.function}` is not known here")
        codes = self._sequence(node.arguments)
        place = PATTERNS.get(node.function)
        if place is not None and isinstance(text := codes[place].constant, str):
            compiled = self._pattern(node, text)
            if node.function == "matches":
                finder = self._object(compiled.found_in, "p")
                return Code(f"{finder}({codes[0].text}, q)", Kind.BOOL)
            codes[place] = replace(codes[place], text=self._object(compiled, "p"))
        if node.function in ZONED and isinstance(name := codes[-1].constant, str):
            codes[-1] = replace(codes[-1], text=self._zone(node, name))
        if node.function in FOLDED and all(code.constant is not operators.MISSING for code in codes):
            return self._folded(node, known, codes)
        if node.function == "sum" and codes[0].kind is Kind.LIST:
            known = SUMS.get(codes[0].element, known)
        return self._applied(node.function, known, codes)

    def _folded(self, node: Call, known: Function, codes: list[Code]) -> Code:
        """Make a value that is made of constants now: once, and not for every request."""
        arguments = [code.constant for code in codes]
        try:
            value = known.implementation(*arguments, *([[STEPS_MAX]] if known.budget else []))
        except CelError as error:
            written = ", ".join(repr(argument) for argument in arguments)
            fix = f"mend it; `{node.function}({written[:60]})` would always fail"
            raise UnsupportedError(node.id, str(error), fix) from None
        return Code(self._object(value), known.result, fails=False, atom=True, constant=value)

    def _applied(self, name: str, known: Function, codes: list[Code]) -> Code:
        kinds = {code.kind for code in codes}
        same = kinds.pop() if len(kinds) == 1 else Kind.ANY
        fails = any(code.fails for code in codes)
        written = [code.text for code in codes]
        if same is Kind.INT and name in _INT_OPERATORS:
            result, text = self._fresh(), f"{written[0]} {_INT_OPERATORS[name]} {written[1]}"
            return Code(f"({result} if INT_MIN <= ({result} := {text}) <= INT_MAX else overflow())", Kind.INT)
        if name == "size" and same in {Kind.STRING, Kind.LIST, Kind.MAP, Kind.BYTES}:
            return Code(f"len({written[0]})", Kind.INT, fails=fails)
        if name == "dyn":
            return codes[0]
        result_kind = known.result
        if name in _SAME_KIND and (same in _ARITHMETIC or same in {Kind.STRING, Kind.LIST, Kind.BYTES, Kind.DURATION}):
            result_kind = same
        element = known.element
        if (
            result_kind is Kind.LIST
            and name in _SAME_ELEMENTS
            and len({code.element for code in codes if code.kind is Kind.LIST}) == 1
        ):
            element = next(code.element for code in codes if code.kind is Kind.LIST)
        arguments = [*written, "q"] if known.budget else written
        function = self._object(known.implementation, "f")
        return Code(f"{function}({', '.join(arguments)})", result_kind, element, fails=fails or known.fails)

    def _sum(self, node: Call) -> Code:
        """`a + b + c`; texts are put together at once."""
        nodes: list[Node] = []
        left: Node = node
        while isinstance(left, Call) and left.function == "_+_":
            nodes.append(left.arguments[1])
            left = left.arguments[0]
        codes = self._sequence((left, *reversed(nodes)))
        if codes[0].kind is Kind.STRING:
            parts = ", ".join(code.text for code in codes)
            fails = any(code.fails or code.kind is not Kind.STRING for code in codes)
            return Code(f"concat(({parts}), q)", Kind.STRING, fails=fails)
        total = codes[0]
        for code in codes[1:]:
            total = self._applied("_+_", FUNCTIONS["_+_"], [total, code])
        return total

    def _pattern(self, node: Call, text: str) -> Pattern:
        try:
            return pattern(text)
        except CelError as error:
            raise UnsupportedError(node.id, str(error), "mend the pattern; its syntax is that of RE2") from None

    def _zone(self, node: Call, name: str) -> str:
        """Find a zone now, so that no request waits for its file."""
        try:
            return self._object(zone(name))
        except CelError as error:
            fix = "use a name of the IANA database such as `Europe/Berlin`, or an offset such as `+01:30`"
            raise UnsupportedError(node.id, str(error), fix) from None

    def _equality(self, node: Call) -> Code:
        codes = self._sequence(node.arguments)
        fails = any(code.fails for code in codes)
        negated = node.function == "_!=_"
        for constant, other in ((codes[1], codes[0]), (codes[0], codes[1])):
            if other.constant is not operators.MISSING:
                break
            known, name = self._named(other)
            text = _equal_to(constant, other, f"({known})", name, negated=negated)
            if text is not None:
                return Code(text, Kind.BOOL, fails=fails)
        a, b = codes
        if a.kind is b.kind and a.kind in _PLAIN:
            return Code(f"({a.text} {'!=' if negated else '=='} {b.text})", Kind.BOOL, fails=fails)
        function = self._object(FUNCTIONS[node.function].implementation, "f")
        return Code(f"{function}({a.text}, {b.text}, q)", Kind.BOOL, fails=fails)

    def _comparison(self, node: Call) -> Code:
        a, b = self._sequence(node.arguments)
        sign = _COMPARISONS[node.function]
        function = self._object(FUNCTIONS[node.function].implementation, "f")
        fails = a.fails or b.fails or a.kind is not b.kind or a.kind not in _SORTED
        if a.kind is b.kind and a.kind in _PLAIN:
            return Code(f"({a.text} {sign} {b.text})", Kind.BOOL, fails=a.fails or b.fails)
        if a.kind in {Kind.ANY, Kind.STRING} and type(b.constant) in {int, str}:
            known, name = self._named(a)
            plain, wanted = f"{name} {sign} {b.text}", "int" if type(b.constant) is int else "str"
            return Code(f"({plain} if type({known}) is {wanted} else {function}({name}, {b.text}, q))", Kind.BOOL)
        return Code(f"{function}({a.text}, {b.text}, q)", Kind.BOOL, fails=fails)

    def _membership(self, node: Call) -> Code:
        item, collection = self._sequence(node.arguments)
        fails = item.fails or collection.fails
        if isinstance(collection.constant, list) and all(isinstance(e, str) for e in collection.constant):
            # A text equals only a text, for Python and for CEL; the tuple is a constant of the generated code.
            choices = "".join(f"{element!r}, " for element in collection.constant)
            return Code(f"({item.text} in ({choices}))", Kind.BOOL, fails=fails)
        if isinstance(collection.constant, list) and all(
            type(e) is int and abs(e) < _EXACT and (item.kind in _ARITHMETIC or e not in {0, 1})
            for e in collection.constant
        ):
            # So does a number, but for 0 and 1: for Python, they are false and true.
            choices = "".join(f"{element!r}, " for element in collection.constant)
            return Code(f"({item.text} in ({choices}))", Kind.BOOL, fails=fails)
        function = self._object(FUNCTIONS["@in"].implementation, "f")
        known = collection.kind is Kind.LIST
        return Code(f"{function}({item.text}, {collection.text}, q)", Kind.BOOL, fails=fails or not known)

    # --- truth ------------------------------------------------------------------------------------------------------

    def _boolean(self, node: Node, function: str) -> Code:
        """Compile what must be a bool."""
        return self._as_boolean(self._value(node), function)

    def _as_boolean(self, code: Code, function: str) -> Code:
        if code.kind is Kind.BOOL:
            return code
        if code.kind is not Kind.ANY:
            return Code(f"truth({code.text}, {function!r})", Kind.BOOL)
        known, name = self._named(code)
        text = f"({name} if ({known}) is True or {name} is False else truth({name}, {function!r}))"
        return Code(text, Kind.BOOL)

    def _logic(self, node: Call, *, conjunction: bool) -> Code:
        """`a && b && c`: false if one is false, else an error if one is, else true; `||` the other way round."""
        operands = list(flat(node, node.function))
        if self._too_deep():
            return self._in_function(lambda: self._logic(node, conjunction=conjunction))
        with self._inside(), self._inside(block=True):
            parts = [self._apart(operand, lambda each: self._boolean(each, node.function)) for operand in operands]
        word = " and " if conjunction else " or "
        fails = any(code.fails for _, code in parts)
        if not any(lines for lines, _ in parts) and not any(code.fails for _, code in parts[:-1]):
            return Code(f"({word.join(code.text for _, code in parts)})", Kind.BOOL, fails=fails)
        answer, error = self._fresh(), self._fresh("e")
        some_fail = any(code.fails for _, code in parts[:-1])
        if some_fail:
            self._line(f"{error} = None")
        failed_before = False
        for position, (prepared, code) in enumerate(parts):
            guarded = code.fails and (position < len(parts) - 1 or failed_before)
            if position > 0:
                self._line(f"if {answer}:" if conjunction else f"if not {answer}:")
                self._indent += 1
            elif guarded:
                self._line(f"{answer} = {conjunction}")
            lines = _outdented(prepared, (position == 0) + (not guarded))
            if not guarded:
                self._lines += lines
                self._line(f"{answer} = {code.text}")
            else:
                self._line("try:")
                self._lines += lines
                self._line(f"    {answer} = {code.text}")
                self._line("except FAIL as x:")
                self._line(f"    {error} = {error} or said(x)")
                failed_before = True
            self._indent -= position > 0
        if some_fail:
            self._line(f"if {error} and {'' if conjunction else 'not '}{answer}:")
            self._line(f"    fail({error})")
        return Code(answer, Kind.BOOL, fails=fails, atom=True)

    def _conditional(self, node: Call) -> Code:
        mapped = self._optional_map(node)
        if mapped is not None:
            return mapped
        condition = self._boolean(node.arguments[0], "_?_:_")
        with self._inside():
            parts = [self._apart(branch, self._value) for branch in node.arguments[1:]]
        (then_lines, then), (else_lines, other) = parts
        kind = then.kind if then.kind is other.kind else Kind.ANY
        element = then.element if then.element is other.element else Kind.ANY
        fails = condition.fails or then.fails or other.fails
        if not then_lines and not else_lines:
            return Code(f"({then.text} if {condition.text} else {other.text})", kind, element, fails=fails)
        answer = self._fresh()
        for head, lines, code in ((f"if {condition.text}:", then_lines, then), ("else:", else_lines, other)):
            self._line(head)
            self._lines += lines
            self._line(f"    {answer} = {code.text}")
        return Code(answer, kind, element, fails=fails, atom=True)

    # --- optionals --------------------------------------------------------------------------------------------------

    def _chain(self, node: Node) -> tuple[Node, tuple[str, ...]] | None:
        """Read `base.?a.?b.c`: what comes after the first question mark is as optional as it."""
        fields: list[str] = []
        while True:
            match node:
                case Call(function="_?._" | "_[?_]", arguments=(operand, Constant(value=str() as field))):
                    fields.append(field)
                    inner = self._chain(operand)
                    base, before = inner if inner is not None else (operand, ())
                    return base, (*before, *reversed(fields))
                case Select(operand=operand, field=field, test_only=False) if self._chain(operand) is not None:
                    fields.append(field)
                    node = operand
                case _:
                    return None

    def _way(self, base: Code, fields: tuple[str, ...], default: str) -> str:
        if base.kind in {Kind.ANY, Kind.MAP}:
            return self._walked(base.text, base.text, fields, default)
        return f"path({base.text}, {fields!r}, {default})"

    def _walked(self, known: str, name: str, fields: tuple[str, ...], default: str) -> str:
        """Write the way along fields, in subscripts as long as there are plain maps, else by `path`.

        `known` is what gives the map when it is first looked at, `name` its name from then on.
        """
        field, rest = repr(fields[0]), fields[1:]
        found = f"{name}[{field}]"
        if rest:
            inner = self._fresh()
            found = self._walked(f"{inner} := {found}", inner, rest, default)
        slow = f"path({name}, {fields!r}, {default})"
        return f"(({found} if {field} in {name} else {default}) if type({known}) is dict else {slow})"

    def _optional_chain(self, node: Node, _kind: Kind) -> Code:
        chain = self._chain(node)
        assert chain is not None  # noqa: S101 - `_call` has seen the first of it
        base, fields = self._base(chain)
        text = self._fresh()
        walked = self._way(base, fields, "MISSING")
        fails = base.fails or base.kind is not Kind.MAP or len(fields) > 1
        return Code(f"(NONE if ({text} := {walked}) is MISSING else Optional({text}))", Kind.OPTIONAL, fails=fails)

    def _base(self, chain: tuple[Node, tuple[str, ...]]) -> tuple[Code, tuple[str, ...]]:
        return self._put_aside(self._value(chain[0])), chain[1]

    def _has_value(self, node: Call) -> Code:
        chain = self._chain(node.arguments[0])
        if chain is None:
            return self._function(node)
        base, fields = self._base(chain)
        fails = base.fails or base.kind is not Kind.MAP or len(fields) > 1
        return Code(f"({self._way(base, fields, 'MISSING')} is not MISSING)", Kind.BOOL, fails=fails)

    def _or_value(self, node: Call) -> Code:
        """`optional.orValue(x)` and `optional.or(x)`: `x` is evaluated only if there is no value."""
        chain = self._chain(node.arguments[0]) if node.function == "orValue" else None
        with self._inside():
            lines, default = self._apart(node.arguments[1], self._value)
        if chain is not None:
            base, fields = self._base(chain)
            fails = base.fails or base.kind is not Kind.MAP or len(fields) > 1 or default.fails
            if default.atom and not lines:
                return Code(self._way(base, fields, default.text), fails=fails)
            answer = self._fresh()
            self._line(f"{answer} = {self._way(base, fields, 'MISSING')}")
            self._line(f"if {answer} is MISSING:")
        else:
            first = self._put_aside(self._value(node.arguments[0]))
            fails = True
            answer = self._fresh()
            self._line(f"if has_value({first.text}):")
            given = first.text if node.function == "or" else f"optional_value({first.text})"
            self._line(f"    {answer} = {given}")
            self._line("else:")
        self._lines += lines
        self._line(f"    {answer} = {default.text}")
        if node.function == "or":
            self._line(f"has_value({answer})")
        kind = Kind.OPTIONAL if node.function == "or" else Kind.ANY
        return Code(answer, kind, fails=fails, atom=True)

    def _optional_map(self, node: Call) -> Code | None:
        """`optMap` and `optFlatMap` expand to a form that has their target twice; it is evaluated once here."""
        match node.arguments:
            case (
                Call(function="hasValue", arguments=(target,)),
                Call(function="optional.of", arguments=(Comprehension() as bind,)) | (Comprehension() as bind),
                Call(function="optional.none"),
            ) if is_bind(bind):
                pass
            case _:
                return None
        match bind.initial:
            case Call(function="value", arguments=(again,)) if _same(target, again):
                pass
            case _:
                return None
        given = self._put_aside(self._value(target))
        shadowed, lazy = dict(self._locals), dict(self._lazy)
        with self._inside():
            bound = self._fresh()
            self._locals[bind.accumulator] = Code(bound, fails=False, atom=True)
            self._lazy.pop(bind.accumulator, None)
            lines, result = self._apart(bind.result, self._value)
        self._locals, self._lazy = shadowed, lazy
        answer = self._fresh()
        self._line(f"if has_value({given.text}):")
        self._line(f"    {bound} = optional_value({given.text})")
        self._lines += lines
        wrapped = f"Optional({result.text})" if isinstance(node.arguments[1], Call) else result.text
        self._line(f"    {answer} = {wrapped}")
        self._line("else:")
        self._line(f"    {answer} = NONE")
        kind = Kind.OPTIONAL if isinstance(node.arguments[1], Call) else Kind.ANY
        return Code(answer, kind, atom=True)

    # --- loops ------------------------------------------------------------------------------------------------------

    def _comprehension(self, node: Comprehension) -> Code:
        if is_bind(node):
            return self._bind(node)
        if self._too_deep():
            return self._in_function(lambda: self._comprehension(node))
        over = self._value(node.over)
        fixed = self._fixed(node.over)
        weight = step_weight(node.step, self._fixed)
        items = over.text if fixed is not None and over.atom else self._fresh("r")
        variables = [self._fresh("x")]
        kinds = [over.element if over.kind is Kind.LIST else Kind.ANY]
        names = [node.variable]
        if node.second_variable:
            variables.append(self._fresh("x"))
            names.append(node.second_variable)
            kinds.insert(0, Kind.INT if over.kind is Kind.LIST else Kind.ANY)
        source = "loop_pairs" if node.second_variable else "loop"
        if (fixed or 1) * weight > STEPS_MAX:
            message = f"the loop takes more than {STEPS_MAX} steps, whatever the input"
            raise UnsupportedError(node.id, message, "make the lists that stand in it shorter")
        if items != over.text or node.second_variable:
            items = self._fresh("r")
            self._line(f"{items} = {source}({over.text}, {0 if fixed is not None else weight}, q)")
        if fixed is not None and not self._loops:
            self._line(f"spend(q, {fixed * weight})")
        shadowed, lazy = dict(self._locals), dict(self._lazy)
        for name, variable, kind in zip(names, variables, kinds, strict=True):
            self._locals[name] = Code(variable, kind, fails=False, atom=True)
            self._lazy.pop(name, None)
        head = f"for {', '.join(variables)} in {items}:"
        self._loops += 1
        found = self._loop(node, head)
        self._loops -= 1
        self._locals, self._lazy = shadowed, lazy
        certain = over.kind in {Kind.LIST, Kind.MAP} and not over.fails
        return replace(found, fails=found.fails or not certain)

    def _loop(self, node: Comprehension, head: str) -> Code:
        accumulator = node.accumulator
        counts = isinstance(node.initial, Constant) and type(node.initial.value) is int
        result = node.result.arguments[0] if counts and isinstance(node.result, Call) else node.result
        if not isinstance(result, Identifier) or result.name != accumulator:
            raise UnsupportedError(node.id, "a loop of this form is not known here")
        match node.step:
            case Call(function="_&&_", arguments=(Identifier(name=name), predicate)) if name == accumulator:
                return self._quantifier(predicate, head, found_by=False)
            case Call(function="_||_", arguments=(Identifier(name=name), predicate)) if name == accumulator:
                return self._quantifier(predicate, head, found_by=True)
            case Call(function="_?_:_", arguments=(predicate, step, Identifier(name=name))) if name == accumulator:
                return self._collector(node, head, step, predicate)
            case step:
                return self._collector(node, head, step, None)

    def _quantifier(self, predicate: Node, head: str, *, found_by: bool) -> Code:
        """`exists` is done when one is true, `all` when one is false; an error counts only if it is not done."""
        answer, error = self._fresh(), self._fresh("e")
        self._line(f"{answer} = {not found_by}")
        self._indent += 2
        self._blocks += 2
        lines, code = self._apart(predicate, lambda node: self._boolean(node, "_||_" if found_by else "_&&_"))
        self._indent -= 2
        self._blocks -= 2
        test = f"if {code.text}:" if found_by else f"if not {code.text}:"
        if code.fails:
            self._line(f"{error} = None")
        self._line(head)
        with self._inside():
            if code.fails:
                self._line("try:")
                self._lines += lines
                self._stop(test, answer, found_by=found_by, deeper=1)
                self._line("except FAIL as x:")
                self._line(f"    {error} = {error} or said(x)")
            else:
                self._lines += _outdented(lines)
                self._stop(test, answer, found_by=found_by, deeper=0)
        if code.fails:
            self._line("else:")
            self._line(f"    if {error}:")
            self._line(f"        fail({error})")
        return Code(answer, Kind.BOOL, fails=code.fails, atom=True)

    def _stop(self, test: str, answer: str, *, found_by: bool, deeper: int) -> None:
        margin = "    " * deeper
        self._line(f"{margin}{test}")
        self._line(f"{margin}    {answer} = {found_by}")
        self._line(f"{margin}    break")

    def _collector(self, node: Comprehension, head: str, step: Node, predicate: Node | None) -> Code:
        """`map`, `filter`, `exists_one` and the `transform` macros: every error is an error of the whole."""
        answer = self._fresh("a")
        counts = isinstance(node.initial, Constant)
        self._line(f"{answer} = {'0' if counts else '[]'}")
        self._line(head)
        fails = False
        self._indent += 1
        self._blocks += 1
        if predicate is not None:
            condition = self._boolean(predicate, "_?_:_")
            fails = condition.fails
            self._line(f"if {condition.text}:")
            self._indent += 1
        element = Kind.ANY
        result = Code(answer, Kind.LIST, atom=True)
        match step:
            case Call(function="_+_", arguments=(Identifier(), Constant(value=1))) if counts:
                self._line(f"{answer} += 1")
                result = Code(f"({answer} == 1)", Kind.BOOL)
            case Call(function="_+_", arguments=(Identifier(), ListLiteral(elements=(item,)))) if not counts:
                code = self._value(item)
                fails, element = fails or code.fails, code.kind
                self._line(f"{answer}.append({code.text})")
                result = Code(answer, Kind.LIST, element, atom=True)
            case Call(function="cel.@mapInsert", arguments=(Identifier(), key, value)):
                key_code, value_code = self._sequence((key, value))
                fails = True
                self._line(f"{answer}.append(({key_code.text}, {value_code.text}))")
                result = Code(f"make_map({answer})", Kind.MAP)
            case Call(function="cel.@mapInsert", arguments=(Identifier(), entries)):
                code = self._value(entries)
                fails = True
                self._line(f"{answer} += entries_of({code.text}, q)")
                result = Code(f"make_map({answer})", Kind.MAP)
            case _:
                raise UnsupportedError(node.id, "a loop of this form is not known here")
        self._indent -= 1 if predicate is None else 2
        self._blocks -= 1
        return replace(result, fails=fails)

    def _bind(self, node: Comprehension) -> Code:
        """`cel.bind(x, value, result)`: the value is computed when it is first read, if ever."""
        with self._inside():
            lines, initial = self._apart(node.initial, self._value)
        name = node.accumulator
        shadowed, lazy = dict(self._locals), dict(self._lazy)
        if not initial.fails or _read_first(node.result, name):
            self._lines += _outdented(lines)
            bound = self._put_aside(initial)
            self._locals[name] = replace(bound, fails=False)
            self._lazy.pop(name, None)
            result = self._value(node.result)
            result = replace(result, fails=result.fails or initial.fails)
        else:
            thunk, cell = self._fresh("d"), self._fresh("l")
            self._line(f"def {thunk}():")
            self._lines += lines
            self._line(f"    return {initial.text}")
            self._line(f"{cell} = ['thunk', {thunk}]")
            self._locals[name] = Code("", initial.kind, initial.element)
            self._lazy[name] = cell
            result = self._value(node.result)
        self._locals, self._lazy = shadowed, lazy
        return result

    def _fixed(self, node: Node) -> int | None:
        """Give the length of a list that stands in the expression, or in a variable that is a constant.

        Going over it is paid for with what stands around it; the length of an expression bounds the rest.
        """
        return fixed_length(node, self.constants, self._locals)

    def _too_deep(self) -> bool:
        return self._blocks >= _BLOCKS_MAX

    def _in_function(self, compiled: Callable[[], Code]) -> Code:
        """Put a part into a function of its own, where Python counts blocks anew."""
        name = self._fresh("d")
        self._line(f"def {name}():")
        blocks, self._blocks = self._blocks, 0
        with self._inside():
            code = compiled()
            self._line(f"return {code.text}")
        self._blocks = blocks
        return Code(f"{name}()", code.kind, code.element, fails=code.fails)


_PYTHON = {Kind.BOOL: "bool", Kind.STRING: "str"}
_LITERALS = frozenset({type(None), bool, int, str, bytes})
_SAME_ELEMENTS = frozenset({"_+_", "slice", "reverse", "sort", "distinct"})
_KINDS: dict[type, Kind] = {
    type(None): Kind.NULL,
    bool: Kind.BOOL,
    int: Kind.INT,
    UInt: Kind.UINT,
    float: Kind.DOUBLE,
    str: Kind.STRING,
    bytes: Kind.BYTES,
    Timestamp: Kind.TIMESTAMP,
    Duration: Kind.DURATION,
    MixedMap: Kind.MAP,
}


def _function(source: str, names: Mapping[str, Any]) -> Callable[..., Any]:
    try:
        code = compile(source, GENERATED, "exec", dont_inherit=True)
    except (SyntaxError, RecursionError, MemoryError):
        # Python's own limits: a hundred levels of indentation, and the depth of its parser.
        raise UnsupportedError(0, "the expression is nested too deep", "use `spec.variables`") from None
    # Every function has its names to itself, and knows no others: a set has thousands of functions.
    namespace = {"__builtins__": {}, SOURCE: source, **{name: names[name] for name in _used(code) if name in names}}
    exec(code, namespace)  # noqa: S102 - see the head of this file
    run: Callable[..., Any] = namespace["run"]
    return run


def _used(code: CodeType) -> Iterator[str]:
    """Give the global names that code reads, itself or in functions within it."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _used(constant)


def _outdented(lines: list[str], levels: int = 1) -> list[str]:
    return [line[4 * levels :] for line in lines]


def flat(node: Node, function: str) -> Iterator[Node]:
    """Give the operands of `a && b && c`, which the parser balances into a tree."""
    if isinstance(node, Call) and node.function == function:
        for argument in node.arguments:
            yield from flat(argument, function)
    else:
        yield node


def _equal_to(constant: Code, other: Code, known: str, name: str, *, negated: bool) -> str | None:
    """Compare with a constant in Python where Python agrees with CEL, for any other value; None where it may not."""
    value, sign, word = constant.constant, "!=" if negated else "==", "is not" if negated else "is"
    match value:
        case None | bool():
            return f"({other.text} {word} {constant.text})"
        case UInt():
            return None
        case str() | bytes():
            return f"({other.text} {sign} {constant.text})"
        case int() | float() if abs(value) < _EXACT:
            if value not in {0, 1} or other.kind in _ARITHMETIC:
                return f"({other.text} {sign} {constant.text})"
            # For Python, true is 1.
            test = f"({known} == {constant.text} and {name} is not {bool(value)})"
            return f"(not {test})" if negated else test
        case list() if all(type(element) is str for element in value):
            return f"({other.text} {sign} {constant.text})"
        case _:
            return None


def _read_first(node: Node, name: str) -> bool:
    """Tell whether a value is read in any case, before anything else that can fail."""
    match node:
        case Identifier():
            return node.name == name
        case Select(operand=operand):
            return _read_first(operand, name)
        case Call(function="_&&_" | "_||_"):
            return False
        case Call(arguments=(first, *_)):
            return _read_first(first, name)
        case Comprehension() if not is_bind(node):
            return _read_first(node.over, name)
        case _:
            return False


def _same(a: Node, b: Node) -> bool:
    """Tell whether two trees are the same but for the numbers of their nodes."""
    match a, b:
        case (Constant(value=x), Constant(value=y)):
            return type(x) is type(y) and repr(x) == repr(y)
        case (Identifier(name=x), Identifier(name=y)):
            return x == y
        case (Select(), Select()):
            return a.field == b.field and a.test_only == b.test_only and _same(a.operand, b.operand)
        case (Call(), Call()):
            return a.function == b.function and _all_same(a.arguments, b.arguments)
        case (ListLiteral(), ListLiteral()):
            return a.optional == b.optional and _all_same(a.elements, b.elements)
        case (MapLiteral(), MapLiteral()):
            return [entry.optional for entry in a.entries] == [entry.optional for entry in b.entries] and _all_same(
                [part for entry in a.entries for part in (entry.key, entry.value)],
                [part for entry in b.entries for part in (entry.key, entry.value)],
            )
        case (Comprehension(), Comprehension()):
            names = (a.variable, a.second_variable, a.accumulator) == (b.variable, b.second_variable, b.accumulator)
            return names and _all_same(
                (a.over, a.initial, a.condition, a.step, a.result), (b.over, b.initial, b.condition, b.step, b.result)
            )
        case _:
            return False


def _all_same(a: Sequence[Node], b: Sequence[Node]) -> bool:
    return len(a) == len(b) and all(map(_same, a, b))
