"""Which subjects, resources or actions would be allowed: among those that are named somewhere, as of now.

Nothing is decided here and nothing is recorded: what is found is asked about again before anything is changed.
"""

import asyncio
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final

from app.core.decide import decide
from app.core.index import CompiledPolicySet, EntityPattern
from app.core.normalise import normalise
from app.core.obligations import unmet
from app.core.principal import Principal, require_subject
from app.core.switches import Switch
from app.core.types import Effect, JsonObject, Mutation
from app.errors import FirewallError
from app.service.decide import no_switches

# Candidates that are asked about before others get their turn: some 2 ms.
SLICE: Final = 32


class Wanted(StrEnum):
    """What is looked for."""

    SUBJECT = "subject"
    RESOURCE = "resource"
    ACTION = "action"


@dataclass(frozen=True, slots=True)
class Entities:
    """What there is, as far as anybody said: subjects and resources as `{type, id, properties}`, actions by name."""

    subjects: tuple[JsonObject, ...] = ()
    resources: tuple[JsonObject, ...] = ()
    actions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Search:
    """What is looked for, for what. `given` has the parties; of the one that is looked for the type and properties.

    A page begins behind the name `after` and has `limit` results at most. `fingerprint` names the search, `paged` how
    its pages were asked for. What is allowed under obligations is found where the keys of all of them are among
    `fulfilled`.
    """

    wanted: Wanted
    given: Mapping[str, JsonObject]
    change: JsonObject
    context: JsonObject
    limit: int
    fulfilled: Collection[str] = ()
    after: str | None = None
    fingerprint: str = ""
    paged: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """One page: `last` is the name that the next one begins behind, None where there is none."""

    results: Sequence[JsonObject]
    last: str | None = None


@dataclass(frozen=True, slots=True)
class SearchService:
    """Looks among the entities that are registered and those that the policies in force name."""

    policies: Callable[[], CompiledPolicySet]
    clock: Callable[[], datetime]
    entities: Entities = field(default_factory=Entities)
    switches: Callable[[str, datetime], tuple[Switch, ...]] = no_switches

    async def find(self, search: Search, *, principal: Principal) -> Found:
        """Give a page of those that would be allowed, sorted by name.

        Of subjects the principal finds those that it may speak for. Raises FirewallError (FORBIDDEN, MALFORMED) where
        it may not ask so, or nobody could.
        """
        policy_set, now = self.policies(), self.clock()
        if search.wanted is not Wanted.SUBJECT:
            require_subject(principal, search.given["subject"])
        given = {name: self._known(search, name) for name in search.given}
        results: list[JsonObject] = []
        last = search.after or ""
        for count, (name, candidate) in enumerate(self._behind(search, policy_set)):
            if count % SLICE == SLICE - 1:
                await asyncio.sleep(0)
            parties = {**given, search.wanted.value: candidate}
            if search.wanted is Wanted.SUBJECT and not _may_speak_for(principal, candidate):
                continue
            if not self._allows(policy_set, parties, search, now):
                continue
            if len(results) == search.limit:
                return Found(results, last)
            results.append(_named(candidate))
            last = name
        return Found(results)

    def _allows(
        self, policy_set: CompiledPolicySet, parties: Mapping[str, JsonObject], search: Search, now: datetime
    ) -> bool:
        mutation = Mutation(parties["subject"], parties["action"], parties["resource"], search.change, search.context)
        switches = self.switches(mutation.subject["id"], now)
        # A budget that nobody counts denies: what is found is allowed whatever has been used.
        verdict = decide(policy_set, normalise(mutation), now, switches=switches)
        return verdict.effect is Effect.ALLOW and not unmet(verdict.obligations, search.fulfilled)

    def _known(self, search: Search, name: str) -> JsonObject:
        """A party that is given, with what is registered of it: as if it had been found itself."""
        party = search.given[name]
        registered = {"subject": self.entities.subjects, "resource": self.entities.resources}.get(name, ())
        for one in () if name == search.wanted else registered:
            if (one["type"], one["id"]) == (party["type"], party["id"]):
                party = _filled(one, party)
        return party

    def _behind(self, search: Search, policy_set: CompiledPolicySet) -> Iterator[tuple[str, JsonObject]]:
        """The candidates of a page and all pages after it, each with its name, in the order of names."""
        candidates = dict(self._candidates(search, policy_set))
        for name in sorted(candidates):
            if search.after is None or name > search.after:
                yield name, candidates[name]

    def _candidates(self, search: Search, policy_set: CompiledPolicySet) -> Iterator[tuple[str, JsonObject]]:
        matches = [policy.match for policy in policy_set.mutation_policies]
        if search.wanted is Wanted.ACTION:
            named = [glob.literal for match in matches for glob in match.actions if glob.literal is not None]
            yield from ((name, {"name": name, "properties": {}}) for name in {*named, *self.entities.actions})
            return
        asked = search.given[search.wanted.value]
        if search.wanted is Wanted.SUBJECT:
            registered, patterns = self.entities.subjects, [one for match in matches for one in match.subjects]
        else:
            registered, patterns = self.entities.resources, [one for match in matches for one in match.resources]
        for name in _ids(patterns, asked["type"]):
            yield name, {**asked, "id": name}
        # Behind the others, so that what is known of one is not lost.
        for one in registered:
            if one["type"] == asked["type"]:
                yield one["id"], _filled(one, asked)


def _filled(registered: JsonObject, sent: JsonObject) -> JsonObject:
    """An entity as it is registered; what is sent of its properties counts more."""
    return {**registered, "properties": {**registered["properties"], **sent["properties"]}}


def _ids(patterns: Iterable[EntityPattern], of_type: str) -> Iterator[str]:
    """The ids that policies name for a type."""
    for pattern in patterns:
        literal = None if pattern.id is None else pattern.id.literal
        if literal is not None and (pattern.type is None or pattern.type.matches(of_type)):
            yield literal


def _may_speak_for(principal: Principal, subject: JsonObject) -> bool:
    try:
        require_subject(principal, subject)
    except FirewallError:
        return False
    return True


def _named(candidate: JsonObject) -> JsonObject:
    return {name: candidate[name] for name in ("name", "type", "id") if name in candidate}
