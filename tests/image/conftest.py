"""The image as it is built and run: one engine and one build for the session.

It takes minutes, so a test run without `make image-check` leaves it out; CI never does.
"""

import os
from collections.abc import Iterator

import pytest

from tests.conftest import REQUIRE_ALL
from tests.image.engine import Engine, NotHereError, built, started

TEST_SECONDS = 900
_figures: dict[str, str] = {}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Count the time of the test alone: the first one waits until the image is built."""
    for item in items:
        if "image" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.timeout(TEST_SECONDS, func_only=True))


def pytest_terminal_summary(terminalreporter: "pytest.TerminalReporter") -> None:
    """What was measured on the way."""
    if _figures:
        terminalreporter.section("the image")
        for name, value in _figures.items():
            terminalreporter.write_line(f"{name:32} {value}")


@pytest.fixture
def figures() -> dict[str, str]:
    """Where a test notes what it measured, for `make image-check` to print."""
    return _figures


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """A container engine."""
    if not (REQUIRE_ALL or os.environ.get("MFW_IMAGE_CHECK") == "1"):
        pytest.skip("it takes minutes to build the image: make image-check")
    try:
        with started() as found:
            yield found
    except NotHereError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def image(engine: Engine) -> str:
    """The name of the image."""
    return built(engine)
