"""What a witness cosigns, and what it refuses and why."""

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from app.core import merkle
from app.core.merkle import leaf_hash
from app.core.notes import Checkpoint, Note, SignerKey
from app.core.tiles import TileId
from app.core.witnessing import Outcome, Submission, judge
from app.errors import FirewallError, Kind

ORIGIN = "firewall.example.com/ledger"
LOG = SignerKey.of(ORIGIN, Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
ROTATED = SignerKey.of(ORIGIN, Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33))))
STRANGER = SignerKey.of(ORIGIN, Ed25519PrivateKey.from_private_bytes(bytes(range(2, 34))))
LOGS = {ORIGIN: (LOG.verifier, ROTATED.verifier)}
LEAVES = [leaf_hash(b"%d" % number) for number in range(20)]
OTHERS = [leaf_hash(b"another %d" % number) for number in range(20)]


def checkpoint(size, leaves=LEAVES, origin=ORIGIN):
    return Checkpoint(origin, size, merkle.root_of(leaves[:size]))


def signed(claim, key=LOG):
    return Note(claim.text, (key.sign(claim.text),))


def submission(old, new, *, leaves=LEAVES, key=LOG, proof=None, origin=ORIGIN):
    if proof is None:
        tile = {TileId(0, 0, new): b"".join(leaves[:new])}
        proof = tuple(merkle.consistency_proof(old, new, lambda _: tile)) if 0 < old < new else ()
    return Submission(old, proof, signed(checkpoint(new, leaves, origin), key))


def outcome(asked, latest=None):
    return judge(asked, logs=LOGS, latest=latest).outcome


def test_a_log_that_grows():
    latest = None
    for old, new in ((0, 1), (1, 1), (1, 7), (7, 8), (8, 20), (20, 20)):
        found = judge(submission(old, new), logs=LOGS, latest=latest)
        assert (found.outcome, found.checkpoint, found.detail) == (Outcome.COSIGNED, checkpoint(new), "")
        latest = found.checkpoint


def test_a_log_begins_with_any_size_or_none():
    assert outcome(submission(0, 13)) is Outcome.COSIGNED
    assert outcome(submission(0, 0)) is Outcome.COSIGNED
    assert outcome(submission(0, 0, leaves=[]), checkpoint(0)) is Outcome.COSIGNED


def test_a_rotated_key_counts():
    assert outcome(submission(7, 8, key=ROTATED), checkpoint(7)) is Outcome.COSIGNED


def test_who_is_not_known():
    assert outcome(submission(0, 1, origin="elsewhere.example.com")) is Outcome.UNKNOWN_LOG
    assert outcome(submission(0, 1, key=STRANGER)) is Outcome.UNSIGNED
    moved = submission(0, 1)
    forged = Submission(0, (), Note(checkpoint(2).text, moved.checkpoint.signatures))
    assert outcome(forged) is Outcome.UNSIGNED


def test_sizes_that_do_not_fit():
    assert outcome(Submission(9, (), signed(checkpoint(8))), checkpoint(7)) is Outcome.MALFORMED
    for old in (0, 6, 8):
        assert outcome(submission(old, 8), checkpoint(7)) is Outcome.OTHER_SIZE
    assert outcome(submission(3, 8)) is Outcome.OTHER_SIZE
    # An old checkpoint cannot come back.
    assert outcome(submission(7, 7), checkpoint(8)) is Outcome.OTHER_SIZE


def test_a_fork_at_the_same_size():
    assert outcome(submission(7, 7, leaves=OTHERS), checkpoint(7)) is Outcome.FORKED
    assert outcome(Submission(0, (), signed(Checkpoint(ORIGIN, 0, bytes(32))))) is Outcome.FORKED


def test_what_is_not_a_continuation():
    assert outcome(submission(7, 9, leaves=OTHERS), checkpoint(7)) is Outcome.INCONSISTENT
    assert outcome(submission(7, 9, proof=()), checkpoint(7)) is Outcome.INCONSISTENT
    assert outcome(submission(0, 9, proof=(bytes(32),))) is Outcome.INCONSISTENT
    assert outcome(submission(7, 7, proof=(bytes(32),)), checkpoint(7)) is Outcome.INCONSISTENT


def test_what_is_no_checkpoint():
    text = "only\ntwo lines\n"
    found = judge(Submission(0, (), Note(text, (LOG.sign(text),))), logs=LOGS, latest=None)
    assert (found.outcome, found.checkpoint) == (Outcome.MALFORMED, None)
    # Hashes behind an empty line belong to the note, and no checkpoint has empty lines.
    asked = Submission.parse(submission(7, 8).serialise().replace(b"old 7\n", b"old 7\n\n"))
    assert outcome(asked, checkpoint(7)) is Outcome.MALFORMED


@pytest.mark.parametrize("case", [(0, 1), (1, 1), (7, 20)])
def test_a_submission_is_read_as_it_is_written(case):
    asked = submission(*case)
    assert Submission.parse(asked.serialise()) == asked
    assert asked.claim == checkpoint(case[1])


def test_the_form_of_a_submission():
    content = submission(7, 8).serialise().decode()
    first, hashes, rest = content.partition("\n")[0], content.split("\n")[1:5], content.partition("\n\n")[2]
    assert first == "old 7"
    assert [len(line) for line in hashes] == [44] * 4
    assert rest.encode() == signed(checkpoint(8)).serialise()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n\n",
        b"old 0\n",
        submission(7, 8).serialise()[4:],
        submission(7, 8).serialise().replace(b"old 7", b"old 07"),
        submission(7, 8).serialise().replace(b"old 7", b"old -7"),
        submission(7, 8).serialise().replace(b"old 7", b"old  7"),
        submission(7, 8).serialise().replace(b"old 7\n", b"old 7\nAAAA\n"),
        submission(7, 8).serialise().replace(b"old 7", b"old 7\r"),
        submission(7, 8, proof=(bytes(32),) * 64).serialise(),
    ],
)
def test_what_is_no_submission(content):
    with pytest.raises(FirewallError) as caught:
        Submission.parse(content)
    assert caught.value.kind is Kind.MALFORMED
