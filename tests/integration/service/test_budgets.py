"""Budgets on a real database: exact under contention, exact in replay, both or neither after a crash."""

import asyncio
import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
import pytest

from app.core.budgets import from_record
from app.core.decide import decide
from app.core.normalise import normalise
from app.core.types import Effect, Mode, Mutation
from app.errors import FirewallError, Kind
from app.ledger.read import LedgerReader
from app.ledger.receipt import PendingDecision, seal_decision
from app.ledger.uses import SKEW_MAX, SWEEP_ROWS
from app.persistence.breaker import FAILURES_TO_OPEN, RECOVERY, CircuitBreaker
from tests.integration.ledger.conftest import Fault, Wire
from tests.integration.service.budgeted import PATIENT, WHO, Replica, budget, mutation, policy

REPOSITORY = Path(__file__).resolve().parents[3]
PROGRAM = Path(__file__).with_name("budgeted.py")
# For tests that turn the clock by hours.
ANY_CLOCK = timedelta(days=40)
HOLD: dict[str, Any] = {"effect": "hold", "approval": {"anyOf": [{"group": "sre"}]}}


async def uses(database):
    return await database.fetch("SELECT * FROM budget_uses ORDER BY decided_at, decision_id")


async def refused(awaitable):
    with pytest.raises(FirewallError) as caught:
        await awaitable
    return caught.value


async def test_two_replicas_let_exactly_twenty_through(database_dsn, database):
    document = policy(budget())
    async with Replica(database_dsn, document) as one, Replica(database_dsn, document) as other:
        effects = await asyncio.gather(one.effects(40), other.effects(40))
        told = Counter(effect for each in effects for effect in each)
        assert told == {Effect.ALLOW: 20, Effect.DENY: 60}
        assert len(await uses(database)) == 20
        report = await LedgerReader(one.engine).verify_gapless()
        assert report.whole
        assert report.size == 80
        assert Counter(one.counted + other.counted) == told
        assert one.exhausted + other.exhausted == [Mode.ENFORCE] * 60
        # Whose budget it is: somebody else has one of their own.
        assert (await one.decide(mutation(subject="coder-8"))).effect is Effect.ALLOW


async def test_what_is_recorded_is_decided_the_same_again(database_dsn):
    documents = [
        policy(budget(limit=3), budget("zones", distinct="resource.properties.namespace", limit=2, **HOLD)),
        policy(budget("watch", limit=1), name="shadow", mode="shadow"),
        policy(name="plain"),
    ]
    async with Replica(database_dsn, *documents) as replica:
        for namespace in ("a", "b", "c", "a", "b"):
            await replica.decide(mutation(namespace=namespace))
        reader = LedgerReader(replica.engine)
        seen = []
        for index in range(5):
            entry = await reader.get(index)
            record = orjson.loads(entry.record or b"")
            asked = Mutation(**record["input"])
            normalised = normalise(asked)
            now = datetime.fromisoformat(record["now"])
            verdict = decide(replica.policy_set, normalised, now, from_record(record))
            assert verdict.uncounted == ()
            again = PendingDecision(
                UUID(record["id"]), now, WHO, asked, normalised.digest, record["policy_set"], verdict, record["engine"]
            )
            sealed = seal_decision(again, salt=entry.salt or b"")
            assert (sealed.record, sealed.receipt) == (entry.record, entry.receipt)
            seen.append((verdict.effect.value, record["budgets"]))
            # Without what it saw the same question has another answer.
            assert decide(replica.policy_set, normalised, now) != verdict
    assert seen[0] == ("allow", [
        {"policy": "p", "budget": "b", "used": 0},
        {"policy": "p", "budget": "zones", "used": 0},
        {"policy": "shadow", "budget": "watch", "used": 0},
    ])  # fmt: skip
    assert [effect for effect, _ in seen] == ["allow", "allow", "hold", "allow", "deny"]
    # The held one used nothing; the value that was there had room; what was denied in shadow used nothing there.
    assert seen[4][1] == [
        {"policy": "p", "budget": "b", "used": 3},
        {"policy": "p", "budget": "zones", "used": 2, "seen": True},
        {"policy": "shadow", "budget": "watch", "used": 1},
    ]


