"""Strict YAML: the part of YAML 1.2 that a reviewer reads without surprise, with line and column for every node.

Refused: duplicate keys (the last one would win silently), anchors, aliases and merge keys (what a reviewer sees is not
what is loaded, and they expand without bound), tags, directives, keys that are not plain text, and scalars that YAML
versions read differently (`0777`, `0x1F`, `1_000`, `.inf`) unless they are quoted. `yes` and `2024-01-01` are text.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentEndEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
    StreamStartEvent,
)

from app.core.types import Json

# Nothing in a policy is deeper than the groups of an approval; the parser and the digest both recurse.
DEPTH_MAX = 24
# A page of policy has a hundred, and a file as long as it may be, written as policies are, has some 40,000. The parser
# takes 25 microseconds for each.
NODES_MAX = 60_000

_NULL = re.compile(r"(?:|~|null|Null|NULL)\Z")
_TRUE = re.compile(r"(?:true|True|TRUE)\Z")
_FALSE = re.compile(r"(?:false|False|FALSE)\Z")
_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]*)\Z")
_FLOAT = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?\Z")
# What some YAML reader somewhere takes for a number and this one does not.
_AMBIGUOUS = re.compile(
    r"[-+]?(?:\.inf|\.nan|0[0-9_]+|0[xob][0-9a-f_]+|[0-9][0-9_]*_[0-9_]*|\.[0-9]+|[0-9]+\.)\Z", re.IGNORECASE
)
_AMBIGUOUS_PLUS = re.compile(r"\+[0-9]")
# Nothing else in strict YAML begins a line with it: no document of ours goes on in the first column.
_DIRECTIVE = re.compile(r"^%", re.MULTILINE)
_INT64 = range(-(2**63), 2**63)


class Style:
    """How a scalar was written, as far as places inside it can be found again."""

    PLAIN = ""
    SINGLE = "'"
    DOUBLE = '"'
    LITERAL = "|"
    FOLDED = ">"


@dataclass(frozen=True, slots=True)
class Scalar:
    """A string, number, boolean or null. `line` and `column` count from 1."""

    value: str | int | float | bool | None
    line: int
    column: int
    style: str = Style.PLAIN

    def plain(self) -> Json:
        """Give the value without its place."""
        return self.value


@dataclass(frozen=True, slots=True)
class Sequence:
    """A list of nodes."""

    items: tuple["Node", ...]
    line: int
    column: int

    def plain(self) -> Json:
        """Give the values without their places."""
        return [item.plain() for item in self.items]


@dataclass(frozen=True, slots=True)
class Mapping:
    """An object: names to nodes, and for each name the place of the name itself."""

    items: dict[str, "Node"]
    keys: dict[str, Scalar]
    line: int
    column: int

    def plain(self) -> Json:
        """Give the values without their places."""
        return {name: item.plain() for name, item in self.items.items()}


Node: TypeAlias = Scalar | Sequence | Mapping


class TreeError(Exception):
    """A text that is not strict YAML, at one place."""

    def __init__(self, message: str, *, line: int, column: int, fix: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.line = line
        self.column = column
        self.fix = fix


def documents(text: str) -> list[Node]:
    """Parse a file of documents separated by `---`; documents without content are left out.

    Raises:
        TreeError: at the first place that is not strict YAML.
    """
    if (directive := _DIRECTIVE.search(text)) is not None:
        # The parser would collect them all before it says anything.
        line, column = _place(text, directive.start())
        raise TreeError("a `%` directive is not allowed", line=line, column=column, fix="remove it")
    try:
        stream: Iterator[Any] = _bounded(iter(YAML(typ="safe", pure=True).parse(text)))
        found: list[Node] = []
        for event in stream:
            if isinstance(event, DocumentStartEvent):
                root = _node(next(stream), stream, 0)
                end = next(stream)
                assert isinstance(end, DocumentEndEvent)  # noqa: S101 - the grammar of the parser's events
                if not (isinstance(root, Scalar) and root.value is None):
                    found.append(root)
            else:
                assert isinstance(event, StreamStartEvent | StreamEndEvent)  # noqa: S101 - as above
    except MarkedYAMLError as error:
        raise _from_parser(error) from error
    except (YAMLError, RecursionError, ValueError) as error:
        # Characters that YAML does not allow: the reader knows only an offset.
        line, column = _place(text, getattr(error, "position", 0))
        reason = str(getattr(error, "reason", "")) or "it cannot be read as YAML"
        raise TreeError(reason, line=line, column=column, fix="remove the character") from error
    return found


def tree(value: Json, *, depth: int = 0) -> Node:
    """Make the tree of a JSON value, as it would come out of a file; there are no places, so all of them are 0.

    Raises:
        TreeError: it is nested too deeply.
    """
    if depth > DEPTH_MAX:
        message = f"the document is nested more than {DEPTH_MAX} deep"
        raise TreeError(message, line=0, column=0, fix="no policy needs that")
    if isinstance(value, dict):
        return Mapping(
            {name: tree(item, depth=depth + 1) for name, item in value.items()},
            {name: Scalar(name, 0, 0) for name in value},
            0,
            0,
        )
    if isinstance(value, list):
        return Sequence(tuple(tree(item, depth=depth + 1) for item in value), 0, 0)
    return Scalar(value, 0, 0)


def _bounded(stream: Iterator[Any]) -> Iterator[Any]:
    """Give the events of the parser, and stop where there are too many; the parser reads no further than asked."""
    for number, event in enumerate(stream):
        if number > NODES_MAX:
            raise _error(f"the file has more than {NODES_MAX} values", event, "split it")
        yield event


def _node(event: Event, stream: Iterator[Any], depth: int) -> Node:
    line, column = event.start_mark.line + 1, event.start_mark.column + 1
    if isinstance(event, AliasEvent):
        raise _error("an alias is not allowed", event, "write the value where it is used")
    if getattr(event, "anchor", None) is not None:
        raise _error("an anchor is not allowed", event, "write the value where it is used")
    if (tag := getattr(event, "tag", None)) is not None:
        raise _error(f"the tag `{tag}` is not allowed", event, "remove it; quote the value if it is text")
    if depth > DEPTH_MAX:
        raise _error(f"the document is nested more than {DEPTH_MAX} deep", event, "no policy needs that")
    if isinstance(event, ScalarEvent):
        return Scalar(_scalar(event), line, column, event.style or Style.PLAIN)
    if isinstance(event, SequenceStartEvent):
        items: list[Node] = []
        while not isinstance(child := next(stream), SequenceEndEvent):
            items.append(_node(child, stream, depth + 1))
        return Sequence(tuple(items), line, column)
    assert isinstance(event, MappingStartEvent)  # noqa: S101 - the only event left
    members: dict[str, Node] = {}
    keys: dict[str, Scalar] = {}
    while not isinstance(child := next(stream), MappingEndEvent):
        key = _node(child, stream, depth + 1)
        if not isinstance(key, Scalar) or not isinstance(key.value, str):
            raise _error("a key must be text", child, "quote it")
        if key.value == "<<":
            raise _error("a merge key is not allowed", child, "write the members where they are used")
        if key.value in members:
            message = f"the key `{key.value[:80]}` is there twice, first in line {keys[key.value].line}"
            raise _error(message, child, "keep one of them")
        keys[key.value] = key
        members[key.value] = _node(next(stream), stream, depth + 1)
    return Mapping(members, keys, line, column)


def _scalar(event: ScalarEvent) -> str | int | float | bool | None:
    text: str = event.value
    if event.style not in {None, ""}:
        return _text(text, event)
    if _NULL.match(text):
        return None
    if _TRUE.match(text) or _FALSE.match(text):
        return bool(_TRUE.match(text))
    if _INTEGER.match(text):
        if len(text) > 20 or int(text) not in _INT64:
            raise _error("the number does not fit into 64 bits", event, "quote it if it is text")
        return int(text)
    if _FLOAT.match(text):
        number = float(text)
        if number in {float("inf"), float("-inf")}:
            raise _error("the number is too large", event, "quote it if it is text")
        return number
    if _AMBIGUOUS.match(text) or _AMBIGUOUS_PLUS.match(text):
        raise _error(
            f"`{text[:40]}` is read differently by different YAML versions", event, "quote it, or write it out"
        )
    return _text(text, event)


def _text(text: str, event: ScalarEvent) -> str:
    for character in text:
        if character == "\0" or 0xD800 <= ord(character) <= 0xDFFF:
            raise _error(f"the character U+{ord(character):04X} is not allowed in text", event, "remove it")
    return text


def _error(message: str, event: Event, fix: str) -> TreeError:
    mark = event.start_mark
    return TreeError(message, line=mark.line + 1, column=mark.column + 1, fix=fix)


def _from_parser(error: MarkedYAMLError) -> TreeError:
    mark = error.problem_mark or error.context_mark
    line, column = (mark.line + 1, mark.column + 1) if mark is not None else (1, 1)
    problem = str(error.problem or error.context or "it cannot be read as YAML").strip()
    fix = None
    if "'\\t'" in problem or "tab" in problem:
        fix = "indent with spaces"
    elif "mapping values are not allowed" in problem:
        fix = "quote the value if it contains `: `"
    elif "found character" in problem or "found unexpected" in problem:
        fix = "quote the value"
    return TreeError(f"not valid YAML: {problem.replace(chr(39), '`')}", line=line, column=column, fix=fix)


def _place(text: str, offset: int) -> tuple[int, int]:
    before = text[:offset]
    return before.count("\n") + 1, offset - (before.rfind("\n") + 1) + 1
