"""These tests reach no network either: those that need a service are in tests/integration/service/test_security.py."""

from collections.abc import Iterator

import pytest
import pytest_socket


@pytest.fixture(autouse=True)
def _sockets_closed() -> Iterator[None]:
    # An event loop wakes itself through a pair of Unix sockets.
    pytest_socket.disable_socket(allow_unix_socket=True)
    yield
    pytest_socket.enable_socket()
