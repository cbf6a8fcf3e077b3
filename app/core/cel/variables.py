"""`variables.NAME` in an expression: found by token, checked, and put in order.

A variable is declared to the checker under its dotted name and with the type of its expression, so that the places and
types in an error are the author's. It is evaluated when it is first read, so an error in a variable that
short-circuiting skips stays unseen, as in Kubernetes.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from app.core.cel.program import EXPRESSION_MAX_CHARS, NESTING_MAX, ExpressionError, Problem
from app.core.cel.tokens import TokenKind, is_rooted, problem_at, tokens

# Names that no expression has.
_RESERVED = "__mfw_"
# Stands for `variables` where only its presence is tested, and is as long.
PRESENCE = "__mfw_has"
NULL = "null"
# What is put around a `null` to make it one of any type.
ADDED = "dyn()"
# More than anyone reads; each is a compilation of its own when the policy is loaded.
VARIABLES_PER_EXPRESSION_MAX = 64
VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}\Z")
# The engine's binding ends a text at NUL: `true\0 && false` would be `true`. Other control characters only hide what a
# reviewer should see.
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Use:
    """One reading of `variables.NAME`, from `start` to `end` in code points; `presence` where `has` starts, or None."""

    name: str
    start: int
    end: int
    presence: int | None = None


def check_shape(text: str) -> None:
    """Refuse what no engine should be shown: nothing at all, too long, nested too deep, control characters.

    Raises:
        ExpressionError: with the place and the fix.
    """
    if not text.strip():
        raise ExpressionError((Problem(1, 1, "the expression is empty", "write `true` for a rule that always speaks"),))
    if len(text) > EXPRESSION_MAX_CHARS:
        raise ExpressionError(
            (Problem(1, 1, f"the expression has more than {EXPRESSION_MAX_CHARS} characters", "split it into rules"),)
        )
    if (found := _CONTROL.search(text)) is not None:
        code = f"U+{ord(found.group()):04X}"
        raise problem_at(text, found.start(), f"the control character {code} is not allowed", "remove it")
    depth = 0
    for token in tokens(text):
        if token.kind is TokenKind.OPEN:
            depth += 1
            if depth > NESTING_MAX:
                raise problem_at(
                    text, token.start, f"brackets are nested more than {NESTING_MAX} deep", "use `spec.variables`"
                )
        elif token.kind is TokenKind.CLOSE:
            depth -= 1
        elif token.kind is TokenKind.NAME and token.text.startswith(_RESERVED):
            raise problem_at(text, token.start, f"names that start with `{_RESERVED}` are reserved", "rename it")


def uses(text: str, known: Iterable[str], *, presence: bool = False) -> tuple[Use, ...]:
    """Find every reading of `variables.NAME` in an expression.

    Raises:
        ExpressionError: an unknown variable, `has(variables.NAME)` (unless `presence`), or `variables` in any other
            form.
    """
    names = frozenset(known)
    found: list[Use] = []
    stream = list(tokens(text))
    for i, token in enumerate(stream):
        if token.kind is not TokenKind.NAME or token.text != "variables":
            continue
        before = stream[i - 1] if i else None
        if before is not None and (before.kind is TokenKind.DOT or before.text == "?"):
            if is_rooted(stream, i):
                raise problem_at(text, before.start, "`.variables` is not a variable", "leave out the leading dot")
            if before.kind is TokenKind.DOT or (i > 1 and stream[i - 2].kind is TokenKind.DOT):
                continue  # a field of something else: `change.after.variables`, `change.?variables`
        rest = stream[i + 1 : i + 4]
        if len(rest) < 2 or rest[0].kind is not TokenKind.DOT or rest[1].kind is not TokenKind.NAME:
            raise problem_at(
                text, token.start, "`variables` can only be read as `variables.NAME`", "name the variable after a dot"
            )
        name = rest[1].text
        if name not in names:
            raise problem_at(text, rest[1].start, f"no variable `{name}` is declared", _known(name, names))
        called = i > 1 and stream[i - 1].text == "(" and stream[i - 2].text == "has"
        tested = called and len(rest) > 2 and rest[2].text == ")"
        if tested and not presence:
            raise problem_at(
                text,
                stream[i - 2].start,
                f"`has(variables.{name})` is always true",
                "test the field itself, for example `has(change.after.spec)`",
            )
        found.append(Use(name, token.start, rest[1].end, stream[i - 2].start if tested else None))
    return tuple(found)


def order(text: str, variables: Mapping[str, str], *, presence: bool = False) -> tuple[str, ...]:
    """Give the variables that an expression reads, directly or through others, dependencies first.

    Raises:
        ExpressionError: an unknown variable or a circle; `variable` names the one whose text is at fault.
    """
    ordered: list[str] = []
    open_names: list[str] = []

    def visit(use: Use, inside: str) -> None:
        if use.name in open_names:
            circle = " -> ".join([*open_names[open_names.index(use.name) :], use.name])
            raise problem_at(inside, use.start, f"the variables go round in a circle: `{circle}`", "break the circle")
        if use.name in ordered:
            return
        if len(ordered) + len(open_names) >= VARIABLES_PER_EXPRESSION_MAX:
            raise problem_at(
                inside,
                use.start,
                f"the expression needs more than {VARIABLES_PER_EXPRESSION_MAX} variables",
                "split it into rules",
            )
        open_names.append(use.name)
        text_of = variables[use.name]
        try:
            for inner in uses(text_of, variables, presence=presence):
                visit(inner, text_of)
        except ExpressionError as error:
            raise ExpressionError(error.problems, variable=error.variable or use.name) from None
        open_names.pop()
        ordered.append(use.name)

    for use in uses(text, variables, presence=presence):
        visit(use, text)
    return tuple(ordered)


def with_presence(text: str, known: Iterable[str]) -> tuple[str, tuple[str, ...]]:
    """Make of every `has(variables.NAME)` the reading of `PRESENCE.NAME`, at the same place; and give those names.

    The checker would take the test for the variable itself. Kubernetes says true of every variable that has a value.
    """
    names: dict[str, None] = {}
    for use in uses(text, known, presence=True):
        if use.presence is not None:
            names[use.name] = None
            start, rest = use.start, use.start + len(PRESENCE)
            text = f"{text[: use.presence]}   {text[use.presence + 3 : start]}{PRESENCE}{text[rest:]}"
    return text, tuple(names)


def null_of_any_type(text: str) -> tuple[str, tuple[int, ...]]:
    """Make of every `null` one that the checker lets stand beside a value, and give the places where text was added.

    The checker refuses `c ? 'a' : null`, which Kubernetes' own examples have.
    """
    places: list[int] = []
    parts: list[str] = []
    at = 0
    for token in tokens(text):
        if token.kind is TokenKind.NAME and token.text == NULL:
            parts.append(f"{text[at : token.start]}dyn({NULL})")
            places.append(token.start)
            at = token.end
    return "".join([*parts, text[at:]]), tuple(places)


def _known(name: str, names: frozenset[str]) -> str:
    near = get_close_matches(name, sorted(names), n=1)
    if near:
        return f"did you mean `variables.{near[0]}`?"
    if names:
        return "declared are " + ", ".join(f"`{n}`" for n in sorted(names))
    return "declare it in `spec.variables`"
