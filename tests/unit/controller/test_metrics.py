"""What a controller counts of its looks, and that one which does not lead claims nothing."""

import math
import re
from pathlib import Path

import pytest

from app.controller.metrics import KINDS, ControllerMetrics
from app.controller.reconcile import Outcome, Result
from app.controller.status import State, Trouble
from app.observability.metrics import Metrics


class World:
    """A clock that stands, and a lease."""

    def __init__(self) -> None:
        self.now, self.leads = 1000.0, True
        self.metrics = ControllerMetrics(version="1.2.3", monotonic=lambda: self.now, clock=lambda: self.now + 0.5)
        self.metrics.watch(leads=lambda: self.leads, ready=lambda: True, waiting=lambda: 7)

    def value(self, name: str, **labels: str) -> float:
        found = self.metrics.registry.get_sample_value(f"mfw_controller_{name}", labels)
        assert found is not None, name
        return found


def outcome(digest: str | None = "a", in_force: str | None = "a", reason: str = "", **more: object) -> Outcome:
    trouble = Trouble(reason, "no") if reason else None
    return Outcome(digest, in_force, trouble, again=False, **{"whole": True, **more})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("led_to", "result"),
    [
        (outcome(), Result.IN_FORCE),
        (outcome(digest=None), Result.SET_REFUSED),
        (outcome(in_force="b", reason="ActivationDenied"), Result.DENIED),
        (outcome(in_force="b", reason="ActivationHeld"), Result.HELD),
        (outcome(in_force="b", reason="ActivationRefused"), Result.REFUSED),
        (outcome(in_force=None, reason="ServiceUnavailable", whole=False, written=False), Result.UNAVAILABLE),
        (outcome(whole=False, written=False), Result.UNWRITTEN),
        (None, Result.ERROR),
    ],
    ids=lambda value: value.value if isinstance(value, Result) else "",
)
def test_a_look_counts_under_what_it_led_to(led_to: Outcome | None, result: Result) -> None:
    world = World()
    assert {one: world.value("looks_total", result=one) for one in Result} == dict.fromkeys(Result, 0)
    world.metrics.looked(led_to)
    assert [one for one in Result if world.value("looks_total", result=one)] == [result]
    whole = led_to is not None and led_to.whole
    assert world.value("last_success_timestamp_seconds") == (1000.5 if whole else 0)


def test_it_is_behind_until_what_the_objects_say_is_in_force() -> None:
    world = World()
    assert world.value("behind_seconds") == 0
    world.metrics.looked(outcome(in_force="b", reason="ActivationHeld"))
    world.now += 60
    world.metrics.looked(outcome(digest=None, in_force=None))
    world.metrics.looked(None)
    world.now += 60
    assert world.value("behind_seconds") == 120
    world.metrics.looked(outcome())
    assert world.value("behind_seconds") == 0


def test_objects_by_what_is_written_on_them() -> None:
    world = World()
    counted = {("MutationPolicy", State.ACTIVE): 3, ("PolicyException", State.NOT_ACCEPTED): 1}
    world.metrics.looked(outcome(objects=counted))
    for kind in KINDS:
        for state in State:
            assert world.value("objects", kind=kind, state=state) == counted.get((kind, state), 0)


def test_who_does_not_lead_says_so() -> None:
    world = World()
    world.metrics.looked(outcome(in_force="b", objects={("MutationPolicy", State.ACTIVE): 3}))
    assert (world.value("leader"), world.value("ready"), world.value("changes_waiting")) == (1, 1, 7)
    world.leads = False
    assert (world.value("leader"), world.value("ready")) == (0, 1)
    assert math.isnan(world.value("behind_seconds"))
    assert world.value("objects", kind="MutationPolicy", state="active") == 0


def test_who_leads_again_does_not_go_on_from_its_last_term() -> None:
    world = World()
    world.metrics.looked(outcome(in_force="b", reason="ActivationHeld", objects={("MutationPolicy", State.ACTIVE): 3}))
    world.leads = False
    world.metrics.stood_by()
    world.now += 10_000
    world.leads = True
    assert world.value("behind_seconds") == 0
    assert world.value("objects", kind="MutationPolicy", state="active") == 0
    world.metrics.looked(outcome(in_force=None, reason="ServiceUnavailable", whole=False))
    world.now += 60
    assert world.value("behind_seconds") == 60


def test_nobody_takes_it_for_a_replica_of_the_service() -> None:
    """Alerts ask by these names whether the service is there and takes requests."""
    ours = {family.name for family in World().metrics.registry.collect() if family.name.startswith("mfw_")}
    assert ours
    assert not ours & {family.name for family in Metrics(version="0").registry.collect()}
    assert all(name.startswith("mfw_controller_") for name in ours)
    assert World().value("build_info", version="1.2.3") == 1


def test_the_page_names_all_of_them() -> None:
    page = (Path(__file__).resolve().parents[3] / "docs" / "controller.md").read_text()
    samples = {sample.name for family in World().metrics.registry.collect() for sample in family.samples}
    ours = {name for name in samples if name.startswith("mfw_")} - {"mfw_controller_build_info"}
    assert set(re.findall(r"`(mfw_controller_\w+)`", page)) == ours
    results, states = (
        re.findall(r"`(\w+)`", re.search(rf"by (?:`kind` and )?`{label}`: (.*) \|", page)[1])  # type: ignore[index]
        for label in ("result", "state")
    )
    assert (results, states) == (list(Result), list(State))
