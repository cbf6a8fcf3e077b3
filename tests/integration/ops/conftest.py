"""A database with some of everything in it, made once and cloned for each test, and hands that can do everything."""

import asyncio
import itertools
import os
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from uuid import UUID

import asyncpg
import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from app.core.canonical import canonical, digest
from app.core.merkle import grow, leaf_hash
from app.core.notes import Checkpoint, Note, SignerKey
from app.core.principal import AuthMethod, Principal, PrincipalKind, Role
from app.core.switches import SwitchKind
from app.core.types import Effect, Mutation, Reason, Verdict
from app.core.uuid7 import uuid7
from app.ledger.append import LedgerWriter
from app.ledger.receipt import EntryKind, PendingDecision, seal, seal_decision
from app.ledger.search import Indexer
from app.ledger.within import append_within
from app.persistence.api_keys import ApiKeyStore
from app.persistence.engine import connect, create_engine, parse_dsn
from app.persistence.switchboard import Switchboard
from app.persistence.switches import SwitchStore
from app.policies.load import check_documents
from app.policies.store import PolicySetStore
from app.service.force import force
from app.service.keys import KeyService, WantedKey
from app.service.switch import SwitchService, Wanted
from tests.integration.service.conftest import running

WHO = Principal("key-1", PrincipalKind.AGENT, frozenset({Role.AGENT}), AuthMethod.API_KEY)
ADMIN = Principal("ops", PrincipalKind.USER, frozenset({Role.ADMIN}), AuthMethod.JWT)
ALLOW = Verdict(Effect.ALLOW, (Reason("prod-replicas", "small-growth", Effect.ALLOW, "adds 1"),))
DIGEST = "sha256:" + "0" * 64
ENGINE = "mutation-firewall/test"
DECISIONS = 300
SIGNER = SignerKey.of("log.example/ledger", Ed25519PrivateKey.generate())

clock = partial(datetime.now, UTC)
_numbers = itertools.count(1)


def decision(number=0, *, at=None):
    """A sealed decision."""
    mutation = Mutation(
        subject={"type": "agent", "id": "coder-7", "properties": {}},
        action={"name": "update", "properties": {}},
        resource={"type": "apps/Deployment", "id": f"shop-{number}", "properties": {}},
        change={"after": {"replicas": number}},
        context={},
    )
    moment = at or clock()
    entry_id = uuid7(moment, entropy=secrets.token_bytes(10))
    pending = PendingDecision(entry_id, moment, WHO, mutation, DIGEST, DIGEST, ALLOW, ENGINE)
    return seal_decision(pending, salt=os.urandom(32))


def other(kind, *, members, record):
    """A sealed entry of another kind."""
    now = clock()
    return seal(
        kind,
        id=uuid7(now, entropy=secrets.token_bytes(10)),
        at=now,
        principal=ADMIN,
        members=members,
        record=record,
        salt=os.urandom(32),
    )


async def append(dsn, *entries):
    """Append them, through the writer itself."""
    writer = LedgerWriter(dsn, deadline=60.0, connect_timeout=60.0)
    await writer.start()
    answers = await writer.append_all(entries)
    await writer.stop()
    assert all(isinstance(answer, int) for answer in answers), answers
    return answers


async def integrate(connection, *, sign=True):
    """Bring every entry into the tree, and sign a checkpoint."""
    size = await connection.fetchval("SELECT size FROM ledger_tree")
    rows = await connection.fetch("SELECT receipt FROM ledger_entries WHERE idx >= $1 ORDER BY idx", size)
    tiles = {(row["level"], row["idx"]): row["hashes"] for row in await connection.fetch("SELECT * FROM ledger_tiles")}
    grown = grow(
        size,
        [leaf_hash(row["receipt"]) for row in rows],
        lambda wanted: {tile: tiles[tile.level, tile.index] for tile in wanted},
    )
    async with connection.transaction():
        for tile, hashes in grown.tiles.items():
            await connection.execute(
                "INSERT INTO ledger_tiles VALUES ($1, $2, $3) ON CONFLICT (level, idx) DO UPDATE SET hashes = excluded.hashes",
                tile.level,
                tile.index,
                hashes,
            )
        await connection.execute("UPDATE ledger_tree SET size = $1, root = $2", grown.size, grown.root)
        if sign:
            checkpoint = Checkpoint(SIGNER.name, grown.size, grown.root)
            note = Note(checkpoint.text, (SIGNER.sign(checkpoint.text),))
            await connection.execute(
                "INSERT INTO ledger_checkpoints (size, root, origin, signed_at, note) VALUES ($1, $2, $3, now(), $4)",
                grown.size,
                grown.root,
                SIGNER.name,
                note.serialise(),
            )
    return grown


async def index_all(dsn):
    """Index everything, for searches."""
    engine = create_engine(dsn)
    indexer = Indexer(engine)
    while await indexer.step():
        pass
    await engine.dispose()


