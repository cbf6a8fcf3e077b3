"""PostgreSQL over TLS, as production settings ask for it: the engine, the writer's raw connection, the migrations."""

import asyncio
import contextlib
import datetime as dt
import ssl
from collections.abc import AsyncIterator
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import quote

import pytest
import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from app.errors import FirewallError, Kind
from app.ledger.append import LedgerWriter
from app.migrations import schema
from app.persistence import revision
from app.persistence.engine import connect, create_engine

# PostgreSQL's protocol, "SSLRequest": length 8, then a code that is no protocol version.
SSL_REQUEST = bytes.fromhex("0000000804d2162f")


def _certificate(directory: Path) -> tuple[Path, Path]:
    """A key and a self-signed certificate for 127.0.0.1, in PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(minutes=5))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    key_file, certificate_file = directory / "server.key", directory / "server.crt"
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    certificate_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return key_file, certificate_file


class TlsInFront:
    """What a managed PostgreSQL shows: asked for TLS it agrees, and only then passes bytes on to the server behind."""

    def __init__(self, behind: sa.URL, *, key: Path, certificate: Path) -> None:
        self._behind = behind
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate, key)
        self.encrypted = 0
        self.plain = 0

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """To the server behind: the embedded one has a socket file, one in a container a port."""
        if folder := self._behind.query.get("host"):
            return await asyncio.open_unix_connection(f"{folder}/.s.PGSQL.5432")
        return await asyncio.open_connection(self._behind.host, self._behind.port)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            if await reader.readexactly(8) != SSL_REQUEST:
                self.plain += 1
                return
            writer.write(b"S")
            await writer.drain()
            await writer.start_tls(self._context)
            self.encrypted += 1
            behind_reader, behind_writer = await self._connect()
            await asyncio.gather(_pump(reader, behind_writer), _pump(behind_reader, writer))
        writer.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
        writer.close()


@pytest.fixture
async def guarded(database_dsn: str, tmp_path: Path) -> AsyncIterator[tuple[str, Path, TlsInFront]]:
    """The DSN of a server that speaks TLS, without `sslmode`; the certificate to trust; who counts connections."""
    key, certificate = _certificate(tmp_path)
    url = sa.make_url(database_dsn)
    front = TlsInFront(url, key=key, certificate=certificate)
    server = await asyncio.start_server(front.serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        yield f"postgresql://{url.username}:{url.password}@127.0.0.1:{port}/{url.database}", certificate, front


@pytest.mark.parametrize("mode", ["require", "verify-full"])
async def test_every_connection_is_encrypted(guarded, mode):
    plain, certificate, front = guarded
    dsn = f"{plain}?sslmode={mode}&sslrootcert={quote(str(certificate))}"
    await schema.apply(dsn)
    engine = create_engine(dsn)
    try:
        await revision.check(engine)
    finally:
        await engine.dispose()
    raw = await connect(dsn)
    try:
        assert await raw.fetchval("SELECT 1") == 1
    finally:
        await raw.close()
    writer = LedgerWriter(dsn)
    await writer.start()
    try:
        assert await writer.wait_connected(within=60)
    finally:
        await writer.stop()
    assert front.encrypted >= 4
    assert front.plain == 0


async def test_a_stranger_is_not_trusted(guarded, tmp_path):
    plain, _, _ = guarded
    other = tmp_path / "other"
    other.mkdir()
    _, stranger = _certificate(other)
    engine = create_engine(f"{plain}?sslmode=verify-full&sslrootcert={quote(str(stranger))}")
    try:
        with pytest.raises(FirewallError) as refused:
            await revision.check(engine)
    finally:
        await engine.dispose()
    assert refused.value.kind is Kind.UNAVAILABLE
