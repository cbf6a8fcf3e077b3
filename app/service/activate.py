"""Putting a policy set into force: a mutation like any other, judged by the set that is in force before it.

    (1) catch up   with what other replicas activated
    (2) check      who signed the set, where signers are named; compile it, again, by this release
    (3) judge      subject: who asks; action: activate; resource: the set; change: from which to which
    (4) record     the decision; and if it is an allow, in one transaction: decision, activation, the set in force
                   (where a budget has a say it is counted, and 3 is done again, in this transaction)
    (5) follow     this replica takes the set before it answers

The first activation ever has nothing to judge it, and needs the role admin alone.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Final, NamedTuple, NoReturn, Protocol

import orjson

from app.core.budgets import NOT_COUNTED, Counters
from app.core.canonical import digest as digest_of
from app.core.decide import decide
from app.core.normalise import normalise
from app.core.principal import AccessScope, Principal, require
from app.core.reasons import reason_members
from app.core.switches import Switch
from app.core.types import Effect, Json, JsonObject, Mutation, NormalisedMutation, Verdict
from app.core.uuid7 import uuid7
from app.errors import FirewallError, Kind
from app.ledger.receipt import SALT_BYTES, EntryKind, PendingDecision, SealedEntry, seal, seal_decision
from app.ledger.spend import settle_within
from app.ledger.within import append_within
from app.policies.admission_shape import BINDING_KIND, POLICY_KIND
from app.policies.distribute import PolicySource, SetInForce
from app.policies.load import check_documents
from app.policies.shape import EXCEPTION_KIND, KIND, MASK_KIND
from app.policies.signatures import NOBODY, RequiredSigners, Signed
from app.policies.store import Activation, PolicySetStore, check_text
from app.service.decide import UUID_ENTROPY_BYTES, Ledger, no_switches
from app.service.sign import described, signatures_of, signers_of

RESOURCE_TYPE: Final = "policy-set"
ACTION: Final = "activate"
_EXCEPTION_PREFIX: Final = f"{EXCEPTION_KIND}/"
_POLICIES: Final = frozenset({KIND, POLICY_KIND})


@dataclass(frozen=True, slots=True)
class Activated:
    """A set that is in force. `created` is false where it was in force already and nothing was done."""

    activation: Activation
    created: bool
    decision_id: str | None


class Counted(Protocol):
    """Told of each decision that was recorded."""

    def __call__(self, effect: Effect, /) -> None:
        """One more."""


class ActivateService:
    """Activates stored sets. `clock`, `entropy`, `engine`, `counted` and `switches` are as for decisions.

    `follows` is false for a service that takes its policies from a directory: an activation would change nothing there.
    """

    def __init__(
        self,
        store: PolicySetStore,
        *,
        source: PolicySource,
        follows: bool,
        ledger: Ledger,
        clock: Callable[[], datetime],
        entropy: Callable[[int], bytes],
        engine: str,
        counted: Counted,
        signers: RequiredSigners = NOBODY,
        switches: Callable[[str, datetime], tuple[Switch, ...]] = no_switches,
    ) -> None:
        self._switches = switches
        self._store = store
        self._source = source
        self._follows = follows
        self._ledger = ledger
        self._clock = clock
        self._entropy = entropy
        self._engine = engine
        self._counted = counted
        self._signers = signers

    async def activate(self, digest: str, *, principal: Principal, reason: str) -> Activated:
        """Put a stored set into force for all replicas.

        Raises FirewallError: FORBIDDEN without the scope `policy:activate`, without the signatures that are required,
        or when the set in force denies it; CONFLICT when it holds it, when another set came into force meanwhile, or
        when the set has errors under this release; NOT_FOUND for a set that is not stored; MALFORMED for
        a bad reason; UNAVAILABLE and TIMEOUT for the database.
        """
        require(principal, AccessScope.POLICY_ACTIVATE)
        check_text(reason, "reason", required=True)
        if not self._follows:
            raise FirewallError(
                Kind.CONFLICT,
                "this service takes its policies from a directory",
                fix="change the files there, or set MFW_POLICIES__SOURCE=database",
            )
        await self._source.refresh()  # (1)
        held = self._source.in_force
        latest = await self._store.latest()
        if (None if latest is None else latest.digest) != (None if held is None else held.digest):
            raise FirewallError(
                Kind.UNAVAILABLE,
                "this replica does not have the set that is in force, and only that one may judge the next",
                retry_after=1,
                fix="try again, or look at `/health/detailed`",
            )
        stored, documents = await self._store.get(digest)
        if held is not None and held.digest == digest:
            (last,) = await self._store.history(limit=1)
            return Activated(last, created=False, decision_id=None)
        signed = await signatures_of(digest, store=self._store, signers=self._signers)  # (2)
        if not signed.enough:
            raise FirewallError(
                Kind.FORBIDDEN,
                f"the set has {signed.shortfall}",
                fix=signed.fix,
                extra={"signatures": described(signed)},
            )
        checked = await asyncio.to_thread(check_documents, documents)
        if checked.policy_set is None or checked.policy_set.digest != digest:
            raise FirewallError(
                Kind.CONFLICT,
                f"policy set `{stored.digest}` has errors under this release",
                fix="correct the policies and push them again",
            )
        now = self._clock()
        question = None
        if held is not None:
            question = await self._question(
                held, digest, documents, principal=principal, reason=reason, now=now, signed=signed
            )
        decided = None if question is None else self._judge(question, NOT_COUNTED)
        if question is not None and decided is not None:
            verdict, decision = decided
            if verdict.effect is not Effect.ALLOW and not verdict.uncounted:
                await self._refuse(question, verdict, decision)
        activation_id = uuid7(now, entropy=self._entropy(UUID_ENTROPY_BYTES))
        settled: list[SealedEntry] = []

        async def append(connection: Any) -> int:
            decision = None
            if question is not None and decided is not None:
                verdict, decision = decided
                if uncounted := verdict.uncounted:
                    verdict, decision = await settle_within(
                        connection, uncounted, now=now, judge=partial(self._judge, question)
                    )
                    if verdict.effect is not Effect.ALLOW:
                        raise _Refused(question, verdict, decision)
                settled.append(decision)
            members = {"policy_set": digest}
            if held is not None and decision is not None:
                members |= {"previous": held.digest, "decision_id": str(decision.id)}
            entry = seal(
                EntryKind.ACTIVATION,
                id=activation_id,
                at=now,
                principal=principal,
                members=members,
                record={"engine": self._engine, "reason": reason, **signers_of(signed), **members},
                salt=self._entropy(SALT_BYTES),
            )
            entries = [entry] if decision is None else [decision, entry]
            return await append_within(connection, entries) + len(entries) - 1

        try:
            made = await self._store.activate(  # (4)
                digest,
                previous=None if held is None else held.digest,
                reason=reason,
                activated_by=principal.id,
                activated_at=now,
                ledger_id=activation_id,
                append=append,
            )
        except _Refused as refused:
            await self._refuse(refused.question, refused.verdict, refused.entry)
        if settled:
            self._counted(Effect.ALLOW)
        await self._source.refresh()  # (5)
        return Activated(made, created=True, decision_id=str(settled[0].id) if settled else None)

    async def _question(
        self,
        held: SetInForce,
        digest: str,
        documents: list[Json],
        *,
        principal: Principal,
        reason: str,
        now: datetime,
        signed: Signed,
    ) -> "_Question":
        """Step (3), first half: the activation as a mutation."""
        before = await asyncio.to_thread(lambda: _by_name(orjson.loads(held.content)))
        after = await asyncio.to_thread(_by_name, documents)
        mutation = Mutation(
            subject={
                "type": principal.kind.value,
                "id": principal.id,
                "properties": {"roles": sorted(principal.roles), "method": principal.method.value},
            },
            action={"name": ACTION, "properties": {}},
            resource={"type": RESOURCE_TYPE, "id": digest, "properties": {}},
            change={
                "before": {"digest": held.digest, **_counts(before)},
                "after": {
                    "digest": digest,
                    **_counts(after),
                    "added": sorted(after.keys() - before.keys()),
                    "removed": sorted(before.keys() - after.keys()),
                    "changed": sorted(name for name in after.keys() & before.keys() if after[name] != before[name]),
                    **({"signers": [one.name for one in signed.signers]} if self._signers.signers else {}),
                },
            },
            context={"surface": "policy-sets", "rollback": await self._store.was_active(digest)},
            rationale=reason,
        )
        return _Question(held, principal, mutation, normalise(mutation), now, self._switches(principal.id, now))

    def _judge(self, question: "_Question", counters: Counters) -> tuple[Verdict, SealedEntry]:
        """Step (3), second half: the verdict and its sealed entry, not recorded yet."""
        verdict = decide(question.held.policy_set, question.normalised, question.now, counters, question.switches)
        sealed = seal_decision(
            PendingDecision(
                id=uuid7(question.now, entropy=self._entropy(UUID_ENTROPY_BYTES)),
                decided_at=question.now,
                principal=question.principal,
                mutation=question.mutation,
                mutation_digest=question.normalised.digest,
                policy_set=question.held.digest,
                verdict=verdict,
                engine=self._engine,
                switches=question.switches,
            ),
            salt=self._entropy(SALT_BYTES),
        )
        return verdict, sealed

    async def _refuse(self, question: "_Question", verdict: Verdict, sealed: SealedEntry) -> NoReturn:
        """Record what is not an allow, and raise it."""
        index = await self._ledger.append(sealed)
        self._counted(verdict.effect)
        raise _not_allowed(verdict, sealed, index=index, judge=question.held.digest)


class _Question(NamedTuple):
    """What the set in force is asked."""

    held: SetInForce
    principal: Principal
    mutation: Mutation
    normalised: NormalisedMutation
    now: datetime
    switches: tuple[Switch, ...]


class _Refused(Exception):  # noqa: N818 - no error: it takes a verdict out of a transaction that is to leave nothing
    """The budgets were counted, and the verdict is not an allow."""

    def __init__(self, question: _Question, verdict: Verdict, entry: SealedEntry) -> None:
        super().__init__()
        self.question = question
        self.verdict = verdict
        self.entry = entry


def _by_name(documents: list[Json]) -> dict[str, str]:
    """Digests of a set's documents by their names.

    INVARIANT: no two documents of a set have one name here, or a change of one of them could not be judged.
    """
    return {_named(document): digest_of(document) for document in documents if isinstance(document, dict)}


def _named(document: JsonObject) -> str:
    """Name a document: a policy by its name, which has no slash; everything else with its kind before it."""
    kind = document.get("kind")
    metadata = document.get("metadata")
    names = metadata if isinstance(metadata, dict) else {}
    name = str(names.get("name"))
    if kind in _POLICIES:
        return name
    if kind in {EXCEPTION_KIND, MASK_KIND, BINDING_KIND}:
        return f"{kind}/{name}"
    # A parameter: an object of any kind.
    return "/".join([str(document.get("apiVersion")), str(kind), str(names.get("namespace", "")), name])


def _counts(names: Iterable[str]) -> dict[str, int]:
    listed = list(names)
    return {
        "policies": sum("/" not in name for name in listed),
        "exceptions": sum(name.startswith(_EXCEPTION_PREFIX) for name in listed),
    }


def _not_allowed(verdict: Verdict, sealed: SealedEntry, *, index: int, judge: str) -> FirewallError:
    extra: dict[str, Any] = {
        "decision": verdict.effect.value,
        "decision_id": str(sealed.id),
        "ledger_index": index,
        "policy_set": judge,
        "reasons": [reason_members(one) for one in verdict.reasons],
    }
    if verdict.effect is Effect.HOLD:
        extra["approval"] = verdict.approval
        return FirewallError(
            Kind.CONFLICT,
            f"the set in force holds this activation: {verdict.reasons[0].message}",
            fix="people have to approve it first, as `approval` says",
            extra=extra,
        )
    return FirewallError(
        Kind.FORBIDDEN, f"the set in force denies this activation: {verdict.reasons[0].message}", extra=extra
    )
