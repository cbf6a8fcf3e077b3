"""Where a part of an expression stands in its text.

The checker knows one place of a node: of a call its bracket or its operator, of a selection its dot. The part is what
reaches from the first such place in it to the last, completed by the names and brackets that belong to it.
"""

import re
from bisect import bisect_right
from collections.abc import Mapping

from app.core.cel.checked import Node, below
from app.core.cel.tokens import Token, TokenKind, tokens

# A line break and what indents the next line; blanks elsewhere may be part of a text.
_BREAK = re.compile(r"\s*[\r\n]\s*")
_CHAINED = frozenset({TokenKind.NAME, TokenKind.QUOTED})


class Spans:
    """The places of the parts of one expression."""

    def __init__(self, text: str, positions: Mapping[int, int]) -> None:
        self._text = text
        self._positions = positions
        self._tokens = list(tokens(text))
        self._starts = [token.start for token in self._tokens]

    def of(self, node: Node) -> tuple[int, int]:
        """Give start and end of a part, in code points."""
        places = self._places(node)
        if not places or not self._tokens:
            return 0, len(self._text)
        first, last = self._at(min(places)), self._at(max(places))
        first = self._named(first)
        last = self._selected(last)
        lowest = depth = 0
        for token in self._tokens[first : last + 1]:
            depth += _turn(token)
            lowest = min(lowest, depth)
        while lowest < 0 and first > 0:
            first -= 1
            lowest += _turn(self._tokens[first])
            depth += _turn(self._tokens[first])
        while depth > 0 and last + 1 < len(self._tokens):
            last += 1
            depth += _turn(self._tokens[last])
        return self._tokens[first].start, self._tokens[last].end

    def _places(self, node: Node) -> set[int]:
        found: set[int] = set()
        todo = [node]
        while todo:
            one = todo.pop()
            if (place := self._positions.get(one.id)) is not None:
                found.add(place)
            todo += below(one)
        return found

    def _at(self, place: int) -> int:
        return max(bisect_right(self._starts, place) - 1, 0)

    def _named(self, first: int) -> int:
        """A call starts with its name, which stands before the bracket, and a dotted name with its first part."""
        called = self._tokens[first].text == "(" and first > 0 and self._tokens[first - 1].kind is TokenKind.NAME
        if called or self._dotted(first):
            first -= 1
            while first > 1 and self._dotted(first - 1):
                first -= 2
        return first

    def _kind(self, at: int) -> TokenKind | None:
        return self._tokens[at].kind if at < len(self._tokens) else None

    def _dotted(self, at: int) -> bool:
        return at > 0 and self._tokens[at].kind is TokenKind.DOT and self._tokens[at - 1].kind is TokenKind.NAME

    def _selected(self, last: int) -> int:
        """A selection ends with the name of its field, and a negative number is one constant."""
        if self._tokens[last].text == "-" and self._kind(last + 1) is TokenKind.NUMBER:
            return last + 1
        if self._tokens[last].kind is not TokenKind.DOT:
            return last
        while last + 1 < len(self._tokens) and self._tokens[last].kind not in _CHAINED:
            last += 1
        return last


def _turn(token: Token) -> int:
    return (token.kind is TokenKind.OPEN) - (token.kind is TokenKind.CLOSE)


def unfolded(text: str) -> str:
    """Put a part of an expression on one line."""
    return _BREAK.sub(" ", text)
