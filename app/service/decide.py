"""The way of a request, step by step; every surface goes through here.

    (1) read bytes     edge/body.py, core/strict_json.py     (6) select     core/index.py
    (2) authenticate   edge/authn.py                         (7) evaluate   core/cel/
    (3) limit          edge/limits.py                        (8) combine    core/decide.py
    (4) parse          surfaces/*/wire.py                    (9) append     ledger/receipt.py, ledger/append.py
    (5) normalise      core/normalise.py                    (10) render     surfaces/*/wire.py

    (8b) count         ledger/spend.py, only where a budget has a say: how much of it is used is counted under a lock,
                       7 and 8 are done again with that, and 9 is part of the same transaction

Doubt denies, and no answer leaves without a committed ledger entry, except a refusal, which is never an allow.
"""

from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple, Protocol
from uuid import UUID

from app.core.budgets import Counters
from app.core.decide import decide
from app.core.index import CompiledPolicySet
from app.core.normalise import normalise
from app.core.principal import Principal, require_subject
from app.core.types import BudgetUse, Effect, Mode, Mutation, NormalisedMutation, Obligation, Reason, Verdict
from app.core.uuid7 import uuid7
from app.ledger.receipt import SALT_BYTES, PendingDecision, SealedEntry, seal_decision, timestamp

# RFC 9562 section 5.7 leaves 74 bits of a UUIDv7 to chance.
UUID_ENTROPY_BYTES = 10


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

    def render(self, decision: Decision) -> bytes:
        """Step 10: the recorded decision in the surface's wire format."""


class Ledger(Protocol):
    """Where decisions become durable."""

    def append(self, entry: SealedEntry) -> Coroutine[Any, Any, int]:
        """Return the entry's index after COMMIT, or raise `FirewallError`."""


class Budgets(Protocol):
    """Where the uses of budgets are counted, one decision at a time for each budget."""

    def settle(
        self,
        uses: Sequence[BudgetUse],
        *,
        now: datetime,
        judge: Callable[[Counters], tuple[Verdict, SealedEntry]],
    ) -> Coroutine[Any, Any, tuple[Verdict, SealedEntry, int | None]]:
        """Return what `judge` makes of the counts, and the index after COMMIT; None where it is still to be appended.

        Raises `FirewallError`: then nothing was allowed.
        """


class DecisionService:
    """Answers mutations under the policy set in force.

    `policies` gives that set, or raises `FirewallError` where there is none yet. `clock` gives the time, aware and in
    UTC; `entropy(n)` gives n random bytes; `engine` names the release that decides, for replay; `counted` is told of
    each recorded decision, `exhausted` of each budget without room that one met.
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
    ) -> None:
        self._policies = policies
        self._ledger = ledger
        self._budgets = budgets
        self._clock = clock
        self._entropy = entropy
        self._engine = engine
        self._counted = counted
        self._exhausted = exhausted

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
        mutation = exchange.parse(body)  # (4)
        require_subject(principal, mutation.subject)
        normalised = normalise(mutation)  # (5)
        now = self._clock()
        policy_set = self._policies()  # read once: a set that is activated meanwhile is for the next request
        asked = _Asked(principal, mutation, normalised, policy_set, now)
        verdict = decide(policy_set, normalised, now)  # (6) (7) (8)
        index: int | None = None
        if uncounted := verdict.uncounted:
            judge = partial(self._judge, asked)
            verdict, entry, index = await self._budgets.settle(uncounted, now=now, judge=judge)  # (8b)
        else:
            entry = self._seal(asked, verdict)
        if index is None:
            index = await self._ledger.append(entry)  # (9) INVARIANT: nothing below runs before COMMIT
        self._counted(verdict.effect)
        for use in verdict.budgets:
            if not use.has_room:
                self._exhausted(use.mode)
        return exchange.render(  # (10)
            Decision(
                id=entry.id,
                effect=verdict.effect,
                reasons=verdict.reasons,
                policy_set=policy_set.digest,
                mutation_digest=normalised.digest,
                ledger_index=index,
                receipt_hash=entry.receipt_hash,
                decided_at=timestamp(now),
                approval=verdict.approval,
                request_id=mutation.request_id,
                budgets=verdict.budgets,
                obligations=verdict.obligations,
            )
        )

    def _judge(self, asked: "_Asked", counters: Counters) -> tuple[Verdict, SealedEntry]:
        """(6) (7) (8) once more, with every budget counted."""
        verdict = decide(asked.policy_set, asked.normalised, asked.now, counters)
        return verdict, self._seal(asked, verdict)

    def _seal(self, asked: "_Asked", verdict: Verdict) -> SealedEntry:
        """(9), first half."""
        pending = PendingDecision(
            id=uuid7(asked.now, entropy=self._entropy(UUID_ENTROPY_BYTES)),
            decided_at=asked.now,
            principal=asked.principal,
            mutation=asked.mutation,
            mutation_digest=asked.normalised.digest,
            policy_set=asked.policy_set.digest,
            verdict=verdict,
            engine=self._engine,
            sent=asked.normalised.sent,
        )
        return seal_decision(pending, salt=self._entropy(SALT_BYTES))


class _Asked(NamedTuple):
    """What a verdict is about."""

    principal: Principal
    mutation: Mutation
    normalised: NormalisedMutation
    policy_set: CompiledPolicySet
    now: datetime
