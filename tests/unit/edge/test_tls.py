"""The certificate that is served: what is taken into use, and what is not."""

import asyncio
import ssl
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from app.core.tls_files import TlsFiles
from app.edge import tls
from app.edge.tls import Served, ServingCertificate
from app.errors import FirewallError, Kind
from tests.certificates import ClientAuthority, serving, write


def fault(files: TlsFiles) -> str:
    with pytest.raises(FirewallError) as caught:
        Served.of(files)
    assert caught.value.kind is Kind.INVALID_SETTINGS
    assert "MFW_TLS__" in str(caught.value.fix)
    return caught.value.detail


def test_what_is_listened_with(tmp_path: Path) -> None:
    served = Served.of(write(tmp_path, serving()))
    context = served.context
    assert served.subject == "localhost"
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert context.verify_mode is ssl.CERT_NONE
    assert context.options & ssl.OP_NO_RENEGOTIATION
    old = [cipher for cipher in context.get_ciphers() if cipher["protocol"] != "TLSv1.3"]
    assert old
    assert all(cipher["aead"] and cipher["kea"] == "kx-ecdhe" for cipher in old)


def test_client_certificates_are_asked_for(tmp_path: Path) -> None:
    files = write(tmp_path, serving())
    authority = tmp_path / "clients.crt"
    authority.write_bytes(ClientAuthority().certificate)
    for required, mode in ((False, ssl.CERT_OPTIONAL), (True, ssl.CERT_REQUIRED)):
        asked = TlsFiles(files.certificate, files.key, authority, required=required)
        assert Served.of(asked).context.verify_mode is mode


def test_files_of_no_use(tmp_path: Path) -> None:
    files = write(tmp_path, serving())
    gone = tmp_path / "gone"
    assert "cannot be read: no such file" in fault(TlsFiles(gone, files.key))
    assert fault(TlsFiles(files.certificate, gone)) == f"`{gone}` cannot be read: no such file or directory"
    assert "has no certificate" in fault(TlsFiles(files.key, files.key))
    assert "cannot be used" in fault(TlsFiles(files.certificate, files.certificate))
    (tmp_path / "other").mkdir()
    other = write(tmp_path / "other", serving())
    assert "does not belong to the certificate" in fault(TlsFiles(files.certificate, other.key))
    assert "cannot be read" in fault(TlsFiles(files.certificate, files.key, gone))
    assert "no certificate of an authority" in fault(TlsFiles(files.certificate, files.key, files.key))


def test_a_key_with_a_passphrase_asks_nobody(tmp_path: Path) -> None:
    issued = serving()
    files = write(tmp_path, issued)
    key = load_pem_private_key(issued.key, password=None)
    files.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")))
    assert "cannot be used" in fault(files)


class Watched:
    """A certificate on disk, with whoever follows it."""

    def __init__(self, directory: Path, *, poll_seconds: float = 3600, now: float | None = None) -> None:
        self.failures = 0
        self.changes = 0
        self.now = now
        self.directory = directory
        self.certificate = ServingCertificate(
            write(directory, serving()),
            poll_seconds=poll_seconds,
            failed=self.failed,
            clock=lambda: time.time() if self.now is None else self.now,
        )
        self.certificate.follow(self.changed)
        self.waiting = asyncio.Event()

    def failed(self) -> None:
        self.failures += 1

    async def changed(self) -> None:
        self.changes += 1
        self.waiting.set()


async def test_another_certificate_is_another_context(tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    first = watched.certificate.context
    await watched.certificate.look()
    assert (watched.changes, watched.certificate.context) == (0, first)
    write(tmp_path, serving(days=3))
    await watched.certificate.look()
    assert watched.changes == 1
    assert watched.certificate.context is not first
    assert watched.certificate.expires_at > time.time() + 2 * 86400


async def test_the_last_good_one_stays(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    watched = Watched(tmp_path)
    first, content = watched.certificate.context, (tmp_path / "tls.crt").read_bytes()
    (tmp_path / "tls.crt").write_bytes(serving().certificate)
    await watched.certificate.look()
    await watched.certificate.look()
    assert (watched.failures, watched.changes, watched.certificate.context) == (2, 0, first)
    well, detail = watched.certificate.report()
    assert not well
    assert "what lies on disk cannot be used" in detail
    # Said once, counted each time.
    assert [record.message for record in caplog.records] == ["certificate not taken"]
    (tmp_path / "tls.crt").write_bytes(content)
    await watched.certificate.look()
    assert watched.certificate.report()[0]
    assert watched.changes == 0
    (tmp_path / "tls.crt").unlink()
    await watched.certificate.look()
    assert watched.failures == 3


async def test_files_that_change_while_they_are_read_are_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched(tmp_path)
    calls = 0

    def changing(_files: TlsFiles) -> bytes:
        nonlocal calls
        calls += 1
        return bytes([calls if calls < 4 else 9])

    monkeypatch.setattr(tls, "_digest", changing)
    await watched.certificate.look()
    assert (watched.changes, watched.failures, calls) == (1, 0, 5)
    monkeypatch.setattr(
        tls, "_digest", lambda _files: bytes([time.monotonic_ns() % 251, *time.monotonic_ns().to_bytes(8)])
    )
    await watched.certificate.look()
    assert "change all the time" in watched.certificate.report()[1]


async def test_it_is_looked_at_by_itself_whatever_happens(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched(tmp_path, poll_seconds=0.005)
    real = tls._digest

    def broken(_files: TlsFiles) -> bytes:
        monkeypatch.setattr(tls, "_digest", real)
        raise RuntimeError("out of order")

    monkeypatch.setattr(tls, "_digest", broken)
    write(tmp_path, serving())
    await watched.certificate.start()
    async with asyncio.timeout(60):
        await watched.waiting.wait()
    await watched.certificate.stop()
    assert watched.failures == 1
    assert "looking for a new certificate failed" in caplog.text


async def test_without_a_start_there_is_nothing_to_stop(tmp_path: Path) -> None:
    await Watched(tmp_path).certificate.stop()


def test_what_is_said_of_its_end(tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    ends = watched.certificate.expires_at
    said = datetime.fromtimestamp(ends, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    assert watched.certificate.report() == (True, f"certificate of `localhost`, valid until {said}")
    for seconds, text in (
        (ends - 60, "nobody has renewed it"),
        (ends, "which is over"),
        (ends - 30 * 86400, "not valid yet"),
    ):
        watched.now = seconds
        well, detail = watched.certificate.report()
        assert not well
        assert text in detail
