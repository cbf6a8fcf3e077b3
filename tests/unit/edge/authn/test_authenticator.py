"""Step 2: who gets in, who does not, and that nobody learns why."""

import asyncio
import base64
import json
import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from math import inf
from typing import Any
from uuid import UUID, uuid4

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st
from jose import jwe, jws

from app.core.api_key import generate
from app.core.principal import (
    SCOPES_OF,
    AccessScope,
    AuthMethod,
    PrincipalKind,
    require_subject,
    roles_named,
)
from app.core.quota import Limit
from app.edge.authn import (
    MAX_KEYS_AGE_SECONDS,
    MAX_TOKEN_BYTES,
    ApiKeyRing,
    Authenticator,
    FailedAttempts,
    JwtVerifier,
    Principal,
    Role,
    StaticKeys,
    SubjectCondition,
    UnsafeAnonymousAuthenticator,
    require,
    role_rule,
)
from app.edge.authn.api_keys import WRITE_USES_SECONDS
from app.edge.authn.failures import DELAY_MAX_SECONDS, DELAYED_MAX, FREE_FAILURES, delay_after
from app.errors import FirewallError, Kind
from app.observability.metrics import Metrics

NOW = 1_800_000_000
ISSUER = "https://issuer.example"
AUDIENCE = "mutation-firewall"
SECRET = "0f" * 32
KEY = generate(b"\x01" * 32)
OTHER_KEY = generate(b"\x02" * 32)
EXPIRED_KEY = generate(b"\x03" * 32)


def pem(private: Any) -> str:
    text: bytes = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return text.decode()


def private_pem(private: Any) -> str:
    text: bytes = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return text.decode()


RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER_RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
P256 = ec.generate_private_key(ec.SECP256R1())
P384 = ec.generate_private_key(ec.SECP384R1())


def claims(**changes: Any) -> dict[str, Any]:
    base = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "alice",
        "iat": NOW - 5,
        "nbf": NOW - 5,
        "exp": NOW + 300,
        "roles": ["agent", "offline_access"],
    }
    return {name: value for name, value in (base | changes).items() if value is not ...}


def sign(payload: Any, key: Any = RSA, *, algorithm: str = "RS256", **header: Any) -> str:
    key = key if isinstance(key, str) else private_pem(key)
    return jws.sign(payload, key, headers=header, algorithm=algorithm)


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@dataclass
class Clock:
    """Wall clock and monotonic clock at once."""

    now: float = NOW

    def __call__(self) -> float:
        return self.now


@dataclass
class Record:
    hash: bytes
    principal_id: str = "ci"
    roles: Collection[str] = ("agent",)
    expires_at: datetime | None = None
    scopes: Collection[str] = ()
    subjects: Collection[str] = ()
    networks: Collection[str] = ()
    id: UUID = field(default_factory=uuid4)


class Store:
    """The table of keys: counts how often it is asked, fails on demand, waits if told to."""

    def __init__(self, *keys: str) -> None:
        self.records = [Record(sha256(key.encode()).digest()) for key in keys]
        self.asked = 0
        self.error: Exception | None = None
        self.gate: asyncio.Event | None = None

    async def load(self) -> Iterable[Record]:
        self.asked += 1
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None:
            raise self.error
        return list(self.records)


def verifier(**changes: Any) -> JwtVerifier:
    base: dict[str, Any] = {"algorithms": ["RS256"], "public_keys": {"": pem(RSA)}, "secret": None}
    options = base | changes
    secret = options.pop("secret")
    given = {name: options.pop(name) for name in ("algorithms", "public_keys")}
    keys = StaticKeys(**given, secrets=options.pop("secrets", [] if secret is None else [("", secret, inf)]))
    return JwtVerifier(keys, issuer=ISSUER, audience=AUDIENCE, **options)


class Edge:
    """An authenticator with everything around it within reach."""

    def __init__(self, store: Store | None = None, jwt: JwtVerifier | None = None, **options: Any) -> None:
        self.clock = Clock()
        self.store = store or Store(KEY)
        self.ring = ApiKeyRing(self.store.load, monotonic=self.clock, clock=self.clock)
        self.metrics = options.pop("metrics", None) or Metrics(version="0")
        self.slept: list[float] = []
        self.failures = FailedAttempts(
            Limit(60, 5), clock_ns=lambda: int(self.clock.now * 1e9), sleep=options.pop("sleep", self._sleep)
        )
        self.authenticator = Authenticator(
            api_keys=options.pop("api_keys", self.ring),
            jwt=jwt,
            failures=self.failures,
            metrics=self.metrics,
            clock=self.clock,
            **options,
        )

    async def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)

    async def ask(self, *headers: tuple[bytes, bytes], client_ip: str = "192.0.2.1") -> Principal:
        return await self.authenticator.authenticate(headers, client_ip=client_ip)

    async def bearer(self, credential: str, **options: Any) -> Principal:
        return await self.ask((b"authorization", b"Bearer " + credential.encode("latin-1")), **options)

    async def outcome(self, credential: str) -> Principal | FirewallError:
        try:
            return await self.bearer(credential)
        except FirewallError as error:
            return error

    async def refused(self, *headers: tuple[bytes, bytes], client_ip: str = "192.0.2.1") -> FirewallError:
        with pytest.raises(FirewallError) as caught:
            await self.ask(*headers, client_ip=client_ip)
        return caught.value

    async def refused_bearer(self, credential: str, **options: Any) -> FirewallError:
        return await self.refused((b"authorization", b"Bearer " + credential.encode("latin-1")), **options)

    def attempts(self, method: str, result: str) -> float:
        value = self.metrics.registry.get_sample_value("mfw_auth_attempts_total", {"method": method, "result": result})
        assert value is not None
        return value


# -- where the credential stands ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header",
    [
        (b"authorization", f"Bearer {KEY}".encode()),
        (b"authorization", f"bearer  {KEY} ".encode()),
        (b"x-api-key", KEY.encode()),
        (b"x-api-key", f" {KEY} ".encode()),
    ],
)
async def test_a_key_is_taken_from_either_header(header: tuple[bytes, bytes]) -> None:
    edge = Edge()
    await edge.ring.refresh()
    principal = await edge.ask((b"host", b"h"), header)
    assert (principal.id, principal.method, principal.kind) == ("ci", "api_key", "service")
    assert principal.roles == {Role.AGENT}
    assert edge.attempts("api_key", "success") == 1


