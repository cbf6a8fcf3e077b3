"""Every decision is found by what it says, page after page, and the index follows the ledger whatever happens."""

import asyncio
import os
from datetime import UTC, datetime, timedelta
from uuid import UUID

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.core.principal import AuthMethod, Principal, PrincipalKind, Role
from app.core.types import Effect, Mode, Mutation, Reason, Verdict
from app.errors import FirewallError, Kind
from app.ledger.append import LedgerWriter
from app.ledger.receipt import EntryKind, PendingDecision, seal, seal_decision
from app.ledger.search import DecisionIndex, Indexer, Wanted, search_key
from app.persistence.engine import create_engine
from tests.integration.ledger.conftest import PATIENT

WHO = Principal("key-1", PrincipalKind.AGENT, frozenset({Role.AGENT}), AuthMethod.API_KEY)
DIGEST = "sha256:" + "0" * 64
DAY = datetime(2026, 3, 1, tzinfo=UTC)


def decision(number, *, subject="a", resource=("app", "x"), action="update", effect=Effect.ALLOW, rule="r"):
    mutation = Mutation(
        subject={"type": "agent", "id": subject, "properties": {}},
        action={"name": action, "properties": {}},
        resource={"type": resource[0], "id": resource[1], "properties": {}},
        change={"after": {"n": number}},
        context={},
    )
    reason = Reason("limits", rule, effect, "why", Mode.ENFORCE)
    pending = PendingDecision(
        UUID(int=number), DAY, WHO, mutation, DIGEST, DIGEST, Verdict(effect, (reason,)), "engine"
    )
    return seal_decision(pending, salt=os.urandom(32))


def other_entry(number):
    return seal(EntryKind.KEY, id=UUID(int=number), at=DAY, principal=WHO, members={}, record={}, salt=os.urandom(32))


@pytest.fixture
async def append(database_dsn):
    writer = LedgerWriter(database_dsn, deadline=PATIENT)
    await writer.start()

    async def appended(*entries):
        return await asyncio.gather(*(writer.append(one) for one in entries))

    yield appended
    await writer.stop()


@pytest.fixture
async def connection(database_dsn):
    made = await asyncpg.connect(database_dsn)
    yield made
    await made.close()


async def indexed(engine, **options):
    indexer = Indexer(engine, **options)
    while await indexer.step():
        pass
    assert indexer.lag == 0
    return indexer


async def found(engine, wanted, *, limit=200):
    """Every index that fits, through all pages."""
    index = DecisionIndex(engine)
    found, before = [], None
    while True:
        page = await index.page(wanted, limit=limit, before=before)
        found += [one.idx for one in page.items]
        assert len(page.items) <= limit
        if not page.more:
            return found
        before = page.items[-1].idx


async def test_an_empty_ledger_has_nothing_to_find(engine):
    await indexed(engine)
    page = await DecisionIndex(engine).page(Wanted(), limit=10)
    assert (page.items, page.more, page.indexed) == ((), False, 0)


async def test_a_decision_is_found_with_what_it_says(engine, append):
    await append(decision(1, subject="x:y", resource=("apps/Deployment", "prod/shop"), effect=Effect.DENY, rule="zero"))
    await indexed(engine)
    page = await DecisionIndex(engine).page(Wanted(), limit=10)
    (one,) = page.items
    assert (one.idx, one.id, page.indexed) == (0, UUID(int=1), 1)
    assert (one.subject, one.resource) == (("agent", "x:y"), ("apps/Deployment", "prod/shop"))
    assert (one.action, one.decision, one.policy, one.rule, one.mode) == ("update", "deny", "limits", "zero", "enforce")
    assert one.recorded_at.tzinfo is not None


SUBJECTS = ("a", "b", "😀 c")
RESOURCES = (("app", "x"), ("app", "y"), ("db", "x"))
ACTIONS = ("update", "delete")
RULES = ("one", "two")


