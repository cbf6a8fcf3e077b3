"""What can be told of an expression from its tokens alone: its conjuncts, what it reads, whether it is a constant."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from app.core.cel import (
    INPUT_NAMES,
    SCOPE,
    EvaluationError,
    ExpressionError,
    Program,
    ResultType,
    bind,
    compile_expression,
)
from app.core.cel.tokens import Token, TokenKind, tokens
from app.core.types import JsonObject

# Constants are evaluated at an instant that no result can depend on: nothing in them reads `now`.
_ANY_INSTANT = datetime(2000, 1, 1, tzinfo=UTC)
_NO_INPUTS: JsonObject = {name: {} for name in INPUT_NAMES}


@dataclass(frozen=True, slots=True)
class Path:
    """A member of the input that an expression reads: `change.after.spec` is ("change", "after", "spec")."""

    segments: tuple[str | int, ...]

    def __str__(self) -> str:
        """As CEL writes it."""
        text = str(self.segments[0])
        for segment in self.segments[1:]:
            if isinstance(segment, int):
                text += f"[{segment}]"
            else:
                text += f".{segment}" if segment.isidentifier() else f"[{segment!r}]"
        return text

    def value(self, inputs: JsonObject) -> tuple[bool, Any]:
        """Whether it is there, and what."""
        found: Any = inputs
        for segment in self.segments:
            match found:
                case dict() if segment in found:
                    found = found[segment]
                case list() if isinstance(segment, int) and segment < len(found):
                    found = found[segment]
                case _:
                    return False, None
        return True, found


@dataclass(frozen=True, slots=True)
class Conjunct:
    """One of the parts that must all be true; `start` is its offset in the expression, in code points."""

    text: str
    start: int


def signature(text: str) -> tuple[str, ...]:
    """Name an expression by its tokens: blanks, line breaks and comments do not count."""
    return tuple(token.text for token in tokens(text))


def conjuncts(text: str) -> tuple[Conjunct, ...]:
    """Split an expression at the `&&` that hold it together; brackets around it, or around a part, are looked into."""
    return tuple(_conjuncts(list(tokens(text)), text))


def _conjuncts(stream: list[Token], text: str) -> Iterator[Conjunct]:
    while _bracketed(stream):
        stream = stream[1:-1]
    if not stream:
        return
    depth = 0
    parts: list[list[Token]] = [[]]
    for i, token in enumerate(stream):
        before = stream[i - 1] if i else None
        if token.kind is TokenKind.OPEN:
            depth += 1
        elif token.kind is TokenKind.CLOSE:
            depth -= 1
        elif depth == 0 and token.kind is TokenKind.SIGN:
            optional = before is not None and before.kind is TokenKind.DOT
            if token.text == "|" or (token.text == "?" and not optional):
                parts = [stream]  # a disjunction or a choice: one part
                break
            if token.text == "&":
                if before is not None and before.text == "&" and before.end == token.start:
                    parts.append([])
                continue
        parts[-1].append(token)
    if len(parts) == 1:
        yield Conjunct(text[stream[0].start : stream[-1].end], stream[0].start)
        return
    for part in parts:
        yield from _conjuncts(part, text)


def _bracketed(stream: list[Token]) -> bool:
    """Whether the first bracket is closed by the last token."""
    if len(stream) < 2 or stream[0].text != "(" or stream[-1].text != ")":
        return False
    depth = 0
    for token in stream[:-1]:
        depth += (token.kind is TokenKind.OPEN) - (token.kind is TokenKind.CLOSE)
        if depth == 0:
            return False
    return True


def variables_read(text: str) -> frozenset[str]:
    """Give the names of the variables that an expression reads itself."""
    stream = list(tokens(text))
    return frozenset(
        stream[i + 2].text
        for i, token in enumerate(stream[:-2])
        if token.text == "variables"
        and not _is_member(stream, i)
        and stream[i + 1].kind is TokenKind.DOT
        and stream[i + 2].kind is TokenKind.NAME
    )


def all_variables_read(text: str, variables: Mapping[str, str]) -> frozenset[str]:
    """Give the names of the declared variables that an expression reads, itself or through others."""
    found: set[str] = set()
    open_texts = [text]
    while open_texts:
        for name in variables_read(open_texts.pop()):
            if name in variables and name not in found:
                found.add(name)
                open_texts.append(variables[name])
    return frozenset(found)


def reads_nothing(text: str, variables: Mapping[str, str]) -> bool:
    """Tell whether no input can change what an expression gives. False in doubt."""
    texts = [text, *(variables[name] for name in all_variables_read(text, variables))]
    return not any(
        token.kind is TokenKind.NAME and token.text in SCOPE and not _is_member(stream, i)
        for stream in (list(tokens(one)) for one in texts)
        for i, token in enumerate(stream)
    )


def constant(text: str, variables: Mapping[str, str]) -> bool | None:
    """Give the truth of a condition that reads nothing; None for one that does, or that fails."""
    if not reads_nothing(text, variables):
        return None
    try:
        program: Program = compile_expression(text, result=ResultType.BOOL, variables=dict(variables))
        return bool(program.evaluate(bind(_NO_INPUTS, now=_ANY_INSTANT)))
    except (ExpressionError, EvaluationError):
        return None


def paths(text: str) -> tuple[Path, ...]:
    """Give the members of the input that an expression names, each once, in the order of their first reading."""
    stream = list(tokens(text))
    found: dict[Path, None] = {}
    for i, token in enumerate(stream):
        if token.kind is TokenKind.NAME and token.text in INPUT_NAMES and not _is_member(stream, i):
            found[Path((token.text, *_segments(stream, i + 1)))] = None
    return tuple(found)


def _segments(stream: list[Token], i: int) -> Iterator[str | int]:
    """The members named after position `i`, as far as they are written out; a method is not one."""
    while i < len(stream):
        skip = 1 + (i + 1 < len(stream) and stream[i + 1].text == "?")
        named = stream[i + skip] if i + skip < len(stream) else None
        if named is None:
            return
        after = stream[i + skip + 1] if i + skip + 1 < len(stream) else None
        if stream[i].kind is TokenKind.DOT and named.kind in {TokenKind.NAME, TokenKind.QUOTED}:
            if after is not None and after.text == "(":
                return
            yield named.text.strip("`")
            i += skip + 1
        elif stream[i].text == "[" and after is not None and after.text == "]":
            literal = literal_of(named)
            if literal is None:
                return
            yield literal
            i += skip + 2
        else:
            return


def literal_of(token: Token) -> str | int | None:
    """Read a plain string or whole number; None for everything else, escapes among it."""
    if token.kind is TokenKind.NUMBER and token.text.isdigit():
        return int(token.text) if len(token.text) <= 18 else None
    text = token.text
    if token.kind is TokenKind.STRING and text[0] in "'\"" and "\\" not in text and text[:3] not in {"'''", '"""'}:
        return text[1:-1]
    return None


def _is_member(stream: list[Token], i: int) -> bool:
    """Whether a name is a field of something, or the key of a field selection by `.?`."""
    before = stream[i - 1] if i else None
    if before is None:
        return False
    return before.kind is TokenKind.DOT or (before.text == "?" and i > 1 and stream[i - 2].kind is TokenKind.DOT)
