"""What holds for every test."""

import os
from collections.abc import Generator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadScopeScheduling

# CI sets it: a machine without some tool may skip a test for a newcomer, CI may not.
REQUIRE_ALL = os.environ.get("MFW_REQUIRE_ALL") == "1"

# How long examples take, or take to be made, tells of the machine, and of who else works on it. CI has the same ones each
# time (`tests/seeds.py`).
settings.register_profile(
    "untimed",
    settings.default,
    deadline=None,
    derandomize=REQUIRE_ALL,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("untimed")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: "pytest.CallInfo[None]"
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skip into a failure where nothing may be skipped."""
    report = yield
    if REQUIRE_ALL and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped in {call.when}, and MFW_REQUIRE_ALL=1 forbids it"
    return report


TOGETHER = "tests/kubernetes"
IMAGE = "tests/image"
# These start nothing.
AT_ONCE = "tests/unit/"

# A longer value is no name of a case; and what is made anew for each run, such as a key, is longer.
ID_CHARS = 64


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name a case after its long values by what they are: every worker has to find the same names."""
    return argname if isinstance(val, str | bytes) and len(val) > ID_CHARS else None


def _quickness(scope: str) -> int:
    if scope in {IMAGE, TOGETHER}:
        return 0
    return 2 if scope.startswith(AT_ONCE) else 1


class ByWhatIsShared(LoadScopeScheduling):  # type: ignore[misc]  # it has no types
    """A file stays with one worker, and so does all that needs an API server, or the image.

    Files share what they start; an API server takes half a minute and half a gigabyte, once, and the image is built once.
    """

    _ordered = False

    def _assign_work_unit(self, node: Any) -> None:
        """Give out what takes minutes first and what takes no time last, so that in the end no worker waits for another.

        The queue comes with the most tests first, and stays so among those of a kind.
        """
        if not self._ordered:
            self._ordered = True
            for scope in sorted(self.workqueue, key=_quickness):
                self.workqueue.move_to_end(scope)
        super()._assign_work_unit(node)

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return next((folder for folder in (TOGETHER, IMAGE) if file.startswith(f"{folder}/")), file)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """Share the tests out among the workers of `pytest -n`."""
    return ByWhatIsShared(config, log)
