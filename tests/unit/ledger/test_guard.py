"""The guard file: the last checkpoint on disk, whole, or a refusal."""

import os
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from app.core.notes import Checkpoint, Note, SignerKey
from app.errors import FirewallError, Kind
from app.ledger.guard import GuardFile

KEY = SignerKey.of("log.example.com", Ed25519PrivateKey.generate())


def note(size: int) -> bytes:
    text = Checkpoint(KEY.name, size, bytes([size]) * 32).text
    return Note(text, (KEY.sign(text),)).serialise()


def test_what_was_written_is_read_again(tmp_path):
    guard = GuardFile(tmp_path / "guard")
    assert guard.read() is None
    for size in (1, 2):
        guard.write(note(size))
        assert GuardFile(tmp_path / "guard").read() == Checkpoint(KEY.name, size, bytes([size]) * 32)
    assert (tmp_path / "guard").stat().st_mode & 0o777 == 0o600
    assert [file.name for file in tmp_path.iterdir()] == ["guard"]


def test_it_is_on_disk_before_anybody_is_told(tmp_path, monkeypatch):
    done: list[str] = []

    def telling(name: str) -> None:
        real = getattr(os, name)

        def told(*given: Any) -> Any:
            done.append(name)
            return real(*given)

        monkeypatch.setattr(os, name, told)

    telling("fsync")
    telling("replace")
    GuardFile(tmp_path / "guard").write(note(1))
    assert done == ["fsync", "replace", "fsync"]


@pytest.mark.parametrize("content", [b"", b"rubbish", b"\xff\n\n", note(1)[:40], note(1).replace(b"\n1\n", b"\n01\n")])
def test_rubbish_is_no_checkpoint_and_not_none(tmp_path, content):
    (tmp_path / "guard").write_bytes(content)
    with pytest.raises(FirewallError) as caught:
        GuardFile(tmp_path / "guard").read()
    assert caught.value.kind is Kind.MALFORMED
    assert "docs/ledger.md" in str(caught.value)


def test_what_cannot_be_read_or_written(tmp_path):
    (tmp_path / "guard").mkdir()
    with pytest.raises(FirewallError, match="cannot be read: is a directory"):
        GuardFile(tmp_path / "guard").read()
    with pytest.raises(FirewallError, match="cannot be written: is a directory") as caught:
        GuardFile(tmp_path / "guard").write(note(1))
    assert caught.value.kind is Kind.UNAVAILABLE
    assert [file.name for file in tmp_path.iterdir()] == ["guard"]
    with pytest.raises(FirewallError, match="cannot be written: no such file or directory"):
        GuardFile(tmp_path / "no" / "guard").write(note(1))
