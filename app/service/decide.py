"""The way of a request, step by step; every surface goes through here.

    (1) read bytes     edge/body.py, core/strict_json.py     (6) select     core/index.py
    (2) authenticate   edge/authn.py                         (7) evaluate   core/cel/
    (3) limit          edge/limits.py                        (8) combine    core/decide.py
    (4) parse          surfaces/*/wire.py                    (9) append     ledger/receipt.py, ledger/append.py
    (5) normalise      core/normalise.py                    (10) render     surfaces/*/wire.py

    (3b) claim        edge/idempotency.py, ledger/once.py, only where a request shall be answered once: the answer is
                       stored under its key by the transaction of 9, and looked for by it before anything else
    (8b) count         ledger/spend.py, only where a budget has a say: how much of it is used is counted under a lock,
                       7 and 8 are done again with that, and 9 is part of the same transaction

A batch takes the same way: (2) and a first (3) come before (1), since its body may be large; (3) again, for its
mutations, after (4); then (5) to (8) for each, (9) for all of them in as few statements as it takes.

Doubt denies, and no answer leaves without a committed ledger entry, except a refusal, which is never an allow.
"""

import asyncio
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any, Final, NamedTuple, Protocol, TypeAlias
from uuid import UUID

from app.core.batch import Batch, BatchMode, all_or_none
from app.core.budgets import Tally
from app.core.cel import bind
from app.core.decide import decide
from app.core.index import CompiledPolicySet
from app.core.normalise import digest, normalise
from app.core.principal import Principal, require_subject
from app.core.record_masks import Masked, commitments, mask
from app.core.switches import Switch, denying
from app.core.types import (
    NO_ANNOTATIONS,
    BudgetUse,
    Effect,
    Mode,
    Mutation,
    NormalisedMutation,
    Obligation,
    Reason,
    Verdict,
)
from app.core.uuid7 import uuid7
from app.errors import FirewallError, Kind
from app.ledger.once import Claim
from app.ledger.receipt import SALT_BYTES, PendingDecision, SealedEntry, seal_decision, timestamp
from app.ledger.spend import JudgeAll, Judged, Keep, Settled
from app.ledger.uses import taken

# RFC 9562 section 5.7 leaves 74 bits of a UUIDv7 to chance.
UUID_ENTROPY_BYTES = 10

MASK_KEY_BYTES: Final = 32

# Mutations of a batch that are decided before others get their turn: some 2 ms.
SLICE: Final = 32


class Decision(NamedTuple):
    """A verdict that is in the ledger. There is no other way to make one than `DecisionService.decide`."""

    id: UUID
    effect: Effect
    reasons: tuple[Reason, ...]
    policy_set: str
    mutation_digest: str
    ledger_index: int
    receipt_hash: str
    decided_at: str
    approval: Mapping[str, Any] | None
    request_id: str | None
    budgets: tuple[BudgetUse, ...] = ()
    obligations: tuple[Obligation, ...] = ()
    warnings: tuple[str, ...] = ()
    annotations: Mapping[str, str] = NO_ANNOTATIONS


class Exchange(Protocol):
    """One request at one surface: the steps that touch the outside. Each may raise `FirewallError`, and then no
    decision was made and nothing was recorded.
    """

    def read(self) -> Coroutine[Any, Any, bytes]:
        """Step 1: the body, its size limited while it is read."""

    def authenticate(self) -> Coroutine[Any, Any, Principal]:
        """Step 2: who asks."""

    def limit(self, principal: Principal) -> Coroutine[Any, Any, None]:
        """Step 3: whether they may ask now, and ask this at all."""

    def parse(self, body: bytes) -> Mutation:
        """Step 4: the surface's wire format becomes a mutation; the surface is gone after this point."""

    def claim(self, principal: Principal, body: bytes) -> Claim | None:
        """Step 3: under which key the caller wants the same answer again; None where they do not care."""

    def render(self, decision: Decision) -> bytes:
        """Step 10: the recorded decision in the surface's wire format."""

    def replayed(self) -> None:
        """Learn that the answer is one that was given before, and that nothing was decided."""


# What became of one mutation of a batch: it is recorded, or it was refused.
Outcome: TypeAlias = "Decision | FirewallError"


NO_ERRORS: Final[Mapping[int, Outcome]] = {}

_Render: TypeAlias = Callable[[Mapping[int, Outcome]], bytes]


