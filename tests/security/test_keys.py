"""Two callers, two questions, two buckets: never one key (OpenFGA: CVE-2024-56323, CVE-2026-33729, CVE-2026-41131, CVE-2026-48096).

Nor are two ids one because a database, or a cache, thinks little of case (CVE-2026-55170).
"""

import asyncio
import itertools
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jose import jwt

from app.core.api_key import SECRET_BYTES
from app.core.glob import compile_glob
from app.core.normalise import normalise
from app.core.principal import AuthMethod, Principal, PrincipalKind, Role, subject_patterns
from app.core.quota import Limit, RouteClass
from app.edge.authn import Authenticator, FailedAttempts, JwtVerifier, StaticKeys
from app.edge.limits import RateLimits, TokenBuckets
from app.edge.shared_limits import SharedBuckets, StoreLink
from app.errors import FirewallError, Kind
from app.ledger.once import claim
from app.observability.metrics import Metrics
from app.persistence.shared_buckets import Lease
from app.settings import LimitSettings
from app.surfaces.native.wire import mutation_from_wire

SECRET = "q3ZBv8nTyX1kLw7RfD5sGh2JmC9pKe4A"
# What joins and separates in the usual ways of building a key from two texts.
PARTS = st.text(alphabet='ab/:,|#"\\ \n{}[]\x1f', max_size=6)


async def test_replicas_that_count_for_themselves_leave_nothing_to_guess() -> None:
    """What a hundred of them let one address try in ten years, against the keys that there are."""
    per_minute = LimitSettings().failures_per_minute_per_ip
    now = 0
    failures = [
        FailedAttempts(Limit(per_minute, per_minute), clock_ns=lambda: now, sleep=lambda _: asyncio.sleep(0))
        for _ in range(3)
    ]
    tried = 0
    for minute in range(10):
        now = minute * 60_000_000_000
        for one in failures:
            while one.refusal("192.0.2.1", b"mfw_abcdefgh") is None:
                await one.count("192.0.2.1", b"mfw_abcdefgh")
                tried += 1
    # So many times the limit, and no more, whatever the address tries.
    assert tried == 10 * 3 * per_minute
    in_ten_years = 100 * per_minute * 60 * 24 * 365 * 10
    assert in_ten_years < 2**35
    assert SECRET_BYTES * 8 - 35 > 200
    # An HMAC secret has 32 bytes at least in production, and is guessed offline or not at all.


def principal(id_: str, *, method: AuthMethod = AuthMethod.API_KEY, roles: frozenset[Role] = frozenset()) -> Principal:
    return Principal(id=id_, kind=PrincipalKind.SERVICE, roles=roles, method=method)


def body(**changes: Any) -> dict[str, Any]:
    return {
        "subject": {"type": "agent", "id": "a", "properties": {}},
        "action": {"name": "update"},
        "resource": {"type": "t", "id": "r", "properties": {}},
        "change": {"after": {}},
        **changes,
    }


def digest(**changes: Any) -> str:
    return normalise(mutation_from_wire(body(**changes))).digest


@given(st.tuples(st.sampled_from(AuthMethod), PARTS), st.tuples(st.sampled_from(AuthMethod), PARTS))
def test_callers_have_one_identity_only_if_they_are_one(first, second):
    one, other = (principal(id_, method=method) for method, id_ in (first, second))
    assert (one.identity == other.identity) == (first == second)


@given(st.tuples(*[PARTS.filter(bool)] * 4), st.tuples(*[PARTS.filter(bool)] * 4))
def test_mutations_have_one_digest_only_if_they_are_one(first, second):
    def of(parts: tuple[str, ...]) -> str:
        return digest(subject={"type": parts[0], "id": parts[1]}, resource={"type": parts[2], "id": parts[3]})

    assert (of(first) == of(second)) == (first == second)


def test_text_that_moves_to_its_neighbour_is_another_mutation():
    found = [
        digest(subject={"type": "agent", "id": "ab"}),
        digest(subject={"type": "agenta", "id": "b"}),
        digest(subject={"type": "agent", "id": "a", "properties": {"b": ""}}),
        digest(subject={"type": "agent", "id": "a"}, context={"b": ""}),
        digest(subject={"type": "agent", "id": "a"}, action={"name": "update", "properties": {"b": ""}}),
        digest(subject={"type": "agent", "id": "a"}, change={"after": {"b": ""}}),
        digest(subject={"type": "agent", "id": "a"}, change={"before": {"b": ""}, "after": {}}),
    ]
    assert len(set(found)) == len(found)


def test_a_bucket_is_of_one_caller_and_one_class():
    limits = RateLimits(
        # None comes back within a minute.
        {route: Limit(per_minute=1, burst=1) for route in RouteClass},
        make=lambda _, limit: TokenBuckets(limit),
    )
    callers = [principal("bot"), principal("Bot"), principal("bot", method=AuthMethod.JWT), principal('bot","x')]
    for caller, route in itertools.product(callers, RouteClass):
        first, second = limits.take_now(caller, route), limits.take_now(caller, route)
        assert first is not None
        assert second is not None
        assert (first.allowed, second.allowed) == (True, False)


