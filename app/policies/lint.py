"""Lints: what loads and is hardly meant. Every finding is a warning, and none is given in doubt.

They look at the documents of a set after it was read; the loader itself does not need them.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import NamedTuple

from app.core.cel import (
    POLICY_STEPS_MAX,
    STEPS_MAX,
    CompiledProgram,
    Needs,
    Program,
    Scope,
    both,
    conjuncts,
    estimate_of,
)
from app.core.glob import Glob
from app.core.index import EntityPattern, Match, Policy, PolicyException, Rule
from app.core.types import Effect
from app.core.validity import Phase, Validity
from app.policies.admission import PolicyDocument
from app.policies.cost import USUAL_SIZES, variables_of
from app.policies.covering import covers, disjoint, entity_covers, impossible, match_covers
from app.policies.diagnostics import Diagnostic, Severity
from app.policies.expressions import (
    all_variables_read,
    constant,
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
    ALLOWS_NOTHING = "allows-nothing"
    IMPOSSIBLE_PATTERN = "impossible-pattern"
    USELESS_EXCLUSION = "useless-exclusion"
    ENDLESS_FREEZE = "endless-freeze"
    EXPIRED = "expired"
    EXPIRES_SOON = "expires-soon"
    LONG_EXCEPTION = "long-exception"
    SHADOWED_EXCEPTION = "shadowed-exception"
    EXPENSIVE = "expensive"


MEANINGS: Mapping[str, str] = {
    Lint.DEAD_RULE: "the rule can never speak",
    Lint.DEAD_POLICY: "the policy can never speak",
    Lint.SHADOWED_RULE: "a stronger rule of the same policy always speaks, so this one decides nothing",
    Lint.DUPLICATE_RULE: "two rules of a policy say the same",
    Lint.DUPLICATE_POLICY: "two policies of the set say the same",
    Lint.CONSTANT_CONDITION: "the condition is always true and restricts nothing",
    Lint.UNUSED_VARIABLE: "nothing reads the variable",
    Lint.REDUNDANT_PATTERN: "another pattern of the list matches all that this one matches",
    Lint.ALLOWS_NOTHING: "there are admission policies, which only deny, and nothing that allows",
    Lint.IMPOSSIBLE_PATTERN: "the pattern fits nothing",
    Lint.USELESS_EXCLUSION: "the exclusion leaves out nothing that the match takes in",
    Lint.ENDLESS_FREEZE: "every window of the freeze is still open when the next one opens",
    Lint.EXPIRED: "the policy or the exception is over and does nothing",
    Lint.EXPIRES_SOON: "the policy or the exception is over within 14 days",
    Lint.LONG_EXCEPTION: "the exception holds longer than 90 days",
    Lint.SHADOWED_EXCEPTION: "another exception lifts all that this one lifts",
    Lint.EXPENSIVE: "with lists and texts of a usual size it costs more than an evaluation may",
}

_STRENGTH = {Effect.ALLOW: 0, Effect.HOLD: 1, Effect.DENY: 2}
# Long enough for people to talk about it, short enough to be acted on.
_SOON = timedelta(days=14)
# An exception for longer is a change of the policy.
_LONG = timedelta(days=90)
# What `match` and a conjunct can both speak about.
_NAMES = (
    ("resource", "type"),
    ("resource", "id"),
    ("subject", "type"),
    ("subject", "id"),
    ("action", "name"),
)


def lint(documents: Iterable[Document], *, sources: Mapping[str, str], now: datetime) -> tuple[Diagnostic, ...]:
    """Give the warnings about every document that could be read; `sources` as in `Checked`."""
    documents = tuple(documents)
    found: list[Diagnostic] = []
    specs: dict[str, tuple[Document, str]] = {}
    for document in documents:
        found += _lint_exception(document, documents, now=now)
    for document in documents:
        if document.policy is None or not isinstance(document.root, Object):
            continue
        reader = Reader(document.file, text=sources.get(document.file, ""))
        _Linter(document.policy, document.root.items["spec"], reader, now).run()
        found += _expiry(document, "policy", document.policy.validity, now=now)
        found += reader.diagnostics
        found += _duplicate(document, document.policy.name, specs)
    for document in documents:
        if isinstance(document.admission, PolicyDocument) and isinstance(document.root, Object):
            reader = Reader(document.file, text=sources.get(document.file, ""))
            _AdmissionLinter(document.admission, document.root.items["spec"], reader).run()
            found += reader.diagnostics
            found += _duplicate(document, document.admission.name, specs)
    return (*found, *_allows_nothing(documents))


def _duplicate(document: Document, name: str, specs: dict[str, tuple[Document, str]]) -> Iterator[Diagnostic]:
    """Say of a policy that one before it says the same; `specs` has those that were seen."""
    assert isinstance(document.root, Object)  # noqa: S101 - it is a policy
    first, of_first = specs.setdefault(repr(document.root.items["spec"].plain()), (document, name))
    if first is not document:
        place = document.root.items["metadata"]
        message = f"the policy says the same as `{of_first}` in `{first.file}`"
        code = Lint.DUPLICATE_POLICY
        yield Diagnostic(
            document.file, place.line, place.column, "metadata.name", message, "remove one", Severity.WARNING, code
        )


def _allows_nothing(documents: Iterable[Document]) -> Iterator[Diagnostic]:
    """Admission policies only deny: without a rule that allows or holds, the answer is no, whatever they say."""
    documents = tuple(documents)
    rules = [rule for document in documents if document.policy is not None for rule in document.policy.rules]
    first = next((one for one in documents if isinstance(one.admission, PolicyDocument)), None)
    if first is not None and all(rule.effect is Effect.DENY for rule in rules):
        message = "admission policies only deny, and no other policy of the set allows anything"
        fix = "add a `MutationPolicy` that says what is allowed"
        line, column = first.root.line, first.root.column
        yield Diagnostic(first.file, line, column, "", message, fix, Severity.WARNING, Lint.ALLOWS_NOTHING)


def _expiry(document: Document, what: str, validity: Validity, *, now: datetime) -> Iterator[Diagnostic]:
    if validity.phase(now) is Phase.EXPIRED:
        message, code, fix = f"the {what} is over and does nothing", Lint.EXPIRED, f"remove the {what}"
    elif validity.ends_within(_SOON, now):
        message, code, fix = f"the {what} is over within 14 days", Lint.EXPIRES_SOON, "extend it, or be ready for it"
    else:
        return
    yield _at_member(document, "validUntil", message, code, fix)


def _at_member(document: Document, name: str, message: str, code: Lint, fix: str) -> Diagnostic:
    spec = document.root.items["spec"] if isinstance(document.root, Object) else document.root
    node = spec.items.get(name, spec) if isinstance(spec, Object) else spec
    return Diagnostic(document.file, node.line, node.column, f"spec.{name}", message, fix, Severity.WARNING, code)


def _lint_exception(document: Document, documents: Iterable[Document], *, now: datetime) -> Iterator[Diagnostic]:
    exception = document.exception
    if exception is None:
        return
    yield from _expiry(document, "exception", exception.validity, now=now)
    if exception.validity.longer_than(_LONG, now):
        yield _at_member(
            document,
            "validUntil",
            "the exception holds longer than 90 days",
            Lint.LONG_EXCEPTION,
            "change the policy, or look at the exception again before",
        )
    for other in documents:
        wide = other.exception
        if wide is not None and wide is not exception and _lifts_all(wide, exception):
            # Of two that lift the same the one with the first name stays.
            if _lifts_all(exception, wide) and exception.name < wide.name:
                continue
            message = f"the exception `{wide.name}` in `{other.file}` lifts all that this one lifts"
            yield _at_member(document, "policies", message, Lint.SHADOWED_EXCEPTION, "remove one")
            return


def _lifts_all(wide: PolicyException, narrow: PolicyException) -> bool:
    """Whether an exception lifts whatever another one lifts; False in doubt."""
    if {signature(one.program.text) for one in wide.conditions} - {
        signature(one.program.text) for one in narrow.conditions
    }:
        return False
    outer, inner = wide.validity, narrow.validity
    if outer.start is not None and (inner.start is None or inner.start < outer.start):
        return False
    if outer.end is not None and (inner.end is None or inner.end > outer.end):
        return False
    for policy, rules in narrow.policies.items():
        if policy not in wide.policies:
            return False
        lifted = wide.policies[policy]
        if lifted is not None and (rules is None or not rules <= lifted):
            return False
    return match_covers(wide.match, narrow.match)


@dataclass(frozen=True, slots=True)
class _Text:
    """An expression and its place."""

    text: str
    node: Node
    path: str


class _Asked(NamedTuple):
    """An expression with what it was compiled to."""

    text: _Text
    program: Program


class _Linter:
    """The lints of one policy."""

    def __init__(self, policy: Policy, spec: Node, reader: Reader, now: datetime) -> None:
        self.policy = policy
        self.now = now
        self.spec = spec
        self.reader = reader
        self.variables = {
            _string(item, "name"): _text(item, "expression", path) for item, path in _items(spec, "variables")
        }
        self.texts = {name: one.text for name, one in self.variables.items() if one is not None}
        self.conditions = [
            _Asked(text, one.program)
            for one, (item, path) in zip(policy.conditions, _items(spec, "matchConditions"), strict=True)
            if (text := _text(item, "expression", path))
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
        self._exclusions()
        self._endless()
        self._expensive()

    def _note(self, node: Node, path: str, message: str, *, code: Lint, fix: str) -> None:
        self.reader.diagnostics.append(
            Diagnostic(self.reader.file, node.line, node.column, path, message, fix, Severity.WARNING, code)
        )

    def _unused(self) -> None:
        read: set[str] = set()
        everything = [one.text.text for one in self.conditions]
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
            truth = constant(one.text.text, self.texts)
            if truth is True:
                self._note(
                    one.text.node,
                    one.text.path,
                    "the condition is always true",
                    code=Lint.CONSTANT_CONDITION,
                    fix="remove it, or make it say something",
                )
        if (by := self._excluded()) is not None:
            self._note(
                by[0],
                by[1],
                "the policy can never speak: this leaves out all that `match` takes in",
                code=Lint.DEAD_POLICY,
                fix="make the exclusion narrower, or remove the policy",
            )
            return True
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
            if when is None or rule.when is None:
                continue
            why = self._impossible([*self.conditions, _Asked(when, rule.when)], own=when)
            if why is not None:
                self._note(
                    when.node,
                    when.path,
                    f"the rule `{rule.name}` can never speak: {why[1]}",
                    code=Lint.DEAD_RULE,
                    fix="change the condition, or remove the rule",
                )

    def _impossible(self, asked: Iterable[_Asked], *, own: _Text | None = None) -> tuple[_Text, str] | None:
        """Why these cannot all be true for a mutation that fits `match`; None if they can, or in doubt."""
        needs: Needs = {}
        for text, program in asked:
            for part in conjuncts(program.source) if isinstance(program, CompiledProgram) else ():
                if constant(part, self.texts) is False:
                    return text, f"`{_shown(part)}` is always false"
            needs = both(needs, program.lifted.needs)
            for path in _NAMES:
                need = needs.get(path)
                if need is None or need.constants is None:
                    continue
                values = sorted(str(value) for value in need.constants)
                if not values:
                    return own or text, f"`{'.'.join(path)}` cannot be two things at once"
                if not any(self._matches(path, value) for value in values):
                    listed = ", ".join(f"`{value[:80]}`" for value in values[:3])
                    return own or text, f"`{'.'.join(path)}` is {listed} only where `match` does not fit"
        return None

    def _matches(self, path: tuple[str, str], value: str) -> bool:
        match = self.policy.match
        if any(_only(exclusion, path, value) for exclusion in match.exclude):
            return False
        if path == ("action", "name"):
            return not match.actions or any(glob.matches(value) for glob in match.actions)
        patterns = match.resources if path[0] == "resource" else match.subjects
        return not patterns or any(
            (glob := pattern.type if path[1] == "type" else pattern.id) is None or glob.matches(value)
            for pattern in patterns
        )

    def _excluded(self) -> tuple[Node, str] | None:
        """The exclusion that takes everything out; None if there is none, or in doubt."""
        match = self.policy.match
        for exclusion, (item, path) in zip(match.exclude, _exclusions(self.spec), strict=True):
            if match_covers(exclusion, match):
                return item, path
        return None

    def _exclusions(self) -> None:
        for exclusion, (item, path) in zip(self.policy.match.exclude, _exclusions(self.spec), strict=True):
            if disjoint(exclusion, self.policy.match):
                self._note(
                    item,
                    path,
                    "leaves out nothing: `match` does not take it in",
                    code=Lint.USELESS_EXCLUSION,
                    fix="remove it, or correct it",
                )

    def _endless(self) -> None:
        for rule, (item, path) in self.rules:
            if rule.window is not None and rule.window.endless(self.now):
                self._note(
                    item,
                    path,
                    f"the freeze `{rule.name}` never ends: each window is open when the next one opens",
                    code=Lint.ENDLESS_FREEZE,
                    fix="shorten the duration; to deny always, write a rule",
                )

    def _expensive(self) -> None:
        asked = list(self.conditions)
        for rule, (item, path) in self.rules:
            for name, program in (("when", rule.when), ("messageExpression", rule.message_expression)):
                text = _text(item, name, path)
                if text is not None and program is not None:
                    asked.append(_Asked(text, program))
        costs = [(one.text, estimate_of(one.program).usual) for one in asked]
        costs += [
            (declared, variable.estimate.usual)
            for variable in variables_of(self.policy.programs())
            if (declared := self.variables.get(variable.name)) is not None
        ]
        fix = "look once into each list: make a variable of what an inner loop gives"
        for text, usual in costs:
            if usual > STEPS_MAX:
                message = f"with {USUAL_SIZES} it takes some {usual:,} steps, and {STEPS_MAX:,} are the most"
                self._note(text.node, text.path, message, code=Lint.EXPENSIVE, fix=fix)
        whole = sum(min(usual, STEPS_MAX) for _, usual in costs)
        if whole > POLICY_STEPS_MAX:
            message = f"with {USUAL_SIZES} the policy takes some {whole:,} steps, and {POLICY_STEPS_MAX:,} are the most"
            self._note(self.spec, "spec", message, code=Lint.EXPENSIVE, fix="make several policies of it")

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
            for position, pattern in enumerate(patterns):
                if impossible(pattern):
                    self._note(
                        places[position],
                        f"spec.match.{name}[{position}]",
                        "fits nothing: `labels` is an object, and `properties.labels` is to be something else",
                        code=Lint.IMPOSSIBLE_PATTERN,
                        fix="remove one of them",
                    )
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


class _AdmissionLinter:
    """The lints of one admission policy, whatever its bindings are."""

    def __init__(self, policy: PolicyDocument, spec: Node, reader: Reader) -> None:
        self.policy = policy
        self.reader = reader
        self.variables = self._texts(spec, "variables", "expression")
        self.names = [_string(item, "name") for item, _ in _items(spec, "variables")]
        self.texts = {name: one.text for name, one in zip(self.names, self.variables, strict=True) if one is not None}
        self.conditions = self._texts(spec, "matchConditions", "expression")
        self.validations = self._texts(spec, "validations", "expression")
        self.others = [
            *self._texts(spec, "validations", "messageExpression"),
            *self._texts(spec, "auditAnnotations", "valueExpression"),
        ]

    def run(self) -> None:
        """Note everything."""
        self._unused()
        self._constants()
        self._expensive()
        self._duplicates()

    @staticmethod
    def _texts(spec: Node, name: str, member: str) -> list[_Text | None]:
        return [_text(item, member, path) for item, path in _items(spec, name)]

    def _note(self, at: _Text, message: str, *, code: Lint, fix: str) -> None:
        self.reader.diagnostics.append(
            Diagnostic(self.reader.file, at.node.line, at.node.column, at.path, message, fix, Severity.WARNING, code)
        )

    def _unused(self) -> None:
        asked = (*self.conditions, *self.validations, *self.others)
        read = {name for one in asked if one is not None for name in all_variables_read(one.text, self.texts)}
        for name, one in zip(self.names, self.variables, strict=True):
            if one is not None and name not in read:
                self._note(one, f"nothing reads the variable `{name}`", code=Lint.UNUSED_VARIABLE, fix="remove it")

    def _constants(self) -> None:
        for at, condition in zip(self.conditions, self.policy.conditions, strict=True):
            if at is None:
                continue
            if self._constant(at.text) is True:
                fix = "remove it, or make it say something"
                self._note(at, "the condition is always true", code=Lint.CONSTANT_CONDITION, fix=fix)
            elif (part := self._never(condition.program)) is not None:
                message = f"the policy can never speak: `{_shown(part)}` is always false"
                self._note(at, message, code=Lint.DEAD_POLICY, fix="change the condition, or remove the policy")
        for at, validation in zip(self.validations, self.policy.validations, strict=True):
            if at is not None and self._constant(at.text) is True:
                message = f"`{validation.name}` can never deny: it is always true"
                self._note(at, message, code=Lint.DEAD_RULE, fix="change the expression, or remove the validation")

    def _expensive(self) -> None:
        asked = [
            *zip(self.conditions, (one.program for one in self.policy.conditions), strict=True),
            *zip(self.validations, (one.program for one in self.policy.validations), strict=True),
        ]
        costs = [(at, estimate_of(program).usual) for at, program in asked]
        named = dict(zip(self.names, self.variables, strict=True))
        costs += [(named.get(one.name), one.estimate.usual) for one in variables_of(program for _, program in asked)]
        for at, usual in costs:
            if at is not None and usual > STEPS_MAX:
                message = f"with {USUAL_SIZES} it takes some {usual:,} steps, and {STEPS_MAX:,} are the most"
                fix = "look once into each list: make a variable of what an inner loop gives"
                self._note(at, message, code=Lint.EXPENSIVE, fix=fix)

    def _never(self, program: Program) -> str | None:
        """The part that makes a condition false for every request; None if there is none, or in doubt."""
        parts = conjuncts(program.source) if isinstance(program, CompiledProgram) else ()
        return next((part for part in parts if self._constant(part) is False), None)

    def _constant(self, text: str) -> bool | None:
        return constant(text, self.texts, scope=Scope.ADMISSION)

    def _duplicates(self) -> None:
        seen: dict[tuple[str, ...], str] = {}
        for at, validation in zip(self.validations, self.policy.validations, strict=True):
            if at is not None and (first := seen.setdefault(signature(at.text), validation.name)) != validation.name:
                message = f"`{validation.name}` has the expression of `{first}`"
                self._note(at, message, code=Lint.DUPLICATE_RULE, fix="remove one")


def _covered(one: Glob, patterns: tuple[Glob, ...]) -> int | None:
    """The position of another pattern that matches whatever this one matches; the first of equals stays."""
    at = next(i for i, pattern in enumerate(patterns) if pattern is one)
    for i, other in enumerate(patterns):
        if i != at and covers(other, one) and (i < at or not covers(one, other)):
            return i
    return None


def _entity_covered(one: EntityPattern, patterns: tuple[EntityPattern, ...]) -> int | None:
    at = next(i for i, pattern in enumerate(patterns) if pattern is one)
    for i, other in enumerate(patterns):
        if i != at and entity_covers(other, one) and (i < at or not entity_covers(one, other)):
            return i
    return None


def _exclusions(spec: Node) -> list[tuple[Node, str]]:
    match = spec.items.get("match") if isinstance(spec, Object) else None
    return [(item, f"spec.match.exclude[{i}]") for i, (item, _) in enumerate(_items(match, "exclude"))]


def _only(exclusion: Match, path: tuple[str, str], value: str) -> bool:
    """Whether an exclusion leaves a value out, whatever the rest of the mutation is."""
    if path == ("action", "name"):
        return not exclusion.subjects and not exclusion.resources and any(g.matches(value) for g in exclusion.actions)
    about_resource = path[0] == "resource"
    if exclusion.actions or (exclusion.subjects if about_resource else exclusion.resources):
        return False
    for pattern in exclusion.resources if about_resource else exclusion.subjects:
        glob, rest = (pattern.type, pattern.id) if path[1] == "type" else (pattern.id, pattern.type)
        if glob is not None and rest is None and not pattern.properties and not pattern.labels and glob.matches(value):
            return True
    return False


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
