"""Authorities that somebody names are believed in whatever form they have, everywhere."""

import ssl
from pathlib import Path

import pytest

from app.client import Firewall
from app.client import hook as agents
from app.cluster.api import Access, KubernetesApi
from app.edge.authn.jwks import http_jwks
from app.errors import FirewallError, Kind
from app.persistence.shared_buckets import SharedBucketStore
from app.surfaces.github import client as github
from app.trust import trust
from tests.certificates import serving, strict_by_default


@pytest.fixture(autouse=True)
def _nothing_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    (tmp_path / "ca.crt").write_bytes(serving().authority)
    return tmp_path / "ca.crt"


async def _cluster(ca_file: Path) -> None:
    await KubernetesApi(Access("https://kubernetes", ca_file, ca_file))._opened().aclose()


async def _issuer(ca_file: Path) -> None:
    http_jwks(url="https://kubernetes/openid/v1/jwks", ca_file=ca_file)


async def _client(ca_file: Path) -> None:
    Firewall("https://firewall", ca_file=ca_file).close()


async def _hook(ca_file: Path) -> None:
    agents._connection("https", "firewall", None, 1, str(ca_file)).close()


async def _github(ca_file: Path) -> None:
    github._trust(ca_file)


@pytest.mark.parametrize("opened", [_cluster, _issuer, _client, _hook, _github])
async def test_an_authority_of_ones_own_need_not_name_key_identifiers(opened, authority, monkeypatch) -> None:
    made = strict_by_default(monkeypatch)
    await opened(authority)
    (context,) = made
    assert not context.verify_flags & ssl.VERIFY_X509_STRICT
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert len(context.get_ca_certs()) == 1


@pytest.mark.parametrize(("query", "held"), [("", True), ("?ssl_ca_certs={}", False)], ids=["machine", "named"])
async def test_redis_is_believed_as_everybody_else_is(query, held, authority, monkeypatch) -> None:
    made = strict_by_default(monkeypatch)
    store = SharedBucketStore(f"rediss://:secret@redis:6379/0{query.format(authority)}")
    # It makes its context when it connects.
    store._redis.connection_pool.make_connection().ssl_context.get()
    (context,) = made
    assert bool(context.verify_flags & ssl.VERIFY_X509_STRICT) is held
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    await store.close()


@pytest.mark.parametrize("url", ["redis://redis:6379/0", "unix:///run/redis.sock"])
async def test_redis_without_tls_is_told_nothing_of_authorities(url) -> None:
    store = SharedBucketStore(url)
    store._redis.connection_pool.make_connection()
    await store.close()


@pytest.mark.parametrize("name", ["", "SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_those_of_the_machine_are_held_to_it_unless_others_are_named(name, authority, monkeypatch) -> None:
    strict_by_default(monkeypatch)
    monkeypatch.setenv("SSL_CERT_FILE", "")
    if name:
        monkeypatch.setenv(name, str(authority if name == "SSL_CERT_FILE" else authority.parent))
    context = trust()
    assert bool(context.verify_flags & ssl.VERIFY_X509_STRICT) is (not name)
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)


@pytest.mark.parametrize("content", [None, b"", b"no certificate"])
def test_a_file_without_authorities_is_an_error(content, tmp_path) -> None:
    if content is not None:
        (tmp_path / "ca.crt").write_bytes(content)
    with pytest.raises(OSError):
        trust(tmp_path / "ca.crt")
    for made in (lambda: http_jwks(ca_file=tmp_path / "ca.crt"), lambda: github._trust(tmp_path / "ca.crt")):
        with pytest.raises(FirewallError) as caught:
            made()
        assert caught.value.kind is Kind.INVALID_SETTINGS
