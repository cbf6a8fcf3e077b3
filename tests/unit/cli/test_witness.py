"""The witness: what it keeps, what it answers, and that it never forgets."""

import base64
import json
import os
import threading
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner

from app.cli import app
from app.cli import witness as program
from app.cli.exits import ExitCode
from app.cli.output import Refused
from app.cli.witness import Witness, WitnessApp, read_key, read_logs
from app.core import merkle
from app.core.merkle import leaf_hash
from app.core.notes import Algorithm, Checkpoint, Note, SignerKey, open_checkpoint, parse_signatures
from app.core.tiles import TileId
from app.core.witnessing import SUBMISSION_BYTES_MAX, Submission

ORIGIN = "firewall.example.com/ledger"
NAME = sha256(ORIGIN.encode()).hexdigest()
LOG = SignerKey.of(ORIGIN, Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
KEY = SignerKey.of(
    "witness.example.com/audit", Ed25519PrivateKey.from_private_bytes(bytes(32)), algorithm=Algorithm.COSIGNATURE
)
LEAVES = [leaf_hash(b"%d" % number) for number in range(100)]
OTHERS = [leaf_hash(b"another %d" % number) for number in range(100)]
SIZE_TYPE = "text/x.tlog.size"


def submission(old, new, leaves=LEAVES):
    claim = Checkpoint(ORIGIN, new, merkle.root_of(leaves[:new]))
    tile = {TileId(0, 0, new): b"".join(leaves[:new])}
    proof = tuple(merkle.consistency_proof(old, new, lambda _: tile)) if old < new else ()
    return Submission(old, proof, Note(claim.text, (LOG.sign(claim.text),))).serialise()


@pytest.fixture
def start(tmp_path):
    """A witness on the state of this test; a second one only when the first is closed."""
    opened = []

    def begin(logs=(LOG.verifier.text,), directory=tmp_path / "state"):
        made = Witness(KEY, logs=read_logs(logs), directory=directory, clock=lambda: 1_700_000_000.9)
        opened.append(made)
        return made

    yield begin
    for made in opened:
        try:
            made.close()
        except OSError:
            continue


def test_a_cosignature(start):
    witness = start()
    assert witness.latest(ORIGIN) is None
    body = submission(0, 7)
    answer = witness.add_checkpoint(body)
    assert answer.status == 200
    (cosignature,) = parse_signatures(answer.body)
    assert cosignature.timestamp == 1_700_000_000
    note = Submission.parse(body).checkpoint
    assert KEY.verifier.verify(note.text, cosignature)
    assert witness.latest(ORIGIN) == Checkpoint.parse(note.text)


def test_it_remembers(start, tmp_path):
    witness = start()
    assert witness.add_checkpoint(submission(0, 7)).status == 200
    witness.close()
    again = start()
    assert again.latest(ORIGIN).size == 7
    refused = again.add_checkpoint(submission(0, 8))
    assert (refused.status, refused.body, refused.media_type) == (409, b"7\n", SIZE_TYPE)
    assert again.add_checkpoint(submission(7, 8)).status == 200
    kept = (tmp_path / "state" / f"{NAME}.checkpoint").read_bytes()
    assert again.checkpoint(NAME) == kept
    opened = open_checkpoint(kept, keys=[LOG.verifier, KEY.verifier])
    assert (opened.checkpoint.size, len(opened.signers)) == (8, 2)
    assert [path.name for path in (tmp_path / "state").iterdir()] == [f"{NAME}.checkpoint"]
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700


def test_the_same_once_more_is_cosigned_again(start):
    witness = start()
    assert [witness.add_checkpoint(submission(old, 7)).status for old in (0, 7, 7)] == [200, 200, 200]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"old 7\n\nnothing\n", 400),
        (submission(7, 7, OTHERS), 409),
        (submission(7, 9, OTHERS), 422),
        (submission(3, 9), 409),
        (submission(7, 9).replace(b"old 7", b"old 10"), 400),
        (submission(7, 9).replace(b"\n9\n", b"\n10\n"), 403),
        (submission(7, 9).replace(b"\n\nfirewall.example.com/ledger", b"\n\nelsewhere.example.com"), 404),
    ],
)
def test_refusals(start, tmp_path, body, status):
    witness = start()
    assert witness.add_checkpoint(submission(0, 7)).status == 200
    kept = (tmp_path / "state" / f"{NAME}.checkpoint").read_bytes()
    answer = witness.add_checkpoint(body)
    assert answer.status == status
    if answer.media_type == SIZE_TYPE:
        assert (answer.body, body) == (b"7\n", submission(3, 9))
    assert witness.latest(ORIGIN).size == 7
    assert (tmp_path / "state" / f"{NAME}.checkpoint").read_bytes() == kept
    assert witness.add_checkpoint(submission(7, 9)).status == 200


