"""The gate: callers who are not asked who they are have a bucket for each address."""

import pytest

from app.core.quota import Limit, RouteClass
from app.edge.authn import UnsafeAnonymousAuthenticator
from app.edge.gate import Gate
from app.edge.limits import RateLimits, TokenBuckets
from app.errors import FirewallError, Kind
from app.observability.metrics import LimitScope, Metrics

METRICS = Metrics(version="0")


def scope(address):
    return {"type": "http", "headers": [], "client": (address, 1)}


@pytest.mark.filterwarnings("ignore")
async def test_one_bucket_for_each_address():
    limits = RateLimits({RouteClass.READ: Limit(1, 2)}, make=lambda _, limit: TokenBuckets(limit))
    gate = Gate(UnsafeAnonymousAuthenticator(), limits=limits, metrics=METRICS)
    for _ in range(2):
        await gate.admit_anyone(scope("192.0.2.1"), RouteClass.READ)
    before = METRICS.rate_limit_rejections[LimitScope.PRINCIPAL].value
    with pytest.raises(FirewallError) as caught:
        await gate.admit_anyone(scope("192.0.2.1"), RouteClass.READ)
    assert caught.value.kind is Kind.RATE_LIMITED
    assert METRICS.rate_limit_rejections[LimitScope.PRINCIPAL].value == before + 1
    await gate.admit_anyone(scope("192.0.2.2"), RouteClass.READ)
