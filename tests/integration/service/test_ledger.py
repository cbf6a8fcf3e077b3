"""`/ledger/` as tlog-tiles says, over HTTP, on ledgers of every size at which a tree changes its shape."""

import gzip
import time

import asyncpg
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from app.core import merkle, notes
from app.core.notes import Algorithm, Checkpoint, SignerKey
from app.core.tiles import BundleId, TileId, bundles_of, decode_bundle, partial_tiles, tiles_of
from app.surfaces.native.models import EXAMPLE_REQUEST
from tests.integration.service.conftest import apart, health
from tests.integration.service.published import LOG, ORIGIN, publish, receipt
from tests.integration.service.witnessing import witness

SIZES = (0, 1, 255, 256, 257, 65_537)
OCTETS = "application/octet-stream"


@pytest.fixture(scope="module")
def auditor(service):
    with service.client(key=service.operator_key) as client:
        yield client


@pytest.fixture(scope="module", autouse=True)
def _three_hundred_entries(service):
    apart(publish(service.dsn, 300))


def fetched(client, named):
    answer = client.get(f"/ledger/{named.path}")
    assert answer.status_code == 200, named.path
    assert answer.headers["content-type"] == OCTETS
    assert answer.headers["cache-control"] == "private, max-age=31536000, immutable"
    return answer.content


def the_checkpoint(client):
    answer = client.get("/ledger/checkpoint")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers["cache-control"] == "no-store"
    return notes.open_checkpoint(answer.content, keys=[LOG.verifier]).checkpoint


def test_ledgers_of_every_shape(serve, database_dsn):
    with serve(database_dsn) as service, service.client(key=service.operator_key) as auditor:
        look_at_every_shape(service, auditor)


def look_at_every_shape(service, auditor):
    def reader(wanted):
        return {tile: fetched(auditor, tile) for tile in wanted}

    saved: list[Checkpoint] = []
    for size in SIZES:
        published = apart(publish(service.dsn, size))
        if not size:
            answer = auditor.get("/ledger/checkpoint")
            assert (answer.status_code, answer.json()["type"].rpartition("/")[2]) == (404, "not-found")
            assert auditor.get("/ledger/tile/0/000.p/1").status_code == 404
            saved.append(published)
            continue
        checkpoint = the_checkpoint(auditor)
        assert checkpoint == published
        assert (checkpoint.origin, checkpoint.size) == (ORIGIN, size)
        assert merkle.root(size, reader) == checkpoint.root
        for old in saved:
            proof = merkle.consistency_proof(old.size, size, reader)
            merkle.verify_consistency(old.size, old.root, size, checkpoint.root, proof)
        for index in {0, size // 2, size - 1}:
            proof = merkle.inclusion_proof(index, size, reader)
            merkle.verify_inclusion(index, size, merkle.leaf_hash(receipt(index)), proof, checkpoint.root)
        for bundle in {BundleId(0, min(size, 256)), list(bundles_of(size))[-1]}:
            entries = decode_bundle(fetched(auditor, bundle), width=bundle.width)
            assert entries == [receipt(index) for index in range(bundle.start, bundle.end)]
            tile = fetched(auditor, TileId(0, bundle.index, bundle.width))
            assert tile == b"".join(map(merkle.leaf_hash, entries))
        saved.append(checkpoint)
    # What a tree had of its edge is served for ever.
    for old in saved[1:]:
        for tile in partial_tiles(old.size):
            fetched(auditor, tile)
        assert merkle.root(old.size, reader) == old.root
    # Nothing beyond: neither the next tile of a level, nor a wider one, nor a level that the tree does not reach.
    last = {tile.level: tile for tile in tiles_of(SIZES[-1])}
    beyond: list[TileId | BundleId] = [
        TileId(tile.level, tile.index, tile.width + 1) for tile in last.values() if tile.width < 255
    ]
    beyond += [TileId(tile.level, tile.index + 1, 1) for tile in last.values()]
    beyond += [TileId(3, 0, 1), TileId(63, 0), BundleId(256, 2), BundleId(256), BundleId(257, 1)]
    for named in beyond:
        assert auditor.get(f"/ledger/{named.path}").status_code == 404, named.path


def test_what_names_nothing(auditor):
    for path in ("", "0", "0/0", "0/x000/001", "64/000", "0/000.p/256", "0/000.p/0", "data/000", "entries/-1", "0/%30"):
        answer = auditor.get(f"/ledger/tile/{path}")
        assert answer.status_code == 404, path
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("accepted", "coded"),
    [
        ("gzip", True),
        ("GZIP;q=0.5, identity", True),
        ("br, x-gzip", True),
        ("*", True),
        ("identity", False),
        ("gzip;q=0", False),
        ("gzip; q=0.000, *", False),
        ("br;q=1", False),
        ("", False),
    ],
)
def test_bundles_are_compressed_for_who_asks(auditor, accepted, coded):
    asked = {"accept-encoding": accepted}
    with auditor.stream("GET", "/ledger/tile/entries/000", headers=asked) as answer:
        raw = b"".join(answer.iter_raw())
    assert answer.status_code == 200
    assert answer.headers.get("content-encoding") == ("gzip" if coded else None)
    assert answer.headers["vary"] == "accept-encoding"
    plain = gzip.decompress(raw) if coded else raw
    assert len(decode_bundle(plain, width=256)) == 256
    assert "content-encoding" not in auditor.get("/ledger/tile/0/000", headers=asked).headers