def test_a_fork_before_anything_was_cosigned(start):
    witness = start()
    refused = witness.add_checkpoint(submission(3, 9))
    assert (refused.status, refused.body) == (409, b"0\n")


def test_evidence_is_written_down(start, caplog):
    witness = start()
    witness.add_checkpoint(submission(0, 7))
    witness.add_checkpoint(submission(7, 7, OTHERS))
    (error,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert error.fields["submission"].encode() == submission(7, 7, OTHERS)
    assert error.fields["outcome"] == "forked"


def test_what_cannot_be_kept_is_not_cosigned(start, monkeypatch):
    witness = start()
    assert witness.add_checkpoint(submission(0, 7)).status == 200

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        witness.add_checkpoint(submission(7, 8))
    monkeypatch.undo()
    assert witness.latest(ORIGIN).size == 7
    assert witness.add_checkpoint(submission(7, 9)).status == 200


def test_it_is_on_the_disk_before_it_is_signed(start, monkeypatch):
    witness = start()
    done = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: done.append(os.fstat(descriptor).st_mode & 0o170000))
    assert witness.add_checkpoint(submission(0, 7)).status == 200
    # The file, then the directory that names it.
    assert done == [0o100000, 0o040000]


def test_of_many_at_once_one_continues(start):
    witness = start()
    assert witness.add_checkpoint(submission(0, 7)).status == 200
    bodies = [submission(7, size) for size in range(8, 24)] + [submission(7, 30, OTHERS)] * 4
    statuses = []
    threads = [
        threading.Thread(target=lambda body=body: statuses.append(witness.add_checkpoint(body).status))
        for body in bodies
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses.count(200) == 1
    assert set(statuses) <= {200, 409, 422}
    assert 8 <= witness.latest(ORIGIN).size < 24


def test_two_witnesses_never_share_a_state(start):
    first = start()
    with pytest.raises(Refused, match="another witness uses"):
        start()
    first.close()
    start()


@pytest.mark.parametrize("content", [b"", b"rubbish", b"\xff"])
def test_a_state_that_cannot_be_read_is_never_taken_for_new(start, tmp_path, content):
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / f"{NAME}.checkpoint").write_bytes(content)
    with pytest.raises(Refused, match="cannot be read"):
        start()
    # Nothing is held by the one that did not start.
    (tmp_path / "state" / f"{NAME}.checkpoint").unlink()
    start()


def test_a_state_of_another_log(start, tmp_path):
    claim = Checkpoint("elsewhere.example.com", 1, bytes(32)).text
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / f"{NAME}.checkpoint").write_bytes(Note(claim, (LOG.sign(claim),)).serialise())
    with pytest.raises(Refused, match="it is of another log"):
        start()


def test_a_state_that_is_a_directory(start, tmp_path):
    (tmp_path / "state" / f"{NAME}.checkpoint").mkdir(parents=True)
    with pytest.raises(Refused, match="cannot be read: is a directory"):
        start()


