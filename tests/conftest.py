"""What holds for every test."""

import os
from collections.abc import Generator

import pytest

# CI sets it: a machine without some tool may skip a test for a newcomer, CI may not.
REQUIRE_ALL = os.environ.get("MFW_REQUIRE_ALL") == "1"


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


# A longer value is no name of a case; and what is made anew for each run, such as a key, is longer.
ID_CHARS = 64


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name a case after its long values by what they are: every worker has to find the same names."""
    return argname if isinstance(val, str | bytes) and len(val) > ID_CHARS else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With several workers (`pytest -n 2`) a file stays with one of them, and so does all that needs an API server.

    Files share what they start; an API server takes half a minute and half a gigabyte, once.
    """
    if not hasattr(config, "workerinput"):
        return
    for item in items:
        one = "cluster" in getattr(item, "fixturenames", ())
        item.add_marker(pytest.mark.xdist_group("cluster" if one else item.nodeid.partition("::")[0]))
