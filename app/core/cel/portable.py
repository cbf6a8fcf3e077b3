"""Which expressions an API server evaluates as the firewall does: what they call, what they read, under other names.

Kubernetes' CEL (`cel-go`, with the libraries of `k8s.io/apiserver`) has fewer functions than the firewall's, and its
checker refuses lists and maps whose members have several types. What is named here is in every release since 1.31.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from app.core.cel.checked import (
    Call,
    Comprehension,
    Identifier,
    ListLiteral,
    MapLiteral,
    MessageLiteral,
    Node,
    nodes,
    read_checked,
    read_types,
)
from app.core.cel.engine import serialised
from app.core.cel.paths import Path, Reader
from app.core.cel.tokens import Token, TokenKind, is_member, is_rooted, tokens
from app.core.cel.variables import order

_VARIABLES: Final = "variables."
# `google.api.expr.v1alpha1.Type` with its member `dyn`, which is empty.
_DYN: Final = b"\x0a\x00"

# fmt: off
_OPERATORS: Final = frozenset({
    "_&&_", "_||_", "!_", "_?_:_", "_==_", "_!=_", "_<_", "_<=_", "_>_", "_>=_", "@in", "_[_]", "_[?_]", "_?._",
    "_+_", "_-_", "_*_", "_/_", "_%_", "-_", "@not_strictly_false", "__not_strictly_false__", "dyn",
})
_LANGUAGE: Final = frozenset({
    "size", "contains", "startsWith", "endsWith", "matches",
    "charAt", "indexOf", "lastIndexOf", "substring", "split", "join", "replace", "lowerAscii", "upperAscii",
    "optional.of", "optional.none", "optional.ofNonZeroValue", "hasValue", "value", "or", "orValue",
    "sets.contains", "sets.equivalent", "sets.intersects",
})
_KUBERNETES: Final = frozenset({
    "isSorted", "sum", "min", "max", "find", "findAll",
    "url", "isURL", "getScheme", "getHost", "getHostname", "getPort", "getEscapedPath", "getQuery",
    "quantity", "isQuantity", "sign", "isInteger", "asInteger", "add", "sub",
    "isGreaterThan", "isLessThan", "compareTo",
    "ip", "isIP", "ip.isCanonical", "family", "isUnspecified", "isLoopback", "isLinkLocalMulticast",
    "isLinkLocalUnicast", "isGlobalUnicast", "cidr", "isCIDR", "containsIP", "containsCIDR", "masked", "prefixLength",
})
# fmt: on
_CONDITIONS: Final = _OPERATORS | _LANGUAGE | _KUBERNETES
# How numbers are written out differs in places, which no condition may depend on; people can read either.
_MESSAGES: Final = _CONDITIONS | {"string", "int", "format", "strings.quote"}


class UnportableError(Exception):
    """An expression that an API server cannot evaluate, or would evaluate in another way; the text says why."""


@dataclass(frozen=True, slots=True)
class Portable:
    """An expression that is evaluated alike.

    `text` has the new names of the inputs, `variables` are those of the policy that it reads, itself or through others,
    each behind what it reads. `paths` are the members of inputs that it reads itself: each as far as its steps are
    constants.
    """

    text: str
    variables: tuple[str, ...]
    paths: frozenset[tuple[str, ...]]


def portable(
    text: str,
    *,
    variables: Mapping[str, str],
    inputs: frozenset[str],
    renamed: Mapping[str, str],
    for_people: bool = False,
) -> Portable:
    """Give an expression as an API server evaluates it.

    `inputs` are the names that it may read, `renamed` what some of them are called there. `for_people`: the value is
    a message.

    Raises:
        UnportableError: it calls, reads or builds what an API server does not know, or knows in another way.
        ExpressionError: it cannot be compiled.
    """
    stream = list(tokens(text))
    for i, token in enumerate(stream):
        if token.kind is TokenKind.QUOTED:
            raise UnportableError("it has a name in backticks")
        if token.text == "cel" and stream[i + 1 : i + 3] and stream[i + 2 : i + 3][0].text == "bind":
            raise UnportableError("Kubernetes has no `cel.bind`")
        if token.text in renamed and is_rooted(stream, i):
            raise UnportableError(f"it reads `.{token.text}`, with a leading dot")
    data = serialised(text, variables=variables)
    root, types = read_checked(data).root, read_types(data)
    every = list(nodes(root))
    reader = Reader(root, readable=inputs.__contains__)
    known = _MESSAGES if for_people else _CONDITIONS
    readable = inputs.union(*({one.variable, one.accumulator} for one in every if isinstance(one, Comprehension)))
    for node in every:
        _check(node, known, types)
        if isinstance(node, Comprehension):
            _check_locals(node, renamed)
        elif isinstance(node, Identifier):
            _check_name(node.name, readable)
    paths = frozenset(_constant_steps(path) for read in reader.reads(root) for path in _with_keys(read))
    return Portable(_renamed(text, stream, renamed), order(text, variables), paths)


def _check(node: Node, known: frozenset[str], types: Mapping[int, bytes]) -> None:
    match node:
        case Call(function=function) if function not in known:
            raise UnportableError(f"`{function.strip('_@')}` is not known to be the same there")
        case ListLiteral(elements=elements):
            _check_types(elements, types)
        case MapLiteral(entries=entries):
            _check_types([entry.key for entry in entries], types)
            _check_types([entry.value for entry in entries], types)
        case MessageLiteral(name=name):
            raise UnportableError(f"it makes a `{name}`")
        case _:
            pass


def _check_types(members: Sequence[Node], types: Mapping[int, bytes]) -> None:
    if len({types[one.id] for one in members if types.get(one.id, _DYN) != _DYN}) > 1:
        raise UnportableError("Kubernetes takes no list and no map whose members have several types")


def _check_locals(node: Comprehension, renamed: Mapping[str, str]) -> None:
    if node.second_variable:
        raise UnportableError("it has a loop with two variables")
    if node.variable in renamed or node.accumulator in renamed:
        name = node.variable if node.variable in renamed else node.accumulator
        raise UnportableError(f"the variable `{name}` of a loop hides the input of that name")


def _check_name(name: str, readable: frozenset[str]) -> None:
    if name not in readable and not name.startswith(_VARIABLES):
        raise UnportableError(f"it reads `{name}`")


def _with_keys(path: Path) -> Iterator[Path]:
    """Give a path, and those of the keys that are computed on its way."""
    todo = [path]
    while todo:
        one = todo.pop()
        if one.local is None:
            yield one
        todo += [step for step in one.steps if isinstance(step, Path)]


def _constant_steps(path: Path) -> tuple[str, ...]:
    found = [path.root]
    for step in path.steps:
        if not isinstance(step, str):
            break
        found.append(step)
    return tuple(found)


def _renamed(text: str, stream: Sequence[Token], renamed: Mapping[str, str]) -> str:
    parts: list[str] = []
    at = 0
    for i, token in enumerate(stream):
        if token.kind is TokenKind.NAME and token.text in renamed and not is_member(stream, i):
            parts += [text[at : token.start], renamed[token.text]]
            at = token.end
    return "".join([*parts, text[at:]])
