"""Tokens of Kubernetes service accounts, with the cluster's keys served as its API server does: TLS of its own
authority, discovery and `/openid/v1/jwks` for whoever shows a service account's token, which rotates.
"""

import asyncio
import base64
import contextlib
import datetime as dt
import ipaddress
import json
import ssl
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID
from jose import jwk

from app.bootstrap import create_app
from app.core.principal import PrincipalKind, Role, require_subject
from app.core.quota import Limit
from app.edge.authn import (
    Authenticator,
    FailedAttempts,
    JwksKeys,
    JwtVerifier,
    SubjectCondition,
    http_jwks,
    jwks,
    role_rule,
)
from app.errors import FirewallError, Kind
from app.observability.metrics import Metrics
from app.settings import Settings

ISSUER = "https://kubernetes.default.svc.cluster.local"
PAGE = (Path(__file__).resolve().parents[3] / "docs" / "identity.md").read_text()
# As docs/identity.md has them, which the last test looks after.
ROLE_RULE = "agent=sub=system:serviceaccount:agents:*"
CONDITION = 'subject.type == "agent" && context.claims.sub == "system:serviceaccount:agents:" + subject.id'
SIGNING = rsa.generate_private_key(public_exponent=65537, key_size=2048)
KID = "nM5yVwz3Q8HnHk1Zb0Yk6jQ2n6iJcRzXo5zq0mBvX1c"


