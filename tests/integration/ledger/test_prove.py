"""Proofs from the database hold, and what cannot be proved is said to be so."""

import os
from datetime import UTC, datetime
from uuid import UUID

import asyncpg
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from app.core.merkle import EMPTY_ROOT, grow, leaf_hash, root_of, verify_consistency, verify_inclusion
from app.core.notes import Checkpoint, LogProof, Note, SignerKey, open_checkpoint
from app.errors import FirewallError, Kind
from app.ledger.prove import Prover
from app.persistence.engine import create_engine

KEY = SignerKey.of("example.com/log", Ed25519PrivateKey.from_private_bytes(bytes(32)))
COSIGNATURE = "\N{EM DASH} witness.example.com AAAAAQIDBAU=\n".encode()


def receipt(index):
    return b'{"n":%d}' % index


@pytest.fixture
async def connection(database_dsn):
    made = await asyncpg.connect(database_dsn)
    yield made
    await made.close()


@pytest.fixture
async def prover(database_dsn):
    engine = create_engine(database_dsn)
    yield Prover(engine)
    await engine.dispose()


@pytest.fixture
def append(connection):
    async def appended(count):
        start = await connection.fetchval("SELECT next_index FROM ledger_head")
        async with connection.transaction():
            await connection.execute("UPDATE ledger_head SET next_index = next_index + $1", count)
            await connection.executemany(
                "INSERT INTO ledger_entries (idx, id, kind, receipt) VALUES ($1, $2, 'decision', $3)",
                [
                    (index, UUID(bytes=os.urandom(16), version=4), receipt(index))
                    for index in range(start, start + count)
                ],
            )

    return appended


@pytest.fixture
def integrate(connection):
    """Bring the tree to a size, and sign it if asked to."""

    async def integrated(size, *, signed=True):
        before = await connection.fetchval("SELECT size FROM ledger_tree")
        tiles = {
            (row["level"], row["idx"]): row["hashes"] for row in await connection.fetch("SELECT * FROM ledger_tiles")
        }

        def read(wanted):
            return {tile: tiles[tile.level, tile.index] for tile in wanted}

        grown = grow(before, [leaf_hash(receipt(index)) for index in range(before, size)], read)
        await connection.executemany(
            "INSERT INTO ledger_tiles VALUES ($1, $2, $3) ON CONFLICT (level, idx) DO UPDATE SET hashes = excluded.hashes",
            [(tile.level, tile.index, hashes) for tile, hashes in grown.tiles.items()],
        )
        await connection.execute("UPDATE ledger_tree SET size = $1, root = $2", size, grown.root)
        if signed:
            text = Checkpoint(KEY.name, size, grown.root).text
            note = Note(text, (KEY.sign(text),)).serialise()
            await connection.execute(
                "INSERT INTO ledger_checkpoints VALUES ($1, $2, $3, $4, $5, $6)",
                *(size, grown.root, KEY.name, datetime.now(UTC), note, COSIGNATURE),
            )

    return integrated


def root(size):
    return root_of([leaf_hash(receipt(index)) for index in range(size)])


async def refused(awaitable):
    with pytest.raises(FirewallError) as caught:
        await awaitable
    return caught.value


async def test_an_empty_ledger_proves_nothing(prover):
    assert (await refused(prover.inclusion(0))).kind is Kind.NOT_FOUND
    error = await refused(prover.consistency(0))
    assert (error.kind, error.retry_after) == (Kind.CONFLICT, 1.0)
    proof = await prover.consistency(0, 0)
    assert (proof.hashes, proof.old_root, proof.new_root, proof.checkpoint) == ((), EMPTY_ROOT, EMPTY_ROOT, None)