@pytest.mark.parametrize(
    "headers",
    [
        (),
        ((b"authorization", b""),),
        ((b"authorization", b"Bearer"),),
        ((b"authorization", b"Bearer   "),),
        ((b"authorization", f"Basic {KEY}".encode()),),
        ((b"authorization", KEY.encode()),),
        ((b"x-api-key", b""),),
        ((b"x-api-key", b"abc"),),
    ],
)
async def test_without_a_credential_nobody_gets_in_and_nobody_is_blamed(headers: Any) -> None:
    edge = Edge()
    for _ in range(20):
        assert (await edge.refused(*headers)).kind is Kind.UNAUTHENTICATED
    assert edge.attempts("none", "failure") == 20
    assert edge.failures.refusal("192.0.2.1", b"") is None


async def test_a_token_does_not_pass_as_an_api_key_header() -> None:
    assert (await Edge(jwt=verifier()).refused((b"x-api-key", sign(claims()).encode()))).kind is Kind.UNAUTHENTICATED


@pytest.mark.parametrize(
    "headers",
    [
        ((b"authorization", f"Bearer {KEY}".encode()), (b"x-api-key", KEY.encode())),
        ((b"authorization", f"Bearer {KEY}".encode()), (b"authorization", f"Bearer {KEY}".encode())),
        ((b"x-api-key", KEY.encode()), (b"x-api-key", KEY.encode())),
    ],
)
async def test_two_credentials_are_refused_as_malformed(headers: Any) -> None:
    assert (await Edge().refused(*headers)).kind is Kind.MALFORMED


# -- api keys ----------------------------------------------------------------------------------------------------------


async def test_unknown_keys_ask_the_store_once_a_second_at_most() -> None:
    edge = Edge(Store())
    for number in range(5):
        assert (await edge.refused_bearer(generate(bytes([number]) * 32))).kind is Kind.UNAUTHENTICATED
    assert edge.store.asked == 1
    edge.clock.now += 1
    await edge.refused_bearer(KEY)
    assert edge.store.asked == 2


async def test_a_key_without_its_checksum_never_reaches_the_store() -> None:
    edge = Edge(Store())
    for wrong in ("mfw_x", "mfw_" + "a" * 49, KEY[:-1], KEY + "0", "mfw_" + "\xff" * 49):
        assert (await edge.refused_bearer(wrong)).kind is Kind.UNAUTHENTICATED
    assert edge.store.asked == 0


async def test_a_new_key_works_at_once_and_a_revoked_one_after_the_next_load() -> None:
    edge = Edge(Store())
    await edge.ring.refresh()
    edge.store.records.append(Record(sha256(KEY.encode()).digest()))
    edge.clock.now += 1
    assert (await edge.bearer(KEY)).id == "ci"
    edge.store.records.clear()
    await edge.ring.refresh()
    assert (await edge.refused_bearer(KEY)).kind is Kind.UNAUTHENTICATED


async def test_an_expired_key_says_so() -> None:
    edge = Edge(Store(KEY))
    edge.store.records[0].expires_at = datetime.fromtimestamp(NOW + 10, UTC)
    assert (await edge.bearer(KEY)).id == "ci"
    edge.clock.now += 10
    for _ in range(20):
        error = await edge.refused_bearer(KEY)
        assert (error.kind, error.detail) == (Kind.TOKEN_EXPIRED, "api key expired")
    assert edge.attempts("api_key", "expired") == 20


async def test_unknown_roles_give_nothing() -> None:
    edge = Edge(Store(KEY))
    edge.store.records[0].roles = ["agent", "root", "ADMIN"]
    assert (await edge.bearer(KEY)).roles == {Role.AGENT}


async def test_keys_that_cannot_be_loaded_are_unavailable_not_wrong() -> None:
    edge = Edge(Store(KEY))
    edge.store.error = ConnectionError("no")
    error = await edge.refused_bearer(KEY)
    assert (error.kind, error.retry_after) == (Kind.UNAVAILABLE, 1.0)
    assert edge.attempts("api_key", "unavailable") == 1


async def test_keys_in_memory_hold_while_the_store_is_away_and_then_no_longer() -> None:
    edge = Edge(Store(KEY))
    await edge.ring.refresh()
    edge.store.error = ConnectionError("no")
    edge.clock.now += MAX_KEYS_AGE_SECONDS
    assert (await edge.bearer(KEY)).id == "ci"
    # An unknown key may have been made meanwhile: that cannot be known.
    assert (await edge.refused_bearer(OTHER_KEY)).kind is Kind.UNAVAILABLE
    edge.clock.now += 1
    assert not edge.ring.usable
    assert (await edge.refused_bearer(KEY)).kind is Kind.UNAVAILABLE
    edge.store.error = None
    edge.clock.now += 1
    assert (await edge.bearer(KEY)).id == "ci"


async def test_the_age_of_keys_counts_from_the_question() -> None:
    """What was revoked while the answer was on its way is not in it."""
    edge = Edge(Store(KEY))
    edge.store.gate = asyncio.Event()
    loading = asyncio.create_task(edge.ring.refresh())
    while edge.store.asked < 1:
        await asyncio.sleep(0)
    edge.clock.now += MAX_KEYS_AGE_SECONDS
    edge.store.gate.set()
    await loading
    assert edge.ring.usable
    edge.clock.now += 1
    assert not edge.ring.usable


