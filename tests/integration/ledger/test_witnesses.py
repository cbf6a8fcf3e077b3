"""Two witnesses on loopback cosign a ledger in PostgreSQL, over HTTP, and what they say is served."""

import asyncio

import asyncpg
import pytest
import uvicorn
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from app.core.notes import Algorithm, Checkpoint, Note, SignerKey, open_checkpoint
from app.ledger.published import PublishedLedger
from app.ledger.witnesses import CosignatureStore, HttpPost, WitnessAwayError, Witnesses, WitnessesState
from tests.integration.service.published import LOG, ORIGIN, publish
from tests.integration.service.witnessing import witness

KEYS = [
    SignerKey.of(name, Ed25519PrivateKey.generate(), algorithm=Algorithm.COSIGNATURE)
    for name in ("w.example.com/1", "w.example.com/2")
]


class Signed:
    """A checkpoint as the database has it."""

    def __init__(self, checkpoint):
        self.size = checkpoint.size
        self.note = Note(checkpoint.text, (LOG.sign(checkpoint.text),)).serialise()


@pytest.fixture
def tiles(database_dsn):
    async def read(wanted):
        connection = await asyncpg.connect(database_dsn)
        try:
            rows = await connection.fetch("SELECT * FROM ledger_tiles")
        finally:
            await connection.close()
        found = {(row["level"], row["idx"]): row["hashes"] for row in rows}
        return {tile: found[tile.level, tile.index] for tile in wanted}

    return read


async def until(condition):
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


async def cosigners(engine, size):
    opened = open_checkpoint(
        await PublishedLedger(engine).checkpoint(), keys=[LOG.verifier, *(k.verifier for k in KEYS)]
    )
    assert opened.checkpoint.size == size
    return sorted(key.name for key in opened.signers)


async def test_a_checkpoint_with_two_cosignatures(database_dsn, engine, tiles, tmp_path):
    store = CosignatureStore(engine)
    assert await store.newest_size() == 0
    with witness(KEYS[0], tmp_path / "1") as first, witness(KEYS[1], tmp_path / "2") as second:
        asked = Witnesses([first, second], tiles=tiles, store=store, post=HttpPost())
        await asked.start()
        try:
            for size in (1, 300, 301):
                asked.hand_over(Signed(await publish(database_dsn, size)))
                await until(lambda: asked.cosignatures == 2 and not any(one.behind for one in asked._all))
                assert await cosigners(engine, size) == [ORIGIN, "w.example.com/1", "w.example.com/2"]
                assert await store.newest_size() == size
            assert asked.report()[0] is WitnessesState.CURRENT
            # Once more takes the place of what was there, and one of a checkpoint that is gone goes nowhere.
            there, gone = await publish(database_dsn, 302), Checkpoint(ORIGIN, 999, bytes(32))
            for at in (1, 2):
                await store.keep(Signed(there), KEYS[0].sign(there.text, at=at))
            await store.keep(Signed(gone), KEYS[0].sign(gone.text, at=1))
        finally:
            await asked.stop()
    connection = await asyncpg.connect(database_dsn)
    try:
        kept = await connection.fetch("SELECT size, cosignatures FROM ledger_checkpoints ORDER BY size")
    finally:
        await connection.close()
    assert [(row["size"], row["cosignatures"].count(b"\n")) for row in kept] == [(1, 2), (300, 2), (301, 2), (302, 1)]


async def test_who_is_not_there_and_who_says_too_much(tmp_path):
    post = HttpPost()
    with pytest.raises(WitnessAwayError, match="ConnectError"):
        await post("http://127.0.0.1:9/add-checkpoint", b"old 0\n")
    with pytest.raises(WitnessAwayError):
        await post("http://[", b"old 0\n")

    async def endless(scope, _receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(400):
            await send({"type": "http.response.body", "body": bytes(1024), "more_body": True})

    server = uvicorn.Server(uvicorn.Config(endless, host="127.0.0.1", port=0, log_config=None, lifespan="off"))
    serving = asyncio.create_task(server.serve())
    await until(lambda: server.started)
    try:
        with pytest.raises(WitnessAwayError, match="more than"):
            await post(f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/", b"old 0\n")
    finally:
        await post.close()
        await post.close()
        server.should_exit = True
        await serving