@pytest.mark.parametrize("sizes", [(1,), (255, 256, 257), (3, 300, 513)])
async def test_every_entry_is_proved_at_every_size(prover, append, integrate, sizes):
    await append(sizes[-1])
    for size in sizes:
        await integrate(size)
    for size in sizes:
        for index in {0, size // 2, size - 1}:
            proof = await prover.inclusion(index, size=size)
            assert (proof.index, proof.size, proof.leaf_hash) == (index, size, leaf_hash(receipt(index)))
            verify_inclusion(index, size, proof.leaf_hash, proof.hashes, root(size))
            assert proof.checkpoint is not None
        for later in (one for one in sizes if one >= size):
            grown = await prover.consistency(size, later)
            verify_consistency(size, root(size), later, root(later), grown.hashes)
            assert (grown.old_root, grown.new_root) == (root(size), root(later))


async def test_the_newest_checkpoint_is_proved_unless_a_size_is_named(prover, append, integrate):
    await append(10)
    await integrate(5)
    await integrate(8, signed=False)
    assert (await prover.inclusion(2)).size == 5
    assert (await prover.consistency(2)).new == 5
    unsigned = await prover.inclusion(7, size=8)
    assert unsigned.checkpoint is None
    error = await refused(_text(unsigned))
    assert error.kind is Kind.NOT_FOUND


async def _text(proof):
    return proof.text()


async def test_a_proof_as_text_is_verified_with_the_key_alone(prover, append, integrate):
    await append(20)
    await integrate(20)
    content = (await prover.inclusion(13)).text()
    read = LogProof.parse(content)
    opened = open_checkpoint(read.checkpoint.serialise(), keys=[KEY.verifier])
    assert (opened.checkpoint.size, opened.checkpoint.origin) == (20, KEY.name)
    verify_inclusion(read.index, 20, leaf_hash(receipt(13)), read.hashes, opened.checkpoint.root)
    assert COSIGNATURE in content


async def test_what_is_not_under_a_checkpoint_yet_is_to_be_asked_for_again(prover, append, integrate):
    await append(10)
    for awaitable in (
        prover.inclusion(3),
        prover.inclusion(3, size=6),
        prover.consistency(3),
        prover.consistency(3, 6),
    ):
        error = await refused(awaitable)
        assert (error.kind, error.retry_after) == (Kind.CONFLICT, 1.0)
    await integrate(3)
    assert (await refused(prover.inclusion(3))).kind is Kind.CONFLICT
    assert (await prover.inclusion(2)).size == 3
    assert (await prover.consistency(3)).hashes == ()
    assert (await refused(prover.consistency(4))).kind is Kind.CONFLICT


async def test_what_cannot_be_is_said(prover, append, integrate):
    await append(10)
    await integrate(10)
    for awaitable, kind in (
        (prover.inclusion(10), Kind.NOT_FOUND),
        (prover.inclusion(3, size=3), Kind.MALFORMED),
        (prover.inclusion(3, size=11), Kind.NOT_FOUND),
        (prover.consistency(4, 3), Kind.MALFORMED),
        (prover.consistency(11), Kind.NOT_FOUND),
        (prover.consistency(3, 11), Kind.NOT_FOUND),
    ):
        error = await refused(awaitable)
        assert (error.kind, error.retry_after) == (kind, None)


@pytest.mark.parametrize(
    "deed",
    [
        "UPDATE ledger_entries SET receipt = '{\"n\":99}' WHERE idx = 3",
        "UPDATE ledger_tiles SET hashes = sha256('x') || substring(hashes FROM 33)",
        "DELETE FROM ledger_tiles",
    ],
)
async def test_a_proof_that_does_not_hold_is_not_given(prover, append, integrate, connection, deed):
    await append(10)
    await integrate(10)
    for table in ("ledger_entries", "ledger_tiles"):
        await connection.execute(f"ALTER TABLE {table} DISABLE TRIGGER ALL")
    await connection.execute(deed)
    asked = [prover.inclusion(3)]
    if "tiles" in deed:
        asked += [prover.consistency(3), prover.consistency(3, 10)]
    for awaitable in asked:
        # Also where only another leaf was changed: the proof holds then, and leads to a root that is not the signed one.
        error = await refused(awaitable)
        assert (error.kind, error.retry_after) == (Kind.UNAVAILABLE, None)
        assert "integrity check" in str(error.fix)


async def test_without_head_and_tree_nothing_is_there(prover, connection):
    for table in ("ledger_head", "ledger_tree"):
        await connection.execute(f"ALTER TABLE {table} DISABLE TRIGGER ALL")
        await connection.execute(f"DELETE FROM {table}")
    assert (await refused(prover.inclusion(0))).kind is Kind.NOT_FOUND
