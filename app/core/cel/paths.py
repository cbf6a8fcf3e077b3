"""What an expression reads: members of the inputs, of variables and of what its loops go over, found in its tree."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from app.core.cel.checked import Call, Comprehension, Constant, Identifier, Node, Select, below, nodes
from app.core.cel.estimate import is_bind
from app.core.masking import MASK, is_secret

# Enough to recognise a value; who needs all of it has the mutation.
VALUE_MAX_CHARS = 80
# Functions that give what they are given, or something else where there is nothing.
_TRANSPARENT = frozenset({"dyn", "value", "optional.of"})
_SELECTIONS = frozenset({"_?._", "_[_]", "_[?_]"})


class Role(StrEnum):
    """What a local name stands for."""

    ELEMENT = "element"  # of a list, or the key of a map, where a loop has one variable
    KEY = "key"  # the first of two: a position or a key
    VALUE = "value"  # the second of two
    BOUND = "bound"  # by `cel.bind`


@dataclass(frozen=True, slots=True, eq=False)
class Local:
    """A local name where it is bound; equal only to itself. `origin` is what the loop goes over, or what is bound."""

    name: str
    role: Role
    origin: Node


Locals: TypeAlias = Mapping[str, Local]


@dataclass(frozen=True, slots=True)
class Path:
    """A member that an expression reads: a name in scope, or a local one, and the way from there.

    A step that is a path itself is a key computed when it is read: `variables.annotations[a]`. `label` is the path as
    CEL writes it, up to the first such step; `secret` if one of these names says so.
    """

    root: str
    local: Local | None
    steps: "tuple[str | int | Path, ...]"
    label: str
    secret: bool
    fixed: bool

    @classmethod
    def of(cls, root: str, local: Local | None) -> "Path":
        """Start a path at a name."""
        return cls(root, local, (), root, is_secret(root.removeprefix("variables.")), fixed=True)

    def then(self, step: "str | int | Path") -> "Path":
        """Go one step further."""
        if isinstance(step, Path) or not self.fixed:
            return Path(self.root, self.local, (*self.steps, step), self.label, self.secret, fixed=False)
        secret = self.secret or (isinstance(step, str) and is_secret(step))
        return Path(self.root, self.local, (*self.steps, step), labelled(self.label, step), secret, fixed=True)


def labelled(label: str, key: str | int) -> str:
    """Write one more step of a path, as CEL does."""
    if isinstance(key, str) and (key.isidentifier() or key == MASK):
        return f"{label}.{key}"
    return f"{label}[{cut(key, VALUE_MAX_CHARS)!r}]" if isinstance(key, str) else f"{label}[{key}]"


def cut(text: str, limit: int) -> str:
    """Cut a text that is too long, and show that it was."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


class Reader:
    """Finds the paths of one tree; `readable` says which names that are not local have a value of their own."""

    def __init__(self, root: Node, *, readable: Callable[[str], bool]) -> None:
        self._readable = readable
        self._locals: dict[int, Locals] = {}
        self._origins: dict[Local, Path | None] = {}
        self._enter(root, {})

    def _enter(self, node: Node, known: Locals) -> None:
        self._locals[id(node)] = known
        if not isinstance(node, Comprehension):
            for part in below(node):
                self._enter(part, known)
            return
        inside = result = known
        if is_bind(node):
            result = {**known, node.accumulator: Local(node.accumulator, Role.BOUND, node.initial)}
        elif node.second_variable:
            inside = {
                **known,
                node.variable: Local(node.variable, Role.KEY, node.over),
                node.second_variable: Local(node.second_variable, Role.VALUE, node.over),
            }
        else:
            inside = {**known, node.variable: Local(node.variable, Role.ELEMENT, node.over)}
        for part, names in (
            (node.over, known),
            (node.initial, known),
            (node.condition, inside),
            (node.step, inside),
            (node.result, result),
        ):
            self._enter(part, names)

    def local(self, node: Identifier) -> Local | None:
        """Give what binds a name, None for one that no loop or `cel.bind` has made."""
        return self._locals[id(node)].get(node.name)

    def origin(self, local: Local) -> Path | None:
        """Give what a local name goes over or is bound to, if that is a path."""
        if local not in self._origins:
            self._origins[local] = self.path(local.origin)
        return self._origins[local]

    def path(self, node: Node) -> Path | None:
        """Read a node as a path, None if it is anything else."""
        match node:
            case Identifier(name=name):
                if (local := self.local(node)) is not None:
                    return Path.of(name, local)
                name = name.removeprefix(".")
                return Path.of(name, None) if self._readable(name) else None
            case Select(operand=operand, field=field):
                return _further(self.path(operand), field)
            case Call(function=function, arguments=(operand, key)) if function in _SELECTIONS:
                found = self.path(operand)
                match key:
                    case Constant(value=str() | int() as step) if not isinstance(step, bool):
                        return _further(found, step)
                    case _:
                        inner = self.path(key)
                        return _further(found, inner) if inner is not None else None
            case Call(function="orValue", arguments=(operand, _)):
                return self.path(operand)
            case Call(function=function, arguments=(operand,)) if function in _TRANSPARENT:
                return self.path(operand)
            case _:
                return None

    def reads(self, node: Node) -> tuple[Path, ...]:
        """Give what a part of the tree reads from outside of itself, each once, in the order of its text."""
        own: set[Local] = set()
        for one in nodes(node):
            if isinstance(one, Comprehension) and one is not node:
                own.update(self._locals[id(one.step)].values(), self._locals[id(one.result)].values())
        if isinstance(node, Comprehension):
            own.update(self._locals[id(node.step)].values(), self._locals[id(node.result)].values())
        own -= set(self._locals[id(node)].values())
        found: dict[Path, None] = {}
        for path in self._reads(node):
            if path.local not in own:
                found[_outside(path, own)] = None
        return tuple(found)

    def _reads(self, node: Node) -> Iterator[Path]:
        path = self.path(node)
        if path is not None:
            yield path
            if isinstance(node, Call) and node.function == "orValue":
                yield from self._reads(node.arguments[1])
            return
        for part in below(node):
            yield from self._reads(part)

    def words(self, node: Node) -> Iterator[str]:
        """Give every field, text and name in a part of the tree, and in what its local names stand for."""
        done: set[Local] = set()
        todo = [node]
        while todo:
            one = todo.pop()
            match one:
                case Select(field=field):
                    yield field
                case Constant(value=str() as text):
                    yield text
                case Identifier(name=name):
                    local = self.local(one)
                    if local is None:
                        yield name.removeprefix(".")
                    elif local not in done:
                        done.add(local)
                        todo.append(local.origin)
                case _:
                    pass
            todo += below(one)


def _further(path: Path | None, step: "str | int | Path") -> Path | None:
    return None if path is None else path.then(step)


def _outside(path: Path, own: set[Local]) -> Path:
    """Cut a path at a key that only the inside of an expression knows."""
    short = Path.of(path.root, path.local)
    for step in path.steps:
        if isinstance(step, Path) and step.local in own:
            return short
        short = short.then(step)
    return path
