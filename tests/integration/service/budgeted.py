"""A replica without its surface, for tests of budgets; as a program it asks until it is killed."""

import asyncio
import contextlib
import os
import secrets
import sys
from collections.abc import Callable, Coroutine, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Self

from app.core.batch import Batch, BatchMode
from app.core.index import CompiledPolicySet
from app.core.principal import AuthMethod, Principal, PrincipalKind, Role
from app.core.types import Effect, Mode, Mutation
from app.errors import FirewallError
from app.ledger.append import LedgerWriter
from app.ledger.once import Claim
from app.ledger.spend import BudgetLedger
from app.persistence.engine import create_engine
from app.policies.load import check_documents
from app.service.decide import Decision, DecisionService, Outcome

# Longer than any machine takes.
PATIENT = 60.0

WHO = Principal("key-1", PrincipalKind.AGENT, frozenset({Role.AGENT}), AuthMethod.API_KEY)


def policy(*budgets: Mapping[str, Any], name: str = "p", **spec: Any) -> dict[str, Any]:
    """A document that allows everything within its budgets."""
    return {
        "apiVersion": "mutationfirewall.io/v1",
        "kind": "MutationPolicy",
        "metadata": {"name": name},
        "spec": {
            "rules": [{"name": "yes", "effect": "allow"}],
            **({"budgets": list(budgets)} if budgets else {}),
            **spec,
        },
    }


def budget(name: str = "b", **more: Any) -> dict[str, Any]:
    """A budget of 20 in an hour for each subject."""
    return {"name": name, "per": "subject", "limit": 20, "window": "1h", **more}


def compiled(*documents: Mapping[str, Any]) -> CompiledPolicySet:
    """The set of these documents."""
    checked = check_documents([dict(document) for document in documents])
    assert checked.policy_set is not None, checked.diagnostics
    return checked.policy_set


def mutation(*, subject: str = "coder-7", resource: str = "shop", namespace: str = "blue") -> Mutation:
    """A change of a resource in a namespace."""
    return Mutation(
        subject={"type": "agent", "id": subject, "properties": {}},
        action={"name": "update", "properties": {}},
        resource={"type": "apps/Deployment", "id": resource, "properties": {"namespace": namespace}},
        change={"after": {"replicas": 3}},
        context={},
    )


class Exchange:
    """One request whose outside is nowhere; `decision` is what would be rendered."""

    def __init__(self, asked: Mutation) -> None:
        self._asked = asked
        self.decision: Decision | None = None

    async def read(self) -> bytes:
        return b""

    async def authenticate(self) -> Principal:
        return WHO

    async def limit(self, principal: Principal) -> None:
        """Anybody may."""

    def parse(self, body: bytes) -> Mutation:
        return self._asked

    def claim(self, principal: Principal, body: bytes) -> Claim | None:
        return None

    def render(self, decision: Decision) -> bytes:
        self.decision = decision
        return b"decided"

    def replayed(self) -> None:
        raise AssertionError("without a claim there is nothing to replay")


class CountingBudgets(BudgetLedger):
    """Counts how often it was asked."""

    asked = 0

    def settle(self, uses: Any, **more: Any) -> Coroutine[Any, Any, Any]:
        self.asked += 1
        return super().settle(uses, **more)

    def settle_once(self, claim: Claim, **more: Any) -> Coroutine[Any, Any, Any]:
        self.asked += 1
        return super().settle_once(claim, **more)


class Replica:
    """One process's worth of services on a database; `ahead` is what its clock shows beyond the real time."""

    def __init__(self, dsn: str, *documents: Mapping[str, Any], **budgets: Any) -> None:
        # No time is to run out where a test is not about that, however busy the machine is.
        self.engine = create_engine(dsn, connect_timeout=PATIENT, statement_timeout=PATIENT)
        self.writer = LedgerWriter(dsn, deadline=PATIENT, connect_timeout=PATIENT, statement_timeout=PATIENT)
        self.budgets = CountingBudgets(self.engine, **{"deadline": PATIENT, **budgets})
        self.policy_set = compiled(*documents)
        self.ahead = timedelta()
        self.counted: list[Effect] = []
        self.exhausted: list[Mode] = []
        self.service = DecisionService(
            lambda: self.policy_set,
            ledger=self.writer,
            budgets=self.budgets,
            clock=lambda: datetime.now(UTC) + self.ahead,
            entropy=secrets.token_bytes,
            engine="mutation-firewall/test",
            counted=self.counted.append,
            exhausted=self.exhausted.append,
        )

    async def __aenter__(self) -> Self:
        await self.writer.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.writer.stop()
        await self.engine.dispose()

    async def decide(self, asked: Mutation | None = None) -> Decision:
        """The whole way of a request."""
        exchange = Exchange(asked or mutation())
        await self.service.decide(exchange)
        assert exchange.decision is not None
        return exchange.decision

    async def decide_all(self, *asked: Mutation | FirewallError, mode: BatchMode = BatchMode.EACH) -> list[Outcome]:
        """What becomes of a batch."""
        return await self.service.decide_all(WHO, Batch(asked, mode))

    async def effects(self, times: int, ask: Callable[[int], Mutation] = lambda _: mutation()) -> list[Effect]:
        """What so many at the same time are told."""
        decided = await asyncio.gather(*(self.decide(ask(position)) for position in range(times)))
        return [one.effect for one in decided]


async def main(dsn: str) -> None:
    """Use budgets of many subjects until killed; each line on standard output is an allow that was answered."""
    async with Replica(dsn, policy(budget(limit=10_000))) as replica:

        async def caller(subject: str) -> None:
            while True:
                with contextlib.suppress(FirewallError):
                    decision = await replica.decide(mutation(subject=subject))
                    os.write(1, f"{decision.id}\n".encode())

        await asyncio.gather(*(caller(f"agent-{number}") for number in range(8)))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
