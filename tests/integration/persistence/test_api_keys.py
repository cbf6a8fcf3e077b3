"""API keys in the database: shown once, stored as a digest, worthless when revoked or expired."""

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import asyncpg
import pytest

from app.core.api_key import generate, hash_key, is_well_formed
from app.core.principal import AccessScope, Role
from app.errors import FirewallError, Kind
from app.persistence.api_keys import REREAD_SECONDS, ActiveKeys, ApiKeyStore, Installed
from app.persistence.engine import create_engine


class Observed:
    def __init__(self):
        self.errors = []
        self.operations = []

    def error(self, kind):
        self.errors.append(kind)

    def timed(self, operation, seconds):
        assert seconds >= 0
        self.operations.append(operation)


@pytest.fixture
def observed():
    return Observed()


@pytest.fixture
async def store(database_dsn, observed):
    engine = create_engine(database_dsn)
    yield ApiKeyStore(engine, observer=observed)
    await engine.dispose()


async def test_a_key_is_shown_once_and_stored_as_its_digest(store, database_dsn):
    made = await store.create("ci", principal_id="pipeline", roles=[Role.AGENT, Role.VIEWER])
    assert is_well_formed(made.key)
    assert made.stored.hash == hash_key(made.key)
    assert made.stored.roles == {Role.AGENT, Role.VIEWER}
    assert await store.list_active() == (made.stored,)
    connection = await asyncpg.connect(database_dsn)
    assert made.key not in str(await connection.fetch("SELECT * FROM api_keys"))
    await connection.close()


async def test_no_two_keys_are_alike(store):
    made = [await store.create("same", principal_id="same", roles=[Role.AGENT]) for _ in range(3)]
    assert len({one.key for one in made}) == 3
    assert [one.stored for one in made] == list(await store.list_active())


async def test_revoking_is_at_once_and_once(store):
    made = await store.create("ci", principal_id="pipeline", roles=[Role.AGENT])
    revoked = await store.revoke(made.stored.id)
    assert revoked.revoked_at is not None
    assert await store.list_active() == ()
    assert await store.revoke(made.stored.id) == revoked
    assert await store.list_all() == (revoked,)


async def test_an_expired_key_is_not_active(store):
    now = datetime.now(UTC)
    await store.create("past", principal_id="p", roles=[Role.AGENT], expires_at=now - timedelta(seconds=1))
    future = await store.create("future", principal_id="p", roles=[Role.AGENT], expires_at=now + timedelta(hours=1))
    assert await store.list_active() == (future.stored,)
    assert future.stored.expires_at == now + timedelta(hours=1)


async def test_a_role_of_a_later_release_gives_nothing(store, database_dsn):
    made = await store.create("ci", principal_id="p", roles=[Role.AGENT])
    connection = await asyncpg.connect(database_dsn)
    await connection.execute("UPDATE api_keys SET roles = ARRAY['requester', 'emperor']")
    await connection.close()
    assert (await store.list_active())[0].roles == {Role.AGENT}
    assert made.stored.roles == {Role.AGENT}


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"name": ""}, "/name"),
        ({"name": "x" * 201}, "/name"),
        ({"name": "a\0b"}, "/name"),
        ({"principal_id": ""}, "/principal_id"),
        ({"principal_id": "x" * 201}, "/principal_id"),
        ({"roles": []}, "/roles"),
        ({"expires_at": datetime(2030, 1, 1)}, "/expires_at"),
    ],
)
async def test_what_makes_no_key_is_refused(store, changes, pointer):
    given = {"name": "ci", "principal_id": "p", "roles": [Role.AGENT], **changes}
    with pytest.raises(FirewallError) as caught:
        await store.create(given.pop("name"), **given)
    assert (caught.value.kind, caught.value.pointer) == (Kind.MALFORMED, pointer)


async def test_no_such_key(store):
    with pytest.raises(FirewallError) as caught:
        await store.revoke(uuid4())
    assert caught.value.kind is Kind.NOT_FOUND


