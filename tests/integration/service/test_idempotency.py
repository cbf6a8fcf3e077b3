"""Requests that are sent twice are decided once: byte for byte, across replicas, whatever breaks in between."""

import asyncio
import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from app.core.batch import Batch, BatchMode
from app.core.decide import decide
from app.core.types import Effect
from app.edge.idempotency import claim_of
from app.errors import FirewallError, Kind
from app.ledger import once
from app.ledger.once import KEPT_FOR, SWEEP_ROWS, claim, claimed
from app.ledger.read import LedgerReader
from app.persistence.engine import create_engine
from app.service.decide import Decision
from tests.integration.service.budgeted import PATIENT, WHO, Exchange, Replica, budget, mutation, policy

ROOT = Path(__file__).resolve().parents[3]
GOOD = json.loads((ROOT / "examples" / "allow-k8s-deployment-scaled.json").read_bytes())
ONE, BATCH = "/v1/decisions", "/v1/decisions:batch"


@pytest.fixture(autouse=True)
def _nobody_is_given_up(monkeypatch):
    """Who waits for the same key waits as long as it takes, where a test is not about that."""
    monkeypatch.setattr(once, "WAIT_SECONDS", PATIENT)


class Keyed(Exchange):
    """A request with a key; `told` is whether it was told that its answer is an old one."""

    def __init__(self, asked: Any, key: str = "k", body: bytes = b"{}") -> None:
        super().__init__(asked)
        self._claim = claim(WHO, key, route=ONE, body=body)
        self.told = False

    def claim(self, principal, body):
        return self._claim

    def render(self, decision: Decision) -> bytes:
        self.decision = decision
        return str(decision.id).encode()

    def replayed(self) -> None:
        self.told = True


async def ask(replica, *, key="k", body=b"{}", asked=None):
    exchange = Keyed(asked or mutation(), key, body)
    return await replica.service.decide(exchange), exchange.told


@pytest.mark.parametrize("budgets", [[], [budget(limit=2)]], ids=["plain", "budget"])
async def test_decided_once_across_replicas(database_dsn, database, budgets):
    document = policy(*budgets)
    async with Replica(database_dsn, document) as one, Replica(database_dsn, document) as other:
        answers = await asyncio.gather(*(ask(replica) for replica in (one, other) for _ in range(10)))
        assert len({answer for answer, _ in answers}) == 1
        assert Counter(told for _, told in answers) == {False: 1, True: 19}
        assert await database.fetchval("SELECT count(*) FROM ledger_entries") == 1
        assert len(one.counted + other.counted) == 1
        assert await database.fetchval("SELECT count(*) FROM budget_uses") == len(budgets)
        # Another key is another request.
        assert (await ask(one, key="l"))[0] != answers[0][0]
        assert (await LedgerReader(one.engine).verify_gapless()).size == 2


@pytest.mark.parametrize("budgets", [[], [budget(limit=2)]], ids=["plain", "budget"])
async def test_a_retry_is_not_evaluated(database_dsn, budgets, monkeypatch):
    evaluated: list[Any] = []

    def counting(*args, **options):
        evaluated.append(args)
        return decide(*args, **options)

    monkeypatch.setattr("app.service.decide.decide", counting)
    async with Replica(database_dsn, policy(*budgets)) as replica:
        first, _ = await ask(replica)
        # A budget is counted by a second evaluation; without one the first is the decision.
        assert len(evaluated) == 1 + len(budgets)
        evaluated.clear()

        def none():
            raise FirewallError(Kind.UNAVAILABLE, "no policy set is in force")

        replica.service._policies = none
        assert await ask(replica) == (first, True)
        assert evaluated == []
        # What was not answered before does need a set, and that is no fault of the database's.
        for _ in range(10):
            with pytest.raises(FirewallError, match="no policy set"):
                await ask(replica, key="other")


async def test_a_batch_under_a_key(database_dsn, database):
    """Budgets, an atomic mode and a key in one commit; a second request meanwhile waits for the first."""
    asked = [mutation(), mutation(resource="other")]

    async def batch(replica, key, *, mode=BatchMode.ATOMIC, items=asked):
        claim_ = claim(WHO, key, route=BATCH, body=b"{}")

        def render(outcomes):
            return ",".join(str(getattr(one, "effect", "refused")) for one in outcomes.values()).encode()

        return await replica.service._decide_once(claim_, WHO, Batch(items, mode), render)

    async with Replica(database_dsn, policy(budget(limit=3))) as one, Replica(database_dsn, policy()) as other:
        told = await asyncio.gather(*(batch(replica, "a") for replica in (one, one, other)))
        assert {one.answer for one in told} == {b"allow,allow"}
        assert sum(one.kept_before for one in told) == 2
        assert await database.fetchval("SELECT count(*) FROM ledger_entries") == 2
        if await database.fetchval("SELECT count(*) FROM budget_uses"):
            told = [await batch(one, "b")]
            assert told[0].answer == b"deny,deny"
        # Nothing that can be asked about: nothing is kept.
        empty = await batch(one, "c", items=[mutation()._replace(change={"before": 1})])
        assert (empty.answer, len(empty.outcomes)) == (b"", 1)
        assert await database.fetchval("SELECT count(*) FROM idempotency_keys") <= 2


