"""A replica follows what is activated: told of it, by asking, and from the last good copy while nobody answers."""

import asyncio
import time
from datetime import UTC, datetime
from functools import partial
from uuid import uuid4

import asyncpg
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from app.core.dsse import Envelope, Signature
from app.errors import FirewallError, Kind
from app.migrations import schema
from app.persistence.embedded import EmbeddedPostgres
from app.persistence.engine import connect, create_engine
from app.policies.distribute import DatabaseSource, Failure, SetInForce, SourceState
from app.policies.last_good import FILE_NAME
from app.policies.load import check_documents
from app.policies.signatures import PAYLOAD_TYPE, RequiredSigners, sign, statement
from app.policies.store import PolicySetStore


def document(name, **spec):
    return {
        "apiVersion": "mutationfirewall.io/v1",
        "kind": "MutationPolicy",
        "metadata": {"name": name},
        "spec": {"rules": [{"name": "allow", "effect": "allow"}], **spec},
    }


class Publisher:
    """Stores and activates, without anybody who judges."""

    def __init__(self, store):
        self.store = store
        self.last = None

    async def activate(self, name):
        checked = check_documents([document(name)])
        assert checked.policy_set is not None
        digest = checked.policy_set.digest
        await self.store.put(digest, documents=checked.content, policies=1, rules=1, created_by="test")
        await self.put_into_force(digest)
        return digest

    async def put_into_force(self, digest):
        async def append(_connection):
            return 0

        await self.store.activate(
            digest,
            previous=self.last,
            reason="a test",
            activated_by="test",
            activated_at=datetime.now(UTC),
            ledger_id=uuid4(),
            append=append,
        )
        self.last = digest


@pytest.fixture
async def store(database_dsn):
    engine = create_engine(database_dsn)
    yield PolicySetStore(engine)
    await engine.dispose()


@pytest.fixture
async def publisher(store):
    return Publisher(store)


@pytest.fixture
async def follow(store, database_dsn):
    """`await follow(...)` gives a source that was started."""
    started = []

    async def make(**options):
        source = DatabaseSource(store, connect=partial(connect, database_dsn, connect_timeout=60.0), **options)
        started.append(source)
        await source.start()
        return source

    yield make
    for source in started:
        await source.stop()


def activated(source):
    return None if source.in_force is None else source.in_force.sequence


async def takes(source, digest, *, within=60.0):
    ends = time.monotonic() + within
    while source.in_force is None or source.in_force.digest != digest:
        before = None if source.in_force is None else source.in_force.digest
        await source.wait_changed(before, within=within)
        assert time.monotonic() < ends, source.report()


async def until(condition, *, within=60.0):
    async with asyncio.timeout(within):
        while not condition():
            await asyncio.sleep(0.01)


async def test_it_follows_notifications(publisher, follow):
    source = await follow(poll_seconds=600)
    assert source.in_force is None
    with pytest.raises(FirewallError) as caught:
        source.current()
    assert (caught.value.kind, caught.value.retry_after) == (Kind.UNAVAILABLE, 600)
    assert source.report().state is SourceState.DOUBTFUL
    for number in range(3):
        digest = await publisher.activate(f"p{number}")
        await takes(source, digest)  # long before it would ask
        assert source.current().digest == digest
        assert activated(source) == number + 1
    assert source.report().state is SourceState.CURRENT
    assert source.lag == 0
    assert not source.stale


async def test_it_follows_by_asking_when_nobody_tells(publisher, follow):
    source = await follow(poll_seconds=0.3, channel="somewhere_else")
    digest = await publisher.activate("a")
    await takes(source, digest)


async def test_it_listens_again_when_the_connection_was_killed(publisher, follow, database_dsn):
    admin = await asyncpg.connect(database_dsn)
    # Idle, for who is ended before it was told that it listens has to wait as long as for the next poll.
    listening = (
        "SELECT pid FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND state = 'idle'"
        " AND datname = current_database() AND pid <> ALL($1::int[])"
    )
    ended: list[int] = []
    try:
        source = await follow(poll_seconds=600)
        for number in range(3):
            async with asyncio.timeout(60):
                while (pid := await admin.fetchval(listening, ended)) is None:
                    await asyncio.sleep(0.01)
            ended.append(pid)
            await admin.execute("SELECT pg_terminate_backend($1)", pid)
            # Said while nobody listens: the new connection looks first.
            digest = await publisher.activate(f"p{number}")
            await takes(source, digest)
    finally:
        await admin.close()


