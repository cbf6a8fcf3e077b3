"""Batches on a real database: each mutation recorded once, in order; atomic ones whole; budgets counted within."""

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Any

import asyncpg
import orjson
import pytest

from app.core.batch import BATCH_NOT_ALLOWED, BatchMode
from app.core.types import Effect, Mutation
from app.errors import FirewallError, Kind
from app.ledger.append import LedgerWriter
from app.ledger.read import LedgerReader
from app.service.decide import SLICE, Decision
from tests.integration.ledger.conftest import Fault, Wire, make_entry
from tests.integration.service.budgeted import PATIENT, Replica, budget, mutation, policy

ROOT = Path(__file__).resolve().parents[3]
GOOD = json.loads((ROOT / "examples" / "allow-k8s-deployment-scaled.json").read_bytes())
BATCH = "/v1/decisions:batch"
NOT_BLUE = {"rules": [
    {"name": "yes", "effect": "allow", "when": "resource.properties.namespace == 'blue'"},
    {"name": "ask", "effect": "hold", "message": "ask sre", "when": "resource.properties.namespace == 'red'", "approval": {"anyOf": [{"group": "sre"}]}},
]}  # fmt: skip


async def until(true):
    while not true():
        await asyncio.sleep(0)


def decided(outcomes):
    assert all(isinstance(outcome, Decision) for outcome in outcomes), outcomes
    return outcomes


async def test_each_is_recorded_in_order_and_a_bad_one_fails_alone(database_dsn):
    bad = FirewallError(Kind.MALFORMED, "no", pointer="/subject")
    count = 3 * SLICE
    async with Replica(database_dsn, policy(name="p", **NOT_BLUE)) as replica:
        asked: list[Any] = [mutation(resource=f"r{n}", namespace="blue" if n % 2 else "green") for n in range(count)]
        asked[5] = bad
        # Of checked shape, but its change says nothing: step 5 refuses it.
        asked[7] = asked[7]._replace(change={"before": 1})
        outcomes = await replica.decide_all(*asked)
        assert outcomes[5] is bad
        assert isinstance(outcomes[7], FirewallError)
        rest = decided([outcome for n, outcome in enumerate(outcomes) if n not in {5, 7}])
        assert [one.ledger_index for one in rest] == list(range(count - 2))
        told = {n: outcome.effect for n, outcome in enumerate(outcomes) if isinstance(outcome, Decision)}
        assert all((effect is Effect.ALLOW) == (n % 2 == 1) for n, effect in told.items())
        assert len({one.decided_at for one in rest}) == 1
        report = await LedgerReader(replica.engine).verify_gapless()
        assert (report.whole, report.size) == (True, count - 2)
        assert len(replica.counted) == count - 2
        assert replica.budgets.asked == 0


@pytest.mark.parametrize("bad", ["deny", "hold", "error"])
async def test_atomic_is_all_or_none_and_recorded_so(database_dsn, database, bad):
    async with Replica(database_dsn, policy(budget(), name="p", **NOT_BLUE)) as replica:
        whole = decided(await replica.decide_all(*[mutation() for _ in range(3)], mode=BatchMode.ATOMIC))
        assert [one.effect for one in whole] == [Effect.ALLOW] * 3
        assert await database.fetchval("SELECT count(*) FROM budget_uses") == 3
        spoilers: dict[str, Mutation | FirewallError] = {
            "deny": mutation(namespace="green"),
            "hold": mutation(namespace="red"),
            "error": FirewallError(Kind.MALFORMED, "no"),
        }
        outcomes = await replica.decide_all(mutation(), spoilers[bad], mutation(), mode=BatchMode.ATOMIC)
        first, middle, last = outcomes
        for one in (first, last):
            assert isinstance(one, Decision)
            assert one.effect is Effect.DENY
            assert one.reasons[0].rule == BATCH_NOT_ALLOWED
            assert one.reasons[0].policy == "mutation-firewall"
            assert "mutation 1" in one.reasons[0].message
            # Why it would have been allowed alone stays.
            assert one.reasons[1].effect is Effect.ALLOW
            entry = await LedgerReader(replica.engine).get(one.ledger_index)
            record = orjson.loads(entry.record or b"")
            assert record["decision"] == "deny"
            assert record["reasons"][0]["rule"] == BATCH_NOT_ALLOWED
            assert record["budgets"][0]["used"] >= 3
        if bad == "error":
            assert isinstance(middle, FirewallError)
        else:
            assert isinstance(middle, Decision)
            assert middle.effect.value == bad
            assert middle.reasons[0].rule != BATCH_NOT_ALLOWED
        # What is not allowed takes nothing.
        assert await database.fetchval("SELECT count(*) FROM budget_uses") == 3


async def test_an_atomic_batch_without_budgets_is_one_transaction(database_dsn):
    async with Replica(database_dsn, policy(name="p", **NOT_BLUE)) as replica:
        whole = decided(await replica.decide_all(*[mutation() for _ in range(600)], mode=BatchMode.ATOMIC))
        assert [one.ledger_index for one in whole] == list(range(600))
        connection = await asyncpg.connect(database_dsn)
        try:
            assert await connection.fetchval("SELECT count(DISTINCT xmin::text) FROM ledger_entries") == 1
        finally:
            await connection.close()


