"""Lints: what loads and is hardly meant. Every finding is a warning, and none is given in doubt.

They look at the documents of a set after it was read; the loader itself does not need them.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from app.core.cel.tokens import Token, TokenKind, tokens
from app.core.glob import Glob
from app.core.index import EntityPattern, Policy, Rule
from app.core.types import Effect
from app.policies.diagnostics import Diagnostic, Severity
from app.policies.expressions import (
    all_variables_read,
    conjuncts,
    constant,
    literal_of,
    signature,
)
from app.policies.load import Document
from app.policies.reader import Reader
from app.policies.tree import Mapping as Object
from app.policies.tree import Node, Scalar, Sequence


class Lint(StrEnum):
    """The codes of the lints, for `Diagnostic.code`."""

    DEAD_RULE = "dead-rule"
    DEAD_POLICY = "dead-policy"
    SHADOWED_RULE = "shadowed-rule"
    DUPLICATE_RULE = "duplicate-rule"
    DUPLICATE_POLICY = "duplicate-policy"
    CONSTANT_CONDITION = "constant-condition"
    UNUSED_VARIABLE = "unused-variable"
    REDUNDANT_PATTERN = "redundant-pattern"


MEANINGS: Mapping[str, str] = {
    Lint.DEAD_RULE: "the rule can never speak",
    Lint.DEAD_POLICY: "the policy can never speak",
    Lint.SHADOWED_RULE: "a stronger rule of the same policy always speaks, so this one decides nothing",
    Lint.DUPLICATE_RULE: "two rules of a policy say the same",
    Lint.DUPLICATE_POLICY: "two policies of the set say the same",
    Lint.CONSTANT_CONDITION: "the condition is always true and restricts nothing",
    Lint.UNUSED_VARIABLE: "nothing reads the variable",
    Lint.REDUNDANT_PATTERN: "another pattern of the list matches all that this one matches",
}

_STRENGTH = {Effect.ALLOW: 0, Effect.HOLD: 1, Effect.DENY: 2}
# What `match` and a conjunct can both speak about.
_NAMES = {
    ("resource", "type"),
    ("resource", "id"),
    ("subject", "type"),
    ("subject", "id"),
    ("action", "name"),
}


def lint(documents: Iterable[Document], *, sources: Mapping[str, str]) -> tuple[Diagnostic, ...]:
    """Give the warnings about every document that could be read; `sources` as in `Checked`."""
    found: list[Diagnostic] = []
    specs: dict[str, Document] = {}
    for document in documents:
        if document.policy is None or not isinstance(document.root, Object):
            continue
        reader = Reader(document.file, text=sources.get(document.file, ""))
        _Linter(document.policy, document.root.items["spec"], reader).run()
        found += reader.diagnostics
        key = repr(document.root.items["spec"].plain())
        if (first := specs.setdefault(key, document)) is not document and first.policy is not None:
            place = document.root.items["metadata"]
            message = f"the policy says the same as `{first.policy.name}` in `{first.file}`"
            found.append(
                Diagnostic(
                    document.file,
                    place.line,
                    place.column,
                    "metadata.name",
                    message,
                    "remove one",
                    Severity.WARNING,
                    Lint.DUPLICATE_POLICY,
                )
            )
    return tuple(found)


@dataclass(frozen=True, slots=True)
class _Text:
    """An expression and its place."""

    text: str
    node: Node
    path: str


class _Linter:
    """The lints of one policy."""

    def __init__(self, policy: Policy, spec: Node, reader: Reader) -> None:
        self.policy = policy
        self.spec = spec
        self.reader = reader
        self.variables = {
            _string(item, "name"): _text(item, "expression", path) for item, path in _items(spec, "variables")
        }
        self.texts = {name: one.text for name, one in self.variables.items() if one is not None}
        self.conditions = [
            text for item, path in _items(spec, "matchConditions") if (text := _text(item, "expression", path))
        ]
        self.rules = list(zip(policy.rules, (*_items(spec, "rules"), *_items(spec, "freezes")), strict=True))

    def run(self) -> None:
        """Note everything."""
        self._patterns()
        self._unused()
        if not self._dead_policy():
            self._dead_rules()
        self._shadowed()
        self._duplicates()

    def _note(self, node: Node, path: str, message: str, *, code: Lint, fix: str) -> None:
        self.reader.diagnostics.append(
            Diagnostic(self.reader.file, node.line, node.column, path, message, fix, Severity.WARNING, code)
        )

    def _unused(self) -> None:
        read: set[str] = set()
        everything = [one.text for one in self.conditions]
        for rule, (item, path) in self.rules:
            everything += [duty.expression.text for duty in rule.duties if duty.expression is not None]
            everything += [t.text for name in ("when", "messageExpression") if (t := _text(item, name, path))]
        for item, path in _items(self.spec, "budgets"):
            everything += [t.text for name in ("key", "when", "distinct") if (t := _text(item, name, path))]
        for text in everything:
            read |= all_variables_read(text, self.texts)
        for name, one in self.variables.items():
            if one is not None and name not in read:
                self._note(
                    one.node,
                    one.path,
                    f"nothing reads the variable `{name}`",
                    code=Lint.UNUSED_VARIABLE,
                    fix="remove it",
                )

    def _dead_policy(self) -> bool:
        for one in self.conditions:
            truth = constant(one.text, self.texts)
            if truth is True:
                self._note(
                    one.node,
                    one.path,
                    "the condition is always true",
                    code=Lint.CONSTANT_CONDITION,
                    fix="remove it, or make it say something",
                )
        why = self._impossible(self.conditions)
        if why is None:
            return False
        place, reason = why
        self._note(
            place.node,
            place.path,
            f"the policy can never speak: {reason}",
            code=Lint.DEAD_POLICY,
            fix="change the condition or the match, or remove the policy",
        )
        return True

    def _dead_rules(self) -> None:
        for rule, (item, path) in self.rules:
            when = _text(item, "when", path)
            if when is None:
                continue
            why = self._impossible([*self.conditions, when], own=when)
            if why is not None:
                self._note(
                    when.node,
                    when.path,
                    f"the rule `{rule.name}` can never speak: {why[1]}",
                    code=Lint.DEAD_RULE,
                    fix="change the condition, or remove the rule",
                )

    def _impossible(self, texts: Iterable[_Text], *, own: _Text | None = None) -> tuple[_Text, str] | None:
        """Why these cannot all be true for a mutation that fits `match`; None if they can, or in doubt."""
        possible: dict[tuple[str, str], frozenset[str]] = {}
        for text in texts:
            for part in conjuncts(text.text):
                if constant(part.text, self.texts) is False:
                    return text, f"`{_shown(part.text)}` is always false"
                names = _names(part.text)
                if names is None:
                    continue
                path, values = names
                before = possible.get(path)
                possible[path] = values if before is None else before & values
                if not possible[path]:
                    return own or text, f"`{'.'.join(path)}` cannot be two things at once"
                if not any(self._matches(path, value) for value in possible[path]):
                    listed = ", ".join(f"`{value[:80]}`" for value in sorted(possible[path])[:3])
                    return own or text, f"`{'.'.join(path)}` is {listed} only where `match` does not fit"
        return None

    def _matches(self, path: tuple[str, str], value: str) -> bool:
        match = self.policy.match
        if path == ("action", "name"):
            return not match.actions or any(glob.matches(value) for glob in match.actions)
        patterns = match.resources if path[0] == "resource" else match.subjects
        return not patterns or any(
            (glob := pattern.type if path[1] == "type" else pattern.id) is None or glob.matches(value)
            for pattern in patterns
        )

    def _unconditional(self, rule: Rule) -> bool:
        return rule.window is None and (rule.when is None or constant(rule.when.text, self.texts) is True)

    def _shadowed(self) -> None:
        always = [rule for rule, _ in self.rules if self._unconditional(rule)]
        for rule, (item, path) in self.rules:
            stronger = [other for other in always if _STRENGTH[other.effect] > _STRENGTH[rule.effect]]
            if stronger:
                self._note(
                    item,
                    path,
                    f"the rule `{rule.name}` decides nothing: `{stronger[0].name}` of the same policy always says "
                    f"`{stronger[0].effect}`, which is stronger",
                    code=Lint.SHADOWED_RULE,
                    fix=f"give `{stronger[0].name}` a `when`, or remove this rule",
                )

    def _duplicates(self) -> None:
        seen: dict[tuple[Effect, tuple[str, ...], str, str], str] = {}
        for rule, (item, path) in self.rules:
            when = rule.when.text if rule.when is not None else "true"
            key = (rule.effect, signature(when), repr(rule.approval), repr(rule.window))
            first = seen.setdefault(key, rule.name)
            if first != rule.name:
                self._note(
                    item,
                    path,
                    f"the rule `{rule.name}` has the effect and the condition of `{first}`",
                    code=Lint.DUPLICATE_RULE,
                    fix="remove one",
                )

    def _patterns(self) -> None:
        match = self.policy.match
        spec = self.spec.items.get("match") if isinstance(self.spec, Object) else None
        if spec is None:
            return
        actions = [item for item, _ in _items(spec, "actions")]
        self._redundant(actions, "actions", [_covered(one, match.actions) for one in match.actions])
        for name, patterns in (("subjects", match.subjects), ("resources", match.resources)):
            places = [item for item, _ in _items(spec, name)]
            self._redundant(places, name, [_entity_covered(one, patterns) for one in patterns])

    def _redundant(self, places: list[Node], name: str, covered: list[int | None]) -> None:
        for position, by in enumerate(covered):
            if by is not None:
                self._note(
                    places[position],
                    f"spec.match.{name}[{position}]",
                    f"matches nothing that `spec.match.{name}[{by}]` does not match already",
                    code=Lint.REDUNDANT_PATTERN,
                    fix="remove it",
                )


def _covered(one: Glob, patterns: tuple[Glob, ...]) -> int | None:
    """The position of another pattern that matches whatever this one matches; the first of equals stays."""
    at = next(i for i, pattern in enumerate(patterns) if pattern is one)
    for i, other in enumerate(patterns):
        if i != at and _covers(other, one) and (i < at or not _covers(one, other)):
            return i
    return None


def _entity_covered(one: EntityPattern, patterns: tuple[EntityPattern, ...]) -> int | None:
    at = next(i for i, pattern in enumerate(patterns) if pattern is one)
    for i, other in enumerate(patterns):
        if i != at and _entity_covers(other, one) and (i < at or not _entity_covers(one, other)):
            return i
    return None


def _entity_covers(wide: EntityPattern, narrow: EntityPattern) -> bool:
    for outer, inner in ((wide.type, narrow.type), (wide.id, narrow.id)):
        if outer is not None and (inner is None or not _covers(outer, inner)):
            return False
    return all(pattern in narrow.properties for pattern in wide.properties)


def _covers(wide: Glob, narrow: Glob) -> bool:
    """Whether a pattern matches whatever another one matches; False in doubt."""
    if wide.text in {"*", narrow.text}:
        return True
    if narrow.literal is not None:
        return wide.matches(narrow.literal)
    # `apps/*` covers `apps/Dep*`: a star at the end alone, after the same beginning.
    return (
        wide.text.endswith("*")
        and "?" not in wide.text
        and wide.text.count("*") == 1
        and (narrow.text.startswith(wide.text[:-1]))
    )


def _names(text: str) -> tuple[tuple[str, str], frozenset[str]] | None:
    """Read `PATH == 'x'`, `'x' == PATH` and `PATH in ['x', 'y']` for the paths of `match`; None for all else."""
    stream = list(tokens(text))
    path = _name_path(stream[:3])
    if path is not None and len(stream) == 6 and stream[3].text == stream[4].text == "=":
        value = literal_of(stream[5])
        return (path, frozenset({value})) if isinstance(value, str) else None
    if path is not None and len(stream) > 6 and [stream[3].text, stream[4].text, stream[-1].text] == ["in", "[", "]"]:
        inside = stream[5:-1]
        values = [literal_of(token) for token in inside[::2]]
        separators = {token.text for token in inside[1::2]}
        if separators <= {","} and all(isinstance(value, str) for value in values):
            return path, frozenset(str(value) for value in values)
    path = _name_path(stream[3:])
    if path is not None and len(stream) == 6 and stream[1].text == stream[2].text == "=":
        value = literal_of(stream[0])
        return (path, frozenset({value})) if isinstance(value, str) else None
    return None


def _name_path(stream: list[Token]) -> tuple[str, str] | None:
    if len(stream) != 3 or [token.kind for token in stream] != [TokenKind.NAME, TokenKind.DOT, TokenKind.NAME]:
        return None
    path = (stream[0].text, stream[2].text)
    return path if path in _NAMES else None


def _shown(text: str) -> str:
    return text if len(text) <= 60 else text[:59] + "…"


def _items(node: Node | None, name: str) -> Iterator[tuple[Node, str]]:
    found = node.items.get(name) if isinstance(node, Object) else None
    if isinstance(found, Sequence):
        for position, item in enumerate(found.items):
            yield item, f"spec.{name}[{position}]"


def _string(node: Node, name: str) -> str:
    found = node.items.get(name) if isinstance(node, Object) else None
    return str(found.value) if isinstance(found, Scalar) else ""


def _text(node: Node, name: str, path: str) -> _Text | None:
    found = node.items.get(name) if isinstance(node, Object) else None
    if isinstance(found, Scalar) and isinstance(found.value, str):
        return _Text(found.value, found, f"{path}.{name}")
    return None