async def test_another_request_under_the_same_key_is_a_conflict(database_dsn, database):
    async with Replica(database_dsn, policy()) as replica:
        await ask(replica)
        with pytest.raises(FirewallError) as caught:
            await ask(replica, body=b"{ }")
        assert caught.value.kind is Kind.CONFLICT
        assert caught.value.retry_after is None
        assert await database.fetchval("SELECT count(*) FROM ledger_entries") == 1
        # A conflict is the caller's: it opens no breaker.
        for _ in range(10):
            with pytest.raises(FirewallError):
                await ask(replica, body=b"{ }")
        assert (await ask(replica))[1]


async def test_what_is_kept_is_read_by_who_repeats_the_request_alone(database_dsn, database):
    """An answer has what masks hide from records; a copy of the table has neither it nor the digest of a body."""
    async with Replica(database_dsn, policy()) as replica:
        (answer, _), (other, _) = await ask(replica), await ask(replica, key="l")
        rows = await database.fetch("SELECT id, fingerprint, answer FROM idempotency_keys")
        assert len({row["fingerprint"] for row in rows}) == 2
        for row in rows:
            assert answer not in row["answer"]
            assert other not in row["answer"]
        assert await ask(replica) == (answer, True)
        # Nor can one be put there, or under another key.
        await database.execute("UPDATE idempotency_keys SET answer = $1", rows[0]["answer"])
        told = await asyncio.gather(*(ask(replica, key=key) for key in ("k", "l")), return_exceptions=True)
        (refused,) = (one for one in told if isinstance(one, FirewallError))
        assert (refused.kind, refused.retry_after) == (Kind.CONFLICT, None)
        await database.execute("UPDATE idempotency_keys SET answer = 'x'")
        with pytest.raises(FirewallError, match="not the one that was given"):
            await ask(replica)
        assert await database.fetchval("SELECT count(*) FROM ledger_entries") == 2


async def test_who_answers_too_long_is_not_waited_for(database_dsn, database, monkeypatch):
    monkeypatch.setattr(once, "WAIT_SECONDS", 0.05)
    engine = create_engine(database_dsn)
    async with Replica(database_dsn, policy()) as replica, engine.connect() as connection:
        assert await claimed(connection, claim(WHO, "k", route=ONE, body=b"{}")) is None
        with pytest.raises(FirewallError) as caught:
            await ask(replica)
        assert (caught.value.kind, caught.value.retry_after) == (Kind.CONFLICT, 1.0)
        await connection.rollback()
        assert not (await ask(replica))[1]
    await engine.dispose()
    assert await database.fetchval("SELECT count(*) FROM ledger_entries") == 1


async def test_the_wait_is_for_the_key_alone(database_dsn):
    engine = create_engine(database_dsn, lock_timeout=4)
    try:
        async with engine.begin() as connection:
            await claimed(connection, claim(WHO, "k", route=ONE, body=b"{}"))
            row = await connection.exec_driver_sql("SHOW lock_timeout")
            assert row.scalar() == "4s"
    finally:
        await engine.dispose()


async def test_a_request_that_fails_is_not_kept(database_dsn, database):
    async with Replica(database_dsn, policy()) as replica:
        await database.execute("ALTER TABLE ledger_head RENAME TO away")
        with pytest.raises(FirewallError) as caught:
            await ask(replica)
        assert caught.value.kind is Kind.UNAVAILABLE
        await database.execute("ALTER TABLE away RENAME TO ledger_head")
        assert await database.fetchval("SELECT count(*) FROM idempotency_keys") == 0
        # Nothing to say about the mutation: nothing is kept either, and the key is free.
        with pytest.raises(FirewallError):
            await ask(replica, asked=mutation()._replace(change={"before": 1}))
        answer, told = await ask(replica)
        assert answer
        assert not told


