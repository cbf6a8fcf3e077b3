"""One leads: whoever renews, and nobody else until that one has been silent for the whole lease."""

from datetime import UTC, datetime
from typing import Any

import pytest

from app.controller.lease import Lease
from app.errors import FirewallError, Kind


class Server:
    """An API server with one lease, that refuses a version which is not the last."""

    def __init__(self) -> None:
        self.lease: dict[str, Any] | None = None
        self.fails: FirewallError | None = None
        self.version = 0

    async def call(self, method: str, _path: str, body: Any = None) -> Any:
        if self.fails is not None:
            raise self.fails
        if method == "GET":
            if self.lease is None:
                raise FirewallError(Kind.NOT_FOUND, "no lease")
            return {**self.lease, "metadata": {"resourceVersion": str(self.version)}}
        if (method == "POST") is not (self.lease is None):
            raise FirewallError(Kind.CONFLICT, "it is there")
        if method == "PUT" and body["metadata"]["resourceVersion"] != str(self.version):
            raise FirewallError(Kind.CONFLICT, "another version")
        self.version += 1
        self.lease = body
        return body


class World:
    def __init__(self) -> None:
        self.server = Server()
        self.now = 100.0

    def lease(self, identity: str) -> Lease:
        return Lease(
            self.server,
            namespace="a",
            name="b",
            identity=identity,
            monotonic=lambda: self.now,
            clock=lambda: datetime(2026, 3, 1, tzinfo=UTC),
        )

    @property
    def spec(self) -> dict[str, Any]:
        assert self.server.lease is not None
        found: dict[str, Any] = self.server.lease["spec"]
        return found


async def test_the_first_leads_and_the_second_waits() -> None:
    world = World()
    one, two = world.lease("one"), world.lease("two")

    assert await one.renew()
    assert not await two.renew()
    assert world.spec == {
        "holderIdentity": "one",
        "leaseDurationSeconds": 15,
        "renewTime": "2026-03-01T00:00:00.000000Z",
        "acquireTime": "2026-03-01T00:00:00.000000Z",
        "leaseTransitions": 0,
    }


async def test_who_renews_goes_on() -> None:
    world = World()
    one, two = world.lease("one"), world.lease("two")
    await one.renew()
    for _ in range(10):
        world.now += 10
        assert await one.renew()
        assert not await two.renew()
    assert world.spec["leaseTransitions"] == 0


async def test_a_lease_that_nobody_renews_passes() -> None:
    world = World()
    one, two = world.lease("one"), world.lease("two")
    await one.renew()
    await two.renew()
    world.now += 14.9
    assert not await two.renew()
    held = [one.held]
    world.now += 0.1
    # Before anybody can have taken it the leader knows that it leads no more.
    assert [*held, one.held] == [True, False]
    assert await two.renew()
    assert world.spec["holderIdentity"] == "two"
    assert world.spec["leaseTransitions"] == 1
    assert not await one.renew()


async def test_a_lease_that_is_given_up_passes_at_once() -> None:
    world = World()
    one, two = world.lease("one"), world.lease("two")
    await one.renew()
    await two.renew()
    await one.release()

    assert not one.held
    assert await two.renew()
    await one.release()
    assert world.spec["holderIdentity"] == "two"


async def test_what_another_has_is_not_given_up() -> None:
    world = World()
    one = world.lease("one")
    await one.renew()
    world.spec["holderIdentity"] = "two"
    await one.release()

    assert world.spec["holderIdentity"] == "two"


@pytest.mark.parametrize("there", [False, True])
async def test_who_is_slower_does_not_lead(there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    one = world.lease("one")
    if there:
        await one.renew()
    call = world.server.call

    async def raced(method: str, path: str, body: Any = None) -> Any:
        found = None
        try:
            found = await call(method, path, body)
        finally:
            if method == "GET":
                world.server.version += 1
                world.server.lease = world.server.lease or {"spec": {"holderIdentity": "two"}}
        return found

    monkeypatch.setattr(world.server, "call", raced)
    assert not await one.renew()
    assert not one.held


async def test_an_api_server_that_is_away_is_no_reason_to_stop_at_once() -> None:
    world = World()
    one = world.lease("one")
    await one.renew()
    world.server.fails = FirewallError(Kind.UNAVAILABLE, "away")
    with pytest.raises(FirewallError):
        await one.renew()
    held = [one.held]
    world.now += 15
    assert [*held, one.held] == [True, False]
