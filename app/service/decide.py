"""The way of a request, step by step; every surface goes through here.

    (1) read bytes     edge/body.py, core/strict_json.py     (6) select     core/index.py
    (2) authenticate   edge/authn.py                         (7) evaluate   core/cel/
    (3) limit          edge/limits.py                        (8) combine    core/decide.py
    (4) parse          surfaces/*/wire.py                    (9) append     ledger/receipt.py, ledger/append.py
    (5) normalise      core/normalise.py                    (10) render     surfaces/*/wire.py

    (3b) claim        edge/idempotency.py, ledger/once.py, only where a request shall be answered once: the answer is
                       stored under its key by the transaction of 9, which looks for it before 5 to 8 are done
    (8b) count         ledger/spend.py, only where a budget has a say: how much of it is used is counted under a lock,
                       7 and 8 are done again with that, and 9 is part of the same transaction

A batch takes the same way: (2) and a first (3) come before (1), since its body may be large; (3) again, for its
mutations, after (4); then (5) to (8) for each, (9) for all of them in as few statements as it takes.

A review takes the same way as one mutation, and where its enforcement point says that nothing will be changed (a dry
run) it ends with (8): that is a rehearsal, which has a type of its own and no place in the ledger.

Doubt denies, and no decision leaves without a committed ledger entry; a refusal is never an allow.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
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
from app.ledger.spend import JudgeAll, Judged, Prepare, Question, Settled, Write
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


_Render: TypeAlias = Callable[[Mapping[int, Outcome]], bytes]


class BatchExchange(Protocol):
    """One request with many mutations; the steps are those of `Exchange`."""

    def read(self) -> Coroutine[Any, Any, bytes]:
        """Step 1."""

    def authenticate(self) -> Coroutine[Any, Any, Principal]:
        """Step 2."""

    def limit(self, principal: Principal, count: int) -> Coroutine[Any, Any, None]:
        """Step 3: whether they may ask about so many more now, and ask this at all."""

    def parse(self, body: bytes) -> Coroutine[Any, Any, Batch]:
        """Step 4; what is wrong with one mutation alone stands in its place."""

    def claim(self, principal: Principal, body: bytes) -> Claim | None:
        """Step 3: under which key the caller wants the same answer again; None where they do not care."""

    def render(self, outcomes: Sequence[Outcome]) -> bytes:
        """Step 10: what became of each mutation, in their order."""

    def replayed(self) -> None:
        """Learn that the answer is one that was given before, and that nothing was decided."""


class Rehearsal(NamedTuple):
    """A verdict that is in no ledger, since nothing will be done upon it; budgets count as used up."""

    effect: Effect
    reasons: tuple[Reason, ...]
    policy_set: str
    mutation_digest: str
    approval: Mapping[str, Any] | None
    obligations: tuple[Obligation, ...] = ()
    warnings: tuple[str, ...] = ()
    annotations: Mapping[str, str] = NO_ANNOTATIONS


class ReviewExchange(Protocol):
    """One request of an enforcement point, which may say that nothing will be changed; the steps as in `Exchange`."""

    def read(self) -> Coroutine[Any, Any, bytes]:
        """Step 1."""

    def authenticate(self) -> Coroutine[Any, Any, Principal]:
        """Step 2."""

    def limit(self, principal: Principal) -> Coroutine[Any, Any, None]:
        """Step 3."""

    def parse(self, body: bytes) -> tuple[Mutation, bool]:
        """Step 4; the flag says that nothing will be changed, whatever the answer is."""

    def render(self, decision: Decision) -> bytes:
        """Step 10."""

    def render_rehearsal(self, rehearsal: Rehearsal) -> bytes:
        """Step 10 for what was not recorded."""


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
    ) -> Coroutine[Any, Any, Settled]:
        """Return what `judge` makes of the counts, and the first index after COMMIT; None where it is to be appended.

        Raises `FirewallError`: then nothing was allowed.
        """

    def settle_once(
        self, claim: Claim, *, now: datetime, prepare: Prepare, write: Write
    ) -> Coroutine[Any, Any, Settled]:
        """Return the answer that is kept under the claim; else what `prepare` asks, settled and kept in one commit.

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
        if claim is not None:

            def render(outcomes: Mapping[int, Outcome]) -> bytes:
                return exchange.render(_decided(outcomes[0]))

            told = await self._decide_once(claim, principal, Batch((mutation,)), render)
            return self._answer(told, exchange, render)
        # Read once: a set that is activated meanwhile is for the next request.
        asked = self._asked(principal, mutation, self._policies(), self._clock())  # (5)
        verdict = decide(asked.policy_set, asked.normalised, asked.now, switches=asked.switches)  # (6) (7) (8)
        if verdict.uncounted:
            outcomes = await self._record(_Round({0: asked}, {0: verdict}, {}))
            return exchange.render(_decided(outcomes[0]))
        entry = self._seal(asked, verdict)
        index = await self._ledger.append(entry)  # (9) INVARIANT: nothing below runs before COMMIT
        self._count(verdict)
        return exchange.render(_decision(asked, verdict, entry, index))  # (10)

    async def review(self, exchange: ReviewExchange) -> bytes:
        """Decide one mutation and record it, unless it will not happen: then say what would be decided, and no more.

        Raises `FirewallError` from any step: then nothing was allowed, and the caller is told so.
        """
        body = await exchange.read()  # (1)
        principal = await exchange.authenticate()  # (2)
        await exchange.limit(principal)  # (3)
        mutation, rehearsed = exchange.parse(body)  # (4)
        if rehearsed:
            return exchange.render_rehearsal(self._rehearse(principal, mutation))
        (outcome,) = await self.decide_all(principal, Batch((mutation,)))  # (5) to (9)
        return exchange.render(_decided(outcome))  # (10)

    def _rehearse(self, principal: Principal, mutation: Mutation) -> Rehearsal:
        """Steps 5 to 8.

        INVARIANT: who is bound to subjects is no enforcement point but one of those whom it watches, and would learn
        without a trace what gets past the policies. Raises FirewallError (FORBIDDEN).
        """
        if principal.binding is not None:
            raise FirewallError(
                Kind.FORBIDDEN,
                "a credential that is bound to subjects gets no answer without a record",
                fix="ask with `dryRun: false`, or with a credential that may speak for every subject",
            )
        asked = self._asked(principal, mutation, self._policies(), self._clock())  # (5)
        verdict = decide(asked.policy_set, asked.normalised, asked.now, switches=asked.switches)  # (6) (7) (8)
        return Rehearsal(
            effect=verdict.effect,
            reasons=verdict.reasons,
            policy_set=asked.policy_set.digest,
            mutation_digest=asked.normalised.digest,
            approval=verdict.approval,
            obligations=verdict.obligations,
            warnings=verdict.warnings,
            annotations=verdict.annotations,
        )

    async def decide_batch(self, exchange: BatchExchange) -> bytes:
        """Decide many mutations, record each, and give the rendered answers.

        Raises `FirewallError` where it concerns all of them: then nothing was allowed, and the caller is told so.
        """
        principal = await exchange.authenticate()  # (2)
        await exchange.limit(principal, 1)  # (3)
        body = await exchange.read()  # (1)
        claim = exchange.claim(principal, body)
        batch = await exchange.parse(body)  # (4)
        count = len(batch.items)
        await exchange.limit(principal, count - 1)  # (3)

        def render(outcomes: Mapping[int, Outcome]) -> bytes:
            return exchange.render([outcomes[position] for position in sorted(outcomes)])

        if batch.until is not None:
            return render(await self._decide_in_turn(principal, batch, until=batch.until))
        if claim is None:
            return render(await self._decide_all(principal, batch))
        return self._answer(await self._decide_once(claim, principal, batch, render), exchange, render)

    async def decide_all(self, principal: Principal, batch: Batch) -> list[Outcome]:
        """Steps 5 to 9 for mutations that somebody may ask about: what became of each, in their order.

        Raises `FirewallError` where the ledger takes none of them.
        """
        outcomes = await self._decide_all(principal, batch)
        return [outcomes[position] for position in range(len(batch.items))]

    async def _decide_all(self, principal: Principal, batch: Batch) -> Mapping[int, Outcome]:
        now = self._clock()
        made = await self._evaluate(principal, *self._admit(principal, batch, now), batch.mode, now)
        return await self._record(made) if made.asked else made.errors

    async def _decide_in_turn(self, principal: Principal, batch: Batch, *, until: bool) -> Mapping[int, Outcome]:
        """Steps 5 to 9 for one mutation after the other, up to the first whose answer is `until`.

        Those whose answer is known before their budgets are counted are recorded together with the next that is not.
        What is recorded behind the end, since somebody else took a budget meanwhile, is given to nobody.
        """
        now = self._clock()
        made = await self._evaluate(principal, *self._admit(principal, batch, now), batch.mode, now)
        outcomes: dict[int, Outcome] = {}
        together = _Round({}, {}, {})
        for position in range(len(batch.items)):
            if position in made.errors:
                together.errors[position] = made.errors[position]
                ends, known = until is False, True
            else:
                verdict = together.verdicts[position] = made.verdicts[position]
                together.asked[position] = made.asked[position]
                lets = batch.lets(position, verdict.effect, verdict.obligations)
                ends, known = lets is until, not verdict.uncounted
            if known and not ends and position < len(batch.items) - 1:
                continue
            recorded = await self._record(together) if together.asked else together.errors
            for settled in sorted(recorded):
                outcome = outcomes[settled] = recorded[settled]
                if _lets(batch, settled, outcome) is until:
                    return outcomes
            together = _Round({}, {}, {})
        return outcomes

    async def _decide_once(self, claim: Claim, principal: Principal, batch: Batch, render: "_Render") -> "_Told":
        """Steps 5 to 9 for a request that shall be answered once; a retry is not evaluated.

        The answer is rendered before the COMMIT that it is part of, and given to nobody before.
        """
        now = self._clock()
        admitted, errors = self._admit(principal, batch, now)
        if not admitted:
            return _Told(errors)
        made = _Round({}, {}, errors)

        async def prepare() -> Question:
            nonlocal made
            made = await self._evaluate(principal, admitted, errors, batch.mode, now)
            return Question(made.uncounted, partial(self._judge, made))

        settled = await self._budgets.settle_once(
            claim,
            now=now,
            prepare=prepare,
            write=lambda judged, first: render(_outcomes(made, judged, range(first, first + len(judged)))),
        )
        if settled.kept_before:
            _refuse_denied(admitted.values(), now)
            return _Told({}, settled.answer, kept_before=True)
        if settled.first_index is None:
            return _Told(made.errors)
        for verdict, _ in settled.judged:
            self._count(verdict)
        return _Told({}, settled.answer)

    def _admit(
        self, principal: Principal, batch: Batch, now: datetime
    ) -> "tuple[dict[int, _Admitted], dict[int, Outcome]]":
        """What of a batch its caller may ask about, by position, and what is wrong with the rest."""
        admitted: dict[int, _Admitted] = {}
        errors: dict[int, Outcome] = {}
        for position, item in enumerate(batch.items):
            if isinstance(item, FirewallError):
                errors[position] = item
                continue
            try:
                admitted[position] = self._may_ask(principal, item, now)
            except FirewallError as error:
                errors[position] = error
        return admitted, errors

    async def _evaluate(
        self,
        principal: Principal,
        admitted: "Mapping[int, _Admitted]",
        refused: Mapping[int, Outcome],
        mode: BatchMode,
        now: datetime,
    ) -> "_Round":
        """Steps 5 to 8, with no budget counted."""
        # INVARIANT: all of a batch is judged by one policy set at one moment.
        policy_set = self._policies()
        made = _Round({}, {}, dict(refused), atomic=mode is BatchMode.ATOMIC)
        for count, (position, one) in enumerate(admitted.items()):
            if count % SLICE == SLICE - 1:
                await asyncio.sleep(0)
            try:
                normalised = normalise(one.mutation)  # (5)
            except FirewallError as error:
                made.errors[position] = error
                continue
            made.asked[position] = _Asked(principal, one.mutation, normalised, policy_set, now, one.switches)
            made.verdicts[position] = decide(policy_set, normalised, now, switches=one.switches)  # (6) (7) (8)
        return made

    async def _record(self, made: "_Round") -> Mapping[int, Outcome]:
        """Steps 8b and 9 for what was evaluated."""
        settled = Settled((), None)
        if made.uncounted or made.atomic:
            settled = await self._budgets.settle(  # (8b)
                made.uncounted,
                now=next(iter(made.asked.values())).now,
                judge=partial(self._judge, made),
                together=made.atomic,
            )
            judged = settled.judged
        else:
            judged = self._seal_all(made.asked, made.verdicts)
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
        return _outcomes(made, judged, indexes)

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

    def _judge(self, made: "_Round", tally: Tally) -> list[Judged]:
        """(6) (7) (8) once more where budgets are counted now: one mutation after the other, each with what is left."""
        verdicts: Mapping[int, Verdict] = made.verdicts
        if made.uncounted:
            verdicts = counted = {}
            for position, one in made.asked.items():
                counters = tally.counters(made.verdicts[position].uncounted)
                verdict = decide(one.policy_set, one.normalised, one.now, counters, one.switches)
                tally.take(taken(verdict))
                counted[position] = verdict
        if made.atomic:
            verdicts = all_or_none(verdicts, barring=made.errors.keys())
        return self._seal_all(made.asked, verdicts)

    def _seal_all(self, asked: Mapping[int, "_Asked"], verdicts: Mapping[int, Verdict]) -> list[Judged]:
        """(9), first half, for what was decided together."""
        return [Judged(verdicts[position], self._seal(one, verdicts[position])) for position, one in asked.items()]

    def _asked(
        self, principal: Principal, mutation: Mutation, policy_set: CompiledPolicySet, now: datetime
    ) -> "_Asked":
        """Step 5, for a mutation that its caller may ask about."""
        _, switches = self._may_ask(principal, mutation, now)
        return _Asked(principal, mutation, normalise(mutation), policy_set, now, switches)

    def _may_ask(self, principal: Principal, mutation: Mutation, now: datetime) -> "_Admitted":
        """Whether its caller may ask about a mutation at all, and what is switched off for its subject."""
        require_subject(principal, mutation.subject)
        return _Admitted(mutation, self._switches(mutation.subject["id"], now))

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


