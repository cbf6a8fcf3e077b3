"""Keys that an issuer publishes: fetched from a real HTTP server, which fails, hangs, lies and rotates on demand."""

import asyncio
import base64
import contextlib
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from jose import jwk, jws

from app.core.quota import Limit
from app.edge.authn import Authenticator, FailedAttempts, JwksKeys, JwtVerifier, http_jwks, jwks
from app.edge.authn.keys import keys_of_jwk
from app.errors import FirewallError, Kind
from app.observability.metrics import Metrics

ISSUER = "https://issuer.example"
FIRST = rsa.generate_private_key(public_exponent=65537, key_size=2048)
SECOND = rsa.generate_private_key(public_exponent=65537, key_size=2048)
CURVE = ec.generate_private_key(ec.SECP256R1())


def described(private: Any, kid: str, algorithm: str = "RS256", **more: Any) -> dict[str, Any]:
    pem = private.public_key().public_bytes(Encoding.PEM, _spki())
    found = jwk.construct(pem.decode(), algorithm).to_dict()
    plain = {name: value.decode() if isinstance(value, bytes) else value for name, value in found.items()}
    plain.pop("alg")
    return {**plain, "kid": kid, "use": "sig", **more}


def _spki() -> Any:
    from cryptography.hazmat.primitives.serialization import PublicFormat

    return PublicFormat.SubjectPublicKeyInfo


def token(private: Any = FIRST, *, kid: str | None = "first", algorithm: str = "RS256", **changes: Any) -> bytes:
    now = time.time()
    payload = {"iss": ISSUER, "aud": "mfw", "sub": "alice", "iat": now, "nbf": now, "exp": now + 600, **changes}
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    headers = {} if kid is None else {"kid": kid}
    return jws.sign(payload, pem, headers=headers, algorithm=algorithm).encode()