async def test_a_record_without_budgets_is_as_it_was(database_dsn):
    async with Replica(database_dsn, policy(budget(when="action.name == 'delete'"))) as replica:
        decision = await replica.decide()
        entry = await LedgerReader(replica.engine).get(decision.ledger_index)
    assert decision.budgets == ()
    assert "budgets" not in orjson.loads(entry.record or b"")


@pytest.mark.parametrize(
    "document",
    [
        policy(budget(when="action.name == 'delete'")),
        policy(budget(), match={"actions": ["delete"]}),
        policy(budget(), matchConditions=[{"name": "c", "expression": "action.name == 'delete'"}]),
        # A deny needs no count.
        policy(budget(), rules=[{"name": "no", "effect": "deny", "message": "never"}]),
    ],
)
async def test_a_decision_that_no_budget_concerns_takes_the_usual_way(database_dsn, database, document):
    async with Replica(database_dsn, document, policy(name="q")) as replica:
        await replica.effects(5)
        assert replica.budgets.asked == 0
        # The engine's pool was never asked for a connection.
        assert replica.engine.pool.checkedin() == 0  # type: ignore[attr-defined]  # of the pool that is used
    assert await uses(database) == []


async def test_distinct_values(database_dsn, database):
    document = policy(budget(distinct="resource.properties.namespace", limit=3, window="24h"))
    async with Replica(database_dsn, document) as one, Replica(database_dsn, document) as other:

        def ask(position):
            return mutation(namespace=f"n{position}")

        first, second = await asyncio.gather(
            one.effects(18, ask), other.effects(18, lambda position: ask(position + 18))
        )
        let_in = [position for position, effect in enumerate(first + second) if effect is Effect.ALLOW]
        assert len(let_in) == 3
        assert len({row["value"] for row in await uses(database)}) == 3
        # The three that came first, as often as they like; nobody else.
        assert set(await other.effects(12, lambda position: ask(let_in[position % 3]))) == {Effect.ALLOW}
        assert set(await one.effects(3, lambda position: ask(position + 100))) == {Effect.DENY}
        await one.effects(3, lambda position: ask(let_in[position]))
        # A value needs its last use alone, and one for each that came by with an earlier clock.
        rows = await uses(database)
        assert len({row["value"] for row in rows}) == 3
        assert len(rows) < 3 + 12 + 3


async def test_the_window_slides(database_dsn):
    async with Replica(database_dsn, policy(budget(limit=2)), skew_max=ANY_CLOCK) as replica:
        told = []
        for minutes in (0, 30, 59, 61, 62, 91, 200):
            replica.ahead = timedelta(minutes=minutes)
            told.append((await replica.decide()).effect.value)
    # 0 and 30 are there at 59; 0 is gone at 61, 30 at 91.
    assert told == ["allow", "allow", "deny", "allow", "deny", "allow", "allow"]


async def test_a_clock_that_is_behind_counts_what_is_ahead_of_it(database_dsn):
    document = policy(budget(limit=2))
    async with Replica(database_dsn, document) as fast, Replica(database_dsn, document) as slow:
        fast.ahead = SKEW_MAX / 2
        slow.ahead = -SKEW_MAX / 2
        assert (await fast.decide()).effect is Effect.ALLOW
        assert (await slow.decide()).effect is Effect.ALLOW
        assert (await slow.decide()).effect is Effect.DENY
        assert (await fast.decide()).effect is Effect.DENY