class BatchExchange(Protocol):
    """One request with many mutations; the steps are those of `Exchange`."""

    def read(self) -> Coroutine[Any, Any, bytes]:
        """Step 1."""

    def authenticate(self) -> Coroutine[Any, Any, Principal]:
        """Step 2."""

    def limit(self, principal: Principal, count: int) -> Coroutine[Any, Any, None]:
        """Step 3: whether they may ask about so many more now, and ask this at all."""

    def parse(self, body: bytes) -> Batch:
        """Step 4; what is wrong with one mutation alone stands in its place."""

    def claim(self, principal: Principal, body: bytes) -> Claim | None:
        """Step 3: under which key the caller wants the same answer again; None where they do not care."""

    def render(self, outcomes: Sequence[Outcome]) -> bytes:
        """Step 10: what became of each mutation, in their order."""

    def replayed(self) -> None:
        """Learn that the answer is one that was given before, and that nothing was decided."""


class Ledger(Protocol):
    """Where decisions become durable."""

    def append(self, entry: SealedEntry) -> Coroutine[Any, Any, int]:
        """Return the entry's index after COMMIT, or raise `FirewallError`."""

    def append_all(self, entries: Sequence[SealedEntry]) -> Coroutine[Any, Any, list[int | FirewallError]]:
        """Return the index of each after its COMMIT, or why there is none; raise where none was let in."""


class Budgets(Protocol):
    """Where the uses of budgets are counted, one decision at a time for each budget."""

    def settle(
        self,
        uses: Sequence[BudgetUse],
        *,
        now: datetime,
        judge: JudgeAll,
        together: bool = False,
        keep: Keep | None = None,
    ) -> Coroutine[Any, Any, Settled]:
        """Return what `judge` makes of the counts, and the first index after COMMIT; None where it is to be appended.

        Or the answer that is kept already under the claim of `keep`.

        Raises `FirewallError`: then nothing was allowed.
        """


def no_switches(_subject_id: str, _now: datetime) -> tuple[Switch, ...]:
    """The kill switches of a service that has none."""
    return ()


