"""What the service answers, as values; what an answer must have is checked, what a later release adds is left."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, Generic, NoReturn, TypeVar

from app.client.problems import ProblemError, ProblemKind, problem_from

T = TypeVar("T")


class Effect(StrEnum):
    """What was decided. Only `allow` means yes."""

    ALLOW = "allow"
    DENY = "deny"
    HOLD = "hold"


@dataclass(frozen=True, slots=True)
class Clause:
    """The part of an expression that decided, where it stands, and what it read."""

    path: str
    text: str
    line: int
    column: int
    outcome: str
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Reason:
    """One rule that spoke; one in mode `shadow`, or with an `exception`, did not count."""

    policy: str
    rule: str
    effect: Effect
    mode: str
    message: str
    binding: str | None = None
    exception: str | None = None
    clause: Clause | None = None


@dataclass(frozen=True, slots=True)
class Budget:
    """A budget that had a say: `used` of `limit` in the last `window`, before this mutation."""

    policy: str
    budget: str
    used: int
    limit: int
    window: str


@dataclass(frozen=True, slots=True)
class Obligation:
    """What whoever carries the change out has to do as well, or leave the change."""

    policy: str
    rule: str
    key: str
    value: Any


@dataclass(frozen=True, slots=True)
class Decision:
    """A decision that is in the ledger. `raw` is the answer as it came; of a batch it is the whole answer."""

    id: str
    effect: Effect
    reasons: tuple[Reason, ...]
    policy_set: str
    mutation_digest: str
    ledger_index: int
    receipt_hash: str
    decided_at: str
    approval: Mapping[str, Any] | None = None
    budgets: tuple[Budget, ...] = ()
    obligations: tuple[Obligation, ...] = ()
    warnings: tuple[str, ...] = ()
    annotations: Mapping[str, str] = field(default_factory=dict)
    request_id: str | None = None
    raw: bytes = field(default=b"", repr=False, compare=False)

    @property
    def allowed(self) -> bool:
        """Whether it is an allow. Does not check that its obligations are met."""
        return self.effect is Effect.ALLOW


@dataclass(frozen=True, slots=True)
class Batch:
    """One result for each mutation, in their order: a decision, or why there is none."""

    results: tuple[Decision | ProblemError, ...]

    @property
    def allowed(self) -> bool:
        """Whether every one is an allow. Does not check that their obligations are met."""
        return all(isinstance(one, Decision) and one.allowed for one in self.results)


@dataclass(frozen=True, slots=True)
class PolicySet:
    """A stored policy set; `documents` where it was asked for alone."""

    digest: str
    policies: int
    rules: int
    created_at: str
    created_by: str
    note: str
    active: bool
    documents: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class ActiveSet:
    """The set in force at the replica that answered; `sequence` is of its activation, None for a directory."""

    digest: str
    source: str
    since: str
    stale: bool
    policies: int
    rules: int
    sequence: int | None
    signed_by: tuple[str, ...]
    documents: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Activation:
    """One act of putting a set into force."""

    sequence: int
    digest: str
    previous: str | None
    reason: str
    activated_by: str
    activated_at: str
    ledger_id: str
    ledger_index: int
    decision_id: str | None


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Some of them, the latest first; `next` is `before` of the next page, None on the last one."""

    items: tuple[T, ...]
    next: int | None


@dataclass(frozen=True, slots=True)
class Health:
    """How the service does: `healthy`, `degraded` or `unhealthy`; and its version."""

    status: str
    version: str


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether requests should be sent there, and what speaks against it."""

    ready: bool
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Release:
    """Who answers: the version of the service, and the versions of the interface that it has, the newest last."""

    version: str
    api: tuple[str, ...]


_MISSING: Final = object()


class Members:
    """The members of an object that came, each of the type that it must have; else a ProblemError."""

    def __init__(self, value: object) -> None:
        if not isinstance(value, dict):
            _refuse()
        self._value: dict[str, Any] = value

    def text(self, name: str) -> str:
        """A text that must be there."""
        return self._typed(name, str)

    def text_or_none(self, name: str) -> str | None:
        """A text, None where there is none."""
        return None if self._value.get(name) is None else self.text(name)

    def number(self, name: str) -> int:
        """A whole number that must be there."""
        found = self._typed(name, int)
        return _refuse() if isinstance(found, bool) else found

    def number_or_none(self, name: str) -> int | None:
        """A whole number, None where there is none."""
        return None if self._value.get(name) is None else self.number(name)

    def flag(self, name: str) -> bool:
        """True or false."""
        return self._typed(name, bool)

    def effect(self, name: str) -> Effect:
        """What was decided; another word is no answer."""
        found = self.text(name)
        return Effect(found) if found in tuple(Effect) else _refuse()

    def mapping(self, name: str) -> dict[str, Any]:
        """An object."""
        return self._typed(name, dict)

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of texts."""
        return self.items(name, lambda one: one if isinstance(one, str) else _refuse())

    def items(self, name: str, read: Callable[[Any], T]) -> tuple[T, ...]:
        """A list of what `read` reads."""
        return tuple(read(one) for one in self._typed(name, list))

    def items_or_none(self, name: str, read: Callable[[Any], T]) -> tuple[T, ...]:
        """The same, empty where there is none."""
        return () if self._value.get(name) is None else self.items(name, read)

    def has(self, name: str) -> bool:
        """Whether it is there, and not null."""
        return self._value.get(name) is not None

    def any(self, name: str) -> Any:
        """Whatever stands there, null as well."""
        found = self._value.get(name, _MISSING)
        return _refuse() if found is _MISSING else found

    def _typed(self, name: str, kind: type[T]) -> T:
        found = self._value.get(name)
        return found if isinstance(found, kind) else _refuse()