async def test_who_comes_while_keys_are_loaded_waits_for_that_load() -> None:
    edge = Edge(Store(KEY))
    edge.store.gate = asyncio.Event()
    asking = [asyncio.create_task(edge.bearer(KEY)) for _ in range(10)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    edge.clock.now += 5
    edge.store.gate.set()
    assert {principal.id for principal in await asyncio.gather(*asking)} == {"ci"}
    assert edge.store.asked == 1


async def test_a_load_that_is_cancelled_is_no_answer() -> None:
    edge = Edge(Store())
    await edge.ring.refresh()
    edge.store.records.append(Record(sha256(KEY.encode()).digest()))
    edge.clock.now += 1
    edge.store.gate = asyncio.Event()
    first, second = (asyncio.create_task(edge.outcome(KEY)) for _ in range(2))
    while edge.store.asked < 2:
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    first.cancel()
    outcome = await second
    assert isinstance(outcome, FirewallError)
    assert outcome.kind is Kind.UNAVAILABLE
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_the_ring_loads_at_its_start_again_and_again_and_stops() -> None:
    store = Store(KEY)
    ring = ApiKeyRing(store.load, refresh_seconds=0)
    await ring.start()
    assert len(ring) == 1
    while store.asked < 3:
        await asyncio.sleep(0)
    await ring.stop()
    await ring.stop()
    asked = store.asked
    await asyncio.sleep(0)
    assert store.asked == asked


async def test_a_start_without_a_store_is_not_the_end() -> None:
    store = Store(KEY)
    store.error = ConnectionError("no")
    ring = ApiKeyRing(store.load)
    await ring.start()
    assert not ring.usable
    await ring.stop()


async def test_a_hash_that_only_shares_its_slot_does_not_match() -> None:
    edge = Edge(Store(KEY))
    await edge.ring.refresh()
    known = edge.ring._known[sha256(KEY.encode()).digest()]
    known.hash = b"\0" * 32
    assert (await edge.refused_bearer(KEY)).kind is Kind.UNAUTHENTICATED


async def test_keys_and_tokens_can_be_off() -> None:
    edge = Edge(api_keys=None)
    assert (await edge.refused_bearer(KEY)).kind is Kind.UNAUTHENTICATED
    assert (await edge.refused_bearer(sign(claims()))).kind is Kind.UNAUTHENTICATED


async def test_a_key_may_have_scopes_and_subjects() -> None:
    edge = Edge(Store(KEY))
    record = edge.store.records[0]
    record.roles, record.scopes, record.subjects = [], ["decide", "ops", "rule-the-world"], ["agent:deploy-*"]
    principal = await edge.bearer(KEY)
    assert principal.scopes == {AccessScope.DECIDE, AccessScope.OPS}
    assert principal.credential == str(record.id)
    require_subject(principal, {"type": "agent", "id": "deploy-7", "properties": {}})
    with pytest.raises(FirewallError, match="may not speak for"):
        require_subject(principal, {"type": "agent", "id": "other", "properties": {}})


async def test_a_key_from_elsewhere_is_no_key(caplog: pytest.LogCaptureFixture) -> None:
    edge = Edge(Store(KEY))
    record = edge.store.records[0]
    record.networks = ["192.0.2.0/28", "2001:db8::/32"]
    for _ in range(2):  # unknown yet, and known
        assert (await edge.bearer(KEY, client_ip="192.0.2.1")).id == "ci"
    assert (await edge.bearer(KEY, client_ip="2001:db8::7")).id == "ci"
    record.expires_at = datetime.fromtimestamp(NOW - 1, UTC)
    edge.store.records = [record]
    await edge.ring.refresh()
    with caplog.at_level(logging.WARNING):
        error = await edge.refused_bearer(KEY, client_ip="192.0.2.99")
    # Not even that it expired.
    assert (error.kind, error.detail) == (Kind.UNAUTHENTICATED, "a valid api key or token is needed")
    (logged,) = [getattr(entry, "fields", {}) for entry in caplog.records]
    assert logged["reason"] == f"api key {record.id} from outside its networks"
    assert logged["client"] == "192.0.2.99"
    assert (await edge.refused_bearer(KEY, client_ip="unknown")).kind is Kind.UNAUTHENTICATED


@pytest.mark.parametrize("changes", [{"subjects": ["nobody"]}, {"networks": ["10.0.0.1/8"]}])
async def test_a_key_whose_bounds_cannot_be_read_is_no_key(changes: Any, caplog: pytest.LogCaptureFixture) -> None:
    edge = Edge(Store(OTHER_KEY, KEY))
    for name, value in changes.items():
        setattr(edge.store.records[1], name, value)
    assert (await edge.refused_bearer(KEY)).kind is Kind.UNAUTHENTICATED
    assert (await edge.bearer(OTHER_KEY)).id == "ci"
    assert "api key not understood" in caplog.text


async def test_who_follows_is_not_content_with_a_load_that_began_before() -> None:
    edge = Edge(Store())
    edge.store.gate = asyncio.Event()
    before = asyncio.create_task(edge.ring.refresh())
    while edge.store.asked < 1:
        await asyncio.sleep(0)
    following = asyncio.create_task(edge.ring.follow())
    await asyncio.sleep(0)
    edge.store.gate.set()
    await before
    await following
    assert edge.store.asked == 2


async def test_the_same_keys_are_not_taken_in_again() -> None:
    edge = Edge(Store(KEY))
    same = edge.store.records
    ring = ApiKeyRing(lambda: _given(same), monotonic=edge.clock, clock=edge.clock)
    await ring.refresh()
    known = ring._known
    await ring.refresh()
    assert ring._known is known


async def _given(records: Iterable[Record]) -> Iterable[Record]:
    return records


class Uses:
    """What is told about uses."""

    def __init__(self) -> None:
        self.written: list[dict[UUID, datetime]] = []
        self.error: Exception | None = None

    async def write(self, uses: Mapping[UUID, datetime]) -> None:
        if self.error is not None:
            raise self.error
        self.written.append(dict(uses))


async def test_uses_are_written_in_a_batch_and_kept_while_they_cannot_be() -> None:
    clock, store, uses = Clock(), Store(KEY, OTHER_KEY), Uses()
    ring = ApiKeyRing(store.load, monotonic=clock, clock=clock, refresh_seconds=0, write_uses=uses.write)
    await ring.start()
    key, other = (record.id for record in store.records)
    moment = datetime.fromtimestamp(NOW, UTC)
    assert ring.find_known(KEY.encode(), client_ip="192.0.2.1") is not None
    uses.error = ConnectionError("no")
    clock.now += WRITE_USES_SECONDS
    asked = store.asked
    while store.asked < asked + 3:
        await asyncio.sleep(0)
    assert uses.written == []
    uses.error = None
    clock.now += WRITE_USES_SECONDS
    while not uses.written:
        await asyncio.sleep(0)
    assert uses.written == [{key: moment}]
    assert ring.find_known(OTHER_KEY.encode(), client_ip="192.0.2.1") is not None
    await ring.stop()
    assert uses.written[1:] == [{other: datetime.fromtimestamp(clock.now, UTC)}]


async def test_a_use_while_others_are_written_is_not_lost() -> None:
    clock, store, uses = Clock(), Store(KEY), Uses()

    async def write(seen: Mapping[UUID, datetime]) -> None:
        if not uses.written:
            clock.now += 1
            ring.find_known(KEY.encode(), client_ip="192.0.2.1")
        await uses.write(seen)

    ring = ApiKeyRing(store.load, monotonic=clock, clock=clock, write_uses=write)
    await ring.refresh()
    ring.find_known(KEY.encode(), client_ip="192.0.2.1")
    for _ in range(3):
        await ring._write()
    (record,) = store.records
    assert uses.written == [{record.id: datetime.fromtimestamp(at, UTC)} for at in (NOW, NOW + 1)]


# -- brute force -------------------------------------------------------------------------------------------------------


async def test_an_address_that_fails_too_often_is_slowed_before_work_is_done() -> None:
    edge = Edge(jwt=verifier())
    await edge.ring.refresh()
    for _ in range(5):
        assert (await edge.refused_bearer("a.b.c")).kind is Kind.UNAUTHENTICATED
    asked = edge.store.asked
    assert edge.slept == [0.1, 0.2]
    for guess in ("a.b.c", OTHER_KEY, sign(claims())):
        error = await edge.refused_bearer(guess)
        assert error.kind is Kind.RATE_LIMITED
        assert error.retry_after is not None
    assert edge.store.asked == asked
    assert edge.attempts("jwt", "limited") == 2
    rejections = edge.metrics.registry.get_sample_value("mfw_rate_limit_rejections_total", {"scope": "address"})
    assert rejections == 3
    # Somebody behind the same address whose key is known is not locked out, nor is another address.
    assert (await edge.bearer(KEY)).id == "ci"
    assert (await edge.bearer(sign(claims()), client_ip="192.0.2.2")).id == "alice"
    edge.clock.now += 1
    assert (await edge.bearer(sign(claims()))).id == "alice"


async def test_a_new_token_of_who_was_here_before_is_not_kept_out_by_a_neighbour() -> None:
    edge = Edge(jwt=verifier())
    assert (await edge.bearer(sign(claims()))).id == "alice"
    for _ in range(5):
        await edge.refused_bearer("a.b.c")
    assert (await edge.refused_bearer("a.b.c")).kind is Kind.RATE_LIMITED
    # Tokens end after minutes: the next one of hers is good at once, one of somebody unknown waits.
    assert (await edge.bearer(sign(claims(jti="2")))).id == "alice"
    assert (await edge.refused_bearer(sign(claims(sub="mallory")))).kind is Kind.RATE_LIMITED
    # Who only says that they are her is verified a few times, and then is not.
    forged = sign(claims(jti="3"))[:-4] + "AAAA"
    kinds = [(await edge.refused_bearer(forged)).kind for _ in range(6)]
    assert kinds == [Kind.UNAUTHENTICATED] * 5 + [Kind.RATE_LIMITED]
    assert (await edge.refused_bearer(sign(claims(jti="4")))).kind is Kind.RATE_LIMITED
    # At that address: elsewhere she is as welcome as ever, and so is what is known of her there.
    assert (await edge.bearer(sign(claims(jti="5")), client_ip="192.0.2.2")).id == "alice"
    assert (await edge.bearer(sign(claims(jti="2")))).id == "alice"


async def test_so_many_callers_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.edge.authn.authenticator.MAX_CALLERS", 2)
    edge = Edge(jwt=verifier())
    for name in ("alice", "bob", "carol", "bob"):
        await edge.bearer(sign(claims(sub=name, jti=name + str(len(edge.slept)))))
    for _ in range(5):
        await edge.refused_bearer("a.b.c")
    assert (await edge.refused_bearer(sign(claims(sub="alice", jti="new")))).kind is Kind.RATE_LIMITED
    assert (await edge.bearer(sign(claims(sub="bob", jti="new")))).id == "bob"
    for unreadable in ("a.b", "a.W10.c", "a.e30.c", "a." + "b" * 9000 + ".c", "a.eyJzdWIiOjF9.c"):
        assert (await edge.refused_bearer(unreadable)).kind is Kind.RATE_LIMITED


async def test_answers_come_later_and_later_up_to_a_bound() -> None:
    delays = [delay_after(failures) for failures in range(1, 400)]
    assert delays[: FREE_FAILURES + 3] == [0.0] * FREE_FAILURES + [0.1, 0.2, 0.4]
    assert delays == sorted(delays)
    assert delays[-1] == max(delays) == DELAY_MAX_SECONDS


async def test_guesses_at_the_rest_of_a_key_are_one_attack_from_wherever_they_come() -> None:
    edge = Edge(Store())
    for number in range(5):
        guess = KEY[:12] + generate(bytes([number]) * 32)[12:]
        assert (await edge.refused_bearer(guess, client_ip=f"192.0.2.{number}")).kind is Kind.UNAUTHENTICATED
    assert edge.slept == [0.1, 0.2]
    assert (await edge.refused_bearer(KEY[:-1] + "x", client_ip="198.51.100.1")).kind is Kind.RATE_LIMITED
    assert (await edge.refused_bearer(OTHER_KEY, client_ip="198.51.100.1")).kind is Kind.UNAUTHENTICATED
    # The owner of the key itself is not held up.
    edge.store.records.append(Record(sha256(KEY.encode()).digest()))
    await edge.ring.refresh()
    assert (await edge.bearer(KEY, client_ip="192.0.2.1")).id == "ci"


async def test_only_so_many_wait_and_who_comes_on_top_is_refused() -> None:
    gate = asyncio.Event()

    async def sleep(_seconds: float) -> None:
        await gate.wait()

    edge = Edge(jwt=verifier(), sleep=sleep)
    for number in range(DELAYED_MAX + 1):
        for _ in range(FREE_FAILURES):
            await edge.refused_bearer("a.b.c", client_ip=f"192.0.2.{number}")

    async def fail(number: int) -> Kind:
        return (await edge.refused_bearer("a.b.c", client_ip=f"192.0.2.{number}")).kind

    waiting = [asyncio.create_task(fail(number)) for number in range(DELAYED_MAX)]
    await asyncio.sleep(0)
    error = await edge.refused_bearer("a.b.c", client_ip=f"192.0.2.{DELAYED_MAX}")
    assert (error.kind, error.retry_after) == (Kind.RATE_LIMITED, DELAY_MAX_SECONDS)
    # Whoever is known does not wait, nor does who fails for the first time.
    await edge.ring.refresh()
    assert (await edge.bearer(KEY, client_ip="192.0.2.1")).id == "ci"
    assert (await edge.refused_bearer("a.b.c", client_ip="198.51.100.1")).kind is Kind.UNAUTHENTICATED
    # One who leaves makes room.
    waiting[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting[0]
    again = asyncio.create_task(fail(DELAYED_MAX))
    await asyncio.sleep(0)
    assert not again.done()
    gate.set()
    assert {await task for task in (*waiting[1:], again)} == {Kind.UNAUTHENTICATED}


async def test_an_ipv6_subscriber_is_one_address() -> None:
    edge = Edge()
    for last in range(5):
        await edge.refused_bearer("a.b.c", client_ip=f"2001:db8:1:2::{last}")
    assert (await edge.refused_bearer("a.b.c", client_ip="2001:db8:1:2:ffff::9%eth0")).kind is Kind.RATE_LIMITED
    assert (await edge.refused_bearer("a.b.c", client_ip="2001:db8:1:3::1")).kind is Kind.UNAUTHENTICATED
    for _ in range(5):
        await edge.refused_bearer("a.b.c", client_ip="::ffff:192.0.2.77")
    assert (await edge.refused_bearer("a.b.c", client_ip="192.0.2.77")).kind is Kind.RATE_LIMITED
    assert (await edge.refused_bearer("a.b.c", client_ip="not:an:address")).kind is Kind.UNAUTHENTICATED


async def test_a_failure_is_logged_with_its_reason_and_without_the_credential(
    caplog: pytest.LogCaptureFixture,
) -> None:
    edge = Edge(Store(), jwt=verifier())
    token = sign(claims(iss="https://elsewhere.example"))
    with caplog.at_level(logging.WARNING):
        await edge.refused_bearer(token)
        await edge.refused_bearer(KEY)
    reasons = [getattr(record, "fields", {})["reason"] for record in caplog.records]
    assert reasons == ["other issuer", "unknown api key"]
    assert KEY not in repr([record.__dict__ for record in caplog.records])
    assert token not in repr([record.__dict__ for record in caplog.records])


# -- tokens ------------------------------------------------------------------------------------------------------------


async def test_a_good_token_gives_a_principal() -> None:
    principal = await Edge(jwt=verifier()).bearer(sign(claims()))
    assert (principal.id, principal.method, principal.kind) == ("alice", "jwt", "user")
    assert principal.roles == {Role.AGENT}


@pytest.mark.parametrize(
    ("algorithm", "key", "options"),
    [
        ("RS512", RSA, {"public_keys": {"": pem(RSA)}}),
        ("ES256", P256, {"public_keys": {"": pem(P256)}}),
        ("ES384", P384, {"public_keys": {"": pem(P384)}}),
        ("HS256", SECRET, {"public_keys": {}, "secret": SECRET}),
    ],
)
async def test_every_family_of_algorithms_works(algorithm: str, key: Any, options: Any) -> None:
    edge = Edge(jwt=verifier(algorithms=[algorithm], **options))
    assert (await edge.bearer(sign(claims(), key, algorithm=algorithm))).id == "alice"


async def test_the_key_id_selects_the_key() -> None:
    edge = Edge(jwt=verifier(public_keys={"a": pem(RSA), "b": pem(OTHER_RSA)}))
    assert (await edge.bearer(sign(claims(), RSA, kid="a"))).id == "alice"
    assert (await edge.bearer(sign(claims(), OTHER_RSA, kid="b"))).id == "alice"
    for token in (
        sign(claims(), RSA, kid="b"),
        sign(claims(), RSA, kid="c"),
        sign(claims(), RSA, kid=7),
        sign(claims(), P256, algorithm="ES256"),
    ):
        assert (await edge.refused_bearer(token, client_ip=token[-9:])).kind is Kind.UNAUTHENTICATED
    # Without one, every key of the algorithm is tried.
    assert (await edge.bearer(sign(claims(), OTHER_RSA))).id == "alice"


async def test_a_key_without_an_id_fits_tokens_with_one() -> None:
    assert (await Edge(jwt=verifier()).bearer(sign(claims(), kid="2026-01"))).id == "alice"


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": ...},
        {"iss": "https://elsewhere.example"},
        {"iss": [ISSUER]},
        {"aud": ...},
        {"aud": "other"},
        {"aud": ["other"]},
        {"aud": {AUDIENCE: 1}},
        {"sub": ...},
        {"sub": ""},
        {"sub": 7},
        {"sub": "x" * 256},
        {"exp": ...},
        {"exp": None},
        {"exp": True},
        {"exp": str(NOW + 300)},
        {"exp": [NOW]},
        {"nbf": ...},
        {"nbf": NOW + 11},
        {"iat": ...},
        {"iat": NOW + 11},
        {"roles": {"agent": True}},
        {"roles": 7},
    ],
)
async def test_a_claim_that_is_missing_or_wrong_refuses_the_token(changes: dict[str, Any]) -> None:
    error = await Edge(jwt=verifier()).refused_bearer(sign(claims(**changes)))
    assert (error.kind, error.detail) == (Kind.UNAUTHENTICATED, "a valid api key or token is needed")