class DecisionService:
    """Answers mutations under the policy set in force.

    `policies` gives that set, or raises `FirewallError` where there is none yet. `clock` gives the time, aware and in
    UTC; `entropy(n)` gives n random bytes; `engine` names the release that decides, for replay; `counted` is told of
    each recorded decision, `exhausted` of each budget without room that one met. `switches` gives the kill switches in
    force for a subject at a moment, or raises `FirewallError` where they are not known. `mask_key` is what hidden
    values are committed to with, so that whoever has it can show one of them.
    """

    def __init__(
        self,
        policies: Callable[[], CompiledPolicySet],
        *,
        ledger: Ledger,
        budgets: Budgets,
        clock: Callable[[], datetime],
        entropy: Callable[[int], bytes],
        engine: str,
        counted: Callable[[Effect], None],
        exhausted: Callable[[Mode], None],
        switches: Callable[[str, datetime], tuple[Switch, ...]] = no_switches,
        mask_key: bytes | None = None,
    ) -> None:
        self._policies = policies
        self._ledger = ledger
        self._budgets = budgets
        self._clock = clock
        self._entropy = entropy
        self._engine = engine
        self._counted = counted
        self._exhausted = exhausted
        self._switches = switches
        # Without a key to keep there is one that nobody has: what is hidden can then never be shown.
        self._mask_key = entropy(MASK_KEY_BYTES) if mask_key is None else mask_key

    @property
    def policy_set(self) -> CompiledPolicySet:
        """The set in force."""
        return self._policies()

    async def decide(self, exchange: Exchange) -> bytes:
        """Decide one mutation, record it, and give the rendered answer.

        Raises `FirewallError` from any step: then nothing was allowed, and the caller is told so.
        """
        body = await exchange.read()  # (1)
        principal = await exchange.authenticate()  # (2)
        await exchange.limit(principal)  # (3)
        claim = exchange.claim(principal, body)
        mutation = exchange.parse(body)  # (4)
        # Read once: a set that is activated meanwhile is for the next request.
        asked = self._asked(principal, mutation, self._policies(), self._clock())  # (5)
        verdict = decide(asked.policy_set, asked.normalised, asked.now, switches=asked.switches)  # (6) (7) (8)
        if claim is None and not verdict.uncounted:
            entry = self._seal(asked, verdict)
            index = await self._ledger.append(entry)  # (9) INVARIANT: nothing below runs before COMMIT
            self._count(verdict)
            return exchange.render(_decision(asked, verdict, entry, index))  # (10)

        def render(outcomes: Mapping[int, Outcome]) -> bytes:
            outcome = outcomes[0]
            if isinstance(outcome, FirewallError):
                raise outcome
            return exchange.render(outcome)

        told = await self._record({0: asked}, {0: verdict}, claim=claim, render=render)
        return self._answer(told, exchange, render)

    async def decide_batch(self, exchange: BatchExchange) -> bytes:
        """Decide many mutations, record each, and give the rendered answers.

        Raises `FirewallError` where it concerns all of them: then nothing was allowed, and the caller is told so.
        """
        principal = await exchange.authenticate()  # (2)
        await exchange.limit(principal, 1)  # (3)
        body = await exchange.read()  # (1)
        claim = exchange.claim(principal, body)
        batch = exchange.parse(body)  # (4)
        count = len(batch.items)
        await exchange.limit(principal, count - 1)  # (3)

        def render(outcomes: Mapping[int, Outcome]) -> bytes:
            return exchange.render([outcomes[position] for position in range(count)])

        return self._answer(await self._decide_all(principal, batch, claim=claim, render=render), exchange, render)

    async def decide_all(self, principal: Principal, batch: Batch) -> list[Outcome]:
        """Steps 5 to 9 for mutations that somebody may ask about: what became of each, in their order.

        Raises `FirewallError` where the ledger takes none of them.
        """
        told = await self._decide_all(principal, batch)
        return [told.outcomes[position] for position in range(len(batch.items))]

    async def _decide_all(
        self, principal: Principal, batch: Batch, *, claim: Claim | None = None, render: "_Render | None" = None
    ) -> "_Told":
        # INVARIANT: all of a batch is judged by one policy set at one moment.
        policy_set, now = self._policies(), self._clock()
        errors: dict[int, Outcome] = {}
        asked: dict[int, _Asked] = {}
        verdicts: dict[int, Verdict] = {}
        for position, item in enumerate(batch.items):
            if position % SLICE == SLICE - 1:
                await asyncio.sleep(0)
            if isinstance(item, FirewallError):
                errors[position] = item
                continue
            try:
                one = self._asked(principal, item, policy_set, now)  # (5)
            except FirewallError as error:
                errors[position] = error
                continue
            asked[position] = one
            verdicts[position] = decide(policy_set, one.normalised, now, switches=one.switches)  # (6) (7) (8)
        if not asked:
            return _Told(errors)
        return await self._record(
            asked, verdicts, errors=errors, atomic=batch.mode is BatchMode.ATOMIC, claim=claim, render=render
        )

    async def _record(
        self,
        asked: Mapping[int, "_Asked"],
        verdicts: Mapping[int, Verdict],
        *,
        errors: Mapping[int, Outcome] = NO_ERRORS,
        atomic: bool = False,
        claim: Claim | None = None,
        render: "_Render | None" = None,
    ) -> "_Told":
        """Steps 8b and 9 for what is decided, by position; `errors` are of what is not.

        With a `claim` the answer is rendered before the COMMIT that it is part of, and given to nobody before.
        """

        def told(judged: Sequence[Judged], indexes: Iterable[int | FirewallError]) -> dict[int, Outcome]:
            outcomes = dict(errors)
            for (position, one), (verdict, entry), index in zip(asked.items(), judged, indexes, strict=True):
                if isinstance(index, FirewallError):
                    outcomes[position] = index
                else:
                    outcomes[position] = _decision(one, verdict, entry, index)
            return outcomes

        uses = {position: verdict.uncounted for position, verdict in verdicts.items()}
        uncounted = [use for each in uses.values() for use in each]
        settled = Settled((), None)
        if uncounted or atomic or claim is not None:
            keep: Keep | None = None
            if claim is not None and render is not None:
                keep = Keep(claim, lambda judged, first: render(told(judged, range(first, first + len(judged)))))
            settled = await self._budgets.settle(  # (8b)
                uncounted,
                now=next(iter(asked.values())).now,
                judge=partial(self._judge, asked, uses, barring=errors.keys() if atomic else None),
                together=atomic,
                keep=keep,
            )
            if settled.kept_before:
                _refuse_denied(asked.values())
                return _Told({}, settled.answer, kept_before=True)
            judged = settled.judged
        else:
            judged = self._seal_all(asked, verdicts)
        indexes: Sequence[int | FirewallError]
        if settled.first_index is None:
            indexes = await self._ledger.append_all([one.entry for one in judged])  # (9)
            if all(isinstance(index, FirewallError) for index in indexes) and isinstance(indexes[0], FirewallError):
                raise indexes[0]
        else:
            indexes = range(settled.first_index, settled.first_index + len(judged))
        for (verdict, _), index in zip(judged, indexes, strict=True):
            if not isinstance(index, FirewallError):
                self._count(verdict)
        return _Told(told(judged, indexes), settled.answer)

    def _answer(self, told: "_Told", exchange: Exchange | BatchExchange, render: "_Render") -> bytes:
        """Step 10: what is kept under a claim goes out byte for byte."""
        if told.kept_before:
            exchange.replayed()
        return told.answer or render(told.outcomes)

    def _count(self, verdict: Verdict) -> None:
        """Tell of a verdict that is committed."""
        self._counted(verdict.effect)
        for use in verdict.budgets:
            if not use.has_room:
                self._exhausted(use.mode)

    def _judge(
        self,
        asked: Mapping[int, "_Asked"],
        uses: Mapping[int, Sequence[BudgetUse]],
        tally: Tally,
        *,
        barring: Collection[int] | None,
    ) -> list[Judged]:
        """(6) (7) (8) once more, with every budget counted: one mutation after the other, each with what is left.

        `barring` are the positions in an atomic batch that hold no mutation; None where nothing is atomic.
        """
        decided: dict[int, Verdict] = {}
        for position, one in asked.items():
            verdict = decide(one.policy_set, one.normalised, one.now, tally.counters(uses[position]), one.switches)
            tally.take(taken(verdict))
            decided[position] = verdict
        verdicts = decided if barring is None else all_or_none(decided, barring=barring)
        return self._seal_all(asked, verdicts)

    def _seal_all(self, asked: Mapping[int, "_Asked"], verdicts: Mapping[int, Verdict]) -> list[Judged]:
        """(9), first half, for what was decided together."""
        return [Judged(verdicts[position], self._seal(one, verdicts[position])) for position, one in asked.items()]

    def _asked(
        self, principal: Principal, mutation: Mutation, policy_set: CompiledPolicySet, now: datetime
    ) -> "_Asked":
        """Step 5, for a mutation that its caller may ask about."""
        require_subject(principal, mutation.subject)
        switches = self._switches(mutation.subject["id"], now)
        return _Asked(principal, mutation, normalise(mutation), policy_set, now, switches)

    def _seal(self, asked: "_Asked", verdict: Verdict) -> SealedEntry:
        """(9), first half."""
        identifier = uuid7(asked.now, entropy=self._entropy(UUID_ENTROPY_BYTES))
        masked = self._masked(asked, identifier) if asked.policy_set.masks else None
        pending = PendingDecision(
            id=identifier,
            decided_at=asked.now,
            principal=asked.principal,
            mutation=asked.mutation,
            # What is hidden must not be found again by trying what has this digest.
            mutation_digest=asked.normalised.digest if masked is None else digest(masked.mutation),
            policy_set=asked.policy_set.digest,
            verdict=verdict,
            engine=self._engine,
            sent=asked.normalised.sent,
            switches=asked.switches,
            masked=masked,
        )
        return seal_decision(pending, salt=self._entropy(SALT_BYTES))

    def _masked(self, asked: "_Asked", identifier: UUID) -> Masked | None:
        """(9), before anything is written: the mutation without what the policy set's masks hide."""
        bindings = bind(asked.normalised.inputs, now=asked.now)
        commit = commitments(self._mask_key, str(identifier))
        return mask(asked.policy_set.masks, asked.mutation, bindings, commit)