async def test_the_same_entropy_twice_is_refused_and_not_a_second_key(database_dsn, observed):
    engine = create_engine(database_dsn)
    store = ApiKeyStore(engine, observer=observed, entropy=bytes)
    made = await store.create("one", principal_id="p", roles=[Role.AGENT])
    assert made.key == generate(bytes(32))
    with pytest.raises(FirewallError) as caught:
        await store.create("two", principal_id="p", roles=[Role.AGENT])
    assert caught.value.kind is Kind.UNAVAILABLE
    assert observed.errors == ["conflict"]
    await engine.dispose()


async def test_what_is_asked_is_timed(store, observed):
    await store.create("ci", principal_id="p", roles=[Role.AGENT])
    await store.list_active()
    assert observed.operations == ["other", "load_keys"]


async def test_a_database_that_is_away_is_told(observed):
    engine = create_engine("postgresql://nobody@/none?host=/nowhere")
    with pytest.raises(FirewallError) as caught:
        await ApiKeyStore(engine, observer=observed).list_active()
    assert caught.value.kind is Kind.UNAVAILABLE
    assert caught.value.retry_after
    assert observed.errors == ["connection"]
    await engine.dispose()


async def appended(connection):
    """No ledger: its entries are tested with the service that writes them."""


async def rotated(store, old_id, **changes):
    now = datetime.now(UTC)
    given = {"ends_at": now + timedelta(hours=1), "expires_at": None, "id": uuid4(), "append": appended} | changes
    return await store.rotate(old_id, **given)


async def refused(awaitable):
    with pytest.raises(FirewallError) as caught:
        await awaitable
    return caught.value


async def test_a_key_keeps_its_bounds(store):
    made = await store.create(
        "ci",
        principal_id="p",
        scopes=[AccessScope.OPS],
        subjects=["agent:deploy-*"],
        networks=["10.0.0.0/8", "192.0.2.7"],
    )
    assert made.stored.roles == frozenset()
    assert made.stored.scopes == {AccessScope.OPS}
    assert made.stored.subjects == ("agent:deploy-*",)
    assert made.stored.networks == ("10.0.0.0/8", "192.0.2.7/32")
    assert await store.get(made.stored.id) == made.stored


async def test_a_rotation_leaves_two_that_work_and_then_one(store):
    first = await store.create(
        "ci", principal_id="p", roles=[Role.AGENT], subjects=["agent:a"], networks=["10.0.0.0/8"]
    )
    end = datetime.now(UTC) + timedelta(hours=1)
    second, old = await rotated(store, first.stored.id, ends_at=end)
    assert old.expires_at == end
    assert (second.stored.name, second.stored.principal_id, second.stored.permits, second.stored.subjects) == (
        old.name,
        old.principal_id,
        old.permits,
        old.subjects,
    )
    assert (second.stored.networks, second.stored.replaces) == (old.networks, old.id)
    assert await store.list_active() == (old, second.stored)
    assert "rotated already" in (await refused(rotated(store, first.stored.id))).detail
    await store.revoke(second.stored.id)
    third, _ = await rotated(store, first.stored.id, ends_at=end + timedelta(days=1))
    assert third.key not in {first.key, second.key}
    # An end never moves away.
    assert (await store.get(first.stored.id)).expires_at == end


async def test_what_ended_is_not_rotated(store):
    made = await store.create("ci", principal_id="p", roles=[Role.AGENT])
    await store.revoke(made.stored.id)
    assert "revoked" in (await refused(rotated(store, made.stored.id))).detail
    past = datetime.now(UTC) - timedelta(seconds=1)
    made = await store.create("ci", principal_id="p", roles=[Role.AGENT], expires_at=past)
    assert "expired" in (await refused(rotated(store, made.stored.id))).detail
    assert (await refused(rotated(store, uuid4()))).kind is Kind.NOT_FOUND


async def test_two_rotations_at_once_are_one(store):
    made = await store.create("ci", principal_id="p", roles=[Role.AGENT])
    outcomes = await asyncio.gather(*(rotated(store, made.stored.id) for _ in range(3)), return_exceptions=True)
    assert sum(isinstance(outcome, tuple) for outcome in outcomes) == 1
    assert len(await store.list_active()) == 2


