"""Which requests an admission policy is about: `matchConstraints` of the policy and `matchResources` of its binding."""

from dataclasses import dataclass, field
from enum import StrEnum

from app.core.admission.facts import Facts, facts_of, labels_of
from app.core.admission.resources import groups_of
from app.core.admission.selectors import Selector
from app.core.types import JsonObject

ANY = "*"
# Kubernetes does not put these through admission policies: whoever breaks them could not mend them any more.
_EXEMPT = frozenset(
    ("admissionregistration.k8s.io", resource)
    for resource in (
        "validatingadmissionpolicies",
        "validatingadmissionpolicybindings",
        "mutatingadmissionpolicies",
        "mutatingadmissionpolicybindings",
    )
)


class RuleScope(StrEnum):
    """What a rule is about: what lives in a namespace, what does not, or both."""

    ALL = "*"
    CLUSTER = "Cluster"
    NAMESPACED = "Namespaced"


@dataclass(frozen=True, slots=True)
class ResourceRule:
    """One of `resourceRules`: every list must have the fact or `*`; of `resource_names`, none means all."""

    operations: frozenset[str]
    groups: frozenset[str]
    versions: frozenset[str]
    resources: frozenset[tuple[str, str]]
    scope: RuleScope = RuleScope.ALL
    names: frozenset[str] = frozenset()

    def matches(self, facts: Facts, *, equivalent: bool, guessing: bool = False) -> bool:
        """Tell whether a request fits, with `equivalent` also as another version or group of the same resource.

        With `guessing` any name will do that the resource may have.
        """
        return (
            _has(self.operations, facts.operation)
            and self._served(facts, equivalent=equivalent)
            and self._resource(facts, facts.spellings if guessing else frozenset())
            and self._scope(facts)
            and (not self.names or facts.name in self.names)
        )

    def _served(self, facts: Facts, *, equivalent: bool) -> bool:
        if _has(self.groups, facts.group) and _has(self.versions, facts.version):
            return True
        return equivalent and any(_has(self.groups, group) for group in groups_of(facts.group, facts.resource))

    def _resource(self, facts: Facts, spellings: frozenset[str]) -> bool:
        return any(
            (resource in {ANY, facts.resource} or resource in spellings) and part in {ANY, facts.subresource}
            for resource, part in self.resources
        )

    def _scope(self, facts: Facts) -> bool:
        if self.scope is RuleScope.ALL:
            return True
        # A namespace is no part of itself. Of a kind whose scope is not known, each rule could be meant.
        namespaced = False if facts.is_namespace else facts.namespaced
        return namespaced is None or namespaced is (self.scope is RuleScope.NAMESPACED)


@dataclass(frozen=True, slots=True)
class MatchResources:
    """`matchConstraints` or `matchResources`; without rules every resource fits."""

    rules: tuple[ResourceRule, ...] = ()
    excluded: tuple[ResourceRule, ...] = ()
    namespaces: Selector = field(default_factory=Selector)
    objects: Selector = field(default_factory=Selector)
    equivalent: bool = True

    def matches(self, facts: Facts) -> bool | None:
        """Tell whether a request fits; None if that depends on labels of a namespace that nobody sent."""
        if any(rule.matches(facts, equivalent=self.equivalent) for rule in self.excluded):
            return False
        # INVARIANT: a name that is a guess brings a policy in, and leaves none out.
        if self.rules and not any(
            rule.matches(facts, equivalent=self.equivalent, guessing=True) for rule in self.rules
        ):
            return False
        if not self.objects.is_empty and not any(
            shown is not None and self.objects.matches(labels_of(shown)) for shown in (facts.object, facts.old_object)
        ):
            return False
        return self._namespace(facts)

    def _namespace(self, facts: Facts) -> bool | None:
        if self.namespaces.is_empty or not (facts.namespace or facts.is_namespace):
            # What lives in no namespace is never left out because of one.
            return True
        labels, complete = facts.namespace_labels()
        return self.namespaces.matches(labels) if complete else self.namespaces.may_match(labels)


@dataclass(frozen=True, slots=True)
class AdmissionMatch:
    """Both: a request must fit the policy and its binding."""

    constraints: MatchResources
    binding: MatchResources = field(default_factory=MatchResources)

    def matches(self, inputs: JsonObject) -> bool:
        """Tell whether the policy may have something to say about a mutation: a doubt is for it to state."""
        facts = facts_of(inputs)
        return facts is not None and self.fits(facts) is not False

    def fits(self, facts: Facts) -> bool | None:
        """Tell whether a request fits; None in doubt, also where the facts themselves are broken."""
        if facts.problem is not None:
            return None
        if (facts.group, facts.resource) in _EXEMPT:
            return False
        first = self.constraints.matches(facts)
        if first is False:
            return False
        second = self.binding.matches(facts)
        return False if second is False else None if first is None or second is None else True

    def resources(self) -> frozenset[str] | None:
        """Give the only resources it can be about, None if a rule leaves them open; for the index."""
        found = {resource for rule in self.constraints.rules for resource, _ in rule.resources}
        return None if not found or ANY in found else frozenset(found)


def _has(listed: frozenset[str], value: str) -> bool:
    return ANY in listed or value in listed