async def test_a_set_that_does_not_compile_here_is_refused_whole(publisher, follow, store):
    failures: list[Failure] = []
    source = await follow(poll_seconds=0.05, max_lag_seconds=0.2, failed=failures.append)
    good = await publisher.activate("good")
    await takes(source, good)
    # As a later release may have stored it: this one does not know the member.
    from app.core.canonical import canonical, digest

    later = [document("later", unheard=True)]
    await store.put(digest(later), documents=canonical(later), policies=1, rules=1, created_by="test")
    await publisher.put_into_force(digest(later))
    # Who hears nothing for a moment is behind as well.
    await until(lambda: source.report().state is SourceState.BEHIND and "unheard" in source.report().detail)
    assert source.current().digest == good
    assert set(failures) == {Failure.REFUSED}
    assert source.lag > 0.2
    # The next one that compiles ends it.
    await takes(source, await publisher.activate("better"))
    await until(lambda: source.report().state is SourceState.CURRENT and source.lag == 0)
    # Going back to a set is one more activation.
    await publisher.put_into_force(good)
    await takes(source, good)
    assert source.in_force.sequence == 4


async def test_the_same_set_activated_again_has_the_new_sequence(publisher, follow):
    source = await follow(poll_seconds=0.05)
    digest = await publisher.activate("a")
    await takes(source, digest)
    taken = source.in_force.policy_set
    await publisher.put_into_force(digest)
    await until(lambda: source.in_force.sequence == 2)
    assert source.in_force.policy_set is taken


async def test_a_database_without_history_takes_nothing_away(follow, tmp_path, publisher, empty_database_dsn):
    source = await follow(poll_seconds=600, copies=tmp_path)
    digest = await publisher.activate("a")
    await takes(source, digest)
    await schema.apply(empty_database_dsn)
    engine = create_engine(empty_database_dsn)
    try:
        source._store = PolicySetStore(engine)
        await source.refresh()
        assert source.current().digest == digest
        assert source.report().state is SourceState.DOUBTFUL
        assert "no activation" in source.report().detail
    finally:
        await engine.dispose()


async def test_the_copy_cannot_be_written(publisher, follow, tmp_path):
    failures: list[Failure] = []
    (tmp_path / "file").write_text("")
    source = await follow(poll_seconds=600, copies=tmp_path / "file" / "below", failed=failures.append)
    digest = await publisher.activate("a")
    await takes(source, digest)
    await until(lambda: failures == [Failure.COPY])
    assert source.current().digest == digest


async def test_whatever_the_store_raises_it_goes_on(follow, publisher):
    source = await follow(poll_seconds=600)
    store, source._store = source._store, None
    await source.refresh()
    assert "internal error" in source.report().detail
    source._store = store
    await takes(source, await publisher.activate("a"))


async def test_from_the_last_good_copy_while_the_database_is_away(state_directory, tmp_path):
    server = EmbeddedPostgres(state_directory)
    dsn = await asyncio.to_thread(server.start)
    changes: list[SetInForce] = []
    try:
        await schema.apply(dsn)
        engine = create_engine(dsn)
        publisher = Publisher(PolicySetStore(engine))
        options = {"connect": partial(connect, dsn), "copies": tmp_path / "copies", "poll_seconds": 0.1}
        digest = await publisher.activate("a")
        before = DatabaseSource(publisher.store, **options)
        await before.start()
        assert before.current().digest == digest
        await before.stop()
        assert (tmp_path / "copies" / FILE_NAME).stat().st_mode & 0o777 == 0o600
        await engine.dispose()
        await asyncio.to_thread(server.stop)

        source = DatabaseSource(publisher.store, max_lag_seconds=0.3, changed=changes.append, **options)
        await source.start()
        assert source.current().digest == digest
        assert source.stale
        assert [taken.stale for taken in changes] == [True]
        assert "last good copy" in source.report().detail
        await until(lambda: source.report().state is SourceState.BEHIND)

        assert await asyncio.to_thread(server.start) == dsn
        await until(lambda: not source.stale)
        await until(lambda: source.report().state is SourceState.CURRENT)
        assert activated(source) == 1
        latest = await publisher.activate("b")
        await takes(source, latest)
        await until(lambda: latest in (tmp_path / "copies" / FILE_NAME).read_text())
        await source.stop()

        # Without a copy, and with one that somebody else could have written, there is nothing to start with.
        await engine.dispose()
        await asyncio.to_thread(server.stop)
        (tmp_path / "copies" / FILE_NAME).chmod(0o666)
        source = DatabaseSource(publisher.store, **options)
        await source.start()
        assert source.in_force is None
        assert "others could have written it" in source.report().detail
        assert not source.asked
        await source.stop()
        source = DatabaseSource(publisher.store, **(options | {"copies": tmp_path / "none"}))
        await source.start()
        assert source.in_force is None
        await source.stop()
        await engine.dispose()
    finally:
        await asyncio.to_thread(server.stop)


