"""The same function once more, with a note of what each boolean part of the expression said.

A *site* is a boolean part in a logical position: the whole, an operand of `&&`, `||` or `!`, the condition of `?:` and
what it chooses from, the predicate of a loop. The generated function calls `enter` before a site is evaluated and
`leave` with its value; a site that was entered and not left has failed. Nothing of it touches the function that serves
requests, which `generate` writes without.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from app.core.cel import operators
from app.core.cel.checked import Call, Checked, Comprehension, Constant, Identifier, Node, moved_back, read_checked
from app.core.cel.estimate import is_bind
from app.core.cel.functions import Kind
from app.core.cel.generate import Code, Generator, Name, flat
from app.core.cel.paths import Local, Path, Reader
from app.core.cel.spans import Spans, unfolded
from app.core.cel.tokens import position
from app.core.cel.variables import ADDED, NULL, PRESENCE
from app.core.masking import SECRET_DATA, is_secret

VARIABLES = "variables."
# A bit for each outcome that a site has had.
TRUE, FALSE = 1, 2


class Form(StrEnum):
    """How the value of a site follows from the sites below it."""

    AND = "and"
    OR = "or"
    NOT = "not"
    CHOICE = "choice"
    EXISTS = "exists"
    ALL = "all"
    BIND = "bind"
    VARIABLE = "variable"
    PART = "part"


_LOGIC = frozenset({Form.AND, Form.OR, Form.EXISTS, Form.ALL})


@dataclass(frozen=True, slots=True)
class Site:
    """One boolean part: its place, what it reads, and the sites that its value follows from.

    The first is the whole, also where that is not `boolean`.
    `below` are those of `form`; sites inside of a part that is none of these (a `filter` in a comparison) name it as
    `parent` only. `lazy` are the positions of captured locals that are computed when first read. `constant`: it reads
    nothing. `variable` is set where the whole is a variable of the policy.
    """

    number: int
    parent: int
    boolean: bool
    form: Form
    start: int
    end: int
    line: int
    column: int
    text: str
    reads: tuple[Path, ...]
    captured: tuple[Local, ...]
    lazy: frozenset[int]
    constant: bool
    variable: Name | None = None
    below: tuple[int, ...] = ()


class Moment:
    """One time that a site was evaluated; `value` is a bool only if it was left with one.

    Of a site that was evaluated several times, the last moment is kept, and the first that failed: a loop is over when
    one has decided it.
    """

    __slots__ = ("failed", "last", "locals", "number", "parent", "seen", "value")

    def __init__(self, number: int, parent: "Moment | None", values: tuple[Any, ...], seen: list[int]) -> None:
        self.number = number
        self.parent = parent
        self.locals = values
        self.seen = seen
        self.value: Any = None
        self.last: dict[int, Moment] = {}
        self.failed: dict[int, Moment] = {}


def enter(parent: Moment, number: int, *values: Any) -> Moment:
    """Note that a site is evaluated now, with the values of the local names that it reads."""
    before = parent.last.get(number)
    if before is not None and not isinstance(before.value, bool):
        parent.failed.setdefault(number, before)
    moment = parent.last[number] = Moment(number, parent, values, parent.seen)
    return moment


def leave(moment: Moment, value: Any) -> Any:
    """Note what a site said, and give it on."""
    moment.value = value
    if value is True:
        moment.seen[moment.number] |= TRUE
    elif value is False:
        moment.seen[moment.number] |= FALSE
    return value


@dataclass(frozen=True, slots=True)
class Instrumented:
    """A function `run(bindings, inputs, values, budget, moment)`, its sites by number, and a reader of its tree."""

    run: Callable[..., Any]
    sites: tuple[Site, ...]
    reader: Reader


class Source:
    """What it takes to write the function of an expression a second time: done when first asked for, and kept.

    `scope` and `variables` (the names of `spec.variables` in their order) are those it was compiled with; `tree` is the
    checked expression as the engine serialises it. `boolean`: its value is known to be a bool. `added` are the places
    in the text that the engine was given with more in them (`null_of_any_type`).
    """

    __slots__ = ("_added", "_instrumented", "_words", "boolean", "scope", "text", "tree", "variables")

    def __init__(
        self,
        text: str,
        tree: bytes,
        *,
        scope: Mapping[str, Name],
        boolean: bool,
        variables: tuple[str, ...],
        added: tuple[int, ...] = (),
    ) -> None:
        self.text = text
        self.tree = tree
        self.scope = scope
        self.boolean = boolean
        self.variables = variables
        self._added = added
        self._instrumented: Instrumented | None = None
        self._words: tuple[bool, bool] | None = None

    def checked(self) -> Checked:
        """Give the tree, with its places in the text.

        Raises:
            MalformedTreeError: it cannot be read.
        """
        return moved_back(read_checked(self.tree), self._added, added=ADDED, around=NULL)

    def instrumented(self) -> Instrumented:
        """Give the function with its sites; two threads at once write it twice, which does no harm."""
        if self._instrumented is None:
            checked = self.checked()
            self._instrumented = _Instrumenter(self, checked).instrumented(checked.root)
        return self._instrumented

    def secrets(self) -> tuple[bool, bool]:
        """Tell whether the value comes from something that is named like a secret, or like the data of a Secret."""
        if self._words is None:
            root = read_checked(self.tree).root
            self._words = secrets_in(Reader(root, readable=self.scope.__contains__), root, self.scope)
        return self._words


def secrets_in(reader: Reader, node: Node, scope: Mapping[str, Name]) -> tuple[bool, bool]:
    """Tell of a part what `Source.secrets` tells of the whole."""
    named = data = False
    for word in reader.words(node):
        named = named or is_secret(word)
        data = data or word in SECRET_DATA
        if word in scope and (origin := source_of(scope[word])) is not None:
            of_variable = origin.secrets()
            named, data = named or of_variable[0], data or of_variable[1]
    return named, data


def source_of(name: Name) -> Source | None:
    """Give the source of a variable of the policy, None for everything else in scope."""
    found = getattr(name.variable, "source", None)
    return found if isinstance(found, Source) else None


def conjuncts(source: Source) -> tuple[str, ...]:
    """Give the texts of the parts that must all be true; brackets around some of them do not count."""
    checked = read_checked(source.tree)
    spans = Spans(source.text, checked.positions)
    return tuple(source.text[slice(*spans.of(part))] for part in flat(checked.root, "_&&_"))


def variables_of(source: Source) -> dict[str, Name]:
    """Give the variables of the policy that an expression reads, itself or through others, by their names.

    Does not give those that are constants: no evaluation computes them.
    """
    return {
        name.removeprefix(VARIABLES): scoped
        for name, scoped in source.scope.items()
        if name.startswith(VARIABLES) and scoped.constant is operators.MISSING and source_of(scoped) is not None
    }


class _Instrumenter(Generator):
    parameters = "b, i, c, q, n0"

    def __init__(self, source: Source, checked: Checked) -> None:
        super().__init__(source.scope)
        self._source = source
        self._sites: list[Site] = []
        self._below: list[list[int]] = []
        # The sites that are being written, and the names of their moments.
        self._open: list[int] = [-1]
        self._moments: list[str] = ["n0"]
        # Nodes in logical positions that are still to be written, and the site whose value follows from theirs.
        self._expected: dict[int, int] = {}
        self._namespace |= {"enter": enter, "leave": leave}
        self._reader = Reader(checked.root, readable=self._readable)
        self._spans = Spans(source.text, checked.positions)

    def instrumented(self, root: Node) -> Instrumented:
        """Write the whole."""
        self._expected[id(root)] = -1
        generated = self.function(root, Kind.BOOL if self._source.boolean else Kind.ANY)
        sites = tuple(replace(site, below=tuple(self._below[site.number])) for site in self._sites)
        return Instrumented(generated.run, sites, self._reader)

    def _readable(self, name: str) -> bool:
        found = self._source.scope.get(name)
        return found is not None and found.constant is operators.MISSING and not name.startswith(PRESENCE)

    def _boolean(self, node: Node, function: str) -> Code:
        self._expected.setdefault(id(node), -1)
        return super()._boolean(node, function)

    def _value(self, node: Node) -> Code:
        form, operands = _form(node)
        # Logic in the midst of something else, as in `(a || b) == c`, is a site too: what it absorbs ends with it.
        follows = self._expected.pop(id(node), -1 if form in _LOGIC else None)
        if follows is None:
            return super()._value(node)
        if not self._sites and not self._source.boolean:
            form, operands = Form.PART, ()  # what a choice of texts or maps chooses from is no truth
        number = self._site(node, form, operands)
        if follows >= 0:
            self._below[follows].append(number)
        moment = self._fresh("n")
        captured = [self._lazy.get(one.name) or self._locals[one.name].text for one in self._sites[number].captured]
        self._line(f"{moment} = enter({', '.join([self._moments[-1], str(number), *captured])})")
        self._open.append(number)
        self._moments.append(moment)
        code = super()._value(node)
        self._open.pop()
        self._moments.pop()
        answer = self._fresh()
        self._line(f"{answer} = leave({moment}, {code.text})")
        return replace(code, text=answer, atom=True)

    def _site(self, node: Node, form: Form, operands: tuple[Node, ...]) -> int:
        number = len(self._sites)
        self._below.append([])
        for operand in operands:
            self._expected[id(operand)] = number
        start, end = self._spans.of(node) if self._open[-1] >= 0 else _whole(self._source.text)
        line, column = position(self._source.text, start)
        reads = self._reader.reads(node)
        captured = tuple(dict.fromkeys(local for path in reads for local in _locals(path)))
        variable = None
        if isinstance(node, Identifier) and reads and reads[0].local is None:
            found = self._source.scope[reads[0].root]
            if source_of(found) is not None:
                form, variable = Form.VARIABLE, found
        site = Site(
            number,
            self._open[-1],
            number > 0 or self._source.boolean,
            form,
            start,
            end,
            line,
            column,
            unfolded(self._source.text[start:end]),
            reads,
            captured,
            frozenset(at for at, local in enumerate(captured) if local.name in self._lazy),
            constant=not reads,
            variable=variable,
        )
        self._sites.append(site)
        return number


def _whole(text: str) -> tuple[int, int]:
    start = len(text) - len(text.lstrip())
    return start, max(len(text.rstrip()), start)


def _locals(path: Path) -> list[Local]:
    found = [path.local] if path.local is not None else []
    for step in path.steps:
        if isinstance(step, Path):
            found += _locals(step)
    return found


def _form(node: Node) -> tuple[Form, tuple[Node, ...]]:
    match node:
        case Call(function="_&&_"):
            return Form.AND, tuple(flat(node, "_&&_"))
        case Call(function="_||_"):
            return Form.OR, tuple(flat(node, "_||_"))
        case Call(function="!_", arguments=arguments):
            return Form.NOT, arguments
        case Call(function="_?_:_", arguments=(Call(function="hasValue"), Comprehension(), _)):
            return Form.PART, ()  # `optFlatMap`
        case Call(function="_?_:_", arguments=arguments):
            return Form.CHOICE, arguments
        case Comprehension(result=result) if is_bind(node):
            return Form.BIND, (result,)
        case Comprehension(step=Call(function="_||_", arguments=(Identifier(), predicate)), initial=Constant()):
            return Form.EXISTS, (predicate,)
        case Comprehension(step=Call(function="_&&_", arguments=(Identifier(), predicate)), initial=Constant()):
            return Form.ALL, (predicate,)
        case _:
            return Form.PART, ()
