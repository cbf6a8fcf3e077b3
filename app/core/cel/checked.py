"""The checked expression: what the engine's parser and type checker say of a text, as a tree of our own.

`serialize()` of the engine gives a `google.protobuf.Any` around a `cel.expr.CheckedExpr`. The field numbers below are
those of `cel/expr/checked.proto` and `cel/expr/syntax.proto` of the CEL specification; the wire format is described in
"Encoding" of the Protocol Buffers documentation. It is read here and not by the protobuf library, so that neither its
generated classes nor its loading time belong to the serving path.
"""

import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias, assert_never

from app.core.cel.values import Duration, Timestamp, UInt

# The engine's parser gives up at 32 levels, macros multiply that; deeper trees are not of its making.
_DEPTH_MAX = 500
_UINT64 = 1 << 64
_SIGN_BIT = 1 << 63
_NANOS = 1_000_000_000

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

ConstantValue: TypeAlias = "bool | int | float | str | bytes | Timestamp | Duration | None"


class MalformedTreeError(Exception):
    """Bytes that are no checked expression; only a new version of the engine could bring them forth."""


@dataclass(frozen=True, slots=True)
class Constant:
    """A literal."""

    id: int
    value: ConstantValue


@dataclass(frozen=True, slots=True)
class Identifier:
    """A variable of a loop, an input, a type, or a dotted name; `.x` is never a variable of a loop."""

    id: int
    name: str


@dataclass(frozen=True, slots=True)
class Select:
    """`operand.field`, or with `test_only` the macro `has(operand.field)`."""

    id: int
    operand: "Node"
    field: str
    test_only: bool


@dataclass(frozen=True, slots=True)
class Call:
    """A function or operator; the target of `x.f(y)` is the first of `arguments`, and `member` says so."""

    id: int
    function: str
    arguments: "tuple[Node, ...]"
    member: bool


@dataclass(frozen=True, slots=True)
class ListLiteral:
    """`[a, ?b]`: `optional` has the positions of the elements with a question mark."""

    id: int
    elements: "tuple[Node, ...]"
    optional: frozenset[int]


@dataclass(frozen=True, slots=True)
class MapEntry:
    """`key: value` or `?key: value`."""

    key: "Node"
    value: "Node"
    optional: bool


@dataclass(frozen=True, slots=True)
class MapLiteral:
    """`{key: value}`."""

    id: int
    entries: tuple[MapEntry, ...]


@dataclass(frozen=True, slots=True)
class MessageLiteral:
    """`pkg.Message{...}`: known only in order to be refused by name."""

    id: int
    name: str


@dataclass(frozen=True, slots=True)
class Comprehension:
    """What every macro with a loop, and `cel.bind`, expands to."""

    id: int
    variable: str
    second_variable: str
    over: "Node"
    accumulator: str
    initial: "Node"
    condition: "Node"
    step: "Node"
    result: "Node"


Node: TypeAlias = Constant | Identifier | Select | Call | ListLiteral | MapLiteral | MessageLiteral | Comprehension


def below(node: Node) -> "tuple[Node, ...]":
    """Give the nodes right below one, in the order of the tree."""
    match node:
        case Constant() | Identifier() | MessageLiteral():
            return ()
        case Select(operand=operand):
            return (operand,)
        case Call(arguments=arguments):
            return arguments
        case ListLiteral(elements=elements):
            return elements
        case MapLiteral(entries=entries):
            return tuple(part for entry in entries for part in (entry.key, entry.value))
        case Comprehension():
            return (node.over, node.initial, node.condition, node.step, node.result)
        case _:
            assert_never(node)


def nodes(node: Node) -> Iterator[Node]:
    """Give a node and all below it."""
    todo = [node]
    while todo:
        one = todo.pop()
        yield one
        todo += below(one)


