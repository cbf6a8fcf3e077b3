"""What differs in meaning between two sets of policies, and which decisions that changes."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any

from app.core.canonical import canonical
from app.core.record_masks import MaskAction
from app.core.types import Effect, Verdict
from app.core.validity import parse_instant
from app.policies import shape
from app.policies.admission import BindingDocument, ParameterDocument, PolicyDocument
from app.policies.document import declared_variables
from app.policies.expressions import all_variables_read, signature
from app.policies.load import Document
from app.policies.suite import with_counts

_SHOWN_MAX_CHARS = 200


class Change(StrEnum):
    """What happened to a policy or to a part of one."""

    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that differs. `policy` is the name of the policy, or of the exception where `kind` is that.

    `part` is empty for a whole policy, else for example `rules.large`, `variables.growth`, `match`; `member` is the
    member of a rule that differs. `before` and `after` are texts as they are written, None where there is none.
    """

    policy: str
    part: str
    change: Change
    member: str = ""
    before: str | None = None
    after: str | None = None
    kind: str = "policy"


@dataclass(frozen=True, slots=True)
class Decided:
    """One mutation under both sets."""

    mutation: str
    before: Verdict
    after: Verdict

    @property
    def effect_differs(self) -> bool:
        """Whether the answer itself differs."""
        return self.before.effect is not self.after.effect

    @property
    def differs(self) -> bool:
        """Whether the answer, who gave it, or what lifts it differs; messages do not count."""
        return self.effect_differs or _essence(self.before) != _essence(self.after)


def _essence(verdict: Verdict) -> tuple[Effect, list[tuple[str, str, str]], bytes]:
    reasons = [(reason.policy, reason.rule, f"{reason.mode} {reason.exception}") for reason in verdict.reasons]
    approval: Any = with_counts(dict(verdict.approval)) if verdict.approval is not None else None
    return verdict.effect, reasons, canonical([approval, [asdict(one) for one in verdict.obligations]])


def compare(before: Iterable[Document], after: Iterable[Document]) -> tuple[Difference, ...]:
    """Compare the documents of two sets by the names of their policies and rules.

    The order of policies, rules and patterns, the layout of YAML and of expressions, comments, and what is written out
    but is the default anyway do not count.
    """
    before, after = tuple(before), tuple(after)
    old = {document.policy.name: document for document in before if document.policy is not None}
    new = {document.policy.name: document for document in after if document.policy is not None}
    found: list[Difference] = []
    for name in sorted(old.keys() | new.keys()):
        if name not in new:
            found.append(Difference(name, "", Change.REMOVED))
        elif name not in old:
            found.append(Difference(name, "", Change.ADDED))
        else:
            found += _policy(name, old[name], new[name])
    return (*found, *_exceptions(before, after), *_masks(before, after), *_admission(before, after))


def _admission(before: Iterable[Document], after: Iterable[Document]) -> Iterator[Difference]:
    """Compare admission policies, bindings and parameters, member by member of `spec` or of the parameter."""
    old, new = (
        {_identity(document): document for document in documents if document.admission is not None}
        for documents in (before, after)
    )
    for kind, name in sorted(old.keys() | new.keys()):
        one, other = old.get((kind, name)), new.get((kind, name))
        if one is None or other is None:
            yield Difference(name, "", Change.ADDED if one is None else Change.REMOVED, kind=kind)
            continue
        was, now = dict(_admission_parts(one)), dict(_admission_parts(other))
        for part in sorted(was.keys() | now.keys()):
            if _comparable(was.get(part)) != _comparable(now.get(part)):
                yield from (replace(found, kind=kind) for found in _texts(name, part, was.get(part), now.get(part)))


def _identity(document: Document) -> tuple[str, str]:
    match document.admission:
        case PolicyDocument(name=name):
            return "admission policy", name
        case BindingDocument(name=name):
            return "binding", name
        case ParameterDocument(kind=kind, parameter=parameter):
            place = f"{parameter.namespace}/" if parameter.namespace else ""
            return "parameter", f"{' '.join(kind)} {place}{parameter.name}"
        case _:
            raise ValueError("no document of an admission policy")


