"""What a controller counts, in a registry of its own: nothing in it can be taken for a replica of the service."""

import math
import time
from collections.abc import Callable
from functools import partial
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Info, disable_created_metrics
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from app.controller.reconcile import Outcome, Result
from app.controller.status import State
from app.policies.custom_resources import RESOURCES

KINDS: Final = tuple(resource.kind for resource in RESOURCES)


class ControllerMetrics:
    """All metrics of one controller. What only the leader knows is 0, or not a number, on the others."""

    def __init__(
        self,
        *,
        version: str,
        monotonic: Callable[[], float] = time.monotonic,
        clock: Callable[[], float] = time.time,
    ) -> None:
        # A `_created` series beside each counter doubles every scrape, and nothing of ours reads them.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # it has no types
        registry = self.registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
        # Not `mfw_build`: whether the service is there is asked by that name.
        Info("mfw_controller_build", "the version that runs", registry=registry).info({"version": version})
        self._monotonic = monotonic
        self._clock = clock
        self._leads: Callable[[], bool] = lambda: False
        self._behind_since: float | None = None
        self._succeeded = 0.0
        self._counts: dict[tuple[str, State], int] = {}
        looks = Counter(
            "mfw_controller_looks", "looks at all objects, by what they led to", ("result",), registry=registry
        )
        self._looks = {result: looks.labels(result.value) for result in Result}
        self._leader = self._gauge("leader", "1 while this controller leads")
        self._ready = self._gauge("ready", "1 while every list of objects is read whole, whether it leads or not")
        self._waiting = self._gauge("changes_waiting", "changes that no look has seen yet")
        self._gauge(
            "last_success_timestamp_seconds",
            "when a look last went through, whatever it led to: the service answered, every status is written; "
            "0 if never",
        ).set_function(lambda: self._succeeded)
        self._gauge(
            "behind_seconds",
            "for how long what the objects say is not what is in force; 0 while it is, NaN for one that does not lead",
        ).set_function(self._behind)
        objects = Gauge(
            "mfw_controller_objects",
            "custom resources by what is written on them, as the leader counts them",
            ("kind", "state"),
            registry=registry,
        )
        for kind in KINDS:
            for state in State:
                objects.labels(kind, state.value).set_function(partial(self._count, (kind, state)))

    def watch(self, *, leads: Callable[[], bool], ready: Callable[[], bool], waiting: Callable[[], int]) -> None:
        """Ask these at each scrape."""
        self._leads = leads
        self._leader.set_function(leads)
        self._ready.set_function(ready)
        self._waiting.set_function(waiting)

    def looked(self, outcome: Outcome | None) -> None:
        """Take in what a look led to; None is one whose end nobody foresaw."""
        self._looks[Result.ERROR if outcome is None else outcome.result].inc()
        if outcome is None:
            return
        self._counts = dict(outcome.objects)
        if outcome.whole:
            self._succeeded = self._clock()
        if outcome.digest is not None and outcome.digest == outcome.in_force:
            self._behind_since = None
        elif self._behind_since is None:
            self._behind_since = self._monotonic()

    def stood_by(self) -> None:
        """Forget what only a leader knows: when it leads again, another has led meanwhile."""
        self._behind_since = None
        self._counts = {}

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"mfw_controller_{name}", text, registry=self.registry)

    def _behind(self) -> float:
        if not self._leads():
            return math.nan
        return 0.0 if self._behind_since is None else self._monotonic() - self._behind_since

    def _count(self, key: tuple[str, State]) -> int:
        return self._counts.get(key, 0) if self._leads() else 0