@dataclass(frozen=True, slots=True)
class Checked:
    """A tree, and where its nodes stand in the text; `place` finds an offset again in the text that was written."""

    root: Node
    source_info: bytes
    place: Callable[[int], int] | None = None

    @property
    def positions(self) -> Mapping[int, int]:
        """Give the offsets of nodes in code points, by their number; read when someone asks, for hardly anyone does."""
        entries = map(_fields, _all_bytes(_fields(self.source_info), 4))
        found = {_signed(_number(entry, 1)): _number(entry, 2) & 0xFFFFFFFF for entry in entries}
        return found if self.place is None else {node: self.place(offset) for node, offset in found.items()}


def read_checked(data: bytes) -> Checked:
    """Read what `serialize()` gives.

    Raises:
        MalformedTreeError: the bytes have another form.
    """
    try:
        checked = _fields(_bytes(_fields(data), 2))
        references = {
            key: _text(reference, 1)
            for key, value in _map(checked, 2)
            if (reference := _fields(value)) and 1 in reference
        }
        return Checked(_Reader(references).node(_bytes(checked, 4), 0), _bytes(checked, 5))
    except (IndexError, KeyError, ValueError, TypeError, struct.error, RecursionError) as error:
        raise MalformedTreeError(f"the engine's checked expression cannot be read ({type(error).__name__})") from error


def read_types(data: bytes) -> Mapping[int, bytes]:
    """Give the types of nodes by their number, as they are written; those of type `dyn` are not among them.

    Raises:
        MalformedTreeError: the bytes have another form.
    """
    try:
        return dict(_map(_fields(_bytes(_fields(data), 2)), 3))
    except (IndexError, ValueError, TypeError) as error:
        raise MalformedTreeError(f"the engine's types cannot be read ({type(error).__name__})") from error


def moved_back(checked: Checked, places: tuple[int, ...], *, added: str, around: str) -> Checked:
    """Give the tree with the positions that it has in a text without the `added` characters `around` some names.

    `places` are where these names start in that text, in order.
    """
    if not places:
        return checked

    def place(offset: int) -> int:
        moved = 0
        for start in places:
            if offset < start + moved:
                break
            if offset < start + moved + len(added) + len(around):
                return start
            moved += len(added)
        return offset - moved

    return Checked(checked.root, checked.source_info, place)


_Fields: TypeAlias = "dict[int, list[int | bytes]]"


def _fields(data: bytes) -> _Fields:
    """Split one message into its fields; each number has its values in order."""
    # Most of the time that it takes to load a policy was spent here: numbers below 128 are read without a call.
    found: _Fields = {}
    at, end = 0, len(data)
    while at < end:
        key = data[at]
        at += 1
        if key >= 0x80:
            key, at = _varint(data, at - 1)
        kind = key & 7
        value: int | bytes
        if kind == _BYTES:
            size = data[at]
            at += 1
            if size >= 0x80:
                size, at = _varint(data, at - 1)
            value = data[at : at + size]
            at += size
        elif kind == _VARINT:
            value, at = _varint(data, at)
        elif kind in {_FIXED64, _FIXED32}:
            size = 8 if kind == _FIXED64 else 4
            value, at = data[at : at + size], at + size
        else:
            raise ValueError(f"wire type {kind}")
        if at > end:
            raise ValueError("cut off")
        if key >> 3 in found:
            found[key >> 3].append(value)
        else:
            found[key >> 3] = [value]
    return found


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value % _UINT64, at
        shift += 7
        if shift > 63:
            raise ValueError("a number of more than 64 bits")


def _signed(value: int) -> int:
    return value - _UINT64 if value & _SIGN_BIT else value


def _bytes(fields: _Fields, number: int) -> bytes:
    """Give the last value of a field of bytes, as Protocol Buffers wants it; empty if it is not there."""
    values = fields.get(number)
    value = values[-1] if values else b""
    if not isinstance(value, bytes):
        raise TypeError(f"field {number}")
    return value


def _all_bytes(fields: _Fields, number: int) -> list[bytes]:
    values = fields.get(number, [])
    return [value for value in values if isinstance(value, bytes)]


def _text(fields: _Fields, number: int) -> str:
    return _bytes(fields, number).decode()


def _number(fields: _Fields, number: int) -> int:
    values = fields.get(number)
    value = values[-1] if values else 0
    if not isinstance(value, int):
        raise TypeError(f"field {number}")
    return value


