"""Reading a document member by member: each finding is noted with its place and reading goes on."""

from collections.abc import Callable, Collection, Iterator
from difflib import get_close_matches

from app.core.cel import ExpressionError
from app.policies.diagnostics import Diagnostic, Severity
from app.policies.shape import ITEMS_MAX
from app.policies.tree import Mapping, Node, Scalar, Sequence, Style

# A finding quotes enough to recognise a member, not a file that was pasted into one.
_SHOWN_MAX_CHARS = 80
# Whoever pastes another document in needs to be told once, and a guess at what was meant takes time.
_UNKNOWN_MAX = 20
_JSON_NAMES = {str: "text", bool: "true or false", int: "a whole number", float: "a number", type(None): "nothing"}


class Reader:
    """The findings of one file. Methods give None for what is not there or not right; the finding is then noted.

    `also` is what expressions of the file can read beside the usual names.
    """

    __slots__ = ("also", "diagnostics", "file", "lines")

    def __init__(self, file: str, *, text: str, also: frozenset[str] = frozenset()) -> None:
        self.file = file
        self.also = also
        self.lines = text.split("\n")
        self.diagnostics: list[Diagnostic] = []

    def note(
        self,
        node: Node,
        path: str,
        message: str,
        *,
        fix: str | None = None,
        severity: Severity = Severity.ERROR,
    ) -> None:
        """Note one finding at a node."""
        self.diagnostics.append(Diagnostic(self.file, node.line, node.column, path, message, fix, severity))

    def mapping(
        self, node: Node, path: str, *, known: Collection[str], required: Collection[str] = ()
    ) -> dict[str, Node]:
        """Give the members of an object; unknown and missing ones are noted."""
        if not isinstance(node, Mapping):
            self.note(node, path, f"must be an object, not {_kind(node)}")
            return {}
        unknown = [name for name in node.keys if name not in known]
        if len(unknown) > _UNKNOWN_MAX:
            self.note(node, path, f"has {len(unknown)} unknown members", fix="is this another document?")
        else:
            for name in unknown:
                key = node.keys[name]
                shown = name[:_SHOWN_MAX_CHARS]
                near = get_close_matches(shown, known, n=1)
                fix = f"did you mean `{near[0]}`?" if near else "known are " + ", ".join(f"`{k}`" for k in known)
                self.note(key, join(path, shown), f"unknown member `{shown}`", fix=fix)
        for name in required:
            if name not in node.items:
                self.note(node, path, f"`{name}` is missing", fix=f"add `{name}`")
        return {name: item for name, item in node.items.items() if name in known}

    def items(self, node: Node | None, path: str) -> Iterator[tuple[Node, str]]:
        """Give the items of a list with their paths; an empty list is noted, for it could mean all or nothing.

        Of a list that is too long nothing is given.
        """
        if node is None:
            return
        if not isinstance(node, Sequence):
            self.note(node, path, f"must be a list, not {_kind(node)}", fix="write `- ` before each item")
            return
        if not node.items:
            self.note(node, path, "the list is empty", fix="leave the member out, or fill it")
        if len(node.items) > ITEMS_MAX:
            message = f"the list has {len(node.items)} items, and {ITEMS_MAX} are the most"
            self.note(node, path, message, fix="make several policies of it")
            return
        for position, item in enumerate(node.items):
            yield item, f"{path}[{position}]"

    def text(self, node: Node | None, path: str, *, max_chars: int) -> str | None:
        """Give a non-empty text."""
        if node is None:
            return None
        if not isinstance(node, Scalar) or not isinstance(node.value, str):
            self.note(node, path, f"must be text, not {_kind(node)}", fix="quote it")
            return None
        if not node.value.strip():
            self.note(node, path, "is empty")
            return None
        if len(node.value) > max_chars:
            self.note(node, path, f"has more than {max_chars} characters")
            return None
        return node.value

    def checked(self, node: Node | None, path: str, check: Callable[[str], None], *, max_chars: int) -> str | None:
        """Give a text that `check` accepts; it raises `ValueError` with what is wrong, then "; ", then the fix."""
        value = self.text(node, path, max_chars=max_chars)
        if node is None or value is None:
            return None
        try:
            check(value)
        except ValueError as error:
            message, _, fix = str(error).partition("; ")
            self.note(node, path, message, fix=fix or None)
            return None
        return value

    def choice(self, node: Node | None, path: str, choices: Collection[str]) -> str | None:
        """Give a text that is one of a few."""
        if node is None:
            return None
        if isinstance(node, Scalar) and isinstance(node.value, str) and node.value in choices:
            return node.value
        shown = str(node.value)[:_SHOWN_MAX_CHARS] if isinstance(node, Scalar) else ""
        given = f"`{shown}`" if isinstance(node, Scalar) else _kind(node)
        near = get_close_matches(shown, choices, n=1)
        fix = f"did you mean `{near[0]}`?" if near else None
        self.note(node, path, f"must be one of {', '.join(f'`{c}`' for c in choices)}, not {given}", fix=fix)
        return None

    def whole(self, node: Node | None, path: str, *, minimum: int, maximum: int) -> int | None:
        """Give a whole number within bounds."""
        if node is None:
            return None
        if isinstance(node, Scalar) and isinstance(node.value, int) and not isinstance(node.value, bool):
            if minimum <= node.value <= maximum:
                return node.value
            self.note(node, path, f"must be from {minimum} to {maximum}, not {node.value}")
        else:
            self.note(node, path, f"must be a whole number, not {_kind(node)}")
        return None

    def note_expression(self, node: Node, path: str, error: ExpressionError) -> None:
        """Note what is wrong with an expression, at its place in the text that `node` is."""
        assert isinstance(node, Scalar)  # noqa: S101 - `text` has seen it
        for problem in error.problems:
            place = self.place_in(node, line=problem.line, column=problem.column)
            line, column = place or (node.line, node.column)
            where = "" if place else f" (line {problem.line}, column {problem.column} of the expression)"
            self.diagnostics.append(Diagnostic(self.file, line, column, path, problem.message + where, fix=problem.fix))

    def place_in(self, node: Scalar, *, line: int, column: int) -> tuple[int, int] | None:
        """Find a place inside a text (both from 1) in the file, where the writing of the text allows it, else None."""
        value = str(node.value).split("\n")
        wanted = value[line - 1] if line <= len(value) else ""
        if node.style == Style.LITERAL:
            found = self._line(node.line + line)
            if wanted and found.rstrip("\r").endswith(wanted):
                return node.line + line, len(found.rstrip("\r")) - len(wanted) + column
        elif node.style in {Style.PLAIN, Style.SINGLE, Style.DOUBLE} and line == 1:
            start = node.column - 1 + (node.style != Style.PLAIN)
            # As long as nothing before it was escaped or folded, the text stands in the file as it is.
            if self._line(node.line)[start:].startswith(wanted[: column - 1]):
                return node.line, start + column
        elif node.style == Style.FOLDED:
            return self._folded(node, sum(len(before) + 1 for before in value[: line - 1]) + column - 1)
        return None

    def _folded(self, node: Scalar, offset: int) -> tuple[int, int] | None:
        """Find an offset in a folded text: each of its lines stands in the file behind what indents it."""
        value = str(node.value)
        at, number = 0, node.line
        while at < len(value):
            number += 1
            line = self._line(number).rstrip("\r")
            text = line.strip()
            if not text and number <= len(self.lines):
                continue
            while at < len(value) and value[at] in " \n" and not value.startswith(text, at):
                at += 1
            if not text or not value.startswith(text, at):
                return None
            if offset < at + len(text):
                return number, line.index(text) + offset - at + 1
            at += len(text)
        return None

    def _line(self, number: int) -> str:
        return self.lines[number - 1] if 0 < number <= len(self.lines) else ""


def join(path: str, name: str) -> str:
    """Write the path of a member."""
    return f"{path}.{name}" if path else name


def _kind(node: Node) -> str:
    if isinstance(node, Mapping):
        return "an object"
    if isinstance(node, Sequence):
        return "a list"
    return _JSON_NAMES[type(node.value)]