@pytest.mark.parametrize(
    "changes",
    [
        {"aud": ["other", AUDIENCE]},
        {"nbf": NOW + 10, "iat": NOW + 10},
        {"exp": NOW - 9},
        {"exp": NOW + 0.5},
        {"roles": "agent viewer"},
        {"roles": ...},
        {"roles": [1, None, "agent"]},
    ],
)
async def test_what_the_rfc_and_the_leeway_allow_is_allowed(changes: dict[str, Any]) -> None:
    assert (await Edge(jwt=verifier()).bearer(sign(claims(**changes)))).id == "alice"


async def test_roles_come_from_the_claim_that_is_configured() -> None:
    edge = Edge(jwt=verifier(roles_claim="https://mfw.example/roles"))
    token = sign(claims(**{"https://mfw.example/roles": ["viewer"]}))
    assert (await edge.bearer(token)).roles == {Role.VIEWER}


async def test_an_expired_token_says_so_and_is_no_failure() -> None:
    edge = Edge(jwt=verifier())
    for _ in range(20):
        error = await edge.refused_bearer(sign(claims(exp=NOW - 10)))
        assert (error.kind, error.detail) == (Kind.TOKEN_EXPIRED, "token expired")
    assert edge.attempts("jwt", "expired") == 20


async def test_a_forged_expired_token_does_not_learn_that() -> None:
    error = await Edge(jwt=verifier()).refused_bearer(sign(claims(exp=NOW - 10), OTHER_RSA))
    assert error.kind is Kind.UNAUTHENTICATED


