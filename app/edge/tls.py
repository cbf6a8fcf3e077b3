"""TLS made by the service itself: a certificate on disk, taken into use again whenever the files change.

A context is built anew for each change and never altered: OpenSSL would leave a context without a key where the new one
does not fit, and keeps every client authority that it ever read.
"""

import asyncio
import logging
import ssl
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.x509.oid import NameOID

from app.background import ended
from app.core.tls_files import TlsFiles
from app.errors import FirewallError, Kind

# Forward secrecy and authenticated encryption, nothing else, for TLS 1.2; TLS 1.3 has nothing else. RFC 9325, 4.2.
CIPHERS: Final = "@SECLEVEL=2:ECDHE+AESGCM:ECDHE+CHACHA20"

# A handshake takes one round trip, or two. Who opens a connection and says nothing holds it no longer than this.
HANDSHAKE_SECONDS: Final = 10.0
# Who was told that the connection ends, and does not say so in turn.
SHUTDOWN_SECONDS: Final = 5.0

# Whoever renews certificates does so with a third of their life left. With a tenth of it nobody did.
LATE_SHARE: Final = 0.1

# Files are replaced one after the other: what was read in between is read again.
_READS: Final = 3

_log: Final = logging.getLogger("mfw.tls")


@dataclass(frozen=True, slots=True)
class Served:
    """What is shown to clients: a context for new connections, and of the certificate what people ask about."""

    context: ssl.SSLContext
    subject: str
    not_before: float
    not_after: float

    @classmethod
    def of(cls, files: TlsFiles) -> "Served":
        """Read them. Raises FirewallError (INVALID_SETTINGS) that names the file at fault."""
        leaf = _leaf(files.certificate)
        names = leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        return cls(
            context=_context(files),
            subject=str(names[0].value) if names else leaf.subject.rfc4514_string(),
            not_before=leaf.not_valid_before_utc.timestamp(),
            not_after=leaf.not_valid_after_utc.timestamp(),
        )


class ServingCertificate:
    """The certificate in use; `follow` it, and new connections get the one that lies on disk now.

    What cannot be used is said in the log, counted by `failed` and tried again; the last good one stays in use.
    """

    def __init__(
        self,
        files: TlsFiles,
        *,
        poll_seconds: float,
        failed: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Read the files. Raises FirewallError (INVALID_SETTINGS)."""
        self._files = files
        self._poll_seconds = poll_seconds
        self._failed = failed
        self._clock = clock
        self._fault: str | None = None
        self._changed: Callable[[], Awaitable[None]] | None = None
        self._task: asyncio.Task[None] | None = None
        self._digest, self._served = self._read()

    handshake_seconds = HANDSHAKE_SECONDS
    shutdown_seconds = SHUTDOWN_SECONDS

    @property
    def context(self) -> ssl.SSLContext:
        """For new connections."""
        return self._served.context

    @property
    def expires_at(self) -> float:
        """In seconds since 1970."""
        return self._served.not_after

    def follow(self, changed: Callable[[], Awaitable[None]]) -> None:
        """Have `changed` called when there is another context."""
        self._changed = changed

    async def start(self) -> None:
        """Look at the files from now on."""
        self._task = asyncio.create_task(self._watch(), name="tls certificate")

    async def stop(self) -> None:
        """Look no more."""
        await ended(self._task)

    def report(self) -> tuple[bool, str]:
        """Tell whether all is well, and when the certificate ends."""
        served, now = self._served, self._clock()
        ends = datetime.fromtimestamp(served.not_after, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        detail = f"certificate of `{served.subject}`, valid until {ends}"
        if self._fault is not None:
            return False, f"{detail}; what lies on disk cannot be used: {self._fault}"
        if now >= served.not_after:
            return False, f"{detail}, which is over: clients refuse it"
        if now < served.not_before:
            return False, f"{detail}, and not valid yet: clients refuse it"
        if served.not_after - now < LATE_SHARE * (served.not_after - served.not_before):
            return False, f"{detail}; nobody has renewed it"
        return True, detail

    async def look(self) -> None:
        """Take what lies on disk into use where it is another; never raises for what it finds there."""
        try:
            if self._fault is None and await asyncio.to_thread(_digest, self._files) == self._digest:
                return
            digest, served = await asyncio.to_thread(self._read)
        except FirewallError as error:
            if self._fault != error.detail:
                self._fault = error.detail
                _log.error("certificate not taken", extra={"fields": {"error": str(error)}})
            self._failed()
            return
        self._fault = None
        if digest == self._digest:
            return
        self._digest, self._served = digest, served
        if self._changed is not None:
            await self._changed()
        _log.info(
            "certificate taken into use", extra={"fields": {"subject": served.subject, "not_after": served.not_after}}
        )

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._poll_seconds)
            try:
                await self.look()
            except Exception:  # noqa: BLE001 - it is logged with all that is known of it
                # The last one stays in use; without this nobody would ever look again.
                self._failed()
                _log.exception("looking for a new certificate failed")

    def _read(self) -> tuple[bytes, Served]:
        """What lies there, and its digest; the two are of the same files."""
        fault = FirewallError(
            Kind.INVALID_SETTINGS,
            "the certificate's files change all the time",
            fix="replace them at once, by a rename",
        )
        for _ in range(_READS):
            digest = _digest(self._files)
            try:
                served = Served.of(self._files)
            except FirewallError as error:
                # Maybe of a certificate and of a key that do not belong together, yet.
                fault = error
            else:
                if digest == _digest(self._files):
                    return digest, served
        raise fault


def _digest(files: TlsFiles) -> bytes:
    """What tells one state of the files from another. Raises FirewallError."""
    return b"".join(sha256(_content(path)).digest() for path in files.paths)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _wrong(path, f"cannot be read: {(error.strerror or type(error).__name__).lower()}") from None


def _leaf(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificates(_content(path))[0]
    except ValueError:
        raise _wrong(path, "has no certificate in PEM") from None


def _context(files: TlsFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_CIPHER_SERVER_PREFERENCE | ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    try:
        # Without a password OpenSSL would ask for one at the terminal.
        context.load_cert_chain(files.certificate, files.key, password=lambda: b"")
    except ssl.SSLError as error:
        what = "does not belong to the certificate" if error.reason == "KEY_VALUES_MISMATCH" else "cannot be used"
        raise _wrong(files.key, f"{what}: {_reason(error)}") from None
    except OSError as error:
        raise _wrong(files.key, f"cannot be read: {(error.strerror or type(error).__name__).lower()}") from None
    if files.client_ca is not None:
        try:
            context.load_verify_locations(cafile=files.client_ca)
        except ssl.SSLError as error:
            raise _wrong(files.client_ca, f"has no certificate of an authority: {_reason(error)}") from None
        except OSError as error:
            raise _wrong(files.client_ca, f"cannot be read: {(error.strerror or '').lower()}") from None
        context.verify_mode = ssl.CERT_REQUIRED if files.required else ssl.CERT_OPTIONAL
    return context


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or "no PEM").replace("_", " ").lower()


def _wrong(path: Path, what: str) -> FirewallError:
    return FirewallError(
        Kind.INVALID_SETTINGS,
        f"`{path}` {what}",
        fix="set MFW_TLS__CERTIFICATE_FILE, MFW_TLS__KEY_FILE and MFW_TLS__CLIENT_CA_FILE to PEM files that fit",
    )
