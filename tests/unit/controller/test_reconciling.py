"""A look: what is asked of the service, and what is written on the objects."""

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from app.client import ActiveSet, ProblemError, ProblemKind
from app.controller.objects import Item
from app.controller.reconcile import Reconciler, Result
from app.controller.status import State, ready_of
from app.core.types import JsonObject
from app.errors import FirewallError, Kind
from app.policies.custom_resources import POLICIES
from app.policies.load import check_documents
from tests.unit.controller.test_building import exception, policy


class Service:
    """A firewall with one set in force. `problems` are raised by the method of that name."""

    def __init__(self) -> None:
        self.documents: list[Any] = []
        self.stored: dict[str, list[Any]] = {}
        self.problems: dict[str, ProblemError] = {}
        self.asked: list[str] = []
        self.lies = False

    def _say(self, method: str) -> None:
        self.asked.append(method)
        if method in self.problems:
            raise self.problems[method]

    async def active_policy_set(self) -> Any:
        self._say("active")
        if not self.documents:
            raise ProblemError(ProblemKind.NOT_FOUND, "none")
        return ActiveSet(digest(self.documents), "database", "", False, 1, 1, 1, (), tuple(self.documents))

    async def publish(self, documents: Sequence[Any], *, note: str = "") -> Any:
        self._say("publish")
        assert note == "custom resources: 1 policies, 0 exceptions"
        name = "sha256:other" if self.lies else digest(documents)
        self.stored[name] = list(documents)
        return type("Stored", (), {"digest": name})

    async def activate(self, name: str, *, reason: str) -> Any:
        self._say("activate")
        assert reason
        self.documents = self.stored[name]
        return type("Made", (), {"digest": name, "sequence": 1})


class Server:
    """An API server that keeps what is written."""

    def __init__(self) -> None:
        self.written: list[tuple[str, str, Any]] = []
        self.fails: tuple[str, ...] = ()

    async def call(self, method: str, path: str, body: Any = None, *, content_type: str = "") -> JsonObject:
        if method in self.fails:
            raise FirewallError(Kind.NOT_FOUND, "gone")
        assert content_type == ("application/merge-patch+json" if method == "PATCH" else "") or method == "POST"
        self.written.append((method, path, body))
        return {}

    @property
    def methods(self) -> list[str]:
        return [method for method, _, _ in self.written]


def digest(documents: Sequence[Any]) -> str:
    held = check_documents(list(documents)).policy_set
    assert held is not None
    return held.digest


class World:
    def __init__(self) -> None:
        self.service, self.server = Service(), Server()
        self.now = 100.0
        self.also: Any = tuple

        @contextlib.asynccontextmanager
        async def opened() -> AsyncIterator[Service]:
            yield self.service

        self.reconciler = Reconciler(
            self.server, service=opened, identity="me", also=self._also, monotonic=lambda: self.now
        )

    def _also(self) -> Any:
        return self.also()


def problem(kind: ProblemKind, **members: Any) -> ProblemError:
    return ProblemError(kind, "no", fix="ask", members=members)


async def test_a_set_comes_into_force_once() -> None:
    world = World()
    outcome = await world.reconciler.look([policy("one")])

    assert world.service.asked == ["active", "publish", "activate"]
    assert (outcome.digest, outcome.trouble, outcome.again) == (outcome.in_force, None, False)
    assert (outcome.whole, outcome.result) == (True, Result.IN_FORCE)
    assert outcome.objects == {("MutationPolicy", State.ACTIVE): 1}
    (patch, event) = world.server.written
    assert patch[:2] == ("PATCH", "/apis/mutationfirewall.io/v1/mutationpolicies/one/status")
    assert patch[2]["metadata"] == {"uid": "uid-one"}
    assert event[:2] == ("POST", "/apis/events.k8s.io/v1/namespaces/default/events")
    assert (event[2]["reason"], event[2]["type"], event[2]["regarding"]["uid"]) == ("InForce", "Normal", "uid-one")

    kept = {name: value for name, value in patch[2]["status"].items() if value is not None}
    again = Item(POLICIES, {**policy("one").body, "status": kept})
    await world.reconciler.look([again])
    assert world.service.asked[3:] == ["active"]
    assert len(world.server.written) == 2


async def test_a_status_that_changes_without_a_turn_is_no_event() -> None:
    world = World()
    await world.reconciler.look([policy("one")])
    status = world.server.written[0][2]["status"]
    later = Item(POLICIES, {**policy("one", generation=2).body, "status": status})
    await world.reconciler.look([later])

    assert world.server.methods == ["PATCH", "POST", "PATCH"]


