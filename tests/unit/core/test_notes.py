"""Signed notes, checkpoints, cosignatures and proofs: as other implementations write them, and read strictly."""

import base64
import json
from contextlib import suppress
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from app.core import notes
from app.core.notes import Algorithm, Checkpoint, LogProof, Note, NoteSignature, SignerKey, VerifierKey
from app.errors import FirewallError, Kind

VECTOR = json.loads((Path(__file__).parents[2] / "vectors" / "notes.json").read_text("utf-8"))
LOG = SignerKey.parse(VECTOR["signer_key"])
WITNESS = SignerKey.of(
    "witness.example.com/w1", SignerKey.parse(VECTOR["witness_signer_key"]).private, algorithm=Algorithm.COSIGNATURE
)
OTHER = SignerKey.of("firewall.example.com/ledger", Ed25519PrivateKey.from_private_bytes(bytes(32)))
CHECKPOINT = Checkpoint.parse(VECTOR["text"])
NOTE = VECTOR["note"].encode()
ROOT = "XcnaeacGWamtVZy3Ad7ZoqudgjqtL0lgz+Nw7/RgQyg="
LINE = LOG.sign(VECTOR["text"]).line


def refusal(call, *args, kind=Kind.MALFORMED, **named):
    with pytest.raises(FirewallError) as caught:
        call(*args, **named)
    assert caught.value.kind is kind
    return caught.value


def test_keys_are_written_as_others_write_them():
    assert LOG.text == VECTOR["signer_key"]
    assert LOG.verifier.text == VECTOR["verifier_key"]
    assert VerifierKey.parse(VECTOR["verifier_key"]) == LOG.verifier
    assert WITNESS.verifier.text == VECTOR["witness_cosignature_key"]
    assert VerifierKey.parse(VECTOR["witness_cosignature_key"]) == WITNESS.verifier
    assert WITNESS.verifier.key_id == VECTOR["cosigner_hash"]
    assert SignerKey.parse(WITNESS.text).verifier == WITNESS.verifier


def test_a_note_is_signed_as_others_sign_it():
    text = CHECKPOINT.text
    assert text == VECTOR["text"]
    note = Note(text, (LOG.sign(text),))
    assert note.serialise() == NOTE
    cosigned = note.with_signatures([WITNESS.sign(text, at=VECTOR["cosigned_at"])])
    assert cosigned.serialise() == VECTOR["cosigned"].encode()
    assert cosigned.signatures[1].timestamp == VECTOR["cosigned_at"]


def test_a_note_is_read_and_verified():
    opened = notes.open_checkpoint(VECTOR["cosigned"].encode(), keys=[LOG.verifier, WITNESS.verifier])
    assert opened.checkpoint == CHECKPOINT
    assert opened.signers == (LOG.verifier, WITNESS.verifier)
    assert opened.note.serialise() == VECTOR["cosigned"].encode()
    assert notes.open_checkpoint(VECTOR["cosigned"].encode(), keys=[WITNESS.verifier]).signers == (WITNESS.verifier,)


def test_keys_that_nobody_named_do_not_count():
    for keys in ([], [OTHER.verifier], [WITNESS.verifier]):
        error = refusal(notes.open_checkpoint, NOTE, keys=keys, kind=Kind.INVALID_SIGNATURE)
        assert "`firewall.example.com/ledger`" in str(error)


def test_a_signature_that_does_not_hold_spoils_the_note():
    text = VECTOR["text"].replace("\n8\n", "\n9\n")
    good = WITNESS.sign(text, at=1)
    moved = Note(text, (notes.parse_note(NOTE).signatures[0], good))
    refusal(notes.verify_note, moved, keys=[LOG.verifier, WITNESS.verifier], kind=Kind.INVALID_SIGNATURE)
    assert notes.verify_note(moved, keys=[WITNESS.verifier]) == (WITNESS.verifier,)


def test_a_cosignature_is_of_its_time():
    text = VECTOR["text"]
    one = WITNESS.sign(text, at=1_700_000_000)
    assert WITNESS.verifier.verify(text, one)
    later = NoteSignature(one.name, one.key_id, (1_700_000_001).to_bytes(8, "big") + one.signature[8:])
    assert not WITNESS.verifier.verify(text, later)
    beyond = WITNESS.sign(text, at=2**63)
    assert not WITNESS.verifier.verify(text, beyond)
    assert not WITNESS.verifier.verify(text, NoteSignature(one.name, one.key_id, one.signature[:-1]))
    assert not WITNESS.verifier.verify(text, LOG.sign(text))
    refusal(lambda: LOG.sign(text).timestamp)


