"""Words of a shell: what each stands for, where that can be said without running anything.

POSIX.1-2024, Shell Command Language, sections 2.2 (quoting) and 2.6 (word expansions), and what bash adds.
"""

import re
from typing import Final, NamedTuple

from tree_sitter import Node


class Word(NamedTuple):
    """One word: its value where `static`, else as it is written. A pattern stands for files, known or not."""

    text: str
    static: bool = True
    pattern: bool = False

    @property
    def plain(self) -> bool:
        """Whether this is one word with this very text."""
        return self.static and not self.pattern


def set_of(text: str) -> frozenset[str]:
    """The words of a list, which reads better as one text."""
    return frozenset(text.split())


class UnreadableError(Exception):
    """The text has something whose meaning is not known here; the reason is its only argument."""


# Of one node the value as it is, or None where it is known only to who runs it.
_Piece = tuple[str | None, bool]

_EXPANSIONS: Final = frozenset(
    {
        "simple_expansion",
        "expansion",
        "command_substitution",
        "process_substitution",
        "arithmetic_expansion",
        "translated_string",
        "brace_expression",
        "extglob_pattern",
    }
)
_BACKSLASH: Final = re.compile(r"\\(\n|.)", re.DOTALL)
_IN_QUOTES: Final = re.compile(r'\\([$`"\\\n])')
_PATTERN: Final = re.compile(r"(?<!\\)(?:\\\\)*[*?\[]")
# `~+`, `~-`, `~2`: folders that the shell remembers.
_REMEMBERED: Final = re.compile(r"~[-+0-9]")
_BRACES: Final = re.compile(r"\{[^{}]*(?:,|\.\.)")
_ANSI: Final = {"n": "\n", "t": "\t", "\\": "\\", "'": "'", '"': '"', "a": "\a", "b": "\b", "e": "\x1b", "r": "\r"}
_ANSI_ESCAPE: Final = re.compile(r"\\(.)", re.DOTALL)


def word_of(node: Node) -> Word:
    """Give what a node stands for as a word. Raises UnreadableError."""
    source = _text(node)
    pieces = list(_pieces(node))
    if any(value is None for value, _ in pieces):
        return Word(source, static=False)
    if _BRACES.search("".join(value for value, quoted in pieces if value and not quoted)):
        return Word(source, static=False)  # several words, made of one
    if _REMEMBERED.match(source):
        return Word(source, static=False)
    value = "".join(value for value, _ in pieces if value is not None)
    pattern = any(not quoted and value and _PATTERN.search(value) for value, quoted in pieces)
    return Word(_without_backslashes(pieces), pattern=pattern) if not pattern else Word(value, pattern=True)


def _without_backslashes(pieces: list[_Piece]) -> str:
    return "".join(
        value if quoted else _BACKSLASH.sub(lambda found: "" if found[1] == "\n" else found[1], value)
        for value, quoted in pieces
        if value is not None
    )


def _pieces(node: Node) -> list[_Piece]:
    kind = node.type
    text = _text(node)
    if kind in {"word", "number", "variable_name", "file_descriptor"}:
        if any(child.type in _EXPANSIONS for child in node.named_children):
            return [(None, False)]
        if "`" in text or ("$" in text.rstrip("$")):
            return [(None, False)]
        return [(text, False)]
    if kind == "raw_string":
        return [(text[1:-1], True)]
    if kind == "string":
        return [(_quoted(node, text), True)]
    if kind == "ansi_c_string":
        return [(_ansi(text[2:-1]), True)]
    if kind in _EXPANSIONS:
        return [(None, False)]
    if kind in {"concatenation", "command_name"}:
        at = node.start_byte
        found: list[_Piece] = []
        for child in node.children:
            if child.start_byte != at:
                raise UnreadableError("a word with a gap in it")
            at = child.end_byte
            found.extend(_pieces(child) if child.is_named else [(_text(child), False)])
        if at != node.end_byte:
            raise UnreadableError("a word with a gap in it")
        return found
    raise UnreadableError(f"`{kind}` in a word")


def _quoted(node: Node, text: str) -> str | None:
    """What is between double quotes; None where something in it is expanded."""
    if any(child.type in _EXPANSIONS for child in node.named_children):
        return None
    inner = text[1:-1]
    # A dollar sign or a backquote that is not escaped, and that the parser took for text.
    bare = _IN_QUOTES.sub("", inner)
    if "`" in bare or re.search(r"\$[A-Za-z0-9_({!?#@*$'\"-]", bare):
        return None
    return _IN_QUOTES.sub(lambda found: "" if found[1] == "\n" else found[1], inner)


def _ansi(inner: str) -> str | None:
    """`$'...'`; None for escapes that are seldom written, and can write anything."""
    if any(found[1] not in _ANSI for found in _ANSI_ESCAPE.finditer(inner)):
        return None
    return _ANSI_ESCAPE.sub(lambda found: _ANSI[found[1]], inner)


def _text(node: Node) -> str:
    return (node.text or b"").decode()
