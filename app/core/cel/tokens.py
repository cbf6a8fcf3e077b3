"""The tokens of CEL, as far as `variables.NAME` must be told from strings, comments and fields of that name.

CEL's lexis is in the language definition, section "Syntax": raw strings take no escapes, triple quoted strings may span
lines, `//` starts a comment, and a field name may stand in backticks.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple

from app.core.cel.program import ExpressionError, Problem

_TOKEN = re.compile(
    r"""
    (?P<space>\s+|//[^\n\r]*)
  | (?P<string>
        (?:[bB]?[rR]|[rR][bB])(?:\"{3}.*?\"{3}|'{3}.*?'{3}|"[^"\n\r]*"|'[^'\n\r]*')
      | [bB]?(?:\"{3}(?:\\.|[^\\])*?\"{3}|'{3}(?:\\.|[^\\])*?'{3}|"(?:\\.|[^"\\\n\r])*"|'(?:\\.|[^'\\\n\r])*'))
  | (?P<quoted>`[^`\n\r]*`)
  | (?P<name>[A-Za-z_][A-Za-z0-9_]*)
  | (?P<number>0[xX][0-9a-fA-F]+[uU]?|(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?[uU]?)
  | (?P<open>[(\[{])
  | (?P<close>[)\]}])
  | (?P<dot>\.)
  | (?P<sign>.)
    """,
    re.VERBOSE | re.DOTALL,
)

# CEL's reserved words and literals (language definition, section "Syntax"): `variables.in` could never be read.
# fmt: off
RESERVED_WORDS = frozenset({
    "as", "break", "const", "continue", "else", "false", "for", "function", "if", "import", "in", "let", "loop",
    "namespace", "null", "package", "return", "true", "var", "void", "while",
})
# fmt: on


class TokenKind(StrEnum):
    """The kinds that the search for variables tells apart."""

    STRING = "string"
    QUOTED = "quoted"
    NAME = "name"
    NUMBER = "number"
    OPEN = "open"
    CLOSE = "close"
    DOT = "dot"
    SIGN = "sign"


_KINDS: Mapping[str | None, TokenKind] = {kind.value: kind for kind in TokenKind}


class Token(NamedTuple):
    """One token and where it stands: `start` and `end` are offsets in code points."""

    kind: TokenKind
    text: str
    start: int
    end: int


def tokens(text: str) -> Iterator[Token]:
    """Give the tokens of an expression in order, without blanks and comments.

    Does not check that they form an expression: what the engine's own lexer would refuse comes out as signs.
    """
    return iter(_tokens(text))


@lru_cache(maxsize=256)  # whoever loads a policy asks several times, for its variables above all
def _tokens(text: str) -> tuple[Token, ...]:
    return tuple(
        Token(_KINDS[kind], match.group(), match.start(), match.end())
        for match in _TOKEN.finditer(text)
        if (kind := match.lastgroup) in _KINDS
    )


def is_member(stream: Sequence[Token], i: int) -> bool:
    """Tell whether a name is a field of something, or the key of a field selection by `.?`."""
    before = stream[i - 1] if i else None
    if before is None:
        return False
    return before.kind is TokenKind.DOT or (before.text == "?" and i > 1 and stream[i - 2].kind is TokenKind.DOT)


def is_rooted(stream: Sequence[Token], i: int) -> bool:
    """Tell whether a name has a leading dot, which makes it a name of the outermost scope."""
    if not i or stream[i - 1].kind is not TokenKind.DOT:
        return False
    return i == 1 or not _ends_an_operand(stream[i - 2])


def _ends_an_operand(token: Token) -> bool:
    match token.kind:
        case TokenKind.NAME:
            return token.text not in RESERVED_WORDS - {"true", "false", "null"}
        case TokenKind.CLOSE | TokenKind.STRING | TokenKind.NUMBER | TokenKind.QUOTED:
            return True
        case TokenKind.OPEN | TokenKind.DOT | TokenKind.SIGN:
            return False


def position(text: str, offset: int) -> tuple[int, int]:
    """Give line and column, both from 1, of an offset in code points."""
    before = text[:offset]
    return before.count("\n") + 1, offset - (before.rfind("\n") + 1) + 1


def problem_at(text: str, offset: int, message: str, fix: str | None = None) -> ExpressionError:
    """Make the error for one place in an expression."""
    line, column = position(text, offset)
    return ExpressionError((Problem(line, column, message, fix),))