def authority(directory: Path) -> ssl.SSLContext:
    """A certificate for 127.0.0.1 of an authority in `ca.crt`, which no system knows."""
    now = dt.datetime.now(dt.UTC)
    until = now + dt.timedelta(hours=1)
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kubernetes")])
    usage = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        crl_sign=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )

    def certificate(name: x509.Name, public: Any) -> x509.CertificateBuilder:
        made = x509.CertificateBuilder().subject_name(name).issuer_name(ca_name).public_key(public)
        return (
            made.serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(minutes=1))
            .not_valid_after(until)
        )

    ca = (
        certificate(ca_name, ca_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    served = (
        certificate(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kube-apiserver")]), key.public_key())
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    (directory / "ca.crt").write_bytes(ca.public_bytes(Encoding.PEM))
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (directory / "server.pem").write_bytes(pem + served.public_bytes(Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "server.pem")
    return context


class Cluster:
    """An API server, as far as discovery goes. `bearer` is the one token that it takes now."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.bearer = ""
        self.port = 0
        self.asked: list[tuple[str, int]] = []
        self.open = 0
        self.rotate("first")

    def rotate(self, bearer: str) -> None:
        """What the kubelet does: another token in the same place, and the old one ends."""
        self.bearer = bearer
        (self.directory / "new").write_text(bearer)
        (self.directory / "new").rename(self.directory / "token")

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def answer(self, path: str, authorization: str) -> tuple[int, Any]:
        if authorization != f"Bearer {self.bearer}":
            return 401, {"kind": "Status", "status": "Failure", "code": 401}
        public = SIGNING.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
        found = jwk.construct(public, "RS256").to_dict()
        if path == "/.well-known/openid-configuration":
            return 200, {
                "issuer": self.url,
                "jwks_uri": f"{self.url}/openid/v1/jwks",
                "response_types_supported": ["id_token"],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["RS256"],
            }
        if path == "/openid/v1/jwks":
            members = {name: found[name] for name in ("n", "e")}
            return 200, {"keys": [{"use": "sig", "kty": "RSA", "kid": KID, "alg": "RS256", **members}]}
        return 404, {"kind": "Status", "code": 404}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            path = head[0].split(" ")[1]
            said = dict(line.split(": ", 1) for line in head[1:] if line)
            status, tree = self.answer(
                path, {name.lower(): value for name, value in said.items()}.get("authorization", "")
            )
            self.asked.append((path, status))
            body = json.dumps(tree).encode()
            # As the API server names the type of its keys.
            kind = "application/jwk-set+json" if path.endswith("jwks") else "application/json"
            lines = [
                f"HTTP/1.1 {status} X",
                f"content-length: {len(body)}",
                f"content-type: {kind}",
                "connection: close",
            ]
            writer.write("\r\n".join([*lines, "", ""]).encode() + body)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            self.open -= 1


@asynccontextmanager
async def cluster(directory: Path):
    found = Cluster(directory)
    server = await asyncio.start_server(found.serve, "127.0.0.1", 0, ssl=authority(directory))
    found.port = server.sockets[0].getsockname()[1]
    async with server:
        yield found
        # A connection that is not closed yet when the loop ends is told of in another test.
        while found.open:
            await asyncio.sleep(0.01)


def pods_token(issuer: str, account: str = "deploy-bot", *, namespace: str = "agents", **changes: Any) -> bytes:
    """What a projected volume holds: bound to a pod, for an audience, an hour long."""
    now = int(time.time())
    claims = {
        "aud": ["mutation-firewall"],
        "exp": now + 3600,
        "iat": now,
        "iss": issuer,
        "jti": "5f0c6b0e-8d1f-4c59-9f8a-1c2d3e4f5a6b",
        "kubernetes.io": {
            "namespace": namespace,
            "node": {"name": "node-1", "uid": "0b0e5a1c-2f3d-4a5b-8c7d-9e0f1a2b3c4d"},
            "pod": {"name": f"{account}-7d9f", "uid": "1c2d3e4f-5a6b-4c7d-8e9f-0a1b2c3d4e5f"},
            "serviceaccount": {"name": account, "uid": "2d3e4f5a-6b7c-4d8e-9f0a-1b2c3d4e5f6a"},
        },
        "nbf": now,
        "sub": f"system:serviceaccount:{namespace}:{account}",
        **changes,
    }
    # By hand, since the API server writes no `typ`, and libraries do.
    parts = [
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=")
        for part in ({"alg": "RS256", "kid": KID}, claims)
    ]
    signed = b".".join(parts)
    signature = SIGNING.sign(signed, padding.PKCS1v15(), hashes.SHA256())
    return signed + b"." + base64.urlsafe_b64encode(signature).rstrip(b"=")


def edge(keys: JwksKeys, issuer: str) -> Authenticator:
    verifier = JwtVerifier(
        keys,
        issuer=issuer,
        audience="mutation-firewall",
        role_rules=[role_rule(ROLE_RULE)],
        subjects=SubjectCondition(CONDITION),
    )
    return Authenticator(
        api_keys=None, jwt=verifier, failures=FailedAttempts(Limit(60_000, 1000)), metrics=Metrics(version="0")
    )


async def ask(authenticator: Authenticator, token: bytes) -> Any:
    return await authenticator.authenticate([(b"authorization", b"Bearer " + token)], client_ip="192.0.2.1")


async def test_a_pod_is_who_the_cluster_says(tmp_path):
    async with cluster(tmp_path) as api:
        fetch = http_jwks(issuer=api.url, ca_file=tmp_path / "ca.crt", token_file=tmp_path / "token")
        keys = JwksKeys(fetch, algorithms=["RS256"], backoff_seconds=0.001)
        here = edge(keys, api.url)
        principal = await ask(here, pods_token(api.url))
        assert principal.id == "system:serviceaccount:agents:deploy-bot"
        assert principal.roles == {Role.AGENT}
        # A pod is no person.
        assert principal.kind is PrincipalKind.SERVICE
        require_subject(principal, {"type": "agent", "id": "deploy-bot", "properties": {}})
        for subject in ({"type": "agent", "id": "other"}, {"type": "user", "id": "deploy-bot"}):
            with pytest.raises(FirewallError):
                require_subject(principal, {**subject, "properties": {}})
        assert api.asked == [("/.well-known/openid-configuration", 200), ("/openid/v1/jwks", 200)]
        # Another namespace is nobody here; another audience, another cluster are no tokens at all.
        assert (await ask(here, pods_token(api.url, namespace="default"))).roles == frozenset()
        assert (await ask(here, pods_token(api.url, aud=["vault", "mutation-firewall"], jti="2"))).roles == {Role.AGENT}
        for wrong in (
            pods_token(api.url, aud=["https://kubernetes.default.svc"]),
            pods_token("https://another.example"),
            pods_token(api.url, aud=[]),
        ):
            with pytest.raises(FirewallError) as caught:
                await ask(here, wrong)
            assert caught.value.kind is Kind.UNAUTHENTICATED
        # The kubelet rotates our own token: the next fetch shows the new one.
        api.rotate("second")
        assert await keys.refresh()
        assert api.asked[-1] == ("/openid/v1/jwks", 200)
        # One that is no longer good is a fetch that failed; the keys hold.
        api.bearer = "third"
        assert not await keys.refresh()
        assert api.asked[-1][1] == 401
        assert (await ask(here, pods_token(api.url, jti="3"))).roles == {Role.AGENT}


async def test_the_clusters_authority_is_believed_where_it_is_named(tmp_path):
    async with cluster(tmp_path) as api:
        with pytest.raises(jwks.FetchError):
            await http_jwks(url=f"{api.url}/openid/v1/jwks", token_file=tmp_path / "token")()
        fetch = http_jwks(url=f"{api.url}/openid/v1/jwks", ca_file=tmp_path / "ca.crt", token_file=tmp_path / "token")
        assert len((await fetch()).keys) == 1


def test_the_settings_of_the_page_are_taken(tmp_path):
    block = PAGE[PAGE.index("# the firewall\n") :]
    lines = block[: block.index("```")].splitlines()[1:]
    environ = dict(line.split("=", 1) for line in lines)
    assert environ["MFW_AUTH__JWT__ROLE_RULES"] == ROLE_RULE
    assert environ["MFW_AUTH__JWT__SUBJECT_CONDITION"] == CONDITION
    authority(tmp_path)
    (tmp_path / "token").write_text("x")
    settings = Settings.load(
        {
            **environ,
            "MFW_ENVIRONMENT": "test",
            "MFW_DATABASE__URL": "postgresql://u:p@127.0.0.1:1/x",
            "MFW_POLICIES__DIRECTORY": str(Path(__file__).resolve().parents[3] / "policies" / "starter"),
            "MFW_AUTH__JWT__CA_FILE": str(tmp_path / "ca.crt"),
            "MFW_AUTH__JWT__TOKEN_FILE": str(tmp_path / "token"),
        }
    )
    assert settings.auth.jwt.issuer == ISSUER
    assert create_app(settings) is not None