@pytest.mark.parametrize("ahead", [SKEW_MAX * 2, -SKEW_MAX * 2])
async def test_a_clock_that_is_wrong_counts_nothing(database_dsn, database, ahead):
    async with Replica(database_dsn, policy(budget())) as replica:
        replica.ahead = ahead
        error = await refused(replica.decide())
        assert (error.kind, error.retry_after) == (Kind.UNAVAILABLE, 1.0)
        # By as much as the test's clock is wrong, and the time from one look at a clock to the other.
        (apart,) = re.findall(r" are (\d+) s apart$", error.detail)
        assert SKEW_MAX < timedelta(seconds=int(apart)) < SKEW_MAX * 3
        assert await uses(database) == []
        assert await database.fetchval("SELECT count(*) FROM ledger_entries") == 0


async def test_a_held_mutation_uses_nothing_and_says_who_can_lift_it(database_dsn, database):
    async with Replica(database_dsn, policy(budget(limit=1, message="ask", **HOLD))) as replica:
        first, second, third = [await replica.decide() for _ in range(3)]
        assert [one.effect for one in (first, second, third)] == [Effect.ALLOW, Effect.HOLD, Effect.HOLD]
        assert second.reasons[0].message == "ask (1 of 1 used in 1h)"
        assert second.approval is not None
        assert [(use.used, use.limit) for use in third.budgets] == [(1, 1)]
        assert [row["decision_id"] for row in await uses(database)] == [first.id]


async def test_an_allow_uses_every_budget_or_none(database_dsn, database):
    document = policy(budget(limit=5), budget("per-resource", per="resource", limit=1))
    async with Replica(database_dsn, document) as replica:
        assert (await replica.decide(mutation(resource="a"))).effect is Effect.ALLOW
        assert (await replica.decide(mutation(resource="a"))).effect is Effect.DENY
        assert (await replica.decide(mutation(resource="b"))).effect is Effect.ALLOW
    assert Counter(row["budget"] for row in await uses(database)) == {"b": 2, "per-resource": 2}


async def test_keys_in_any_order_never_lock_each_other_out(database_dsn):
    document = policy(budget(limit=1000), budget("per-resource", per="resource", limit=1000))
    async with Replica(database_dsn, document) as one, Replica(database_dsn, document) as other:

        def ask(position):
            return mutation(subject=f"s{position % 3}", resource=f"r{position % 4}")

        both = await asyncio.gather(one.effects(40, ask), other.effects(40, lambda position: ask(39 - position)))
    assert Counter(effect for each in both for effect in each) == {Effect.ALLOW: 80}


async def test_what_an_exception_lifts_is_used_all_the_same(database_dsn, database):
    exception = {
        "apiVersion": "mutationfirewall.io/v1",
        "kind": "PolicyException",
        "metadata": {"name": "e"},
        "spec": {
            "owner": "o",
            "reason": "r",
            "validUntil": "2999-01-01T00:00:00Z",
            "policies": [{"name": "p", "rules": ["b"]}],
            "match": {"resources": [{"id": "urgent"}]},
        },
    }
    async with Replica(database_dsn, policy(budget(limit=1)), exception) as replica:
        told = [(await replica.decide(mutation(resource=name))).effect.value for name in ("a", "b", "urgent", "b")]
    assert told == ["allow", "deny", "allow", "deny"]
    assert len(await uses(database)) == 2


def test_over_http(database_dsn, serve, tmp_path):
    (tmp_path / "p.yaml").write_text(json.dumps(policy(budget(limit=2, message="enough"))))
    body = {
        "subject": {"type": "agent", "id": "coder-7"},
        "action": {"name": "update"},
        "resource": {"type": "apps/Deployment", "id": "shop"},
        "change": {"after": {"replicas": 3}},
    }
    with serve(database_dsn, MFW_POLICIES__DIRECTORY=str(tmp_path)) as service, service.client() as client:
        answers = [client.post("/v1/decisions", json=body).json() for _ in range(3)]
        assert [answer["decision"] for answer in answers] == ["allow", "allow", "deny"]
        assert [answer["budgets"] for answer in answers] == [
            [{"policy": "p", "budget": "b", "used": used, "limit": 2, "window": "1h"}] for used in range(3)
        ]
        assert [answer["ledger_index"] for answer in answers] == [0, 1, 2]
        (reason,) = answers[2]["reasons"]
        assert (reason["rule"], reason["message"]) == ("b", "enough (2 of 2 used in 1h)")
        assert reason["clause"]["path"] == "budgets[0]"


