"""The canonical layout of policy files: one way to write a document, with its meaning and its comments kept.

Members stand in the order of docs/policies.md, two blanks indent, lists stand two deeper than their name, what was
written in brackets stays in brackets while it fits on a line, quotes are double where they can be. Texts over several
lines, blank lines (one at most) and the choice between brackets and lines stay the author's.
"""

import json
import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.events import (
    DocumentEndEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

from app.core.types import JsonObject
from app.policies.kinds import KINDS
from app.policies.shape import BRANCH, Shape
from app.policies.tree import TreeError, documents

WIDTH = 120
_STEP = 2
# A blank line of the author's, which may be left out; one inside a text may not.
_BLANK = "\0"
_HEADER = re.compile(r"([|>])([+-]?)([1-9]?)([+-]?)[ \t]*(#.*)?\Z")
_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r"}
# What YAML readers take for the end of a line, beside the line feed.
_OTHER_BREAKS = re.compile("[\x85\u2028\u2029]")


@dataclass(slots=True, eq=False)
class _Value:
    """A scalar or a collection, with the offsets of its text; `column` is that of its entries."""

    start: int
    end: int
    column: int
    flow: bool = False
    style: str = ""
    text: str = ""
    is_list: bool = False
    entries: "list[_Entry]" = field(default_factory=list)
    scalar: bool = False
    foot: list[str] = field(default_factory=list)

    @property
    def block(self) -> bool:
        """Whether it is a collection over several lines."""
        return not self.scalar and not self.flow


@dataclass(slots=True, eq=False)
class _Entry:
    """A member or an item. `head` has the comments before it, and `_BLANK`; `tail` the one behind it."""

    start: int
    column: int
    key: _Value | None
    value: _Value
    head: list[str] = field(default_factory=list)
    tail: str | None = None


@dataclass(slots=True, eq=False)
class _Document:
    """One document; `start` is the offset of its first line, `---` or what stands above it."""

    start: int
    root: _Value
    head: list[str] = field(default_factory=list)


def layout(text: str) -> str:
    """Write a file of documents in the canonical layout; a file without documents keeps its comments.

    Raises:
        TreeError: the text is not strict YAML, or means something else when it is laid out (which is a fault of ours,
            and leaves the text as it is).
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if (strange := _OTHER_BREAKS.search(text)) is not None:
        line, column = text.count("\n", 0, strange.start()) + 1, strange.start() - text.rfind("\n", 0, strange.start())
        shown = f"U+{ord(strange.group()):04X}"
        message = f"the character {shown} ends a line for some readers and not for others"
        raise TreeError(message, line=line, column=column, fix="write it as an escape in double quotes")
    before = _meaning(text)
    page = _Page(text)
    written = page.write()
    try:
        after = _meaning(written)
        comments = sorted(_Page(written).comments)
    except TreeError:
        after, comments = None, []
    if after != before or comments != sorted(page.comments):
        raise TreeError("the layout of this file cannot be changed safely", line=1, column=1, fix="lay it out by hand")
    return written


def _meaning(text: str) -> str | None:
    """Name what a text says, the order of members apart; exact about types."""
    return json.dumps([root.plain() for root in documents(text)], sort_keys=True)


class _Page:
    """One file, taken apart."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.lines = text.split("\n")
        self.starts = [0]
        for line in self.lines:
            self.starts.append(self.starts[-1] + len(line) + 1)
        self.spans: list[tuple[int, int]] = []
        self.header_comments: list[tuple[int, str]] = []
        self.documents = self._documents()
        self.comments: list[str] = []
        self.loose: list[str] = []
        self._attach()

    def _line(self, offset: int) -> int:
        return bisect_right(self.starts, offset) - 1

    def _column(self, offset: int) -> int:
        return offset - self.starts[self._line(offset)]

    # Reading

    def _documents(self) -> list[_Document]:
        stream: Iterator[Any] = iter(YAML(typ="safe", pure=True).parse(self.text))
        found: list[_Document] = []
        for event in stream:
            if isinstance(event, DocumentStartEvent):
                start = event.start_mark.index
                root = self._value(next(stream), stream)
                assert isinstance(next(stream), DocumentEndEvent)  # noqa: S101 - the grammar of the parser's events
                if not (root.scalar and root.style == "" and root.text in {"", "~", "null", "Null", "NULL"}):
                    found.append(_Document(start if found else 0, root))
        return found

    def _value(self, event: Any, stream: Iterator[Any]) -> _Value:
        start, end = event.start_mark.index, event.end_mark.index
        if isinstance(event, ScalarEvent):
            style = event.style or ""
            value = _Value(start, end, 0, style=style, text=event.value, scalar=True)
            if style in {"|", ">"}:
                self._trim(value)
            self.spans.append((value.start, value.end))
            return value
        value = _Value(start, end, self._column(start), flow=bool(event.flow_style))
        if isinstance(event, SequenceStartEvent):
            value.is_list = True
            last = value.start
            while not isinstance(child := next(stream), SequenceEndEvent):
                item = self._value(child, stream)
                # The dash of an item in lines: the last one before the item.
                dash = item.start if value.flow else self._dash(last, item.start)
                value.entries.append(_Entry(dash, self._column(dash), None, item))
                last = _last(item)
        else:
            assert isinstance(event, MappingStartEvent)  # noqa: S101 - the only event left
            while not isinstance(child := next(stream), MappingEndEvent):
                key = self._value(child, stream)
                entry = _Entry(key.start, self._column(key.start), key, self._value(next(stream), stream))
                value.entries.append(entry)
            child = child if value.entries else event
        if value.flow:
            value.end = child.end_mark.index
        return value

    def _dash(self, after: int, before: int) -> int:
        """Find the dash of an item: the first one outside comments between the item before it and its own text."""
        at = after
        while at < before:
            if self.text[at] == "#" and (at == 0 or self.text[at - 1] in " \t\n"):
                at = self.text.index("\n", at)
            elif self.text[at] == "-":
                return at
            at += 1
        return before

    def _trim(self, value: _Value) -> None:
        """End a text over several lines behind its last line, unless it keeps the blank ones after it."""
        first = self._line(value.start)
        header = _HEADER.match(self.lines[first][self._column(value.start) :])
        last = self._line(max(value.start, value.end - 1))
        keep = header is not None and "+" in {header[2], header[4]}
        if header is not None and header[5]:
            self.header_comments.append((value.start, header[5]))
        while last > first and not keep and not self.lines[last].strip():
            last -= 1
        value.end = max(self.starts[last] + len(self.lines[last]), value.start + 1)

    # Comments

    def _attach(self) -> None:
        """Give every comment and every blank line to what it stands with."""
        waiting_blank = False
        inside = sorted(self.spans)
        tails = dict(self.header_comments)
        for offset, comment in tails.items():
            self.comments.append(comment.rstrip())
            self._tail(offset, comment.rstrip())
        for number, line in enumerate(self.lines):
            at = self._comment(number, inside)
            if at is None:
                waiting_blank = waiting_blank or (not line.strip() and not self._covered(self.starts[number], inside))
                if line.strip() and waiting_blank:
                    self._blank_before(number)
                    waiting_blank = False
                continue
            comment = line[at:].rstrip()
            self.comments.append(comment)
            before = line[:at].strip()
            if before and before not in {"---", "..."}:
                if waiting_blank:
                    self._blank_before(number)
                self._tail(self.starts[number] + at, comment)
            else:
                where = self._place(self.starts[number] + at, at)
                if waiting_blank:
                    where.append(_BLANK)
                where.append(comment)
            waiting_blank = False

    def _comment(self, number: int, spans: list[tuple[int, int]]) -> int | None:
        """Give the column of the comment in a line, None if there is none."""
        line = self.lines[number]
        at = line.find("#")
        while at >= 0:
            if (at == 0 or line[at - 1] in " \t") and not self._covered(self.starts[number] + at, spans):
                return at
            at = line.find("#", at + 1)
        return None

    @staticmethod
    def _covered(offset: int, spans: list[tuple[int, int]]) -> bool:
        """Whether an offset is inside a scalar."""
        i = bisect_right(spans, (offset, float("inf"))) - 1
        return i >= 0 and spans[i][0] <= offset < spans[i][1]

    def _document(self, offset: int) -> _Document | None:
        found = None
        for document in self.documents:
            if document.start <= offset:
                found = document
        return found

    def _tail(self, offset: int, comment: str) -> None:
        """Put a comment behind the entry that it stands behind."""
        document = self._document(offset)
        entry: _Entry | None = None
        value = document.root if document is not None else None
        while value is not None and not value.scalar:
            started = [one for one in value.entries if one.start <= offset]
            if not started:
                break
            entry = started[-1]
            inner = entry.value
            opened = inner.start <= offset and (inner.block or offset < inner.end)
            value = inner if not inner.scalar and opened else None
        if entry is None:
            (document.head if document is not None else self.loose).append(comment)
        elif entry.tail is None:
            entry.tail = comment
        else:
            entry.head.append(comment)

    def _place(self, offset: int, column: int) -> list[str]:
        """Give the list that a comment on a line of its own belongs to."""
        document = self._document(offset)
        if document is None:
            return self.loose
        if not document.root.entries:
            return document.head if offset < document.root.start else document.root.foot
        chain: list[_Value] = []
        value = document.root
        following: _Entry | None = None
        while not value.scalar:
            started = [one for one in value.entries if one.start <= offset]
            later = value.entries[len(started)] if len(started) < len(value.entries) else None
            if later is not None:
                following, chain = later, []
            if value.flow and started and later is None and offset < value.end:
                inner = started[-1].value
                if not (inner.flow and inner.start <= offset < inner.end):
                    return value.foot
            if not started:
                break
            if later is None:
                chain.append(value)
            last = started[-1]
            if last.value.start > offset:
                # Between a name and what it names.
                return last.head if not last.value.block else last.value.entries[0].head
            value = last.value
        for one in reversed(chain):
            if one.block and one.column <= column and (following is None or one.column > following.column):
                return one.foot
        if following is not None:
            return following.head
        closed = [one for one in chain if one.block]
        return closed[0].foot if closed else document.root.foot

    def _blank_before(self, number: int) -> None:
        """Keep a blank line before the entry that starts in a line."""
        low, high = self.starts[number], self.starts[number + 1]
        document = self._document(low)
        value = document.root if document is not None else None
        while value is not None and not value.scalar:
            started = [one for one in value.entries if one.start < high]
            if not started:
                return
            if low <= started[-1].start:
                first = next(one for one in started if low <= one.start)
                if first is not value.entries[0] or first.head:
                    first.head.append(_BLANK)
                return
            value = started[-1].value

    # Writing

    def write(self) -> str:
        """Write the file."""
        pages: list[list[str]] = []
        for document in self.documents:
            if document.root.entries:
                # What stands above the first member is about the document, whichever member comes first afterwards.
                first = document.root.entries[0]
                document.head += first.head
                first.head = []
            lines = [*document.head, *self._root(document.root)]
            pages.append(lines)
        out: list[str] = [*self.loose]
        for position, lines in enumerate(pages):
            if position:
                out.append("---")
            out += _squeezed(lines)
        return "".join("\n" if line == _BLANK else f"{line}\n" for line in _squeezed(out))

    def _root(self, root: _Value) -> list[str]:
        if root.scalar:
            return [*self._scalar_lines("", root, 0), *root.foot]
        shape = next((shapes[0] for kind, shapes in KINDS.items() if _member(root, "kind") == kind), None)
        if root.flow and not root.entries:
            return [*root.foot, "[]" if root.is_list else "{}"]
        parts = {part.name: part for part in KINDS[shape.name]} if shape is not None else {}
        return self._collection(root, 0, shape, parts)

    def _collection(self, value: _Value, indent: int, shape: Shape | None, parts: dict[str, Shape]) -> list[str]:
        """Write a collection in lines; it has an entry, and the first line is never a comment of a later one."""
        lines: list[str] = []
        pad = " " * indent
        for position, entry in enumerate(_ordered(value, shape)):
            # A blank line separates a member from those before it; one that came to be the first has none.
            if position or any(line != _BLANK for line in entry.head):
                lines += _comment_lines(entry.head, pad)
            if entry.key is None:
                lines += self._item(entry, indent, shape, parts)
            else:
                inner = _child(shape, entry.key.text, parts)
                lines += self._member(f"{_quoted(entry.key, flow=False)}:", entry, indent, inner, parts)
        lines += _comment_lines(value.foot, pad)
        return lines

    def _member(self, name: str, entry: _Entry, indent: int, shape: Shape | None, parts: dict[str, Shape]) -> list[str]:
        pad, value = " " * indent, entry.value
        tail = f"  {entry.tail}" if entry.tail else ""
        if value.scalar:
            lines = self._scalar_lines(f"{pad}{name}", value, indent)
            return [lines[0] + tail, *lines[1:]]
        flow = self._flow_text(value, shape, parts)
        if flow is not None and len(pad) + len(name) + 1 + len(flow) <= WIDTH:
            return [f"{pad}{name} {flow}{tail}"]
        return [f"{pad}{name}{tail}", *self._collection(value, indent + _STEP, shape, parts)]

    def _item(self, entry: _Entry, indent: int, shape: Shape | None, parts: dict[str, Shape]) -> list[str]:
        pad, value = " " * indent, entry.value
        tail = f"  {entry.tail}" if entry.tail else ""
        if value.scalar:
            lines = self._scalar_lines(f"{pad}-", value, indent)
            return [lines[0] + tail, *lines[1:]]
        flow = self._flow_text(value, shape, parts)
        if flow is not None and len(pad) + 2 + len(flow) <= WIDTH:
            return [f"{pad}- {flow}{tail}"]
        above = [f"{pad}{entry.tail}"] if entry.tail else []
        lines = self._collection(value, indent + _STEP, shape, parts)
        while lines[0].lstrip().startswith("#") or lines[0] == _BLANK:
            # A comment cannot stand between the dash and the first member.
            line = lines.pop(0)
            above.append(line if line == _BLANK else f"{pad}{line.lstrip()}")
        return [*above, f"{pad}- {lines[0][indent + _STEP :]}", *lines[1:]]

    def _flow_text(self, value: _Value, shape: Shape | None, parts: dict[str, Shape]) -> str | None:
        """Write a collection in brackets; None if it has to stand in lines."""
        if not value.flow and value.entries:
            return None
        if value.foot or any(entry.head or entry.tail for entry in value.entries):
            return None
        texts: list[str] = []
        for entry in _ordered(value, shape):
            inner = shape if entry.key is None else _child(shape, entry.key.text, parts)
            text = _quoted(entry.value, flow=True) if entry.value.scalar else self._flow_text(entry.value, inner, parts)
            if text is None:
                return None
            texts.append(text if entry.key is None else f"{_quoted(entry.key, flow=True)}: {text}")
        return f"[{', '.join(texts)}]" if value.is_list else f"{{{', '.join(texts)}}}"

    def _scalar_lines(self, before: str, value: _Value, indent: int) -> list[str]:
        """Write a name and its text, over several lines if its author did."""
        gap = " " if before else ""
        if value.style in {"|", ">"} and (kept := self._block_text(value, indent + _STEP)) is not None:
            return [f"{before}{gap}{kept[0]}", *kept[1:]]
        text = _quoted(value, flow=False)
        return [f"{before}{gap}{text}".rstrip() if not text else f"{before}{gap}{text}"]

    def _block_text(self, value: _Value, indent: int) -> list[str] | None:
        """Take the lines of a text over and indent them anew; None if that could change it."""
        first, last = self._line(value.start), self._line(value.end - 1)
        header = _HEADER.match(self.lines[first][self._column(value.start) :])
        content = self.lines[first + 1 : last + 1]
        filled = [line for line in content if line.strip(" ")]
        if header is None or header[3] or not filled:
            return None
        margin = len(filled[0]) - len(filled[0].lstrip(" "))
        if filled[0].strip(" ").startswith("\t") or any(line[:margin].strip(" ") for line in filled):
            return None
        pad = " " * indent
        lines = [f"{pad}{line[margin:]}" if line[margin:] else "" for line in content]
        return [f"{header[1]}{header[2] or header[4]}", *lines]


def _last(value: _Value) -> int:
    """The offset behind the last text of a value."""
    if value.scalar or value.flow or not value.entries:
        return value.end
    return _last(value.entries[-1].value)


def _member(root: _Value, name: str) -> str | None:
    for entry in root.entries:
        if entry.key is not None and entry.key.text == name and entry.value.scalar:
            return entry.value.text
    return None


def _ordered(value: _Value, shape: Shape | None) -> list[_Entry]:
    """The entries in the order of the shape; unknown ones stay behind them in theirs."""
    if value.is_list or shape is None:
        return value.entries
    order = {name: position for position, name in enumerate(shape.known)}
    return sorted(value.entries, key=lambda entry: order.get(entry.key.text if entry.key else "", len(order)))


def _child(shape: Shape | None, name: str, parts: dict[str, Shape]) -> Shape | None:
    """The shape of a member, or of the items of a list that it holds."""
    schema = shape.members.get(name) if shape is not None else None
    while schema is not None:
        if "$ref" in schema:
            return parts.get(str(schema["$ref"]).rpartition("/")[2])
        items: JsonObject | None = schema.get("items")
        if items is not None and "anyOf" in items:
            return BRANCH
        schema = items
    return None


def _comment_lines(comments: list[str], pad: str) -> list[str]:
    return [comment if comment == _BLANK else f"{pad}{comment}" for comment in comments]


def _squeezed(lines: list[str]) -> list[str]:
    """Leave one blank line where there are more, and none at the start and the end."""
    kept: list[str] = []
    for line in lines:
        if line != _BLANK or (kept and kept[-1] not in {_BLANK, ""}):
            kept.append(line)
    while kept and kept[-1] == _BLANK:
        kept.pop()
    return kept


def _quoted(value: _Value, *, flow: bool) -> str:
    """Write a scalar on one line."""
    text = value.text
    if value.style == "":
        if "\n" not in text:
            return text if text or not flow else "null"
        return _double(text)
    simple = text.isprintable()
    # The quotes that need fewer escapes, double ones if it is all the same.
    if simple and text.count('"') + text.count("\\") > text.count("'"):
        return "'" + text.replace("'", "''") + "'"
    return _double(text)


def _double(text: str) -> str:
    parts: list[str] = []
    for c in text:
        if c in _ESCAPES:
            parts.append(_ESCAPES[c])
        elif c.isprintable():
            parts.append(c)
        else:
            code = ord(c)
            parts.append(f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}")
    return f'"{"".join(parts)}"'