async def test_budgets_count_within_a_batch_and_between_batches(database_dsn, database):
    document = policy(budget(limit=20))
    async with Replica(database_dsn, document) as one, Replica(database_dsn, document) as other:
        batches = await asyncio.gather(
            *(replica.decide_all(*[mutation() for _ in range(8)]) for replica in (one, other) for _ in range(3))
        )
        told = Counter(outcome.effect for batch in batches for outcome in decided(batch))
        assert told == {Effect.ALLOW: 20, Effect.DENY: 28}
        assert await database.fetchval("SELECT count(*) FROM budget_uses") == 20
        # Within each batch the counts go up one by one.
        for batch in batches:
            used = [one.budgets[0].used for one in decided(batch) if one.effect is Effect.ALLOW]
            assert used == list(range(used[0], used[0] + len(used))) if used else True
        # Nothing is taken any more, so the writer appends.
        last = decided(await one.decide_all(mutation(), mutation()))
        assert [outcome.effect for outcome in last] == [Effect.DENY, Effect.DENY]
        assert (await LedgerReader(one.engine).verify_gapless()).whole


async def test_an_atomic_batch_needs_room_for_all(database_dsn, database):
    async with Replica(database_dsn, policy(budget(limit=3))) as replica:
        refused = decided(await replica.decide_all(*[mutation() for _ in range(4)], mode=BatchMode.ATOMIC))
        assert [one.effect for one in refused] == [Effect.DENY] * 4
        assert [one.reasons[0].rule for one in refused] == [BATCH_NOT_ALLOWED] * 3 + ["b"]
        assert await database.fetchval("SELECT count(*) FROM budget_uses") == 0
        let_in = decided(await replica.decide_all(*[mutation() for _ in range(3)], mode=BatchMode.ATOMIC))
        assert [one.effect for one in let_in] == [Effect.ALLOW] * 3


async def test_distinct_values_within_a_batch(database_dsn, database):
    async with Replica(database_dsn, policy(budget(distinct="resource.properties.namespace", limit=2))) as replica:
        asked = [mutation(namespace=name) for name in ("a", "b", "a", "c", "b", "a")]
        told = [one.effect.value for one in decided(await replica.decide_all(*asked))]
        assert told == ["allow", "allow", "allow", "deny", "allow", "allow"]
        # A value needs its last use alone.
        assert await database.fetchval("SELECT count(*) FROM budget_uses") == 2
        told = [one.effect.value for one in decided(await replica.decide_all(*asked))]
        assert told == ["allow", "allow", "allow", "deny", "allow", "allow"]


async def test_a_ledger_that_is_away_refuses_the_whole_batch(database_dsn):
    async with Replica(database_dsn, policy()) as replica:
        await replica.writer.stop()
        with pytest.raises(FirewallError) as caught:
            await replica.decide_all(mutation(), mutation())
        assert caught.value.kind is Kind.UNAVAILABLE


async def test_append_all_tells_each_its_fate(database_dsn):
    writer = LedgerWriter(database_dsn, deadline=PATIENT, connect_timeout=PATIENT, statement_timeout=PATIENT)
    await writer.start()
    try:
        twice = make_entry()
        await writer.append(twice)
        changed = twice._replace(receipt=twice.receipt.replace(b"prod", b"pred"))
        told = await writer.append_all([make_entry(), changed, make_entry()])
        assert isinstance(told[1], FirewallError)
        assert told[1].kind is Kind.CONFLICT
        assert sorted(index for index in told if isinstance(index, int)) == [1, 2]
    finally:
        await writer.stop()


async def test_nobody_waits_for_a_batch_whose_caller_is_gone(database_dsn):
    wire = Wire(database_dsn)
    await wire.open()
    writer = LedgerWriter(wire.dsn, deadline=PATIENT, connect_timeout=PATIENT, statement_timeout=PATIENT)
    await writer.start()
    try:
        assert await writer.wait_connected(within=60)
        wire.fault = Fault.HANG
        first = asyncio.create_task(writer.append(make_entry()))
        await wire.struck.wait()
        (task,) = [asyncio.create_task(writer.append_all([make_entry() for _ in range(5)]))]
        await until(lambda: writer.waiting == 6)
        assert not first.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert writer.waiting == 1
        first.cancel()
    finally:
        await writer.stop(drain_timeout=0.1)
        await wire.cut()