async def test_both_or_neither(database_dsn, database):
    async with Replica(database_dsn, policy()) as replica:
        await database.execute("ALTER TABLE idempotency_keys RENAME TO away")
        with pytest.raises(FirewallError):
            await ask(replica)
        assert await database.fetchval("SELECT count(*) FROM ledger_entries") == 0
        await database.execute("ALTER TABLE away RENAME TO idempotency_keys")
        await ask(replica)
        assert await database.fetchval("SELECT count(*) FROM ledger_entries") == 1


async def test_a_day_later_the_key_is_free_and_old_rows_go(database_dsn, database):
    async with Replica(database_dsn, policy()) as replica:
        first, _ = await ask(replica)
        kept = await database.fetchval("SELECT expires_at - now() FROM idempotency_keys")
        assert abs((kept - KEPT_FOR).total_seconds()) < 60
        await database.execute("UPDATE idempotency_keys SET expires_at = now() - interval '1 second'")
        again, told = await ask(replica, body=b"another")
        assert again != first
        assert not told
        assert await database.fetchval("SELECT count(*) FROM idempotency_keys") == 1
        await database.execute(
            "INSERT INTO idempotency_keys SELECT sha256(n::text::bytea), sha256('x'), 'x', now() - interval '1 hour'"
            f" FROM generate_series(1, {SWEEP_ROWS + 5}) AS n"
        )
        await ask(replica, key="next")
        assert await database.fetchval("SELECT count(*) FROM idempotency_keys WHERE expires_at < now()") == 5


async def test_a_request_without_a_key_does_not_touch_the_pool(database_dsn):
    async with Replica(database_dsn, policy()) as replica:
        assert await replica.effects(3) == [Effect.ALLOW] * 3
        assert replica.budgets.asked == 0


def test_over_http_and_after_a_restart(database_dsn, serve):
    key = {"Idempotency-Key": '"8e03978e-40d5-43dd-bc93-6894a57f9324"'}
    unquoted = {"Idempotency-Key": "8e03978e-40d5-43dd-bc93-6894a57f9324"}
    with serve(database_dsn) as service, service.client() as client:
        first = client.post(ONE, json=GOOD, headers=key)
        second = client.post(ONE, json=GOOD, headers=unquoted)
        assert (first.status_code, second.status_code) == (200, 200)
        assert first.content == second.content
        assert "idempotency-replayed" not in first.headers
        assert second.headers["idempotency-replayed"] == "true"
        # A replay is a request as well.
        assert second.headers["ratelimit"]
        other = client.post(ONE, json=GOOD | {"rationale": "x"}, headers=key)
        assert other.status_code == 409
        assert other.json()["type"].endswith("/conflict")
        assert client.post(BATCH, json={"mutations": [GOOD]}, headers=key).status_code == 409
        assert client.post(ONE, json=GOOD, headers={"Idempotency-Key": "a b"}).status_code == 400
        # A refusal is not kept.
        fresh = {"Idempotency-Key": "fresh"}
        assert client.post(ONE, json={}, headers=fresh).status_code == 400
        assert "idempotency-replayed" not in client.post(ONE, json=GOOD, headers=fresh).headers
        assert len(service.entries()) == 2
        keys = {"key": service.key, "operator_key": service.operator_key, "admin_key": service.admin_key}
    with serve(database_dsn, keys=keys) as service, service.client() as client:
        third = client.post(ONE, json=GOOD, headers=key)
        assert third.content == first.content
        assert third.headers["idempotency-replayed"] == "true"
        assert len(service.entries()) == 2


def test_batches_over_http(service):
    key = {"Idempotency-Key": "batch-1"}
    bad = {name: value for name, value in GOOD.items() if name != "subject"}
    before = len(service.entries())
    with service.client() as client:

        def send(_number):
            return client.post(BATCH, json={"mutations": [GOOD, bad, GOOD]}, headers=key)

        with ThreadPoolExecutor(4) as threads:
            answers = list(threads.map(send, range(8)))
        assert {answer.status_code for answer in answers} == {200}
        assert len({answer.content for answer in answers}) == 1
        assert sum("idempotency-replayed" in answer.headers for answer in answers) == 7
        assert answers[0].json()["summary"] == {"allow": 2, "deny": 0, "hold": 0, "refused": 1}
        assert len(service.entries()) == before + 2
        # Nothing was decided, so nothing is kept.
        nothing = client.post(BATCH, json={"mutations": [bad]}, headers={"Idempotency-Key": "batch-2"})
        assert nothing.json()["summary"]["refused"] == 1
        again = client.post(BATCH, json={"mutations": [GOOD]}, headers={"Idempotency-Key": "batch-2"})
        assert again.json()["summary"]["allow"] == 1


def test_the_claim_of_no_key_is_none():
    assert claim_of([], WHO, route=ONE, body=b"") is None
