"""Policy sets at rest, on a real PostgreSQL."""

from datetime import UTC, datetime
from hashlib import sha256
from uuid import uuid4

import asyncpg
import pytest

from app.core.canonical import canonical
from app.core.dsse import Envelope, Signature
from app.errors import FirewallError, Kind
from app.persistence.engine import create_engine
from app.policies.load import check_documents
from app.policies.signatures import PAYLOAD_TYPE
from app.policies.store import PolicySetStore, documents_of


def document(name):
    return {
        "apiVersion": "mutationfirewall.io/v1",
        "kind": "MutationPolicy",
        "metadata": {"name": name},
        "spec": {"rules": [{"name": "allow", "effect": "allow"}]},
    }


@pytest.fixture
async def store(database_dsn):
    engine = create_engine(database_dsn)
    yield PolicySetStore(engine)
    await engine.dispose()


@pytest.fixture
async def connection(database_dsn):
    made = await asyncpg.connect(database_dsn)
    yield made
    await made.close()


async def put(store, name, **more):
    checked = check_documents([document(name)])
    assert checked.policy_set is not None
    return await store.put(
        checked.policy_set.digest, documents=checked.content, policies=1, rules=1, created_by="test", **more
    )


async def activate(store, digest, *, previous, reason="a test", append=None):
    async def nothing(_connection):
        return 0

    return await store.activate(
        digest,
        previous=previous,
        reason=reason,
        activated_by="test",
        activated_at=datetime.now(UTC),
        ledger_id=uuid4(),
        append=append or nothing,
    )


async def test_a_set_is_stored_once(store):
    first, created = await put(store, "a", note="one")
    again, created_again = await put(store, "a", note="two")
    assert (created, created_again) == (True, False)
    assert first == again
    assert first.note == "one"
    found, documents = await store.get(first.digest)
    assert found == first
    assert documents == [document("a")]
    assert first.digest == "sha256:" + sha256(canonical([document("a")])).hexdigest()


async def test_what_is_not_there(store):
    with pytest.raises(FirewallError) as caught:
        await store.get("sha256:" + "0" * 64)
    assert caught.value.kind is Kind.NOT_FOUND
    assert await store.latest() is None
    assert await store.history(limit=5) == ()
    assert await store.list(limit=5) == ()
    assert not await store.was_active("sha256:" + "0" * 64)


async def test_one_activation_after_another(store):
    one, two = (await put(store, "a"))[0], (await put(store, "b"))[0]
    await activate(store, one.digest, previous=None)
    made = await activate(store, two.digest, previous=one.digest)
    latest = await store.latest()
    assert (latest.sequence, latest.digest) == (2, two.digest)
    assert 0 <= latest.age < 60
    assert await store.was_active(one.digest)
    assert (await store.history(limit=5))[0] == made
    for previous in (None, one.digest):
        with pytest.raises(FirewallError) as caught:
            await activate(store, one.digest, previous=previous)
        assert caught.value.kind is Kind.CONFLICT
    assert (await store.latest()).sequence == 2


@pytest.mark.parametrize("reason", ["", " ", "x" * 1001, "a\0b"])
async def test_a_bad_reason(store, reason):
    with pytest.raises(FirewallError) as caught:
        await activate(store, "sha256:" + "0" * 64, previous=None, reason=reason)
    assert (caught.value.kind, caught.value.pointer) == (Kind.MALFORMED, "/reason")


async def test_nothing_is_half_done(store, connection):
    made = (await put(store, "a"))[0]

    async def append(within):
        await within.exec_driver_sql("UPDATE ledger_head SET next_index = next_index + 1")
        return 0

    with pytest.raises(FirewallError):
        await activate(store, made.digest, previous="sha256:" + "0" * 64, append=append)
    assert await connection.fetchval("SELECT next_index FROM ledger_head") == 0


@pytest.mark.parametrize("table", ["policy_sets", "policy_set_activations", "policy_set_signatures"])
@pytest.mark.parametrize("statement", ["DELETE FROM {}", "TRUNCATE {} CASCADE", "UPDATE {} SET digest = digest"])
async def test_nothing_is_changed_or_removed(connection, table, statement):
    for role in ("origin", "replica"):
        await connection.execute(f"SET session_replication_role = {role}")
        with pytest.raises(asyncpg.RestrictViolationError, match="only added to"):
            await connection.execute(statement.format(table))


async def test_nobody_files_a_set_under_another_name(connection):
    with pytest.raises(asyncpg.CheckViolationError):
        await connection.execute(
            "INSERT INTO policy_sets (digest, documents, policies, rules, created_by) VALUES ($1, '[]', 1, 1, 'x')",
            "sha256:" + "0" * 64,
        )


def test_damaged_documents_are_refused():
    with pytest.raises(FirewallError) as caught:
        documents_of(b"[]", digest="sha256:" + "0" * 64)
    assert caught.value.kind is Kind.INVALID_POLICY


def envelope(keyid, signature, payload=b"{}"):
    return Envelope(PAYLOAD_TYPE, payload, (Signature(keyid, signature * 64),))


async def test_signatures_are_stored_once(store):
    digest = (await put(store, "a"))[0].digest
    one, other, made_up = envelope("a" * 64, b"1"), envelope("b" * 64, b"2", b"[1]"), envelope("a" * 64, b"3")
    assert await store.sign(digest, [one, other], added_by="sre") == 2
    assert await store.sign(digest, [one], added_by="somebody else") == 0
    # What somebody made up for the same key stands beside it, never in its way.
    assert await store.sign(digest, [made_up, one], added_by="x") == 1
    found = await store.signatures(digest, keyids=["a" * 64, "b" * 64, "c" * 64])
    assert {row.envelope for row in found} == {one, other, made_up}
    assert [row.added_by for row in found if row.envelope == one] == ["sre"]
    assert [row.keyid for row in await store.signatures(digest, keyids=["b" * 64])] == ["b" * 64]
    assert await store.signatures(digest, keyids=[]) == ()
    assert await store.sign(digest, [], added_by="x") == 0


async def test_signatures_of_a_set_that_is_not_there(store):
    for envelopes in ([], [envelope("a" * 64, b"1")]):
        with pytest.raises(FirewallError) as caught:
            await store.sign("sha256:" + "0" * 64, envelopes, added_by="x")
        assert caught.value.kind is Kind.NOT_FOUND
    assert await store.signatures("sha256:" + "0" * 64, keyids=["a" * 64]) == ()