def test_a_directory_that_cannot_be_made(start, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(Refused, match="cannot use"):
        start(directory=tmp_path / "file" / "state")


class TestLogs:
    def test_the_origin_is_the_name_unless_it_is_said(self):
        other = SignerKey.of("key-1", LOG.private).verifier
        logs = read_logs([LOG.verifier.text, f"{other.text} {ORIGIN}", f"{other.text} with spaces in it "])
        assert logs == {ORIGIN: (LOG.verifier, other), "with spaces in it": (other,)}

    @pytest.mark.parametrize("text", ["", "nothing", LOG.text])
    def test_what_names_no_log(self, text):
        with pytest.raises(Refused) as caught:
            read_logs([text])
        assert caught.value.code is ExitCode.USAGE
        assert base64.b64encode(LOG.private.private_bytes_raw()).decode() not in caught.value.detail


async def asked(witness, method, path, *chunks, disconnect=False):
    sent = []
    messages = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    messages.append({"type": "http.disconnect"} if disconnect else {"type": "http.request", "body": b""})
    waiting = iter(messages)

    async def receive():
        return next(waiting)

    async def send(message):
        sent.append(message)

    await WitnessApp(witness)({"type": "http", "method": method, "path": path}, receive, send)
    headers = dict(sent[0]["headers"])
    assert int(headers[b"content-length"]) == len(sent[1]["body"])
    assert headers[b"cache-control"] == b"no-store"
    return sent[0]["status"], sent[1]["body"]


class TestOverHttp:
    async def test_a_submission_in_pieces(self, start):
        body = submission(0, 7)
        status, answer = await asked(start(), "POST", "/add-checkpoint", body[:10], body[10:])
        assert (status, len(parse_signatures(answer))) == (200, 1)

    async def test_what_else_there_is(self, start):
        witness = start()
        witness.add_checkpoint(submission(0, 7))
        assert await asked(witness, "GET", "/health") == (200, b"ok\n")
        assert await asked(witness, "GET", f"/{NAME}/checkpoint") == (200, witness.checkpoint(NAME))
        for path in ("/", f"/{NAME}", f"/{'0' * 64}/checkpoint", f"/{NAME}/checkpoint/"):
            assert (await asked(witness, "GET", path))[0] == 404
        assert (await asked(witness, "GET", "/add-checkpoint"))[0] == 405
        assert (await asked(witness, "POST", "/health"))[0] == 405

    async def test_what_does_not_come_whole(self, start, monkeypatch):
        witness = start()
        assert (await asked(witness, "POST", "/add-checkpoint", b"old", disconnect=True))[0] == 400
        large = bytes(SUBMISSION_BYTES_MAX // 2 + 1)
        assert (await asked(witness, "POST", "/add-checkpoint", large, large))[0] == 413
        monkeypatch.setattr(program, "BODY_SECONDS", 0.0)

        async def never():
            import asyncio

            await asyncio.Event().wait()

        sent = []

        async def send(message):
            sent.append(message)

        await WitnessApp(witness)({"type": "http", "method": "POST", "path": "/add-checkpoint"}, never, send)
        assert sent[0]["status"] == 408

    async def test_a_full_disk(self, start, monkeypatch):
        witness = start()
        monkeypatch.setattr(Witness, "_keep", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
        assert (await asked(witness, "POST", "/add-checkpoint", submission(0, 7)))[0] == 500
        assert witness.latest(ORIGIN) is None


def mfw(*arguments, code=ExitCode.OK):
    result = CliRunner().invoke(app, ["witness", *map(str, arguments)])
    assert result.exit_code == code, (result.output, result.exception)
    return result


class TestKeygen:
    def test_a_pair(self, tmp_path):
        file = tmp_path / "witness.key"
        made = json.loads(mfw("keygen", "--name", "w.example.com/1", "--out", file, "--json").stdout)
        key = read_key(file)
        assert made["vkey"] == key.verifier.text == Path(made["public_key"]).read_text().strip()
        assert (key.name, key.algorithm) == ("w.example.com/1", Algorithm.COSIGNATURE)
        assert file.stat().st_mode & 0o777 == 0o600
        assert base64.b64encode(key.private.private_bytes_raw()).decode() not in json.dumps(made)
        before = file.read_text()
        mfw("keygen", "--name", "w.example.com/1", "--out", file, code=ExitCode.NO_INPUT)
        assert file.read_text() == before

    def test_for_a_person(self, tmp_path):
        result = mfw("keygen", "--name", "w.example.com/1", "--out", tmp_path / "k")
        assert read_key(tmp_path / "k").verifier.text in result.output
        assert "next: mfw witness serve" in result.output

    def test_what_cannot_be(self, tmp_path):
        mfw("keygen", "--name", "a b", "--out", tmp_path / "k", code=ExitCode.USAGE)
        mfw("keygen", "--name", "a", "--out", tmp_path / "no" / "k", code=ExitCode.NO_INPUT)


class TestServe:
    @pytest.mark.parametrize(
        ("text", "code"),
        [(None, ExitCode.NO_INPUT), ("rubbish", ExitCode.BAD_DATA), (LOG.text, ExitCode.BAD_DATA)],
    )
    def test_keys_that_are_none(self, tmp_path, text, code):
        file = tmp_path / "witness.key"
        if text is not None:
            file.write_text(text)
        where = ("--key", file, "--state-dir", tmp_path / "s", "--log", LOG.verifier.text)
        assert "mfw witness keygen" in mfw("serve", *where, code=code).output
        assert not (tmp_path / "s").exists()