def _admission_parts(document: Document) -> Iterator[tuple[str, Any]]:
    root: Any = document.root.plain()
    members = root if isinstance(document.admission, ParameterDocument) else root["spec"]
    for member, value in members.items():
        names = {"variables": "name", "matchConditions": "name", "auditAnnotations": "key"}
        if value is None or member in {"apiVersion", "kind", "metadata"}:
            continue
        if member in names and isinstance(value, list):
            yield from ((f"{member}.{item[names[member]]}", item) for item in value)
        elif member == "validations":
            yield from ((f"{member}[{position}]", item) for position, item in enumerate(value))
        else:
            yield member, value


def _comparable(value: Any) -> Any:
    """Give a member in a form in which the layout of expressions does not count."""
    if not isinstance(value, dict):
        return value
    expressions = {"expression", "valueExpression", "messageExpression"}
    return {name: signature(item) if name in expressions and item else item for name, item in value.items()}


def _masks(before: Iterable[Document], after: Iterable[Document]) -> Iterator[Difference]:
    """Compare masks, member by member of `spec`."""
    old, new = (
        {document.mask.name: document for document in documents if document.mask is not None}
        for documents in (before, after)
    )
    for name in sorted(old.keys() | new.keys()):
        if name not in old or name not in new:
            yield Difference(name, "", Change.REMOVED if name in old else Change.ADDED, kind="mask")
            continue
        one, other = _mask(old[name]), _mask(new[name])
        for part in one:
            if one[part] != other[part]:
                yield from (replace(found, kind="mask") for found in _texts(name, part, one[part], other[part]))


def _mask(document: Document) -> dict[str, Any]:
    """A mask in a form in which equal meaning is equal."""
    root: Any = document.root.plain()
    spec = root["spec"]
    return {
        "labels": root["metadata"].get("labels"),
        "match": _unordered(spec.get("match")),
        "matchConditions": _unordered(spec.get("matchConditions")),
        "masks": _unordered([{"action": str(MaskAction.ERASE), **item} for item in spec["masks"]]),
    }


def _exceptions(before: Iterable[Document], after: Iterable[Document]) -> Iterator[Difference]:
    old, new = (
        {document.exception.name: document for document in documents if document.exception is not None}
        for documents in (before, after)
    )
    for name in sorted(old.keys() | new.keys()):
        if name not in old or name not in new:
            change = Change.REMOVED if name in old else Change.ADDED
            yield Difference(name, "", change, kind="exception")
            continue
        one, other = _exception(old[name]), _exception(new[name])
        for part in one:
            was, now = one.get(part), other.get(part)
            if was != now:
                for found in _texts(name, part, was, now):
                    yield replace(found, kind="exception")


def _exception(document: Document) -> dict[str, Any]:
    """An exception in a form in which equal meaning is equal."""
    root: Any = document.root.plain()
    spec = root["spec"]
    return {
        "labels": root["metadata"].get("labels"),
        **{part: spec.get(part) for part in ("owner", "reason")},
        **{part: _instant(spec.get(part)) for part in ("validFrom", "validUntil")},
        **{part: _unordered(spec.get(part)) for part in ("policies", "match")},
        "matchConditions": sorted(
            ([item["name"], *signature(item["expression"])] for item in spec.get("matchConditions", ())), key=canonical
        )
        or None,
    }


def _policy(name: str, before: Document, after: Document) -> Iterator[Difference]:
    old, new = _Meaning(before), _Meaning(after)
    for part in ("labels", "mode", "validFrom", "validUntil", "match"):
        yield from _texts(name, part, old.plain[part], new.plain[part])
    for part in ("matchConditions", "variables"):
        for item in sorted(old.expressions[part].keys() | new.expressions[part].keys()):
            one, other = old.expressions[part].get(item), new.expressions[part].get(item)
            if (signature(one) if one else None) != (signature(other) if other else None):
                yield from _texts(name, f"{part}.{item}", one, other)
    changed = {
        item
        for item in old.variables.keys() & new.variables.keys()
        if signature(old.variables[item]) != signature(new.variables[item])
    }
    for part, kind in (("rules", shape.RULE), ("freezes", shape.FREEZE), ("budgets", shape.BUDGET)):
        was, now = old.rules[part], new.rules[part]
        for rule in sorted(was.keys() | now.keys()):
            variables = _Variables(new.variables, changed)
            yield from _rule(name, f"{part}.{rule}", was.get(rule), now.get(rule), kind.known, variables)


@dataclass(frozen=True, slots=True)
class _Variables:
    """The variables of the later policy, and the names of those that changed."""

    texts: Mapping[str, str]
    changed: set[str]