def test_one_key_signs_once():
    note = notes.parse_note(NOTE)
    assert note.with_signatures(note.signatures) == note
    twice = NOTE + note.signatures[0].line.encode()
    assert notes.open_checkpoint(twice, keys=[LOG.verifier]).signers == (LOG.verifier,)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"\n\n",
        b"text\n",
        b"text\n\n",
        b"text\n\n" + LINE.encode()[:-1],
        b"text\n\n" + LINE.encode() + b"\n",
        b"text\n\n" + LINE.replace("— ", "- ").encode(),
        b"text\n\n" + LINE.replace("— ", "—").encode(),
        b"text\r\n\n" + LINE.encode(),
        b"te\x00xt\n\n" + LINE.encode(),
        b"te\xffxt\n\n" + LINE.encode(),
        b"text\n\n" + LINE.replace("example.com", "exam+ple.com").encode(),
        b"text\n\n" + LINE.replace("example.com", "exam\N{NO-BREAK SPACE}ple.com").encode(),
        b"text\n\n" + "— name \n".encode(),
        b"text\n\n" + "—  AAAAAAA=\n".encode(),
        b"text\n\n" + "— name AAAAAA==\n".encode(),
        b"text\n\n" + "— name AAAAAAF=\n".encode(),
        b"text\n\n" + "— name AAAAAAA\n".encode(),
        b"text\n\n" + "— name AAAA_AA=\n".encode(),
        b"text\n\n" + "— name AAAAAAA= \n".encode(),
        b"text\n\n" + LINE.encode() * 65,
        b"x" * notes.NOTE_BYTES_MAX + b"\n\n" + LINE.encode(),
    ],
)
def test_what_is_no_note(content):
    refusal(notes.parse_note, content)


def test_as_many_signatures_as_a_verifier_must_accept():
    assert len(notes.parse_note(b"text\n\n" + LINE.encode() * 64).signatures) == 64


def test_the_last_empty_line_separates():
    note = notes.parse_note(b"one\n\ntwo\n\n" + LINE.encode())
    assert note.text == "one\n\ntwo\n"


def test_signature_lines_alone():
    assert notes.parse_signatures(LINE.encode() * 2) == (LOG.sign(VECTOR["text"]),) * 2
    for content in (
        b"",
        b"\n",
        LINE.encode() + b"\n",
        b"text\n\n" + LINE.encode(),
        LINE.encode() + b"\n" + LINE.encode(),
    ):
        refusal(notes.parse_signatures, content)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n\n\n",
        f"o\n8\n{ROOT}",
        f"o\n8\n{ROOT}\n\n",
        f"\n8\n{ROOT}\n",
        f"o\n\n{ROOT}\n",
        "o\n8\n\n",
        "o\n8\n",
        f"o\n08\n{ROOT}\n",
        f"o\n-8\n{ROOT}\n",
        f"o\n+8\n{ROOT}\n",
        f"o\n8.0\n{ROOT}\n",
        f"o\n٨\n{ROOT}\n",
        f"o\n {8}\n{ROOT}\n",
        f"o\n{2**63}\n{ROOT}\n",
        f"o\n{'9' * 5000}\n{ROOT}\n",
        f"o\r\n8\n{ROOT}\n",
        f"o\n8\n{ROOT[:-1]}\n",
        f"o\n8\n{ROOT[:-2]}h=\n",
        f"o\n8\n{base64.b64encode(bytes(31)).decode()}\n",
        f"o\n8\n{ROOT}\nx\n\ny\n",
    ],
)
def test_what_is_no_checkpoint(text):
    assert len(str(refusal(Checkpoint.parse, text))) < 250


def test_extension_lines():
    text = f"o\n0\n{ROOT}\none\ntwo\n"
    assert Checkpoint.parse(text).extensions == ("one", "two")
    assert Checkpoint.parse(text).text == text


@pytest.mark.parametrize(
    "checkpoint",
    [
        Checkpoint("", 0, bytes(32)),
        Checkpoint("a\nb", 0, bytes(32)),
        Checkpoint("a\n0", 0, bytes(32)),
        Checkpoint("a", -1, bytes(32)),
        Checkpoint("a", 2**63, bytes(32)),
        Checkpoint("a", 0, bytes(31)),
        Checkpoint("a", 0, bytes(32), ("",)),
        Checkpoint("a", 0, bytes(32), ("x\ny",)),
        Checkpoint("a\tb", 0, bytes(32)),
    ],
)
def test_what_no_checkpoint_can_say(checkpoint):
    refusal(lambda: checkpoint.text)