async def test_an_entry_that_cannot_be_written_undoes_the_act(store):
    async def fail(connection):
        raise FirewallError(Kind.UNAVAILABLE, "no ledger")

    made = await store.create("ci", principal_id="p", roles=[Role.AGENT])
    for act in (
        store.create("two", principal_id="p", roles=[Role.AGENT], append=fail),
        store.revoke(made.stored.id, append=fail),
        rotated(store, made.stored.id, append=fail),
        store.install(generate(bytes(32)), name="bootstrap", id=uuid4(), append=fail),
    ):
        assert (await refused(act)).kind is Kind.UNAVAILABLE
    assert await store.list_all() == (made.stored,)


async def test_the_last_administrator_stays_unless_it_is_said(store):
    soon = datetime.now(UTC) + timedelta(hours=1)
    last = await store.create("one", principal_id="p", roles=[Role.ADMIN])
    await store.create("agent", principal_id="p", roles=[Role.AGENT])
    await store.create("soon gone", principal_id="p", roles=[Role.ADMIN], expires_at=soon)
    error = await refused(store.revoke(last.stored.id, keep_an_admin=True))
    assert (error.kind, "force" in str(error.fix)) == (Kind.CONFLICT, True)
    other = await store.create("two", principal_id="p", roles=[Role.ADMIN])
    outcomes = await asyncio.gather(
        *(store.revoke(made.stored.id, keep_an_admin=True) for made in (last, other)), return_exceptions=True
    )
    # Whoever comes second finds that it is the last one.
    assert sum(isinstance(outcome, FirewallError) for outcome in outcomes) == 1
    for made in (last, other):
        assert (await store.revoke(made.stored.id)).revoked_at is not None


async def test_a_key_that_is_brought_along(store):
    key, other = generate(bytes(32)), generate(b"\1" * 32)

    async def install(text):
        return await store.install(text, name="bootstrap", id=uuid4(), append=appended)

    assert await install(key) is Installed.MADE
    assert await install(key) is Installed.PRESENT
    assert await install(other) is Installed.NOT_NEEDED
    (stored,) = await store.list_active()
    assert stored.is_admin
    assert stored.hash == hash_key(key)
    await store.revoke(stored.id)
    assert await install(key) is Installed.ENDED
    assert await install(other) is Installed.MADE


async def test_pages_of_keys(store):
    made = [(await store.create(str(n), principal_id="p", roles=[Role.AGENT])).stored for n in range(3)]
    await store.revoke(made[1].id)
    assert [key.name for key in await store.page(limit=9)] == ["0", "2"]
    assert [key.name for key in await store.page(limit=2, everything=True)] == ["0", "1"]
    assert [key.name for key in await store.page(limit=2, after=made[1].id, everything=True)] == ["2"]
    assert await store.page(limit=2, after=uuid4()) == ()


async def test_the_last_use_is_written_once_a_minute(store):
    one, two = [(await store.create(str(n), principal_id="p", roles=[Role.AGENT])).stored for n in range(2)]
    noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
    await store.touch({one.id: noon, uuid4(): noon})
    await store.touch({one.id: noon + timedelta(seconds=59), two.id: noon})
    assert [(await store.get(key.id)).last_used_at for key in (one, two)] == [noon, noon]
    await store.touch({one.id: noon + timedelta(seconds=60)})
    # Another replica with an older memory does not turn it back.
    await store.touch({one.id: noon})
    assert (await store.get(one.id)).last_used_at == noon + timedelta(seconds=60)


async def test_active_keys_are_read_again_when_something_changed(store, database_dsn):
    now = 0.0
    active = ActiveKeys(store, monotonic=lambda: now)
    first = await active()
    assert first == ()
    made = await store.create("ci", principal_id="p", roles=[Role.AGENT])
    second = await active()
    assert second == (made.stored,)
    assert await active() is second
    new, old = await rotated(store, made.stored.id)
    assert await active() == (old, new.stored)
    await store.revoke(old.id)
    third = await active()
    assert third == (new.stored,)
    connection = await asyncpg.connect(database_dsn)
    await connection.execute("UPDATE api_keys SET roles = ARRAY['viewer']")
    await connection.close()
    # Past this code: seen a while later.
    assert await active() is third
    now = REREAD_SECONDS
    assert (await active())[0].roles == {Role.VIEWER}
