"""`mfw witness serve` as a process: it answers over HTTP, and what it cosigned survives being killed."""

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from app.core import merkle
from app.core.merkle import leaf_hash
from app.core.notes import Algorithm, Checkpoint, Note, SignerKey, parse_signatures
from app.core.tiles import TileId
from app.core.witnessing import Submission

LOG = SignerKey.of("firewall.example.com/ledger", Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
LEAVES = [leaf_hash(b"%d" % number) for number in range(200)]


def submission(old, new):
    claim = Checkpoint(LOG.name, new, merkle.root_of(LEAVES[:new]))
    tile = {TileId(0, 0, new): b"".join(LEAVES[:new])}
    proof = tuple(merkle.consistency_proof(old, new, lambda _: tile))
    return Submission(old, proof, Note(claim.text, (LOG.sign(claim.text),))).serialise()


@pytest.fixture
def key(tmp_path):
    key = SignerKey.of("w.example.com/1", Ed25519PrivateKey.generate(), algorithm=Algorithm.COSIGNATURE)
    (tmp_path / "witness.key").write_text(key.text)
    return key


@contextmanager
def witness(directory, *more):
    arguments = ["--key", directory / "witness.key", "--state-dir", directory / "state", "--log", LOG.verifier.text]
    process = subprocess.Popen(
        [sys.executable, "-m", "app", "witness", "serve", *map(str, arguments), "--json-logs", *map(str, more)],
        stderr=subprocess.PIPE,
        text=True,
        env={name: value for name, value in os.environ.items() if not name.startswith("MFW_")},
    )
    assert process.stderr is not None
    try:
        said = [process.stderr.readline()]
        while '"url"' not in said[-1] and said[-1]:
            said.append(process.stderr.readline())
        assert said[-1], said
        with httpx.Client(base_url=json.loads(said[-1])["url"], timeout=60) as client:
            yield process, client
    finally:
        process.kill()
        process.communicate(timeout=60)


def test_a_witness_that_is_killed_forgets_nothing(tmp_path, key):
    size = 0
    for step in range(3):
        with witness(tmp_path, "--port", "0") as (process, client):
            for _ in range(5):
                grown = size + 7
                answer = client.post("/add-checkpoint", content=submission(size, grown))
                assert answer.status_code == 200, (step, answer.text)
                (cosignature,) = parse_signatures(answer.content)
                text = Checkpoint(LOG.name, grown, merkle.root_of(LEAVES[:grown])).text
                assert key.verifier.verify(text, cosignature)
                size = grown
            process.send_signal(signal.SIGKILL)
            process.wait(60)
    with witness(tmp_path, "--port", "0") as (process, client):
        refused = client.post("/add-checkpoint", content=submission(0, 3))
        assert (refused.status_code, refused.text) == (409, f"{size}\n")
        assert refused.headers["content-type"] == "text/x.tlog.size"
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        assert process.returncode in {0, -signal.SIGTERM}


def test_a_port_that_is_taken(tmp_path, key):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "witness.key").write_text(key.text)
    with witness(tmp_path, "--port", "0") as (_, client):
        where = ("--key", tmp_path / "witness.key", "--state-dir", tmp_path / "other", "--port", client.base_url.port)
        found = subprocess.run(
            [sys.executable, "-m", "app", "witness", "serve", *map(str, where), "--log", LOG.verifier.text],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert found.returncode == 1
    assert "cannot listen" in found.stderr