class Issuer:
    """A web server of one loop: what it answers is what it was told last."""

    def __init__(self) -> None:
        self.keys: Any = [described(FIRST, "first")]
        self.status = 200
        self.headers: dict[str, str] = {}
        self.body: bytes | None = None
        self.delay = 0.0
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.port = 0
        self.tasks: set[asyncio.Task[Any]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request, and leave nothing open behind, whatever happens meanwhile."""
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        try:
            await self.answer(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            self.tasks.discard(task)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        path = head[0].split(" ")[1]
        self.asked.append((path, dict(line.lower().split(": ", 1) for line in head[1:] if line)))
        await asyncio.sleep(self.delay)
        if path.startswith("/.well-known"):
            body = json.dumps({"issuer": self.url, "jwks_uri": f"{self.url}/keys"}).encode()
        else:
            body = json.dumps({"keys": self.keys}).encode() if self.body is None else self.body
        lines = [f"HTTP/1.1 {self.status} X", f"content-length: {len(body)}", "connection: close"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        await writer.drain()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@asynccontextmanager
async def issuer() -> AsyncIterator[Issuer]:
    found = Issuer()
    server = await asyncio.start_server(found.serve, "127.0.0.1", 0)
    found.port = server.sockets[0].getsockname()[1]
    async with server:
        yield found
        for task in found.tasks:
            task.cancel()
        await asyncio.gather(*found.tasks, return_exceptions=True)


@pytest.fixture(autouse=True)
def _an_answer_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jwks, "TRY_SECONDS", 60.0)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def keys_of(issuer: Issuer, clock: Clock | None = None, **options: Any) -> JwksKeys:
    base: dict[str, Any] = {"algorithms": ["RS256"], "backoff_seconds": 0.001, "monotonic": clock or Clock()}
    return JwksKeys(http_jwks(url=f"{issuer.url}/keys"), **(base | options))


def edge(keys: JwksKeys) -> Authenticator:
    return Authenticator(
        api_keys=None,
        jwt=JwtVerifier(keys, issuer=ISSUER, audience="mfw"),
        failures=FailedAttempts(Limit(60_000, 1000)),
        metrics=Metrics(version="0"),
    )


async def ask(authenticator: Authenticator, credential: bytes) -> str:
    """Whom it speaks for, or the kind of the refusal."""
    try:
        principal = await authenticator.authenticate(
            [(b"authorization", b"Bearer " + credential)], client_ip="192.0.2.1"
        )
    except FirewallError as error:
        return error.kind.value
    return principal.id


async def test_tokens_are_verified_with_published_keys() -> None:
    async with issuer() as server:
        server.keys = [described(SECOND, "second"), described(FIRST, "first"), described(CURVE, "c", "ES256"), 1, {}]
        keys = keys_of(server, algorithms=["RS256", "ES256"])
        here = edge(keys)
        assert await ask(here, token()) == "alice"
        assert await ask(here, token(SECOND, kid="second")) == "alice"
        assert await ask(here, token(CURVE, kid="c", algorithm="ES256")) == "alice"
        assert await ask(here, token(SECOND, kid="first")) == "unauthenticated"
        # Without a key id every key of the algorithm is tried.
        assert await ask(here, token(SECOND, kid=None)) == "alice"
        assert [path for path, _ in server.asked] == ["/keys"]


async def test_many_at_once_fetch_once() -> None:
    async with issuer() as server:
        server.delay = 0.05
        here = edge(keys_of(server))
        answers = await asyncio.gather(*(ask(here, token(jti=str(number))) for number in range(20)))
        assert answers == ["alice"] * 20
        assert len(server.asked) == 1


async def test_a_key_that_is_not_known_is_looked_for_once_a_minute() -> None:
    clock = Clock()
    async with issuer() as server:
        keys = keys_of(server, clock)
        here = edge(keys)
        await ask(here, token())
        server.keys = [described(FIRST, "first"), described(SECOND, "second")]
        assert await ask(here, token(SECOND, kid="second")) == "alice"
        assert len(server.asked) == 2
        for number in range(10):
            assert await ask(here, token(SECOND, kid=f"made-up-{number}")) == "unauthenticated"
        assert len(server.asked) == 2
        clock.now += jwks.UNKNOWN_SECONDS
        await ask(here, token(SECOND, kid="made-up"))
        assert len(server.asked) == 3


async def test_a_key_that_is_withdrawn_ends_the_tokens_that_were_verified_with_it() -> None:
    async with issuer() as server:
        keys = keys_of(server)
        here, old = edge(keys), token()
        assert await ask(here, old) == "alice"
        server.keys = [described(SECOND, "second")]
        await keys.refresh()
        assert await ask(here, old) == "unauthenticated"
        # The same id with another key is another key.
        server.keys = [described(FIRST, "second")]
        newer = token(SECOND, kid="second")
        assert await ask(here, newer) == "alice"
        await keys.refresh()
        assert await ask(here, newer) == "unauthenticated"


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, b"{}"),
        (302, b""),
        (200, b"no json"),
        (200, b"[]"),
        (200, b"{}"),
        (200, b'{"keys": []}'),
        (200, b'{"keys": [], "keys": []}'),
        (200, b'{"keys": ["' + b"x" * 300_000 + b'"]}'),
    ],
)
async def test_the_last_good_keys_hold_while_the_issuer_is_of_no_use(status: int, body: bytes) -> None:
    clock = Clock()
    told: list[bool] = []
    async with issuer() as server:
        keys = keys_of(server, clock, keep_seconds=3600, counted=told.append)
        here = edge(keys)
        assert await ask(here, token()) == "alice"
        server.status, server.body, server.headers = status, body, {"location": "/keys2"}
        assert not await keys.refresh()
        assert told == [True, False, False, False]
        clock.now += 3599
        assert (keys.fresh, keys.usable) == (False, True)
        assert await ask(here, token(jti="2")) == "alice"
        clock.now += 2
        assert await ask(here, token(jti="3")) == "unavailable"
        # Nor does a token that was verified before outlive its key.
        assert await ask(here, token(jti="2")) == "unavailable"
        server.status, server.body = 200, None
        clock.now += jwks.RECOVERY_SECONDS
        assert await ask(here, token(jti="4")) == "alice"


async def test_after_five_failures_nobody_waits() -> None:
    clock = Clock()
    async with issuer() as server:
        server.status = 503
        keys = keys_of(server, clock)
        for _ in range(4):
            with pytest.raises(FirewallError) as caught:
                await keys.look_again("first")
            assert caught.value.kind is Kind.UNAVAILABLE
        assert len(server.asked) == 5
        clock.now += jwks.RECOVERY_SECONDS
        server.status = 200
        assert await keys.look_again("first")


async def test_an_issuer_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jwks, "TRY_SECONDS", 0.1)
    tries: list[bool] = []
    async with issuer() as server:
        server.delay = 600
        # A try may be over before its question is there.
        assert not await keys_of(server, counted=tries.append).refresh()
        assert tries == [False] * jwks.TRIES


@pytest.mark.parametrize(
    ("header", "seconds"), [(None, 300), ("public, max-age=120", 120), ("max-age=1", 60), ("max-age=99999", 3600)]
)
async def test_keys_are_as_fresh_as_the_issuer_says_within_bounds(header: str | None, seconds: float) -> None:
    clock = Clock()
    async with issuer() as server:
        server.headers = {} if header is None else {"cache-control": header}
        keys = keys_of(server, clock)
        await keys.refresh()
        clock.now += seconds
        assert keys.fresh
        clock.now += 0.1
        assert not keys.fresh


async def test_they_are_fetched_ahead_of_their_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jwks, "FRESH_SECONDS_MIN", 0.01)
    monkeypatch.setattr(jwks, "FRESH_SECONDS", 0.01)
    slept: list[float] = []
    real = asyncio.sleep

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await real(0.01)

    async with issuer() as server:
        keys = keys_of(server)
        await keys.start()
        monkeypatch.setattr(asyncio, "sleep", sleep)
        while len(server.asked) < 3:
            await real(0.01)
        await keys.stop()
        assert 1.0 in slept


async def test_discovery_and_the_clusters_own_token(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("of-the-pod\n")
    async with issuer() as server:
        fetch = http_jwks(issuer=server.url, token_file=tmp_path / "token")
        assert len((await fetch()).keys) == 1
        assert [path for path, _ in server.asked] == ["/.well-known/openid-configuration", "/keys"]
        assert all(headers["authorization"] == "bearer of-the-pod" for _, headers in server.asked)
        # Else an API server answers 406.
        assert "application/jwk-set+json" in server.asked[-1][1]["accept"]
        with pytest.raises(jwks.FetchError, match="another issuer"):
            await http_jwks(issuer=f"{server.url}/")()


async def test_nobody_there_is_a_failure_to_fetch() -> None:
    with pytest.raises(jwks.FetchError):
        await http_jwks(url="http://127.0.0.1:9/keys")()


def test_a_ca_file_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ca").write_text("nonsense")
    for file in ("ca", "missing"):
        with pytest.raises(FirewallError) as caught:
            http_jwks(url="https://x", ca_file=tmp_path / file)
        assert caught.value.kind is Kind.INVALID_SETTINGS


@pytest.mark.parametrize("algorithms", [[], ["HS256"], ["RS256", "HS256"], ["none"]])
def test_secrets_are_never_fetched(algorithms: list[str]) -> None:
    with pytest.raises(FirewallError):
        JwksKeys(http_jwks(url="https://x"), algorithms=algorithms)


SMALL = rsa.generate_private_key(public_exponent=65537, key_size=1024)  # what a key set must not offer


@pytest.mark.parametrize(
    "wrong",
    [
        described(FIRST, "k", use="enc"),
        described(FIRST, "k", key_ops=["sign"]),
        described(FIRST, "k", key_ops="verify"),
        described(FIRST, "k", alg="RS512"),
        described(FIRST, "k", kty="oct"),
        described(FIRST, "k", n="!"),
        described(FIRST, "k") | {"kid": 7},
        described(CURVE, "k", "ES256"),
        described(SMALL, "k"),
        {"kty": "oct", "k": base64.urlsafe_b64encode(b"s" * 32).decode(), "kid": "k", "alg": "HS256"},
        {"kty": "RSA", "kid": "k"},
        {"kty": ["RSA"], "kid": "k"},
    ],
)
def test_what_is_no_key_for_us_is_left_out(wrong: dict[str, Any]) -> None:
    assert keys_of_jwk(wrong, ["RS256"]) == []


def test_a_key_that_names_no_algorithm_is_for_all_that_fit() -> None:
    plain = described(FIRST, "k")
    plain.pop("use")
    assert [key.algorithm for key in keys_of_jwk(plain, ["RS256", "PS384", "ES256"])] == ["PS384", "RS256"]