KEYS = {name: Ed25519PrivateKey.generate() for name in ("sre", "security")}


def required(*names, **more):
    pems = {
        name: KEYS[name].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
        for name in names
    }
    return RequiredSigners.of(pems, **more)


async def signed(store, digest, *names):
    await store.sign(digest, [sign(digest, KEYS[name]) for name in names], added_by="test")


async def test_a_set_that_nobody_signed_is_not_followed(publisher, store, follow):
    failures: list[Failure] = []
    first = await put(store, "first")
    await signed(store, first, "sre", "security")
    await publisher.put_into_force(first)
    source = await follow(
        signers=required("sre", "security"), failed=failures.append, poll_seconds=0.05, max_lag_seconds=0.01
    )
    assert source.current().digest == first
    assert "signed by security, sre" in source.report().detail

    # Whoever can write to the database puts a set into force by hand, half signed and with a signature made up.
    second = await put(store, "second")
    await signed(store, second, "sre")
    forged = Envelope(PAYLOAD_TYPE, statement(second), (Signature(required("security").signers[0].keyid, b"x" * 64),))
    await store.sign(second, [forged], added_by="whoever")
    await publisher.put_into_force(second)
    await until(lambda: Failure.UNSIGNED in failures)
    assert source.current().digest == first
    assert "has 1 of 2 required signatures; missing: `security`" in source.report().detail
    await until(lambda: source.report().state is SourceState.BEHIND)

    # The signature still comes, and nothing has to be started again.
    await signed(store, second, "security")
    await takes(source, second)
    await until(lambda: source.report().state is SourceState.CURRENT)
    assert source.in_force is not None
    assert source.in_force.signed is not None
    assert len(source.in_force.signed.envelopes) == 2


async def test_a_replica_that_starts_does_not_take_it_either(publisher, follow):
    await publisher.activate("unsigned")
    source = await follow(signers=required("sre"))
    assert source.in_force is None
    assert "0 of 1 required signatures" in source.report().detail
    # Where none is required they are only told.
    lenient = await follow(signers=required("sre", required=0))
    assert lenient.in_force is not None
    assert "signed by" not in lenient.report().detail


async def test_the_last_good_copy_is_verified(store, publisher, follow, tmp_path, database_dsn):
    digest = await put(store, "a")
    await signed(store, digest, "sre")
    await publisher.put_into_force(digest)
    await follow(signers=required("sre"), copies=tmp_path)
    assert b'"signatures":[{' in (tmp_path / FILE_NAME).read_bytes()
    away = create_engine("postgresql://nobody@/nothing?host=/nowhere")

    async def without_database(**options):
        source = DatabaseSource(PolicySetStore(away), connect=partial(connect, database_dsn), **options)
        await source.start()
        await source.stop()
        return source

    try:
        taken = await without_database(signers=required("sre"), copies=tmp_path)
        assert (taken.current().digest, taken.stale) == (digest, True)
        failures: list[Failure] = []
        refused = await without_database(signers=required("security"), copies=tmp_path, failed=failures.append)
        assert refused.in_force is None
        assert Failure.COPY in failures
        assert "0 of 1 required signatures" in refused.report().detail
    finally:
        await away.dispose()


async def put(store, name):
    checked = check_documents([document(name)])
    assert checked.policy_set is not None
    digest = checked.policy_set.digest
    await store.put(digest, documents=checked.content, policies=1, rules=1, created_by="test")
    return digest