def _refuse_denied(asked: Iterable["_Asked"]) -> None:
    """Keep back an answer of an earlier moment while a kill switch denies what it may have allowed.

    Raises FirewallError(FORBIDDEN).
    """
    for one in asked:
        switch = denying(one.switches, one.mutation.subject["id"], one.now)
        if switch is not None:
            raise FirewallError(
                Kind.FORBIDDEN,
                f"the kill switch `{switch.kind.value}` is on {switch.ends}, and the answer under this key is older",
                fix="ask without `Idempotency-Key` for a decision of now, or again when the switch is off",
            )


def _decision(asked: "_Asked", verdict: Verdict, entry: SealedEntry, index: int) -> Decision:
    """Make a decision of a verdict whose entry has its index."""
    return Decision(
        id=entry.id,
        effect=verdict.effect,
        reasons=verdict.reasons,
        policy_set=asked.policy_set.digest,
        mutation_digest=asked.normalised.digest,
        ledger_index=index,
        receipt_hash=entry.receipt_hash,
        decided_at=timestamp(asked.now),
        approval=verdict.approval,
        request_id=asked.mutation.request_id,
        budgets=verdict.budgets,
        obligations=verdict.obligations,
        warnings=verdict.warnings,
        annotations=verdict.annotations,
    )


class _Told(NamedTuple):
    """What became of each mutation by its position, or the answer that is kept."""

    outcomes: Mapping[int, Outcome]
    answer: bytes = b""
    kept_before: bool = False


class _Asked(NamedTuple):
    """What a verdict is about."""

    principal: Principal
    mutation: Mutation
    normalised: NormalisedMutation
    policy_set: CompiledPolicySet
    now: datetime
    switches: tuple[Switch, ...]