@pytest.fixture
async def many(append):
    """Three hundred decisions with other entries among them: index -> what was asked."""
    asked = {}
    for number in range(1, 301):
        say = {
            "subject": SUBJECTS[number % 3],
            "resource": RESOURCES[number // 2 % 3],
            "action": ACTIONS[number // 5 % 2],
            "effect": list(Effect)[number // 7 % 3],
            "rule": RULES[number // 11 % 2],
        }
        entry = other_entry(number) if number % 17 == 0 else decision(number, **say)
        (idx,) = await append(entry)
        if number % 17:
            asked[idx] = say
    return asked


async def test_every_combination_finds_exactly_what_fits(engine, many):
    await indexed(engine, slice_max=64)

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        subject=st.none() | st.sampled_from(SUBJECTS),
        resource=st.none() | st.sampled_from(RESOURCES),
        resource_type=st.none() | st.sampled_from(("app", "db", "x")),
        action=st.none() | st.sampled_from(ACTIONS),
        effect=st.none() | st.sampled_from(Effect),
        policy=st.sampled_from(("limits", "other", None)),
        rule=st.none() | st.sampled_from(RULES),
        limit=st.sampled_from((1, 7, 200)),
    )
    def check(subject, resource, resource_type, action, effect, policy, rule, limit):
        wanted = Wanted(
            subject=None if subject is None else ("agent", subject),
            resource=resource,
            resource_type=resource_type,
            action=action,
            decision=effect,
            policy=policy,
            rule=None if policy is None else rule,
        )
        fits = [
            idx
            for idx, say in reversed(many.items())
            if (subject is None or say["subject"] == subject)
            and (resource is None or say["resource"] == resource)
            and (resource_type is None or say["resource"][0] == resource_type)
            and (action is None or say["action"] == action)
            and (effect is None or say["effect"] is effect)
            and policy in {None, "limits"}
            and (policy is None or rule is None or say["rule"] == rule)
        ]
        assert asyncio.run_coroutine_threadsafe(found(engine, wanted, limit=limit), loop).result(120) == fits

    loop = asyncio.get_running_loop()
    await asyncio.to_thread(check)


async def test_pages_do_not_move_when_the_ledger_grows(engine, append):
    await append(*(decision(number) for number in range(1, 11)))
    await indexed(engine)
    index = DecisionIndex(engine)
    first = await index.page(Wanted(), limit=4)
    await append(*(decision(number) for number in range(11, 21)))
    await indexed(engine)
    second = await index.page(Wanted(), limit=4, before=first.items[-1].idx)
    assert [one.idx for one in (*first.items, *second.items)] == [9, 8, 7, 6, 5, 4, 3, 2]
    assert second.indexed == 20


async def test_times_bound_the_search(engine, connection):
    moments = [DAY + timedelta(hours=hour) for hour in range(48)]
    for idx, moment in enumerate(moments):
        sealed = decision(idx + 1)
        async with connection.transaction():
            await connection.execute("UPDATE ledger_head SET next_index = next_index + 1")
            await connection.execute(
                "INSERT INTO ledger_entries (idx, id, kind, recorded_at, receipt) VALUES ($1, $2, $3, $4, $5)",
                *(idx, sealed.id, sealed.kind, moment, sealed.receipt),
            )
            await connection.execute(
                "INSERT INTO ledger_records VALUES ($1, $2, $3, $4)", idx, moment, sealed.salt, sealed.record
            )
    await indexed(engine)
    since, until = moments[5], moments[9]
    assert await found(engine, Wanted(since=since, until=until), limit=2) == [8, 7, 6, 5]
    assert await found(engine, Wanted(since=moments[45])) == [47, 46, 45]
    assert await found(engine, Wanted(until=moments[2])) == [1, 0]
    assert await found(engine, Wanted(since=until, until=since)) == []
    everything = list(range(47, -1, -1))
    ends = Wanted(since=datetime.min.replace(tzinfo=UTC), until=datetime.max.replace(tzinfo=UTC))
    assert await found(engine, ends) == everything


async def test_a_record_that_is_no_json_stops_nothing(engine, append):
    broken = decision(2)._replace(record=b"{")
    empty = decision(3)._replace(record=b'{"input": {"subject": "masked", "action": 7}}')
    await append(decision(1), broken, empty, decision(4))
    await indexed(engine)
    page = await DecisionIndex(engine).page(Wanted(), limit=10)
    assert [one.id.int for one in page.items] == [4, 3, 1]
    assert page.items[1].subject == ("", "")


async def test_a_word_that_is_longer_than_any_is_kept_short(engine, append):
    await append(decision(1, subject="x" * 5000))
    await indexed(engine)
    (one,) = (await DecisionIndex(engine).page(Wanted(), limit=10)).items
    assert one.subject == ("agent", "x" * 1024)


async def test_one_replica_works_and_the_others_do_not_wait(engine, append, connection):
    await append(decision(1))
    async with connection.transaction():
        await connection.execute("SELECT FROM ledger_search_progress FOR UPDATE")
        indexer = Indexer(engine)
        assert not await asyncio.wait_for(indexer.step(), 60)
        assert indexer.lag == 1
    assert await indexer.step()
    assert not await indexer.step()


async def test_many_replicas_index_each_entry_once(engine, append):
    await append(*(decision(number) for number in range(1, 201)))
    replicas = [Indexer(engine, slice_max=7, poll_seconds=0.01) for _ in range(3)]
    for one in replicas:
        await one.start()
    async with asyncio.timeout(60):
        while (await DecisionIndex(engine).page(Wanted(), limit=1)).indexed < 200:
            await asyncio.sleep(0.01)
    for one in replicas:
        await one.stop()
        await one.stop()
    assert await found(engine, Wanted()) == list(range(199, -1, -1))


async def test_an_index_that_was_lost_is_made_again(engine, append, connection):
    await append(*(decision(number) for number in range(1, 6)))
    await indexed(engine)
    await connection.execute("DELETE FROM ledger_search WHERE idx % 2 = 0")
    await connection.execute("UPDATE ledger_search_progress SET next_index = 0")
    await indexed(engine)
    assert await found(engine, Wanted()) == [4, 3, 2, 1, 0]


async def test_after_a_failure_less_is_tried_and_then_more(engine, append, connection, caplog):
    await append(*(decision(number) for number in range(1, 101)))
    await connection.execute("ALTER TABLE ledger_search RENAME TO away")
    indexer = Indexer(engine, slice_max=64, poll_seconds=0.01, retry_seconds=0.01)
    with pytest.raises(FirewallError) as caught:
        await indexer.step()
    assert caught.value.kind is Kind.UNAVAILABLE
    await indexer.start()
    async with asyncio.timeout(60):
        while not caplog.records:
            await asyncio.sleep(0.01)
    await connection.execute("ALTER TABLE away RENAME TO ledger_search")
    async with asyncio.timeout(60):
        while (await DecisionIndex(engine).page(Wanted(), limit=1)).indexed < 100:
            await asyncio.sleep(0.01)
    await indexer.stop()
    assert [record.message for record in caplog.records] == ["decisions not indexed"]
    assert await found(engine, Wanted()) == list(range(99, -1, -1))


async def test_a_slice_that_takes_long_makes_the_next_one_smaller(engine, append):
    await append(*(decision(number) for number in range(1, 21)))
    ticks = iter(range(100))
    indexer = Indexer(engine, slice_max=8, clock=lambda: next(ticks))
    sizes, before = [], 20
    while await indexer.step():
        sizes.append(before - indexer.lag)
        before = indexer.lag
    assert sizes == [8, 4, 2, 1, 1, 1, 1, 1, 1]


async def test_a_database_that_is_away_is_told():
    engine = create_engine("postgresql://nobody@/none?host=/nowhere")
    for asked in (DecisionIndex(engine).page(Wanted(), limit=1), Indexer(engine).step()):
        with pytest.raises(FirewallError) as caught:
            await asked
        assert caught.value.kind is Kind.UNAVAILABLE
    await engine.dispose()


@pytest.mark.parametrize("words", [("a",), ("ab", "c"), ("a", "bc"), ("", ""), ("ö😀", "x"), ("x" * 3000, "y")])
async def test_the_database_makes_the_same_keys(connection, words):
    marks = ", ".join(f"${number}" for number in range(1, len(words) + 1))
    assert await connection.fetchval(f"SELECT ledger_search_key({marks})", *words) == search_key(*words)