texts = st.text(alphabet=st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=40)


@given(texts, st.integers(0, 2**63 - 1), st.binary(min_size=32, max_size=32), st.lists(texts, max_size=3))
def test_a_checkpoint_is_read_as_it_is_written(origin, size, root, extensions):
    checkpoint = Checkpoint(origin, size, root, tuple(extensions))
    assert Checkpoint.parse(checkpoint.text) == checkpoint
    signed = Note(checkpoint.text, (LOG.sign(checkpoint.text),))
    assert notes.open_checkpoint(signed.serialise(), keys=[LOG.verifier]).checkpoint == checkpoint


@given(st.binary(max_size=200))
def test_any_bytes_give_a_note_or_a_refusal(content):
    for call in (notes.parse_note, notes.parse_signatures, LogProof.parse):
        with suppress(FirewallError):
            call(content)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "name",
        "name+53462ec3",
        "name+53462ec3+!",
        "a name+53462ec3+AXm1Vi6P5lT5QHixEuipi6eQH4U65pW+1+DjkQutBJZk",
        VECTOR["verifier_key"].replace("53462ec3", "53462EC3"),
        VECTOR["verifier_key"].replace("53462ec3", "00000000"),
        VECTOR["verifier_key"].replace("firewall", "firewalls"),
        VECTOR["verifier_key"][:-4],
        "name+00000000+" + base64.b64encode(b"\x06" + bytes(32)).decode(),
        VECTOR["signer_key"],
    ],
)
def test_what_is_no_verifier_key(text):
    refusal(VerifierKey.parse, text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        VECTOR["verifier_key"],
        VECTOR["signer_key"].replace("53462ec3", "53462ec4"),
        VECTOR["signer_key"][:-4],
        VECTOR["signer_key"] + "!",
        VECTOR["signer_key"].replace("+AQEC", "+BgEC"),
    ],
)
def test_what_is_no_signer_key(text):
    error = refusal(SignerKey.parse, text)
    assert "AgMEBQYH" not in str(error)


def test_no_secret_is_shown():
    assert base64.b64encode(LOG.private.private_bytes_raw()).decode() not in repr(LOG)


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\nb", "a\u2003b", "a\x00b", "x" * 256])
def test_what_is_no_name(name):
    refusal(SignerKey.of, name, LOG.private)


@pytest.mark.parametrize("extra", [None, b"", b"out of band"])
@pytest.mark.parametrize("hashes", [(), (bytes(32), bytes(range(32)))])
def test_a_proof_is_read_as_it_is_written(extra, hashes):
    proof = LogProof(7, hashes, notes.parse_note(NOTE), extra)
    content = proof.serialise()
    assert LogProof.parse(content) == proof
    assert content.endswith(NOTE)


def test_the_form_of_a_proof():
    content = LogProof(7, (bytes(32),), notes.parse_note(NOTE), b"hi").serialise()
    assert content.decode() == (
        f"c2sp.org/tlog-proof@v1\nextra aGk=\nindex 7\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n\n{VECTOR['note']}"
    )


@pytest.mark.parametrize(
    "head",
    [
        "",
        "c2sp.org/tlog-proof@v1",
        "c2sp.org/tlog-proof@v2\nindex 7",
        "c2sp.org/tlog-proof@v1\nextra aGk=",
        "c2sp.org/tlog-proof@v1\nextra aGk\nindex 7",
        "c2sp.org/tlog-proof@v1\nindex 07",
        "c2sp.org/tlog-proof@v1\nindex -7",
        "c2sp.org/tlog-proof@v1\nindex 7\nextra aGk=",
        "c2sp.org/tlog-proof@v1\nindex 7\r\nAAAA",
        "c2sp.org/tlog-proof@v1\nindex 7\nAAAA",
        "c2sp.org/tlog-proof@v1\nindex 7" + f"\n{ROOT}" * 64,
    ],
)
def test_what_is_no_proof(head):
    refusal(LogProof.parse, head.encode() + b"\n\n" + NOTE)


def test_a_proof_has_a_checkpoint():
    refusal(LogProof.parse, b"c2sp.org/tlog-proof@v1\nindex 7\n")
    refusal(LogProof.parse, b"\xff\n\n" + NOTE)


@given(st.lists(st.binary(min_size=32, max_size=32), max_size=63))
def test_hashes_are_read_as_they_are_written(hashes):
    assert notes.read_hashes(notes.write_hashes(hashes).split("\n")[:-1]) == tuple(hashes)
