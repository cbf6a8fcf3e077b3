"""API keys in the database: shown once, stored as a digest, worthless when revoked or expired."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import asyncpg
import pytest

from app.core.principal import Role
from app.errors import FirewallError, Kind
from app.persistence.api_keys import ApiKeyStore, generate, hash_key, is_well_formed
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
