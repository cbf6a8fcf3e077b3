"""Policy sets as the decision core knows them: immutable, compiled, and indexed by what they can match (step 6)."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeAlias, assert_never

from app.core.admission.facts import Facts, facts_of
from app.core.candidates import Candidates, Indexed, Names
from app.core.cel import (
    Need,
    Needs,
    Path,
    Program,
    RequestBindings,
    both,
    can_exceed,
    either,
    key_of,
    one_line,
    share,
    together,
)
from app.core.freeze import Window
from app.core.glob import Glob
from app.core.types import Effect, Json, JsonObject, Mode, Reason
from app.core.validity import ALWAYS, Validity

if TYPE_CHECKING:
    from app.core.admission.policy import AdmissionPolicy
    from app.core.record_masks import RecordMask

# Every kind of document that speaks about mutations.
AnyPolicy: TypeAlias = "Policy | AdmissionPolicy"

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

    @property
    def need(self) -> Need | None:
        """The same as a need, None where it is not one of a constant."""
        key = key_of(self.value) if self.glob is None else self.glob.literal
        return None if key is None else Need(frozenset({key}), missing=True)


@dataclass(frozen=True, slots=True)
class LabelPattern:
    """One label that must be there with a text that fits."""

    key: str
    glob: Glob

    def matches(self, labels: JsonObject) -> bool:
        """Tell whether the label is there and fits."""
        found = labels.get(self.key)
        return isinstance(found, str) and self.glob.matches(found)

    @property
    def need(self) -> Need | None:
        """The same as a need, None where a pattern leaves the text open."""
        return None if self.glob.literal is None else Need(frozenset({self.glob.literal}), missing=True)


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

    def needs(self, entity: str) -> dict[Path, Need | None]:
        """Give what it needs of the input `entity`, by path: None where a pattern leaves the value open."""
        found: dict[Path, Need | None] = {}
        for member, glob in (("type", self.type), ("id", self.id)):
            if glob is not None:
                found[entity, member] = None if glob.literal is None else _need(glob.literal)
        for pattern in self.properties:
            path = (entity, "properties", pattern.name)
            # Two patterns for one property are no single need.
            found[path] = pattern.need if path not in found else None
        for label in self.labels:
            below = (entity, "properties", "labels", label.key)
            found[below] = label.need if below not in found else None
        return found


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

    def needs(self) -> Needs:
        """Give what must hold in order that it fits."""
        return _all_of(_any_of(alternatives) for alternatives in self._alternatives())

    def fits_names(self, names: Names) -> bool:
        """Tell whether a mutation with these names can fit."""
        subject, action, resource = names
        return (
            (not self.actions or _fits(action, self.actions))
            and (not self.resources or _may_fit(resource, self.resources))
            and (not self.subjects or _may_fit(subject, self.subjects))
        )

    def settled(self, met: frozenset[Path], named: frozenset[Path] = frozenset()) -> bool:
        """Tell whether a mutation that meets the needs at `met`, and whose names at `named` can fit, is certain to."""
        if self.exclude:
            return False
        for alternatives in self._alternatives():
            paths = {path for needs in alternatives for path in needs}
            if not paths <= met | named:
                return False
            # "a with b, or c with d" is more than "a or c" and "b or d".
            if len(alternatives) > 1 and (len(paths) > 1 or not all(alternatives)):
                return False
            if any(need is None and path not in named for needs in alternatives for path, need in needs.items()):
                return False
        return True

    def _alternatives(self) -> list[list[dict[Path, Need | None]]]:
        """Give, for each member that restricts, what each of its entries needs."""
        members: list[list[dict[Path, Need | None]]] = [
            [{("action", "name"): None if glob.literal is None else _need(glob.literal)} for glob in self.actions],
            [pattern.needs("resource") for pattern in self.resources],
            [pattern.needs("subject") for pattern in self.subjects],
        ]
        return [entries for entries in members if entries]


def _need(constant: str) -> Need:
    return Need(frozenset({constant}), missing=False)


def _all_of(several: Iterable[Needs]) -> Needs:
    found: Needs = {}
    for needs in several:
        found = both(found, needs)
    return found


def _any_of(several: Iterable[Mapping[Path, Need | None]]) -> Needs:
    found: Needs | None = None
    for needs in several:
        known = {path: need for path, need in needs.items() if need is not None}
        found = known if found is None else either(found, known)
    return found or {}


def _fits(found: Any, patterns: Iterable[Glob | EntityPattern]) -> bool:
    for pattern in patterns:  # noqa: SIM110 - `any` makes a generator each time
        if pattern.matches(found):
            return True
    return False


def _may_fit(name: str, patterns: Iterable[EntityPattern]) -> bool:
    return any(pattern.type is None or pattern.type.matches(name) for pattern in patterns)


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
    """One predicate with an effect; `when` is None for a rule that always speaks. `approval` is there iff it holds.

    With a `window` it is a freeze, and speaks only while one of its windows is open.
    """

    name: str
    effect: Effect
    when: Program | None = None
    message: str | None = None
    message_expression: Program | None = None
    approval: Approval | None = None
    duties: tuple[Duty, ...] = ()
    window: Window | None = None


class Per(StrEnum):
    """Whose budget it is: each subject, each resource, or each text that an expression gives, has one of its own."""

    SUBJECT = "subject"
    RESOURCE = "resource"
    KEY = "key"


@dataclass(frozen=True, slots=True)
class Budget:
    """How much may be allowed in a sliding window: `limit` mutations, or with `distinct` so many different values.

    `key` is there iff `per` is KEY, `approval` iff `effect` is hold; `effect` is never allow.
    """

    name: str
    per: Per
    limit: int
    window: str
    window_seconds: int
    effect: Effect = Effect.DENY
    key: Program | None = None
    distinct: Program | None = None
    when: Program | None = None
    message: str | None = None
    approval: Approval | None = None


@dataclass(frozen=True, slots=True)
class Policy:
    """One compiled policy, its freezes behind its rules.

    `reasons` are what its rules say when they speak, unless an expression says it better. `metered`: its expressions
    and their variables together can cost more than a policy may. `at_once` (see `together`) asks all of its rules where
    that is all there is to ask.
    """

    name: str
    rules: tuple[Rule, ...]
    mode: Mode = Mode.ENFORCE
    match: Match = field(default_factory=Match)
    conditions: tuple[Condition, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    budgets: tuple[Budget, ...] = ()
    validity: Validity = ALWAYS
    reasons: tuple[Reason, ...] = field(init=False, repr=False, compare=False)
    metered: bool = field(init=False, repr=False, compare=False)
    at_once: Callable[[RequestBindings], Sequence[bool] | None] | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        reasons = tuple(Reason(self.name, rule.name, rule.effect, _said(rule), self.mode) for rule in self.rules)
        object.__setattr__(self, "reasons", reasons)
        object.__setattr__(self, "metered", can_exceed(self.programs()))
        at_once = None
        if not self.metered and not self.budgets and not any(rule.window for rule in self.rules):
            at_once = together((one.program for one in self.conditions), (rule.when for rule in self.rules))
        object.__setattr__(self, "at_once", at_once)

    def asked(self) -> Iterator[Program]:
        """Give the conditions among its expressions."""
        for condition in self.conditions:
            yield condition.program
        whens = [*(rule.when for rule in self.rules), *(budget.when for budget in self.budgets)]
        yield from (when for when in whens if when is not None)

    def programs(self) -> Iterator[Program]:
        """Give every expression that asking the policy can evaluate."""
        for condition in self.conditions:
            yield condition.program
        for rule in self.rules:
            own = (rule.when, rule.message_expression, *(duty.expression for duty in rule.duties))
            yield from (program for program in own if program is not None)
        for budget in self.budgets:
            yield from (program for program in (budget.when, budget.key, budget.distinct) if program is not None)

    def needs(self) -> Needs:
        """Give what must hold in order that it can say anything: where a need is not met, asking it gives nothing.

        INVARIANT: all a policy can say comes from a condition that fails, from a rule and from a budget. What else can
        make it speak must be looked at here.
        """
        # One condition may use up what a metered policy has to spend; what comes behind it then fails.
        first = self.conditions[:1] if self.metered else self.conditions
        found = both(self.match.needs(), _all_of(condition.program.lifted.needs for condition in first))
        # A condition that fails speaks, whatever the rules say.
        if all(condition.program.lifted.sure for condition in self.conditions):
            whens = [*(rule.when for rule in self.rules), *(budget.when for budget in self.budgets)]
            found = both(found, _any_of(when.lifted.needs if when is not None else {} for when in whens))
        return {path: need for path, need in found.items() if need.constants is not None}


def _said(rule: Rule) -> str:
    """Give the message of a rule: its text, else a sentence of ours."""
    default = _default_message(rule.effect) if rule.window is None else "changes are frozen"
    return one_line(rule.message or "", MESSAGE_MAX_CHARS) or default


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


@dataclass(frozen=True, slots=True)
class PolicyException:
    """One compiled exception: while it is valid, and for mutations that fit, it lifts what denies or holds.

    `policies` has the names of the policies whose words it lifts, each with the names of the rules that are meant, None
    for all of them. `owner` and `reason` are for people.
    """

    name: str
    owner: str
    reason: str
    validity: Validity
    policies: Mapping[str, frozenset[str] | None]
    match: Match = field(default_factory=Match)
    conditions: tuple[Condition, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)

    def covers(self, policy: str, rule: str) -> bool:
        """Tell whether it is about a rule at all."""
        if policy not in self.policies:
            return False
        rules = self.policies[policy]
        return rules is None or rule in rules


class CompiledPolicySet:
    """An immutable collection of policies, named by the digest of their content.

    An index of what policies need leaves out those that have nothing to say, so that the cost of a decision follows the
    policies that can match, not those that exist. Admission policies are found by the Kubernetes resource.
    """

    __slots__ = ("_admission", "_allowing", "_candidates", "digest", "exceptions", "masks", "policies")

    def __init__(
        self,
        policies: Iterable[AnyPolicy],
        *,
        digest: str,
        exceptions: Iterable[PolicyException] = (),
        masks: "Iterable[RecordMask]" = (),
    ) -> None:
        """Index the policies, sorted by name.

        Raises:
            ValueError: there are none, or two policies, two exceptions or two masks have the same name.
        """
        self.masks = tuple(sorted(masks, key=lambda mask: mask.name))
        if len({mask.name for mask in self.masks}) != len(self.masks):
            raise ValueError("two masks have the same name")
        self.exceptions = tuple(sorted(exceptions, key=lambda exception: exception.name))
        if len({exception.name for exception in self.exceptions}) != len(self.exceptions):
            raise ValueError("two exceptions have the same name")
        self.policies = _sharing(sorted(policies, key=lambda policy: policy.name))
        self.digest = digest
        if not self.policies:
            raise ValueError("a policy set without policies would deny everything without saying why")
        if len({policy.name for policy in self.policies}) != len(self.policies):
            raise ValueError("two policies have the same name")
        own = self.mutation_policies
        excepted = {name for exception in self.exceptions for name in exception.policies}
        self._allowing = frozenset(
            (policy.name, rule.name)
            for policy in own
            if policy.name in excepted
            for rule in policy.rules
            if rule.effect is Effect.ALLOW
        )
        self._candidates = Candidates(Indexed(policy, policy.needs(), policy.match) for policy in own)
        self._admission = _AdmissionBuckets(policy for policy in self.policies if not isinstance(policy, Policy))

    @property
    def mutation_policies(self) -> tuple[Policy, ...]:
        """The policies of the firewall's own kind, by name."""
        return tuple(policy for policy in self.policies if isinstance(policy, Policy))

    @property
    def rules(self) -> tuple[tuple[Policy, Rule], ...]:
        """Every rule with its policy, in the order of names; validations of admission policies are none."""
        return tuple((policy, rule) for policy in self.mutation_policies for rule in policy.rules)

    @property
    def says(self) -> int:
        """How many rules, budgets, validations and annotations there are: a set may do nothing but limit."""
        budgets = sum(len(policy.budgets) for policy in self.mutation_policies)
        admission = sum(len(policy.validations) + len(policy.annotations) for policy in self._admission.all)
        return len(self.rules) + budgets + admission

    def exceptions_of(self, policy: str, rule: str) -> tuple[PolicyException, ...]:
        """Give the exceptions that could lift what a rule says, by name; none for a rule that allows, failed or not."""
        if (policy, rule) in self._allowing:
            return ()
        return tuple([exception for exception in self.exceptions if exception.covers(policy, rule)])

    def select(self, inputs: JsonObject) -> tuple[AnyPolicy, ...]:
        """Give the policies to ask, sorted by name: their `match` fits, and all others would say nothing."""
        own = self._candidates.select(inputs)
        if not self._admission.all or (facts := facts_of(inputs)) is None:
            return own
        selected = [policy for policy in self._admission.about(facts) if policy.match.fits(facts) is not False]
        return tuple(sorted([*own, *selected], key=lambda policy: policy.name)) if selected else own


