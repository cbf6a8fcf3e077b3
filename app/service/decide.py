"""The way of a request, step by step; every surface goes through here.

    (1) read bytes     edge/body.py, core/strict_json.py     (6) select     core/index.py
    (2) authenticate   edge/authn.py                         (7) evaluate   core/cel/
    (3) limit          edge/limits.py                        (8) combine    core/decide.py
    (4) parse          surfaces/*/wire.py                    (9) append     ledger/receipt.py, ledger/append.py
    (5) normalise      core/normalise.py                    (10) render     surfaces/*/wire.py

Doubt denies, and no answer leaves without a committed ledger entry, except a refusal, which is never an allow.
"""

from collections.abc import Callable, Coroutine, Mapping
from datetime import datetime
from typing import Any, NamedTuple, Protocol
from uuid import UUID

from app.core.decide import decide
from app.core.index import CompiledPolicySet
from app.core.normalise import normalise
from app.core.principal import Principal
from app.core.types import Effect, Mutation, Obligation, Reason
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


class DecisionService:
    """Answers mutations under the policy set in force.

    `policies` gives that set, or raises `FirewallError` where there is none yet. `clock` gives the time, aware and in
    UTC; `entropy(n)` gives n random bytes; `engine` names the release that decides, for replay; `counted` is told of
    each recorded decision.
    """

    def __init__(
        self,
        policies: Callable[[], CompiledPolicySet],
        *,
        ledger: Ledger,
        clock: Callable[[], datetime],
        entropy: Callable[[int], bytes],
        engine: str,
        counted: Callable[[Effect], None],
    ) -> None:
        self._policies = policies
        self._ledger = ledger
        self._clock = clock
        self._entropy = entropy
        self._engine = engine
        self._counted = counted

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
        normalised = normalise(mutation)  # (5)
        now = self._clock()
        policy_set = self._policies()  # read once: a set that is activated meanwhile is for the next request
        verdict = decide(policy_set, normalised, now)  # (6) (7) (8)
        pending = PendingDecision(
            id=uuid7(now, entropy=self._entropy(UUID_ENTROPY_BYTES)),
            decided_at=now,
            principal=principal,
            mutation=mutation,
            mutation_digest=normalised.digest,
            policy_set=policy_set.digest,
            verdict=verdict,
            engine=self._engine,
            sent=normalised.sent,
        )
        entry = seal_decision(pending, salt=self._entropy(SALT_BYTES))
        index = await self._ledger.append(entry)  # (9) INVARIANT: nothing below runs before COMMIT
        self._counted(verdict.effect)
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
                obligations=verdict.obligations,
            )
        )