def _map(fields: _Fields, number: int) -> list[tuple[int, bytes]]:
    entries = map(_fields, _all_bytes(fields, number))
    return [(_signed(_number(entry, 1)), _bytes(entry, 2)) for entry in entries]


class _Reader:
    """Reads nodes; `references` are the names that the checker resolved, by node."""

    def __init__(self, references: Mapping[int, str]) -> None:
        self._references = references

    def node(self, data: bytes, depth: int) -> Node:
        if depth > _DEPTH_MAX:
            raise ValueError("too deep")
        fields = _fields(data)
        node_id, below = _signed(_number(fields, 2)), depth + 1
        for number, value in fields.items():
            if number == 2:
                continue
            inner = value[-1]
            if not isinstance(inner, bytes):
                raise TypeError(f"field {number}")
            return self._kind(number, node_id, _fields(inner), below)
        raise ValueError("an empty node")

    def _kind(self, number: int, node_id: int, inner: _Fields, depth: int) -> Node:
        match number:
            case 3:
                return Constant(node_id, _constant(inner))
            case 4:
                name = _text(inner, 1)
                resolved = self._references.get(node_id, name)
                return Identifier(node_id, name if name.startswith(".") else resolved)
            case 5:
                operand = self.node(_bytes(inner, 1), depth)
                return Select(node_id, operand, _text(inner, 2), bool(_number(inner, 3)))
            case 6:
                member = 1 in inner
                nodes = [_bytes(inner, 1)] if member else []
                arguments = tuple(self.node(argument, depth) for argument in (*nodes, *_all_bytes(inner, 3)))
                return Call(node_id, _text(inner, 2), arguments, member)
            case 7:
                elements = tuple(self.node(element, depth) for element in _all_bytes(inner, 1))
                return ListLiteral(node_id, elements, _positions(inner))
            case 8:
                if name := _text(inner, 1):
                    return MessageLiteral(node_id, name)
                return MapLiteral(node_id, tuple(self._entry(entry, depth) for entry in _all_bytes(inner, 2)))
            case 9:
                return self._comprehension(node_id, inner, depth)
            case _:
                raise ValueError(f"a node of kind {number}")

    def _entry(self, data: bytes, depth: int) -> MapEntry:
        fields = _fields(data)
        key, value = self.node(_bytes(fields, 3), depth), self.node(_bytes(fields, 4), depth)
        return MapEntry(key, value, bool(_number(fields, 5)))

    def _comprehension(self, node_id: int, inner: _Fields, depth: int) -> Comprehension:
        over, initial, condition, step, result = (self.node(_bytes(inner, n), depth) for n in (2, 4, 5, 6, 7))
        return Comprehension(
            node_id, _text(inner, 1), _text(inner, 8), over, _text(inner, 3), initial, condition, step, result
        )


def _positions(fields: _Fields) -> frozenset[int]:
    """Read `repeated int32`, which may come packed or one by one."""
    found: set[int] = set()
    for value in fields.get(2, []):
        if isinstance(value, int):
            found.add(value)
            continue
        at = 0
        while at < len(value):
            position, at = _varint(value, at)
            found.add(position)
    return frozenset(found)


def _constant(fields: _Fields) -> ConstantValue:
    for number in fields:
        match number:
            case 1:
                return None
            case 2:
                return bool(_number(fields, 2))
            case 3:
                return _signed(_number(fields, 3))
            case 4:
                return UInt(_number(fields, 4))
            case 5:
                (double,) = struct.unpack("<d", _bytes(fields, 5))
                return float(double)
            case 6:
                return _text(fields, 6)
            case 7:
                return _bytes(fields, 7)
            case 8:
                return Duration(_nanoseconds(_fields(_bytes(fields, 8))))
            case 9:
                return Timestamp(_nanoseconds(_fields(_bytes(fields, 9))))
            case _:
                break
    raise ValueError("a constant of unknown kind")


def _nanoseconds(fields: _Fields) -> int:
    return _signed(_number(fields, 1)) * _NANOS + _signed(_number(fields, 2))