def _refuse_denied(admitted: Iterable["_Admitted"], now: datetime) -> None:
    """Keep back an answer of an earlier moment while a kill switch denies what it may have allowed.

    Raises FirewallError(FORBIDDEN).
    """
    for one in admitted:
        switch = denying(one.switches, one.mutation.subject["id"], now)
        if switch is not None:
            raise FirewallError(
                Kind.FORBIDDEN,
                f"the kill switch `{switch.kind.value}` is on {switch.ends}, and the answer under this key is older",
                fix="ask without `Idempotency-Key` for a decision of now, or again when the switch is off",
            )


def _lets(batch: Batch, position: int, outcome: Outcome) -> bool:
    return not isinstance(outcome, FirewallError) and batch.lets(position, outcome.effect, outcome.obligations)


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


def _decided(outcome: Outcome) -> Decision:
    """The decision on the one mutation that was asked about. Raises what refused it."""
    if isinstance(outcome, FirewallError):
        raise outcome
    return outcome


def _outcomes(made: "_Round", judged: Sequence[Judged], indexes: Iterable[int | FirewallError]) -> dict[int, Outcome]:
    """What became of each mutation by its position, once those that were judged have their indexes."""
    outcomes = dict(made.errors)
    for (position, one), (verdict, entry), index in zip(made.asked.items(), judged, indexes, strict=True):
        outcomes[position] = index if isinstance(index, FirewallError) else _decision(one, verdict, entry, index)
    return outcomes


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


class _Admitted(NamedTuple):
    """A mutation that its caller may ask about, and the kill switches for its subject."""

    mutation: Mutation
    switches: tuple[Switch, ...]


class _Round(NamedTuple):
    """Mutations that were evaluated together, by position: the verdicts with no budget counted, and the errors."""

    asked: dict[int, _Asked]
    verdicts: dict[int, Verdict]
    errors: dict[int, Outcome]
    atomic: bool = False

    @property
    def uncounted(self) -> list[BudgetUse]:
        """The budgets that have to be counted before the verdicts are final."""
        return [use for verdict in self.verdicts.values() for use in verdict.uncounted]