def _refuse() -> NoReturn:
    raise ProblemError(ProblemKind.NOT_A_FIREWALL, "what answers is no mutation firewall", fix="check the address")


def tree(body: bytes) -> Any:
    """An answer's JSON. Raises ProblemError."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        _refuse()


def decision(body: bytes, *, request_id: str | None) -> Decision:
    """A decision. Raises ProblemError for anything that is not a whole one, or is one about another request."""
    made = decision_from(tree(body), raw=body)
    if request_id is not None and made.request_id != request_id:
        # What stands between mixed answers up, or kept one.
        raise ProblemError(ProblemKind.NOT_A_FIREWALL, "the answer is about another request", fix="ask again")
    return made


def batch(body: bytes, *, count: int) -> Batch:
    """A batch of `count` mutations. Raises ProblemError unless each has one result, in their order."""
    results = Members(tree(body)).items("results", lambda one: _result(one, raw=body))
    if [index for index, _ in results] != list(range(count)):
        raise ProblemError(ProblemKind.NOT_A_FIREWALL, "the results are not those of the batch", fix="ask again")
    return Batch(tuple(one for _, one in results))


def _result(value: Any, *, raw: bytes) -> tuple[int, Decision | ProblemError]:
    members = Members(value)
    index = members.number("index")
    if members.has("decision"):
        return index, decision_from(value, raw=raw)
    members.text("title")
    return index, problem_from(value, status=members.number("status"))


def decision_from(value: Any, *, raw: bytes) -> Decision:
    """A decision from its members. Raises ProblemError."""
    members = Members(value)
    reasons = members.items("reasons", _reason)
    if not reasons:
        _refuse()
    return Decision(
        id=members.text("id"),
        effect=members.effect("decision"),
        reasons=reasons,
        policy_set=members.text("policy_set"),
        mutation_digest=members.text("mutation_digest"),
        ledger_index=members.number("ledger_index"),
        receipt_hash=members.text("receipt_hash"),
        decided_at=members.text("decided_at"),
        approval=members.mapping("approval") if members.has("approval") else None,
        budgets=members.items_or_none("budgets", _budget),
        obligations=members.items_or_none("obligations", _obligation),
        warnings=members.texts("warnings") if members.has("warnings") else (),
        annotations=members.mapping("annotations") if members.has("annotations") else {},
        request_id=members.text_or_none("request_id"),
        raw=raw,
    )


def _reason(value: Any) -> Reason:
    members = Members(value)
    return Reason(
        policy=members.text("policy"),
        rule=members.text("rule"),
        effect=members.effect("effect"),
        mode=members.text("mode"),
        message=members.text("message"),
        binding=members.text_or_none("binding"),
        exception=members.text_or_none("exception"),
        clause=_clause(members.mapping("clause")) if members.has("clause") else None,
    )


def _clause(value: Any) -> Clause:
    members = Members(value)
    return Clause(
        path=members.text("path"),
        text=members.text("text"),
        line=members.number("line"),
        column=members.number("column"),
        outcome=members.text("outcome"),
        values=members.mapping("values"),
    )


def _budget(value: Any) -> Budget:
    members = Members(value)
    return Budget(
        policy=members.text("policy"),
        budget=members.text("budget"),
        used=members.number("used"),
        limit=members.number("limit"),
        window=members.text("window"),
    )


def _obligation(value: Any) -> Obligation:
    members = Members(value)
    return Obligation(
        policy=members.text("policy"), rule=members.text("rule"), key=members.text("key"), value=members.any("value")
    )


def policy_set(value: Any) -> PolicySet:
    """A stored set. Raises ProblemError."""
    members = Members(value)
    return PolicySet(
        digest=members.text("digest"),
        policies=members.number("policies"),
        rules=members.number("rules"),
        created_at=members.text("created_at"),
        created_by=members.text("created_by"),
        note=members.text_or_none("note") or "",
        active=members.flag("active"),
        documents=members.items_or_none("documents", _mapping),
    )


def active_set(value: Any) -> ActiveSet:
    """The set in force. Raises ProblemError."""
    members = Members(value)
    return ActiveSet(
        digest=members.text("digest"),
        source=members.text("source"),
        since=members.text("since"),
        stale=members.flag("stale"),
        policies=members.number("policies"),
        rules=members.number("rules"),
        sequence=members.number_or_none("sequence"),
        signed_by=members.texts("signed_by") if members.has("signed_by") else (),
        documents=members.items("documents", _mapping),
    )


def activation(value: Any) -> Activation:
    """An activation. Raises ProblemError."""
    members = Members(value)
    return Activation(
        sequence=members.number("sequence"),
        digest=members.text("digest"),
        previous=members.text_or_none("previous"),
        reason=members.text("reason"),
        activated_by=members.text("activated_by"),
        activated_at=members.text("activated_at"),
        ledger_id=members.text("ledger_id"),
        ledger_index=members.number("ledger_index"),
        decision_id=members.text_or_none("decision_id"),
    )


def page(value: Any, read: Callable[[Any], T]) -> Page[T]:
    """A page of what `read` reads. Raises ProblemError."""
    members = Members(value)
    return Page(members.items("items", read), members.number_or_none("next"))


def health(value: Any) -> Health:
    """Health in one word. Raises ProblemError."""
    members = Members(value)
    return Health(members.text("status"), members.text("version"))


def release(value: Any) -> Release:
    """Who answers. Raises ProblemError."""
    members = Members(value)
    return Release(members.text("version"), members.texts("api"))


def readiness(value: Any) -> Readiness:
    """Readiness. Raises ProblemError."""
    members = Members(value)
    return Readiness(members.flag("ready"), members.texts("reasons"))


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else _refuse()
