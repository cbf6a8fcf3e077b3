"""The breaker opens after five failures, lets one try through after its time, and closes on success."""

import pytest

from app.persistence.breaker import BreakerState, CircuitBreaker


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def breaker(clock):
    return CircuitBreaker(clock=clock, failures_to_open=5, recovery=10.0)


def test_it_stays_closed_below_the_threshold(breaker):
    for _ in range(4):
        breaker.failure()
    assert breaker.state is BreakerState.CLOSED
    assert breaker.allow()
    assert breaker.retry_after == 0.0


def test_a_success_forgets_earlier_failures(breaker):
    for _ in range(4):
        breaker.failure()
    breaker.success()
    breaker.failure()
    assert breaker.state is BreakerState.CLOSED


def test_it_opens_at_the_threshold_and_says_for_how_long(breaker, clock):
    for _ in range(5):
        breaker.failure()
    clock.now += 4.0
    assert breaker.state is BreakerState.OPEN
    assert not breaker.allow()
    assert breaker.retry_after == pytest.approx(6.0)


def test_half_open_lets_one_through_at_a_time(breaker, clock):
    for _ in range(5):
        breaker.failure()
    clock.now += 10.0
    assert breaker.state is BreakerState.HALF_OPEN
    assert breaker.retry_after == 0.0
    assert breaker.allow()
    assert not breaker.allow()


def test_a_failed_try_opens_again_for_the_whole_time(breaker, clock):
    for _ in range(5):
        breaker.failure()
    clock.now += 10.0
    assert breaker.allow()
    breaker.failure()
    assert breaker.state is BreakerState.OPEN
    assert breaker.retry_after == pytest.approx(10.0)
    clock.now += 10.0
    assert breaker.allow()


def test_a_good_try_closes(breaker, clock):
    for _ in range(5):
        breaker.failure()
    clock.now += 10.0
    assert breaker.allow()
    breaker.success()
    assert breaker.state is BreakerState.CLOSED
    assert breaker.allow()
    assert breaker.allow()