async def test_a_refused_set_asks_for_nothing() -> None:
    world = World()
    items = [policy("one"), exception("e", "nowhere")]
    outcome = await world.reconciler.look(items)

    assert world.service.asked == ["active"]
    assert (outcome.digest, outcome.again, outcome.whole) == (None, False, True)
    assert outcome.result is Result.SET_REFUSED
    assert outcome.objects == {("MutationPolicy", State.NOT_ACTIVE): 1, ("PolicyException", State.NOT_ACCEPTED): 1}
    assert [event["regarding"].get("namespace") for method, _, event in world.server.written if method == "POST"] == [
        None,
        "a",
    ]
    assert [path for method, path, _ in world.server.written if method == "POST"][1].endswith("/namespaces/a/events")


@pytest.mark.parametrize(
    ("decision", "reason"), [("deny", "ActivationDenied"), ("hold", "ActivationHeld"), ("other", "ActivationRefused")]
)
async def test_what_was_decided_is_not_asked_again_at_once(decision: str, reason: str) -> None:
    world = World()
    world.service.problems["activate"] = problem(ProblemKind.FORBIDDEN, decision=decision)
    outcome = await world.reconciler.look([policy("one")])
    assert outcome.trouble is not None
    # What was decided about is there, and is named: another one stays in force.
    about = "" if decision == "other" else f"{outcome.digest} is stored: "
    assert (outcome.trouble.reason, outcome.trouble.message, outcome.again) == (reason, f"{about}no; ask", False)
    assert set(world.service.stored) == {outcome.digest}

    outcome = await world.reconciler.look([policy("one")])
    assert world.service.asked.count("activate") == 1
    assert outcome.trouble is not None
    assert outcome.trouble.reason == reason
    world.now += 300
    await world.reconciler.look([policy("one")])
    assert world.service.asked.count("activate") == 2
    # Another set is another question.
    await world.reconciler.look([policy("one", "false")])
    assert world.service.asked.count("activate") == 3


async def test_a_refusal_without_a_decision_is_asked_about_with_the_next_look() -> None:
    world = World()
    world.service.problems["publish"] = problem(ProblemKind.FORBIDDEN)
    for _ in range(2):
        outcome = await world.reconciler.look([policy("one")])
        assert outcome.trouble is not None
        assert (outcome.trouble.reason, outcome.again) == ("ActivationRefused", False)
    assert world.service.asked.count("publish") == 2


async def test_a_service_that_is_away() -> None:
    world = World()
    world.service.problems["active"] = problem(ProblemKind.UNREACHABLE)
    outcome = await world.reconciler.look([policy("one")])

    assert (outcome.in_force, outcome.again, outcome.whole) == (None, True, False)
    assert outcome.result is Result.UNAVAILABLE
    assert outcome.objects == {("MutationPolicy", State.UNKNOWN): 1}
    assert ready_of(world.server.written[0][2]["status"])[:2] == ("Unknown", "ServiceUnavailable")


async def test_a_service_of_another_release() -> None:
    world = World()
    world.service.lies = True
    outcome = await world.reconciler.look([policy("one")])

    assert outcome.trouble is not None
    assert "calls the set sha256:other" in outcome.trouble.message
    assert "activate" not in world.service.asked


async def test_what_belongs_to_every_set() -> None:
    world = World()
    world.also = lambda: [exception("e", "one").document]
    await world.reconciler.look([policy("one")])
    assert [one["kind"] for one in world.service.documents] == ["MutationPolicy", "PolicyException"]

    def missing() -> Any:
        raise FirewallError(Kind.INVALID_POLICY, "`also` is refused", fix="mend it")

    world.also = missing
    outcome = await world.reconciler.look([policy("one", "false")])
    assert outcome.digest is None
    assert "`also` is refused; mend it" in ready_of(world.server.written[-2][2]["status"])[2]


async def test_what_cannot_be_written_is_tried_again() -> None:
    world = World()
    world.server.fails = ("PATCH",)
    outcome = await world.reconciler.look([policy("one")])
    assert (outcome.again, outcome.whole, outcome.result) == (True, False, Result.UNWRITTEN)
    assert world.server.written == []
    world.server.fails = ("POST",)
    # An event that is lost is lost.
    assert not (await world.reconciler.look([policy("one")])).again
    assert world.server.methods == ["PATCH"]