async def test_a_shadow_budget_shows_what_it_would_do(database_dsn, database):
    async with Replica(database_dsn, policy(budget(limit=2), mode="shadow"), policy(name="q")) as replica:
        decided = [await replica.decide() for _ in range(4)]
    assert {one.effect for one in decided} == {Effect.ALLOW}
    assert [[reason.mode.value for reason in one.reasons] for one in decided] == [
        ["enforce", "shadow"],
        ["enforce", "shadow"],
        ["enforce", "shadow", "shadow"],
        ["enforce", "shadow", "shadow"],
    ]
    # As in force: what it would have denied used nothing.
    assert len(await uses(database)) == 2


async def test_rows_that_no_window_looks_back_at_are_swept(database_dsn, database):
    await database.execute(
        "INSERT INTO budget_uses (key, decided_at, decision_id, policy, budget, expires_at)"
        " SELECT sha256(n::text::bytea), now() - interval '2 days', gen_random_uuid(), 'p', 'b', now() - interval '1 h'"
        " FROM generate_series(1, $1) AS n",
        SWEEP_ROWS + 50,
    )
    async with Replica(database_dsn, policy(budget())) as replica:
        await replica.decide()
        assert len(await uses(database)) == 51
        await replica.decide()
        (first, second) = await uses(database)
    assert first["expires_at"] - first["decided_at"] == timedelta(hours=1) + SKEW_MAX
    assert (second["policy"], second["budget"], second["value"]) == ("p", "b", None)


async def test_one_key_that_many_want_leaves_the_others_their_place(database_dsn, database):
    async with Replica(database_dsn, policy(budget()), waiting_per_key_max=3, concurrent_max=2) as replica:
        tasks = []
        async with database.transaction():
            await replica.decide()
            # Somebody else holds the key's lock.
            row = await database.fetchrow("SELECT key FROM budget_uses")
            await database.execute(
                "SELECT pg_advisory_xact_lock($1)", int.from_bytes(row["key"][:8], "big", signed=True)
            )
            tasks = [asyncio.create_task(replica.decide()) for _ in range(3)]
            await asyncio.sleep(0)
            error = await refused(replica.decide())
            assert (error.kind, error.retry_after) == (Kind.OVERLOADED, 1.0)
            # Only one of them has a connection.
            assert (await replica.decide(mutation(subject="another"))).effect is Effect.ALLOW
        assert {one.effect for one in await asyncio.gather(*tasks)} == {Effect.ALLOW}


async def test_only_so_many_wait_in_all(database_dsn, database):
    async with Replica(database_dsn, policy(budget()), waiting_max=2) as replica:
        asked = [replica.decide(mutation(subject=f"s{n}")) for n in range(4)]
        told = await asyncio.gather(*asked, return_exceptions=True)
    assert sum(isinstance(one, FirewallError) and one.kind is Kind.OVERLOADED for one in told) == 2
    assert len(await uses(database)) == 2


async def test_a_lock_that_is_not_to_be_had_is_a_timeout_and_then_all_is_well(database_dsn, database):
    async with Replica(database_dsn, policy(budget())) as replica:
        async with database.transaction():
            await replica.decide()
            row = await database.fetchrow("SELECT key FROM budget_uses")
            await database.execute(
                "SELECT pg_advisory_xact_lock($1)", int.from_bytes(row["key"][:8], "big", signed=True)
            )
            replica.budgets._deadline = 1.0
            waiting = asyncio.create_task(replica.decide())
            behind = asyncio.create_task(replica.decide())
            first, second = await refused(waiting), await refused(behind)
            replica.budgets._deadline = PATIENT
            # The one that had the place was too late; who waited for it was never let in, or too late as well.
            assert first.kind is Kind.TIMEOUT
            assert second.kind in {Kind.OVERLOADED, Kind.TIMEOUT}
            assert first.retry_after == second.retry_after == 1.0
        assert (await replica.decide()).effect is Effect.ALLOW
    assert len(await uses(database)) == 2