# -- attacks on tokens -------------------------------------------------------------------------------------------------


def forged(header: dict[str, Any], payload: dict[str, Any], signature: bytes = b"") -> str:
    return ".".join([b64(json.dumps(header).encode()), b64(json.dumps(payload).encode()), b64(signature) or "AA"])


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "", "HS256", "RS384", "PS256", None, 7, ["RS256"], {}])
async def test_an_algorithm_that_is_not_pinned_is_refused(algorithm: Any) -> None:
    token = forged({"alg": algorithm, "typ": "JWT"}, claims())
    assert (await Edge(jwt=verifier()).refused_bearer(token)).kind is Kind.UNAUTHENTICATED


@pytest.mark.parametrize("key", [RSA, P256])
async def test_a_public_key_never_serves_as_a_secret(key: Any) -> None:
    """CVE-2024-33663 and CVE-2015-9235: an HMAC over the public key, in every form in which it may be known."""
    import hashlib
    import hmac

    algorithm = "RS256" if key is RSA else "ES256"
    edge = Edge(jwt=verifier(algorithms=[algorithm], public_keys={"": pem(key)}))
    public = key.public_key()
    forms = [
        pem(key).encode(),
        pem(key).strip().encode(),
        public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH),
    ]
    for number, form in enumerate(forms):
        signing_input = forged({"alg": "HS256", "typ": "JWT"}, claims()).rpartition(".")[0]
        signature = hmac.new(form, signing_input.encode(), hashlib.sha256).digest()
        error = await edge.refused_bearer(f"{signing_input}.{b64(signature)}", client_ip=str(number))
        assert error.kind is Kind.UNAUTHENTICATED


