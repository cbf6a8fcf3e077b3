"""Globs for matching names: `*` is any run of characters, `?` any one character, everything else itself."""

import re
from dataclasses import dataclass

# Longer patterns are lists in disguise, and every star costs a search through the name.
GLOB_MAX_CHARS = 256
GLOB_MAX_STARS = 8


@dataclass(frozen=True, slots=True)
class Glob:
    """A pattern compiled once; `literal` is its text when it has no wildcard, and None when it has one."""

    text: str
    literal: str | None
    head: re.Pattern[str]
    middle: tuple[re.Pattern[str], ...]
    tail: re.Pattern[str]
    tail_length: int

    def matches(self, name: str) -> bool:
        """Tell whether the whole name fits, case-sensitively.

        Each piece between two stars is taken at its first place after the piece before: no backtracking, so the time
        grows with the length of the name times that of the pattern, whatever both are.
        """
        if self.literal is not None:
            return name == self.literal
        start = self.head.match(name)
        if start is None:
            return False
        at = start.end()
        end = len(name) - self.tail_length
        for piece in self.middle:
            found = piece.search(name, at, end) if at <= end else None
            if found is None:
                return False
            at = found.end()
        return at <= end and self.tail.match(name, end) is not None


def compile_glob(text: str) -> Glob:
    """Compile a pattern.

    Raises:
        ValueError: it is empty, too long, has too many stars, or `**`; the text is lower case and names the fix.
    """
    if not text:
        raise ValueError("an empty pattern matches nothing; leave the member out to match everything")
    if len(text) > GLOB_MAX_CHARS:
        raise ValueError(f"a pattern has at most {GLOB_MAX_CHARS} characters; use a condition instead")
    if "**" in text:
        raise ValueError("`**` means no more than `*`, which crosses `/` already; write `*`")
    if text.count("*") > GLOB_MAX_STARS:
        raise ValueError(f"a pattern has at most {GLOB_MAX_STARS} stars; use a condition instead")
    pieces = text.split("*")
    wild = len(pieces) > 1 or "?" in text
    # Without a star the head is the whole pattern and the tail empty: both together must use up the name.
    head, middle, tail = pieces[0], pieces[1:-1], pieces[-1] if len(pieces) > 1 else None
    return Glob(
        text=text,
        literal=None if wild else text,
        head=_piece(head) if tail is not None else re.compile(f"(?:{_piece(head).pattern})\\Z", re.DOTALL),
        middle=tuple(_piece(piece) for piece in middle),
        tail=_piece(tail or ""),
        tail_length=len(tail or ""),
    )


def _piece(text: str) -> re.Pattern[str]:
    return re.compile("".join("." if c == "?" else re.escape(c) for c in text), re.DOTALL)