async def test_a_database_that_is_away_opens_the_breaker():
    # Of a clock that stands still: the breaker is looked at before it lets the next one try.
    breaker = CircuitBreaker(clock=lambda: 0.0)
    replica = Replica("postgresql://u@/d?host=/nowhere", policy(budget()), breaker=breaker)
    errors = [await refused(replica.decide()) for _ in range(FAILURES_TO_OPEN + 1)]
    assert {error.kind for error in errors} == {Kind.UNAVAILABLE}
    assert [error.detail for error in errors[-2:]] == [
        "the database cannot be reached",
        "the database could not be reached, and is left alone for now",
    ]
    assert errors[-1].retry_after == RECOVERY
    await replica.engine.dispose()


async def test_a_wrong_clock_opens_no_breaker(database_dsn):
    async with Replica(database_dsn, policy(budget())) as replica:
        replica.ahead = SKEW_MAX * 2
        for _ in range(FAILURES_TO_OPEN + 1):
            assert "apart" in (await refused(replica.decide())).detail
        replica.ahead = timedelta()
        assert (await replica.decide()).effect is Effect.ALLOW


async def test_a_probe_that_fails_by_a_defect_lets_the_next_one_try(database_dsn):
    seconds = 0.0
    breaker = CircuitBreaker(clock=lambda: seconds)
    async with Replica(database_dsn, policy(budget()), breaker=breaker) as replica:
        for _ in range(FAILURES_TO_OPEN):
            breaker.failure()
        assert (await refused(replica.decide())).kind is Kind.UNAVAILABLE

        def broken(_counters):
            raise RuntimeError

        seconds += RECOVERY
        with pytest.raises(RuntimeError):
            await replica.budgets.settle((), now=datetime.now(UTC), judge=broken)
        assert (await refused(replica.decide())).kind is Kind.UNAVAILABLE
        seconds += RECOVERY
        assert (await replica.decide()).effect is Effect.ALLOW


@pytest.mark.parametrize(("fault", "kept"), [(Fault.LOSE_THE_QUESTION, 0), (Fault.LOSE_THE_ANSWER, 0)])
async def test_a_connection_that_breaks_leaves_nothing_half(database_dsn, database, fault, kept):
    wire = Wire(database_dsn)
    await wire.open()
    try:
        async with Replica(wire.dsn, policy(budget(limit=1))) as replica:
            wire.fault = fault
            error = await refused(replica.decide())
            assert error.kind is Kind.UNAVAILABLE
            assert len(await uses(database)) == kept
            assert await database.fetchval("SELECT count(*) FROM ledger_entries") == kept
            assert (await replica.decide()).effect is Effect.ALLOW
            assert (await replica.decide()).effect is Effect.DENY
    finally:
        await wire.close()


@pytest.mark.slow
async def test_a_killed_process_leaves_both_or_neither(database_dsn, database):
    answered: set[str] = set()
    for round_ in range(4):
        process = subprocess.Popen(
            [sys.executable, PROGRAM, database_dsn],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        )
        assert process.stdout is not None
        first = await asyncio.to_thread(process.stdout.read, 37 * (20 + 15 * round_))
        process.kill()
        rest, _ = await asyncio.to_thread(process.communicate)
        # A last line that was cut off by the kill was not answered.
        answered |= set((first + rest).decode().split("\n")[:-1])
    # The server may still be at what the killed process sent last.
    ends = time.monotonic() + 60
    while await database.fetchval(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        " AND backend_type = 'client backend'"
    ):
        assert time.monotonic() < ends
        await asyncio.sleep(0.01)
    used = {str(row["decision_id"]) for row in await uses(database)}
    recorded = {str(row["id"]) for row in await database.fetch("SELECT id FROM ledger_entries")}
    assert used == recorded
    assert answered <= used
    assert len(answered) >= 4 * 20
