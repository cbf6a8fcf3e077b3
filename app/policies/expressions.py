"""What can be told of an expression from its tokens alone: what it reads, whether it is a constant."""

from collections.abc import Mapping
from datetime import UTC, datetime

from app.core.cel import (
    ADMISSION_SCOPE,
    INPUT_NAMES,
    SCOPE,
    EvaluationError,
    ExpressionError,
    Program,
    ResultType,
    Scope,
    bind,
    compile_expression,
)
from app.core.cel.tokens import TokenKind, is_member, tokens
from app.core.types import JsonObject

# Constants are evaluated at an instant that no result can depend on: nothing in them reads `now`.
_ANY_INSTANT = datetime(2000, 1, 1, tzinfo=UTC)
_NO_INPUTS: JsonObject = {name: {} for name in INPUT_NAMES}


def signature(text: str) -> tuple[str, ...]:
    """Name an expression by its tokens: blanks, line breaks and comments do not count."""
    return tuple(token.text for token in tokens(text))


def variables_read(text: str) -> frozenset[str]:
    """Give the names of the variables that an expression reads itself."""
    stream = list(tokens(text))
    return frozenset(
        stream[i + 2].text
        for i, token in enumerate(stream[:-2])
        if token.text == "variables"
        and not is_member(stream, i)
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


# What expressions of any kind can read; in doubt a name is one of these.
_READABLE = frozenset((*SCOPE, *ADMISSION_SCOPE, "authorizer"))


def reads_nothing(text: str, variables: Mapping[str, str]) -> bool:
    """Tell whether no input can change what an expression gives. False in doubt."""
    texts = [text, *(variables[name] for name in all_variables_read(text, variables))]
    return not any(
        token.kind is TokenKind.NAME and token.text in _READABLE and not is_member(stream, i)
        for stream in (list(tokens(one)) for one in texts)
        for i, token in enumerate(stream)
    )


def constant(text: str, variables: Mapping[str, str], *, scope: Scope = Scope.MUTATION) -> bool | None:
    """Give the truth of a condition that reads nothing; None for one that does, or that fails."""
    if not reads_nothing(text, variables):
        return None
    try:
        program: Program = compile_expression(text, result=ResultType.BOOL, variables=dict(variables), scope=scope)
        return bool(program.evaluate(bind(_NO_INPUTS, now=_ANY_INSTANT)))
    except (ExpressionError, EvaluationError):
        return None