def test_who_may_read(service):
    agent = service.client()
    nobody = service.client(key="")
    with agent, nobody:
        for path in ("/ledger/checkpoint", "/ledger/tile/0/000", "/ledger/tile/nothing"):
            assert nobody.get(path).status_code == 401
            assert agent.get(path).status_code == 403


def test_a_public_ledger(serve, database_dsn):
    apart(publish(database_dsn, 3))
    settings = {"MFW_LEDGER__PUBLIC": "true", "MFW_LIMITS__READ_PER_MINUTE": "1", "MFW_LIMITS__READ_BURST": "5"}
    with serve(database_dsn, **settings) as service, service.client(key="") as client:
        assert the_checkpoint(client).size == 3
        tile = client.get("/ledger/tile/0/000.p/3")
        assert tile.status_code == 200
        assert tile.headers["cache-control"] == "public, max-age=31536000, immutable"
        answers = [client.get("/ledger/checkpoint").status_code for _ in range(4)]
        assert answers == [200, 200, 200, 429]
        # Who says who they are has a bucket of their own elsewhere, and nothing else is public.
        assert client.get("/v1/policy-sets").status_code == 401


def test_cosignatures_are_served_with_the_checkpoint(serve, database_dsn):
    apart(publish(database_dsn, 3))

    async def cosign():
        connection = await asyncpg.connect(database_dsn)
        try:
            note = notes.parse_note(await connection.fetchval("SELECT note FROM ledger_checkpoints"))
            line = LOG.sign(note.text).line.replace(ORIGIN, "witness.example.com/w1")
            await connection.execute("UPDATE ledger_checkpoints SET cosignatures = $1", line.encode())
        finally:
            await connection.close()

    apart(cosign())
    with serve(database_dsn, MFW_LEDGER__PUBLIC="true") as service, service.client(key="") as client:
        note = notes.parse_note(client.get("/ledger/checkpoint").content)
        assert [one.name for one in note.signatures] == [ORIGIN, "witness.example.com/w1"]


def test_signed_and_witnessed(serve, database_dsn, tmp_path):
    keys = [
        SignerKey.of(f"w.example.com/{n}", Ed25519PrivateKey.generate(), algorithm=Algorithm.COSIGNATURE)
        for n in (1, 2)
    ]
    settings = {"MFW_LEDGER__ORIGIN": ORIGIN, "MFW_LEDGER__SIGNING_KEY": LOG.text, "MFW_LEDGER__PUBLIC": "true"}

    def signed(service, *signers, since):
        """The newest checkpoint once it has more entries, and they all have signed it."""
        known = [LOG.verifier, *(key.verifier for key in keys)]
        deadline = time.monotonic() + 60
        with service.client(key="") as reader:
            while time.monotonic() < deadline:
                answer = reader.get("/ledger/checkpoint")
                if answer.status_code == 200:
                    opened = notes.open_checkpoint(answer.content, keys=known)
                    if opened.checkpoint.size > since and {one.name for one in opened.signers} == set(signers):
                        return opened.checkpoint.size
                time.sleep(0.05)
        raise AssertionError("not signed")

    def decide(service):
        with service.client() as agent:
            assert agent.post("/v1/decisions", json=EXAMPLE_REQUEST).status_code == 200

    with witness(keys[0], tmp_path / "1") as first:
        with witness(keys[1], tmp_path / "2") as second:
            settings["MFW_LEDGER__WITNESSES"] = ",".join(f"{one.key.text} {one.url}" for one in (first, second))
            with serve(database_dsn, **settings) as service:
                decide(service)
                size = signed(service, ORIGIN, "w.example.com/1", "w.example.com/2", since=0)
                with service.client(key=service.operator_key) as operator:
                    found = health(operator, "witnesses", until="2 of 2 witnesses answer")
                assert found["status"] == "healthy"
        # One of them away: decisions and checkpoints go on.
        with serve(database_dsn, **settings) as service:
            decide(service)
            signed(service, ORIGIN, "w.example.com/1", since=size)
