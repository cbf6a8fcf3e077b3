"""A real API server for the tests of Kubernetes: one for the session, started when the first test asks for it.

`cluster` has etcd and the API server. `controllers` is the same one while the controller manager runs, for tests that
wait for what controllers do. `alone` is another one, for a module that counts what is there. Programs are built by `tools/build` the first time, which takes minutes.
"""

import contextlib
from collections.abc import Iterator

import pytest

# The DSN fixtures of the integration tests: the firewall in front of this API server writes to a real ledger.
from tests.integration.conftest import _template, database_dsn, server_dsn, shared_database_dsn  # noqa: F401
from tests.kubernetes.cluster import Cluster, NotHereError, programs
from tests.kubernetes.shop import agent_of

TEST_SECONDS = 900


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Count the time of the test alone: the first one waits until the API server is built."""
    for item in items:
        if {"alone", "cluster"} & set(getattr(item, "fixturenames", ())) and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(TEST_SECONDS, func_only=True))


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """An API server with RBAC, service accounts, admission webhooks and an audit log."""
    with _started() as cluster:
        yield cluster


@pytest.fixture(scope="module")
def controllers(cluster: Cluster) -> Iterator[Cluster]:
    """The same cluster with its controllers, for the tests of a module: namespaces end, garbage is collected."""
    with cluster.controllers():
        yield cluster


@pytest.fixture(scope="module")
def alone() -> Iterator[Cluster]:
    """A cluster with its controllers where nothing of any other module is, was or comes: no object, no pod."""
    with _started() as cluster, cluster.controllers():
        yield cluster


@contextlib.contextmanager
def _started() -> Iterator[Cluster]:
    try:
        found = programs()
    except NotHereError as error:
        pytest.skip(str(error))
    started = Cluster(*found).start()
    try:
        yield started
    finally:
        started.stop()


@pytest.fixture(scope="session")
def agent(cluster: Cluster) -> str:
    """The token of an agent whom RBAC refuses nothing, in a cluster with something to change."""
    return agent_of(cluster)
