"""The copy on the local disk is whole, of this user alone, and what its digest says; or it is not used."""

import os
from hashlib import sha256

import orjson
import pytest

from app.core.canonical import canonical
from app.core.dsse import Envelope, Signature
from app.errors import FirewallError, Kind
from app.policies import last_good
from app.policies.last_good import FILE_NAME, keep, recall

DOCUMENTS = canonical([{"a": 'b,"documents":[', "c": [1, 2.5, None, True]}])
DIGEST = "sha256:" + sha256(DOCUMENTS).hexdigest()


def test_what_was_kept_comes_back(tmp_path):
    directory = tmp_path / "deep" / "down"
    assert recall(directory) is None
    keep(directory, digest="sha256:" + "0" * 64, sequence=1, documents=b"[]")
    keep(directory, digest=DIGEST, sequence=7, documents=DOCUMENTS)
    kept = recall(directory)
    assert kept is not None
    assert (kept.digest, kept.sequence, kept.documents) == (DIGEST, 7, orjson.loads(DOCUMENTS))
    assert [path.name for path in directory.iterdir()] == [FILE_NAME]
    assert (directory / FILE_NAME).stat().st_mode & 0o777 == 0o600


def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    keep(tmp_path, digest=DIGEST, sequence=7, documents=DOCUMENTS)

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        keep(tmp_path, digest=DIGEST, sequence=8, documents=DOCUMENTS)
    kept = recall(tmp_path)
    assert kept is not None
    assert kept.sequence == 7
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"version":2,"digest":"%b","sequence":1,"documents":%b}' % (DIGEST.encode(), DOCUMENTS),
        b'{"version":1,"digest":"%b","sequence":"1","documents":%b}' % (DIGEST.encode(), DOCUMENTS),
        b'{"version":1,"digest":"%b","sequence":1,"documents":[]}' % DIGEST.encode(),
        b'{"version":1,"digest":"%b","sequence":1,"documents":{}}' % DIGEST.encode(),
        b'{"version":1,"digest":null,"sequence":1,"documents":%b}' % DOCUMENTS,
        b'{"version":1,"digest":"%b","sequence":1, "documents":%b}' % (DIGEST.encode(), DOCUMENTS),
        b"\xff\xfe",
    ],
)
def test_a_damaged_copy_is_refused(tmp_path, content):
    (tmp_path / FILE_NAME).write_bytes(content)
    (tmp_path / FILE_NAME).chmod(0o600)
    with pytest.raises(FirewallError) as caught:
        recall(tmp_path)
    assert caught.value.kind is Kind.INVALID_POLICY
    assert FILE_NAME in str(caught.value.fix)


def test_a_copy_that_others_could_have_written_is_refused(tmp_path):
    keep(tmp_path, digest=DIGEST, sequence=7, documents=DOCUMENTS)
    (tmp_path / FILE_NAME).chmod(0o620)
    with pytest.raises(FirewallError, match="others could have written it"):
        recall(tmp_path)


def test_a_copy_that_cannot_be_read_or_is_too_long_is_refused(tmp_path, monkeypatch):
    (tmp_path / FILE_NAME).mkdir()
    with pytest.raises(FirewallError, match="directory"):
        recall(tmp_path)
    (tmp_path / FILE_NAME).rmdir()
    keep(tmp_path, digest=DIGEST, sequence=7, documents=DOCUMENTS)
    monkeypatch.setattr(last_good, "FILE_BYTES_MAX", 10)
    with pytest.raises(FirewallError, match="more than 10 bytes"):
        recall(tmp_path)


def test_signatures_are_kept_beside_the_documents(tmp_path):
    envelope = Envelope("t", b'x,"documents":[', (Signature(',"documents":', b"s"),))
    keep(tmp_path, digest=DIGEST, sequence=7, documents=DOCUMENTS, envelopes=[envelope])
    kept = recall(tmp_path)
    assert kept is not None
    assert (kept.documents, kept.envelopes) == (orjson.loads(DOCUMENTS), (envelope,))
    # Without any the file is what releases before this one wrote.
    keep(tmp_path, digest=DIGEST, sequence=7, documents=DOCUMENTS)
    assert b"signatures" not in (tmp_path / FILE_NAME).read_bytes()


@pytest.mark.parametrize("signatures", [b"{}", b"1", b'"x"', b"[1]", b'[{"payload":"x"}]'])
def test_signatures_that_are_none(tmp_path, signatures):
    head = b'{"version":1,"digest":"%b","sequence":1,"signatures":%b,' % (DIGEST.encode(), signatures)
    (tmp_path / FILE_NAME).write_bytes(head + b'"documents":%b}' % DOCUMENTS)
    with pytest.raises(FirewallError) as caught:
        recall(tmp_path)
    assert caught.value.kind is Kind.INVALID_POLICY
