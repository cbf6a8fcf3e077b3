"""Step 3 against a naive bucket with fractions, and its memory under attack."""

import re
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.principal import AuthMethod, Principal, PrincipalKind, Role
from app.core.quota import Limit, RouteClass, role_limit
from app.edge.limits import Allowance, RateLimits, TokenBuckets
from app.errors import FirewallError, Kind

SECOND = 1_000_000_000


class Clock:
    def __init__(self, now: int = 5 * SECOND) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now


class NaiveBucket:
    """A bucket as one would draw it: tokens that trickle in, as exact fractions."""

    def __init__(self, *, interval_ns: int, burst: int, now: int) -> None:
        self.interval, self.burst, self.tokens, self.at = interval_ns, burst, Fraction(burst), now

    def take(self, now: int) -> tuple[bool, int]:
        self.tokens = min(Fraction(self.burst), self.tokens + Fraction(now - self.at, self.interval))
        self.at = now
        if self.tokens < 1:
            return False, 0
        self.tokens -= 1
        return True, int(self.tokens)


@given(
    per_minute=st.integers(1, 5000),
    burst=st.integers(1, 60),
    steps=st.lists(st.tuples(st.integers(0, 2 * SECOND), st.sampled_from("abc")), max_size=150),
)
def test_it_does_what_a_naive_bucket_does(per_minute: int, burst: int, steps: list[tuple[int, str]]) -> None:
    clock = Clock()
    buckets = TokenBuckets(Limit(per_minute, burst), clock_ns=clock)
    naive: dict[str, NaiveBucket] = {}
    for wait, key in steps:
        clock.now += wait
        reference = naive.setdefault(
            key, NaiveBucket(interval_ns=60 * SECOND // per_minute, burst=burst, now=clock.now)
        )
        foretold = buckets.exhausted(key)
        allowed, remaining = reference.take(clock.now)
        allowance = buckets.take_now(key)
        assert (allowance.allowed, allowance.remaining) == (allowed, remaining)
        assert (foretold is None) == allowed
        if not allowed:
            assert foretold == allowance
            # The wait it names is enough, and a nanosecond less is not.
            clock.now += allowance.retry_after_ns - 1
            assert buckets.exhausted(key) is not None
            clock.now += 1
            assert buckets.exhausted(key) is None


def test_keys_do_not_share() -> None:
    buckets = TokenBuckets(Limit(60, 1), clock_ns=Clock())
    assert buckets.take_now("a").allowed
    assert not buckets.take_now("a").allowed
    assert buckets.take_now(("a",)).allowed
    assert buckets.take_now("b").allowed


def test_a_refusal_takes_nothing() -> None:
    clock = Clock()
    buckets = TokenBuckets(Limit(60, 1), clock_ns=clock)
    buckets.take_now("a")
    for _ in range(100):
        assert not buckets.take_now("a").allowed
    clock.now += SECOND
    assert buckets.take_now("a").allowed


def test_the_error_says_how_long_to_wait() -> None:
    clock = Clock()
    buckets = TokenBuckets(Limit(40, 1), clock_ns=clock)
    buckets.take_now("a").check()
    with pytest.raises(FirewallError) as caught:
        buckets.take_now("a").check()
    assert caught.value.kind is Kind.RATE_LIMITED
    assert caught.value.retry_after == 1.5


def test_the_header_fields_are_structured_fields_of_the_draft() -> None:
    clock = Clock()
    buckets = TokenBuckets(Limit(250, 50), clock_ns=clock)
    headers = dict(buckets.take_now("a").headers())
    # 50 requests in 12 seconds are 250 in a minute.
    assert headers == {b"ratelimit-policy": b'"default";q=50;w=12', b"ratelimit": b'"default";r=49;t=1'}
    last = [buckets.take_now("a") for _ in range(60)][-1]
    assert dict(last.headers())[b"ratelimit"] == b'"default";r=0;t=12'
    assert buckets.limit.policy == b'"default";q=50;w=12'
    item = re.compile(rb'"default"(;[a-z]+=\d+)+')
    assert all(item.fullmatch(value) for value in headers.values())


def test_idle_buckets_are_forgotten() -> None:
    clock = Clock()
    buckets = TokenBuckets(Limit(60, 2), clock_ns=clock)
    for number in range(1000):
        buckets.take_now(number)
    assert len(buckets) == 1000
    clock.now += 2 * SECOND
    buckets.take_now("x")
    clock.now += 2 * SECOND
    buckets.take_now("x")
    assert len(buckets) == 1


def test_nobody_can_push_out_a_bucket_in_use() -> None:
    clock = Clock()
    buckets = TokenBuckets(Limit(60, 1), max_buckets=10, clock_ns=clock)
    assert buckets.take_now("victim").allowed
    passed = 0
    for number in range(500):
        passed += buckets.take_now(f"attacker-{number}").allowed
        clock.now += 1_000_000
        assert not buckets.take_now("victim").allowed
    assert len(buckets) <= 11
    # Nine had a bucket of their own, all the others share one.
    assert passed == 10


def test_a_shared_bucket_serves_who_comes_too_late_for_an_own_one() -> None:
    clock = Clock()
    buckets = TokenBuckets(Limit(60, 1), max_buckets=1, clock_ns=clock)
    assert buckets.take_now("first").allowed
    assert buckets.take_now("second").allowed
    assert buckets.exhausted("third") is not None
    assert not buckets.take_now("third").allowed
    clock.now += 3 * SECOND
    assert buckets.take_now("third").allowed


@pytest.mark.parametrize("wrong", [{"limit": Limit(0, 1)}, {"limit": Limit(1, 0)}, {"max_buckets": 0}])
def test_a_limit_of_nothing_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(FirewallError) as caught:
        TokenBuckets(**wrong)
    assert caught.value.kind is Kind.INVALID_SETTINGS


def test_an_allowance_that_allows_raises_nothing() -> None:
    Allowance(allowed=True, remaining=1, full_after_ns=1, retry_after_ns=0, policy=b"").check()


def test_a_batch_takes_as_many_tokens_as_it_has_items() -> None:
    buckets = TokenBuckets(Limit(60, 10), clock_ns=Clock())
    assert buckets.take_now("a", 7).remaining == 3
    refused = buckets.take_now("a", 4)
    assert (refused.allowed, refused.remaining, refused.retry_after_ns) == (False, 3, SECOND)
    assert buckets.take_now("a", 3).allowed


@pytest.mark.parametrize(("replicas", "at_once"), [(1, 10), (3, 3), (7, 1), (50, 1)])
def test_a_share_is_a_part_of_the_limit(replicas: int, at_once: int) -> None:
    clock = Clock()
    buckets = TokenBuckets(Limit(60, 10), replicas=replicas, clock_ns=clock)
    assert [buckets.take_now("a").allowed for _ in range(12)].count(True) == at_once
    clock.now += replicas * SECOND
    assert [buckets.take_now("a").allowed for _ in range(3)] == [True, False, False]


def test_a_bucket_begins_with_what_is_known_of_it() -> None:
    buckets = TokenBuckets(Limit(60, 10), clock_ns=Clock())
    buckets.seed("a", 8 * SECOND)
    buckets.seed("a", 0)  # known already
    assert buckets.missing_ns("a") == 8 * SECOND
    assert [buckets.take_now("a").allowed for _ in range(3)] == [True, True, False]
    buckets.forget("a")
    assert (buckets.missing_ns("a"), buckets.take_now("a").remaining) == (None, 9)


def principal(*roles: Role, name: str = "a") -> Principal:
    return Principal(id=name, kind=PrincipalKind.SERVICE, roles=frozenset(roles), method=AuthMethod.API_KEY)


def limits(**options: Any) -> RateLimits:
    classes = {route: Limit(60, 2) for route in RouteClass}
    return RateLimits(classes, make=lambda _, limit: TokenBuckets(limit, clock_ns=Clock()), **options)


async def test_each_class_has_buckets_of_its_own() -> None:
    here, caller = limits(), principal(Role.AGENT)
    for _ in range(2):
        assert (await here.take(caller, RouteClass.READ)).allowed
    assert not (await here.take(caller, RouteClass.READ)).allowed
    assert (await here.take(caller, RouteClass.DECIDE)).allowed
    assert (await here.take(principal(Role.AGENT, name="b"), RouteClass.READ)).allowed


async def test_the_most_generous_limit_of_a_callers_roles_counts() -> None:
    here = limits(
        roles={
            (RouteClass.DECIDE, Role.AGENT): Limit(60, 3),
            (RouteClass.DECIDE, Role.OPERATOR): Limit(600, 5),
            (RouteClass.READ, Role.VIEWER): Limit(600, 50),
        }
    )
    for roles, burst in (((Role.AGENT, Role.OPERATOR), 5), ((Role.AGENT,), 3), ((Role.VIEWER,), 2)):
        allowance = await here.take(principal(*roles), RouteClass.DECIDE)
        assert allowance.remaining == burst - 1


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("agent:decide", "is not"),
        ("agent:decide=0/5", "is not"),
        ("boss:decide=10/5", "is no role"),
        ("admin:everything=10/5", "is no class"),
    ],
)
def test_a_limit_of_a_role_that_cannot_be_read_is_refused(text: str, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        role_limit(text)