@pytest.mark.parametrize(
    "secret",
    [
        pem(RSA),
        pem(P256),
        P256.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode(),
        RSA.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode(),
    ],
)
def test_a_public_key_is_refused_as_the_secret(secret: str) -> None:
    with pytest.raises(FirewallError) as caught:
        verifier(algorithms=["HS256"], public_keys={}, secret=secret)
    assert caught.value.kind is Kind.INVALID_SETTINGS


async def test_an_encrypted_token_is_never_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    """CVE-2024-33664: a JWE whose payload unfolds to gigabytes."""
    bomb = jwe.encrypt(b"\0" * 100_000, "a" * 32, algorithm="dir", encryption="A256GCM", zip="DEF").decode()
    assert bomb.count(".") == 4

    def opened(*_args: Any, **_options: Any) -> None:
        raise AssertionError("the token was opened")

    monkeypatch.setattr(jwe, "decrypt", opened)
    monkeypatch.setattr(jws, "verify", opened)
    assert (await Edge(jwt=verifier()).refused_bearer(bomb)).kind is Kind.UNAUTHENTICATED


@pytest.mark.parametrize(
    "header", [{"crit": ["exp"]}, {"crit": []}, {"typ": "logout+jwt"}, {"typ": None}, {"typ": ["JWT"]}]
)
async def test_headers_that_must_be_understood_and_other_kinds_of_token_are_refused(header: dict[str, Any]) -> None:
    token = sign(claims(), **header)
    assert (await Edge(jwt=verifier()).refused_bearer(token)).kind is Kind.UNAUTHENTICATED


@pytest.mark.parametrize("kind", ["JWT", "at+jwt", "application/at+JWT"])
async def test_access_tokens_by_any_of_their_names_are_taken(kind: str) -> None:
    assert (await Edge(jwt=verifier()).bearer(sign(claims(), typ=kind))).id == "alice"


@pytest.mark.parametrize(
    "payload",
    [
        b"[]",
        b"7",
        b"null",
        b"",
        b"{",
        b"\xff",
        b'{"sub": "a", "sub": "b"}',
        b'{"exp": NaN}',
        b'{"exp": 1e999}',
        b'{"exp": ' + b"9" * 5000 + b"}",
        b"[" * 4000,
    ],
)
async def test_a_signed_payload_that_is_no_object_is_refused(payload: bytes) -> None:
    token = jws.sign(payload, private_pem(RSA), algorithm="RS256")
    assert (await Edge(jwt=verifier()).refused_bearer(token)).kind is Kind.UNAUTHENTICATED


async def test_a_member_that_stands_twice_in_the_header_is_refused() -> None:
    good = sign(claims())
    _, body, signature = good.split(".")
    doubled = b64(b'{"alg":"none","alg":"RS256","typ":"JWT"}')
    assert (await Edge(jwt=verifier()).refused_bearer(f"{doubled}.{body}.{signature}")).kind is Kind.UNAUTHENTICATED


