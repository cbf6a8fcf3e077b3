"""Parts of expressions that cost something and depend on the inputs alone: what a policy set computes only once.

A part can be shared if it is closed (it reads no variable of a loop, nor of `cel.bind`) and stands in no loop. Its key
says what it is, down to the variables of policies that it reads: parts with one key have one value, one failure and one
cost in every request. Whoever reads it pays that cost, so no evaluation is cheaper, or dearer, for being shared.
"""

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

from app.core.cel.bindings import Variable
from app.core.cel.checked import (
    Call,
    Comprehension,
    Constant,
    Identifier,
    ListLiteral,
    MapLiteral,
    MessageLiteral,
    Node,
    Select,
    below,
)
from app.core.cel.functions import Kind

# What a part is, and the variables that it reads, which are equal only to themselves.
PartKey: TypeAlias = tuple[str, tuple[Variable, ...]]

# Each costs more than looking up a value that is there.
# fmt: off
_HEAVY = frozenset({
    "matches", "find", "findAll", "regex.extract", "regex.extractAll", "regex.replace", "split", "join", "replace",
    "format", "lowerAscii", "upperAscii", "sort", "@sortByAssociatedKeys", "distinct", "flatten", "lists.range",
    "sets.contains", "sets.equivalent", "sets.intersects", "base64.encode", "base64.decode", "isSorted", "sum",
    "timestamp", "quantity", "isQuantity", "url", "isURL", "ip", "isIP", "cidr", "isCIDR", "containsIP", "containsCIDR",
    "semver", "isSemver",
})
# fmt: on


def parts(root: Node, scope: Mapping[str, Any]) -> list[tuple[Node, PartKey]]:
    """Give the parts of an expression that can be shared, outer ones first; `scope` as `generate` takes it."""
    return list(_parts(root, scope, frozenset()))


def _parts(node: Node, scope: Mapping[str, Any], bound: frozenset[str]) -> Iterator[tuple[Node, PartKey]]:
    is_bind = isinstance(node, Comprehension) and isinstance(node.condition, Constant) and node.condition.value is False
    if (isinstance(node, Comprehension) and not is_bind) or (isinstance(node, Call) and node.function in _HEAVY):
        key = _Writer(scope, bound).key(node)
        if key is not None:
            yield node, key
    if not isinstance(node, Comprehension):
        for inner in below(node):
            yield from _parts(inner, scope, bound)
    elif is_bind:
        yield from _parts(node.initial, scope, bound)
        yield from _parts(node.result, scope, bound | {node.accumulator})
    else:
        # What a turn costs is paid for with the loop: only what is gone over stands outside of it.
        yield from _parts(node.over, scope, bound)


class _OpenError(Exception):
    """A part that depends on more than the inputs and the variables of its policy."""


class _Writer:
    def __init__(self, scope: Mapping[str, Any], bound: frozenset[str]) -> None:
        self._scope = scope
        self._bound = bound
        self._out: list[str] = []
        self._variables: list[Variable] = []

    def key(self, node: Node) -> PartKey | None:
        try:
            self._write(node, frozenset())
        except _OpenError:
            return None
        return " ".join(self._out), tuple(self._variables)

    def _write(self, node: Node, inner: frozenset[str]) -> None:
        """Write a tree in prefix form; lengths stand before what is repeated, and texts are quoted."""
        match node:
            case Constant(value=value):
                self._out.append(f"{type(value).__name__}={value!r}")
                return
            case Identifier(name=name):
                self._identifier(name, inner)
                return
            case Select(field=field, test_only=test_only):
                self._out.append(f"{'has' if test_only else 'select'} {field!r}")
            case Call(function=function, arguments=arguments):
                self._out.append(f"call {function!r} {len(arguments)}")
            case ListLiteral(elements=elements, optional=optional):
                self._out.append(f"list {len(elements)} {sorted(optional)}")
            case MapLiteral(entries=entries):
                self._out.append(f"map {[entry.optional for entry in entries]}")
            case Comprehension():
                names = (node.variable, node.second_variable, node.accumulator)
                self._out.append(f"loop {names!r}")
                # What is gone over, and what it begins with, are read outside of the loop.
                self._write(node.over, inner)
                self._write(node.initial, inner)
                for part in (node.condition, node.step, node.result):
                    self._write(part, inner | set(names))
                return
            case MessageLiteral():
                raise _OpenError
        for part in below(node):
            self._write(part, inner)

    def _identifier(self, name: str, inner: frozenset[str]) -> None:
        if name in inner:
            self._out.append(f"local {name!r}")
            return
        if name in self._bound:
            raise _OpenError
        found = self._scope.get(name.removeprefix("."))
        if found is None or found.variable is None:
            self._out.append(f"name {name!r}")
            return
        variable = found.variable
        # Parameters are those of one evaluation, and an authorizer may answer one policy and not another.
        if variable.local or found.kind is Kind.OPAQUE:
            raise _OpenError
        if variable not in self._variables:
            self._variables.append(variable)
        self._out.append(f"variable {self._variables.index(variable)}")
