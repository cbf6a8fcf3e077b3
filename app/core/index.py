"""Policy sets as the decision core knows them: immutable, compiled, and indexed by what they can match (step 6)."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, assert_never

from app.core.cel import Program, can_exceed, one_line
from app.core.glob import Glob
from app.core.types import Effect, Json, JsonObject, Mode, Reason
from app.core.validity import ALWAYS, Validity

# A person reads one line; the receipt of the ledger has 4 KiB for everything.
MESSAGE_MAX_CHARS = 512


@dataclass(frozen=True, slots=True)
class PropertyPattern:
    """One property that must be there: a string that fits `glob`, or a value equal to `value` in type and content."""

    name: str
    glob: Glob | None = None
    value: Json = None

    def matches(self, properties: JsonObject) -> bool:
        """Tell whether the property is there and fits."""
        if self.name not in properties:
            return False
        found = properties[self.name]
        if self.glob is not None:
            return isinstance(found, str) and self.glob.matches(found)
        # JSON knows one kind of number, but true is not 1.
        return found == self.value and isinstance(found, bool) == isinstance(self.value, bool)


@dataclass(frozen=True, slots=True)
class LabelPattern:
    """One label that must be there with a text that fits."""

    key: str
    glob: Glob

    def matches(self, labels: JsonObject) -> bool:
        """Tell whether the label is there and fits."""
        found = labels.get(self.key)
        return isinstance(found, str) and self.glob.matches(found)


@dataclass(frozen=True, slots=True)
class EntityPattern:
    """One entry of `match.subjects` or `match.resources`: every member that is given must fit.

    `labels` are read from `properties.labels`, an object of texts; what has no such object has no labels.
    """

    type: Glob | None = None
    id: Glob | None = None
    properties: tuple[PropertyPattern, ...] = ()
    labels: tuple[LabelPattern, ...] = ()

    def matches(self, entity: JsonObject) -> bool:
        """Tell whether a subject or a resource fits."""
        if self.type is not None and not self.type.matches(entity["type"]):
            return False
        if self.id is not None and not self.id.matches(entity["id"]):
            return False
        for pattern in self.properties:
            if not pattern.matches(entity["properties"]):
                return False
        if self.labels:
            labels = entity["properties"].get("labels")
            if not isinstance(labels, dict):
                return False
            for label in self.labels:
                if not label.matches(labels):
                    return False
        return True


@dataclass(frozen=True, slots=True)
class Match:
    """The cheap part of a policy. An empty tuple does not restrict; of a non-empty one, one entry must fit.

    `exclude` has further ones, without exclusions of their own; a mutation that fits one of them is taken out.
    """

    subjects: tuple[EntityPattern, ...] = ()
    actions: tuple[Glob, ...] = ()
    resources: tuple[EntityPattern, ...] = ()
    exclude: tuple["Match", ...] = ()

    def matches(self, inputs: JsonObject) -> bool:
        """Tell whether a mutation fits; `inputs` is `NormalisedMutation.inputs`."""
        if not self.takes_in(inputs):
            return False
        for excluded in self.exclude:  # noqa: SIM110 - `any` makes a generator each time
            if excluded.takes_in(inputs):
                return False
        return True

    def takes_in(self, inputs: JsonObject) -> bool:
        """Tell whether a mutation fits, exclusions apart."""
        return (
            (not self.actions or _fits(inputs["action"]["name"], self.actions))
            and (not self.resources or _fits(inputs["resource"], self.resources))
            and (not self.subjects or _fits(inputs["subject"], self.subjects))
        )


def _fits(found: Any, patterns: Iterable[Glob | EntityPattern]) -> bool:
    for pattern in patterns:  # noqa: SIM110 - `any` makes a generator each time
        if pattern.matches(found):
            return True
    return False


@dataclass(frozen=True, slots=True)
class Approval:
    """What lifts a hold: a tree of groups as the policy states it, and two clocks in seconds with their texts."""

    tree: Mapping[str, Any]
    expires_after: str
    expires_after_seconds: int
    execute_within: str
    execute_within_seconds: int


@dataclass(frozen=True, slots=True)
class Condition:
    """One of `matchConditions`."""

    name: str
    program: Program


@dataclass(frozen=True, slots=True)
class Duty:
    """One of `rules[].obligations`: `value`, or what `expression` gives where there is one."""

    key: str
    value: Json = None
    expression: Program | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """One predicate with an effect; `when` is None for a rule that always speaks. `approval` is there iff it holds."""

    name: str
    effect: Effect
    when: Program | None = None
    message: str | None = None
    message_expression: Program | None = None
    approval: Approval | None = None
    duties: tuple[Duty, ...] = ()


@dataclass(frozen=True, slots=True)
class Policy:
    """One compiled policy. `reasons` are what its rules say when they speak, unless an expression says it better.

    `metered`: its expressions and their variables together can cost more than a policy may.
    """

    name: str
    rules: tuple[Rule, ...]
    mode: Mode = Mode.ENFORCE
    match: Match = field(default_factory=Match)
    conditions: tuple[Condition, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    validity: Validity = ALWAYS
    reasons: tuple[Reason, ...] = field(init=False, repr=False, compare=False)
    metered: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        reasons = tuple(Reason(self.name, rule.name, rule.effect, _said(rule), self.mode) for rule in self.rules)
        object.__setattr__(self, "reasons", reasons)
        object.__setattr__(self, "metered", can_exceed(self.programs()))

    def programs(self) -> Iterator[Program]:
        """Give every expression that asking the policy can evaluate."""
        for condition in self.conditions:
            yield condition.program
        for rule in self.rules:
            own = (rule.when, rule.message_expression, *(duty.expression for duty in rule.duties))
            yield from (program for program in own if program is not None)

    def exact_types(self) -> tuple[str, ...] | None:
        """Give the only resource types this policy can match, None if a pattern leaves them open."""
        found: list[str] = []
        for pattern in self.match.resources:
            if pattern.type is None or pattern.type.literal is None:
                return None
            found.append(pattern.type.literal)
        return tuple(found) or None

    def exact_actions(self) -> tuple[str, ...] | None:
        """Give the only actions this policy can match, None if a pattern leaves them open."""
        found: list[str] = []
        for glob in self.match.actions:
            if glob.literal is None:
                return None
            found.append(glob.literal)
        return tuple(found) or None


def _said(rule: Rule) -> str:
    """Give the message of a rule: its text, else a sentence of ours."""
    return one_line(rule.message or "", MESSAGE_MAX_CHARS) or _default_message(rule.effect)


def _default_message(effect: Effect) -> str:
    match effect:
        case Effect.ALLOW:
            return "allowed by this rule"
        case Effect.HOLD:
            return "held for approval by this rule"
        case Effect.DENY:
            return "denied by this rule"
        case _:
            assert_never(effect)


class CompiledPolicySet:
    """An immutable collection of policies, named by the digest of their content.

    The index maps resource type and action to the policies that can match them, so that the cost of a decision follows
    the policies that can match, not those that exist. Policies whose types or actions are patterns are in every
    bucket that they could belong to; `select` tests `match` itself before it answers, the index only leaves out.
    """

    __slots__ = ("_by_type", "_other", "digest", "policies")

    def __init__(self, policies: Iterable[Policy], *, digest: str) -> None:
        """Index the policies, sorted by name.

        Raises:
            ValueError: there are none, or two have the same name.
        """
        self.policies = tuple(sorted(policies, key=lambda policy: policy.name))
        self.digest = digest
        if not self.policies:
            raise ValueError("a policy set without policies would deny everything without saying why")
        if len({policy.name for policy in self.policies}) != len(self.policies):
            raise ValueError("two policies have the same name")
        types = sorted({name for policy in self.policies for name in policy.exact_types() or ()})
        self._by_type = {name: _Bucket(p for p in self.policies if _can_match(p, name)) for name in types}
        self._other = _Bucket(p for p in self.policies if p.exact_types() is None)

    @property
    def rules(self) -> tuple[tuple[Policy, Rule], ...]:
        """Every rule with its policy, in the order of names."""
        return tuple((policy, rule) for policy in self.policies for rule in policy.rules)

    def select(self, inputs: JsonObject) -> tuple[Policy, ...]:
        """Give the policies whose `match` fits, sorted by name; their conditions and rules are still to be asked."""
        bucket = self._by_type.get(inputs["resource"]["type"], self._other)
        candidates = bucket.by_action.get(inputs["action"]["name"], bucket.other)
        return tuple([policy for policy in candidates if policy.match.matches(inputs)])


class _Bucket:
    """The policies of one resource type (or of all types no policy names), by action."""

    __slots__ = ("by_action", "other")

    def __init__(self, policies: Iterable[Policy]) -> None:
        members = tuple(policies)
        exact = {policy.name: policy.exact_actions() for policy in members}
        actions = {action for names in exact.values() for action in names or ()}
        self.other = tuple(p for p in members if exact[p.name] is None)
        self.by_action = {
            action: tuple(p for p in members if (only := exact[p.name]) is None or action in only) for action in actions
        }


def _can_match(policy: Policy, resource_type: str) -> bool:
    only = policy.exact_types()
    return only is None or resource_type in only