def failures() -> FailedAttempts:
    """Nobody waits here."""

    async def sleep(_seconds: float) -> None:
        pass

    return FailedAttempts(Limit(), sleep=sleep)


def test_an_idempotency_key_is_of_one_caller_and_one_route():
    callers = [principal("bot"), principal("Bot"), principal("bot", method=AuthMethod.JWT), principal('bot","k')]
    found = {claim(caller, key, route="decide", body=b"{}").id for caller in callers for key in ("k", 'k","k', "K")}
    assert len(found) == 3 * len(callers)
    bodies = [("decide", b"{}"), ("batch", b"{}"), ("decide", b"{} "), ("decid", b"e\x00{}"), ('decide"', b"\x00{}")]
    prints = {claim(principal("bot"), "k", route=route, body=body).fingerprint for route, body in bodies}
    assert len(prints) == len(bodies)


class Store:
    """What Redis is asked for."""

    def __init__(self) -> None:
        self.keys: list[bytes] = []

    async def lease(self, key: bytes, *, interval_us: int, burst: int, wanted: int, needed: int, **_: int) -> Lease:
        self.keys.append(key)
        return Lease(wanted, 0)

    async def announce(self, replica: str) -> int:
        return 1

    async def close(self) -> None:
        pass


async def test_a_shared_bucket_is_of_one_caller_and_one_class():
    store = Store()
    link = StoreLink(store, replica="r", expected=1)
    await link.announce()
    ids = ["bot", "Bot", "decide:bot", 'bot","read', "bot\n", "*", "bot:bucket"]
    for route in RouteClass:
        buckets = SharedBuckets(Limit(), route=route, link=link)
        for id_ in ids:
            await buckets.take(principal(id_).identity)
    assert len(set(store.keys)) == len(ids) * len(RouteClass) == len(store.keys)
    # Nothing that a caller chooses can reach Redis as more than a digest.
    assert all(key.replace(b":", b"").isalnum() for key in store.keys)


async def test_a_remembered_token_is_that_token_and_no_other():
    """A cache that keyed by subject would give the second caller the first one's roles."""
    metrics = Metrics(version="test")
    verifier = JwtVerifier(
        StaticKeys(algorithms=["HS256"], secrets=[("", SECRET, float("inf"))]), issuer="https://idp", audience="mfw"
    )
    edge = Authenticator(api_keys=None, jwt=verifier, failures=failures(), metrics=metrics)
    now = int(time.time())
    common = {"iss": "https://idp", "aud": "mfw", "sub": "bot", "iat": now, "nbf": now, "exp": now + 60, "jti": "1"}

    async def roles(*names: str, sub: str = "bot") -> tuple[str, frozenset[Role]]:
        token = jwt.encode({**common, "sub": sub, "roles": list(names)}, SECRET, algorithm="HS256")
        found = await edge.authenticate([(b"authorization", f"Bearer {token}".encode())], client_ip="192.0.2.1")
        return found.id, found.roles

    for _ in range(2):
        assert await roles("admin") == ("bot", frozenset({Role.ADMIN}))
        assert await roles("agent") == ("bot", frozenset({Role.AGENT}))
        assert await roles("agent", sub="Bot") == ("Bot", frozenset({Role.AGENT}))


async def test_a_token_for_somebody_else_is_refused_whatever_it_says():
    """The audience is checked, whoever signed it (CVE-2026-55689)."""
    verifier = JwtVerifier(
        StaticKeys(algorithms=["HS256"], secrets=[("", SECRET, float("inf"))]), issuer="https://idp", audience="mfw"
    )
    edge = Authenticator(api_keys=None, jwt=verifier, failures=failures(), metrics=Metrics(version="test"))
    now = int(time.time())
    common = {"iss": "https://idp", "sub": "bot", "iat": now, "nbf": now, "exp": now + 60, "roles": ["admin"]}
    others: list[dict[str, Any]] = [
        {},
        {"aud": None},
        {"aud": ""},
        {"aud": []},
        {"aud": "MFW"},
        {"aud": "mfw2"},
        {"aud": ["other"]},
        {"aud": {"mfw": True}},
        {"azp": "mfw"},
        {"client_id": "mfw", "aud": "other"},
    ]
    for other in others:
        token = jwt.encode(common | other, SECRET, algorithm="HS256")
        with pytest.raises(FirewallError) as caught:
            await edge.authenticate([(b"authorization", f"Bearer {token}".encode())], client_ip="192.0.2.1")
        assert caught.value.kind is Kind.UNAUTHENTICATED, other


@pytest.mark.parametrize("other", ["Prod-DB", "PROD-DB", "prod-db ", "prod-dḃ", "prod\u2010db", "ｐrod-db"])
def test_ids_that_look_alike_are_two(other):
    assert not compile_glob("prod-db").matches(other)
    assert digest(resource={"type": "t", "id": "prod-db"}) != digest(resource={"type": "t", "id": other})
    bound = subject_patterns(["agent:prod-db"])
    assert bound.permits({"type": "agent", "id": "prod-db"})
    assert not bound.permits({"type": "agent", "id": other})
    assert not bound.permits({"type": "Agent", "id": "prod-db"})
    assert principal("prod-db").identity != principal(other).identity