def test_over_http(service):
    bad = {name: value for name, value in GOOD.items() if name != "subject"}
    before = len(service.entries())
    with service.client() as client:
        answer = client.post(BATCH, json={"mutations": [GOOD, bad, GOOD]})
        assert answer.status_code == 200, answer.text
        document = answer.json()
        assert document["summary"] == {"allow": 2, "deny": 0, "hold": 0, "refused": 1}
        assert [one["index"] for one in document["results"]] == [0, 1, 2]
        assert document["results"][0]["decision"] == "allow"
        problem = document["results"][1]
        assert (problem["status"], problem["pointer"]) == (400, "/mutations/1/subject")
        assert problem["request_id"] == answer.headers["x-request-id"]
        assert [row[0] for row in service.entries()[before:]] == [
            document["results"][0]["ledger_index"],
            document["results"][2]["ledger_index"],
        ]
        atomic = client.post(BATCH, json={"mutations": [GOOD, bad, GOOD], "mode": "atomic"}).json()
        assert atomic["summary"] == {"allow": 0, "deny": 2, "hold": 0, "refused": 1}
        thousand = client.post(BATCH, json={"mutations": [GOOD] * 1000}).json()
        assert thousand["summary"]["allow"] == 1000
        indexes = [one["ledger_index"] for one in thousand["results"]]
        assert indexes == list(range(indexes[0], indexes[0] + 1000))


@pytest.mark.parametrize(
    ("body", "status", "pointer"),
    [
        ([GOOD], 400, ""),
        ({}, 400, "/mutations"),
        ({"mutations": []}, 400, "/mutations"),
        ({"mutations": GOOD}, 400, "/mutations"),
        ({"mutations": [GOOD], "mode": "some"}, 400, "/mode"),
        ({"mutations": [GOOD], "mode": ["each"]}, 400, "/mode"),
        ({"mutations": [GOOD], "modes": "each"}, 400, "/modes"),
        ({"mutations": [1] * 1001}, 413, "/mutations"),
    ],
)
def test_what_is_no_batch_is_refused_whole(service, body, status, pointer):
    before = len(service.entries())
    with service.client() as client:
        answer = client.post(BATCH, json=body)
    assert answer.status_code == status, answer.text
    assert answer.json()["pointer"] == pointer
    assert len(service.entries()) == before


def test_a_mutation_may_nest_as_deep_as_alone(service):
    body = {name: value for name, value in GOOD.items() if name != "context"}
    alone = json.dumps(body).encode()[:-1] + b',"context":' + b'{"a":' * 63 + b"1" + b"}" * 63 + b"}"
    headers = {"Content-Type": "application/json"}
    with service.client() as client:
        assert client.post("/v1/decisions", content=alone, headers=headers).status_code == 200
        together = client.post(BATCH, content=b'{"mutations":[' + alone + b"]}", headers=headers)
        assert together.status_code == 200
        assert "decision" in together.json()["results"][0]
        deeper = alone.replace(b'{"a":1}', b'{"a":{"a":1}}')
        assert client.post("/v1/decisions", content=deeper, headers=headers).status_code == 400
        assert client.post(BATCH, content=b'{"mutations":[' + deeper + b"]}", headers=headers).status_code == 400


def test_counted_by_mutations(database_dsn, serve):
    limits = {"MFW_LIMITS__BATCH_PER_MINUTE": "1", "MFW_LIMITS__BATCH_BURST": "10"}
    with serve(database_dsn, **limits) as limited, limited.client() as client:
        first = client.post(BATCH, json={"mutations": [GOOD] * 7})
        assert first.status_code == 200
        assert first.headers["ratelimit"].startswith('"default";r=3;')
        second = client.post(BATCH, json={"mutations": [GOOD] * 7})
        assert second.status_code == 429
        assert int(second.headers["retry-after"]) >= 1
        third = client.post(BATCH, json={"mutations": [GOOD] * 11})
        assert (third.status_code, third.json()["pointer"]) == (413, "/mutations")
        assert len(limited.entries()) == 7
        assert client.post(BATCH, json={"mutations": [GOOD]}, headers={"Authorization": ""}).status_code == 401


def test_the_body_has_a_limit_of_its_own(database_dsn, serve):
    with serve(database_dsn, MFW_HTTP__MAX_BATCH_BODY_BYTES="20000") as limited, limited.client() as client:
        assert client.post(BATCH, json={"mutations": [GOOD] * 2}).status_code == 200
        assert client.post(BATCH, json={"mutations": [GOOD] * 50}).status_code == 413
        assert client.post(BATCH, json={"mutations": [GOOD]}, headers={"X-API-Key": "x"}).status_code == 400


def test_who_may_not_decide_may_not_decide_many(service):
    with service.client(key=service.operator_key) as client:
        assert client.post(BATCH, json={"mutations": [GOOD]}).status_code == 403


def test_a_large_batch_is_read_apart_and_one_of_too_many_values_is_refused(service):
    large = GOOD | {"context": {"log": "x" * 20_000}}
    with service.client() as client:
        answer = client.post(BATCH, json={"mutations": [large] * 20})
        assert answer.json()["summary"]["allow"] == 20
        many = b'{"mutations":[' + b"[]," * 500_000 + b"{}]}"
        refused = client.post(BATCH, content=many, headers={"Content-Type": "application/json"})
        assert (refused.status_code, refused.json()["type"].rpartition("/")[2]) == (413, "too-large")
        assert "values" in refused.json()["detail"]
