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