async def fill(dsn):
    """Some of everything."""
    await append(dsn, *(decision(number) for number in range(DECISIONS)))
    engine = create_engine(dsn)
    connection = await asyncpg.connect(dsn)
    try:
        await integrate(connection)
        sets = PolicySetStore(engine)
        for name in ("first", "second"):
            content = canonical(
                [
                    {
                        "kind": "MutationPolicy",
                        "apiVersion": "mutationfirewall.io/v1",
                        "metadata": {"name": name},
                        "spec": {"rules": [{"name": "yes", "effect": "allow"}]},
                    }
                ]
            )

            set_digest = digest(orjson.loads(content))
            await sets.put(set_digest, documents=content, policies=1, rules=1, created_by="test")
            await force(
                set_digest,
                store=sets,
                operator="me",
                reason="a test",
                clock=clock,
                entropy=secrets.token_bytes,
                engine=ENGINE,
            )
        keys = KeyService(
            ApiKeyStore(engine), clock=clock, entropy=secrets.token_bytes, engine=ENGINE, holds_database=True
        )
        made = await keys.create(WantedKey("ci", roles=frozenset({Role.ADMIN})), principal=ADMIN, reason="a test")
        await keys.rotate(made.stored.id, principal=ADMIN, reason="a test")
        gone = await keys.create(WantedKey("gone", roles=frozenset({Role.AGENT})), principal=ADMIN, reason="a test")
        await keys.revoke(gone.stored.id, principal=ADMIN, reason="a test")
        switches = SwitchService(
            SwitchStore(engine),
            board=Switchboard(SwitchStore(engine).in_force, connect=partial(connect, dsn)),
            policies=lambda: check_documents([]).policy_set,  # type: ignore[arg-type,return-value]  # not asked for these kinds
            clock=clock,
            entropy=secrets.token_bytes,
            engine=ENGINE,
        )
        await switches.throw(Wanted(SwitchKind.STOP_APPROVALS, None, "a test", None), principal=ADMIN)
        over = await switches.throw(Wanted(SwitchKind.DENY_SUBJECT, "x", "a test", None), principal=ADMIN)
        await switches.end(UUID(over.switch.id), reason="a test", principal=ADMIN)
        erased = other(EntryKind.ERASURE, members={"erased_index": "7"}, record={"reason": "a test"})
        async with engine.begin() as transaction:
            index = await append_within(transaction, [erased])
            await transaction.exec_driver_sql(
                "INSERT INTO ledger_erasures VALUES (7, 'a test', 'me', now(), $1, $2)", (erased.id, index)
            )
            await transaction.exec_driver_sql("DELETE FROM ledger_records WHERE idx = 7")
            await transaction.exec_driver_sql("DELETE FROM ledger_search WHERE idx = 7")
        await connection.execute(
            "INSERT INTO budget_uses (key, decided_at, decision_id, policy, budget, expires_at)"
            " SELECT sha256(''), now(), id, 'p', 'b', now() + interval '1 hour' FROM ledger_entries WHERE idx = 3"
        )
        await connection.execute(
            "INSERT INTO idempotency_keys VALUES (sha256('a'), sha256('b'), '', now() + interval '1 hour')"
        )
        await integrate(connection)
        await index_all(dsn)
    finally:
        await connection.close()
        await engine.dispose()


def apart(work):
    """Run it in a loop and a thread of its own."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(asyncio.run, work).result()


async def execute(dsn, *statements):
    connection = await asyncpg.connect(dsn)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


def on(dsn, name):
    """The same server, another database."""
    return parse_dsn(dsn).set(drivername="postgresql", database=name).render_as_string(hide_password=False)


@pytest.fixture(scope="session")
def mixed_template(server_dsn: str, _template: str) -> str:
    name = "template_mixed"
    apart(execute(server_dsn, f"CREATE DATABASE {name} TEMPLATE {_template}"))
    apart(fill(on(server_dsn, name)))
    return name


@pytest.fixture
def mixed_dsn(server_dsn: str, mixed_template: str) -> Iterator[str]:
    """A database with some of everything, all of it as it should be."""
    name = f"mixed_{next(_numbers)}"
    apart(execute(server_dsn, f"CREATE DATABASE {name} TEMPLATE {mixed_template}"))
    yield on(server_dsn, name)
    apart(execute(server_dsn, f"DROP DATABASE {name} WITH (FORCE)"))


_FUNCTIONS = """
SELECT proname AS name, pg_get_functiondef(pg_proc.oid) AS definition
FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND prorettype = 'trigger'::regtype
"""


class Hands:
    """Somebody who holds the database and does not keep to the rules."""

    def __init__(self, connection) -> None:
        self.connection = connection

    async def tamper(self, *statements):
        """Execute them with every guard asleep, and awake it again: nothing else is left behind."""
        functions = await self.connection.fetch(_FUNCTIONS)
        for row in functions:
            await self.connection.execute(
                f"CREATE OR REPLACE FUNCTION {row['name']}() RETURNS trigger LANGUAGE plpgsql AS"
                " 'BEGIN IF TG_LEVEL = ''STATEMENT'' THEN RETURN NULL; END IF;"
                " IF TG_OP = ''DELETE'' THEN RETURN OLD; END IF; RETURN NEW; END'"
            )
        for statement in statements:
            await self.connection.execute(statement)
        for row in functions:
            await self.connection.execute(row["definition"])


@pytest.fixture
async def hands(mixed_dsn):
    connection = await asyncpg.connect(mixed_dsn)
    yield Hands(connection)
    await connection.close()


@pytest.fixture
def decide():
    """Append so many decisions, or one with a number."""

    async def append_decision(dsn, number):
        return await append(dsn, decision(number))

    return append_decision


@pytest.fixture
def serve():
    """`with serve(dsn) as service`: the service itself."""
    return running