async def test_a_token_longer_than_the_limit_is_refused_however_genuine() -> None:
    edge = Edge(jwt=verifier())
    assert (await edge.bearer(sign(claims(padding="x" * (MAX_TOKEN_BYTES // 2))))).id == "alice"
    token = sign(claims(padding="x" * MAX_TOKEN_BYTES))
    assert (await edge.refused_bearer(token)).kind is Kind.UNAUTHENTICATED


TOKEN = sign(claims())
# Making metrics takes longer than an example of the fuzzing below.
SHARED = Metrics(version="0")
VERIFIERS = [
    verifier(),
    verifier(algorithms=["ES256"], public_keys={"": pem(P256)}),
    verifier(algorithms=["HS256"], public_keys={}, secret=SECRET),
]


async def never_lets_in(token: bytes, jwt: JwtVerifier) -> None:
    edge = Edge(Store(), jwt=jwt, metrics=SHARED)
    with pytest.raises(FirewallError) as caught:
        await edge.ask((b"authorization", b"Bearer " + token))
    assert caught.value.kind is Kind.UNAUTHENTICATED


@given(token=st.binary(max_size=300), jwt=st.sampled_from(VERIFIERS))
async def test_arbitrary_bytes_are_refused(token: bytes, jwt: JwtVerifier) -> None:
    await never_lets_in(token, jwt)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
NAMES = st.sampled_from(["alg", "typ", "kid", "crit", "b64", "jwk", "jku", "x5c", "zip", "enc"])


@given(
    header=st.dictionaries(NAMES, JSON | st.sampled_from(["RS256", "ES256", "HS256", "none", "JWT"]), max_size=5),
    payload=JSON,
    signature=st.binary(max_size=80),
    jwt=st.sampled_from(VERIFIERS),
)
async def test_arbitrary_headers_claims_and_signatures_are_refused(
    header: dict[str, Any], payload: Any, signature: bytes, jwt: JwtVerifier
) -> None:
    parts = [json.dumps(header).encode(), json.dumps(payload).encode(), signature]
    await never_lets_in(".".join(map(b64, parts)).encode(), jwt)


@settings(max_examples=60)
@given(changes=st.dictionaries(st.sampled_from(["iss", "aud", "sub", "exp", "nbf", "iat", "roles"]), JSON, min_size=1))
async def test_arbitrary_claims_under_a_good_signature_never_break_it(changes: dict[str, Any]) -> None:
    payload = json.dumps(claims(**changes)).encode()
    token = jws.sign(payload, SECRET, algorithm="HS256")
    edge = Edge(Store(), jwt=VERIFIERS[2], metrics=SHARED)
    outcome = await edge.outcome(token)
    if isinstance(outcome, FirewallError):
        assert outcome.kind in {Kind.UNAUTHENTICATED, Kind.TOKEN_EXPIRED}
    else:
        assert 0 < len(outcome.id) <= 255


@given(position=st.integers(0, len(TOKEN) - 1), replacement=st.sampled_from("AZaz09-_.=+/ \n\0"))
async def test_one_changed_character_is_refused(position: int, replacement: str) -> None:
    changed = TOKEN[:position] + replacement + TOKEN[position + 1 :]
    edge = Edge(Store(), jwt=VERIFIERS[0], metrics=SHARED)
    signature = TOKEN.rpartition(".")[2]

    def value(text: str) -> bytes:
        return base64.urlsafe_b64decode(text + "==")

    outcome = await edge.outcome(changed)
    if isinstance(outcome, FirewallError):
        assert outcome.kind is Kind.UNAUTHENTICATED
    else:
        # The last character of base64 has bits to spare; white space around a header's value is not part of it.
        assert changed == TOKEN or position == len(TOKEN) - 1
        assert changed.strip() != changed or value(changed.rpartition(".")[2]) == value(signature)


# -- the cache of verified tokens --------------------------------------------------------------------------------------


async def test_a_token_is_verified_once(monkeypatch: pytest.MonkeyPatch) -> None:
    edge = Edge(jwt=verifier())
    first = await edge.bearer(TOKEN)
    monkeypatch.setattr(jws, "verify", None)
    assert await edge.bearer(TOKEN) is first
    assert edge.attempts("jwt", "success") == 2


async def test_a_cached_token_expires_on_time() -> None:
    edge = Edge(jwt=verifier())
    token = sign(claims(exp=NOW + 5))
    await edge.bearer(token)
    edge.clock.now = NOW + 14.9
    await edge.bearer(token)
    edge.clock.now = NOW + 15
    assert (await edge.refused_bearer(token)).kind is Kind.TOKEN_EXPIRED
    # It is gone from the cache, and its signature still does not make it younger.
    assert (await edge.refused_bearer(token)).kind is Kind.TOKEN_EXPIRED


async def test_other_keys_end_the_validity_of_cached_tokens() -> None:
    edge = Edge(jwt=verifier())
    await edge.bearer(TOKEN)
    edge.authenticator.replace_jwt(verifier(public_keys={"": pem(OTHER_RSA)}))
    assert (await edge.refused_bearer(TOKEN)).kind is Kind.UNAUTHENTICATED
    edge.authenticator.replace_jwt(None)
    assert (await edge.refused_bearer(TOKEN)).kind is Kind.UNAUTHENTICATED


async def test_the_cache_is_bounded_and_the_oldest_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    edge = Edge(jwt=verifier(), max_cached_tokens=2)
    tokens = [sign(claims(jti=str(number))) for number in range(3)]
    for token in tokens:
        await edge.bearer(token)
    monkeypatch.setattr(jws, "verify", None)
    for token in tokens[1:]:
        await edge.bearer(token)
    await edge.refused_bearer(tokens[0])


# -- several keys, roles and subjects ----------------------------------------------------------------------------------


async def test_the_previous_secret_is_good_until_its_end() -> None:
    old, new = "ab" * 32, "cd" * 32
    secrets = [("new", new, inf), ("old", old, NOW + 100)]
    edge = Edge(jwt=verifier(algorithms=["HS256"], public_keys={}, secrets=secrets))
    token = sign(claims(), old, algorithm="HS256", kid="old")
    unnamed = sign(claims(), old, algorithm="HS256")
    assert (await edge.bearer(token)).id == "alice"
    assert (await edge.bearer(unnamed)).id == "alice"
    assert (await edge.bearer(sign(claims(), new, algorithm="HS256", kid="new"))).id == "alice"
    # A name belongs to its key: the old secret under the name of the new one is a forgery.
    assert (await edge.refused_bearer(sign(claims(), old, algorithm="HS256", kid="new"))).kind is Kind.UNAUTHENTICATED
    edge.clock.now = NOW + 100
    for gone in (token, unnamed):
        await edge.refused_bearer(gone)
    assert (await edge.bearer(sign(claims(exp=NOW + 900), new, algorithm="HS256", kid="new"))).id == "alice"


@pytest.mark.parametrize("algorithm", ["PS256", "PS384", "PS512"])
async def test_probabilistic_signatures(algorithm: str) -> None:
    hashed = {"PS256": hashes.SHA256(), "PS384": hashes.SHA384(), "PS512": hashes.SHA512()}[algorithm]
    signed = ".".join(b64(json.dumps(part).encode()) for part in ({"alg": algorithm}, claims()))

    def signature(key: Any, salt: int) -> str:
        made: bytes = key.sign(signed.encode(), padding.PSS(padding.MGF1(hashed), salt), hashed)
        return b64(made)

    edge = Edge(jwt=verifier(algorithms=[algorithm]))
    assert (await edge.bearer(f"{signed}.{signature(RSA, hashed.digest_size)}")).id == "alice"
    await edge.refused_bearer(f"{signed}.{signature(OTHER_RSA, hashed.digest_size)}")
    await edge.refused_bearer(f"{signed}.{signature(RSA, 0)}")
    await edge.refused_bearer(f"{signed}.AAAA")


@pytest.mark.parametrize(
    ("changes", "roles"),
    [
        ({"groups": ["platform-admins"]}, {Role.ADMIN}),
        ({"groups": "x platform-admins"}, {Role.ADMIN}),
        ({"sub": "system:serviceaccount:agents:deployer"}, {Role.AGENT}),
        ({"sub": "system:serviceaccount:other:deployer"}, set()),
        ({"realm": {"roles": ["judge"]}, "groups": ["platform-admins"]}, {Role.APPROVER, Role.ADMIN}),
        ({"realm": ["judge"]}, set()),
        ({"groups": {"platform-admins": True}}, set()),
        ({"groups": [["platform-admins"], 1, None]}, set()),
    ],
)
async def test_roles_by_rules(changes: dict[str, Any], roles: set[Role]) -> None:
    rules = (
        "admin=groups=platform-admins",
        "agent=sub=system:serviceaccount:agents:*",
        "approver=realm.roles=judge",
    )
    edge = Edge(jwt=verifier(role_rules=[role_rule(text) for text in rules]))
    assert (await edge.bearer(sign(claims(roles=..., **changes)))).roles == roles


@pytest.mark.parametrize("text", ["admin", "admin=x", "admin==x", "boss=groups=x", "admin=groups=", "admin=groups=**"])
def test_a_rule_for_roles_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        role_rule(text)


async def test_roles_in_a_nested_claim() -> None:
    edge = Edge(jwt=verifier(roles_claim="realm_access.roles"))
    token = sign(claims(roles=["admin"], realm_access={"roles": ["operator"]}))
    assert (await edge.bearer(token)).roles == {Role.OPERATOR}


SUBJECT = {"type": "agent", "id": "alice", "properties": {}}


@pytest.mark.parametrize(
    ("condition", "subject", "allowed"),
    [
        (None, SUBJECT | {"id": "bob"}, True),
        ("subject.id == context.claims.sub", SUBJECT, True),
        ("subject.id == context.claims.sub", SUBJECT | {"id": "bob"}, False),
        ("subject.id in context.claims.agents", SUBJECT, False),  # an error: the claim is not there
        ("subject.type == 'agent' && subject.id.startsWith(context.claims.sub)", SUBJECT | {"id": "alice-2"}, True),
    ],
)
async def test_a_token_speaks_for_the_subjects_that_its_claims_allow(
    condition: str | None, subject: dict[str, Any], allowed: bool
) -> None:
    edge = Edge(jwt=verifier(subjects=None if condition is None else SubjectCondition(condition)))
    principal = await edge.bearer(sign(claims()))
    if allowed:
        require_subject(principal, subject)
        return
    with pytest.raises(FirewallError) as caught:
        require_subject(principal, subject)
    assert (caught.value.kind, caught.value.pointer) == (Kind.FORBIDDEN, "/subject")


def test_a_subject_condition_that_does_not_compile_is_refused() -> None:
    with pytest.raises(FirewallError, match="1:1") as caught:
        SubjectCondition("claims.sub == subject.id")
    assert caught.value.kind is Kind.INVALID_SETTINGS


# -- settings ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"algorithms": []},
        {"algorithms": [], "public_keys": {}},
        {"algorithms": ["none"]},
        {"algorithms": ["EdDSA"]},
        {"algorithms": ["PS256"], "public_keys": {"": pem(P256)}},
        {"algorithms": ["RS256"], "public_keys": {}},
        {"algorithms": ["RS256"], "public_keys": None},
        {"algorithms": ["RS256", "ES256"]},
        {"algorithms": ["ES256"]},
        {"algorithms": ["RS256"], "public_keys": {"": pem(P256)}},
        {"algorithms": ["ES256"], "public_keys": {"": pem(P384)}},
        {"algorithms": ["ES256"], "public_keys": {"": pem(ec.generate_private_key(ec.SECP256K1()))}},
        {"algorithms": ["RS256"], "public_keys": {"": pem(ed25519.Ed25519PrivateKey.generate())}},
        {"algorithms": ["RS256"], "public_keys": {"a": pem(RSA), "b": pem(P256)}},
        {"algorithms": ["RS256"], "public_keys": {"": private_pem(RSA)}},
        {"algorithms": ["RS256"], "public_keys": {"": "nonsense"}},
        {"algorithms": ["RS256"], "public_keys": {"": "-----BEGIN PUBLIC KEY-----\nAA==\n-----END PUBLIC KEY-----"}},
        {"algorithms": ["HS256"], "public_keys": {}},
        {"algorithms": ["HS256"], "public_keys": {}, "secret": ""},
    ],
)
def test_keys_that_do_not_fit_the_algorithms_are_refused_at_the_start(options: dict[str, Any]) -> None:
    with pytest.raises(FirewallError) as caught:
        verifier(**options)
    assert caught.value.kind is Kind.INVALID_SETTINGS


async def test_authentication_that_is_off_warns_and_lets_everybody_in() -> None:
    with pytest.warns(RuntimeWarning, match="authentication is off"):
        authenticator = UnsafeAnonymousAuthenticator()
    principal = await authenticator.authenticate([], client_ip="192.0.2.1")
    assert principal.roles == set(Role)


async def test_a_scope_is_needed_by_name() -> None:
    principal = await Edge(jwt=verifier()).bearer(TOKEN)
    require(principal, AccessScope.DECIDE)
    with pytest.raises(FirewallError) as caught:
        require(principal, AccessScope.OPS)
    assert caught.value.kind is Kind.FORBIDDEN
    assert caught.value.detail == "scope `ops` is needed"
    assert "`operator` or `admin`" in str(caught.value.fix)


def test_no_role_has_every_scope_and_every_scope_has_a_role() -> None:
    assert set().union(*SCOPES_OF.values()) == set(AccessScope)
    assert all(scopes and scopes < set(AccessScope) for scopes in SCOPES_OF.values())
    # Who administers can neither ask nor vote by that alone, and who asks cannot look policies up.
    assert not SCOPES_OF[Role.ADMIN] & {AccessScope.DECIDE, AccessScope.APPROVE}
    assert SCOPES_OF[Role.AGENT] == {AccessScope.DECIDE}


def test_scopes_of_their_own_count_beside_those_of_roles() -> None:
    made = Principal(
        "a", PrincipalKind.SERVICE, frozenset({Role.VIEWER}), AuthMethod.API_KEY, frozenset({AccessScope.OPS})
    )
    assert made.scopes == SCOPES_OF[Role.VIEWER] | {AccessScope.OPS}
    assert json.loads(made.description)["scopes"] == ["ops"]


def test_names_of_roles_that_were_are_understood() -> None:
    assert roles_named(["requester", "auditor", "boss", None, 7]) == {Role.AGENT, Role.VIEWER}
