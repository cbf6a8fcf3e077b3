"""A process that appends until it is killed: says `index id` on standard output for each acknowledged entry."""

import asyncio
import os
import sys
from datetime import UTC, datetime
from uuid import UUID, uuid4

from app.core.principal import AuthMethod, Principal, PrincipalKind
from app.core.types import Effect, Mutation, Reason, Verdict
from app.ledger.append import LedgerWriter
from app.ledger.receipt import PendingDecision, SealedEntry, seal_decision

WHO = Principal("key-1", PrincipalKind.AGENT, frozenset(), AuthMethod.API_KEY)
DIGEST = "sha256:" + "0" * 64
MUTATION = Mutation(
    subject={"type": "agent", "id": "coder-7", "properties": {}},
    action={"name": "update", "properties": {}},
    resource={"type": "apps/Deployment", "id": "shop", "properties": {}},
    change={"after": {"replicas": 3}},
    context={},
)
VERDICT = Verdict(Effect.ALLOW, (Reason("p", "r", Effect.ALLOW, "fine"),))


def make(id_: UUID) -> SealedEntry:
    pending = PendingDecision(id_, datetime.now(UTC), WHO, MUTATION, DIGEST, DIGEST, VERDICT, "0.1.0")
    return seal_decision(pending, salt=os.urandom(32))


async def main(dsn: str, callers: int, each: int) -> None:
    writer = LedgerWriter(dsn, deadline=60.0)
    await writer.start()

    async def caller() -> None:
        for _ in range(each):
            entry = make(uuid4())
            idx = await writer.append(entry)
            # One system call, so that what a killed process said is whole lines.
            os.write(1, f"{idx} {entry.id}\n".encode())

    await asyncio.gather(*(caller() for _ in range(callers)))
    await writer.stop()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