def _rule(
    policy: str,
    part: str,
    one: dict[str, Any] | None,
    other: dict[str, Any] | None,
    known: Iterable[str],
    variables: _Variables,
) -> Iterator[Difference]:
    if one is None or other is None:
        change = Change.ADDED if one is None else Change.REMOVED
        yield Difference(policy, part, change, "", _summary(one), _summary(other))
        return
    for member in known:
        was, now = one.get(member), other.get(member)
        if _meaning(member, was) != _meaning(member, now):
            yield Difference(policy, part, Change.CHANGED, member, _written(was), _written(now))
    texts = [other.get(member) for member in ("when", "messageExpression", "key", "distinct")]
    texts += [item.get("valueExpression") for item in other.get("obligations", ())]
    read = {name for text in texts for name in _read(text, variables.texts)}
    for variable in sorted(read & variables.changed):
        yield Difference(policy, part, Change.CHANGED, f"variables.{variable}", None, None)


def _read(text: Any, variables: Mapping[str, str]) -> frozenset[str]:
    return all_variables_read(text, variables) if isinstance(text, str) else frozenset()


def _texts(policy: str, part: str, before: Any, after: Any) -> Iterator[Difference]:
    if before != after:
        change = Change.ADDED if before is None else Change.REMOVED if after is None else Change.CHANGED
        yield Difference(policy, part, change, "", _written(before), _written(after))


class _Meaning:
    """One document in a form in which equal meaning is equal."""

    def __init__(self, document: Document) -> None:
        root: Any = document.root.plain()
        spec = root["spec"]
        match = spec.get("match")
        self.plain: dict[str, Any] = {
            "labels": root["metadata"].get("labels"),
            "mode": spec.get("mode", "enforce"),
            "validFrom": _instant(spec.get("validFrom")),
            "validUntil": _instant(spec.get("validUntil")),
            "match": _unordered(match) if match else None,
        }
        self.variables = declared_variables(document.root)
        self.expressions: dict[str, dict[str, str]] = {
            "matchConditions": {item["name"]: item["expression"] for item in spec.get("matchConditions", ())},
            "variables": self.variables,
        }
        self.rules: dict[str, dict[str, dict[str, Any]]] = {
            "rules": {item["name"]: item for item in spec.get("rules", ())},
            **{
                part: {item["name"]: {"effect": "deny", **item} for item in spec.get(part, ())}
                for part in ("freezes", "budgets")
            },
        }


def _meaning(member: str, value: Any) -> Any:
    """Give a member of a rule in a form in which equal meaning is equal."""
    if member == "when":
        return signature(value if value is not None else "true")
    if member == "schedule" and value is not None:
        return value.split()
    if member in {"duration", "window"} and value is not None:
        return _seconds(value)
    if member in {"messageExpression", "key", "distinct"}:
        return signature(value) if value is not None else None
    if member == "approval" and value is not None:
        clocks = {"expiresAfter": shape.EXPIRES_AFTER, "executeWithin": shape.EXECUTE_WITHIN}
        seconds = {name: _seconds(value.get(name, default)) for name, default in clocks.items()}
        tree = {name: item for name, item in value.items() if name not in clocks}
        return _unordered(with_counts(tree)), seconds
    if member == "obligations" and value is not None:
        return [
            (item["key"], item.get("value"), signature(item["valueExpression"]) if "valueExpression" in item else None)
            for item in value
        ]
    return value


def _instant(text: str | None) -> str | None:
    return None if text is None else parse_instant(text).isoformat()


def _unordered(tree: Any) -> Any:
    if isinstance(tree, list):
        return sorted((_unordered(item) for item in tree), key=canonical)
    if isinstance(tree, dict):
        return {name: _unordered(item) for name, item in tree.items()}
    return tree


def _seconds(text: str) -> int:
    units = {"h": 3600, "m": 60, "s": 1}
    return sum(int(number) * units[unit] for number, unit in re.findall(r"(\d+)([hms])", text))


def _summary(rule: Mapping[str, Any] | None) -> str | None:
    if rule is None:
        return None
    beyond = f" beyond {rule['limit']} in {rule['window']}" if "limit" in rule else ""
    return f"{rule['effect']}{beyond} when {_written(rule.get('when', 'true'))}"


def _written(value: Any) -> str | None:
    if value is None:
        return None
    text = value if isinstance(value, str) else canonical(value).decode()
    text = " ".join(text.split())
    return text if len(text) <= _SHOWN_MAX_CHARS else text[: _SHOWN_MAX_CHARS - 1] + "…"