def _sharing(policies: Iterable[AnyPolicy]) -> tuple[AnyPolicy, ...]:
    """Give the policies with conditions that compute what they have in common only once in a request."""
    known = tuple(policies)
    new = share(program for policy in known if isinstance(policy, Policy) for program in policy.asked())
    return tuple(_with(policy, new) if isinstance(policy, Policy) else policy for policy in known) if new else known


def _with(policy: Policy, new: Mapping[int, Program]) -> Policy:
    if not any(id(program) in new for program in policy.asked()):
        return policy

    def of(program: Program | None) -> Program | None:
        return new.get(id(program), program)

    return replace(
        policy,
        conditions=tuple(replace(one, program=new.get(id(one.program), one.program)) for one in policy.conditions),
        rules=tuple(replace(rule, when=of(rule.when)) for rule in policy.rules),
        budgets=tuple(replace(budget, when=of(budget.when)) for budget in policy.budgets),
    )


class _AdmissionBuckets:
    """Admission policies by the Kubernetes resource that they are about."""

    __slots__ = ("_by_resource", "_open", "all")

    def __init__(self, policies: "Iterable[AdmissionPolicy]") -> None:
        self.all = tuple(policies)
        only = {policy.name: policy.match.resources() for policy in self.all}
        self._open = tuple(policy for policy in self.all if only[policy.name] is None)
        self._by_resource = {
            resource: tuple(p for p in self.all if (named := only[p.name]) is None or resource in named)
            for resource in sorted({resource for names in only.values() for resource in names or ()})
        }

    def about(self, facts: Facts) -> "tuple[AdmissionPolicy, ...]":
        """Give the policies that a request could be the business of; all where its facts are broken."""
        if facts.problem is not None:
            return self.all
        if not facts.spellings:
            return self._by_resource.get(facts.resource, self._open)
        named = [self._by_resource.get(name, self._open) for name in (facts.resource, *sorted(facts.spellings))]
        return tuple({policy.name: policy for bucket in named for policy in bucket}.values())
