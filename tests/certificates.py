"""Certificates for tests, made on the spot: those of servers by the code that makes them, those of clients here."""

import datetime as dt
import ssl
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from app.cluster.authority import Issued, issue
from app.core.tls_files import TlsFiles

LOCAL = ("localhost", "127.0.0.1")


def serving(names: tuple[str, ...] = LOCAL, *, days: float = 1, ago: float = 0) -> Issued:
    """A serving certificate that was made `ago` days ago."""
    return issue(names, now=dt.datetime.now(dt.UTC) - dt.timedelta(days=ago), lifetime=dt.timedelta(days=days))


def write(directory: Path, issued: Issued) -> TlsFiles:
    """Put it where a server looks for it."""
    certificate, key = directory / "tls.crt", directory / "tls.key"
    for path, content in ((certificate, issued.certificate), (key, issued.key)):
        fresh = path.with_suffix(".new")
        fresh.write_bytes(content)
        fresh.replace(path)
    return TlsFiles(certificate, key)


def strict_by_default(monkeypatch: pytest.MonkeyPatch) -> list[ssl.SSLContext]:
    """Contexts as Python makes them since 3.13, whatever this one is; the list has each that is made from now on."""
    made: list[ssl.SSLContext] = []
    original = ssl.create_default_context

    def strict(*arguments: Any, **named: Any) -> ssl.SSLContext:
        context = original(*arguments, **named)
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        made.append(context)
        return context

    monkeypatch.setattr(ssl, "create_default_context", strict)
    return made


class ClientAuthority:
    """Vouches for clients."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "clients")])
        self.certificate = self._made(self._name, self._key.public_key(), ca=True)

    def client(
        self, directory: Path, common: str, *, organisation: str = "", uris: tuple[str, ...] = (), ends_in: float = 3600
    ) -> tuple[str, str]:
        """The files of a client's certificate and key; `ends_in` is in seconds."""
        key = ec.generate_private_key(ec.SECP256R1())
        parts = [x509.NameAttribute(NameOID.COMMON_NAME, common)]
        if organisation:
            parts.insert(0, x509.NameAttribute(NameOID.ORGANIZATION_NAME, organisation))
        certificate = self._made(x509.Name(parts), key.public_key(), uris=uris, ends_in=ends_in)
        crt, pem = directory / f"{common}.crt", directory / f"{common}.key"
        crt.write_bytes(certificate)
        pem.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return str(crt), str(pem)

    def der(self, **options: object) -> bytes:
        """A client's certificate without its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name(
            [x509.NameAttribute(NameOID.COMMON_NAME, "ops"), x509.NameAttribute(NameOID.ORGANIZATION_NAME, "a")]
        )
        pem = self._made(name, key.public_key(), **options)  # type: ignore[arg-type]  # as it takes them
        return x509.load_pem_x509_certificate(pem).public_bytes(serialization.Encoding.DER)

    def _made(
        self,
        name: x509.Name,
        key: ec.EllipticCurvePublicKey,
        *,
        ca: bool = False,
        uris: tuple[str, ...] = (),
        ends_in: float = 3600,
    ) -> bytes:
        now = dt.datetime.now(dt.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(seconds=ends_in))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if not ca:
            builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        if uris:
            names = [x509.UniformResourceIdentifier(uri) for uri in uris]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
